//! What the guests of one pod see of the network.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::{NetworkError, ResolveError, Stream};

/// The network of one pod. Cheap to clone; all clones are the same stack.
#[derive(Clone, Debug)]
pub struct PodStack {}

impl PodStack {
    /// The pod's address.
    #[must_use]
    pub fn ip(&self) -> Ipv4Addr {
        Ipv4Addr::UNSPECIFIED
    }

    /// Resets every connection, ends every listener and frees the address.
    pub fn close(&self) {}

    /// Reserves a TCP address; port 0 picks an ephemeral one.
    pub fn bind_tcp(&self, _local: SocketAddr) -> Result<TcpBinding, NetworkError> {
        Err(NetworkError::Closed)
    }

    /// Binds and listens.
    pub fn listen(&self, _local: SocketAddr, _backlog: usize) -> Result<TcpListener, NetworkError> {
        Err(NetworkError::Closed)
    }

    /// Dials a pod, a service, a NodePort or, as far as policy lets it, the outside.
    pub async fn connect(&self, remote: SocketAddr) -> Result<Stream, NetworkError> {
        self.start_connect(remote, None).await
    }

    /// Starts to dial, from a bound address if there is one; the result can be polled or tried.
    pub fn start_connect(&self, _remote: SocketAddr, _from: Option<TcpBinding>) -> TcpConnecting {
        TcpConnecting {}
    }

    /// Opens a UDP socket; port 0 picks an ephemeral one.
    pub fn bind_udp(&self, _local: SocketAddr) -> Result<UdpSocket, NetworkError> {
        Err(NetworkError::Closed)
    }

    /// The addresses of a name as this pod sees it.
    pub async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        Err(ResolveError::NotFound(name.to_owned()))
    }
}

/// A reserved TCP address that neither listens nor is connected yet.
#[derive(Debug)]
pub struct TcpBinding {}

/// A listening TCP socket.
#[derive(Debug)]
pub struct TcpListener {}

/// A connection being made.
#[derive(Debug)]
pub struct TcpConnecting {}

impl Future for TcpConnecting {
    type Output = Result<Stream, NetworkError>;

    fn poll(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
        std::task::Poll::Ready(Err(NetworkError::Closed))
    }
}

/// A UDP socket.
#[derive(Debug)]
pub struct UdpSocket {}
