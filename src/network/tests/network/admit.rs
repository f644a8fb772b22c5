//! NetworkPolicies, the egress default and `coracle.dev/egress-hosts`, as guests meet them.

#![expect(clippy::needless_pass_by_value, reason = "callers write `json!` in place")]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coracle_network::{Config, DenyReason, Egress, Fabric, NamedPort, NetworkError, PodConfig, PodStack};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::{any, at, config, fabric, greeter, greeting, plain_service, slice, soon};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 50);

/// A pod of a namespace that says its name on 8080 (`http`), with `app` for a label.
fn pod(fabric: &Arc<Fabric>, namespace: &str, app: &'static str) -> PodStack {
    let config = PodConfig {
        namespace: namespace.to_owned(),
        name: app.to_owned(),
        labels: [("app".to_owned(), app.to_owned())].into(),
        ports: NamedPort::new("http", "TCP", 8080).into_iter().collect(),
        ..PodConfig::default()
    };
    let stack = fabric.add_pod(config).expect("an address is free");
    greeter(&stack, 8080, app);
    stack
}

fn policy(namespace: &str, name: &str, spec: Value) -> NetworkPolicy {
    let object = json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec});
    serde_json::from_value(object).expect("a policy")
}

fn namespace(name: &str, team: &str) -> Namespace {
    let object = json!({"metadata": {"name": name, "labels": {"team": team}}});
    serde_json::from_value(object).expect("a namespace")
}

async fn reaches(from: &PodStack, to: &PodStack) -> bool {
    dial(from, to.ip(), 8080).await.is_ok()
}

async fn dial(from: &PodStack, ip: Ipv4Addr, port: u16) -> Result<String, NetworkError> {
    match from.connect(at(ip, port)).await {
        Ok(stream) => Ok(greeting(stream).await),
        Err(error) => Err(error),
    }
}

#[tokio::test]
async fn default_deny_and_what_opens_it() {
    let fabric = fabric();
    let (web, client, other) =
        (pod(&fabric, "a", "web"), pod(&fabric, "a", "client"), pod(&fabric, "b", "client"));
    fabric.apply_namespace(&namespace("a", "one"));
    fabric.apply_namespace(&namespace("b", "two"));
    assert!(reaches(&client, &web).await && reaches(&other, &web).await, "without a policy all is allowed");

    fabric.apply_policy(&policy("a", "deny", json!({"podSelector": {}})));
    let denied = Err(NetworkError::Denied(at(web.ip(), 8080)));
    assert_eq!(dial(&client, web.ip(), 8080).await, denied);
    assert_eq!(dial(&other, web.ip(), 8080).await, denied);
    assert!(
        reaches(&client, &other).await,
        "egress of the selected pods is free, and so is the other namespace"
    );
    assert!(reaches(&web, &web).await, "a pod reaches itself");
    assert_eq!(greeting(web.connect(at(Ipv4Addr::LOCALHOST, 8080)).await.expect("itself")).await, "web");
    assert_eq!(greeting(fabric.connect(at(web.ip(), 8080)).await.expect("the node's probes")).await, "web");

    let from = |peer: Value| {
        let rules = json!([{"from": [peer], "ports": [{"port": "http"}]}]);
        fabric.apply_policy(&policy(
            "a",
            "allow",
            json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": rules}),
        ));
    };
    from(json!({"podSelector": {"matchLabels": {"app": "client"}}}));
    assert!(reaches(&client, &web).await && !reaches(&other, &web).await);
    assert!(!reaches(&web, &client).await, "the other way is still shut");
    from(json!({"namespaceSelector": {"matchLabels": {"team": "two"}}}));
    assert!(!reaches(&client, &web).await && reaches(&other, &web).await);
    fabric.apply_namespace(&namespace("b", "three"));
    assert!(!reaches(&other, &web).await, "another label of the namespace counts at once");
    from(json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "b"}}}));
    assert!(reaches(&other, &web).await, "every namespace has its name for a label");
    from(json!({"ipBlock": {"cidr": format!("{}/32", other.ip())}}));
    assert!(!reaches(&client, &web).await && reaches(&other, &web).await);

    // Labels of pods count at once, on both sides.
    from(json!({"podSelector": {"matchLabels": {"role": "friend"}}}));
    assert!(!reaches(&client, &web).await);
    client.set_labels([("role".to_owned(), "friend".to_owned())].into(), None);
    assert!(reaches(&client, &web).await);
    web.set_labels([("app".to_owned(), "db".to_owned())].into(), None);
    assert!(!reaches(&client, &web).await, "the policy that allows is about other pods now");

    fabric.remove_policy("a", "deny");
    fabric.remove_policy("a", "allow");
    assert!(reaches(&client, &web).await && reaches(&other, &web).await);
}

