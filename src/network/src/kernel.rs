//! The doors to the kernel's network: connections that leave the node, and the pump that moves bytes
//! between a kernel socket and one end of a [`Stream`].
//!
//! ```text
//!  guest ── Stream ══ pipes ══ Stream ── pump ── kernel socket ── the outside
//! ```

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::limits::{CONNECT_TIMEOUT, KERNEL_READ, ORPHAN_TIMEOUT, WRITE_MAX};
use crate::policy::wildcard;
use crate::pool::Share;
use crate::stream::{End, Stream};
use crate::{Fabric, NetworkError};

/// Silence after which the kernel asks whether the other side is still there: without it a client that
/// vanished would hold its connection for ever.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// How often it asks then, and after how many questions without an answer the connection is over.
const KEEP_ALIVE_AGAIN: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TRIES: u32 = 6;

/// Dials the outside for a guest, or for the node if there is no `share`.
pub(crate) async fn connect(
    fabric: Arc<Fabric>,
    to: SocketAddr,
    share: Option<Arc<Share>>,
    caller: End,
) -> Result<Stream, NetworkError> {
    let permit = match share {
        Some(share) => Some(share.take().ok_or_else(|| NetworkError::Limit(share.purpose()))?),
        None => None,
    };
    let dialled = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(to)).await;
    let remote = caller.peer;
    let kernel = match dialled {
        Err(_) => return Err(NetworkError::TimedOut(remote)),
        Ok(result) => result.map_err(|error| dial_error(remote, &error))?,
    };
    let far = End { local: caller.peer, peer: caller.local, guard: None };
    let (ours, theirs) = Stream::pair(caller, far).ok_or(NetworkError::Closed)?;
    let stop = fabric.stop().clone();
    fabric.spawn_detached(async move {
        if let Err(error) = pump(kernel, theirs, &stop).await {
            tracing::debug!(%remote, %error, "connection to the outside ended early");
        }
        drop(permit);
    });
    Ok(ours)
}

fn dial_error(remote: SocketAddr, error: &io::Error) -> NetworkError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => NetworkError::Refused(remote),
        io::ErrorKind::ConnectionReset => NetworkError::Reset(remote),
        io::ErrorKind::TimedOut => NetworkError::TimedOut(remote),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            NetworkError::Unreachable(remote)
        }
        kind => NetworkError::Kernel { address: remote, kind },
    }
}

/// Moves bytes both ways until both directions have ended, keeping half-close, back-pressure and resets.
/// An idle pump holds no buffer. On an error, both sides are reset.
pub(crate) async fn pump(kernel: TcpStream, stream: Stream, stop: &CancellationToken) -> io::Result<()> {
    kernel.set_nodelay(true)?;
    let keep_alive = socket2::TcpKeepalive::new()
        .with_time(KEEP_ALIVE)
        .with_interval(KEEP_ALIVE_AGAIN)
        .with_retries(KEEP_ALIVE_TRIES);
    socket2::SockRef::from(&kernel).set_tcp_keepalive(&keep_alive)?;
    let (read, mut write) = kernel.into_split();
    let result = tokio::select! {
        () = stop.cancelled() => Err(io::ErrorKind::ConnectionAborted.into()),
        result = both_ways(&read, &mut write, &stream) => result,
        error = broken(&read) => Err(error),
    };
    if result.is_err() {
        stream.abort();
        // Without a linger the kernel sends a reset instead of an orderly end. That it cannot be set can
        // only mean that the socket is broken already.
        let _ = read.as_ref().set_zero_linger();
        write.forget();
    }
    result
}

async fn both_ways(read: &OwnedReadHalf, write: &mut OwnedWriteHalf, stream: &Stream) -> io::Result<()> {
    let inward = to_guest(read, stream);
    let outward = from_guest(write, stream);
    tokio::pin!(inward, outward);
    tokio::select! {
        result = &mut inward => {
            result?;
            outward.await
        }
        result = &mut outward => {
            result?;
            // The guest has said its last; if it does not listen either, the outside may not keep us.
            let orphaned = async {
                std::future::poll_fn(|cx| stream.poll_peer_gone(cx)).await;
                tokio::time::sleep(ORPHAN_TIMEOUT).await;
            };
            tokio::select! {
                result = inward => result,
                () = orphaned => Err(io::ErrorKind::TimedOut.into()),
            }
        }
    }
}

/// Waits until the kernel knows that the other side is gone: a guest that neither reads nor writes would not find
/// out, and keep a descriptor of the node.
async fn broken(kernel: &OwnedReadHalf) -> io::Error {
    match kernel.ready(Interest::ERROR).await {
        Ok(_) => match kernel.as_ref().take_error() {
            Ok(Some(error)) | Err(error) => error,
            Ok(None) => io::ErrorKind::ConnectionReset.into(),
        },
        Err(error) => error,
    }
}

