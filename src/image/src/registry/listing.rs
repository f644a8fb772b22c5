//! Lists of tags and repositories, in pages.

use axum::Json;
use axum::body::Body;
use axum::http::header::LINK;
use axum::http::{HeaderValue, Method, Response};
use axum::response::IntoResponse;
use serde_json::json;

use super::error::RegistryError;
use super::{Request, index_name};
use crate::LOCAL_REGISTRY;
use crate::shared::Shared;

pub(super) fn tags(shared: &Shared, name: &str, request: &Request) -> Result<Response<Body>, RegistryError> {
    reading(request)?;
    let tags = shared.index.tags(&index_name(name)).ok_or_else(|| RegistryError::name_unknown(name))?;
    let (tags, link) = page(tags, request, &format!("/v2/{name}/tags/list"));
    Ok(answer(&json!({"name": name, "tags": tags}), link))
}

pub(super) fn catalog(shared: &Shared, request: &Request) -> Result<Response<Body>, RegistryError> {
    reading(request)?;
    let names = shared.index.names();
    let local = names.iter().filter_map(|name| name.strip_prefix(LOCAL_REGISTRY)?.strip_prefix('/'));
    let (names, link) = page(local.map(str::to_owned).collect(), request, "/v2/_catalog");
    Ok(answer(&json!({"repositories": names}), link))
}

fn reading(request: &Request) -> Result<(), RegistryError> {
    let reads = matches!(request.method, Method::GET | Method::HEAD);
    if reads { Ok(()) } else { Err(RegistryError::method()) }
}

/// The part that was asked for of a sorted list, and where the next one is.
fn page(all: Vec<String>, request: &Request, path: &str) -> (Vec<String>, Option<String>) {
    let last = request.query.last.as_deref();
    let mut rest = all.into_iter().filter(|item| last.is_none_or(|last| item.as_str() > last));
    let limit = request.query.n.unwrap_or(usize::MAX);
    let items: Vec<String> = rest.by_ref().take(limit).collect();
    // Tags and names need no escaping in a URL, but for the slash, which queries may have.
    let more = rest.next().is_some();
    let link =
        items.last().filter(|_| more).map(|last| format!("<{path}?n={limit}&last={last}>; rel=\"next\""));
    (items, link)
}

fn answer(body: &serde_json::Value, link: Option<String>) -> Response<Body> {
    let mut response = Json(body).into_response();
    if let Some(link) = link.and_then(|link| HeaderValue::try_from(link).ok()) {
        response.headers_mut().insert(LINK, link);
    }
    response
}
