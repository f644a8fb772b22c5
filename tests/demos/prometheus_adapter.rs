use std::{
    io::{Read, Write},
    net::TcpStream,
};

use super::{body, start};

#[test]
fn statistics_of_the_old_store_become_metrics() {
    let modules = [("prometheus-adapter", "prometheus-adapter:1")];
    let Some(cluster) = start(&modules, "prometheus-adapter/prometheus-adapter.yaml") else { return };
    cluster.kubectl("wait --for=condition=Available deployment/old-store --timeout=60s");
    let mut store = TcpStream::connect(cluster.node_port("old-store", "store")).unwrap();
    store.write_all(b"set boat a coracle\nget boat\nget ship\nquit\n").unwrap();
    let mut said = String::new();
    store.read_to_string(&mut said).unwrap();
    assert_eq!(said, "STORED\r\nVALUE boat a coracle\r\nEND\r\nEND\r\n");
    let metrics = body(&cluster.node_port("old-store", "metrics"), "/metrics").unwrap();
    for line in [
        "legacy_up 1",
        "# TYPE legacy_items gauge",
        "legacy_items 1",
        "# TYPE legacy_gets_total counter",
        "legacy_gets_total 2",
        "legacy_hits_total 1",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} in {metrics}");
    }
}
