//! A filter as one would write it first: it looks at every pod on every node, for every node. Slow, and
//! plain enough to be believed.

use std::collections::{BTreeMap, BTreeSet};

use coracle_api::selector::LabelSelector;
use k8s_openapi::api::core::v1::{Node, Pod, PodAffinityTerm, TopologySpreadConstraint};

use crate::placement::{affinity::NodeAffinity, taints};

type Labels = BTreeMap<String, String>;

/// The whole truth.
#[derive(Clone, Debug, Default)]
pub(super) struct Reference {
    pub(super) nodes: BTreeMap<String, Node>,
    /// Pod and node by uid.
    pub(super) pods: BTreeMap<String, (Pod, String)>,
    pub(super) namespaces: BTreeMap<String, Labels>,
}

fn labels(pod: &Pod) -> Labels {
    pod.metadata.labels.clone().unwrap_or_default()
}

fn namespace(pod: &Pod) -> String {
    pod.metadata.namespace.clone().unwrap_or_default()
}

fn cpu(pod: &Pod) -> i64 {
    coracle_api::Resources::requested_by(pod).cpu
}

fn anti_terms(pod: &Pod) -> Vec<PodAffinityTerm> {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    let anti = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
    anti.and_then(|anti| anti.required_during_scheduling_ignored_during_execution.clone()).unwrap_or_default()
}

fn affinity_terms(pod: &Pod) -> Vec<PodAffinityTerm> {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    let near = affinity.and_then(|affinity| affinity.pod_affinity.as_ref());
    near.and_then(|near| near.required_during_scheduling_ignored_during_execution.clone()).unwrap_or_default()
}

impl Reference {
    fn there(&self) -> impl Iterator<Item = (&Pod, &Node)> {
        self.pods.values().filter_map(|(pod, node)| Some((pod, self.nodes.get(node)?)))
    }

    fn selects(&self, owner: &Pod, term: &PodAffinityTerm, other: &Pod) -> bool {
        let own = term.namespaces.iter().flatten().any(|name| *name == namespace(other));
        let chosen = term.namespace_selector.as_ref().is_some_and(|selector| {
            let none = Labels::new();
            let labels = self.namespaces.get(&namespace(other)).unwrap_or(&none);
            LabelSelector::from_api(selector).expect("valid").matches(labels)
        });
        let none = term.namespaces.as_ref().is_none_or(Vec::is_empty) && term.namespace_selector.is_none();
        let near = own || chosen || (none && namespace(owner) == namespace(other));
        let keys = term.match_label_keys.iter().flatten();
        let same = keys.clone().all(|key| match labels(owner).get(key) {
            Some(value) => labels(other).get(key) == Some(value),
            None => true,
        });
        let selector = term.label_selector.as_ref();
        near && same
            && selector.is_some_and(|it| LabelSelector::from_api(it).expect("valid").matches(&labels(other)))
    }

    fn domain(node: &Node, key: &str) -> Option<String> {
        node.metadata.labels.as_ref()?.get(key).cloned()
    }

