//! The gRPC health protocol (`grpc.health.v1.Health/Check`): one call over HTTP/2, its two messages written
//! and read by hand.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use coracle_network::Fabric;
use http::{HeaderMap, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::check::USER_AGENT;
use crate::backoff::go_duration;

/// The longest answer that is read: a health message has a few bytes.
const MAX_ANSWER: usize = 4096;

/// Asks how a service is; the error is the text of the event.
pub(super) async fn check(
    fabric: &Arc<Fabric>,
    address: SocketAddr,
    service: &str,
    timeout: Duration,
) -> Result<(), String> {
    let within = go_duration(timeout);
    let unreachable = || {
        format!("timeout: failed to connect service \"{address}\" within {within}: context deadline exceeded")
    };
    let deadline = tokio::time::Instant::now() + timeout;
    // Kubernetes tries to connect until the time is over, and says so; nothing is gained by waiting.
    let stream = match tokio::time::timeout_at(deadline, fabric.connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(_)) | Err(_) => return Err(unreachable()),
    };
    match tokio::time::timeout_at(deadline, call(TokioIo::new(stream), address, service)).await {
        Ok(result) => result,
        Err(_) => Err(format!("timeout: health rpc did not complete within {within}")),
    }
}

async fn call<S>(stream: S, address: SocketAddr, service: &str) -> Result<(), String>
where
    S: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
{
    let failed = |problem: String| format!("error: health rpc probe failed: {problem}");
    let of_hyper = |error: &dyn std::error::Error| {
        failed(format!("rpc error: code = Unavailable desc = {}", crate::images::chain(error)))
    };
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
        .await
        .map_err(|error| of_hyper(&error))?;
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::TE, "trailers")
        .body(Full::new(question(service)))
        .map_err(|error| failed(error.to_string()))?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(|error| of_hyper(&error))?;
        let (head, body) = answer.into_parts();
        if head.status != http::StatusCode::OK {
            let problem = format!(
                "rpc error: code = Unknown desc = unexpected HTTP status code received from server: {}",
                head.status
            );
            return Err(failed(problem));
        }
        let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| of_hyper(&*error))?;
        // An error may come in the head, without a body and trailers.
        let trailers = body.trailers().cloned().unwrap_or(head.headers);
        verdict(&trailers, body.to_bytes())
    };
    tokio::select! {
        result = exchange => result,
        end = connection => Err(match end {
            Err(error) => of_hyper(&error),
            Ok(()) => failed("rpc error: code = Unavailable desc = EOF".into()),
        }),
    }
}

/// A framed `HealthCheckRequest`: the service is its field 1.
fn question(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(&message);
    frame.freeze()
}

/// What the answer means.
fn verdict(trailers: &HeaderMap, body: Bytes) -> Result<(), String> {
    let text = |name: &str| trailers.get(name).and_then(|value| value.to_str().ok());
    let message = text("grpc-message").unwrap_or_default();
    match text("grpc-status").unwrap_or("0") {
        "0" => {}
        "12" => {
            return Err(format!(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {message}"
            ));
        }
        code => {
            let name = code.parse().ok().and_then(|code: usize| CODES.get(code)).unwrap_or(&"Unknown");
            return Err(format!("error: health rpc probe failed: rpc error: code = {name} desc = {message}"));
        }
    }
    match status(body) {
        Some(1) => Ok(()),
        Some(status) => {
            let name = match status {
                0 => "UNKNOWN".to_owned(),
                2 => "NOT_SERVING".to_owned(),
                3 => "SERVICE_UNKNOWN".to_owned(),
                other => other.to_string(),
            };
            Err(format!("service unhealthy (responded with \"{name}\")"))
        }
        None => {
            Err("error: health rpc probe failed: rpc error: code = Internal desc = the answer cannot be read"
                .into())
        }
    }
}

/// The names of gRPC's status codes, as Go prints them.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// Field 1 of a framed `HealthCheckResponse`; 0 if it is not there, `None` if it cannot be read.
fn status(mut body: Bytes) -> Option<u64> {
    if body.try_get_u8().ok()? != 0 {
        return None;
    }
    let length = usize::try_from(body.try_get_u32().ok()?).ok()?;
    if body.len() < length {
        return None;
    }
    body.truncate(length);
    let mut status = 0;
    while body.has_remaining() {
        let key = varint(&mut body)?;
        match (key >> 3, key & 7) {
            (1, 0) => status = varint(&mut body)?,
            (_, 0) => {
                varint(&mut body)?;
            }
            (_, 1) => skip(&mut body, 8)?,
            (_, 2) => {
                let length = usize::try_from(varint(&mut body)?).ok()?;
                skip(&mut body, length)?;
            }
            (_, 5) => skip(&mut body, 4)?,
            _ => return None,
        }
    }
    Some(status)
}

fn skip(body: &mut Bytes, count: usize) -> Option<()> {
    (body.len() >= count).then(|| body.advance(count))
}

fn varint(body: &mut Bytes) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = body.try_get_u8().ok()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_framed() {
        assert_eq!(&question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&question("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = question(&"x".repeat(200));
        assert_eq!(&long[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 1]);
    }

    #[test]
    fn verdicts() {
        #[track_caller]
        fn check(code: &str, body: &'static [u8], expected: Result<(), &str>) {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", code.parse().unwrap());
            trailers.insert("grpc-message", "why".parse().unwrap());
            assert_eq!(verdict(&trailers, Bytes::from_static(body)), expected.map_err(str::to_owned));
        }
        check("0", &[0, 0, 0, 0, 2, 0x08, 1], Ok(()));
        check("0", &[0, 0, 0, 0, 5, 0x12, 1, b'x', 0x08, 1], Ok(()));
        check("0", &[0, 0, 0, 0, 2, 0x08, 2], Err("service unhealthy (responded with \"NOT_SERVING\")"));
        check("0", &[0, 0, 0, 0, 0], Err("service unhealthy (responded with \"UNKNOWN\")"));
        let unread =
            "error: health rpc probe failed: rpc error: code = Internal desc = the answer cannot be read";
        check("0", &[0, 0, 0, 0, 9, 0x08], Err(unread));
        check("0", &[], Err(unread));
        check(
            "12",
            &[],
            Err(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): why",
            ),
        );
        check("5", &[], Err("error: health rpc probe failed: rpc error: code = NotFound desc = why"));
    }
}
