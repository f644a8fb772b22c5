//! What says where a pod may run: affinity, tolerations, spreading, gates; and the taints of nodes.

use std::collections::HashSet;

use serde_json::Value;

use crate::{
    FieldCause,
    field::{self, Path},
    kinds::{common::*, meta},
    names,
};

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const NO_OPERATOR: &str = "not a valid selector operator";
const WEIGHT_WORDS: &str = "must be in the range 1-100";

pub(super) fn check_affinity(errors: &mut Vec<FieldCause>, path: &Path<'_>, affinity: &Value) {
    if !is_set(affinity) {
        return;
    }
    let node = &affinity["nodeAffinity"];
    let node_path = path.child("nodeAffinity");
    if is_set(&node[REQUIRED]) {
        check_node_selector(errors, &node_path.child(REQUIRED), &node[REQUIRED]);
    }
    let preferred = node_path.child(PREFERRED);
    for (index, term) in items(&node[PREFERRED]).iter().enumerate() {
        let path = preferred.index(index);
        check_weight(errors, &path, term);
        check_node_term(errors, &path.child("preference"), &term["preference"], false);
    }
    for name in ["podAffinity", "podAntiAffinity"] {
        let path = path.child(name);
        let required = path.child(REQUIRED);
        for (index, term) in items(&affinity[name][REQUIRED]).iter().enumerate() {
            check_pod_term(errors, &required.index(index), term);
        }
        let preferred = path.child(PREFERRED);
        for (index, term) in items(&affinity[name][PREFERRED]).iter().enumerate() {
            let path = preferred.index(index);
            check_weight(errors, &path, term);
            check_pod_term(errors, &path.child("podAffinityTerm"), &term["podAffinityTerm"]);
        }
    }
}

fn check_weight(errors: &mut Vec<FieldCause>, path: &Path<'_>, term: &Value) {
    let weight = int(&term["weight"]);
    if !(1..=100).contains(&weight) {
        errors.push(field::invalid(&path.child("weight"), weight, WEIGHT_WORDS));
    }
}

/// A NodeSelector.
pub(in crate::kinds) fn check_node_selector(errors: &mut Vec<FieldCause>, path: &Path<'_>, selector: &Value) {
    let path = path.child("nodeSelectorTerms");
    if is_empty(&selector["nodeSelectorTerms"]) {
        errors.push(field::required(&path, "must have at least one node selector term"));
    }
    for (index, term) in items(&selector["nodeSelectorTerms"]).iter().enumerate() {
        check_node_term(errors, &path.index(index), term, true);
    }
}

fn check_node_term(errors: &mut Vec<FieldCause>, path: &Path<'_>, term: &Value, check_values: bool) {
    let expressions = path.child("matchExpressions");
    for (index, requirement) in items(&term["matchExpressions"]).iter().enumerate() {
        let path = expressions.index(index);
        match text(&requirement["operator"]) {
            "Gt" | "Lt" => {
                if items(&requirement["values"]).len() != 1 {
                    errors.push(field::required(
                        &path.child("values"),
                        "must be specified single value when `operator` is 'Lt' or 'Gt'",
                    ));
                }
            }
            _ => check_operator(errors, &path, requirement),
        }
        check_text(errors, &path.child("key"), text(&requirement["key"]), names::qualified_name);
        if check_values {
            check_values_of(errors, &path, requirement);
        }
    }
    let fields = path.child("matchFields");
    for (index, requirement) in items(&term["matchFields"]).iter().enumerate() {
        let path = fields.index(index);
        match text(&requirement["operator"]) {
            "In" | "NotIn" => {
                if items(&requirement["values"]).len() != 1 {
                    errors.push(field::required(
                        &path.child("values"),
                        "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
                    ));
                }
            }
            operator => errors.push(field::invalid(&path.child("operator"), operator, NO_OPERATOR)),
        }
        let key = text(&requirement["key"]);
        if key != "metadata.name" {
            errors.push(field::invalid(&path.child("key"), key, "not a valid field selector key"));
        }
    }
}

