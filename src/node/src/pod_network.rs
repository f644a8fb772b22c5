//! What a pod's object says of its network: who it is to policies, and which names it may reach.

use coracle_network::{NamedPort, PodConfig, PodStack};
use k8s_openapi::api::core::v1::Pod;

/// The names of the hosts outside the cluster that a pod may reach, between commas.
const EGRESS_HOSTS: &str = "coracle.dev/egress-hosts";

/// The part of a stack's configuration that comes from the pod's object alone.
pub(crate) fn config(pod: &Pod) -> PodConfig {
    PodConfig {
        labels: pod.metadata.labels.clone().unwrap_or_default(),
        ports: NamedPort::of_pod(pod),
        egress_hosts: egress_hosts(pod).map(str::to_owned),
        ..PodConfig::default()
    }
}

/// Tells the stack what may change in a pod that runs.
pub(crate) fn update(stack: &PodStack, pod: &Pod) {
    stack.set_labels(pod.metadata.labels.clone().unwrap_or_default(), egress_hosts(pod));
}

fn egress_hosts(pod: &Pod) -> Option<&str> {
    pod.metadata.annotations.as_ref()?.get(EGRESS_HOSTS).map(String::as_str)
}
