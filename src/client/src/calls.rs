//! Calls whose answers nobody reads: they are not decoded.

use kube::{
    Client,
    api::DeleteParams,
    core::{Request, request},
};

/// Sends a request for what it does.
///
/// # Errors
/// As those of `kube`'s own calls.
pub async fn send(
    client: &Client,
    request: Result<http::Request<Vec<u8>>, request::Error>,
) -> Result<(), kube::Error> {
    let request = request.map_err(kube::Error::BuildRequest)?;
    client.request_text(request).await.map(drop)
}

/// Deletes the object of that name in the collection at `path`.
///
/// # Errors
/// As those of `kube`'s own calls.
pub async fn delete(
    client: &Client,
    path: String,
    name: &str,
    options: &DeleteParams,
) -> Result<(), kube::Error> {
    send(client, Request::new(path).delete(name, options)).await
}
