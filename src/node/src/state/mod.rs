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
//! A new image in the spec leads to a new launch at once from wherever a container is, unless it is over:
//! whatever went wrong before was about the old one.
//!
//! The pod's frame around it: set up (network, volumes) → init containers one after the other → the
//! main containers together → over, when no container runs and none will. A stop (deletion, deadline)
//! ends every running container and lets nothing start any more.

mod adopt;
#[cfg(test)]
mod tests;
mod unit;

use std::time::Duration;

use k8s_openapi::{
    api::core::v1::{ContainerState, Pod},
    jiff::Timestamp,
};
use tokio::time::Instant;

use unit::{Unit, UnitInput};

/// The first wait before a failed set-up is tried again; it doubles to [`SETUP_RETRY_MAX`]. Kubernetes'
/// numbers for volumes. A config map or secret that appears meanwhile triggers a retry at once.
const SETUP_RETRY: Duration = Duration::from_millis(500);
/// The longest wait between two attempts to set a pod up.
const SETUP_RETRY_MAX: Duration = Duration::from_secs(122);

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
}

/// What the machine must know of a pod's spec.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// `name_namespace(uid)`, as Kubernetes' messages name a pod.
    pub(crate) full_name: Box<str>,
    pub(crate) policy: RestartPolicy,
    /// Init containers in order, then the main ones.
    pub(crate) units: Vec<UnitPlan>,
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
        let init = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
        let main = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
        let unit = |container: &k8s_openapi::api::core::v1::Container, role| UnitPlan {
            name: container.name.as_str().into(),
            image: container.image.as_deref().unwrap_or_default().into(),
            role,
            startup_probe: container.startup_probe.is_some(),
            readiness_probe: container.readiness_probe.is_some(),
        };
        let units = init
            .iter()
            .map(|container| {
                let sidecar = container.restart_policy.as_deref() == Some("Always");
                unit(container, if sidecar { Role::Sidecar } else { Role::Init })
            })
            .chain(main.iter().map(|container| unit(container, Role::Main)))
            .collect();
        let meta = &pod.metadata;
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let full_name = format!("{}_{}({})", text(&meta.name), text(&meta.namespace), text(&meta.uid));
        Plan { full_name: full_name.into(), policy, units, deadline }
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The object has a deletion timestamp, or is gone.
    Deleted,
    /// `activeDeadlineSeconds` is over.
    Deadline,
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
    /// A container ended.
    Exited { index: usize, exit: Exit },
    /// A probe's verdict changed. `run` is the restart count of the run that was probed.
    Probed { index: usize, run: i32, probe: ProbeKind, healthy: bool },
    /// The spec names another image for a container.
    ImageChanged { index: usize, image: Box<str> },
    /// The pod must stop.
    Stop(Stop),
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
    pub(crate) role: Role,
    pub(crate) state: ContainerState,
    pub(crate) last_state: Option<ContainerState>,
    pub(crate) restart_count: i32,
    pub(crate) ready: bool,
    pub(crate) started: bool,
    pub(crate) container_id: Option<Box<str>>,
    pub(crate) image_id: Option<Box<str>>,
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
                    effects.push(Effect::Note { index: None, warning: true, reason, message });
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
            Input::Exited { index, exit } => self.one(index, UnitInput::Exited(exit), now, &mut effects),
            Input::Probed { index, run, probe, healthy } => {
                self.one(index, UnitInput::Probed { run, probe, healthy }, now, &mut effects);
            }
            Input::ImageChanged { index, image } => {
                self.one(index, UnitInput::ImageChanged(image), now, &mut effects);
            }
            Input::Stop(stop) => self.begin_stop(stop, now, &mut effects),
            Input::Tick => {
                if self.plan.deadline.is_some_and(|deadline| deadline <= now.instant) && !self.over() {
                    self.begin_stop(Stop::Deadline, now, &mut effects);
                }
                self.each(&UnitInput::Tick, now, &mut effects);
            }
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
        let failed_init = self.failed_init();
        self.units.iter().all(|unit| {
            unit.is_over()
                || unit.is_idle() && (self.stop.is_some() || failed_init || unit.role() == Role::Sidecar)
        })
    }

    /// Why the pod was stopped, if it was.
    pub(crate) fn stopped(&self) -> Option<Stop> {
        self.stop
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
        let stopping = self.stop.is_some();
        let has_init = self.units.iter().any(|unit| unit.role() != Role::Main);
        let creating = if has_init { "PodInitializing" } else { "ContainerCreating" };
        self.units.iter().map(move |unit| unit.view(creating, stopping))
    }

    /// The restart count of a container's current (or last) run.
    pub(crate) fn run_of(&self, index: usize) -> i32 {
        self.units.get(index).map_or(0, Unit::restarts)
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

    fn begin_stop(&mut self, stop: Stop, now: Now, effects: &mut Vec<Effect>) {
        if self.stop.is_some() {
            return;
        }
        self.stop = Some(stop);
        effects.push(Effect::Abort);
        if stop == Stop::Deadline {
            effects.push(Effect::Note {
                index: None,
                warning: false,
                reason: "DeadlineExceeded",
                message: "Pod was active on the node longer than the specified deadline".into(),
            });
        }
        self.each(&UnitInput::Stop, now, effects);
    }

    /// Starts what may start now; the only place where a container's first launch is decided.
    fn advance(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if !self.torn_down && self.over() {
            self.torn_down = true;
            effects.push(Effect::TearDown);
        }
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
        if self.failed_init() {
            self.stop_sidecars(now, effects);
            return;
        }
        for index in 0..self.units.len() {
            if self.units[index].is_idle() {
                self.one(index, UnitInput::Start, now, effects);
            }
            if self.units[index].blocks_next() {
                return;
            }
        }
        let mains_over = self.units.iter().filter(|unit| unit.role() == Role::Main).all(Unit::is_over);
        if mains_over {
            self.stop_sidecars(now, effects);
        }
    }

    /// Sidecars end after the main containers, the last one first.
    fn stop_sidecars(&mut self, now: Now, effects: &mut Vec<Effect>) {
        for index in (0..self.units.len()).rev() {
            if self.units[index].role() == Role::Sidecar {
                if self.units[index].is_launching() {
                    effects.push(Effect::Abandon { index });
                }
                self.one(index, UnitInput::Stop, now, effects);
            }
        }
        if !self.torn_down && self.over() {
            self.torn_down = true;
            effects.push(Effect::TearDown);
        }
    }

    /// True if an init container failed for good, so that no main container will ever start.
    fn failed_init(&self) -> bool {
        self.units.iter().any(|unit| unit.role() == Role::Init && unit.is_over() && !unit.succeeded())
    }

    /// True if containers that wait for their turn may still get it within milliseconds.
    fn turn_may_come(&self) -> bool {
        self.units.iter().filter(|unit| unit.role() != Role::Main).any(|unit| !unit.settled(false))
    }

    fn one(&mut self, index: usize, input: UnitInput, now: Now, effects: &mut Vec<Effect>) {
        let context = unit::Context { index, now, policy: self.plan.policy, full_name: &self.plan.full_name };
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
