//! Feeds the fabric with what it goes by as it changes: Services and EndpointSlices, NetworkPolicies, Namespaces
//! and the pods of other nodes that policies select, and the zone that this node is in.

use std::sync::Arc;

use coracle_client::{Delta, Deltas, EventType, Informers, Key};
use coracle_network::{DenyReason, Fabric};
use k8s_openapi::api::{
    core::v1::{Namespace, Node, ObjectReference, Pod, Service},
    discovery::v1::EndpointSlice,
    networking::v1::NetworkPolicy,
};
use kube::Resource;
use tokio::sync::oneshot;

use crate::context::Context;

/// The label of a node that says which zone it is in.
const ZONE: &str = "topology.kubernetes.io/zone";

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
            DenyReason::Forbidden
            | DenyReason::EgressDefault
            | DenyReason::EgressHosts
            | DenyReason::SourceRanges => "NetworkDenied",
        };
        let message = format!("Access to {} denied: {}", denial.destination, denial.reason);
        context.recorder.event(&pod, EventType::Warning, reason, &message);
    }
}

/// What the fabric is told, and which node's.
struct Feed {
    fabric: Arc<Fabric>,
    node: String,
}

/// Tells the fabric everything that it goes by, until the informers end. `first` is told when it knows all that there
/// was at the beginning: no pod may run before its policies hold. `node` is the name of this node, whose pods say
/// themselves who they are.
pub(crate) async fn run(informers: Informers, fabric: Arc<Fabric>, node: String, first: oneshot::Sender<()>) {
    let nodes = informers.get::<Node>();
    let namespaces = informers.get::<Namespace>();
    let policies = informers.get::<NetworkPolicy>();
    let pods = informers.get::<Pod>();
    let services = informers.get::<Service>();
    let slices = informers.get::<EndpointSlice>();
    tokio::join!(
        nodes.synced(),
        namespaces.synced(),
        policies.synced(),
        pods.synced(),
        services.synced(),
        slices.synced(),
    );
    let (mut nodes, mut namespaces, mut policies) =
        (nodes.subscribe(), namespaces.subscribe(), policies.subscribe());
    let (mut pods, mut services, mut slices) = (pods.subscribe(), services.subscribe(), slices.subscribe());
    let feed = Feed { fabric, node };
    all(&mut nodes, |delta| feed.node(delta)).await;
    all(&mut namespaces, |delta| feed.namespace(delta)).await;
    all(&mut policies, |delta| feed.policy(delta)).await;
    all(&mut pods, |delta| feed.pod(delta)).await;
    all(&mut services, |delta| feed.service(delta)).await;
    all(&mut slices, |delta| feed.slice(delta)).await;
    // The node may be about to end.
    let _ = first.send(());
    loop {
        tokio::select! {
            Some(delta) = nodes.next() => feed.node(&delta),
            Some(delta) = namespaces.next() => feed.namespace(&delta),
            Some(delta) = policies.next() => feed.policy(&delta),
            Some(delta) = pods.next() => feed.pod(&delta),
            Some(delta) = services.next() => feed.service(&delta),
            Some(delta) = slices.next() => feed.slice(&delta),
            else => return,
        }
    }
}

/// Tells everything that waits.
async fn all<K>(deltas: &mut Deltas<K>, tell: impl Fn(&Delta<K>)) {
    while let Some(delta) = deltas.try_next() {
        tell(&delta);
        tokio::task::coop::consume_budget().await;
    }
}

impl Feed {
    fn node(&self, delta: &Delta<Node>) {
        let node = delta.object();
        if node.metadata.name.as_ref() == Some(&self.node) {
            let labels = node.metadata.labels.as_ref();
            self.fabric.set_zone(labels.and_then(|labels| labels.get(ZONE)).map(String::as_str));
        }
    }

    fn namespace(&self, delta: &Delta<Namespace>) {
        let fabric = &self.fabric;
        tell(delta, |new| fabric.apply_namespace(new), |_, name| fabric.remove_namespace(name));
    }

