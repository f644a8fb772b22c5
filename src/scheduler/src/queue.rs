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
//! backoff, and parked until something happens that may help it. Parked pods of one class that failed the same
//! checks stand together, so that what happened is held against the class once, however many they are.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::placement::{Candidate, Plugins};

/// The wait after the first failed attempt; each further one doubles it...
const BACKOFF: Duration = Duration::from_secs(1);
/// ... up to this. Kubernetes' numbers.
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);

/// A parked pod is tried again after this, whatever happened: a safety net. Kubernetes' number.
const PARKED_AT_MOST: Duration = Duration::from_mins(5);

#[derive(Debug, Default)]
pub(crate) struct Queue {
    entries: HashMap<Arc<str>, Entry>,
    active: BTreeMap<(Reverse<i32>, u64), Arc<str>>,
    backoff: BTreeMap<(Instant, u64), Arc<str>>,
    /// By class and by what they failed, in the order of their coming.
    parked: BTreeMap<(u32, Plugins), BTreeMap<u64, Arc<str>>>,
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
    Parked(Group),
    /// Popped; its placement or binding is under way.
    InHand,
}

/// The class of a parked pod, and what it failed.
type Group = (u32, Plugins);

impl Queue {
    /// A pod came. One that is known already is replaced where it stands.
    pub(crate) fn add(&mut self, pod: Candidate) {
        if let Some((uid, mut entry)) = self.entries.remove_entry(pod.uid()) {
            // Where it stands may depend on what it was.
            self.take_out(&uid, &entry);
            entry.pod = pod;
            self.put_in(&uid, &mut entry);
            self.entries.insert(uid, entry);
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
        if matches!(self.entries.get(&uid).map(|entry| &entry.place), Some(Place::Parked(_))) {
            self.unpark(&uid);
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

    /// No node takes the pod, for these reasons: it waits until something changes.
    pub(crate) fn park(&mut self, uid: &str, failed: Plugins) {
        if let Some((uid, mut entry)) = self.entries.remove_entry(uid) {
            entry.place = Place::Parked((entry.pod.class(), failed));
            self.put_in(&uid, &mut entry);
            self.entries.insert(uid, entry);
        }
    }

    /// The pod was placed but not bound: it is tried again after its backoff.
    pub(crate) fn retry(&mut self, uid: &str, now: Instant) {
        if let Some((uid, _)) = self.entries.get_key_value(uid) {
            let uid = uid.clone();
            self.unpark(&uid);
            self.release(&uid, now);
        }
    }

    /// Something happened: parked pods that it may help are tried again, none sooner than its backoff.
    pub(crate) fn wake(&mut self, helps: impl Fn(&Candidate, Plugins) -> bool, now: Instant) {
        let helped = |(group, pods): (&Group, &BTreeMap<u64, Arc<str>>)| {
            let pod = pods.values().next().and_then(|uid| self.entries.get(uid))?;
            helps(&pod.pod, group.1).then_some(*group)
        };
        let groups: Vec<Group> = self.parked.iter().filter_map(helped).collect();
        let mut pods: Vec<(u64, Arc<str>)> =
            groups.into_iter().filter_map(|group| self.parked.remove(&group)).flatten().collect();
        pods.sort_unstable();
        for (_, uid) in pods {
            self.release(&uid, now);
        }
    }

    /// Pods that have been parked for too long are tried again, whatever happened.
    pub(crate) fn wake_late(&mut self, now: Instant) {
        let late =
            |entry: &Entry| entry.last_attempt.is_some_and(|last| now.duration_since(last) >= PARKED_AT_MOST);
        let parked = self.parked.values().flatten();
        let mut pods: Vec<(u64, Arc<str>)> = parked
            .filter(|(_, uid)| self.entries.get(*uid).is_some_and(late))
            .map(|(sequence, uid)| (*sequence, uid.clone()))
            .collect();
        pods.sort_unstable();
        for (_, uid) in pods {
            self.unpark(&uid);
            self.release(&uid, now);
        }
    }

    /// True if nobody is parked: what happens helps nobody.
    pub(crate) fn is_nobody_parked(&self) -> bool {
        self.parked.is_empty()
    }

    /// When the next pod's backoff ends.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.backoff.first_key_value().map(|((at, _), _)| *at)
    }

    pub(crate) fn has_active(&self) -> bool {
        !self.active.is_empty()
    }

    pub(crate) fn is_parked(&self, uid: &str) -> bool {
        matches!(self.entries.get(uid).map(|entry| &entry.place), Some(Place::Parked(_)))
    }

    pub(crate) fn contains(&self, uid: &str) -> bool {
        self.entries.contains_key(uid)
    }

    /// The pod stands parked no longer; where it stands is to be said at once.
    fn unpark(&mut self, uid: &str) {
        if let Some(Entry { place: Place::Parked(group), sequence, .. }) = self.entries.get(uid)
            && let Some(pods) = self.parked.get_mut(group)
        {
            pods.remove(sequence);
            if pods.is_empty() {
                self.parked.remove(group);
            }
        }
    }

    fn put_in(&mut self, uid: &Arc<str>, entry: &mut Entry) {
        match &mut entry.place {
            Place::Active => {
                self.active.insert((Reverse(entry.pod.priority()), entry.sequence), uid.clone());
            }
            Place::Backoff(until) => {
                self.backoff.insert((*until, entry.sequence), uid.clone());
            }
            Place::Parked(group) => {
                group.0 = entry.pod.class();
                self.parked.entry(*group).or_default().insert(entry.sequence, uid.clone());
            }
            Place::InHand => {}
        }
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
            self.active.insert((Reverse(entry.pod.priority()), entry.sequence), uid.clone());
        }
    }

    fn take_out(&mut self, uid: &Arc<str>, entry: &Entry) {
        match entry.place {
            Place::Active => {
                // The priority is immutable, but the pod may have been replaced: fall back to a search.
                let slot = (Reverse(entry.pod.priority()), entry.sequence);
                if self.active.remove(&slot).is_none() {
                    self.active.retain(|_, other| other != uid);
                }
            }
            Place::Backoff(until) => {
                self.backoff.remove(&(until, entry.sequence));
            }
            Place::Parked(group) => {
                if let Some(pods) = self.parked.get_mut(&group) {
                    pods.remove(&entry.sequence);
                    if pods.is_empty() {
                        self.parked.remove(&group);
                    }
                }
            }
            Place::InHand => {}
        }
    }
}

fn backoff(attempts: u32) -> Duration {
    BACKOFF.saturating_mul(1 << attempts.saturating_sub(1).min(8)).min(LONGEST_BACKOFF)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Pod, PodSpec};

