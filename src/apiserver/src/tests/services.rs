//! Addresses and ports of services.

use std::collections::BTreeSet;

use coracle_store::Embedded;
use futures::future::join_all;
use serde_json::{Value, json};

use super::harness::{MERGE, Server};

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    if spec.get("ports").is_none() {
        spec["ports"] = json!([{"port": 80}]);
    }
    json!({"metadata": {"name": name}, "spec": spec})
}

fn node_port(service: &Value) -> u64 {
    service["spec"]["ports"][0]["nodePort"].as_u64().expect("it has a node port")
}

#[tokio::test]
async fn parallel_services_have_addresses_of_their_own() {
    let server = Server::new().await;
    let creates = (0..200).map(|n| server.post(SERVICES, service(&format!("s{n}"), json!({}))));
    let answers = join_all(creates).await;
    let addresses: BTreeSet<String> =
        answers.iter().map(|a| a.is(201)["spec"]["clusterIP"].as_str().unwrap().to_owned()).collect();
    assert_eq!(addresses.len(), 200);
    assert!(addresses.iter().all(|ip| ip.starts_with("10.96.") && ip != "10.96.0.1"));
}

#[tokio::test]
async fn node_ports_run_out_and_come_back() {
    let server = Server::new().await;
    let creates =
        (0..12).map(|n| server.post(SERVICES, service(&format!("s{n}"), json!({"type": "NodePort"}))));
    let answers = join_all(creates).await;
    let (made, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.code == 201);
    assert_eq!((made.len(), refused.len()), (10, 2));
    refused[0].fails(500, "InternalError", "failed to allocate a nodePort: range is full");
    let ports: BTreeSet<u64> = made.iter().map(|answer| node_port(&answer.json())).collect();
    assert_eq!(ports, (30000..=30009).collect());
    // A deleted service and one that no longer wants a port give theirs back.
    let name = |answer: &Value| answer["metadata"]["name"].as_str().unwrap().to_owned();
    let (one, two) = (made[0].json(), made[1].json());
    server.delete(&format!("{SERVICES}/{}", name(&one)), json!({})).await.is(200);
    let patch = json!({"spec": {"type": "ClusterIP"}});
    server.patch(&format!("{SERVICES}/{}", name(&two)), MERGE, patch).await.is(200);
    for (n, old) in [&one, &two].into_iter().enumerate() {
        let ports = json!([{"port": 80, "nodePort": node_port(old)}]);
        let wanted = service(&format!("again{n}"), json!({"type": "NodePort", "ports": ports}));
        assert_eq!(node_port(&server.post(SERVICES, wanted).await.is(201)), node_port(old));
    }
}

#[tokio::test]
async fn explicit_choices_are_honoured_or_refused() {
    let server = Server::new().await;
    let wanted =
        json!({"clusterIP": "10.96.0.77", "type": "NodePort", "ports": [{"port": 80, "nodePort": 30003}]});
    let made = server.post(SERVICES, service("a", wanted.clone())).await.is(201);
    assert_eq!((&made["spec"]["clusterIPs"], node_port(&made)), (&json!(["10.96.0.77"]), 30003));
    let check = |spec: Value, message: &'static str| {
        let server = &server;
        async move { server.post(SERVICES, service("b", spec)).await.fails(422, "Invalid", message) }
    };
    check(json!({"clusterIP": "10.96.0.77"}), "Service \"b\" is invalid: spec.clusterIPs: Invalid value: [\"10.96.0.77\"]: failed to allocate IP 10.96.0.77: provided IP is already allocated").await;
    check(json!({"clusterIP": "10.1.2.3"}), "failed to allocate IP 10.1.2.3: the provided IP (10.1.2.3) is not in the valid range. The range of valid IPs is 10.96.0.0/16").await;
    let port = |number: u16| json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": number}]});
    check(port(30003), "Service \"b\" is invalid: spec.ports[0].nodePort: Invalid value: 30003: provided port is already allocated").await;
    check(port(80), "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-30009").await;
    // What a refused service took on the way is free again.
    let both =
        json!({"clusterIP": "10.96.0.78", "type": "NodePort", "ports": [{"port": 80, "nodePort": 30003}]});
    check(both, "provided port is already allocated").await;
    server.post(SERVICES, service("b", json!({"clusterIP": "10.96.0.78"}))).await.is(201);
    // So is what a dry run took.
    let dry = service("c", json!({"clusterIP": "10.96.0.79"}));
    server.post(&format!("{SERVICES}?dryRun=All"), dry.clone()).await.is(201);
    server.post(SERVICES, dry).await.is(201);
}

