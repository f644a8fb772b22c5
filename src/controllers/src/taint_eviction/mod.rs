//! Deletes pods from nodes with a `NoExecute` taint that they do not tolerate, or no longer.
//!
//! A pod of a node that cannot be reached stays in the API, being deleted, until the node comes back and says
//! that it has ended it, or the Node object is deleted ([`crate::pod_gc`]): until then it may still run.

mod plan;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use coracle_client::{Delta, Deltas, EventType, Informer, Key, ReconcileError, Recorder, WorkQueue, clock};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use kube::{Client, Resource};
use parking_lot::Mutex;
use plan::{Plan, plan};

use crate::{
    Context, context,
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
        let since = Arc::new(Since::default());
        let controller = Arc::new(Controller {
            client: context.client.clone(),
            since: since.clone(),
            recorder: context.recorder("taint-eviction-controller"),
            nodes: nodes.clone(),
            pods: pods.clone(),
            waiting: Mutex::default(),
        });
        let queue = WorkQueue::new();
        let feed = async {
            tokio::join!(nodes.synced(), pods.synced());
            tokio::join!(
                feed_nodes(nodes.subscribe(), &pods, &queue, &since),
                feed_pods(pods.subscribe(), &nodes, &queue),
            );
        };
        let reconcile =
            context::shared(&controller, |controller, key| async move { controller.reconcile(&key).await });
        context.run(NAME, queue.clone(), WORKERS, feed, reconcile).await;
    })
}

fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
}

fn evicts(node: &Node) -> bool {
    taints(node).iter().any(|taint| taint.effect == "NoExecute")
}

/// Since when nodes have the taints that do not say it, as those of `kubectl taint` do not.
#[derive(Default)]
struct Since(Mutex<BTreeMap<String, Vec<Taint>>>);

impl Since {
    /// The `NoExecute` taints of a node, all with their time.
    fn timed(&self, node: &Node) -> Vec<Taint> {
        let name = pods::name(&node.metadata);
        let mut all = self.0.lock();
        let known = all.remove(name).unwrap_or_default();
        let timed = |taint: &Taint| {
            let same = |one: &&Taint| one.key == taint.key && one.value == taint.value;
            let before = known.iter().find(same).and_then(|one| one.time_added.clone());
            let added = taint.time_added.clone().or(before).unwrap_or_else(clock::time);
            Taint { time_added: Some(added), ..taint.clone() }
        };
        let now: Vec<Taint> =
            taints(node).iter().filter(|taint| taint.effect == "NoExecute").map(timed).collect();
        if !now.is_empty() {
            all.insert(name.to_owned(), now.clone());
        }
        now
    }

    fn forget(&self, node: &Node) {
        self.0.lock().remove(pods::name(&node.metadata));
    }
}

async fn feed_nodes(mut deltas: Deltas<Node>, pods: &Informer<Pod>, queue: &WorkQueue<Key>, since: &Since) {
    while let Some(delta) = deltas.next().await {
        match &delta {
            Delta::Added(node) | Delta::Updated { new: node, .. } => {
                since.timed(node);
            }
            Delta::Deleted(node) => since.forget(node),
        }
        let concerns = match &delta {
            Delta::Added(node) => evicts(node),
            Delta::Updated { old, new } => taints(old) != taints(new) && (evicts(old) || evicts(new)),
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
            // One that is gone waits no more.
            Delta::Added(pod) | Delta::Deleted(pod) => pod,
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
    since: Arc<Since>,
    recorder: Recorder,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    /// The pods that will have to go if nothing changes; each is looked at again then.
    waiting: Mutex<BTreeSet<Key>>,
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, ReconcileError> {
        let waited = self.waiting.lock().remove(key);
        let Some(pod) = self.pods.get(key) else { return Ok(None) };
        let Some(node) = pods::node_name(&pod).and_then(|name| self.nodes.get(&Key::cluster(name))) else {
            return Ok(None);
        };
        let tell = |what: &str| {
            let message = format!("{what} Pod {key}");
            let object = pod.object_ref(&());
            self.recorder.event(&object, EventType::Normal, "TaintManagerEviction", &message);
        };
        match plan(&pod, &self.since.timed(&node), clock::now()) {
            Plan::Stay => {
                let stays = pod.metadata.deletion_timestamp.is_none() && !pods::is_terminal(&pod);
                if waited && stays {
                    tell("Cancelling deletion of");
                }
                Ok(None)
            }
            Plan::Later(wait) => {
                self.waiting.lock().insert(key.clone());
                Ok(Some(wait))
            }
            Plan::Now => {
                tell("Marking for deletion");
                disruption_target::delete(&self.client, &pod, Some(WHY), End::Graceful).await?;
                Ok(None)
            }
        }
    }
}
