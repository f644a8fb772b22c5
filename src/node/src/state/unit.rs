//! One container's life; see the drawing in [`super`].

use std::time::Duration;

use k8s_openapi::{
    api::core::v1::{ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use tokio::time::Instant;

use super::{Effect, Exit, Now, ProbeKind, RestartPolicy, Role, UnitPlan, UnitView, Waiting};
use crate::backoff::{Backoff, go_duration};

/// How long a failed pull shows `ErrImagePull` before it shows `ImagePullBackOff`.
const SHOW_PULL_ERROR: Duration = Duration::from_secs(1);
/// How soon a container whose configuration is missing is tried again, if nothing that it may wait for
/// changed before.
const CONFIG_RETRY: Duration = Duration::from_secs(10);

/// A run that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) container_id: Box<str>,
    pub(crate) code: i32,
    pub(crate) reason: Box<str>,
    pub(crate) message: Option<Box<str>>,
    pub(crate) started: Option<Timestamp>,
    pub(crate) finished: Option<Timestamp>,
}

/// What a container that is being launched shows meanwhile.
#[derive(Clone, Debug)]
pub(super) enum Shown {
    /// `ContainerCreating`, or `PodInitializing` behind an init container.
    Creating,
    /// What it showed before: `CrashLoopBackOff`, `ImagePullBackOff` …
    Waiting(Waiting),
    /// The end of its last run, which is restarted at once.
    Terminated,
}

#[derive(Clone, Debug)]
pub(super) enum Life {
    Idle,
    Launching(Shown),
    Failed { waiting: Waiting, retry_at: Instant, relabel_at: Option<Instant> },
    Running(Box<Run>),
    CrashLoop { until: Instant, message: Box<str> },
    Ended,
}

#[derive(Clone, Debug)]
pub(super) struct Run {
    container_id: Box<str>,
    since: Timestamp,
    started: bool,
    ready: bool,
    killed: Killed,
}

/// Whether, and to what end, a running container has been told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Killed {
    No,
    /// By a probe: it starts again if the restart policy allows.
    Unhealthy,
    /// To run another image: it starts again whatever the restart policy says.
    Outdated,
    /// With its pod, or as a sidecar after the main containers: it stays down.
    ForGood,
}

/// One container of a pod.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) plan: UnitPlan,
    pub(super) life: Life,
    pub(super) restarts: i32,
    /// True once some run has begun: the next one is a restart.
    pub(super) has_run: bool,
    /// The newest run that ended, and the one before it.
    pub(super) ended: Option<Box<Ended>>,
    pub(super) before: Option<Box<Ended>>,
    pub(super) image_id: Option<Box<str>>,
    crashes: Backoff,
    failures: Backoff,
    /// When the newest run ended.
    failed_at: Option<Instant>,
}

/// What happened to one container.
#[derive(Clone, Debug)]
pub(super) enum UnitInput {
    Start,
    Launched { container_id: Box<str>, image_id: Box<str> },
    Failed(Waiting),
    Exited(Exit),
    Probed { run: i32, probe: ProbeKind, healthy: bool },
    ImageChanged(Box<str>),
    SourcesChanged,
    Stop,
    Tick,
}

/// What a step needs besides the container itself.
pub(super) struct Context<'a> {
    pub(super) index: usize,
    pub(super) now: Now,
    pub(super) policy: RestartPolicy,
    pub(super) full_name: &'a str,
}

/// True if a container is started again after an exit with this code.
pub(super) fn restarts_after(policy: RestartPolicy, role: Role, code: i32) -> bool {
    match (role, policy) {
        (Role::Sidecar, _) => true,
        (_, RestartPolicy::Never) => false,
        (Role::Main, RestartPolicy::Always) => true,
        (Role::Init, _) | (Role::Main, RestartPolicy::OnFailure) => code != 0,
    }
}

impl Unit {
    pub(super) fn new(plan: UnitPlan) -> Unit {
        Unit {
            plan,
            life: Life::Idle,
            restarts: 0,
            has_run: false,
            ended: None,
            before: None,
            image_id: None,
            crashes: Backoff::default(),
            failures: Backoff::default(),
            failed_at: None,
        }
    }

    pub(super) fn step(&mut self, input: UnitInput, context: &Context<'_>, effects: &mut Vec<Effect>) {
        let life = std::mem::replace(&mut self.life, Life::Ended);
        self.life = self.next(life, input, context, effects);
    }

