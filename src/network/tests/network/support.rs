//! What the tests share: a fabric, its objects in short form, and waiting with a deadline.

#![expect(clippy::needless_pass_by_value, reason = "callers write `json!` in place")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use coracle_network::{Config, Fabric, PodConfig, PodStack, Stream};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The node's address in tests: one of the documentation range, so nothing real answers there.
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);

pub(crate) fn config() -> Config {
    Config { node_addresses: vec![NODE.into()], ..Config::default() }
}

pub(crate) fn fabric() -> Arc<Fabric> {
    Fabric::build(config())
}

pub(crate) fn pod(fabric: &Arc<Fabric>, name: &str) -> PodStack {
    let pod = PodConfig { namespace: "default".to_owned(), name: name.to_owned(), ..PodConfig::default() };
    fabric.add_pod(pod).expect("an address is free")
}

pub(crate) fn at(ip: impl Into<std::net::IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into(), port)
}

pub(crate) fn any(port: u16) -> SocketAddr {
    at(Ipv4Addr::UNSPECIFIED, port)
}

/// A Service in namespace `default`; `spec` as in a manifest.
pub(crate) fn service(name: &str, spec: serde_json::Value) -> Service {
    let object = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
    serde_json::from_value(object).expect("a service")
}

/// A service with one unnamed port 80.
pub(crate) fn plain_service(name: &str, ip: &str) -> Service {
    service(name, json!({"clusterIP": ip, "clusterIPs": [ip], "ports": [{"port": 80}]}))
}

/// The slice of a service: endpoints that are all ready, on one unnamed port.
pub(crate) fn slice(service: &str, port: u16, addresses: &[Ipv4Addr]) -> EndpointSlice {
    let endpoints: Vec<_> = addresses.iter().map(|ip| json!({"addresses": [ip]})).collect();
    slice_of(service, json!([{"name": "", "port": port, "protocol": "TCP"}]), json!(endpoints))
}

pub(crate) fn slice_of(
    service: &str,
    ports: serde_json::Value,
    endpoints: serde_json::Value,
) -> EndpointSlice {
    let object = json!({
        "metadata": {
            "name": format!("{service}-1"),
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "ports": ports,
        "endpoints": endpoints,
    });
    serde_json::from_value(object).expect("a slice")
}

/// Fails loudly instead of hanging.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(10), future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} took too long"),
    }
}

/// Waits for a state that another task brings about.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    soon(what, async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Answers every connection to `port` with `name` and closes it.
pub(crate) fn greeter(stack: &PodStack, port: u16, name: &'static str) -> tokio::task::JoinHandle<()> {
    let listener = stack.listen(any(port), 128).expect("the port is free");
    tokio::spawn(async move {
        while let Ok(mut stream) = listener.accept().await {
            stream.write_all(name.as_bytes()).await.expect("the client reads");
        }
    })
}

/// What a greeter says.
pub(crate) async fn greeting(mut stream: Stream) -> String {
    let mut text = String::new();
    soon("a greeting", stream.read_to_string(&mut text)).await.expect("an orderly end");
    text
}
