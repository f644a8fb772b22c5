//! Pieces of bodies that came on an HTTP/2 connection and that no guest has taken yet.
//!
//! Each is a part of the buffer that it came in, and keeps all of it: one of a few hundred bytes keeps eight thousand.
//! A client whose requests nobody reads could so, with what is read at once between its pieces, have the node hold
//! thirty times what its windows let it send. The queues that pieces wait in are the protocol's own, where nobody can
//! look; but what comes passes by, and so does what is taken:
//!
//! ```text
//!   bytes ── Frames: which of them begin pieces, or requests ──▶ Pieces ──▶ what the connection is charged with
//!   guest ── Taken: a piece, copied out of its buffer if it is small ──▲
//! ```

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::charge::Account;
use super::config::{H2_CONNECTION_WINDOW, READ_FREE};

/// What a piece that waits may keep besides itself: the buffer of a connection that reads frames.
const BUFFER: u64 = READ_FREE as u64;

/// What pieces may keep before their connection is charged with it, and in what steps it is then. A body that is read
/// late keeps less: a few buffers for what its request is charged with ahead.
const STEP: u64 = 256 << 10;

/// A piece below this is copied out of its buffer when it is taken: who holds on to it then holds what it pays for.
const SMALL: usize = READ_FREE / 2;

/// Pieces that can wait on one connection: those that its window has room for, if they are not small, and as many
/// small ones as h2 puts up with, which is one for each 510 bytes of the window. What comes for a request that is over
/// is nobody's to take, so that more may be counted.
const MOST: u64 = H2_CONNECTION_WINDOW as u64 / 256 + H2_CONNECTION_WINDOW as u64 / 510;

/// The head of a frame: its length, kind, flags and stream.
const HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;

/// Where in its frames a connection is.
#[derive(Debug, Default)]
pub(super) struct Frames {
    head: [u8; HEAD],
    /// Bytes that there are of `head`.
    have: usize,
    /// Bytes that are to come of what is behind it.
    left: usize,
    /// The last stream that was opened.
    stream: u32,
    /// Streams that were opened: requests, as far as they are some.
    pub(super) opened: u32,
}

impl Frames {
    /// Follows what comes; gives how many pieces of bodies began in it.
    pub(super) fn follow(&mut self, mut bytes: &[u8]) -> usize {
        let mut pieces = 0;
        loop {
            let passed = self.left.min(bytes.len());
            (bytes, self.left) = (&bytes[passed..], self.left - passed);
            if bytes.is_empty() {
                return pieces;
            }
            let more = bytes.len().min(HEAD - self.have);
            self.head[self.have..self.have + more].copy_from_slice(&bytes[..more]);
            (bytes, self.have) = (&bytes[more..], self.have + more);
            if self.have < HEAD {
                return pieces;
            }
            let [a, b, c, kind, _, stream @ ..] = self.head;
            self.have = 0;
            self.left = u32::from_be_bytes([0, a, b, c]) as usize;
            let stream = u32::from_be_bytes(stream) & (u32::MAX >> 1);
            match kind {
                DATA => pieces += 1,
                HEADERS if stream > self.stream => {
                    self.stream = stream;
                    self.opened = self.opened.wrapping_add(1);
                }
                _ => {}
            }
        }
    }
}

/// How many pieces wait.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    waiting: u64,
    /// Bytes that came since none waited.
    since: u64,
    /// Bodies that somebody may read, some of them after their answer has left.
    bodies: u64,
}

impl Pieces {
    /// There is a body that takes its pieces itself.
    pub(super) fn begin(&mut self) {
        self.bodies += 1;
    }

    /// Its last piece was taken, or nobody wants it.
    pub(super) fn end(&mut self) {
        self.bodies -= 1;
    }

    /// All requests that came have begun: where none of their bodies is left, what waits is nobody's.
    pub(super) fn all_begun(&mut self) {
        if self.bodies == 0 {
            (self.waiting, self.since) = (0, 0);
        }
    }

    pub(super) fn came(&mut self, pieces: usize, bytes: usize) {
        self.waiting = (self.waiting + pieces as u64).min(MOST);
        if self.waiting > 0 {
            self.since += bytes as u64;
        }
    }

    /// One was taken.
    pub(super) fn taken(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
        if self.waiting == 0 {
            self.since = 0;
        }
    }

