//! CronJob: makes jobs on a schedule.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{common::*, job, workload::*};
use crate::{
    Cell, Column, FieldCause, Hooks, Kind, Scope, Subresource,
    cron::Schedule,
    field::{self, Path},
};

/// Finished jobs that are kept.
const SUCCESSFUL_JOBS: i64 = 3;
const FAILED_JOBS: i64 = 1;
/// Jobs are called by the cron job and its time, eleven characters more, and have labels of 63 at most.
const MAX_NAME: usize = 52;
/// Longest part between two slashes in the name of a time zone.
const MAX_ZONE_PART: usize = 14;

pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["cj"]),
        categories: texts(&["all"]),
        subresources: vec![Subresource::Status],
        ..define("batch", "v1", "CronJob", "cronjobs", Scope::Namespaced, CronJob)
    }
}

struct CronJob;

static COLUMNS: [Column; 10] = [
    Column::object_name(),
    column("Schedule", "When jobs are made, in cron's form."),
    column("Timezone", "Where that schedule holds."),
    Column::new("Suspend", "boolean", 0, "Whether no more jobs are made."),
    integer("Active", "How many jobs are running."),
    column("Last Schedule", "Time since the last job was made."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

impl Hooks for CronJob {
    fn default(&self, object: &mut Value) {
        object_mut(object, "spec");
        let Some(spec) = existing_mut(object, "spec") else { return };
        fill(spec, "concurrencyPolicy", "Allow");
        fill_absent(spec, "suspend", false);
        fill_absent(spec, "successfulJobsHistoryLimit", SUCCESSFUL_JOBS);
        fill_absent(spec, "failedJobsHistoryLimit", FAILED_JOBS);
        // Of the job only the pods: the rest is filled in when the job is made.
        object_mut(spec, "jobTemplate");
        if let Some(template) = existing_mut(spec, "jobTemplate") {
            object_mut(template, "spec");
            if let Some(spec) = existing_mut(template, "spec") {
                default_template(spec);
            }
        }
    }

    fn prepare_create(&self, object: &mut Value, _now: Timestamp) {
        set(object, "status", json!({}));
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldCause> {
        let mut errors = check(object, &Value::Null);
        let name = text(&object["metadata"]["name"]);
        if name.len() > MAX_NAME {
            let words = format!("must be no more than {MAX_NAME} characters");
            errors.push(field::invalid(&Path::new("metadata.name"), name, &words));
        }
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldCause> {
        check(object, &old["spec"])
    }

    fn columns(&self) -> &[Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let (spec, status) = (&object["spec"], &object["status"]);
        let job = &spec["jobTemplate"]["spec"];
        let [containers, images] = containers_and_images(&job["template"]["spec"]);
        let last = &status["lastScheduleTime"];
        let suspend = match &spec["suspend"] {
            Value::Bool(true) => "True",
            Value::Bool(false) => "False",
            _ => "<unset>",
        };
        vec![
            name(object),
            text(&spec["schedule"]).into(),
            spec["timeZone"].as_str().unwrap_or("<none>").into(),
            suspend.into(),
            items(&status["active"]).len().into(),
            if is_set(last) { since(last, now).into() } else { "<none>".into() },
            age(object, now),
            containers,
            images,
            selector_cell(&job["selector"]),
        ]
    }
}

/// `before` is the old spec, or null.
fn check(object: &Value, before: &Value) -> Vec<FieldCause> {
    let mut errors = Vec::new();
    let (path, spec) = (Path::new("spec"), &object["spec"]);
    check_schedule(&mut errors, &path.child("schedule"), spec, before);
    let deadline = path.child("startingDeadlineSeconds");
    check_not_negative(&mut errors, &deadline, &spec["startingDeadlineSeconds"]);
    if before.is_null() || spec["timeZone"] != before["timeZone"] {
        check_zone(&mut errors, &path.child("timeZone"), &spec["timeZone"]);
    }
    check_one_of(
        &mut errors,
        &path.child("concurrencyPolicy"),
        &spec["concurrencyPolicy"],
        &["Allow", "Forbid", "Replace"],
    );
    check_job(&mut errors, &path.child("jobTemplate.spec"), &spec["jobTemplate"]["spec"]);
    for name in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        check_not_negative(&mut errors, &path.child(name), &spec[name]);
    }
    errors
}

fn check_schedule(errors: &mut Vec<FieldCause>, path: &Path<'_>, spec: &Value, before: &Value) {
    let schedule = text(&spec["schedule"]);
    if schedule.is_empty() {
        errors.push(field::required(path, ""));
        return;
    }
    // A time zone before the schedule is refused below; the rest is judged all the same.
    let rest = match schedule.strip_prefix("CRON_TZ=").or_else(|| schedule.strip_prefix("TZ=")) {
        Some(rest) => rest.split_once(' ').map_or("", |(_, rest)| rest).trim(),
        None => schedule,
    };
    if let Err(why) = Schedule::parse(rest) {
        errors.push(field::invalid(path, schedule, &why));
    }
    if !schedule.contains("TZ") {
        return;
    }
    // Schedules from before there was a field for it may keep their time zone.
    if !text(&before["schedule"]).contains("TZ") {
        let words = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        errors.push(field::invalid(path, schedule, words));
    } else if is_set(&spec["timeZone"]) {
        let words = "cannot use both timeZone field and TZ or CRON_TZ in schedule";
        errors.push(field::invalid(path, schedule, words));
    }
}

fn check_zone(errors: &mut Vec<FieldCause>, path: &Path<'_>, zone: &Value) {
    let Some(zone) = zone.as_str() else { return };
    if zone.is_empty() {
        errors.push(field::invalid(path, zone, "timeZone must be nil or non-empty string"));
        return;
    }
    let is_part = |part: &str| {
        let fits = (1..=MAX_ZONE_PART).contains(&part.len());
        fits && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_+".contains(&byte))
    };
    let is_bad = |part: &str| part == "." || part == ".." || part.starts_with('-') || !is_part(part);
    let unknown = format!("unknown time zone {zone}");
    if zone.split('/').any(is_bad) {
        errors.push(field::invalid(path, zone, &unknown));
        return;
    }
    if zone.eq_ignore_ascii_case("Local") {
        let words = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.push(field::invalid(path, zone, words));
        return;
    }
    if !is_known_zone(zone) {
        errors.push(field::invalid(path, zone, &unknown));
    }
}

/// Whether there is such a zone, by the host's database or else by the one in the binary.
fn is_known_zone(zone: &str) -> bool {
    // A zone is found whatever its case, but has one name; other programs find it by that only.
    jiff::tz::db().get(zone).is_ok_and(|found| found.iana_name().is_none_or(|name| name == zone))
}

fn check_job(errors: &mut Vec<FieldCause>, path: &Path<'_>, spec: &Value) {
    job::check_spec(errors, path, spec);
    if is_set(&spec["selector"]) {
        let words = "`selector` will be auto-generated";
        errors.push(field::invalid(&path.child("selector"), &spec["selector"], words));
    }
    if flag(&spec["manualSelector"]) {
        errors.push(field::not_supported(&path.child("manualSelector"), true, &["nil", "false"]));
    }
}
