//! What a job's status may say, and how it may change: clients rely on a finished job to stay finished.
//!
//! Most rules hold only for what changes, so that an odd status of old does not block its own repair.

use std::collections::HashSet;

use serde_json::Value;

use super::{has_condition, indexes};
use crate::{
    FieldCause,
    field::{self, Path},
    kinds::common::*,
};

/// A status with what the rules ask of its conditions.
struct Facts<'a> {
    status: &'a Value,
    complete: bool,
    failed: bool,
    failure_target: bool,
    success_criteria: bool,
    suspended: bool,
}

impl Facts<'_> {
    fn of(status: &Value) -> Facts<'_> {
        Facts {
            status,
            complete: has_condition(status, "Complete"),
            failed: has_condition(status, "Failed"),
            failure_target: has_condition(status, "FailureTarget"),
            success_criteria: has_condition(status, "SuccessCriteriaMet"),
            suspended: has_condition(status, "Suspended"),
        }
    }

    fn finished(&self) -> bool {
        self.complete || self.failed
    }
}

pub(super) fn check(object: &Value, old: &Value) -> Vec<FieldCause> {
    let mut errors = Vec::new();
    let path = Path::new("status");
    let (new, old) = (Facts::of(&object["status"]), Facts::of(&old["status"]));
    check_numbers(&mut errors, &path, new.status);
    check_conditions(&mut errors, &path.child("conditions"), &new, &old);
    check_times(&mut errors, &path, &new, &old);
    check_finished(&mut errors, &path, &new, &old, &object["spec"]);
    check_indexes(&mut errors, &path, &new, &old, &object["spec"]);
    check_end_of_criteria(&mut errors, &path.child("conditions"), &new, &object["spec"]);
    check_transition(&mut errors, &path, &new, &old, &object["spec"]);
    errors
}

fn check_numbers(errors: &mut Vec<FieldCause>, path: &Path<'_>, status: &Value) {
    for name in ["active", "succeeded", "failed", "ready", "terminating"] {
        check_not_negative(errors, &path.child(name), &status[name]);
    }
    let uncounted = path.child("uncountedTerminatedPods");
    let mut seen = HashSet::new();
    for list in ["succeeded", "failed"] {
        let path = uncounted.child(list);
        for (index, uid) in strings(&status["uncountedTerminatedPods"][list]).enumerate() {
            if uid.is_empty() {
                errors.push(field::invalid(&path.index(index), uid, "must not be empty"));
            } else if !seen.insert(uid) {
                errors.push(field::duplicate(&path.index(index), uid));
            }
        }
    }
}

fn check_conditions(errors: &mut Vec<FieldCause>, path: &Path<'_>, new: &Facts<'_>, old: &Facts<'_>) {
    let complete_changed = new.complete != old.complete;
    let mut refuse = |refused: bool, words: &str| {
        if refused {
            errors.push(field::invalid_as_a_whole(path, words));
        }
    };
    refuse(
        (complete_changed || new.failed != old.failed) && new.complete && new.failed,
        "cannot set Complete=True and Failed=true conditions",
    );
    refuse(
        (complete_changed || new.failure_target != old.failure_target) && new.complete && new.failure_target,
        "cannot set Complete=True and FailureTarget=true conditions",
    );
}

fn check_times(errors: &mut Vec<FieldCause>, path: &Path<'_>, new: &Facts<'_>, old: &Facts<'_>) {
    let changed = |name: &str| !same(&new.status[name], &old.status[name]);
    let (start, completion) = (&new.status["startTime"], &new.status["completionTime"]);
    let path = path.child("completionTime");
    if new.complete != old.complete || changed("completionTime") {
        if is_set(completion) && !new.complete {
            let words = "cannot set completionTime when there is no Complete=True condition";
            errors.push(field::invalid(&path, completion, words));
        }
        if !is_set(completion) && new.complete {
            errors.push(field::required(&path, "completionTime is required for Complete jobs"));
        }
    }
    if (changed("startTime") || changed("completionTime"))
        && let (Some(start), Some(end)) = (timestamp(start), timestamp(completion))
        && end < start
    {
        errors.push(field::invalid(&path, completion, "completionTime cannot be set before startTime"));
    }
}

fn check_finished(
    errors: &mut Vec<FieldCause>,
    path: &Path<'_>,
    new: &Facts<'_>,
    old: &Facts<'_>,
    spec: &Value,
) {
    let status = new.status;
    let changed = |name: &str| !same(&status[name], &old.status[name]);
    let finish_changed = new.finished() != old.finished();
    let conditions = path.child("conditions");
    if (new.failed != old.failed || changed("failedIndexes")) && new.failed && !new.failure_target {
        let words = "cannot set Failed=True condition without the FailureTarget=true condition";
        errors.push(field::invalid_as_a_whole(&conditions, words));
    }
    if (new.complete != old.complete || new.success_criteria != old.success_criteria)
        && new.complete
        && !new.success_criteria
    {
        let words = "cannot set Complete=True condition without the SuccessCriteriaMet=true condition";
        errors.push(field::invalid_as_a_whole(&conditions, words));
    }
    if !new.finished() {
        return;
    }
    let active = int(&status["active"]);
    if (finish_changed || changed("active")) && active > 0 {
        errors.push(field::invalid(&path.child("active"), active, "active>0 is invalid for finished job"));
    }
    let nothing_to_do = flag(&spec["suspend"]) && spec["completions"].as_i64() == Some(0);
    if (finish_changed || changed("startTime")) && !nothing_to_do && !is_set(&status["startTime"]) {
        errors.push(field::required(&path.child("startTime"), "startTime is required for finished job"));
    }
    let uncounted = &status["uncountedTerminatedPods"];
    if (finish_changed || changed("uncountedTerminatedPods"))
        && (!is_empty(&uncounted["succeeded"]) || !is_empty(&uncounted["failed"]))
    {
        errors.push(field::invalid(
            &path.child("uncountedTerminatedPods"),
            uncounted,
            "uncountedTerminatedPods needs to be empty for finished job",
        ));
    }
    let terminating = int(&status["terminating"]);
    if (finish_changed || changed("terminating")) && terminating > 0 {
        let words = "terminating>0 is invalid for finished job";
        errors.push(field::invalid(&path.child("terminating"), terminating, words));
    }
}

