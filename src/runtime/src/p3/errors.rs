//! Errors of files and network in the words of WASI 0.3. One conversion per boundary.

use std::io;

use coracle_network::{NetworkError, ResolveError};
use coracle_vfs::VfsError;
use wasmtime_wasi::p3::bindings::filesystem::types::ErrorCode as FileError;
use wasmtime_wasi::p3::bindings::sockets::ip_name_lookup::ErrorCode as LookupError;
use wasmtime_wasi::p3::bindings::sockets::types::ErrorCode as SocketError;

/// For files.
#[expect(clippy::needless_pass_by_value, reason = "the shape that `map_err` takes")]
pub(super) fn file_error(error: VfsError) -> FileError {
    match error {
        VfsError::NoEntry => FileError::NoEntry,
        VfsError::Exists => FileError::Exist,
        VfsError::NotDirectory => FileError::NotDirectory,
        VfsError::IsDirectory => FileError::IsDirectory,
        VfsError::NotEmpty => FileError::NotEmpty,
        VfsError::NoSpace => FileError::InsufficientSpace,
        VfsError::ReadOnly => FileError::ReadOnly,
        VfsError::Loop => FileError::Loop,
        VfsError::NameTooLong => FileError::NameTooLong,
        VfsError::Invalid => FileError::Invalid,
        VfsError::CrossDevice => FileError::CrossDevice,
        VfsError::Access => FileError::Access,
        VfsError::NotPermitted => FileError::NotPermitted,
        VfsError::BadDescriptor => FileError::BadDescriptor,
        VfsError::TooManyLinks => FileError::TooManyLinks,
        VfsError::TooManyOpen => FileError::Quota,
        VfsError::Busy => FileError::Busy,
        VfsError::TooLarge => FileError::FileTooLarge,
        VfsError::IllegalByteSequence => FileError::IllegalByteSequence,
        VfsError::Unsupported => FileError::Unsupported,
        VfsError::Io(_) => FileError::Io,
    }
}

/// For operations on sockets.
#[expect(clippy::needless_pass_by_value, reason = "the shape that `map_err` takes")]
pub(super) fn socket_error(error: NetworkError) -> SocketError {
    match error {
        NetworkError::NoAddress(_) | NetworkError::AddressNotAvailable(_) => SocketError::AddressNotBindable,
        NetworkError::AddressInUse(_) => SocketError::AddressInUse,
        NetworkError::InvalidAddress(_) | NetworkError::NotConnected => SocketError::InvalidArgument,
        NetworkError::Refused(_) => SocketError::ConnectionRefused,
        NetworkError::Reset(_) => SocketError::ConnectionReset,
        NetworkError::TimedOut(_) => SocketError::Timeout,
        NetworkError::Unreachable(_) => SocketError::RemoteUnreachable,
        NetworkError::Denied(_) => SocketError::AccessDenied,
        NetworkError::NoBuffers => SocketError::OutOfMemory,
        NetworkError::Multicast(_) => SocketError::NotSupported,
        NetworkError::Limit(what) => SocketError::Other(Some(what.to_owned())),
        NetworkError::DatagramTooLarge(_) => SocketError::DatagramTooLarge,
        NetworkError::Draining | NetworkError::WouldBlock => SocketError::InvalidState,
        NetworkError::Closed => SocketError::ConnectionAborted,
        NetworkError::Kernel { kind, .. } => stream_error(io::Error::from(kind)),
    }
}

/// For what flows through a connection.
#[expect(clippy::needless_pass_by_value, reason = "the shape that `map_err` takes")]
pub(super) fn stream_error(error: io::Error) -> SocketError {
    match error.kind() {
        io::ErrorKind::BrokenPipe => SocketError::ConnectionBroken,
        io::ErrorKind::ConnectionReset => SocketError::ConnectionReset,
        io::ErrorKind::ConnectionAborted => SocketError::ConnectionAborted,
        io::ErrorKind::ConnectionRefused => SocketError::ConnectionRefused,
        io::ErrorKind::TimedOut => SocketError::Timeout,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => SocketError::RemoteUnreachable,
        io::ErrorKind::AddrInUse => SocketError::AddressInUse,
        io::ErrorKind::AddrNotAvailable => SocketError::AddressNotBindable,
        io::ErrorKind::PermissionDenied => SocketError::AccessDenied,
        io::ErrorKind::InvalidInput => SocketError::InvalidArgument,
        kind => SocketError::Other(Some(kind.to_string())),
    }
}

/// For look-ups.
#[expect(clippy::needless_pass_by_value, reason = "the shape that `map_err` takes")]
pub(super) fn lookup_error(error: ResolveError) -> LookupError {
    match error {
        ResolveError::Invalid(_) => LookupError::InvalidArgument,
        ResolveError::NotFound(_) => LookupError::NameUnresolvable,
        ResolveError::Denied(_) => LookupError::AccessDenied,
        ResolveError::Temporary(_) => LookupError::TemporaryResolverFailure,
    }
}
