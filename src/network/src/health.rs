//! What a node answers load balancers that ask at a service's `healthCheckNodePort` whether to send it clients: 200 if it
//! has endpoints of the service that are ready, 503 if not, and how many they are.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::Fabric;
use crate::services::{Door, Health};

/// Until when a question must be put and answered. Both fit into one packet; who takes longer only keeps a place.
const WITHIN: Duration = Duration::from_secs(10);

/// The longest head of a question: a request line and a few headers, and the least that hyper takes. What a client of
/// the outside makes the node keep is this.
const HEAD_MAX: usize = 8 * 1024;

/// Answers the one question of a connection, whatever its path.
pub(crate) async fn answer(fabric: &Arc<Fabric>, client: TcpStream, door: Door) {
    // It may be over between the connection and the question.
    let respond = service_fn(|_: Request<Incoming>| async move {
        Ok::<_, Infallible>(match fabric.services().health(door) {
            Some(health) => response(&health),
            None => with_status(StatusCode::NOT_FOUND, String::new()),
        })
    });
    let mut server = http1::Builder::new();
    server.keep_alive(false).max_buf_size(HEAD_MAX);
    let served = server.serve_connection(TokioIo::new(client), respond);
    let served = fabric.stop().run_until_cancelled(tokio::time::timeout(WITHIN, served)).await;
    if let Some(Ok(Err(error))) = served {
        tracing::debug!(%error, "a health check ended early");
    }
}

fn response(health: &Health) -> Response<Full<Bytes>> {
    let Health { service: (namespace, name), local } = health;
    let status = if *local > 0 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    // Both names are labels of DNS: nothing in them has to be escaped.
    let body = format!(
        r#"{{"service":{{"namespace":"{namespace}","name":"{name}"}},"localEndpoints":{local},"serviceProxyHealthy":true}}"#
    );
    let mut response = with_status(status, body);
    let headers = response.headers_mut();
    headers.insert("content-type", "application/json".parse().expect("a value"));
    headers.insert("x-content-type-options", "nosniff".parse().expect("a value"));
    headers.insert("x-load-balancing-endpoint-weight", (*local).into());
    response
}

fn with_status(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
}
