//! How fast a pod talks: token buckets, one for each direction that has a limit.
//!
//! Whoever sends spends tokens, and may go into debt by what it was sending; while there is debt it waits (a
//! stream) or what it sends is lost (a datagram). So the rate holds in the long run however large the pieces are.
//!
//! Streams that wait do so in line. When there are several, each gets an equal grant, and one that has used its
//! own waits again, behind the others.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::limits::{BURST, BURST_BYTES_MIN};
use crate::stream::Connection;
use crate::{Bandwidth, Fabric};

/// The least that a stream is granted when several wait: smaller pieces cost more than they carry.
const GRANT_MIN: usize = 512;

/// The limits of one pod; `None` where it has none.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    pub(crate) ingress: Option<Arc<Bucket>>,
    pub(crate) egress: Option<Arc<Bucket>>,
}

impl Limits {
    /// The fabric carries the timers.
    pub(crate) fn new(bandwidth: Bandwidth, fabric: &Arc<Fabric>) -> Limits {
        let bucket = |bits: Option<u64>| bits.map(|bits| Arc::new(Bucket::new(bits, fabric)));
        Limits { ingress: bucket(bandwidth.ingress), egress: bucket(bandwidth.egress) }
    }
}

/// One direction's limit.
#[derive(Debug)]
pub(crate) struct Bucket {
    /// Bytes per second.
    rate: u64,
    /// Bytes that may be saved up.
    burst: i64,
    fabric: Weak<Fabric>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    tokens: i64,
    at: Instant,
    /// Directions of connections that wait for tokens, each once.
    waiting: VecDeque<(Weak<Connection>, usize)>,
    /// Several waited last time: now a stream may send what it was granted.
    contended: bool,
    /// A timer runs that will wake them.
    timed: bool,
}

impl Bucket {
    fn new(bits: u64, fabric: &Arc<Fabric>) -> Bucket {
        let rate = (bits / 8).max(1);
        let burst = u128::from(rate) * BURST.as_millis() / 1000;
        let burst = i64::try_from(burst).unwrap_or(i64::MAX).max(BURST_BYTES_MIN.cast_signed());
        let state = State {
            tokens: burst,
            at: Instant::now(),
            waiting: VecDeque::new(),
            contended: false,
            timed: false,
        };
        Bucket { rate, burst, fabric: Arc::downgrade(fabric), state: Mutex::new(state) }
    }

    /// Bytes that a stream with this grant may send now.
    pub(crate) fn allowed(&self, grant: usize) -> usize {
        let mut state = self.state.lock();
        let tokens = usize::try_from(self.refill(&mut state)).unwrap_or(0);
        if state.contended { tokens.min(grant) } else { tokens }
    }

