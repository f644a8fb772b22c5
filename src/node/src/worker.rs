//! One pod's worker: a task that brings news to the pod's machine ([`crate::state`]), carries out what the
//! machine decides, and says how the pod looks.
//!
//! The task sleeps while nothing happens. Work that takes time (volumes, pulls, launches) are futures
//! inside it, so that ending the task ends them.

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use coracle_client::clock;
use coracle_network::{PodConfig, PodStack};
use coracle_runtime::Container;
use futures::{
    FutureExt, StreamExt,
    future::{AbortHandle, BoxFuture, abortable},
    stream::FuturesUnordered,
};
use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};

use crate::{
    context::{Context, container_at, now, reference},
    dirs, env,
    handle::{Mail, PodHandle},
    launch::{Launch, Launched, exit_of},
    logs::ContainerLog,
    probes::{ProbeGuard, Target},
    sources,
    state::{Effect, Exit, Input, Machine, Plan, ProbeKind, RestartPolicy, Stop, Waiting},
    status::{self, Facts, Transitions},
    status_writer::Urgency,
    volumes::{self, PodVolumes},
};

/// Runs a pod until it needs no worker any more: the object is gone, or says that the pod is over.
pub(crate) async fn run(context: Arc<Context>, handle: Arc<PodHandle>, pod: Arc<Pod>) {
    let references = sources::references(&pod);
    context.sources.watch(&handle, &references);
    let mut worker = Box::new(Worker::new(context, handle, pod));
    worker.feed(Input::Tick);
    worker.look_at_object();
    loop {
        worker.publish();
        if worker.may_end() {
            break;
        }
        worker.wait().await;
    }
}

/// What a future inside the worker came to.
enum Done {
    SetUp(Result<PodVolumes, String>),
    Launched { index: usize, run: i32, result: Result<Launched, Waiting> },
    Abandoned,
    CleanedUp,
}

/// How far the end of a deleted pod has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    No,
    /// What it left on disk is being removed.
    CleaningUp,
    /// The object is being deleted.
    Deleting,
}

/// A container as far as this process runs it.
#[derive(Default)]
struct Slot {
    /// Ends the launch under way, or one that is over.
    launch: Option<AbortHandle>,
    container: Option<Container>,
    log: Option<Arc<ContainerLog>>,
    probes: Vec<ProbeGuard>,
    /// Liveness and readiness are probed, too: there is no startup probe, or it has succeeded.
    probed_fully: bool,
}

struct Worker {
    context: Arc<Context>,
    handle: Arc<PodHandle>,
    pod: Arc<Pod>,
    machine: Machine,
    policy: RestartPolicy,
    start: Timestamp,
    transitions: Transitions,
    stack: Option<PodStack>,
    ip: Option<IpAddr>,
    volumes: Arc<PodVolumes>,
    /// Tells a set-up on a blocking thread that nobody wants its outcome any more.
    abandoned: Arc<AtomicBool>,
    slots: Vec<Slot>,
    jobs: FuturesUnordered<BoxFuture<'static, Done>>,
    exits: FuturesUnordered<BoxFuture<'static, (usize, Exit)>>,
    /// Hash of the status that was handed to the writer last.
    published: u64,
    deleted: bool,
    gone: bool,
    shutdown: bool,
    closing: Closing,
}

impl Worker {
    fn new(context: Arc<Context>, handle: Arc<PodHandle>, pod: Arc<Pod>) -> Worker {
        let now = now();
        let known = pod.status.as_ref();
        let start = known.and_then(|status| status.start_time.as_ref()).map_or(now.wall, |time| time.0);
        let seconds =
            pod.spec.as_ref().and_then(|spec| spec.active_deadline_seconds).filter(|seconds| *seconds > 0);
        let deadline = seconds.map(|seconds| {
            let left = start.as_second().saturating_add(seconds) - now.wall.as_second();
            now.instant + Duration::from_secs(u64::try_from(left).unwrap_or(0))
        });
        let plan = Plan::of(&pod, deadline);
        let policy = plan.policy;
        let slots = plan.units.iter().map(|_| Slot::default()).collect();
        let machine = Machine::new(plan, known, now);
        Worker {
            transitions: Transitions::recall(&pod),
            context,
            handle,
            pod,
            machine,
            policy,
            start: clock::seconds(start),
            stack: None,
            ip: None,
            volumes: Arc::default(),
            abandoned: Arc::default(),
            slots,
            jobs: FuturesUnordered::new(),
            exits: FuturesUnordered::new(),
            published: 0,
            deleted: false,
            gone: false,
            shutdown: false,
            closing: Closing::No,
        }
    }

