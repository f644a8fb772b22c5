//! Nodes and pods for tests.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::core::v1::{
        Affinity, Container, Node, NodeCondition, NodeSpec, NodeStatus, Pod, PodAffinity, PodAffinityTerm,
        PodAntiAffinity, PodSpec, ResourceRequirements, Taint, TopologySpreadConstraint,
        WeightedPodAffinityTerm,
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, OwnerReference},
    },
};
use rand::{SeedableRng, rngs::StdRng};

use crate::placement::{Candidate, Cluster, Placement, Profile, Unplaced, place};

pub(super) const ROOMY: &[(&str, &str)] = &[("cpu", "4"), ("memory", "8Gi"), ("pods", "110")];

pub(super) fn amounts(pairs: &[(&str, &str)]) -> BTreeMap<String, Quantity> {
    pairs.iter().map(|(name, amount)| ((*name).to_owned(), Quantity((*amount).to_owned()))).collect()
}

pub(super) fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

pub(super) fn container(requests: &[(&str, &str)]) -> Container {
    let resources =
        ResourceRequirements { requests: Some(amounts(requests)), ..ResourceRequirements::default() };
    Container { resources: Some(resources), ..Container::default() }
}

pub(super) fn pod(name: &str, requests: &[(&str, &str)]) -> Pod {
    let mut pod = Pod::default();
    pod.metadata.name = Some(name.to_owned());
    pod.metadata.namespace = Some("ns".to_owned());
    pod.metadata.uid = Some(name.to_owned());
    pod.spec = Some(PodSpec { containers: vec![container(requests)], ..PodSpec::default() });
    pod
}

pub(super) fn labelled(name: &str, pairs: &[(&str, &str)]) -> Pod {
    let mut pod = pod(name, &[]);
    pod.metadata.labels = Some(labels(pairs));
    pod
}

pub(super) fn owned(mut pod: Pod, kind: &str, uid: &str) -> Pod {
    let owner = OwnerReference {
        kind: kind.to_owned(),
        uid: uid.to_owned(),
        controller: Some(true),
        ..OwnerReference::default()
    };
    pod.metadata.owner_references = Some(vec![owner]);
    pod
}

pub(super) fn asking(mut pod: Pod, change: impl FnOnce(&mut PodSpec)) -> Pod {
    change(pod.spec.get_or_insert_default());
    pod
}

pub(super) fn node(name: &str, amounts_of: &[(&str, &str)]) -> Node {
    let mut node = Node::default();
    node.metadata.name = Some(name.to_owned());
    node.metadata.labels = Some(labels(&[("kubernetes.io/hostname", name)]));
    node.spec = Some(NodeSpec::default());
    node.status = Some(NodeStatus {
        allocatable: Some(amounts(amounts_of)),
        conditions: Some(vec![ready("True")]),
        ..NodeStatus::default()
    });
    node
}

pub(super) fn zoned(name: &str, zone: &str) -> Node {
    let mut node = node(name, ROOMY);
    let labels = node.metadata.labels.get_or_insert_default();
    labels.insert("topology.kubernetes.io/zone".to_owned(), zone.to_owned());
    node
}

pub(super) fn with(mut node: Node, change: impl FnOnce(&mut NodeSpec, &mut NodeStatus)) -> Node {
    change(node.spec.get_or_insert_default(), node.status.get_or_insert_default());
    node
}

pub(super) fn ready(status: &str) -> NodeCondition {
    NodeCondition { type_: "Ready".to_owned(), status: status.to_owned(), ..NodeCondition::default() }
}

pub(super) fn taint(key: &str, value: &str, effect: &str) -> Taint {
    Taint { key: key.to_owned(), value: Some(value.to_owned()), effect: effect.to_owned(), time_added: None }
}

pub(super) fn selector(pairs: &[(&str, &str)]) -> LabelSelector {
    LabelSelector { match_labels: Some(labels(pairs)), match_expressions: None }
}

pub(super) fn term(pairs: &[(&str, &str)], topology: &str) -> PodAffinityTerm {
    PodAffinityTerm {
        label_selector: Some(selector(pairs)),
        topology_key: topology.to_owned(),
        ..PodAffinityTerm::default()
    }
}

pub(super) fn spread(
    pairs: &[(&str, &str)],
    topology: &str,
    skew: i32,
    hard: bool,
) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        label_selector: Some(selector(pairs)),
        topology_key: topology.to_owned(),
        max_skew: skew,
        when_unsatisfiable: if hard { "DoNotSchedule" } else { "ScheduleAnyway" }.to_owned(),
        ..TopologySpreadConstraint::default()
    }
}

pub(super) fn near(pod: Pod, terms: Vec<PodAffinityTerm>) -> Pod {
    asking(pod, |spec| {
        spec.affinity.get_or_insert_default().pod_affinity = Some(PodAffinity {
            required_during_scheduling_ignored_during_execution: Some(terms),
            ..PodAffinity::default()
        });
    })
}

pub(super) fn away(pod: Pod, terms: Vec<PodAffinityTerm>) -> Pod {
    asking(pod, |spec| {
        spec.affinity.get_or_insert_default().pod_anti_affinity = Some(PodAntiAffinity {
            required_during_scheduling_ignored_during_execution: Some(terms),
            ..PodAntiAffinity::default()
        });
    })
}

/// Drawn with a weight above zero, repelled with one below.
pub(super) fn drawn(pod: Pod, weight: i32, term: PodAffinityTerm) -> Pod {
    let terms = Some(vec![WeightedPodAffinityTerm { weight: weight.abs(), pod_affinity_term: term }]);
    let mut affinity = Affinity::default();
    if weight > 0 {
        affinity.pod_affinity = Some(PodAffinity {
            preferred_during_scheduling_ignored_during_execution: terms,
            ..PodAffinity::default()
        });
    } else {
        affinity.pod_anti_affinity = Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: terms,
            ..PodAntiAffinity::default()
        });
    }
    asking(pod, |spec| spec.affinity = Some(affinity))
}

pub(super) fn cluster(nodes: Vec<Node>) -> Cluster {
    let mut cluster = Cluster::new();
    for node in nodes {
        cluster.set_node(&Arc::new(node));
    }
    cluster
}

/// The pod is on the node.
pub(super) fn put(cluster: &mut Cluster, pod: Pod, node: &str) {
    let pod = cluster.candidate(Arc::new(pod));
    cluster.set_pod(pod, node);
}

pub(super) fn random() -> StdRng {
    StdRng::seed_from_u64(1)
}

pub(super) fn attempt(cluster: &mut Cluster, pod: Pod) -> Result<Placement, Unplaced> {
    let pod = cluster.candidate(Arc::new(pod));
    place(cluster, &Profile::new("default-scheduler"), &pod, &mut random())
}

/// Where the pod goes, or why nowhere.
pub(super) fn told(cluster: &mut Cluster, pod: Pod) -> String {
    match attempt(cluster, pod) {
        Ok(placement) => placement.node,
        Err(unplaced) => unplaced.message,
    }
}

pub(super) fn assume(cluster: &mut Cluster, pod: Candidate, node: &str) {
    cluster.assume(pod, &Placement { node: node.to_owned(), volumes: Vec::new() });
}
