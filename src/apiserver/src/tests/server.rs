//! The server as the composition root has it.

use std::{net::SocketAddr, path::Path, sync::Arc};

use axum::{
    Router,
    body::Body,
    routing::{any, get},
};
use coracle_store::Embedded;
use http::{Method, Request};
use http_body_util::BodyExt;
use jiff::Timestamp;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tower::ServiceExt;

use super::{
    harness::{JSON, SOON, request},
    streams::node,
};
use crate::{ApiServer, BuildError, Config, User, serve::MAX_ANONYMOUS};

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

/// A connection that has asked for the version; `None` if the server ended it instead.
async fn visit(server: &ApiServer, connector: &TlsConnector) -> Option<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(server.address()).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = connector.connect(name, socket).await.ok()?;
    let mut status = [0; 12];
    let talk = async {
        stream.write_all(b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n").await?;
        stream.read_exact(&mut status).await
    };
    timeout(SOON, talk).await.expect("an answer, or the end").ok()?;
    assert_eq!(&status, b"HTTP/1.1 200");
    Some(stream)
}

/// What connects as nobody, and as the administrator.
fn connectors(server: &ApiServer) -> (TlsConnector, TlsConnector) {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(server.ca_pem().as_bytes()).unwrap()).unwrap();
    let config = || {
        let provider = Arc::new(ring::default_provider());
        let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        versions.unwrap().with_root_certificates(roots.clone())
    };
    let stranger = TlsConnector::from(Arc::new(config().with_no_client_auth()));
    let admin = server.admin();
    let chain = vec![CertificateDer::from_pem_slice(admin.cert_pem.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(admin.key_pem.as_bytes()).unwrap();
    let user = TlsConnector::from(Arc::new(config().with_client_auth_cert(chain, key).unwrap()));
    (stranger, user)
}

/// An object that the server made of this body.
async fn post(server: &ApiServer, path: &str, body: Value) -> Value {
    let door = server.service_as(User::new("admin", &["system:masters"]));
    let answer = door.oneshot(request(Method::POST, path, JSON, body.to_string())).await.unwrap();
    let code = answer.status();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(code, 201, "{}", String::from_utf8_lossy(&body));
    serde_json::from_slice(&body).unwrap()
}

/// A connection on which a request was answered with this code; `None` if the server ended it instead.
async fn ask(
    server: &ApiServer,
    connector: &TlsConnector,
    text: &str,
    code: u16,
) -> Option<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(server.address()).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = connector.connect(name, socket).await.ok()?;
    stream.write_all(text.as_bytes()).await.ok()?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(SOON, stream.read_u8()).await.expect("an answer, or the end").ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with(&format!("HTTP/1.1 {code} ")), "{head}");
    Some(stream)
}

#[tokio::test]
async fn streams_go_through_tls() {
    let dir = tempfile::tempdir().unwrap();
    let server = build(dir.path(), "127.0.0.1:0".parse().unwrap()).await.unwrap();
    server.nodes().register("n", Router::new().fallback(any(node)));
    let spec = json!({"nodeName": "n", "containers": [{"name": "a", "image": "i"}]});
    let pods = "/api/v1/namespaces/default/pods";
    post(&server, pods, json!({"metadata": {"name": "p"}, "spec": spec})).await;
    let (_, user) = connectors(&server);
    let exec = format!(
        "POST {pods}/p/exec?command=x HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n"
    );
    let mut stream = ask(&server, &user, &exec, 101).await.expect("it is a user's");
    stream.write_all(b"the end\n").await.unwrap();
    let mut said = Vec::new();
    timeout(SOON, stream.read_to_end(&mut said)).await.expect("the end comes soon").unwrap();
    assert_eq!(said, b"THE END\n");
}

#[tokio::test]
async fn strangers_cannot_take_the_places_of_users() {
    let dir = tempfile::tempdir().unwrap();
    let server = build(dir.path(), "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let (stranger, user) = connectors(&server);

    let mut strangers = Vec::new();
    while let Some(stream) = visit(&server, &stranger).await {
        strangers.push(stream);
    }
    assert_eq!(strangers.len(), MAX_ANONYMOUS);
    assert!(visit(&server, &user).await.is_some());
    strangers.pop();
    let place = async { while visit(&server, &stranger).await.is_none() {} };
    timeout(SOON, place).await.expect("a stranger who leaves makes room");

    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    post(&server, accounts, json!({"metadata": {"name": "robot"}})).await;
    let made = post(&server, &format!("{accounts}/robot/token"), json!({})).await;
    let token = made["status"]["token"].as_str().unwrap();
    let text = format!("GET {accounts} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n\r\n");
    let robot = async {
        loop {
            if let Some(stream) = ask(&server, &stranger, &text, 200).await {
                return stream;
            }
        }
    };
    let _robot = timeout(SOON, robot).await.expect("the last visitor has left");
    let again = ask(&server, &stranger, &text, 200).await;
    assert!(again.is_some(), "who shows a token takes nobody's place");
    let bad = text.replace(token, "no.such.token");
    assert!(ask(&server, &stranger, &bad, 401).await.is_some());
}
