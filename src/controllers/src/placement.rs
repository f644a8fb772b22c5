//! Which nodes a pod may be on, as far as controllers need to know without asking the scheduler.

use k8s_openapi::api::core::v1::{
    Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};

use crate::pods;

/// What a requirement makes of a label's value: Kubernetes' rule.
pub(crate) fn meets(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let is_one = value.is_some_and(|value| values.iter().any(|one| one == value));
    let compare = |holds: fn(i64, i64) -> bool| {
        let limit = values.first().and_then(|text| text.parse::<i64>().ok());
        match (value.and_then(|text| text.parse::<i64>().ok()), limit) {
            (Some(value), Some(limit)) => holds(value, limit),
            _ => false,
        }
    };
    match requirement.operator.as_str() {
        "In" => is_one,
        "NotIn" => !is_one,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(|value, limit| value > limit),
        "Lt" => compare(|value, limit| value < limit),
        _ => false,
    }
}

/// Kubernetes' rule: effect and key match or are left out, and the operator fits. As for the scheduler, one
/// that is not known fits nothing.
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let unset_or = |field: &Option<String>, value: &str| {
        field.as_deref().filter(|field| !field.is_empty()).is_none_or(|field| field == value)
    };
    if !unset_or(&toleration.effect, &taint.effect) || !unset_or(&toleration.key, &taint.key) {
        return false;
    }
    match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => {
            let keyed = toleration.key.as_deref().is_some_and(|key| !key.is_empty());
            keyed
                && toleration.value.as_deref().unwrap_or_default()
                    == taint.value.as_deref().unwrap_or_default()
        }
        Some(_) => false,
    }
}

/// The node's taints of one of these effects that the pod does not tolerate.
pub(crate) fn is_kept_off(spec: &PodSpec, node: &Node, effects: &[&str]) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    taints
        .iter()
        .filter(|taint| effects.contains(&taint.effect.as_str()))
        .any(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)))
}

/// True if the pod asks for this node: by name, node selector and required node affinity.
pub(crate) fn is_wanted(spec: &PodSpec, node: &Node) -> bool {
    let name = pods::name(&node.metadata);
    let label =
        |key: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str);
    if spec.node_name.as_deref().is_some_and(|wanted| !wanted.is_empty() && wanted != name) {
        return false;
    }
    if !spec.node_selector.iter().flatten().all(|(key, value)| label(key) == Some(value)) {
        return false;
    }
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required =
        affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    required.is_none_or(|required| {
        required.node_selector_terms.iter().any(|term| {
            let labels = term.match_expressions.as_deref().unwrap_or_default();
            let fields = term.match_fields.as_deref().unwrap_or_default();
            !is_empty(term)
                && labels.iter().all(|requirement| meets(requirement, label(&requirement.key)))
                && fields
                    .iter()
                    .all(|requirement| requirement.key == "metadata.name" && meets(requirement, Some(name)))
        })
    })
}

/// An empty term matches nothing.
pub(crate) fn is_empty(term: &NodeSelectorTerm) -> bool {
    term.match_expressions.as_deref().unwrap_or_default().is_empty()
        && term.match_fields.as_deref().unwrap_or_default().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(requirement: &str, value: Option<&str>, expected: bool) {
        let mut words = requirement.split_whitespace();
        let requirement = NodeSelectorRequirement {
            key: "k".to_owned(),
            operator: words.next().expect("an operator").to_owned(),
            values: Some(words.map(str::to_owned).collect()),
        };
        assert_eq!(meets(&requirement, value), expected);
    }

    #[test]
    fn requirements() {
        check("In a b", Some("a"), true);
        check("In a b", Some("c"), false);
        check("In a b", None, false);
        check("NotIn a", Some("a"), false);
        check("NotIn a", None, true);
        check("Exists", Some(""), true);
        check("Exists", None, false);
        check("DoesNotExist", None, true);
        check("Gt 3", Some("4"), true);
        check("Gt 3", Some("three"), false);
        check("Lt 3", Some("3"), false);
        check("Near 3", Some("3"), false);
    }

    /// A toleration `KEY OPERATOR VALUE EFFECT` of the taint `k=v:NoExecute`; `-` is left out.
    #[track_caller]
    fn check_toleration(text: &str, expected: bool) {
        let mut words = text.split_whitespace().map(|word| (word != "-").then(|| word.to_owned()));
        let mut next = || words.next().flatten();
        let (key, operator, value, effect) = (next(), next(), next(), next());
        let toleration = Toleration { key, operator, value, effect, toleration_seconds: None };
        let (key, effect) = ("k".to_owned(), "NoExecute".to_owned());
        let taint = Taint { key, value: Some("v".to_owned()), effect, time_added: None };
        assert_eq!(tolerates(&toleration, &taint), expected);
    }

    #[test]
    fn tolerations() {
        check_toleration("k Equal v NoExecute", true);
        check_toleration("k - v -", true);
        check_toleration("k Equal w -", false);
        check_toleration("- Equal v -", false);
        check_toleration("k Exists - NoSchedule", false);
        check_toleration("k Exists - -", true);
        check_toleration("other Exists - -", false);
        check_toleration("- Exists - -", true);
        check_toleration("k Near v -", false);
    }
}
