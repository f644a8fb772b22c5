//! Startup, liveness and readiness probes. One task and one ordered list of due times serve all probes of
//! the node; a task exists only while a check is under way.
//!
//! Guests are up within milliseconds, so until its first success (and within its first period) a
//! readiness or startup probe is repeated at growing, short intervals whose failures are not reported.
//! From then on everything is as the pod's author wrote it.

mod address;
mod check;
mod grpc;
mod http_get;
mod metrics;
mod progress;
mod slot;

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use coracle_client::{EventType, Recorder, random};
use coracle_network::Fabric;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Container, ObjectReference, Probe};
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    task::unconstrained,
    time::{Instant, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    command::End,
    handle::{PodHandle, ProbeWord},
    state::ProbeKind,
};
pub(crate) use address::dial_problem;
use check::{Check, Outcome, Time};
pub(crate) use http_get::HttpRequest;
use progress::{News, Progress, Schedule};
use slot::{Due, Slot};

/// Due times are moved to the next multiple of this, so that the probes of thousands of pods wake the node
/// ten times a second and not once for each: the switches between threads cost more than the checks. No period
/// is shorter than a second.
const SLOT: Duration = Duration::from_millis(100);

/// For how long the answers to the checks of a slot gather before they are read: guests that answer one after
/// the other would each wake the prober. Checks that are made closely, until a container's first success, are
/// read at once.
const GATHER: Duration = Duration::from_millis(20);

/// What is probed.
pub(crate) struct Target {
    pub(crate) handle: Arc<PodHandle>,
    /// The container's name, and how events refer to it.
    pub(crate) container: Box<str>,
    pub(crate) field_path: Box<str>,
    pub(crate) index: usize,
    pub(crate) run: i32,
    pub(crate) kind: ProbeKind,
}

impl Target {
    fn reference(&self) -> ObjectReference {
        let key = self.handle.key();
        ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            namespace: Some(key.namespace.clone()),
            name: Some(key.name.clone()),
            uid: Some(self.handle.uid().to_owned()),
            field_path: Some(self.field_path.to_string()),
            ..ObjectReference::default()
        }
    }

    fn kind_text(&self) -> &'static str {
        match self.kind {
            ProbeKind::Startup => "Startup",
            ProbeKind::Liveness => "Liveness",
            ProbeKind::Readiness => "Readiness",
        }
    }
}

/// Runs a command in the container of a target.
pub(crate) type Commands =
    Arc<dyn Fn(&Target, Vec<String>) -> BoxFuture<'static, Result<End, String>> + Send + Sync>;

/// All probes of a node. A clone is another handle.
#[derive(Clone)]
pub(crate) struct Prober {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    wake: Notify,
    recorder: Recorder,
    /// What slots are counted from.
    epoch: Instant,
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
    /// When the next check is due; `None` while one is under way.
    due: Option<Instant>,
}

impl State {
    fn set_due(&mut self, id: u64, at: Instant) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.due = Some(at);
            self.due.insert((at, id));
        }
    }

    fn remove(&mut self, id: u64) {
        if let Some(at) = self.entries.remove(&id).and_then(|entry| entry.due) {
            self.due.remove(&(at, id));
        }
    }
}

/// What a check needs, shared with the task that makes it.
struct Task {
    target: Target,
    check: Check,
    schedule: Schedule,
    counts: Counts,
}

/// How often a probe came to each result.
#[derive(Default)]
struct Counts {
    successful: AtomicU32,
    failed: AtomicU32,
}

/// Ends its probe when dropped.
pub(crate) struct ProbeGuard {
    shared: Weak<Shared>,
    id: u64,
    kind: ProbeKind,
}

impl ProbeGuard {
    pub(crate) fn kind(&self) -> ProbeKind {
        self.kind
    }
}

impl Prober {
    pub(crate) fn new(recorder: Recorder) -> Prober {
        let epoch = Instant::now();
        Prober { shared: Arc::new(Shared { state: Mutex::default(), wake: Notify::new(), recorder, epoch }) }
    }

