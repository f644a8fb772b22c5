//! What a pod's status says, computed from its containers: phase, conditions and the rest, by the rules
//! and in the words of the kubelet. Pure.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, BufWriter, Write},
    net::{IpAddr, Ipv6Addr},
};

use coracle_api::resources::RESIZE_PENDING;
use k8s_openapi::{
    api::core::v1::{
        Container, ContainerState, ContainerStateTerminated, ContainerStatus, HostIP, Pod, PodCondition,
        PodIP, PodStatus, VolumeMount, VolumeMountStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use serde_json::{Value, json};

use crate::{
    preemption,
    resize::{Denied, Resize},
    state::{self, RestartPolicy, Role, Stop, UnitView},
    termination::shorten,
};

/// The condition of a pod whose new resources are granted, but not there yet.
const RESIZE_IN_PROGRESS: &str = "PodResizeInProgress";
/// The condition of a pod that is ended for the sake of others.
pub(crate) const DISRUPTED: &str = "DisruptionTarget";
/// The reason of that condition where it is the node that does so.
const BY_NODE: &str = "TerminationByKubelet";
/// What is said of a pod that restarts no container and was ended by the shutdown of its node. Kubernetes' words.
pub(crate) const SHUT_DOWN: (&str, &str) =
    ("Terminated", "Pod was terminated in response to imminent node shutdown.");

/// Where the status is computed from.
pub(crate) struct Facts<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) policy: RestartPolicy,
    /// In the order of the spec: init containers, then the main ones, then the ephemeral ones.
    pub(crate) views: Vec<UnitView>,
    pub(crate) stop: Option<&'a Stop>,
    pub(crate) resize: Option<&'a Resize>,
    /// No container runs and none will.
    pub(crate) over: bool,
    /// Network and volumes stand.
    pub(crate) set_up: bool,
    pub(crate) pod_ip: Option<IpAddr>,
    /// Its second address.
    pub(crate) pod_ip6: Option<Ipv6Addr>,
    pub(crate) host_ip: IpAddr,
    /// When this node took the pod up.
    pub(crate) start: Timestamp,
    pub(crate) now: Timestamp,
}

impl Facts<'_> {
    /// It is over for good; what a node that shuts down has ended runs again when it comes back, if it may.
    fn is_terminal(&self) -> bool {
        self.over && self.stop != Some(&Stop::Shutdown)
    }
}

/// The conditions that the node sets, in the order they are listed.
const CONDITIONS: [&str; 5] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// When each condition took its value: what must be remembered between two statuses.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Transitions([Option<(bool, Timestamp)>; CONDITIONS.len()]);

impl Transitions {
    /// What the API knows.
    pub(crate) fn recall(pod: &Pod) -> Transitions {
        let conditions =
            pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        Transitions(CONDITIONS.map(|name| {
            let condition = conditions.iter().find(|condition| condition.type_ == name)?;
            Some((condition.status == "True", condition.last_transition_time.as_ref()?.0))
        }))
    }

    fn at(&mut self, index: usize, value: bool, now: Timestamp) -> Timestamp {
        let slot = &mut self.0[index];
        match slot {
            Some((known, since)) if *known == value => *since,
            _ => slot.insert((value, now)).1,
        }
    }
}

