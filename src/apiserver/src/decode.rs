//! Bodies of requests: read up to a limit, decoded by content type, checked against the schema.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use coracle_api::{
    Kind, protobuf,
    schema::{self, Message, StrictProblem},
    status::Status,
};
use http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::{Map, Value};
use tokio::time::timeout;

use crate::options::FieldValidation;

/// Largest body of a request, Kubernetes' own limit: twice what its etcd takes for an object, so that a
/// patch can carry both an old and a new form.
pub(crate) const MAX_BODY: usize = 3 * 1024 * 1024;

/// How long a body may take to arrive: a client that sends it a byte at a time does not keep a place
/// among the requests that are worked on.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// What bodies may be.
const ACCEPTED: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// The encoding of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Yaml,
    Protobuf,
}

/// The media type of a body without its parameters, in lower case.
pub(crate) fn content_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

impl Encoding {
    /// From `Content-Type`; JSON if there is none.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Encoding, Status> {
        match content_type(headers).as_str() {
            "" | "application/json" => Ok(Encoding::Json),
            "application/yaml" => Ok(Encoding::Yaml),
            "application/vnd.kubernetes.protobuf" => Ok(Encoding::Protobuf),
            _ => Err(Status::unsupported_media_type(ACCEPTED)),
        }
    }
}

/// Reads a body, up to [`MAX_BODY`], within [`READ_TIMEOUT`].
pub(crate) async fn read(body: Body) -> Result<Bytes, Status> {
    match timeout(READ_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(Status::too_large(&format!("limit is {MAX_BODY}")))
        }
        Ok(Err(error)) => Err(Status::bad_request(format!("the body could not be read: {error}"))),
        Err(_) => Err(Status::timeout("the body did not arrive in time", 0)),
    }
}

/// A decoded object, and what strict validation has to say about it.
pub(crate) struct Decoded {
    pub(crate) object: Value,
    pub(crate) warnings: Vec<String>,
}

/// Decodes an object of `kind`: right types, no unknown fields, `apiVersion` and `kind` filled in.
pub(crate) fn object(
    kind: &Kind,
    bytes: &[u8],
    encoding: Encoding,
    validation: FieldValidation,
) -> Result<Decoded, Status> {
    let (mut object, mut problems) = parse(&kind.kind, bytes, encoding)?;
    check_identity(kind, &object)?;
    problems.extend(conform(kind, &mut object)?);
    let warnings = judge(kind, problems, validation)?;
    let map = object.as_object_mut().expect("parse only returns objects");
    map.insert("apiVersion".into(), Value::String(kind.api_version()));
    map.insert("kind".into(), Value::String(kind.kind.to_string()));
    Ok(Decoded { object, warnings })
}

/// Decodes an object that is not of a registered kind (options, scales, bindings), leniently.
pub(crate) fn message(
    name: &str,
    message: &Message,
    bytes: &[u8],
    encoding: Encoding,
) -> Result<Value, Status> {
    let (mut object, _) = parse(name, bytes, encoding)?;
    schema::conform_message(message, &mut object).map_err(|error| {
        let version = object.get("apiVersion").and_then(Value::as_str).unwrap_or("v1");
        Status::bad_request(format!("{name} in version {version:?} cannot be handled as a {name}: {error}"))
    })?;
    Ok(object)
}

/// Checks the types of an object that came from a patch.
pub(crate) fn conform(kind: &Kind, object: &mut Value) -> Result<Vec<StrictProblem>, Status> {
    schema::conform(kind, object).map_err(|error| Status::undecodable(kind, &error))
}

/// What field validation makes of problems: an error, warnings, or nothing.
pub(crate) fn judge(
    kind: &Kind,
    mut problems: Vec<StrictProblem>,
    validation: FieldValidation,
) -> Result<Vec<String>, Status> {
    problems.dedup();
    let texts: Vec<String> = problems.iter().map(StrictProblem::to_string).collect();
    match validation {
        _ if texts.is_empty() => Ok(Vec::new()),
        FieldValidation::Ignore => Ok(Vec::new()),
        FieldValidation::Warn => Ok(texts),
        FieldValidation::Strict => {
            Err(Status::undecodable(kind, &format!("strict decoding error: {}", texts.join(", "))))
        }
    }
}

/// Parses bytes into a JSON object, whatever it is of; `expected` is named in errors.
fn parse(expected: &str, bytes: &[u8], encoding: Encoding) -> Result<(Value, Vec<StrictProblem>), Status> {
    let unrecognized = |why: &str| {
        let summary = summarize(bytes);
        Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {expected}): {why} ({summary})"
        ))
    };
    let (object, problems) = match encoding {
        Encoding::Json => schema::parse_json(bytes)
            .map_err(|e| unrecognized(&format!("couldn't get version/kind; json parse error: {e}")))?,
        Encoding::Yaml => (yaml(bytes).map_err(|e| unrecognized(&format!("yaml: {e}")))?, Vec::new()),
        Encoding::Protobuf => {
            (protobuf::decode(bytes).map_err(|e| unrecognized(&e.to_string()))?, Vec::new())
        }
    };
    match object {
        Value::Object(_) => Ok((object, problems)),
        // An empty YAML document and `null` are empty objects, as they are in Go.
        Value::Null => Ok((Value::Object(Map::new()), problems)),
        other => {
            let found = match other {
                Value::Array(_) => "array",
                Value::String(_) => "string",
                Value::Bool(_) => "bool",
                _ => "number",
            };
            Err(unrecognized(&format!(
                "couldn't get version/kind; json parse error: json: cannot unmarshal {found} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}"
            )))
        }
    }
}

/// One YAML document as JSON. The reader's own limits (depth, nodes, aliases) keep the work in proportion
/// to the size of the body.
fn yaml(bytes: &[u8]) -> Result<Value, String> {
    serde_saphyr::from_slice(bytes).map_err(|error| error.without_snippet().to_string())
}

/// The beginning of a body, as Kubernetes shows it in errors.
fn summarize(bytes: &[u8]) -> String {
    const SHOWN: usize = 30;
    if bytes.is_empty() {
        return "<empty>".into();
    }
    let shown = &bytes[..bytes.len().min(SHOWN)];
    let mut text = if bytes[0] == b'{' {
        String::from_utf8_lossy(shown).into_owned()
    } else {
        shown.iter().map(|b| format!("{b:02x}")).collect()
    };
    if bytes.len() > SHOWN {
        text.push_str(" ...");
    }
    text
}

/// A body may leave out `apiVersion` and `kind`, but not contradict the URL.
pub(crate) fn check_identity(kind: &Kind, object: &Value) -> Result<(), Status> {
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default();
    let (api_version, body_kind) = (text("apiVersion"), text("kind"));
    if !api_version.is_empty() && api_version != kind.api_version() {
        return Err(Status::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({})",
            kind.api_version()
        )));
    }
    if !body_kind.is_empty() && body_kind != kind.kind {
        let known = coracle_api::kinds::builtin()
            .iter()
            .any(|k| k.kind == body_kind && k.group == kind.group && k.version == kind.version);
        let package = if kind.group.is_empty() { "core" } else { &kind.group };
        let why = if known {
            format!(
                "converting ({}.{body_kind}) to ({package}.{}): unknown conversion",
                kind.version, kind.kind
            )
        } else {
            format!("no kind {body_kind:?} is registered for version {:?} in scheme", kind.api_version())
        };
        return Err(Status::bad_request(format!(
            "{body_kind} in version {:?} cannot be handled as a {}: {why}",
            kind.version, kind.kind
        )));
    }
    Ok(())
}
