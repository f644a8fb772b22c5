//! Decisions by tables, and that no node is ever asked for more than it has.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        Affinity, Container, Node, NodeAffinity, NodeCondition, NodeSelector, NodeSelectorRequirement,
        NodeSelectorTerm, NodeSpec, NodeStatus, Pod, PodSpec, ResourceRequirements, Taint, Toleration,
    },
    apimachinery::pkg::api::resource::Quantity,
};
use proptest::prelude::*;
use rand::SeedableRng;

use super::*;

fn amounts(pairs: &[(&str, &str)]) -> BTreeMap<String, Quantity> {
    pairs.iter().map(|(name, amount)| ((*name).to_owned(), Quantity((*amount).to_owned()))).collect()
}

fn container(requests: &[(&str, &str)]) -> Container {
    let resources =
        ResourceRequirements { requests: Some(amounts(requests)), ..ResourceRequirements::default() };
    Container { resources: Some(resources), ..Container::default() }
}

fn pod(name: &str, requests: &[(&str, &str)]) -> Pod {
    let mut pod = Pod::default();
    pod.metadata.name = Some(name.to_owned());
    pod.metadata.namespace = Some("ns".to_owned());
    pod.metadata.uid = Some(name.to_owned());
    pod.spec = Some(PodSpec { containers: vec![container(requests)], ..PodSpec::default() });
    pod
}

fn node(name: &str, amounts_of: &[(&str, &str)]) -> Node {
    let mut node = Node::default();
    node.metadata.name = Some(name.to_owned());
    node.metadata.labels = Some(BTreeMap::from([("kubernetes.io/hostname".to_owned(), name.to_owned())]));
    node.spec = Some(NodeSpec::default());
    node.status = Some(NodeStatus {
        allocatable: Some(amounts(amounts_of)),
        conditions: Some(vec![ready("True")]),
        ..NodeStatus::default()
    });
    node
}

fn ready(status: &str) -> NodeCondition {
    NodeCondition { type_: "Ready".to_owned(), status: status.to_owned(), ..NodeCondition::default() }
}

const ROOMY: &[(&str, &str)] = &[("cpu", "4"), ("memory", "8Gi"), ("pods", "110")];

fn cluster(nodes: Vec<Node>) -> Cluster {
    let mut cluster = Cluster::new();
    for node in nodes {
        cluster.set_node(&Arc::new(node));
    }
    cluster
}

fn random() -> StdRng {
    StdRng::seed_from_u64(1)
}

/// Where the pod goes, or the message.
#[track_caller]
fn check(nodes: Vec<Node>, pod: Pod, expected: &str) {
    let got = match place(&cluster(nodes), &Candidate::new(Arc::new(pod)), &mut random()) {
        Ok(node) => node.to_string(),
        Err(unplaced) => unplaced.to_string(),
    };
    assert_eq!(got, expected);
}

fn with(mut node: Node, change: impl FnOnce(&mut NodeSpec, &mut NodeStatus)) -> Node {
    change(node.spec.get_or_insert_default(), node.status.get_or_insert_default());
    node
}

fn asking(mut pod: Pod, change: impl FnOnce(&mut PodSpec)) -> Pod {
    change(pod.spec.get_or_insert_default());
    pod
}

fn taint(key: &str, value: &str, effect: &str) -> Taint {
    Taint { key: key.to_owned(), value: Some(value.to_owned()), effect: effect.to_owned(), time_added: None }
}

#[test]
fn messages_are_kubernetes() {
    check(vec![], pod("p", &[]), "no nodes available to schedule pods");
    check(
        vec![node("a", &[("cpu", "1"), ("pods", "9")])],
        pod("p", &[("cpu", "2")]),
        "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Preemption is not \
         helpful for scheduling.",
    );
    let cordoned = with(node("c", ROOMY), |spec, _| spec.unschedulable = Some(true));
    let unready = with(node("d", ROOMY), |_, status| status.conditions = Some(vec![ready("False")]));
    let lost = with(node("e", ROOMY), |_, status| status.conditions = Some(vec![ready("Unknown")]));
    check(
        vec![node("a", &[("cpu", "1"), ("pods", "0")]), cordoned, unready, lost],
        pod("p", &[("cpu", "500m"), ("memory", "1Gi")]),
        "0/4 nodes are available: 1 Insufficient memory, 1 Too many pods, 1 node(s) had untolerated taint \
         {node.kubernetes.io/not-ready: }, 1 node(s) had untolerated taint {node.kubernetes.io/unreachable: }, 1 \
         node(s) were unschedulable. preemption: 0/4 nodes are available: 4 Preemption is not helpful for \
         scheduling.",
    );
    check(
        vec![node("a", ROOMY)],
        asking(pod("p", &[]), |spec| {
            spec.node_selector = Some(BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]));
            spec.preemption_policy = Some("Never".to_owned());
        }),
        "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. preemption: not eligible \
         due to preemptionPolicy=Never.",
    );
}

