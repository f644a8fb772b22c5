//! Labels, taints, resources and the words for what is missing.

use std::{collections::BTreeMap, sync::Arc};

use coracle_api::Resources;
use k8s_openapi::api::core::v1::{
    Affinity, Container, ContainerPort, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement,
    NodeSelectorTerm, Pod, ResourceRequirements, Toleration,
};
use proptest::prelude::*;
use rand::{SeedableRng, rngs::StdRng};

use super::make::*;
use crate::placement::{Candidate, Profile, place};

/// Where the pod goes, or the message.
#[track_caller]
fn check(nodes: Vec<Node>, pod: Pod, expected: &str) {
    assert_eq!(told(&mut cluster(nodes), pod), expected);
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
    let small: &[(&str, &str)] = &[("cpu", "1"), ("pods", "9")];
    let mut cluster = cluster(vec![node("a", small), node("b", small)]);
    for (name, node) in [("p", "a"), ("q", "b")] {
        put(&mut cluster, pod(name, &[("cpu", "600m")]), node);
    }
    let labelled = asking(pod("new", &[("cpu", "600m")]), |spec| {
        spec.node_selector = Some(labels(&[("kubernetes.io/hostname", "a")]));
    });
    assert_eq!(
        told(&mut cluster, labelled),
        "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match Pod's node affinity/selector. \
         preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 Preemption is \
         not helpful for scheduling."
    );
    cluster.remove_pod("p");
    assert_eq!(told(&mut cluster, pod("new", &[("cpu", "600m")])), "a");
}

#[test]
fn terms_that_name_nodes_leave_the_others_out() {
    let named = |names: &[&str]| {
        let field = NodeSelectorRequirement {
            key: "metadata.name".to_owned(),
            operator: "In".to_owned(),
            values: Some(names.iter().map(|name| (*name).to_owned()).collect()),
        };
        let term = NodeSelectorTerm { match_fields: Some(vec![field]), match_expressions: None };
        let affinity = NodeAffinity {
            required_during_scheduling_ignored_during_execution: Some(NodeSelector {
                node_selector_terms: vec![term],
            }),
            ..NodeAffinity::default()
        };
        asking(pod("p", &[("cpu", "2")]), |spec| {
            spec.affinity = Some(Affinity { node_affinity: Some(affinity), ..Affinity::default() });
        })
    };
    let nodes = || vec![node("a", ROOMY), node("b", &[("cpu", "1"), ("pods", "9")]), node("c", ROOMY)];
    check(nodes(), named(&["c"]), "c");
    let text = "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]. \
                preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.";
    check(nodes(), named(&["b"]), text);
    let text = "0/3 nodes are available: pod affinity terms conflict. preemption: 0/3 nodes are available: 3 \
                Preemption is not helpful for scheduling.";
    check(nodes(), named(&[]), text);
}

#[test]
fn resources_beside_cpu_and_memory() {
    let small = node("a", &[("pods", "9"), ("ephemeral-storage", "1Gi"), ("example.com/gpu", "1")]);
    let wants = [("ephemeral-storage", "2Gi"), ("example.com/gpu", "2")];
    let text = "0/1 nodes are available: 1 Insufficient ephemeral-storage, 1 Insufficient example.com/gpu. \
                preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    check(vec![small.clone()], pod("p", &wants), text);
    check(vec![small], pod("p", &[("ephemeral-storage", "1Gi"), ("example.com/gpu", "1")]), "a");
    let whole = asking(pod("p", &[("cpu", "3")]), |spec| {
        let requests = Some(amounts(&[("cpu", "1500m")]));
        spec.resources = Some(ResourceRequirements { requests, ..ResourceRequirements::default() });
    });
    assert_eq!(Resources::requested_by(&whole).cpu, 1500, "the pod's own stand for its containers'");
}

