//! What the network says, in the words of `wasi:sockets`. One conversion per boundary.

use std::io;

use coracle_network::{NetworkError, ResolveError};
use wasmtime_wasi::p2::bindings::sockets::network::ErrorCode;

/// For operations on sockets.
pub(super) fn error_code(error: &NetworkError) -> ErrorCode {
    match error {
        NetworkError::NoAddress(_) | NetworkError::AddressNotAvailable(_) => ErrorCode::AddressNotBindable,
        NetworkError::AddressInUse(_) => ErrorCode::AddressInUse,
        NetworkError::InvalidAddress(_) | NetworkError::NotConnected => ErrorCode::InvalidArgument,
        NetworkError::Refused(_) => ErrorCode::ConnectionRefused,
        NetworkError::Reset(_) => ErrorCode::ConnectionReset,
        NetworkError::TimedOut(_) => ErrorCode::Timeout,
        NetworkError::Unreachable(_) => ErrorCode::RemoteUnreachable,
        NetworkError::Denied(_) => ErrorCode::AccessDenied,
        NetworkError::Limit(_) => ErrorCode::NewSocketLimit,
        NetworkError::NoBuffers => ErrorCode::OutOfMemory,
        NetworkError::Multicast(_) => ErrorCode::NotSupported,
        NetworkError::DatagramTooLarge(_) => ErrorCode::DatagramTooLarge,
        NetworkError::WouldBlock => ErrorCode::WouldBlock,
        // What Linux says after `shutdown(2)` on a listener. `connection-aborted` is an error that servers ignore,
        // and `invalid-state` one at which wasi-libc aborts.
        NetworkError::Draining => ErrorCode::InvalidArgument,
        NetworkError::Closed => ErrorCode::ConnectionAborted,
        NetworkError::Kernel { kind, .. } => ErrorCode::from(io::Error::from(*kind)),
    }
}

/// For errors of a stream, which arrive as the `io::Error` of a kind.
pub(super) fn stream_error_code(error: &io::Error) -> ErrorCode {
    match error.kind() {
        // The bindings have no word for a broken pipe; this is the nearest that programs handle.
        io::ErrorKind::BrokenPipe => ErrorCode::ConnectionAborted,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => ErrorCode::RemoteUnreachable,
        _ => ErrorCode::from(error),
    }
}

/// For look-ups.
pub(super) fn resolve_error_code(error: &ResolveError) -> ErrorCode {
    match error {
        ResolveError::Invalid(_) => ErrorCode::InvalidArgument,
        ResolveError::NotFound(_) => ErrorCode::NameUnresolvable,
        ResolveError::Denied(_) => ErrorCode::AccessDenied,
        ResolveError::Temporary(_) => ErrorCode::TemporaryResolverFailure,
    }
}