#[test]
fn others_in_the_way_are_told_apart() {
    let mut cluster =
        cluster(vec![node("a", &[("cpu", "1"), ("pods", "9")]), node("b", &[("cpu", "1"), ("pods", "9")])]);
    for (name, node) in [("p", "a"), ("q", "b")] {
        cluster.set_pod(Candidate::new(Arc::new(pod(name, &[("cpu", "600m")]))), node);
    }
    let labelled = asking(pod("new", &[("cpu", "600m")]), |spec| {
        spec.node_selector = Some(BTreeMap::from([("kubernetes.io/hostname".to_owned(), "a".to_owned())]));
    });
    let unplaced = place(&cluster, &Candidate::new(Arc::new(labelled)), &mut random()).expect_err("full");
    assert_eq!(
        unplaced.to_string(),
        "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match Pod's node affinity/selector. \
         preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 Preemption is \
         not helpful for scheduling."
    );
    assert!(unplaced.is_crowded());
    cluster.remove_pod("p");
    let small = Candidate::new(Arc::new(pod("new", &[("cpu", "600m")])));
    assert_eq!(place(&cluster, &small, &mut random()).as_deref(), Ok("a"));
}

#[test]
fn taints_and_tolerations() {
    let tainted = |effect: &str| {
        let taint = taint("team", "red", effect);
        with(node("a", ROOMY), |spec, _| spec.taints = Some(vec![taint]))
    };
    let tolerating = |key: &str, operator: Option<&str>, value: Option<&str>| {
        let toleration = Toleration {
            key: Some(key.to_owned()).filter(|key| !key.is_empty()),
            operator: operator.map(str::to_owned),
            value: value.map(str::to_owned),
            ..Toleration::default()
        };
        asking(pod("p", &[]), |spec| spec.tolerations = Some(vec![toleration]))
    };
    let refused = "0/1 nodes are available: 1 node(s) had untolerated taint {team: red}. preemption: 0/1 nodes \
                   are available: 1 Preemption is not helpful for scheduling.";
    check(vec![tainted("NoSchedule")], pod("p", &[]), refused);
    check(vec![tainted("NoExecute")], pod("p", &[]), refused);
    check(vec![tainted("PreferNoSchedule")], pod("p", &[]), "a");
    check(vec![tainted("NoSchedule")], tolerating("team", None, Some("red")), "a");
    check(vec![tainted("NoSchedule")], tolerating("team", Some("Equal"), Some("blue")), refused);
    check(vec![tainted("NoSchedule")], tolerating("team", Some("Exists"), None), "a");
    check(vec![tainted("NoSchedule")], tolerating("", Some("Exists"), None), "a");
    check(vec![tainted("NoSchedule")], tolerating("other", Some("Exists"), None), refused);
}