#[tokio::test]
async fn headless_and_external_services_have_no_address() {
    let server = Server::new().await;
    let headless = server.post(SERVICES, service("a", json!({"clusterIP": "None"}))).await.is(201);
    assert_eq!(headless["spec"]["clusterIP"], "None");
    let external = server
        .post(SERVICES, service("b", json!({"type": "ExternalName", "externalName": "x.io"})))
        .await
        .is(201);
    assert!(external["spec"].get("clusterIP").is_none_or(|ip| ip == ""));
}

#[tokio::test]
async fn an_update_keeps_what_the_service_has() {
    let server = Server::new().await;
    let made = server.post(SERVICES, service("a", json!({"type": "NodePort"}))).await.is(201);
    let replaced = server
        .put(&format!("{SERVICES}/a"), &service("a", json!({"type": "NodePort", "selector": {"x": "y"}})))
        .await
        .is(200);
    assert_eq!(replaced["spec"]["clusterIP"], made["spec"]["clusterIP"]);
    assert_eq!(node_port(&replaced), node_port(&made));
    let both =
        json!([{"name": "u", "port": 53, "protocol": "UDP"}, {"name": "t", "port": 53, "protocol": "TCP"}]);
    let dns = server.post(SERVICES, service("dns", json!({"type": "NodePort", "ports": both}))).await.is(201);
    assert_eq!(dns["spec"]["ports"][0]["nodePort"], dns["spec"]["ports"][1]["nodePort"]);
}

