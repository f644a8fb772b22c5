//! Which volume fits which claim.

use std::collections::BTreeMap;

use coracle_api::{placement, quantity::Quantity, selector::LabelSelector};
use k8s_openapi::{
    api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim},
    apimachinery::pkg::api::resource::Quantity as ApiQuantity,
};

use crate::pods;

/// The provisioner that this cluster comes with: folders of a node.
pub(crate) const LOCAL: &str = "coracle.dev/local";

/// The CSI driver that its volumes name. Drivers have names like hosts, so it cannot be the provisioner's.
pub(crate) const LOCAL_DRIVER: &str = "local.coracle.dev";

/// True if the claim is what the volume is promised to: by uid, or by name alone if a user wrote it.
pub(super) fn is_promised(reference: &ObjectReference, claim: &PersistentVolumeClaim) -> bool {
    let meta = &claim.metadata;
    reference.namespace.as_deref() == Some(pods::namespace(meta))
        && reference.name.as_deref() == Some(pods::name(meta))
        && uid(reference).is_none_or(|uid| uid == pods::uid(meta))
}

/// The uid of a reference, if it has one.
pub(super) fn uid(reference: &ObjectReference) -> Option<&str> {
    reference.uid.as_deref().filter(|uid| !uid.is_empty())
}

/// Whom the volume is promised to.
pub(super) fn claim_ref(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

/// What the claim asks for in bytes.
pub(super) fn request(claim: &PersistentVolumeClaim) -> i64 {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    storage(resources.and_then(|resources| resources.requests.as_ref()))
}

/// What the volume has in bytes.
pub(super) fn capacity(volume: &PersistentVolume) -> i64 {
    storage(volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()))
}

fn storage(resources: Option<&BTreeMap<String, ApiQuantity>>) -> i64 {
    let text = resources.and_then(|resources| resources.get("storage"));
    text.and_then(|text| Quantity::parse(&text.0).ok()).map_or(0, |quantity| quantity.value())
}

/// The class that the claim names; empty for none.
pub(super) fn class_of(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()).unwrap_or_default()
}

/// What keeps the volume from serving the claim; `None` if it fits.
pub(super) fn misfit(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<&'static str> {
    let (Some(wanted), Some(offered)) = (claim.spec.as_ref(), volume.spec.as_ref()) else {
        return Some("spec is missing");
    };
    let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".to_owned());
    if capacity(volume) < request(claim) {
        return Some("requested PV is too small");
    }
    if offered.storage_class_name.as_deref().unwrap_or_default() != class_of(claim) {
        return Some("storageClassName does not match");
    }
    if mode(&wanted.volume_mode) != mode(&offered.volume_mode) {
        return Some("incompatible volumeMode");
    }
    let modes = offered.access_modes.as_deref().unwrap_or_default();
    if !wanted.access_modes.iter().flatten().all(|mode| modes.contains(mode)) {
        return Some("incompatible accessMode");
    }
    None
}

/// The smallest free volume that fits. One that is promised to the claim comes first, whatever its size.
///
/// `node`, if given, must be able to reach the volume.
pub(super) fn best<'a, V: AsRef<PersistentVolume>>(
    claim: &PersistentVolumeClaim,
    volumes: &'a [V],
    node: Option<&BTreeMap<String, String>>,
) -> Option<&'a V> {
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let selector = match selector.map(LabelSelector::from_api) {
        None => None,
        Some(Ok(selector)) => Some(selector),
        Some(Err(_)) => return None,
    };
    let empty = BTreeMap::new();
    let mut found: Option<&V> = None;
    for candidate in volumes {
        let volume = candidate.as_ref();
        if volume.metadata.deletion_timestamp.is_some() || misfit(claim, volume).is_some() {
            continue;
        }
        match claim_ref(volume) {
            Some(reference) if is_promised(reference, claim) => return Some(candidate),
            Some(_) => continue,
            None => {}
        }
        let labels = volume.metadata.labels.as_ref().unwrap_or(&empty);
        let reachable = node.is_none_or(|labels| reaches(volume, labels));
        if !reachable || selector.as_ref().is_some_and(|selector| !selector.matches(labels)) {
            continue;
        }
        if found.is_none_or(|found| capacity(volume) < capacity(found.as_ref())) {
            found = Some(candidate);
        }
    }
    found
}

/// Whether a node with these labels reaches the volume.
pub(super) fn reaches(volume: &PersistentVolume, node: &BTreeMap<String, String>) -> bool {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
    let Some(required) = affinity.and_then(|affinity| affinity.required.as_ref()) else { return true };
    required.node_selector_terms.iter().any(|term| placement::matches(term, node, ""))
}

/// The value of an annotation.
pub(super) fn annotation<'a>(
    meta: &'a k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    name: &str,
) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(name).map(String::as_str)
}
