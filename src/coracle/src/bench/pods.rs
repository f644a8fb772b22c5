//! `coracle bench pods`: from the creation of pods to their readiness, and what they cost.

use std::{collections::HashSet, pin::Pin, time::Duration};

use anyhow::Context;
use futures::{Stream, StreamExt};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::{child::Cluster, mib, spread};
use crate::{cli::BenchPods, guests, push, ui};

/// Pods that are not ready by then never will be.
const PATIENCE: Duration = Duration::from_secs(300);
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
    let mut singles = Vec::new();
    for n in 0..=args.singles {
        let name = format!("single-{n}");
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": {"bench": "single"}}, "spec": pod_spec(),
        });
        let created = Instant::now();
        connection.create(PODS, &pod).await?;
        ready(&mut events, 1, "single").await?;
        singles.push(created.elapsed());
        connection.delete(&format!("{PODS}/{name}")).await?;
    }
    singles.remove(0);
    ui::line(&format!("create to Ready, one pod, warm image: {}", spread(&mut singles)));

    let (before, cpu) = (cluster.resident()?, cluster.cpu()?);
    let controller = json!({
        "apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "many"},
        "spec": {"replicas": args.count, "selector": {"bench": "many"},
                 "template": {"metadata": {"labels": {"bench": "many"}}, "spec": pod_spec()}},
    });
    let created = Instant::now();
    connection.create(CONTROLLERS, &controller).await?;
    ready(&mut events, args.count as usize, "many").await?;
    let elapsed = created.elapsed();
    let (resident, cpu) = (cluster.resident()?, cluster.cpu()?.saturating_sub(cpu));
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
    cluster.stop().await
}

/// A pod of one web server, which sleeps in `accept`.
fn pod_spec() -> Value {
    json!({"containers": [{"name": "web", "image": "registry.local/web:1", "ports": [{"containerPort": 8080}]}]})
}

/// Reads events until `count` different pods with the label `bench=label` have been seen Ready.
async fn ready(events: &mut Events, count: usize, label: &str) -> anyhow::Result<()> {
    let mut seen = HashSet::new();
    let all = async {
        while seen.len() < count {
            let event = events.next().await.context("the watch ended")??;
            let pod = &event["object"];
            let is_ready = pod["status"]["conditions"].as_array().is_some_and(|conditions| {
                conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
            });
            let counts = event["type"] != "DELETED" && pod["metadata"]["deletionTimestamp"].is_null();
            if is_ready && counts && pod["metadata"]["labels"]["bench"] == label {
                seen.insert(pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned());
            }
        }
        anyhow::Ok(())
    };
    timeout(PATIENCE, all).await.context("the pods do not get ready")?
}
