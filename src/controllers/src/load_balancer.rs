//! Says where a service of type LoadBalancer is reached: on the addresses of the nodes that have opened all of its
//! ports (`coracle-network`), which each node tells in an annotation. Services that name a class are somebody else's.
//!
//! A port of a node is one service's: that of a node port, or else the oldest load balancer's. A service that does not
//! get all of its ports is not balanced; the nodes say in an event who has which, and what the kernel refused.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use coracle_client::{
    Delta, Deltas, During, EventType, Informer, Key, ReconcileError, Recorder, WorkQueue, is_not_found,
};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Node, Service, ServicePort};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    context::{self, Context},
    nodes,
};

pub(crate) const NAME: &str = "service-lb-controller";

const WORKERS: usize = 2;

/// Services by the ports of the nodes that they want.
const PORTS: &str = "service-lb/ports";

/// The annotation of a node with the ports on which it serves load balancers, between commas and named as in [`ports`].
const SERVED: &str = "coracle.dev/load-balancer-ports";

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
        controller.services.add_index(PORTS, ports);
        let queue = WorkQueue::new();
        let feed = async {
            let Controller { services, nodes, .. } = &*controller;
            tokio::join!(services.synced(), nodes.synced());
            tokio::join!(
                feed_services(services.subscribe(), services, &queue),
                feed_nodes(nodes.subscribe(), services, &queue),
            );
        };
        let reconcile =
            context::shared(&controller, |controller, key| async move { controller.reconcile(&key).await });
        context.run(NAME, queue.clone(), WORKERS, feed, reconcile).await;
    })
}

async fn feed_services(mut deltas: Deltas<Service>, services: &Informer<Service>, queue: &WorkQueue<Key>) {
    while let Some(delta) = deltas.next().await {
        if wants(delta.object()) || !ingress(delta.object()).is_empty() {
            queue.add(Key::of(&delta.object().metadata));
        }
        let mut ports = ports(delta.object());
        if let Delta::Updated { old, new } = &delta {
            let before = self::ports(old);
            if before == ports && is_balanced(old) == is_balanced(new) {
                continue;
            }
            ports.extend(before);
        }
        // Who may get a port now, or lose it.
        let rivals = ports.iter().flat_map(|port| services.by_index(PORTS, port));
        rivals.filter(|rival| wants(rival)).for_each(|rival| queue.add(Key::of(&rival.metadata)));
    }
}

/// Queues those that are balanced on a port which a node serves now and did not before, or the other way round.
async fn feed_nodes(mut deltas: Deltas<Node>, services: &Informer<Service>, queue: &WorkQueue<Key>) {
    let at = |node: &Node| Some((address(node)?, served(node)));
    while let Some(delta) = deltas.next().await {
        let (old, new) = match &delta {
            Delta::Added(node) => (None, at(node)),
            Delta::Updated { old, new } => (at(old), at(new)),
            Delta::Deleted(node) => (at(node), None),
        };
        let changed: BTreeSet<String> = match (old, new) {
            (Some((before, old)), Some((now, new))) if before == now => &old ^ &new,
            (old, new) => old.into_iter().chain(new).flat_map(|(_, ports)| ports).collect(),
        };
        let concerned = changed.iter().flat_map(|port| services.by_index(PORTS, port));
        concerned.filter(|service| wants(service)).for_each(|service| queue.add(Key::of(&service.metadata)));
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
        let nodes = match is_outdone(&service, |port| self.services.by_index(PORTS, port)) {
            true => BTreeSet::new(),
            false => addresses(&self.nodes.list(), &balanced_ports(&service)),
        };
        let Some(wanted) = plan(&service, &nodes) else { return Ok(None) };
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
    service.metadata.deletion_timestamp.is_none() && is_balanced(service)
}

fn is_balanced(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| {
        spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.is_none()
    })
}

/// The ports of the nodes that a service wants, each with its protocol.
fn ports(service: &Service) -> Vec<String> {
    let mut ports = node_ports(service);
    ports.extend(balanced_ports(service));
    ports
}

fn node_ports(service: &Service) -> Vec<String> {
    named_ports(service, |port| port.node_port.filter(|number| *number != 0))
}

fn balanced_ports(service: &Service) -> Vec<String> {
    if is_balanced(service) { named_ports(service, |port| Some(port.port)) } else { Vec::new() }
}

