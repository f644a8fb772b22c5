//! A server to talk to, and answers to look at.

use std::{cell::OnceCell, sync::Arc, time::Duration};

use axum::{Extension, Router, body::Body, middleware};
use bytes::{Bytes, BytesMut};
use coracle_store::Embedded;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::{
    auth::{self, User},
    bootstrap,
    core::Core,
    tokens::Tokens,
};

pub(super) const JSON: &str = "application/json";
pub(super) const MERGE: &str = "application/merge-patch+json";
pub(super) const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub(super) const JSON_PATCH: &str = "application/json-patch+json";
pub(super) const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// What is waited for comes within this time, or not at all.
pub(super) const SOON: Duration = Duration::from_secs(10);

/// Wall time that follows tokio's clock from a fixed day on, so that a paused clock moves it.
fn test_clock() -> Timestamp {
    thread_local!(static START: OnceCell<Instant> = const { OnceCell::new() });
    let start = START.with(|start| *start.get_or_init(Instant::now));
    let day: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    day + SignedDuration::try_from(start.elapsed()).unwrap()
}

/// A server over an empty memory store, with what every cluster has.
pub(super) struct Server {
    pub(super) core: Arc<Core>,
    pub(super) router: Router,
}

impl Server {
    pub(super) async fn new() -> Server {
        Server::over(Embedded::memory()).await
    }

    pub(super) async fn over(store: Arc<Embedded>) -> Server {
        let cidr = "10.96.0.0/16".parse().unwrap();
        let tokens = Tokens::new(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let core = Core::new(
            store,
            cidr,
            "fd00:1:2:ffff::/112".parse().unwrap(),
            30000..=30009,
            tokens,
            test_clock,
            CancellationToken::new(),
        );
        bootstrap::run(&core, "127.0.0.1:6443".parse().unwrap())
            .await
            .expect("an empty store takes the first objects");
        let router = core.clone().router();
        Server { core, router }
    }

    pub(super) async fn send(&self, request: Request<Body>) -> Answer {
        let (parts, body) = self.open(request).await.into_parts();
        let body = body.collect().await.expect("bodies of the router do not fail").to_bytes();
        Answer { code: parts.status.as_u16(), headers: parts.headers, body }
    }

    /// The head of an answer, and its body to be read.
    pub(super) async fn open(&self, mut request: Request<Body>) -> http::Response<Body> {
        request.extensions_mut().insert(User::new("tester", &[]));
        self.router.clone().oneshot(request).await.expect("the router does not fail")
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.send(request(Method::GET, path, "", "")).await
    }

    pub(super) async fn get_as(&self, path: &str, accept: &str) -> Answer {
        let request = Request::get(path).header("accept", accept).body(Body::empty()).unwrap();
        self.send(request).await
    }

    pub(super) async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(request(Method::POST, path, JSON, body.to_string())).await
    }

    pub(super) async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(request(Method::PUT, path, JSON, body.to_string())).await
    }

    pub(super) async fn patch(&self, path: &str, type_: &str, body: Value) -> Answer {
        self.send(request(Method::PATCH, path, type_, body.to_string())).await
    }

    pub(super) async fn delete(&self, path: &str, options: Value) -> Answer {
        let body = if options.is_null() { String::new() } else { options.to_string() };
        self.send(request(Method::DELETE, path, JSON, body)).await
    }

    /// Opens a watch.
    pub(super) async fn watch(&self, path: &str) -> Lines {
        self.watch_as(path, JSON).await
    }

    pub(super) async fn watch_as(&self, path: &str, accept: &str) -> Lines {
        let request = Request::get(path).header("accept", accept).body(Body::empty()).unwrap();
        let answer = self.open(request).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        Lines { body: answer.into_body(), read: BytesMut::new() }
    }

    /// Creates a ConfigMap and returns it.
    pub(super) async fn config_map(&self, namespace: &str, name: &str, labels: Value) -> Value {
        let body = json!({"metadata": {"name": name, "labels": labels}, "data": {"key": "value"}});
        self.post(&format!("/api/v1/namespaces/{namespace}/configmaps"), body).await.is(201)
    }

    /// Creates a pod of these containers and returns it.
    pub(super) async fn pod(&self, name: &str, containers: &[&str]) -> Value {
        let containers: Vec<Value> =
            containers.iter().map(|name| json!({"name": name, "image": "i"})).collect();
        let body = json!({"metadata": {"name": name}, "spec": {"containers": containers}});
        self.post("/api/v1/namespaces/default/pods", body).await.is(201)
    }

    /// Sends a request as somebody of whom only a token is known.
    pub(super) async fn send_with(&self, token: &str, mut request: Request<Body>) -> Answer {
        let token = format!("Bearer {token}").parse().unwrap();
        request.headers_mut().insert("authorization", token);
        let door = middleware::from_fn_with_state(self.core.clone(), auth::require_user);
        let answer = self.core.clone().router().layer(door).oneshot(request).await;
        let (parts, body) = answer.expect("the router does not fail").into_parts();
        let body = body.collect().await.expect("bodies of the router do not fail").to_bytes();
        Answer { code: parts.status.as_u16(), headers: parts.headers, body }
    }

    /// A connection on which a test speaks HTTP/1.1 by hand.
    pub(super) fn connect(&self) -> Wire {
        let (near, far) = duplex(64 * 1024);
        let router = self.router.clone().layer(Extension(User::new("tester", &[])));
        let serving = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(far), TowerToHyperService::new(router));
        tokio::spawn(serving.with_upgrades());
        Wire(near)
    }

    /// Puts a pod on a node.
    pub(super) async fn bind(&self, pod: &str, node: &str) -> Answer {
        let body = json!({"metadata": {"name": pod}, "target": {"kind": "Node", "name": node}});
        self.post(&format!("/api/v1/namespaces/default/pods/{pod}/binding"), body).await
    }
}

