//! Startup, liveness and readiness probes. One task and one ordered list of due times serve all probes of
//! the node; a task exists only while a check is under way.
//!
//! Guests are up within milliseconds, so until its first success (and within its first period) a
//! readiness or startup probe is repeated at growing, short intervals whose failures are not reported.
//! From then on everything is as the pod's author wrote it.

mod check;
mod progress;

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, Weak},
};

use coracle_client::{EventType, Recorder};
use coracle_network::Fabric;
use k8s_openapi::api::core::v1::{Container, ObjectReference, Probe};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    handle::{PodHandle, ProbeWord},
    state::ProbeKind,
};
use check::Check;
use progress::{Progress, Schedule};

/// What is probed.
pub(crate) struct Target {
    pub(crate) handle: Arc<PodHandle>,
    pub(crate) object: ObjectReference,
    pub(crate) index: usize,
    pub(crate) run: i32,
    pub(crate) kind: ProbeKind,
    pub(crate) ip: IpAddr,
}

/// All probes of a node. A clone is another handle.
#[derive(Clone)]
pub(crate) struct Prober {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    wake: Notify,
    recorder: Recorder,
}

#[derive(Default)]
struct State {
    entries: HashMap<u64, Entry>,
    due: BTreeSet<(Instant, u64)>,
    next_id: u64,
}

struct Entry {
    task: Arc<Task>,
    progress: Progress,
}

/// What a check needs, shared with the task that makes it.
struct Task {
    target: Target,
    check: Check,
    schedule: Schedule,
}

/// Ends its probe when dropped.
pub(crate) struct ProbeGuard {
    shared: Weak<Shared>,
    id: u64,
}

impl Prober {
    pub(crate) fn new(recorder: Recorder) -> Prober {
        Prober { shared: Arc::new(Shared { state: Mutex::default(), wake: Notify::new(), recorder }) }
    }

    /// Begins to probe a container that has just started.
    pub(crate) fn begin(&self, target: Target, probe: &Probe, container: &Container) -> ProbeGuard {
        let schedule = Schedule::of(probe, target.kind);
        let check = Check::of(probe, container, target.ip);
        let first = Instant::now() + schedule.initial_delay;
        let task = Arc::new(Task { target, check, schedule });
        let progress = Progress::new(&task.schedule, first);
        let mut state = self.shared.state.lock();
        let id = state.next_id;
        state.next_id += 1;
        state.entries.insert(id, Entry { task, progress });
        state.due.insert((first, id));
        drop(state);
        self.shared.wake.notify_one();
        ProbeGuard { shared: Arc::downgrade(&self.shared), id }
    }

    /// Makes the checks when they are due, until `stop`.
    pub(crate) async fn run(self, fabric: Arc<Fabric>, tasks: TaskTracker, stop: CancellationToken) {
        loop {
            let next = self.start_due(&fabric, &tasks);
            let sleep = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = sleep => {}
                () = self.shared.wake.notified() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Starts what is due; when the next check is.
    fn start_due(&self, fabric: &Arc<Fabric>, tasks: &TaskTracker) -> Option<Instant> {
        let now = Instant::now();
        let mut state = self.shared.state.lock();
        while let Some((at, id)) = state.due.first().copied() {
            if at > now {
                return Some(at);
            }
            state.due.pop_first();
            let Some(entry) = state.entries.get(&id) else { continue };
            let (prober, fabric, task) = (self.clone(), fabric.clone(), entry.task.clone());
            tasks.spawn(async move {
                let outcome = task.check.make(&fabric, task.schedule.timeout).await;
                prober.record(id, &task, outcome);
            });
        }
        None
    }

    fn record(&self, id: u64, task: &Task, outcome: Result<(), String>) {
        let mut state = self.shared.state.lock();
        // The container has ended meanwhile: what was found out is of no interest.
        let Some(entry) = state.entries.get_mut(&id) else { return };
        let report = entry.progress.record(&task.schedule, outcome, Instant::now());
        match report.next {
            Some(at) => {
                let first = state.due.first().is_none_or(|(due, _)| at < *due);
                state.due.insert((at, id));
                if first {
                    self.shared.wake.notify_one();
                }
            }
            None => {
                state.entries.remove(&id);
            }
        }
        drop(state);
        let target = &task.target;
        if let Some(problem) = report.problem {
            let kind = match target.kind {
                ProbeKind::Startup => "Startup",
                ProbeKind::Liveness => "Liveness",
                ProbeKind::Readiness => "Readiness",
            };
            let message = format!("{kind} probe failed: {problem}");
            self.shared.recorder.event(&target.object, EventType::Warning, "Unhealthy", &message);
        }
        if let Some(healthy) = report.verdict {
            let (index, run, probe) = (target.index, target.run, target.kind);
            target.handle.probed(ProbeWord { index, run, probe, healthy });
        }
    }
}

impl Drop for ProbeGuard {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            // A due time without an entry is skipped when it comes.
            shared.state.lock().entries.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests;
