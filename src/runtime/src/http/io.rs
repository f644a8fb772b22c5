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

use crate::run::Traffic;

/// One end of a connection, counted as its container's.
#[derive(Debug)]
pub(super) struct Io {
    stream: Stream,
    traffic: Arc<Traffic>,
    activity: Option<Arc<Activity>>,
}

impl Io {
    pub(super) fn new(stream: Stream, traffic: Arc<Traffic>, activity: Option<Arc<Activity>>) -> Io {
        traffic.connections.fetch_add(1, Relaxed);
        Io { stream, traffic, activity }
    }

    fn received(&self, bytes: usize) {
        self.traffic.received.fetch_add(bytes as u64, Relaxed);
        if let Some(activity) = &self.activity {
            activity.received();
        }
    }

    fn write(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.stream.try_write(data) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.stream.poll_writable(cx));
                }
                Err(error) => return Poll::Ready(Err(error)),
                Ok(written) => {
                    self.traffic.sent.fetch_add(written as u64, Relaxed);
                    if let Some(activity) = &self.activity {
                        activity.touch();
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
        self: Pin<&mut Self>,
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
                    self.received(bytes.len());
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl Write for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
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
        me.received(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
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
}

impl Activity {
    pub(super) fn new() -> Arc<Activity> {
        Arc::new(Activity { born: Instant::now(), touched: AtomicU64::new(0), requests: AtomicU32::new(0) })
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
        Busy(Arc::clone(self))
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
