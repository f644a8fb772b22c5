//! One end of a TCP connection.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One end of a TCP connection, whether the other end is in this process or behind the kernel.
///
/// All operations take `&self`, so that the two directions can be used from an `Arc` by different
/// owners. Dropping the last owner closes: with unread data as a reset, otherwise as an orderly end.
#[derive(Debug)]
pub struct Stream {
    local: SocketAddr,
    peer: SocketAddr,
}

impl Stream {
    /// The address of this end.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The address of the other end, as this end dialled or accepted it.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    /// Reads what is there: `Ok(0)` at the end, `WouldBlock` if there is nothing yet.
    pub fn try_read(&self, _buffer: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::NotConnected.into())
    }

    /// Reads at most `max` bytes without copying them; empty at the end, `WouldBlock` if nothing yet.
    pub fn try_read_bytes(&self, _max: usize) -> io::Result<Bytes> {
        Err(io::ErrorKind::NotConnected.into())
    }

    /// Writes as much as fits; `WouldBlock` if nothing does.
    pub fn try_write(&self, _data: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::NotConnected.into())
    }

    /// Writes as much of `data` as fits and leaves the rest in it.
    pub fn try_write_bytes(&self, _data: &mut Bytes) -> io::Result<()> {
        Err(io::ErrorKind::NotConnected.into())
    }

    /// How many bytes the next write takes at once; an error if no write will succeed any more.
    pub fn write_capacity(&self) -> io::Result<usize> {
        Err(io::ErrorKind::NotConnected.into())
    }

    /// Ready when a read would not say `WouldBlock`.
    pub fn poll_readable(&self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    /// Ready when a write would not say `WouldBlock`.
    pub fn poll_writable(&self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    /// Ends one or both directions, as `shutdown(2)` does.
    pub fn shutdown(&self, _how: Shutdown) -> io::Result<()> {
        Ok(())
    }

    /// Resets the connection: both ends see `ConnectionReset`.
    pub fn abort(&self) {}
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
