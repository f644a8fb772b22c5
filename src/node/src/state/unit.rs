//! One container's life; see the drawing in [`super`].

use std::time::Duration;

use k8s_openapi::{
    api::core::v1::{ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use tokio::time::Instant;

use super::{Effect, Exit, Hook, Now, ProbeKind, RestartPolicy, Role, UnitPlan, UnitView, Waiting};
use crate::backoff::{Backoff, go_duration};

/// How long a failed pull shows `ErrImagePull` before it shows `ImagePullBackOff`.
const SHOW_PULL_ERROR: Duration = Duration::from_secs(1);
/// How soon a container whose configuration is missing is tried again, if nothing that it may wait for
/// changed before.
const CONFIG_RETRY: Duration = Duration::from_secs(10);
/// What a container that is told to stop has at least before it is killed, however much of its grace the
/// hook and the wait for its turn took. Kubernetes' number.
const MIN_GRACE: Duration = Duration::from_secs(2);

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
    Failed {
        waiting: Waiting,
        retry_at: Instant,
        relabel_at: Option<Instant>,
    },
    /// It waits until there is room for it on the node.
    Queued(Waiting),
    Running(Box<Run>),
    CrashLoop {
        until: Instant,
        message: Box<str>,
    },
    Ended,
}

#[derive(Clone, Debug)]
pub(super) struct Run {
    container_id: Box<str>,
    since: Timestamp,
    started: bool,
    ready: bool,
    /// What is shown while the hook of its start is under way: the container counts as up after it.
    starting: Option<Shown>,
    killed: Killed,
    /// It was told to end with its node.
    shut_down: bool,
    end: Option<End>,
}

/// How far the end of a container has come.
#[derive(Clone, Copy, Debug)]
struct End {
    step: Step,
    /// When its grace is over.
    at: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The preStop hook is under way.
    Hook,
    /// A sidecar waits until those it serves have ended.
    Turn,
    /// It was told to stop.
    Told,
    Killed,
}

/// Whether, and to what end, a running container has been told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Killed {
    No,
    /// By a probe, or since the hook of its start failed: it starts again if the restart policy allows.
    Unhealthy,
    /// To run another image, or with other resources: it starts again whatever the restart policy says.
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
    /// True once some run was up (its startup probe and the hook of its start had succeeded), since this process has
    /// the pod: those behind it need not wait any more.
    has_started: bool,
    /// The newest run that ended, and the one before it.
    pub(super) ended: Option<Box<Ended>>,
    pub(super) before: Option<Box<Ended>>,
    pub(super) image_id: Option<Box<str>>,
    /// The image of the newest run, if the spec has another by now.
    pub(super) ran_image: Option<Box<str>>,
    /// Seen from outside it stays at the end of its newest run, although it may run again.
    pub(super) looks_ended: bool,
    /// The node's shutdown ended its newest run before that was through: the next one goes on with it, and is no
    /// restart.
    pub(super) interrupted: bool,
    crashes: Backoff,
    failures: Backoff,
    /// When the newest run ended.
    failed_at: Option<Instant>,
}

/// What happened to one container.
#[derive(Clone, Debug)]
pub(super) enum UnitInput {
    Start,
    Launched {
        container_id: Box<str>,
        image_id: Box<str>,
    },
    Failed(Waiting),
    NoRoom(Waiting),
    Room,
    Exited(Exit),
    Probed {
        run: i32,
        probe: ProbeKind,
        healthy: bool,
    },
    ImageChanged(Box<str>),
    Resized,
    Hooked {
        hook: Hook,
        success: bool,
    },
    SourcesChanged,
    Stop {
        grace: Duration,
        /// With its node, which may come back.
        shutdown: bool,
    },
    /// Nobody needs this sidecar any more.
    Turn,
    Tick,
}

/// What a step needs besides the container itself.
pub(super) struct Context<'a> {
    pub(super) index: usize,
    pub(super) now: Now,
    pub(super) policy: RestartPolicy,
    pub(super) grace: Duration,
    pub(super) full_name: &'a str,
}

