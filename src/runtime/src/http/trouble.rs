//! What goes wrong in instances, told in the container's log: each cause once with its backtrace, and then how often
//! it came again.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::output::Output;

/// Causes that are remembered. A program has few; one that makes new ones up is told about less often.
const CAUSES: usize = 64;

/// How often the same cause is told about.
const AGAIN: Duration = Duration::from_secs(60);

/// Tells a container's log what went wrong.
pub(super) struct Trouble {
    log: Arc<dyn Output>,
    known: Mutex<HashMap<u64, Cause>>,
}

#[derive(Debug, Clone, Copy)]
struct Cause {
    told: Instant,
    since: u64,
}

impl Trouble {
    pub(super) fn new(log: Arc<dyn Output>) -> Trouble {
        Trouble { log, known: Mutex::default() }
    }

    /// A request ended in this.
    pub(super) fn tell(&self, message: &str) {
        if let Some(text) = self.text(message, Instant::now()) {
            self.log.write(text.as_bytes());
        }
    }

    /// What to tell now, if anything.
    fn text(&self, message: &str, now: Instant) -> Option<String> {
        let mut hasher = DefaultHasher::new();
        message.hash(&mut hasher);
        let mut known = self.known.lock();
        if let Some(cause) = known.get_mut(&hasher.finish()) {
            cause.since += 1;
            if now.saturating_duration_since(cause.told) < AGAIN {
                return None;
            }
            let times = std::mem::replace(cause, Cause { told: now, since: 0 }).since;
            let reason = message.lines().next().unwrap_or_default();
            return Some(format!("wasi:http: {times} more requests failed: {reason}\n"));
        }
        if known.len() >= CAUSES {
            // The table is full of causes: one of them is forgotten if it is old, else this one is not told.
            let old =
                known.iter().min_by_key(|(_, cause)| cause.told).map(|(key, cause)| (*key, cause.told))?;
            if now.saturating_duration_since(old.1) < AGAIN {
                return None;
            }
            known.remove(&old.0);
        }
        known.insert(hasher.finish(), Cause { told: now, since: 0 });
        Some(format!("wasi:http: a request failed: {message}\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::output_pipe;

    #[tokio::test(start_paused = true)]
    async fn each_cause_is_told_once_a_minute() {
        let trouble = Trouble::new(output_pipe().0);
        let begun = Instant::now();
        let after = |seconds| begun + Duration::from_secs(seconds);
        let check = |message: &str, seconds, expected: Option<&str>| {
            assert_eq!(trouble.text(message, after(seconds)).as_deref(), expected);
        };
        check("trap\n at x", 0, Some("wasi:http: a request failed: trap\n at x\n"));
        check("trap\n at x", 1, None);
        check("trap\n at y", 1, Some("wasi:http: a request failed: trap\n at y\n"));
        check("trap\n at x", 61, Some("wasi:http: 2 more requests failed: trap\n"));
        check("trap\n at x", 62, None);
    }

    #[tokio::test(start_paused = true)]
    async fn new_causes_without_end_do_not_flood_the_log() {
        let trouble = Trouble::new(output_pipe().0);
        let begun = Instant::now();
        let told = (0..1_000).filter(|n| trouble.text(&format!("cause {n}"), begun).is_some()).count();
        assert_eq!(told, CAUSES);
        assert!(trouble.text("another", begun + AGAIN).is_some());
        assert_eq!(trouble.known.lock().len(), CAUSES);
    }
}
