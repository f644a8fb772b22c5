//! What a pod makes its node hold in memory, counted in one place: the linear memories of its containers, its
//! volumes in memory, and what waits in its streams.
//!
//! A [`Budget`] is a number with a limit. Who holds memory for a pod holds a [`Charge`] for it, which gives back
//! what it took when it is dropped. Nothing here allocates memory or decides what happens to who asks for too much:
//! a volume answers that it is full, a stream waits, a container is out of memory.
//!
//! All pods' budgets together draw from that of their node ([`NodeBudget`]), so that pods within their own limits do
//! not take more than the machine has. What pods leave may be lent ([`NodeBudget::lend`]) for work that is given up when
//! they want it.

mod line;
mod loan;
mod node;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use node::Waiting;
use parking_lot::{Condvar, Mutex};

pub use loan::Loan;
pub use node::NodeBudget;

/// Bytes that a pod draws from its node at a time, so that its growth seldom touches what all pods share.
pub const CHUNK: u64 = 1 << 20;

/// Bytes of a pod that its node does not count: what one small idle program reserves, of which it touches some tens of
/// kilobytes. Thousands of those fit a node that has no room for all that they reserve; whoever holds more is counted
/// for every byte.
pub const FREE: u64 = 2 << 20;

/// The bytes that a pod may hold, and does.
#[derive(Debug)]
pub struct Budget {
    limit: AtomicU64,
    used: AtomicU64,
    /// What was drawn from the node: at least what is used beyond [`FREE`].
    drawn: AtomicU64,
    /// What is being waited for, beyond what is used.
    awaited: AtomicU64,
    /// How many wait.
    waiting: AtomicU32,
    node: Option<Arc<NodeBudget>>,
}

/// More was asked for than the budget has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Exceeded {
    /// Than the pod may use.
    #[error("memory limit of the pod exceeded: {asked} bytes more than {used} of {limit}")]
    Pod {
        /// Bytes asked for.
        asked: u64,
        /// Bytes that were in use.
        used: u64,
        /// Bytes that the pod may use.
        limit: u64,
    },
    /// Than its node has for all pods together.
    #[error("memory of the node exceeded: {asked} bytes more than {used} of {limit}")]
    Node {
        /// Bytes asked for.
        asked: u64,
        /// Bytes that all pods of the node have drawn.
        used: u64,
        /// Bytes that they may.
        limit: u64,
    },
}

impl Budget {
    /// A budget of `limit` bytes; without a limit it only counts.
    #[must_use]
    pub fn new(limit: Option<u64>) -> Arc<Budget> {
        Arc::new(Budget::with(limit, None))
    }

    /// The same for a pod of a node.
    #[must_use]
    pub fn of_node(limit: Option<u64>, node: &Arc<NodeBudget>) -> Arc<Budget> {
        Arc::new(Budget::with(limit, Some(Arc::clone(node))))
    }

    fn with(limit: Option<u64>, node: Option<Arc<NodeBudget>>) -> Budget {
        let limit = AtomicU64::new(limit.unwrap_or(u64::MAX));
        let [used, drawn, awaited] = [0; 3].map(AtomicU64::new);
        Budget { limit, used, drawn, awaited, waiting: AtomicU32::new(0), node }
    }

    /// What it draws from.
    pub fn node(&self) -> Option<&Arc<NodeBudget>> {
        self.node.as_ref()
    }

    /// Takes `bytes`.
    ///
    /// # Errors
    /// If fewer are left; nothing is taken then.
    pub fn charge(self: &Arc<Self>, bytes: u64) -> Result<Charge, Exceeded> {
        self.take(bytes)?;
        Ok(Charge { budget: Arc::clone(self), bytes })
    }

    /// A charge of nothing, to grow later.
    #[must_use]
    pub fn empty(self: &Arc<Self>) -> Charge {
        Charge { budget: Arc::clone(self), bytes: 0 }
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }

    /// Bytes that it has drawn from its node.
    pub fn drawn(&self) -> u64 {
        self.drawn.load(Ordering::Relaxed)
    }

