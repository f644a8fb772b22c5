//! Which backend a connection gets: traffic policies, outside addresses, and what always holds of the choice.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use coracle_network::{Config, Fabric, NetworkError, PodStack};
use proptest::prelude::{Just, ProptestConfig, prop_oneof, proptest};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use crate::support::{any, at, config, greeter, greeting, pod, service, slice_of, soon};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 50);
const EXTERNAL: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 50);
const BALANCED: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 60);

fn fabric() -> Arc<Fabric> {
    Fabric::build(Config { node_name: "here".to_owned(), ..config() })
}

/// Pods behind a service, on a node each.
fn backends(fabric: &Arc<Fabric>, nodes: &[(&'static str, Value)]) -> Vec<PodStack> {
    let mut endpoints = Vec::new();
    let mut pods = Vec::new();
    for (node, conditions) in nodes {
        let stack = pod(fabric, node);
        greeter(&stack, 8080, node);
        endpoints.push(json!({"addresses": [stack.ip()], "nodeName": node, "conditions": conditions}));
        pods.push(stack);
    }
    fabric.apply_slice(&slice_of("web", json!([{"name": "", "port": 8080}]), json!(endpoints)));
    pods
}

fn web(fabric: &Arc<Fabric>, internal: &str, external: &str, node_port: u16) {
    let spec = json!({
        "type": "LoadBalancer", "clusterIP": VIP, "externalIPs": [EXTERNAL, "nonsense"], "loadBalancerClass": "other",
        "ports": [{"port": 80, "nodePort": node_port}],
        "internalTrafficPolicy": internal, "externalTrafficPolicy": external,
    });
    let mut object = service("web", spec);
    let status =
        json!({"loadBalancer": {"ingress": [{"ip": BALANCED}, {"ip": "198.51.100.61", "ipMode": "Proxy"}]}});
    object.status = serde_json::from_value(status).expect("a status");
    fabric.apply_service(&object);
}

async fn ask(client: &PodStack, ip: Ipv4Addr) -> Result<String, NetworkError> {
    Ok(greeting(client.connect(at(ip, 80)).await?).await)
}

#[tokio::test]
async fn local_policies_keep_connections_on_the_node() {
    let fabric = fabric();
    let client = pod(&fabric, "client");
    let (ready, gone) = (json!({}), json!({"ready": false}));
    let ending = json!({"ready": false, "serving": true, "terminating": true});
    let pods = backends(&fabric, &[("there", ready.clone()), ("here", ready.clone())]);
    web(&fabric, "Local", "Cluster", 0);
    for _ in 0..3 {
        assert_eq!(ask(&client, VIP).await, Ok("here".to_owned()));
    }
    web(&fabric, "Cluster", "Local", 0);
    let mut heard = BTreeMap::new();
    for address in [VIP, EXTERNAL, BALANCED] {
        for _ in 0..4 {
            *heard.entry(ask(&client, address).await.expect("ready")).or_insert(0) += 1;
        }
    }
    let both = BTreeMap::from([("here".to_owned(), 6), ("there".to_owned(), 6)]);
    assert_eq!(heard, both, "who is inside the cluster takes the short way");

    web(&fabric, "Local", "Cluster", 0);
    backends(&fabric, &[("there", ready.clone()), ("here", ending)]);
    assert_eq!(ask(&client, VIP).await, Ok("here".to_owned()), "it still serves, and no other is local");
    backends(&fabric, &[("there", ready), ("here", gone)]);
    assert_eq!(ask(&client, VIP).await, Err(NetworkError::Refused(at(VIP, 80))), "nobody local");
    assert_eq!(ask(&client, EXTERNAL).await, Ok("there".to_owned()));
    drop(pods);
    fabric.remove_service("default", "web");
    assert!(ask(&client, VIP).await.is_err());
}

#[tokio::test]
async fn clients_on_the_host_are_no_strangers() {
    let fabric = fabric();
    backends(&fabric, &[("there", json!({}))]);
    let port =
        TcpListener::bind("127.0.0.1:0").await.and_then(|free| free.local_addr()).expect("a port").port();
    web(&fabric, "Cluster", "Local", port);
    let heard = soon("the port to open", async {
        loop {
            if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await {
                let mut text = String::new();
                stream.read_to_string(&mut text).await.expect("an orderly end");
                return text;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(heard, "there", "as kube-proxy treats what comes from the node itself");
    soon("shutdown", fabric.shutdown()).await;
}

#[tokio::test]
async fn the_api_server_needs_no_endpoint() {
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = server.local_addr().expect("bound");
    let fabric = Fabric::build(Config { api_server: Some(address), ..config() });
    let client = pod(&fabric, "client");
    let spec = json!({"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443}]});
    fabric.apply_service(&service("kubernetes", spec.clone()));
    fabric.apply_service(&service("other", json!({"clusterIP": "10.96.0.2", "ports": [{"port": 443}]})));
    let found = client.resolve("kubernetes.default.svc").await.expect("a service");
    assert_eq!(found, [IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1))]);
    let (dialled, accepted) =
        tokio::join!(client.connect(at(found[0], 443)), soon("a client", server.accept()));
    dialled.expect("the API server");
    accepted.expect("a client");
    let other = at(Ipv4Addr::new(10, 96, 0, 2), 443);
    assert_eq!(client.connect(other).await.err(), Some(NetworkError::Refused(other)), "only that one");
    assert!(client.connect(address).await.is_err(), "never by its own address");
    // Real endpoints come first.
    let own = pod(&fabric, "own");
    greeter(&own, 6443, "own");
    let endpoints = json!([{"addresses": [own.ip()]}]);
    fabric.apply_slice(&slice_of("kubernetes", json!([{"name": "https", "port": 6443}]), endpoints));
    assert_eq!(greeting(client.connect(at(found[0], 443)).await.expect("ready")).await, "own");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Over as many rounds as there are backends, each that may be used gets as many connections as any other, and
    /// nobody else gets one; with affinity, all go to one of them.
    #[test]
    fn the_choice_is_fair_and_never_wrong(
        states in proptest::collection::vec(
            (prop_oneof![Just("here"), Just("there")], prop_oneof![Just("ready"), Just("ending"), Just("gone")]), 0..6),
        local in proptest::bool::ANY,
        affine in proptest::bool::ANY,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let fabric = fabric();
            let client = pod(&fabric, "client");
            let mut stacks = Vec::new();
            let mut endpoints = Vec::new();
            for (node, state) in &states {
                let stack = pod(&fabric, "backend");
                let conditions = match *state {
                    "ready" => json!({"ready": true}),
                    "ending" => json!({"ready": false, "serving": true, "terminating": true}),
                    _ => json!({"ready": false, "serving": false}),
                };
                endpoints.push(json!({"addresses": [stack.ip()], "nodeName": node, "conditions": conditions}));
                stacks.push((stack.listen(any(8080), 64).expect("free"), *node, *state, stack));
            }
            fabric.apply_slice(&slice_of("web", json!([{"name": "", "port": 8080}]), json!(endpoints)));
            fabric.apply_service(&service("web", json!({
                "clusterIP": VIP, "ports": [{"port": 80}],
                "internalTrafficPolicy": if local { "Local" } else { "Cluster" },
                "sessionAffinity": if affine { "ClientIP" } else { "None" },
            })));
            let meant: Vec<usize> = (0..stacks.len()).filter(|at| !local || stacks[*at].1 == "here").collect();
            let with = |state: &str| meant.iter().copied().filter(|at| stacks[*at].2 == state).collect::<Vec<_>>();
            let usable = if with("ready").is_empty() { with("ending") } else { with("ready") };
            let rounds = 3;
            for _ in 0..usable.len() * rounds {
                client.connect(at(VIP, 80)).await.expect("somebody is usable");
            }
            if usable.is_empty() {
                assert_eq!(client.connect(at(VIP, 80)).await.err(), Some(NetworkError::Refused(at(VIP, 80))));
            }
            let mut counts: Vec<usize> = Vec::new();
            for (index, (listener, ..)) in stacks.iter().enumerate() {
                let count = std::iter::from_fn(|| listener.try_accept().ok()).count();
                assert!(count == 0 || usable.contains(&index), "{states:?}");
                if usable.contains(&index) {
                    counts.push(count);
                }
            }
            counts.sort_unstable();
            if affine {
                assert_eq!(counts.iter().filter(|count| **count > 0).count(), usable.len().min(1));
            } else {
                assert!(counts.iter().all(|count| *count == rounds), "{counts:?}");
            }
        });
    }
}
