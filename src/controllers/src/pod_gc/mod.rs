//! Removes pods that nobody looks after any more: of nodes that were deleted, being deleted without ever having
//! had a node, and those that ended long ago when there are too many.

mod plan;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use coracle_client::{During, EventType, Informer, Key, ReconcileError, Recorder, is_not_found};
use futures::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, Client, Resource};
use plan::{Garbage, plan};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::{
    Context,
    disruption_target::{self, End},
    nodes, pods,
};

pub(crate) const NAME: &str = "pod-garbage-collector";

/// How often pods are looked at. Kubernetes' number.
const PERIOD: Duration = Duration::from_secs(20);

/// How long a node must have been missing before its pods are given up: it may be being registered. Kubernetes'
/// number.
const QUARANTINE: Duration = Duration::from_secs(40);

/// Pods removed at the same time.
const IN_FLIGHT: usize = 32;

pub(crate) fn run(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let mut collector = Collector {
            client: context.client.clone(),
            recorder: context.recorder("pod-garbage-collector"),
            nodes: context.informers.get(),
            pods: context.informers.get(),
            missing: BTreeMap::new(),
        };
        let work = async {
            tokio::join!(collector.nodes.synced(), collector.pods.synced());
            loop {
                tokio::time::sleep(PERIOD).await;
                if let Err(error) = collector.collect().await {
                    debug!(%error, "pods could not be collected; they will be next time");
                }
            }
        };
        context.stop.run_until_cancelled(work).await;
    })
}

struct Collector {
    client: Client,
    recorder: Recorder,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    /// Nodes that pods name and that are not there, and since when.
    missing: BTreeMap<String, Instant>,
}

impl Collector {
    async fn collect(&mut self) -> Result<(), ReconcileError> {
        let pods = self.pods.list();
        let gone = self.gone(&pods).await?;
        let nodes = self.nodes.list();
        let out: BTreeSet<String> = nodes
            .iter()
            .filter(|node| is_out_of_service(node))
            .map(|node| pods::name(&node.metadata).to_owned())
            .collect();
        let garbage = plan(&pods, &gone, &out);
        let this = &*self;
        let removals: Vec<BoxFuture<'_, Result<(), ReconcileError>>> =
            garbage.into_iter().map(|garbage| this.remove(garbage).boxed()).collect();
        futures::stream::iter(removals).buffer_unordered(IN_FLIGHT).try_collect::<()>().await
    }

    async fn remove(&self, garbage: Garbage) -> Result<(), ReconcileError> {
        let Garbage { pod, why } = garbage;
        if why.is_some() {
            let key = Key::of(&pod.metadata);
            warn!(pod = %key, node = pods::node_name(&pod), "the pod's node no longer exists");
            let message =
                format!("PodGC: node {} no longer exists", pods::node_name(&pod).unwrap_or_default());
            self.recorder.event(&pod.object_ref(&()), EventType::Normal, "OrphanedPod", &message);
        }
        disruption_target::delete(&self.client, &pod, why, End::Forced).await
    }

    /// Nodes that have been missing for long enough, and that the API itself does not know.
    async fn gone(&mut self, pods: &[std::sync::Arc<Pod>]) -> Result<BTreeSet<String>, ReconcileError> {
        let named: BTreeSet<&str> = pods.iter().filter_map(|pod| pods::node_name(pod)).collect();
        let absent = |name: &str| self.nodes.get(&Key::cluster(name)).is_none();
        let missing: BTreeSet<String> =
            named.into_iter().filter(|name| absent(name)).map(str::to_owned).collect();
        self.missing.retain(|name, _| missing.contains(name));
        let now = Instant::now();
        let mut gone = BTreeSet::new();
        let api: Api<Node> = Api::all(self.client.clone());
        for name in missing {
            let since = *self.missing.entry(name.clone()).or_insert(now);
            if now.duration_since(since) < QUARANTINE {
                continue;
            }
            match api.get(&name).await {
                Err(error) if is_not_found(&error) => drop(gone.insert(name)),
                other => drop(other.during(|| format!("read node {name}"))?),
            }
        }
        Ok(gone)
    }
}

fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    !nodes::is_ready(node) && taints.iter().any(|taint| taint.key == "node.kubernetes.io/out-of-service")
}
