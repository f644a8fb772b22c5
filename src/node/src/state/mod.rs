//! The life of a pod on this node, as a pure state machine: inputs in, effects out, no I/O and no clock
//! of its own. [`crate::worker`] carries the effects out and brings the inputs.
//!
//! A container's life ([`unit`]):
//!
//! ```text
//!           its turn            image, program, start
//!   Idle ─────────────> Launching ───────────────────> Running ──── exit, for good ───> Ended
//!                        │  ^  ^                          │
//!                 failed │  │  └──── exit, restart ───────┤
//!                        v  │ retry                       │ exit, restart later
//!                      Failed        Launching <─────── CrashLoop
//! ```
//!
//! A launch that found no room on the node is tried again as soon as there is some (`Queued`), not after a while.
//!
//! A running container that must end, whatever the reason, goes through the same steps:
//!
//! ```text
//!   preStop hook ──> its turn (sidecars) ──> told to stop ──────> exit
//!        └──────────────┴── grace over ──────────┘  └─ grace over ─> killed ──> exit
//! ```
//!
//! A new image in the spec leads to a new launch at once from wherever a container is, unless it is over:
//! whatever went wrong before was about the old one.
//!
//! The pod's frame around it: set up (network, volumes) → init containers one after the other → the
//! main containers together → over, when no container runs and none will. Ephemeral containers start as
//! soon as the pod is set up, whenever they come. A stop (deletion, deadline, the node's own reasons) ends
//! every running container and lets nothing start any more: main containers first, then the sidecars, the
//! last one first, all within one grace period.

mod adopt;
#[cfg(test)]
mod tests;
mod unit;

use std::{borrow::Cow, time::Duration};

use k8s_openapi::{
    api::core::v1::{Container, ContainerState, EphemeralContainer, Pod, Probe},
    jiff::Timestamp,
};
use tokio::time::Instant;

use unit::{Unit, UnitInput};

pub(crate) use self::adopt::{LOST, UNKNOWN, status_of};

/// The first wait before a failed set-up is tried again; it doubles to [`SETUP_RETRY_MAX`]. Kubernetes'
/// numbers for volumes. A config map or secret that appears meanwhile triggers a retry at once.
const SETUP_RETRY: Duration = Duration::from_millis(500);
/// The longest wait between two attempts to set a pod up.
const SETUP_RETRY_MAX: Duration = Duration::from_secs(122);

/// What a pod's containers have to end if the spec does not say. Kubernetes' number.
const DEFAULT_GRACE: Duration = Duration::from_secs(30);
/// The longest grace: a century, so that instants can be computed with.
pub(crate) const MAX_GRACE: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Both clocks at the time of a step: one to compute with, one to show.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) instant: Instant,
    pub(crate) wall: Timestamp,
}

/// `spec.restartPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

/// What a container is to its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Runs to success before the next one starts.
    Init,
    /// An init container with `restartPolicy: Always`: the next one starts once it has started.
    Sidecar,
    /// Runs together with its like.
    Main,
    /// Joins a pod that runs; neither restarted nor waited for.
    Ephemeral,
}

/// The two moments of a container's life at which its author may have a say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Hook {
    PostStart,
    PreStop,
}

/// The three kinds of probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

/// What the machine must know of a container's spec.
#[derive(Clone, Debug)]
pub(crate) struct UnitPlan {
    pub(crate) name: Box<str>,
    pub(crate) image: Box<str>,
    pub(crate) role: Role,
    pub(crate) startup_probe: bool,
    pub(crate) readiness_probe: bool,
    pub(crate) post_start: bool,
    pub(crate) pre_stop: bool,
    /// The grace periods, in seconds, of runs that a probe ends.
    pub(crate) startup_grace: Option<u32>,
    pub(crate) liveness_grace: Option<u32>,
}

impl UnitPlan {
    /// Reads a container's spec.
    pub(crate) fn of(container: &Container, role: Role) -> UnitPlan {
        let lifecycle = container.lifecycle.as_ref();
        let grace = |probe: &Option<Probe>| {
            probe.as_ref()?.termination_grace_period_seconds.and_then(|seconds| u32::try_from(seconds).ok())
        };
        UnitPlan {
            name: container.name.as_str().into(),
            image: container.image.as_deref().unwrap_or_default().into(),
            role,
            startup_probe: container.startup_probe.is_some(),
            readiness_probe: container.readiness_probe.is_some(),
            post_start: lifecycle.is_some_and(|lifecycle| lifecycle.post_start.is_some()),
            pre_stop: lifecycle.is_some_and(|lifecycle| lifecycle.pre_stop.is_some()),
            startup_grace: grace(&container.startup_probe),
            liveness_grace: grace(&container.liveness_probe),
        }
    }
}

