//! How many pods per second the pure core places: `cargo bench -p coracle-scheduler`.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::{collections::BTreeMap, sync::Arc};

use coracle_scheduler::placement::{Candidate, Cluster, place};
use k8s_openapi::{
    api::core::v1::{
        Container, Node, NodeCondition, NodeSpec, NodeStatus, Pod, PodSpec, ResourceRequirements,
    },
    apimachinery::pkg::api::resource::Quantity,
};
use rand::{SeedableRng, rngs::StdRng};
use tokio::time::Instant;

const PODS: u32 = 10_000;

fn main() {
    for nodes in [1, 10, 100, 500] {
        let mut cluster = Cluster::new();
        for index in 0..nodes {
            cluster.set_node(&Arc::new(node(index)));
        }
        let pods: Vec<_> = (0..PODS).map(|index| Arc::new(pod(index))).collect();
        let mut random = StdRng::seed_from_u64(1);
        let start = Instant::now();
        for pod in pods {
            let pod = Candidate::new(pod);
            let node = place(&cluster, &pod, &mut random).expect("there is room");
            cluster.assume(pod, &node);
        }
        let rate = f64::from(PODS) / start.elapsed().as_secs_f64();
        println!("{nodes:4} nodes: {rate:9.0} pods/s");
    }
}

fn amounts<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, Quantity> {
    pairs.into_iter().map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned()))).collect()
}

fn node(index: u32) -> Node {
    let mut node = Node::default();
    node.metadata.name = Some(format!("node-{index}"));
    node.spec = Some(NodeSpec::default());
    let ready =
        NodeCondition { type_: "Ready".to_owned(), status: "True".to_owned(), ..NodeCondition::default() };
    node.status = Some(NodeStatus {
        allocatable: Some(amounts([("cpu", "1000"), ("memory", "1Ti"), ("pods", "100000")])),
        conditions: Some(vec![ready]),
        ..NodeStatus::default()
    });
    node
}

fn pod(index: u32) -> Pod {
    let resources = ResourceRequirements {
        requests: Some(amounts([("cpu", "10m"), ("memory", "16Mi")])),
        ..ResourceRequirements::default()
    };
    let container = Container { resources: Some(resources), ..Container::default() };
    let mut pod = Pod::default();
    pod.metadata.name = Some(format!("pod-{index}"));
    pod.metadata.namespace = Some("default".to_owned());
    pod.metadata.uid = Some(format!("uid-{index}"));
    pod.metadata.labels = Some(BTreeMap::from([("app".to_owned(), format!("app-{}", index % 10))]));
    pod.spec = Some(PodSpec { containers: vec![container], ..PodSpec::default() });
    pod
}
