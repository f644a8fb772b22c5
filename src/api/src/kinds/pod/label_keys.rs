//! The label keys of pod affinity become part of the selectors, with the values that the pod is created with.

use serde_json::{Value, json};

use super::super::common::*;

/// Adds to the selector of each term what its `matchLabelKeys` and `mismatchLabelKeys` ask for. A key that the pod has
/// no label of asks for nothing.
pub(super) fn merge(pod: &mut Value) {
    let labels = pod["metadata"]["labels"].clone();
    for affinity in ["podAffinity", "podAntiAffinity"] {
        let pointer = format!("/spec/affinity/{affinity}");
        let Some(affinity) = pod.pointer_mut(&pointer).filter(|affinity| is_set(affinity)) else { continue };
        for term in items_mut(affinity, "requiredDuringSchedulingIgnoredDuringExecution") {
            merge_term(term, &labels);
        }
        for weighted in items_mut(affinity, "preferredDuringSchedulingIgnoredDuringExecution") {
            if let Some(term) = existing_mut(weighted, "podAffinityTerm") {
                merge_term(term, &labels);
            }
        }
    }
}

fn merge_term(term: &mut Value, labels: &Value) {
    let mut more = Vec::new();
    for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        let present = strings(&term[field]).filter(|key| labels[key].is_string());
        more.extend(
            present.map(|key| json!({"key": key, "operator": operator, "values": [labels[key].clone()]})),
        );
    }
    let Some(selector) = existing_mut(term, "labelSelector") else { return };
    if more.is_empty() {
        return;
    }
    let mut all = items(&selector["matchExpressions"]).to_vec();
    all.extend(more);
    set(selector, "matchExpressions", all);
}
