//! Cluster IPs, their backends, and NodePorts.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use coracle_network::{Config, Fabric, HostPort, NetworkError, PodStack, Protocol};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{
    NODE, any, at, config, eventually, fabric, greeter, greeting, plain_service, pod, service, slice,
    slice_of, soon,
};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 50);

/// Three pods that say their names on 8080, behind a service.
fn three(fabric: &Arc<Fabric>) -> Vec<PodStack> {
    let pods: Vec<_> = ["a", "b", "c"]
        .map(|name| {
            let stack = pod(fabric, name);
            greeter(&stack, 8080, name);
            stack
        })
        .into();
    let addresses: Vec<_> = pods.iter().map(PodStack::ip).collect();
    fabric.apply_slice(&slice("web", 8080, &addresses));
    pods
}

async fn ask(client: &PodStack, times: usize) -> String {
    let mut heard = String::new();
    for _ in 0..times {
        heard += &greeting(client.connect(at(VIP, 80)).await.expect("a backend is ready")).await;
    }
    heard
}

#[tokio::test]
async fn backends_take_turns() {
    let fabric = fabric();
    let pods = three(&fabric);
    fabric.apply_service(&plain_service("web", "10.96.0.50"));
    let client = pod(&fabric, "client");
    assert_eq!(ask(&client, 6).await, "abcabc", "slices may come before the service");
    fabric.apply_service(&plain_service("web", "10.96.0.50"));
    assert_eq!(ask(&client, 1).await, "a", "an update does not disturb the turn");
    fabric.apply_slice(&slice("web", 8080, &[pods[1].ip()]));
    assert_eq!(ask(&client, 3).await, "bbb");
    let via_node = fabric.connect(at(VIP, 80)).await.expect("a backend is ready");
    assert_eq!(greeting(via_node).await, "b");
}

#[tokio::test]
async fn without_ready_backends_it_is_refused() {
    let fabric = fabric();
    let client = pod(&fabric, "client");
    let refused = Some(NetworkError::Refused(at(VIP, 80)));
    assert_eq!(client.connect(at(VIP, 80)).await.err(), refused, "no such service");
    fabric.apply_service(&plain_service("web", "10.96.0.50"));
    assert_eq!(client.connect(at(VIP, 80)).await.err(), refused, "no slice");
    let pods = three(&fabric);
    let other_port = at(VIP, 81);
    assert_eq!(client.connect(other_port).await.err(), Some(NetworkError::Refused(other_port)));
    ask(&client, 1).await;
    fabric.remove_slice("default", "web-1");
    assert_eq!(client.connect(at(VIP, 80)).await.err(), refused, "slice removed");
    fabric.apply_slice(&slice("web", 8080, &[pods[0].ip()]));
    fabric.remove_service("default", "web");
    assert_eq!(client.connect(at(VIP, 80)).await.err(), refused, "service removed");
}

#[tokio::test]
async fn conditions_decide_who_is_used() {
    let fabric = fabric();
    fabric.apply_service(&plain_service("web", "10.96.0.50"));
    let pods = three(&fabric);
    let client = pod(&fabric, "client");
    let apply = |conditions: [serde_json::Value; 3]| {
        let endpoints: Vec<_> = pods
            .iter()
            .zip(conditions)
            .map(|(pod, conditions)| json!({"addresses": [pod.ip()], "conditions": conditions}))
            .collect();
        fabric.apply_slice(&slice_of("web", json!([{"name": "", "port": 8080}]), json!(endpoints)));
    };
    apply([json!({"ready": true}), json!({"ready": false}), json!({})]);
    assert_eq!(ask(&client, 4).await, "acac", "a condition that is absent means ready");
    let draining = json!({"ready": false, "serving": true, "terminating": true});
    apply([json!({"ready": false}), draining.clone(), json!({"ready": true})]);
    assert_eq!(ask(&client, 2).await, "cc");
    apply([json!({"ready": false, "serving": false}), draining, json!({"ready": false})]);
    assert_eq!(ask(&client, 2).await, "bb", "who still serves while ending, if there is nobody else");
}

