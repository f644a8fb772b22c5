//! Volumes of pods: where bound ones can be reached, and what happens to claims that wait for their
//! first pod.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use coracle_api::{Quantity, selector::LabelSelector};
use coracle_client::Key;
use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, TopologySelectorTerm},
    storage::v1::StorageClass,
};

use super::{
    affinity::{Labels, any_term_matches},
    class::Class,
    filter::Fail,
    nodes::NodeState,
};

/// The annotation by which a claim without a volume asks for one on a node.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

/// Labels of volumes that nodes must share.
const ZONES: [&str; 4] = [
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
];

/// What is known of volumes and claims.
#[derive(Clone, Debug, Default)]
pub(super) struct Volumes {
    claims: HashMap<Key, Arc<PersistentVolumeClaim>>,
    volumes: BTreeMap<String, Arc<PersistentVolume>>,
    classes: HashMap<String, Arc<StorageClass>>,
    /// How many placed pods use a claim.
    uses: HashMap<Key, u32>,
    /// What was decided for claims and is not in the API yet.
    decided: HashMap<Key, VolumeAction>,
}

/// What has to be done for a claim before its pod can be bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeAction {
    /// The claim names the node, and waits for a volume to be made there.
    Provision {
        /// The claim.
        claim: Key,
        /// The node.
        node: String,
    },
    /// The volume names the claim, and waits to be bound.
    Bind {
        /// The claim.
        claim: Key,
        /// The volume.
        volume: String,
    },
}

impl VolumeAction {
    /// The claim that waits.
    pub fn claim(&self) -> &Key {
        match self {
            VolumeAction::Provision { claim, .. } | VolumeAction::Bind { claim, .. } => claim,
        }
    }
}

/// The volumes of one pod, ready to be held against nodes.
#[derive(Clone, Debug, Default)]
pub(super) struct Check {
    bound: Vec<Arc<PersistentVolume>>,
    /// A claim is bound to a volume that does not exist.
    lost: bool,
    waiting: Vec<Waiting>,
    /// Claims that only one pod may use.
    exclusive: Vec<Key>,
}

#[derive(Clone, Debug)]
struct Waiting {
    claim: Key,
    /// The node that was chosen before.
    selected: Option<String>,
    /// Volumes that would do, the smallest first.
    fitting: Vec<Arc<PersistentVolume>>,
    /// Where a volume can be made; `None` if none can.
    made: Option<Vec<TopologySelectorTerm>>,
}

impl Volumes {
    pub(super) fn set_claim(&mut self, key: Key, claim: Option<Arc<PersistentVolumeClaim>>) {
        match claim {
            Some(claim) => self.claims.insert(key, claim),
            None => self.claims.remove(&key),
        };
    }

    pub(super) fn set_volume(&mut self, name: &str, volume: Option<Arc<PersistentVolume>>) {
        match volume {
            Some(volume) => self.volumes.insert(name.to_owned(), volume),
            None => self.volumes.remove(name),
        };
    }

    pub(super) fn set_class(&mut self, name: &str, class: Option<Arc<StorageClass>>) {
        match class {
            Some(class) => self.classes.insert(name.to_owned(), class),
            None => self.classes.remove(name),
        };
    }

    pub(super) fn account(&mut self, class: &Class, up: bool) {
        for claim in &class.claims {
            let key = Key::new(class.namespace.clone(), claim.name.clone());
            let uses = self.uses.entry(key.clone()).or_default();
            *uses = if up { *uses + 1 } else { uses.saturating_sub(1) };
            if *uses == 0 {
                self.uses.remove(&key);
            }
        }
    }

    pub(super) fn decide(&mut self, actions: &[VolumeAction]) {
        for action in actions {
            self.decided.insert(action.claim().clone(), action.clone());
        }
    }

    pub(super) fn settle(&mut self, actions: &[VolumeAction]) {
        for action in actions {
            self.decided.remove(action.claim());
        }
    }