    /// Waits for the next thing to happen and takes it in.
    async fn wait(&mut self) {
        let wake = self.machine.next_wake();
        let sleep = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            mail = self.handle.mail() => self.read(mail),
            Some(done) = self.jobs.next() => self.done(done),
            Some((index, exit)) = self.exits.next() => self.exited(index, exit),
            () = sleep => self.feed(Input::Tick),
        }
        self.look_at_object();
    }

    fn read(&mut self, mail: Mail) {
        if mail.shutdown {
            self.shutdown = true;
            self.jobs.clear();
            self.slots.iter().filter_map(|slot| slot.container.as_ref()).for_each(Container::kill);
        }
        if let Some(pod) = mail.pod {
            let shown = |pod: &Pod| (pod.metadata.labels.clone(), pod.metadata.annotations.clone());
            let changed = shown(&pod) != shown(&self.pod);
            self.pod = pod;
            if changed {
                self.refresh_volumes();
            }
        }
        if mail.sources_changed {
            self.refresh_volumes();
            self.feed(Input::SourcesChanged);
        }
        self.gone |= mail.gone;
        for word in mail.probes {
            self.feed(Input::Probed {
                index: word.index,
                run: word.run,
                probe: word.probe,
                healthy: word.healthy,
            });
            if word.probe == ProbeKind::Startup && word.healthy && word.run == self.machine.run_of(word.index)
            {
                self.probe_fully(word.index);
            }
        }
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::SetUp(Ok(volumes)) => {
                self.volumes = Arc::new(volumes);
                self.feed(Input::SetUp);
            }
            Done::SetUp(Err(message)) => self.feed(Input::SetUpFailed { reason: "FailedMount", message }),
            Done::Launched { index, run, result } => match result {
                Ok(launched) => self.launched(index, run, launched),
                Err(waiting) => self.feed(Input::LaunchFailed { index, waiting }),
            },
            // Nobody waits for that launch any more.
            Done::Abandoned => {}
            Done::CleanedUp => {
                self.closing = Closing::Deleting;
                if !self.gone {
                    self.publish();
                    self.context.statuses.delete(&self.handle);
                }
            }
        }
    }

    fn launched(&mut self, index: usize, run: i32, launched: Launched) {
        let Launched { container, container_id, image_id, log, running } = launched;
        if let Some(spec) = container_at(&self.pod, index) {
            self.handle.guests.set(&spec.name, running);
        }
        let ended = container.clone();
        self.exits.push(async move { (index, exit_of(ended.wait().await)) }.boxed());
        self.handle.set_log(index, log.clone());
        if let Some(slot) = self.slots.get_mut(index) {
            *slot = Slot { container: Some(container), log: Some(log), ..Slot::default() };
        }
        self.feed(Input::Launched { index, container_id, image_id });
        let has_startup =
            container_at(&self.pod, index).is_some_and(|container| container.startup_probe.is_some());
        if has_startup {
            self.probe(index, run, ProbeKind::Startup);
        } else {
            self.probe_fully(index);
        }
    }

    fn exited(&mut self, index: usize, exit: Exit) {
        if let Some(spec) = container_at(&self.pod, index) {
            self.handle.guests.clear(&spec.name);
        }
        if let Some(slot) = self.slots.get_mut(index) {
            if let Some(log) = slot.log.take() {
                log.finish();
            }
            *slot = Slot::default();
        }
        self.feed(Input::Exited { index, exit });
    }

    /// Draws the consequences of what the object says, and of how far its end has come.
    fn look_at_object(&mut self) {
        if self.shutdown {
            return;
        }
        let deleted = self.gone || self.pod.metadata.deletion_timestamp.is_some();
        if deleted && !self.deleted {
            self.deleted = true;
            self.feed(Input::Stop(Stop::Deleted));
        }
        if !self.deleted {
            self.look_at_images();
        }
        if self.deleted && self.closing == Closing::No && self.machine.over() && self.exits.is_empty() {
            self.closing = Closing::CleaningUp;
            let clean_up = self.context.clean_up(&self.pod);
            self.jobs.push(clean_up.map(|()| Done::CleanedUp).boxed());
        }
    }

    /// Of all that a container's spec says, only the image may change.
    fn look_at_images(&mut self) {
        let changed = |(index, known): (usize, &str)| {
            let image = container_at(&self.pod, index)?.image.as_deref().unwrap_or_default();
            (image != known).then(|| Input::ImageChanged { index, image: image.into() })
        };
        let changes: Vec<_> = self.machine.images().enumerate().filter_map(changed).collect();
        changes.into_iter().for_each(|change| self.feed(change));
    }

    /// True when the worker has nothing left to do, and no news has arrived at the last moment.
    fn may_end(&self) -> bool {
        if self.shutdown {
            return self.exits.is_empty();
        }
        let idle = self.machine.over() && self.exits.is_empty();
        let told = self.pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let ended = match self.closing {
            Closing::No => !self.deleted && idle && matches!(told, Some("Succeeded" | "Failed")),
            Closing::CleaningUp => false,
            Closing::Deleting => self.gone,
        };
        if ended && self.gone {
            self.context.statuses.forget(self.handle.uid());
        }
        ended && self.context.table.retire(&self.handle)
    }

    /// Gives the machine an input and carries out what follows; nothing any more once the agent stops.
    fn feed(&mut self, input: Input) {
        if self.shutdown {
            return;
        }
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            for effect in self.machine.step(input, now()) {
                self.carry_out(effect, &mut inputs);
            }
        }
    }

    fn carry_out(&mut self, effect: Effect, inputs: &mut VecDeque<Input>) {
        match effect {
            Effect::SetUp => match self.set_up() {
                Ok(Some(job)) => self.jobs.push(job),
                Ok(None) => inputs.push_back(Input::SetUp),
                Err(message) => {
                    inputs.push_back(Input::SetUpFailed { reason: "FailedCreatePodSandBox", message });
                }
            },
            Effect::Launch { index, run } => self.launch(index, run),
            Effect::Abandon { index } => {
                let launch = self.slots.get_mut(index).and_then(|slot| slot.launch.take());
                launch.iter().for_each(AbortHandle::abort);
            }
            Effect::Abort => {
                self.abandoned.store(true, Ordering::SeqCst);
                self.jobs.clear();
            }
            Effect::Kill { index } => {
                let slot = self.slots.get_mut(index);
                if let Some(slot) = slot {
                    slot.probes.clear();
                    slot.container.iter().for_each(Container::kill);
                }
            }
            Effect::Note { index, warning, reason, message } => {
                self.context.tell(&self.pod, index, warning, reason, &message);
            }
            Effect::TearDown => {
                if let Some(stack) = self.stack.take() {
                    stack.close();
                }
                self.volumes = Arc::default();
            }
        }
    }

    /// Gives the pod its network at once, and its volumes by a job if it has any.
    fn set_up(&mut self) -> Result<Option<BoxFuture<'static, Done>>, String> {
        if self.stack.is_none() {
            let stack = self.add_to_network()?;
            self.ip = Some(stack.ip().into());
            self.stack = Some(stack);
        }
        if self.pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref()).is_none_or(Vec::is_empty) {
            return Ok(None);
        }
        let (context, pod, ip) = (self.context.clone(), self.pod.clone(), self.ip);
        let dir = volumes::pod_dir(&context.pods_dir, self.handle.uid());
        let on_disk = volumes::on_disk(&pod);
        let abandoned = self.abandoned.clone();
        let make = move || {
            let volumes = PodVolumes::set_up(&context.facts(&pod, ip), &dir, context.sources.as_ref());
            // The pod was deleted meanwhile, and its folder perhaps removed before this one made it.
            if on_disk && abandoned.load(Ordering::SeqCst) && dir.exists() {
                dirs::remove_reporting(&dir);
            }
            volumes.map_err(|error| error.to_string())
        };
        let job = async move {
            if !on_disk {
                return Done::SetUp(make());
            }
            let result = tokio::task::spawn_blocking(make).await;
            Done::SetUp(result.unwrap_or_else(|error| Err(error.to_string())))
        };
        Ok(Some(job.boxed()))
    }

    fn add_to_network(&self) -> Result<PodStack, String> {
        let fabric = self.context.fabric.get().ok_or("the network of the node is not ready")?;
        let meta = &self.pod.metadata;
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let known_ip = self.pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
        let config = PodConfig {
            namespace: text(&meta.namespace),
            name: text(&meta.name),
            uid: text(&meta.uid),
            hostname: env::hostname(&self.pod),
            want_ip: known_ip.and_then(|ip| ip.parse().ok()),
        };
        fabric
            .add_pod(config)
            .map_err(|error| format!("Failed to create pod sandbox: failed to set up pod network: {error}"))
    }

    fn launch(&mut self, index: usize, run: i32) {
        let Some(stack) = self.stack.clone() else { return };
        let launch = Launch {
            context: self.context.clone(),
            handle: self.handle.clone(),
            pod: self.pod.clone(),
            volumes: self.volumes.clone(),
            stack,
            index,
            run,
        };
        let (launch, handle) = abortable(launch.run());
        if let Some(slot) = self.slots.get_mut(index) {
            slot.launch = Some(handle);
        }
        let job = launch.map(move |result| match result {
            Ok(result) => Done::Launched { index, run, result },
            Err(_) => Done::Abandoned,
        });
        self.jobs.push(job.boxed());
    }

    fn probe_fully(&mut self, index: usize) {
        let run = self.machine.run_of(index);
        let Some(slot) = self.slots.get_mut(index) else { return };
        if slot.container.is_none() || std::mem::replace(&mut slot.probed_fully, true) {
            return;
        }
        slot.probes.clear();
        self.probe(index, run, ProbeKind::Readiness);
        self.probe(index, run, ProbeKind::Liveness);
    }

    fn probe(&mut self, index: usize, run: i32, kind: ProbeKind) {
        let pod = self.pod.clone();
        let Some(container) = container_at(&pod, index) else { return };
        let probe = match kind {
            ProbeKind::Startup => &container.startup_probe,
            ProbeKind::Liveness => &container.liveness_probe,
            ProbeKind::Readiness => &container.readiness_probe,
        };
        let (Some(probe), Some(ip), Some(slot)) = (probe, self.ip, self.slots.get_mut(index)) else { return };
        let object = reference(&pod, Some(index));
        let target = Target { handle: self.handle.clone(), object, index, run, kind, ip };
        slot.probes.push(self.context.prober.begin(target, probe, container));
    }

    fn refresh_volumes(&self) {
        if self.machine.is_set_up() {
            self.volumes.refresh(&self.context.facts(&self.pod, self.ip), self.context.sources.as_ref());
        }
    }

    /// Hands the pod's status to the writer if it looks different from last time.
    fn publish(&mut self) {
        if self.shutdown || self.gone {
            return;
        }
        let facts = Facts {
            pod: &self.pod,
            policy: self.policy,
            views: self.machine.views().collect(),
            stop: self.machine.stopped(),
            over: self.machine.over(),
            set_up: self.machine.is_set_up(),
            pod_ip: self.ip,
            host_ip: self.context.host_ip,
            start: self.start,
            now: clock::seconds(clock::now()),
        };
        let status = status::pod_status(&facts, &mut self.transitions);
        let patch = status::status_patch(self.handle.uid(), &status).to_string();
        let mut hasher = DefaultHasher::new();
        patch.hash(&mut hasher);
        let hash = hasher.finish();
        if hash == self.published {
            return;
        }
        self.published = hash;
        let settled = self.machine.settled() && (!self.deleted || self.machine.over());
        let urgency = if settled { Urgency::Now } else { Urgency::Soon };
        self.context.statuses.publish(&self.handle, Bytes::from(patch), urgency);
    }
}

impl Drop for Worker {
    /// However the task ends, nothing of the pod goes on.
    fn drop(&mut self) {
        self.handle.guests.clear_all();
        for slot in &mut self.slots {
            slot.container.iter().for_each(Container::kill);
            if let Some(log) = slot.log.take() {
                log.finish();
            }
        }
        if let Some(stack) = self.stack.take() {
            stack.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Thousands of pods idle on a node: what one of them costs the agent is a figure to keep an eye on.
    #[test]
    fn a_worker_is_small() {
        assert!(size_of::<Worker>() < 800, "{}", size_of::<Worker>());
        assert!(size_of::<PodHandle>() < 300, "{}", size_of::<PodHandle>());
        assert!(size_of::<ContainerLog>() < 300, "{}", size_of::<ContainerLog>());
    }
}
