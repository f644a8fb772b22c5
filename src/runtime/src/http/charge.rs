//! What who asks a handler makes the node hold, and how its container pays for it: connections, requests, and answers
//! that have not left.
//!
//! ```text
//!   connection ── Account: nothing for one that does little; its buffers when they grow, until it ends; in HTTP/2
//!                          those that pieces of bodies keep, until they are taken (see `pieces`)
//!       request ── Paid: one of REQUESTS, its head ───────────────┬─▶ given back when the guest has returned, too
//!           answer ── Leaving: that, and in HTTP/2 its own head ──┴─▶ given back when the last of it left
//!               bodies ── what waits in them (see `memory`), piece by piece
//! ```
//!
//! Of an answer in HTTP/1.1 nothing is kept but its connection's buffer, which its [`Account`] pays. In HTTP/2 heads,
//! pieces and trailers wait in a queue of the connection that nobody can look into; so each piece holds what is to be
//! paid until that. A head comes before the pieces of its body, so that one piece, if an empty one, holds it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::task::AtomicWaker;
use http::{HeaderMap, HeaderValue, Version};
use parking_lot::Mutex;

use super::config::{REQUEST_BYTES, WRITE_FREE};
use super::factory::Full;
use super::memory::fields_bytes;
use super::pieces::Pieces;
use crate::limiter::{Held, OutOfMemory, Purse};

/// What one connection is charged with, and whether what was written on it has left.
pub(super) struct Account {
    held: Mutex<Held>,
    /// Bytes that may wait to be sent without more being charged.
    sending: AtomicUsize,
    /// Bytes that the connection could not write yet.
    unsent: AtomicUsize,
    /// Who waits until there are none.
    waits: AtomicWaker,
    /// Pieces of bodies that no guest has taken, and what is paid for the buffers that they keep.
    pieces: Mutex<(Pieces, Held)>,
}

impl Account {
    pub(super) fn new(purse: &Purse) -> Arc<Account> {
        Arc::new(Account {
            held: Mutex::new(purse.nothing()),
            sending: AtomicUsize::new(WRITE_FREE),
            unsent: AtomicUsize::new(0),
            waits: AtomicWaker::new(),
            pieces: Mutex::new((Pieces::default(), purse.nothing())),
        })
    }

    /// From now on it holds so many bytes more, until it ends. Rare.
    pub(super) fn grow(&self, bytes: u64) -> Result<(), OutOfMemory> {
        let mut held = self.held.lock();
        let bytes = held.bytes().saturating_add(bytes);
        held.resize(bytes)
    }

    /// So many bytes wait to be sent at once: its buffer is at least that large from now on.
    pub(super) fn sends(&self, bytes: usize) -> Result<(), OutOfMemory> {
        if bytes <= self.sending.load(Relaxed) {
            return Ok(());
        }
        let mut held = self.held.lock();
        let paid = self.sending.load(Relaxed);
        // A buffer that is too small becomes twice as large.
        let wanted = bytes.next_power_of_two().max(paid);
        let total = held.bytes() + (wanted - paid) as u64;
        held.resize(total)?;
        self.sending.store(wanted, Relaxed);
        Ok(())
    }

    /// So many pieces of bodies came, among so many bytes.
    pub(super) fn came(&self, pieces: usize, bytes: usize) -> Result<(), OutOfMemory> {
        let (waiting, held) = &mut *self.pieces.lock();
        waiting.came(pieces, bytes);
        let charge = waiting.charge();
        if charge == held.bytes() { Ok(()) } else { held.resize(charge) }
    }

    /// A guest took one.
    pub(super) fn taken(&self) {
        self.lessen(Pieces::taken);
    }

    /// A request came whose body somebody may read.
    pub(super) fn body_begins(&self) {
        self.lessen(Pieces::begin);
    }

    /// Nobody reads it any more.
    pub(super) fn body_ends(&self) {
        self.lessen(Pieces::end);
    }

    /// All requests that came have begun.
    pub(super) fn all_begun(&self) {
        self.lessen(Pieces::all_begun);
    }

    /// For what makes no more of them.
    fn lessen(&self, change: impl FnOnce(&mut Pieces)) {
        let (waiting, held) = &mut *self.pieces.lock();
        change(waiting);
        let charge = waiting.charge();
        if charge < held.bytes() {
            // Less is always to be had.
            let _ = held.resize(charge);
        }
    }

    /// After a write so many bytes of what was to be written are left. For the one who writes.
    pub(super) fn left(&self, bytes: usize) {
        if self.unsent.load(Relaxed) != bytes {
            self.unsent.store(bytes, Relaxed);
            if bytes == 0 {
                self.waits.wake();
            }
        }
    }

