//! Whom the claims of a stateful set go with: `persistentVolumeClaimRetentionPolicy` by owner references,
//! so that the garbage collector deletes them.

use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{PersistentVolumeClaim, Pod},
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::Resource;

use crate::{claim, pods};

/// Whether claims are deleted, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Policy {
    when_deleted: bool,
    when_scaled: bool,
}

fn policy(set: &StatefulSet) -> Policy {
    let policy = set.spec.as_ref().and_then(|spec| spec.persistent_volume_claim_retention_policy.as_ref());
    let deletes = |value: Option<&String>| value.is_some_and(|value| value == "Delete");
    Policy {
        when_deleted: deletes(policy.and_then(|policy| policy.when_deleted.as_ref())),
        when_scaled: deletes(policy.and_then(|policy| policy.when_scaled.as_ref())),
    }
}

/// The owners that a claim should have, if they are not the ones it has. `pod` is its pod, `None` if it
/// does not exist yet; `surplus` says that the pod is to go because the set has become smaller.
pub(super) fn owners(
    set: &StatefulSet,
    claim: &PersistentVolumeClaim,
    pod: Option<&Pod>,
    surplus: bool,
) -> Option<Vec<OwnerReference>> {
    let policy = policy(set);
    let old = claim.metadata.owner_references.clone().unwrap_or_default();
    let set_uid = pods::uid(&set.metadata);
    let of_pod = |owner: &OwnerReference| owner.kind == "Pod" && owner.api_version == "v1";
    let strange =
        |owner: &&OwnerReference| owner.controller == Some(true) && owner.uid != set_uid && !of_pod(owner);
    if old.iter().any(|owner| strange(&owner)) {
        // Somebody else decides about this claim.
        return None;
    }
    let by_pod = policy.when_scaled && surplus;
    let by_set = policy.when_deleted && !by_pod;
    let mut new: Vec<_> =
        old.iter().filter(|owner| owner.uid != set_uid && !of_pod(owner)).cloned().collect();
    if by_set {
        new.extend(claim::owner_reference(set));
    }
    if by_pod {
        new.extend(pod.and_then(claim::owner_reference));
    }
    let key = |owners: &[OwnerReference]| {
        let mut uids: Vec<_> = owners.iter().map(|owner| owner.uid.clone()).collect();
        uids.sort();
        uids
    };
    (key(&old) != key(&new)).then_some(new)
}

/// True if the claim is about to go with a pod of the past: `pod`, which has no uid before it is created,
/// must not start on it.
pub(super) fn is_stale(claim: &PersistentVolumeClaim, pod: &Pod) -> bool {
    let (name, uid) = (pods::name(&pod.metadata), pods::uid(&pod.metadata));
    let of_past = |owner: &OwnerReference| owner.kind == "Pod" && owner.name == name && owner.uid != uid;
    let owners = claim.meta().owner_references.as_deref().unwrap_or_default();
    claim.metadata.deletion_timestamp.is_some() || owners.iter().any(of_past)
}
