//! The status of a deployment and its conditions, in Kubernetes' words.

use std::time::Duration;

use coracle_client::clock;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::rollout::Rollout;
use crate::pods;

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const FAILURE: &str = "ReplicaFailure";

const CREATED: &str = "NewReplicaSetCreated";
const FOUND: &str = "FoundNewReplicaSet";
const UPDATED: &str = "ReplicaSetUpdated";
const DONE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";
const RESUMED: &str = "DeploymentResumed";

/// Why no replica set could be created: the condition's reason and the event's.
pub(super) const CREATE_FAILED: &str = "ReplicaSetCreateError";

/// What happened to the replica set of the current template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum New {
    Missing,
    Found,
    Created,
}

/// The status that the replica sets make, without progress: of a deployment that is paused, being scaled
/// or being deleted.
pub(super) fn counted(deployment: &Deployment, rollout: &Rollout, now: Timestamp) -> DeploymentStatus {
    let old = deployment.status.clone().unwrap_or_default();
    let sum = |count: &dyn Fn(&super::rollout::Draft) -> i32| rollout.all().map(count).sum::<i32>();
    let available = sum(&|draft| draft.available());
    let ready = sum(&|draft| draft.set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0));
    let terminating =
        sum(&|draft| draft.set.status.as_ref().and_then(|status| status.terminating_replicas).unwrap_or(0));
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: number(sum(&|draft| draft.actual())),
        updated_replicas: number(rollout.new.as_ref().map_or(0, |new| new.actual())),
        ready_replicas: number(ready),
        available_replicas: number(available),
        unavailable_replicas: number(sum(&|draft| draft.replicas()) - available),
        terminating_replicas: number(terminating),
        collision_count: old.collision_count,
        conditions: old.conditions,
    };
    let (value, reason, message) = if available >= rollout.bounds.least() {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set(&mut status, condition(AVAILABLE, value, reason, message.to_owned(), now));
    status
}

/// Says that the deployment was paused or resumed, so that the pause does not count as lack of progress.
pub(super) fn note_pause(deployment: &Deployment, status: &mut DeploymentStatus, now: Timestamp) {
    if deadline(deployment).is_none() {
        return;
    }
    let reason = find(status, PROGRESSING).and_then(|condition| condition.reason.as_deref());
    let paused = deployment.spec.as_ref().and_then(|spec| spec.paused) == Some(true);
    let (reason, message) = match (paused, reason) {
        (_, Some(TIMED_OUT)) | (true, Some(PAUSED)) => return,
        (true, _) => (PAUSED, "Deployment is paused"),
        (false, Some(PAUSED)) => (RESUMED, "Deployment is resumed"),
        (false, _) => return,
    };
    set(status, condition(PROGRESSING, "Unknown", reason, message.to_owned(), now));
}

/// Says that the replica set of the current template was found or created.
pub(super) fn note_new(
    deployment: &Deployment,
    rollout: &Rollout,
    new: New,
    status: &mut DeploymentStatus,
    now: Timestamp,
) {
    let Some(draft) = rollout.new.as_ref().filter(|_| deadline(deployment).is_some()) else { return };
    let name = pods::name(&draft.set.metadata);
    let (reason, message) = match new {
        New::Created => (CREATED, format!("Created new replica set {name:?}")),
        New::Found if find(status, PROGRESSING).is_none() => {
            (FOUND, format!("Found new replica set {name:?}"))
        }
        New::Found | New::Missing => return,
    };
    set(status, condition(PROGRESSING, "True", reason, message, now));
}

/// Says that the replica set could not be created.
pub(super) fn note_failure(
    deployment: &Deployment,
    status: &mut DeploymentStatus,
    message: &str,
    now: Timestamp,
) {
    if deadline(deployment).is_some() {
        set(status, condition(PROGRESSING, "False", CREATE_FAILED, message.to_owned(), now));
    }
}

/// Tells whether the rollout moves, is done or hangs.
pub(super) fn note_progress(
    deployment: &Deployment,
    rollout: &Rollout,
    status: &mut DeploymentStatus,
    now: Timestamp,
) {
    let current = find(status, PROGRESSING).cloned();
    let Some(deadline) = deadline(deployment) else {
        remove(status, PROGRESSING);
        note_replica_failure(rollout, status);
        return;
    };
    let reason = current.as_ref().and_then(|condition| condition.reason.as_deref());
    let settled = status.replicas == status.updated_replicas && reason == Some(DONE);
    let (kind, name) = match &rollout.new {
        Some(new) => ("ReplicaSet", pods::name(&new.set.metadata)),
        None => ("Deployment", pods::name(&deployment.metadata)),
    };
    if !settled {
        if is_complete(deployment, rollout, status) {
            let message = format!("{kind} {name:?} has successfully progressed.");
            set(status, condition(PROGRESSING, "True", DONE, message, now));
        } else if moves(deployment.status.as_ref(), status) {
            let message = format!("{kind} {name:?} is progressing.");
            let mut progress = condition(PROGRESSING, "True", UPDATED, message, now);
            if let Some(current) = current.filter(|current| current.status == "True") {
                progress.last_transition_time = current.last_transition_time;
            }
            // The time of the update is what the deadline counts from, so this always replaces.
            remove(status, PROGRESSING);
            status.conditions.get_or_insert_default().push(progress);
        } else if is_late(current.as_ref(), deadline, now) {
            let message = format!("{kind} {name:?} has timed out progressing.");
            set(status, condition(PROGRESSING, "False", TIMED_OUT, message, now));
        }
    }
    note_replica_failure(rollout, status);
}

