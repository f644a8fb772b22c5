//! When a pod has to leave its node.

use std::time::Duration;

use coracle_api::placement::tolerates;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, Taint};

use crate::pods;

/// What becomes of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    Stay,
    /// It may stay for so long, unless the taints go away.
    Later(Duration),
    Now,
}

/// Decides for a pod on a node with these taints.
///
/// Every `NoExecute` taint must be tolerated; the shortest `tolerationSeconds` among the tolerations that match
/// decides, counted from when the taint was added.
pub(super) fn plan(pod: &Pod, taints: &[Taint], now: Timestamp) -> Plan {
    if pod.metadata.deletion_timestamp.is_some() || pods::is_terminal(pod) {
        return Plan::Stay;
    }
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let mut deadline: Option<Timestamp> = None;
    for taint in taints.iter().filter(|taint| taint.effect == "NoExecute") {
        let matching: Vec<_> = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).collect();
        if matching.is_empty() {
            return Plan::Now;
        }
        let seconds = matching.iter().filter_map(|toleration| toleration.toleration_seconds).min();
        let Some(seconds) = seconds else { continue };
        let added = taint.time_added.as_ref().map_or(now, |time| time.0);
        let end = added.checked_add(SignedDuration::from_secs(seconds.max(0))).unwrap_or(Timestamp::MAX);
        deadline = Some(deadline.map_or(end, |deadline| deadline.min(end)));
    }
    match deadline {
        None => Plan::Stay,
        Some(deadline) if deadline <= now => Plan::Now,
        Some(deadline) => Plan::Later(deadline.duration_since(now).unsigned_abs()),
    }
}
