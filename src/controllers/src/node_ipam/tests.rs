//! Every node its own part, whatever goes wrong.

use std::collections::BTreeSet;

use coracle_client::{random, test_support::eventually};
use k8s_openapi::api::core::v1::NodeSpec;

use super::*;
use crate::{
    Controller as Registered,
    testing::{Bench, chaos, meta},
};

const ONLY: &[Registered] = &[Registered { name: NAME, run }];

fn node(name: &str, cidr: Option<&str>) -> Node {
    let mut node = Node { metadata: meta(name), ..Node::default() };
    node.metadata.namespace = None;
    node.spec = Some(NodeSpec { pod_cidr: cidr.map(str::to_owned), ..NodeSpec::default() });
    node
}

#[track_caller]
fn check(taken: &[&str], given: &[&str], cluster: &str, mask: u8, expected: Option<&str>) {
    let nodes: Vec<_> = taken.iter().map(|cidr| Arc::new(node("other", Some(cidr)))).collect();
    let given =
        given.iter().map(|cidr| ((*cidr).to_owned(), vec![cidr.parse().expect("a network")])).collect();
    let observed = Observed { nodes: &nodes, given: &given, node: &node("new", None) };
    let expected = expected.map_or(Plan::NoRoom, |cidr| Plan::Give(vec![cidr.parse().expect("a network")]));
    assert_eq!(plan(&observed, &[(cluster.parse().expect("a network"), mask)]), expected);
}

#[test]
fn the_first_free_part_is_given() {
    check(&[], &[], "10.128.0.0/9", 18, Some("10.128.0.0/18"));
    check(&["10.128.0.0/18"], &[], "10.128.0.0/9", 18, Some("10.128.64.0/18"));
    check(&["10.128.64.0/18"], &["10.128.0.0/18"], "10.128.0.0/9", 18, Some("10.128.128.0/18"));
    // A part of another size is respected.
    check(&["10.128.0.0/17"], &[], "10.128.0.0/9", 18, Some("10.128.128.0/18"));
    check(&["10.128.70.0/24"], &["10.128.0.0/18"], "10.128.0.0/9", 18, Some("10.128.128.0/18"));
    check(&["10.0.0.0/25", "10.0.0.128/25"], &[], "10.0.0.0/24", 25, None);
    check(&[], &[], "10.0.0.0/24", 16, None);
    check(&["fd00::/64"], &["fd00:0:0:1::/64"], "fd00::/48", 64, Some("fd00:0:0:2::/64"));
    check(&["nonsense"], &[], "10.0.0.0/24", 25, Some("10.0.0.0/25"));
}

#[tokio::test(start_paused = true)]
async fn under_faults_no_part_is_given_twice() {
    for seed in 0..5 {
        random::seed(seed);
        let bench = Bench::start(ONLY);
        chaos(&bench.api, 3);
        for index in 0..30 {
            bench.api.create(&node(&format!("n{index}"), None));
            tokio::time::sleep(Duration::from_millis(random::below(50))).await;
        }
        let all = || {
            let nodes = bench.api.list::<Node>();
            let parts: BTreeSet<_> =
                nodes.iter().filter_map(|node| node.spec.as_ref()?.pod_cidr.clone()).collect();
            let second: BTreeSet<_> = nodes
                .iter()
                .filter_map(|node| node.spec.as_ref()?.pod_cidrs.clone()?.get(1).cloned())
                .collect();
            (parts.len() == 30 && second.len() == 30).then_some(())
        };
        eventually("thirty parts", all).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_leaves_makes_room() {
    let bench = Bench::start(ONLY);
    // 512 nodes fill the cluster.
    for index in 0..512 {
        let part = format!("10.{}.{}.0/18", 128 + index / 4, index % 4 * 64);
        bench.api.create(&node(&format!("n{index}"), Some(&part)));
    }
    bench.api.create(&node("late", None));
    bench.informers.get::<Node>().reached(bench.api.revision()).await;
    eventually("an event", || bench.api.list::<k8s_openapi::api::core::v1::Event>().pop()).await;
    bench.api.remove::<Node>("", "n7");
    let late = || bench.api.get::<Node>("", "late")?.spec?.pod_cidr;
    assert_eq!(eventually("room", late).await, "10.129.192.0/18");
}
