//! What is to be done for a claim, and for a volume.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::{
    core::v1::{Node, PersistentVolume, PersistentVolumeClaim},
    storage::v1::StorageClass,
};

use super::rules::{
    LOCAL, LOCAL_DRIVER, annotation, best, capacity, claim_ref, class_of, is_promised, misfit, reaches,
    request, uid,
};
use crate::pods;

/// Both sides have agreed.
pub(super) const COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// The binding was the controller's choice, not the user's.
pub(super) const BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// Which node the scheduler has chosen for the first pod.
pub(super) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Which provisioner made a volume.
pub(super) const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// What the node that has the folder removes when it has removed the folder.
pub(super) const LOCAL_FINALIZER: &str = "coracle.dev/local-volume";

/// An event to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) warning: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

fn note(warning: bool, reason: &'static str, message: impl Into<String>) -> Option<Note> {
    Some(Note { warning, reason, message: message.into() })
}

/// What is to be done for a claim.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ClaimPlan {
    /// It waits: for a volume, a consumer, somebody else's provisioner.
    Wait(Option<Note>),
    /// It gets this volume, or what is missing of that is written.
    Bind(Arc<PersistentVolume>),
    /// A folder of this node is made a volume for it.
    Provision { node: String },
    /// Another provisioner than ours is asked.
    Ask { provisioner: String },
    /// The chosen node is gone: the scheduler has to choose again.
    ForgetNode,
    /// Its volume is gone, or somebody else's.
    Lost(Note),
}

/// All volumes, the claim's class, the nodes that there are, and who waits.
pub(super) struct Observed<'a> {
    pub(super) volumes: &'a [Arc<PersistentVolume>],
    pub(super) class: Option<&'a StorageClass>,
    pub(super) nodes: &'a dyn Fn(&str) -> Option<Arc<Node>>,
    /// The pods that use the claim and have no node yet.
    pub(super) unscheduled: &'a dyn Fn() -> Vec<String>,
}

pub(super) fn claim(claim: &PersistentVolumeClaim, observed: &Observed<'_>) -> ClaimPlan {
    let volume_name = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
    let volume = |name: &str| observed.volumes.iter().find(|volume| pods::name(&volume.metadata) == name);
    if annotation(&claim.metadata, COMPLETED).is_some() {
        return bound(claim, volume_name, volume(volume_name));
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return ClaimPlan::Wait(None);
    }
    if !volume_name.is_empty() {
        return wished(claim, volume(volume_name));
    }
    let class = observed.class;
    let waits =
        class.is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
    let promised = observed.volumes.iter().find(|volume| {
        claim_ref(volume).is_some_and(|reference| is_promised(reference, claim))
            && misfit(claim, volume).is_none()
    });
    if let Some(volume) = promised {
        return ClaimPlan::Bind(volume.clone());
    }
    let selected = annotation(&claim.metadata, SELECTED_NODE);
    let node = match selected {
        None if waits => {
            let (reason, message) = match &(observed.unscheduled)()[..] {
                [] => {
                    let message = "waiting for first consumer to be created before binding";
                    ("WaitForFirstConsumer", message.to_owned())
                }
                [pod] => ("WaitForPodScheduled", format!("waiting for pod {pod} to be scheduled")),
                pods => {
                    ("WaitForPodScheduled", format!("waiting for pods {} to be scheduled", pods.join(",")))
                }
            };
            return ClaimPlan::Wait(note(false, reason, message));
        }
        None => None,
        Some(name) => match (observed.nodes)(name) {
            Some(node) => Some(node),
            None => return ClaimPlan::ForgetNode,
        },
    };
    let none = BTreeMap::new();
    let labels = node.as_ref().map(|node| node.metadata.labels.as_ref().unwrap_or(&none));
    if let Some(volume) = best(claim, observed.volumes, labels) {
        return ClaimPlan::Bind(volume.clone());
    }
    provision(claim, class, selected)
}

/// No volume fits: one may be made.
fn provision(claim: &PersistentVolumeClaim, class: Option<&StorageClass>, node: Option<&str>) -> ClaimPlan {
    let Some(class) = class else {
        return ClaimPlan::Wait(match class_of(claim) {
            "" => note(
                false,
                "FailedBinding",
                "no persistent volumes available for this claim and no storage class is set",
            ),
            name => {
                note(true, "ProvisioningFailed", format!("storageclass.storage.k8s.io \"{name}\" not found"))
            }
        });
    };
    if class.provisioner == "kubernetes.io/no-provisioner" {
        let message = "no persistent volumes available for this claim and no storage class is set";
        return ClaimPlan::Wait(note(false, "FailedBinding", message));
    }
    if class.provisioner != LOCAL {
        return ClaimPlan::Ask { provisioner: class.provisioner.clone() };
    }
    let spec = claim.spec.as_ref();
    if spec.is_some_and(|spec| spec.selector.is_some()) {
        let class = class_of(claim);
        let message = format!(
            "failed to provision volume with StorageClass \"{class}\": claim Selector is not supported"
        );
        return ClaimPlan::Wait(note(true, "ProvisioningFailed", message));
    }
    if spec.and_then(|spec| spec.volume_mode.as_deref()) == Some("Block") {
        let message = format!("{LOCAL} offers no block volumes; volumeMode must be Filesystem");
        return ClaimPlan::Wait(note(true, "ProvisioningFailed", message));
    }
    if spec.is_some_and(|spec| spec.data_source.is_some() || spec.data_source_ref.is_some()) {
        let message = format!("{LOCAL} cannot fill a volume from a data source");
        return ClaimPlan::Wait(note(true, "ProvisioningFailed", message));
    }
    match node {
        Some(node) => ClaimPlan::Provision { node: node.to_owned() },
        None => {
            let message = format!(
                "{LOCAL} makes a folder on the node of the first pod: the storage class must have \
                 volumeBindingMode WaitForFirstConsumer"
            );
            ClaimPlan::Wait(note(true, "ProvisioningFailed", message))
        }
    }
}

