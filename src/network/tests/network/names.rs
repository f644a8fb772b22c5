//! Names as pods see them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use coracle_network::{PodConfig, PodStack, ResolveError};
use serde_json::json;

use crate::support::{fabric, plain_service, pod, service, slice_of};

const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 50));

async fn check(stack: &PodStack, name: &str, expected: &[IpAddr]) {
    let found = stack.resolve(name).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(found, expected, "{name}");
}

async fn unknown(stack: &PodStack, name: &str) {
    let error = stack.resolve(name).await.expect_err(name);
    assert!(matches!(error, ResolveError::NotFound(_)), "{name}: {error}");
}

#[tokio::test]
async fn own_names() {
    let fabric = fabric();
    let stack = pod(&fabric, "web-1");
    let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    for name in ["localhost", "LocalHost.", "x.localhost"] {
        check(&stack, name, &loopback).await;
    }
    check(&stack, "web-1", &[stack.ip().into(), stack.ip6().expect("two families").into()]).await;
    check(&stack, "10.1.2.3", &[IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3))]).await;
    let dashed = format!("{}.default.pod.cluster.local", stack.ip().to_string().replace('.', "-"));
    check(&stack, &dashed, &[stack.ip().into()]).await;
    unknown(&stack, "169-254-169-254.default.pod.cluster.local").await;
}

#[tokio::test]
async fn services_by_every_name_they_have() {
    let fabric = fabric();
    let stack = pod(&fabric, "client");
    let elsewhere = PodConfig { namespace: "other".to_owned(), name: "x".to_owned(), ..PodConfig::default() };
    let elsewhere = fabric.add_pod(elsewhere).expect("an address is free");
    fabric.apply_service(&plain_service("web", "10.96.0.50"));
    for name in ["web", "Web", "web.default", "web.default.svc", "web.default.svc.cluster.local"] {
        check(&stack, name, &[VIP]).await;
    }
    check(&stack, "web.default.svc.cluster.local.", &[VIP]).await;
    check(&elsewhere, "web.default", &[VIP]).await;
    unknown(&elsewhere, "web").await;
    unknown(&stack, "web.").await;
    unknown(&stack, "web.other").await;
    unknown(&stack, "nothing.default.svc.cluster.local").await;
    unknown(&stack, "cluster.local").await;
    fabric.remove_service("default", "web");
    unknown(&stack, "web").await;
}

#[tokio::test]
async fn headless_services_are_their_endpoints() {
    let fabric = fabric();
    let stack = pod(&fabric, "client");
    fabric.apply_service(&service("db", json!({"clusterIP": "None", "ports": [{"port": 5432}]})));
    unknown(&stack, "db").await;
    let endpoints = json!([
        {"addresses": ["10.128.0.9"], "hostname": "db-1"},
        {"addresses": ["10.128.0.8"], "hostname": "db-0"},
        {"addresses": ["10.128.0.7"], "hostname": "db-2", "conditions": {"ready": false}},
    ]);
    fabric.apply_slice(&slice_of("db", json!([{"name": "", "port": 5432}]), endpoints));
    let ip = |last| IpAddr::V4(Ipv4Addr::new(10, 128, 0, last));
    check(&stack, "db", &[ip(8), ip(9)]).await;
    check(&stack, "db-1.db.default.svc.cluster.local", &[ip(9)]).await;
    check(&stack, "db-0.db", &[ip(8)]).await;
    unknown(&stack, "db-2.db").await;
}

#[tokio::test]
async fn external_names() {
    let fabric = fabric();
    let stack = pod(&fabric, "client");
    fabric.apply_service(&plain_service("web", "10.96.0.50"));
    let alias = |name, to| service(name, json!({"type": "ExternalName", "externalName": to}));
    fabric.apply_service(&alias("inside", "web.default.svc.cluster.local"));
    fabric.apply_service(&alias("loop", "loop.default.svc.cluster.local"));
    fabric.apply_service(&alias("single", "somehost"));
    check(&stack, "inside", &[VIP]).await;
    unknown(&stack, "loop").await;
    unknown(&stack, "single").await;
}

#[tokio::test]
async fn names_that_are_none() {
    let fabric = fabric();
    let stack = pod(&fabric, "client");
    for name in ["", "a b", "..", "ä", &"x".repeat(10_000)] {
        assert!(matches!(stack.resolve(name).await, Err(ResolveError::Invalid(_))), "{name:?}");
    }
}
