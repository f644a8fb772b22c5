//! Requests that are passed on to a node's kubelet API, and the streams that come of them.
//!
//! A plain request goes to the node's router as it is. A request for an upgrade (WebSocket, SPDY) needs a
//! connection to upgrade, so it goes to the same router over an HTTP/1.1 connection inside the process:
//!
//! ```text
//!  client ══ TLS ══ our connection        pipe ══ node's connection ══ its handler
//!                      │ GET … Upgrade: …  │
//!                      └──── verbatim ─────┘     then, after 101, bytes both ways
//! ```
//!
//! The stream ends when either side does, or with the server.

use std::{future::Future, sync::Arc, time::Duration};

use axum::{Router, body::Body, response::Response};
use coracle_api::status::Status;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Version, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, copy_buf, duplex, split},
    sync::OwnedSemaphorePermit,
    time::timeout,
};
use tower::ServiceExt;
use tracing::debug;

use crate::{core::Core, shares::Share};

/// Bytes under way in each direction between two ends of a stream.
const BUFFER: usize = 32 * 1024;
/// How long both ends may take from the answer 101 to the stream.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the last bytes may take to a client that reads no more.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Headers that are about one connection, not about the request.
static HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// A request to be passed on.
pub(crate) struct Forward {
    pub(crate) method: Method,
    /// Path and query at the node.
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
    pub(crate) upgrade: Option<OnUpgrade>,
    /// Kept by a stream until it ends.
    pub(crate) share: Share,
}

/// True if the client asks for another protocol on its connection.
pub(crate) fn wants_upgrade(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let mut words = values.flat_map(|value| value.split(',')).map(str::trim);
    headers.contains_key(header::UPGRADE) && words.any(|word| word.eq_ignore_ascii_case("upgrade"))
}

/// Passes a request on and answers what the node answers.
pub(crate) async fn forward(core: &Arc<Core>, kubelet: Router, forward: Forward) -> Result<Response, Status> {
    let Forward { method, path, mut headers, body, upgrade, share } = forward;
    // Whoever calls was authenticated here; what they authenticated with is nobody else's business.
    headers.remove(header::AUTHORIZATION);
    let upgrading = wants_upgrade(&headers);
    if !upgrading {
        HOP_BY_HOP.iter().for_each(|name| drop(headers.remove(name)));
    }
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().map_err(|_| Status::bad_request("the path is not a URL's"))?;
    *request.headers_mut() = headers;
    if upgrading {
        let Some(client) = upgrade else {
            return Err(Status::bad_request("this connection cannot be upgraded"));
        };
        return upgraded(core, kubelet, request, client, share).await;
    }
    let answer = match kubelet.oneshot(request).await {
        Ok(answer) => answer,
        Err(never) => match never {},
    };
    let (mut parts, body) = answer.into_parts();
    HOP_BY_HOP.iter().for_each(|name| drop(parts.headers.remove(name)));
    Ok(Response::from_parts(parts, ending(core, body)))
}

/// A body that ends with the server.
fn ending(core: &Core, body: Body) -> Body {
    use futures::StreamExt;
    use hyper::body::Body as _;
    if body.is_end_stream() || body.size_hint().exact().is_some() {
        return body;
    }
    let shutdown = core.shutdown.clone();
    Body::from_stream(body.into_data_stream().take_until(async move { shutdown.cancelled().await }))
}

async fn upgraded(
    core: &Arc<Core>,
    kubelet: Router,
    mut request: Request<Body>,
    client: OnUpgrade,
    share: Share,
) -> Result<Response, Status> {
    let place = core.streams.clone().try_acquire_owned();
    let place = place.map_err(|_| Status::too_many_requests("too many streams are open", 1))?;
    *request.version_mut() = Version::HTTP_11;
    request.headers_mut().entry(header::HOST).or_insert(HeaderValue::from_static("localhost"));

    let failed = |error: hyper::Error| Status::internal_error(&format!("error dialing backend: {error}"));
    let (near, far) = duplex(BUFFER);
    let serving = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(far), TowerToHyperService::new(kubelet))
        .with_upgrades();
    spawn_until_shutdown(core, serving);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(near)).await.map_err(failed)?;
    spawn_until_shutdown(core, connection.with_upgrades());

    let mut answer = sender.send_request(request).await.map_err(failed)?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(answer.map(Body::new));
    }
    let node = hyper::upgrade::on(&mut answer);
    core.tasks.spawn(splice(core.clone(), client, node, (place, share)));
    Ok(answer.map(|_| Body::empty()))
}

/// Runs one end of a connection until it ends, or until the server stops.
fn spawn_until_shutdown<F>(core: &Core, connection: F)
where
    F: Future<Output = Result<(), hyper::Error>> + Send + 'static,
{
    let shutdown = core.shutdown.clone();
    core.tasks.spawn(async move {
        tokio::select! {
            ended = connection => {
                if let Err(error) = ended {
                    debug!(%error, "a connection to a node ended");
                }
            }
            () = shutdown.cancelled() => {}
        }
    });
}

/// Copies bytes both ways until either side ends or the server stops.
async fn splice(core: Arc<Core>, client: OnUpgrade, node: OnUpgrade, place: (OwnedSemaphorePermit, Share)) {
    let ends = async { tokio::try_join!(client, node) };
    match timeout(UPGRADE_TIMEOUT, ends).await {
        Ok(Ok((client, node))) => copy(&core, client, node).await,
        Ok(Err(error)) => debug!(%error, "a connection could not be upgraded"),
        Err(_) => debug!("a connection was not upgraded in time"),
    }
    drop(place);
}

async fn copy(core: &Core, client: Upgraded, node: Upgraded) {
    let (from_client, mut to_client) = split(TokioIo::new(client));
    let (from_node, mut to_node) = split(TokioIo::new(node));
    tokio::select! {
        () = pump(from_client, &mut to_node) => {}
        () = pump(from_node, &mut to_client) => {}
        () = core.shutdown.cancelled() => {}
    }
    let close = async { tokio::join!(to_client.shutdown(), to_node.shutdown()) };
    drop(timeout(CLOSE_TIMEOUT, close).await);
}

async fn pump(from: impl AsyncRead + Unpin, to: &mut (impl AsyncWrite + Unpin)) {
    if let Err(error) = copy_buf(&mut BufReader::with_capacity(BUFFER, from), to).await {
        debug!(%error, "a stream broke");
    }
}
