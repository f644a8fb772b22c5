//! What replica sets and replication controllers have in common, so that one engine serves both.
//!
//! As in Kubernetes, a replication controller is an older way to write a replica set.

use coracle_api::selector::LabelSelector as Selector;
use k8s_openapi::api::{
    apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus},
    core::v1::{
        PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
    },
};
use serde::Serialize;

use crate::{claim::Namespaced, pods};

/// A kind that asks for a number of equal pods.
pub(crate) trait Replicated: Namespaced + Serialize {
    /// The name of the loop.
    const NAME: &'static str;
    /// Who says the events.
    const COMPONENT: &'static str;

    /// `spec.replicas`.
    fn replicas(&self) -> Option<i32>;
    /// `spec.minReadySeconds`.
    fn min_ready_seconds(&self) -> Option<i32>;
    /// What selects the pods; `None` if nothing does.
    fn selector(&self) -> Option<Selector>;
    /// `spec.template`.
    fn template(&self) -> Option<&PodTemplateSpec>;
    /// The status as it is.
    fn status(&self) -> Option<ReplicaSetStatus>;
    /// Sets the status; false if it is the same already.
    fn set_status(&mut self, status: ReplicaSetStatus) -> bool;
}

impl Replicated for ReplicaSet {
    const NAME: &'static str = super::SETS;
    const COMPONENT: &'static str = "replicaset-controller";

    fn replicas(&self) -> Option<i32> {
        self.spec.as_ref()?.replicas
    }

    fn min_ready_seconds(&self) -> Option<i32> {
        self.spec.as_ref()?.min_ready_seconds
    }

    fn selector(&self) -> Option<Selector> {
        pods::selector(&self.spec.as_ref()?.selector)
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn status(&self) -> Option<ReplicaSetStatus> {
        self.status.clone()
    }

    fn set_status(&mut self, status: ReplicaSetStatus) -> bool {
        let status = Some(status);
        let changed = self.status != status;
        self.status = status;
        changed
    }
}

impl Replicated for ReplicationController {
    const NAME: &'static str = super::CONTROLLERS;
    const COMPONENT: &'static str = "replication-controller";

    fn replicas(&self) -> Option<i32> {
        self.spec.as_ref()?.replicas
    }

    fn min_ready_seconds(&self) -> Option<i32> {
        self.spec.as_ref()?.min_ready_seconds
    }

    fn selector(&self) -> Option<Selector> {
        let labels = self.spec.as_ref()?.selector.as_ref()?;
        Some(Selector::from_map(labels)).filter(|selector| !selector.is_empty())
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn status(&self) -> Option<ReplicaSetStatus> {
        let status = self.status.clone()?;
        let condition = |condition: ReplicationControllerCondition| ReplicaSetCondition {
            last_transition_time: condition.last_transition_time,
            message: condition.message,
            reason: condition.reason,
            status: condition.status,
            type_: condition.type_,
        };
        Some(ReplicaSetStatus {
            available_replicas: status.available_replicas,
            conditions: status.conditions.map(|all| all.into_iter().map(condition).collect()),
            fully_labeled_replicas: status.fully_labeled_replicas,
            observed_generation: status.observed_generation,
            ready_replicas: status.ready_replicas,
            replicas: status.replicas,
            terminating_replicas: None,
        })
    }

    fn set_status(&mut self, status: ReplicaSetStatus) -> bool {
        let condition = |condition: ReplicaSetCondition| ReplicationControllerCondition {
            last_transition_time: condition.last_transition_time,
            message: condition.message,
            reason: condition.reason,
            status: condition.status,
            type_: condition.type_,
        };
        let status = Some(ReplicationControllerStatus {
            available_replicas: status.available_replicas,
            conditions: status.conditions.map(|all| all.into_iter().map(condition).collect()),
            fully_labeled_replicas: status.fully_labeled_replicas,
            observed_generation: status.observed_generation,
            ready_replicas: status.ready_replicas,
            replicas: status.replicas,
        });
        let changed = self.status != status;
        self.status = status;
        changed
    }
}
