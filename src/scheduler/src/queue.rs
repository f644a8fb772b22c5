//! Pods that wait for a node.
//!
//! ```text
//!             pop                   place failed
//!   active ─────────▶ (in hand) ───────────────────▶ parked
//!     ▲  ▲                │ binding failed             │ something changed
//!     │  │                ▼                            ▼
//!     │  └────────── backoff ◀──────────────────── too soon?
//!     └──────────────────────────────────────────────── no
//! ```
//! Active pods go by priority, then in the order of their coming. A pod that failed waits at least its
//! backoff, and parked until something happens that may help it.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::placement::Candidate;

/// The wait after the first failed attempt; each further one doubles it...
const BACKOFF: Duration = Duration::from_secs(1);
/// ... up to this. Kubernetes' numbers.
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);

/// A parked pod is tried again after this, whatever happened: a safety net. Kubernetes' number.
const PARKED_AT_MOST: Duration = Duration::from_mins(5);

/// Something happened that may help parked pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wake {
    /// A node came or changed: it may help any pod.
    pub(crate) nodes: bool,
    /// A pod left a node: it helps pods for which others are in the way.
    pub(crate) room: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    entries: HashMap<Arc<str>, Entry>,
    active: BTreeMap<(Reverse<i32>, u64), Arc<str>>,
    backoff: BTreeMap<(Instant, u64), Arc<str>>,
    sequence: u64,
}

#[derive(Debug)]
struct Entry {
    pod: Candidate,
    /// The order of coming.
    sequence: u64,
    attempts: u32,
    last_attempt: Option<Instant>,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Active,
    Backoff(Instant),
    Parked {
        crowded: bool,
    },
    /// Popped; its placement or binding is under way.
    InHand,
}

impl Queue {
    /// A pod came. One that is known already is replaced where it stands.
    pub(crate) fn add(&mut self, pod: Candidate) {
        if let Some(entry) = self.entries.get_mut(pod.uid()) {
            entry.pod = pod;
            return;
        }
        self.sequence += 1;
        let uid = pod.uid().clone();
        let entry =
            Entry { pod, sequence: self.sequence, attempts: 0, last_attempt: None, place: Place::InHand };
        self.entries.insert(uid.clone(), entry);
        self.activate(&uid);
    }

    /// The pod itself changed so that it may fit now.
    pub(crate) fn changed(&mut self, pod: Candidate, now: Instant) {
        let uid = pod.uid().clone();
        self.add(pod);
        if matches!(self.entries.get(&uid).map(|entry| &entry.place), Some(Place::Parked { .. })) {
            self.release(&uid, now);
        }
    }

    /// The pod is gone, or has a node.
    pub(crate) fn remove(&mut self, uid: &str) {
        if let Some((uid, entry)) = self.entries.remove_entry(uid) {
            self.take_out(&uid, &entry);
        }
    }

    /// The next pod to be placed. It stays known until [`Queue::remove`], [`Queue::park`] or
    /// [`Queue::retry`] say what became of it.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Candidate> {
        while let Some((&(at, sequence), _)) = self.backoff.first_key_value() {
            if at > now {
                break;
            }
            if let Some(uid) = self.backoff.remove(&(at, sequence)) {
                self.activate(&uid);
            }
        }
        let (_, uid) = self.active.pop_first()?;
        let entry = self.entries.get_mut(&uid)?;
        entry.place = Place::InHand;
        entry.attempts = entry.attempts.saturating_add(1);
        entry.last_attempt = Some(now);
        Some(entry.pod.clone())
    }

    /// No node takes the pod: it waits until something changes. `crowded` says that other pods are in its
    /// way.
    pub(crate) fn park(&mut self, uid: &str, crowded: bool) {
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.place = Place::Parked { crowded };
        }
    }

    /// The pod was placed but not bound: it is tried again after its backoff.
    pub(crate) fn retry(&mut self, uid: &str, now: Instant) {
        if let Some((uid, _)) = self.entries.get_key_value(uid) {
            let uid = uid.clone();
            self.release(&uid, now);
        }
    }

    /// Something happened: parked pods that it may help are tried again, none sooner than its backoff.
    pub(crate) fn wake(&mut self, wake: Wake, now: Instant) {
        let helped = |entry: &Entry| match entry.place {
            Place::Parked { crowded } => {
                let late = entry.last_attempt.is_some_and(|last| now.duration_since(last) >= PARKED_AT_MOST);
                wake.nodes || (wake.room && crowded) || late
            }
            _ => false,
        };
        let mut uids: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| helped(entry))
            .map(|(uid, entry)| (entry.sequence, uid.clone()))
            .collect();
        uids.sort_unstable();
        for (_, uid) in uids {
            self.release(&uid, now);
        }
    }

    /// When the next pod's backoff ends.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.backoff.first_key_value().map(|((at, _), _)| *at)
    }

    pub(crate) fn has_active(&self) -> bool {
        !self.active.is_empty()
    }

    pub(crate) fn contains(&self, uid: &str) -> bool {
        self.entries.contains_key(uid)
    }

    pub(crate) fn get(&self, uid: &str) -> Option<&Candidate> {
        self.entries.get(uid).map(|entry| &entry.pod)
    }

    fn release(&mut self, uid: &Arc<str>, now: Instant) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let until = entry.last_attempt.map(|last| last + backoff(entry.attempts));
        match until {
            Some(until) if until > now => {
                entry.place = Place::Backoff(until);
                self.backoff.insert((until, entry.sequence), uid.clone());
            }
            _ => self.activate(uid),
        }
    }

    fn activate(&mut self, uid: &Arc<str>) {
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.place = Place::Active;
            self.active.insert((Reverse(priority(&entry.pod)), entry.sequence), uid.clone());
        }
    }

    fn take_out(&mut self, uid: &Arc<str>, entry: &Entry) {
        match entry.place {
            Place::Active => {
                // The priority is immutable, but the pod may have been replaced: fall back to a search.
                let slot = (Reverse(priority(&entry.pod)), entry.sequence);
                if self.active.remove(&slot).is_none() {
                    self.active.retain(|_, other| other != uid);
                }
            }
            Place::Backoff(until) => {
                self.backoff.remove(&(until, entry.sequence));
            }
            Place::Parked { .. } | Place::InHand => {}
        }
    }
}

