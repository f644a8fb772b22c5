//! A machine for a pod that this process meets for the first time: new, or known to the API from a life
//! before this process. Guests live inside the process, so whatever the API calls running is lost.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, PodStatus};

use super::{
    Machine, Now, Plan, RestartPolicy, Role, Setup,
    unit::{Ended, Life, Unit, restarts_after},
};

/// Exit code of a container whose end nobody saw. Kubernetes' number.
const LOST: i32 = 137;

impl Machine {
    /// Starts from what the API knows of the pod.
    ///
    /// Containers that ran are restarted (one restart more) where the restart policy allows it and are
    /// terminated otherwise; init containers run again with them, since volumes in memory are gone. Unless all
    /// containers may be restarted, the API lets no container that has succeeded be anything but terminated again.
    pub(crate) fn new(plan: Plan, known: Option<&PodStatus>, now: Now) -> Machine {
        let phase = known.and_then(|status| status.phase.as_deref());
        let phase_over = matches!(phase, Some("Succeeded" | "Failed"));
        let policy = plan.policy;
        let mut units = Vec::with_capacity(plan.units.len());
        for unit_plan in &plan.units {
            let mut unit = Unit::new(unit_plan.clone());
            if let Some(status) = known.and_then(|known| find(known, &unit_plan.name)) {
                let ended_now = unit.recall(status, now);
                let code = unit.ended.as_ref().map_or(LOST, |ended| ended.code);
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
                    reason: "ContainerStatusUnknown".into(),
                    message: Some("The container could not be located when the pod was terminated".into()),
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

fn find<'a>(status: &'a PodStatus, name: &str) -> Option<&'a ContainerStatus> {
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
