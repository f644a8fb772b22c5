//! The status of a stateful set.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{apps::v1::StatefulSetStatus, core::v1::Pod};

use super::{
    identity,
    plan::{self, Observed},
};
use crate::pods;

pub(super) fn status(
    observed: &Observed<'_>,
    min_ready: SignedDuration,
    now: Timestamp,
) -> StatefulSetStatus {
    let set = observed.set;
    let old = set.status.clone().unwrap_or_default();
    let count = |counts: &dyn Fn(&Pod) -> bool| {
        i32::try_from(observed.pods.iter().filter(|pod| counts(pod)).count()).unwrap_or(i32::MAX)
    };
    let of = |pod: &Pod, version: &plan::Version| {
        pod.metadata.deletion_timestamp.is_none() && identity::revision(pod) == version.name
    };
    let ready = count(&|pod| plan::is_running(pod) && pods::is_ready(pod));
    let available = count(&|pod| plan::is_running(pod) && pods::is_available(pod, min_ready, now));
    let updated = count(&|pod| of(pod, observed.update));
    let replicas = count(&|_| true);
    let mut status = StatefulSetStatus {
        replicas,
        ready_replicas: some(ready),
        available_replicas: Some(available),
        current_replicas: some(count(&|pod| of(pod, observed.current))),
        updated_replicas: some(updated),
        current_revision: Some(observed.current.name.clone()),
        update_revision: Some(observed.update.name.clone()),
        collision_count: Some(old.collision_count.unwrap_or(0)),
        observed_generation: set.metadata.generation,
        conditions: old.conditions,
    };
    let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    let rolls = strategy.and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete");
    let all = plan::replicas(set);
    if rolls && (replicas, updated, ready) == (all, all, all) {
        // The rollout is over: what was new is what is.
        status.current_revision.clone_from(&status.update_revision);
        status.current_replicas = status.updated_replicas;
    }
    status
}

/// Nothing for none, as the API leaves zeros out.
fn some(count: i32) -> Option<i32> {
    Some(count).filter(|count| *count > 0)
}
