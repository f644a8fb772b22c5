//! How fast a container may log: its writers wait for their turn, and no line is lost.

use std::{
    sync::{Arc, Weak},
    task::{Context, Poll, Waker},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

/// Bytes a second that a container logs in the long run. A busy server logs some hundred kilobytes a second; all
/// containers that a node has room for must not keep its disk busy with their logs.
const LOG_RATE: u64 = 1 << 20;

/// Bytes that a container logs at once after a silence: a full log file as Kubernetes has them, so that a stack
/// trace or the listing of a start never waits.
const LOG_BURST: u64 = 10 << 20;

/// The shortest wait of a writer, so that one that is always too fast does not wake for single lines.
const PAUSE: Duration = Duration::from_millis(20);

/// A bucket of bytes that fills with time.
#[derive(Debug, Default)]
pub(super) struct Pace(Mutex<Bucket>);

#[derive(Debug, Default)]
struct Bucket {
    /// What was written and has not been worked off.
    used: u64,
    /// When that was so; `None` before the first write.
    at: Option<Instant>,
    waiting: Vec<Waker>,
}

impl Pace {
    /// Counts what is written, also if it is more than there was room for.
    pub(super) fn take(&self, bytes: usize) {
        let mut bucket = self.0.lock();
        bucket.fill(Instant::now());
        bucket.used = bucket.used.saturating_add(bytes as u64);
    }

    /// How much may be written now.
    pub(super) fn room(&self) -> usize {
        let mut bucket = self.0.lock();
        bucket.fill(Instant::now());
        usize::try_from(LOG_BURST.saturating_sub(bucket.used)).unwrap_or(usize::MAX)
    }

    /// Ready when something may be written.
    pub(super) fn poll_room(self: &Arc<Self>, cx: &mut Context<'_>) -> Poll<()> {
        let now = Instant::now();
        let mut bucket = self.0.lock();
        bucket.fill(now);
        let Some(over) = (bucket.used + 1).checked_sub(LOG_BURST).filter(|over| *over > 0) else {
            return Poll::Ready(());
        };
        if bucket.waiting.is_empty() {
            let wait = Duration::from_nanos(over.saturating_mul(1_000_000_000) / LOG_RATE).max(PAUSE);
            // It ends with the pause; one per log at a time.
            tokio::spawn(wake(Arc::downgrade(self), now + wait));
        }
        if !bucket.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            bucket.waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

async fn wake(pace: Weak<Pace>, at: Instant) {
    sleep_until(at).await;
    if let Some(pace) = pace.upgrade() {
        let waiting = std::mem::take(&mut pace.0.lock().waiting);
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl Bucket {
    fn fill(&mut self, now: Instant) {
        let since = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let came =
            u64::try_from(since.as_nanos()).unwrap_or(u64::MAX).saturating_mul(LOG_RATE) / 1_000_000_000;
        // Time that is worth no byte yet is kept for the next look.
        if came > 0 || self.at.is_none() {
            self.used = self.used.saturating_sub(came);
            self.at = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_becomes_a_stream() {
        let pace = Arc::new(Pace::default());
        let begin = Instant::now();
        let mut written = 0;
        while written < LOG_BURST + 30 * LOG_RATE {
            poll_fn(|cx| pace.poll_room(cx)).await;
            let part = pace.room().min(64 << 10);
            pace.take(part);
            written += part as u64;
        }
        let seconds = begin.elapsed().as_secs_f64();
        assert!((29.0..31.0).contains(&seconds), "{seconds}");
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(pace.room() as u64, LOG_BURST, "silence gives the burst back, and no more");
    }

    #[tokio::test(start_paused = true)]
    async fn everybody_who_waits_goes_on() {
        let pace = Arc::new(Pace::default());
        pace.take(2 * LOG_BURST as usize);
        let wait = || poll_fn(|cx| pace.poll_room(cx));
        tokio::join!(wait(), wait(), wait());
        assert!(pace.room() > 0);
    }
}
