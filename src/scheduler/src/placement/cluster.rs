//! What is known of the cluster: nodes, and the pods on them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use coracle_client::Key;
use k8s_openapi::api::core::v1::{Node, Pod, Taint};

use super::resources::Resources;

/// A pod as the decision needs it.
#[derive(Clone, Debug)]
pub struct Candidate {
    pod: Arc<Pod>,
    uid: Arc<str>,
    key: Key,
    requests: Resources,
    weight: Resources,
    group: Arc<str>,
}

/// A node as the decision needs it.
#[derive(Clone, Debug)]
pub struct NodeState {
    name: Arc<str>,
    /// `None` while only pods are known that say they are on it.
    node: Option<Arc<Node>>,
    allocatable: Resources,
    max_pods: i64,
    requested: Resources,
    weight: Resources,
    pods: i64,
    /// How many pods of each group.
    groups: HashMap<Arc<str>, u32>,
    taints: Vec<Taint>,
}

/// Nodes and the pods on them, those included that were placed and are not bound yet.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    nodes: BTreeMap<Arc<str>, NodeState>,
    /// Where each pod counts, by uid.
    placed: HashMap<Arc<str>, Placed>,
}

#[derive(Clone, Debug)]
struct Placed {
    candidate: Candidate,
    node: Arc<str>,
    assumed: bool,
}

impl Candidate {
    /// A pod to be placed, or already placed.
    pub fn new(pod: Arc<Pod>) -> Self {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default().into();
        let key = Key::of(&pod.metadata);
        let (requests, weight) = (Resources::requested_by(&pod), Resources::weight_of(&pod));
        let group = group(&pod).into();
        Candidate { pod, uid, key, requests, weight, group }
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
        &self.requests
    }

    /// What the pod counts as when nodes are compared.
    pub(super) fn weight(&self) -> &Resources {
        &self.weight
    }

    /// Pods of one group are spread over nodes: those of one controller, else those with the same labels.
    pub(super) fn group(&self) -> &Arc<str> {
        &self.group
    }

    pub(super) fn never_preempts(&self) -> bool {
        let spec = self.pod.spec.as_ref();
        spec.and_then(|spec| spec.preemption_policy.as_deref()) == Some("Never")
    }
}

fn group(pod: &Pod) -> String {
    let owners = pod.metadata.owner_references.as_ref();
    if let Some(owner) = owners.into_iter().flatten().find(|owner| owner.controller == Some(true)) {
        return owner.uid.clone();
    }
    let mut text = pod.metadata.namespace.clone().unwrap_or_default();
    for (name, value) in pod.metadata.labels.iter().flatten() {
        text.push('\n');
        text.push_str(name);
        text.push('=');
        text.push_str(value);
    }
    text
}

impl NodeState {
    fn new(name: Arc<str>) -> Self {
        NodeState {
            name,
            node: None,
            allocatable: Resources::default(),
            max_pods: 0,
            requested: Resources::default(),
            weight: Resources::default(),
            pods: 0,
            groups: HashMap::new(),
            taints: Vec::new(),
        }
    }

    /// The node's name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The node, unless only pods are known that say they are on it.
    pub fn node(&self) -> Option<&Node> {
        self.node.as_deref()
    }

    /// What the node has for pods.
    pub fn allocatable(&self) -> &Resources {
        &self.allocatable
    }

    /// What the pods on it ask for.
    pub fn requested(&self) -> &Resources {
        &self.requested
    }

    /// What the pods on it count as when nodes are compared.
    pub(super) fn weight(&self) -> &Resources {
        &self.weight
    }

    /// How many pods are on it.
    pub fn pods(&self) -> i64 {
        self.pods
    }

    /// How many pods it takes.
    pub fn max_pods(&self) -> i64 {
        self.max_pods
    }

    pub(super) fn group(&self, group: &str) -> u32 {
        self.groups.get(group).copied().unwrap_or(0)
    }

    /// The taints of the node, and those that its `Ready` condition stands for before the node lifecycle
    /// controller has written them.
    pub(super) fn taints(&self) -> &[Taint] {
        &self.taints
    }

