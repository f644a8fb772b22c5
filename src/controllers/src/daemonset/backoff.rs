//! How long a daemon that failed on a node is left there before another is tried.

use std::{collections::HashMap, time::Duration};

use coracle_client::{Backoff, Key};
use parking_lot::Mutex;
use tokio::time::Instant;

/// Kubernetes' numbers.
const PAUSE: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_mins(15) };

/// A daemon that did not fail for so long has a clean slate.
const FORGIVEN: Duration = Duration::from_mins(30);

/// The failures of each set's daemons by node.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<HashMap<Key, HashMap<String, Failure>>>);

#[derive(Debug)]
struct Failure {
    /// Another generation of the set may do better.
    generation: Option<i64>,
    count: u32,
    last: Instant,
}

impl Failures {
    /// What is left of the pause on `node`; `None` if there is none.
    pub(super) fn left(&self, key: &Key, generation: Option<i64>, node: &str) -> Option<Duration> {
        let all = self.0.lock();
        let failure = all.get(key)?.get(node).filter(|failure| failure.generation == generation)?;
        let left = PAUSE.delay(failure.count).checked_sub(failure.last.elapsed())?;
        (!left.is_zero()).then_some(left)
    }

    /// Another daemon failed on `node` and was taken away.
    pub(super) fn add(&self, key: &Key, generation: Option<i64>, node: &str) {
        let mut all = self.0.lock();
        let of_set = all.entry(key.clone()).or_default();
        of_set.retain(|_, failure| failure.last.elapsed() < FORGIVEN && failure.generation == generation);
        let failure =
            of_set.entry(node.to_owned()).or_insert(Failure { generation, count: 0, last: Instant::now() });
        failure.count = failure.count.saturating_add(1);
        failure.last = Instant::now();
    }

    /// The set is gone.
    pub(super) fn forget(&self, key: &Key) {
        self.0.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_and_end() {
        let failures = Failures::default();
        let key = Key::new("ns", "web");
        let left = |generation| failures.left(&key, Some(generation), "n");
        assert_eq!(left(1), None);
        failures.add(&key, Some(1), "n");
        assert_eq!(left(1), Some(Duration::from_secs(1)));
        assert_eq!(left(2), None, "another generation");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(left(1), None);
        failures.add(&key, Some(1), "n");
        assert_eq!(left(1), Some(Duration::from_secs(2)));
        tokio::time::advance(FORGIVEN).await;
        failures.add(&key, Some(1), "n");
        assert_eq!(left(1), Some(Duration::from_secs(1)));
    }
}
