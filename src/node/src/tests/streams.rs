//! Streams of the kubelet API, by a client that speaks SPDY.

use std::{collections::BTreeMap, sync::Arc};

use axum::body::Body;
use bytes::Bytes;
use http::{Request, StatusCode};
use hyper::upgrade::Upgraded;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use k8s_openapi::{ByteString, api::core::v1::ConfigMap};
use kube::{Api, api::PostParams};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, pki_types::PrivateKeyDer},
};

use super::{
    bench::{Bench, is_ready},
    guests,
};
use crate::streams::spdy::{Decoder, Encoder, Frame};

/// The connection after its upgrade.
async fn upgraded(bench: &Bench, request: http::request::Builder) -> TokioIo<Upgraded> {
    let (near, far) = duplex(64 << 10);
    let service = TowerToHyperService::new(bench.router());
    tokio::spawn(
        hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(far), service)
            .with_upgrades(),
    );
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Body>(TokioIo::new(near)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let request = request.header("host", "n").header("connection", "Upgrade").body(Body::empty()).unwrap();
    let wanted = request.headers().get("x-stream-protocol-version").cloned();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(answer.headers().get("x-stream-protocol-version"), wanted.as_ref());
    TokioIo::new(hyper::upgrade::on(answer).await.unwrap())
}

/// One session: a stream for each of its parts.
struct Session {
    io: TokioIo<Upgraded>,
    encoder: Encoder,
    decoder: Decoder,
    parts: Vec<&'static str>,
    received: BTreeMap<&'static str, Vec<u8>>,
}

