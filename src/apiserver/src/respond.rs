//! Answers: objects, statuses, streams.

use axum::{body::Body, response::IntoResponse, response::Response};
use bytes::Bytes;
use coracle_api::status::Status;
use http::{HeaderValue, StatusCode, header};
use serde_json::Value;

use crate::negotiation::Media;

/// A failure as the client sees it.
pub(crate) fn status_response(status: &Status) -> Response {
    let mut bytes = serde_json::to_vec(&status.to_value()).expect("a Status serialises");
    bytes.push(b'\n');
    let code = StatusCode::from_u16(status.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = bytes_response(code, Media::Json.content_type(), Bytes::from(bytes));
    if let Some(seconds) = status.retry_after_seconds() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Bytes of a known type.
pub(crate) fn bytes_response(code: StatusCode, content_type: &'static str, bytes: Bytes) -> Response {
    stream_response(code, content_type, Body::from(bytes))
}

/// A body of a known type.
pub(crate) fn stream_response(code: StatusCode, content_type: &'static str, body: Body) -> Response {
    // Objects are read anew each time; a proxy in between must not keep them.
    let headers = [(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, "no-cache, private")];
    (code, headers, body).into_response()
}

/// JSON bytes in the media type that was asked for.
pub(crate) fn json_response(code: StatusCode, media: Media, json: Bytes) -> Response {
    match media {
        Media::Json => bytes_response(code, media.content_type(), json),
        Media::Yaml => {
            match serde_json::from_slice::<Value>(&json).map(|value| serde_saphyr::to_string(&value)) {
                Ok(Ok(yaml)) => bytes_response(code, media.content_type(), Bytes::from(yaml)),
                _ => status_response(&Status::internal_error("the answer cannot be written as YAML")),
            }
        }
    }
}

/// A value in the media type that was asked for.
pub(crate) fn value_response(code: StatusCode, media: Media, value: &Value) -> Response {
    let bytes = serde_json::to_vec(value).expect("a JSON value serialises");
    json_response(code, media, Bytes::from(bytes))
}

/// Adds `Warning` headers, which `kubectl` prints.
pub(crate) fn warn(response: &mut Response, warnings: &[String]) {
    for text in warnings.iter().take(MAX_WARNINGS) {
        let mut quoted = String::with_capacity(text.len());
        for c in text.chars().take(MAX_WARNING_CHARS) {
            match c {
                '"' | '\\' => quoted.extend(['\\', c]),
                c if c.is_control() => quoted.push(' '),
                c => quoted.push(c),
            }
        }
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

/// Warnings per answer: headers have to fit into what clients read (16 KiB and more).
const MAX_WARNINGS: usize = 16;
/// Characters per warning, for the same reason.
const MAX_WARNING_CHARS: usize = 256;