fn named_ports(service: &Service, number: fn(&ServicePort) -> Option<i32>) -> Vec<String> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let named = |port: &ServicePort| {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        Some(format!("{protocol}/{}", number(port)?))
    };
    ports.filter_map(named).collect()
}

/// Whether another service has one of the ports that this one wants to be balanced on: the rule by which each node
/// gives out its ports. `rivals` are the services that want a port.
fn is_outdone(service: &Service, rivals: impl Fn(&str) -> Vec<Arc<Service>>) -> bool {
    let rank = |service: &Service| {
        let created = service.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (created, Key::of(&service.metadata))
    };
    let own = rank(service);
    balanced_ports(service).iter().any(|port| {
        rivals(port).iter().any(|rival| {
            let other = rank(rival);
            other.1 != own.1
                && (node_ports(rival).contains(port) || balanced_ports(rival).contains(port) && other < own)
        })
    })
}

fn ingress(service: &Service) -> Vec<String> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let entries = status.and_then(|status| status.ingress.as_ref()).into_iter().flatten();
    entries.filter_map(|entry| entry.ip.clone()).collect()
}

/// Where nodes are reached that serve all of these ports.
fn addresses(nodes: &[Arc<Node>], ports: &[String]) -> BTreeSet<IpAddr> {
    let serves = |node: &&Arc<Node>| {
        let served = served(node);
        ports.iter().all(|port| served.contains(port))
    };
    nodes.iter().filter(serves).filter_map(|node| address(node)).collect()
}

/// The ports on which a node serves load balancers.
fn served(node: &Node) -> BTreeSet<String> {
    let text = node.metadata.annotations.as_ref().and_then(|all| all.get(SERVED));
    text.into_iter().flat_map(|text| text.split(',')).map(str::to_owned).collect()
}

/// Where a node is reached, if it is ready for that.
fn address(node: &Node) -> Option<IpAddr> {
    let excluded = node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(EXCLUDED));
    if excluded || !nodes::is_ready(node) || node.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let status = node.status.as_ref()?;
    let by_type = |type_: &str| {
        let mut addresses = status.addresses.iter().flatten().filter(|address| address.type_ == type_);
        addresses.find_map(|address| address.address.parse().ok())
    };
    by_type("ExternalIP").or_else(|| by_type("InternalIP"))
}

#[cfg(test)]
mod tests {
    use coracle_client::test_support::eventually;

    use super::*;
    use crate::{Controller as Registered, testing::Bench};

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

    /// Which of these services get all their ports: `name type port nodePort created`.
    #[track_caller]
    fn balanced(services: &[(&str, &str, i32, i32, &str)], expected: &[&str]) {
        let service = |(name, type_, port, node_port, created): &(&str, &str, i32, i32, &str)| {
            let object = json!({
                "metadata": { "name": name, "namespace": "n", "creationTimestamp": created },
                "spec": { "type": type_, "ports": [{ "port": port, "nodePort": node_port }] },
            });
            Arc::new(serde_json::from_value::<Service>(object).expect("a service"))
        };
        let all: Vec<_> = services.iter().map(service).collect();
        let rivals = |port: &str| {
            let wants = |service: &&Arc<Service>| ports(service).iter().any(|own| own == port);
            all.iter().filter(wants).cloned().collect()
        };
        let served = all.iter().filter(|service| wants(service) && !is_outdone(service, rivals));
        let names: Vec<_> = served.map(|service| service.metadata.name.as_deref().unwrap_or("")).collect();
        assert_eq!(names, expected, "{services:?}");
    }

    #[test]
    fn a_port_has_one_owner() {
        let (early, late) = ("2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z");
        let lb = "LoadBalancer";
        balanced(&[("a", lb, 80, 0, late), ("b", lb, 80, 0, early)], &["b"]);
        balanced(&[("b", lb, 80, 0, early), ("a", lb, 80, 0, early)], &["a"]);
        balanced(&[("a", lb, 80, 0, late), ("b", lb, 81, 0, early)], &["a", "b"]);
        balanced(&[("a", lb, 80, 0, late), ("b", "ClusterIP", 80, 0, early)], &["a"]);
        balanced(&[("a", lb, 30080, 0, early), ("b", "NodePort", 80, 30080, late)], &[]);
        balanced(&[("a", lb, 30080, 30080, early)], &["a"]);
    }

