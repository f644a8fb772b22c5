//! Who makes room for whom.

use std::sync::Arc;

use coracle_client::Key;
use k8s_openapi::{
    api::{
        core::v1::{Pod, PodCondition},
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus},
    },
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};

use super::make::*;
use crate::placement::{Cluster, Unplaced};

const SMALL: &[(&str, &str)] = &[("cpu", "2"), ("memory", "8Gi"), ("pods", "110")];

fn important(name: &str, priority: i32, cpu: &str) -> Pod {
    asking(pod(name, &[("cpu", cpu)]), |spec| spec.priority = Some(priority))
}

fn since(mut pod: Pod, second: i64) -> Pod {
    let start = Timestamp::from_second(second).expect("in range");
    pod.status.get_or_insert_default().start_time = Some(Time(start));
    pod
}

/// A pod as name, priority, CPU and node.
type Busy<'a> = (&'a str, i32, &'a str, &'a str);

fn busy(nodes: &[&str], pods: &[Busy]) -> Cluster {
    let mut cluster = cluster(nodes.iter().map(|name| node(name, SMALL)).collect());
    for (index, (name, priority, cpu, node)) in pods.iter().enumerate() {
        let second = i64::try_from(index).expect("few");
        put(&mut cluster, since(important(name, *priority, cpu), second), node);
    }
    cluster
}

fn failed(cluster: &mut Cluster, pod: Pod) -> Unplaced {
    attempt(cluster, pod).expect_err("there is no room")
}

/// The node that is promised, and who goes.
#[track_caller]
fn check(cluster: &mut Cluster, pod: Pod, expected: &str) {
    let unplaced = failed(cluster, pod);
    let nomination = unplaced.nomination.expect("somebody can go");
    let victims: Vec<_> = nomination.victims.iter().map(|victim| victim.uid().to_string()).collect();
    assert_eq!(format!("{}: {}", nomination.node, victims.join(" ")), expected);
}

#[test]
fn the_least_important_go_and_no_more_than_needed() {
    let mut cluster =
        busy(&["a"], &[("low", 1, "500m", "a"), ("mid", 5, "500m", "a"), ("old", 1, "500m", "a")]);
    let unplaced = failed(&mut cluster, important("new", 10, "1"));
    assert_eq!(unplaced.message, "0/1 nodes are available: 1 Insufficient cpu.");
    // Of equals the one that has run longer stays.
    check(&mut cluster, important("new", 10, "1"), "a: old");
    check(&mut cluster, important("new", 10, "1500m"), "a: low old");
    check(&mut cluster, important("new", 10, "2"), "a: mid low old");
    let text = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Insufficient cpu.";
    assert_eq!(failed(&mut cluster, important("new", 5, "2")).message, text, "the middle one stays");
    let text = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption \
                victims found for incoming pod.";
    assert_eq!(failed(&mut cluster, important("new", 1, "1")).message, text);
}

#[test]
fn never_means_never() {
    let mut cluster = busy(&["a"], &[("low", 1, "2", "a")]);
    let polite = asking(important("new", 10, "1"), |spec| spec.preemption_policy = Some("Never".to_owned()));
    let text = "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never.";
    assert_eq!(failed(&mut cluster, polite).message, text);
}

#[test]
fn the_node_where_it_hurts_least() {
    // Lower priority first, then a smaller sum, then fewer, then those that started last.
    let nodes = ["a", "b"];
    let cases: [(&[Busy], &str); 4] = [
        (&[("p", 5, "2", "a"), ("q", 4, "2", "b")], "b: q"),
        (&[("p", 5, "1", "a"), ("q", 4, "1", "a"), ("r", 5, "1", "b"), ("s", 3, "1", "b")], "b: r s"),
        (&[("p", 5, "1", "a"), ("q", -9, "1", "a"), ("r", 5, "2", "b")], "b: r"),
        (&[("p", 5, "2", "a"), ("q", 5, "2", "b")], "b: q"),
    ];
    for (pods, expected) in cases {
        check(&mut busy(&nodes, pods), important("new", 10, "2"), expected);
    }
}

fn budget(name: &str, allowed: i32) -> PodDisruptionBudget {
    let mut budget = PodDisruptionBudget::default();
    budget.metadata.namespace = Some("ns".to_owned());
    budget.metadata.name = Some(name.to_owned());
    budget.spec = Some(PodDisruptionBudgetSpec {
        selector: Some(selector(&[("app", "web")])),
        ..PodDisruptionBudgetSpec::default()
    });
    budget.status = Some(PodDisruptionBudgetStatus {
        disruptions_allowed: allowed,
        ..PodDisruptionBudgetStatus::default()
    });
    budget
}

