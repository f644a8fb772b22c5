//! Deletes pods from nodes with a `NoExecute` taint that they do not tolerate, or no longer.
//!
//! A pod of a node that cannot be reached stays in the API, being deleted, until the node comes back and says
//! that it has ended it, or the Node object is deleted ([`crate::pod_gc`]): until then it may still run.

mod plan;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use coracle_client::{Delta, Deltas, EventType, Informer, Key, ReconcileError, Recorder, WorkQueue, clock};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use kube::{Client, Resource};
use plan::{Plan, plan};

use crate::{
    Context,
    disruption_target::{self, End, Reason},
    pods,
};

pub(crate) const NAME: &str = "taint-eviction";

/// Pods reconciled at the same time. Kubernetes' number.
const WORKERS: usize = 8;

const BY_NODE: &str = "taint-eviction/node";

const WHY: Reason =
    Reason { reason: "DeletionByTaintManager", message: "Taint manager: deleting due to NoExecute taint" };

pub(crate) fn run(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let nodes: Informer<Node> = context.informers.get();
        let pods: Informer<Pod> = context.informers.get();
        pods.add_index(BY_NODE, |pod| pods::node_name(pod).map(str::to_owned).into_iter().collect());
        let controller = Arc::new(Controller {
            client: context.client.clone(),
            recorder: context.recorder("taint-eviction-controller"),
            nodes: nodes.clone(),
            pods: pods.clone(),
        });
        let queue = WorkQueue::new();
        let feed = async {
            tokio::join!(nodes.synced(), pods.synced());
            tokio::join!(
                feed_nodes(nodes.subscribe(), &pods, &queue),
                feed_pods(pods.subscribe(), &nodes, &queue),
            );
        };
        let reconcile = move |key| {
            let controller = controller.clone();
            async move { controller.reconcile(&key).await }
        };
        context.run(NAME, queue.clone(), WORKERS, feed, reconcile).await;
    })
}

fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
}

fn evicts(node: &Node) -> bool {
    taints(node).iter().any(|taint| taint.effect == "NoExecute")
}

async fn feed_nodes(mut deltas: Deltas<Node>, pods: &Informer<Pod>, queue: &WorkQueue<Key>) {
    while let Some(delta) = deltas.next().await {
        let concerns = match &delta {
            Delta::Added(node) => evicts(node),
            Delta::Updated { old, new } => taints(old) != taints(new) && evicts(new),
            Delta::Deleted(_) => false,
        };
        if concerns {
            let pods = pods.by_index(BY_NODE, pods::name(&delta.object().metadata));
            pods.iter().for_each(|pod| queue.add(Key::of(&pod.metadata)));
        }
    }
}

async fn feed_pods(mut deltas: Deltas<Pod>, nodes: &Informer<Node>, queue: &WorkQueue<Key>) {
    let tolerations = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.tolerations.clone());
    while let Some(delta) = deltas.next().await {
        let pod = match &delta {
            Delta::Added(pod) => pod,
            Delta::Updated { old, new }
                if pods::node_name(old) != pods::node_name(new) || tolerations(old) != tolerations(new) =>
            {
                new
            }
            _ => continue,
        };
        let node = pods::node_name(pod).and_then(|name| nodes.get(&Key::cluster(name)));
        if node.is_some_and(|node| evicts(&node)) {
            queue.add(Key::of(&pod.metadata));
        }
    }
}

struct Controller {
    client: Client,
    recorder: Recorder,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, ReconcileError> {
        let Some(pod) = self.pods.get(key) else { return Ok(None) };
        let Some(node) = pods::node_name(&pod).and_then(|name| self.nodes.get(&Key::cluster(name))) else {
            return Ok(None);
        };
        match plan(&pod, taints(&node), clock::now()) {
            Plan::Stay => Ok(None),
            Plan::Later(wait) => Ok(Some(wait)),
            Plan::Now => {
                let message = format!("Marking for deletion Pod {key}");
                self.recorder.event(
                    &pod.object_ref(&()),
                    EventType::Normal,
                    "TaintManagerEviction",
                    &message,
                );
                disruption_target::delete(&self.client, &pod, Some(WHY), End::Graceful).await?;
                Ok(None)
            }
        }
    }
}
