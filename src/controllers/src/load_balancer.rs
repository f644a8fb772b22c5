//! Says where a service of type LoadBalancer is reached: on the addresses of the nodes, each of which opens the
//! service's ports (`coracle-network`). Services that name a class are somebody else's.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use coracle_client::{
    Delta, Deltas, During, EventType, Informer, Key, ReconcileError, Recorder, WorkQueue, is_not_found,
};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Node, Service};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::context::{self, Context};

pub(crate) const NAME: &str = "service-lb-controller";

const WORKERS: usize = 2;

/// Kubernetes' own label for nodes that load balancers leave out.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

pub(crate) fn run(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let controller = Arc::new(Controller {
            client: context.client.clone(),
            recorder: context.recorder("service-controller"),
            services: context.informers.get(),
            nodes: context.informers.get(),
        });
        let queue = WorkQueue::new();
        let feed = async {
            let Controller { services, nodes, .. } = &*controller;
            tokio::join!(services.synced(), nodes.synced());
            tokio::join!(
                feed_services(services.subscribe(), &queue),
                feed_nodes(nodes.subscribe(), services, nodes, &queue),
            );
        };
        let reconcile =
            context::shared(&controller, |controller, key| async move { controller.reconcile(&key).await });
        context.run(NAME, queue.clone(), WORKERS, feed, reconcile).await;
    })
}

async fn feed_services(mut deltas: Deltas<Service>, queue: &WorkQueue<Key>) {
    while let Some(delta) = deltas.next().await {
        if wants(delta.object()) || !ingress(delta.object()).is_empty() {
            queue.add(Key::of(&delta.object().metadata));
        }
    }
}

/// Queues all that are balanced when the addresses of the nodes are others than before.
async fn feed_nodes(
    mut deltas: Deltas<Node>,
    services: &Informer<Service>,
    nodes: &Informer<Node>,
    queue: &WorkQueue<Key>,
) {
    let mut known = None;
    while let Some(delta) = deltas.next().await {
        if let Delta::Updated { old, new } = &delta
            && address(old) == address(new)
        {
            continue;
        }
        let now = Some(addresses(&nodes.list()));
        if std::mem::replace(&mut known, now.clone()) != now {
            services
                .list()
                .iter()
                .filter(|service| wants(service))
                .for_each(|service| queue.add(Key::of(&service.metadata)));
        }
    }
}

struct Controller {
    client: Client,
    recorder: Recorder,
    services: Informer<Service>,
    nodes: Informer<Node>,
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, ReconcileError> {
        let Some(service) = self.services.get(key) else { return Ok(None) };
        let Some(wanted) = plan(&service, &addresses(&self.nodes.list())) else { return Ok(None) };
        let patch = json!({
            "metadata": { "uid": service.metadata.uid },
            "status": { "loadBalancer": { "ingress": wanted } },
        });
        let api: Api<Service> = Api::namespaced(self.client.clone(), &key.namespace);
        match api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(error) if is_not_found(&error) => return Ok(None),
            other => drop(other.during(|| format!("write the load balancer of {key}"))?),
        }
        if !wanted.is_null() && ingress(&service).is_empty() {
            let reference = service.object_ref(&());
            self.recorder.event(
                &reference,
                EventType::Normal,
                "EnsuredLoadBalancer",
                "Ensured load balancer",
            );
        }
        Ok(None)
    }
}

/// What `ingress` should become; `None` if it is right.
fn plan(service: &Service, addresses: &BTreeSet<IpAddr>) -> Option<Value> {
    let has = ingress(service);
    if !wants(service) {
        let ours = service.spec.as_ref().is_none_or(|spec| spec.type_.as_deref() != Some("LoadBalancer"));
        return (ours && !has.is_empty()).then_some(Value::Null);
    }
    let wanted: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    if has == wanted {
        return None;
    }
    // Clients keep their own address on the way to the pod, as with a virtual IP.
    let entries: Vec<Value> = wanted.iter().map(|ip| json!({ "ip": ip, "ipMode": "VIP" })).collect();
    Some(if entries.is_empty() { Value::Null } else { json!(entries) })
}

