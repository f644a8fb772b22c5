//! Taints of nodes, tolerations of pods.

use coracle_api::placement::tolerates;
use k8s_openapi::api::core::v1::{Node, Taint, Toleration};

/// The taints of the node, and those that its `Ready` condition stands for before the node lifecycle
/// controller has written them.
pub(super) fn of(node: &Node) -> Vec<Taint> {
    let mut taints: Vec<Taint> = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.into_iter().flatten().find(|condition| condition.type_ == "Ready");
    let key = match ready.map(|ready| ready.status.as_str()) {
        Some("True") => return taints,
        Some("Unknown") => "node.kubernetes.io/unreachable",
        _ => "node.kubernetes.io/not-ready",
    };
    if !taints.iter().any(|taint| taint.key == key) {
        let effect = "NoSchedule".to_owned();
        taints.push(Taint { key: key.to_owned(), effect, ..Taint::default() });
    }
    taints
}

/// The first taint that keeps the pod away.
pub(super) fn untolerated<'a>(taints: &'a [Taint], tolerations: &[Toleration]) -> Option<&'a Taint> {
    taints
        .iter()
        .filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"))
        .find(|taint| !tolerated(taint, tolerations))
}

/// How many taints would rather not have the pod.
pub(super) fn disliked(taints: &[Taint], tolerations: &[Toleration]) -> usize {
    let soft = taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
    soft.filter(|taint| {
        let of_effect =
            |it: &&Toleration| matches!(it.effect.as_deref(), None | Some("" | "PreferNoSchedule"));
        !tolerations.iter().filter(of_effect).any(|toleration| tolerates(toleration, taint))
    })
    .count()
}

/// True if the pod tolerates that the node is cordoned.
pub(super) fn tolerates_cordon(tolerations: &[Toleration]) -> bool {
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    tolerated(&taint, tolerations)
}

fn tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    tolerations.iter().any(|toleration| tolerates(toleration, taint))
}