    /// What they keep at most, in steps: a buffer each, and never more than has come.
    pub(super) fn charge(&self) -> u64 {
        (self.waiting * BUFFER).min(self.since) / STEP * STEP
    }
}

/// The body of a request, whose pieces are counted as they are taken.
pub(super) struct Taken {
    body: Incoming,
    /// Of a connection of HTTP/2.
    account: Option<Arc<Account>>,
}

impl Taken {
    pub(super) fn new(body: Incoming, account: Option<Arc<Account>>) -> Taken {
        if let Some(account) = &account {
            account.body_begins();
        }
        Taken { body, account }
    }
}

impl Body for Taken {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let (Some(account), Some(Ok(frame))) = (&self.account, &mut frame)
            && let Some(piece) = frame.data_mut()
        {
            if piece.len() < SMALL {
                *piece = Bytes::copy_from_slice(piece);
            }
            account.taken();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let Some(account) = self.account.clone() else { return };
        // What nobody reads any more goes with it, and is not counted as waiting.
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..MOST {
            match Pin::new(&mut *self).poll_frame(&mut context) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(_) | Poll::Pending => break,
            }
        }
        account.body_ends();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, stream: u32, length: usize) -> Vec<u8> {
        let length = u32::try_from(length).unwrap();
        let mut frame = length.to_be_bytes()[1..].to_vec();
        frame.extend([kind, 0]);
        frame.extend(stream.to_be_bytes());
        frame.resize(frame.len() + length as usize, DATA);
        frame
    }

    #[test]
    fn frames_are_told_apart_in_whatever_pieces_they_come() {
        let (settings, ping) = (frame(4, 0, 12), frame(6, 0, 8));
        let opened = [frame(HEADERS, 1, 30), frame(DATA, 1, 0), frame(DATA, 1, 300)].concat();
        // Trailers open nothing.
        let again = [frame(HEADERS, 3, 1), frame(HEADERS, 1, 7), frame(DATA, 3, 16 << 10)].concat();
        let all = [settings, opened, ping, again].concat();
        for size in [1, 2, 8, 9, 10, 333, all.len()] {
            let mut frames = Frames::default();
            let pieces: usize = all.chunks(size).map(|bytes| frames.follow(bytes)).sum();
            assert_eq!((pieces, frames.opened), (3, 2), "{size}");
            assert_eq!((frames.have, frames.left), (0, 0), "{size}");
        }
    }

    #[test]
    fn pieces_that_wait_are_charged_with_their_buffers() {
        #[track_caller]
        fn check(pieces: &mut Pieces, came: &[(usize, usize)], expected: u64) {
            came.iter().for_each(|(count, bytes)| pieces.came(*count, *bytes));
            assert_eq!(pieces.charge(), expected, "{pieces:?}");
        }
        // Nothing waits, however much comes.
        check(&mut Pieces::default(), &[(0, 1 << 30)], 0);
        // Small ones that came together keep no more than has come.
        check(&mut Pieces::default(), &[(500, 5_000)], 0);
        // A body that is full ahead of its reader.
        check(&mut Pieces::default(), &[(4, 64 << 10)], 0);
        // Small ones with much between them.
        let mut pieces = Pieces::default();
        check(&mut pieces, &[(1, 16 << 10); 100], 3 * STEP);
        // However many are counted, there cannot be more.
        let mut all = Pieces::default();
        check(&mut all, &[(1, 16 << 10); 5_000], MOST * BUFFER / STEP * STEP);
        // They are taken.
        for _ in 0..99 {
            pieces.taken();
        }
        check(&mut pieces, &[(0, 1 << 20)], 0);
        pieces.taken();
        check(&mut pieces, &[(0, 1 << 30), (1, 10)], 0);
    }

    /// A guest may read on when its answer has left, and keep what it does not read.
    #[test]
    fn pieces_are_forgotten_when_no_body_is_left() {
        let mut pieces = Pieces::default();
        pieces.begin();
        pieces.begin();
        pieces.came(100, 1 << 20);
        for _ in 0..2 {
            pieces.all_begun();
            assert_eq!(pieces.charge(), 100 * BUFFER / STEP * STEP);
            pieces.end();
        }
        pieces.all_begun();
        assert_eq!(pieces.charge(), 0);
    }
}
