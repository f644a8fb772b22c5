//! What is known of the cluster: nodes, the pods on them, those promised to them, and what pods depend on
//! besides. Everything that decisions count is kept up to date here.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use coracle_api::selector::LabelSelector;
use coracle_client::Key;
use k8s_openapi::api::{
    core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, Service},
    policy::v1::PodDisruptionBudget,
    storage::v1::StorageClass,
};

use super::{
    Unplaced,
    affinity::Labels,
    class::{Candidate, Class, write_key},
    counts::{Counts, Kindred, Population, World},
    nodes::{NodeChange, NodeState, Row},
    preempt::Budget,
    prepared::{Images, Prepared},
    profile::Profile,
    table::{Table, index},
    terms::{Namespaces, Scope},
    volumes::{VolumeAction, Volumes},
};

/// About how much memory the prepared classes may take, in nodes they have looked at: each takes some twenty
/// bytes a node. A class that is prepared again costs a look at all nodes.
const PREPARED_NODES: usize = 3 << 20;
/// Nor are there more of them than this.
const PREPARED: usize = 4096;

/// Classes are looked through for those that nobody has any more when there are so many, and then twice as many.
const SWEEP: usize = 1024;

/// Nodes and the pods on them, those included that were placed and are not bound yet.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    pub(super) nodes: Vec<NodeState>,
    pub(super) rows: Vec<Row>,
    numbers: HashMap<String, u32>,
    free: Vec<u32>,
    /// The nodes that exist, zone by zone in turn; empty when it has to be made again.
    order: Vec<u32>,
    existing: usize,
    versions: u32,
    /// Where each pod counts, by uid.
    placed: HashMap<Arc<str>, Placed>,
    pub(super) classes: Table<Kindred>,
    class_by_key: HashMap<Box<[u8]>, u32>,
    sweep_at: usize,
    key: Vec<u8>,
    pub(super) counts: Counts,
    pub(super) namespaces: Namespaces,
    services: BTreeMap<Key, Labels>,
    pub(super) volumes: Volumes,
    pub(super) budgets: BTreeMap<Key, Budget>,
    /// Pods that were promised a node, by uid.
    nominated: BTreeMap<Arc<str>, (Candidate, String)>,
    /// Pods that were told to make room, by uid, until they are gone.
    leaving: HashSet<Arc<str>>,
    /// How many nodes have an image.
    images: HashMap<String, u32>,
    images_epoch: u64,
    prepared: HashMap<(u32, String), Box<Prepared>>,
    uses: u64,
    /// Where the next search starts.
    pub(super) start: usize,
    /// Raised by every change.
    generation: u64,
    pub(super) last_failure: Option<Failure>,
    pub(super) scratch: Scratch,
}

#[derive(Clone, Debug)]
struct Placed {
    candidate: Candidate,
    node: u32,
    assumed: bool,
}

/// A pod that found no place; another of its class will not either while nothing changes.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) class: u32,
    pub(super) profile: String,
    pub(super) generation: u64,
    pub(super) unplaced: Unplaced,
}

/// Lists that are filled anew for every pod.
#[derive(Clone, Debug, Default)]
pub(super) struct Scratch {
    pub(super) feasible: Vec<(u32, super::prepared::Fixed)>,
    pub(super) totals: Vec<i64>,
    pub(super) raw: Vec<i64>,
    pub(super) seen: Vec<bool>,
}

impl Cluster {
    /// An empty cluster.
    pub fn new() -> Self {
        Cluster { sweep_at: SWEEP, images_epoch: 1, ..Cluster::default() }
    }

    /// How many nodes exist.
    pub fn len(&self) -> usize {
        self.existing
    }

    /// True if no node exists.
    pub fn is_empty(&self) -> bool {
        self.existing == 0
    }

