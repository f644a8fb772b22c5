//! What went wrong, in the words of `wasi:http`: one conversion per layer.

use std::error::Error as _;
use std::io;

use coracle_network::{NetworkError, ResolveError};
use wasmtime_wasi_http::Error;

use crate::limiter::OutOfMemory;

/// A name has no address.
pub(super) fn of_lookup(error: &ResolveError) -> Error {
    let dns = |rcode: &str| Error::DnsError { rcode: Some(rcode.to_owned()), info_code: None };
    match error {
        ResolveError::Invalid(_) => dns("FORMERR"),
        ResolveError::NotFound(_) => dns("NXDOMAIN"),
        ResolveError::Denied(_) => Error::DestinationIpProhibited,
        ResolveError::Temporary(_) => Error::DnsTimeout,
    }
}

/// There is no connection.
pub(super) fn of_connect(error: &NetworkError) -> Error {
    match error {
        NetworkError::Refused(_) => Error::ConnectionRefused,
        NetworkError::Reset(_) | NetworkError::Closed => Error::ConnectionTerminated,
        NetworkError::TimedOut(_) => Error::ConnectionTimeout,
        NetworkError::Unreachable(_) => Error::DestinationIpUnroutable,
        NetworkError::Denied(_) => Error::DestinationIpProhibited,
        NetworkError::Limit(_) | NetworkError::AddressInUse(_) => Error::ConnectionLimitReached,
        NetworkError::InvalidAddress(_) => Error::HttpRequestUriInvalid,
        other => Error::Connect(other.kind().into()),
    }
}

/// There is no TLS on the connection.
pub(super) fn of_tls(error: &io::Error) -> Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::AlertReceived(alert)) => Error::TlsAlertReceived {
            alert_id: Some(u8::from(*alert)),
            alert_message: Some(format!("{alert:?}")),
        },
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            Error::TlsCertificateError
        }
        Some(_) => Error::TlsProtocolError,
        None => of_io(error),
    }
}

/// There is no memory left for what a connection takes.
pub(super) fn of_memory(error: &OutOfMemory) -> Error {
    Error::InternalError(Some(error.to_string()))
}

fn of_io(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::TimedOut => Error::ConnectionTimeout,
        io::ErrorKind::OutOfMemory => Error::InternalError(Some(error.to_string())),
        _ => Error::ConnectionTerminated,
    }
}

/// A guest's request has no response.
pub(super) fn of_exchange(error: &hyper::Error) -> Error {
    if error.is_incomplete_message() { Error::ConnectionTerminated } else { of_http(error) }
}

/// A response ends before its end.
pub(super) fn of_response(error: &hyper::Error) -> Error {
    if error.is_incomplete_message() { Error::HttpResponseIncomplete } else { of_http(error) }
}

/// A request to a handler ends before its end.
pub(super) fn of_request(error: &hyper::Error) -> Error {
    if error.is_incomplete_message() { Error::ConnectionTerminated } else { of_http(error) }
}

fn of_http(error: &hyper::Error) -> Error {
    match error.source() {
        Some(cause) if cause.is::<Error>() => match cause.downcast_ref() {
            // The guest wrote another length than it said.
            Some(Error::HttpRequestBodySize(size)) => Error::HttpRequestBodySize(*size),
            _ => Error::HttpProtocolError,
        },
        Some(cause) if cause.is::<io::Error>() => {
            cause.downcast_ref().map_or(Error::ConnectionTerminated, of_io)
        }
        _ if error.is_parse_too_large() => Error::HttpResponseHeaderSectionSize(None),
        _ if error.is_timeout() => Error::HttpResponseTimeout,
        _ if error.is_canceled() || error.is_closed() => Error::ConnectionTerminated,
        _ => Error::HttpProtocolError,
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn each_failure_has_its_word() {
        #[track_caller]
        fn check(error: &Error, expected: &str) {
            assert_eq!(format!("{error:?}"), expected);
        }
        let to = SocketAddr::from(([10, 0, 0, 1], 80));
        let name = || "name".to_owned();
        let nxdomain = "DnsError { rcode: Some(\"NXDOMAIN\"), info_code: None }";
        check(&of_lookup(&ResolveError::NotFound(name())), nxdomain);
        check(&of_lookup(&ResolveError::Denied(name())), "DestinationIpProhibited");
        check(&of_lookup(&ResolveError::Temporary(name())), "DnsTimeout");
        check(&of_connect(&NetworkError::Refused(to)), "ConnectionRefused");
        check(&of_connect(&NetworkError::Denied(to)), "DestinationIpProhibited");
        check(&of_connect(&NetworkError::TimedOut(to)), "ConnectionTimeout");
        check(&of_connect(&NetworkError::Unreachable(to)), "DestinationIpUnroutable");
        check(&of_connect(&NetworkError::Limit("connections")), "ConnectionLimitReached");
        let tls = |error: rustls::Error| of_tls(&io::Error::new(io::ErrorKind::InvalidData, error));
        let unknown = rustls::CertificateError::UnknownIssuer;
        check(&tls(rustls::Error::InvalidCertificate(unknown)), "TlsCertificateError");
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::HandshakeFailure);
        let expected = "TlsAlertReceived { alert_id: Some(40), alert_message: Some(\"HandshakeFailure\") }";
        check(&tls(alert), expected);
        check(&tls(rustls::Error::DecryptError), "TlsProtocolError");
        check(&of_tls(&io::ErrorKind::UnexpectedEof.into()), "ConnectionTerminated");
    }
}
