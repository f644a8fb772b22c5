//! The fast filter and the slow one agree, whatever happened before.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::core::v1::{Namespace, Node, Pod, Toleration},
    apimachinery::pkg::apis::meta::v1::{LabelSelector, Time},
};
use proptest::prelude::*;

use super::{make::*, reference::Reference};
use crate::placement::{Cluster, Profile, attempt::Attempt, place, volumes::Check};

const ZONE: &str = "topology.kubernetes.io/zone";
const HOST: &str = "kubernetes.io/hostname";

/// What is done to a cluster.
#[derive(Clone, Debug)]
enum Step {
    Node { number: u8, zone: u8, disk: u8, tainted: bool, cpu: u8 },
    RemoveNode(u8),
    Pod { number: u8, kind: u8, node: u8 },
    End(u8),
    RemovePod(u8),
    Namespace { number: u8, team: u8 },
    Promise(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6_u8, 0..4_u8, 0..3_u8, prop::bool::weighted(0.2), 1..6_u8).prop_map(
            |(number, zone, disk, tainted, cpu)| Step::Node { number, zone, disk, tainted, cpu }
        ),
        1 => (0..6_u8).prop_map(Step::RemoveNode),
        8 => (0..12_u8, 0..KINDS, 0..7_u8).prop_map(|(number, kind, node)| Step::Pod { number, kind, node }),
        1 => (0..12_u8).prop_map(Step::End),
        2 => (0..12_u8).prop_map(Step::RemovePod),
        1 => (0..2_u8, 0..2_u8).prop_map(|(number, team)| Step::Namespace { number, team }),
        2 => (0..KINDS).prop_map(Step::Promise),
    ]
}

fn made_node(number: u8, zone: u8, disk: u8, tainted: bool, cpu: u8) -> Node {
    let name = format!("n{number}");
    let mut node = node(&name, &[("cpu", &cpu.to_string()), ("pods", "100")]);
    let labels = node.metadata.labels.get_or_insert_default();
    if zone > 0 {
        labels.insert(ZONE.to_owned(), format!("z{zone}"));
    }
    if disk > 0 {
        labels.insert("disk".to_owned(), format!("d{disk}"));
    }
    with(node, |spec, _| spec.taints = tainted.then(|| vec![taint("team", "red", "NoSchedule")]))
}

const KINDS: u8 = 16;

/// Pods that ask for this and that of each other.
fn made_pod(name: &str, kind: u8) -> Pod {
    let app = |app: &str| [("app".to_owned(), app.to_owned()), ("rev".to_owned(), (kind % 2).to_string())];
    let base = |of: &str| {
        let mut pod = pod(name, &[("cpu", "500m")]);
        pod.metadata.labels = Some(BTreeMap::from(app(of)));
        pod
    };
    let web = [("app", "web")];
    let constrained = |pod: Pod, change: fn(&mut k8s_openapi::api::core::v1::TopologySpreadConstraint)| {
        asking(pod, |spec| {
            let mut constraint = spread(&web, ZONE, 1, true);
            change(&mut constraint);
            spec.topology_spread_constraints = Some(vec![constraint]);
        })
    };
    match kind {
        0 => base("web"),
        1 => base("db"),
        2 => away(base("web"), vec![term(&web, HOST)]),
        3 => away(base("db"), vec![term(&web, ZONE)]),
        4 => near(base("db"), vec![term(&web, ZONE)]),
        5 => near(base("web"), vec![term(&web, HOST)]),
        6 => near(base("web"), vec![term(&web, ZONE), term(&[("rev", "0")], "disk")]),
        7 => constrained(base("web"), |_| {}),
        8 => constrained(base("web"), |it| {
            it.min_domains = Some(3);
            it.max_skew = 2;
        }),
        9 => constrained(base("web"), |it| it.match_label_keys = Some(vec!["rev".to_owned()])),
        10 => {
            asking(constrained(base("web"), |it| it.node_taints_policy = Some("Honor".to_owned())), |spec| {
                let both = spec.topology_spread_constraints.get_or_insert_default();
                both.push(spread(&[("app", "db")], HOST, 2, true));
            })
        }
        11 => asking(constrained(base("db"), |_| {}), |spec| {
            spec.node_selector = Some(labels(&[("disk", "d1")]));
            spec.tolerations =
                Some(vec![Toleration { operator: Some("Exists".to_owned()), ..Toleration::default() }]);
        }),
        12 => asking(
            constrained(base("db"), |it| it.node_affinity_policy = Some("Ignore".to_owned())),
            |spec| spec.node_selector = Some(labels(&[("disk", "d1")])),
        ),
        13 => {
            let mut other = base("web");
            other.metadata.namespace = Some("other".to_owned());
            away(other, vec![crate_term(&web)])
        }
        14 => {
            let mut near = term(&web, ZONE);
            near.match_label_keys = Some(vec!["rev".to_owned()]);
            away(base("web"), vec![near])
        }
        _ => away(base("db"), vec![crate_term(&[])]),
    }
}

