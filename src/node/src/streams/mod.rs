//! Streams between a client and a pod, through the API server: `exec`, `attach`, `port-forward`, `proxy`.
//!
//! ```text
//!  request with Upgrade ─▶ Upgrade ─▶ 101 ─▶ session (a task of the node, ends with the client, the pod or the node)
//!      WebSocket: channels (v5, v4, v1, base64), or SPDY inside it │ SPDY/3.1
//! ```
//!
//! Read first: `remote` (exec and attach, whatever carries them), `forward`, `spdy`. It must never hold more of a
//! stream than its bound: whoever is slow makes the other side wait.

mod forward;
mod proxy;
mod remote;
pub(crate) mod spdy;
mod terminal;
mod websocket;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{
        FromRequestParts, Request,
        ws::{WebSocket, WebSocketUpgrade},
    },
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
    routing::any,
};
use bytes::Bytes;
use coracle_client::Key;
use futures::{Sink, Stream};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::oneshot;
use tokio_util::{
    codec::{BytesCodec, FramedWrite},
    io::ReaderStream,
};

use crate::{context::Context, handle::PodHandle};

/// Which protocols a client wants inside SPDY, and which one it gets.
const PROTOCOL_VERSION: &str = "x-stream-protocol-version";

/// A connection on which nothing was sent for so long gets a ping. Who waits for room, because a guest reads nothing,
/// does not read the connection either, and so does not see that its client has left: only writing tells.
const PING_AFTER: Duration = Duration::from_secs(30);

/// The routes of a node that carry streams.
pub(crate) fn routes() -> Router<Arc<Context>> {
    Router::new()
        .route("/exec/{namespace}/{pod}/{container}", any(remote::exec))
        .route("/attach/{namespace}/{pod}/{container}", any(remote::attach))
        .route("/portForward/{namespace}/{pod}", any(forward::port_forward))
        .route("/podProxy/{namespace}/{pod}/{port}", any(proxy::pod_proxy))
        .route("/podProxy/{namespace}/{pod}/{port}/", any(proxy::pod_proxy))
        .route("/podProxy/{namespace}/{pod}/{port}/{*path}", any(proxy::pod_proxy))
}

/// An answer before any stream is there, in the kubelet's words.
type Refusal = (StatusCode, String);

fn bad(message: impl Into<String>) -> Refusal {
    (StatusCode::BAD_REQUEST, message.into())
}

/// The pod of that name on this node and the door to its worker.
fn find(context: &Context, namespace: &str, name: &str) -> Result<(Arc<Pod>, Arc<PodHandle>), Refusal> {
    let missing = || (StatusCode::NOT_FOUND, "pod does not exist".to_owned());
    let pod = context.pods.get(&Key::new(namespace, name)).ok_or_else(missing)?;
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let handle = context.table.get(uid).ok_or_else(missing)?;
    Ok((pod, handle))
}

/// A request to go on with another protocol.
enum Upgrade {
    WebSocket(WebSocketUpgrade),
    Spdy(OnUpgrade, HeaderMap),
}