    fn set_node(&mut self, node: &Arc<Node>) {
        let status = node.status.as_ref();
        let amounts = status.and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
        self.allocatable = Resources::of(amounts);
        let pods = amounts.and_then(|amounts| amounts.get("pods"));
        self.max_pods = pods
            .and_then(|quantity| coracle_api::Quantity::parse(&quantity.0).ok())
            .map_or(0, |quantity| quantity.value());
        self.taints = taints(node);
        self.node = Some(node.clone());
    }

    fn add(&mut self, pod: &Candidate) {
        self.requested.add(&pod.requests);
        self.weight.add(&pod.weight);
        self.pods += 1;
        *self.groups.entry(pod.group.clone()).or_default() += 1;
    }

    fn remove(&mut self, pod: &Candidate) {
        self.requested.subtract(&pod.requests);
        self.weight.subtract(&pod.weight);
        self.pods -= 1;
        if let Some(count) = self.groups.get_mut(&pod.group) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.groups.remove(&pod.group);
            }
        }
    }
}

fn taints(node: &Node) -> Vec<Taint> {
    let mut taints: Vec<Taint> = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.into_iter().flatten().find(|condition| condition.type_ == "Ready");
    let key = match ready.map(|ready| ready.status.as_str()) {
        Some("True") => return taints,
        Some("Unknown") => "node.kubernetes.io/unreachable",
        _ => "node.kubernetes.io/not-ready",
    };
    if !taints.iter().any(|taint| taint.key == key) {
        let effect = "NoSchedule".to_owned();
        taints.push(Taint { key: key.to_owned(), effect, ..Taint::default() });
    }
    taints
}

impl Cluster {
    /// An empty cluster.
    pub fn new() -> Self {
        Self::default()
    }

    /// The nodes that exist, in the order of their names.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeState> {
        self.nodes.values().filter(|node| node.node.is_some())
    }

    /// The node of this name, if it exists.
    pub fn node(&self, name: &str) -> Option<&NodeState> {
        self.nodes.get(name).filter(|node| node.node.is_some())
    }

    /// A node is there, or changed.
    pub fn set_node(&mut self, node: &Arc<Node>) {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        self.state(name).set_node(node);
    }

    /// A node is gone. Pods that say they are on it keep counting, should it come back.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(state) = self.nodes.get_mut(name) {
            state.node = None;
            if state.pods == 0 {
                self.nodes.remove(name);
            }
        }
    }

    /// A pod is on a node, as the API says.
    pub fn set_pod(&mut self, pod: Candidate, node: &str) {
        self.put(pod, node, false);
    }

    /// A pod was placed: it counts from now on, until the API says where it is, or
    /// [`Cluster::remove_pod`].
    pub fn assume(&mut self, pod: Candidate, node: &str) {
        self.put(pod, node, true);
    }

    /// Where a pod counts.
    pub fn place_of(&self, uid: &str) -> Option<&Arc<str>> {
        self.placed.get(uid).map(|placed| &placed.node)
    }

    /// True if a pod counts somewhere although the API has not said so.
    pub fn is_assumed(&self, uid: &str) -> bool {
        self.placed.get(uid).is_some_and(|placed| placed.assumed)
    }

    /// A pod is gone, has ended, or could not be bound. True if it counted.
    pub fn remove_pod(&mut self, uid: &str) -> bool {
        let Some(placed) = self.placed.remove(uid) else { return false };
        if let Some(state) = self.nodes.get_mut(&placed.node) {
            state.remove(&placed.candidate);
            if state.pods == 0 && state.node.is_none() {
                self.nodes.remove(&placed.node);
            }
        }
        true
    }

    fn put(&mut self, pod: Candidate, node: &str, assumed: bool) {
        self.remove_pod(&pod.uid);
        let state = self.state(node);
        state.add(&pod);
        let node = state.name.clone();
        self.placed.insert(pod.uid.clone(), Placed { candidate: pod, node, assumed });
    }

    fn state(&mut self, name: &str) -> &mut NodeState {
        let name: Arc<str> = name.into();
        self.nodes.entry(name.clone()).or_insert_with(|| NodeState::new(name))
    }
}