    /// The pod's volumes; an error is why no node will do.
    pub(super) fn check(&self, class: &Class, pod: &Pod) -> Result<Check, String> {
        let mut check = Check::default();
        for claim in &class.claims {
            let key = Key::new(class.namespace.clone(), claim.name.clone());
            let name = &claim.name;
            let Some(found) = self.claims.get(&key) else {
                return Err(if claim.ephemeral {
                    format!(
                        "waiting for ephemeral volume controller to create the persistentvolumeclaim \"{name}\""
                    )
                } else {
                    format!("persistentvolumeclaim \"{name}\" not found")
                });
            };
            let volume = found.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
            if found.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost") {
                return Err(format!(
                    "persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{volume}\""
                ));
            }
            if found.metadata.deletion_timestamp.is_some() {
                return Err(format!("persistentvolumeclaim \"{name}\" is being deleted"));
            }
            if claim.ephemeral && !owned_by(found, pod) {
                let namespace = &class.namespace;
                let pod = pod.metadata.name.as_deref().unwrap_or_default();
                return Err(format!(
                    "PVC {namespace}/{name} was not created for pod {namespace}/{pod} (pod is not owner)"
                ));
            }
            let modes = found.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
            if modes.iter().any(|mode| mode == "ReadWriteOncePod") {
                check.exclusive.push(key.clone());
            }
            if is_bound(found) {
                match self.volumes.get(volume) {
                    Some(volume) => check.bound.push(volume.clone()),
                    None => check.lost = true,
                }
                continue;
            }
            // A claim that names a volume is bound by the binder, whatever its class.
            let waiting = if volume.is_empty() { self.waiting(&key, found) } else { None };
            let Some(waiting) = waiting else {
                return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
            };
            check.waiting.push(waiting);
        }
        Ok(check)
    }

    /// A claim whose class waits for the first pod.
    fn waiting(&self, key: &Key, claim: &PersistentVolumeClaim) -> Option<Waiting> {
        let class = claim.spec.as_ref()?.storage_class_name.as_deref().unwrap_or_default();
        let class = self.classes.get(class)?;
        if class.volume_binding_mode.as_deref() != Some("WaitForFirstConsumer") {
            return None;
        }
        let selected = claim.metadata.annotations.as_ref().and_then(|all| all.get(SELECTED_NODE)).cloned();
        let decided = self.decided.get(key);
        let fitting = match decided {
            Some(VolumeAction::Bind { volume, .. }) => {
                self.volumes.get(volume).cloned().into_iter().collect()
            }
            Some(VolumeAction::Provision { .. }) => Vec::new(),
            None if selected.is_some() => Vec::new(),
            None => self.fitting(key, claim),
        };
        let selected = match decided {
            Some(VolumeAction::Provision { node, .. }) => Some(node.clone()),
            _ => selected,
        };
        let made = class.provisioner != "kubernetes.io/no-provisioner"
            && !matches!(decided, Some(VolumeAction::Bind { .. }));
        let made = made.then(|| class.allowed_topologies.clone().unwrap_or_default());
        Some(Waiting { claim: key.clone(), selected, fitting, made })
    }

    fn fitting(&self, key: &Key, claim: &PersistentVolumeClaim) -> Vec<Arc<PersistentVolume>> {
        let taken: Vec<&str> = self
            .decided
            .values()
            .filter_map(|action| match action {
                VolumeAction::Bind { volume, claim } if claim != key => Some(volume.as_str()),
                _ => None,
            })
            .collect();
        let mut fitting: Vec<_> = self
            .volumes
            .values()
            .filter(|volume| !volume.metadata.name.as_deref().is_some_and(|name| taken.contains(&name)))
            .filter(|volume| fits(volume, claim))
            .cloned()
            .collect();
        fitting.sort_by_key(|volume| capacity(volume));
        fitting
    }
}

impl Check {
    pub(super) fn is_empty(&self) -> bool {
        !self.lost && self.bound.is_empty() && self.waiting.is_empty() && self.exclusive.is_empty()
    }

    /// Why the node will not do.
    pub(super) fn node(&self, volumes: &Volumes, node: &NodeState) -> Result<(), Fail> {
        if self.exclusive.iter().any(|claim| volumes.uses.contains_key(claim)) {
            return Err(Fail::Exclusive);
        }
        let reachable = self.bound.iter().all(|volume| reaches(volume, node));
        let bindable = self.waiting.iter().all(|claim| claim.on(node).is_some()) && self.distinct(node);
        if !reachable || !bindable || self.lost {
            return Err(Fail::Volume { conflict: !reachable, none: !bindable, lost: self.lost });
        }
        if !self.bound.iter().all(|volume| in_zone(volume, node)) {
            return Err(Fail::Zone);
        }
        Ok(())
    }

    /// What to do with the claims for the pod to run on the node.
    pub(super) fn actions(&self, node: &NodeState) -> Vec<VolumeAction> {
        let mut taken = Vec::new();
        let waiting = self.waiting.iter();
        waiting.filter_map(|claim| claim.choose(node, &mut taken)).collect()
    }

