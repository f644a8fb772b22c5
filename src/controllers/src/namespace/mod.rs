//! Deletes what is in a namespace that is being deleted, then lets the namespace go.
//!
//! ```text
//!   Terminating ──▶ pods deleted ──▶ everything else deleted ──▶ finalizer `kubernetes` removed
//!        ▲              │ some left        │ some left
//!        └──────────────┴──────────────────┘ again soon; conditions say what is left
//! ```
//! Pods go first, so that they end while their services and configuration are still there.

mod plan;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use coracle_client::{
    Delta, Deltas, During, Informer, Key, Metadata, ReconcileError, WorkQueue, api_message, clock,
    is_not_found,
};
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, PostParams},
    core::{DynamicObject, Request, Resource},
};
use plan::{Content, FINALIZER};

use crate::{
    context::{self, Context},
    discovery::{self, Served},
    pods,
};

pub(crate) const NAME: &str = "namespace";

/// Namespaces deleted at the same time. Kubernetes' default is 10; each takes many calls.
const WORKERS: usize = 5;

/// Namespaces of which something is left are looked at again after this...
const SOONEST: Duration = Duration::from_millis(50);
/// ... or later, the longer it takes, but not later than this.
const LATEST: Duration = Duration::from_secs(10);

pub(crate) fn run(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let homes: Informer<Namespace> = context.informers.get();
        let pods: Informer<Pod> = context.informers.get();
        let controller = Arc::new(Controller { client: context.client.clone(), homes: homes.clone() });
        let queue = WorkQueue::new();
        let feed = async {
            homes.synced().await;
            tokio::join!(
                context::feed(homes.subscribe(), &queue),
                feed_pods(pods.subscribe(), &homes, &queue),
            );
        };
        let reconcile =
            context::shared(&controller, |controller, key| async move { controller.reconcile(key).await });
        context.run(NAME, queue.clone(), WORKERS, feed, reconcile).await;
    })
}

/// A pod that is gone may have been the last one.
async fn feed_pods(mut deltas: Deltas<Pod>, homes: &Informer<Namespace>, queue: &WorkQueue<Key>) {
    while let Some(delta) = deltas.next().await {
        if let Delta::Deleted(pod) = &delta {
            let home = Key::cluster(pods::namespace(&pod.metadata));
            if homes.get(&home).is_some_and(|home| home.metadata.deletion_timestamp.is_some()) {
                queue.add(home);
            }
        }
    }
}

struct Controller {
    client: Client,
    homes: Informer<Namespace>,
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Result<Option<Duration>, ReconcileError> {
        let Some(home) = self.homes.get(&key) else { return Ok(None) };
        let Some(since) = plan::deleting_since(&home) else { return Ok(None) };
        let content = self.empty(&key.name).await;
        let now = clock::now();
        // Who goes at once need not say why not.
        let held = home.metadata.finalizers.as_ref().is_some_and(|held| !held.is_empty());
        let mut home = (*home).clone();
        if (held || !content.is_empty())
            && let Some(status) = plan::status(&home, &content, now)
        {
            let api: Api<Namespace> = Api::all(self.client.clone());
            home.status = Some(status);
            match api.replace_status(&key.name, &PostParams::default(), &home).await {
                Err(error) if is_not_found(&error) => return Ok(None),
                other => home = other.during(|| format!("write the status of namespace {key}"))?,
            }
        }
        if content.is_empty() {
            return self.finalize(&home).await.map(|()| None);
        }
        Ok(Some(pause(since, now)))
    }

    /// Deletes what is in the namespace, and says what is left.
    async fn empty(&self, namespace: &str) -> Content {
        let mut content = Content::default();
        let discovered = match discovery::discover(&self.client).await {
            Ok(discovered) => discovered,
            Err(error) => {
                content.undiscovered.push(api_message(&error));
                return content;
            }
        };
        content.undiscovered = discovered.stale;
        let (first, then): (Vec<_>, Vec<_>) = discovered
            .served
            .into_iter()
            .filter(|served| served.namespaced && served.can("list") && served.can("delete"))
            .partition(|served| served.resource.plural == "pods" && served.resource.group.is_empty());
        for kinds in [first, then] {
            for served in kinds {
                if let Err(error) = self.empty_kind(namespace, &served, &mut content).await {
                    content.failed.insert(served.dotted(), api_message(&error));
                }
            }
            if !content.is_empty() {
                break;
            }
        }
        content
    }

    async fn empty_kind(
        &self,
        namespace: &str,
        served: &Served,
        content: &mut Content,
    ) -> Result<(), kube::Error> {
        if self.list(namespace, served).await?.is_empty() {
            return Ok(());
        }
        if served.can("deletecollection") {
            let path = DynamicObject::url_path(&served.resource, Some(namespace));
            let options = DeleteParams::background();
            let request = Request::new(path)
                .delete_collection(&options, &ListParams::default())
                .map_err(kube::Error::BuildRequest)?;
            self.client.request_text(request).await?;
        } else {
            let api: Api<DynamicObject> =
                Api::namespaced_with(self.client.clone(), namespace, &served.resource);
            for object in self.list(namespace, served).await? {
                match api.delete(pods::name(&object.metadata), &DeleteParams::background()).await {
                    Err(error) if is_not_found(&error) => {}
                    other => drop(other?),
                }
            }
        }
        let left = self.list(namespace, served).await?;
        if !left.is_empty() {
            content.left.insert(served.dotted(), left.len());
        }
        for finalizer in left.iter().filter_map(|object| object.metadata.finalizers.as_ref()).flatten() {
            *content.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
        Ok(())
    }

    async fn list(&self, namespace: &str, served: &Served) -> Result<Vec<Metadata>, kube::Error> {
        let path = DynamicObject::url_path(&served.resource, Some(namespace));
        let request =
            Request::new(path).list_metadata(&ListParams::default()).map_err(kube::Error::BuildRequest)?;
        let list: List = self.client.request(request).await?;
        Ok(list.items.unwrap_or_default())
    }

    /// Lets the namespace go.
    async fn finalize(&self, home: &Namespace) -> Result<(), ReconcileError> {
        let name = pods::name(&home.metadata);
        let mut changed = home.clone();
        let spec = changed.spec.get_or_insert_default();
        spec.finalizers.get_or_insert_default().retain(|finalizer| finalizer != FINALIZER);
        let body = serde_json::to_vec(&changed).expect("a namespace is serialisable");
        let request = Request::new(Namespace::url_path(&(), None))
            .replace_subresource("finalize", name, &PostParams::default(), body)
            .map_err(kube::Error::BuildRequest)
            .during(|| format!("finalize namespace {name}"))?;
        match self.client.request_text(request).await {
            Err(error) if is_not_found(&error) => Ok(()),
            other => other.map(|_| ()).during(|| format!("finalize namespace {name}")),
        }
    }
}

#[derive(serde::Deserialize)]
struct List {
    items: Option<Vec<Metadata>>,
}

/// When to look again: the later, the longer it takes already.
fn pause(since: Timestamp, now: Timestamp) -> Duration {
    let passed = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    (passed / 4).clamp(SOONEST, LATEST)
}
