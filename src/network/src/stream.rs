//! One end of a TCP connection.
//!
//! A connection is two [`Pipe`]s crossed. Ends that lead out of the node are ends of the same kind: the
//! far one belongs to a task of [`crate::kernel`] that moves the bytes to and from a kernel socket. So
//! every stream behaves the same, and guests never wait on a kernel socket themselves.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::bandwidth::Shaping;
use crate::limits::WRITE_MAX;
use crate::meter::Meter;
use crate::pipe::{Payer, Pipe, Room};
use crate::stack::{ConnectionGuard, Stack};

/// One end of a TCP connection, whether the other end is a guest, the node or a host outside.
///
/// # Guarantees
/// - All operations take `&self` and never block; the two directions can be used from an `Arc` by
///   different owners, and from any thread, with or without a Tokio runtime.
/// - Dropping the last owner closes: with unread data as a reset, otherwise as an orderly end. What was
///   written before can still be read by the other side.
///
/// # Caveats
/// - A write is accepted when it is buffered, as on any socket; that it arrived only the other side says.
#[derive(Debug)]
pub struct Stream {
    connection: Arc<Connection>,
    side: usize,
    local: SocketAddr,
    peer: SocketAddr,
    /// What the connection costs the pod at this end: a place in its table, a port. The node has none.
    guard: Option<ConnectionGuard>,
}

/// What both ends share. Side `i` writes into pipe `i` and reads from the other.
#[derive(Debug)]
pub(crate) struct Connection {
    pipes: [Pipe; 2],
}

impl Connection {
    /// The direction that this side writes into.
    fn pipe(stacks: &[Option<Arc<Stack>>; 2], side: usize) -> Pipe {
        let (writer, reader) = (stacks[side].as_ref(), stacks[1 - side].as_ref());
        let payer = match (writer, reader) {
            (Some(writer), _) => Some(Payer { meter: Arc::clone(&writer.meter), writes: true }),
            (None, reader) => reader.map(|reader| Payer { meter: Arc::clone(&reader.meter), writes: false }),
        };
        let loopback = matches!((writer, reader), (Some(a), Some(b)) if Arc::ptr_eq(a, b));
        let shaping = match (writer, reader) {
            _ if loopback => None,
            (writer, reader) => Shaping::new(writer.map(|w| &w.limits), reader.map(|r| &r.limits)),
        };
        Pipe::new(payer, shaping)
    }

    /// What this side writes may go on: there is bandwidth again.
    pub(crate) fn go_on(&self, side: usize, grant: usize) {
        self.pipes[side].go_on(grant);
    }

    /// Resets the connection from outside (the pod is closed).
    pub(crate) fn reset(&self) {
        self.pipes[0].reset();
        self.pipes[1].reset();
    }
}

/// Who is at one end of a connection about to be made.
pub(crate) struct End {
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) guard: Option<ConnectionGuard>,
}

impl Stream {
    /// Joins two ends; the first is the one that dialled. `None` if one of the pods has just closed.
    pub(crate) fn pair(dialler: End, listener: End) -> Option<(Stream, Stream)> {
        let stack = |end: &End| end.guard.as_ref().map(|guard| Arc::clone(guard.stack()));
        let stacks = [stack(&dialler), stack(&listener)];
        let connection =
            Arc::new(Connection { pipes: [Connection::pipe(&stacks, 0), Connection::pipe(&stacks, 1)] });
        let make = |side: usize, end: End| {
            let mut stream = Stream {
                connection: Arc::clone(&connection),
                side,
                local: end.local,
                peer: end.peer,
                guard: None,
            };
            if let Some(mut guard) = end.guard {
                let known = guard.watch(&connection);
                stream.guard = Some(guard);
                known.then_some(stream)
            } else {
                Some(stream)
            }
        };
        Some((make(0, dialler)?, make(1, listener)?))
    }

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

    fn incoming(&self) -> &Pipe {
        &self.connection.pipes[1 - self.side]
    }

    fn outgoing(&self) -> &Pipe {
        &self.connection.pipes[self.side]
    }

    fn meter(&self) -> Option<&Arc<Meter>> {
        self.guard.as_ref().map(ConnectionGuard::meter)
    }

    /// Reads what is there: `Ok(0)` at the end, `WouldBlock` if there is nothing yet.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.incoming().read(buffer)?;
        if let Some(meter) = self.meter() {
            meter.read(read);
        }
        Ok(read)
    }

    /// Reads at most `max` bytes without copying them; empty at the end, `WouldBlock` if nothing yet.
    pub fn try_read_bytes(&self, max: usize) -> io::Result<Bytes> {
        let bytes = self.incoming().read_bytes(max)?;
        if let Some(meter) = self.meter() {
            meter.read(bytes.len());
        }
        Ok(bytes)
    }

    /// Writes as much as fits, at most [`WRITE_MAX`]; `WouldBlock` if nothing does.
    pub fn try_write(&self, data: &[u8]) -> io::Result<usize> {
        self.outgoing().write(data)
    }

    /// Writes all of `data`, without a copy if it is long. Meant for at most what
    /// [`Stream::write_capacity`] said just before; more than [`WRITE_MAX`] is `InvalidInput`.
    pub fn try_write_bytes(&self, data: Bytes) -> io::Result<()> {
        if data.len() > WRITE_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.outgoing().write_bytes(data)
    }

    /// How many bytes a write would probably take now; an error if no write will succeed any more. Unlike
    /// [`Stream::write_capacity`] it promises nothing, and costs nothing.
    pub fn write_vacancy(&self) -> io::Result<usize> {
        self.outgoing().vacancy()
    }

    /// An error if no write will succeed any more.
    pub fn check_writable(&self) -> io::Result<()> {
        self.outgoing().check_writable()
    }

    /// How many bytes the next write takes at once (0 to [`WRITE_MAX`]); an error if no write will
    /// succeed any more. The pod pays for so many until it writes, or asks again: [`Stream::try_write`] costs less
    /// where the data is at hand.
    pub fn write_capacity(&self) -> io::Result<usize> {
        self.outgoing().capacity()
    }

    /// Ready when a read would not say `WouldBlock`.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.incoming().poll_readable(cx)
    }

    /// Ready when a fair part of the window is free, or when writing failed for good.
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self.outgoing().room(cx) {
            Room::Ready => Poll::Ready(()),
            Room::Full => Poll::Pending,
            Room::Throttled(bucket) => {
                bucket.wake_later(Arc::downgrade(&self.connection), self.side);
                Poll::Pending
            }
        }
    }

    /// Ready when the other end has been closed altogether, not only for writing.
    pub(crate) fn poll_peer_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.outgoing().poll_reader_gone(cx)
    }

    /// Ends one or both directions, as `shutdown(2)` does. What the other side sends into a direction
    /// that was shut for reading is discarded.
    pub fn shutdown(&self, how: Shutdown) {
        if how != Shutdown::Read {
            self.outgoing().finish();
        }
        if how != Shutdown::Write {
            self.incoming().shut_reader();
        }
    }

    /// Resets the connection: both ends see `ConnectionReset`, after what was buffered before.
    pub fn abort(&self) {
        self.connection.reset();
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.incoming().close_reader() {
            self.connection.reset();
        } else {
            self.outgoing().finish();
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            match self.try_read(buffer.initialize_unfilled()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(self.poll_readable(cx)),
                Err(error) => return Poll::Ready(Err(error)),
                Ok(read) => {
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.try_write(data) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(self.poll_writable(cx)),
                other => return Poll::Ready(other),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shutdown(Shutdown::Write);
        Poll::Ready(Ok(()))
    }
}
