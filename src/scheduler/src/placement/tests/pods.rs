//! Pods near to and away from other pods, and their spread.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::make::*;
use crate::placement::Cluster;

const ZONE: &str = "topology.kubernetes.io/zone";
const HOST: &str = "kubernetes.io/hostname";
const WEB: &[(&str, &str)] = &[("app", "web")];
const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";

/// Two nodes in zone `x`, one in `y`, one in none.
fn zones() -> Cluster {
    cluster(vec![zoned("a", "x"), zoned("b", "x"), zoned("c", "y"), node("d", ROOMY)])
}

#[track_caller]
fn check(mut cluster: Cluster, pod: Pod, expected: &str) {
    assert_eq!(told(&mut cluster, pod), expected);
}

#[test]
fn near_to_others_or_the_first_of_its_kind() {
    let wants = || near(labelled("new", WEB), vec![term(WEB, ZONE)]);
    let mut with_web = zones();
    put(&mut with_web, labelled("web", WEB), "c");
    check(with_web, wants(), "c");
    // The first one may go anywhere there is a zone, one that is not of the kind it wants nowhere.
    assert_ne!(told(&mut zones(), wants()), "d");
    let text = format!(
        "0/4 nodes are available: 4 node(s) didn't match pod affinity rules. preemption: 0/4 nodes are available: 4 \
         {NOT_HELPFUL}."
    );
    check(zones(), near(labelled("db", &[("app", "db")]), vec![term(WEB, ZONE)]), &text);
}

#[test]
fn away_from_others_and_others_away_from_it() {
    let mut cluster = zones();
    put(&mut cluster, labelled("web", WEB), "a");
    put(&mut cluster, away(labelled("db", &[("app", "db")]), vec![term(WEB, ZONE)]), "c");
    let wants = away(labelled("new", WEB), vec![term(WEB, ZONE)]);
    assert_eq!(told(&mut cluster, wants.clone()), "d");
    cluster.remove_node("d");
    let text = "0/3 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules, 2 node(s) \
                didn't match pod anti-affinity rules. preemption: 0/3 nodes are available: 3 No preemption victims \
                found for incoming pod.";
    // On b nobody of lower priority could go either.
    assert_eq!(told(&mut cluster, wants), text);
}

#[test]
fn the_zones_are_kept_even() {
    let wants = |skew: i32| {
        asking(labelled("new", WEB), |spec| {
            spec.topology_spread_constraints = Some(vec![spread(WEB, ZONE, skew, true)]);
        })
    };
    let mut cluster = zones();
    put(&mut cluster, labelled("web", WEB), "a");
    assert_eq!(told(&mut cluster, wants(1)), "c");
    cluster.remove_node("c");
    assert_ne!(told(&mut cluster, wants(1)), "d", "it is in no zone");
    cluster.set_node(&Arc::new(with(zoned("c", "y"), |spec, _| {
        spec.taints = Some(vec![taint("team", "red", "NoSchedule")]);
    })));
    let text = format!(
        "0/4 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label), 1 \
         node(s) had untolerated taint {{team: red}}, 2 node(s) didn't match pod topology spread constraints. \
         preemption: 0/4 nodes are available: 2 No preemption victims found for incoming pod, 2 {NOT_HELPFUL}."
    );
    assert_eq!(told(&mut cluster, wants(1)), text, "a zone that takes none keeps the others back");
    assert!(["a", "b"].contains(&told(&mut cluster, wants(2)).as_str()));
    let honours = asking(wants(1), |spec| {
        let constraints = spec.topology_spread_constraints.get_or_insert_default();
        constraints[0].node_taints_policy = Some("Honor".to_owned());
    });
    assert!(
        ["a", "b"].contains(&told(&mut cluster, honours).as_str()),
        "unless it is told not to look there"
    );
}

#[test]
fn too_few_domains_count_as_an_empty_one() {
    let wants = |domains: i32| {
        asking(labelled("new", WEB), |spec| {
            let constraint = spread(WEB, HOST, 1, true);
            spec.topology_spread_constraints = Some(vec![constraint]);
            spec.topology_spread_constraints.get_or_insert_default()[0].min_domains = Some(domains);
        })
    };
    let mut cluster = cluster(vec![node("a", ROOMY)]);
    put(&mut cluster, labelled("web", WEB), "a");
    assert_eq!(told(&mut cluster, wants(1)), "a");
    assert!(told(&mut cluster, wants(2)).contains("didn't match pod topology spread constraints"));
}

#[test]
fn constraints_of_the_profile_are_for_pods_without_their_own() {
    use crate::placement::{Profile, place};
    let profile =
        Profile { default_constraints: Some(vec![spread(&[], ZONE, 1, true)]), ..Profile::new("strict") };
    let mut cluster = cluster(vec![zoned("a", "x"), zoned("b", "y")]);
    put(&mut cluster, owned(pod("one", &[]), "ReplicaSet", "web"), "a");
    let mut decide = |pod: Pod| {
        let pod = cluster.candidate(Arc::new(pod));
        place(&mut cluster, &profile, &pod, &mut random()).map(|it| it.node).map_err(|it| it.message)
    };
    assert_eq!(decide(owned(pod("two", &[]), "ReplicaSet", "web")).as_deref(), Ok("b"));
    let cordoned = |name: &str| {
        asking(pod(name, &[]), |spec| {
            spec.node_selector = Some(labels(&[(HOST, "a")]));
        })
    };
    assert!(decide(owned(cordoned("three"), "ReplicaSet", "web")).is_ok(), "the other node is none of its");
    assert!(decide(cordoned("lone")).is_ok());
}
