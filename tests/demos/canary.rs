use super::{header, start};
use crate::support::{Cluster, eventually, http_get};

/// How many of the answers come from the new version.
fn new(address: &str, requests: usize) -> Result<usize, String> {
    let mut new = 0;
    for _ in 0..requests {
        let (head, _) = http_get(address, "/")?;
        new += usize::from(header(&head, "x-version") == "v2");
    }
    Ok(new)
}

#[track_caller]
fn share(cluster: &Cluster, address: &str, of_forty: std::ops::RangeInclusive<usize>) {
    cluster.kubectl("wait --for=condition=Available deployment --all --timeout=60s");
    eventually("the canary gets its share", || match new(address, 40)? {
        new if of_forty.contains(&new) => Ok(()),
        new => Err(format!("{new} of 40")),
    });
}

#[test]
fn the_canary_gets_the_share_of_its_replicas() {
    let modules = [("greeter-v1", "greeter:1"), ("greeter-v2", "greeter:2")];
    let Some(cluster) = start(&modules, "canary/canary.yaml") else { return };
    cluster.kubectl("wait --for=condition=Available deployment --all --timeout=60s");
    let address = cluster.node_port("canary", "");
    share(&cluster, &address, 6..=10);
    cluster.kubectl("scale deployment greeter-canary --replicas=4");
    share(&cluster, &address, 18..=22);
    cluster.kubectl("scale deployment greeter-stable --replicas=0");
    share(&cluster, &address, 40..=40);
}