#[test]
fn budgets_are_broken_last() {
    let web = |name: &str, priority: i32| {
        let mut pod = important(name, priority, "1");
        pod.metadata.labels = Some(labels(&[("app", "web")]));
        pod
    };
    let mut cluster = busy(&["a", "b"], &[("p", 5, "2", "b")]);
    put(&mut cluster, web("w1", 1), "a");
    put(&mut cluster, web("w2", 1), "a");
    check(&mut cluster, important("new", 10, "1"), "a: w2");
    cluster.set_budget(&Key::new("ns", "web"), Some(&budget("web", 0)));
    check(&mut cluster, important("new", 10, "1"), "b: p");
    // The first one is the budget's to give; the second would break it, and so stays.
    cluster.set_budget(&Key::new("ns", "web"), Some(&budget("web", 1)));
    check(&mut cluster, important("new", 10, "1"), "a: w1");
    check(&mut cluster, important("new", 10, "2"), "b: p");
    // A budget is no wall.
    cluster.set_budget(&Key::new("ns", "web"), Some(&budget("web", 0)));
    cluster.remove_node("b");
    check(&mut cluster, important("new", 10, "1"), "a: w2");
}

#[test]
fn what_cannot_be_helped_is_not_tried() {
    let mut cluster = busy(&["a"], &[("low", 1, "1", "a")]);
    let text = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Preemption is \
                not helpful for scheduling.";
    assert_eq!(failed(&mut cluster, important("new", 10, "3")).message, text);
}

#[test]
fn anti_affinity_makes_room_too() {
    let web = [("app", "web")];
    let mut cluster = cluster(vec![node("a", ROOMY)]);
    put(&mut cluster, labelled("web", &web), "a");
    let wants = away(important("new", 10, "1"), vec![term(&web, "kubernetes.io/hostname")]);
    check(&mut cluster, wants, "a: web");
}

#[test]
fn what_was_promised_is_kept_from_those_of_lower_priority() {
    let mut cluster = busy(&["a"], &[]);
    let promised = cluster.candidate(Arc::new(important("promised", 5, "1500m")));
    cluster.nominate(promised, "a");
    let text = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption \
                victims found for incoming pod.";
    assert_eq!(told(&mut cluster, important("low", 1, "1")), text);
    assert_eq!(told(&mut cluster, important("equal", 5, "1")), text);
    assert_eq!(told(&mut cluster, important("small", 1, "500m")), "a");
    assert_eq!(told(&mut cluster, important("high", 9, "1")), "a");
    assert_eq!(
        told(&mut cluster, important("promised", 5, "1500m")),
        "a",
        "it does not count against itself"
    );
    cluster.denominate("promised");
    assert_eq!(told(&mut cluster, important("low", 1, "1")), "a");
}

#[test]
fn the_promised_node_comes_first_and_others_lose_their_promise() {
    let mut cluster = busy(&["a", "b"], &[("low", 1, "2", "a"), ("other", 4, "2", "b")]);
    let mid = cluster.candidate(Arc::new(important("mid", 3, "1")));
    cluster.nominate(mid, "a");
    let unplaced = failed(&mut cluster, important("new", 10, "2"));
    let nomination = unplaced.nomination.expect("somebody can go");
    assert_eq!(nomination.node, "a");
    assert_eq!(nomination.demoted.iter().map(|pod| pod.key().name.as_str()).collect::<Vec<_>>(), ["mid"]);
    let new = cluster.candidate(Arc::new(important("new", 10, "1")));
    cluster.nominate(new, "b");
    cluster.remove_pod("low");
    cluster.remove_pod("other");
    assert_eq!(told(&mut cluster, important("new", 10, "1")), "b");
}

#[test]
fn while_victims_end_nobody_else_is_asked() {
    let mut cluster = busy(&["a"], &[("keeps", 1, "1", "a")]);
    let mut ending = important("ends", 1, "1");
    ending.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
    ending.status.get_or_insert_default().conditions = Some(vec![PodCondition {
        type_: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        reason: Some("PreemptionByScheduler".to_owned()),
        ..PodCondition::default()
    }]);
    put(&mut cluster, ending, "a");
    let mut new = important("new", 10, "1");
    new.status.get_or_insert_default().nominated_node_name = Some("a".to_owned());
    let text = "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to a terminating pod on \
                the nominated node.";
    assert_eq!(failed(&mut cluster, new).message, text);
}