    /// Which ready nodes a service with these ports is reached on: `address ports`.
    #[track_caller]
    fn reached(nodes: &[(&str, Option<&str>)], ports: &[&str], expected: &[&str]) {
        let node = |(ip, served): &(&str, Option<&str>)| Arc::new(node(ip, *served));
        let nodes: Vec<_> = nodes.iter().map(node).collect();
        let ports: Vec<_> = ports.iter().map(|port| (*port).to_owned()).collect();
        let found: Vec<_> = addresses(&nodes, &ports).iter().map(IpAddr::to_string).collect();
        assert_eq!(found, expected, "{nodes:?} {ports:?}");
    }

    fn node(ip: &str, served: Option<&str>) -> Node {
        let object = json!({
            "metadata": { "name": ip, "annotations": served.map(|ports| json!({ SERVED: ports })) },
            "status": {
                "conditions": [{ "type": "Ready", "status": "True" }],
                "addresses": [{ "type": "InternalIP", "address": ip }],
            },
        });
        serde_json::from_value(object).expect("a node")
    }

    #[test]
    fn nodes_that_have_opened_every_port_count() {
        let one = [("192.0.2.1", Some("TCP/80,UDP/53"))];
        reached(&one, &["TCP/80"], &["192.0.2.1"]);
        reached(&one, &["TCP/80", "UDP/53"], &["192.0.2.1"]);
        reached(&one, &["TCP/53"], &[]);
        reached(&one, &["TCP/80", "TCP/81"], &[]);
        reached(&[("192.0.2.1", Some(""))], &["TCP/80"], &[]);
        reached(&[("192.0.2.1", None)], &["TCP/80"], &[]);
        reached(
            &[("192.0.2.1", Some("TCP/81")), ("192.0.2.2", Some("TCP/80,TCP/81"))],
            &["TCP/80"],
            &["192.0.2.2"],
        );
    }

    /// A service is reached from when a node has its port until it has not.
    #[tokio::test(start_paused = true)]
    async fn an_address_comes_and_goes_with_the_port() {
        let bench = Bench::start(&[Registered { name: NAME, run }]);
        bench.api.create(&node("192.0.2.1", Some("TCP/81")));
        let object = json!({
            "metadata": { "name": "web", "namespace": "n" },
            "spec": { "type": "LoadBalancer", "ports": [{ "port": 80 }] },
        });
        bench.api.create(&serde_json::from_value::<Service>(object).expect("a service"));
        let at = || bench.api.get::<Service>("n", "web").map(|service| ingress(&service));
        bench.quiet().await;
        assert_eq!(at(), Some(vec![]), "the port is refused");
        let serve = |ports: &str| {
            let ports = ports.to_owned();
            bench.api.edit("", "192.0.2.1", |node: &mut Node| {
                node.metadata.annotations = Some([(SERVED.to_owned(), ports)].into());
            });
        };
        serve("TCP/80,TCP/81");
        eventually("the address", || at().filter(|at| at == &["192.0.2.1"])).await;
        serve("TCP/81");
        eventually("its end", || at().filter(Vec::is_empty)).await;
    }

    /// The second of two services that want a port is reached once the first has gone.
    #[tokio::test(start_paused = true)]
    async fn a_port_passes_on() {
        let bench = Bench::start(&[Registered { name: NAME, run }]);
        bench.api.create(&node("192.0.2.1", Some("TCP/80")));
        for (name, created) in [("late", "2026-01-01T00:00:01Z"), ("early", "2026-01-01T00:00:00Z")] {
            let object = json!({
                "metadata": { "name": name, "namespace": "n", "creationTimestamp": created },
                "spec": { "type": "LoadBalancer", "ports": [{ "port": 80 }] },
            });
            bench.api.create(&serde_json::from_value::<Service>(object).expect("a service"));
        }
        let reached = |name: &str| bench.api.get::<Service>("n", name).map(|service| ingress(&service));
        let is_at = |name: &str, at: &[&str]| (reached(name)? == at).then_some(());
        bench.quiet().await;
        assert!(is_at("early", &["192.0.2.1"]).is_some() && is_at("late", &[]).is_some());
        bench.api.remove::<Service>("n", "early");
        eventually("the other's turn", || is_at("late", &["192.0.2.1"])).await;
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
