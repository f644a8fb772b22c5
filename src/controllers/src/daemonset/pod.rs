//! The pod of a daemon set for a node, and where it may run.

use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Toleration},
};

use crate::{placement, podcontrol, pods};

/// The label with the hash of the revision that a pod is made of, on pods and on revisions.
pub(super) const HASH: &str = "controller-revision-hash";
const GENERATION: &str = "pod-template-generation";
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";
const NAME_FIELD: &str = "metadata.name";

/// Taints that every daemon tolerates: it is there to look after the node, whatever its state.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// Tolerated by daemons on the host's network, which may be what makes the network work.
const NETWORK: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// Whether a node should have the daemon, and whether one that is there may stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fit {
    pub(super) run: bool,
    pub(super) stay: bool,
}

/// The pod of the daemon set before it is made for a node.
pub(super) fn generic(set: &DaemonSet, hash: &str) -> Pod {
    let template = set.spec.as_ref().map(|spec| &spec.template);
    let mut pod = podcontrol::from_template(set, template);
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(HASH.to_owned(), hash.to_owned());
    let generation = set.metadata.annotations.as_ref().and_then(|all| all.get(TEMPLATE_GENERATION));
    if let Some(generation) = generation {
        labels.insert(GENERATION.to_owned(), generation.clone());
    }
    let spec = pod.spec.get_or_insert_default();
    let network = Some(NETWORK).filter(|_| spec.host_network == Some(true));
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in TOLERATED.into_iter().chain(network) {
        let toleration = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    pod
}

/// The generic pod made for one node. The scheduler binds it there, when there is room.
pub(super) fn on(generic: &Pod, node: &str) -> Pod {
    let mut pod = generic.clone();
    let affinity = pod.spec.get_or_insert_default().affinity.get_or_insert_default();
    let required = &mut affinity.node_affinity.get_or_insert_default();
    let selector = required
        .required_during_scheduling_ignored_during_execution
        .get_or_insert_with(|| NodeSelector { node_selector_terms: Vec::new() });
    let by_name = vec![NodeSelectorRequirement {
        key: NAME_FIELD.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    }];
    if selector.node_selector_terms.is_empty() {
        selector.node_selector_terms.push(NodeSelectorTerm::default());
    }
    for term in &mut selector.node_selector_terms {
        term.match_fields = Some(by_name.clone());
    }
    pod
}

/// The node that a pod is on or is made for.
pub(super) fn target(pod: &Pod) -> Option<&str> {
    pods::node_name(pod).or_else(|| {
        let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
        let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
        let fields = required.node_selector_terms.iter().filter_map(|term| term.match_fields.as_ref());
        let by_name = fields.flatten().find(|field| field.key == NAME_FIELD && field.operator == "In")?;
        match by_name.values.as_deref()? {
            [node] => Some(node.as_str()),
            _ => None,
        }
    })
}

/// Whether the node suits the daemon. `spec` is the generic pod's.
pub(super) fn fit(spec: &PodSpec, node: &Node) -> Fit {
    let wanted = placement::is_wanted(spec, node);
    Fit {
        run: wanted && !placement::is_kept_off(spec, node, &["NoSchedule", "NoExecute"]),
        stay: wanted && !placement::is_kept_off(spec, node, &["NoExecute"]),
    }
}

/// True if the pod is made of the newest template.
pub(super) fn is_updated(pod: &Pod, hash: &str) -> bool {
    pod.metadata.labels.as_ref().and_then(|labels| labels.get(HASH)).is_some_and(|label| label == hash)
}