/// True if the API says that the pod is over: nothing takes that back.
pub(crate) fn is_over(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

/// The status as it should be written.
pub(crate) fn pod_status(facts: &Facts<'_>, transitions: &mut Transitions) -> PodStatus {
    if let Some(Stop::Refused { reason, message }) = facts.stop {
        // Nothing else was ever true of it.
        return PodStatus {
            phase: Some("Failed".into()),
            reason: Some(reason.to_string()),
            message: Some(message.to_string()),
            start_time: Some(Time(facts.start)),
            observed_generation: facts.pod.metadata.generation,
            ..PodStatus::default()
        };
    }
    let statuses = container_statuses(facts);
    let phase = phase(facts, &statuses);
    let mut conditions = conditions(facts, &statuses, phase, transitions);
    conditions.extend(resize_conditions(facts));
    conditions.extend(disruption(facts, phase));
    let [mut init, mut main, mut ephemeral] = [const { Vec::new() }; 3];
    for (role, status) in statuses {
        match role {
            Role::Init | Role::Sidecar => init.push(status),
            Role::Main => main.push(status),
            Role::Ephemeral => ephemeral.push(status),
        }
    }
    main.sort_by(|a, b| a.name.cmp(&b.name));
    let failed = match facts.stop {
        Some(Stop::Failed { reason, message, .. }) if phase == "Failed" => Some((*reason, &**message)),
        Some(Stop::Shutdown) if phase == "Failed" => Some(SHUT_DOWN),
        _ => None,
    };
    // After a restart of the agent a pod that is over gets no network again, but keeps showing its past.
    let known = facts.pod.status.as_ref();
    let pod_ips: Option<Vec<PodIP>> = match facts.pod_ip {
        Some(ip) => {
            let both = [Some(ip), facts.pod_ip6.map(IpAddr::V6)].into_iter().flatten();
            Some(both.map(|ip| PodIP { ip: ip.to_string() }).collect())
        }
        None => known.and_then(|status| status.pod_ips.clone()),
    };
    let first = pod_ips.as_ref().and_then(|ips| ips.first()).map(|first| first.ip.clone());
    let pod_ip = first.or_else(|| known.and_then(|status| status.pod_ip.clone()));
    PodStatus {
        phase: Some(phase.into()),
        conditions: Some(conditions),
        container_statuses: Some(main),
        init_container_statuses: Some(init).filter(|list| !list.is_empty()),
        ephemeral_container_statuses: Some(ephemeral).filter(|list| !list.is_empty()),
        host_ip: Some(facts.host_ip.to_string()),
        host_ips: Some(vec![HostIP { ip: facts.host_ip.to_string() }]),
        pod_ips: pod_ips.or_else(|| pod_ip.clone().map(|ip| vec![PodIP { ip }])),
        pod_ip,
        start_time: Some(Time(facts.start)),
        observed_generation: facts.pod.metadata.generation,
        reason: failed.map(|(reason, _)| reason.into()),
        message: failed.map(|(_, message)| message.into()),
        ..PodStatus::default()
    }
}

/// The strategic merge patch that writes a status, and only if the pod is still the same one.
///
/// Reasons and messages of conditions are always named, as null where there is none, and addresses
/// replace those before: a merge would otherwise keep the old ones.
pub(crate) fn status_patch(pod: &Pod, uid: &str, status: &PodStatus) -> Value {
    let mut value = serde_json::to_value(status).unwrap_or_default();
    if let Some(Value::Array(conditions)) = value.get_mut("conditions") {
        for condition in conditions.iter_mut().filter_map(Value::as_object_mut) {
            for field in ["reason", "message"] {
                condition.entry(field).or_insert(Value::Null);
            }
        }
        for name in conditions_over(pod, status) {
            conditions.push(json!({ "type": name, "$patch": "delete" }));
        }
    }
    for field in ["hostIPs", "podIPs"] {
        if let Some(Value::Array(addresses)) = value.get_mut(field) {
            addresses.push(json!({ "$patch": "replace" }));
        }
    }
    json!({ "metadata": { "uid": uid }, "status": value })
}

/// Tells patches of one pod apart without making them: most looks at a pod find its status unchanged.
pub(crate) fn fingerprint(pod: &Pod, status: &PodStatus) -> u64 {
    let mut hasher = DefaultHasher::new();
    conditions_over(pod, status).for_each(|name| name.hash(&mut hasher));
    let mut into = BufWriter::with_capacity(1024, Hashing(&mut hasher));
    // Neither a status nor a hasher can fail.
    let _ = serde_json::to_writer(&mut into, status).map(|()| into.flush());
    drop(into);
    hasher.finish()
}

/// Hashes what is written.
struct Hashing<'a>(&'a mut DefaultHasher);

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The conditions that the API knows of and that are true no more: of a resize, and of a shutdown of the node after
/// which the pod goes on. What others say of the pod is theirs.
fn conditions_over(pod: &Pod, status: &PodStatus) -> impl Iterator<Item = &'static str> {
    fn find<'a>(status: Option<&'a PodStatus>, name: &str) -> Option<&'a PodCondition> {
        let mut conditions = status?.conditions.iter().flatten();
        conditions.find(|condition| condition.type_ == name)
    }
    [RESIZE_PENDING, RESIZE_IN_PROGRESS, DISRUPTED].into_iter().filter(move |name| {
        let Some(known) = find(pod.status.as_ref(), name) else { return false };
        let own = *name != DISRUPTED || known.reason.as_deref() == Some(BY_NODE) && !is_over(status);
        own && find(Some(status), name).is_none()
    })
}

/// What the last words of all containers of a pod may come to, in bytes. Kubernetes' number.
const MAX_MESSAGES: usize = 12 << 10;

