//! `pods/…/exec`, `pods/…/attach` and `pods/…/portforward`: streams between a client and the node of a pod.

use axum::{body::Body, response::Response};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use coracle_api::status::Status;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Duration, timeout},
};

use super::{container, escape};
use crate::{
    connect::{self, Forward},
    dispatch::Asked,
    object, verbs,
};

/// GET or POST of `exec`.
pub(crate) async fn exec(asked: Asked, body: Body) -> Result<Response, Status> {
    let pod = pod(&asked).await?;
    let container = container::pick(&pod, asked.parameters.get("container"))?;
    let phase = object::text(&pod, "/status/phase");
    if matches!(phase, "Succeeded" | "Failed") {
        return Err(Status::bad_request(format!(
            "cannot exec into a container in a completed pod; current phase is {phase}"
        )));
    }
    let path = container_path("exec", &pod, &container, &asked);
    stream(asked, body, &pod, path).await
}

/// GET or POST of `attach`.
pub(crate) async fn attach(asked: Asked, body: Body) -> Result<Response, Status> {
    let pod = pod(&asked).await?;
    let container = container::pick(&pod, asked.parameters.get("container"))?;
    let phase = object::text(&pod, "/status/phase");
    if matches!(phase, "Succeeded" | "Failed") {
        return Err(Status::bad_request(format!(
            "cannot attach a container in a completed pod; current phase is {phase}"
        )));
    }
    let path = container_path("attach", &pod, &container, &asked);
    stream(asked, body, &pod, path).await
}

/// GET or POST of `portforward`.
pub(crate) async fn port_forward(asked: Asked, body: Body) -> Result<Response, Status> {
    let pod = pod(&asked).await?;
    let (namespace, name) = (escape(object::namespace(&pod)), escape(object::name(&pod)));
    let mut path = format!("/portForward/{namespace}/{name}");
    let mut separator = '?';
    for port in asked.parameters.all("ports") {
        path.push_str(&format!("{separator}ports={}", escape(port)));
        separator = '&';
    }
    stream(asked, body, &pod, path).await
}

async fn pod(asked: &Asked) -> Result<Value, Status> {
    verbs::read_barrier(&asked.call, &asked.parameters).await?;
    Ok(asked.call.object(&*asked.call.entry()?))
}

/// The kubelet's path for a stream of a container, with the streams that were asked for.
fn container_path(verb: &str, pod: &Value, container: &str, asked: &Asked) -> String {
    let (namespace, name) = (escape(object::namespace(pod)), escape(object::name(pod)));
    let mut path = format!("/{verb}/{namespace}/{name}/{}", escape(container));
    let parameters = &asked.parameters;
    let mut pairs: Vec<(&str, &str)> =
        parameters.all("command").map(|word| ("command", word)).filter(|_| verb == "exec").collect();
    let outputs = ["stdin", "stdout", "stderr"].iter().any(|name| parameters.optional_flag(name).is_some());
    for name in ["stdin", "stdout", "stderr", "tty"] {
        // Who asks for nothing gets the output, as Kubernetes defaults these options.
        let on = if outputs { parameters.flag(name) } else { name.starts_with("std") && name != "stdin" };
        if on || (name == "tty" && parameters.flag(name)) {
            pairs.push((name, "true"));
        }
    }
    for (index, (name, value)) in pairs.iter().enumerate() {
        path.push_str(&format!("{}{name}={}", if index == 0 { '?' } else { '&' }, escape(value)));
    }
    path
}

async fn stream(asked: Asked, body: Body, pod: &Value, path: String) -> Result<Response, Status> {
    let node = object::text(pod, "/spec/nodeName");
    if node.is_empty() {
        let name = object::name(pod);
        return Err(Status::bad_request(format!("pod {name} does not have a host assigned")));
    }
    if !connect::wants_upgrade(&asked.headers) {
        return Err(Status::bad_request("Upgrade request required"));
    }
    let core = asked.call.core.clone();
    let Some(kubelet) = core.nodes.get(node) else {
        return unreachable(asked, node);
    };
    let Asked { method, headers, upgrade, share, .. } = asked;
    connect::forward(&core, kubelet, Forward { method, path, headers, body, upgrade, share }).await
}

/// The newest protocol of exec and attach, whose error channel can say why there is nothing else.
const V5: &str = "v5.channel.k8s.io";
/// The number of that channel.
const ERROR_CHANNEL: u8 = 3;
/// What a WebSocket server proves that it is one with (RFC 6455).
const WEBSOCKET_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// How long a client may take to read why it gets nothing.
const FAREWELL: Duration = Duration::from_secs(5);

/// A node that cannot be reached. Kubernetes has accepted a v5 stream before it knows, and says so in the
/// stream; anybody else gets the status at once.
fn unreachable(asked: Asked, node: &str) -> Result<Response, Status> {
    let why = format!("error dialing backend: no connection to node {node:?}");
    let status = Status::internal_error(&why);
    let Asked { headers, upgrade, info, call, .. } = asked;
    let streams = matches!(info.subresource.as_str(), "exec" | "attach");
    let Some((client, key)) = upgrade.zip(v5_key(&headers)).filter(|_| streams) else {
        return Err(status);
    };
    let shutdown = call.core.shutdown.clone();
    call.core.tasks.spawn(async move {
        let say = timeout(FAREWELL, async {
            let Ok(upgraded) = client.await else { return };
            let mut socket = TokioIo::new(upgraded);
            let frames = farewell(&status);
            if socket.write_all(&frames).await.is_ok() && socket.flush().await.is_ok() {
                // The client answers the close; a connection closed before would lose what it was told.
                let mut rest = [0; 256];
                while matches!(socket.read(&mut rest).await, Ok(read) if read > 0) {}
            }
        });
        tokio::select! {
            said = say => drop(said),
            () = shutdown.cancelled() => {}
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answer = response.headers_mut();
    answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    answer.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(V5));
    answer.insert(header::SEC_WEBSOCKET_ACCEPT, key);
    Ok(response)
}

/// The proof for a client that wants a v5 WebSocket; `None` for others.
fn v5_key(headers: &HeaderMap) -> Option<HeaderValue> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let websocket = text(header::UPGRADE)?.eq_ignore_ascii_case("websocket");
    let protocols = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let mut protocols = protocols.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    if !websocket || !protocols.any(|protocol| protocol.trim() == V5) {
        return None;
    }
    let key = format!("{}{WEBSOCKET_GUID}", text(header::SEC_WEBSOCKET_KEY)?);
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, key.as_bytes());
    HeaderValue::from_str(&STANDARD.encode(digest)).ok()
}

/// Two WebSocket frames: the status on the error channel, and a normal close.
fn farewell(status: &Status) -> Bytes {
    const BINARY: u8 = 0x82;
    const CLOSE: u8 = 0x88;
    const NORMAL: u16 = 1000;
    let text = serde_json::to_vec(&status.to_value()).expect("a Status serialises");
    let length = u16::try_from(text.len() + 1).unwrap_or(u16::MAX);
    let mut frames = vec![BINARY, 126];
    frames.extend(length.to_be_bytes());
    frames.push(ERROR_CHANNEL);
    frames.extend(&text[..usize::from(length) - 1]);
    frames.extend([CLOSE, 2]);
    frames.extend(NORMAL.to_be_bytes());
    Bytes::from(frames)
}