async fn to_guest(read: &OwnedReadHalf, stream: &Stream) -> io::Result<()> {
    loop {
        std::future::poll_fn(|cx| stream.poll_writable(cx)).await;
        read.readable().await?;
        // A guest that takes no more may have answered already: only what it does not take is an error, not that
        // there could be something.
        let room = stream.write_capacity().unwrap_or(KERNEL_READ).min(KERNEL_READ);
        if room == 0 {
            continue;
        }
        let mut buffer = BytesMut::with_capacity(KERNEL_READ).limit(room);
        match read.try_read_buf(&mut buffer) {
            Ok(0) => {
                stream.shutdown(Shutdown::Write);
                return Ok(());
            }
            // A long buffer for few bytes would be charged as few; copy those.
            Ok(read) if read < KERNEL_READ / 2 => {
                stream.try_write_bytes(buffer.get_ref()[..].to_vec().into())?;
            }
            Ok(_) => stream.try_write_bytes(buffer.into_inner().freeze())?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

async fn from_guest(write: &mut OwnedWriteHalf, stream: &Stream) -> io::Result<()> {
    loop {
        std::future::poll_fn(|cx| stream.poll_readable(cx)).await;
        match stream.try_read_bytes(WRITE_MAX) {
            Ok(bytes) if bytes.is_empty() => return write.shutdown().await,
            Ok(bytes) => write.write_all(&bytes).await?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Tells whether an address is one of this host's, whichever interface has it.
#[derive(Debug)]
pub(crate) struct HostAddresses {
    /// The host lets anybody bind anything (`ip_nonlocal_bind`), so a bind proves nothing.
    bind_proves_nothing: bool,
    /// What was found out a moment ago: every datagram to the outside asks.
    known: Mutex<HashMap<IpAddr, (bool, Instant)>>,
}

/// How long an answer of the kernel is believed.
const BELIEVED: Duration = Duration::from_secs(1);

/// How many answers are kept.
const ANSWERS: usize = 1024;

impl HostAddresses {
    pub(crate) fn new() -> HostAddresses {
        // An address of the documentation range, which no host has.
        HostAddresses { bind_proves_nothing: UdpSocket::bind("192.0.2.1:0").is_ok(), known: Mutex::default() }
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let now = Instant::now();
        let fresh = |since: Instant| now.duration_since(since) < BELIEVED;
        let known = self.known.lock().get(&address).copied();
        if let Some((own, _)) = known.filter(|(_, since)| fresh(*since)) {
            return own;
        }
        let own = self.ask(address);
        let mut known = self.known.lock();
        if known.len() >= ANSWERS {
            known.clear();
        }
        known.insert(address, (own, now));
        own
    }

    /// Asks the kernel: only an address of the host can be bound, and only to such an address does the
    /// kernel route from that same address. Neither sends a packet.
    fn ask(&self, address: IpAddr) -> bool {
        if !self.bind_proves_nothing && UdpSocket::bind((address, 0)).is_ok() {
            return true;
        }
        let route = || {
            let socket = UdpSocket::bind((wildcard(address), 0))?;
            socket.connect((address, 9))?;
            socket.local_addr()
        };
        route().is_ok_and(|from| from.ip() == address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A guest has a connection and never looks at it; the client resets it, perhaps after it said that it sends
    /// no more.
    async fn check(half_closed: bool) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let mut client = TcpStream::connect(address).await.expect("it listens");
        let (kernel, peer) = listener.accept().await.expect("a client");
        let end = |local, peer| End { local, peer, guard: None };
        let (far, guest) = Stream::pair(end(address, peer), end(peer, address)).expect("open");
        let pump = tokio::spawn(async move { pump(kernel, far, &CancellationToken::new()).await });
        if half_closed {
            client.shutdown().await.expect("open");
            std::future::poll_fn(|cx| guest.poll_readable(cx)).await;
        }
        client.set_zero_linger().expect("open");
        drop(client);
        let ended = tokio::time::timeout(Duration::from_secs(10), pump).await.expect("it ends");
        assert!(ended.expect("no panic").is_err());
    }

    #[tokio::test]
    async fn a_client_that_has_gone_keeps_no_socket() {
        check(false).await;
        check(true).await;
    }

    #[test]
    fn the_host_knows_its_own_addresses() {
        let host = HostAddresses::new();
        for (address, own) in
            [("127.0.0.1", true), ("192.0.2.1", false), ("1.1.1.1", false), ("2001:db8::1", false)]
        {
            assert_eq!(host.contains(address.parse().expect("an address")), own, "{address}");
        }
    }
}
