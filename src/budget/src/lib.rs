//! What a pod makes its node hold in memory, counted in one place: the linear memories of its containers, its
//! volumes in memory, and what waits in its streams.
//!
//! A [`Budget`] is a number with a limit. Who holds memory for a pod holds a [`Charge`] for it, which gives back
//! what it took when it is dropped. Nothing here allocates memory or decides what happens to who asks for too much:
//! a volume answers that it is full, a stream waits, a container is out of memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The bytes that a pod may hold, and does.
#[derive(Debug)]
pub struct Budget {
    limit: AtomicU64,
    used: AtomicU64,
}

/// More was asked for than the budget has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("memory limit of the pod exceeded: {asked} bytes more than {used} of {limit}")]
pub struct Exceeded {
    /// Bytes asked for.
    pub asked: u64,
    /// Bytes that were in use.
    pub used: u64,
    /// Bytes that the pod may use.
    pub limit: u64,
}

impl Budget {
    /// A budget of `limit` bytes; without a limit it only counts.
    #[must_use]
    pub fn new(limit: Option<u64>) -> Arc<Budget> {
        Arc::new(Budget { limit: AtomicU64::new(limit.unwrap_or(u64::MAX)), used: AtomicU64::new(0) })
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
        self.used.load(Ordering::Relaxed)
    }

    /// The most that may be in use; `None` if there is no limit.
    pub fn limit(&self) -> Option<u64> {
        Some(self.limit.load(Ordering::Relaxed)).filter(|limit| *limit != u64::MAX)
    }

    /// Changes the limit. What is in use beyond a lower one stays until it is given back.
    pub fn set_limit(&self, limit: Option<u64>) {
        self.limit.store(limit.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn take(&self, bytes: u64) -> Result<(), Exceeded> {
        let limit = self.limit.load(Ordering::Relaxed);
        self.used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
                used.checked_add(bytes).filter(|sum| *sum <= limit || bytes == 0)
            })
            .map(|_| ())
            .map_err(|used| Exceeded { asked: bytes, used, limit })
    }

    fn give(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::AcqRel);
    }
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
        assert_eq!(refused, Err(Exceeded { asked: 41, used: 60, limit: 100 }));
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
