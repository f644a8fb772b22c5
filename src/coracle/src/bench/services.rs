//! `coracle bench services`: from a change of an EndpointSlice to the first connection that goes by it, beside few and
//! beside many services.
//!
//! A Service without a selector is given a pod as its endpoint, and has it taken away again; a client of its NodePort
//! tries without a pause. What is measured is the way from the answer, when the change is on the disk and everybody may
//! see it: the watch, the node's tables, the connection, the guest. How long the write takes before is told apart.

use std::time::Duration;

use anyhow::{Context, bail};
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use super::{child::Cluster, spread};
use crate::{cli::BenchServices, connection::Connection, guests, push, ui};

/// What has not come by then never will.
const PATIENCE: Duration = Duration::from_secs(60);
/// Writes of the preparation at the same time.
const IN_FLIGHT: usize = 16;
const PODS: &str = "/api/v1/namespaces/default/pods";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

/// Runs the command.
pub(crate) async fn run(args: BenchServices) -> anyhow::Result<()> {
    let dir = tempfile::tempdir().context("cannot make a folder")?;
    let cluster = Cluster::start(dir.path()).await?;
    let connection = &cluster.connection;
    push::push(connection, "registry.local/web:1", guests::WEB.wasm.to_vec()).await?;
    let ip = server(connection).await?;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "probe"},
        "spec": {"type": "NodePort", "ports": [{"port": 80, "targetPort": 8080}]},
    });
    let created = connection.create(SERVICES, &service).await?;
    let port = created["spec"]["ports"][0]["nodePort"].as_u64().context("the service has no node port")?;
    let door = format!("127.0.0.1:{port}");

    let mut others = 0;
    for count in [10, args.services] {
        fill(connection, others..count, &ip).await?;
        others = others.max(count);
        let (mut written, mut there, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..args.rounds {
            for (addresses, times) in [(&[&*ip][..], &mut there), (&[][..], &mut gone)] {
                let began = Instant::now();
                connection.apply(&slice("probe", addresses)).await?;
                written.push(began.elapsed());
                let changed = Instant::now();
                until(&door, !addresses.is_empty()).await?;
                times.push(changed.elapsed());
            }
        }
        ui::line(&format!("beside {count} services"));
        ui::line(&format!("  an EndpointSlice is changed, and on the disk: {}", spread(&mut written)));
        ui::line(&format!("  from then to a connection to a new endpoint:  {}", spread(&mut there)));
        ui::line(&format!("  to none to one that has been removed:         {}", spread(&mut gone)));
    }
    cluster.stop().await
}

/// A pod of a web server, when it is ready: its address.
async fn server(connection: &Connection) -> anyhow::Result<String> {
    let container =
        json!({"name": "web", "image": "registry.local/web:1", "ports": [{"containerPort": 8080}]});
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "server"},
        "spec": {"containers": [container]},
    });
    connection.create(PODS, &pod).await?;
    let mut events = std::pin::pin!(connection.watch(PODS).await?);
    let ready = async {
        while let Some(event) = events.next().await {
            let status = &event?["object"]["status"];
            let is_ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
            if status["conditions"].as_array().is_some_and(|all| all.iter().any(is_ready)) {
                return status["podIP"].as_str().map(str::to_owned).context("the pod has no address");
            }
        }
        bail!("the watch ended")
    };
    timeout(PATIENCE, ready).await.context("the pod does not get ready")?
}

/// Makes services with one endpoint each.
async fn fill(connection: &Connection, numbers: std::ops::Range<u32>, ip: &str) -> anyhow::Result<()> {
    let make = async |number: u32| {
        let name = format!("s{number}");
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"port": 80}]},
        });
        connection.create(SERVICES, &service).await?;
        connection.create(SLICES, &slice(&name, &[ip])).await?;
        anyhow::Ok(())
    };
    futures::stream::iter(numbers).map(make).buffer_unordered(IN_FLIGHT).try_collect().await
}

/// The one slice of a service.
fn slice(service: &str, addresses: &[&str]) -> Value {
    let endpoints: Vec<_> = addresses.iter().map(|ip| json!({ "addresses": [ip] })).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": format!("{service}-1"), "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints,
    })
}

/// Asks until somebody answers, or nobody does.
async fn until(door: &str, answered: bool) -> anyhow::Result<()> {
    let changed = async { while ask(door).await.is_some() != answered {} };
    timeout(PATIENCE, changed).await.context("the change does not come to the node")
}

/// The first byte of an answer.
async fn ask(door: &str) -> Option<u8> {
    let mut stream = TcpStream::connect(door).await.ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.ok()?;
    stream.read_u8().await.ok()
}