fn container_statuses(facts: &Facts<'_>) -> Vec<(Role, ContainerStatus)> {
    let mut statuses: Vec<_> = state::containers(facts.pod)
        .zip(&facts.views)
        .map(|((container, role), view)| (role, container_status(&container, role, view)))
        .collect();
    if facts.is_terminal() {
        end_what_never_began(&mut statuses);
    }
    let share = MAX_MESSAGES / statuses.len().max(1);
    for (_, status) in &mut statuses {
        for state in [&mut status.state, &mut status.last_state].into_iter().flatten() {
            if let Some(words) = state.terminated.as_mut().and_then(|end| end.message.as_mut()) {
                words.truncate(shorten(words, share).len());
            }
        }
    }
    for behind in facts.resize.iter().flat_map(|resize| &resize.behind) {
        if let Some((_, status)) = statuses.get_mut(behind.index) {
            let limits = status.resources.get_or_insert_default().limits.get_or_insert_default();
            match &behind.memory {
                Some(limit) => limits.insert("memory".into(), limit.clone()),
                None => limits.remove("memory"),
            };
        }
    }
    statuses
}

/// Of a pod that is over, what never came to run counts as failed, as the kubelet has it: all but the init
/// containers whose turn never came, and the main ones while those were not through.
fn end_what_never_began(statuses: &mut [(Role, ContainerStatus)]) {
    fn ended(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
        status.state.as_ref()?.terminated.as_ref()
    }
    let began = |status: &ContainerStatus| {
        status.state.as_ref().is_none_or(|state| state.waiting.is_none())
            || status.last_state.as_ref().is_some_and(|last| last.terminated.is_some())
    };
    let is_init = |role: &Role| matches!(role, Role::Init | Role::Sidecar);
    let init = || statuses.iter().filter(|(role, _)| is_init(role)).map(|(_, status)| status);
    let initialized = init().next_back().is_none_or(|last| ended(last).is_some_and(|end| end.exit_code == 0))
        || statuses.iter().any(|(role, status)| *role == Role::Main && began(status));
    let tried = init().enumerate().filter(|(_, status)| began(status)).last().map_or(1, |(last, _)| last + 1);
    let mut inits = 0;
    for (role, status) in statuses {
        inits += usize::from(is_init(role));
        let counts = if is_init(role) { inits <= tried } else { *role == Role::Main && initialized };
        if counts && ended(status).is_none() {
            let (reason, message) = state::UNKNOWN;
            let end = ContainerStateTerminated {
                exit_code: state::LOST,
                reason: Some(reason.into()),
                message: Some(message.into()),
                ..ContainerStateTerminated::default()
            };
            status.state = Some(ContainerState { terminated: Some(end), ..ContainerState::default() });
        }
    }
}

fn container_status(container: &Container, role: Role, view: &UnitView) -> ContainerStatus {
    ContainerStatus {
        name: container.name.clone(),
        image: view.image.as_deref().or(container.image.as_deref()).unwrap_or_default().into(),
        image_id: view.image_id.as_deref().unwrap_or_default().into(),
        container_id: view.container_id.as_deref().filter(|id| !id.is_empty()).map(Into::into),
        state: Some(view.state.clone()),
        last_state: Some(view.last_state.clone().unwrap_or_default()),
        ready: view.ready,
        started: Some(view.started),
        restart_count: view.restart_count,
        // Also of one that has none: the API takes a container without them for one that cannot be resized.
        resources: (role != Role::Ephemeral).then(|| container.resources.clone().unwrap_or_default()),
        allocated_resources: container.resources.as_ref().and_then(|resources| resources.requests.clone()),
        volume_mounts: container.volume_mounts.as_ref().map(|mounts| mounts.iter().map(mounted).collect()),
        ..ContainerStatus::default()
    }
}

/// What is read-only here is so all the way down; it is said so to who asks for that.
fn mounted(mount: &VolumeMount) -> VolumeMountStatus {
    let recursive = match mount.recursive_read_only.as_deref() {
        Some("Enabled" | "IfPossible") => "Enabled",
        _ => "Disabled",
    };
    let read_only = mount.read_only.filter(|is| *is);
    VolumeMountStatus {
        mount_path: mount.mount_path.clone(),
        name: mount.name.clone(),
        read_only,
        recursive_read_only: read_only.map(|_| recursive.into()),
    }
}

