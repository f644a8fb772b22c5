//! Which nodes a pod or a volume may be on: node selector terms, taints and tolerations, ports of the node. Pure,
//! shared by the scheduler, which decides, and by controllers and nodes, which must come to the same answer without
//! asking it.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};

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

/// Whether the node of these labels and this name is what a pod asks for by `nodeSelector` and required node affinity.
#[must_use]
pub fn is_asked_for(spec: &PodSpec, labels: &BTreeMap<String, String>, name: &str) -> bool {
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required =
        affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    spec.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value))
        && required.is_none_or(|required| {
            required.node_selector_terms.iter().any(|term| matches(term, labels, name))
        })
}

/// A port of the node that a pod wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The address; `0.0.0.0` is every one.
    pub ip: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The number.
    pub port: i32,
}

impl Port {
    /// Two ports conflict if they are the same for one address, or if one of them is for all.
    #[must_use]
    pub fn conflicts_with(&self, other: &Port) -> bool {
        let any = |port: &Port| port.ip == "0.0.0.0";
        let one_address = self.ip == other.ip || any(self) || any(other);
        self.port == other.port && self.protocol == other.protocol && one_address
    }
}

/// The ports of the node that a pod's containers and sidecars want.
#[must_use]
pub fn host_ports(spec: &PodSpec) -> Vec<Port> {
    let stays = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let inits = spec.init_containers.iter().flatten().filter(stays);
    let ports = spec.containers.iter().chain(inits).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = port.host_port.filter(|port| *port > 0)?;
            let or = |text: &Option<String>, default: &str| {
                text.clone().filter(|text| !text.is_empty()).unwrap_or_else(|| default.to_owned())
            };
            Some(Port { ip: or(&port.host_ip, "0.0.0.0"), protocol: or(&port.protocol, "TCP"), port: number })
        })
        .collect()
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
