//! How many pods a deployment may have and may lack while it rolls.

use k8s_openapi::api::apps::v1::Deployment;

use crate::intstr::{Round, scaled};

/// The numbers that a rollout keeps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// `spec.replicas`.
    pub(super) replicas: i32,
    /// Pods above `replicas` that there may be.
    pub(super) surge: i32,
    /// Pods below `replicas` that may be unavailable.
    pub(super) unavailable: i32,
}

impl Bounds {
    pub(super) fn of(deployment: &Deployment) -> Self {
        let spec = deployment.spec.as_ref();
        let replicas = spec.and_then(|spec| spec.replicas).unwrap_or(1).max(0);
        if is_recreate(deployment) {
            return Bounds { replicas, surge: 0, unavailable: 0 };
        }
        let rolling = spec.and_then(|spec| spec.strategy.as_ref()?.rolling_update.as_ref());
        let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref());
        let surge = surge.and_then(|value| scaled(value, replicas, Round::Up)).unwrap_or(0).max(0);
        let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
        let unavailable =
            unavailable.and_then(|value| scaled(value, replicas, Round::Down)).unwrap_or(0).max(0);
        // Percentages may both come out as nothing, and then nothing could ever move.
        let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
        Bounds { replicas, surge, unavailable: unavailable.min(replicas) }
    }

    /// The most pods there may be.
    pub(super) fn most(&self) -> i32 {
        self.replicas.saturating_add(self.surge)
    }

    /// The fewest available pods there must be.
    pub(super) fn least(&self) -> i32 {
        self.replicas - self.unavailable
    }
}

pub(super) fn is_recreate(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
}
