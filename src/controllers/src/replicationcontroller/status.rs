//! The status of a replication controller.

use std::sync::Arc;

use coracle_client::clock;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        Pod, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{labels_of, plan};
use crate::pods;

const FAILURE: &str = "ReplicaFailure";

/// The status that `owned` makes; `failure` is reason and message of what went wrong now.
pub(super) fn status(
    controller: &ReplicationController,
    owned: &[Arc<Pod>],
    failure: Option<&(&'static str, String)>,
    now: Timestamp,
) -> ReplicationControllerStatus {
    let min_ready = plan::min_ready(controller.spec.as_ref().and_then(|spec| spec.min_ready_seconds));
    let labels = labels_of(controller);
    let labelled = |pod: &Pod| {
        let own = pod.metadata.labels.as_ref();
        labels.into_iter().flatten().all(|(name, value)| own.and_then(|own| own.get(name)) == Some(value))
    };
    let available =
        |pod: &Pod| pods::until_available(pod, min_ready, now).is_some_and(|left| !left.is_positive());
    ReplicationControllerStatus {
        replicas: count(owned, |_| true).unwrap_or(0),
        fully_labeled_replicas: count(owned, labelled),
        ready_replicas: count(owned, pods::is_ready),
        available_replicas: count(owned, available),
        observed_generation: controller.metadata.generation,
        conditions: conditions(controller, failure, now),
    }
}

/// How many pods; nothing for none, as the API leaves zeros out.
fn count(owned: &[Arc<Pod>], counts: impl Fn(&Pod) -> bool) -> Option<i32> {
    let count = owned.iter().filter(|pod| counts(pod)).count();
    i32::try_from(count).ok().filter(|count| *count > 0)
}

fn conditions(
    controller: &ReplicationController,
    failure: Option<&(&'static str, String)>,
    now: Timestamp,
) -> Option<Vec<ReplicationControllerCondition>> {
    let old = controller.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let (mut known, mut conditions): (Vec<_>, Vec<_>) =
        old.into_iter().partition(|condition| condition.type_ == FAILURE);
    if let Some((reason, message)) = failure {
        conditions.push(known.pop().unwrap_or_else(|| ReplicationControllerCondition {
            type_: FAILURE.to_owned(),
            status: "True".to_owned(),
            reason: Some((*reason).to_owned()),
            message: Some(message.clone()),
            last_transition_time: Some(Time(clock::seconds(now))),
        }));
    }
    (!conditions.is_empty()).then_some(conditions)
}