#[test]
fn required_affinity() {
    let holds = |operator: &str, values: &[&str]| {
        let requirement = NodeSelectorRequirement {
            key: "size".to_owned(),
            operator: operator.to_owned(),
            values: Some(values.iter().map(|value| (*value).to_owned()).collect()),
        };
        let term = NodeSelectorTerm { match_expressions: Some(vec![requirement]), match_fields: None };
        let required = NodeSelector { node_selector_terms: vec![NodeSelectorTerm::default(), term] };
        let affinity = NodeAffinity {
            required_during_scheduling_ignored_during_execution: Some(required),
            ..NodeAffinity::default()
        };
        let pod = asking(pod("p", &[]), |spec| {
            spec.affinity = Some(Affinity { node_affinity: Some(affinity), ..Affinity::default() });
        });
        let mut node = node("a", ROOMY);
        node.metadata.labels.get_or_insert_default().insert("size".to_owned(), "5".to_owned());
        place(&cluster(vec![node]), &Candidate::new(Arc::new(pod)), &mut random()).is_ok()
    };
    let cases = [
        ("In", vec!["4", "5"], true),
        ("In", vec!["4"], false),
        ("NotIn", vec!["5"], false),
        ("NotIn", vec!["4"], true),
        ("Exists", vec![], true),
        ("DoesNotExist", vec![], false),
        ("Gt", vec!["4"], true),
        ("Gt", vec!["5"], false),
        ("Lt", vec!["6"], true),
        ("Lt", vec!["x"], false),
        ("Weird", vec!["5"], false),
    ];
    for (operator, values, expected) in cases {
        assert_eq!(holds(operator, &values), expected, "{operator} {values:?}");
    }
}

#[test]
fn what_a_pod_asks_for() {
    let init = |cpu: &str, stays: bool| Container {
        restart_policy: stays.then(|| "Always".to_owned()),
        ..container(&[("cpu", cpu)])
    };
    let cpu = |containers: &[&str], inits: Vec<Container>| {
        let pod = asking(pod("p", &[]), |spec| {
            spec.containers = containers.iter().map(|cpu| container(&[("cpu", cpu)])).collect();
            spec.init_containers = Some(inits);
            spec.overhead = Some(amounts(&[("cpu", "1m")]));
        });
        Resources::requested_by(&pod).cpu
    };
    assert_eq!(cpu(&["100m", "200m"], vec![]), 301);
    assert_eq!(cpu(&["100m"], vec![init("1", false), init("300m", false)]), 1001, "the most demanding one");
    assert_eq!(cpu(&["100m"], vec![init("50m", false)]), 101);
    assert_eq!(cpu(&["100m"], vec![init("50m", true)]), 151, "it stays beside the rest");
    assert_eq!(cpu(&["100m"], vec![init("50m", true), init("1", false)]), 1051);
    assert_eq!(cpu(&["100m"], vec![init("1", false), init("50m", true)]), 1001);
}

#[test]
fn pods_of_one_controller_are_spread_and_load_is_levelled() {
    let mut cluster = cluster(vec![node("a", ROOMY), node("b", ROOMY), node("c", ROOMY)]);
    let mut random = random();
    let mut per_node: BTreeMap<String, u32> = BTreeMap::new();
    for index in 0..30 {
        let mut pod = pod(&format!("p{index}"), &[("cpu", "10m")]);
        pod.metadata.labels = Some(BTreeMap::from([("app".to_owned(), "web".to_owned())]));
        let pod = Candidate::new(Arc::new(pod));
        let node = place(&cluster, &pod, &mut random).expect("room");
        *per_node.entry(node.to_string()).or_default() += 1;
        cluster.assume(pod, &node);
    }
    assert_eq!(per_node.values().copied().collect::<Vec<_>>(), [10, 10, 10]);
    // Another group goes where there is more room.
    cluster.set_pod(Candidate::new(Arc::new(pod("heavy", &[("cpu", "2"), ("memory", "4Gi")]))), "a");
    cluster.set_pod(Candidate::new(Arc::new(pod("heavier", &[("cpu", "3"), ("memory", "6Gi")]))), "b");
    let lone = Candidate::new(Arc::new(pod("lone", &[])));
    assert_eq!(place(&cluster, &lone, &mut random).as_deref(), Ok("c"));
}

