//! A connection of the pod's network as hyper wants it, with what is counted of it.

use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use coracle_network::Stream;
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::charge::Account;
use super::config::{H2_CONNECTION_BYTES, READ_BYTES, READ_FREE};
use super::pieces::Frames;
use super::server::FULL;
use crate::limiter::OutOfMemory;
use crate::run::Traffic;

/// What a client of HTTP/2 sends first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What such a client is told whose connection cannot be paid for: no settings, and GOAWAY for want of calm.
const GOAWAY: &[u8] = b"\0\0\0\x04\0\0\0\0\0\
    \0\0\x08\x07\0\0\0\0\0\
    \0\0\0\0\0\0\0\x0b";

/// One end of a connection, counted and paid for as its container's.
pub(super) struct Io {
    stream: Stream,
    traffic: Arc<Traffic>,
    account: Arc<Account>,
    incoming: Incoming,
    /// Of a client that asks the container.
    activity: Option<Arc<Activity>>,
}

/// What comes.
#[derive(Debug, Default)]
struct Incoming {
    /// Bytes since the last request began or, where the container asks, since its question.
    bytes: usize,
    /// The requests that had begun then.
    begun: u32,
    /// How much of [`PREFACE`] has come, while nothing else has.
    preface: usize,
    /// The connection pays for a large buffer.
    large: bool,
    /// Of HTTP/2, what comes after [`PREFACE`].
    frames: Frames,
}

impl Incoming {
    /// How much more a connection is charged with after these bytes; `begun` requests have begun on it.
    fn charge(&mut self, bytes: &[u8], begun: Option<u32>) -> u64 {
        let mut charge = 0;
        if let Some(begun) = begun {
            if begun != std::mem::replace(&mut self.begun, begun) {
                self.bytes = 0;
            }
            if self.preface == self.bytes && self.preface < PREFACE.len() && begun == 0 {
                let more = PREFACE[self.preface..].iter().zip(bytes).take_while(|(a, b)| a == b).count();
                self.preface += more;
                if self.preface == PREFACE.len() {
                    charge += H2_CONNECTION_BYTES;
                }
            }
        }
        self.bytes = self.bytes.saturating_add(bytes.len());
        if self.bytes > READ_FREE && !std::mem::replace(&mut self.large, true) {
            charge += READ_BYTES;
        }
        charge
    }
}

impl Io {
    pub(super) fn new(
        stream: Stream,
        traffic: Arc<Traffic>,
        account: Arc<Account>,
        activity: Option<Arc<Activity>>,
    ) -> Io {
        traffic.connections.fetch_add(1, Relaxed);
        Io { stream, traffic, account, incoming: Incoming::default(), activity }
    }

    fn received(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.traffic.received.fetch_add(bytes.len() as u64, Relaxed);
        if let Some(activity) = &self.activity {
            activity.received();
        }
        let begun = self.activity.as_ref().map(|activity| activity.begun());
        let before = self.incoming.preface;
        let charge = self.incoming.charge(bytes, begun);
        let mut paid = if charge == 0 { Ok(()) } else { self.account.grow(charge) };
        if paid.is_ok() && self.incoming.preface == PREFACE.len() {
            paid = self.framed(&bytes[PREFACE.len() - before..]);
        }
        paid.map_err(|error| self.unpaid(error))
    }

    /// Pays for what these bytes of HTTP/2 frames make the connection hold.
    fn framed(&mut self, bytes: &[u8]) -> Result<(), OutOfMemory> {
        let frames = &mut self.incoming.frames;
        if self.activity.as_ref().is_some_and(|activity| activity.begun() == frames.opened) {
            self.account.all_begun();
        }
        self.account.came(frames.follow(bytes), bytes.len())
    }

    /// The connection cannot be paid for, and ends. A client that waits for nothing else is told.
    fn unpaid(&self, error: OutOfMemory) -> io::Error {
        if self.activity.as_ref().is_some_and(|activity| activity.is_idle()) {
            let http2 = self.incoming.preface == PREFACE.len();
            let _ = self.stream.try_write(if http2 { GOAWAY } else { FULL });
        }
        io::Error::new(io::ErrorKind::OutOfMemory, error)
    }

    fn write(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.account.sends(data.len()).map_err(|error| io::Error::new(io::ErrorKind::OutOfMemory, error))?;
        loop {
            match self.stream.try_write(data) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.account.left(data.len());
                    ready!(self.stream.poll_writable(cx));
                }
                Err(error) => return Poll::Ready(Err(error)),
                Ok(written) => {
                    self.account.left(data.len() - written);
                    self.traffic.sent.fetch_add(written as u64, Relaxed);
                    match &self.activity {
                        Some(activity) => activity.touch(),
                        None => self.incoming.bytes = 0,
                    }
                    return Poll::Ready(Ok(written));
                }
            }
        }
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        self.traffic.connections.fetch_sub(1, Relaxed);
    }
}

impl Read for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            match self.stream.try_read_bytes(buffer.remaining()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.stream.poll_readable(cx));
                }
                Err(error) => return Poll::Ready(Err(error)),
                Ok(bytes) => {
                    buffer.put_slice(&bytes);
                    return Poll::Ready(self.received(&bytes));
                }
            }
        }
    }
}

impl Write for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.write(cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.shutdown(Shutdown::Write);
        Poll::Ready(Ok(()))
    }
}