    use super::*;
    use crate::placement::Cluster;

    fn pod(cluster: &mut Cluster, name: &str, priority: i32) -> Candidate {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.to_owned());
        pod.metadata.uid = Some(name.to_owned());
        pod.spec = Some(PodSpec { priority: Some(priority), ..PodSpec::default() });
        cluster.candidate(Arc::new(pod))
    }

    fn queue(pods: &[(&str, i32)]) -> Queue {
        let (mut cluster, mut queue) = (Cluster::new(), Queue::default());
        for (name, priority) in pods {
            queue.add(pod(&mut cluster, name, *priority));
        }
        queue
    }

    fn pop(queue: &mut Queue, now: Instant) -> Option<String> {
        queue.pop(now).map(|pod| pod.uid().to_string())
    }

    #[tokio::test(start_paused = true)]
    async fn by_priority_then_in_order() {
        let now = Instant::now();
        let mut queue = queue(&[("a", 0), ("b", 0), ("high", 10), ("c", 0)]);
        let order: Vec<_> = std::iter::from_fn(|| pop(&mut queue, now)).collect();
        assert_eq!(order, ["high", "a", "b", "c"]);
    }

    #[tokio::test(start_paused = true)]
    async fn parked_pods_wait_for_what_may_help_and_for_their_backoff() {
        let start = Instant::now();
        let mut queue = queue(&[("crowded", 0), ("choosy", 0), ("crowded too", 0)]);
        let parked =
            [("crowded", Plugins::FIT), ("choosy", Plugins::NODE_AFFINITY), ("crowded too", Plugins::FIT)];
        for (uid, failed) in parked {
            assert_eq!(pop(&mut queue, start).as_deref(), Some(uid));
            queue.park(uid, failed);
        }
        queue.wake(|_, failed| failed == Plugins::FIT, start);
        assert_eq!(pop(&mut queue, start), None, "a second has not passed");
        assert_eq!(queue.due(), Some(start + BACKOFF));
        let later = start + BACKOFF;
        assert_eq!(pop(&mut queue, later).as_deref(), Some("crowded"));
        assert_eq!(pop(&mut queue, later).as_deref(), Some("crowded too"));
        assert_eq!(pop(&mut queue, later), None);
        queue.park("crowded", Plugins::FIT);
        let later = later + Duration::from_secs(5);
        queue.wake(|_, _| true, later);
        assert_eq!(pop(&mut queue, later).as_deref(), Some("crowded"), "it came first");
        assert_eq!(pop(&mut queue, later).as_deref(), Some("choosy"));
        assert!(queue.is_nobody_parked());
    }

    #[tokio::test(start_paused = true)]
    async fn the_backoff_grows_to_ten_seconds() {
        let mut now = Instant::now();
        let mut queue = queue(&[("a", 0)]);
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
        let mut queue = queue(&[("a", 0), ("b", 0)]);
        for uid in ["a", "b"] {
            pop(&mut queue, start);
            queue.park(uid, Plugins::FIT);
        }
        queue.remove("b");
        queue.wake_late(start + PARKED_AT_MOST - Duration::from_secs(1));
        assert_eq!(pop(&mut queue, start + PARKED_AT_MOST), None);
        let later = start + PARKED_AT_MOST;
        queue.wake_late(later);
        assert_eq!(pop(&mut queue, later).as_deref(), Some("a"));
        queue.retry("a", later);
        queue.remove("a");
        assert_eq!((queue.due(), queue.contains("a")), (None, false));
        assert!(queue.is_nobody_parked());
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_pod_is_tried_again() {
        let start = Instant::now();
        let mut cluster = Cluster::new();
        let mut queue = Queue::default();
        queue.add(pod(&mut cluster, "a", 0));
        pop(&mut queue, start);
        queue.park("a", Plugins::FIT);
        queue.changed(pod(&mut cluster, "a", 7), start);
        assert!(queue.is_nobody_parked());
        assert_eq!(pop(&mut queue, start + BACKOFF).as_deref(), Some("a"));
    }
}