    fn next(
        &mut self,
        life: Life,
        input: UnitInput,
        context: &Context<'_>,
        effects: &mut Vec<Effect>,
    ) -> Life {
        let now = context.now;
        match (life, input) {
            (Life::Idle, UnitInput::Start) => self.launch(Shown::Creating, context, effects),

            (Life::Launching(_), UnitInput::Launched { container_id, image_id }) => {
                if self.has_run {
                    self.restarts += 1;
                }
                self.has_run = true;
                self.image_id = Some(image_id);
                self.failures.reset();
                Life::Running(Box::new(Run {
                    container_id,
                    since: now.wall,
                    started: !self.plan.startup_probe,
                    ready: !self.plan.readiness_probe,
                    killed: Killed::No,
                }))
            }
            (Life::Launching(_), UnitInput::Failed(waiting)) => self.fail(waiting, context, effects),
            // The launch is aborted by the pod's own stop; what never ran stays as it is.
            (Life::Launching(_) | Life::Failed { .. } | Life::CrashLoop { .. }, UnitInput::Stop) => {
                if self.has_run { Life::Ended } else { Life::Idle }
            }

            (Life::Failed { waiting, relabel_at: Some(at), retry_at }, UnitInput::Tick)
                if at <= now.instant =>
            {
                self.relabel(&waiting, retry_at, context, effects)
            }
            (Life::Failed { waiting, retry_at, .. }, UnitInput::Tick) if retry_at <= now.instant => {
                self.retry(waiting, context, effects)
            }
            (Life::Failed { waiting, .. }, UnitInput::SourcesChanged)
                if waiting.reason == "CreateContainerConfigError" =>
            {
                self.retry(waiting, context, effects)
            }

            (Life::Running(run), UnitInput::Exited(exit)) => self.exited(&run, exit, context, effects),
            (Life::Running(run), UnitInput::Probed { run: number, probe, healthy }) => {
                if number == self.restarts {
                    Life::Running(self.probed(run, probe, healthy, context, effects))
                } else {
                    Life::Running(run)
                }
            }
            (Life::Running(mut run), UnitInput::Stop) => {
                if std::mem::replace(&mut run.killed, Killed::ForGood) == Killed::No {
                    let text = format!("Stopping container {}", self.plan.name);
                    effects.push(note(context, false, "Killing", text));
                    effects.push(Effect::Kill { index: context.index });
                }
                Life::Running(run)
            }

            (life, UnitInput::ImageChanged(image)) => self.image_changed(life, image, context, effects),

            (Life::CrashLoop { until, message }, UnitInput::Tick) if until <= now.instant => {
                if let Some(failed) = self.failed_at {
                    self.crashes.attempt(failed, now.instant);
                }
                self.launch(Shown::Waiting(crash_loop(message)), context, effects)
            }

            // Late words about something that is over change nothing.
            (life, _) => life,
        }
    }

    fn launch(&mut self, shown: Shown, context: &Context<'_>, effects: &mut Vec<Effect>) -> Life {
        let run = self.restarts + i32::from(self.has_run);
        effects.push(Effect::Launch { index: context.index, run });
        Life::Launching(shown)
    }

    fn retry(&mut self, waiting: Waiting, context: &Context<'_>, effects: &mut Vec<Effect>) -> Life {
        self.launch(Shown::Waiting(waiting), context, effects)
    }

    /// What was held against the old image (crashes, failed pulls) is not held against the new one.
    fn image_changed(
        &mut self,
        life: Life,
        image: Box<str>,
        context: &Context<'_>,
        effects: &mut Vec<Effect>,
    ) -> Life {
        self.plan.image = image;
        self.crashes.reset();
        self.failures.reset();
        match life {
            Life::Launching(shown) => {
                effects.push(Effect::Abandon { index: context.index });
                self.launch(shown, context, effects)
            }
            Life::Failed { waiting, .. } => self.launch(Shown::Waiting(waiting), context, effects),
            Life::CrashLoop { message, .. } => {
                // Unlike a run that was ended for its image, this one crashed: the next crash waits.
                self.crashes.attempt(context.now.instant, context.now.instant);
                self.launch(Shown::Waiting(crash_loop(message)), context, effects)
            }
            // An init container finishes with the image it began with.
            Life::Running(mut run) if self.plan.role != Role::Init && run.killed == Killed::No => {
                run.killed = Killed::Outdated;
                let name = &self.plan.name;
                let text = if self.plan.role == Role::Sidecar {
                    format!("Init container {name} definition changed")
                } else {
                    format!("Container {name} definition changed, will be restarted")
                };
                effects.push(note(context, false, "Killing", text));
                effects.push(Effect::Kill { index: context.index });
                Life::Running(run)
            }
            life @ (Life::Idle | Life::Running(_) | Life::Ended) => life,
        }
    }

