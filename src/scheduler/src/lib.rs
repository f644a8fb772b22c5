//! Decides which node a pod runs on, and tells the API.
//!
//! ```text
//!   pods, nodes ──▶ queue ──▶ placement (pure) ──▶ assumed ──▶ binding ──▶ API
//!                    ▲            │ no node fits                  │ failed
//!                    └── parked ◀─┘                               │
//!                    └── backoff ◀────────────────────────────────┘
//! ```
//! Claims that wait for their first pod are bound between placement and binding. A pod that fits nowhere may be
//! promised a node on which less important ones are told to make room.
//!
//! One task owns the queue and what is known of the cluster; a pod that was placed counts from that
//! moment, so that decisions need not wait for their writes. It never places a pod where it does not
//! fit, and it never moves one.
//!
//! Read first: [`start`] and [`Config`], then [`placement`], where the decisions are made.

pub mod bench;
mod bind;
mod claims;
mod driver;
pub mod placement;
mod preempted;
mod queue;
#[cfg(test)]
mod tests;
mod writes;

use std::time::Duration;

use coracle_client::{Election, Informers, LeaderElection, Recorder, random};
use kube::Client;
use placement::Profile;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, info_span, warn};

/// How long the scheduler may take to end: time for bindings under way.
const SHUTDOWN: Duration = Duration::from_secs(3);

/// What the scheduler needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Pods that name one of these are scheduled; the others are left alone. Never empty.
    pub profiles: Vec<Profile>,
    /// Makes the choice among equal nodes repeatable.
    pub seed: Option<u64>,
    /// With a lease the scheduler runs only while this process holds it; without one always.
    pub lease: Option<Election>,
}

/// Kubernetes' own profile, and one that packs pods on few nodes.
impl Default for Config {
    fn default() -> Self {
        let profiles = vec![Profile::new("default-scheduler"), Profile::packing("bin-packing-scheduler")];
        Config { profiles, seed: None, lease: None }
    }
}

/// The running scheduler. It is stopped by [`Handle::shutdown`], or when the handle is dropped.
#[derive(Debug)]
pub struct Handle {
    stop: CancellationToken,
    tasks: TaskTracker,
    recorders: Vec<Recorder>,
}

/// Starts the scheduler. Must be called inside a tokio runtime.
pub fn start(client: Client, informers: &Informers, config: Config) -> Handle {
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let with_recorder = |profile: Profile| {
        let recorder = Recorder::new(client.clone(), &profile.name, "");
        (profile, recorder)
    };
    let profiles: Vec<(Profile, Recorder)> = config.profiles.into_iter().map(with_recorder).collect();
    let recorders = profiles.iter().map(|(_, recorder)| recorder.clone()).collect();
    let seed = config.seed.unwrap_or_else(random::number);
    if !profiles.is_empty() {
        let (span, election) = (info_span!("scheduler"), config.lease);
        let election = election.map(|election| LeaderElection::new(client.clone(), election));
        let informers = informers.clone();
        let drive =
            move |stop| driver::Driver::new(client.clone(), &informers, profiles.clone(), seed, stop).run();
        match election {
            None => tasks.spawn(drive(stop.clone()).instrument(span)),
            Some(election) => tasks.spawn(election.lead(stop.clone(), drive).instrument(span)),
        };
    }
    tasks.close();
    Handle { stop, tasks, recorders }
}

impl Handle {
    /// Ends the scheduler: no new decisions, bindings under way are finished, then the last events are
    /// written. Takes a few seconds at most.
    pub async fn shutdown(self) {
        self.stop.cancel();
        if tokio::time::timeout(SHUTDOWN, self.tasks.wait()).await.is_err() {
            warn!("the scheduler is late to end");
        }
        let recorded = async {
            for recorder in &self.recorders {
                recorder.shutdown().await;
            }
        };
        if tokio::time::timeout(SHUTDOWN, recorded).await.is_err() {
            warn!("some events could not be written before the end");
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