/// The operators that label selectors and node selectors share.
fn check_operator(errors: &mut Vec<FieldCause>, path: &Path<'_>, requirement: &Value) {
    let count = items(&requirement["values"]).len();
    match text(&requirement["operator"]) {
        "In" | "NotIn" if count == 0 => errors.push(field::required(
            &path.child("values"),
            "must be specified when `operator` is 'In' or 'NotIn'",
        )),
        "Exists" | "DoesNotExist" if count > 0 => errors.push(field::forbidden(
            &path.child("values"),
            "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
        )),
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        operator => errors.push(field::invalid(&path.child("operator"), operator, NO_OPERATOR)),
    }
}

fn check_values_of(errors: &mut Vec<FieldCause>, path: &Path<'_>, requirement: &Value) {
    let path = path.child("values");
    for (index, value) in strings(&requirement["values"]).enumerate() {
        check_text(errors, &path.index(index), value, names::label_value);
    }
}

/// A LabelSelector.
pub(in crate::kinds) fn check_label_selector(
    errors: &mut Vec<FieldCause>,
    path: &Path<'_>,
    selector: &Value,
) {
    meta::check_labels(errors, &path.child("matchLabels"), &selector["matchLabels"]);
    let path = path.child("matchExpressions");
    for (index, requirement) in items(&selector["matchExpressions"]).iter().enumerate() {
        let path = path.index(index);
        check_operator(errors, &path, requirement);
        check_text(errors, &path.child("key"), text(&requirement["key"]), names::qualified_name);
        check_values_of(errors, &path, requirement);
    }
}

fn check_pod_term(errors: &mut Vec<FieldCause>, path: &Path<'_>, term: &Value) {
    check_label_selector(errors, &path.child("labelSelector"), &term["labelSelector"]);
    check_label_selector(errors, &path.child("namespaceSelector"), &term["namespaceSelector"]);
    for namespace in strings(&term["namespaces"]) {
        check_text(errors, &path.child("namespace"), namespace, names::dns_label);
    }
    for name in ["matchLabelKeys", "mismatchLabelKeys"] {
        let path = path.child(name);
        if !is_empty(&term[name]) && !is_set(&term["labelSelector"]) {
            errors.push(field::forbidden(&path, "must not be specified when labelSelector is not set"));
            continue;
        }
        for (index, key) in strings(&term[name]).enumerate() {
            check_text(errors, &path.index(index), key, names::qualified_name);
        }
    }
    let keys = path.child("matchLabelKeys");
    for (index, key) in strings(&term["matchLabelKeys"]).enumerate() {
        if strings(&term["mismatchLabelKeys"]).any(|other| other == key) {
            errors.push(field::invalid(
                &keys.index(index),
                key,
                "exists in both matchLabelKeys and mismatchLabelKeys",
            ));
        }
    }
    let path = path.child("topologyKey");
    let key = text(&term["topologyKey"]);
    if key.is_empty() {
        errors.push(field::required(&path, "can not be empty"));
    }
    check_text(errors, &path, key, names::qualified_name);
}

/// The tolerations of a pod.
pub(in crate::kinds) fn check_tolerations(
    errors: &mut Vec<FieldCause>,
    path: &Path<'_>,
    tolerations: &Value,
) {
    for (index, toleration) in items(tolerations).iter().enumerate() {
        let path = path.index(index);
        let (key, value) = (text(&toleration["key"]), text(&toleration["value"]));
        let (operator, effect) = (text(&toleration["operator"]), text(&toleration["effect"]));
        let path_of_operator = path.child("operator");
        if key.is_empty() && operator != "Exists" {
            errors.push(field::invalid(
                &path_of_operator,
                operator,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            ));
        } else if !key.is_empty() {
            check_text(errors, &path.child("key"), key, names::qualified_name);
        }
        if is_set(&toleration["tolerationSeconds"]) && effect != "NoExecute" {
            errors.push(field::invalid(
                &path.child("effect"),
                effect,
                "effect must be 'NoExecute' when `tolerationSeconds` is set",
            ));
        }
        match operator {
            "" | "Equal" => {
                let wrong = names::label_value(value);
                if !wrong.is_empty() {
                    errors.push(field::invalid(&path_of_operator, value, &wrong.join(";")));
                }
            }
            "Exists" if !value.is_empty() => {
                let words = "value must be empty when `operator` is 'Exists'";
                errors.push(field::invalid(&path_of_operator, value, words));
            }
            "Exists" => {}
            other => errors.push(field::not_supported(&path_of_operator, other, &["Equal", "Exists"])),
        }
        if !effect.is_empty() && !EFFECTS.contains(&effect) {
            errors.push(field::not_supported(&path.child("effect"), effect, EFFECTS));
        }
    }
}