    /// Says that so many bytes were sent.
    pub(crate) fn spend(&self, bytes: usize) {
        let mut state = self.state.lock();
        state.tokens = state.tokens.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Spends, if something may be sent at all now.
    pub(crate) fn try_spend(&self, bytes: usize) -> bool {
        let mut state = self.state.lock();
        if self.refill(&mut state) <= 0 {
            return false;
        }
        state.tokens = state.tokens.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        true
    }

    /// Wakes the writers of a connection's direction once something may be sent again.
    pub(crate) fn wake_later(self: &Arc<Bucket>, connection: Weak<Connection>, side: usize) {
        let mut state = self.state.lock();
        state.waiting.push_back((connection, side));
        self.start_timer(&mut state);
    }

    fn start_timer(self: &Arc<Bucket>, state: &mut State) {
        if std::mem::replace(&mut state.timed, true) {
            return;
        }
        let pause = self.pause(state);
        let bucket = Arc::downgrade(self);
        let timer = async move {
            tokio::time::sleep(pause).await;
            if let Some(bucket) = bucket.upgrade() {
                bucket.wake();
            }
        };
        // Without a fabric every connection is reset, and nobody waits.
        drop(self.fabric.upgrade().map(|fabric| fabric.spawn_task(timer)));
    }

    fn wake(self: &Arc<Bucket>) {
        let mut state = self.state.lock();
        state.timed = false;
        let tokens = usize::try_from(self.refill(&mut state)).unwrap_or(0);
        let grant = (tokens / state.waiting.len().max(1)).max(GRANT_MIN);
        let served = state.waiting.len().min(tokens.div_ceil(grant));
        if served > 0 {
            state.contended = state.waiting.len() > 1;
        }
        let woken: Vec<_> = state.waiting.drain(..served).collect();
        if !state.waiting.is_empty() {
            self.start_timer(&mut state);
        }
        drop(state);
        for (connection, side) in woken {
            if let Some(connection) = connection.upgrade() {
                connection.go_on(side, grant);
            }
        }
    }

    /// Until half of a burst may be sent, so that a waiting stream is not woken for every byte.
    fn pause(&self, state: &mut State) -> Duration {
        let missing = self.burst / 2 - self.refill(state);
        let missing = u64::try_from(missing).unwrap_or(0).saturating_mul(1_000_000);
        Duration::from_micros(missing.div_ceil(self.rate)).max(Duration::from_millis(1))
    }

    fn refill(&self, state: &mut State) -> i64 {
        let now = Instant::now();
        let gained =
            u128::from(self.rate) * now.saturating_duration_since(state.at).as_nanos() / 1_000_000_000;
        // Less than a byte is not lost: the time stays where it was.
        if gained > 0 {
            let gained = i64::try_from(gained).unwrap_or(i64::MAX);
            state.tokens = state.tokens.saturating_add(gained).min(self.burst);
            state.at = now;
        }
        state.tokens
    }
}

/// The limits that one direction of a connection is under: the sender's and the receiver's.
#[derive(Debug)]
pub(crate) struct Shaping([Option<Arc<Bucket>>; 2]);

impl Shaping {
    /// `None` if there is no limit.
    pub(crate) fn new(sender: Option<&Limits>, receiver: Option<&Limits>) -> Option<Box<Shaping>> {
        let egress = sender.and_then(|limits| limits.egress.clone());
        let ingress = receiver.and_then(|limits| limits.ingress.clone());
        let limited = egress.is_some() || ingress.is_some();
        limited.then(|| Box::new(Shaping([egress, ingress])))
    }

    /// Bytes that a stream with this grant may send now.
    pub(crate) fn allowed(&self, grant: usize) -> usize {
        self.0.iter().flatten().map(|bucket| bucket.allowed(grant)).min().unwrap_or(usize::MAX)
    }

    pub(crate) fn spend(&self, bytes: usize) {
        self.0.iter().flatten().for_each(|bucket| bucket.spend(bytes));
    }

    /// The bucket that a stream with this grant has to wait for, if there is one.
    pub(crate) fn empty(&self, grant: usize) -> Option<&Arc<Bucket>> {
        self.0.iter().flatten().find(|bucket| bucket.allowed(grant) == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is allowed after `pause` of a bucket of `bits` that was emptied by `sent` bytes.
    async fn check(bits: u64, sent: usize, pause: Duration, allowed: usize) {
        let bucket = Bucket::new(bits, &Fabric::build(crate::Config::default()));
        bucket.spend(sent);
        tokio::time::advance(pause).await;
        assert_eq!(bucket.allowed(0), allowed, "{bits} bit/s, {sent} bytes, {pause:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_come_with_time() {
        let second = Duration::from_secs(1);
        check(8_000_000, 0, second, 50_000).await; // never more than a burst
        check(8_000_000, 50_000, Duration::ZERO, 0).await;
        check(8_000_000, 50_000, second / 1000, 1_000).await;
        check(8_000_000, 60_000, second / 100, 0).await; // the debt is paid
        check(8_000_000, 60_000, second / 50, 10_000).await;
        check(1_000, 4_096, second, 125).await;
        check(1_000, 4_096, second / 1000, 0).await;
        check(1_000_000_000_000_000, usize::MAX, second, 0).await;
    }
}