/// True if a container is started again after an exit with this code.
pub(super) fn restarts_after(policy: RestartPolicy, role: Role, code: i32) -> bool {
    match (role, policy) {
        (Role::Sidecar, _) => true,
        (Role::Ephemeral, _) | (_, RestartPolicy::Never) => false,
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
            has_started: false,
            ended: None,
            before: None,
            image_id: None,
            ran_image: None,
            looks_ended: false,
            interrupted: false,
            crashes: Backoff::default(),
            failures: Backoff::default(),
            failed_at: None,
        }
    }

    pub(super) fn step(&mut self, input: UnitInput, context: &Context<'_>, effects: &mut Vec<Effect>) {
        let life = std::mem::replace(&mut self.life, Life::Ended);
        self.life = self.next(life, input, context, effects);
        if let Life::Running(run) = &self.life {
            self.has_started |= run.started && run.starting.is_none() && run.end.is_none();
        }
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

            (Life::Launching(shown), UnitInput::Launched { container_id, image_id }) => {
                self.restarts = self.next_run();
                self.has_run = true;
                self.interrupted = false;
                self.image_id = Some(image_id);
                self.ran_image = None;
                self.failures.reset();
                let index = context.index;
                effects.push(if self.plan.post_start {
                    Effect::Hook { index, hook: Hook::PostStart }
                } else {
                    Effect::Probe { index }
                });
                Life::Running(Box::new(Run {
                    container_id,
                    since: now.wall,
                    started: !self.plan.startup_probe,
                    ready: !self.plan.readiness_probe,
                    starting: self.plan.post_start.then_some(shown),
                    killed: Killed::No,
                    shut_down: false,
                    end: None,
                }))
            }
            (Life::Launching(_), UnitInput::Failed(waiting)) => self.fail(waiting, context, effects),
            (Life::Launching(_), UnitInput::NoRoom(waiting)) => {
                effects.push(note(context, true, "Failed", error_text(&waiting)));
                Life::Queued(waiting)
            }
            // The launch is aborted by the pod's own stop; what never ran stays as it is.
            (
                Life::Launching(_) | Life::Failed { .. } | Life::Queued(_) | Life::CrashLoop { .. },
                UnitInput::Stop { .. },
            ) => {
                if self.has_run {
                    Life::Ended
                } else {
                    Life::Idle
                }
            }
            (Life::Queued(waiting), UnitInput::Room) => self.retry(waiting, context, effects),

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
            (Life::Running(mut run), UnitInput::Stop { grace, shutdown }) => {
                run.shut_down |= shutdown && run.end.is_none();
                let text = format!("Stopping container {}", self.plan.name);
                self.end(&mut run, Killed::ForGood, grace, text, context, effects);
                Life::Running(run)
            }
            (Life::Running(mut run), UnitInput::Hooked { hook, success }) => {
                self.hooked(&mut run, hook, success, context, effects);
                Life::Running(run)
            }
            (Life::Running(mut run), UnitInput::Turn) => {
                if let Some(end) = run.end.as_mut().filter(|end| end.step == Step::Turn) {
                    tell_to_stop(end, context, effects);
                }
                Life::Running(run)
            }
            (Life::Running(mut run), UnitInput::Tick) => {
                if let Some(end) = run.end.as_mut().filter(|end| end.at <= now.instant) {
                    match end.step {
                        Step::Hook | Step::Turn => tell_to_stop(end, context, effects),
                        Step::Told => {
                            end.step = Step::Killed;
                            effects.push(Effect::Kill { index: context.index });
                        }
                        Step::Killed => {}
                    }
                }
                Life::Running(run)
            }

            (Life::Running(mut run), UnitInput::Resized) => {
                if run.killed == Killed::No {
                    let text = format!("Container {} resize requires restart", self.plan.name);
                    self.end(&mut run, Killed::Outdated, context.grace, text, context, effects);
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
        effects.push(Effect::Launch { index: context.index, run: self.next_run() });
        Life::Launching(shown)
    }

    /// The number of a run that begins now.
    fn next_run(&self) -> i32 {
        self.restarts + i32::from(self.has_run && !self.interrupted)
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
        let before = std::mem::replace(&mut self.plan.image, image);
        if self.image_id.is_some() {
            self.ran_image.get_or_insert(before);
        }
        self.crashes.reset();
        self.failures.reset();
        match life {
            Life::Launching(shown) => {
                effects.push(Effect::Abandon { index: context.index });
                self.launch(shown, context, effects)
            }
            Life::Failed { waiting, .. } | Life::Queued(waiting) => {
                self.launch(Shown::Waiting(waiting), context, effects)
            }
            Life::CrashLoop { message, .. } => {
                // Unlike a run that was ended for its image, this one crashed: the next crash waits.
                self.crashes.attempt(context.now.instant, context.now.instant);
                self.launch(Shown::Waiting(crash_loop(message)), context, effects)
            }
            // An init container finishes with the image it began with.
            Life::Running(mut run) if self.plan.role != Role::Init && run.killed == Killed::No => {
                let name = &self.plan.name;
                let text = if self.plan.role == Role::Sidecar {
                    format!("Init container {name} definition changed")
                } else {
                    format!("Container {name} definition changed, will be restarted")
                };
                self.end(&mut run, Killed::Outdated, context.grace, text, context, effects);
                Life::Running(run)
            }
            life @ (Life::Idle | Life::Running(_) | Life::Ended) => life,
        }
    }

    fn fail(&mut self, waiting: Waiting, context: &Context<'_>, effects: &mut Vec<Effect>) -> Life {
        let now = context.now.instant;
        let pull = matches!(waiting.reason, "ErrImagePull" | "SignatureValidationFailed");
        // What is wrong with an image has been told already, by an event of its own.
        let of_image = pull || matches!(waiting.reason, "ErrImageNeverPull" | "InvalidImageName");
        let text = if of_image { format!("Error: {}", waiting.reason) } else { error_text(&waiting) };
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
            Some(message) => format!("{text}: {}: {message}", waiting.reason),
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
        // It has not done its work, whatever it says at the end: it does so when the node is back.
        if run.shut_down
            && code == 0
            && self.plan.role == Role::Main
            && context.policy != RestartPolicy::Never
        {
            return Life::Idle;
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
                    let (kind, grace) = match probe {
                        ProbeKind::Startup => ("startup", self.plan.startup_grace),
                        _ => ("liveness", self.plan.liveness_grace),
                    };
                    let name = &self.plan.name;
                    let text = format!("Container {name} failed {kind} probe, will be restarted");
                    let grace = grace.map_or(context.grace, |seconds| Duration::from_secs(seconds.into()));
                    self.end(&mut run, Killed::Unhealthy, grace, text, context, effects);
                }
            }
        }
        run
    }

    fn hooked(
        &self,
        run: &mut Run,
        hook: Hook,
        success: bool,
        context: &Context<'_>,
        effects: &mut Vec<Effect>,
    ) {
        match hook {
            Hook::PostStart => {
                if run.starting.take().is_none() {
                    return;
                }
                if success {
                    effects.push(Effect::Probe { index: context.index });
                } else {
                    const REASON: &str = "FailedPostStartHook";
                    effects.push(note(context, true, REASON, "PostStartHook failed".into()));
                    self.end(run, Killed::Unhealthy, context.grace, REASON.into(), context, effects);
                }
            }
            Hook::PreStop => {
                if !success {
                    effects.push(note(context, true, "FailedPreStopHook", "PreStopHook failed".into()));
                }
                if let Some(end) = run.end.as_mut().filter(|end| end.step == Step::Hook) {
                    if self.plan.role == Role::Sidecar && run.killed == Killed::ForGood {
                        end.step = Step::Turn;
                    } else {
                        tell_to_stop(end, context, effects);
                    }
                }
            }
        }
    }

    /// Begins the end of a run. If it has begun already, it can only become more final and more hurried.
    fn end(
        &self,
        run: &mut Run,
        why: Killed,
        grace: Duration,
        text: String,
        context: &Context<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let index = context.index;
        let at = context.now.instant + grace;
        if run.killed != Killed::ForGood {
            run.killed = why;
        }
        let end = match &mut run.end {
            Some(end) => {
                end.at = end.at.min(at);
                end
            }
            none => {
                run.starting = None;
                effects.push(note(context, false, "Killing", text));
                effects.push(Effect::Ending { index });
                let end = none.insert(End { step: Step::Told, at });
                if grace.is_zero() {
                    // Killed below.
                } else if self.plan.pre_stop {
                    end.step = Step::Hook;
                    effects.push(Effect::Hook { index, hook: Hook::PreStop });
                } else if self.plan.role == Role::Sidecar && why == Killed::ForGood {
                    end.step = Step::Turn;
                } else {
                    tell_to_stop(end, context, effects);
                }
                end
            }
        };
        if grace.is_zero() && end.step != Step::Killed {
            end.step = Step::Killed;
            effects.push(Effect::Kill { index });
        }
    }

    pub(super) fn role(&self) -> Role {
        self.plan.role
    }

    pub(super) fn restarts(&self) -> i32 {
        self.restarts
    }

    /// Unless more is known of it than its number.
    pub(super) fn recall_run(&mut self, run: i32) {
        if run > self.restarts || !self.has_run {
            self.interrupted &= run <= self.restarts;
            self.restarts = self.restarts.max(run);
            self.has_run = true;
        }
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

    pub(super) fn is_running(&self) -> bool {
        matches!(self.life, Life::Running(_))
    }

    /// True for a sidecar that will be told to stop when those it serves have ended.
    pub(super) fn awaits_turn(&self) -> bool {
        matches!(&self.life, Life::Running(run) if run.end.is_some_and(|end| end.step == Step::Turn))
    }

    /// True if the newest run ended with exit code 0.
    pub(super) fn succeeded(&self) -> bool {
        self.ended.as_ref().is_some_and(|ended| ended.code == 0)
    }

    /// True while the containers behind this one must wait for it.
    pub(super) fn blocks_next(&self) -> bool {
        match self.plan.role {
            // Containers behind a hook of a start wait for its end, as they do in Kubernetes.
            Role::Main => match &self.life {
                Life::Running(run) => run.starting.is_some(),
                Life::Launching(_) => self.plan.post_start && !self.has_started,
                _ => false,
            },
            Role::Ephemeral => false,
            Role::Init => !(self.is_over() && self.succeeded()),
            // Once it has started it never blocks again, even while it is being restarted.
            Role::Sidecar => !self.has_started,
        }
    }

    pub(super) fn next_wake(&self) -> Option<Instant> {
        match &self.life {
            Life::Failed { relabel_at: Some(at), .. } => Some(*at),
            Life::Failed { retry_at, .. } => Some(*retry_at),
            Life::CrashLoop { until, .. } => Some(*until),
            Life::Running(run) => run.end.filter(|end| end.step != Step::Killed).map(|end| end.at),
            Life::Idle | Life::Launching(_) | Life::Queued(_) | Life::Ended => None,
        }
    }

    /// See [`super::Machine::settled`]. A probe that has not succeeded yet is about to.
    pub(super) fn settled(&self, turn_may_come: bool) -> bool {
        match &self.life {
            Life::Idle => !turn_may_come,
            Life::Launching(_) => false,
            Life::Running(run) => {
                let finishes_soon = self.plan.role == Role::Init;
                let waits = run.end.is_some_and(|end| end.step == Step::Hook) || run.starting.is_some();
                waits || run.killed == Killed::No && !finishes_soon && run.started && run.ready
            }
            Life::Failed { .. } | Life::Queued(_) | Life::CrashLoop { .. } | Life::Ended => true,
        }
    }

    /// `creating` is the reason shown before the first launch.
    pub(super) fn view(&self, creating: &'static str) -> UnitView {
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
        let life = if self.looks_ended { &Life::Ended } else { &self.life };
        let shown = match life {
            Life::Launching(shown) => Some(shown),
            Life::Running(run) => run.starting.as_ref(),
            _ => None,
        };
        let (state, last_state, container_id) = match (life, shown) {
            (_, Some(Shown::Creating)) | (Life::Idle, _) => (waiting(&creating), ended(), newest),
            (_, Some(Shown::Waiting(shown))) => (waiting(shown), ended(), newest),
            (Life::Failed { waiting: shown, .. } | Life::Queued(shown), _) => {
                (waiting(shown), ended(), newest)
            }
            (Life::CrashLoop { message, .. }, _) => (waiting(&crash_loop(message.clone())), ended(), newest),
            (Life::Running(run), None) => {
                let running = ContainerStateRunning { started_at: Some(Time(run.since)) };
                let state = ContainerState { running: Some(running), ..ContainerState::default() };
                (state, ended(), Some(run.container_id.clone()))
            }
            (_, Some(Shown::Terminated)) | (Life::Ended | Life::Launching(_), _) => {
                let before = self.before.as_deref().map(terminated);
                (ended().unwrap_or_else(|| waiting(&creating)), before, newest)
            }
        };
        let (started, ready) = match life {
            Life::Running(run) if run.starting.is_some() => (false, false),
            Life::Running(run) => match self.plan.role {
                Role::Init => (run.started, false),
                Role::Ephemeral => (false, false),
                Role::Main | Role::Sidecar => (run.started, run.started && run.ready),
            },
            Life::Ended => (false, self.plan.role == Role::Init && self.succeeded()),
            _ => (false, false),
        };
        UnitView {
            state,
            last_state,
            restart_count: self.restarts,
            ready,
            started,
            container_id,
            image_id: self.image_id.clone(),
            image: self.ran_image.clone(),
        }
    }
}

/// What is told of a launch that failed.
fn error_text(waiting: &Waiting) -> String {
    format!("Error: {}", waiting.message.as_deref().unwrap_or(waiting.reason))
}

fn crash_loop(message: Box<str>) -> Waiting {
    Waiting { reason: "CrashLoopBackOff", message: Some(message) }
}

/// The container has its say now, for what is left of its grace, but never for less than [`MIN_GRACE`].
fn tell_to_stop(end: &mut End, context: &Context<'_>, effects: &mut Vec<Effect>) {
    end.step = Step::Told;
    end.at = end.at.max(context.now.instant + MIN_GRACE);
    effects.push(Effect::Terminate { index: context.index });
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
