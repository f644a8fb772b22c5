//! `/openapi/v3`: what `kubectl apply` and `kubectl explain` read.

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use coracle_api::Kind;
use http::{HeaderMap, StatusCode};
use serde_json::{Map, Value, json};

use crate::{
    core::Core,
    discovery::{document, respond_document},
    registry::{Catalogue, Document},
};

/// Answers below `/openapi/v3`; `None` for other paths.
pub(crate) fn respond(core: &Arc<Core>, path: &str, headers: &HeaderMap) -> Option<Response> {
    let rest = path.strip_prefix("/openapi/v3")?;
    let catalogue = core.registry.catalogue();
    if rest.is_empty() {
        let index = catalogue.document("openapi", || document(&index(&catalogue)));
        return Some(respond_document(&index, "application/json", headers));
    }
    let (group, version) = match rest.strip_prefix('/')?.split('/').collect::<Vec<_>>().as_slice() {
        ["api", version] => ("", *version),
        ["apis", group, version] => (*group, *version),
        _ => return None,
    };
    let found = group_version(&catalogue, group, version)?;
    let mut response = respond_document(&found, "application/json", headers);
    if response.status() == StatusCode::OK {
        // The address of the document has its hash in it, so what is there never changes.
        let forever = http::HeaderValue::from_static("public, max-age=31536000, immutable");
        response.headers_mut().insert(http::header::CACHE_CONTROL, forever);
    }
    Some(response.into_response())
}

fn group_version(catalogue: &Catalogue, group: &str, version: &str) -> Option<Document> {
    let kinds: Vec<Arc<Kind>> = catalogue.kinds(group, version).into_iter().cloned().collect();
    let api_version = kinds.first()?.api_version();
    let name = format!("openapi/{api_version}");
    Some(catalogue.document(&name, || document(&coracle_api::openapi::document(&api_version, &kinds))))
}

/// Which documents there are, with their hashes.
fn index(catalogue: &Catalogue) -> Value {
    let mut paths = Map::new();
    for (group, versions) in catalogue.groups() {
        for version in versions {
            let path =
                if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
            if let Some(Document { hash, .. }) = group_version(catalogue, group, version) {
                let address = format!("/openapi/v3/{path}?hash={hash}");
                paths.insert(path, json!({"serverRelativeURL": address}));
            }
        }
    }
    json!({"paths": paths})
}
