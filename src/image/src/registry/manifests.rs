//! Manifests by tag and by digest.

use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use axum::http::{Method, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::blobs::accepted;
use super::error::{Code, RegistryError};
use super::referrers;
use super::route::ManifestReference;
use super::{Request, index_name};
use crate::digest::Digest;
use crate::format;
use crate::manifest::{MANIFESTS, MAX_MANIFEST, Manifest};
use crate::shared::Shared;

pub(super) async fn serve(
    shared: &Arc<Shared>,
    name: &str,
    reference: &ManifestReference,
    request: Request,
) -> Result<Response<Body>, RegistryError> {
    match request.method {
        Method::GET | Method::HEAD => read(shared, name, reference, request.method == Method::HEAD).await,
        Method::PUT => write(shared, name, reference, request).await,
        Method::DELETE => delete(shared, name, reference).await,
        _ => Err(RegistryError::method()),
    }
}

async fn read(
    shared: &Arc<Shared>,
    name: &str,
    reference: &ManifestReference,
    head: bool,
) -> Result<Response<Body>, RegistryError> {
    let index_name = index_name(name);
    if !shared.index.has_repository(&index_name) {
        return Err(RegistryError::name_unknown(name));
    }
    let (digest, media_type) = resolve(shared, &index_name, reference).ok_or_else(|| unknown(reference))?;
    let content = digest.clone();
    let bytes = shared.blocking(move |shared| shared.content.read(&content, MAX_MANIFEST)).await?;
    let response = Response::builder()
        .header(CONTENT_TYPE, media_type)
        .header(CONTENT_LENGTH, bytes.len())
        .header("docker-content-digest", digest.to_string())
        .header("etag", format!("\"{digest}\""));
    Ok(response.body(if head { Body::empty() } else { bytes.into() }).expect("the headers are valid"))
}

async fn write(
    shared: &Arc<Shared>,
    name: &str,
    reference: &ManifestReference,
    request: Request,
) -> Result<Response<Body>, RegistryError> {
    let limit = usize::try_from(MAX_MANIFEST).expect("the limit is small");
    let bytes = Limited::new(request.body, limit).collect().await.map_err(|error| match error
        .is::<LengthLimitError>()
    {
        true => RegistryError::too_large(MAX_MANIFEST),
        false => invalid("the request ended too early"),
    })?;
    let bytes = bytes.to_bytes();
    let index_name = index_name(name);
    let manifest = format::parse(&bytes).map_err(|error| invalid(error.to_string()))?;
    check_references(shared, &index_name, &manifest)?;

    let sent = request.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let stated = manifest.media_type.as_deref();
    let media_type = sent.or(stated).unwrap_or(MANIFESTS[0]).to_owned();
    if !MANIFESTS.contains(&media_type.as_str()) || stated.is_some_and(|stated| stated != media_type) {
        return Err(invalid(format!("a manifest of type {media_type} is not accepted here")));
    }
    let tag = match reference {
        ManifestReference::Digest(digest) if !digest.is_of(&bytes) => {
            return Err(RegistryError::digest_mismatch());
        }
        ManifestReference::Digest(_) => None,
        ManifestReference::Tag(tag) => Some(tag.clone()),
    };
    let digest = match reference {
        ManifestReference::Digest(digest) => digest.clone(),
        ManifestReference::Tag(_) => Digest::of(&bytes),
    };
    let subject = referrers::subject(&manifest);
    let named = digest.clone();
    shared
        .blocking(move |shared| {
            let manifest = (&named, &*bytes);
            shared.index.put_manifest(&shared.content, &index_name, manifest, &media_type, tag.as_deref())
        })
        .await?;
    let mut response = Response::builder()
        .status(StatusCode::CREATED)
        .header(LOCATION, format!("/v2/{name}/manifests/{digest}"))
        .header("docker-content-digest", digest.to_string());
    if let Some(subject) = subject {
        response = response.header("oci-subject", subject.to_string());
    }
    Ok(response.body(Body::empty()).expect("the headers are valid"))
}

/// Everything that a manifest names must be in its repository already, but for layers that their makers let nobody
/// hand on.
fn check_references(shared: &Shared, index_name: &str, manifest: &Manifest) -> Result<(), RegistryError> {
    let missing = |digest: &str| {
        let message = format!("manifest references the unknown content {digest}");
        RegistryError::new(StatusCode::BAD_REQUEST, Code::ManifestBlobUnknown, message)
    };
    let layers = manifest.layers.iter().filter(|layer| !is_not_handed_on(&layer.media_type));
    for blob in manifest.config.iter().chain(layers) {
        let digest = format::digest(blob).map_err(|error| invalid(error.to_string()))?;
        if !shared.index.has_blob(index_name, &digest) {
            return Err(missing(&blob.digest));
        }
    }
    for inner in &manifest.manifests {
        let digest = format::digest(inner).map_err(|error| invalid(error.to_string()))?;
        if shared.index.manifest(index_name, &digest).is_none() {
            return Err(missing(&inner.digest));
        }
    }
    Ok(())
}

/// Layers that registries need not have.
fn is_not_handed_on(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.oci.image.layer.nondistributable.v1.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.foreign.diff.")
}

async fn delete(
    shared: &Arc<Shared>,
    name: &str,
    reference: &ManifestReference,
) -> Result<Response<Body>, RegistryError> {
    let index_name = index_name(name);
    let removed = match reference {
        ManifestReference::Tag(tag) => {
            let tag = tag.clone();
            shared.blocking(move |shared| shared.index.remove_tag(&index_name, &tag)).await?
        }
        ManifestReference::Digest(digest) => {
            let digest = digest.clone();
            shared.blocking(move |shared| shared.remove_manifest(&index_name, &digest)).await?
        }
    };
    if removed { accepted() } else { Err(unknown(reference)) }
}

fn resolve(shared: &Shared, index_name: &str, reference: &ManifestReference) -> Option<(Digest, String)> {
    let digest = match reference {
        ManifestReference::Tag(tag) => shared.index.tag(index_name, tag)?,
        ManifestReference::Digest(digest) => digest.clone(),
    };
    let media_type = shared.index.manifest(index_name, &digest)?;
    Some((digest, media_type))
}

fn unknown(reference: &ManifestReference) -> RegistryError {
    match reference {
        ManifestReference::Tag(tag) => RegistryError::manifest_unknown(tag),
        ManifestReference::Digest(digest) => RegistryError::manifest_unknown(&digest.to_string()),
    }
}

fn invalid(message: impl Into<String>) -> RegistryError {
    RegistryError::new(StatusCode::BAD_REQUEST, Code::ManifestInvalid, message)
}