#[tokio::test]
async fn only_a_balancer_of_local_endpoints_has_a_port_for_its_health() {
    let server = Server::new().await;
    let health = |service: &Value| service["spec"]["healthCheckNodePort"].as_u64();
    let local = |health: u64| json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": health});
    for (name, spec, expected) in [
        ("a", local(30007), Some(30007)),
        ("b", json!({"type": "LoadBalancer"}), None),
        ("c", json!({"type": "NodePort", "externalTrafficPolicy": "Local"}), None),
    ] {
        let made = server.post(SERVICES, service(name, spec)).await.is(201);
        assert_eq!(health(&made), expected, "{made}");
    }
    let refused = [
        (local(30007), "spec.healthCheckNodePort: Invalid value: 30007: provided port is already allocated"),
        (
            local(80),
            "spec.healthCheckNodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-30009",
        ),
        (
            json!({"healthCheckNodePort": 30008}),
            "spec.healthCheckNodePort: Invalid value: 30008: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        ),
    ];
    for (spec, message) in refused {
        server.post(SERVICES, service("d", spec)).await.fails(422, "Invalid", message);
    }
    let made = server.post(SERVICES, service("d", local(0))).await.is(201);
    let port = health(&made).expect("one was found");
    let d = format!("{SERVICES}/d");
    let immutable = "spec.healthCheckNodePort: Forbidden: field is immutable";
    let other = json!({"spec": {"healthCheckNodePort": 30007}});
    server.patch(&d, MERGE, other).await.fails(422, "Invalid", immutable);
    let kept = server.patch(&d, MERGE, json!({"spec": {"healthCheckNodePort": null}})).await.is(200);
    assert_eq!(health(&kept), Some(port));
    let lost = server.patch(&d, MERGE, json!({"spec": {"externalTrafficPolicy": "Cluster"}})).await.is(200);
    assert_eq!(health(&lost), None, "{lost}");
    server.post(SERVICES, service("e", local(port))).await.is(201);
}

#[tokio::test]
async fn a_restarted_server_knows_what_is_taken() {
    let store = Embedded::memory();
    let server = Server::over(store.clone()).await;
    let made = server.post(SERVICES, service("a", json!({"type": "NodePort"}))).await.is(201);
    let server = Server::over(store).await;
    let taken = service("b", json!({"clusterIP": made["spec"]["clusterIP"]}));
    server.post(SERVICES, taken).await.fails(422, "Invalid", "provided IP is already allocated");
    server.delete(&format!("{SERVICES}/a"), json!({})).await.is(200);
    server.post(SERVICES, service("b", json!({"clusterIP": made["spec"]["clusterIP"]}))).await.is(201);
}

#[tokio::test]
async fn parallel_changes_of_services_never_share_a_port() {
    let server = Server::new().await;
    for n in 0..4 {
        server.post(SERVICES, service(&format!("s{n}"), json!({"type": "NodePort"}))).await.is(201);
    }
    for round in 0..5 {
        // Everybody wants everything at once; some are refused.
        let changes = (0..40).map(|n| {
            let port = 30000 + (n * 7 + round) % 10;
            let type_ = if n % 5 == 4 { "ClusterIP" } else { "NodePort" };
            let ports = json!([{"port": 80, "nodePort": if n % 5 == 4 { json!(null) } else { json!(port) }}]);
            let body = service(&format!("s{}", n % 4), json!({"type": type_, "ports": ports}));
            let server = &server;
            async move { server.put(&format!("{SERVICES}/s{}", n % 4), &body).await }
        });
        for answer in join_all(changes).await {
            assert!(matches!(answer.code, 200 | 422), "{}", answer.text());
        }
        let list = server.get(SERVICES).await.is(200);
        let ports = |service: &Value| service["spec"]["ports"][0]["nodePort"].as_u64();
        let used: Vec<u64> = list["items"].as_array().unwrap().iter().filter_map(ports).collect();
        let distinct: BTreeSet<u64> = used.iter().copied().collect();
        assert_eq!(distinct.len(), used.len(), "{used:?}");
        // What nobody has is free.
        for (n, port) in (30000..=30009).filter(|port| !distinct.contains(port)).enumerate() {
            let ports = json!([{"port": 80, "nodePort": port}]);
            let path = format!("{SERVICES}/free{n}");
            server
                .post(SERVICES, service(&format!("free{n}"), json!({"type": "NodePort", "ports": ports})))
                .await
                .is(201);
            server.delete(&path, json!({})).await.is(200);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_service_of_the_server_comes_back() {
    let server = Server::new().await;
    let path = format!("{SERVICES}/kubernetes");
    let first = server.get(&path).await.is(200);
    tokio::spawn(crate::bootstrap::keep(server.core.clone(), "127.0.0.1:6443".parse().unwrap()));
    let soon = std::time::Duration::from_secs(11);
    tokio::time::sleep(soon).await;
    assert_eq!(server.get(&path).await.is(200), first, "what is there is left alone");
    server.delete(&path, json!({})).await.is(200);
    tokio::time::sleep(soon).await;
    let again = server.get(&path).await.is(200);
    assert_eq!(again["spec"]["clusterIP"], first["spec"]["clusterIP"]);
    server.core.shutdown.cancel();
}

#[tokio::test]
async fn a_service_has_an_address_of_each_family_that_it_asks_for() {
    let server = Server::new().await;
    let make = async |name: &str, spec: Value| {
        let made = server.post(SERVICES, service(name, spec)).await.is(201);
        let spec = &made["spec"];
        let kinds = spec["clusterIPs"].as_array().unwrap().iter().map(|ip| match ip.as_str().unwrap() {
            "None" => "none",
            v6 if v6.starts_with("fd00:1:2:ffff::") => "v6",
            v4 if v4.starts_with("10.96.") => "v4",
            other => panic!("{other}"),
        });
        assert_eq!(spec["clusterIP"], spec["clusterIPs"][0]);
        (kinds.collect::<Vec<_>>(), spec["ipFamilies"].clone(), spec["ipFamilyPolicy"].clone())
    };
    let both = json!(["IPv4", "IPv6"]);
    assert_eq!(make("a", json!({})).await, (vec!["v4"], json!(["IPv4"]), json!("SingleStack")));
    let spec = json!({"ipFamilies": ["IPv6"]});
    assert_eq!(make("b", spec).await, (vec!["v6"], json!(["IPv6"]), json!("SingleStack")));
    for policy in ["PreferDualStack", "RequireDualStack"] {
        let spec = json!({"ipFamilyPolicy": policy});
        assert_eq!(make(&policy.to_lowercase(), spec).await, (vec!["v4", "v6"], both.clone(), json!(policy)));
    }
    let spec = json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv6"]});
    assert_eq!(make("c", spec).await, (vec!["v6", "v4"], json!(["IPv6", "IPv4"]), json!("PreferDualStack")));
    let spec = json!({"ipFamilyPolicy": "PreferDualStack", "clusterIP": "None"});
    assert_eq!(make("d", spec).await, (vec!["none"], both.clone(), json!("PreferDualStack")));
    let spec = json!({"clusterIP": "fd00:1:2:ffff::77"});
    assert_eq!(make("e", spec.clone()).await, (vec!["v6"], json!(["IPv6"]), json!("SingleStack")));
    let taken = server.post(SERVICES, service("f", spec)).await;
    taken.fails(422, "Invalid", "failed to allocate IP fd00:1:2:ffff::77: provided IP is already allocated");
    let outside = server.post(SERVICES, service("f", json!({"clusterIP": "fd00::1"}))).await;
    outside.fails(422, "Invalid", "The range of valid IPs is fd00:1:2:ffff::/112");

    // A second family comes and goes with the policy.
    let path = format!("{SERVICES}/a");
    let patch = json!({"spec": {"ipFamilyPolicy": "PreferDualStack"}});
    let grown = server.patch(&path, MERGE, patch).await.is(200);
    assert_eq!(
        (grown["spec"]["clusterIPs"].as_array().unwrap().len(), &grown["spec"]["ipFamilies"]),
        (2, &both)
    );
    let patch = json!({"spec": {"ipFamilyPolicy": "SingleStack"}});
    let shrunk = server.patch(&path, MERGE, patch).await.is(200);
    assert_eq!(shrunk["spec"]["clusterIPs"], json!([grown["spec"]["clusterIP"]]));
}
