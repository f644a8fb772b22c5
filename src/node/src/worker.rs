//! One pod's worker: a task that brings news to the pod's machine ([`crate::state`]), carries out what the
//! machine decides, and says how the pod looks.
//!
//! The task sleeps while nothing happens. Work that takes time (volumes, pulls, launches) are futures
//! inside it, so that ending the task ends them.

use std::{
    collections::VecDeque,
    fmt::Display,
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
use coracle_runtime::{Container, Place, Queued};
use futures::{
    FutureExt, StreamExt,
    future::{AbortHandle, BoxFuture, abortable},
    stream::FuturesUnordered,
};
use k8s_openapi::{
    api::core::v1::Pod,
    jiff::{SignedDuration, Timestamp},
};
use tokio::time::Instant;

use crate::{
    bandwidth,
    context::{Context, container_at, field_path, now},
    dirs, env,
    exec::Running,
    handle::{Mail, PodHandle},
    hooks,
    launch::{Launch, Launched, NotLaunched},
    logs::{ContainerLog, Runs},
    platform, pod_network, preemption,
    probes::{ProbeGuard, Target},
    resize::{self, Behind, Denied, Resize},
    resources, sources,
    state::{
        self, Effect, Exit, Hook, Input, MAX_GRACE, Machine, Plan, ProbeKind, RestartPolicy, Role, Stop,
        UnitPlan,
    },
    status::{self, Facts, Transitions},
    status_writer::Urgency,
    termination,
    volumes::{self, PodVolumes},
};

/// Runs a pod until it needs no worker any more: the object is gone, or says that the pod is over.
pub(crate) async fn run(context: Arc<Context>, handle: Arc<PodHandle>, pod: Arc<Pod>) {
    let references = sources::references(&pod);
    context.sources.watch(&handle, &references);
    // It goes on with what it had before this process, until the node has looked at what its spec asks for.
    let granted = resize::recalled(&pod).map(Arc::new);
    let asks = granted.is_some().then(|| pod.clone());
    let mut worker = Box::new(Worker::new(context, handle, granted.unwrap_or(pod)));
    worker.admit();
    asks.into_iter().for_each(|pod| worker.take_in(pod));
    // First, since a pod that is to go needs no set-up.
    worker.look_at_object();
    worker.feed(Input::Tick);
    loop {
        worker.publish();
        if worker.may_end() {
            break;
        }
        worker.wait().await;
    }
    worker.context.sources.unwatch(&worker.handle, &references);
}

/// What a future inside the worker came to.
enum Done {
    /// Those that had to go for this pod have gone.
    Preempted,
    SetUp(Result<PodVolumes, String>),
    Launched {
        index: usize,
        result: Result<Launched, NotLaunched>,
    },
    /// A container's turn in the line has come.
    Room {
        index: usize,
        place: Place,
    },
    Abandoned,
    DiskFreed,
    CleanedUp,
}

/// What the worker hears of containers that run.
enum News {
    Exited(usize, Exit),
    Hooked {
        index: usize,
        hook: Hook,
        success: bool,
    },
    /// A hook was abandoned.
    Nothing,
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
    /// Ends the launch, the wait for a place or the hook under way, or one that is over.
    job: Option<AbortHandle>,
    /// For the launch that comes next.
    place: Option<Place>,
    running: Option<Arc<Running>>,
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
    /// Tells a set-up that still goes on, on a blocking thread, that the pod's folder is being removed.
    abandoned: Arc<AtomicBool>,
    slots: Vec<Slot>,
    jobs: FuturesUnordered<BoxFuture<'static, Done>>,
    runs: FuturesUnordered<BoxFuture<'static, News>>,
    /// How many containers run.
    up: usize,
    /// What a resize has not come to yet.
    resize: Option<Box<Resize>>,
    /// The pods that must have gone before this one begins.
    preempted: Box<[Arc<PodHandle>]>,
    /// The pod was over before this worker began, so that its status says all.
    was_over: bool,
    /// Fingerprint of the status that was handed to the writer last.
    published: u64,
    /// What a deleted pod's containers were last given to end.
    deleted: Option<Duration>,
    gone: bool,
    /// Its folder is being removed, as it is over.
    freeing: bool,
    shutdown: Option<Duration>,
    closing: Closing,
}

impl Worker {
    fn new(context: Arc<Context>, handle: Arc<PodHandle>, pod: Arc<Pod>) -> Worker {
        let now = now();
        let known = pod.status.as_ref();
        let was_over = known.is_some_and(status::is_over);
        let start = known.and_then(|status| status.start_time.as_ref()).map_or(now.wall, |time| time.0);
        let start = clock::seconds(start);
        let mut plan = Plan::of(&pod, deadline_of(&pod, start));
        plan.units.shrink_to_fit();
        let policy = plan.policy;
        let slots = plan.units.iter().map(|_| Slot::default()).collect();
        let mut machine = Machine::new(plan, known, now);
        let runs = context.logs.earlier_runs(handle.uid());
        if known.is_some_and(|status| status.start_time.is_some()) {
            recall_restarts(&runs, &pod, &mut machine);
        }
        Worker {
            transitions: Transitions::recall(&pod),
            context,
            handle,
            pod,
            machine,
            policy,
            start,
            stack: None,
            ip: None,
            volumes: Arc::default(),
            abandoned: Arc::default(),
            slots,
            jobs: FuturesUnordered::new(),
            runs: FuturesUnordered::new(),
            up: 0,
            resize: None,
            preempted: Box::default(),
            was_over,
            published: 0,
            deleted: None,
            gone: false,
            freeing: false,
            shutdown: None,
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
            Some(news) = self.runs.next() => match news {
                News::Exited(index, exit) => self.exited(index, exit),
                News::Hooked { index, hook, success } => self.feed(Input::Hooked { index, hook, success }),
                News::Nothing => {}
            },
            pod = Resize::chance(&mut self.resize) => self.take_in(pod),
            () = sleep => self.feed(Input::Tick),
        }
        self.look_at_object();
    }

    fn read(&mut self, mail: Mail) {
        if let Some(grace) = mail.shutdown {
            if grace.is_zero() {
                self.jobs.clear();
                self.containers().for_each(Container::kill);
            } else {
                self.feed(Input::Stop { stop: Stop::Shutdown, grace: grace.min(self.machine.grace()) });
            }
            self.shutdown = Some(grace);
        }
        if let Some(eviction) = mail.eviction {
            let stop = Stop::Failed {
                reason: eviction.reason,
                message: eviction.message.into(),
                disruption: eviction.disruption,
            };
            let grace = eviction.grace.unwrap_or(self.machine.grace());
            self.feed(Input::Stop { stop, grace });
        }
        if let Some(pod) = mail.pod {
            self.take_in(pod);
        }
        if mail.sources_changed {
            self.refresh_volumes();
            self.feed(Input::SourcesChanged);
        }
        if mail.gone {
            self.gone = true;
            // To all others it has gone already, and what it had with it.
            self.context.admissions.release(self.handle.uid());
        }
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

    /// Takes in the newest state of the object.
    fn take_in(&mut self, pod: Arc<Pod>) {
        let (new, known) = (&pod.metadata, &self.pod.metadata);
        let relabelled = new.labels != known.labels || new.annotations != known.annotations;
        let before = self.pod.clone();
        let resized = self.grant(pod);
        if let Some(stack) = self.stack.as_ref().filter(|_| relabelled) {
            pod_network::update(stack, &self.pod);
        }
        if relabelled || resized {
            self.refresh_volumes();
        }
        self.look_at_spec();
        if resized {
            let restart = resize::restarts_for_cpu(&self.pod, &before);
            restart.into_iter().for_each(|index| self.feed(Input::Resized { index }));
        }
    }

    /// From now on the pod is as this object has it, with other resources only if the node grants them: true then.
    fn grant(&mut self, pod: Arc<Pod>) -> bool {
        let Some(kept) = resize::keeping(&pod, &self.pod) else {
            self.pod = pod;
            self.deny(None);
            return false;
        };
        let freed = self.context.admissions.freed();
        let denied = self.context.resize(self.handle.uid(), &pod).err();
        let granted = denied.is_none();
        self.pod = if granted { pod.clone() } else { Arc::new(kept) };
        self.deny(denied.map(|denial| Denied { wanted: pod, denial, freed }));
        granted
    }

    fn deny(&mut self, denied: Option<Denied>) {
        if denied.is_some() || self.resize.is_some() {
            self.resize.get_or_insert_default().denied = denied;
            self.resize.take_if(|resize| resize.is_done());
        }
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Preempted => {
                let answer = self.begin_set_up();
                answer.into_iter().for_each(|answer| self.feed(answer));
            }
            Done::SetUp(Ok(volumes)) => {
                self.volumes = Arc::new(volumes);
                self.feed(Input::SetUp);
            }
            Done::SetUp(Err(message)) => self.feed(Input::SetUpFailed { reason: "FailedMount", message }),
            Done::Launched { index, result } => match result {
                Ok(launched) => self.launched(index, launched),
                Err(NotLaunched { waiting, queued: None }) => {
                    self.feed(Input::LaunchFailed { index, waiting });
                }
                Err(NotLaunched { waiting, queued: Some(queued) }) => {
                    self.queue(index, queued);
                    self.feed(Input::NoRoom { index, waiting });
                }
            },
            Done::Room { index, place } => {
                let Some(slot) = self.slots.get_mut(index) else { return };
                slot.place = Some(place);
                self.feed(Input::Room { index });
                // It may not need it any more.
                self.slots[index].place = None;
            }
            // Nobody waits for that launch any more.
            Done::Abandoned => {}
            Done::DiskFreed => self.freeing = false,
            Done::CleanedUp => {
                self.closing = Closing::Deleting;
                if !self.gone {
                    self.publish();
                    self.context.statuses.delete(&self.handle);
                }
            }
        }
    }

    fn launched(&mut self, index: usize, launched: Launched) {
        let Launched { running, container_id, image_id } = launched;
        let Some(spec) = container_at(&self.pod, index) else { return };
        let message = termination::Message::of(&spec);
        let ended = running.clone();
        self.runs.push(
            async move {
                let exit = termination::exit_of(ended.container.wait().await);
                ended.log.finish();
                News::Exited(index, message.add_to(exit, &ended).await)
            }
            .boxed(),
        );
        self.up += 1;
        self.handle.set_log(index, running.log.clone());
        self.handle.guests.set(&spec.name, running.clone());
        if let Some(slot) = self.slots.get_mut(index) {
            *slot = Slot { running: Some(running), ..Slot::default() };
        }
        self.feed(Input::Launched { index, container_id, image_id });
    }

    fn exited(&mut self, index: usize, exit: Exit) {
        self.up -= 1;
        if let Some(spec) = container_at(&self.pod, index) {
            self.handle.guests.clear(&spec.name);
        }
        if let Some(slot) = self.slots.get_mut(index) {
            let ended = std::mem::take(slot);
            ended.job.iter().for_each(AbortHandle::abort);
        }
        self.feed(Input::Exited { index, exit });
        if self.resize.is_some() {
            self.look_at_resources();
        }
    }

    /// The containers that run.
    fn containers(&self) -> impl Iterator<Item = &Container> {
        self.slots.iter().filter_map(|slot| slot.running.as_ref()).map(|running| &running.container)
    }

    /// Takes the pod, or refuses one that this node has no room for or could only pretend to run.
    fn admit(&mut self) {
        if self.was_over || self.pod.metadata.deletion_timestamp.is_some() {
            return;
        }
        let fresh = self.pod.status.as_ref().is_none_or(|status| status.start_time.is_none());
        if !fresh {
            self.context.admissions.keep(self.handle.uid(), &self.pod);
            return;
        }
        match self.context.admit(self.handle.uid(), &self.pod) {
            Ok(victims) => self.preempted = preemption::carry_out(&self.context, &victims),
            Err(refusal) => {
                self.context.tell(&self.pod, None, true, &refusal.reason, &refusal.message);
                let message = format!("Pod was rejected: {}", refusal.message).into();
                let stop = Stop::Refused { reason: refusal.reason, message };
                self.feed(Input::Stop { stop, grace: Duration::ZERO });
            }
        }
    }

    /// Draws the consequences of what the object says, and of how far its end has come.
    fn look_at_object(&mut self) {
        if self.shutdown.is_some() {
            return;
        }
        if self.gone || self.pod.metadata.deletion_timestamp.is_some() {
            let grace = if self.gone { Duration::ZERO } else { self.deletion_grace() };
            if self.deleted.is_none_or(|told| grace < told) {
                self.deleted = Some(grace);
                self.feed(Input::Stop { stop: Stop::Deleted, grace });
            }
        }
        let idle = self.machine.over() && self.up == 0 && !self.freeing;
        if self.deleted.is_some() && self.closing == Closing::No && idle {
            self.closing = Closing::CleaningUp;
            self.abandoned.store(true, Ordering::SeqCst);
            let clean_up = self.context.clean_up(&self.pod, self.logged_runs());
            self.jobs.push(clean_up.map(|()| Done::CleanedUp).boxed());
        }
    }

    /// The newest runs of the containers that may have left a log.
    fn logged_runs(&self) -> Runs {
        let logged = |(index, name): (usize, &str)| {
            let run = self.machine.run_of(index);
            let silent = |log: Arc<ContainerLog>| run == 0 && log.run() == run && !log.is_written();
            (!self.handle.log(index).is_some_and(silent)).then(|| (name.into(), run))
        };
        self.machine.names().enumerate().filter_map(logged).collect()
    }

    fn deletion_grace(&self) -> Duration {
        match self.pod.metadata.deletion_grace_period_seconds {
            Some(seconds) => Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).min(MAX_GRACE),
            None => self.machine.grace(),
        }
    }

    /// Of all that a spec says, only images and the deadline may change, and ephemeral containers join.
    fn look_at_spec(&mut self) {
        if self.deleted.is_some() || self.pod.metadata.deletion_timestamp.is_some() {
            return;
        }
        let changed = |(index, known): (usize, &str)| {
            let spec = container_at(&self.pod, index)?;
            let image = spec.image.as_deref().unwrap_or_default();
            (image != known).then(|| Input::ImageChanged { index, image: image.into() })
        };
        let changes: Vec<_> = self.machine.images().enumerate().filter_map(changed).collect();
        changes.into_iter().for_each(|change| self.feed(change));
        self.look_at_resources();
        let joined: Vec<_> = state::containers(&self.pod)
            .skip(self.machine.len())
            .filter(|(_, role)| *role == Role::Ephemeral)
            .map(|(container, role)| UnitPlan::of(&container, role))
            .collect();
        if !joined.is_empty() {
            self.slots.resize_with(self.slots.len() + joined.len(), Slot::default);
            self.feed(Input::Joined(joined));
        }
        let deadline = deadline_of(&self.pod, self.start);
        let known = self.machine.deadline();
        // Both clocks are read at different times, so the same deadline may differ by a little.
        let same = match (deadline, known) {
            (Some(new), Some(known)) => new.max(known) - new.min(known) < Duration::from_millis(500),
            (new, known) => new == known,
        };
        if !same {
            self.feed(Input::DeadlineChanged(deadline));
        }
    }

    /// What a container is due of the CPUs, and what it and its pod may hold in memory, may change at any time: it
    /// restarts with the new memory limit if its author wants that. One that holds more than its new limit keeps the
    /// old one.
    fn look_at_resources(&mut self) {
        self.set_memory_of_pod();
        let (mut restart, mut behind) = (Vec::new(), Vec::new());
        for (index, running) in self.slots.iter().map(|slot| slot.running.as_ref()).enumerate() {
            let (Some(running), Some(spec)) = (running, container_at(&self.pod, index)) else { continue };
            running.container.set_cpu(resources::cpu(&spec));
            if resources::memory_limit(&spec) == running.memory_limit() {
                continue;
            }
            let restarts = resize::restarts(&spec, "memory");
            if restarts {
                restart.push(index);
            } else if running.resize_memory(&self.context, &spec) {
                continue;
            }
            behind.push(Behind { index, memory: running.memory.lock().clone(), restarts });
        }
        if !behind.is_empty() || self.resize.is_some() {
            self.resize.get_or_insert_default().behind = behind;
            self.resize.take_if(|resize| resize.is_done());
        }
        restart.into_iter().for_each(|index| self.feed(Input::Resized { index }));
    }

    fn set_memory_of_pod(&self) {
        let limit = resources::pod_memory(&self.pod, self.context.runtime.default_memory_limit());
        self.handle.budget.set_limit(Some(limit));
    }

    /// True when the worker has nothing left to do, and no news has arrived at the last moment.
    fn may_end(&self) -> bool {
        match self.shutdown {
            None => {}
            Some(Duration::ZERO) => return self.up == 0,
            Some(_) => return self.up == 0 && self.context.table.retire(&self.handle),
        }
        let idle = self.machine.over() && self.up == 0 && !self.freeing;
        let told = self.pod.status.as_ref().is_some_and(status::is_over);
        let ended = match self.closing {
            Closing::No => self.deleted.is_none() && idle && told,
            Closing::CleaningUp => false,
            Closing::Deleting => self.gone,
        };
        if ended && self.gone {
            self.context.statuses.forget(self.handle.uid());
        }
        ended && self.context.table.retire(&self.handle)
    }

    /// Gives the machine an input and carries out what follows; nothing any more once the agent ends all at
    /// once.
    fn feed(&mut self, input: Input) {
        if self.shutdown == Some(Duration::ZERO) {
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
            Effect::SetUp if !self.preempted.is_empty() => {
                let (context, preempted) = (self.context.clone(), std::mem::take(&mut self.preempted));
                let gone = async move { context.table.all_retired(&preempted).await };
                self.jobs.push(gone.map(|()| Done::Preempted).boxed());
            }
            Effect::SetUp => inputs.extend(self.begin_set_up()),
            Effect::Launch { index, run } => self.launch(index, run),
            Effect::Abandon { index } => {
                let launch = self.slots.get_mut(index).and_then(|slot| slot.job.take());
                launch.iter().for_each(AbortHandle::abort);
            }
            Effect::Probe { index } => {
                let spec = container_at(&self.pod, index);
                if spec.is_some_and(|container| container.startup_probe.is_some()) {
                    self.probe(index, self.machine.run_of(index), ProbeKind::Startup);
                } else {
                    self.probe_fully(index);
                }
            }
            Effect::Ending { index } => {
                if let Some(slot) = self.slots.get_mut(index) {
                    slot.probes.retain(|probe| probe.kind() == ProbeKind::Readiness);
                    slot.job.take().iter().for_each(AbortHandle::abort);
                }
            }
            Effect::Hook { index, hook } => self.hook(index, hook),
            Effect::Abort => self.jobs.clear(),
            Effect::Terminate { index } => {
                let running = self.slots.get(index).and_then(|slot| slot.running.as_ref());
                running.iter().for_each(|running| running.container.stop());
            }
            Effect::Kill { index } => {
                if let Some(slot) = self.slots.get_mut(index) {
                    slot.probes.clear();
                    slot.job.take().iter().for_each(AbortHandle::abort);
                    slot.running.iter().for_each(|running| running.container.kill());
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
                // What a shutdown has ended is to have the same again, and no other pod meanwhile.
                if self.machine.stopped() == Some(&Stop::Shutdown) {
                    return;
                }
                self.context.admissions.release(self.handle.uid());
                // What is to be deleted leaves the disk with its logs.
                if let Some(job) = self.context.free_disk(&self.pod).filter(|_| self.deleted.is_none()) {
                    self.abandoned.store(true, Ordering::SeqCst);
                    self.freeing = true;
                    self.jobs.push(job.map(|()| Done::DiskFreed).boxed());
                }
            }
        }
    }

    /// Sets the pod up; what the machine hears of it, if that is known at once.
    fn begin_set_up(&mut self) -> Option<Input> {
        match self.set_up() {
            Ok(Some(job)) => {
                self.jobs.push(job);
                None
            }
            Ok(None) => Some(Input::SetUp),
            Err(message) => Some(Input::SetUpFailed { reason: "FailedCreatePodSandBox", message }),
        }
    }

    /// Gives the pod its network at once, and its volumes by a job if it has any.
    fn set_up(&mut self) -> Result<Option<BoxFuture<'static, Done>>, String> {
        self.set_memory_of_pod();
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
        let handle = self.handle.clone();
        let make = move || {
            let facts = context.facts(&pod, ip);
            let volumes = PodVolumes::set_up(&facts, &dir, context.sources.as_ref(), &handle.means());
            if let Ok(volumes) = &volumes {
                handle.set_volume_images(volumes.images());
            }
            // Its folder was perhaps removed before this one made it.
            if on_disk && abandoned.load(Ordering::SeqCst) && dir.exists() {
                dirs::remove_reporting(&dir);
            }
            volumes.map_err(|error| error.to_string())
        };
        let fetch = (self.context.clone(), self.handle.clone(), self.pod.clone());
        let job = async move {
            let (context, handle, pod) = fetch;
            if let Err(message) = context.fetch_for_volumes(&handle, &pod).await {
                return Done::SetUp(Err(message));
            }
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
        let cluster = fabric.cluster_names();
        env::check_hostname(&self.pod, &cluster)
            .map_err(|why| format!("Failed to create pod sandbox: {why}"))?;
        let failed =
            |why: &dyn Display| format!("Failed to create pod sandbox: failed to set up pod network: {why}");
        let config = PodConfig {
            namespace: text(&meta.namespace),
            name: text(&meta.name),
            uid: text(&meta.uid),
            want_ip: known_ip.and_then(|ip| ip.parse().ok()),
            budget: Some(self.handle.budget.clone()),
            bandwidth: bandwidth::of(&self.pod).map_err(|error| failed(&error))?,
            ..pod_network::config(&self.pod, &cluster)
        };
        let (pod, namespace) = (config.name.clone(), config.namespace.clone());
        let stack = fabric.add_pod(config).map_err(|error| failed(&error))?;
        for host in platform::host_ports(&self.pod) {
            if let Err(error) = stack.open_host_port(host) {
                stack.close();
                let why = format!("cannot open hostport {} for pod {pod}_{namespace}: {error}", host.port);
                return Err(failed(&why));
            }
        }
        Ok(stack)
    }

    fn launch(&mut self, index: usize, run: i32) {
        let Some(stack) = self.stack.clone() else { return };
        let place = self.slots.get_mut(index).and_then(|slot| slot.place.take());
        let launch = Launch {
            context: self.context.clone(),
            handle: self.handle.clone(),
            pod: self.pod.clone(),
            volumes: self.volumes.clone(),
            stack,
            index,
            run,
            place,
        };
        let (launch, handle) = abortable(launch.run());
        self.set_job(index, handle);
        let job = launch.map(move |result| match result {
            Ok(result) => Done::Launched { index, result },
            Err(_) => Done::Abandoned,
        });
        self.jobs.push(job.boxed());
    }

    /// Waits until it is the container's turn to have a place of the node.
    fn queue(&mut self, index: usize, queued: Queued) {
        let (turn, handle) = abortable(queued.place());
        self.set_job(index, handle);
        let job = turn.map(move |place| match place {
            Ok(place) => Done::Room { index, place },
            Err(_) => Done::Abandoned,
        });
        self.jobs.push(job.boxed());
    }

    /// Of what is done for a container before it runs there is one thing at a time.
    fn set_job(&mut self, index: usize, job: AbortHandle) {
        if let Some(slot) = self.slots.get_mut(index) {
            slot.job.replace(job).iter().for_each(AbortHandle::abort);
        }
    }

    /// Runs a hook beside the container.
    fn hook(&mut self, index: usize, hook: Hook) {
        let call = hooks::Call {
            context: self.context.clone(),
            handle: self.handle.clone(),
            pod: self.pod.clone(),
            index,
            hook,
            ip: self.ip,
        };
        let (call, handle) = abortable(call.run());
        let Some(slot) = self.slots.get_mut(index) else { return };
        slot.job = Some(handle);
        let news = call.map(move |outcome| match outcome {
            Ok(success) => News::Hooked { index, hook, success },
            Err(_) => News::Nothing,
        });
        self.runs.push(news.boxed());
    }

    fn probe_fully(&mut self, index: usize) {
        let run = self.machine.run_of(index);
        let Some(slot) = self.slots.get_mut(index) else { return };
        if slot.running.is_none() || std::mem::replace(&mut slot.probed_fully, true) {
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
        let target = Target {
            handle: self.handle.clone(),
            container: container.name.as_str().into(),
            field_path: field_path(&pod, index).unwrap_or_default().into(),
            index,
            run,
            kind,
        };
        slot.probes.push(self.context.prober.begin(target, probe, &container, ip));
    }

    fn refresh_volumes(&self) {
        if self.machine.is_set_up() {
            self.volumes.refresh(&self.context.facts(&self.pod, self.ip), self.context.sources.as_ref());
        }
    }

    /// Hands the pod's status to the writer if it looks different from last time.
    fn publish(&mut self) {
        if self.shutdown == Some(Duration::ZERO) || self.gone || self.was_over {
            return;
        }
        let facts = Facts {
            pod: &self.pod,
            policy: self.policy,
            views: self.machine.views().collect(),
            stop: self.machine.stopped(),
            resize: self.resize.as_deref(),
            over: self.machine.over(),
            set_up: self.machine.is_set_up(),
            pod_ip: self.ip,
            pod_ip6: self.ip.and_then(|ip| self.context.ipv6_of(ip)),
            host_ip: self.context.host_ip,
            start: self.start,
            now: clock::seconds(clock::now()),
        };
        let status = status::pod_status(&facts, &mut self.transitions);
        let fingerprint = status::fingerprint(&self.pod, &status);
        if fingerprint == self.published {
            return;
        }
        self.published = fingerprint;
        let (pod, handle) = (self.pod.clone(), self.handle.clone());
        let patch = move || {
            let patch = status::status_patch(&pod, handle.uid(), &status);
            Bytes::from(serde_json::to_vec(&patch).expect("a JSON value serialises"))
        };
        let settled = self.machine.settled() && (self.deleted.is_none() || self.machine.over());
        let urgency = if settled { Urgency::Now } else { Urgency::Soon };
        self.context.statuses.publish(&self.handle, Arc::new(patch), urgency);
    }
}

impl Drop for Worker {
    /// However the task ends, nothing of the pod goes on.
    fn drop(&mut self) {
        self.handle.guests.clear_all();
        for running in self.slots.iter_mut().filter_map(|slot| slot.running.take()) {
            running.container.kill();
            running.log.finish();
        }
        if let Some(stack) = self.stack.take() {
            stack.close();
        }
    }
}

/// When `activeDeadlineSeconds` is over for a pod that this node took up at `start`.
fn deadline_of(pod: &Pod, start: Timestamp) -> Option<Instant> {
    let seconds = pod.spec.as_ref()?.active_deadline_seconds.filter(|seconds| *seconds > 0)?;
    let now = now();
    let due = start.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
    let left = Duration::try_from(due.duration_since(now.wall)).unwrap_or(Duration::ZERO);
    Some(now.instant + left)
}

/// A run that began just before this process was born may be unknown to the API, but not to the disk: its
/// log bears its number.
fn recall_restarts(runs: &Runs, pod: &Pod, machine: &mut Machine) {
    if runs.is_empty() {
        return;
    }
    for (index, (container, _)) in state::containers(pod).enumerate() {
        if let Some((_, run)) = runs.iter().find(|(name, _)| **name == *container.name) {
            machine.recall_run(index, *run);
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
