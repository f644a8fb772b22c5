//! The ports of the host that lead to services: load balancers, whom they take and where they say they are, the health
//! that they ask for, and the addresses that a node serves.

use std::net::{TcpListener, UdpSocket};

use crate::support::{Cluster, eventually, have_kubectl, http_get};

const WEB: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  containers: [{name: web, image: 'registry.local/web:1', ports: [{containerPort: 8080, name: http}]}]
";

/// A load balancer on that port, of the endpoints of its node.
fn balancer(port: u16) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  selector: {{app: web}}
  ports: [{{port: {port}, targetPort: http}}]
"
    )
}

#[test]
fn a_load_balancer_is_where_its_port_is_and_nowhere_else() {
    if !have_kubectl() {
        return;
    }
    let cluster = Cluster::start();
    cluster.push(&["web"]);
    let k = |args: &str| cluster.kubectl(args);
    let squatter = TcpListener::bind((cluster.host(), 0)).unwrap();
    let port = squatter.local_addr().unwrap().port();
    cluster.kubectl_input("apply -f -", &format!("{WEB}---{}", balancer(port)));
    k("wait --for=condition=Ready pod/web --timeout=60s");
    eventually("the event", || {
        let events = k("get events --field-selector reason=SyncLoadBalancerFailed,involvedObject.name=web");
        let why = format!(
            "Error syncing load balancer: failed to ensure load balancer: cannot open load balancer port TCP {}:{port}: Address already in use",
            cluster.host()
        );
        if events.contains(&why) { Ok(()) } else { Err(events) }
    });
    let ingress = "get service web -o jsonpath={.status.loadBalancer}";
    assert_eq!(k(ingress), "{}");
    assert!(k("get service web").contains("<pending>"));

    drop(squatter);
    k("wait --for=jsonpath={.status.loadBalancer.ingress[0].ip} service/web --timeout=60s");
    assert!(k(ingress).contains(cluster.host()), "{}", k(ingress));
    let balanced = format!("{}:{port}", cluster.host());
    eventually("the balancer", || http_get(&balanced, "/"));

    let asked = k("get service web -o jsonpath={.spec.healthCheckNodePort}");
    let asked = format!("{}:{asked}", cluster.host());
    let health = |status: &str, local: usize| {
        let service = r#""service":{"namespace":"default","name":"web"}"#;
        let expected = format!("{{{service},\"localEndpoints\":{local},\"serviceProxyHealthy\":true}}");
        eventually("the health", || match http_get(&asked, "/healthz")? {
            (head, body) if head.starts_with(&format!("HTTP/1.1 {status} ")) && body == expected => Ok(()),
            answer => Err(format!("{answer:?}")),
        });
    };
    health("200", 1);

    // Whom it takes; the node port takes everybody.
    let node_port = cluster.node_port("web", "");
    for (ranges, admitted) in [("192.0.2.0/24", false), ("192.0.2.0/24\",\"127.0.0.0/8", true)] {
        let patch = format!("{{\"spec\":{{\"loadBalancerSourceRanges\":[\"{ranges}\"]}}}}");
        k(&format!("patch service web --patch '{patch}'"));
        eventually("the ranges to hold", || match http_get(&balanced, "/") {
            answer if answer.is_ok() == admitted => Ok(()),
            answer => Err(format!("{ranges}: {answer:?}")),
        });
        http_get(&node_port, "/").unwrap();
    }

    k("delete pod web --timeout=20s");
    health("503", 0);
    k("delete service web");
    eventually("the port to close", || match http_get(&asked, "/") {
        Err(_) => Ok(()),
        Ok(answer) => Err(format!("{answer:?}")),
    });
}

#[test]
fn a_node_on_all_addresses_is_reached_by_each() {
    if !have_kubectl() {
        return;
    }
    let has_v6 = UdpSocket::bind("[::1]:0").is_ok();
    for (listen, addresses) in
        [("[::]:0", &["127.0.0.1", "127.77.0.1", "[::1]"][..]), ("0.0.0.0:0", &["127.0.0.1", "127.77.0.1"])]
    {
        let cluster = Cluster::start_at(listen);
        cluster.push(&["web"]);
        cluster.kubectl_input("apply -f -", WEB);
        cluster.kubectl("expose pod web --port=80 --target-port=8080 --type=NodePort");
        cluster.kubectl("wait --for=condition=Ready pod/web --timeout=60s");
        let port = cluster.kubectl("get service web -o jsonpath={.spec.ports[0].nodePort}");
        for address in addresses.iter().filter(|address| has_v6 || !address.contains(':')) {
            eventually(address, || http_get(&format!("{address}:{port}"), "/"));
        }
    }
}

