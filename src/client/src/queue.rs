//! A queue of keys to be reconciled.
//!
//! ```text
//!            add                next              drop(item)
//!   (idle) ───────▶ ready ───────────▶ running ────────────────▶ (idle)
//!      │  add_after   ▲                   │ add
//!      └──▶ delayed ──┘ when due          └──▶ running, dirty ──▶ ready
//! ```
//! A key is handed to one worker at a time. However often it is added meanwhile, it is handed out once
//! more when that worker is done.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    fmt,
    hash::Hash,
    ops::Deref,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use crate::random;

/// The longest delay. What is due later is handed out early, and finds that it has to wait on: times that
/// users write may be further away than a clock can count.
const LONGEST_DELAY: Duration = Duration::from_hours(30 * 24);

/// How long a key that keeps failing waits between tries.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The wait after the first failure. Each further failure doubles it.
    pub base: Duration,
    /// The longest wait.
    pub max: Duration,
}

impl Default for Backoff {
    /// The first retry comes soon, because most failures are races; the last ones rarely, because what
    /// fails for minutes needs a person. Kubernetes' controllers use 5 ms and 1000 s; a minute is kind
    /// enough to a small machine and answers sooner.
    fn default() -> Self {
        Backoff { base: Duration::from_millis(5), max: Duration::from_mins(1) }
    }
}

impl Backoff {
    /// The wait before try number `failures + 1`, without jitter.
    pub fn delay(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(32);
        self.base.saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX)).min(self.max)
    }
}

/// A queue of keys with per-key exclusivity, delays and backoff. A clone is another handle.
pub struct WorkQueue<K> {
    shared: Arc<Shared<K>>,
}

/// A key handed to a worker. While it lives, no other worker gets the same key.
pub struct Item<K: Eq + Hash + Clone> {
    key: K,
    shared: Arc<Shared<K>>,
}

struct Shared<K> {
    state: Mutex<State<K>>,
    wake: Notify,
    backoff: Backoff,
}

struct State<K> {
    ready: VecDeque<K>,
    /// Keys in `ready`, and running keys that become ready again when their worker is done.
    dirty: HashSet<K>,
    running: HashSet<K>,
    /// Delayed keys by due time; the number keeps equal times apart.
    delayed: BTreeMap<(Instant, u64), K>,
    due: HashMap<K, (Instant, u64)>,
    failures: HashMap<K, u32>,
    sequence: u64,
    closed: bool,
}

impl<K: Eq + Hash + Clone> WorkQueue<K> {
    /// An empty queue with the default backoff.
    pub fn new() -> Self {
        Self::with_backoff(Backoff::default())
    }

    /// An empty queue.
    pub fn with_backoff(backoff: Backoff) -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            running: HashSet::new(),
            delayed: BTreeMap::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
            sequence: 0,
            closed: false,
        };
        WorkQueue { shared: Arc::new(Shared { state: Mutex::new(state), wake: Notify::new(), backoff }) }
    }

    /// Queues `key` now. A key that is already queued stays where it is.
    pub fn add(&self, key: K) {
        let mut state = self.shared.state.lock();
        if state.closed {
            return;
        }
        // What would have come later comes now; nothing is gained by doing it twice.
        state.cancel_delay(&key);
        if state.add(key) {
            drop(state);
            self.shared.wake.notify_one();
        }
    }

    /// Queues `key` after `delay`, unless it is due sooner anyway.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let mut state = self.shared.state.lock();
        if state.closed {
            return;
        }
        let at = Instant::now() + delay.min(LONGEST_DELAY);
        if state.due.get(&key).is_some_and(|(due, _)| *due <= at) {
            return;
        }
        state.cancel_delay(&key);
        state.sequence += 1;
        let slot = (at, state.sequence);
        state.due.insert(key.clone(), slot);
        state.delayed.insert(slot, key);
        drop(state);
        self.shared.wake.notify_one();
    }

    /// Queues a key that failed: each time twice as late as before, with jitter, until [`forget`].
    ///
    /// [`forget`]: WorkQueue::forget
    pub fn retry(&self, key: K) {
        let failures = {
            let mut state = self.shared.state.lock();
            let failures = state.failures.entry(key.clone()).or_insert(0);
            *failures = failures.saturating_add(1);
            *failures
        };
        self.add_after(key, random::jitter(self.shared.backoff.delay(failures), 0.2));
    }

    /// Forgets the failures of `key`: the next one waits shortly again.
    pub fn forget(&self, key: &K) {
        self.shared.state.lock().failures.remove(key);
    }

    /// How often `key` has failed since it was forgotten.
    pub fn failures(&self, key: &K) -> u32 {
        self.shared.state.lock().failures.get(key).copied().unwrap_or(0)
    }

    /// The next key, as soon as there is one; `None` after [`WorkQueue::shutdown`].
    pub async fn next(&self) -> Option<Item<K>> {
        loop {
            let mut notified = std::pin::pin!(self.shared.wake.notified());
            notified.as_mut().enable();
            let due = {
                let mut state = self.shared.state.lock();
                if state.closed {
                    return None;
                }
                state.promote(Instant::now());
                if let Some(key) = state.take() {
                    let more = !state.ready.is_empty() || !state.delayed.is_empty();
                    drop(state);
                    if more {
                        self.shared.wake.notify_one();
                    }
                    return Some(Item { key, shared: self.shared.clone() });
                }
                state.delayed.first_key_value().map(|((at, _), _)| *at)
            };
            match due {
                Some(at) => tokio::select! {
                    () = notified => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => notified.await,
            }
        }
    }

    /// How many keys wait to be handed out now, not counting delayed ones.
    pub fn len(&self) -> usize {
        self.shared.state.lock().ready.len()
    }

    /// True if no key waits to be handed out now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends the queue: what waits is dropped, [`WorkQueue::next`] gives `None`, additions are ignored.
    pub fn shutdown(&self) {
        let mut state = self.shared.state.lock();
        state.closed = true;
        state.ready.clear();
        state.dirty.clear();
        state.delayed.clear();
        state.due.clear();
        drop(state);
        self.shared.wake.notify_waiters();
    }
}

