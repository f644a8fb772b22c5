//! How many pods of some set are in each domain of some topology, kept up to date as pods and nodes come
//! and go, so that a decision only looks numbers up.
//!
//! ```text
//!   Query: a set of pods      → how many on each node
//!   Tally: a query, a key     → how many in each domain (of the nodes that count)
//!   Owned: a term of pods     → how many pods with this term in each domain
//! ```
//! Queries and tallies live as long as somebody asks for them; owned terms as long as a class has them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use k8s_openapi::api::core::v1::Toleration;

use super::{
    affinity::{Labels, NodeAffinity},
    class::Class,
    nodes::NodeState,
    table::{NONE, Numbers, Table, at, index, slot},
    taints,
    terms::{Namespaces, Scope, Term},
};

#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    topologies: Table<Topology>,
    queries: Table<Query>,
    tallies: Table<Tally>,
    owned: Table<Owned>,
    topology_by_key: HashMap<String, u32>,
    query_by_key: HashMap<String, u32>,
    tally_by_key: HashMap<String, u32>,
    owned_by_key: HashMap<String, u32>,
    /// Raised when queries come or go.
    queries_epoch: u64,
    /// Raised when owned terms come or go.
    owned_epoch: u64,
}

/// The domain of each node under one label.
#[derive(Clone, Debug)]
struct Topology {
    key: String,
    /// By node.
    values: Vec<u32>,
    ids: HashMap<String, u32>,
    /// Nodes by value; a value without nodes is used again.
    nodes: Vec<u32>,
    free: Vec<u32>,
    users: u32,
}

#[derive(Clone, Debug)]
struct Query {
    key: String,
    /// A pod is counted if all of them match.
    scopes: Vec<Scope>,
    /// Pods that are being deleted do not count.
    living: bool,
    nodes: Vec<u32>,
    tallies: Vec<u32>,
}

/// Which nodes a tally looks at, besides that they have its label.
#[derive(Clone, Debug, Default)]
pub(super) struct Eligibility {
    /// Labels that nodes must have.
    pub(super) labels: Vec<String>,
    /// What nodes must match.
    pub(super) affinity: Option<NodeAffinity>,
    /// What nodes' taints must be tolerated by.
    pub(super) tolerations: Option<Vec<Toleration>>,
}

#[derive(Clone, Debug)]
pub(super) struct Tally {
    key: String,
    query: u32,
    topology: u32,
    eligibility: Eligibility,
    /// By node.
    eligible: Vec<bool>,
    /// Pods by domain.
    counts: Vec<u32>,
    /// Nodes by domain.
    present: Vec<u32>,
    domains: u32,
    total: u64,
    /// How many domains have so many pods.
    levels: BTreeMap<u32, u32>,
    users: u32,
}

/// What a term of existing pods means for a pod that it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The pod may not come near.
    Forbids,
    /// The pod is drawn, or with a weight below zero repelled.
    Weighs(i64),
}

#[derive(Clone, Debug)]
struct Owned {
    key: String,
    scope: Scope,
    topology: u32,
    kind: Kind,
    counts: Vec<u32>,
    total: u64,
    users: u32,
}

/// The pods of one class by node.
#[derive(Clone, Debug, Default)]
pub(super) struct Population {
    /// Living and ending pods.
    pub(super) by_node: Numbers<(u32, u32)>,
    members: Vec<u32>,
    epoch: u64,
    pub(super) owned: Vec<u32>,
}

/// What a tally says, ready to be looked up by node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lookup<'a> {
    values: &'a [u32],
    counts: &'a [u32],
}

impl Population {
    /// Of a class with these terms.
    pub(super) fn new(owned: Vec<u32>) -> Self {
        Population { owned, ..Population::default() }
    }
}

impl Lookup<'_> {
    /// The domain of a node, or [`NONE`].
    pub(super) fn domain(&self, node: u32) -> u32 {
        self.values.get(node as usize).copied().unwrap_or(NONE)
    }

    /// How many in the node's domain; nothing if it has none.
    pub(super) fn count(&self, node: u32) -> u32 {
        at(self.counts, self.domain(node))
    }
}

