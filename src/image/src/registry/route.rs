//! Telling the requests of the distribution API apart.

use axum::http::StatusCode;

use crate::digest::{Algorithm, Digest};
use crate::reference::{is_repository, is_tag};
use crate::registry::error::{Code, RegistryError};

/// What a path below `/v2/` is about.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    Catalog,
    Tags { name: String },
    Manifest { name: String, reference: ManifestReference },
    Blob { name: String, digest: Digest },
    Referrers { name: String, subject: Digest },
    Uploads { name: String },
    Upload { name: String, id: String },
}

/// How a manifest is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ManifestReference {
    Tag(String),
    Digest(Digest),
}

/// Makes the route of a repository's name and the last part of the path.
type Finish = fn(String, &str) -> Result<Route, RegistryError>;

pub(super) fn parse(path: &str) -> Result<Route, RegistryError> {
    let segments: Vec<&str> = path.split('/').collect();
    let (name, route): (&[&str], Finish) = match segments.as_slice() {
        ["_catalog"] => return Ok(Route::Catalog),
        [name @ .., "tags", "list"] => (name, |name, _| Ok(Route::Tags { name })),
        [name @ .., "blobs", "uploads"] | [name @ .., "blobs", "uploads", ""] => {
            (name, |name, _| Ok(Route::Uploads { name }))
        }
        [name @ .., "blobs", "uploads", _] => {
            (name, |name, id| Ok(Route::Upload { name, id: id.to_owned() }))
        }
        [name @ .., "blobs", _] => {
            (name, |name, digest| Ok(Route::Blob { name, digest: parse_digest(digest)? }))
        }
        [name @ .., "referrers", _] => {
            (name, |name, digest| Ok(Route::Referrers { name, subject: parse_digest(digest)? }))
        }
        [name @ .., "manifests", _] => (name, |name, reference| {
            let reference = match reference {
                tag if is_tag(tag) => ManifestReference::Tag(tag.to_owned()),
                digest if digest.contains(':') => ManifestReference::Digest(parse_digest(digest)?),
                _ => return Err(RegistryError::manifest_unknown(reference)),
            };
            Ok(Route::Manifest { name, reference })
        }),
        _ => return Err(RegistryError::not_found()),
    };
    let name = name.join("/");
    if !is_repository(&name) {
        return Err(RegistryError::new(
            StatusCode::BAD_REQUEST,
            Code::NameInvalid,
            "invalid repository name",
        ));
    }
    route(name, segments.last().unwrap_or(&""))
}

pub(super) fn parse_digest(digest: &str) -> Result<Digest, RegistryError> {
    Digest::parse(digest).ok_or_else(|| {
        let message = "provided digest is not a sha256 or sha512 digest in lower case";
        RegistryError::new(StatusCode::BAD_REQUEST, Code::DigestInvalid, message)
    })
}

pub(super) fn parse_algorithm(name: &str) -> Result<Algorithm, RegistryError> {
    Algorithm::parse(name).ok_or_else(|| {
        let message = "provided digest algorithm is neither sha256 nor sha512";
        RegistryError::new(StatusCode::BAD_REQUEST, Code::DigestInvalid, message)
    })
}