impl Session {
    async fn open(bench: &Bench, path: &str, parts: &[&'static str]) -> Session {
        let request = Request::post(path)
            .header("upgrade", "SPDY/3.1")
            .header("x-stream-protocol-version", "v4.channel.k8s.io");
        let io = upgraded(bench, request).await;
        let (encoder, decoder) = (Encoder::new(), Decoder::new());
        let mut session = Session { io, encoder, decoder, parts: parts.to_vec(), received: BTreeMap::new() };
        for (part, stream) in parts.iter().zip((1..).step_by(2)) {
            let headers = vec![("streamtype".to_owned(), (*part).to_owned())];
            session.send(Frame::SynStream { stream, headers, fin: false }).await;
        }
        session
    }

    async fn send(&mut self, frame: Frame) {
        let bytes = self.encoder.encode(&frame);
        self.io.write_all(&bytes).await.unwrap();
    }

    async fn write(&mut self, part: &str, data: &'static str, fin: bool) {
        let at = self.parts.iter().position(|known| *known == part).unwrap();
        let stream = 2 * u32::try_from(at).unwrap() + 1;
        self.send(Frame::Data { stream, data: Bytes::from_static(data.as_bytes()), fin }).await;
    }

    /// Takes frames until the condition holds; false if the session ended first.
    async fn until(&mut self, condition: impl Fn(&Session) -> bool) -> bool {
        while !condition(self) {
            match self.decoder.next().unwrap() {
                Some(Frame::Data { stream, data, .. }) => {
                    let part = self.parts[usize::try_from(stream / 2).unwrap()];
                    self.received.entry(part).or_default().extend_from_slice(&data);
                }
                Some(Frame::GoAway { .. }) => return false,
                Some(_) => {}
                None => {
                    let mut buffer = vec![0; 4096];
                    match self.io.read(&mut buffer).await {
                        Ok(0) | Err(_) => return false,
                        Ok(count) => self.decoder.push(&buffer[..count]),
                    }
                }
            }
        }
        true
    }

    fn text(&self, part: &str) -> &str {
        std::str::from_utf8(self.received.get(part).map_or(&[], Vec::as_slice)).unwrap()
    }

    /// The status at the end.
    async fn end(&mut self) -> Value {
        assert!(!self.until(|_| false).await);
        serde_json::from_str(self.text("error")).unwrap()
    }
}

/// A pod that sleeps, with two tools as files beside it.
async fn pod_with_tools(bench: &Bench) {
    bench.push("registry.local/sleeps:1", guests::sleeps("up\n")).await;
    let tools = ConfigMap {
        metadata: serde_json::from_value(json!({"name": "tools"})).unwrap(),
        binary_data: Some(BTreeMap::from([
            ("fails".to_owned(), ByteString(guests::prints("hello\n", 7))),
            ("echo".to_owned(), ByteString(guests::echoes())),
            ("text".to_owned(), ByteString(b"#!/bin/sh".to_vec())),
        ])),
        ..ConfigMap::default()
    };
    let maps = Api::default_namespaced(bench.client.clone());
    maps.create(&PostParams::default(), &tools).await.unwrap();
    bench
        .create(
            "p",
            json!({
                "containers": [{
                    "name": "c", "image": "registry.local/sleeps:1", "stdin": true,
                    "volumeMounts": [{"name": "bin", "mountPath": "/bin"}],
                }],
                "volumes": [{"name": "bin", "configMap": {"name": "tools"}}],
            }),
        )
        .await;
    bench.pod("p", is_ready).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exec_runs_module_files_and_says_how_they_ended() {
    let bench = Bench::new().await;
    pod_with_tools(&bench).await;
    let exec = "/exec/default/p/c?stdout=true&stderr=true&command=";

    let mut session =
        Session::open(&bench, &format!("{exec}/bin/fails"), &["error", "stdout", "stderr"]).await;
    let status = session.end().await;
    assert_eq!((session.text("stdout"), session.text("stderr")), ("hello\n", ""));
    assert_eq!(status["details"]["causes"], json!([{"reason": "ExitCode", "message": "7"}]));

    let mut session = Session::open(
        &bench,
        "/exec/default/p/c?stdin=true&stdout=true&command=/bin/echo",
        &["stdin", "stdout", "error"],
    )
    .await;
    session.write("stdin", "one ", false).await;
    assert!(session.until(|session| session.text("stdout") == "one ").await);
    session.write("stdin", "two", true).await;
    assert_eq!(session.end().await["status"], "Success");
    assert_eq!(session.text("stdout"), "one two");

    let mut session =
        Session::open(&bench, &format!("{exec}/bin/text"), &["error", "stdout", "stderr"]).await;
    let status = session.end().await;
    assert_eq!(
        status["message"],
        "Internal error occurred: error executing command in container: exec: \"/bin/text\": exec format error"
    );

    for (path, code, text) in [
        ("/exec/default/p/x?stdout=1&command=a", 404, "container not found (\"x\")"),
        ("/exec/default/q/c?stdout=1&command=a", 404, "pod does not exist"),
        ("/exec/default/p/c?stdout=1", 400, "you must specify at least one command for the container"),
        ("/exec/default/p/c?command=a", 400, "you must specify at least 1 of stdin, stdout, stderr"),
        ("/exec/default/p/c?stdout=1&command=a", 400, "Upgrade request required"),
    ] {
        assert_eq!(bench.get(path).await, (code, text.into()), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_end_with_their_pod() {
    let bench = Bench::new().await;
    pod_with_tools(&bench).await;
    let path = "/exec/default/p/c?stdout=true&command=itself";
    let mut exec = Session::open(&bench, path, &["error", "stdout"]).await;
    assert!(exec.until(|session| session.text("stdout") == "up\n").await, "the container's own module");
    let mut attach = Session::open(&bench, "/attach/default/p/c?stdout=true", &["error", "stdout"]).await;
    bench.delete("p").await;
    assert_eq!(exec.end().await["details"]["causes"][0]["message"], "137");
    assert_eq!(attach.end().await["status"], "Success");
    bench.gone("p").await;
}

/// A program in the pod that speaks HTTPS by a certificate of its own making: it says what it was asked for, and
/// echoes what comes over an upgraded connection.
async fn serve_tls(stack: coracle_network::PodStack) {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["elsewhere".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![cert.der().clone()], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = stack.listen(std::net::SocketAddr::new(stack.ip().into(), 443), 8).unwrap();
    tokio::spawn(async move {
        while let Ok(stream) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let service = hyper::service::service_fn(async |mut request: Request<hyper::body::Incoming>| {
                let path = request.uri().to_string();
                if !request.headers().contains_key("upgrade") {
                    return Ok::<_, std::convert::Infallible>(http::Response::new(path));
                }
                let upgrade = hyper::upgrade::on(&mut request);
                tokio::spawn(async move {
                    let mut io = TokioIo::new(upgrade.await.unwrap());
                    let mut word = [0; 4];
                    io.read_exact(&mut word).await.unwrap();
                    io.write_all(&word).await.unwrap();
                });
                let response = http::Response::builder().status(101).header("connection", "Upgrade");
                Ok(response.header("upgrade", "echo").body(String::new()).unwrap())
            });
            let http = hyper::server::conn::http1::Builder::new();
            tokio::spawn(http.serve_connection(TokioIo::new(stream), service).with_upgrades());
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_speak_tls_to_pods() {
    let bench = Bench::new().await;
    bench.push("registry.local/sleeps:1", guests::sleeps("up\n")).await;
    bench.create("p", json!({"containers": [{"name": "c", "image": "registry.local/sleeps:1"}]})).await;
    bench.pod("p", is_ready).await;
    serve_tls(bench.stack("p").await).await;

    let pod = "/podProxy/default/p/https:443";
    assert_eq!(bench.get(&format!("{pod}/a%2Fb?c")).await, (200, "/a%2Fb?c".into()));
    assert_eq!(bench.get(pod).await, (200, "/".into()));

    let mut io = upgraded(&bench, Request::get(format!("{pod}/socket")).header("upgrade", "echo")).await;
    io.write_all(b"word").await.unwrap();
    let mut word = [0; 4];
    io.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"word");
}
