//! Notices nodes that have fallen silent, and says so: in the node's conditions and taints, and in its
//! pods' readiness, so that services stop sending to them.
//!
//! A node shows that it lives by renewing its Lease in `kube-node-lease`, or by its Ready heartbeat. What
//! counts is when that was noticed here, by this process's clock: clocks of nodes may be wrong. Pods of lost
//! nodes have to go, node by node; of how many at a time, `zones` decides.

mod plan;
#[cfg(test)]
mod tests;
mod zones;

use std::{collections::HashMap, sync::Arc, time::Duration};

use coracle_client::{
    Delta, Deltas, During, EventType, Informer, Key, ReconcileError, Recorder, WorkQueue, clock, is_not_found,
};
use futures::{StreamExt, TryStreamExt, future::BoxFuture};
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Node, Pod},
};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams},
};
use parking_lot::Mutex;
use plan::{Eviction, Observed, Plan, Pulse, plan};
use tokio::time::Instant;
use tracing::warn;
use zones::{Rate, Turns, Zones, zone_of};

use crate::{Config, Context, context, nodes, pods};

pub(crate) const NAME: &str = "node-lifecycle";

const LEASES: &str = "kube-node-lease";

const WORKERS: usize = 4;

/// Pods of one node marked at the same time.
const IN_FLIGHT: usize = 32;

const BY_NODE: &str = "node-lifecycle/node";

pub(crate) fn run(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let nodes: Informer<Node> = context.informers.get();
        let leases: Informer<Lease> = context.informers.get();
        let pods: Informer<Pod> = context.informers.get();
        pods.add_index(BY_NODE, |pod| pods::node_name(pod).map(str::to_owned).into_iter().collect());
        let controller = Arc::new(Controller {
            client: context.client.clone(),
            config: context.config.clone(),
            recorder: context.recorder("node-controller"),
            nodes: nodes.clone(),
            leases: leases.clone(),
            pods: pods.clone(),
            pulses: Mutex::default(),
            turns: Mutex::default(),
        });
        let queue = WorkQueue::new();
        let feed = async {
            tokio::join!(nodes.synced(), leases.synced(), pods.synced());
            tokio::join!(
                feed_nodes(nodes.subscribe(), &nodes, &queue),
                feed_leases(leases.subscribe(), &queue),
                feed_pods(pods.subscribe(), &nodes, &queue),
            );
        };
        let reconcile =
            context::shared(&controller, |controller, key| async move { controller.reconcile(key).await });
        context.run(NAME, queue.clone(), WORKERS, feed, reconcile).await;
    })
}

async fn feed_nodes(mut deltas: Deltas<Node>, nodes: &Informer<Node>, queue: &WorkQueue<Key>) {
    while let Some(delta) = deltas.next().await {
        queue.add(Key::of(&delta.object().metadata));
        // How many nodes of its zone live and are lost decides what becomes of one that is.
        if changes_zones(&delta) {
            let lost = nodes.list().into_iter().filter(|node| !nodes::is_ready(node));
            lost.for_each(|node| queue.add(Key::of(&node.metadata)));
        }
    }
}

fn changes_zones(delta: &Delta<Node>) -> bool {
    match delta {
        Delta::Added(_) | Delta::Deleted(_) => true,
        Delta::Updated { old, new } => {
            nodes::is_ready(old) != nodes::is_ready(new) || zone_of(old) != zone_of(new)
        }
    }
}

async fn feed_leases(mut deltas: Deltas<Lease>, queue: &WorkQueue<Key>) {
    while let Some(delta) = deltas.next().await {
        let meta = &delta.object().metadata;
        if pods::namespace(meta) == LEASES {
            queue.add(Key::cluster(pods::name(meta)));
        }
    }
}

/// A pod that is ready on a node that is not concerns us.
async fn feed_pods(mut deltas: Deltas<Pod>, nodes: &Informer<Node>, queue: &WorkQueue<Key>) {
    while let Some(delta) = deltas.next().await {
        let (Delta::Added(pod) | Delta::Updated { new: pod, .. }) = &delta else { continue };
        let Some(key) = pods::node_name(pod).map(Key::cluster) else { continue };
        if pods::is_ready(pod) && nodes.get(&key).is_some_and(|node| !nodes::is_ready(&node)) {
            queue.add(key);
        }
    }
}

struct Controller {
    client: Client,
    config: Arc<Config>,
    recorder: Recorder,
    nodes: Informer<Node>,
    leases: Informer<Lease>,
    pods: Informer<Pod>,
    /// The newest sign of life of each node, and when it was noticed.
    pulses: Mutex<HashMap<Key, (Pulse, Instant)>>,
    turns: Mutex<Turns>,
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Result<Option<Duration>, ReconcileError> {
        let Some(node) = self.nodes.get(&key) else {
            self.pulses.lock().remove(&key);
            return Ok(None);
        };
        let silent = self.silence(&key, &node);
        let pods = if nodes::is_ready(&node) && silent < self.config.node_grace {
            Vec::new()
        } else {
            self.pods.by_index(BY_NODE, &key.name)
        };
        let plan = self.plan(&node, &pods, silent);
        self.apply(&node, plan).await
    }

