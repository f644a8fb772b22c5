//! `coracle demo`: a cluster with an application in it, and what to try next.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    time::Duration,
};

use anyhow::Context;
use coracle_client::{Delta, clock};
use k8s_openapi::{
    api::core::v1::{ContainerStatus, Pod},
    jiff::{Timestamp, ToSpan},
};
use serde_json::Value;
use tokio::time::{Instant, timeout};

use crate::{
    cli::{Demo, NodeOptions},
    cluster::{Cluster, Config},
    connection::Connection,
    data_dir::{self, DataDir},
    guests, push,
    signals::Stop,
    ui,
    up::STOP_DEADLINE,
};

/// An application that is not ready by then has a problem that waiting does not solve.
const PATIENCE: Duration = Duration::from_secs(60);
/// The node ports of the demo's manifest.
const WEB_PORT: u16 = 30080;
const SHOP_PORT: u16 = 30081;
const METRICS_PORT: u16 = 30091;
/// The demo's dashboard takes any free port.
const DASHBOARD: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Runs the command until a signal ends it.
pub(crate) async fn run(args: Demo) -> anyhow::Result<()> {
    let mut stop = Stop::listen()?;
    let data = DataDir::lock(&args.data_dir.unwrap_or_else(|| data_dir::default_root("demo")))?;
    for port in [WEB_PORT, SHOP_PORT, METRICS_PORT] {
        let address = SocketAddr::new(args.listen.ip(), port);
        TcpListener::bind(address).with_context(|| format!("the demo's services need {address}"))?;
    }
    let started = Instant::now();
    // Statuses tell whole seconds.
    let since = clock::now() - 1.second();
    let cluster = tokio::select! {
        cluster = Cluster::start(Config { data, listen: args.listen, node_name: Some("coracle".to_owned()), dashboard: Some(DASHBOARD), node: NodeOptions::default() }) => cluster?,
        () = stop.requested() => return Ok(()),
    };
    let outcome = tokio::select! {
        outcome = bring_up(&cluster, started, since) => outcome,
        () = stop.requested() => Ok(()),
    };
    if outcome.is_ok() {
        stop.requested().await;
        ui::line("\nstopping; the data stays, run the demo again to go on");
    }
    stop.during(cluster.stop(STOP_DEADLINE)).await;
    outcome
}

