//! The status of a replica set.

use coracle_client::clock;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSetCondition, ReplicaSetStatus},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{kinds::Replicated, plan::Plan};
use crate::pods;

const FAILURE: &str = "ReplicaFailure";

/// The status that the plan's pods make; `failure` is reason and message of what went wrong now.
pub(super) fn status<S: Replicated>(
    set: &S,
    plan: &Plan,
    failure: Option<&(&'static str, String)>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let owned = &plan.claims.owned;
    let min_ready = pods::min_ready(set.min_ready_seconds());
    let labels = set.template().and_then(|template| template.metadata.as_ref()?.labels.as_ref());
    let labelled = |pod: &Pod| {
        let own = pod.metadata.labels.as_ref();
        labels.into_iter().flatten().all(|(name, value)| own.and_then(|own| own.get(name)) == Some(value))
    };
    let count = |counts: &dyn Fn(&Pod) -> bool| number(owned.iter().filter(|pod| counts(pod)).count());
    ReplicaSetStatus {
        replicas: number(owned.len()).unwrap_or(0),
        fully_labeled_replicas: count(&labelled),
        ready_replicas: count(&pods::is_ready),
        available_replicas: count(&|pod| pods::is_available(pod, min_ready, now)),
        terminating_replicas: number(plan.terminating),
        observed_generation: set.meta().generation,
        conditions: conditions(set.status(), failure, now),
    }
}

/// Nothing for none, as the API leaves zeros out.
fn number(count: usize) -> Option<i32> {
    i32::try_from(count).ok().filter(|count| *count > 0)
}

fn conditions(
    old: Option<ReplicaSetStatus>,
    failure: Option<&(&'static str, String)>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let old = old.and_then(|status| status.conditions).unwrap_or_default();
    let (mut known, mut conditions): (Vec<_>, Vec<_>) =
        old.into_iter().partition(|condition| condition.type_ == FAILURE);
    if let Some((reason, message)) = failure {
        conditions.push(known.pop().unwrap_or_else(|| ReplicaSetCondition {
            type_: FAILURE.to_owned(),
            status: "True".to_owned(),
            reason: Some((*reason).to_owned()),
            message: Some(message.clone()),
            last_transition_time: Some(Time(clock::seconds(now))),
        }));
    }
    (!conditions.is_empty()).then_some(conditions)
}