impl<K: Eq + Hash + Clone> Default for WorkQueue<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K> Clone for WorkQueue<K> {
    fn clone(&self) -> Self {
        WorkQueue { shared: self.shared.clone() }
    }
}

impl<K> fmt::Debug for WorkQueue<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state.lock();
        f.debug_struct("WorkQueue")
            .field("ready", &state.ready.len())
            .field("delayed", &state.delayed.len())
            .field("running", &state.running.len())
            .finish()
    }
}

impl<K: Eq + Hash + Clone> State<K> {
    /// True if the key became ready.
    fn add(&mut self, key: K) -> bool {
        if !self.dirty.insert(key.clone()) || self.running.contains(&key) {
            return false;
        }
        self.ready.push_back(key);
        true
    }

    fn cancel_delay(&mut self, key: &K) {
        if let Some(slot) = self.due.remove(key) {
            self.delayed.remove(&slot);
        }
    }

    fn promote(&mut self, now: Instant) {
        while let Some(entry) = self.delayed.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let key = entry.remove();
            self.due.remove(&key);
            self.add(key);
        }
    }

    fn take(&mut self) -> Option<K> {
        let key = self.ready.pop_front()?;
        self.dirty.remove(&key);
        self.running.insert(key.clone());
        Some(key)
    }
}

impl<K: Eq + Hash + Clone> Deref for Item<K> {
    type Target = K;

    fn deref(&self) -> &K {
        &self.key
    }
}

impl<K: Eq + Hash + Clone> Drop for Item<K> {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.running.remove(&self.key);
        if state.dirty.contains(&self.key) {
            state.ready.push_back(self.key.clone());
            drop(state);
            self.shared.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    /// The key that is ready now, if any.
    fn take<K: Eq + Hash + Clone>(queue: &WorkQueue<K>) -> Option<Item<K>> {
        queue.next().now_or_never().flatten()
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_handed_to_one_worker_at_a_time() {
        let queue = WorkQueue::new();
        queue.add("a");
        queue.add("a");
        let item = take(&queue).expect("added");
        queue.add("a");
        queue.add("a");
        assert!(take(&queue).is_none(), "the key is running");
        drop(item);
        let again = take(&queue).expect("added while it ran");
        drop(again);
        assert!(take(&queue).is_none(), "once more, not twice");
    }

    #[tokio::test(start_paused = true)]
    async fn delays_keep_the_earliest_time() {
        let queue = WorkQueue::new();
        let start = Instant::now();
        queue.add_after("a", Duration::from_secs(10));
        queue.add_after("a", Duration::from_secs(3));
        queue.add_after("a", Duration::from_secs(7));
        drop(queue.next().await.expect("open"));
        assert_eq!(start.elapsed().as_secs(), 3);
        assert!(tokio::time::timeout(Duration::from_mins(1), queue.next()).await.is_err(), "due once");
    }

    #[tokio::test(start_paused = true)]
    async fn adding_now_cancels_the_delay() {
        let queue = WorkQueue::new();
        queue.add_after("a", Duration::from_secs(3));
        queue.add("a");
        drop(take(&queue).expect("added"));
        assert!(tokio::time::timeout(Duration::from_mins(1), queue.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_worker_is_woken_by_an_earlier_delay() {
        let queue = WorkQueue::new();
        queue.add_after("late", Duration::from_mins(1));
        let worker = tokio::spawn({
            let queue = queue.clone();
            async move { queue.next().await.map(|item| *item) }
        });
        tokio::task::yield_now().await;
        let start = Instant::now();
        queue.add_after("soon", Duration::from_secs(1));
        assert_eq!(worker.await.expect("no panic"), Some("soon"));
        assert_eq!(start.elapsed().as_secs(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_wait_longer_and_longer_until_forgotten() {
        let backoff = Backoff { base: Duration::from_millis(100), max: Duration::from_secs(1) };
        let queue = WorkQueue::with_backoff(backoff);
        for least in [100, 200, 400, 800, 1000, 1000] {
            let start = Instant::now();
            queue.retry("a");
            drop(queue.next().await);
            let waited = start.elapsed().as_millis();
            assert!((least..=least + least / 5 + 2).contains(&waited), "{least}: {waited}");
        }
        queue.forget(&"a");
        queue.retry("a");
        assert_eq!(queue.failures(&"a"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_wakes_every_worker() {
        let queue = WorkQueue::<&str>::new();
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move { queue.next().await.is_none() })
            })
            .collect();
        tokio::task::yield_now().await;
        queue.shutdown();
        queue.add("late");
        for worker in workers {
            assert!(worker.await.expect("no panic"));
        }
    }
}
