//! Which nodes can take a pod, and why others cannot. The order of the checks and the words are
//! Kubernetes'.

use std::fmt;

use k8s_openapi::api::core::v1::{Taint, Toleration};

use super::{
    affinity,
    cluster::{Candidate, NodeState},
};

/// Why a node cannot take a pod. `Display` is Kubernetes' text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The node is cordoned.
    Unschedulable,
    /// The pod asks for another node by name.
    NodeName,
    /// The pod does not tolerate a taint.
    Taint {
        /// Key of the taint.
        key: String,
        /// Value of the taint.
        value: String,
    },
    /// The node's labels are not what the pod asks for.
    Affinity,
    /// The node takes no more pods.
    TooManyPods,
    /// The node has too little of a resource left, or at all.
    Insufficient {
        /// The resource, e.g. `cpu`.
        resource: String,
        /// The node would have too little even without other pods.
        ever: bool,
    },
}

impl Reason {
    /// True if other pods are the reason: it goes away when they go.
    pub(super) fn is_by_others(&self) -> bool {
        matches!(self, Reason::TooManyPods | Reason::Insufficient { ever: false, .. })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Unschedulable => f.write_str("node(s) were unschedulable"),
            Reason::NodeName => f.write_str("node(s) didn't match the requested node name"),
            Reason::Taint { key, value } => write!(f, "node(s) had untolerated taint {{{key}: {value}}}"),
            Reason::Affinity => f.write_str("node(s) didn't match Pod's node affinity/selector"),
            Reason::TooManyPods => f.write_str("Too many pods"),
            Reason::Insufficient { resource, .. } => write!(f, "Insufficient {resource}"),
        }
    }
}

/// Nothing if the node can take the pod; otherwise what the first failing check found.
pub(super) fn filter(pod: &Candidate, state: &NodeState) -> Result<(), Vec<Reason>> {
    let (Some(spec), Some(node)) = (pod.pod().spec.as_ref(), state.node()) else { return Ok(()) };
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
    if cordoned {
        let taint = Taint {
            key: "node.kubernetes.io/unschedulable".to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        };
        if !tolerations.iter().any(|toleration| tolerates(toleration, &taint)) {
            return Err(vec![Reason::Unschedulable]);
        }
    }
    if spec.node_name.as_deref().is_some_and(|name| !name.is_empty() && *name != **state.name()) {
        return Err(vec![Reason::NodeName]);
    }
    let untolerated = state
        .taints()
        .iter()
        .filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"))
        .find(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)));
    if let Some(taint) = untolerated {
        let value = taint.value.clone().unwrap_or_default();
        return Err(vec![Reason::Taint { key: taint.key.clone(), value }]);
    }
    if !affinity::matches(spec, node) {
        return Err(vec![Reason::Affinity]);
    }
    let reasons = lacking(pod, state);
    if reasons.is_empty() { Ok(()) } else { Err(reasons) }
}

fn lacking(pod: &Candidate, state: &NodeState) -> Vec<Reason> {
    let mut reasons = Vec::new();
    if state.pods() + 1 > state.max_pods() {
        reasons.push(Reason::TooManyPods);
    }
    let (wants, has, used) = (pod.requests(), state.allocatable(), state.requested());
    let mut check = |resource: &str, wanted: i64, has: i64, used: i64| {
        if wanted > 0 && wanted > has.saturating_sub(used) {
            reasons.push(Reason::Insufficient { resource: resource.to_owned(), ever: wanted > has });
        }
    };
    check("cpu", wants.cpu, has.cpu, used.cpu);
    check("memory", wants.memory, has.memory, used.memory);
    for (name, wanted) in &wants.other {
        let amount =
            |amounts: &std::collections::BTreeMap<String, i64>| amounts.get(name).copied().unwrap_or(0);
        check(name, *wanted, amount(&has.other), amount(&used.other));
    }
    reasons
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let effect = text(&toleration.effect);
    if !effect.is_empty() && effect != taint.effect {
        return false;
    }
    let key = text(&toleration.key);
    if !key.is_empty() && key != taint.key {
        return false;
    }
    match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => !key.is_empty() && text(&toleration.value) == text(&taint.value),
        Some(_) => false,
    }
}
