use std::{collections::BTreeSet, env};

use crate::support::{Cluster, eventually, have_kubectl, manifest};

/// As many as a debug build on two cores starts and ends in a few seconds. `CORACLE_HELLO_PODS=10000` is all of them,
/// for which a release build takes half a minute on a busy machine.
const FEWER: usize = 1_000;

#[test]
fn pods_by_the_thousand_say_hello() {
    if !have_kubectl() {
        return;
    }
    let count = env::var("CORACLE_HELLO_PODS").ok().map_or(FEWER, |text| text.parse().unwrap());
    // What a busy machine takes, several times over.
    let timeout = format!("{}s", 60 + count / 20);
    let wait = |what: &str, many: usize| {
        format!("wait --for=jsonpath='{{.status.{what}}}'={many} rs/hello10k --timeout={timeout}")
    };
    let cluster = Cluster::start();
    cluster.push(&["hello"]);
    let many = manifest("hello10k/hello10k.yaml");
    assert!(many.contains("replicas: 10000"));
    cluster.kubectl_input("apply -f -", &many.replace("replicas: 10000", &format!("replicas: {count}")));
    cluster.kubectl(&wait("readyReplicas", count));
    let pods = cluster.kubectl(
        "get pods -l app=hello10k -o 'jsonpath={range .items[*]}{.metadata.name}{\"=\"}{.status.podIP}{\"\\n\"}{end}'",
    );
    let pods: Vec<_> = pods.lines().filter_map(|line| line.split_once('=')).collect();
    assert_eq!(pods.iter().map(|(_, ip)| ip).collect::<BTreeSet<_>>().len(), count, "addresses");
    for (pod, _) in [pods[0], pods[count - 1]] {
        assert_eq!(cluster.kubectl(&format!("logs {pod}")), format!("Hello, world, from {pod}.\n"));
    }
    for left in [count / 2, 0] {
        cluster.kubectl(&format!("scale rs/hello10k --replicas={left}"));
        cluster.kubectl(&wait("replicas", left));
        eventually("the others are gone", || match cluster.kubectl("get pods -o name").lines().count() {
            pods if pods == left => Ok(()),
            pods => Err(format!("{pods} are left")),
        });
    }
}
