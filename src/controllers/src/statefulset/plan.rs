//! What a stateful set has to do, given what is.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    apps::v1::{RollingUpdateStatefulSetStrategy, StatefulSet, StatefulSetStatus},
    core::v1::{Pod, PodTemplateSpec},
};

use super::{identity, status};
use crate::{
    intstr::{Round, scaled},
    pods,
};

/// A template and the name of its revision.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Version {
    pub(super) name: String,
    pub(super) template: PodTemplateSpec,
}

/// What is.
pub(super) struct Observed<'a> {
    pub(super) set: &'a StatefulSet,
    /// The pods of the set; all are named like one.
    pub(super) pods: &'a [Arc<Pod>],
    /// What pods were made of before the rollout that is under way.
    pub(super) current: &'a Version,
    /// What pods are to be made of.
    pub(super) update: &'a Version,
}

/// Something to be done.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// This pod, and first its claims.
    Create(Box<Pod>),
    /// The pod has ended and makes room for another.
    Replace(Arc<Pod>),
    /// There is one too many, or it is of an old version.
    Delete(Arc<Pod>),
    /// The pod lacks what tells it from the others.
    Repair(Box<Pod>),
}

/// What is to be done.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    pub(super) status: StatefulSetStatus,
    /// Pods that stay as long as nothing changes, and those beyond the set's size.
    pub(super) kept: Vec<Arc<Pod>>,
    pub(super) surplus: Vec<Arc<Pod>>,
    /// When to look again although nothing changes.
    pub(super) again: Option<Duration>,
}

pub(super) fn plan(observed: &Observed<'_>, now: Timestamp) -> Plan {
    let planner = Planner::new(observed, now);
    let steps = planner.steps();
    let min_ready = planner.min_ready;
    Plan {
        steps,
        status: status::status(observed, min_ready, now),
        kept: planner.slots.values().flatten().cloned().collect(),
        surplus: planner.surplus,
        again: pods::next_available(observed.pods, min_ready, now),
    }
}

struct Planner<'a> {
    set: &'a StatefulSet,
    current: &'a Version,
    update: &'a Version,
    /// The pod of each ordinal that there should be.
    slots: BTreeMap<i32, Option<Arc<Pod>>>,
    /// The pods that there should not be, the highest ordinal first.
    surplus: Vec<Arc<Pod>>,
    /// One after the other.
    ordered: bool,
    min_ready: SignedDuration,
    now: Timestamp,
}

/// Whether to go on with what comes later.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    GoOn,
    Wait,
}