/// The claim says that it is bound.
fn bound(claim: &PersistentVolumeClaim, name: &str, volume: Option<&Arc<PersistentVolume>>) -> ClaimPlan {
    let lost =
        |reason, message: &str| ClaimPlan::Lost(Note { warning: true, reason, message: message.to_owned() });
    match volume {
        None if name.is_empty() => lost(
            "ClaimLost",
            "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
        ),
        None => lost("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!"),
        Some(volume) => match claim_ref(volume) {
            Some(reference) if !is_promised(reference, claim) => lost(
                "ClaimMisbound",
                "Two claims are bound to the same volume, this one is bound incorrectly",
            ),
            _ => ClaimPlan::Bind(volume.clone()),
        },
    }
}

/// The user named the volume.
fn wished(claim: &PersistentVolumeClaim, volume: Option<&Arc<PersistentVolume>>) -> ClaimPlan {
    let Some(volume) = volume else { return ClaimPlan::Wait(None) };
    let by_controller = annotation(&claim.metadata, BY_CONTROLLER).is_some();
    match claim_ref(volume) {
        Some(reference) if is_promised(reference, claim) => {}
        Some(_) => {
            let name = pods::name(&volume.metadata);
            let message = format!("volume \"{name}\" already bound to a different claim.");
            return ClaimPlan::Wait(note(true, "FailedBinding", message));
        }
        None => {}
    }
    match misfit(claim, volume) {
        Some(why) if !by_controller => {
            let name = pods::name(&volume.metadata);
            let message = format!("Cannot bind to requested volume \"{name}\": {why}");
            ClaimPlan::Wait(note(true, "VolumeMismatch", message))
        }
        _ => ClaimPlan::Bind(volume.clone()),
    }
}

/// How much the volume of a bound claim is to have: more than now, if the claim asks for it and the class allows it.
pub(super) fn growth(
    claim: &PersistentVolumeClaim,
    volume: &PersistentVolume,
    class: Option<&StorageClass>,
) -> bool {
    let local =
        volume.spec.as_ref().and_then(|spec| spec.csi.as_ref()).is_some_and(|csi| csi.driver == LOCAL_DRIVER);
    local
        && request(claim) > capacity(volume)
        && class.is_some_and(|class| class.allow_volume_expansion == Some(true))
}

/// What is to be done for a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum VolumePlan {
    /// Its phase is to be this.
    Phase(&'static str),
    /// It is released, but cannot be reclaimed as it asks to be.
    Fail(Note),
    /// The claim has to be looked at: it decides.
    LookAtClaim,
    /// The controller promised it to a claim that took another volume: it is free again.
    Free,
    /// The object is to go: nobody uses it, and it was made on demand.
    Delete,
    /// The node that has its data is gone for good: nothing is left to be removed.
    DropFinalizer,
}

/// Decides for a volume. `claim` is the claim that it is promised to, if there is one of that name.
pub(super) fn volume(
    volume: &PersistentVolume,
    claim: Option<&PersistentVolumeClaim>,
    nodes: &[Arc<Node>],
) -> VolumePlan {
    if volume.metadata.deletion_timestamp.is_some() {
        let ours = volume.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == LOCAL_FINALIZER);
        let none = BTreeMap::new();
        let reachable =
            nodes.iter().any(|node| reaches(volume, node.metadata.labels.as_ref().unwrap_or(&none)));
        if ours && !reachable {
            return VolumePlan::DropFinalizer;
        }
    }
    let Some(reference) = claim_ref(volume) else { return VolumePlan::Phase("Available") };
    if uid(reference).is_none() {
        return match claim {
            Some(_) => VolumePlan::LookAtClaim,
            None => VolumePlan::Phase("Available"),
        };
    }
    let Some(claim) = claim.filter(|claim| Some(pods::uid(&claim.metadata)) == uid(reference)) else {
        return released(volume);
    };
    let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
    if name.is_empty() {
        return VolumePlan::LookAtClaim;
    }
    if name == pods::name(&volume.metadata) {
        return VolumePlan::Phase("Bound");
    }
    if annotation(&volume.metadata, BY_CONTROLLER).is_some() { VolumePlan::Free } else { released(volume) }
}

/// The claim is gone.
fn released(volume: &PersistentVolume) -> VolumePlan {
    let spec = volume.spec.as_ref();
    let policy = spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()).unwrap_or("Retain");
    let local = spec.and_then(|spec| spec.csi.as_ref()).is_some_and(|csi| csi.driver == LOCAL_DRIVER);
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    let fail = |reason, message| VolumePlan::Fail(Note { warning: true, reason, message });
    match policy {
        // First it is said that it is released, then it goes: its protection ends with the phase.
        "Delete" if local && phase == Some("Released") => match volume.metadata.deletion_timestamp {
            None => VolumePlan::Delete,
            Some(_) => VolumePlan::Phase("Released"),
        },
        "Recycle" => fail(
            "VolumeFailedRecycle",
            "the reclaim policy Recycle is not supported; use Delete or Retain".to_owned(),
        ),
        // Who made it on demand removes it; of another nobody knows how.
        "Delete" if !local && annotation(&volume.metadata, PROVISIONED_BY).is_none() => {
            let name = pods::name(&volume.metadata);
            fail(
                "VolumeFailedDelete",
                format!(
                    "error getting deleter volume plugin for volume \"{name}\": no deletable volume plugin matched"
                ),
            )
        }
        _ => VolumePlan::Phase("Released"),
    }
}