    /// Begins to probe a container that has just started, in a pod with the address `ip`.
    pub(crate) fn begin(
        &self,
        target: Target,
        probe: &Probe,
        container: &Container,
        ip: IpAddr,
    ) -> ProbeGuard {
        let kind = target.kind;
        let check = Check::of(probe, container, ip);
        let schedule = Schedule::of(probe, kind, check.is_cheap());
        let mut first = Instant::now() + schedule.initial_delay;
        if kind == ProbeKind::Liveness {
            // What starts together need not be probed together for ever.
            first = self.slot(first + Duration::from_millis(random::below(1000)));
        }
        let task = Arc::new(Task { target, check, schedule, counts: Counts::default() });
        let progress = Progress::new(&task.schedule, first);
        let mut state = self.shared.state.lock();
        let id = state.next_id;
        state.next_id += 1;
        state.entries.insert(id, Entry { task, progress, due: None });
        state.set_due(id, first);
        drop(state);
        self.shared.wake.notify_one();
        ProbeGuard { shared: Arc::downgrade(&self.shared), id, kind }
    }

    /// Makes the checks when they are due, until `stop`.
    pub(crate) async fn run(
        self,
        fabric: Arc<Fabric>,
        commands: Commands,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) {
        loop {
            let next = self.start_due(&fabric, &commands, &tasks);
            let sleep = async {
                match next {
                    Some(at) => sleep_until(at).await,
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
    fn start_due(&self, fabric: &Arc<Fabric>, commands: &Commands, tasks: &TaskTracker) -> Option<Instant> {
        let now = Instant::now();
        let mut checks = Vec::new();
        let mut state = self.shared.state.lock();
        let next = loop {
            let Some((due, id)) = state.due.first().copied() else { break None };
            if due > now {
                break Some(due);
            }
            state.due.pop_first();
            let Some(entry) = state.entries.get_mut(&id) else { continue };
            entry.due = None;
            let (task, eager) = (entry.task.clone(), entry.progress.is_eager());
            let time = Time::starts(now, task.schedule.timeout);
            checks.push(Due { id, task, due, eager, time });
        };
        drop(state);
        if !checks.is_empty() {
            let (prober, fabric, commands) = (self.clone(), fabric.clone(), commands.clone());
            let slot = Slot { prober, fabric, commands, read_at: now + GATHER };
            // The slot has a list of its own of what is ready: no need to share it out.
            tasks.spawn(unconstrained(slot.make(checks)));
        }
        next
    }

    fn record(&self, id: u64, task: &Task, due: Instant, outcome: Outcome) {
        match &outcome {
            Outcome::Success | Outcome::Warning(_) => &task.counts.successful,
            Outcome::Failure(_) | Outcome::Error(_) => &task.counts.failed,
        }
        .fetch_add(1, Ordering::Relaxed);
        let mut state = self.shared.state.lock();
        // The container has ended meanwhile: what was found out is of no interest.
        let Some(entry) = state.entries.get_mut(&id) else { return };
        let now = Instant::now();
        let report = entry.progress.record(&task.schedule, outcome, due, now);
        match report.next {
            Some(at) => {
                let at = if entry.progress.is_eager() { at } else { self.slot(at) };
                let first = state.due.first().is_none_or(|(due, _)| at < *due);
                state.set_due(id, at);
                if first {
                    self.shared.wake.notify_one();
                }
            }
            None => state.remove(id),
        }
        drop(state);
        let target = &task.target;
        if let Some(news) = report.news {
            let kind = target.kind_text();
            let (reason, message) = match news {
                News::Failed(problem) => ("Unhealthy", format!("{kind} probe failed: {problem}")),
                News::Warned(text) => ("ProbeWarning", format!("{kind} probe warning: {text}")),
                News::Errored(problem) => {
                    ("Unhealthy", format!("{kind} probe errored and resulted in unknown state: {problem}"))
                }
            };
            self.shared.recorder.event(&target.reference(), EventType::Warning, reason, &message);
        }
        if let Some(healthy) = report.verdict {
            let (index, run, probe) = (target.index, target.run, target.kind);
            target.handle.probed(ProbeWord { index, run, probe, healthy });
        }
    }

    /// The beginning of the slot at or after an instant.
    fn slot(&self, at: Instant) -> Instant {
        let slot = SLOT.as_nanos();
        let since = at.saturating_duration_since(self.shared.epoch).as_nanos();
        let missing = (slot - since % slot) % slot;
        at + Duration::from_nanos(u64::try_from(missing).unwrap_or(0))
    }
}

impl Drop for ProbeGuard {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.state.lock().remove(self.id);
        }
    }
}

#[cfg(test)]
mod tests;