impl Topology {
    fn set(&mut self, node: u32, value: Option<&str>) {
        let old = self.values.get(node as usize).copied().unwrap_or(NONE);
        if self.values.len() <= node as usize {
            self.values.resize(node as usize + 1, NONE);
        }
        let new = value.map_or(NONE, |value| self.id(value));
        if new != NONE {
            *slot(&mut self.nodes, new) += 1;
        }
        self.values[node as usize] = new;
        if old != NONE {
            let nodes = slot(&mut self.nodes, old);
            *nodes -= 1;
            if *nodes == 0 {
                self.ids.retain(|_, id| *id != old);
                self.free.push(old);
            }
        }
    }

    fn id(&mut self, value: &str) -> u32 {
        if let Some(id) = self.ids.get(value) {
            return *id;
        }
        let id = self.free.pop().unwrap_or_else(|| index(self.nodes.len()));
        slot(&mut self.nodes, id);
        self.ids.insert(value.to_owned(), id);
        id
    }
}

impl Eligibility {
    fn key(&self) -> String {
        // Debug output of plain data: equal for equal data, which is all that is asked of it.
        format!("{self:?}")
    }

    fn admits(&self, node: &NodeState) -> bool {
        self.labels.iter().all(|label| node.labels().contains_key(label))
            && self.affinity.as_ref().is_none_or(|it| it.matches(node.labels(), node.name()))
            && self.tolerations.as_ref().is_none_or(|it| taints::untolerated(node.taints(), it).is_none())
    }
}

impl Tally {
    fn level(&mut self, count: u32, up: bool) {
        if up {
            *self.levels.entry(count).or_default() += 1;
        } else if let Some(domains) = self.levels.get_mut(&count) {
            *domains -= 1;
            if *domains == 0 {
                self.levels.remove(&count);
            }
        }
    }

    fn shift(&mut self, domain: u32, pods: u32, up: bool) {
        let count = *slot(&mut self.counts, domain);
        let new = if up { count.saturating_add(pods) } else { count.saturating_sub(pods) };
        self.total = if up { self.total + u64::from(pods) } else { self.total - u64::from(count - new) };
        self.counts[domain as usize] = new;
        if at(&self.present, domain) > 0 {
            self.level(count, false);
            self.level(new, true);
        }
    }

    fn enter(&mut self, node: u32, domain: u32, pods: u32) {
        *slot(&mut self.eligible, node) = true;
        let present = slot(&mut self.present, domain);
        *present += 1;
        if *present == 1 {
            self.domains += 1;
            let count = *slot(&mut self.counts, domain);
            self.level(count, true);
        }
        self.shift(domain, pods, true);
    }

    fn leave(&mut self, node: u32, domain: u32, pods: u32) {
        if !std::mem::take(slot(&mut self.eligible, node)) {
            return;
        }
        self.shift(domain, pods, false);
        let present = slot(&mut self.present, domain);
        *present -= 1;
        if *present == 0 {
            self.domains -= 1;
            let count = self.counts[domain as usize];
            self.level(count, false);
        }
    }

    /// The fewest pods that any domain has; none if there are fewer domains than that.
    pub(super) fn fewest(&self, min_domains: u32) -> u32 {
        if self.domains < min_domains.max(1) {
            return 0;
        }
        self.levels.first_key_value().map_or(0, |(count, _)| *count)
    }

    /// How many pods in all domains.
    pub(super) fn total(&self) -> u64 {
        self.total
    }
}

