//! exec, attach, port-forward and the proxies: what reaches a node, and what comes back.

use axum::{Router, body::Body, extract::Request, response::Response, routing::any};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::harness::{MERGE, Server, request};

const POD: &str = "/api/v1/namespaces/default/pods/p";

/// A node that says what it was asked, and echoes in capitals what comes over an upgraded connection until
/// the line `end`.
pub(super) async fn node(mut request: Request) -> Response {
    let asked = format!("{} {}", request.method(), request.uri());
    let told: Vec<String> = ["authorization", "x-forwarded-uri", "x-stream-protocol-version", "connection"]
        .iter()
        .filter_map(|name| Some(format!("{name}={}", request.headers().get(*name)?.to_str().unwrap())))
        .collect();
    let response = Response::builder().header("x-asked", &asked).header("x-told", told.join(" "));
    if request.uri().path().ends_with("/moved") {
        let moved = response.status(302).header("location", "/elsewhere?x=1");
        return moved.body(Body::empty()).unwrap();
    }
    if request.uri().path().starts_with("/refuse") || !request.headers().contains_key("upgrade") {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        return response.body(Body::from(body)).unwrap();
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut stream = TokioIo::new(upgrade.await.unwrap());
        let mut bytes = [0; 64];
        loop {
            let read = stream.read(&mut bytes).await.unwrap();
            let text = String::from_utf8_lossy(&bytes[..read]).to_uppercase();
            stream.write_all(text.as_bytes()).await.unwrap();
            if read == 0 || text.ends_with("END\n") {
                break;
            }
        }
    });
    let switching = response.status(101).header("connection", "Upgrade").header("upgrade", "SPDY/3.1");
    switching.body(Body::empty()).unwrap()
}

/// A server with the pod `p` on the node `n`, which answers.
async fn server() -> Server {
    let server = Server::new().await;
    server.core.nodes.register("n", Router::new().fallback(any(node)));
    server.pod("p", &["a"]).await;
    server.bind("p", "n").await.is(201);
    server
}

/// A request for an upgrade, as bytes.
fn upgrade(method: &str, path: &str, more: &str) -> Vec<u8> {
    format!("{method} {path} HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nAuthorization: Basic x\r\n{more}\r\n")
        .into_bytes()
}

#[tokio::test]
async fn streams_go_both_ways_until_one_side_ends() {
    let server = server().await;
    for (path, asked) in [
        (
            "exec?command=ls&command=-l%20x&stdin=true&stdout=true&stderr=false&tty=true",
            "/exec/default/p/a?command=ls&command=-l%20x&stdin=true&stdout=true&tty=true",
        ),
        ("attach?container=a&stdout=1", "/attach/default/p/a?stdout=true"),
        ("exec?command=x", "/exec/default/p/a?command=x&stdout=true&stderr=true"),
        ("portforward?ports=80&ports=81", "/portForward/default/p?ports=80&ports=81"),
    ] {
        let mut wire = server.connect();
        let more = "X-Stream-Protocol-Version: v4.channel.k8s.io\r\n";
        wire.write(&upgrade("POST", &format!("{POD}/{path}"), more)).await;
        let head = wire.head().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains(&format!("x-asked: POST {asked}\r\n")), "{head}");
        let told = "x-told: x-stream-protocol-version=v4.channel.k8s.io connection=Upgrade\r\n";
        assert!(head.contains(told), "{head}");
        wire.write(b"hello").await;
        assert_eq!(wire.read(5).await, b"HELLO");
        wire.write(b"the end\n").await;
        assert_eq!(wire.rest().await, b"THE END\n");
    }
}

#[tokio::test]
async fn streams_end_with_the_server() {
    let server = server().await;
    let mut wire = server.connect();
    wire.write(&upgrade("GET", &format!("{POD}/attach"), "")).await;
    assert!(wire.head().await.starts_with("HTTP/1.1 101 "));
    server.core.shutdown.cancel();
    assert_eq!(wire.rest().await, b"");
    server.core.tasks.close();
    server.core.tasks.wait().await;
}

