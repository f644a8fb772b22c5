//! The server as the composition root has it.

use std::{net::SocketAddr, path::Path};

use axum::{Router, body::Body, routing::get};
use coracle_store::Embedded;
use http::Request;
use http_body_util::BodyExt;
use jiff::Timestamp;
use tokio::time::timeout;
use tower::ServiceExt;

use super::harness::SOON;
use crate::{ApiServer, BuildError, Config, User};

async fn build(dir: &Path, listen: SocketAddr) -> Result<ApiServer, BuildError> {
    let config = Config {
        listen,
        pki_dir: dir.to_owned(),
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        node_ports: 30000..=32767,
        extra_routes: Router::new().route("/v2/", get(|| async { "registry" })),
        now: Timestamp::now,
    };
    ApiServer::build(config, Embedded::memory()).await
}

async fn text(router: Router, path: &str) -> String {
    let answer = router.oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test]
async fn it_serves_until_it_is_shut_down() {
    let dir = tempfile::tempdir().unwrap();
    let free = "127.0.0.1:0".parse().unwrap();
    let server = build(dir.path(), free).await.unwrap();
    let taken = build(dir.path(), server.address()).await;
    assert!(matches!(taken, Err(BuildError::Listen { address, .. }) if address == server.address()));
    assert!(server.kubeconfig().contains(&format!("server: https://{}\n", server.address())));
    assert_eq!(server.ca_pem(), server.admin().ca_pem);

    let door = server.service_as(User::new("somebody", &[]));
    assert_eq!(text(door.clone(), "/v2/").await, "registry");
    assert!(text(door.clone(), "/v2/nothing").await.contains("\"NotFound\""));
    assert!(text(door.clone(), "/api/v1/namespaces/default").await.contains("\"Namespace\""));

    let request = Request::get("/api/v1/namespaces?watch=true").body(Body::empty()).unwrap();
    let mut watch = door.oneshot(request).await.unwrap().into_body();
    watch.frame().await.expect("there are namespaces").unwrap();
    server.shutdown(SOON).await;
    let end = timeout(SOON, watch.frame()).await.expect("the watch ends with the server");
    assert!(end.is_none());
}
