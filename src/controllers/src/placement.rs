//! Which nodes a pod may be on, as far as controllers need to know without asking the scheduler.

use std::collections::BTreeMap;

use coracle_api::placement::{is_asked_for, tolerates};
use k8s_openapi::api::core::v1::{Node, PodSpec};

use crate::pods;

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
    let none = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    if spec.node_name.as_deref().is_some_and(|wanted| !wanted.is_empty() && wanted != name) {
        return false;
    }
    is_asked_for(spec, labels, name)
}