    /// True if two claims need not share a volume.
    fn distinct(&self, node: &NodeState) -> bool {
        self.waiting.len() < 2 || self.actions(node).len() == self.waiting.len()
    }
}

impl Waiting {
    fn on(&self, node: &NodeState) -> Option<VolumeAction> {
        self.choose(node, &mut Vec::new())
    }

    fn choose(&self, node: &NodeState, taken: &mut Vec<String>) -> Option<VolumeAction> {
        let claim = self.claim.clone();
        if self.selected.as_deref().is_some_and(|selected| selected != node.name()) {
            return None;
        }
        let free = |volume: &&Arc<PersistentVolume>| {
            reaches(volume, node) && !volume.metadata.name.as_ref().is_some_and(|name| taken.contains(name))
        };
        if let Some(volume) = self.fitting.iter().find(free) {
            let volume = volume.metadata.name.clone().unwrap_or_default();
            taken.push(volume.clone());
            return Some(VolumeAction::Bind { claim, volume });
        }
        let terms = self.made.as_ref()?;
        let within = |term: &TopologySelectorTerm| {
            term.match_label_expressions.iter().flatten().all(|expression| {
                node.labels().get(&expression.key).is_some_and(|value| expression.values.contains(value))
            })
        };
        let allowed = terms.is_empty() || terms.iter().any(within);
        allowed.then(|| VolumeAction::Provision { claim, node: node.name().to_owned() })
    }
}

/// True if the binder has said that the claim has its volume.
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    let named = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
    let complete = claim.metadata.annotations.as_ref();
    let complete = complete.is_some_and(|all| all.contains_key("pv.kubernetes.io/bind-completed"));
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    named.is_some_and(|name| !name.is_empty()) && (complete || phase == Some("Bound"))
}

fn owned_by(claim: &PersistentVolumeClaim, pod: &Pod) -> bool {
    let owners = claim.metadata.owner_references.iter().flatten();
    pod.metadata.uid.is_some()
        && owners
            .into_iter()
            .any(|owner| owner.controller == Some(true) && Some(&owner.uid) == pod.metadata.uid.as_ref())
}

fn reaches(volume: &PersistentVolume, node: &NodeState) -> bool {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required.as_ref());
    required.is_none_or(|it| any_term_matches(&it.node_selector_terms, node.labels(), node.name()))
}

fn in_zone(volume: &PersistentVolume, node: &NodeState) -> bool {
    let none = Labels::new();
    let labels = volume.metadata.labels.as_ref().unwrap_or(&none);
    // A node that is in no zone at all is not held to any.
    if !ZONES.iter().any(|zone| node.labels().contains_key(*zone)) {
        return true;
    }
    ZONES.iter().filter_map(|zone| Some((zone, labels.get(*zone)?))).all(|(zone, zones)| {
        node.labels().get(*zone).is_some_and(|own| zones.split("__").any(|zone| zone == own))
    })
}

/// True if the volume is free and is what the claim asks for.
fn fits(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let (Some(has), Some(wants)) = (&volume.spec, &claim.spec) else { return false };
    let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".to_owned());
    let class = |class: &Option<String>| class.clone().unwrap_or_default();
    let has_modes = has.access_modes.as_deref().unwrap_or_default();
    let requests = wants.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let wanted = requests.and_then(|requests| requests.get("storage"));
    let wanted = wanted.and_then(|quantity| Quantity::parse(&quantity.0).ok()).map_or(0, |it| it.value());
    let selected = wants.selector.as_ref().is_none_or(|selector| {
        let none = Labels::new();
        let labels = volume.metadata.labels.as_ref().unwrap_or(&none);
        LabelSelector::from_api(selector).is_ok_and(|selector| selector.matches(labels))
    });
    let available = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    has.claim_ref.is_none()
        && volume.metadata.deletion_timestamp.is_none()
        && matches!(available, None | Some("Available"))
        && class(&has.storage_class_name) == class(&wants.storage_class_name)
        && mode(&has.volume_mode) == mode(&wants.volume_mode)
        && wants.access_modes.iter().flatten().all(|mode| has_modes.contains(mode))
        && capacity(volume) >= wanted
        && selected
}

fn capacity(volume: &PersistentVolume) -> i64 {
    let capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref());
    let storage = capacity.and_then(|capacity| capacity.get("storage"));
    storage.and_then(|quantity| Quantity::parse(&quantity.0).ok()).map_or(0, |quantity| quantity.value())
}