/// What the machine must know of a pod's spec.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// `name_namespace(uid)`, as Kubernetes' messages name a pod.
    pub(crate) full_name: Box<str>,
    pub(crate) policy: RestartPolicy,
    /// Init containers in order, then the main ones, then the ephemeral ones.
    pub(crate) units: Vec<UnitPlan>,
    /// `terminationGracePeriodSeconds`.
    pub(crate) grace: Duration,
    /// When `activeDeadlineSeconds` ends the pod.
    pub(crate) deadline: Option<Instant>,
}

impl Plan {
    /// Reads a pod's spec. `deadline` is computed by the caller, who knows the start time.
    pub(crate) fn of(pod: &Pod, deadline: Option<Instant>) -> Plan {
        let spec = pod.spec.as_ref();
        let policy = match spec.and_then(|spec| spec.restart_policy.as_deref()) {
            Some("Never") => RestartPolicy::Never,
            Some("OnFailure") => RestartPolicy::OnFailure,
            _ => RestartPolicy::Always,
        };
        let units = containers(pod).map(|(container, role)| UnitPlan::of(&container, role)).collect();
        let grace = spec.and_then(|spec| spec.termination_grace_period_seconds);
        let grace = grace.map_or(DEFAULT_GRACE, |seconds| {
            Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).min(MAX_GRACE)
        });
        let meta = &pod.metadata;
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let full_name = format!("{}_{}({})", text(&meta.name), text(&meta.namespace), text(&meta.uid));
        Plan { full_name: full_name.into(), policy, units, grace, deadline }
    }
}

/// All containers of a pod with their roles, in the order in which the machine counts them.
pub(crate) fn containers(pod: &Pod) -> impl Iterator<Item = (Cow<'_, Container>, Role)> {
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
    let main = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let ephemeral = spec.and_then(|spec| spec.ephemeral_containers.as_deref()).unwrap_or_default();
    let init = init.iter().map(|container| {
        let sidecar = container.restart_policy.as_deref() == Some("Always");
        (Cow::Borrowed(container), if sidecar { Role::Sidecar } else { Role::Init })
    });
    init.chain(main.iter().map(|container| (Cow::Borrowed(container), Role::Main)))
        .chain(ephemeral.iter().map(|container| (Cow::Owned(common_part(container)), Role::Ephemeral)))
}

/// What an ephemeral container has in common with others, which is all that it may use.
fn common_part(container: &EphemeralContainer) -> Container {
    let container = container.clone();
    Container {
        name: container.name,
        image: container.image,
        command: container.command,
        args: container.args,
        working_dir: container.working_dir,
        env: container.env,
        env_from: container.env_from,
        image_pull_policy: container.image_pull_policy,
        security_context: container.security_context,
        stdin: container.stdin,
        stdin_once: container.stdin_once,
        tty: container.tty,
        termination_message_path: container.termination_message_path,
        termination_message_policy: container.termination_message_policy,
        volume_devices: container.volume_devices,
        volume_mounts: container.volume_mounts,
        ..Container::default()
    }
}

/// Why a container is not running, in Kubernetes' words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) reason: &'static str,
    pub(crate) message: Option<Box<str>>,
}

/// How a container's run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) code: i32,
    pub(crate) reason: &'static str,
    pub(crate) message: Option<Box<str>>,
}

