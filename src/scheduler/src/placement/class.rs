//! Pods as the decision needs them. Pods that ask for the same are of one class, which is read once.

use std::{collections::BTreeMap, sync::Arc};

use coracle_api::{
    Resources,
    placement::{Port, host_ports},
    resources::is_being_resized,
};
use coracle_client::Key;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Toleration};
use serde::Serialize;

use super::{
    affinity::{Labels, NodeAffinity},
    terms::{Constraint, Terms},
};

/// A pod to be placed, or placed. A clone is cheap.
#[derive(Clone, Debug)]
pub struct Candidate {
    pod: Arc<Pod>,
    uid: Arc<str>,
    key: Key,
    pub(super) class: Arc<Class>,
}

/// What a pod's placement depends on; equal for all pods of a controller's revision.
#[derive(Debug)]
pub(super) struct Class {
    /// Its place in the cluster's table of classes.
    pub(super) index: u32,
    pub(super) namespace: String,
    pub(super) labels: Labels,
    /// The controller whose pods are spread by default.
    pub(super) owner: Option<String>,
    pub(super) priority: i32,
    pub(super) never_preempts: bool,
    pub(super) requests: Resources,
    pub(super) weight: Resources,
    pub(super) affinity: NodeAffinity,
    pub(super) tolerations: Vec<Toleration>,
    /// Of all containers, those that initialise included; with a tag, as nodes list them.
    pub(super) images: Vec<String>,
    pub(super) ports: Vec<Port>,
    pub(super) terms: Terms,
    /// Constraints that forbid.
    pub(super) hard: Vec<Constraint>,
    /// Constraints that only prefer.
    pub(super) soft: Vec<Constraint>,
    /// Whether the pod has constraints of its own, so that those of the profile are not for it.
    pub(super) constrained: bool,
    pub(super) claims: Vec<Claim>,
}

/// A claim that a pod mounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) name: String,
    /// Made from the pod's own template.
    pub(super) ephemeral: bool,
}

impl Candidate {
    pub(super) fn new(pod: Arc<Pod>, class: Arc<Class>) -> Self {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default().into();
        let key = Key::of(&pod.metadata);
        Candidate { pod, uid, key, class }
    }

    /// The pod.
    pub fn pod(&self) -> &Arc<Pod> {
        &self.pod
    }

    /// The pod's uid.
    pub fn uid(&self) -> &Arc<str> {
        &self.uid
    }

    /// The pod's namespace and name.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// What the pod asks for.
    pub fn requests(&self) -> &Resources {
        &self.class.requests
    }

    /// The pod's priority.
    pub fn priority(&self) -> i32 {
        self.class.priority
    }

    /// A number that is equal for pods that ask for the same.
    pub fn class(&self) -> u32 {
        self.class.index
    }

    /// The node that was promised to the pod.
    pub fn nominated(&self) -> Option<&str> {
        let status = self.pod.status.as_ref()?;
        status.nominated_node_name.as_deref().filter(|name| !name.is_empty())
    }

    /// Whether the pod mounts claims.
    pub fn has_claims(&self) -> bool {
        !self.class.claims.is_empty()
    }

    /// Whether the pod is being deleted.
    pub fn is_terminating(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }

    /// The node that the pod asks for by name.
    pub(super) fn node_name(&self) -> Option<&str> {
        self.pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
    }

    /// True if it ends because another pod takes its place.
    pub(super) fn makes_room(&self) -> bool {
        let conditions = self.pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        let target = conditions.into_iter().flatten().find(|condition| condition.type_ == "DisruptionTarget");
        self.is_terminating()
            && target.is_some_and(|target| {
                target.status == "True" && target.reason.as_deref() == Some("PreemptionByScheduler")
            })
    }
}

impl Class {
    pub(super) fn of(pod: &Pod, index: u32) -> Self {
        let none = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&none);
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        let constraints = spec.topology_spread_constraints.as_deref().unwrap_or_default();
        let constraints = |action: &str| {
            let chosen = constraints.iter().filter(|it| it.when_unsatisfiable == action);
            chosen.map(|constraint| Constraint::of(constraint, &namespace, &labels)).collect::<Vec<_>>()
        };
        Class {
            index,
            owner: owner(pod).map(|(_, uid)| uid.to_owned()),
            priority: spec.priority.unwrap_or(0),
            never_preempts: spec.preemption_policy.as_deref() == Some("Never"),
            requests: Resources::taken_by(pod),
            weight: Resources::weight_of(pod),
            affinity: NodeAffinity::of(spec),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
            images: spec.init_containers.iter().flatten().chain(&spec.containers).map(image).collect(),
            ports: host_ports(spec),
            terms: Terms::of(spec, &namespace, &labels),
            hard: constraints("DoNotSchedule"),
            soft: constraints("ScheduleAnyway"),
            constrained: spec.topology_spread_constraints.as_ref().is_some_and(|all| !all.is_empty()),
            claims: claims(pod, spec),
            namespace,
            labels,
        }
    }
}