/// Of all namespaces of one team.
fn crate_term(pairs: &[(&str, &str)]) -> k8s_openapi::api::core::v1::PodAffinityTerm {
    let team: LabelSelector = selector(&[("team", "0")]);
    k8s_openapi::api::core::v1::PodAffinityTerm { namespace_selector: Some(team), ..term(pairs, HOST) }
}

fn agree(cluster: &mut Cluster, reference: &Reference) -> Result<(), TestCaseError> {
    let profile = Profile::new("x");
    for kind in 0..KINDS {
        let pod = made_pod("new", kind);
        let candidate = cluster.candidate(Arc::new(pod.clone()));
        let prepared = cluster.take_prepared(&candidate.class, &profile);
        let check = Check::default();
        let attempt = Attempt { pod: &candidate, prepared: &prepared, check: &check };
        for (name, node) in &reference.nodes {
            let number = cluster.number(name).expect("known");
            let fast = attempt.admits(cluster, number);
            let reasons = fast.err().map(|refusal| refusal.reasons.join(", "));
            match (reasons, reference.check(&pod, node)) {
                (None, Ok(())) => {}
                (Some(reasons), Err(why)) if reasons.contains(why) => {}
                (fast, slow) => prop_assert!(false, "{kind} on {name}: {fast:?} or {slow:?}"),
            }
        }
        cluster.give_prepared(&candidate.class, &profile, prepared);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_fast_filter_is_right(steps in proptest::collection::vec(step(), 1..60)) {
        let mut reference = Reference::default();
        let mut cluster = Cluster::new();
        for (turn, step) in steps.into_iter().enumerate() {
            match step {
                Step::Node { number, zone, disk, tainted, cpu } => {
                    let node = made_node(number, zone, disk, tainted, cpu);
                    cluster.set_node(&Arc::new(node.clone()));
                    reference.nodes.insert(format!("n{number}"), node);
                }
                Step::RemoveNode(number) => {
                    cluster.remove_node(&format!("n{number}"));
                    reference.nodes.remove(&format!("n{number}"));
                }
                Step::Pod { number, kind, node } => {
                    let (name, node) = (format!("p{number}"), format!("n{node}"));
                    let pod = made_pod(&name, kind);
                    put(&mut cluster, pod.clone(), &node);
                    reference.pods.insert(name, (pod, node));
                }
                Step::End(number) => {
                    if let Some((pod, node)) = reference.pods.get_mut(&format!("p{number}")) {
                        pod.metadata.deletion_timestamp = Some(Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH));
                        put(&mut cluster, pod.clone(), node);
                    }
                }
                Step::RemovePod(number) => {
                    cluster.remove_pod(&format!("p{number}"));
                    reference.pods.remove(&format!("p{number}"));
                }
                Step::Namespace { number, team } => {
                    let name = if number == 0 { "ns" } else { "other" };
                    let labels = labels(&[("team", &team.to_string())]);
                    let mut namespace = Namespace::default();
                    namespace.metadata.labels = Some(labels.clone());
                    cluster.set_namespace(name, Some(&namespace));
                    reference.namespaces.insert(name.to_owned(), labels);
                }
                // Trying to make room leaves everything as it was.
                Step::Promise(kind) => {
                    let pod = asking(made_pod("high", kind), |spec| spec.priority = Some(10));
                    let candidate = cluster.candidate(Arc::new(pod));
                    let profile = Profile::new("x");
                    let outcome = place(&mut cluster, &profile, &candidate, &mut random());
                    if let Some(nomination) = outcome.err().and_then(|unplaced| unplaced.nomination) {
                        // Once the others are gone the pod gets what it was promised.
                        let mut after = cluster.clone();
                        for victim in &nomination.victims {
                            prop_assert!(victim.priority() < candidate.priority());
                            prop_assert!(after.remove_pod(victim.uid()));
                        }
                        after.nominate(candidate.clone(), &nomination.node);
                        let placed = place(&mut after, &profile, &candidate, &mut random());
                        prop_assert_eq!(placed.ok().map(|it| it.node), Some(nomination.node));
                    }
                }
            }
            if turn % 3 == 0 {
                agree(&mut cluster, &reference)?;
            }
        }
        agree(&mut cluster, &reference)?;
    }
}