#[tokio::test]
async fn egress_is_judged_by_the_backend_of_a_service() {
    let fabric = fabric();
    let (web, api, client) =
        (pod(&fabric, "default", "web"), pod(&fabric, "default", "api"), pod(&fabric, "default", "client"));
    fabric.apply_service(&plain_service("web", "10.96.0.50"));
    fabric.apply_slice(&slice("web", 8080, &[web.ip(), api.ip()]));
    let egress =
        json!([{"to": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": 8080}]}]);
    let about = json!({"matchLabels": {"app": "client"}});
    fabric.apply_policy(&policy(
        "default",
        "p",
        json!({"podSelector": about, "policyTypes": ["Egress"], "egress": egress}),
    ));
    for _ in 0..4 {
        assert_eq!(dial(&client, VIP, 80).await, Ok("web".to_owned()), "a backend that is allowed is found");
    }
    assert_eq!(client.usage().denied, 0, "passing one by is no denial");
    fabric.apply_slice(&slice("web", 8080, &[api.ip()]));
    assert_eq!(dial(&client, VIP, 80).await, Err(NetworkError::Denied(at(api.ip(), 8080))));
    assert_eq!(client.usage().denied, 1);
    assert!(client.denials().contains(&(DenyReason::Egress, 1)));
    let denial = soon("a denial", fabric.denial()).await;
    assert_eq!((denial.pod.as_str(), denial.destination), ("client", format!("{}:8080", api.ip())));
    assert_eq!(dial(&api, VIP, 80).await, Ok("api".to_owned()), "nobody else is affected");
}

#[tokio::test(start_paused = true)]
async fn the_answer_to_a_datagram_that_was_let_through_is_too() {
    let fabric = fabric();
    let (server, client) = (pod(&fabric, "a", "server"), pod(&fabric, "a", "client"));
    let ingress = json!([{"from": [{"podSelector": {}}], "ports": [{"port": 53, "protocol": "UDP"}]}]);
    let about = json!({"matchLabels": {"app": "server"}});
    let spec = json!({"podSelector": about, "policyTypes": ["Ingress", "Egress"], "ingress": ingress});
    fabric.apply_policy(&policy("a", "server", spec));
    fabric.apply_policy(&policy("a", "deny", json!({"podSelector": {}})));
    let (ours, theirs) =
        (server.bind_udp(any(53)).expect("free"), client.bind_udp(at(client.ip(), 4000)).expect("free"));
    let to_client = Some(at(client.ip(), 4000));
    let text = || Bytes::from_static(b"x");
    let denied = Err(NetworkError::Denied(at(client.ip(), 4000)));
    assert_eq!(ours.send(text(), to_client), denied, "nobody asked");
    theirs.send(text(), Some(at(server.ip(), 53))).expect("allowed");
    assert_eq!(soon("the question", ours.recv()).await.expect("open").1, at(client.ip(), 4000));
    ours.send(text(), to_client).expect("an answer");
    assert_eq!(soon("the answer", theirs.recv()).await.expect("open").1, at(server.ip(), 53));
    let elsewhere = theirs.send(text(), Some(at(server.ip(), 54)));
    assert_eq!(elsewhere, Err(NetworkError::Denied(at(server.ip(), 54))));
    tokio::time::advance(Duration::from_secs(31)).await;
    assert_eq!(ours.send(text(), to_client), denied, "too late");
}

/// Who is asked once and goes on telling is not cut off, and may still not be told by others.
#[tokio::test(start_paused = true)]
async fn answers_go_on_for_as_long_as_they_come() {
    let fabric = fabric();
    let (server, client) = (pod(&fabric, "a", "server"), pod(&fabric, "a", "client"));
    let spec = json!({"podSelector": {"matchLabels": {"app": "client"}}, "policyTypes": ["Ingress"]});
    fabric.apply_policy(&policy("a", "deny", spec));
    let (ours, theirs) =
        (server.bind_udp(any(53)).expect("free"), client.bind_udp(at(client.ip(), 4000)).expect("free"));
    theirs.send(Bytes::from_static(b"?"), Some(at(server.ip(), 53))).expect("allowed");
    for _ in 0..10 {
        tokio::time::advance(Duration::from_secs(20)).await;
        ours.send(Bytes::from_static(b"!"), Some(at(client.ip(), 4000))).expect("an answer");
        assert_eq!(theirs.try_recv().expect("received").1, at(server.ip(), 53));
    }
    let other = server.bind_udp(any(54)).expect("free");
    let unasked = other.send(Bytes::from_static(b"!"), Some(at(client.ip(), 4000)));
    assert_eq!(unasked, Err(NetworkError::Denied(at(client.ip(), 4000))));
    tokio::time::advance(Duration::from_secs(31)).await;
    let late = ours.send(Bytes::from_static(b"!"), Some(at(client.ip(), 4000)));
    assert_eq!(late, Err(NetworkError::Denied(at(client.ip(), 4000))));
}

/// A kernel listener on an address that is not this host's cannot be had, so "allowed" here is that the dial got
/// as far as the kernel.
async fn leaves(from: &PodStack, ip: &str) -> bool {
    let to = at(ip.parse::<IpAddr>().expect("an address"), 443);
    let dialled = tokio::time::timeout(Duration::from_millis(50), from.connect(to)).await;
    !matches!(dialled, Ok(Err(NetworkError::Denied(_))))
}

#[tokio::test]
async fn blocks_of_addresses_outside() {
    let fabric = fabric();
    let client = pod(&fabric, "a", "client");
    let egress = |rules: Value| {
        let spec = json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": rules});
        fabric.apply_policy(&policy("a", "p", spec));
    };
    egress(json!([]));
    assert!(!leaves(&client, "203.0.113.1").await);
    egress(json!([{"to": [{"ipBlock": {"cidr": "203.0.113.0/24", "except": ["203.0.113.128/25"]}}]}]));
    assert!(leaves(&client, "203.0.113.1").await);
    assert!(!leaves(&client, "203.0.113.200").await && !leaves(&client, "198.51.100.1").await);
    egress(json!([{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [{"port": 80}]}]));
    assert!(!leaves(&client, "203.0.113.1").await, "another port");
    egress(json!([{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]));
    let metadata = client.connect(at(Ipv4Addr::new(169, 254, 169, 254), 80)).await.err();
    assert!(matches!(metadata, Some(NetworkError::Denied(_))), "no policy opens what is forbidden");
    assert!(client.denials().contains(&(DenyReason::Forbidden, 1)));
}

#[tokio::test]
async fn a_node_that_denies_by_default_keeps_the_cluster_open() {
    let outside = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = outside.local_addr().expect("bound");
    let IpAddr::V4(ip) = address.ip() else { panic!("bound to IPv4") };
    let fabric = Fabric::build(Config { egress: Egress::Deny, host_endpoints: vec![address], ..config() });
    let (web, client) = (pod(&fabric, "default", "web"), pod(&fabric, "default", "client"));
    assert!(reaches(&client, &web).await);
    fabric.apply_service(&plain_service("kubernetes", "10.96.0.1"));
    fabric.apply_slice(&slice("kubernetes", address.port(), &[ip]));
    client.connect(at(Ipv4Addr::new(10, 96, 0, 1), 80)).await.expect("the API server is of the cluster");
    assert!(!leaves(&client, "203.0.113.1").await);
    assert!(client.denials().contains(&(DenyReason::EgressDefault, 1)));
    let error = client.resolve("example.org").await.expect_err("no use for a name outside");
    assert!(matches!(error, coracle_network::ResolveError::Denied(_)), "{error}");

    let egress = json!([{"to": [{"ipBlock": {"cidr": "203.0.113.0/24"}}]}, {"ports": [{"port": 9}]}]);
    let spec = json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": egress});
    fabric.apply_policy(&policy("default", "p", spec));
    assert!(leaves(&client, "203.0.113.1").await && !leaves(&client, "198.51.100.1").await);
    let nine = client.connect(at(Ipv4Addr::new(198, 51, 100, 1), 9)).await.err();
    assert!(matches!(nine, Some(NetworkError::Denied(_))), "a rule without peers leaves it to the default");
}