    fn fail(&mut self, waiting: Waiting, context: &Context<'_>, effects: &mut Vec<Effect>) -> Life {
        let now = context.now.instant;
        let pull = waiting.reason == "ErrImagePull";
        // What is wrong with an image has been told already, by an event of its own.
        let of_image = matches!(waiting.reason, "ErrImagePull" | "ErrImageNeverPull" | "InvalidImageName");
        let text = match &waiting.message {
            Some(message) if !of_image => format!("Error: {message}"),
            _ => format!("Error: {}", waiting.reason),
        };
        effects.push(note(context, true, "Failed", text));
        // Unlike containers that ran and crashed, launches that fail are never tried again at once.
        let wait = if waiting.reason == "CreateContainerConfigError" {
            CONFIG_RETRY
        } else {
            self.failures.attempt(now, now);
            self.failures.delay()
        };
        Life::Failed { waiting, retry_at: now + wait, relabel_at: pull.then(|| now + SHOW_PULL_ERROR) }
    }

    fn relabel(
        &mut self,
        waiting: &Waiting,
        retry_at: Instant,
        context: &Context<'_>,
        effects: &mut Vec<Effect>,
    ) -> Life {
        let image = &self.plan.image;
        let text = format!("Back-off pulling image \"{image}\"");
        let message = match &waiting.message {
            Some(message) => format!("{text}: ErrImagePull: {message}"),
            None => text.clone(),
        };
        effects.push(note(context, false, "BackOff", text));
        effects.push(note(context, true, "Failed", "Error: ImagePullBackOff".into()));
        let waiting = Waiting { reason: "ImagePullBackOff", message: Some(message.into()) };
        Life::Failed { waiting, retry_at, relabel_at: None }
    }

    fn exited(&mut self, run: &Run, exit: Exit, context: &Context<'_>, effects: &mut Vec<Effect>) -> Life {
        let now = context.now;
        let code = exit.code;
        self.before = self.ended.take();
        self.ended = Some(Box::new(Ended {
            container_id: run.container_id.clone(),
            code,
            reason: exit.reason.into(),
            message: exit.message,
            started: Some(run.since),
            finished: Some(now.wall),
        }));
        self.failed_at = Some(now.instant);
        if run.killed == Killed::Outdated {
            // A pod whose only container is shown as terminated looks finished if it never restarts any.
            let shown = Waiting { reason: "ContainerCreating", message: None };
            return self.launch(Shown::Waiting(shown), context, effects);
        }
        if run.killed == Killed::ForGood || !restarts_after(context.policy, self.plan.role, code) {
            return Life::Ended;
        }
        match self.crashes.ready_at(now.instant, now.instant) {
            None => {
                self.crashes.attempt(now.instant, now.instant);
                self.launch(Shown::Terminated, context, effects)
            }
            Some(until) => {
                let name = &self.plan.name;
                let pod = context.full_name;
                let text = format!("Back-off restarting failed container {name} in pod {pod}");
                effects.push(note(context, true, "BackOff", text));
                let delay = go_duration(self.crashes.delay());
                let message = format!("back-off {delay} restarting failed container={name} pod={pod}");
                Life::CrashLoop { until, message: message.into() }
            }
        }
    }

    fn probed(
        &mut self,
        mut run: Box<Run>,
        probe: ProbeKind,
        healthy: bool,
        context: &Context<'_>,
        effects: &mut Vec<Effect>,
    ) -> Box<Run> {
        match (probe, healthy) {
            (ProbeKind::Readiness, healthy) => run.ready = healthy,
            (ProbeKind::Startup, true) => run.started = true,
            (ProbeKind::Liveness, true) => {}
            (ProbeKind::Startup | ProbeKind::Liveness, false) => {
                if run.killed == Killed::No {
                    run.killed = Killed::Unhealthy;
                    let kind = if probe == ProbeKind::Startup { "startup" } else { "liveness" };
                    let name = &self.plan.name;
                    let text = format!("Container {name} failed {kind} probe, will be restarted");
                    effects.push(note(context, false, "Killing", text));
                    effects.push(Effect::Kill { index: context.index });
                }
            }
        }
        run
    }

    pub(super) fn role(&self) -> Role {
        self.plan.role
    }

