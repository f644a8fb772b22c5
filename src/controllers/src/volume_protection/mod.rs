//! Keeps claims that pods use, and volumes that claims are bound to, from going away under them: what is deleted
//! keeps its finalizer for as long.

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use coracle_client::{Delta, Deltas, During, Informer, Key, ReconcileError, WorkQueue, is_not_found};
use futures::future::BoxFuture;
use k8s_openapi::{
    api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;

use crate::{Context, context, pods};

pub(crate) const NAME: &str = "volume-protection";

const WORKERS: usize = 2;

const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";

/// Pods by the claims they use, as `namespace/claim`.
pub(crate) const BY_CLAIM: &str = "volume-protection/claim";

/// Adds that index.
pub(crate) fn index_by_claim(pods: &Informer<Pod>) {
    pods.add_index(BY_CLAIM, |pod| {
        let namespace = pods::namespace(&pod.metadata);
        claims_of(pod).into_iter().map(|name| format!("{namespace}/{name}")).collect()
    });
}

pub(crate) fn run(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let controller = Arc::new(Controller {
            client: context.client.clone(),
            claims: context.informers.get(),
            volumes: context.informers.get(),
            pods: context.informers.get(),
        });
        index_by_claim(&controller.pods);
        let queue: WorkQueue<Key> = WorkQueue::new();
        let feed = async {
            let Controller { claims, volumes, pods, .. } = &*controller;
            tokio::join!(claims.synced(), volumes.synced(), pods.synced());
            tokio::join!(
                feed(claims.subscribe(), &queue),
                feed(volumes.subscribe(), &queue),
                feed_pods(pods.subscribe(), claims, &queue),
            );
        };
        let reconcile = context::shared(&controller, |controller, key: Key| async move {
            match key.namespace.as_str() {
                "" => controller.volume(&key).await,
                _ => controller.claim(&key).await,
            }
        });
        context.run(NAME, queue.clone(), WORKERS, feed, reconcile).await;
    })
}

/// Queues what is being deleted.
async fn feed<K: coracle_client::Object>(mut deltas: Deltas<K>, queue: &WorkQueue<Key>) {
    while let Some(delta) = deltas.next().await {
        let meta = delta.object().meta();
        if meta.deletion_timestamp.is_some() && !matches!(delta, Delta::Deleted(_)) {
            queue.add(Key::of(meta));
        }
    }
}

/// A pod that has ended may have been the last one that used a claim.
async fn feed_pods(
    mut deltas: Deltas<Pod>,
    claims: &Informer<PersistentVolumeClaim>,
    queue: &WorkQueue<Key>,
) {
    while let Some(delta) = deltas.next().await {
        let pod = delta.object();
        if !matches!(delta, Delta::Deleted(_)) && uses(pod) {
            continue;
        }
        for name in claims_of(pod) {
            let key = Key::new(pods::namespace(&pod.metadata), name);
            if claims.get(&key).is_some_and(|claim| claim.metadata.deletion_timestamp.is_some()) {
                queue.add(key);
            }
        }
    }
}

/// The claims that a pod names, those made for its ephemeral volumes included.
fn claims_of(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let claim = |volume: &k8s_openapi::api::core::v1::Volume| match &volume.persistent_volume_claim {
        Some(claim) => Some(claim.claim_name.clone()),
        None => volume.ephemeral.as_ref().map(|_| format!("{}-{}", pods::name(&pod.metadata), volume.name)),
    };
    volumes.iter().filter_map(claim).collect()
}

/// A pod uses its claims from when it has a node until it has ended.
fn uses(pod: &Pod) -> bool {
    pods::node_name(pod).is_some() && !pods::is_terminal(pod)
}

/// Whether an object that is being deleted waits for this finalizer.
fn waits_for(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.deletion_timestamp.is_some() && meta.finalizers.iter().flatten().any(|name| name == finalizer)
}

/// Takes a finalizer off, provided that the object is as it was looked at.
fn without(meta: &ObjectMeta, finalizer: &str) -> Patch<serde_json::Value> {
    let rest: Vec<&String> = meta.finalizers.iter().flatten().filter(|name| *name != finalizer).collect();
    Patch::Merge(json!({ "metadata": {
        "uid": meta.uid, "resourceVersion": meta.resource_version, "finalizers": rest,
    } }))
}

struct Controller {
    client: Client,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    pods: Informer<Pod>,
}

impl Controller {
    async fn claim(&self, key: &Key) -> Result<Option<Duration>, ReconcileError> {
        let Some(claim) = self.claims.get(key) else { return Ok(None) };
        if !waits_for(&claim.metadata, CLAIM_FINALIZER) {
            return Ok(None);
        }
        if self.pods.by_index(BY_CLAIM, &key.to_string()).iter().any(|pod| uses(pod)) {
            return Ok(None);
        }
        // Data may hang on it: the cache may not know the newest pod.
        let all: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let all =
            all.list(&ListParams::default()).await.during(|| format!("list pods of {}", key.namespace))?;
        if all.items.iter().any(|pod| uses(pod) && claims_of(pod).contains(&key.name)) {
            return Ok(None);
        }
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        let patch = without(&claim.metadata, CLAIM_FINALIZER);
        match api.patch(&key.name, &PatchParams::default(), &patch).await {
            Err(error) if is_not_found(&error) => Ok(None),
            other => other.map(|_| None).during(|| format!("let claim {key} go")),
        }
    }

    async fn volume(&self, key: &Key) -> Result<Option<Duration>, ReconcileError> {
        let Some(volume) = self.volumes.get(key) else { return Ok(None) };
        let bound = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
        if bound || !waits_for(&volume.metadata, VOLUME_FINALIZER) {
            return Ok(None);
        }
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let patch = without(&volume.metadata, VOLUME_FINALIZER);
        match api.patch(&key.name, &PatchParams::default(), &patch).await {
            Err(error) if is_not_found(&error) => Ok(None),
            other => other.map(|_| None).during(|| format!("let volume {} go", key.name)),
        }
    }
}