pub(super) fn request(method: Method, path: &str, type_: &str, body: impl Into<Body>) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if !type_.is_empty() {
        request = request.header("content-type", type_);
    }
    request.body(body.into()).unwrap()
}

/// An answer, read to its end.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) code: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The body, if the code is this one.
    #[track_caller]
    pub(super) fn is(&self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", self.text());
        self.json()
    }

    /// A failure of this code and reason, whose message has this in it.
    #[track_caller]
    pub(super) fn fails(&self, code: u16, reason: &str, message: &str) {
        let status = self.json();
        assert_eq!(self.code, code, "{status}");
        assert_eq!(status["kind"], "Status");
        assert_eq!(status["status"], "Failure");
        assert_eq!(status["code"], code);
        assert_eq!(status["reason"].as_str().unwrap_or_default(), reason, "{status}");
        let said = status["message"].as_str().unwrap_or_default();
        assert!(said.contains(message), "{said:?} does not say {message:?}");
    }
}

/// The names of the items of a list.
pub(super) fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().expect("a list has items");
    items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

/// `metadata.resourceVersion`.
pub(super) fn version(object: &Value) -> String {
    object["metadata"]["resourceVersion"].as_str().expect("it has a resourceVersion").to_owned()
}

/// The lines of a stream.
pub(super) struct Lines {
    body: Body,
    read: BytesMut,
}

impl Lines {
    /// The next line; `None` at the end of the stream.
    pub(super) async fn line(&mut self) -> Option<String> {
        self.line_within(SOON).await
    }

    async fn line_within(&mut self, limit: Duration) -> Option<String> {
        loop {
            if let Some(end) = self.read.iter().position(|b| *b == b'\n') {
                let line = self.read.split_to(end + 1);
                return Some(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            let frame = timeout(limit, self.body.frame()).await.expect("a line comes soon")?;
            if let Ok(data) = frame.expect("bodies of the router do not fail").into_data() {
                self.read.extend_from_slice(&data);
            }
        }
    }

    /// The next event.
    pub(super) async fn event(&mut self) -> Value {
        let line = self.line().await.expect("the watch goes on");
        serde_json::from_str(&line).unwrap()
    }

    /// The next event as `TYPE name`.
    pub(super) async fn short(&mut self) -> String {
        let event = self.event().await;
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default();
        format!("{} {name}", event["type"].as_str().unwrap())
    }
}

/// The client's end of a connection.
pub(super) struct Wire(DuplexStream);

impl Wire {
    pub(super) async fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.expect("the connection is open");
    }

    /// The head of an answer, as text.
    pub(super) async fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let byte = timeout(SOON, self.0.read_u8()).await.expect("an answer comes soon");
            head.push(byte.expect("the head is whole"));
        }
        String::from_utf8(head).unwrap()
    }

    /// So many bytes.
    pub(super) async fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        timeout(SOON, self.0.read_exact(&mut bytes)).await.expect("bytes come soon").unwrap();
        bytes
    }

    /// What comes until the end.
    pub(super) async fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        timeout(SOON, self.0.read_to_end(&mut bytes)).await.expect("the end comes soon").unwrap();
        bytes
    }
}

/// For tests whose clock is paused: the deadline of [`Lines::line`] would come first.
impl Lines {
    pub(super) async fn line_within_a_day(&mut self) -> Option<String> {
        self.line_within(Duration::from_secs(86_400)).await
    }

    pub(super) async fn event_within_a_day(&mut self) -> Value {
        let line = self.line_within_a_day().await.expect("the watch goes on");
        serde_json::from_str(&line).unwrap()
    }
}
