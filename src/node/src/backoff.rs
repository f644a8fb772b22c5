//! Back-off between attempts, as the kubelet times it: 10 s, doubled to 5 min, forgotten after 10 min of
//! peace. The same rule serves restarts of a container and pulls of an image. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// The first delay. Kubernetes' number, which users know from `CrashLoopBackOff`.
pub(crate) const INITIAL: Duration = Duration::from_secs(10);
/// The longest delay. Kubernetes' number.
pub(crate) const MAX: Duration = Duration::from_secs(300);

/// Back-off of one container (or of one container's image).
///
/// An attempt is never delayed before the first failure was followed by a retry: the first restart of a
/// container is immediate, the second waits 10 s from its exit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backoff {
    entry: Option<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    delay: Duration,
    updated: Instant,
}

impl Backoff {
    /// When the next attempt may be made after a failure at `failed`; `None` means at once.
    pub(crate) fn ready_at(&self, failed: Instant, now: Instant) -> Option<Instant> {
        let entry = self.live(failed)?;
        let at = failed + entry.delay;
        (at > now).then_some(at)
    }

    /// Counts an attempt that follows the failure at `failed`.
    pub(crate) fn attempt(&mut self, failed: Instant, now: Instant) {
        let delay = self.live(failed).map_or(INITIAL, |entry| (entry.delay * 2).min(MAX));
        self.entry = Some(Entry { delay, updated: now });
    }

    /// The delay in force, for messages.
    pub(crate) fn delay(&self) -> Duration {
        self.entry.map_or(INITIAL, |entry| entry.delay)
    }

    /// Forgets all failures.
    pub(crate) fn reset(&mut self) {
        self.entry = None;
    }

    /// The entry, unless what failed had been well for so long that the past no longer counts.
    fn live(&self, failed: Instant) -> Option<&Entry> {
        self.entry.as_ref().filter(|entry| failed.saturating_duration_since(entry.updated) <= MAX * 2)
    }
}

/// A duration in Go's form, as Kubernetes' messages print it: `10s`, `1m20s`, `5m0s`.
pub(crate) fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let millis = duration.subsec_millis();
    if seconds == 0 {
        return if millis == 0 { format!("{}µs", duration.subsec_micros()) } else { format!("{millis}ms") };
    }
    let fraction = if millis == 0 { String::new() } else { format!(".{millis:03}") };
    let fraction = fraction.trim_end_matches('0');
    let (hours, minutes, rest) = (seconds / 3600, seconds % 3600 / 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest}{fraction}s"),
        (0, _) => format!("{minutes}m{rest}{fraction}s"),
        _ => format!("{hours}h{minutes}m{rest}{fraction}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs of these lengths (seconds), each ended by a crash: how long each restart waits.
    #[track_caller]
    fn check(runs: &[u64], waits: &[u64]) {
        let mut now = Instant::now();
        let mut backoff = Backoff::default();
        let mut seen = Vec::new();
        for run in runs {
            now += Duration::from_secs(*run);
            let failed = now;
            if let Some(at) = backoff.ready_at(failed, now) {
                seen.push((at - now).as_secs());
                now = at;
            } else {
                seen.push(0);
            }
            assert!(backoff.ready_at(failed, now).is_none());
            backoff.attempt(failed, now);
        }
        assert_eq!(seen, waits);
    }

    #[test]
    fn doubles_to_five_minutes() {
        check(&[0; 8], &[0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn a_long_run_is_forgiven() {
        check(&[1, 1, 1, 601, 1, 1], &[0, 10, 20, 0, 10, 20]);
    }

    #[test]
    fn the_wait_counts_from_the_exit_whatever_the_run_took() {
        check(&[1, 60, 60, 60], &[0, 10, 20, 40]);
    }

    #[test]
    fn durations_look_like_go() {
        for (duration, text) in [
            (Duration::from_secs(10), "10s"),
            (Duration::from_secs(80), "1m20s"),
            (Duration::from_secs(300), "5m0s"),
            (Duration::from_secs(3600), "1h0m0s"),
            (Duration::from_millis(1250), "1.25s"),
            (Duration::from_millis(7), "7ms"),
        ] {
            assert_eq!(go_duration(duration), text);
        }
    }
}
