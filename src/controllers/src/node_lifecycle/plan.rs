//! What is to be said about a node.

use std::{sync::Arc, time::Duration};

use coracle_client::clock;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Node, NodeCondition, Pod, Taint},
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, Time},
};

use crate::{
    nodes::{condition, is_ready},
    pods,
};

/// Conditions that only the node can know, and that are unknown when it is silent.
const TOLD_BY_NODE: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

const NO_SCHEDULE: &str = "NoSchedule";
/// Pods that do not tolerate it have to go; see [`crate::taint_eviction`].
const NO_EXECUTE: &str = "NoExecute";

/// Conditions that keep pods away, and the taints that say so.
const TAINTED_BY: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

/// What changes when a node lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pulse {
    renewed: Option<MicroTime>,
    heartbeat: Option<Time>,
}

impl Pulse {
    pub(super) fn of(node: &Node, lease: Option<&Lease>) -> Self {
        let ready = condition(node, "Ready");
        Pulse {
            renewed: lease.and_then(|lease| lease.spec.as_ref()).and_then(|spec| spec.renew_time.clone()),
            heartbeat: ready.and_then(|ready| ready.last_heartbeat_time.clone()),
        }
    }
}

pub(super) struct Observed<'a> {
    pub(super) node: &'a Node,
    /// Pods on the node; needed only if it is not ready, or silent.
    pub(super) pods: &'a [Arc<Pod>],
    /// For how long nothing was heard of the node.
    pub(super) silent: Duration,
    /// For how long a node may be silent.
    pub(super) grace: Duration,
    pub(super) eviction: Eviction,
}

/// Whether the pods of a node that is not ready have to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Eviction {
    /// They may stay, even if they had to go before.
    Off,
    /// If they had to go before, they still have to.
    Held,
    /// They have to go.
    Now,
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// The conditions to be written: the node has fallen silent.
    pub(super) conditions: Option<Vec<NodeCondition>>,
    /// The taints to be written.
    pub(super) taints: Option<Vec<Taint>>,
    /// Pods that say they are ready although their node is not.
    pub(super) not_ready: Vec<Arc<Pod>>,
    /// Pods would have to go now, were that not held.
    pub(super) held: bool,
    /// When the node would have been silent for too long.
    pub(super) again: Option<Duration>,
}

pub(super) fn plan(observed: &Observed<'_>, now: Timestamp) -> Plan {
    let Observed { node, pods, silent, grace, eviction } = observed;
    let lost = silent >= grace;
    let mut plan = Plan::default();
    if lost {
        plan.conditions = unknown(node, now);
    } else {
        plan.again = Some(*grace - *silent);
    }
    if plan.conditions.is_some() {
        return plan;
    }
    if !is_ready(node) {
        plan.not_ready = pods.iter().filter(|pod| pods::is_ready(pod)).cloned().collect();
    }
    plan.held = *eviction == Eviction::Held && !is_ready(node) && !is_evicted(node);
    plan.taints = taints(node, *eviction, now);
    plan
}

/// The conditions of a silent node, if they do not say so already.
fn unknown(node: &Node, now: Timestamp) -> Option<Vec<NodeCondition>> {
    let old = node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let mut new = old.clone();
    let now = Time(clock::seconds(now));
    for type_ in TOLD_BY_NODE {
        match new.iter_mut().find(|condition| condition.type_ == type_) {
            Some(condition) if condition.status != "Unknown" => {
                condition.status = "Unknown".to_owned();
                condition.reason = Some("NodeStatusUnknown".to_owned());
                condition.message = Some("Kubelet stopped posting node status.".to_owned());
                condition.last_transition_time = Some(now.clone());
            }
            Some(_) => {}
            None => new.push(NodeCondition {
                type_: type_.to_owned(),
                status: "Unknown".to_owned(),
                reason: Some("NodeStatusNeverUpdated".to_owned()),
                message: Some("Kubelet never posted node status.".to_owned()),
                last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                last_transition_time: Some(now.clone()),
            }),
        }
    }
    (new != old).then_some(new)
}

/// True if its pods have to go already.
fn is_evicted(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    let evicts =
        |taint: &Taint| taint.effect == NO_EXECUTE && (taint.key == NOT_READY || taint.key == UNREACHABLE);
    taints.into_iter().flatten().any(evicts)
}

/// The taints that follow from conditions and cordon, if they are not there already. Taints of others
/// stay.
fn taints(node: &Node, eviction: Eviction, now: Timestamp) -> Option<Vec<Taint>> {
    let old = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let mut wanted = Vec::new();
    let trouble = match condition(node, "Ready").map(|ready| ready.status.as_str()) {
        Some("True") => None,
        Some("Unknown") => Some(UNREACHABLE),
        _ => Some(NOT_READY),
    };
    if let Some(key) = trouble {
        wanted.push((key, NO_SCHEDULE));
        if eviction == Eviction::Now || eviction == Eviction::Held && is_evicted(node) {
            wanted.push((key, NO_EXECUTE));
        }
    }
    let says = |type_: &str| condition(node, type_).is_some_and(|condition| condition.status == "True");
    wanted.extend(TAINTED_BY.into_iter().filter(|(type_, _)| says(type_)).map(|(_, key)| (key, NO_SCHEDULE)));
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, NO_SCHEDULE));
    }
    let is = |taint: &Taint, (key, effect): (&str, &str)| taint.key == key && taint.effect == effect;
    let keys = TAINTED_BY.iter().map(|(_, key)| *key).chain([NOT_READY, UNREACHABLE, UNSCHEDULABLE]);
    let ours: Vec<_> = keys
        .map(|key| (key, NO_SCHEDULE))
        .chain([(NOT_READY, NO_EXECUTE), (UNREACHABLE, NO_EXECUTE)])
        .collect();
    let stays = |taint: &&Taint| {
        !ours.iter().any(|one| is(taint, *one)) || wanted.iter().any(|wanted| is(taint, *wanted))
    };
    let mut new: Vec<Taint> = old.iter().filter(stays).cloned().collect();
    for wanted in wanted {
        if !new.iter().any(|taint| is(taint, wanted)) {
            new.push(Taint {
                key: wanted.0.to_owned(),
                effect: wanted.1.to_owned(),
                time_added: Some(Time(clock::seconds(now))),
                value: None,
            });
        }
    }
    (new != old).then_some(new)
}
