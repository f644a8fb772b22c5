//! Discovery, OpenAPI, health, metrics, version.

use axum::body::Body;
use coracle_store::Embedded;
use http::Request;
use serde_json::json;

use super::harness::Server;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";

#[tokio::test]
async fn aggregated_discovery() {
    let server = Server::new().await;
    let core = server.get_as("/api", AGGREGATED).await;
    assert_eq!(
        core.header("content-type"),
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    );
    assert_eq!(core.header("vary"), "Accept");
    let list = core.is(200);
    assert_eq!(
        (&list["kind"], &list["apiVersion"]),
        (&json!("APIGroupDiscoveryList"), &json!("apidiscovery.k8s.io/v2"))
    );
    let version = &list["items"][0]["versions"][0];
    assert_eq!((&version["version"], &version["freshness"]), (&json!("v1"), &json!("Current")));
    let resources = version["resources"].as_array().unwrap();
    let pods = resources.iter().find(|r| r["resource"] == "pods").unwrap();
    assert_eq!(pods["responseKind"], json!({"group": "", "version": "v1", "kind": "Pod"}));
    assert_eq!((&pods["scope"], &pods["shortNames"]), (&json!("Namespaced"), &json!(["po"])));
    assert_eq!((&pods["singularResource"], &pods["categories"]), (&json!("pod"), &json!(["all"])));
    let controllers = resources.iter().find(|r| r["resource"] == "replicationcontrollers").unwrap();
    let scale =
        controllers["subresources"].as_array().unwrap().iter().find(|s| s["subresource"] == "scale").unwrap();
    assert_eq!(scale["responseKind"], json!({"group": "autoscaling", "version": "v1", "kind": "Scale"}));

    let groups = server.get_as("/apis", AGGREGATED).await.is(200);
    let named: Vec<&str> =
        groups["items"].as_array().unwrap().iter().map(|g| g["metadata"]["name"].as_str().unwrap()).collect();
    assert!(named.contains(&"coordination.k8s.io") && named.contains(&"discovery.k8s.io"), "{named:?}");

    let etag = core.header("etag").to_owned();
    let request = Request::get("/api")
        .header("accept", AGGREGATED)
        .header("if-none-match", etag)
        .body(Body::empty())
        .unwrap();
    assert_eq!(server.send(request).await.code, 304);
}

#[tokio::test]
async fn plain_discovery() {
    let server = Server::new().await;
    assert_eq!(server.get("/api").await.is(200)["versions"], json!(["v1"]));
    let groups = server.get("/apis/").await.is(200);
    assert_eq!(groups["kind"], "APIGroupList");
    let group = server.get("/apis/coordination.k8s.io").await.is(200);
    assert_eq!(group["preferredVersion"]["groupVersion"], "coordination.k8s.io/v1");
    let list = server.get("/api/v1").await.is(200);
    let names: Vec<&str> =
        list["resources"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    for name in [
        "pods",
        "pods/status",
        "pods/binding",
        "pods/log",
        "namespaces/finalize",
        "replicationcontrollers/scale",
    ] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    server.get("/apis/coordination.k8s.io/v1").await.is(200);
    server.get("/apis/coordination.k8s.io/v9").await.fails(404, "NotFound", "");
    server.get("/apis/nope.io").await.fails(404, "NotFound", "");
}

#[tokio::test]
async fn openapi() {
    let server = Server::new().await;
    let index = server.get("/openapi/v3").await.is(200);
    for path in ["api/v1", "apis/coordination.k8s.io/v1"] {
        let address = index["paths"][path]["serverRelativeURL"].as_str().unwrap().to_owned();
        assert!(address.starts_with(&format!("/openapi/v3/{path}?hash=")), "{address}");
        let document = server.get(&address).await.is(200);
        assert!(document.is_object());
    }
    server.get("/openapi/v3/apis/nope/v1").await.fails(404, "NotFound", "");
    assert_eq!(server.get("/openapi/v2").await.is(200)["swagger"], "2.0");
    let old =
        server.get_as("/openapi/v2", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf").await;
    assert_eq!(&old.body[..7], b"\x0a\x032.0\x12#");
}

#[tokio::test]
async fn health_version_and_metrics() {
    let server = Server::new().await;
    for path in ["/healthz", "/livez", "/readyz", "/readyz/ping", "/readyz/etcd"] {
        assert_eq!(server.get(path).await.text(), "ok", "{path}");
    }
    assert!(server.get("/readyz?verbose").await.text().contains("[+]ping ok\n"));
    let version = server.get("/version").await.is(200);
    assert_eq!((&version["major"], &version["minor"]), (&json!("1"), &json!("33")));
    assert!(version["gitVersion"].as_str().unwrap().starts_with("v1.33.0+coracle."));
    server.get("/api/v1/nothing-of-the-kind").await.fails(404, "NotFound", "");
    let metrics = server.get("/metrics").await.text();
    assert!(metrics.contains("apiserver_storage_objects{resource=\"namespaces\"} 4\n"), "{metrics}");
    assert!(metrics.contains("apiserver_request_total{"), "{metrics}");
    assert!(!metrics.contains("nothing-of-the-kind"), "names of clients are not remembered");
    server.core.shutdown.cancel();
    assert_eq!(server.get("/readyz").await.code, 500);
    assert_eq!(server.get("/readyz/shutdown").await.code, 500);
    assert_eq!(server.get("/livez").await.code, 200);
}

#[tokio::test]
async fn a_server_without_its_store_is_not_healthy() {
    let store = Embedded::memory();
    let server = Server::over(store.clone()).await;
    store.close().await;
    for path in ["/livez", "/livez/etcd"] {
        assert_eq!(server.get(path).await.code, 500, "{path}");
    }
}
