//! The embedded registry: the OCI distribution API, so that any tool can push and pull.
//!
//! Names of repositories have slashes in them, so requests are told apart from the end of their path
//! ([`route`]). Everything below works on the repositories whose index name begins with
//! `registry.local/`; images that were pulled from elsewhere are not served.

mod blobs;
mod error;
mod listing;
mod manifests;
mod referrers;
mod route;
pub(crate) mod uploads;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use serde::Deserialize;

use crate::LOCAL_REGISTRY;
use crate::shared::Shared;
use error::{Code, RegistryError};
use route::Route;

/// A request that was told apart.
struct Request {
    method: Method,
    headers: HeaderMap,
    query: Parameters,
    body: Body,
}

/// All query parameters of the API.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Parameters {
    artifact_type: Option<String>,
    digest: Option<String>,
    #[serde(rename = "digest-algorithm")]
    digest_algorithm: Option<String>,
    mount: Option<String>,
    from: Option<String>,
    n: Option<usize>,
    last: Option<String>,
}

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v2", any(base))
        .route("/v2/", any(base))
        .route("/v2/{*path}", any(dispatch))
        .with_state(shared)
}

/// Says that this is a registry, and that the caller may use it.
async fn base() -> Response {
    with_version(axum::Json(serde_json::json!({})).into_response())
}

async fn dispatch(
    State(shared): State<Arc<Shared>>,
    Path(path): Path<String>,
    method: Method,
    headers: HeaderMap,
    query: Result<Query<Parameters>, axum::extract::rejection::QueryRejection>,
    body: Body,
) -> Response {
    let answer = async {
        let Ok(Query(query)) = query else {
            return Err(RegistryError::new(
                StatusCode::BAD_REQUEST,
                Code::Unsupported,
                "the query is not understood",
            ));
        };
        let request = Request { method, headers, query, body };
        match route::parse(&path)? {
            Route::Catalog => listing::catalog(&shared, &request),
            Route::Tags { name } => listing::tags(&shared, &name, &request),
            Route::Manifest { name, reference } => {
                manifests::serve(&shared, &name, &reference, request).await
            }
            Route::Blob { name, digest } => blobs::serve(&shared, &name, &digest, request).await,
            Route::Referrers { name, subject } => referrers::list(&shared, &name, &subject, &request),
            Route::Uploads { name } => uploads::begin(&shared, &name, request).await,
            Route::Upload { name, id } => uploads::serve(&shared, &name, &id, request).await,
        }
    };
    with_version(answer.await.unwrap_or_else(RegistryError::into_response))
}

/// Old clients look for this on every answer.
fn with_version(mut response: Response) -> Response {
    let version = HeaderValue::from_static("registry/2.0");
    response.headers_mut().insert("docker-distribution-api-version", version);
    response
}

/// The name of a repository in the index.
fn index_name(name: &str) -> String {
    format!("{LOCAL_REGISTRY}/{name}")
}