    /// Bytes that are waited for on its behalf, with [`Budget::room`]. What is granted is no longer waited for before
    /// it is used: who reads [`Budget::used`] first counts nothing twice.
    pub fn awaited(&self) -> u64 {
        self.awaited.load(Ordering::SeqCst)
    }

    /// Bytes that it would draw more if it had what is waited for.
    pub fn lacks(&self) -> u64 {
        self.lacks_for(self.awaited())
    }

    fn lacks_for(&self, bytes: u64) -> u64 {
        let used = self.used.load(Ordering::SeqCst);
        wanted(used.saturating_add(bytes)).saturating_sub(self.drawn.load(Ordering::SeqCst))
    }

    /// The most that may be in use; `None` if there is no limit.
    pub fn limit(&self) -> Option<u64> {
        Some(self.limit.load(Ordering::Relaxed)).filter(|limit| *limit != u64::MAX)
    }

    /// Changes the limit. What is in use beyond a lower one stays until it is given back.
    pub fn set_limit(&self, limit: Option<u64>) {
        self.limit.store(limit.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Whether its node could have so much more for it, if all others gave back what they have.
    pub fn may_ever_have(&self, bytes: u64) -> bool {
        let most = self.node.as_ref().map_or(u64::MAX, |node| node.limit());
        self.used().checked_add(bytes).is_some_and(|used| wanted(used) <= most)
    }

    /// Waits until its node may have what it would draw for `bytes` more. What is there may be gone when it is asked
    /// for: then it waits anew, behind others. The node is told of the shortage.
    pub fn room(&self, bytes: u64) -> Room<'_> {
        let lacks = self.lacks_for(bytes);
        let node = self.node.as_deref().filter(|_| lacks > 0);
        let waiting = node.map(|node| {
            self.awaited.fetch_add(bytes, Ordering::SeqCst);
            let before = self.waiting.fetch_add(1, Ordering::SeqCst);
            (before, Waiting::begin(node, self.number(), lacks))
        });
        Room { budget: self, bytes, waiting }
    }

    /// The same for who cannot but block its thread, and at most so long; false if there was no room then, or it has
    /// gone to somebody else.
    pub fn wait_for(&self, bytes: u64, most: Duration) -> bool {
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(Arc::clone(&bell));
        let (mut room, mut cx) = (self.room(bytes), Context::from_waker(&waker));
        let mut there = || Pin::new(&mut room).poll(&mut cx).is_ready();
        there() || {
            bell.wait(most);
            there()
        }
    }

    fn take(&self, bytes: u64) -> Result<(), Exceeded> {
        let limit = self.limit.load(Ordering::Relaxed);
        let before = self
            .used
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |used| {
                used.checked_add(bytes).filter(|sum| *sum <= limit || bytes == 0)
            })
            .map_err(|used| Exceeded::Pod { asked: bytes, used, limit })?;
        let Some(node) = &self.node else { return Ok(()) };
        let wanted = wanted(before + bytes);
        if bytes == 0 || self.draw(node, wanted) {
            return Ok(());
        }
        self.used.fetch_sub(bytes, Ordering::SeqCst);
        Err(Exceeded::Node { asked: bytes, used: node.used(), limit: node.limit() })
    }

    /// Has at least this much drawn from the node; false if it has not so much.
    fn draw(&self, node: &NodeBudget, wanted: u64) -> bool {
        let mut drawn = self.drawn.load(Ordering::SeqCst);
        while drawn < wanted {
            let more = wanted - drawn;
            if !node.take(more) {
                return false;
            }
            match self.drawn.compare_exchange(drawn, wanted, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return true,
                Err(now) => {
                    node.give(more);
                    drawn = now;
                }
            }
        }
        true
    }

