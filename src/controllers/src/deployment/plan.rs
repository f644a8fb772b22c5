//! What a deployment has to do, given what is.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{Deployment, DeploymentStatus, ReplicaSet},
    core::v1::Pod,
};

use super::{
    bounds::is_recreate,
    revision,
    rollout::{Draft, Rollout},
    status::{self, New},
};
use crate::pods;

/// What is.
pub(super) struct Observed<'a> {
    pub(super) deployment: &'a Deployment,
    /// The replica sets that the deployment controls.
    pub(super) sets: &'a [Arc<ReplicaSet>],
    /// The pods of the replica set with this uid, also those that end. Only asked for by `Recreate`.
    pub(super) pods: &'a (dyn Fn(&str) -> Vec<Arc<Pod>> + Sync),
}

/// A write to a replica set.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Create(ReplicaSet),
    /// `from` is its size before.
    Update {
        set: ReplicaSet,
        from: i32,
    },
    Delete(Arc<ReplicaSet>),
}

/// What is to be done, in this order; a failure ends it.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) changes: Vec<Change>,
    /// The revision that the deployment is to be annotated with.
    pub(super) revision: Option<String>,
    pub(super) status: DeploymentStatus,
    /// When to look again although nothing changes.
    pub(super) again: Option<Duration>,
}

pub(super) fn plan(observed: &Observed<'_>, now: Timestamp) -> Plan {
    let deployment = observed.deployment;
    let mut rollout = Rollout::of(deployment, observed.sets);
    if deployment.metadata.deletion_timestamp.is_some() {
        let status = status::counted(deployment, &rollout, now);
        return Plan { changes: Vec::new(), revision: None, status, again: None };
    }
    let paused = deployment.spec.as_ref().and_then(|spec| spec.paused) == Some(true);
    let newest_other = rollout.newest_other();
    let mut new = New::Missing;
    if let Some(draft) = &mut rollout.new {
        revision::refresh(&mut draft.set, deployment, newest_other);
        new = New::Found;
    }
    // A change of strategy may leave several that are active, which `Recreate` does not scale but end.
    let recreates = is_recreate(deployment);
    let settles = paused || (rollout.is_scaling() && !(recreates && rollout.active() > 1));
    if settles {
        let status_replicas = deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0);
        rollout.scale(recreates, status_replicas);
    } else if recreates {
        recreate(observed, &mut rollout, &mut new, newest_other);
    } else {
        create_missing(deployment, &mut rollout, &mut new, newest_other);
        rollout.roll();
    }
    let mut status = status::counted(deployment, &rollout, now);
    status::note_pause(deployment, &mut status, now);
    status::note_new(deployment, &rollout, new, &mut status, now);
    if !settles {
        status::note_progress(deployment, &rollout, &mut status, now);
    }
    let mut changes: Vec<Change> = rollout.new.iter().chain(&rollout.old).filter_map(change).collect();
    if paused || (!settles && status::is_complete(deployment, &rollout, &status)) {
        changes.extend(outlived(deployment, &rollout).into_iter().map(Change::Delete));
    }
    let told = revision::annotation(&deployment.metadata, revision::REVISION);
    let revision = rollout.new.as_ref().map(|draft| revision::revision(&draft.set).to_string());
    Plan {
        changes,
        revision: revision.filter(|revision| told != Some(revision.as_str())),
        again: status::look_again(deployment, &status, now).filter(|_| !paused),
        status,
    }
}

/// No new pod before the last old one has ended.
fn recreate(observed: &Observed<'_>, rollout: &mut Rollout, new: &mut New, newest_other: i64) {
    if !rollout.drop_old() {
        return;
    }
    let runs = |draft: &Draft| {
        let pods = (observed.pods)(pods::uid(&draft.set.metadata));
        draft.is_behind() || draft.actual() > 0 || pods.iter().any(|pod| !pods::is_terminal(pod))
    };
    if rollout.old.iter().any(runs) {
        return;
    }
    create_missing(observed.deployment, rollout, new, newest_other);
    rollout.fill_new();
}

fn create_missing(deployment: &Deployment, rollout: &mut Rollout, new: &mut New, newest_other: i64) {
    if rollout.new.is_none() {
        let mut set = revision::replica_set(deployment, newest_other);
        revision::note_size(&mut set, &rollout.bounds);
        rollout.new = Some(Draft { before: None, set });
        *new = New::Created;
    }
}

fn change(draft: &Draft) -> Option<Change> {
    match &draft.before {
        None => Some(Change::Create(draft.set.clone())),
        Some(before) if **before != draft.set => {
            Some(Change::Update { set: draft.set.clone(), from: Draft::of(before).replicas() })
        }
        Some(_) => None,
    }
}

/// Old replica sets beyond `revisionHistoryLimit` that are not in use any more.
fn outlived(deployment: &Deployment, rollout: &Rollout) -> Vec<Arc<ReplicaSet>> {
    let limit = deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit);
    let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else { return Vec::new() };
    let mut old: Vec<&Arc<ReplicaSet>> = rollout
        .old
        .iter()
        .filter_map(|draft| draft.before.as_ref())
        .filter(|set| set.metadata.deletion_timestamp.is_none())
        .collect();
    old.sort_by_key(|set| revision::revision(set));
    let unused = |set: &&Arc<ReplicaSet>| {
        let draft = Draft::of(set);
        let observed = set.status.as_ref().and_then(|status| status.observed_generation);
        draft.replicas() == 0 && draft.actual() == 0 && observed >= set.metadata.generation
    };
    old.iter().take(old.len().saturating_sub(limit)).copied().filter(unused).cloned().collect()
}