/// Zones of three endpoints, in which of them they are ready, and who is used from zone `a`.
#[tokio::test]
async fn hints_keep_clients_in_their_zone() {
    let fabric = fabric();
    fabric.apply_service(&plain_service("web", "10.96.0.50"));
    let pods = three(&fabric);
    let client = pod(&fabric, "client");
    let check = async |zones: [&[&str]; 3], ready: [bool; 3], expected: &str| {
        let endpoints = pods.iter().zip(zones).zip(ready).map(|((pod, zones), ready)| {
            let zones: Vec<_> = zones.iter().map(|zone| json!({"name": zone})).collect();
            json!({"addresses": [pod.ip()], "hints": {"forZones": zones}, "conditions": {"ready": ready}})
        });
        let endpoints: Vec<_> = endpoints.collect();
        fabric.apply_slice(&slice_of("web", json!([{"name": "", "port": 8080}]), json!(endpoints)));
        let heard: std::collections::BTreeSet<_> = ask(&client, 6).await.chars().collect();
        assert_eq!(String::from_iter(heard), expected, "{zones:?} {ready:?}");
    };
    let all = [true; 3];
    check([&["a"], &["a"], &["b"]], all, "abc").await; // the node's zone is not known
    fabric.set_zone(Some("a"));
    check([&["a"], &["a"], &["b"]], all, "ab").await;
    check([&["b", "a"], &["b"], &["b"]], all, "a").await;
    check([&["b"], &["b"], &["c"]], all, "abc").await; // nobody for this zone
    check([&["a"], &[], &["b"]], all, "abc").await; // one does not say
    check([&["a"], &[], &["b"]], [true, false, true], "a").await; // one that is not ready need not
    check([&["a"], &["b"], &["b"]], [false, true, true], "bc").await;
    fabric.set_zone(Some("b"));
    check([&["a"], &["a"], &["b"]], all, "c").await;
    fabric.set_zone(Some("a"));
    assert_eq!(ask(&client, 2).await, "ab", "the label of the node counts at once");
}

/// A slice that is written again and again has its endpoints all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_never_seen_half_way() {
    let fabric = fabric();
    fabric.apply_service(&plain_service("web", "10.96.0.50"));
    let stack = pod(&fabric, "server");
    let listener = stack.listen(any(8080), 1024).expect("free");
    let written = slice("web", 8080, &[stack.ip()]);
    fabric.apply_slice(&written);
    let client = pod(&fabric, "client");
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writer = {
        let (fabric, stop) = (Arc::clone(&fabric), Arc::clone(&stop));
        std::thread::spawn(move || {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                fabric.apply_slice(&written);
            }
        })
    };
    let refused = async {
        for _ in 0..20_000 {
            match client.connect(at(VIP, 80)).await {
                Ok(stream) => drop((stream, listener.accept().await)),
                Err(error) => return Some(error),
            }
        }
        None
    };
    let refused = refused.await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    writer.join().expect("it ends");
    assert_eq!(refused, None);
}

#[tokio::test]
async fn ports_go_by_name() {
    let fabric = fabric();
    let stack = pod(&fabric, "pod");
    greeter(&stack, 8080, "web");
    greeter(&stack, 9090, "metrics");
    let ports = json!([{"name": "http", "port": 80, "targetPort": "web"}, {"name": "metrics", "port": 81}]);
    fabric.apply_service(&service("web", json!({"clusterIP": "10.96.0.50", "ports": ports})));
    let ports = json!([{"name": "metrics", "port": 9090}, {"name": "http", "port": 8080}]);
    fabric.apply_slice(&slice_of("web", ports, json!([{"addresses": [stack.ip()]}])));
    let client = pod(&fabric, "client");
    assert_eq!(greeting(client.connect(at(VIP, 80)).await.expect("ready")).await, "web");
    assert_eq!(greeting(client.connect(at(VIP, 81)).await.expect("ready")).await, "metrics");
}

#[tokio::test(start_paused = true)]
async fn a_client_stays_with_its_backend_for_a_while() {
    let fabric = fabric();
    three(&fabric);
    let spec = json!({
        "clusterIP": "10.96.0.50", "ports": [{"port": 80}], "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
    });
    fabric.apply_service(&service("web", spec));
    let clients = [pod(&fabric, "one"), pod(&fabric, "two")];
    assert_eq!(ask(&clients[0], 3).await, "aaa");
    assert_eq!(ask(&clients[1], 3).await, "bbb");
    tokio::time::advance(Duration::from_secs(59)).await;
    assert_eq!(ask(&clients[0], 1).await, "a");
    tokio::time::advance(Duration::from_secs(59)).await;
    assert_eq!(ask(&clients[0], 1).await, "a", "each connection begins the time anew");
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!(ask(&clients[0], 1).await, "c");
}

async fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    listener.local_addr().expect("bound").port()
}

fn node_port_service(port: u16) -> k8s_openapi::api::core::v1::Service {
    let ports = json!([{"port": 80, "nodePort": port}]);
    service("web", json!({"type": "NodePort", "clusterIP": "10.96.0.50", "ports": ports}))
}