/// When the deadline for progress ends, if the rollout is under way.
pub(super) fn look_again(
    deployment: &Deployment,
    status: &DeploymentStatus,
    now: Timestamp,
) -> Option<Duration> {
    let deadline = deadline(deployment)?;
    let condition = find(status, PROGRESSING)?;
    if matches!(condition.reason.as_deref(), Some(DONE | TIMED_OUT | PAUSED)) {
        return None;
    }
    let since = condition.last_update_time.as_ref()?.0;
    // Times are whole seconds: a second later it is over for sure.
    let left = deadline - now.duration_since(since) + SignedDuration::from_secs(1);
    Some(Duration::try_from(left).unwrap_or_default().max(Duration::from_secs(1)))
}

/// True if every pod is of the current template and available.
pub(super) fn is_complete(deployment: &Deployment, rollout: &Rollout, status: &DeploymentStatus) -> bool {
    let all = number(rollout.bounds.replicas);
    status.updated_replicas == all
        && status.replicas == all
        && status.available_replicas == all
        && status.observed_generation >= deployment.metadata.generation
}

/// `progressDeadlineSeconds`, unless there is none.
fn deadline(deployment: &Deployment) -> Option<SignedDuration> {
    let seconds = deployment.spec.as_ref()?.progress_deadline_seconds?;
    (seconds != i32::MAX).then(|| SignedDuration::from_secs(i64::from(seconds)))
}

/// True if there is more of what there should be, or less of what there should not.
fn moves(old: Option<&DeploymentStatus>, new: &DeploymentStatus) -> bool {
    let counts = |status: &DeploymentStatus| {
        let updated = status.updated_replicas.unwrap_or(0);
        let outdated = status.replicas.unwrap_or(0) - updated;
        (updated, outdated, status.ready_replicas.unwrap_or(0), status.available_replicas.unwrap_or(0))
    };
    let old = old.map(counts).unwrap_or_default();
    let new = counts(new);
    new.0 > old.0 || new.1 < old.1 || new.2 > old.2 || new.3 > old.3
}

fn is_late(current: Option<&DeploymentCondition>, deadline: SignedDuration, now: Timestamp) -> bool {
    let Some(current) = current else { return false };
    match current.reason.as_deref() {
        Some(DONE) => false,
        Some(TIMED_OUT) => true,
        _ => {
            let since = current.last_update_time.as_ref().map(|time| time.0);
            since.is_some_and(|since| now.duration_since(since) > deadline)
        }
    }
}

/// What the replica sets have to complain about, the newest first.
fn note_replica_failure(rollout: &Rollout, status: &mut DeploymentStatus) {
    let complaint = rollout.new.iter().chain(&rollout.old).find_map(|draft| {
        let conditions = draft.set.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|condition| condition.type_ == FAILURE).cloned()
    });
    match complaint {
        Some(complaint) => {
            let told = DeploymentCondition {
                type_: complaint.type_,
                status: complaint.status,
                reason: complaint.reason,
                message: complaint.message,
                last_update_time: complaint.last_transition_time.clone(),
                last_transition_time: complaint.last_transition_time,
            };
            set(status, told);
        }
        None => remove(status, FAILURE),
    }
}

fn condition(
    type_: &str,
    status: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) -> DeploymentCondition {
    let now = Some(Time(clock::seconds(now)));
    DeploymentCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: now.clone(),
        last_transition_time: now,
    }
}

pub(super) fn find<'a>(status: &'a DeploymentStatus, type_: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.as_ref()?.iter().find(|condition| condition.type_ == type_)
}

/// Puts a condition in the place of the one of its type, unless that says the same.
fn set(status: &mut DeploymentStatus, mut new: DeploymentCondition) {
    if let Some(old) = find(status, &new.type_)
        && old.status == new.status
    {
        if old.reason == new.reason {
            return;
        }
        new.last_transition_time = old.last_transition_time.clone();
    }
    remove(status, &new.type_);
    status.conditions.get_or_insert_default().push(new);
}

fn remove(status: &mut DeploymentStatus, type_: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_ != type_);
        if conditions.is_empty() {
            status.conditions = None;
        }
    }
}

/// Nothing for none, as the API leaves zeros out.
fn number(count: i32) -> Option<i32> {
    Some(count).filter(|count| *count > 0)
}