/// The same for what lies between it and hyper: TLS.
impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        let before = buffer.filled().len();
        ready!(AsyncRead::poll_read(Pin::new(&mut me.stream), cx, buffer))?;
        Poll::Ready(me.received(&buffer.filled()[before..]))
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.write(cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Write::poll_shutdown(self, cx)
    }
}

/// When a connection last did something, so that one timer, set now and then, does for all its requests.
#[derive(Debug)]
pub(super) struct Activity {
    born: Instant,
    /// Milliseconds from `born`.
    touched: AtomicU64,
    requests: AtomicU32,
    begun: AtomicU32,
}

impl Activity {
    pub(super) fn new() -> Arc<Activity> {
        Arc::new(Activity {
            born: Instant::now(),
            touched: AtomicU64::new(0),
            requests: AtomicU32::new(0),
            begun: AtomicU32::new(0),
        })
    }

    /// Bytes came. While no request is answered they are no sign of life: a head that comes byte by byte must be
    /// there as soon as one that comes at once, or whoever has as many connections as there may be keeps them.
    fn received(&self) {
        if self.requests.load(Relaxed) > 0 {
            self.touch();
        }
    }

    fn touch(&self) {
        let millis = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.touched.store(millis, Relaxed);
    }

    /// A request is being answered as long as this lives.
    pub(super) fn request(self: &Arc<Self>) -> Busy {
        self.touch();
        self.requests.fetch_add(1, Relaxed);
        self.begun.fetch_add(1, Relaxed);
        Busy(Arc::clone(self))
    }

    /// How many requests have begun.
    fn begun(&self) -> u32 {
        self.begun.load(Relaxed)
    }

    /// No request is being answered.
    fn is_idle(&self) -> bool {
        self.requests.load(Relaxed) == 0
    }

    /// Comes back when nothing was read or written for `busy` while a request is answered, or when none has begun
    /// for `idle`.
    pub(super) async fn silence(&self, idle: Duration, busy: Duration) {
        loop {
            let limit = if self.requests.load(Relaxed) > 0 { busy } else { idle };
            let silent_at = self.born + Duration::from_millis(self.touched.load(Relaxed)) + limit;
            let now = Instant::now();
            if now >= silent_at {
                return;
            }
            // It may become idle meanwhile.
            tokio::time::sleep_until(silent_at.min(now + idle)).await;
        }
    }
}

/// See [`Activity::request`].
#[derive(Debug)]
pub(super) struct Busy(Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.touch();
        self.0.requests.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_pays_for_what_it_makes_large() {
        #[track_caller]
        fn check(incoming: &mut Incoming, bytes: &[u8], begun: Option<u32>, expected: u64) {
            assert_eq!(incoming.charge(bytes, begun), expected, "{incoming:?}");
        }
        let half = [b'x'; READ_FREE / 2];
        // Small requests cost nothing, however many; a head or a body that is long does, once.
        let mut incoming = Incoming::default();
        for begun in 0..5 {
            check(&mut incoming, &half, Some(begun), 0);
            check(&mut incoming, &half, Some(begun), 0);
        }
        check(&mut incoming, b"x", Some(4), READ_BYTES);
        check(&mut incoming, &half, Some(4), 0);
        // HTTP/2 costs as soon as it is known, in whatever pieces it comes.
        for piece in [1, 3, 10, 24] {
            let mut incoming = Incoming::default();
            let charged = PREFACE.chunks(piece).map(|piece| incoming.charge(piece, Some(0)));
            assert_eq!(charged.sum::<u64>(), H2_CONNECTION_BYTES);
            check(&mut incoming, PREFACE, Some(0), 0);
        }
        let mut incoming = Incoming::default();
        check(&mut incoming, b"PRI ", Some(0), 0);
        check(&mut incoming, b"/ HTTP/1.1", Some(0), 0);
        check(&mut incoming, &PREFACE[4..], Some(0), 0);
        let mut both = PREFACE.to_vec();
        both.resize(READ_FREE + 1, 0);
        check(&mut Incoming::default(), &both, Some(0), H2_CONNECTION_BYTES + READ_BYTES);
        // An answer is only large.
        check(&mut Incoming::default(), PREFACE, None, 0);
        check(&mut Incoming::default(), &both, None, READ_BYTES);
    }

    const IDLE: Duration = Duration::from_secs(10);
    const BUSY: Duration = Duration::from_secs(100);

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_is_noticed_in_time() {
        let begun = Instant::now();
        let activity = Activity::new();
        activity.silence(IDLE, BUSY).await;
        assert_eq!(begun.elapsed(), IDLE);

        let request = activity.request();
        activity.touch();
        activity.silence(IDLE, BUSY).await;
        assert_eq!(begun.elapsed(), IDLE + BUSY);
        drop(request); // which is a sign of life, too
        activity.silence(IDLE, BUSY).await;
        assert_eq!(begun.elapsed(), IDLE + BUSY + IDLE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_comes_byte_by_byte_is_not_waited_for() {
        let begun = Instant::now();
        let activity = Activity::new();
        let bytes = async {
            loop {
                tokio::time::sleep(IDLE / 4).await;
                activity.received();
            }
        };
        tokio::select! {
            () = activity.silence(IDLE, BUSY) => {}
            () = bytes => {}
        }
        assert_eq!(begun.elapsed(), IDLE);
    }
}