#[test]
fn ports_of_the_node_are_given_once() {
    let wants = |name: &str, ip: &str, protocol: &str| {
        let port = ContainerPort {
            host_port: Some(80),
            host_ip: Some(ip.to_owned()),
            protocol: Some(protocol.to_owned()),
            ..ContainerPort::default()
        };
        asking(pod(name, &[]), |spec| spec.containers[0].ports = Some(vec![port]))
    };
    let refused = "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. \
                   preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";
    let cases = [
        (("", "TCP"), ("10.0.0.1", "TCP"), refused),
        (("10.0.0.1", "TCP"), ("", "TCP"), refused),
        (("10.0.0.1", "TCP"), ("10.0.0.1", "TCP"), refused),
        (("10.0.0.1", "TCP"), ("10.0.0.2", "TCP"), "a"),
        (("", "TCP"), ("", "UDP"), "a"),
    ];
    for (there, new, expected) in cases {
        let mut cluster = cluster(vec![node("a", ROOMY)]);
        put(&mut cluster, wants("there", there.0, there.1), "a");
        assert_eq!(told(&mut cluster, wants("new", new.0, new.1)), expected, "{there:?} {new:?}");
        cluster.remove_pod("there");
        assert_eq!(told(&mut cluster, wants("new", new.0, new.1)), "a");
    }
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
        attempt(&mut cluster(vec![node]), pod).is_ok()
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
    let mut per_node: BTreeMap<String, u32> = BTreeMap::new();
    for index in 0..30 {
        let pod = owned(pod(&format!("p{index}"), &[("cpu", "10m")]), "ReplicaSet", "web");
        let pod = cluster.candidate(Arc::new(pod));
        let place = place(&mut cluster, &Profile::new("x"), &pod, &mut random()).expect("room");
        *per_node.entry(place.node.clone()).or_default() += 1;
        cluster.assume(pod, &place);
    }
    assert_eq!(per_node.values().copied().collect::<Vec<_>>(), [10, 10, 10]);
    // Another group goes where there is more room.
    put(&mut cluster, pod("heavy", &[("cpu", "2"), ("memory", "4Gi")]), "a");
    put(&mut cluster, pod("heavier", &[("cpu", "3"), ("memory", "6Gi")]), "b");
    assert_eq!(told(&mut cluster, pod("lone", &[])), "c");
}

#[test]
fn the_same_seed_decides_the_same() {
    let decide = |seed: u64| {
        let mut cluster = cluster((0..20).map(|index| node(&format!("n{index}"), ROOMY)).collect());
        let mut random = StdRng::seed_from_u64(seed);
        (0..100)
            .map(|index| {
                let pod = cluster.candidate(Arc::new(pod(&format!("p{index}"), &[])));
                let place = place(&mut cluster, &Profile::new("x"), &pod, &mut random).expect("room");
                cluster.assume(pod, &place);
                place.node
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(decide(7), decide(7));
    assert_ne!(decide(7), decide(8));
}

#[test]
fn of_many_nodes_only_some_are_looked_at_and_the_next_search_goes_on_from_there() {
    let mut cluster = cluster((0..400).map(|index| node(&format!("n{index:03}"), ROOMY)).collect());
    let mut used: BTreeMap<String, u32> = BTreeMap::new();
    for index in 0..9 {
        let pod = cluster.candidate(Arc::new(pod(&format!("p{index}"), &[])));
        let profile = Profile { percentage_of_nodes_to_score: Some(25), ..Profile::new("x") };
        let place = place(&mut cluster, &profile, &pod, &mut random()).expect("room");
        *used.entry(place.node[..2].to_owned()).or_default() += 1;
        cluster.assume(pod, &place);
    }
    // A quarter of the nodes each time: the fifth starts where the first did.
    assert_eq!(used.values().copied().collect::<Vec<_>>(), [3, 2, 2, 2]);
}

#[test]
fn a_pod_counts_once_wherever_it_is_said_to_be() {
    let mut cluster = cluster(vec![node("a", ROOMY)]);
    let one = cluster.candidate(Arc::new(pod("p", &[("cpu", "1")])));
    assume(&mut cluster, one.clone(), "a");
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
        let mut placed: Vec<(Candidate, String)> = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Place { cpu, memory, gpus } => {
                    let (cpu, memory, gpus) = (format!("{cpu}m"), memory.to_string(), gpus.to_string());
                    let asked = [("cpu", &*cpu), ("memory", &*memory), ("example.com/gpu", &*gpus)];
                    let candidate = cluster.candidate(Arc::new(pod(&format!("p{number}"), &asked)));
                    let profile = Profile::new("x");
                    if let Ok(placement) = place(&mut cluster, &profile, &candidate, &mut random) {
                        cluster.assume(candidate.clone(), &placement);
                        let name = placement.node;
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
                Step::Shrink(index) => {
                    cluster.set_node(&Arc::new(made(index.index(3), "1")));
                }
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
