//! Patches: which kind a body is, and what it makes of an object.

use bytes::Bytes;
use coracle_api::{Kind, patch as api_patch, schema, status::Status};
use http::HeaderMap;
use serde_json::Value;

use crate::decode;

const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

/// A patch, read but not applied.
pub(crate) enum Patch {
    /// RFC 6902, in bytes as it came.
    Json(Bytes),
    /// RFC 7386.
    Merge(Value),
    /// Kubernetes' strategic merge patch.
    Strategic(Value),
}

impl Patch {
    /// Checks that there is a patch of this content type for objects of `kind`, before anything is read.
    pub(crate) fn check_type(headers: &HeaderMap, kind: &Kind) -> Result<(), Status> {
        // Objects without a message in the schema (custom resources) have no merge keys.
        let strategic = schema::message(&kind.message).is_some();
        match decode::content_type(headers).as_str() {
            JSON | MERGE => Ok(()),
            STRATEGIC if strategic => Ok(()),
            APPLY => Err(Status::new(
                415,
                "UnsupportedMediaType",
                "server-side apply is not supported by this version of Coracle; use client-side apply \
                 (kubectl apply --server-side=false)"
                    .into(),
            )),
            _ if strategic => Err(Status::unsupported_media_type(&[JSON, MERGE, STRATEGIC])),
            _ => Err(Status::unsupported_media_type(&[JSON, MERGE])),
        }
    }

    /// Reads a patch for objects of `kind` by its content type.
    pub(crate) fn parse(headers: &HeaderMap, body: Bytes, kind: &Kind) -> Result<Patch, Status> {
        Patch::check_type(headers, kind)?;
        match decode::content_type(headers).as_str() {
            JSON => Ok(Patch::Json(body)),
            MERGE => Ok(Patch::Merge(parse_object(&body)?)),
            _ => Ok(Patch::Strategic(parse_object(&body)?)),
        }
    }

    /// What the patch makes of an object of this message.
    pub(crate) fn apply(&self, message: &str, object: &Value) -> Result<Value, Status> {
        let patched = match self {
            Patch::Json(bytes) => api_patch::json_patch(object, bytes)?,
            Patch::Merge(patch) => api_patch::merge_patch(object, patch)?,
            Patch::Strategic(patch) => {
                let message =
                    schema::message(message).ok_or_else(|| Status::unsupported_media_type(&[JSON, MERGE]))?;
                api_patch::strategic_merge(message, object, patch)?
            }
        };
        if patched.is_object() {
            Ok(patched)
        } else {
            Err(Status::bad_request("the patch does not leave an object"))
        }
    }
}

fn parse_object(body: &[u8]) -> Result<Value, Status> {
    // client-go users send YAML here by mistake often enough that Kubernetes takes JSON only.
    let (value, _) = schema::parse_json(body)
        .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
    if value.is_object() {
        Ok(value)
    } else {
        Err(Status::bad_request("error decoding patch: the patch is not a JSON object"))
    }
}
