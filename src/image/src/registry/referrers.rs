//! What says something about a manifest: signatures, lists of ingredients, and the like.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, LINK};
use axum::http::{Method, Response};
use serde_json::{Value, json};

use super::error::RegistryError;
use super::{Request, index_name};
use crate::digest::Digest;
use crate::manifest::{MAX_MANIFEST, Manifest, OCI_INDEX};
use crate::shared::Shared;

/// Bytes of descriptors in one answer: it is a manifest, and must not be larger than one may be.
const MAX_PAGE: usize = MAX_MANIFEST as usize - 1024;

pub(super) fn list(
    shared: &Shared,
    name: &str,
    subject: &Digest,
    request: &Request,
) -> Result<Response<Body>, RegistryError> {
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return Err(RegistryError::method());
    }
    let wanted = request.query.artifact_type.as_deref();
    let last = request.query.last.as_deref();
    // Of what is not here nothing is said, which is no error.
    let referrers = shared.index.referrers(&index_name(name), subject).into_values();
    let fits = |said: &Value| wanted.is_none_or(|wanted| said["artifactType"] == wanted);
    let mut rest =
        referrers.filter(fits).filter(|said| last.is_none_or(|last| said["digest"].as_str() > Some(last)));
    let (mut page, mut size, mut more) = (Vec::new(), 0, false);
    for said in rest.by_ref() {
        size += said.to_string().len() + 1;
        if size > MAX_PAGE && !page.is_empty() {
            more = true;
            break;
        }
        page.push(said);
    }
    let last = page.last().and_then(|said: &Value| said["digest"].as_str()).unwrap_or_default().to_owned();
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": page}).to_string();
    let mut response = Response::builder().header(CONTENT_TYPE, OCI_INDEX);
    if let Some(wanted) = wanted {
        response = response.header("oci-filters-applied", "artifactType");
        if more {
            let wanted: String = wanted.bytes().map(|byte| format!("%{byte:02X}")).collect();
            let next =
                format!("</v2/{name}/referrers/{subject}?artifactType={wanted}&last={last}>; rel=\"next\"");
            response = response.header(LINK, next);
        }
    } else if more {
        response =
            response.header(LINK, format!("</v2/{name}/referrers/{subject}?last={last}>; rel=\"next\""));
    }
    Ok(response.body(index.into()).expect("the headers are valid"))
}

/// The subject of a manifest, for the header that says that it is known here.
pub(super) fn subject(manifest: &Manifest) -> Option<Digest> {
    Digest::parse(&manifest.subject.as_ref()?.digest)
}
