//! What a replica set has to do, given what is.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::{kinds::Replicated, rank};
use crate::{
    claim::{Claims, claim},
    pods,
};

/// Pods created or deleted in one go, before looking again. Kubernetes' number.
const BURST: usize = 500;

/// What is.
pub(super) struct Observed<'a, S> {
    pub(super) set: &'a S,
    /// Pods of the namespace: at least those that the set owns and those that nobody controls.
    pub(super) pods: &'a [Arc<Pod>],
    /// Pods of the sets that the same object controls, this one among them: a node that has many of them
    /// loses some first. Only asked for when pods are to go.
    pub(super) related: &'a (dyn Fn() -> Vec<Arc<Pod>> + Sync),
    /// The pods include what this controller did before; otherwise they must not be counted.
    pub(super) caught_up: bool,
}

/// What is to be done.
#[derive(Debug)]
pub(super) struct Plan {
    /// Whose the pods are. Those `owned` count.
    pub(super) claims: Claims<Pod>,
    /// How many pods to create.
    pub(super) create: usize,
    /// Pods to delete.
    pub(super) delete: Vec<Arc<Pod>>,
    /// How many pods of the set are being deleted.
    pub(super) terminating: usize,
    /// When to look again although nothing changes: a ready pod becomes available.
    pub(super) again: Option<Duration>,
}

pub(super) fn plan<S: Replicated>(observed: &Observed<'_, S>, now: Timestamp) -> Plan {
    let set = observed.set;
    let selector = set.selector();
    let selects =
        |pod: &Pod| selector.as_ref().is_some_and(|selector| selector.matches(&pod.metadata.labels.as_ref()));
    let active: Vec<_> = observed.pods.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
    let mut plan = Plan {
        claims: claim(set.meta(), &active, selects),
        create: 0,
        delete: Vec::new(),
        terminating: observed.pods.iter().filter(|pod| terminates(set, pod) && selects(pod)).count(),
        again: None,
    };
    let owned = &plan.claims.owned;
    let wanted = wanted(set);
    if observed.caught_up && set.meta().deletion_timestamp.is_none() {
        let have = owned.len();
        if have < wanted {
            plan.create = (wanted - have).min(BURST);
        } else if have > wanted {
            let related = (observed.related)();
            plan.delete = rank::first_to_go(owned, &related, (have - wanted).min(BURST), now);
        }
    }
    plan.again = pods::next_available(owned, pods::min_ready(set.min_ready_seconds()), now);
    plan
}

fn terminates<S: Replicated>(set: &S, pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
        && !pods::is_terminal(pod)
        && pods::controller_of(&pod.metadata).is_some_and(|owner| owner.uid == pods::uid(set.meta()))
}

/// How many pods are asked for.
pub(super) fn wanted<S: Replicated>(set: &S) -> usize {
    usize::try_from(set.replicas().unwrap_or(1)).unwrap_or(0)
}
