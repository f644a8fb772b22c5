//! The embedded registry, as other tools use it: the distribution API behind a client certificate.

use reqwest::Method;
use serde_json::Value;

use crate::support::Cluster;

#[test]
fn what_was_pushed_can_be_pulled() {
    let cluster = Cluster::start();
    cluster.push(&["hello"]);
    let connection = cluster.connection();
    let get = |path: String, accept: &'static str| {
        let connection = connection.clone();
        async move {
            let request = connection.request(Method::GET, &path).header("accept", accept);
            let response = request.send().await.unwrap();
            assert!(response.status().is_success(), "{path}: {}", response.status());
            response.bytes().await.unwrap()
        }
    };
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        get("/v2/".into(), "*/*").await;
        let tags: Value = serde_json::from_slice(&get("/v2/hello/tags/list".into(), "*/*").await).unwrap();
        assert_eq!(tags["tags"], serde_json::json!(["1"]));
        let manifest =
            get("/v2/hello/manifests/1".into(), "application/vnd.oci.image.manifest.v1+json").await;
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        assert_eq!(manifest["config"]["mediaType"], "application/vnd.wasm.config.v0+json");
        let layers = manifest["layers"].as_array().unwrap();
        assert_eq!((layers.len(), &layers[0]["mediaType"]), (1, &serde_json::json!("application/wasm")));
        let digest = layers[0]["digest"].as_str().unwrap();
        let blob = get(format!("/v2/hello/blobs/{digest}"), "*/*").await;
        assert!(blob.starts_with(b"\0asm"));
        assert_eq!(layers[0]["size"], blob.len());
    });
}
