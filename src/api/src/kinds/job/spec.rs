//! The rules of `spec`, in jobs and in the templates of cron jobs, and what of it may change.

use serde_json::Value;

use super::policies;
use crate::{
    FieldCause,
    field::{self, Path},
    kinds::{common::*, pod_spec},
    names,
};

/// Most pods of an indexed job at a time.
const MAX_PARALLELISM: i64 = 100_000;
/// Most failed indexes: their list is kept in the status.
const MAX_FAILED_INDEXES: i64 = 100_000;
/// From so many completions on, jobs that count failures per index must be narrower.
const MANY_COMPLETIONS: i64 = 100_000;
const MAX_PARALLELISM_OF_MANY: i64 = 10_000;
const MAX_FAILED_INDEXES_OF_MANY: i64 = 10_000;
const MAX_MANAGED_BY: usize = 63;
const COMPLETION_MODES: &[&str] = &["NonIndexed", "Indexed"];

/// What is wrong with the spec of a job, selector aside.
pub(in crate::kinds) fn check_spec(errors: &mut Vec<FieldCause>, path: &Path<'_>, spec: &Value) {
    for name in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        check_not_negative(errors, &path.child(name), &spec[name]);
    }
    if is_set(&spec["maxFailedIndexes"]) && !is_set(&spec["backoffLimitPerIndex"]) {
        let path = path.child("backoffLimitPerIndex");
        errors.push(field::required(&path, "when maxFailedIndexes is specified"));
    }
    check_manager(errors, &path.child("managedBy"), &spec["managedBy"]);
    check_completions(errors, path, spec);
    if is_set(&spec["podFailurePolicy"]) {
        policies::check_failure_policy(errors, &path.child("podFailurePolicy"), spec);
    }
    if is_set(&spec["successPolicy"]) {
        policies::check_success_policy(errors, &path.child("successPolicy"), spec);
    }
    let allowed: &[&str] =
        if is_set(&spec["podFailurePolicy"]) { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    check_optional_one_of(
        errors,
        &path.child("podReplacementPolicy"),
        &spec["podReplacementPolicy"],
        allowed,
    );
    pod_spec::check_template(errors, &path.child("template"), &spec["template"]);
    check_restart_policy(errors, &path.child("template.spec.restartPolicy"), spec);
}

fn check_manager(errors: &mut Vec<FieldCause>, path: &Path<'_>, manager: &Value) {
    let Some(manager) = manager.as_str() else { return };
    match manager.split_once('/') {
        _ if manager.is_empty() => errors.push(field::required(path, "")),
        Some((host, rest)) if !host.is_empty() && !rest.is_empty() => {
            check_text(errors, path, host, names::dns_subdomain);
            let is_path_byte =
                |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte);
            if !rest.bytes().all(is_path_byte) {
                let words = "must be a valid path (regex used for validation is \
                             '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
                errors.push(field::invalid(path, rest, words));
            }
        }
        _ => {
            let words = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            errors.push(field::invalid(path, manager, words));
        }
    }
    if manager.len() > MAX_MANAGED_BY {
        errors.push(field::too_long(path, MAX_MANAGED_BY));
    }
}

fn check_completions(errors: &mut Vec<FieldCause>, path: &Path<'_>, spec: &Value) {
    let mode = &spec["completionMode"];
    if is_set(mode) {
        let path = path.child("completionMode");
        if !COMPLETION_MODES.contains(&text(mode)) {
            errors.push(field::not_supported(&path, text(mode), COMPLETION_MODES));
        }
    }
    if text(mode) == "Indexed" {
        check_indexed(errors, path, spec);
    }
    if !is_set(mode) || text(mode) == "NonIndexed" {
        for name in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if is_set(&spec[name]) {
                let words = "requires indexed completion mode";
                errors.push(field::invalid(&path.child(name), int(&spec[name]), words));
            }
        }
    }
}

