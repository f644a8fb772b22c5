//! `coracle up`: the cluster in the foreground.

use std::time::Duration;

use crate::{
    cli::Up,
    cluster::{Cluster, Config},
    data_dir::{self, DataDir},
    signals::Stop,
    ui,
};

/// The whole of an orderly stop takes at most this long; the rooms share it.
pub(crate) const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Runs the command until a signal ends it.
pub(crate) async fn run(args: Up) -> anyhow::Result<()> {
    let mut stop = Stop::listen()?;
    let data = DataDir::lock(&args.data_dir.unwrap_or_else(|| data_dir::default_root("cluster")))?;
    let started = Cluster::start(Config {
        data,
        listen: args.listen,
        node_name: args.node_name,
        dashboard: args.dashboard,
        node: args.node,
    });
    let cluster = tokio::select! {
        started = started => started?,
        () = stop.requested() => return Ok(()),
    };
    tokio::select! {
        () = cluster.ready() => {
            ui::line(&format!(
                "coracle is ready  {}  KUBECONFIG={}",
                cluster.url(),
                cluster.kubeconfig().display()
            ));
            if let Some(url) = cluster.dashboard() {
                ui::line(&format!("dashboard  {url}"));
            }
            stop.requested().await;
        }
        () = stop.requested() => {}
    }
    tracing::info!("stopping");
    stop.during(cluster.stop(STOP_DEADLINE)).await;
    Ok(())
}
