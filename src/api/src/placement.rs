//! Which nodes a pod or a volume may be on: node selector terms, taints and tolerations. Pure, shared by the
//! scheduler, which decides, and by controllers, which must come to the same answer without asking it.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration};

/// Whether a term matches the node of these labels and this name. A term without requirements matches none, and
/// the only field of a node is `metadata.name`.
#[must_use]
pub fn matches(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>, name: &str) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let field = |key: &str| (key == "metadata.name").then_some(name);
    expressions.iter().all(|requirement| holds(requirement, labels.get(&requirement.key).map(String::as_str)))
        && fields.iter().all(|requirement| holds(requirement, field(&requirement.key)))
}

/// Whether a toleration tolerates a taint: effect and key match or are left out, and the operator fits. One that is
/// not known fits nothing.
#[must_use]
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    fn text(text: Option<&String>) -> &str {
        text.map(String::as_str).unwrap_or_default()
    }
    let (effect, key) = (text(toleration.effect.as_ref()), text(toleration.key.as_ref()));
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => {
            !key.is_empty() && text(toleration.value.as_ref()) == text(taint.value.as_ref())
        }
        Some(_) => false,
    }
}

/// What a requirement makes of a label's value.
fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|value| values.iter().any(|listed| listed == value));
    let compared = || {
        let own: i64 = value?.parse().ok()?;
        let limit: i64 = values.first()?.parse().ok()?;
        Some(own.cmp(&limit))
    };
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared().is_some_and(Ordering::is_gt),
        "Lt" => compared().is_some_and(Ordering::is_lt),
        _ => false,
    }
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
        assert_eq!(holds(&requirement, value), expected);
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