    /// The nodes that exist.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeState> {
        self.nodes.iter().filter(|node| node.exists())
    }

    /// The node of this name, if it exists.
    pub fn node(&self, name: &str) -> Option<&NodeState> {
        self.number(name).map(|number| &self.nodes[number as usize])
    }

    pub(super) fn number(&self, name: &str) -> Option<u32> {
        self.numbers.get(name).copied().filter(|number| self.nodes[*number as usize].exists())
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Nothing is as it was not before: what was tried was taken back.
    pub(super) fn restore_generation(&mut self, generation: u64) {
        self.generation = generation;
    }

    /// A node is there, or changed; says what waiting pods may care about.
    pub fn set_node(&mut self, node: &Arc<Node>) -> NodeChange {
        let number = self.state(node.metadata.name.as_deref().unwrap_or_default());
        let change = self.nodes[number as usize].change(node);
        self.replace_node(number, change, Some(node));
        change
    }

    /// A node is gone. Pods that say they are on it keep counting, should it come back.
    pub fn remove_node(&mut self, name: &str) {
        let Some(number) = self.number(name) else { return };
        let change = NodeChange { added: true, labels: true, taints: true, room: false, images: true };
        self.replace_node(number, change, None);
        self.forget_empty(number);
    }

    fn replace_node(&mut self, number: u32, change: NodeChange, node: Option<&Arc<Node>>) {
        self.generation += 1;
        let existed = self.nodes[number as usize].exists();
        let counts = change.added || change.labels || change.taints;
        if counts {
            self.counts.detach(number);
            self.account_owned(number, false);
        }
        if change.added || change.images {
            self.count_images(number, false);
        }
        self.nodes[number as usize].set(node);
        if change.added || change.images {
            self.count_images(number, true);
            self.images_epoch += 1;
        }
        if counts {
            self.counts.relabel(number, node.map(|_| self.nodes[number as usize].labels()));
            if node.is_some() {
                self.counts.attach(number, &self.nodes[number as usize]);
                self.account_owned(number, true);
            }
            self.order.clear();
        }
        if node.is_some() != existed {
            self.existing = if existed { self.existing - 1 } else { self.existing + 1 };
        }
        if counts || change.images {
            self.versions = self.versions.checked_add(1).unwrap_or(1);
            self.rows[number as usize].version = self.versions;
        }
        self.renew_row(number);
    }

    fn account_owned(&mut self, number: u32, up: bool) {
        for uid in self.nodes[number as usize].placed() {
            let Some(placed) = self.placed.get(uid) else { continue };
            if let Some(kindred) = self.classes.get(placed.candidate.class.index) {
                self.counts.account_owned(&kindred.population.owned, number, up);
            }
        }
    }

    fn count_images(&mut self, number: u32, up: bool) {
        for name in self.nodes[number as usize].images().keys() {
            if up {
                *self.images.entry(name.clone()).or_default() += 1;
            } else if let Some(nodes) = self.images.get_mut(name) {
                *nodes -= 1;
                if *nodes == 0 {
                    self.images.remove(name);
                }
            }
        }
    }

    fn renew_row(&mut self, number: u32) {
        let row = &mut self.rows[number as usize];
        *row = self.nodes[number as usize].row(row.version, row.nominated);
    }

    fn state(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(NodeState::default());
            self.rows.push(Row::default());
            index(self.nodes.len() - 1)
        });
        self.nodes[number as usize] = NodeState::new(name);
        self.numbers.insert(name.to_owned(), number);
        let promised = self.nominated.values().filter(|(_, node)| node == name).count();
        self.rows[number as usize] = Row { nominated: index(promised), ..Row::default() };
        number
    }

    fn forget_empty(&mut self, number: u32) {
        let node = &self.nodes[number as usize];
        if !node.exists() && node.placed().is_empty() {
            self.numbers.remove(node.name());
            self.free.push(number);
        }
    }

    /// The nodes in the order in which they are looked at: a zone's next node after another zone's.
    pub(super) fn take_order(&mut self) -> Vec<u32> {
        if self.order.len() != self.existing {
            let mut zones: BTreeMap<String, Vec<u32>> = BTreeMap::new();
            let mut names: Vec<(&str, u32)> = self
                .numbers
                .iter()
                .map(|(name, number)| (name.as_str(), *number))
                .filter(|(_, number)| self.nodes[*number as usize].exists())
                .collect();
            names.sort_unstable();
            for (_, number) in names {
                zones.entry(zone(self.nodes[number as usize].labels())).or_default().push(number);
            }
            let longest = zones.values().map(Vec::len).max().unwrap_or(0);
            self.order = (0..longest)
                .flat_map(|turn| zones.values().filter_map(move |zone| zone.get(turn).copied()))
                .collect();
        }
        std::mem::take(&mut self.order)
    }

    pub(super) fn give_order(&mut self, order: Vec<u32>) {
        self.order = order;
    }

    /// A pod as decisions need it.
    pub fn candidate(&mut self, pod: Arc<Pod>) -> Candidate {
        let mut key = std::mem::take(&mut self.key);
        write_key(&pod, &mut key);
        let known = self.class_by_key.get(key.as_slice()).and_then(|number| self.classes.get(*number));
        let class = match known {
            Some(kindred) => kindred.class.clone(),
            None => self.new_class(&pod, &key),
        };
        self.key = key;
        Candidate::new(pod, class)
    }

    fn new_class(&mut self, pod: &Pod, key: &[u8]) -> Arc<Class> {
        if self.classes.len() >= self.sweep_at.max(SWEEP) {
            self.sweep();
        }
        let class = Arc::new(Class::of(pod, self.classes.next()));
        let owned = self.counts.own(&class, &self.nodes);
        let population = Population::new(owned);
        let kindred = Kindred { class: class.clone(), key: key.into(), population };
        let number = self.classes.insert(kindred);
        self.class_by_key.insert(key.into(), number);
        class
    }

    /// Forgets the classes that no pod is of.
    fn sweep(&mut self) {
        let unused = |kindred: &Kindred| Arc::strong_count(&kindred.class) == 1;
        let unused: Vec<u32> =
            self.classes.iter().filter(|(_, it)| unused(it)).map(|(number, _)| number).collect();
        for number in unused {
            self.drop_prepared(|class, _| class == number);
            if let Some(kindred) = self.classes.remove(number) {
                self.counts.disown(&kindred.population.owned);
                self.class_by_key.remove(&kindred.key);
            }
        }
        self.last_failure = None;
        self.sweep_at = 2 * self.classes.len() + SWEEP;
    }

    /// A pod is on a node, as the API says.
    pub fn set_pod(&mut self, pod: Candidate, node: &str) {
        if let Some(placed) = self.placed.get_mut(pod.uid())
            && self.nodes[placed.node as usize].name() == node
            && Arc::ptr_eq(&placed.candidate.class, &pod.class)
            && placed.candidate.is_terminating() == pod.is_terminating()
        {
            placed.assumed = false;
            placed.candidate = pod;
            return;
        }
        self.put(pod, node, false);
    }

    /// A pod was placed: it counts from now on, until the API says where it is, or
    /// [`Cluster::remove_pod`].
    pub fn assume(&mut self, pod: Candidate, placement: &super::Placement) {
        self.volumes.decide(&placement.volumes);
        self.put(pod, &placement.node, true);
    }

    /// What was decided for claims has been done, or failed.
    pub fn volumes_settled(&mut self, actions: &[VolumeAction]) {
        self.generation += 1;
        self.volumes.settle(actions);
    }

    /// Where a pod counts.
    pub fn place_of(&self, uid: &str) -> Option<&str> {
        self.placed.get(uid).map(|placed| self.nodes[placed.node as usize].name())
    }

    /// The pod that counts under this uid.
    pub fn placed(&self, uid: &str) -> Option<&Candidate> {
        self.placed.get(uid).map(|placed| &placed.candidate)
    }

    /// True if a pod counts somewhere although the API has not said so.
    pub fn is_assumed(&self, uid: &str) -> bool {
        self.placed.get(uid).is_some_and(|placed| placed.assumed)
    }

    /// A pod is gone, has ended, or could not be bound. True if it counted.
    pub fn remove_pod(&mut self, uid: &str) -> bool {
        let Some(placed) = self.placed.remove(uid) else { return false };
        self.leaving.remove(uid);
        self.account(&placed.candidate, placed.node, false);
        self.nodes[placed.node as usize].placed_mut().remove(uid);
        self.forget_empty(placed.node);
        true
    }

    fn put(&mut self, pod: Candidate, node: &str, assumed: bool) {
        self.remove_pod(pod.uid());
        self.denominate(pod.uid());
        let node = self.state(node);
        self.account(&pod, node, true);
        self.nodes[node as usize].placed_mut().insert(pod.uid().clone());
        self.placed.insert(pod.uid().clone(), Placed { candidate: pod, node, assumed });
    }

    /// A pod counts on a node from now on, or no longer.
    pub(super) fn account(&mut self, pod: &Candidate, node: u32, up: bool) {
        self.generation += 1;
        self.nodes[node as usize].account(pod, up);
        self.renew_row(node);
        self.volumes.account(&pod.class, up);
        if let Some(kindred) = self.classes.get_mut(pod.class.index) {
            self.counts.account(kindred, &self.namespaces, (node, pod.is_terminating(), up));
        }
    }

    /// A pod that waits was promised a node: those of lower priority do not get its place.
    pub fn nominate(&mut self, pod: Candidate, node: &str) {
        self.denominate(pod.uid());
        self.generation += 1;
        self.promised(node, true);
        self.nominated.insert(pod.uid().clone(), (pod, node.to_owned()));
    }

    /// A pod was promised nothing, or no longer.
    pub fn denominate(&mut self, uid: &str) {
        if let Some((_, node)) = self.nominated.remove(uid) {
            self.generation += 1;
            self.promised(&node, false);
        }
    }

    /// A pod was told to make room, or could not be told.
    pub fn set_leaving(&mut self, uid: &Arc<str>, leaving: bool) {
        if leaving && self.placed.contains_key(uid) {
            self.leaving.insert(uid.clone());
        } else {
            self.leaving.remove(uid);
        }
        self.generation += 1;
    }

    /// Whether the pod goes to make room.
    pub(super) fn makes_room(&self, pod: &Candidate) -> bool {
        self.leaving.contains(pod.uid()) || pod.makes_room()
    }

    fn promised(&mut self, node: &str, up: bool) {
        if let Some(number) = self.numbers.get(node) {
            let nominated = &mut self.rows[*number as usize].nominated;
            *nominated = if up { *nominated + 1 } else { nominated.saturating_sub(1) };
        }
    }

    /// The node that was promised to a pod.
    pub fn nominated(&self, uid: &str) -> Option<&str> {
        self.nominated.get(uid).map(|(_, node)| node.as_str())
    }

    /// Those that were promised the node.
    pub(super) fn nominated_to<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Candidate> {
        self.nominated.values().filter(move |(_, to)| to == node).map(|(pod, _)| pod)
    }

    /// All nodes that were promised to somebody.
    pub(super) fn promised_nodes(&self) -> Vec<u32> {
        let mut nodes: Vec<u32> = self.nominated.values().filter_map(|(_, node)| self.number(node)).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    pub(super) fn on_node(&self, node: u32) -> impl Iterator<Item = &Candidate> {
        let placed = self.nodes[node as usize].placed().iter();
        placed.filter_map(|uid| self.placed.get(uid)).map(|placed| &placed.candidate)
    }

    /// A namespace is there with its labels, or gone; true if it matters to how pods are matched.
    pub fn set_namespace(&mut self, name: &str, namespace: Option<&Namespace>) -> bool {
        let labels = namespace.map(|namespace| namespace.metadata.labels.clone().unwrap_or_default());
        if self.namespaces.get(name) == labels.as_ref() {
            return false;
        }
        match labels {
            Some(labels) => self.namespaces.insert(name.to_owned(), labels),
            None => self.namespaces.remove(name),
        };
        let matters = self.counts.depends_on_namespaces();
        if matters {
            self.generation += 1;
            self.drop_prepared(|_, _| true);
            self.counts.namespaces_changed();
        }
        matters
    }

    /// A service is there, or gone.
    pub fn set_service(&mut self, key: &Key, service: Option<&Service>) {
        let spec = service.and_then(|service| service.spec.as_ref());
        let selector = spec.and_then(|spec| spec.selector.clone()).filter(|selector| !selector.is_empty());
        if self.services.get(key) == selector.as_ref() {
            return;
        }
        self.generation += 1;
        match selector {
            Some(selector) => self.services.insert(key.clone(), selector),
            None => self.services.remove(key),
        };
        let namespace = key.namespace.clone();
        self.drop_prepared(move |_, class| class.is_some_and(|class| class.namespace == namespace));
    }

    /// A claim is there, or gone.
    pub fn set_claim(&mut self, key: Key, claim: Option<Arc<PersistentVolumeClaim>>) {
        self.generation += 1;
        self.volumes.set_claim(key, claim);
    }

    /// A volume is there, or gone.
    pub fn set_volume(&mut self, name: &str, volume: Option<Arc<PersistentVolume>>) {
        self.generation += 1;
        self.volumes.set_volume(name, volume);
    }

    /// A storage class is there, or gone.
    pub fn set_storage_class(&mut self, name: &str, class: Option<Arc<StorageClass>>) {
        self.generation += 1;
        self.volumes.set_class(name, class);
    }

    /// A budget is there, or gone.
    pub fn set_budget(&mut self, key: &Key, budget: Option<&PodDisruptionBudget>) {
        self.generation += 1;
        match budget.and_then(Budget::of) {
            Some(budget) => self.budgets.insert(key.clone(), budget),
            None => self.budgets.remove(key),
        };
    }

    /// What can be said of the class before any node is looked at. To be given back.
    pub(super) fn take_prepared(&mut self, class: &Class, profile: &Profile) -> Box<Prepared> {
        let key = (class.index, profile.name.clone());
        let mut prepared = self.prepared.remove(&key).unwrap_or_else(|| {
            let services = self.services_of(class);
            let world = World { nodes: &self.nodes, namespaces: &self.namespaces, classes: &self.classes };
            Box::new(Prepared::new(class, profile, services, &mut self.counts, &world))
        });
        self.uses += 1;
        prepared.used = self.uses;
        prepared.refresh(class, &self.counts, &self.namespaces, self.images_epoch);
        prepared
    }

    pub(super) fn give_prepared(&mut self, class: &Class, profile: &Profile, prepared: Box<Prepared>) {
        let most = (PREPARED_NODES / (self.nodes.len() + 1)).clamp(64, PREPARED);
        if self.prepared.len() >= most {
            // A quarter goes, so that this is not done for each.
            let mut used: Vec<u64> = self.prepared.values().map(|prepared| prepared.used).collect();
            used.sort_unstable();
            let limit = used[used.len() / 4];
            let old = self.prepared.iter().filter(|(_, it)| it.used <= limit);
            let old: Vec<_> = old.map(|(key, _)| key.clone()).collect();
            self.forget(&old);
        }
        self.prepared.insert((class.index, profile.name.clone()), prepared);
    }

    fn drop_prepared(&mut self, which: impl Fn(u32, Option<&Class>) -> bool) {
        let class = |number: u32| self.classes.get(number).map(|kindred| &*kindred.class);
        let keys = self.prepared.keys().filter(|(number, _)| which(*number, class(*number)));
        let keys: Vec<_> = keys.cloned().collect();
        self.forget(&keys);
    }

    fn forget(&mut self, keys: &[(u32, String)]) {
        for prepared in keys.iter().filter_map(|key| self.prepared.remove(key)) {
            for tally in prepared.tallies() {
                self.counts.release(tally);
            }
        }
    }

    /// The selectors of all services that select the class's pods, together.
    fn services_of(&self, class: &Class) -> Option<Scope> {
        let mut together = Labels::new();
        let from = Key::new(class.namespace.clone(), String::new());
        for (_, selector) in
            self.services.range(from..).take_while(|(key, _)| key.namespace == class.namespace)
        {
            if selector.iter().all(|(name, value)| class.labels.get(name) == Some(value)) {
                together.extend(selector.clone());
            }
        }
        (!together.is_empty()).then(|| Scope::Labels {
            namespaces: vec![class.namespace.clone()],
            namespace_selector: None,
            pods: Some(LabelSelector::from_map(&together)),
        })
    }

    /// Looks at images through `with`.
    pub(super) fn with_images<T>(
        images: &HashMap<String, u32>,
        nodes: usize,
        with: impl FnOnce(&Images<'_>) -> T,
    ) -> T {
        let count = |name: &str| images.get(name).copied().unwrap_or(0);
        with(&Images { nodes, with: &count })
    }

    pub(super) fn images(&self) -> &HashMap<String, u32> {
        &self.images
    }
}

fn zone(labels: &Labels) -> String {
    let label =
        |names: [&str; 2]| names.iter().find_map(|name| labels.get(*name)).cloned().unwrap_or_default();
    let region = label(["topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"]);
    region + ":" + &label(["topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"])
}