/// The controller of kinds whose pods are spread by default.
fn owner(pod: &Pod) -> Option<(&str, &str)> {
    let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
    let owner = owners.iter().find(|owner| owner.controller == Some(true))?;
    let spread = matches!(owner.kind.as_str(), "ReplicaSet" | "ReplicationController" | "StatefulSet");
    spread.then_some((owner.kind.as_str(), owner.uid.as_str()))
}

fn image(container: &Container) -> String {
    normalized(container.image.as_deref().unwrap_or_default())
}

/// An image's name with a tag.
pub(super) fn normalized(image: &str) -> String {
    let tagged = image.rfind(':').is_some_and(|colon| image.rfind('/').is_none_or(|slash| colon > slash));
    if tagged { image.to_owned() } else { format!("{image}:latest") }
}

fn claims(pod: &Pod, spec: &PodSpec) -> Vec<Claim> {
    let volumes = spec.volumes.iter().flatten();
    volumes
        .filter_map(|volume| {
            if let Some(source) = &volume.persistent_volume_claim {
                return Some(Claim { name: source.claim_name.clone(), ephemeral: false });
            }
            volume.ephemeral.as_ref()?;
            let pod = pod.metadata.name.as_deref().unwrap_or_default();
            Some(Claim { name: format!("{pod}-{}", volume.name), ephemeral: true })
        })
        .collect()
}

/// Writes what a class is told apart by. Everything that [`Class::of`] reads is in it.
pub(super) fn write_key(pod: &Pod, key: &mut Vec<u8>) {
    key.clear();
    let meta = &pod.metadata;
    text(key, meta.namespace.as_deref());
    map(key, meta.labels.as_ref());
    text(key, owner(pod).map(|(_, uid)| uid));
    let Some(spec) = &pod.spec else { return };
    key.extend_from_slice(&spec.priority.unwrap_or(0).to_le_bytes());
    text(key, spec.preemption_policy.as_deref());
    for container in &spec.containers {
        write_container(container, key);
    }
    key.push(2);
    for container in spec.init_containers.iter().flatten() {
        write_container(container, key);
    }
    key.push(2);
    write_given(pod, key);
    json(key, spec.overhead.as_ref());
    json(key, spec.resources.as_ref());
    map(key, spec.node_selector.as_ref());
    json(key, spec.affinity.as_ref());
    json(key, spec.tolerations.as_ref());
    json(key, spec.topology_spread_constraints.as_ref());
    for claim in claims(pod, spec) {
        text(key, Some(&claim.name));
        key.push(u8::from(claim.ephemeral));
    }
}

fn write_container(container: &Container, key: &mut Vec<u8>) {
    text(key, container.image.as_deref());
    text(key, container.restart_policy.as_deref());
    for (name, amount) in container.resources.iter().flat_map(|resources| resources.requests.iter().flatten())
    {
        text(key, Some(name));
        text(key, Some(&amount.0));
    }
    key.push(3);
    for port in container.ports.iter().flatten().filter(|port| port.host_port.is_some()) {
        key.extend_from_slice(&port.host_port.unwrap_or(0).to_le_bytes());
        text(key, port.host_ip.as_deref());
        text(key, port.protocol.as_deref());
    }
    key.push(4);
}

/// What the node has given the containers, where that is not what they ask for: it counts, too.
fn write_given(pod: &Pod, key: &mut Vec<u8>) {
    if is_being_resized(pod) {
        let taken = Resources::taken_by(pod);
        for amount in [taken.cpu, taken.memory, taken.storage] {
            key.extend_from_slice(&amount.to_le_bytes());
        }
    }
}

/// Length first, so that neighbours cannot be taken for one another.
fn text(key: &mut Vec<u8>, text: Option<&str>) {
    let length = text.map_or(u32::MAX, |text| u32::try_from(text.len()).unwrap_or(u32::MAX - 1));
    key.extend_from_slice(&length.to_le_bytes());
    key.extend_from_slice(text.unwrap_or_default().as_bytes());
}

fn map(key: &mut Vec<u8>, labels: Option<&BTreeMap<String, String>>) {
    for (name, value) in labels.into_iter().flatten() {
        text(key, Some(name));
        text(key, Some(value));
    }
    key.push(1);
}

fn json<T: Serialize>(key: &mut Vec<u8>, value: Option<&T>) {
    if let Some(value) = value {
        // These are plain data: writing them to memory does not fail.
        let _ = serde_json::to_writer(&mut *key, value);
    }
    key.push(5);
}
