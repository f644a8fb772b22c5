//! Which pods nobody will look after any more.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::core::v1::Pod;

use crate::{disruption_target::Reason, pods};

/// Pods that have ended are kept up to this number. Kubernetes' default.
pub(super) const TERMINATED: usize = 12_500;

const NODE_GONE: Reason = Reason { reason: "DeletionByPodGC", message: "PodGC: node no longer exists" };

/// A pod to be removed, and what is said of it.
#[derive(Debug)]
pub(super) struct Garbage {
    pub(super) pod: Arc<Pod>,
    pub(super) why: Option<Reason>,
}

/// What is to be removed.
///
/// `gone` are nodes that pods name and that are known not to exist, `out_of_service` those whose taint
/// `node.kubernetes.io/out-of-service` says that nothing runs there any more.
pub(super) fn plan(
    pods: &[Arc<Pod>],
    gone: &BTreeSet<String>,
    out_of_service: &BTreeSet<String>,
) -> Vec<Garbage> {
    let mut garbage = Vec::new();
    let mut ended = Vec::new();
    for pod in pods {
        let deleting = pod.metadata.deletion_timestamp.is_some();
        match pods::node_name(pod) {
            Some(node) if gone.contains(node) => {
                let why = (!pods::is_terminal(pod)).then_some(NODE_GONE);
                garbage.push(Garbage { pod: pod.clone(), why });
            }
            Some(node) if deleting && out_of_service.contains(node) => {
                garbage.push(Garbage { pod: pod.clone(), why: None });
            }
            None if deleting => garbage.push(Garbage { pod: pod.clone(), why: None }),
            _ if pods::is_terminal(pod) && !deleting => ended.push(pod),
            _ => {}
        }
    }
    if let Some(surplus) = ended.len().checked_sub(TERMINATED) {
        ended.sort_by_key(|pod| {
            let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (created, pod.metadata.name.clone())
        });
        garbage.extend(ended.into_iter().take(surplus).map(|pod| Garbage { pod: pod.clone(), why: None }));
    }
    garbage
}