fn check_indexes(
    errors: &mut Vec<FieldCause>,
    path: &Path<'_>,
    new: &Facts<'_>,
    old: &Facts<'_>,
    spec: &Value,
) {
    let status = new.status;
    let changed = |name: &str| !same(&status[name], &old.status[name]);
    let (completed, failed) = (text(&status["completedIndexes"]), status["failedIndexes"].as_str());
    let (path_of_completed, path_of_failed) = (path.child("completedIndexes"), path.child("failedIndexes"));
    let completions = spec["completions"].as_i64();
    let per_index = is_set(&spec["backoffLimitPerIndex"]);
    let (completed_changed, failed_changed) = (changed("completedIndexes"), changed("failedIndexes"));
    if completed_changed
        && let Some(completions) = completions
        && let Err(why) = indexes::count(completed, completions)
    {
        let words = format!("error parsing completedIndexes: {why}");
        errors.push(field::invalid(&path_of_completed, completed, &words));
    }
    if failed_changed
        && per_index
        && let (Some(completions), Some(failed)) = (completions, failed)
        && let Err(why) = indexes::count(failed, completions)
    {
        let words = format!("error parsing failedIndexes: {why}");
        errors.push(field::invalid(&path_of_failed, failed, &words));
    }
    if completed_changed && !completed.is_empty() && text(&spec["completionMode"]) != "Indexed" {
        let words = "cannot set non-empty completedIndexes when non-indexed completion mode";
        errors.push(field::invalid(&path_of_completed, completed, words));
    }
    let Some(failed) = failed else { return };
    if failed_changed && !per_index {
        let words = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        errors.push(field::invalid(&path_of_failed, failed, words));
    }
    if (failed_changed || completed_changed)
        && let Some(completions) = completions
        && let Some(index) = indexes::overlap(completed, failed, completions)
    {
        let words = format!("failedIndexes and completedIndexes overlap at index: {index}");
        errors.push(field::invalid(&path_of_failed, failed, &words));
    }
}

fn check_end_of_criteria(errors: &mut Vec<FieldCause>, path: &Path<'_>, new: &Facts<'_>, spec: &Value) {
    let mut refuse = |refused: bool, words: &str| {
        if refused {
            errors.push(field::invalid_as_a_whole(path, words));
        }
    };
    refuse(
        new.success_criteria && new.failed,
        "cannot set SuccessCriteriaMet=True and Failed=true conditions",
    );
    refuse(
        new.success_criteria && new.failure_target,
        "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions",
    );
    refuse(
        is_set(&spec["successPolicy"]) && !new.success_criteria && new.complete,
        "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True",
    );
}

fn check_transition(
    errors: &mut Vec<FieldCause>,
    path: &Path<'_>,
    new: &Facts<'_>,
    old: &Facts<'_>,
    spec: &Value,
) {
    let count = |facts: &Facts<'_>, name: &str| int(&facts.status[name]);
    let changed = |name: &str| !same(&new.status[name], &old.status[name]);
    let (ready, active) = (count(new, "ready"), count(new, "active"));
    if (changed("ready") || changed("active")) && is_set(&new.status["ready"]) && ready > active {
        let words = "cannot set more ready pods than active";
        errors.push(field::invalid(&path.child("ready"), ready, words));
    }
    let conditions = path.child("conditions");
    for (was, is, name) in [
        (old.failed, new.failed, "Failed"),
        (old.complete, new.complete, "Complete"),
        (old.failure_target, new.failure_target, "FailureTarget"),
    ] {
        if was && !is {
            let words = format!("cannot disable the terminal {name}=True condition");
            errors.push(field::invalid_as_a_whole(&conditions, &words));
        }
    }
    // An indexed job whose completions follow its parallelism may shrink.
    let elastic =
        text(&spec["completionMode"]) == "Indexed" && same(&spec["completions"], &spec["parallelism"]);
    for (name, fixed) in [("failed", true), ("succeeded", !elastic)] {
        if fixed && count(new, name) < count(old, name) {
            let words = format!("cannot decrease the {name} counter");
            errors.push(field::invalid(&path.child(name), count(new, name), &words));
        }
    }
    let (completion, before) = (&new.status["completionTime"], &old.status["completionTime"]);
    if is_set(completion) && is_set(before) && timestamp(completion) != timestamp(before) {
        let path = path.child("completionTime");
        errors.push(field::invalid(&path, completion, "completionTime cannot be mutated"));
    }
    // A job that is resumed starts anew, even if it ran before it was suspended.
    let resumes = old.suspended || flag(&spec["suspend"]);
    if is_set(&old.status["startTime"]) && changed("startTime") && !resumes {
        let words = "startTime cannot be removed for unsuspended job";
        errors.push(field::required(&path.child("startTime"), words));
    }
    if old.success_criteria && !new.success_criteria {
        let words = "cannot disable the SuccessCriteriaMet=True condition";
        errors.push(field::invalid_as_a_whole(&conditions, words));
    }
    if old.complete && !old.success_criteria && new.success_criteria {
        let words = "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
        errors.push(field::invalid_as_a_whole(&conditions, words));
    }
}