/// The taints of a node.
pub(in crate::kinds) fn check_taints(errors: &mut Vec<FieldCause>, path: &Path<'_>, taints: &Value) {
    let mut seen = HashSet::new();
    for (index, taint) in items(taints).iter().enumerate() {
        let path = path.index(index);
        let (key, value, effect) = (text(&taint["key"]), text(&taint["value"]), text(&taint["effect"]));
        check_text(errors, &path.child("key"), key, names::qualified_name);
        let wrong = names::label_value(value);
        if !wrong.is_empty() {
            errors.push(field::invalid(&path.child("value"), value, &wrong.join(";")));
        }
        check_one_of(errors, &path.child("effect"), &taint["effect"], EFFECTS);
        if !seen.insert((key, effect)) {
            let mut cause = field::duplicate(&path, taint);
            cause.message.push_str(": taints must be unique by key and effect pair");
            errors.push(cause);
        }
    }
}

pub(super) fn check_gates(errors: &mut Vec<FieldCause>, path: &Path<'_>, gates: &Value) {
    let mut seen = HashSet::new();
    for (index, gate) in items(gates).iter().enumerate() {
        let path = path.index(index);
        let name = text(&gate["name"]);
        check_text(errors, &path, name, names::qualified_name);
        if !seen.insert(name) {
            errors.push(field::duplicate(&path, name));
        }
    }
}

pub(super) fn check_topology_spread(errors: &mut Vec<FieldCause>, path: &Path<'_>, constraints: &Value) {
    let constraints = items(constraints);
    for (index, constraint) in constraints.iter().enumerate() {
        let path = path.index(index);
        let skew = int(&constraint["maxSkew"]);
        if skew <= 0 {
            errors.push(field::invalid(&path.child("maxSkew"), skew, "must be greater than zero"));
        }
        let (key, action) = (text(&constraint["topologyKey"]), text(&constraint["whenUnsatisfiable"]));
        if key.is_empty() {
            errors.push(field::required(&path.child("topologyKey"), "can not be empty"));
        }
        let actions = &["DoNotSchedule", "ScheduleAnyway"];
        if !actions.contains(&action) {
            errors.push(field::not_supported(&path.child("whenUnsatisfiable"), action, actions));
        }
        let repeated = constraints[index + 1..]
            .iter()
            .any(|other| text(&other["topologyKey"]) == key && text(&other["whenUnsatisfiable"]) == action);
        if repeated {
            let path = path.child("{topologyKey, whenUnsatisfiable}");
            errors.push(field::duplicate(&path, &format!("{{{key}, {action}}}")));
        }
        check_min_domains(errors, &path.child("minDomains"), &constraint["minDomains"], action);
        for name in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            check_optional_one_of(errors, &path.child(name), &constraint[name], &["Honor", "Ignore"]);
        }
        check_spread_keys(errors, &path.child("matchLabelKeys"), constraint);
        check_label_selector(errors, &path.child("labelSelector"), &constraint["labelSelector"]);
    }
}

fn check_min_domains(errors: &mut Vec<FieldCause>, path: &Path<'_>, domains: &Value, action: &str) {
    if !is_set(domains) {
        return;
    }
    if int(domains) <= 0 {
        errors.push(field::invalid(path, int(domains), "must be greater than zero"));
    }
    if action != "DoNotSchedule" {
        let words = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
        errors.push(field::invalid(path, int(domains), &words));
    }
}

fn check_spread_keys(errors: &mut Vec<FieldCause>, path: &Path<'_>, constraint: &Value) {
    let keys = &constraint["matchLabelKeys"];
    let selector = &constraint["labelSelector"];
    if !is_empty(keys) && !is_set(selector) {
        errors.push(field::forbidden(path, "must not be specified when labelSelector is not set"));
    }
    for (index, key) in strings(keys).enumerate() {
        let path = path.index(index);
        check_text(errors, &path, key, names::qualified_name);
        let selected = is_set(&selector["matchLabels"][key])
            || items(&selector["matchExpressions"])
                .iter()
                .any(|requirement| text(&requirement["key"]) == key);
        if selected {
            errors.push(field::invalid(&path, key, "exists in both matchLabelKeys and labelSelector"));
        }
    }
}