    fn give(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::SeqCst);
        let Some(node) = &self.node else { return };
        self.give_to(node);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            node.serve_pod(self.number());
        }
    }

    /// Whose it is, among all budgets that there are.
    fn number(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Gives the node what is drawn and not used.
    fn give_to(&self, node: &NodeBudget) {
        loop {
            let drawn = self.drawn.load(Ordering::SeqCst);
            let wanted = wanted(self.used.load(Ordering::SeqCst));
            // A chunk more stays, so that who takes and gives at the edge of one does not ask the node each time.
            if drawn <= wanted.saturating_add(CHUNK) && (wanted > 0 || drawn == 0) {
                return;
            }
            // Whoever gave or took meanwhile did not see what this one gives: it must look again.
            if self.drawn.compare_exchange(drawn, wanted, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                node.give(drawn - wanted);
                return self.mind(node);
            }
        }
    }

    /// Draws what is used by now: somebody may have taken what was just given back, without asking the node.
    fn mind(&self, node: &NodeBudget) {
        loop {
            let drawn = self.drawn.load(Ordering::SeqCst);
            let wanted = wanted(self.used.load(Ordering::SeqCst));
            if drawn >= wanted {
                return;
            }
            if self.drawn.compare_exchange(drawn, wanted, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                node.owe(wanted - drawn);
            }
        }
    }
}

/// Waits for room: [`Budget::room`]. Dropped, it waits no longer.
#[derive(Debug)]
#[must_use]
pub struct Room<'a> {
    budget: &'a Budget,
    bytes: u64,
    /// How many of the pod were before it, and its turn; `None` if there is nothing to wait for.
    waiting: Option<(u32, Waiting<'a>)>,
}

impl Future for Room<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Room { budget, bytes, waiting } = &mut *self;
        match waiting {
            Some((before, waiting)) => waiting.poll(*before, || budget.lacks_for(*bytes), cx),
            None => Poll::Ready(()),
        }
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if let Some((_, waiting)) = self.waiting.take() {
            self.budget.awaited.fetch_sub(self.bytes, Ordering::SeqCst);
            self.budget.waiting.fetch_sub(1, Ordering::SeqCst);
            drop(waiting);
        }
    }
}

/// Wakes a thread.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    rings: Condvar,
}

impl Bell {
    fn wait(&self, most: Duration) {
        self.rings.wait_while_for(&mut self.rung.lock(), |rung| !*rung, most);
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        *self.rung.lock() = true;
        self.rings.notify_all();
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        if let Some(node) = &self.node {
            node.give(*self.drawn.get_mut());
        }
    }
}

/// What a pod that uses so much draws from its node.
fn wanted(used: u64) -> u64 {
    let counted = used.saturating_sub(FREE);
    counted.checked_next_multiple_of(CHUNK).unwrap_or(counted)
}

/// Bytes taken from a budget, given back when this is dropped.
#[derive(Debug)]
pub struct Charge {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Charge {
    /// Takes `bytes` more.
    ///
    /// # Errors
    /// If fewer are left; the charge stays what it was then.
    pub fn grow(&mut self, bytes: u64) -> Result<(), Exceeded> {
        self.budget.take(bytes)?;
        self.bytes += bytes;
        Ok(())
    }

    /// Gives `bytes` back, or all if it has fewer.
    pub fn shrink(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.budget.give(bytes);
    }

    /// Bytes that this holds.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What it was taken from.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.give(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_given_back() {
        let budget = Budget::new(Some(100));
        let mut first = budget.charge(60).expect("there is enough");
        let refused = budget.charge(41).map(|_| ());
        assert_eq!(refused, Err(Exceeded::Pod { asked: 41, used: 60, limit: 100 }));
        first.grow(40).expect("there is just enough");
        assert!(first.grow(1).is_err());
        first.shrink(30);
        assert_eq!((budget.used(), first.bytes()), (70, 70));
        drop(first);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_lower_limit_takes_nothing_away() {
        let budget = Budget::new(None);
        let mut charge = budget.charge(1_000).expect("there is no limit");
        budget.set_limit(Some(10));
        assert_eq!((budget.used(), budget.limit()), (1_000, Some(10)));
        assert!(budget.charge(1).is_err() && budget.charge(0).is_ok());
        charge.shrink(5_000);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn the_sum_cannot_overflow() {
        let budget = Budget::new(None);
        let _all = budget.charge(u64::MAX).expect("there is no limit");
        assert!(budget.charge(1).is_err());
    }
}