#[test]
fn the_same_seed_decides_the_same() {
    let decide = |seed: u64| {
        let mut cluster = cluster((0..20).map(|index| node(&format!("n{index}"), ROOMY)).collect());
        let mut random = StdRng::seed_from_u64(seed);
        (0..100)
            .map(|index| {
                let pod = Candidate::new(Arc::new(pod(&format!("p{index}"), &[])));
                let node = place(&cluster, &pod, &mut random).expect("room");
                cluster.assume(pod, &node);
                node.to_string()
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(decide(7), decide(7));
    assert_ne!(decide(7), decide(8));
}

#[test]
fn a_pod_counts_once_wherever_it_is_said_to_be() {
    let mut cluster = cluster(vec![node("a", ROOMY)]);
    let one = Candidate::new(Arc::new(pod("p", &[("cpu", "1")])));
    cluster.assume(one.clone(), "a");
    assert!(cluster.is_assumed("p"));
    cluster.set_pod(one.clone(), "a");
    assert!(!cluster.is_assumed("p"));
    cluster.remove_node("a");
    assert!(cluster.node("a").is_none());
    cluster.set_node(&Arc::new(node("a", ROOMY)));
    assert_eq!(cluster.node("a").map(|node| node.requested().cpu), Some(1000), "it was there all the time");
    cluster.set_pod(one, "b");
    assert_eq!(cluster.node("a").map(|node| (node.requested().cpu, node.pods())), Some((0, 0)));
    assert!(cluster.remove_pod("p") && !cluster.remove_pod("p"));
}

/// What happens to a cluster.
#[derive(Clone, Debug)]
enum Step {
    Place { cpu: u16, memory: u16, gpus: u8 },
    Remove(prop::sample::Index),
    Shrink(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_u16..3000, 0_u16..3000, 0_u8..3).prop_map(|(cpu, memory, gpus)| Step::Place { cpu, memory, gpus }),
        2 => any::<prop::sample::Index>().prop_map(Step::Remove),
        1 => any::<prop::sample::Index>().prop_map(Step::Shrink),
    ]
}

proptest! {
    /// Whatever comes and goes, a placement never takes a node beyond what it has, and the books agree
    /// with the pods.
    #[test]
    fn nothing_is_overcommitted(steps in proptest::collection::vec(step(), 1..120), seed in any::<u64>()) {
        let sizes = [("4", "4000", "6"), ("2", "9000", "3"), ("8", "1000", "20")];
        let made = |index: usize, cpu: &str| {
            let (_, memory, pods) = sizes[index];
            let gpus = ("example.com/gpu", "2");
            node(&format!("n{index}"), &[("cpu", cpu), ("memory", memory), ("pods", pods), gpus])
        };
        let mut cluster = cluster((0..3).map(|index| made(index, sizes[index].0)).collect());
        let mut random = StdRng::seed_from_u64(seed);
        let mut placed: Vec<(Candidate, Arc<str>)> = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Place { cpu, memory, gpus } => {
                    let (cpu, memory, gpus) = (format!("{cpu}m"), memory.to_string(), gpus.to_string());
                    let asked = [("cpu", &*cpu), ("memory", &*memory), ("example.com/gpu", &*gpus)];
                    let candidate = Candidate::new(Arc::new(pod(&format!("p{number}"), &asked)));
                    if let Ok(name) = place(&cluster, &candidate, &mut random) {
                        cluster.assume(candidate.clone(), &name);
                        let state = cluster.node(&name).expect("placed there");
                        let (has, used, wants) = (state.allocatable(), state.requested(), candidate.requests());
                        prop_assert!(wants.cpu == 0 || used.cpu <= has.cpu);
                        prop_assert!(wants.memory == 0 || used.memory <= has.memory);
                        prop_assert!(state.pods() <= state.max_pods());
                        for (resource, wanted) in &wants.other {
                            prop_assert!(*wanted == 0 || used.other[resource] <= has.other[resource]);
                        }
                        placed.push((candidate, name));
                    }
                }
                Step::Remove(index) if !placed.is_empty() => {
                    let (candidate, _) = placed.swap_remove(index.index(placed.len()));
                    prop_assert!(cluster.remove_pod(candidate.uid()));
                }
                Step::Remove(_) => {}
                Step::Shrink(index) => cluster.set_node(&Arc::new(made(index.index(3), "1"))),
            }
        }
        for state in cluster.nodes() {
            let mut sum = Resources::default();
            let own = placed.iter().filter(|(_, node)| node == state.name());
            own.clone().for_each(|(pod, _)| sum.add(pod.requests()));
            sum.other.retain(|_, amount| *amount > 0);
            let mut books = state.requested().clone();
            books.other.retain(|_, amount| *amount > 0);
            prop_assert_eq!(books, sum);
            prop_assert_eq!(usize::try_from(state.pods()).ok(), Some(own.count()));
        }
    }
}
