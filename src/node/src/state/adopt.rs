//! A machine for a pod that this process meets for the first time: new, or known to the API from a life
//! before this process. Guests live inside the process, so whatever the API calls running is lost.

use k8s_openapi::{
    api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, PodCondition, PodStatus},
    jiff::Timestamp,
};

use super::{
    Machine, Now, Plan, RestartPolicy, Role, Setup,
    unit::{Ended, Life, Unit, restarts_after},
};
use crate::status::{DISRUPTED, SHUT_DOWN};

/// Exit code of a container whose end nobody saw. Kubernetes' number.
pub(crate) const LOST: i32 = 137;

/// The reason and message that go with it. Kubernetes' words.
pub(crate) const UNKNOWN: (&str, &str) =
    ("ContainerStatusUnknown", "The container could not be located when the pod was terminated");

impl Machine {
    /// Starts from what the API knows of the pod.
    ///
    /// Containers that ran are restarted (one restart more) where the restart policy allows it and are
    /// terminated otherwise; init containers run again with them, since volumes in memory are gone. Unless all
    /// containers may be restarted, the API lets no container that has succeeded be anything but terminated again.
    /// What an orderly shutdown of the node ended is no restart where restarts are counted as failures: see
    /// [`shut_down_at`].
    pub(crate) fn new(plan: Plan, known: Option<&PodStatus>, now: Now) -> Machine {
        let phase = known.and_then(|status| status.phase.as_deref());
        let phase_over = matches!(phase, Some("Succeeded" | "Failed"));
        let policy = plan.policy;
        let shut_down = known.and_then(|known| shut_down_at(policy, known));
        let mut units = Vec::with_capacity(plan.units.len());
        for unit_plan in &plan.units {
            let mut unit = Unit::new(unit_plan.clone());
            if let Some(status) = known.and_then(|known| status_of(known, &unit_plan.name)) {
                let ended_now = unit.recall(status, now);
                let code = unit.ended.as_ref().map_or(LOST, |ended| ended.code);
                unit.interrupted = shut_down.is_some_and(|at| unit.was_up(at));
                if ended_now && !restarts_after(policy, unit_plan.role, code) {
                    unit.life = Life::Ended;
                }
            }
            units.push(unit);
        }
        let mains_over = units.iter().filter(|unit| unit.role() == Role::Main).all(Unit::is_over);
        if phase_over || mains_over {
            units.iter_mut().for_each(|unit| unit.life = Life::Ended);
        } else {
            for unit in units
                .iter_mut()
                .filter(|unit| matches!(unit.role(), Role::Init | Role::Sidecar) && unit.succeeded())
            {
                unit.life = Life::Idle;
                unit.looks_ended = unit.role() == Role::Init && policy != RestartPolicy::Always;
            }
        }
        Machine { plan, units, setup: Setup::Needed, stop: None, torn_down: false }
    }
}

impl Unit {
    /// Whether its newest run was through only after this, or with success before.
    fn was_up(&self, at: Timestamp) -> bool {
        let Some(ended) = &self.ended else { return false };
        ended.code == 0 || ended.finished.is_some_and(|finished| finished.as_second() + 1 >= at.as_second())
    }

    /// Takes over what the API knows; true if the container is at the end of a run now.
    fn recall(&mut self, status: &ContainerStatus, now: Now) -> bool {
        self.restarts = status.restart_count;
        self.image_id = Some(status.image_id.as_str()).filter(|id| !id.is_empty()).map(Into::into);
        self.ran_image = Some(status.image.as_str())
            .filter(|image| self.image_id.is_some() && !image.is_empty() && **image != *self.plan.image)
            .map(Into::into);
        let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref()).map(ended);
        let state = status.state.clone().unwrap_or_default();
        match state {
            ContainerState { terminated: Some(terminated), .. } => {
                self.ended = Some(ended(&terminated));
                self.before = last;
                self.has_run = true;
                true
            }
            ContainerState { running: Some(running), .. } => {
                self.ended = Some(Box::new(Ended {
                    container_id: status.container_id.as_deref().unwrap_or_default().into(),
                    code: LOST,
                    reason: UNKNOWN.0.into(),
                    message: Some(UNKNOWN.1.into()),
                    started: running.started_at.map(|time| time.0),
                    finished: Some(now.wall),
                }));
                self.before = last;
                self.has_run = true;
                true
            }
            _ => {
                self.has_run = last.is_some();
                self.ended = last;
                false
            }
        }
    }
}

/// When the node began to shut down, if that is how a pod ended whose containers are restarted when they fail: jobs
/// count the restarts of such as failures, and this was none of theirs.
fn shut_down_at(policy: RestartPolicy, status: &PodStatus) -> Option<Timestamp> {
    let mut conditions = status.conditions.iter().flatten().filter(|_| policy == RestartPolicy::OnFailure);
    let said = |one: &&PodCondition| {
        one.type_ == DISRUPTED && one.status == "True" && one.message.as_deref() == Some(SHUT_DOWN.1)
    };
    conditions.find(said)?.last_transition_time.as_ref().map(|time| time.0)
}

/// What the API knows of the container with this name, of whatever kind it is.
pub(crate) fn status_of<'a>(status: &'a PodStatus, name: &str) -> Option<&'a ContainerStatus> {
    let main = status.container_statuses.iter().flatten();
    let init = status.init_container_statuses.iter().flatten();
    let ephemeral = status.ephemeral_container_statuses.iter().flatten();
    main.chain(init).chain(ephemeral).find(|container| container.name == name)
}

fn ended(terminated: &ContainerStateTerminated) -> Box<Ended> {
    Box::new(Ended {
        container_id: terminated.container_id.as_deref().unwrap_or_default().into(),
        code: terminated.exit_code,
        reason: terminated.reason.as_deref().unwrap_or_default().into(),
        message: terminated.message.as_deref().map(Into::into),
        started: terminated.started_at.as_ref().map(|time| time.0),
        finished: terminated.finished_at.as_ref().map(|time| time.0),
    })
}
