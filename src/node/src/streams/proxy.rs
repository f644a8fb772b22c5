//! `proxy`: HTTP requests to a pod's port, upgrades included, for the API server's pod and service proxies. `https:`
//! before the port means TLS, by whatever certificate.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, Version, header},
    response::Response,
};
use coracle_network::Stream;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};

use super::{Refusal, bad, find, spawn};
use crate::{context::Context, probes::dial_problem, tls};

/// How long the far end may take to agree on TLS. Kubernetes' number.
const TLS_TIMEOUT: Duration = Duration::from_secs(10);

/// Headers that belong to one connection. `Upgrade` is passed on when something is to be upgraded.
const HOP_BY_HOP: [&str; 7] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
];

/// `/podProxy/{namespace}/{pod}/{[https:]port}/{*path}`.
pub(super) async fn pod_proxy(
    State(context): State<Arc<Context>>,
    Path(parameters): Path<Vec<(String, String)>>,
    mut request: Request,
) -> Result<Response, Refusal> {
    let parameter = |name: &str| {
        parameters.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value.as_str())
    };
    let (namespace, name) = (parameter("namespace"), parameter("pod"));
    let (secure, port) = scheme(parameter("port"));
    let (pod, _) = find(&context, namespace, name)?;
    let port =
        port_of(&pod, port).ok_or_else(|| bad(format!("no service port {port:?} found for pod {name:?}")))?;
    let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref()).and_then(|ip| ip.parse().ok());
    let address =
        SocketAddr::new(ip.ok_or_else(|| bad(format!("address not allowed: pod {name:?} has no IP")))?, port);
    *request.uri_mut() = target(request.uri()).map_err(bad)?;
    let fabric = context.fabric.get().ok_or_else(|| bad("the network of the node is not ready"))?;
    let dialled = fabric.connect(address).await;
    let stream = dialled.map_err(|error| gateway(format!("dial tcp {address}: {}", dial_problem(&error))))?;
    exchange(&context, stream, (secure, address), request).await
}

/// Whether TLS is to be spoken, and what follows.
fn scheme(text: &str) -> (bool, &str) {
    text.strip_prefix("https:").map_or((false, text), |rest| (true, rest))
}

fn gateway(problem: impl std::fmt::Display) -> Refusal {
    (StatusCode::SERVICE_UNAVAILABLE, format!("error trying to reach service: {problem}"))
}

/// Sends the request on a connection of its own, and gives the answer.
async fn exchange(
    context: &Arc<Context>,
    stream: Stream,
    (secure, address): (bool, SocketAddr),
    mut request: Request,
) -> Result<Response, Refusal> {
    let from_client = prepare(&mut request, address);
    if !secure {
        return answer(context, stream, request, from_client).await;
    }
    let stream = match timeout(TLS_TIMEOUT, tls::connect(stream, address.ip())).await {
        Ok(stream) => stream.map_err(gateway)?,
        Err(_) => return Err(gateway("net/http: TLS handshake timeout")),
    };
    answer(context, stream, request, from_client).await
}

async fn answer<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    context: &Arc<Context>,
    stream: S,
    request: Request,
    from_client: Option<OnUpgrade>,
) -> Result<Response, Refusal> {
    let handshake = hyper::client::conn::http1::handshake::<_, Body>(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(gateway)?;
    spawn(context, async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a proxied connection ended early");
        }
    });
    let mut response = sender.send_request(request).await.map_err(gateway)?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(from_client) = from_client else {
            return Err((StatusCode::BAD_GATEWAY, "the pod switched protocols without being asked".into()));
        };
        let from_pod = hyper::upgrade::on(&mut response);
        spawn(context, async move {
            let (Ok(client), Ok(pod)) = tokio::join!(from_client, from_pod) else { return };
            let (mut client, mut pod) = (TokioIo::new(client), TokioIo::new(pod));
            let _ = tokio::io::copy_bidirectional(&mut client, &mut pod).await;
        });
    } else {
        remove_hop_by_hop(response.headers_mut());
    }
    Ok(response.map(Body::new))
}

/// A port by its number, or by its name in the pod's spec.
fn port_of(pod: &Pod, port: &str) -> Option<u16> {
    if let Ok(number) = port.parse() {
        return Some(number).filter(|number| *number > 0);
    }
    let ports = pod
        .spec
        .iter()
        .flat_map(|spec| &spec.containers)
        .flat_map(|container| container.ports.iter().flatten());
    let named = ports.into_iter().find(|known| known.name.as_deref() == Some(port))?;
    u16::try_from(named.container_port).ok()
}

/// What the pod is asked for: the part of the path after the port, as it was written.
fn target(uri: &Uri) -> Result<Uri, String> {
    let path = uri.path().splitn(6, '/').nth(5).unwrap_or_default();
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    format!("/{path}{query}").parse().map_err(|error| format!("invalid path: {error}"))
}

/// Makes the request one to the pod. Gives the client's connection if the pod may take it over.
fn prepare(request: &mut Request, address: SocketAddr) -> Option<OnUpgrade> {
    // The client may have come by another.
    *request.version_mut() = Version::HTTP_11;
    let upgrade = request.headers().get(header::UPGRADE).cloned();
    remove_hop_by_hop(request.headers_mut());
    let headers = request.headers_mut();
    let host = HeaderValue::from_str(&address.to_string());
    headers.insert(header::HOST, host.expect("an address is text"));
    let upgrade = upgrade?;
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, upgrade);
    request.extensions_mut().remove::<OnUpgrade>()
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    named.into_iter().for_each(|name| drop(headers.remove(name)));
    HOP_BY_HOP.into_iter().for_each(|name| drop(headers.remove(name)));
    headers.remove(header::UPGRADE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_after_the_port_is_kept_as_it_is() {
        #[track_caller]
        fn check(uri: &str, expected: &str) {
            assert_eq!(target(&uri.parse().unwrap()).unwrap(), expected);
        }
        check("/podProxy/n/p/80", "/");
        check("/podProxy/n/p/80/", "/");
        check("/podProxy/n/p/80/a%2Fb/c?x=1&y", "/a%2Fb/c?x=1&y");
        check("/podProxy/n/p/80//double/", "//double/");
    }

    #[test]
    fn only_headers_of_the_message_are_passed_on() {
        let mut request = Request::new(Body::empty());
        for (name, value) in [
            ("connection", "X-Mine, keep-alive"),
            ("x-mine", "1"),
            ("te", "trailers"),
            ("accept", "*/*"),
            ("host", "elsewhere"),
        ] {
            request.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        assert!(prepare(&mut request, "10.0.0.1:80".parse().unwrap()).is_none());
        let left: Vec<_> =
            request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(left.len(), 2, "{left:?}");
        assert_eq!(
            (&request.headers()["accept"], &request.headers()["host"]),
            (&HeaderValue::from_static("*/*"), &HeaderValue::from_static("10.0.0.1:80"))
        );

        request.headers_mut().insert("connection", HeaderValue::from_static("upgrade"));
        request.headers_mut().insert("upgrade", HeaderValue::from_static("websocket"));
        prepare(&mut request, "10.0.0.1:80".parse().unwrap());
        assert_eq!(request.headers()["upgrade"], "websocket");
        assert_eq!(request.headers()["connection"], "Upgrade");
    }
}