    fn policy(&self, delta: &Delta<NetworkPolicy>) {
        let fabric = &self.fabric;
        tell(delta, |new| fabric.apply_policy(new), |of, name| fabric.remove_policy(of, name));
    }

    fn pod(&self, delta: &Delta<Pod>) {
        let bound = delta.object().spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        if bound.is_some_and(|name| name != self.node) {
            let fabric = &self.fabric;
            tell(delta, |new| fabric.apply_remote_pod(new), |of, name| fabric.remove_remote_pod(of, name));
        }
    }

    fn service(&self, delta: &Delta<Service>) {
        let fabric = &self.fabric;
        tell(delta, |new| fabric.apply_service(new), |of, name| fabric.remove_service(of, name));
    }

    fn slice(&self, delta: &Delta<EndpointSlice>) {
        let fabric = &self.fabric;
        tell(delta, |new| fabric.apply_slice(new), |of, name| fabric.remove_slice(of, name));
    }
}

/// Passes on what there is now, or the namespace and the name of what is gone.
fn tell<K: Resource>(delta: &Delta<K>, apply: impl FnOnce(&K), remove: impl FnOnce(&str, &str)) {
    match delta {
        Delta::Added(object) | Delta::Updated { new: object, .. } => apply(object),
        Delta::Deleted(object) => {
            let key = Key::of(object.meta());
            remove(&key.namespace, &key.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use coracle_client::test_support::FakeApi;
    use coracle_network::{PodConfig, PodStack};
    use serde_json::{Value, json};
    use tokio_util::sync::CancellationToken;

    use super::*;

    fn object<K: serde::de::DeserializeOwned>(value: Value) -> K {
        serde_json::from_value(value).unwrap()
    }

    fn deny() -> NetworkPolicy {
        object(json!({"metadata": {"name": "deny", "namespace": "ns"}, "spec": {"podSelector": {}}}))
    }

    fn web() -> Service {
        object(json!({
            "metadata": {"name": "web", "namespace": "ns"},
            "spec": {"clusterIP": "10.96.0.50", "ports": [{"port": 80}]},
        }))
    }

    async fn reaches(from: &PodStack, to: &PodStack) -> bool {
        from.connect((to.ip(), 80).into()).await.is_ok()
    }

    /// The fabric, fed from an API that has these, when all of it is told.
    async fn fed(api: &FakeApi) -> (Arc<Fabric>, CancellationToken) {
        let stop = CancellationToken::new();
        let informers = Informers::new(api.client(), stop.clone());
        let fabric = Fabric::build(coracle_network::Config::default());
        let (tell, first) = oneshot::channel();
        tokio::spawn(run(informers, fabric.clone(), "n".to_owned(), tell));
        first.await.unwrap();
        (fabric, stop)
    }

    #[tokio::test]
    async fn what_was_there_holds_before_the_first_pod_and_no_longer_than_it_is() {
        let api = FakeApi::new();
        api.create(&deny());
        api.create(&web());
        let (fabric, stop) = fed(&api).await;
        let pod = |name: &str| {
            let config = PodConfig { namespace: "ns".into(), name: name.into(), ..PodConfig::default() };
            fabric.add_pod(config).unwrap()
        };
        let (client, server) = (pod("client"), pod("server"));
        let listener = server.listen((std::net::Ipv4Addr::UNSPECIFIED, 80).into(), 8).unwrap();
        assert!(!reaches(&client, &server).await, "the policy holds from the first moment");
        assert!(client.resolve("web").await.is_ok());
        api.remove::<NetworkPolicy>("ns", "deny");
        api.remove::<Service>("ns", "web");
        while !reaches(&client, &server).await {
            tokio::task::yield_now().await;
        }
        while client.resolve("web").await.is_ok() {
            tokio::task::yield_now().await;
        }
        drop(listener);
        stop.cancel();
    }
}
