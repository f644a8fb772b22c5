//! Measures decisions: a made-up cluster, made-up pods, no API. What `coracle bench scheduler` and
//! `cargo bench` share.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::{
    api::core::v1::{
        Affinity, Container, ContainerImage, Node, NodeCondition, NodeSpec, NodeStatus, Pod, PodAffinityTerm,
        PodAntiAffinity, PodSpec, ResourceRequirements, Toleration, TopologySpreadConstraint,
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, OwnerReference},
    },
};
use rand::{SeedableRng, rngs::StdRng};
use tokio::time::Instant;

use crate::placement::{Cluster, Profile, place};

const ZONES: u32 = 3;
const ZONE: &str = "topology.kubernetes.io/zone";
const HOSTNAME: &str = "kubernetes.io/hostname";

/// Replicas of one application, as long as they fit when no two of them may share a node.
const REPLICAS: u32 = 500;

/// What the pods ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pods {
    /// CPU and memory; they are spread as Kubernetes spreads by default, and tolerate what admission lets all
    /// pods tolerate.
    Plain,
    /// Also: no two of an application on a node, and evenly over the zones, both required.
    Constrained,
}

/// What a run took.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// How many pods found a place.
    pub placed: u32,
    /// How many did not.
    pub unplaced: u32,
    /// The time for all of them: reading the pod, deciding, and counting it where it goes.
    pub elapsed: Duration,
}

impl Run {
    /// Placements a second.
    pub fn rate(&self) -> f64 {
        f64::from(self.placed) / self.elapsed.as_secs_f64()
    }
}

/// Places so many pods on so many empty nodes, one after the other.
pub fn run(nodes: u32, pods: u32, kind: Pods, seed: u64) -> Run {
    let mut cluster = Cluster::new();
    for index in 0..nodes {
        cluster.set_node(&Arc::new(node(index)));
    }
    let profile = Profile::new("default-scheduler");
    let mut random = StdRng::seed_from_u64(seed);
    let replicas = REPLICAS.min((nodes / 2).max(1));
    let mut run = Run { placed: 0, unplaced: 0, elapsed: Duration::ZERO };
    for chunk in 0..pods.div_ceil(1000) {
        // Making them up is not part of it.
        let end = pods.min((chunk + 1) * 1000);
        let made: Vec<Arc<Pod>> =
            (chunk * 1000..end).map(|index| Arc::new(pod(index, index / replicas, kind))).collect();
        let start = Instant::now();
        for pod in made {
            let pod = cluster.candidate(pod);
            match place(&mut cluster, &profile, &pod, &mut random) {
                Ok(placement) => {
                    cluster.assume(pod, &placement);
                    run.placed += 1;
                }
                Err(_) => run.unplaced += 1,
            }
        }
        run.elapsed += start.elapsed();
    }
    run
}

fn amounts<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, Quantity> {
    pairs.into_iter().map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned()))).collect()
}

fn node(index: u32) -> Node {
    let mut node = Node::default();
    let name = format!("node-{index}");
    node.metadata.labels = Some(BTreeMap::from([
        (HOSTNAME.to_owned(), name.clone()),
        (ZONE.to_owned(), format!("zone-{}", index % ZONES)),
    ]));
    node.metadata.name = Some(name);
    node.spec = Some(NodeSpec::default());
    let ready =
        NodeCondition { type_: "Ready".to_owned(), status: "True".to_owned(), ..NodeCondition::default() };
    // Every other node has an image.
    let image = index.is_multiple_of(2).then(|| ContainerImage {
        names: Some(vec!["registry.local/app-0:latest".to_owned()]),
        size_bytes: Some(100 << 20),
    });
    node.status = Some(NodeStatus {
        allocatable: Some(amounts([("cpu", "32"), ("memory", "128Gi"), ("pods", "110")])),
        conditions: Some(vec![ready]),
        images: Some(image.into_iter().collect()),
        ..NodeStatus::default()
    });
    node
}

fn pod(index: u32, app: u32, kind: Pods) -> Pod {
    let resources = ResourceRequirements {
        requests: Some(amounts([("cpu", "100m"), ("memory", "256Mi")])),
        ..ResourceRequirements::default()
    };
    let image = Some(format!("registry.local/app-{}", app % 10));
    let container =
        Container { name: "main".to_owned(), image, resources: Some(resources), ..Container::default() };
    let tolerated = |key: &str| Toleration {
        key: Some(key.to_owned()),
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        toleration_seconds: Some(300),
        ..Toleration::default()
    };
    let tolerations =
        ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"].map(tolerated).to_vec();
    let mut spec =
        PodSpec { containers: vec![container], tolerations: Some(tolerations), ..PodSpec::default() };
    let labels = BTreeMap::from([("app".to_owned(), format!("app-{app}"))]);
    if kind == Pods::Constrained {
        constrain(&mut spec, &labels);
    }
    let mut pod = Pod::default();
    pod.metadata.name = Some(format!("app-{app}-{index}"));
    pod.metadata.namespace = Some("default".to_owned());
    pod.metadata.uid = Some(format!("uid-{index}"));
    pod.metadata.labels = Some(labels);
    pod.metadata.owner_references = Some(vec![OwnerReference {
        kind: "ReplicaSet".to_owned(),
        name: format!("app-{app}"),
        uid: format!("owner-{app}"),
        controller: Some(true),
        ..OwnerReference::default()
    }]);
    pod.spec = Some(spec);
    pod
}

fn constrain(spec: &mut PodSpec, labels: &BTreeMap<String, String>) {
    let selector = LabelSelector { match_labels: Some(labels.clone()), match_expressions: None };
    let apart = PodAffinityTerm {
        label_selector: Some(selector.clone()),
        topology_key: HOSTNAME.to_owned(),
        ..PodAffinityTerm::default()
    };
    let anti = PodAntiAffinity {
        required_during_scheduling_ignored_during_execution: Some(vec![apart]),
        ..PodAntiAffinity::default()
    };
    spec.affinity = Some(Affinity { pod_anti_affinity: Some(anti), ..Affinity::default() });
    spec.topology_spread_constraints = Some(vec![TopologySpreadConstraint {
        label_selector: Some(selector),
        topology_key: ZONE.to_owned(),
        max_skew: 1,
        when_unsatisfiable: "DoNotSchedule".to_owned(),
        ..TopologySpreadConstraint::default()
    }]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_pods_find_a_place() {
        for kind in [Pods::Plain, Pods::Constrained] {
            let run = run(30, 150, kind, 1);
            assert_eq!((run.placed, run.unplaced), (150, 0), "{kind:?}");
        }
    }
}