fn check_indexed(errors: &mut Vec<FieldCause>, path: &Path<'_>, spec: &Value) {
    let number = |name: &str| spec[name].as_i64();
    let (completions, parallelism) = (number("completions"), number("parallelism"));
    let failed = number("maxFailedIndexes");
    let (path_of_parallelism, path_of_failed) = (path.child("parallelism"), path.child("maxFailedIndexes"));
    if completions.is_none() {
        errors.push(field::required(&path.child("completions"), "when completion mode is Indexed"));
    }
    let when = " when completion mode is Indexed";
    limit(errors, &path_of_parallelism, parallelism, MAX_PARALLELISM, when);
    if failed > completions && completions.is_some() {
        let words = "must be less than or equal to completions";
        errors.push(field::invalid(&path_of_failed, failed.unwrap_or_default(), words));
    }
    limit(errors, &path_of_failed, failed, MAX_FAILED_INDEXES, "");
    if completions > Some(MANY_COMPLETIONS) && is_set(&spec["backoffLimitPerIndex"]) {
        if failed.is_none() {
            let words = format!("must be specified when completions is above {MANY_COMPLETIONS}");
            errors.push(field::required(&path_of_failed, &words));
        }
        let when =
            format!(" when completions are above {MANY_COMPLETIONS} and used with backoff limit per index");
        limit(errors, &path_of_parallelism, parallelism, MAX_PARALLELISM_OF_MANY, &when);
        limit(errors, &path_of_failed, failed, MAX_FAILED_INDEXES_OF_MANY, &when);
    }
}

fn limit(errors: &mut Vec<FieldCause>, path: &Path<'_>, value: Option<i64>, most: i64, when: &str) {
    if let Some(value) = value
        && value > most
    {
        errors.push(field::invalid(path, value, &format!("must be less than or equal to {most}{when}")));
    }
}

fn check_restart_policy(errors: &mut Vec<FieldCause>, path: &Path<'_>, spec: &Value) {
    match text(&spec["template"]["spec"]["restartPolicy"]) {
        "Always" | "" => errors.push(field::required(path, "valid values: \"OnFailure\", \"Never\"")),
        "OnFailure" if is_set(&spec["podFailurePolicy"]) => {
            let words = "only \"Never\" is supported when podFailurePolicy is specified";
            errors.push(field::invalid(path, "OnFailure", words));
        }
        "OnFailure" | "Never" => {}
        other => errors.push(field::not_supported(path, other, &["OnFailure", "Never"])),
    }
}

/// What is wrong with changing the spec of a job.
pub(super) fn check_update(errors: &mut Vec<FieldCause>, object: &Value, old: &Value) {
    let (spec, before) = (&object["spec"], &old["spec"]);
    let path = Path::new("spec");
    check_completions_update(errors, &path.child("completions"), spec, before);
    check_immutable(errors, &path.child("selector"), &spec["selector"], &before["selector"]);
    let suspended = flag(&before["suspend"]) && !is_set(&old["status"]["startTime"]);
    let template = &spec["template"];
    let allowed = if suspended { with_new_directives(&before["template"], template) } else { Value::Null };
    let expected = if suspended { &allowed } else { &before["template"] };
    check_immutable(errors, &path.child("template"), template, expected);
    for name in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
        check_immutable(errors, &path.child(name), &spec[name], &before[name]);
    }
}

/// An indexed job may grow and shrink with its parallelism.
fn check_completions_update(errors: &mut Vec<FieldCause>, path: &Path<'_>, spec: &Value, before: &Value) {
    let (new, old) = (&spec["completions"], &before["completions"]);
    if text(&spec["completionMode"]) != "Indexed" {
        check_immutable(errors, path, new, old);
    } else if !same(new, old) && is_set(new) && int(new) != int(&spec["parallelism"]) {
        errors.push(field::invalid(path, new, "can only be modified in tandem with spec.parallelism"));
    }
}

/// The old template with what a suspended job may still change taken from the new one: where its pods
/// may run, their labels and annotations.
fn with_new_directives(old: &Value, new: &Value) -> Value {
    const NODE: &str = "nodeAffinity";
    let mut allowed = old.clone();
    object_mut(&mut allowed, "metadata");
    if let Some(meta) = existing_mut(&mut allowed, "metadata") {
        keep(meta, &new["metadata"], "labels");
        keep(meta, &new["metadata"], "annotations");
    }
    let Some(spec) = existing_mut(&mut allowed, "spec") else { return allowed };
    for name in ["nodeSelector", "tolerations", "schedulingGates"] {
        keep(spec, &new["spec"], name);
    }
    let affinity = &new["spec"]["affinity"];
    if is_set(affinity) {
        object_mut(spec, "affinity");
    }
    if let Some(old) = existing_mut(spec, "affinity") {
        keep(old, affinity, NODE);
        if is_empty(old) && !is_set(affinity) {
            clear(spec, "affinity");
        }
    }
    allowed
}
