//! `coracle bench startup`: from the start of the process to a Ready node.

use std::time::Duration;

use anyhow::Context;
use futures::{StreamExt, TryStreamExt};
use serde_json::json;

use super::{child::Cluster, mib, spread};
use crate::{cli::BenchStartup, ui};

/// Writers at once while the store is filled.
const WRITERS: usize = 32;

/// Runs the command.
pub(crate) async fn run(args: BenchStartup) -> anyhow::Result<()> {
    let mut times = Vec::new();
    let mut resident = 0;
    for _ in 0..args.runs {
        let dir = tempfile::tempdir().context("cannot make a folder")?;
        let cluster = Cluster::start(dir.path()).await?;
        times.push(cluster.startup);
        resident = cluster.resident()?;
        cluster.stop().await?;
    }
    report("empty folder", &mut times, resident);

    let dir = tempfile::tempdir().context("cannot make a folder")?;
    let cluster = Cluster::start(dir.path()).await?;
    futures::stream::iter(0..args.objects)
        .map(|n| {
            let connection = cluster.connection.clone();
            async move {
                let object = json!({
                    "apiVersion": "v1", "kind": "ConfigMap",
                    "metadata": {"name": format!("object-{n}"), "labels": {"bench": "startup"}},
                    "data": {"text": "x".repeat(1024)},
                });
                connection.create("/api/v1/namespaces/default/configmaps", &object).await
            }
        })
        .buffer_unordered(WRITERS)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    cluster.stop().await?;
    times.clear();
    for _ in 0..args.runs {
        let cluster = Cluster::start(dir.path()).await?;
        times.push(cluster.startup);
        resident = cluster.resident()?;
        cluster.stop().await?;
    }
    report(&format!("{} objects", args.objects), &mut times, resident);
    Ok(())
}

fn report(what: &str, times: &mut [Duration], resident: u64) {
    ui::line(&format!("start to Ready, {what}: {}, then {} resident", spread(times), mib(resident)));
}
