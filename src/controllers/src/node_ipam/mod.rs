//! Gives every node its part of the pods' addresses (`spec.podCIDRs`), of each family that the cluster has.
//!
//! One worker, so that no part is given twice. What was given and is not in the cache yet is remembered;
//! a new process starts from a fresh list.

mod plan;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use coracle_client::{
    Delta, Deltas, During, EventType, Informer, Key, ReconcileError, Recorder, WorkQueue, is_not_found,
};
use futures::future::BoxFuture;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams},
};
use parking_lot::Mutex;
use plan::{Observed, Plan, plan};
use tracing::info;

use crate::{Config, Context, context, pods};

pub(crate) const NAME: &str = "nodeipam";

/// The prefix length of a node's part of the IPv6 range: Kubernetes' default.
const NODE_MASK_V6: u8 = 64;

/// A node that found no room is looked at again after this; a node that leaves makes room sooner.
const NO_ROOM: Duration = Duration::from_mins(1);

pub(crate) fn run(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let nodes: Informer<Node> = context.informers.get();
        let controller = Arc::new(Controller {
            client: context.client.clone(),
            config: context.config.clone(),
            recorder: context.recorder("cidrAllocator"),
            nodes: nodes.clone(),
            given: Mutex::default(),
        });
        let queue = WorkQueue::new();
        let feed = async {
            // Before the list is complete every part looks free.
            nodes.synced().await;
            feed(nodes.subscribe(), &nodes, &queue).await;
        };
        let reconcile =
            context::shared(&controller, |controller, key| async move { controller.reconcile(key).await });
        context.run(NAME, queue.clone(), 1, feed, reconcile).await;
    })
}

async fn feed(mut deltas: Deltas<Node>, nodes: &Informer<Node>, queue: &WorkQueue<Key>) {
    while let Some(delta) = deltas.next().await {
        queue.add(Key::of(&delta.object().metadata));
        if matches!(delta, Delta::Deleted(_)) {
            for node in nodes.list() {
                if plan::cidrs(&node).next().is_none() {
                    queue.add(Key::of(&node.metadata));
                }
            }
        }
    }
}

struct Controller {
    client: Client,
    config: Arc<Config>,
    recorder: Recorder,
    nodes: Informer<Node>,
    /// Parts given to nodes, by the node's uid, until the cache shows them.
    given: Mutex<BTreeMap<String, Vec<IpNet>>>,
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Result<Option<Duration>, ReconcileError> {
        let nodes = self.nodes.list();
        let Some(node) = self.nodes.get(&key) else { return Ok(None) };
        let plan = {
            let mut given = self.given.lock();
            given.retain(|uid, _| {
                let holder = nodes.iter().find(|node| pods::uid(&node.metadata) == uid);
                holder.is_some_and(|node| plan::cidrs(node).next().is_none())
            });
            let observed = Observed { nodes: &nodes, given: &given, node: &node };
            let plan = plan(&observed, &self.ranges());
            if let Plan::Give(parts) = &plan {
                given.insert(pods::uid(&node.metadata).to_owned(), parts.clone());
            }
            plan
        };
        match plan {
            Plan::Nothing => Ok(None),
            Plan::Give(parts) => self.give(&node, &parts).await.map(|()| None),
            Plan::NoRoom => {
                let message = format!("Node {} status is now: CIDRNotAvailable", key.name);
                self.recorder.event(&node.object_ref(&()), EventType::Normal, "CIDRNotAvailable", &message);
                Ok(Some(NO_ROOM))
            }
        }
    }

    /// The cluster's ranges and how long a node's part of each is.
    fn ranges(&self) -> Vec<(IpNet, u8)> {
        let v6 = self.config.cluster_cidr_v6.map(|range| (range.into(), NODE_MASK_V6));
        [(self.config.cluster_cidr.into(), self.config.node_mask)].into_iter().chain(v6).collect()
    }

    async fn give(&self, node: &Node, parts: &[IpNet]) -> Result<(), ReconcileError> {
        let name = pods::name(&node.metadata);
        let parts: Vec<String> = parts.iter().map(IpNet::to_string).collect();
        let patch = serde_json::json!({
            "metadata": {"uid": node.metadata.uid},
            "spec": {"podCIDR": parts.first(), "podCIDRs": parts},
        });
        let part = parts.join(",");
        let api: Api<Node> = Api::all(self.client.clone());
        match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(error) if is_not_found(&error) => Ok(()),
            other => {
                other.during(|| format!("give node {name} the addresses {part}"))?;
                info!(node = name, cidr = part, "addresses for pods given");
                Ok(())
            }
        }
    }
}
