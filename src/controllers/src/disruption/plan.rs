//! How many pods of a budget may be disrupted.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use coracle_client::{EventType, clock};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        core::v1::Pod,
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus},
    },
    apimachinery::pkg::{
        apis::meta::v1::{Condition, Time},
        util::intstr::IntOrString,
    },
};

use crate::{
    intstr::{self, Round},
    pods,
};

/// A pod whose eviction was granted and that is not being deleted after this time counts again.
const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);

const CONDITION: &str = "DisruptionAllowed";

/// How many pods the owners of the selected pods are meant to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) pods: i64,
    /// Some pods have no owner, so that the number cannot be known.
    pub(super) unmanaged: bool,
}

/// What is.
pub(super) struct Observed<'a> {
    pub(super) budget: &'a PodDisruptionBudget,
    pub(super) spec: &'a PodDisruptionBudgetSpec,
    /// The pods that it selects.
    pub(super) pods: &'a [Arc<Pod>],
    /// Where [`needs_scale`] says so.
    pub(super) expected: Expected,
}

/// What is to be said.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) status: PodDisruptionBudgetStatus,
    pub(super) events: Vec<(EventType, &'static str, String)>,
    /// Pods that should have been deleted.
    pub(super) spared: Vec<Arc<Pod>>,
    /// When to look again although nothing changes.
    pub(super) again: Option<Duration>,
}

/// True if the budget can only be computed from what the owners are meant to have.
pub(super) fn needs_scale(spec: &PodDisruptionBudgetSpec) -> bool {
    spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_)))
}

pub(super) fn plan(observed: &Observed<'_>, now: Timestamp) -> Result<Plan, String> {
    let Observed { budget, spec, pods, expected } = observed;
    let mut plan = Plan::default();
    if pods.is_empty() {
        plan.events.push((EventType::Normal, "NoPods", "No matching pods found".to_owned()));
    }
    if expected.unmanaged {
        plan.events.push((EventType::Warning, "UnmanagedPods", unmanaged(spec)));
    }
    let (expected_pods, desired) = wanted(spec, pods.len(), expected)?;
    disrupted(observed, &mut plan, now);
    let disrupted = plan.status.disrupted_pods.take().unwrap_or_default();
    let healthy = pods.iter().filter(|pod| {
        pod.metadata.deletion_timestamp.is_none()
            && pods::is_ready(pod)
            && !disrupted.contains_key(pods::name(&pod.metadata))
    });
    let healthy = i32::try_from(healthy.count()).unwrap_or(i32::MAX);
    // Nothing is allowed as long as nothing is expected: the first pods may appear before the next look.
    let allowed = if expected_pods > 0 { healthy.saturating_sub(desired).max(0) } else { 0 };
    let mut status = PodDisruptionBudgetStatus {
        current_healthy: healthy,
        desired_healthy: desired,
        expected_pods,
        disruptions_allowed: allowed,
        disrupted_pods: Some(disrupted).filter(|pods| !pods.is_empty()),
        observed_generation: budget.metadata.generation,
        conditions: budget.status.as_ref().and_then(|status| status.conditions.clone()),
    };
    let reason = if allowed > 0 { "SufficientPods" } else { "InsufficientPods" };
    set_condition(&mut status, allowed > 0, reason, "", now);
    plan.status = status;
    Ok(plan)
}

/// The status of a budget that could not be computed: nothing may be disrupted.
pub(super) fn failed(
    budget: &PodDisruptionBudget,
    message: &str,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    let mut status = budget.status.clone().unwrap_or_default();
    status.disruptions_allowed = 0;
    set_condition(&mut status, false, "SyncFailed", message, now);
    status
}

/// How many pods there should be, and how many of them must be healthy.
fn wanted(
    spec: &PodDisruptionBudgetSpec,
    selected: usize,
    expected: &Expected,
) -> Result<(i32, i32), String> {
    let total = i32::try_from(expected.pods).unwrap_or(i32::MAX);
    let scaled = |value: &IntOrString| {
        intstr::scaled(value, total, Round::Up).ok_or_else(|| "invalid value for IntOrString".to_owned())
    };
    if let Some(most) = &spec.max_unavailable {
        return Ok((total, total.saturating_sub(scaled(most)?).max(0)));
    }
    match &spec.min_available {
        Some(IntOrString::Int(least)) => Ok((i32::try_from(selected).unwrap_or(i32::MAX), *least)),
        Some(share) => Ok((total, scaled(share)?)),
        None => Ok((0, 0)),
    }
}

/// Pods whose eviction was granted: those that still may go, and those that did not.
fn disrupted(observed: &Observed<'_>, plan: &mut Plan, now: Timestamp) {
    let known = observed.budget.status.as_ref().and_then(|status| status.disrupted_pods.as_ref());
    let mut left: BTreeMap<String, Time> = BTreeMap::new();
    for pod in observed.pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        let name = pods::name(&pod.metadata);
        let Some(granted) = known.and_then(|known| known.get(name)) else { continue };
        let until = DELETION_TIMEOUT.saturating_sub(now.duration_since(granted.0));
        match Duration::try_from(until) {
            Ok(until) if !until.is_zero() => {
                plan.again = plan.again.into_iter().chain([until]).min();
                left.insert(name.to_owned(), granted.clone());
            }
            _ => plan.spared.push(pod.clone()),
        }
    }
    plan.status.disrupted_pods = Some(left);
}

fn set_condition(
    status: &mut PodDisruptionBudgetStatus,
    allowed: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let conditions = status.conditions.get_or_insert_default();
    let value = if allowed { "True" } else { "False" };
    let known = conditions.iter().position(|condition| condition.type_ == CONDITION);
    let since = known
        .map(|at| &conditions[at])
        .filter(|known| known.status == value)
        .map_or_else(|| Time(clock::seconds(now)), |known| known.last_transition_time.clone());
    let condition = Condition {
        type_: CONDITION.to_owned(),
        status: value.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: status.observed_generation,
        last_transition_time: since,
    };
    match known {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
}

fn unmanaged(spec: &PodDisruptionBudgetSpec) -> String {
    let selector = spec.selector.as_ref().and_then(|selector| serde_json::to_string(selector).ok());
    format!(
        "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.",
        selector.unwrap_or_default()
    )
}