#[tokio::test]
async fn streams_that_cannot_be() {
    let server = Server::new().await;
    server.pod("p", &["a", "b"]).await;
    let exec = async |query: &str| server.get(&format!("{POD}/exec?{query}")).await;
    exec("command=x").await.fails(
        400,
        "BadRequest",
        "a container name must be specified for pod p, choose one of: [a b]",
    );
    exec("container=c").await.fails(400, "BadRequest", "container c is not valid for pod p");
    exec("container=a").await.fails(400, "BadRequest", "pod p does not have a host assigned");
    server.bind("p", "gone").await.is(201);
    exec("container=a").await.fails(400, "BadRequest", "Upgrade request required");
    server.get("/api/v1/namespaces/default/pods/q/exec").await.fails(404, "NotFound", "pods \"q\" not found");
    server.delete(&format!("{POD}/exec"), json!(null)).await.fails(405, "MethodNotAllowed", "");

    let spdy = upgrade("POST", &format!("{POD}/exec?container=a"), "");
    let mut wire = server.connect();
    wire.write(&spdy).await;
    assert!(wire.head().await.starts_with("HTTP/1.1 500 "));

    server.patch(&format!("{POD}/status"), MERGE, json!({"status": {"phase": "Succeeded"}})).await.is(200);
    let why = "cannot exec into a container in a completed pod; current phase is Succeeded";
    exec("container=a").await.fails(400, "BadRequest", why);
}

#[tokio::test]
async fn a_node_that_is_not_there_is_told_in_the_stream() {
    let server = Server::new().await;
    server.pod("p", &["a"]).await;
    server.bind("p", "gone").await.is(201);
    let mut wire = server.connect();
    let text = format!(
        "GET {POD}/exec?command=x HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n"
    );
    wire.write(text.as_bytes()).await;
    let head = wire.head().await.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{head}");
    let start = wire.read(5).await;
    assert_eq!((&start[..2], start[4]), (&[0x82, 126][..], 3));
    let length = usize::from(u16::from_be_bytes([start[2], start[3]])) - 1;
    let status: serde_json::Value = serde_json::from_slice(&wire.read(length).await).unwrap();
    let why = "Internal error occurred: error dialing backend: no connection to node \"gone\"";
    assert_eq!((&status["status"], &status["message"]), (&json!("Failure"), &json!(why)));
    assert_eq!(wire.read(4).await, [0x88, 2, 3, 232]);
}

#[tokio::test]
async fn proxies_pass_everything_on() {
    let server = server().await;
    let pod = "/api/v1/namespaces/default/pods/p/proxy";
    server.get(&format!("{pod}/x")).await.fails(400, "BadRequest", "address not allowed");
    let status = json!({"status": {"podIP": "10.1.2.3", "podIPs": [{"ip": "10.1.2.3"}]}});
    server.patch(&format!("{POD}/status"), MERGE, status).await.is(200);

    let root = server.get(&format!("{pod}?a=b")).await;
    assert_eq!((root.code, root.header("location")), (301, &*format!("{pod}/?a=b")));
    let answer = server.send(request(Method::PUT, &format!("{pod}//x%2Fy/?a=b&watch=1"), "", "body")).await;
    assert_eq!((answer.code, answer.text().as_str()), (200, "body"));
    assert_eq!(answer.header("x-asked"), "PUT /podProxy/default/p/80//x%2Fy/?a=b&watch=1");
    assert_eq!(answer.header("x-told"), format!("x-forwarded-uri={pod}//x%2Fy/"));
    let moved = server.get("/api/v1/namespaces/default/pods/http:p:81/proxy/moved").await;
    assert_eq!(moved.code, 302);
    assert_eq!(moved.header("location"), "/api/v1/namespaces/default/pods/http:p:81/proxy/elsewhere?x=1");
    let head = request(Method::OPTIONS, &format!("{pod}/"), "", "");
    assert_eq!(server.send(head).await.header("x-asked"), "OPTIONS /podProxy/default/p/80/");
    server.get("/api/v1/namespaces/default/pods/p:x/proxy/").await.fails(400, "BadRequest", "invalid port");
    for (name, port) in [("https:p:1", "https:1"), ("https:p:", "https:443")] {
        let answer = server.get(&format!("/api/v1/namespaces/default/pods/{name}/proxy/")).await;
        assert_eq!(answer.header("x-asked"), format!("GET /podProxy/default/p/{port}/"));
    }
    server.get("/api/v1/namespaces/default/pods/ftp:p:1/proxy/").await.fails(400, "BadRequest", "ftp:p:1");

    let mut wire = server.connect();
    wire.write(&upgrade("GET", &format!("{pod}/socket"), "")).await;
    assert!(wire.head().await.contains("x-asked: GET /podProxy/default/p/80/socket\r\n"));
    wire.write(b"the end\n").await;
    assert_eq!(wire.rest().await, b"THE END\n");

    let node = json!({"metadata": {"name": "n"}});
    server.get("/api/v1/nodes/n/proxy/pods").await.fails(404, "NotFound", "nodes \"n\" not found");
    server.post("/api/v1/nodes", node).await.is(201);
    let answer = server.get("/api/v1/nodes/n/proxy/stats/summary?only=cpu").await;
    assert_eq!(answer.header("x-asked"), "GET /stats/summary?only=cpu");
    server.core.nodes.unregister("n");
    let away = server.get("/api/v1/nodes/n:10250/proxy/pods").await;
    away.fails(503, "ServiceUnavailable", "error trying to reach service: no connection to node \"n\"");
}

