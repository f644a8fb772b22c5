//! Feeds the fabric with what it goes by as it changes: Services and EndpointSlices, NetworkPolicies, Namespaces
//! and the pods of other nodes that policies select.

use std::sync::Arc;

use coracle_client::{Delta, EventType, Informers, Key};
use coracle_network::{DenyReason, Fabric};
use k8s_openapi::api::{
    core::v1::{Namespace, ObjectReference, Pod, Service},
    discovery::v1::EndpointSlice,
    networking::v1::NetworkPolicy,
};

use crate::context::Context;

/// Makes events of what pods were refused. The fabric tells only so many of one pod.
pub(crate) async fn tell_denials(context: Arc<Context>) {
    let Some(fabric) = context.fabric.get() else { return };
    loop {
        let denial = fabric.denial().await;
        let pod = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            namespace: Some(denial.namespace),
            name: Some(denial.pod),
            uid: Some(denial.uid),
            ..ObjectReference::default()
        };
        let reason = match denial.reason {
            DenyReason::Egress | DenyReason::Ingress => "NetworkPolicyDenied",
            DenyReason::Forbidden | DenyReason::EgressDefault | DenyReason::EgressHosts => "NetworkDenied",
        };
        let message = format!("Access to {} denied: {}", denial.destination, denial.reason);
        context.recorder.event(&pod, EventType::Warning, reason, &message);
    }
}

/// Waits for the policies and namespaces that are there already: no pod may run before they hold.
pub(crate) async fn prime(informers: &Informers, fabric: &Fabric) {
    let (policies, namespaces) = (informers.get::<NetworkPolicy>(), informers.get::<Namespace>());
    tokio::join!(policies.synced(), namespaces.synced());
    namespaces.list().iter().for_each(|namespace| fabric.apply_namespace(namespace));
    policies.list().iter().for_each(|policy| fabric.apply_policy(policy));
}

/// Until the informers end. `node` is the name of this node, whose pods say themselves who they are.
pub(crate) async fn run(informers: Informers, fabric: Arc<Fabric>, node: String) {
    let mut services = informers.get::<Service>().subscribe();
    let mut slices = informers.get::<EndpointSlice>().subscribe();
    let mut policies = informers.get::<NetworkPolicy>().subscribe();
    let mut namespaces = informers.get::<Namespace>().subscribe();
    let mut pods = informers.get::<Pod>().subscribe();
    loop {
        tokio::select! {
            delta = services.next() => match delta {
                None => return,
                Some(Delta::Added(service) | Delta::Updated { new: service, .. }) => fabric.apply_service(&service),
                Some(Delta::Deleted(service)) => {
                    let key = Key::of(&service.metadata);
                    fabric.remove_service(&key.namespace, &key.name);
                }
            },
            delta = slices.next() => match delta {
                None => return,
                Some(Delta::Added(slice) | Delta::Updated { new: slice, .. }) => fabric.apply_slice(&slice),
                Some(Delta::Deleted(slice)) => {
                    let key = Key::of(&slice.metadata);
                    fabric.remove_slice(&key.namespace, &key.name);
                }
            },
            delta = policies.next() => match delta {
                None => return,
                Some(Delta::Added(policy) | Delta::Updated { new: policy, .. }) => fabric.apply_policy(&policy),
                Some(Delta::Deleted(policy)) => {
                    let key = Key::of(&policy.metadata);
                    fabric.remove_policy(&key.namespace, &key.name);
                }
            },
            delta = namespaces.next() => match delta {
                None => return,
                Some(Delta::Added(namespace) | Delta::Updated { new: namespace, .. }) => {
                    fabric.apply_namespace(&namespace);
                }
                Some(Delta::Deleted(namespace)) => fabric.remove_namespace(&Key::of(&namespace.metadata).name),
            },
            delta = pods.next() => match delta {
                None => return,
                Some(Delta::Added(pod) | Delta::Updated { new: pod, .. }) => {
                    if is_remote(&pod, &node) {
                        fabric.apply_remote_pod(&pod);
                    }
                }
                Some(Delta::Deleted(pod)) => {
                    if is_remote(&pod, &node) {
                        let key = Key::of(&pod.metadata);
                        fabric.remove_remote_pod(&key.namespace, &key.name);
                    }
                }
            },
        }
    }
}

fn is_remote(pod: &Pod, node: &str) -> bool {
    let bound = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    bound.is_some_and(|name| name != node)
}
