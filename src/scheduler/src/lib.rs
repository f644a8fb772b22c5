//! Decides which node a pod runs on, and tells the API.
//!
//! ```text
//!   pods, nodes ──▶ queue ──▶ placement (pure) ──▶ assumed ──▶ binding ──▶ API
//!                    ▲            │ no node fits                  │ failed
//!                    └── parked ◀─┘                               │
//!                    └── backoff ◀────────────────────────────────┘
//! ```
//! One task owns the queue and what is known of the cluster; a pod that was placed counts from that
//! moment, so that decisions need not wait for their writes. It never places a pod where it does not
//! fit, and it never moves one.
//!
//! Read first: [`start`] and [`Config`], then [`placement`], where the decisions are made.

mod bind;
mod driver;
pub mod placement;
mod queue;
#[cfg(test)]
mod tests;

use std::time::Duration;

use coracle_client::{Informers, Recorder, random};
use kube::Client;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, info_span, warn};

/// How long the scheduler may take to end: time for bindings under way.
const SHUTDOWN: Duration = Duration::from_secs(3);

/// What the scheduler needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Pods that name this scheduler are scheduled; the others are left alone.
    pub name: String,
    /// Makes the choice among equal nodes repeatable.
    pub seed: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Config { name: "default-scheduler".to_owned(), seed: None }
    }
}

/// The running scheduler. It is stopped by [`Handle::shutdown`], or when the handle is dropped.
#[derive(Debug)]
pub struct Handle {
    stop: CancellationToken,
    tasks: TaskTracker,
    recorder: Recorder,
}

/// Starts the scheduler. Must be called inside a tokio runtime.
pub fn start(client: Client, informers: &Informers, config: Config) -> Handle {
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let recorder = Recorder::new(client.clone(), &config.name, "");
    let seed = config.seed.unwrap_or_else(random::number);
    let driver = driver::Driver::new(client, informers, config.name, recorder.clone(), seed);
    tasks.spawn(driver.run(stop.clone()).instrument(info_span!("scheduler")));
    tasks.close();
    Handle { stop, tasks, recorder }
}

impl Handle {
    /// Ends the scheduler: no new decisions, bindings under way are finished, then the last events are
    /// written. Takes a few seconds at most.
    pub async fn shutdown(self) {
        self.stop.cancel();
        if tokio::time::timeout(SHUTDOWN, self.tasks.wait()).await.is_err() {
            warn!("the scheduler is late to end");
        }
        if tokio::time::timeout(SHUTDOWN, self.recorder.shutdown()).await.is_err() {
            warn!("some events could not be written before the end");
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