    /// A node is given up only when it is its zone's turn.
    fn plan(&self, node: &Node, pods: &[Arc<Pod>], silent: Duration) -> Plan {
        let with = |eviction| {
            let observed = Observed { node, pods, silent, grace: self.config.node_grace, eviction };
            plan(&observed, clock::now())
        };
        if nodes::is_ready(node) {
            return with(Eviction::Off);
        }
        let zone = zone_of(node);
        let nodes = self.nodes.list();
        // Nodes that fell silent together are counted together, though each is told of on its own.
        let is_alive = |node: &Node| {
            nodes::is_ready(node) && self.silence(&Key::of(&node.metadata), node) < self.config.node_grace
        };
        let between = match Zones::of(nodes.iter().map(|node| (&**node, is_alive(node)))).rate(zone) {
            Rate::Off => return with(Eviction::Off),
            Rate::Held => return with(Eviction::Held),
            Rate::Each(between) => between,
        };
        let mut plan = with(Eviction::Held);
        if plan.held {
            match self.turns.lock().take(zone, between, Instant::now()) {
                Ok(()) => plan = with(Eviction::Now),
                Err(wait) => plan.again = Some(plan.again.map_or(wait, |again| again.min(wait))),
            }
        }
        plan
    }

    /// For how long nothing was heard of the node.
    fn silence(&self, key: &Key, node: &Node) -> Duration {
        let lease = self.leases.get(&Key::new(LEASES, key.name.clone()));
        let pulse = Pulse::of(node, lease.as_deref());
        let now = Instant::now();
        let mut pulses = self.pulses.lock();
        let known = pulses.entry(key.clone()).or_insert_with(|| (pulse.clone(), now));
        if known.0 != pulse {
            *known = (pulse, now);
        }
        now.duration_since(known.1)
    }

    async fn apply(&self, node: &Node, plan: Plan) -> Result<Option<Duration>, ReconcileError> {
        let name = pods::name(&node.metadata);
        let api: Api<Node> = Api::all(self.client.clone());
        if let Some(conditions) = plan.conditions {
            warn!(node = name, "a node has fallen silent");
            let patch = serde_json::json!({
                "metadata": {"uid": node.metadata.uid, "resourceVersion": node.metadata.resource_version},
                "status": {"conditions": conditions},
            });
            match api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Err(error) if is_not_found(&error) => return Ok(None),
                other => other.during(|| format!("write the conditions of node {name}"))?,
            };
            let message = format!("Node {name} status is now: NodeNotReady");
            self.recorder.event(&node.object_ref(&()), EventType::Normal, "NodeNotReady", &message);
            // The cache shows the new conditions in a moment; the rest follows then.
            return Ok(plan.again);
        }
        self.mark(plan.not_ready).await?;
        if let Some(taints) = plan.taints {
            let patch = serde_json::json!({
                "metadata": {"uid": node.metadata.uid, "resourceVersion": node.metadata.resource_version},
                "spec": {"taints": taints},
            });
            match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Err(error) if is_not_found(&error) => return Ok(None),
                other => other.during(|| format!("write the taints of node {name}"))?,
            };
        }
        Ok(plan.again)
    }

    /// Says of pods on a node that is not ready that they are not either.
    async fn mark(&self, doomed: Vec<Arc<Pod>>) -> Result<(), ReconcileError> {
        let writes = doomed.into_iter().map(|pod| {
            let api: Api<Pod> = Api::namespaced(self.client.clone(), pods::namespace(&pod.metadata));
            async move {
                let name = pods::name(&pod.metadata);
                let condition =
                    serde_json::json!({"type": "Ready", "status": "False", "lastTransitionTime": clock::time()});
                let patch = serde_json::json!({
                    "metadata": {"uid": pod.metadata.uid},
                    "status": {"conditions": [condition]},
                });
                self.recorder.event(&pod.object_ref(&()), EventType::Warning, "NodeNotReady", "Node is not ready");
                match api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
                    Err(error) if is_not_found(&error) => Ok(()),
                    other => other.map(|_| ()).during(|| format!("mark pod {name} not ready")),
                }
            }
        });
        let writes: Vec<BoxFuture<'_, _>> = writes.map(|write| Box::pin(write) as BoxFuture<'_, _>).collect();
        futures::stream::iter(writes).buffer_unordered(IN_FLIGHT).try_collect::<()>().await
    }
}
