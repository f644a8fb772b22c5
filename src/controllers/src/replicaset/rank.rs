//! Which pods go first when there are too many.
//!
//! Kubernetes' order: not assigned before assigned; pending, unknown, running; not ready before ready;
//! lower deletion cost first; nodes with more of the pods first; ready for a shorter time first; more
//! restarts first; younger first. Times are compared by their logarithm, so that among pods of about the
//! same age the uid decides and no node is favoured. Kubernetes looks at the uid right after each time,
//! which is no order if times are equal; here it comes last.

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::pods;

const COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The first `count` of the `owned` pods to go. `related` are the pods that crowd a node, usually more than
/// the owned ones.
pub(crate) fn first_to_go(
    owned: &[Arc<Pod>],
    related: &[Arc<Pod>],
    count: usize,
    now: Timestamp,
) -> Vec<Arc<Pod>> {
    let mut per_node: HashMap<&str, usize> = HashMap::new();
    for pod in related.iter().filter(|pod| pods::is_active(pod)) {
        *per_node.entry(pods::node_name(pod).unwrap_or_default()).or_default() += 1;
    }
    let mut pods: Vec<_> = owned.to_vec();
    pods.sort_by_cached_key(|pod| rank(pod, &per_node, now));
    pods.truncate(count);
    pods
}

fn rank(pod: &Pod, per_node: &HashMap<&str, usize>, now: Timestamp) -> impl Ord + use<> {
    let node = pods::node_name(pod);
    let phase = match pods::phase(pod) {
        "Unknown" => 1,
        "Running" => 2,
        _ => 0,
    };
    let annotations = pod.metadata.annotations.as_ref();
    let cost: i32 = annotations.and_then(|all| all.get(COST)).and_then(|cost| cost.parse().ok()).unwrap_or(0);
    let together = per_node.get(node.unwrap_or_default()).copied().unwrap_or(0);
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    (
        (node.is_some(), phase, pods::is_ready(pod), cost),
        Reverse(together),
        age(pods::ready_since(pod), now),
        Reverse(restarts(pod)),
        age(created, now),
        pods::uid(&pod.metadata).to_owned(),
    )
}

/// The most restarts of any container.
fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|status| status.restart_count).max().unwrap_or(0)
}

/// The logarithm of an age; none is the youngest.
fn age(since: Option<Timestamp>, now: Timestamp) -> i64 {
    let Some(since) = since else { return -2 };
    let nanoseconds = now.duration_since(since).as_nanos();
    u128::try_from(nanoseconds).ok().filter(|age| *age > 0).map_or(-1, |age| i64::from(age.ilog2()))
}