#[tokio::test]
async fn services_are_proxied_to_a_ready_pod() {
    let server = server().await;
    let status = json!({"status": {"podIP": "10.1.2.3", "podIPs": [{"ip": "10.1.2.3"}]}});
    server.patch(&format!("{POD}/status"), MERGE, status).await.is(200);
    let services = "/api/v1/namespaces/default/services";
    let ports = json!([{"name": "web", "port": 80, "targetPort": 8080}, {"name": "admin", "port": 81}]);
    server.post(services, json!({"metadata": {"name": "s"}, "spec": {"ports": ports}})).await.is(201);
    let none = "no endpoints available for service \"s\"";
    server.get(&format!("{services}/s/proxy/")).await.fails(503, "ServiceUnavailable", none);
    let address =
        json!([{"ip": "10.1.2.3", "targetRef": {"kind": "Pod", "name": "p", "namespace": "default"}}]);
    let subsets = json!([{"addresses": address, "ports": [{"name": "web", "port": 8080}]}]);
    let endpoints = json!({"metadata": {"name": "s"}, "subsets": subsets});
    server.post("/api/v1/namespaces/default/endpoints", endpoints).await.is(201);
    for name in ["s:web", "s:80", "http:s:web"] {
        let answer = server.get(&format!("{services}/{name}/proxy/a?b=c")).await;
        assert_eq!(answer.header("x-asked"), "GET /podProxy/default/p/8080/a?b=c", "{name}");
    }
    let answer = server.get(&format!("{services}/https:s:80/proxy/")).await;
    assert_eq!(answer.header("x-asked"), "GET /podProxy/default/p/https:8080/");
    let missing = "no service port 90 found for service \"s\"";
    server.get(&format!("{services}/s:90/proxy/")).await.fails(503, "ServiceUnavailable", missing);
    let none = "no endpoints available for service \"s:81\"";
    server.get(&format!("{services}/s:81/proxy/")).await.fails(503, "ServiceUnavailable", none);
    assert_eq!(server.get(&format!("{services}/q/proxy/")).await.code, StatusCode::NOT_FOUND);
}

/// Who may write endpoints reaches no more by it.
#[tokio::test]
async fn services_are_not_proxied_to_what_is_no_pod() {
    let server = server().await;
    let status = json!({"status": {"podIP": "10.1.2.3", "podIPs": [{"ip": "10.1.2.3"}]}});
    server.patch(&format!("{POD}/status"), MERGE, status).await.is(200);
    let services = "/api/v1/namespaces/default/services";
    let check = async |name: &str, ip: &str, pod: serde_json::Value, code: u16| {
        let service = json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}});
        server.post(services, service).await.is(201);
        let subsets = json!([{"addresses": [{"ip": ip, "targetRef": pod}], "ports": [{"port": 8443}]}]);
        let endpoints = json!({"metadata": {"name": name}, "subsets": subsets});
        server.post("/api/v1/namespaces/default/endpoints", endpoints).await.is(201);
        assert_eq!(server.get(&format!("{services}/{name}/proxy/x")).await.code, code, "{name}");
    };
    let own = json!({"kind": "Pod", "name": "p", "namespace": "default"});
    check("pod", "10.1.2.3", own.clone(), 200).await;
    check("none", "192.0.2.7", json!(null), 503).await;
    check("another", "10.1.2.4", own, 503).await;
    check("foreign", "10.1.2.3", json!({"kind": "Pod", "name": "p", "namespace": "other"}), 503).await;
}