fn priority(pod: &Candidate) -> i32 {
    pod.pod().spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0)
}

fn backoff(attempts: u32) -> Duration {
    BACKOFF.saturating_mul(1 << attempts.saturating_sub(1).min(8)).min(LONGEST_BACKOFF)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Pod, PodSpec};

    use super::*;

    fn pod(name: &str, priority: i32) -> Candidate {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.to_owned());
        pod.metadata.uid = Some(name.to_owned());
        pod.spec = Some(PodSpec { priority: Some(priority), ..PodSpec::default() });
        Candidate::new(Arc::new(pod))
    }

    fn pop(queue: &mut Queue, now: Instant) -> Option<String> {
        queue.pop(now).map(|pod| pod.uid().to_string())
    }

    const NODES: Wake = Wake { nodes: true, room: false };
    const ROOM: Wake = Wake { nodes: false, room: true };

    #[tokio::test(start_paused = true)]
    async fn by_priority_then_in_order() {
        let now = Instant::now();
        let mut queue = Queue::default();
        for (name, priority) in [("a", 0), ("b", 0), ("high", 10), ("c", 0)] {
            queue.add(pod(name, priority));
        }
        let order: Vec<_> = std::iter::from_fn(|| pop(&mut queue, now)).collect();
        assert_eq!(order, ["high", "a", "b", "c"]);
    }

    #[tokio::test(start_paused = true)]
    async fn parked_pods_wait_for_what_may_help_and_for_their_backoff() {
        let start = Instant::now();
        let mut queue = Queue::default();
        queue.add(pod("crowded", 0));
        queue.add(pod("choosy", 0));
        for (uid, crowded) in [("crowded", true), ("choosy", false)] {
            assert_eq!(pop(&mut queue, start).as_deref(), Some(uid));
            queue.park(uid, crowded);
        }
        queue.wake(ROOM, start);
        assert_eq!(pop(&mut queue, start), None, "a second has not passed");
        assert_eq!(queue.due(), Some(start + BACKOFF));
        let later = start + BACKOFF;
        assert_eq!(pop(&mut queue, later).as_deref(), Some("crowded"));
        queue.park("crowded", true);
        let later = later + Duration::from_secs(5);
        queue.wake(NODES, later);
        assert_eq!(pop(&mut queue, later).as_deref(), Some("crowded"), "it came first");
        assert_eq!(pop(&mut queue, later).as_deref(), Some("choosy"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_backoff_grows_to_ten_seconds() {
        let mut now = Instant::now();
        let mut queue = Queue::default();
        queue.add(pod("a", 0));
        for seconds in [1, 2, 4, 8, 10, 10] {
            assert_eq!(pop(&mut queue, now).as_deref(), Some("a"));
            queue.retry("a", now);
            assert_eq!(queue.due(), Some(now + Duration::from_secs(seconds)));
            now += Duration::from_secs(seconds);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_parked_for_ever_and_what_is_gone_is_not_tried() {
        let start = Instant::now();
        let mut queue = Queue::default();
        queue.add(pod("a", 0));
        queue.add(pod("b", 0));
        for uid in ["a", "b"] {
            pop(&mut queue, start);
            queue.park(uid, false);
        }
        queue.remove("b");
        queue.wake(Wake::default(), start + PARKED_AT_MOST);
        let later = start + PARKED_AT_MOST;
        assert_eq!(pop(&mut queue, later).as_deref(), Some("a"));
        queue.retry("a", later);
        queue.remove("a");
        assert_eq!((queue.due(), queue.contains("a")), (None, false));
    }
}
