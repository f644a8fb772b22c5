//! `/openapi/v3`: what `kubectl apply` and `kubectl explain` read. `/openapi/v2` is there for clients that
//! look into it when version 3 does not know a kind, and names no types.

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use coracle_api::Kind;
use http::{HeaderMap, StatusCode};
use serde_json::{Map, Value, json};

use crate::{
    core::Core,
    discovery::{GIT_VERSION, document, respond_document},
    negotiation,
    registry::{Catalogue, Document},
    respond,
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

/// Answers `/openapi/v2`; `None` for other paths.
pub(crate) fn respond_v2(path: &str, headers: &HeaderMap) -> Option<Response> {
    if path != "/openapi/v2" {
        return None;
    }
    let wants_protobuf =
        negotiation::clauses(headers).first().is_some_and(|first| first.media.contains("protobuf"));
    if wants_protobuf {
        let mut info = field(1, TITLE);
        info.extend(field(2, GIT_VERSION));
        let mut document = field(1, "2.0");
        document.extend([2 << 3 | LENGTH_DELIMITED, u8::try_from(info.len()).unwrap_or(0)]);
        document.extend(info);
        return Some(respond::bytes_response(StatusCode::OK, V2_PROTOBUF, Bytes::from(document)));
    }
    let info = json!({"title": TITLE, "version": GIT_VERSION});
    let value = json!({"swagger": "2.0", "info": info, "paths": {}, "definitions": {}});
    Some(respond::value_response(StatusCode::OK, negotiation::Media::Json, &value))
}

const TITLE: &str = "Kubernetes";
const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// Wire type of strings and messages.
const LENGTH_DELIMITED: u8 = 2;

/// A protobuf string field; the few that are written here are shorter than 128 bytes.
fn field(number: u8, text: &str) -> Vec<u8> {
    let mut bytes = vec![number << 3 | LENGTH_DELIMITED, u8::try_from(text.len()).unwrap_or(0)];
    bytes.extend_from_slice(text.as_bytes());
    bytes
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
