//! What all pods of a node share and could use up: descriptors of the process, look-ups of the host's resolver.
//!
//! A user may hold as many as are still free (and never more than its own bound): one alone gets half of all, two
//! get a third each, and whoever comes next finds as many free as each of them has. Nobody can use all up, however
//! many names he goes by, and nothing must be known of who will come.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use rustix::process::{Resource, getrlimit};

/// So many places for one purpose.
#[derive(Debug)]
pub(crate) struct Pool {
    /// What they are, in the plural.
    purpose: &'static str,
    all: usize,
    held: AtomicUsize,
    /// It was said that they are short.
    told: AtomicBool,
}

/// What somebody may hold of a pool.
#[derive(Debug)]
pub(crate) struct Share {
    pool: Arc<Pool>,
    most: usize,
    held: Arc<AtomicUsize>,
}

/// A place, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    pool: Arc<Pool>,
    share: Arc<AtomicUsize>,
}

impl Pool {
    pub(crate) fn new(purpose: &'static str, all: usize) -> Arc<Pool> {
        Arc::new(Pool { purpose, all, held: AtomicUsize::new(0), told: AtomicBool::new(false) })
    }

    /// A part of the descriptors that the process may have, and never more than `most`.
    pub(crate) fn part(purpose: &'static str, part: usize, most: usize) -> Arc<Pool> {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Pool::new(purpose, (usize::try_from(limit).unwrap_or(usize::MAX) / part).min(most))
    }

    /// How many are held.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.held.load(Relaxed)
    }

    /// Somebody who may hold `most` of them, as long as enough are free.
    pub(crate) fn share(self: &Arc<Self>, most: usize) -> Share {
        Share { pool: Arc::clone(self), most, held: Arc::default() }
    }
}

impl Share {
    /// What its places are, in the plural.
    pub(crate) fn purpose(&self) -> &'static str {
        self.pool.purpose
    }

    /// Takes a place; `None` if this user has its part.
    pub(crate) fn take(&self) -> Option<Permit> {
        let permit = Permit { pool: Arc::clone(&self.pool), share: Arc::clone(&self.held) }; // gives back, too
        let (own, all) = (self.held.fetch_add(1, Relaxed), self.pool.held.fetch_add(1, Relaxed));
        if own >= self.most {
            return None;
        }
        if own >= self.pool.all.saturating_sub(all) {
            if !self.pool.told.swap(true, Relaxed) {
                let Pool { purpose, all, .. } = &*self.pool;
                tracing::warn!(
                    all,
                    "{purpose} are short on this node: whoever has as many as are free gets no more"
                );
            }
            return None;
        }
        Some(permit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.share.fetch_sub(1, Relaxed);
        let held = self.pool.held.fetch_sub(1, Relaxed);
        if held < self.pool.all / 4 {
            self.pool.told.store(false, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many users take in turn as long as they get; what each has, and what one who comes then gets.
    #[track_caller]
    fn check(all: usize, most: usize, users: usize, expected: (usize, usize)) {
        let pool = Pool::new("connections", all);
        let users: Vec<Share> = (0..users).map(|_| pool.share(most)).collect();
        let mut held = Vec::new();
        loop {
            let taken: Vec<Permit> = users.iter().filter_map(Share::take).collect();
            if taken.is_empty() {
                break;
            }
            held.extend(taken);
        }
        let each = held.len() / users.len();
        let late = pool.share(most);
        let mut of_late = Vec::new();
        while let Some(permit) = late.take() {
            of_late.push(permit);
        }
        assert_eq!((each, of_late.len()), expected);
        drop((held, of_late));
        assert_eq!(pool.held(), 0);
    }

    #[test]
    fn nobody_can_use_all_up() {
        check(1000, 1000, 1, (500, 250));
        check(1000, 1000, 4, (200, 100));
        check(1000, 1000, 99, (10, 5));
        check(1000, 20, 4, (20, 20));
        check(0, 20, 1, (0, 0));
    }
}
