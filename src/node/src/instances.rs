//! Whether the runtime is short of places for instances, and since when: for long enough that a pod must go?
//!
//! ```text
//!   enough ── the reserve is touched ──▶ short: no more pods, please ── for GRACE ──▶ a pod goes, and another …
//!      ▲                                   │                                             │
//!      └──────────── enough is free ───────┴──────── and PRESSURE has passed ◀───────────┘
//! ```
//!
//! Nothing breaks when places run out, unlike memory: launches wait for them. So it is what the kubelet calls a soft
//! threshold: a burst of starts or of `exec` evicts nobody. Handlers' idle instances are given back before, by the
//! runtime itself.

use std::{sync::Arc, time::Duration};

use coracle_runtime::Runtime;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::memory::PRESSURE;

/// How long the reserve may be touched before a pod must go. The example of Kubernetes' documentation for a soft
/// threshold, and far longer than starting all pods of a node takes.
const GRACE: Duration = Duration::from_secs(90);

/// The places of a node's runtime.
pub(crate) struct Instances {
    runtime: Arc<Runtime>,
    seen: Mutex<Seen>,
}

/// What is free, and what should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) free: u32,
    pub(crate) reserve: u32,
}

impl Places {
    fn short(self) -> bool {
        self.free < self.reserve
    }
}

impl Instances {
    pub(crate) fn new(runtime: Arc<Runtime>) -> Instances {
        Instances { runtime, seen: Mutex::default() }
    }

    /// How many pods can run at once, if each has one container: those that leave the reserve.
    pub(crate) fn most_pods(runtime: &Runtime) -> u32 {
        runtime.capacity() - runtime.reserve()
    }

    pub(crate) fn places(&self) -> Places {
        Places { free: self.runtime.free(), reserve: self.runtime.reserve() }
    }

    /// Whether no more pods should come.
    pub(crate) fn is_short(&self) -> bool {
        self.places().short() || self.seen.lock().is_recent(Instant::now())
    }

    /// To be asked again and again: the places, if it is time for a pod to go.
    pub(crate) fn overdue(&self) -> Option<Places> {
        let places = self.places();
        self.seen.lock().look(places, Instant::now()).then_some(places)
    }

    /// A pod was ended for its places.
    pub(crate) fn evicted(&self) {
        self.seen.lock().evicted = Some(Instant::now());
    }
}

#[derive(Debug, Default)]
struct Seen {
    /// Since when the reserve is touched.
    short: Option<Instant>,
    /// When a pod was ended last.
    evicted: Option<Instant>,
}

impl Seen {
    /// Whether the reserve has been touched all the time for so long that a pod must go.
    fn look(&mut self, places: Places, now: Instant) -> bool {
        if !places.short() {
            self.short = None;
            return false;
        }
        now.duration_since(*self.short.get_or_insert(now)) >= GRACE
    }

    fn is_recent(&self, now: Instant) -> bool {
        self.evicted.is_some_and(|evicted| now.duration_since(evicted) < PRESSURE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Places that are free at these seconds, of which ten should be: when a pod must go.
    #[track_caller]
    fn check(looks: &[(u64, u32)], expected: &[u64]) {
        let begun = Instant::now();
        let mut seen = Seen::default();
        let mut look = |(second, free): &(u64, u32)| {
            seen.look(Places { free: *free, reserve: 10 }, begun + Duration::from_secs(*second))
        };
        let due: Vec<u64> = looks.iter().filter(|at| look(at)).map(|(second, _)| *second).collect();
        assert_eq!(due, expected);
    }

    #[test]
    fn a_burst_evicts_nobody() {
        check(&[(0, 10), (1_000, 10)], &[]);
        check(&[(0, 9), (10, 0), (89, 0)], &[]);
        check(&[(0, 9), (89, 9), (90, 9), (91, 0), (92, 10), (93, 9)], &[90, 91]);
        check(&[(0, 0), (80, 10), (90, 0), (170, 0), (180, 0)], &[180]);
    }

    #[test]
    fn pods_stay_away_for_a_while_after_one_had_to_go() {
        let begun = Instant::now();
        let seen = Seen { evicted: Some(begun), ..Seen::default() };
        assert!(seen.is_recent(begun + PRESSURE / 2));
        assert!(!seen.is_recent(begun + PRESSURE));
        assert!(!Seen::default().is_recent(begun));
    }
}
