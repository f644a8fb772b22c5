//! What can go wrong between asking for an address and holding a socket.

use std::io;
use std::net::SocketAddr;

/// Why a network operation other than moving bytes failed.
///
/// Moving bytes on a [`Stream`](crate::Stream) reports `io::Error`s of a plain kind, as a socket would.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// Every address of the node's pod range is taken.
    #[error("no free pod address is left in {0}")]
    NoAddress(ipnet::Ipv4Net),
    /// Another socket of the pod holds the address.
    #[error("address already in use: {0}")]
    AddressInUse(SocketAddr),
    /// The address is not one of the pod's.
    #[error("address not available: {0}")]
    AddressNotAvailable(SocketAddr),
    /// The address can never be used for this (unspecified remote, port 0, wrong family).
    #[error("invalid address: {0}")]
    InvalidAddress(SocketAddr),
    /// Nobody listens there, or the service has no ready endpoint.
    #[error("connection refused: {0}")]
    Refused(SocketAddr),
    /// The other side went away while the connection was made.
    #[error("connection reset: {0}")]
    Reset(SocketAddr),
    /// The other side did not answer in time.
    #[error("connection timed out: {0}")]
    TimedOut(SocketAddr),
    /// No pod or host has that address.
    #[error("no route to host: {0}")]
    Unreachable(SocketAddr),
    /// Guests may not go there.
    #[error("access denied: {0}")]
    Denied(SocketAddr),
    /// A bound of [`limits`](crate::limits) was reached; the text names it.
    #[error("too many {0}")]
    Limit(&'static str),
    /// The pod has no memory left for another connection.
    #[error("no buffer space available")]
    NoBuffers,
    /// Datagrams to many: there is no such thing here.
    #[error("multicast is not supported: {0}")]
    Multicast(SocketAddr),
    /// A datagram larger than UDP carries, or than the receiver takes.
    #[error("datagram too large: {0} bytes")]
    DatagramTooLarge(usize),
    /// A datagram without an address on a socket that is not connected.
    #[error("socket is not connected")]
    NotConnected,
    /// The operation must wait; ask for readiness and try again.
    #[error("operation would block")]
    WouldBlock,
    /// The listener was told to end: it takes no new connections.
    #[error("the listener takes no new connections")]
    Draining,
    /// The pod or the fabric is gone.
    #[error("the network of the pod is closed")]
    Closed,
    /// The kernel refused something for a reason that has no name of its own here.
    #[error("{address}: {kind}")]
    Kernel {
        /// The address in question.
        address: SocketAddr,
        /// What the kernel said.
        kind: io::ErrorKind,
    },
}

impl NetworkError {
    /// The kind a POSIX program would see as `errno`.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            NetworkError::NoAddress(_) | NetworkError::AddressNotAvailable(_) => {
                io::ErrorKind::AddrNotAvailable
            }
            NetworkError::AddressInUse(_) => io::ErrorKind::AddrInUse,
            NetworkError::InvalidAddress(_) => io::ErrorKind::InvalidInput,
            NetworkError::Refused(_) => io::ErrorKind::ConnectionRefused,
            NetworkError::Reset(_) => io::ErrorKind::ConnectionReset,
            NetworkError::TimedOut(_) => io::ErrorKind::TimedOut,
            NetworkError::Unreachable(_) => io::ErrorKind::HostUnreachable,
            NetworkError::Denied(_) => io::ErrorKind::PermissionDenied,
            NetworkError::Limit(_) => io::ErrorKind::QuotaExceeded,
            NetworkError::NoBuffers => io::ErrorKind::OutOfMemory,
            NetworkError::Multicast(_) => io::ErrorKind::Unsupported,
            NetworkError::DatagramTooLarge(_) => io::ErrorKind::InvalidInput,
            NetworkError::NotConnected => io::ErrorKind::NotConnected,
            NetworkError::WouldBlock => io::ErrorKind::WouldBlock,
            NetworkError::Draining => io::ErrorKind::InvalidInput,
            NetworkError::Closed => io::ErrorKind::ConnectionAborted,
            NetworkError::Kernel { kind, .. } => *kind,
        }
    }
}

impl From<NetworkError> for io::Error {
    fn from(error: NetworkError) -> io::Error {
        io::Error::new(error.kind(), error)
    }
}

/// Why a name has no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// Not a host name at all.
    #[error("invalid name {0:?}")]
    Invalid(String),
    /// Nobody has that name.
    #[error("no such host: {0}")]
    NotFound(String),
    /// The name exists, but all its addresses are ones that guests may not reach.
    #[error("access denied: {0}")]
    Denied(String),
    /// The resolver did not answer in time, or too many lookups are under way.
    #[error("temporary failure in name resolution: {0}")]
    Temporary(String),
}
