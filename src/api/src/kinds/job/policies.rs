//! What ends a job early: rules on failed pods, rules on succeeded indexes.

use std::collections::HashSet;

use serde_json::Value;

use super::indexes;
use crate::{
    FieldCause,
    field::{self, Path},
    kinds::common::*,
    names,
};

const MAX_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;
const MAX_PATTERNS: usize = 20;
const MAX_INDEXES_TEXT: usize = 64 * 1024;

const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];
const OPERATORS: &[&str] = &["In", "NotIn"];
const STATUSES: &[&str] = &["False", "True", "Unknown"];

/// Requires one of `allowed`, and lists them also if there is nothing.
fn check_word(errors: &mut Vec<FieldCause>, path: &Path<'_>, value: &Value, allowed: &[&str]) {
    match text(value) {
        "" => {
            let list: Vec<String> = allowed.iter().map(|word| format!("{word:?}")).collect();
            errors.push(field::required(path, &format!("valid values: [{}]", list.join(" "))));
        }
        word if allowed.contains(&word) => {}
        word => errors.push(field::not_supported(path, word, allowed)),
    }
}

/// `spec.podFailurePolicy`
pub(super) fn check_failure_policy(errors: &mut Vec<FieldCause>, path: &Path<'_>, spec: &Value) {
    let rules = items(&spec["podFailurePolicy"]["rules"]);
    let path = path.child("rules");
    if rules.len() > MAX_RULES {
        errors.push(field::too_many(&path, rules.len(), MAX_RULES));
    }
    let pod = &spec["template"]["spec"];
    let containers = items(&pod["containers"]).iter().chain(items(&pod["initContainers"]));
    let containers: HashSet<&str> = containers.map(|container| text(&container["name"])).collect();
    for (index, rule) in rules.iter().enumerate() {
        let path = path.index(index);
        let path_of_action = path.child("action");
        if text(&rule["action"]) == "FailIndex" {
            if !is_set(&spec["backoffLimitPerIndex"]) {
                let words = "requires the backoffLimitPerIndex to be set";
                errors.push(field::invalid(&path_of_action, "FailIndex", words));
            }
        } else {
            check_word(errors, &path_of_action, &rule["action"], ACTIONS);
        }
        let (codes, conditions) = (&rule["onExitCodes"], &rule["onPodConditions"]);
        if is_set(codes) {
            check_exit_codes(errors, &path.child("onExitCodes"), codes, &containers);
        }
        check_conditions(errors, &path.child("onPodConditions"), conditions);
        match (is_set(codes), !is_empty(conditions)) {
            (true, true) => {
                let words = "specifying both OnExitCodes and OnPodConditions is not supported";
                errors.push(field::invalid_as_a_whole(&path, words));
            }
            (false, false) => {
                let words = "specifying one of OnExitCodes and OnPodConditions is required";
                errors.push(field::invalid_as_a_whole(&path, words));
            }
            _ => {}
        }
    }
}

fn check_conditions(errors: &mut Vec<FieldCause>, path: &Path<'_>, patterns: &Value) {
    let patterns = items(patterns);
    if patterns.len() > MAX_PATTERNS {
        errors.push(field::too_many(path, patterns.len(), MAX_PATTERNS));
    }
    for (index, pattern) in patterns.iter().enumerate() {
        let path = path.index(index);
        check_text(errors, &path.child("type"), text(&pattern["type"]), names::qualified_name);
        check_word(errors, &path.child("status"), &pattern["status"], STATUSES);
    }
}

fn check_exit_codes(
    errors: &mut Vec<FieldCause>,
    path: &Path<'_>,
    codes: &Value,
    containers: &HashSet<&str>,
) {
    check_word(errors, &path.child("operator"), &codes["operator"], OPERATORS);
    if let Some(container) = codes["containerName"].as_str()
        && !containers.contains(container)
    {
        let words = "must be one of the container or initContainer names in the pod template";
        errors.push(field::invalid(&path.child("containerName"), container, words));
    }
    let values = items(&codes["values"]);
    let path = path.child("values");
    if values.is_empty() {
        errors.push(field::invalid(&path, &codes["values"], "at least one value is required"));
    } else if values.len() > MAX_EXIT_CODES {
        errors.push(field::too_many(&path, values.len(), MAX_EXIT_CODES));
    }
    let mut seen = HashSet::new();
    for (index, value) in values.iter().map(int).enumerate() {
        let path = path.index(index);
        if text(&codes["operator"]) == "In" && value == 0 {
            errors.push(field::invalid(&path, value, "must not be 0 for the In operator"));
        }
        if !seen.insert(value) {
            errors.push(field::duplicate(&path, value));
        }
    }
    if !values.iter().map(int).is_sorted() {
        errors.push(field::invalid(&path, &codes["values"], "must be ordered"));
    }
}

/// `spec.successPolicy`
pub(super) fn check_success_policy(errors: &mut Vec<FieldCause>, path: &Path<'_>, spec: &Value) {
    if text(&spec["completionMode"]) != "Indexed" {
        errors.push(field::invalid(path, &spec["successPolicy"], "requires indexed completion mode"));
        return;
    }
    let rules = items(&spec["successPolicy"]["rules"]);
    let path = path.child("rules");
    if rules.is_empty() {
        let words = "at least one rules must be specified when the successPolicy is specified";
        errors.push(field::required(&path, words));
    }
    if rules.len() > MAX_RULES {
        errors.push(field::too_many(&path, rules.len(), MAX_RULES));
    }
    for (index, rule) in rules.iter().enumerate() {
        check_success_rule(errors, &path.index(index), rule, int(&spec["completions"]));
    }
}

fn check_success_rule(errors: &mut Vec<FieldCause>, path: &Path<'_>, rule: &Value, completions: i64) {
    let (count, indexes) = (rule["succeededCount"].as_i64(), rule["succeededIndexes"].as_str());
    if count.is_none() && indexes.is_none() {
        let words = "at least one of succeededCount or succeededIndexes must be specified";
        errors.push(field::required(path, words));
    }
    let mut total = 0;
    if let Some(indexes) = indexes {
        let path = path.child("succeededIndexes");
        if indexes.len() > MAX_INDEXES_TEXT {
            errors.push(field::too_long(&path, MAX_INDEXES_TEXT));
        }
        match indexes::count(indexes, completions) {
            Ok(found) => total = found,
            Err(why) => {
                let words = format!("error parsing succeededIndexes: {why}");
                errors.push(field::invalid(&path, indexes, &words));
            }
        }
    }
    if let Some(count) = count {
        let path = path.child("succeededCount");
        check_not_negative(errors, &path, &rule["succeededCount"]);
        if count > completions {
            let words =
                format!("must be less than or equal to {completions} (the number of specified completions)");
            errors.push(field::invalid(&path, count, &words));
        }
        if indexes.is_some() && count > total {
            let words = format!(
                "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
            );
            errors.push(field::invalid(&path, count, &words));
        }
    }
}
