//! Errors as the distribution specification has them: a status, and a JSON body with a code.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::ImageError;

/// The specification's codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    TooManyRequests,
    Unknown,
    Unsupported,
}

impl Code {
    fn as_str(self) -> &'static str {
        match self {
            Code::BlobUnknown => "BLOB_UNKNOWN",
            Code::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Code::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Code::DigestInvalid => "DIGEST_INVALID",
            Code::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Code::ManifestInvalid => "MANIFEST_INVALID",
            Code::ManifestUnknown => "MANIFEST_UNKNOWN",
            Code::NameInvalid => "NAME_INVALID",
            Code::NameUnknown => "NAME_UNKNOWN",
            Code::SizeInvalid => "SIZE_INVALID",
            Code::TooManyRequests => "TOOMANYREQUESTS",
            Code::Unknown => "UNKNOWN",
            Code::Unsupported => "UNSUPPORTED",
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct RegistryError {
    status: StatusCode,
    code: Code,
    message: String,
}

impl RegistryError {
    pub(super) fn new(status: StatusCode, code: Code, message: impl Into<String>) -> RegistryError {
        RegistryError { status, code, message: message.into() }
    }

    pub(super) fn not_found() -> RegistryError {
        RegistryError::new(StatusCode::NOT_FOUND, Code::Unsupported, "there is nothing at this path")
    }

    pub(super) fn method() -> RegistryError {
        RegistryError::new(StatusCode::METHOD_NOT_ALLOWED, Code::Unsupported, "the operation is unsupported")
    }

    pub(super) fn name_unknown(name: &str) -> RegistryError {
        let message = format!("repository {name} not known to registry");
        RegistryError::new(StatusCode::NOT_FOUND, Code::NameUnknown, message)
    }

    pub(super) fn blob_unknown() -> RegistryError {
        RegistryError::new(StatusCode::NOT_FOUND, Code::BlobUnknown, "blob unknown to registry")
    }

    pub(super) fn manifest_unknown(reference: &str) -> RegistryError {
        let message = format!("manifest {reference} unknown to registry");
        RegistryError::new(StatusCode::NOT_FOUND, Code::ManifestUnknown, message)
    }

    pub(super) fn digest_mismatch() -> RegistryError {
        let message = "provided digest did not match uploaded content";
        RegistryError::new(StatusCode::BAD_REQUEST, Code::DigestInvalid, message)
    }

    pub(super) fn too_large(limit: u64) -> RegistryError {
        let message = format!("content has more than the {limit} bytes that are allowed");
        RegistryError::new(StatusCode::PAYLOAD_TOO_LARGE, Code::SizeInvalid, message)
    }
}

impl From<ImageError> for RegistryError {
    fn from(error: ImageError) -> RegistryError {
        tracing::error!(error = &error as &dyn std::error::Error, "the image store failed");
        RegistryError::new(StatusCode::INTERNAL_SERVER_ERROR, Code::Unknown, "the image store failed")
    }
}

impl IntoResponse for RegistryError {
    fn into_response(self) -> Response {
        let error = json!({"code": self.code.as_str(), "message": self.message, "detail": null});
        (self.status, Json(json!({"errors": [error]}))).into_response()
    }
}
