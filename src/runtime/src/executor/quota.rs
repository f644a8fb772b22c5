//! A hard limit on CPU time: a bucket that fills at the limit's rate, and that what was used is taken from.

use super::queue::{Nanos, TICK};

/// How long an unused limit is saved up for: a container that was idle may run this much of its limit at once.
/// With it a second never holds more than 2.5 % beyond the limit.
const SAVED: Nanos = 25_000_000;

/// The shortest turn of a container with a limit. Shorter ones would cost more in switching than they give in
/// evenness: this is 2.5 % of what 10 millicores are in a second.
pub(super) const SHORTEST: Nanos = 250_000;

/// A limit and what is left of it. Amounts are picoseconds of CPU time: one millicore is one per nanosecond.
#[derive(Debug, Clone)]
pub(super) struct Quota {
    millis: u32,
    left: i64,
    /// Used up: it rests until enough for a good turn has come together.
    spent: bool,
    /// When `left` was true.
    at: Nanos,
}

impl Quota {
    /// A limit of so many thousandths of one CPU, with everything saved up.
    pub(super) fn new(millis: u32, now: Nanos) -> Quota {
        let mut quota = Quota { millis: millis.max(1), left: 0, spent: false, at: now };
        quota.left = quota.most();
        quota
    }

    pub(super) fn millis(&self) -> u32 {
        self.millis
    }

    /// `None` if it may run now, else when it may.
    pub(super) fn rests_until(&mut self, now: Nanos) -> Option<Nanos> {
        self.fill(now);
        let enough = if self.spent { (self.most() / 2).max(pico(SHORTEST)) } else { 1 };
        if self.left >= enough {
            self.spent = false;
            return None;
        }
        let missing = u64::try_from(enough - self.left).unwrap_or(0);
        Some(now.saturating_add(missing.div_ceil(u64::from(self.millis))))
    }

    /// Takes a turn in advance, and says how long it is.
    pub(super) fn take(&mut self) -> Nanos {
        let shortest = (u64::try_from(self.most()).unwrap_or(0) / 2_000).clamp(SHORTEST, TICK);
        let turn = (u64::try_from(self.left).unwrap_or(0) / 1_000).clamp(shortest, TICK);
        self.left = self.left.saturating_sub(pico(turn));
        turn
    }

    /// A turn that was taken has ended and used this much.
    pub(super) fn settle(&mut self, turn: Nanos, used: Nanos, now: Nanos) {
        self.left = self.left.saturating_add(pico(turn)).saturating_sub(pico(used));
        self.fill(now);
        self.spent |= self.left <= 0;
    }

    fn fill(&mut self, now: Nanos) {
        let came = pico(now.saturating_sub(self.at)) / 1_000 * i64::from(self.millis);
        self.at = self.at.max(now);
        self.left = self.left.saturating_add(came).min(self.most());
    }

    /// What can be saved up.
    fn most(&self) -> i64 {
        i64::from(self.millis).saturating_mul(SAVED.cast_signed()).max(pico(SHORTEST))
    }
}

fn pico(nanos: Nanos) -> i64 {
    i64::try_from(nanos).unwrap_or(i64::MAX).saturating_mul(1_000)
}