impl Counts {
    /// The tally of these pods over the domains of a topology; to be given back by [`Counts::release`].
    pub(super) fn tally(
        &mut self,
        scopes: &[&Scope],
        living: bool,
        topology: &str,
        eligibility: Eligibility,
        world: &World<'_>,
    ) -> u32 {
        let query_key = scopes.iter().fold(living.to_string(), |key, scope| key + "&" + &scope.key());
        let key = format!("{query_key}#{topology}#{}", eligibility.key());
        if let Some(number) = self.tally_by_key.get(&key) {
            if let Some(tally) = self.tallies.get_mut(*number) {
                tally.users += 1;
            }
            return *number;
        }
        let topology = self.topology(topology, world.nodes);
        let query = self.query(query_key, scopes, living, world);
        let mut tally = Tally {
            key: key.clone(),
            query,
            topology,
            eligibility,
            eligible: Vec::new(),
            counts: Vec::new(),
            present: Vec::new(),
            domains: 0,
            total: 0,
            levels: BTreeMap::new(),
            users: 1,
        };
        let values = self.topologies.get(topology).map(|it| it.values.as_slice()).unwrap_or_default();
        let nodes = self.queries.get(query).map(|it| it.nodes.as_slice()).unwrap_or_default();
        for (number, node) in world.nodes.iter().enumerate().filter(|(_, node)| node.exists()) {
            let number = index(number);
            let domain = values.get(number as usize).copied().unwrap_or(NONE);
            if domain != NONE && tally.eligibility.admits(node) {
                tally.enter(number, domain, at(nodes, number));
            }
        }
        let number = self.tallies.insert(tally);
        if let Some(query) = self.queries.get_mut(query) {
            query.tallies.push(number);
        }
        self.tally_by_key.insert(key, number);
        number
    }

    /// Somebody needs a tally no longer.
    pub(super) fn release(&mut self, number: u32) {
        let Some(tally) = self.tallies.get_mut(number) else { return };
        tally.users -= 1;
        if tally.users > 0 {
            return;
        }
        let Some(tally) = self.tallies.remove(number) else { return };
        self.tally_by_key.remove(&tally.key);
        self.leave_topology(tally.topology);
        let Some(query) = self.queries.get_mut(tally.query) else { return };
        query.tallies.retain(|other| *other != number);
        if query.tallies.is_empty() {
            self.queries_epoch += 1;
            if let Some(query) = self.queries.remove(tally.query) {
                self.query_by_key.remove(&query.key);
            }
        }
    }

    fn query(&mut self, key: String, scopes: &[&Scope], living: bool, world: &World<'_>) -> u32 {
        if let Some(number) = self.query_by_key.get(&key) {
            return *number;
        }
        let mut nodes = Vec::new();
        for (_, kindred) in world.classes.iter() {
            if scopes.iter().all(|scope| scope.matches(&kindred.class, world.namespaces)) {
                for (node, (alive, ending)) in &kindred.population.by_node {
                    *slot(&mut nodes, *node) += alive + if living { 0 } else { *ending };
                }
            }
        }
        let scopes = scopes.iter().map(|scope| (*scope).clone()).collect();
        let query = Query { key: key.clone(), scopes, living, nodes, tallies: Vec::new() };
        let number = self.queries.insert(query);
        self.query_by_key.insert(key, number);
        self.queries_epoch += 1;
        number
    }

    fn topology(&mut self, key: &str, nodes: &[NodeState]) -> u32 {
        if let Some(number) = self.topology_by_key.get(key) {
            if let Some(topology) = self.topologies.get_mut(*number) {
                topology.users += 1;
            }
            return *number;
        }
        let mut topology = Topology {
            key: key.to_owned(),
            values: Vec::new(),
            ids: HashMap::new(),
            nodes: Vec::new(),
            free: Vec::new(),
            users: 1,
        };
        for (number, node) in nodes.iter().enumerate().filter(|(_, node)| node.exists()) {
            topology.set(index(number), node.labels().get(key).map(String::as_str));
        }
        let number = self.topologies.insert(topology);
        self.topology_by_key.insert(key.to_owned(), number);
        number
    }

    fn leave_topology(&mut self, number: u32) {
        let Some(topology) = self.topologies.get_mut(number) else { return };
        topology.users -= 1;
        if topology.users == 0 {
            self.topology_by_key.remove(&topology.key);
            self.topologies.remove(number);
        }
    }