    /// Ready when everything that was written has left. For one at a time, within the connection's own task.
    pub(super) fn poll_sent(&self, cx: &Context<'_>) -> Poll<()> {
        if self.unsent.load(Relaxed) == 0 {
            return Poll::Ready(());
        }
        self.waits.register(cx.waker());
        if self.unsent.load(Relaxed) == 0 { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// A handler's requests that are there in any way.
pub(super) struct Requests {
    purse: Purse,
    /// How many there may be.
    most: usize,
    here: AtomicUsize,
}

/// Why a request cannot even wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unpaid {
    /// There are too many.
    Many,
    /// There is no memory left for it.
    Memory(Full),
}

impl Requests {
    pub(super) fn new(purse: Purse, most: usize) -> Arc<Requests> {
        Arc::new(Requests { purse, most, here: AtomicUsize::new(0) })
    }

    /// A request has come, with so many bytes of its head.
    pub(super) fn begin(self: &Arc<Self>, bytes: u64) -> Result<Arc<Paid>, Unpaid> {
        let place = Here::take(self).ok_or(Unpaid::Many)?;
        let held = self.lend(REQUEST_BYTES.saturating_add(bytes))?;
        Ok(Arc::new(Paid { _held: held, here: place }))
    }

    /// So many bytes may come ahead of its body.
    pub(super) fn lend(&self, bytes: u64) -> Result<Held, Unpaid> {
        self.purse.lend(bytes).map_err(|error| Unpaid::Memory((&error).into()))
    }
}

/// One of the requests.
struct Here(Arc<Requests>);

impl Here {
    fn take(requests: &Arc<Requests>) -> Option<Here> {
        let here = Here(Arc::clone(requests)); // given back on the way out, also if it is one too many
        (requests.here.fetch_add(1, Relaxed) < requests.most).then_some(here)
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        self.0.here.fetch_sub(1, Relaxed);
    }
}

/// What is paid for a request until it is dropped.
pub(super) struct Paid {
    _held: Held,
    here: Here,
}

/// What is held until the last of an answer has left.
pub(super) struct Leaving {
    paid: Arc<Paid>,
    /// For its head.
    _head: Option<Held>,
    /// Whether it waits in a queue of HTTP/2.
    queued: bool,
}

impl Leaving {
    /// An answer with this head leaves on the connection.
    ///
    /// # Errors
    /// If there is no memory left for its head.
    pub(super) fn new(
        paid: Arc<Paid>,
        version: Version,
        head: &HeaderMap,
        account: &Account,
    ) -> Result<Arc<Leaving>, OutOfMemory> {
        let queued = version >= Version::HTTP_2;
        let mut held = None;
        if queued {
            let bytes = fields_bytes(head);
            // It is written in Huffman's code, which makes the worst bytes nearly four times as long.
            account.sends(usize::try_from(bytes.saturating_mul(4)).unwrap_or(usize::MAX))?;
            held = Some(paid.here.0.purse.lend(bytes)?);
        }
        Ok(Arc::new(Leaving { paid, _head: held, queued }))
    }

    /// The same for one of the node's own, whose head is small.
    pub(super) fn plain(paid: Arc<Paid>, version: Version) -> Arc<Leaving> {
        Arc::new(Leaving { paid, _head: None, queued: version >= Version::HTTP_2 })
    }

    /// Whether it waits where nobody can look.
    pub(super) fn is_queued(&self) -> bool {
        self.queued
    }

    /// A piece of its body, which holds it.
    pub(super) fn piece(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        if self.queued { held_by(bytes, Arc::clone(self)) } else { bytes }
    }

    /// Its trailers hold it, and what they take themselves.
    ///
    /// # Errors
    /// If there is no memory left for them.
    pub(super) fn trailers(self: &Arc<Self>, trailers: &mut HeaderMap) -> Result<(), OutOfMemory> {
        if self.queued {
            let held = self.paid.here.0.purse.lend(fields_bytes(trailers))?;
            carry(trailers, (Arc::clone(self), held));
        }
        Ok(())
    }
}

/// Has a value of the headers hold something until they are written. One that is sensitive is not remembered in the
/// connection's table of headers.
fn carry(headers: &mut HeaderMap, with: impl Send + 'static) {
    if let Some(value) = headers.values_mut().next()
        && let Ok(mut carrier) = HeaderValue::from_maybe_shared(held_by(value.as_bytes().to_vec(), with))
    {
        carrier.set_sensitive(true);
        *value = carrier;
    }
}

/// The same bytes, which hold something until the last of them is dropped.
pub(super) fn held_by(bytes: impl AsRef<[u8]> + Send + 'static, with: impl Send + 'static) -> Bytes {
    Bytes::from_owner(Piece { bytes, _with: with })
}

struct Piece<B, T> {
    bytes: B,
    _with: T,
}

impl<B: AsRef<[u8]>, T> AsRef<[u8]> for Piece<B, T> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}