    /// The first thing that keeps the pod from the node.
    pub(super) fn check(&self, pod: &Pod, node: &Node) -> Result<(), &'static str> {
        let spec = pod.spec.clone().unwrap_or_default();
        let tolerations = spec.tolerations.clone().unwrap_or_default();
        let name = node.metadata.name.clone().unwrap_or_default();
        let node_labels = node.metadata.labels.clone().unwrap_or_default();
        if taints::untolerated(&taints::of(node), &tolerations).is_some() {
            return Err("taint");
        }
        let affinity = NodeAffinity::of(&spec);
        if !affinity.matches(&node_labels, &name) {
            return Err("node affinity/selector");
        }
        let here: Vec<&Pod> = self.pods.values().filter(|(_, on)| *on == name).map(|(pod, _)| pod).collect();
        let allocatable = node.status.as_ref().and_then(|status| status.allocatable.clone());
        let has = coracle_api::Resources::of(allocatable.as_ref()).cpu;
        let used: i64 = here.iter().map(|pod| cpu(pod)).sum();
        if cpu(pod) > 0 && cpu(pod) > has - used {
            return Err("Insufficient cpu");
        }
        self.spread(pod, node, &affinity)?;
        self.inter_pod(pod, node)
    }

    fn spread(&self, pod: &Pod, node: &Node, affinity: &NodeAffinity) -> Result<(), &'static str> {
        let constraints = pod.spec.as_ref().and_then(|spec| spec.topology_spread_constraints.clone());
        let hard: Vec<TopologySpreadConstraint> = constraints
            .unwrap_or_default()
            .into_iter()
            .filter(|constraint| constraint.when_unsatisfiable == "DoNotSchedule")
            .collect();
        let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.clone()).unwrap_or_default();
        for constraint in &hard {
            let counts = |node: &Node| {
                let name = node.metadata.name.as_deref().unwrap_or_default();
                let labels = node.metadata.labels.clone().unwrap_or_default();
                hard.iter().all(|other| labels.contains_key(&other.topology_key))
                    && (constraint.node_affinity_policy.as_deref() == Some("Ignore")
                        || affinity.matches(&labels, name))
                    && (constraint.node_taints_policy.as_deref() != Some("Honor")
                        || taints::untolerated(&taints::of(node), &tolerations).is_none())
            };
            let mut selector = constraint.label_selector.clone().expect("the tests give one");
            for key in constraint.match_label_keys.iter().flatten() {
                if let Some(value) = labels(pod).get(key) {
                    selector.match_labels.get_or_insert_default().insert(key.clone(), value.clone());
                }
            }
            let selector = LabelSelector::from_api(&selector).expect("valid");
            let mut domains: BTreeMap<String, i64> = BTreeMap::new();
            for node in self.nodes.values().filter(|node| counts(node)) {
                domains.entry(Self::domain(node, &constraint.topology_key).expect("checked")).or_default();
            }
            for (other, on) in self.there().filter(|(_, node)| counts(node)) {
                if namespace(other) == namespace(pod)
                    && other.metadata.deletion_timestamp.is_none()
                    && selector.matches(&labels(other))
                {
                    *domains
                        .entry(Self::domain(on, &constraint.topology_key).expect("checked"))
                        .or_default() += 1;
                }
            }
            let Some(domain) = Self::domain(node, &constraint.topology_key) else {
                return Err("missing required label");
            };
            let wanted = usize::try_from(constraint.min_domains.unwrap_or(1)).unwrap_or(1);
            let least = if domains.len() < wanted { 0 } else { domains.values().copied().min().unwrap_or(0) };
            let itself = i64::from(selector.matches(&labels(pod)));
            let there = domains.get(&domain).copied().unwrap_or(0);
            if there + itself - least > i64::from(constraint.max_skew) {
                return Err("topology spread constraints");
            }
        }
        Ok(())
    }

    fn inter_pod(&self, pod: &Pod, node: &Node) -> Result<(), &'static str> {
        let terms = affinity_terms(pod);
        let all = |other: &Pod| terms.iter().all(|term| self.selects(pod, term, other));
        let mut found: BTreeSet<(String, String)> = BTreeSet::new();
        for (_, on) in self.there().filter(|(other, _)| all(other)) {
            for term in &terms {
                if let Some(domain) = Self::domain(on, &term.topology_key) {
                    found.insert((term.topology_key.clone(), domain));
                }
            }
        }
        let first = found.is_empty() && all(pod);
        for term in &terms {
            let Some(domain) = Self::domain(node, &term.topology_key) else {
                return Err("pod affinity rules");
            };
            if !first && !found.contains(&(term.topology_key.clone(), domain)) {
                return Err("pod affinity rules");
            }
        }
        let same = |key: &str, on: &Node| {
            Self::domain(node, key).is_some() && Self::domain(node, key) == Self::domain(on, key)
        };
        for term in anti_terms(pod) {
            if self.there().any(|(other, on)| self.selects(pod, &term, other) && same(&term.topology_key, on))
            {
                return Err("pod anti-affinity rules");
            }
        }
        for (other, on) in self.there() {
            for term in anti_terms(other) {
                if self.selects(other, &term, pod) && same(&term.topology_key, on) {
                    return Err("existing pods anti-affinity rules");
                }
            }
        }
        Ok(())
    }
}
