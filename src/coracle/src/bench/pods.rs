//! `coracle bench pods`: from the creation of pods to their readiness, and what they cost.

use std::{collections::HashSet, pin::Pin, time::Duration};

use anyhow::Context;
use futures::{Stream, StreamExt};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::{child::Cluster, mib, spread};
use crate::{cli::BenchPods, connection::Connection, guests, push, ui};

/// Pods that are not ready by then never will be.
const PATIENCE: Duration = Duration::from_secs(300);
/// For how long the pods are watched doing nothing.
const IDLE: Duration = Duration::from_secs(10);
/// For how long the cluster may take to become quiet, at most.
const SETTLE_SECONDS: u32 = 60;
/// Cores in use below which nothing is left to do.
const QUIET: f64 = 0.02;
const PODS: &str = "/api/v1/namespaces/default/pods";
const CONTROLLERS: &str = "/api/v1/namespaces/default/replicationcontrollers";

type Events = Pin<Box<dyn Stream<Item = anyhow::Result<Value>> + Send>>;

/// Runs the command.
pub(crate) async fn run(args: BenchPods) -> anyhow::Result<()> {
    let dir = tempfile::tempdir().context("cannot make a folder")?;
    let cluster = Cluster::start(dir.path()).await?;
    let connection = cluster.connection.clone();
    push::push(&connection, "registry.local/web:1", guests::WEB.wasm.to_vec()).await?;
    let mut events: Events = Box::pin(connection.watch(PODS).await?);

    // The first pod compiles the module; it is not counted.
    singles(&connection, &mut events, "first", 1).await?;
    let (mut ready_times, mut gone_times) = singles(&connection, &mut events, "single", args.singles).await?;
    ui::line(&format!("create to Ready, one pod, warm image: {}", spread(&mut ready_times)));
    ui::line(&format!("delete to gone, one pod: {}", spread(&mut gone_times)));

    let (before, cpu_before) = (cluster.resident()?, cluster.cpu()?);
    let controller = json!({
        "apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "many"},
        "spec": {"replicas": args.count, "selector": {"bench": "many"},
                 "template": {"metadata": {"labels": {"bench": "many"}}, "spec": pod_spec(args.probes)}},
    });
    let count = args.count as usize;
    let created = Instant::now();
    connection.create(CONTROLLERS, &controller).await?;
    until(&mut events, count, "many", is_ready).await?;
    let elapsed = created.elapsed();
    let (resident, cpu) = (cluster.resident()?, cluster.cpu()?.saturating_sub(cpu_before));
    ui::line(&format!(
        "{} pods of one ReplicationController, all Ready: {:.2} s ({:.0} pods/s, {:.2} s of CPU)",
        args.count,
        elapsed.as_secs_f64(),
        f64::from(args.count) / elapsed.as_secs_f64(),
        cpu.as_secs_f64()
    ));
    ui::line(&format!(
        "resident: {} for everything, {} before, {:.0} KiB a pod",
        mib(resident),
        mib(before),
        resident.saturating_sub(before) as f64 / 1024.0 / f64::from(args.count)
    ));

    let tail = settle(&cluster).await?;
    let used = share_of_a_core(&cluster, IDLE).await?;
    let what = if args.probes { "probed by HTTP each second" } else { "idle" };
    ui::line(&format!(
        "the same pods, {what}: {:.1} % of one core (after {:.2} s of CPU for what was left to write, events most of all)",
        used * 100.0,
        tail.as_secs_f64()
    ));

    let (mut ready_times, mut gone_times) = singles(&connection, &mut events, "beside", args.singles).await?;
    ui::line(&format!("create to Ready, one pod beside them: {}", spread(&mut ready_times)));
    ui::line(&format!("delete to gone, one pod beside them: {}", spread(&mut gone_times)));

    let (deleted, cpu_deleted) = (Instant::now(), cluster.cpu()?);
    connection.delete(&format!("{CONTROLLERS}/many?propagationPolicy=Background")).await?;
    until(&mut events, count, "many", is_gone).await?;
    let (elapsed, cpu_end) = (deleted.elapsed(), cluster.cpu()?.saturating_sub(cpu_deleted));
    ui::line(&format!(
        "all deleted: {:.2} s ({:.2} s of CPU); a pod's life took {:.2} ms of CPU",
        elapsed.as_secs_f64(),
        cpu_end.as_secs_f64(),
        (cpu + tail + cpu_end).as_secs_f64() * 1e3 / f64::from(args.count)
    ));
    cluster.stop().await
}