    /// The numbers of a class's own terms. To be given back by [`Counts::disown`].
    pub(super) fn own(&mut self, class: &Class, nodes: &[NodeState]) -> Vec<u32> {
        // Kubernetes weighs the required affinity of existing pods by one.
        let required = class.terms.required.iter().map(|term| (Kind::Weighs(1), term));
        let anti = class.terms.anti.iter().map(|term| (Kind::Forbids, term));
        let preferred = class.terms.preferred.iter().map(|(weight, term)| (Kind::Weighs(*weight), term));
        let terms: Vec<(Kind, &Term)> = required.chain(anti).chain(preferred).collect();
        terms.into_iter().map(|(kind, term)| self.own_term(kind, term, nodes)).collect()
    }

    fn own_term(&mut self, kind: Kind, term: &Term, nodes: &[NodeState]) -> u32 {
        let key = format!("{kind:?}#{}#{}", term.topology, term.scope.key());
        if let Some(number) = self.owned_by_key.get(&key) {
            if let Some(owned) = self.owned.get_mut(*number) {
                owned.users += 1;
            }
            return *number;
        }
        let topology = self.topology(&term.topology, nodes);
        let scope = term.scope.clone();
        let owned = Owned { key: key.clone(), scope, topology, kind, counts: Vec::new(), total: 0, users: 1 };
        let number = self.owned.insert(owned);
        self.owned_by_key.insert(key, number);
        self.owned_epoch += 1;
        number
    }

    /// A class that has no pods left is forgotten.
    pub(super) fn disown(&mut self, owned: &[u32]) {
        for number in owned {
            let Some(term) = self.owned.get_mut(*number) else { continue };
            term.users -= 1;
            if term.users == 0
                && let Some(term) = self.owned.remove(*number)
            {
                self.owned_by_key.remove(&term.key);
                self.leave_topology(term.topology);
                self.owned_epoch += 1;
            }
        }
    }

    /// A pod of the class comes to the node, or leaves it.
    pub(super) fn account(
        &mut self,
        Kindred { class, population, .. }: &mut Kindred,
        namespaces: &Namespaces,
        (node, ending, up): (u32, bool, bool),
    ) {
        let here = population.by_node.entry(node).or_default();
        let pods = if ending { &mut here.1 } else { &mut here.0 };
        *pods = if up { *pods + 1 } else { pods.saturating_sub(1) };
        if *here == (0, 0) {
            population.by_node.remove(&node);
        }
        if population.epoch != self.queries_epoch {
            population.epoch = self.queries_epoch;
            let matches = |query: &Query| query.scopes.iter().all(|scope| scope.matches(class, namespaces));
            let members = self.queries.iter().filter(|(_, query)| matches(query));
            population.members = members.map(|(number, _)| number).collect();
        }
        for number in &population.members {
            let Some(query) = self.queries.get_mut(*number).filter(|query| !(query.living && ending)) else {
                continue;
            };
            let pods = slot(&mut query.nodes, node);
            *pods = if up { *pods + 1 } else { pods.saturating_sub(1) };
            for number in &query.tallies {
                let Some(tally) = self.tallies.get_mut(*number) else { continue };
                if tally.eligible.get(node as usize) == Some(&true)
                    && let Some(topology) = self.topologies.get(tally.topology)
                {
                    tally.shift(topology.values[node as usize], 1, up);
                }
            }
        }
        self.account_owned(&population.owned, node, up);
    }

    /// Pods with these terms come to the node, or leave it.
    pub(super) fn account_owned(&mut self, owned: &[u32], node: u32, up: bool) {
        for number in owned {
            let Some(term) = self.owned.get_mut(*number) else { continue };
            let Some(topology) = self.topologies.get(term.topology) else { continue };
            let domain = topology.values.get(node as usize).copied().unwrap_or(NONE);
            if domain != NONE {
                let pods = slot(&mut term.counts, domain);
                *pods = if up { *pods + 1 } else { pods.saturating_sub(1) };
                term.total = if up { term.total + 1 } else { term.total.saturating_sub(1) };
            }
        }
    }