    pub(super) fn restarts(&self) -> i32 {
        self.restarts
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self.life, Life::Idle)
    }

    pub(super) fn is_launching(&self) -> bool {
        matches!(self.life, Life::Launching(_))
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.life, Life::Ended)
    }

    /// True if the newest run ended with exit code 0.
    pub(super) fn succeeded(&self) -> bool {
        self.ended.as_ref().is_some_and(|ended| ended.code == 0)
    }

    /// True while the containers behind this one must wait for it.
    pub(super) fn blocks_next(&self) -> bool {
        match self.plan.role {
            Role::Main => false,
            Role::Init => !(self.is_over() && self.succeeded()),
            // Once it has started it never blocks again, even while it is being restarted.
            Role::Sidecar => match &self.life {
                Life::Running(run) => !run.started,
                _ => !self.has_run,
            },
        }
    }

    pub(super) fn next_wake(&self) -> Option<Instant> {
        match &self.life {
            Life::Failed { relabel_at: Some(at), .. } => Some(*at),
            Life::Failed { retry_at, .. } => Some(*retry_at),
            Life::CrashLoop { until, .. } => Some(*until),
            Life::Idle | Life::Launching(_) | Life::Running(_) | Life::Ended => None,
        }
    }

    /// See [`super::Machine::settled`]. A probe that has not succeeded yet is about to.
    pub(super) fn settled(&self, turn_may_come: bool) -> bool {
        match &self.life {
            Life::Idle => !turn_may_come,
            Life::Launching(_) => false,
            Life::Running(run) => {
                let finishes_soon = self.plan.role == Role::Init;
                run.killed == Killed::No && !finishes_soon && run.started && run.ready
            }
            Life::Failed { .. } | Life::CrashLoop { .. } | Life::Ended => true,
        }
    }

    /// `creating` is the reason shown before the first launch.
    pub(super) fn view(&self, creating: &'static str, stopping: bool) -> UnitView {
        let ended = || self.ended.as_deref().map(terminated);
        let waiting = |waiting: &Waiting| ContainerState {
            waiting: Some(ContainerStateWaiting {
                reason: Some(waiting.reason.into()),
                message: waiting.message.as_deref().map(Into::into),
            }),
            ..ContainerState::default()
        };
        let creating = Waiting { reason: creating, message: None };
        let newest = self.ended.as_ref().map(|ended| ended.container_id.clone());
        let (state, last_state, container_id) = match &self.life {
            Life::Idle | Life::Launching(Shown::Creating) => (waiting(&creating), ended(), newest),
            Life::Launching(Shown::Waiting(shown)) => (waiting(shown), ended(), newest),
            Life::Failed { waiting: shown, .. } => (waiting(shown), ended(), newest),
            Life::CrashLoop { message, .. } => (waiting(&crash_loop(message.clone())), ended(), newest),
            Life::Launching(Shown::Terminated) | Life::Ended => {
                let before = self.before.as_deref().map(terminated);
                (ended().unwrap_or_else(|| waiting(&creating)), before, newest)
            }
            Life::Running(run) => {
                let running = ContainerStateRunning { started_at: Some(Time(run.since)) };
                let state = ContainerState { running: Some(running), ..ContainerState::default() };
                (state, ended(), Some(run.container_id.clone()))
            }
        };
        let (started, ready) = match &self.life {
            Life::Running(run) if self.plan.role == Role::Init => (run.started, false),
            Life::Running(run) => {
                (run.started, run.started && run.ready && run.killed == Killed::No && !stopping)
            }
            Life::Ended => (false, self.plan.role == Role::Init && self.succeeded()),
            _ => (false, false),
        };
        UnitView {
            role: self.plan.role,
            state,
            last_state,
            restart_count: self.restarts,
            ready,
            started,
            container_id,
            image_id: self.image_id.clone(),
        }
    }
}

fn crash_loop(message: Box<str>) -> Waiting {
    Waiting { reason: "CrashLoopBackOff", message: Some(message) }
}

fn note(context: &Context<'_>, warning: bool, reason: &'static str, message: String) -> Effect {
    Effect::Note { index: Some(context.index), warning, reason, message }
}

fn terminated(ended: &Ended) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: Some(ended.container_id.to_string()).filter(|id| !id.is_empty()),
            exit_code: ended.code,
            reason: Some(ended.reason.to_string()),
            message: ended.message.as_deref().map(Into::into),
            started_at: ended.started.map(Time),
            finished_at: ended.finished.map(Time),
            signal: None,
        }),
        ..ContainerState::default()
    }
}