/// Creates pods and deletes them, one after the other: how long each took to be ready, and to be gone.
async fn singles(
    connection: &Connection,
    events: &mut Events,
    label: &str,
    count: u32,
) -> anyhow::Result<(Vec<Duration>, Vec<Duration>)> {
    let (mut ready_times, mut gone_times) = (Vec::new(), Vec::new());
    for n in 0..count {
        let (name, label) = (format!("{label}-{n}"), format!("{label}-{n}"));
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": {"bench": label}}, "spec": pod_spec(false),
        });
        let created = Instant::now();
        connection.create(PODS, &pod).await?;
        until(events, 1, &label, is_ready).await?;
        ready_times.push(created.elapsed());
        let deleted = Instant::now();
        connection.end(&format!("{PODS}/{name}")).await?;
        until(events, 1, &label, is_gone).await?;
        gone_times.push(deleted.elapsed());
    }
    Ok((ready_times, gone_times))
}

/// A pod of one web server, which sleeps in `accept`.
/// Waits until what the start left behind is done: the CPU time of a second is no longer falling. What it took.
async fn settle(cluster: &Cluster) -> anyhow::Result<Duration> {
    let before = cluster.cpu()?;
    let mut last = f64::INFINITY;
    for _ in 0..SETTLE_SECONDS {
        let used = share_of_a_core(cluster, Duration::from_secs(1)).await?;
        if used > last * 0.9 || used < QUIET {
            break;
        }
        last = used;
    }
    Ok(cluster.cpu()?.saturating_sub(before))
}

/// CPU time over time.
async fn share_of_a_core(cluster: &Cluster, time: Duration) -> anyhow::Result<f64> {
    let (before, watched) = (cluster.cpu()?, Instant::now());
    tokio::time::sleep(time).await;
    Ok(cluster.cpu()?.saturating_sub(before).as_secs_f64() / watched.elapsed().as_secs_f64())
}

fn pod_spec(probed: bool) -> Value {
    let mut container =
        json!({"name": "web", "image": "registry.local/web:1", "ports": [{"containerPort": 8080}]});
    if probed {
        container["readinessProbe"] =
            json!({"httpGet": {"path": "/counters", "port": 8080}, "periodSeconds": 1});
    }
    json!({"containers": [container]})
}

fn is_ready(event: &Value) -> bool {
    let pod = &event["object"];
    let ready = pod["status"]["conditions"]
        .as_array()
        .is_some_and(|conditions| conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"));
    ready && event["type"] != "DELETED" && pod["metadata"]["deletionTimestamp"].is_null()
}

fn is_gone(event: &Value) -> bool {
    event["type"] == "DELETED"
}

/// Reads events until `holds` was true for `count` different pods with the label `bench=label`.
async fn until(
    events: &mut Events,
    count: usize,
    label: &str,
    holds: fn(&Value) -> bool,
) -> anyhow::Result<()> {
    let mut seen = HashSet::new();
    let all = async {
        while seen.len() < count {
            let event = events.next().await.context("the watch ended")??;
            let pod = &event["object"];
            if holds(&event) && pod["metadata"]["labels"]["bench"] == label {
                seen.insert(pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned());
            }
        }
        anyhow::Ok(())
    };
    timeout(PATIENCE, all).await.context("the pods do not come so far")?
}
