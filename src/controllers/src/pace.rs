//! Keeps objects that change all the time from being reconciled all the time.

use std::{collections::HashMap, time::Duration};

use coracle_client::{Key, WorkQueue};
use parking_lot::Mutex;
use tokio::time::Instant;

/// The shortest pause between two reconciliations that pods caused. Long enough that a thousand pods
/// that become ready one after another do not cause a thousand rewrites, short enough to go unnoticed.
const PAUSE: Duration = Duration::from_millis(25);

/// The pause grows with what a reconciliation costs: it takes at most a fifth of the time.
const SHARE: u32 = 4;

const LONGEST: Duration = Duration::from_secs(1);

/// Wakes a quiet object at once and a busy one after a pause, with everything that happened meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// When each object was reconciled last, and the pause after it.
    last: Mutex<HashMap<Key, (Instant, Duration)>>,
}

/// A reconciliation under way.
pub(crate) struct Turn<'a> {
    pace: &'a Pace,
    key: Key,
    started: Instant,
}

impl Pace {
    /// Queues `key`: now, or when its pause is over.
    pub(crate) fn wake(&self, queue: &WorkQueue<Key>, key: Key) {
        let last = self.last.lock().get(&key).copied();
        match last.and_then(|(ended, pause)| pause.checked_sub(ended.elapsed())) {
            Some(left) if !left.is_zero() => queue.add_after(key, left),
            _ => queue.add(key),
        }
    }

    /// A reconciliation of `key` begins; it ends when the turn is dropped.
    pub(crate) fn turn(&self, key: &Key) -> Turn<'_> {
        Turn { pace: self, key: key.clone(), started: Instant::now() }
    }

    /// `key` is gone.
    pub(crate) fn forget(&self, key: &Key) {
        self.last.lock().remove(key);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        let pause = PAUSE.max(took * SHARE).min(LONGEST);
        self.pace.last.lock().insert(self.key.clone(), (Instant::now(), pause));
    }
}
