use crate::support::{Cluster, eventually, have_kubectl, manifest};

/// As many as a debug build on two cores starts in a few seconds.
const FEWER: &str = "replicas: 300";

#[test]
fn hundreds_of_pods_say_hello() {
    if !have_kubectl() {
        return;
    }
    let cluster = Cluster::start();
    cluster.push(&["hello"]);
    let many = manifest("hello10k/hello10k.yaml");
    assert!(many.contains("replicas: 10000"));
    cluster.kubectl_input("apply -f -", &many.replace("replicas: 10000", FEWER));
    cluster.kubectl("wait --for=jsonpath='{.status.readyReplicas}'=300 rs/hello10k --timeout=60s");
    let pod = cluster.kubectl("get pods -l app=hello10k -o 'jsonpath={.items[299].metadata.name}'");
    assert_eq!(cluster.kubectl(&format!("logs {pod}")), format!("Hello, world, from {pod}.\n"));
    cluster.kubectl("scale rs/hello10k --replicas=0");
    eventually("all pods are gone", || match cluster.kubectl("get pods -o name").lines().count() {
        0 => Ok(()),
        left => Err(format!("{left} are left")),
    });
}