impl Upgrade {
    async fn of(request: Request) -> Result<(Parts, Upgrade), Refusal> {
        let (mut parts, _body) = request.into_parts();
        let wanted =
            parts.headers.get(header::UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if wanted.eq_ignore_ascii_case("websocket") {
            let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await;
            let upgrade = upgrade.map_err(|rejection| (rejection.status(), rejection.body_text()))?;
            return Ok((parts, Upgrade::WebSocket(websocket::bounded(upgrade))));
        }
        if wanted.eq_ignore_ascii_case(spdy::PROTOCOL)
            && let Some(upgrade) = parts.extensions.remove::<OnUpgrade>()
        {
            let headers = parts.headers.clone();
            return Ok((parts, Upgrade::Spdy(upgrade, headers)));
        }
        Err(bad("Upgrade request required"))
    }
}

/// Picks the subprotocol of a WebSocket. Clients that name none get the oldest.
fn choose(upgrade: WebSocketUpgrade, offered: &[&'static str]) -> Result<WebSocketUpgrade, Refusal> {
    let wanted: Vec<String> = upgrade
        .requested_protocols()
        .map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned())
        .collect();
    let upgrade = upgrade.protocols(offered.iter().copied());
    if upgrade.selected_protocol().is_some() || wanted.is_empty() {
        return Ok(upgrade);
    }
    let (wanted, offered) = (wanted.join(" "), offered.join(" "));
    Err(bad(format!("requested protocol(s) are not supported: [{wanted}]; supports [{offered}]")))
}

/// Starts a session on a WebSocket. It belongs to the node.
fn upgrade_websocket<F>(
    context: &Arc<Context>,
    upgrade: WebSocketUpgrade,
    session: impl FnOnce(WebSocket) -> F + Send + 'static,
) -> Response
where
    F: Future<Output = ()> + Send + 'static,
{
    let (given, socket) = oneshot::channel();
    let response = upgrade.on_upgrade(async move |socket| {
        let _ = given.send(socket);
    });
    spawn(context, async move {
        if let Ok(socket) = socket.await {
            session(socket).await;
        }
    });
    response
}

/// Starts a session on SPDY, if the client knows one of these protocols; the first of its own wins.
fn upgrade_spdy<F>(
    context: &Arc<Context>,
    upgrade: OnUpgrade,
    headers: &HeaderMap,
    protocols: &[&'static str],
    session: impl FnOnce(&'static str, Upgraded) -> F + Send + 'static,
) -> Response
where
    F: Future<Output = ()> + Send + 'static,
{
    let protocol = match negotiate(headers, protocols) {
        Ok(protocol) => protocol,
        Err(response) => return *response,
    };
    spawn(context, async move {
        match upgrade.await {
            Ok(upgraded) => session(protocol, upgraded).await,
            Err(error) => tracing::debug!(%error, "a connection was not upgraded"),
        }
    });
    let headers = [
        (header::CONNECTION, HeaderValue::from_static("Upgrade")),
        (header::UPGRADE, HeaderValue::from_static(spdy::PROTOCOL)),
        (header::HeaderName::from_static(PROTOCOL_VERSION), HeaderValue::from_static(protocol)),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

fn negotiate(headers: &HeaderMap, offered: &[&'static str]) -> Result<&'static str, Box<Response>> {
    let values = headers.get_all(PROTOCOL_VERSION).iter().filter_map(|value| value.to_str().ok());
    let wanted: Vec<&str> =
        values.flat_map(|value| value.split(',')).map(str::trim).filter(|name| !name.is_empty()).collect();
    if wanted.is_empty() {
        let text = format!(
            "unable to upgrade: header X-Stream-Protocol-Version does not exist in request with {} headers",
            headers.keys_len()
        );
        return Err(Box::new(bad(text).into_response()));
    }
    let chosen = wanted.iter().find_map(|name| offered.iter().find(|offer| *offer == name));
    chosen.copied().ok_or_else(|| {
        let text = format!(
            "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]",
            wanted.join(" "),
            offered.join(" ")
        );
        let mut response = (StatusCode::FORBIDDEN, text).into_response();
        for offer in offered {
            let name = header::HeaderName::from_static("x-accepted-stream-protocol-versions");
            response.headers_mut().append(name, HeaderValue::from_static(offer));
        }
        Box::new(response)
    })
}

/// A task of the node that ends with it at the latest.
fn spawn(context: &Arc<Context>, session: impl Future<Output = ()> + Send + 'static) {
    let stop = context.stop.clone();
    context.tasks.spawn(async move { stop.run_until_cancelled_owned(session).await });
}

/// An upgraded connection as streams of bytes.
fn halves(
    upgraded: Upgraded,
) -> (
    impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    impl Sink<Bytes, Error = std::io::Error> + Send + 'static,
) {
    let (read, write) = tokio::io::split(TokioIo::new(upgraded));
    (ReaderStream::new(read), FramedWrite::new(write, BytesCodec::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_protocol_that_both_know_is_used() {
        #[track_caller]
        fn check(wanted: &[&'static str], expected: Result<&str, StatusCode>) {
            let mut headers = HeaderMap::new();
            for value in wanted {
                headers.append(PROTOCOL_VERSION, HeaderValue::from_static(value));
            }
            let chosen = negotiate(&headers, &["v4.channel.k8s.io", "v3.channel.k8s.io"]);
            assert_eq!(chosen.map_err(|response| response.status()), expected);
        }
        check(&["v5.channel.k8s.io, v4.channel.k8s.io", "v3.channel.k8s.io"], Ok("v4.channel.k8s.io"));
        check(&["v3.channel.k8s.io", "v4.channel.k8s.io"], Ok("v3.channel.k8s.io"));
        check(&["v9"], Err(StatusCode::FORBIDDEN));
        check(&[], Err(StatusCode::BAD_REQUEST));
    }
}
