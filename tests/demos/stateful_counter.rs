use super::{body, start};
use crate::support::eventually;

#[test]
fn a_count_outlives_its_pod() {
    let modules = [("stateful-counter", "stateful-counter:1")];
    let Some(cluster) = start(&modules, "stateful-counter/stateful-counter.yaml") else { return };
    cluster.kubectl("rollout status statefulset/counter --timeout=60s");
    let address = cluster.node_port("counter-0", "");
    let asked = || eventually("the counter answers", || body(&address, "/"));
    assert_eq!(asked(), "counter-0 was asked 1 times\n");
    assert_eq!(asked(), "counter-0 was asked 2 times\n");
    let uid = || cluster.kubectl("get pod counter-0 --ignore-not-found -o 'jsonpath={.metadata.uid}'");
    let first = uid();
    // Who waits here with kubectl may wait for the pod that follows: github.com/kubernetes/kubectl/issues/1803.
    cluster.kubectl("delete pod counter-0 --wait=false");
    eventually("another pod of the name", || match uid() {
        now if now.is_empty() || now == first => Err(format!("{first:?} and now {now:?}")),
        _ => Ok(()),
    });
    cluster.kubectl("rollout status statefulset/counter --timeout=60s");
    assert_ne!(uid(), first);
    assert_eq!(asked(), "counter-0 was asked 3 times\n");
    let claims = cluster.kubectl("get pvc -o 'jsonpath={.items[*].metadata.name} {.items[*].status.phase}'");
    assert_eq!(claims, "data-counter-0 data-counter-1 Bound Bound");
}