/// Why a pod must stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The object has a deletion timestamp, or is gone.
    Deleted,
    /// The node will not run it (any longer): `status.reason` and `status.message` of the failed pod, and whether that
    /// is a disruption: for the node's sake, and not by the pod's own fault.
    Failed { reason: &'static str, message: Box<str>, disruption: bool },
    /// The node has never begun with it, and will not: `status.reason` and `status.message`.
    Refused { reason: Cow<'static, str>, message: Box<str> },
    /// The node shuts down. The object stays as it is, and runs again when the node comes back, unless it restarts
    /// no container: then it has failed.
    Shutdown,
}

/// What happened.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    /// Network and volumes stand.
    SetUp,
    /// They do not; the reason is an event's.
    SetUpFailed { reason: &'static str, message: String },
    /// Something the pod may be waiting for has changed.
    SourcesChanged,
    /// A container runs.
    Launched { index: usize, container_id: Box<str>, image_id: Box<str> },
    /// A container could not be started.
    LaunchFailed { index: usize, waiting: Waiting },
    /// It could not for want of room on the node; answered by `Room` when there is some.
    NoRoom { index: usize, waiting: Waiting },
    /// There is room now for a container that found none.
    Room { index: usize },
    /// A container ended.
    Exited { index: usize, exit: Exit },
    /// A probe's verdict changed. `run` is the restart count of the run that was probed.
    Probed { index: usize, run: i32, probe: ProbeKind, healthy: bool },
    /// The spec names another image for a container.
    ImageChanged { index: usize, image: Box<str> },
    /// The spec gives a container other resources, which only its next run can have.
    Resized { index: usize },
    /// A hook has come to its end.
    Hooked { index: usize, hook: Hook, success: bool },
    /// The spec has more ephemeral containers than before: the new ones.
    Joined(Vec<UnitPlan>),
    /// The spec has another `activeDeadlineSeconds`.
    DeadlineChanged(Option<Instant>),
    /// The pod must stop; what runs has `grace` to end. A later stop can only shorten that.
    Stop { stop: Stop, grace: Duration },
    /// Time has passed; see [`Machine::next_wake`].
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Give the pod its network and volumes; answered by `SetUp` or `SetUpFailed`.
    SetUp,
    /// Pull, prepare and start a container; answered by `Launched` or `LaunchFailed`. `run` is the
    /// restart count the container will have, and the name of its log.
    Launch { index: usize, run: i32 },
    /// Abandon the launch of a container: its answer is not awaited any more.
    Abandon { index: usize },
    /// Abandon every set-up and launch under way: their answers are not awaited any more.
    Abort,
    /// A container is up: probe it.
    Probe { index: usize },
    /// A container begins to end: of its probes only readiness goes on, and no hook of its start.
    Ending { index: usize },
    /// Run a hook of a container; answered by `Hooked`, unless `Exited` comes before.
    Hook { index: usize, hook: Hook },
    /// Ask a container to end; answered by `Exited`.
    Terminate { index: usize },
    /// End a container; answered by `Exited`.
    Kill { index: usize },
    /// Tell users. `index` names the container it is about.
    Note { index: Option<usize>, warning: bool, reason: &'static str, message: String },
    /// No container runs and none will: free the network and what only running containers need.
    TearDown,
}

/// How a container looks from outside.
#[derive(Clone, Debug)]
pub(crate) struct UnitView {
    pub(crate) state: ContainerState,
    pub(crate) last_state: Option<ContainerState>,
    pub(crate) restart_count: i32,
    pub(crate) ready: bool,
    pub(crate) started: bool,
    pub(crate) container_id: Option<Box<str>>,
    pub(crate) image_id: Option<Box<str>>,
    /// The image of its newest run, if that is not the one of its spec.
    pub(crate) image: Option<Box<str>>,
}

/// The network and volumes of the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setup {
    Needed,
    Running { attempt: u32 },
    Failed { attempt: u32, retry_at: Instant },
    Done,
}

/// The machine of one pod.
#[derive(Debug)]
pub(crate) struct Machine {
    plan: Plan,
    units: Vec<Unit>,
    setup: Setup,
    stop: Option<Stop>,
    torn_down: bool,
}

impl Machine {
    /// Takes one input and says what is to be done.
    pub(crate) fn step(&mut self, input: Input, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        match input {
            Input::SetUp => self.setup_answer(Setup::Done),
            Input::SetUpFailed { reason, message } => {
                if let Setup::Running { attempt } = self.setup {
                    let wait = (SETUP_RETRY * 2_u32.saturating_pow(attempt.min(16))).min(SETUP_RETRY_MAX);
                    self.setup = Setup::Failed { attempt: attempt + 1, retry_at: now.instant + wait };
                    // What the pod needs may be there and this node have not heard of it yet: nobody is told at once.
                    if attempt > 0 {
                        effects.push(Effect::Note { index: None, warning: true, reason, message });
                    }
                }
            }
            Input::SourcesChanged => {
                if let Setup::Failed { attempt, .. } = self.setup {
                    self.setup = Setup::Failed { attempt, retry_at: now.instant };
                }
                self.each(&UnitInput::SourcesChanged, now, &mut effects);
            }
            Input::Launched { index, container_id, image_id } => {
                self.one(index, UnitInput::Launched { container_id, image_id }, now, &mut effects);
            }
            Input::LaunchFailed { index, waiting } => {
                self.one(index, UnitInput::Failed(waiting), now, &mut effects);
            }
            Input::NoRoom { index, waiting } => {
                self.one(index, UnitInput::NoRoom(waiting), now, &mut effects);
            }
            Input::Room { index } => self.one(index, UnitInput::Room, now, &mut effects),
            Input::Exited { index, exit } => self.one(index, UnitInput::Exited(exit), now, &mut effects),
            Input::Probed { index, run, probe, healthy } => {
                self.one(index, UnitInput::Probed { run, probe, healthy }, now, &mut effects);
            }
            Input::ImageChanged { index, image } => {
                self.one(index, UnitInput::ImageChanged(image), now, &mut effects);
            }
            Input::Resized { index } => self.one(index, UnitInput::Resized, now, &mut effects),
            Input::Hooked { index, hook, success } => {
                self.one(index, UnitInput::Hooked { hook, success }, now, &mut effects);
            }
            Input::Joined(plans) => {
                self.units.extend(plans.into_iter().map(Unit::new));
                self.units.shrink_to_fit();
            }
            Input::DeadlineChanged(deadline) => self.plan.deadline = deadline,
            Input::Stop { stop, grace } => self.begin_stop(stop, grace, now, &mut effects),
            Input::Tick => self.each(&UnitInput::Tick, now, &mut effects),
        }
        if self.plan.deadline.is_some_and(|deadline| deadline <= now.instant)
            && self.stop.is_none()
            && !self.over()
        {
            self.exceed_deadline(now, &mut effects);
        }
        self.advance(now, &mut effects);
        effects
    }

    /// When [`Input::Tick`] is due next.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        if self.torn_down {
            return None;
        }
        let setup = match self.setup {
            Setup::Failed { retry_at, .. } if self.stop.is_none() => Some(retry_at),
            _ => None,
        };
        let deadline = if self.stop.is_none() { self.plan.deadline } else { None };
        self.units.iter().filter_map(Unit::next_wake).chain(setup).chain(deadline).min()
    }

    /// True when no container runs and none will.
    pub(crate) fn over(&self) -> bool {
        let finished = self.stop.is_some() || self.finished();
        self.units.iter().all(|unit| unit.is_over() || unit.is_idle() && finished)
    }

    /// Why the pod was stopped, if it was.
    pub(crate) fn stopped(&self) -> Option<&Stop> {
        self.stop.as_ref()
    }

    /// What a stop gives the containers if nothing else is said.
    pub(crate) fn grace(&self) -> Duration {
        self.plan.grace
    }

    /// How many containers there are.
    pub(crate) fn len(&self) -> usize {
        self.units.len()
    }

    /// When `activeDeadlineSeconds` ends the pod.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.plan.deadline
    }

    /// True once network and volumes stand.
    pub(crate) fn is_set_up(&self) -> bool {
        self.setup == Setup::Done && !self.torn_down
    }

    /// True when nothing is expected to change within milliseconds: what the outside sees now is worth
    /// a write of its own.
    pub(crate) fn settled(&self) -> bool {
        if self.over() {
            return true;
        }
        let setup = !matches!(self.setup, Setup::Needed | Setup::Running { .. });
        setup && self.units.iter().all(|unit| unit.settled(self.turn_may_come()))
    }

    /// How the containers look, in the order of the plan.
    pub(crate) fn views(&self) -> impl Iterator<Item = UnitView> + '_ {
        let has_init = self.units.iter().any(|unit| matches!(unit.role(), Role::Init | Role::Sidecar));
        let creating = if has_init { "PodInitializing" } else { "ContainerCreating" };
        self.units.iter().map(move |unit| unit.view(creating))
    }

    /// The restart count of a container's current (or last) run.
    pub(crate) fn run_of(&self, index: usize) -> i32 {
        self.units.get(index).map_or(0, Unit::restarts)
    }

    /// Takes in that some process has begun this run of a container.
    pub(crate) fn recall_run(&mut self, index: usize, run: i32) {
        if let Some(unit) = self.units.get_mut(index) {
            unit.recall_run(run);
        }
    }

    /// The containers' names, in the order of the plan.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.units.iter().map(|unit| &*unit.plan.name)
    }

    /// The images that the containers are to run, in the order of the plan.
    pub(crate) fn images(&self) -> impl Iterator<Item = &str> {
        self.units.iter().map(|unit| &*unit.plan.image)
    }

    fn setup_answer(&mut self, setup: Setup) {
        if matches!(self.setup, Setup::Running { .. }) {
            self.setup = setup;
        }
    }

    fn begin_stop(&mut self, stop: Stop, grace: Duration, now: Now, effects: &mut Vec<Effect>) {
        if self.torn_down {
            return;
        }
        let shutdown = stop == Stop::Shutdown;
        // What is at its own end comes to that.
        if self.stop.is_none() && !(shutdown && self.finished()) {
            self.stop = Some(stop);
            effects.push(Effect::Abort);
        }
        self.each(&UnitInput::Stop { grace, shutdown }, now, effects);
    }

    fn exceed_deadline(&mut self, now: Now, effects: &mut Vec<Effect>) {
        const REASON: &str = "DeadlineExceeded";
        const MESSAGE: &str = "Pod was active on the node longer than the specified deadline";
        let note = Effect::Note { index: None, warning: false, reason: REASON, message: MESSAGE.into() };
        let stop = Stop::Failed { reason: REASON, message: MESSAGE.into(), disruption: false };
        let begun = effects.len();
        self.begin_stop(stop, self.plan.grace, now, effects);
        // Told after what is abandoned, before what is ended.
        effects.insert(begun + 1, note);
    }

    /// Starts what may start now; the only place where a container's first launch is decided.
    fn advance(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.take_turns(now, effects);
        self.tear_down_if_over(effects);
        if self.torn_down || self.stop.is_some() {
            return;
        }
        match self.setup {
            Setup::Needed => {
                self.setup = Setup::Running { attempt: 0 };
                effects.push(Effect::SetUp);
            }
            Setup::Failed { attempt, retry_at } if retry_at <= now.instant => {
                self.setup = Setup::Running { attempt };
                effects.push(Effect::SetUp);
            }
            Setup::Running { .. } | Setup::Failed { .. } => {}
            Setup::Done => self.start_in_order(now, effects),
        }
    }

    fn start_in_order(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.finished() {
            self.finish(now, effects);
            return;
        }
        for index in 0..self.units.len() {
            if self.units[index].role() == Role::Ephemeral && self.units[index].is_idle() {
                self.one(index, UnitInput::Start, now, effects);
            }
        }
        for index in 0..self.units.len() {
            if self.units[index].is_idle() {
                self.one(index, UnitInput::Start, now, effects);
            }
            if self.units[index].blocks_next() {
                return;
            }
        }
    }

    /// Sidecars and ephemeral containers end after the main containers, the last one first.
    fn finish(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let grace = self.plan.grace;
        for index in (0..self.units.len()).rev() {
            if matches!(self.units[index].role(), Role::Sidecar | Role::Ephemeral) {
                if self.units[index].is_launching() {
                    effects.push(Effect::Abandon { index });
                }
                self.one(index, UnitInput::Stop { grace, shutdown: false }, now, effects);
            }
        }
        self.take_turns(now, effects);
        self.tear_down_if_over(effects);
    }

    fn tear_down_if_over(&mut self, effects: &mut Vec<Effect>) {
        if !self.torn_down && self.over() {
            self.torn_down = true;
            effects.push(Effect::TearDown);
        }
    }

    /// Tells a sidecar to end when the containers that it serves have ended: init and main containers, and
    /// the sidecars behind it.
    fn take_turns(&mut self, now: Now, effects: &mut Vec<Effect>) {
        for index in (0..self.units.len()).rev() {
            if self.units[index].role() == Role::Sidecar && self.units[index].awaits_turn() {
                let served = |(other, unit): (usize, &Unit)| match unit.role() {
                    Role::Init | Role::Main => unit.is_running(),
                    Role::Sidecar => other > index && unit.is_running(),
                    Role::Ephemeral => false,
                };
                if !self.units.iter().enumerate().any(served) {
                    self.one(index, UnitInput::Turn, now, effects);
                }
            }
        }
    }

    /// True if no main container runs and none will.
    fn finished(&self) -> bool {
        let mut mains = self.units.iter().filter(|unit| unit.role() == Role::Main);
        self.failed_init() || mains.all(Unit::is_over)
    }

    /// True if an init container failed for good, so that no main container will ever start.
    fn failed_init(&self) -> bool {
        self.units.iter().any(|unit| unit.role() == Role::Init && unit.is_over() && !unit.succeeded())
    }

    /// True if containers that wait for their turn may still get it within milliseconds.
    fn turn_may_come(&self) -> bool {
        let before = |unit: &&Unit| matches!(unit.role(), Role::Init | Role::Sidecar);
        self.units.iter().filter(before).any(|unit| !unit.settled(false))
    }

    fn one(&mut self, index: usize, input: UnitInput, now: Now, effects: &mut Vec<Effect>) {
        let context = unit::Context {
            index,
            now,
            policy: self.plan.policy,
            grace: self.plan.grace,
            full_name: &self.plan.full_name,
        };
        if let Some(unit) = self.units.get_mut(index) {
            unit.step(input, &context, effects);
        }
    }

    fn each(&mut self, input: &UnitInput, now: Now, effects: &mut Vec<Effect>) {
        for index in 0..self.units.len() {
            self.one(index, input.clone(), now, effects);
        }
    }
}