fn wants(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    service.metadata.deletion_timestamp.is_none()
        && spec.is_some_and(|spec| {
            spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.is_none()
        })
}

fn ingress(service: &Service) -> Vec<String> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let entries = status.and_then(|status| status.ingress.as_ref()).into_iter().flatten();
    entries.filter_map(|entry| entry.ip.clone()).collect()
}

fn addresses(nodes: &[Arc<Node>]) -> BTreeSet<IpAddr> {
    nodes.iter().filter_map(|node| address(node)).collect()
}

/// Where a node is reached, if it is ready for that.
fn address(node: &Node) -> Option<IpAddr> {
    let excluded = node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(EXCLUDED));
    let status = node.status.as_ref()?;
    let conditions = status.conditions.iter().flatten();
    let ready = conditions.filter(|condition| condition.type_ == "Ready").any(|ready| ready.status == "True");
    if excluded || !ready || node.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let by_type = |type_: &str| {
        let mut addresses = status.addresses.iter().flatten().filter(|address| address.type_ == type_);
        addresses.find_map(|address| address.address.parse().ok())
    };
    by_type("ExternalIP").or_else(|| by_type("InternalIP"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(spec: &Value, ingress: &[&str]) -> Service {
        let ingress: Vec<Value> = ingress.iter().map(|ip| json!({ "ip": ip })).collect();
        let object = json!({
            "metadata": { "name": "web", "namespace": "n" },
            "spec": spec,
            "status": { "loadBalancer": { "ingress": ingress } },
        });
        serde_json::from_value(object).expect("a service")
    }

    #[track_caller]
    fn check(spec: &Value, has: &[&str], expected: Option<&Value>) {
        let addresses = ["192.0.2.1", "192.0.2.2"].map(|ip| ip.parse().expect("an address"));
        assert_eq!(plan(&service(spec, has), &addresses.into()).as_ref(), expected, "{spec} {has:?}");
    }

    #[test]
    fn where_services_are_reached() {
        let (first, second) =
            (json!({"ip": "192.0.2.1", "ipMode": "VIP"}), json!({"ip": "192.0.2.2", "ipMode": "VIP"}));
        let balanced = json!({"type": "LoadBalancer"});
        check(&balanced, &[], Some(&json!([first, second])));
        check(&balanced, &["192.0.2.1"], Some(&json!([first, second])));
        check(&balanced, &["192.0.2.1", "192.0.2.2"], None);
        check(&json!({"type": "LoadBalancer", "loadBalancerClass": "x/y"}), &["192.0.2.9"], None);
        check(&json!({"type": "NodePort"}), &[], None);
        check(&json!({"type": "ClusterIP"}), &["192.0.2.1"], Some(&Value::Null));
        assert_eq!(plan(&service(&balanced, &["192.0.2.1"]), &BTreeSet::new()), Some(Value::Null));
        assert_eq!(plan(&service(&balanced, &[]), &BTreeSet::new()), None);
    }

    #[test]
    fn nodes_that_are_ready_count() {
        let node = |ready: &str, labels: Value| -> Node {
            let status = json!({
                "conditions": [{"type": "Ready", "status": ready}],
                "addresses": [
                    {"type": "Hostname", "address": "n1"},
                    {"type": "InternalIP", "address": "192.0.2.1"},
                ],
            });
            let object = json!({"metadata": {"name": "n1", "labels": labels}, "status": status});
            serde_json::from_value(object).expect("a node")
        };
        assert_eq!(address(&node("True", json!({}))), "192.0.2.1".parse().ok());
        assert_eq!(address(&node("False", json!({}))), None);
        assert_eq!(address(&node("True", json!({EXCLUDED: ""}))), None);
        assert_eq!(address(&Node::default()), None);
    }
}