impl<'a> Planner<'a> {
    fn new(observed: &Observed<'a>, now: Timestamp) -> Self {
        let set = observed.set;
        let spec = set.spec.as_ref();
        let range = ordinals(set);
        let mut slots: BTreeMap<i32, Option<Arc<Pod>>> = range.map(|ordinal| (ordinal, None)).collect();
        let mut surplus = Vec::new();
        for pod in observed.pods {
            let Some(ordinal) = identity::ordinal(set, pod) else { continue };
            match slots.get_mut(&ordinal) {
                Some(slot) => *slot = Some(pod.clone()),
                None => surplus.push(pod.clone()),
            }
        }
        surplus.sort_by_key(|pod| std::cmp::Reverse(identity::ordinal(set, pod)));
        let parallel = spec.and_then(|spec| spec.pod_management_policy.as_deref()) == Some("Parallel");
        Planner {
            set,
            current: observed.current,
            update: observed.update,
            slots,
            surplus,
            ordered: !parallel,
            min_ready: pods::min_ready(spec.and_then(|spec| spec.min_ready_seconds)),
            now,
        }
    }

    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        let done = self.fill(&mut steps) == Then::GoOn && self.shrink(&mut steps) == Then::GoOn;
        if done {
            self.roll(&mut steps);
        }
        steps
    }

    /// Running and ready for long enough.
    fn is_available(&self, pod: &Pod) -> bool {
        is_running(pod) && pods::is_available(pod, self.min_ready, self.now)
    }

    fn is_healthy(&self, pod: &Pod) -> bool {
        pod.metadata.deletion_timestamp.is_none() && self.is_available(pod)
    }

    fn wait(&self) -> Then {
        if self.ordered { Then::Wait } else { Then::GoOn }
    }

    /// Every ordinal gets its pod, the lowest first.
    fn fill(&self, steps: &mut Vec<Step>) -> Then {
        for (ordinal, slot) in &self.slots {
            let then = self.fill_slot(*ordinal, slot.as_ref(), steps);
            if then == Then::Wait {
                return then;
            }
        }
        Then::GoOn
    }

    fn fill_slot(&self, ordinal: i32, slot: Option<&Arc<Pod>>, steps: &mut Vec<Step>) -> Then {
        let Some(pod) = slot else {
            let version = if self.keeps_current(ordinal) { self.current } else { self.update };
            steps.push(Step::Create(Box::new(identity::pod(self.set, ordinal, version))));
            return self.wait();
        };
        let going = pod.metadata.deletion_timestamp.is_some();
        if pods::is_terminal(pod) {
            if !going {
                steps.push(Step::Replace(pod.clone()));
            }
            return self.wait();
        }
        if !going && let Some(repaired) = identity::repaired(pod) {
            steps.push(Step::Repair(Box::new(repaired)));
        }
        if self.is_healthy(pod) { Then::GoOn } else { self.wait() }
    }

    /// True if a pod of this ordinal stays with the version before the rollout.
    fn keeps_current(&self, ordinal: i32) -> bool {
        let start = start(self.set);
        match self.rolling() {
            Rolling::Never => false,
            Rolling::From { partition, .. } => ordinal < start.saturating_add(partition),
        }
    }

    /// What is too much goes, the highest ordinal first.
    fn shrink(&self, steps: &mut Vec<Step>) -> Then {
        let unhealthy = |pod: &&Arc<Pod>| !self.is_healthy(pod);
        let first_unhealthy = self.surplus.iter().rev().find(unhealthy);
        for pod in &self.surplus {
            if pod.metadata.deletion_timestamp.is_some() {
                if self.ordered {
                    return Then::Wait;
                }
                continue;
            }
            let is_first = first_unhealthy.is_some_and(|first| Arc::ptr_eq(first, pod));
            if self.ordered && !self.is_available(pod) && !is_first {
                return Then::Wait;
            }
            steps.push(Step::Delete(pod.clone()));
            if self.ordered {
                return Then::Wait;
            }
        }
        Then::GoOn
    }

    fn rolling(&self) -> Rolling {
        let strategy = self.set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
            return Rolling::Never;
        }
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let partition = rolling.and_then(|rolling| rolling.partition).unwrap_or(0).max(0);
        Rolling::From { partition, unavailable: rolling.and_then(|rolling| self.max_unavailable(rolling)) }
    }

    fn max_unavailable(&self, rolling: &RollingUpdateStatefulSetStrategy) -> Option<usize> {
        let total = i32::try_from(self.slots.len()).unwrap_or(i32::MAX);
        let unavailable = scaled(rolling.max_unavailable.as_ref()?, total, Round::Down)?;
        Some(usize::try_from(unavailable).unwrap_or(0).max(1))
    }

    /// Pods of an old version go, the highest ordinal first.
    fn roll(&self, steps: &mut Vec<Step>) {
        let Rolling::From { partition, unavailable } = self.rolling() else { return };
        let from = start(self.set).saturating_add(partition);
        let old = |pod: &Arc<Pod>| identity::revision(pod) != self.update.name;
        let targets = || self.slots.range(from..).rev();
        let planned: Vec<String> = steps.iter().filter_map(doomed).collect();
        let going = |pod: &Arc<Pod>| {
            pod.metadata.deletion_timestamp.is_some()
                || planned.iter().any(|name| name == pods::name(&pod.metadata))
        };
        let Some(unavailable) = unavailable else {
            // One at a time: the highest that is old goes, unless one above it is not there yet.
            for (_, slot) in targets() {
                let Some(pod) = slot else { return };
                if old(pod) && !going(pod) {
                    steps.push(Step::Delete(pod.clone()));
                    return;
                }
                if !self.is_healthy(pod) || going(pod) {
                    return;
                }
            }
            return;
        };
        let missing = self
            .slots
            .values()
            .filter(|slot| slot.as_ref().is_none_or(|pod| !self.is_healthy(pod) || going(pod)));
        let mut left = unavailable.saturating_sub(missing.count());
        for pod in targets().filter_map(|(_, slot)| slot.as_ref()) {
            if left == 0 {
                return;
            }
            if old(pod) && !going(pod) {
                steps.push(Step::Delete(pod.clone()));
                left -= 1;
            }
        }
    }
}

/// How pods of an old version are replaced.
enum Rolling {
    /// By whoever deletes them.
    Never,
    /// From this index on; `unavailable` pods at a time, or strictly one.
    From { partition: i32, unavailable: Option<usize> },
}

/// The pod that a step ends.
fn doomed(step: &Step) -> Option<String> {
    match step {
        Step::Replace(pod) | Step::Delete(pod) => Some(pods::name(&pod.metadata).to_owned()),
        Step::Create(_) | Step::Repair(_) => None,
    }
}

pub(super) fn is_running(pod: &Pod) -> bool {
    pods::phase(pod) == "Running"
}

fn start(set: &StatefulSet) -> i32 {
    let ordinals = set.spec.as_ref().and_then(|spec| spec.ordinals.as_ref());
    ordinals.and_then(|ordinals| ordinals.start).unwrap_or(0).max(0)
}

/// The ordinals that there should be pods of.
fn ordinals(set: &StatefulSet) -> std::ops::Range<i32> {
    start(set)..start(set).saturating_add(replicas(set))
}

pub(super) fn replicas(set: &StatefulSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1).max(0)
}
