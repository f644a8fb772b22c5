//! Those who wait for memory of their node.
//!
//! ```text
//!   wait ─▶ in line ──── what somebody gives back fits ───▶ woken ─▶ tries to take it
//!              ▲                                               │
//!              └───────────── others were faster ──────────────┘
//! ```
//!
//! Whoever fits is woken, so that one who needs much does not keep others from little; those that fit together, in
//! turns: the first of each pod, then the second of each, and of those alike the one that came first.

use std::collections::BTreeMap;
use std::task::Waker;

/// A turn: how many of its pod were there before it, and when it came.
pub(crate) type Turn = (u32, u64);

/// Who waits, in their order. It decides only; who counts what there is asks it.
#[derive(Debug, Default)]
pub(crate) struct Line {
    waiting: BTreeMap<Turn, Waits>,
    came: u64,
}

/// One that waits.
#[derive(Debug)]
struct Waits {
    /// Whose it is, as a number.
    pod: usize,
    bytes: u64,
    waker: Waker,
}

impl Line {
    /// Enters one of a pod of which so many are in line already.
    pub(crate) fn enter(&mut self, pod: usize, before: u32, bytes: u64, waker: &Waker) -> Turn {
        self.came += 1;
        let turn = (before, self.came);
        self.waiting.insert(turn, Waits { pod, bytes, waker: waker.clone() });
        turn
    }

    /// One that has been woken, or polled, waits on, for so much by now.
    pub(crate) fn stay(&mut self, turn: Turn, bytes: u64, waker: &Waker) {
        if let Some(waits) = self.waiting.get_mut(&turn) {
            waits.bytes = bytes;
            waits.waker.clone_from(waker);
        }
    }

    pub(crate) fn leave(&mut self, turn: Turn) {
        self.waiting.remove(&turn);
    }

    /// Those to be woken when so much is free.
    pub(crate) fn fitting(&self, mut free: u64) -> Vec<Waker> {
        let mut fitting = Vec::new();
        for waits in self.waiting.values() {
            if free == 0 {
                break;
            }
            if let Some(rest) = free.checked_sub(waits.bytes) {
                free = rest;
                fitting.push(waits.waker.clone());
            }
        }
        fitting
    }

    /// Those of one pod.
    pub(crate) fn of(&self, pod: usize) -> Vec<Waker> {
        self.waiting.values().filter(|waits| waits.pod == pod).map(|waits| waits.waker.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Rung(AtomicBool);

    impl Wake for Rung {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// Who of these (how many of its pod were before it, what it needs) is woken when so much is free.
    #[track_caller]
    fn check(waiting: &[(u32, u64)], free: u64, expected: &[usize]) {
        let mut line = Line::default();
        let bells: Vec<Arc<Rung>> = waiting.iter().map(|_| Arc::default()).collect();
        for ((before, bytes), bell) in waiting.iter().zip(&bells) {
            line.enter(0, *before, *bytes, &Waker::from(Arc::clone(bell)));
        }
        line.fitting(free).into_iter().for_each(Waker::wake);
        let rung = |(at, bell): (usize, &Arc<Rung>)| bell.0.load(Ordering::Relaxed).then_some(at);
        let woken: Vec<usize> = bells.iter().enumerate().filter_map(rung).collect();
        assert_eq!(woken, expected, "{waiting:?}, {free} free");
    }

    #[test]
    fn those_that_fit_are_woken_in_turns() {
        check(&[(0, 1), (0, 1)], 0, &[]);
        check(&[(0, 1), (0, 1)], 1, &[0]);
        check(&[(0, 1), (0, 1)], 2, &[0, 1]);
        check(&[(0, 9), (0, 1)], 8, &[1]);
        check(&[(0, 5), (0, 5), (0, 3)], 8, &[0, 2]);
        // Three of one pod, then one of another.
        check(&[(0, 1), (1, 1), (2, 1), (0, 1)], 2, &[0, 3]);
        check(&[(0, 1), (1, 1), (2, 1), (0, 1)], 3, &[0, 1, 3]);
    }

    #[test]
    fn who_has_left_is_not_woken_and_who_stays_keeps_its_turn() {
        let mut line = Line::default();
        let bells: [Arc<Rung>; 3] = Default::default();
        let [first, second, other] = bells.clone().map(Waker::from);
        let turns = [&first, &second].map(|waker| line.enter(0, 0, 1, waker));
        line.stay(turns[0], 1, &other);
        line.fitting(1).into_iter().for_each(Waker::wake);
        let rung = || bells.clone().map(|bell| bell.0.load(Ordering::Relaxed));
        assert_eq!(rung(), [false, false, true]);
        line.leave(turns[0]);
        line.fitting(1).into_iter().for_each(Waker::wake);
        assert_eq!(rung(), [false, true, true]);
    }
}