async fn curl(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

#[tokio::test]
async fn a_node_port_reaches_all_backends_in_turn_and_closes_with_its_service() {
    let fabric = fabric();
    three(&fabric);
    let port = free_port().await;
    fabric.apply_service(&node_port_service(port));
    let first = soon("the port to open", async {
        loop {
            match curl(port).await {
                Ok(text) => return text,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    })
    .await;
    let mut counts = BTreeMap::from([(first, 1)]);
    for _ in 0..8 {
        *counts.entry(curl(port).await.expect("open")).or_insert(0) += 1;
    }
    let expected = ["a", "b", "c"].map(|name| (name.to_owned(), 3));
    assert_eq!(counts, BTreeMap::from(expected));

    // The same port by the node's address, from inside, without the kernel.
    let client = pod(&fabric, "client");
    let inside = client.connect(at(NODE, port)).await.expect("a NodePort");
    assert_eq!(greeting(inside).await, "a");

    fabric.remove_slice("default", "web-1");
    assert!(curl(port).await.is_err(), "no backend: reset, as if refused");

    fabric.remove_service("default", "web");
    soon("the port to close", async {
        while TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(client.connect(at(NODE, port)).await.err(), Some(NetworkError::Denied(at(NODE, port))));
    soon("shutdown", fabric.shutdown()).await;
}

#[tokio::test]
async fn a_taken_node_port_is_reported_and_opens_once_it_is_free() {
    let fabric = fabric();
    three(&fabric);
    let squatter = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let port = squatter.local_addr().expect("bound").port();
    fabric.apply_service(&node_port_service(port));
    eventually("the problem to be known", || !fabric.door_problems().is_empty()).await;
    let problem = fabric.door_problems().remove(0);
    assert_eq!((problem.namespace.as_str(), problem.service.as_str()), ("default", "web"));
    assert_eq!(problem.address, at(Ipv4Addr::LOCALHOST, port));
    assert!(problem.reason.contains("in use"), "{}", problem.reason);
    drop(squatter);
    eventually("the problem to pass", || fabric.door_problems().is_empty()).await;
    curl(port).await.expect("open");
    soon("shutdown", fabric.shutdown()).await;
}

#[tokio::test]
async fn an_answer_arrives_whole_though_its_guest_has_gone() {
    let fabric = fabric();
    let stack = pod(&fabric, "a");
    let listener = stack.listen(any(8080), 1).expect("the port is free");
    let port = free_port().await;
    stack
        .open_host_port(HostPort { ip: None, port, target: 8080, protocol: Protocol::Tcp })
        .expect("the port is free");
    let mut client = TcpStream::connect(("127.0.0.1", port)).await.expect("open");
    let guest = soon("the connection", listener.accept()).await.expect("a client");

    // As much as the kernel and the stream hold while nobody reads.
    let (mut sent, mut full) = (0, 0);
    while full < 1_000 {
        match guest.try_write(&[7; 4096]) {
            Ok(written) => (sent, full) = (sent + written, 0),
            Err(_) => full += 1,
        }
        tokio::task::yield_now().await;
    }
    drop(guest);
    client.shutdown().await.expect("connected");
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    let mut answer = Vec::new();
    soon("the answer", client.read_to_end(&mut answer)).await.expect("an orderly end");
    assert_eq!(answer.len(), sent);
    soon("shutdown", fabric.shutdown()).await;
}

#[tokio::test]
async fn a_host_port_leads_to_its_pod_until_that_closes() {
    let fabric = fabric();
    let stack = pod(&fabric, "a");
    greeter(&stack, 8080, "a");
    let squatter = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let port = squatter.local_addr().expect("bound").port();
    let host = HostPort { ip: None, port, target: 8080, protocol: Protocol::Tcp };
    let taken = NetworkError::AddressInUse(at(Ipv4Addr::LOCALHOST, port));
    assert_eq!(stack.open_host_port(host), Err(taken));
    drop(squatter);
    // A pod opens no address that the node itself keeps closed.
    let elsewhere = HostPort { ip: Some(NODE.into()), ..host };
    assert_eq!(stack.open_host_port(elsewhere), Err(NetworkError::AddressNotAvailable(at(NODE, port))));

    stack.open_host_port(HostPort { ip: Some(Ipv4Addr::UNSPECIFIED.into()), ..host }).expect("it is free");
    assert_eq!(curl(port).await.expect("open"), "a");
    stack.close();
    soon("the port to close", async {
        while TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(stack.open_host_port(host), Err(NetworkError::Closed));
    soon("shutdown", fabric.shutdown()).await;
}

#[tokio::test]
async fn a_service_leads_to_the_host_only_where_the_node_allows_it() {
    let outside = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = outside.local_addr().expect("bound");
    let IpAddr::V4(ip) = address.ip() else { panic!("bound to IPv4") };
    for (allowed, expected) in [(vec![], Some(NetworkError::Denied(address))), (vec![address], None)] {
        let fabric = Fabric::build(Config { host_endpoints: allowed, ..config() });
        fabric.apply_service(&plain_service("web", "10.96.0.50"));
        fabric.apply_slice(&slice("web", address.port(), &[ip]));
        let client = pod(&fabric, "client");
        let _keeps = client.listen(any(80), 1);
        assert_eq!(client.connect(at(VIP, 80)).await.err(), expected);
        assert!(client.connect(address).await.is_err(), "never by its own address");
    }
}
