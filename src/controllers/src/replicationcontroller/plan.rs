//! What a replication controller has to do, given what is.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{Pod, ReplicationController},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::Resource;

use super::rank;
use crate::pods;

/// Pods created or deleted in one go, before looking again. Kubernetes' number.
const BURST: usize = 500;

/// What is.
pub(super) struct Observed<'a> {
    pub(super) controller: &'a ReplicationController,
    /// Pods of the namespace: at least those that the controller owns and those that nobody controls.
    pub(super) pods: &'a [Arc<Pod>],
    /// The pods include what this controller did before; otherwise they must not be counted.
    pub(super) caught_up: bool,
}

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Pods to be made the controller's own.
    pub(super) adopt: Vec<Arc<Pod>>,
    /// Pods of the controller that it no longer selects.
    pub(super) release: Vec<Arc<Pod>>,
    /// How many pods to create.
    pub(super) create: usize,
    /// Pods to delete.
    pub(super) delete: Vec<Arc<Pod>>,
    /// The pods that count, adopted ones among them.
    pub(super) owned: Vec<Arc<Pod>>,
    /// When to look again although nothing changes: a ready pod becomes available.
    pub(super) again: Option<Duration>,
}

pub(super) fn plan(observed: &Observed<'_>, now: Timestamp) -> Plan {
    let controller = observed.controller;
    let mut plan = Plan::default();
    for pod in observed.pods.iter().filter(|pod| pods::is_active(pod)) {
        claim(controller, pod, &mut plan);
    }
    let spec = controller.spec.as_ref();
    let wanted = wanted(controller);
    if observed.caught_up && controller.metadata.deletion_timestamp.is_none() {
        let have = plan.owned.len();
        if have < wanted {
            plan.create = (wanted - have).min(BURST);
        } else if have > wanted {
            plan.delete = rank::first_to_go(&plan.owned, (have - wanted).min(BURST), now);
        }
    }
    let min_ready = min_ready(spec.and_then(|spec| spec.min_ready_seconds));
    plan.again = plan
        .owned
        .iter()
        .filter_map(|pod| pods::until_available(pod, min_ready, now))
        .filter(|left| left.is_positive())
        .min()
        .and_then(|left| Duration::try_from(left).ok());
    plan
}

/// Whose pod it is.
fn claim(controller: &ReplicationController, pod: &Arc<Pod>, plan: &mut Plan) {
    let selector = controller.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let selected = pods::selects(selector, pod.metadata.labels.as_ref())
        && pod.metadata.namespace == controller.metadata.namespace;
    let going = controller.metadata.deletion_timestamp.is_some();
    match pods::controller_of(&pod.metadata) {
        Some(owner) if owner.uid != pods::uid(&controller.metadata) => {}
        Some(_) if selected => plan.owned.push(pod.clone()),
        Some(_) if !going => plan.release.push(pod.clone()),
        None if selected && !going => {
            plan.adopt.push(pod.clone());
            plan.owned.push(pod.clone());
        }
        Some(_) | None => {}
    }
}

/// How many pods are asked for.
pub(super) fn wanted(controller: &ReplicationController) -> usize {
    let replicas = controller.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    usize::try_from(replicas).unwrap_or(0)
}

/// How long a pod must be ready to be available.
pub(super) fn min_ready(seconds: Option<i32>) -> SignedDuration {
    SignedDuration::from_secs(i64::from(seconds.unwrap_or(0).max(0)))
}

/// The pod that the controller's template makes.
pub(super) fn pod(controller: &ReplicationController) -> Pod {
    let template = controller.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
    let meta = template.metadata.unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", pods::name(&controller.metadata))),
            namespace: controller.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: controller.controller_owner_ref(&()).map(|owner| {
                vec![k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference {
                    block_owner_deletion: Some(true),
                    ..owner
                }]
            }),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}