    /// The node is about to change or go: its pods count nowhere.
    pub(super) fn detach(&mut self, node: u32) {
        for (_, tally) in self.tallies.iter_mut() {
            let pods = self.queries.get(tally.query).map_or(0, |query| at(&query.nodes, node));
            if let Some(topology) = self.topologies.get(tally.topology) {
                let domain = topology.values.get(node as usize).copied().unwrap_or(NONE);
                tally.leave(node, domain, pods);
            }
        }
    }

    /// The node has changed, or come; `labels` are none if it is gone.
    pub(super) fn relabel(&mut self, node: u32, labels: Option<&Labels>) {
        for (_, topology) in self.topologies.iter_mut() {
            let value = labels.and_then(|labels| labels.get(&topology.key));
            topology.set(node, value.map(String::as_str));
        }
    }

    /// The node's pods count as it is now.
    pub(super) fn attach(&mut self, number: u32, node: &NodeState) {
        for (_, tally) in self.tallies.iter_mut() {
            let pods = self.queries.get(tally.query).map_or(0, |query| at(&query.nodes, number));
            let Some(topology) = self.topologies.get(tally.topology) else { continue };
            let domain = topology.values.get(number as usize).copied().unwrap_or(NONE);
            if domain != NONE && tally.eligibility.admits(node) {
                tally.enter(number, domain, pods);
            }
        }
    }

    /// The owned terms that match a class, and what they mean.
    pub(super) fn owned_matching(&self, class: &Class, namespaces: &Namespaces) -> Vec<(Kind, u32)> {
        let matching = self.owned.iter().filter(|(_, owned)| owned.scope.matches(class, namespaces));
        matching.map(|(number, owned)| (owned.kind, number)).collect()
    }

    pub(super) fn owned_epoch(&self) -> u64 {
        self.owned_epoch
    }

    /// True if some set of pods depends on labels of namespaces.
    pub(super) fn depends_on_namespaces(&self) -> bool {
        let queries = self.queries.iter().flat_map(|(_, query)| &query.scopes);
        let owned = self.owned.iter().map(|(_, owned)| &owned.scope);
        queries.chain(owned).any(Scope::selects_namespaces)
    }

    /// Labels of namespaces have changed: what was matched is matched again.
    pub(super) fn namespaces_changed(&mut self) {
        self.queries_epoch += 1;
        self.owned_epoch += 1;
    }

    pub(super) fn get(&self, tally: u32) -> Option<&Tally> {
        self.tallies.get(tally)
    }

    pub(super) fn lookup(&self, tally: u32) -> Lookup<'_> {
        let Some(tally) = self.tallies.get(tally) else { return Lookup { values: &[], counts: &[] } };
        let values = self.topologies.get(tally.topology).map(|topology| topology.values.as_slice());
        Lookup { values: values.unwrap_or_default(), counts: &tally.counts }
    }

    /// Pods by node.
    pub(super) fn by_node(&self, tally: u32) -> &[u32] {
        let query = self.tallies.get(tally).and_then(|tally| self.queries.get(tally.query));
        query.map(|query| query.nodes.as_slice()).unwrap_or_default()
    }

    /// An owned term that some pod has; otherwise it means nothing.
    pub(super) fn lookup_owned(&self, number: u32) -> Option<Lookup<'_>> {
        let owned = self.owned.get(number).filter(|owned| owned.total > 0)?;
        let values = &self.topologies.get(owned.topology)?.values;
        Some(Lookup { values, counts: &owned.counts })
    }
}

/// A class and its pods.
#[derive(Clone, Debug)]
pub(super) struct Kindred {
    pub(super) class: Arc<Class>,
    pub(super) key: Box<[u8]>,
    pub(super) population: Population,
}

/// What a new count is filled from.
pub(super) struct World<'a> {
    pub(super) nodes: &'a [NodeState],
    pub(super) namespaces: &'a Namespaces,
    pub(super) classes: &'a Table<Kindred>,
}
