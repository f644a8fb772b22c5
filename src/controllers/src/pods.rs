//! What controllers ask of a pod.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use coracle_api::selector::LabelSelector as Selector;
use coracle_client::{Informer, Object};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{Pod, PodCondition},
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference},
};

/// The condition of this type.
pub(crate) fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == type_)
}

/// True if the pod's `Ready` condition is.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

/// Since when the pod is ready.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|ready| ready.status == "True")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

/// How long until a ready pod has been so for `min_ready`: zero if it is available, `None` if it is not
/// ready.
pub(crate) fn until_available(
    pod: &Pod,
    min_ready: SignedDuration,
    now: Timestamp,
) -> Option<SignedDuration> {
    if !is_ready(pod) {
        return None;
    }
    if min_ready.is_zero() {
        return Some(SignedDuration::ZERO);
    }
    let since = ready_since(pod)?;
    Some((min_ready - now.duration_since(since)).max(SignedDuration::ZERO))
}

/// The phase; `Pending` if it has not been told yet.
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

/// True if the pod has ended and will not run again.
pub(crate) fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// True if the pod counts: it neither has ended nor is being deleted.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// The node that the pod is assigned to.
pub(crate) fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

/// Indexes of pods: by the uid of their controller, and by namespace those that have none.
pub(crate) const BY_CONTROLLER: &str = "controllers/owner";
pub(crate) const ORPHANS: &str = "controllers/orphans";

/// Adds the indexes [`BY_CONTROLLER`] and [`ORPHANS`].
pub(crate) fn add_indexes<K: Object>(informer: &Informer<K>) {
    informer.add_index(BY_CONTROLLER, |object| {
        controller_of(object.meta()).map(|owner| owner.uid.clone()).into_iter().collect()
    });
    informer.add_index(ORPHANS, |object| match controller_of(object.meta()) {
        Some(_) => Vec::new(),
        None => vec![namespace(object.meta()).to_owned()],
    });
}

/// The objects that `owner` controls, and those of its namespace that nobody does: what it has or could
/// adopt. Needs [`add_indexes`].
pub(crate) fn candidates<K: Object>(informer: &Informer<K>, owner: &ObjectMeta) -> Vec<Arc<K>> {
    let mut found = informer.by_index(BY_CONTROLLER, uid(owner));
    found.extend(informer.by_index(ORPHANS, namespace(owner)));
    found
}

/// The owner that controls the object.
pub(crate) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.as_ref()?.iter().find(|owner| owner.controller == Some(true))
}

/// True if the labels have everything that the selector names. An empty selector selects nothing.
pub(crate) fn selects(
    selector: Option<&BTreeMap<String, String>>,
    labels: Option<&BTreeMap<String, String>>,
) -> bool {
    let Some(selector) = selector.filter(|selector| !selector.is_empty()) else { return false };
    let Some(labels) = labels else { return false };
    selector.iter().all(|(name, value)| labels.get(name) == Some(value))
}

/// The selector of an object of the `apps` or `batch` groups; `None` if it selects nothing: an empty one, or
/// one that does not parse.
pub(crate) fn selector(selector: &LabelSelector) -> Option<Selector> {
    Selector::from_api(selector).ok().filter(|selector| !selector.is_empty())
}

/// How long a pod must be ready to be available, from `minReadySeconds`.
pub(crate) fn min_ready(seconds: Option<i32>) -> SignedDuration {
    SignedDuration::from_secs(i64::from(seconds.unwrap_or(0).max(0)))
}

/// True if the pod has been ready for `min_ready`.
pub(crate) fn is_available(pod: &Pod, min_ready: SignedDuration, now: Timestamp) -> bool {
    until_available(pod, min_ready, now).is_some_and(|left| !left.is_positive())
}

/// When the next of the ready pods becomes available: the time to look again although nothing changes.
pub(crate) fn next_available(
    pods: &[Arc<Pod>],
    min_ready: SignedDuration,
    now: Timestamp,
) -> Option<Duration> {
    pods.iter()
        .filter_map(|pod| until_available(pod, min_ready, now))
        .filter(|left| left.is_positive())
        .min()
        .and_then(|left| Duration::try_from(left).ok())
}

/// True if something changed that a controller of pods counts by.
pub(crate) fn matters(old: &Pod, new: &Pod) -> bool {
    phase(old) != phase(new)
        || is_ready(old) != is_ready(new)
        || ready_since(old) != ready_since(new)
        || old.metadata.deletion_timestamp.is_some() != new.metadata.deletion_timestamp.is_some()
        || old.metadata.labels != new.metadata.labels
        || old.metadata.owner_references != new.metadata.owner_references
}

/// The `resourceVersion` as a number, by which versions of one kind are ordered.
pub(crate) fn revision(meta: &ObjectMeta) -> u64 {
    meta.resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Name for messages and paths; empty if the server has not named it yet.
pub(crate) fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

/// Namespace; empty for an object of the cluster.
pub(crate) fn namespace(meta: &ObjectMeta) -> &str {
    meta.namespace.as_deref().unwrap_or_default()
}

/// The uid; empty if the server has not given one.
pub(crate) fn uid(meta: &ObjectMeta) -> &str {
    meta.uid.as_deref().unwrap_or_default()
}