/// Two pods, each meant for a zone; the node is first in the one and then in the other.
const ZONES: &str = "
apiVersion: v1
kind: Pod
metadata: {name: a, labels: {app: zones}}
spec:
  containers: [{name: c, image: 'registry.local/handler:1'}]
---
apiVersion: v1
kind: Pod
metadata: {name: b, labels: {app: zones}}
spec:
  containers: [{name: c, image: 'registry.local/handler:1'}]
---
apiVersion: v1
kind: Service
metadata: {name: zones}
spec: {type: NodePort, ports: [{port: 80, targetPort: 8080}]}
";

/// Another node than the one that is there, in another zone, with as much CPU.
const SIMULATED: &str = "
apiVersion: v1
kind: Node
metadata: {name: simulated, labels: {topology.kubernetes.io/zone: b}}
";

#[test]
fn hints_keep_clients_in_the_zone_of_their_node() {
    if !have_kubectl() {
        return;
    }
    let cluster = Cluster::start();
    cluster.push(&["handler"]);
    let k = |args: &str| cluster.kubectl(args);
    cluster.kubectl_input("apply -f -", ZONES);
    k("wait --for=condition=Ready pod/a pod/b --timeout=60s");
    let ip = |pod: &str| k(&format!("get pod {pod} -o jsonpath={{.status.podIP}}"));
    let endpoint = |zone: &str| {
        format!("{{addresses: [{}], zone: {zone}, hints: {{forZones: [{{name: {zone}}}]}}}}", ip(zone))
    };
    let slice = format!(
        "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: zones, labels: {{kubernetes.io/service-name: zones}}}}
addressType: IPv4
ports: [{{name: '', port: 8080, protocol: TCP}}]
endpoints: [{}, {}]
",
        endpoint("a"),
        endpoint("b")
    );
    cluster.kubectl_input("apply -f -", &slice);
    let node_port = cluster.node_port("zones", "");
    for zone in ["a", "b"] {
        k(&format!("label node --all --overwrite topology.kubernetes.io/zone={zone}"));
        eventually("four answers from the zone", || {
            let by = format!("handled by {zone}\n");
            (0..4).try_for_each(|_| match http_get(&node_port, "/")? {
                (_, body) if body.contains(&by) => Ok(()),
                (_, body) => Err(body),
            })
        });
    }

    // The controller's own hints: to each its zone's, or to each zone by its CPU.
    k("label node --all --overwrite topology.kubernetes.io/zone=a");
    let cpu = k("get nodes -o jsonpath={.items[0].status.allocatable.cpu}");
    k("create service clusterip spread --tcp=80:8080");
    k("set selector service spread app=zones");
    let hints = "get endpointslices -l kubernetes.io/service-name=spread -o jsonpath={.items[*].endpoints[*].hints.forZones[*].name}";
    let becomes = |expected: &[&str]| {
        eventually("the hints", || match k(hints) {
            found if expected.contains(&found.as_str()) => Ok(()),
            found => Err(found),
        });
    };
    k("patch service spread --patch '{\"spec\":{\"trafficDistribution\":\"PreferClose\"}}'");
    becomes(&["a a"]);
    cluster.kubectl_input("apply -f -", SIMULATED);
    let status = format!(
        "{{\"status\":{{\"allocatable\":{{\"cpu\":\"{cpu}\"}},\"conditions\":[{{\"type\":\"Ready\",\"status\":\"True\"}}]}}}}"
    );
    k(&format!("patch node simulated --subresource=status --patch '{status}'"));
    k("annotate service spread service.kubernetes.io/topology-mode=Auto");
    becomes(&["a b", "b a"]);
    eventually("the event", || {
        let events =
            k("get events --field-selector reason=TopologyAwareHintsEnabled,involvedObject.name=spread");
        let words = "Topology Aware Hints has been enabled, addressType: IPv4";
        if events.contains(words) { Ok(()) } else { Err(events) }
    });
}
