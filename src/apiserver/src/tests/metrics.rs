//! The metrics APIs, over a node that says what it measured.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use axum::{Json, Router, routing::get};
use serde_json::{Value, json};

use super::harness::{MERGE, Server, TABLE, names};

const TIME: &str = "2026-01-01T00:00:00Z";
const PODS: &str = "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods";
const CUSTOM: &str = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/default/pods";

/// A server with the node `n` and its pods `a`, `b` (which the node has just started) and `c` (nowhere); and
/// how often the node was asked.
async fn server() -> (Server, Arc<AtomicU32>) {
    let server = Server::new().await;
    server.post("/api/v1/nodes", json!({"metadata": {"name": "n"}})).await.is(201);
    let mut stats = Vec::new();
    for name in ["a", "b", "c"] {
        let pod = server.pod(name, &["x"]).await;
        if name == "c" {
            continue;
        }
        server.bind(name, "n").await.is(201);
        let cpu = match name {
            "a" => json!({"time": TIME, "usageNanoCores": 1_500_000}),
            _ => json!({"time": TIME}),
        };
        let requests = json!({"name": "http_requests_per_second", "time": TIME, "value": 12.5});
        stats.push(json!({
            "podRef": {"name": name, "namespace": "default", "uid": pod["metadata"]["uid"]},
            "containers": [
                {
                    "name": "x", "cpu": cpu, "memory": {"time": TIME, "workingSetBytes": 2048},
                    "userDefinedMetrics": if name == "a" { json!([requests, requests]) } else { Value::Null },
                },
                {"name": "y", "cpu": cpu, "memory": {"time": TIME, "workingSetBytes": 1025}},
            ],
        }));
        // A list that is null is an empty one.
        if let Some(first) = stats.last_mut().and_then(|pod| pod["containers"][0].as_object_mut())
            && first["userDefinedMetrics"].is_null()
        {
            first.remove("userDefinedMetrics");
        }
    }
    let summary = json!({
        "node": {
            "nodeName": "n",
            "cpu": {"time": TIME, "usageNanoCores": 3_000_000},
            "memory": {"time": TIME, "workingSetBytes": 1_048_576},
        },
        "pods": stats,
    });
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    let answer = get(move || {
        count.fetch_add(1, Ordering::Relaxed);
        let summary = summary.clone();
        async move { Json(summary) }
    });
    server.core.nodes.register("n", Router::new().route("/stats/summary", answer));
    (server, asked)
}

#[tokio::test(start_paused = true)]
async fn pods_and_nodes_use_what_their_node_says() {
    let (server, asked) = server().await;
    let list = server.get(PODS).await.is(200);
    assert_eq!(list["kind"], "PodMetricsList");
    assert_eq!(names(&list), ["a"], "what has not been measured is left out");
    let one = server.get(&format!("{PODS}/a")).await.is(200);
    assert_eq!((&one["kind"], &one["apiVersion"]), (&json!("PodMetrics"), &json!("metrics.k8s.io/v1beta1")));
    assert_eq!((&one["timestamp"], &one["window"]), (&json!(TIME), &json!("5s")));
    assert_eq!(one["containers"][0]["usage"], json!({"cpu": "1500000n", "memory": "2Ki"}));
    let gone = server.get(&format!("{PODS}/c")).await;
    gone.fails(404, "NotFound", "podmetrics.metrics.k8s.io \"default/c\" not found");

    let node = server.get("/apis/metrics.k8s.io/v1beta1/nodes/n").await.is(200);
    assert_eq!(node["usage"], json!({"cpu": "3000000n", "memory": "1Mi"}));
    assert_eq!(asked.load(Ordering::Relaxed), 1, "one answer serves for a moment");
    tokio::time::advance(std::time::Duration::from_secs(2)).await;
    let table = server.get_as("/apis/metrics.k8s.io/v1beta1/pods", TABLE).await.is(200);
    assert_eq!(table["rows"][0]["cells"], json!(["a", "3m", "3073", "5s"]));
    assert_eq!(asked.load(Ordering::Relaxed), 2);

    let patch = json!({"metadata": {"labels": {"app": "web"}}});
    server.patch("/api/v1/namespaces/default/pods/a", MERGE, patch).await.is(200);
    assert_eq!(names(&server.get(&format!("{PODS}?labelSelector=app%3Dweb")).await.is(200)), ["a"]);
    assert!(names(&server.get(&format!("{PODS}?labelSelector=app%3Dx")).await.is(200)).is_empty());
    server.core.nodes.unregister("n");
    assert!(names(&server.get(PODS).await.is(200)).is_empty());
}

#[tokio::test]
async fn metrics_of_their_own() {
    let (server, _) = server().await;
    let list = server.get(&format!("{CUSTOM}/*/http_requests_per_second")).await.is(200);
    assert_eq!(list["kind"], "MetricValueList");
    let items = list["items"].as_array().unwrap();
    assert_eq!(items.len(), 1);
    assert_eq!(items[0]["describedObject"]["name"], "a");
    assert_eq!(items[0]["metric"]["name"], "http_requests_per_second");
    assert_eq!(items[0]["value"], "25");
    server.get(&format!("{CUSTOM}/a/http_requests_per_second")).await.is(200);
    let missing = server.get(&format!("{CUSTOM}/*/tcp_connections")).await;
    missing.fails(404, "NotFound", "the server could not find the metric tcp_connections for pods");
    server.get(CUSTOM).await.fails(404, "NotFound", "");
    let nothing = format!("{CUSTOM}/*/tcp_connections?labelSelector=no%3Dne");
    assert_eq!(server.get(&nothing).await.is(200)["items"], json!([]));
}

#[tokio::test]
async fn discovery_knows_them() {
    let server = Server::new().await;
    let resources = async |path: &str| {
        let list = server.get(path).await.is(200);
        let resources = list["resources"].as_array().unwrap().clone();
        resources.iter().map(|r| r["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(resources("/apis/metrics.k8s.io/v1beta1").await, ["nodes", "pods"]);
    assert_eq!(
        resources("/apis/custom.metrics.k8s.io/v1beta2").await,
        ["pods/http_requests_per_second", "pods/tcp_connections"]
    );
    let group = server.get("/apis/metrics.k8s.io").await.is(200);
    assert_eq!(group["preferredVersion"]["groupVersion"], "metrics.k8s.io/v1beta1");
}
