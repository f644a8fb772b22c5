//! A node as the decision needs it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use coracle_api::{Resources, placement::Port};
use k8s_openapi::api::core::v1::{Node, Taint};

use super::{
    affinity::Labels,
    class::{Candidate, normalized},
    taints,
};

/// A node and what is on it.
#[derive(Clone, Debug, Default)]
pub struct NodeState {
    name: String,
    /// `None` while only pods are known that say they are on it.
    node: Option<Arc<Node>>,
    labels: Labels,
    allocatable: Resources,
    max_pods: i64,
    requested: Resources,
    weight: Resources,
    pods: i64,
    taints: Vec<Taint>,
    cordoned: bool,
    /// Bytes by name.
    images: BTreeMap<String, i64>,
    ports: Vec<Port>,
    /// The pods on it, by uid.
    placed: BTreeSet<Arc<str>>,
}

/// The numbers of a node that every decision looks at, side by side.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Row {
    /// CPU, memory, ephemeral storage.
    pub(super) has: [i64; 3],
    pub(super) used: [i64; 3],
    /// CPU and memory, as pods count when nodes are compared.
    pub(super) weight: [i64; 2],
    pub(super) pods: i64,
    pub(super) max_pods: i64,
    /// Changes with everything about the node but the pods on it; never the same for two nodes.
    pub(super) version: u32,
    /// How many pods were promised the node.
    pub(super) nominated: u32,
}

/// What of a node changed, as far as waiting pods may care.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeChange {
    /// It was not there before.
    pub added: bool,
    /// Its labels.
    pub labels: bool,
    /// Its taints, or whether it is cordoned.
    pub taints: bool,
    /// It has more of a resource.
    pub room: bool,
    /// Its images.
    pub(super) images: bool,
}

impl NodeChange {
    /// True if a waiting pod may care.
    pub fn matters(self) -> bool {
        self.added || self.labels || self.taints || self.room
    }
}

impl NodeState {
    pub(super) fn new(name: &str) -> Self {
        NodeState { name: name.to_owned(), ..NodeState::default() }
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the node exists, or only pods that say they are on it.
    pub fn exists(&self) -> bool {
        self.node.is_some()
    }

    /// What the node has for pods.
    pub fn allocatable(&self) -> &Resources {
        &self.allocatable
    }

    /// What the pods on it ask for.
    pub fn requested(&self) -> &Resources {
        &self.requested
    }

    /// How many pods are on it.
    pub fn pods(&self) -> i64 {
        self.pods
    }

    /// How many pods it takes.
    pub fn max_pods(&self) -> i64 {
        self.max_pods
    }

    pub(super) fn labels(&self) -> &Labels {
        &self.labels
    }

    pub(super) fn taints(&self) -> &[Taint] {
        &self.taints
    }

    pub(super) fn is_cordoned(&self) -> bool {
        self.cordoned
    }

    pub(super) fn images(&self) -> &BTreeMap<String, i64> {
        &self.images
    }

    pub(super) fn placed(&self) -> &BTreeSet<Arc<str>> {
        &self.placed
    }

    pub(super) fn placed_mut(&mut self) -> &mut BTreeSet<Arc<str>> {
        &mut self.placed
    }

    /// What would change with this node.
    pub(super) fn change(&self, node: &Node) -> NodeChange {
        let next = Facts::of(node);
        NodeChange {
            added: !self.exists(),
            labels: self.labels != next.labels,
            taints: self.taints != next.taints || self.cordoned != next.cordoned,
            room: next.allocatable.exceeds(&self.allocatable) || next.max_pods > self.max_pods,
            images: self.images != next.images,
        }
    }

    /// The node is there as given, or gone.
    pub(super) fn set(&mut self, node: Option<&Arc<Node>>) {
        let facts = node.map(|node| Facts::of(node)).unwrap_or_default();
        self.labels = facts.labels;
        self.allocatable = facts.allocatable;
        self.max_pods = facts.max_pods;
        self.taints = facts.taints;
        self.cordoned = facts.cordoned;
        self.images = facts.images;
        self.node = node.cloned();
    }

    /// A pod counts from now on, or no longer.
    pub(super) fn account(&mut self, pod: &Candidate, up: bool) {
        let class = &pod.class;
        if up {
            self.requested.add(&class.requests);
            self.weight.add(&class.weight);
            self.pods += 1;
            self.ports.extend(class.ports.iter().cloned());
            return;
        }
        self.requested.subtract(&class.requests);
        self.weight.subtract(&class.weight);
        self.pods -= 1;
        for port in &class.ports {
            if let Some(position) = self.ports.iter().position(|other| other == port) {
                self.ports.swap_remove(position);
            }
        }
    }

    /// True if a port is taken already.
    pub(super) fn has_conflicting_port(&self, ports: &[Port]) -> bool {
        ports.iter().any(|port| self.ports.iter().any(|taken| port.conflicts_with(taken)))
    }

    pub(super) fn row(&self, version: u32, nominated: u32) -> Row {
        let dense = |resources: &Resources| [resources.cpu, resources.memory, resources.storage];
        Row {
            has: dense(&self.allocatable),
            used: dense(&self.requested),
            weight: [self.weight.cpu, self.weight.memory],
            pods: self.pods,
            max_pods: self.max_pods,
            version,
            nominated,
        }
    }
}

/// What is read of a node.
#[derive(Default)]
struct Facts {
    labels: Labels,
    allocatable: Resources,
    max_pods: i64,
    taints: Vec<Taint>,
    cordoned: bool,
    images: BTreeMap<String, i64>,
}

impl Facts {
    fn of(node: &Node) -> Self {
        let status = node.status.as_ref();
        let amounts = status.and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
        let pods = amounts.and_then(|amounts| amounts.get("pods"));
        let pods = pods.and_then(|quantity| coracle_api::Quantity::parse(&quantity.0).ok());
        let mut images = BTreeMap::new();
        for image in status.into_iter().flat_map(|status| status.images.iter().flatten()) {
            for name in image.names.iter().flatten() {
                images.insert(normalized(name), image.size_bytes.unwrap_or(0));
            }
        }
        Facts {
            labels: node.metadata.labels.clone().unwrap_or_default(),
            allocatable: Resources::of(amounts),
            max_pods: pods.map_or(0, |quantity| quantity.value()),
            taints: taints::of(node),
            cordoned: node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true),
            images,
        }
    }
}
