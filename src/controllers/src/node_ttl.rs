//! Tells nodes by an annotation for how long they may use what they have read of config maps and secrets, as other
//! nodes' agents expect: the more nodes, the longer. Our own agent watches, and does not need it.

use std::{sync::Arc, time::Duration};

use coracle_client::{Delta, During, Informer, Key, ReconcileError, WorkQueue, is_not_found};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::{Context, context, pods};

pub(crate) const NAME: &str = "ttl";

const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";

/// Up to so many nodes this many seconds. Kubernetes' numbers; beyond the last it is five minutes.
const STEPS: [(usize, u32); 4] = [(100, 0), (500, 15), (1_000, 30), (2_000, 60)];

pub(crate) fn run(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let nodes: Informer<Node> = context.informers.get();
        let controller = Arc::new(Controller { client: context.client.clone(), nodes: nodes.clone() });
        let queue = WorkQueue::new();
        let feed = async {
            nodes.synced().await;
            let mut seconds = None;
            let mut deltas = nodes.subscribe();
            while let Some(delta) = deltas.next().await {
                if matches!(delta, Delta::Updated { .. }) {
                    continue;
                }
                let now = Some(ttl(nodes.len()));
                if std::mem::replace(&mut seconds, now) != now {
                    nodes.list().iter().for_each(|node| queue.add(Key::of(&node.metadata)));
                } else {
                    queue.add(Key::of(&delta.object().metadata));
                }
            }
        };
        let reconcile =
            context::shared(&controller, |controller, key| async move { controller.reconcile(&key).await });
        context.run(NAME, queue.clone(), 2, feed, reconcile).await;
    })
}

fn ttl(nodes: usize) -> u32 {
    STEPS.iter().find(|(most, _)| nodes <= *most).map_or(300, |(_, seconds)| *seconds)
}

struct Controller {
    client: Client,
    nodes: Informer<Node>,
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, ReconcileError> {
        let Some(node) = self.nodes.get(key) else { return Ok(None) };
        let wanted = ttl(self.nodes.len()).to_string();
        let says = node.metadata.annotations.as_ref().and_then(|annotations| annotations.get(ANNOTATION));
        if says == Some(&wanted) {
            return Ok(None);
        }
        let patch =
            json!({ "metadata": { "uid": node.metadata.uid, "annotations": { ANNOTATION: wanted } } });
        let name = pods::name(&node.metadata);
        let api: Api<Node> = Api::all(self.client.clone());
        match api.patch_metadata(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(error) if is_not_found(&error) => Ok(None),
            other => other.map(|_| None).during(|| format!("annotate node {name}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_nodes_read_less_often() {
        let seen = [1, 100, 101, 500, 1_000, 2_000, 2_001].map(ttl);
        assert_eq!(seen, [0, 0, 15, 15, 30, 60, 300]);
    }
}
