//! Job: runs pods until enough of them have succeeded.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{common::*, pod_spec, workload::*};
use crate::{
    Cell, Column, FieldCause, Hooks, Kind, Scope, Subresource,
    field::{self, Path},
    names, table,
};

mod indexes;
mod policies;
mod spec;
mod status;

pub(super) use spec::check_spec;

/// Failed pods after which a job gives up.
const BACKOFF_LIMIT: i64 = 6;

/// Labels of a job's pods: by the job's uid and by its name, each in a new and an old form.
const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";
const JOB_NAME: &str = "batch.kubernetes.io/job-name";
const OLD_CONTROLLER_UID: &str = "controller-uid";
const OLD_JOB_NAME: &str = "job-name";

pub(super) fn kind() -> Kind {
    Kind {
        categories: texts(&["all"]),
        subresources: vec![Subresource::Status],
        ..define("batch", "v1", "Job", "jobs", Scope::Namespaced, Job)
    }
}

struct Job;

static COLUMNS: [Column; 8] = [
    Column::object_name(),
    column("Status", "Complete, Failed, Terminating, Suspended, FailureTarget or Running."),
    column("Completions", "How many pods have succeeded, of how many that must."),
    column("Duration", "How long the job took, or has taken so far."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

impl Hooks for Job {
    fn default(&self, object: &mut Value) {
        object_mut(object, "spec");
        let Some(spec) = existing_mut(object, "spec") else { return };
        if !is_set(&spec["parallelism"]) {
            fill_absent(spec, "completions", 1);
            fill_absent(spec, "parallelism", 1);
        }
        let per_index = is_set(&spec["backoffLimitPerIndex"]);
        fill_absent(spec, "backoffLimit", if per_index { i32::MAX.into() } else { BACKOFF_LIMIT });
        fill_absent(spec, "completionMode", "NonIndexed");
        fill_absent(spec, "suspend", false);
        fill_absent(spec, "manualSelector", false);
        let replacement = if is_set(&spec["podFailurePolicy"]) { "Failed" } else { "TerminatingOrFailed" };
        fill_absent(spec, "podReplacementPolicy", replacement);
        if let Some(policy) = existing_mut(spec, "podFailurePolicy") {
            for rule in items_mut(policy, "rules") {
                for pattern in items_mut(rule, "onPodConditions") {
                    fill(pattern, "status", "True");
                }
            }
        }
        default_template(spec);
        take_labels(object);
    }

    fn prepare_create(&self, object: &mut Value, _now: Timestamp) {
        set(object, "status", json!({}));
        if !flag(&object["spec"]["manualSelector"]) {
            select_own_pods(object);
            take_labels(object);
        }
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldCause> {
        let mut errors = Vec::new();
        check_generated_selector(&mut errors, object);
        let (path, spec) = (Path::new("spec"), &object["spec"]);
        check_spec(&mut errors, &path, spec);
        let path_of_selector = path.child("selector");
        if is_set(&spec["selector"]) {
            pod_spec::check_label_selector(&mut errors, &path_of_selector, &spec["selector"]);
        } else {
            errors.push(field::required(&path_of_selector, ""));
        }
        check_selects_template(&mut errors, &path, spec);
        check_host_names(&mut errors, object);
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldCause> {
        let mut errors = self.validate_create(object);
        spec::check_update(&mut errors, object, old);
        errors
    }

    fn validate_status(&self, object: &Value, old: &Value) -> Vec<FieldCause> {
        status::check(object, old)
    }

    fn columns(&self) -> &[Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let duration = duration(&object["status"], now);
        row(object, [state(object).into(), completions(object).into(), duration.into()], now)
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("status.successful", int(&object["status"]["succeeded"]).to_string())]
    }
}

/// A job without labels has those of its template.
fn take_labels(object: &mut Value) {
    let labels = object["spec"]["template"]["metadata"]["labels"].clone();
    if is_set(&labels)
        && let Some(meta) = object_mut(object, "metadata")
        && meta.get("labels").is_none_or(is_empty)
    {
        meta.insert("labels".to_owned(), labels);
    }
}

/// Labels the template with the job's uid and name, and selects by the uid: so no two jobs ever share a
/// pod. What the user has set already stays, and validation judges it.
fn select_own_pods(object: &mut Value) {
    let (uid, name) = (object["metadata"]["uid"].clone(), object["metadata"]["name"].clone());
    let Some(spec) = existing_mut(object, "spec") else { return };
    if let Some(template) = existing_mut(spec, "template") {
        object_mut(template, "metadata");
        if let Some(meta) = existing_mut(template, "metadata")
            && let Some(labels) = object_mut(meta, "labels")
        {
            for (label, value) in
                [(OLD_JOB_NAME, &name), (JOB_NAME, &name), (OLD_CONTROLLER_UID, &uid), (CONTROLLER_UID, &uid)]
            {
                labels.entry(label).or_insert_with(|| text(value).into());
            }
        }
    }
    object_mut(spec, "selector");
    if let Some(selector) = existing_mut(spec, "selector")
        && let Some(labels) = object_mut(selector, "matchLabels")
    {
        labels.entry(CONTROLLER_UID).or_insert_with(|| text(&uid).into());
    }
}

fn check_generated_selector(errors: &mut Vec<FieldCause>, object: &Value) {
    let (meta, spec) = (&object["metadata"], &object["spec"]);
    if flag(&spec["manualSelector"]) || !is_set(&spec["selector"]) {
        return;
    }
    let (uid, name) = (text(&meta["uid"]), text(&meta["name"]));
    if uid.is_empty() {
        errors.push(field::required(&Path::new("metadata.uid"), ""));
    }
    let path = Path::new("spec.template.metadata.labels");
    let labels = &spec["template"]["metadata"]["labels"];
    let expected = [(OLD_CONTROLLER_UID, uid), (OLD_JOB_NAME, name), (CONTROLLER_UID, uid), (JOB_NAME, name)];
    for (label, wanted) in expected {
        let words = format!("must be '{wanted}'");
        let path = path.key(label);
        if !is_set(&labels[label]) {
            errors.push(field::required(&path, &words));
        }
        if text(&labels[label]) != wanted {
            errors.push(field::invalid(&path, labels, &words));
        }
    }
    let expected: Value =
        expected.into_iter().map(|(label, value)| (label.to_owned(), Value::from(value))).collect();
    if selects(&spec["selector"], &expected) == Some(false) {
        let path = Path::new("spec.selector");
        errors.push(field::invalid(&path, &spec["selector"], "`selector` not auto-generated"));
    }
}

/// Pods of an indexed job are called by their index, also as hosts.
fn check_host_names(errors: &mut Vec<FieldCause>, object: &Value) {
    let (spec, name) = (&object["spec"], text(&object["metadata"]["name"]));
    let completions = int(&spec["completions"]);
    if text(&spec["completionMode"]) != "Indexed" || completions <= 0 {
        return;
    }
    let longest = format!("{name}-{}", completions - 1);
    if !names::dns_label(&longest).is_empty() {
        let words = format!("will not able to create pod with invalid DNS label: {longest}");
        errors.push(field::invalid(&Path::new("metadata.name"), name, &words));
    }
}

/// Whether a condition of that type is true.
fn has_condition(status: &Value, type_: &str) -> bool {
    items(&status["conditions"])
        .iter()
        .any(|condition| text(&condition["type"]) == type_ && text(&condition["status"]) == "True")
}

fn state(object: &Value) -> &'static str {
    let status = &object["status"];
    if has_condition(status, "Complete") {
        "Complete"
    } else if has_condition(status, "Failed") {
        "Failed"
    } else if is_set(&object["metadata"]["deletionTimestamp"]) {
        "Terminating"
    } else if has_condition(status, "Suspended") {
        "Suspended"
    } else if has_condition(status, "FailureTarget") {
        "FailureTarget"
    } else {
        "Running"
    }
}

/// `2/5`; without a number to reach, `2/1 of 3`.
fn completions(object: &Value) -> String {
    let spec = &object["spec"];
    let succeeded = int(&object["status"]["succeeded"]);
    let parallelism = int(&spec["parallelism"]);
    match spec["completions"].as_i64() {
        Some(completions) => format!("{succeeded}/{completions}"),
        None if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        None => format!("{succeeded}/1"),
    }
}

fn duration(status: &Value, now: Timestamp) -> String {
    match timestamp(&status["startTime"]) {
        Some(start) => {
            let end = timestamp(&status["completionTime"]).unwrap_or(now);
            table::human_duration(end.duration_since(start))
        }
        None => String::new(),
    }
}
