//! What a pod's network use is counted by, and paid with.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use coracle_budget::{Budget, Charge};
use parking_lot::Mutex;

use crate::limits::{POD_SOCKET_BYTES, POD_SOCKET_SHARE};

/// Counters of one pod, and its purse. The counters are statistics, so no order between them is promised.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// Bytes waiting in streams that this pod pays for.
    buffered: AtomicUsize,
    /// Bytes this pod wrote and read over its life.
    sent: AtomicU64,
    received: AtomicU64,
    /// Connections and datagrams that policy refused.
    denied: AtomicU64,
    /// Datagrams for this pod that found no room.
    dropped: AtomicU64,
    purse: Mutex<Purse>,
}

/// What the pod's sockets hold of its memory.
#[derive(Debug, Default)]
struct Purse {
    held: usize,
    budget: Option<(Arc<Budget>, Charge)>,
}

impl Purse {
    fn most(&self) -> usize {
        let limit = self.budget.as_ref().and_then(|(budget, _)| budget.limit());
        let share = limit.map(|limit| usize::try_from(limit / POD_SOCKET_SHARE).unwrap_or(usize::MAX));
        share.map_or(POD_SOCKET_BYTES, |share| share.min(POD_SOCKET_BYTES))
    }
}

impl Meter {
    pub(crate) fn new(budget: Option<&Arc<Budget>>) -> Meter {
        let budget = budget.map(|budget| (Arc::clone(budget), budget.empty()));
        Meter { purse: Mutex::new(Purse { held: 0, budget }), ..Meter::default() }
    }

    /// Takes bytes of the pod's memory; false, and nothing is taken, if it has not so many for its sockets.
    pub(crate) fn take(&self, bytes: usize) -> bool {
        let mut purse = self.purse.lock();
        let held = purse.held.saturating_add(bytes);
        if held > purse.most() {
            return false;
        }
        if let Some((_, charge)) = &mut purse.budget
            && charge.grow(bytes as u64).is_err()
        {
            return false;
        }
        purse.held = held;
        true
    }

    /// Gives back what was taken.
    pub(crate) fn give(&self, bytes: usize) {
        let mut purse = self.purse.lock();
        debug_assert!(purse.held >= bytes, "nothing is given back that was not taken");
        purse.held = purse.held.saturating_sub(bytes);
        if let Some((_, charge)) = &mut purse.budget {
            charge.shrink(bytes as u64);
        }
    }

    /// Whether [`Meter::take`] would probably succeed.
    pub(crate) fn has(&self, bytes: usize) -> bool {
        let purse = self.purse.lock();
        let left = |(budget, _): &(Arc<Budget>, Charge)| {
            budget.limit().is_none_or(|limit| limit.saturating_sub(budget.used()) >= bytes as u64)
        };
        purse.held + bytes <= purse.most() && purse.budget.as_ref().is_none_or(left)
    }

    pub(crate) fn wrote(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn queued(&self, bytes: usize) {
        self.buffered.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn drained(&self, bytes: usize) {
        self.buffered.fetch_sub(bytes, Relaxed);
    }

    pub(crate) fn read(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn deny(&self) {
        self.denied.fetch_add(1, Relaxed);
    }

    pub(crate) fn drop_datagram(&self) {
        self.dropped.fetch_add(1, Relaxed);
    }

    pub(crate) fn buffered(&self) -> usize {
        self.buffered.load(Relaxed)
    }

    /// Bytes of the pod's memory that its sockets hold.
    pub(crate) fn held(&self) -> usize {
        self.purse.lock().held
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    pub(crate) fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    pub(crate) fn denied(&self) -> u64 {
        self.denied.load(Relaxed)
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}
