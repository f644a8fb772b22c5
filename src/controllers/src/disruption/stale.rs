//! Pods that were to be disrupted, and were not: their condition `DisruptionTarget` no longer holds.

use std::time::Duration;

use coracle_client::{During, Informer, Key, ReconcileError, clock, is_conflict, is_not_found};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::pods;

/// So long the condition is believed without the pod being deleted. Kubernetes' time.
const TIMEOUT: SignedDuration = SignedDuration::from_mins(2);

/// How long the pod's condition is still believed; `None` if it has none that could be stale. A node takes
/// its time with pods that it ends itself.
pub(super) fn left(pod: &Pod, now: Timestamp) -> Option<Duration> {
    if !pods::is_active(pod) {
        return None;
    }
    let condition = pods::condition(pod, "DisruptionTarget")?;
    if condition.status != "True" || condition.reason.as_deref() == Some("TerminationByKubelet") {
        return None;
    }
    let since = condition.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let left = TIMEOUT.saturating_sub(now.duration_since(since)).min(TIMEOUT);
    Some(Duration::try_from(left).unwrap_or_default())
}

/// Takes the condition back when it is stale.
pub(super) async fn reconcile(
    client: Client,
    pods: Informer<Pod>,
    key: Key,
) -> Result<Option<Duration>, ReconcileError> {
    let Some(pod) = pods.get(&key) else { return Ok(None) };
    match left(&pod, clock::now()) {
        None => return Ok(None),
        Some(left) if !left.is_zero() => return Ok(Some(left)),
        Some(_) => {}
    }
    let condition = json!({
        "type": "DisruptionTarget", "status": "False", "reason": null, "message": null,
        "lastTransitionTime": clock::time(),
    });
    let patch = json!({
        "metadata": { "uid": pod.metadata.uid },
        "status": { "conditions": [condition] },
    });
    let api: Api<Pod> = Api::namespaced(client, &key.namespace);
    match api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await {
        Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(None),
        other => other.map(|_| None).during(|| format!("take back the condition of pod {key}")),
    }
}
