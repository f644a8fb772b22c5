//! The loop around a reconciler.

use std::{fmt::Display, hash::Hash, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;
use tokio::task::JoinSet;
use tracing::{Instrument, debug, error, info_span, warn};

use crate::{
    error::{ReconcileError, chain},
    queue::WorkQueue,
};

/// A key fails this often before its failures are warnings: the first ones are mostly races.
const QUIET_FAILURES: u32 = 3;

/// Runs `reconcile` for every key of `queue`, at most `workers` at once and never two for one key.
///
/// What `reconcile` answers decides what follows:
/// - `Ok(None)`: the key is done, and its failures are forgotten;
/// - `Ok(Some(delay))`: done for now, to be looked at again after `delay`;
/// - a 409 Conflict: tried again after a backoff, quietly, because the cache is about to catch up;
/// - any other error, or a panic: logged, and tried again after a backoff.
///
/// Ends when the queue is shut down and the reconciliations under way have ended. Dropping the future
/// aborts them.
pub async fn run_workers<K, F, R>(name: &'static str, queue: WorkQueue<K>, workers: usize, reconcile: F)
where
    K: Eq + Hash + Clone + Display + Send + Sync + 'static,
    F: Fn(K) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Option<Duration>, ReconcileError>> + Send + 'static,
{
    let reconcile = Arc::new(reconcile);
    let mut tasks = JoinSet::new();
    for _ in 0..workers.max(1) {
        let queue = queue.clone();
        let reconcile = reconcile.clone();
        tasks.spawn(async move {
            while let Some(item) = queue.next().await {
                let key = (*item).clone();
                let span = info_span!("reconcile", controller = name, key = %key);
                let outcome = caught(|| reconcile(key.clone())).instrument(span.clone()).await;
                let _entered = span.enter();
                settle(&queue, key, outcome);
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

/// Runs the reconciler; a panic becomes an error.
async fn caught<R>(start: impl FnOnce() -> R) -> Result<Option<Duration>, ReconcileError>
where
    R: Future<Output = Result<Option<Duration>, ReconcileError>>,
{
    let run = AssertUnwindSafe(async { start().await });
    run.catch_unwind().await.unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".to_owned());
        Err(ReconcileError::Panicked(text))
    })
}

fn settle<K: Eq + Hash + Clone>(
    queue: &WorkQueue<K>,
    key: K,
    outcome: Result<Option<Duration>, ReconcileError>,
) {
    match outcome {
        Ok(None) => queue.forget(&key),
        Ok(Some(delay)) => {
            queue.forget(&key);
            queue.add_after(key, delay);
        }
        Err(failure) => {
            match &failure {
                ReconcileError::Panicked(_) => error!(error = %failure, "a bug: trying again"),
                _ if failure.is_conflict() => debug!("lost a race: trying again"),
                _ if queue.failures(&key) < QUIET_FAILURES => {
                    debug!(error = %chain(&failure), "trying again");
                }
                _ => warn!(error = %chain(&failure), "still failing: trying again"),
            }
            queue.retry(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn keys_are_tried_until_they_are_done() {
        let queue = WorkQueue::new();
        let tries = Arc::new(AtomicU32::new(0));
        queue.add("a".to_owned());
        let reconcile = {
            let (tries, queue) = (tries.clone(), queue.clone());
            move |_key: String| {
                let (tries, queue) = (tries.clone(), queue.clone());
                async move {
                    match tries.fetch_add(1, Ordering::SeqCst) {
                        0 => Err(ReconcileError::NotYet("nothing there".to_owned())),
                        1 => panic!("a bug"),
                        2 => Ok(Some(Duration::from_hours(1))),
                        _ => {
                            queue.shutdown();
                            Ok(None)
                        }
                    }
                }
            }
        };
        let start = tokio::time::Instant::now();
        run_workers("test", queue, 2, reconcile).await;
        assert_eq!(tries.load(Ordering::SeqCst), 4);
        assert!(start.elapsed() >= Duration::from_hours(1));
    }
}
