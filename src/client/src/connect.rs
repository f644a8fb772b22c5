//! The in-process transport: a `kube` client whose server is a tower service.

use bytes::Bytes;
use http::{Request, Response};
use kube::{Client, client::Body};
use tower::{BoxError, Service};

/// A client that calls `service` directly: no socket, no TLS, no copying of bodies. Watches stream as
/// the service produces them.
///
/// An `axum::Router` can be passed as it is. Must be called inside a tokio runtime; dropping a response
/// future cancels the call.
pub fn in_process<S, B>(service: S) -> Client
where
    S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    Client::new(service, "default")
}