async fn bring_up(cluster: &Cluster, started: Instant, since: Timestamp) -> anyhow::Result<()> {
    cluster.ready().await;
    done(&format!("cluster ready in {}", millis(started)));
    let connection = Connection::open(cluster.kubeconfig())?;

    let pushing = Instant::now();
    for guest in guests::ALL {
        push::push(&connection, &format!("registry.local/{}:1", guest.name), guest.wasm.to_vec())
            .await
            .with_context(|| format!("cannot push {}", guest.name))?;
    }
    done(&format!("{} modules pushed to the embedded registry in {}", guests::ALL.len(), millis(pushing)));

    let applying = Instant::now();
    let objects = objects(guests::DEMO)?;
    for object in &objects {
        connection.apply(object).await.with_context(|| format!("cannot apply {}", title(object)))?;
    }
    done(&format!(
        "{} objects applied: {}",
        objects.len(),
        objects.iter().map(title).collect::<Vec<_>>().join(", ")
    ));

    let wanted: BTreeMap<String, i64> = objects
        .iter()
        .filter(|o| o["kind"] == "ReplicationController")
        .map(|o| {
            (
                o["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
                o["spec"]["replicas"].as_i64().unwrap_or(1),
            )
        })
        .collect();
    let ready = timeout(PATIENCE, all_ready(cluster, &wanted, since)).await;
    ready.with_context(|| {
        format!("the demo's pods are not ready after {PATIENCE:?}; see: kubectl describe pods")
    })?;
    done(&format!("all pods ready in {}", millis(applying)));
    farewell(cluster);
    Ok(())
}

/// Follows the pods until each app has as many ready ones as wanted, and shows how far it is.
async fn all_ready(cluster: &Cluster, wanted: &BTreeMap<String, i64>, since: Timestamp) {
    let mut deltas = cluster.informers().get::<Pod>().subscribe();
    let mut ready: BTreeMap<String, String> = BTreeMap::new();
    let total: i64 = wanted.values().sum();
    loop {
        let counts = wanted.keys().map(|app| (app, ready.values().filter(|a| *a == app).count()));
        let line: Vec<String> = counts.clone().map(|(app, n)| format!("{app} {n}/{}", wanted[app])).collect();
        if ui::colourful() {
            ui::part(&format!("\r\x1b[K{} waiting for pods: {}", ui::paint("33", "…"), line.join("  ")));
        }
        if counts.map(|(_, n)| i64::try_from(n).unwrap_or(i64::MAX)).sum::<i64>() >= total {
            if ui::colourful() {
                ui::part("\r\x1b[K");
            }
            return;
        }
        let Some(delta) = deltas.next().await else { return };
        let (Delta::Added(pod) | Delta::Updated { new: pod, .. } | Delta::Deleted(pod)) = &delta;
        let name = pod.metadata.name.clone().unwrap_or_default();
        let app =
            pod.metadata.labels.as_ref().and_then(|l| l.get("app")).filter(|app| wanted.contains_key(*app));
        match (app, is_ready(pod, since) && !matches!(delta, Delta::Deleted(_))) {
            (Some(app), true) => ready.insert(name, app.clone()),
            _ => ready.remove(&name),
        };
    }
}

/// True if the pod is ready and all of its containers were started after `since`: what an earlier run of the
/// cluster left in the status does not count.
fn is_ready(pod: &Pod, since: Timestamp) -> bool {
    let Some(status) = &pod.status else { return false };
    let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    let runs = |c: &ContainerStatus| {
        let running = c.state.as_ref().and_then(|state| state.running.as_ref());
        running.and_then(|running| running.started_at.as_ref()).is_some_and(|started| started.0 >= since)
    };
    ready && pod.metadata.deletion_timestamp.is_none() && status.container_statuses.iter().flatten().all(runs)
}

fn farewell(cluster: &Cluster) {
    let at = |port| SocketAddr::new(cluster.node_address(), port);
    let command = |text: &str| ui::paint("36", text);
    ui::line("");
    ui::line(&format!(
        "  {}   {}",
        ui::paint("1", "open"),
        ui::paint("1;32", &format!("http://{}/", at(WEB_PORT)))
    ));
    if let Some(url) = cluster.dashboard() {
        ui::line(&format!("  {}  {url}", ui::paint("1", "watch")));
    }
    ui::line("");
    ui::line(&format!("  {}", command(&format!("export KUBECONFIG={}", cluster.kubeconfig().display()))));
    ui::line("");
    ui::line("  three things to try:");
    ui::line(&format!(
        "    {}   # the shop reaches `web` through its ambassador on localhost",
        command(&format!("curl http://{}/", at(SHOP_PORT)))
    ));
    ui::line(&format!(
        "    {}   # more of them; then reload the page",
        command("kubectl scale rc web --replicas=10")
    ));
    ui::line(&format!(
        "    {}   # their controller puts others in their places",
        command("kubectl delete pod -l app=web --wait=false; kubectl get pods -w")
    ));
    ui::line("");
    ui::line("  Ctrl-C stops the demo.");
}

fn objects(yaml: &str) -> anyhow::Result<Vec<Value>> {
    serde_saphyr::from_multiple(yaml).context("the demo's manifest cannot be read")
}

fn title(object: &Value) -> String {
    format!(
        "{}/{}",
        object["kind"].as_str().unwrap_or_default().to_lowercase(),
        object["metadata"]["name"].as_str().unwrap_or_default()
    )
}

fn done(text: &str) {
    ui::line(&format!("{} {text}", ui::paint("32", "✓")));
}

fn millis(since: Instant) -> String {
    format!("{} ms", since.elapsed().as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_names_only_modules_that_are_pushed() {
        let pushed: Vec<String> =
            guests::ALL.iter().map(|g| format!("registry.local/{}:1", g.name)).collect();
        let objects = objects(guests::DEMO).unwrap();
        assert_eq!(objects.len(), 4);
        let images: Vec<&str> = objects
            .iter()
            .filter_map(|o| o.pointer("/spec/template/spec/containers")?.as_array())
            .flatten()
            .filter_map(|c| c["image"].as_str())
            .collect();
        assert_eq!(images.len(), 5);
        assert!(images.iter().all(|i| pushed.iter().any(|p| p == i)), "{images:?} of {pushed:?}");
    }
}