/// The kubelet's rule: a pod is not over while anything of it runs, whatever decided that it must end.
fn phase(facts: &Facts<'_>, statuses: &[(Role, ContainerStatus)]) -> &'static str {
    let phase = phase_in_the_end(facts, statuses);
    let runs = |status: &ContainerStatus| status.state.as_ref().is_some_and(|state| state.running.is_some());
    if !matches!(phase, "Succeeded" | "Failed") || !statuses.iter().any(|(_, status)| runs(status)) {
        return phase;
    }
    // What it was until now: no main container runs before all init containers are through.
    let began = |status: &ContainerStatus| {
        let ended =
            |state: &Option<ContainerState>| state.as_ref().is_some_and(|state| state.terminated.is_some());
        runs(status) || ended(&status.state) || ended(&status.last_state)
    };
    let began = statuses.iter().any(|(role, status)| *role == Role::Main && began(status));
    if began { "Running" } else { "Pending" }
}

/// Init containers first, then what the main containers do together.
fn phase_in_the_end(facts: &Facts<'_>, statuses: &[(Role, ContainerStatus)]) -> &'static str {
    if let Some(Stop::Failed { .. } | Stop::Refused { .. }) = facts.stop {
        return "Failed";
    }
    let mut initializing = false;
    for (role, status) in statuses {
        let state = status.state.as_ref();
        let terminated = state.and_then(|state| state.terminated.as_ref());
        match (role, terminated) {
            (Role::Main | Role::Ephemeral, _) => {}
            (Role::Init, Some(end)) if end.exit_code == 0 => {}
            (Role::Init, Some(_)) if facts.policy == RestartPolicy::Never => return "Failed",
            (Role::Init, _) => initializing = true,
            (Role::Sidecar, Some(_)) => {}
            (Role::Sidecar, None) => initializing |= status.started != Some(true) && !facts.over,
        }
    }
    let shut_down = facts.stop == Some(&Stop::Shutdown);
    let terminal = facts.is_terminal();
    if initializing && !terminal {
        return "Pending";
    }
    let (mut waiting, mut running, mut stopped, mut succeeded) = (0, 0, 0, 0);
    // Also in a pod that never restarts containers: one whose image was changed.
    let mut restarting = false;
    for (_, status) in statuses.iter().filter(|(role, _)| *role == Role::Main) {
        let state = status.state.clone().unwrap_or_default();
        if state.running.is_some() {
            running += 1;
        } else if let Some(end) = state.terminated {
            stopped += 1;
            succeeded += i32::from(end.exit_code == 0);
        } else if status.last_state.as_ref().is_some_and(|last| last.terminated.is_some()) {
            stopped += 1;
            restarting = true;
        } else {
            waiting += 1;
        }
    }
    match (waiting, running, stopped) {
        // Who waits for the end of a pod, as a job with a failure policy, would wait for ever.
        (1.., _, _) if terminal => "Failed",
        (1.., _, _) => "Pending",
        (_, 1.., _) => "Running",
        // It was not through, whatever it says at the end.
        (_, _, 1..) if shut_down && facts.policy == RestartPolicy::Never => "Failed",
        (_, _, 1..) if stopped == succeeded && (terminal || facts.policy != RestartPolicy::Always) => {
            "Succeeded"
        }
        (_, _, 1..) if terminal || facts.policy == RestartPolicy::Never && !restarting => "Failed",
        (_, _, 1..) => "Running",
        _ => "Pending",
    }
}

fn conditions(
    facts: &Facts<'_>,
    statuses: &[(Role, ContainerStatus)],
    phase: &str,
    transitions: &mut Transitions,
) -> Vec<PodCondition> {
    let names = |keep: &dyn Fn(&Role, &ContainerStatus) -> bool| -> Vec<&str> {
        statuses
            .iter()
            .filter(|(role, status)| keep(role, status))
            .map(|(_, status)| status.name.as_str())
            .collect()
    };
    let uninitialized = names(&|role, status| match role {
        Role::Main | Role::Ephemeral => false,
        Role::Init => !status.ready,
        Role::Sidecar => status.started != Some(true),
    });
    let unready = names(&|role, status| matches!(role, Role::Main | Role::Sidecar) && !status.ready);
    let main_began = statuses.iter().any(|(role, status)| {
        *role == Role::Main && (status.container_id.is_some() || status.started == Some(true))
    });

    let initialized = if phase == "Succeeded" {
        Verdict::yes("PodCompleted")
    } else if uninitialized.is_empty() || main_began {
        Verdict::YES
    } else {
        Verdict::no(
            "ContainersNotInitialized",
            format!("containers with incomplete status: [{}]", uninitialized.join(" ")),
        )
    };
    let containers_ready = match phase {
        "Succeeded" => Verdict::no("PodCompleted", String::new()),
        "Failed" => Verdict::no("PodFailed", String::new()),
        _ if unready.is_empty() => Verdict::YES,
        _ => Verdict::no(
            "ContainersNotReady",
            format!("containers with unready status: [{}]", unready.join(" ")),
        ),
    };
    let ready = if containers_ready.value { gates(facts.pod) } else { containers_ready.clone() };
    let network = if facts.set_up { Verdict::YES } else { Verdict::no("", String::new()) };
    [network, initialized, ready, containers_ready, Verdict::YES]
        .into_iter()
        .enumerate()
        .map(|(index, verdict)| PodCondition {
            type_: CONDITIONS[index].into(),
            status: if verdict.value { "True" } else { "False" }.into(),
            reason: Some(verdict.reason.to_owned()).filter(|reason| !reason.is_empty()),
            message: Some(verdict.message).filter(|message| !message.is_empty()),
            last_transition_time: Some(Time(transitions.at(index, verdict.value, facts.now))),
            ..PodCondition::default()
        })
        .collect()
}

/// The conditions that say so while a resize is not done.
fn resize_conditions(facts: &Facts<'_>) -> Vec<PodCondition> {
    const CANNOT_SHRINK: &str = "the memory of a module that runs cannot shrink below what it holds; resizePolicy \
                                 RestartContainer lets it restart";
    let Some(resize) = facts.resize else { return Vec::new() };
    let (mut pending, mut in_progress) = (None, None);
    if let Some(Denied { denial, .. }) = &resize.denied {
        pending = Some(holds(facts, RESIZE_PENDING, denial.reason, &denial.message));
    } else if resize.behind.iter().any(|behind| !behind.restarts) {
        pending = Some(holds(facts, RESIZE_PENDING, "Infeasible", CANNOT_SHRINK));
    }
    if resize.behind.iter().any(|behind| behind.restarts) {
        in_progress = Some(holds(facts, RESIZE_IN_PROGRESS, "", ""));
    }
    pending.into_iter().chain(in_progress).collect()
}

/// The condition of a pod that the node ends for its own sake: job controllers count such an end otherwise.
fn disruption(facts: &Facts<'_>, phase: &str) -> Option<PodCondition> {
    let message = match facts.stop {
        Some(Stop::Failed { reason: preemption::REASON, disruption: true, .. }) => preemption::DISRUPTED,
        Some(Stop::Failed { message, disruption: true, .. }) => message,
        Some(Stop::Shutdown) if phase == "Failed" => SHUT_DOWN.1,
        // It goes on when the node is back, and that is no failure of its own: what it was ended for says so.
        Some(Stop::Shutdown) if facts.policy == RestartPolicy::OnFailure && phase != "Succeeded" => {
            SHUT_DOWN.1
        }
        _ => return None,
    };
    Some(holds(facts, DISRUPTED, BY_NODE, message))
}

/// A condition that is true since the API knows of it, or since now.
fn holds(facts: &Facts<'_>, name: &str, reason: &str, message: &str) -> PodCondition {
    let known = facts.pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let before = known.iter().find(|condition| condition.type_ == name && condition.status == "True");
    let since = before.and_then(|condition| condition.last_transition_time.clone());
    PodCondition {
        type_: name.into(),
        status: "True".into(),
        reason: Some(reason.to_owned()).filter(|reason| !reason.is_empty()),
        message: Some(message.to_owned()).filter(|message| !message.is_empty()),
        last_transition_time: Some(since.unwrap_or(Time(facts.now))),
        ..PodCondition::default()
    }
}

#[derive(Clone, Debug)]
struct Verdict {
    value: bool,
    reason: &'static str,
    message: String,
}

impl Verdict {
    const YES: Verdict = Verdict { value: true, reason: "", message: String::new() };

    fn yes(reason: &'static str) -> Verdict {
        Verdict { value: true, reason, message: String::new() }
    }

    fn no(reason: &'static str, message: String) -> Verdict {
        Verdict { value: false, reason, message }
    }
}

/// Readiness gates are conditions that others set; the pod is ready when all of them are true.
fn gates(pod: &Pod) -> Verdict {
    let gates = pod.spec.as_ref().and_then(|spec| spec.readiness_gates.as_deref()).unwrap_or_default();
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let problems: Vec<String> = gates
        .iter()
        .filter_map(|gate| {
            let name = &gate.condition_type;
            match conditions.iter().find(|condition| &condition.type_ == name) {
                None => {
                    Some(format!("corresponding condition of pod readiness gate \"{name}\" does not exist."))
                }
                Some(condition) if condition.status != "True" => Some(format!(
                    "the status of pod readiness gate \"{name}\" is not \"True\", but {}",
                    condition.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    if problems.is_empty() {
        Verdict::YES
    } else {
        Verdict::no("ReadinessGatesNotReady", problems.join(", "))
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
