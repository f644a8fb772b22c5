//! Makes EndpointSlices of Endpoints that people write for services without a selector: the service network reads
//! nothing but slices.

mod plan;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use coracle_client::{
    Deltas, During, Informer, Key, ReconcileError, WorkQueue, is_already_exists, is_conflict, is_not_found,
};
use futures::future::BoxFuture;
use k8s_openapi::api::{
    core::v1::{Endpoints, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use plan::{US, same, wanted};

use crate::{
    context::{self, Context},
    namespaces, pods, services,
};

pub(crate) const NAME: &str = "endpointslice-mirroring";

const WORKERS: usize = 2;

/// When to look again if the cache was behind.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

const BY_SERVICE: &str = "endpointslice-mirroring/service";

pub(crate) fn run(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let controller = Arc::new(Controller {
            client: context.client.clone(),
            services: context.informers.get(),
            endpoints: context.informers.get(),
            slices: context.informers.get(),
        });
        controller.slices.add_index(BY_SERVICE, |slice| {
            service_of(slice).map(|key| key.to_string()).into_iter().collect()
        });
        let queue = WorkQueue::new();
        let feed = async {
            let Controller { services, endpoints, slices, .. } = &*controller;
            tokio::join!(services.synced(), endpoints.synced(), slices.synced());
            tokio::join!(
                context::feed(services.subscribe(), &queue),
                context::feed(endpoints.subscribe(), &queue),
                feed_slices(slices.subscribe(), &queue),
            );
        };
        let reconcile =
            context::shared(&controller, |controller, key| async move { controller.reconcile(&key).await });
        context.run(NAME, queue.clone(), WORKERS, feed, reconcile).await;
    })
}

/// Queues the service of slices that were changed by others, or lost.
async fn feed_slices(mut deltas: Deltas<EndpointSlice>, queue: &WorkQueue<Key>) {
    while let Some(delta) = deltas.next().await {
        service_of(delta.object()).into_iter().for_each(|key| queue.add(key));
    }
}

/// The service of a slice that this controller made.
fn service_of(slice: &EndpointSlice) -> Option<Key> {
    services::slice_owner(slice, US)
}

struct Controller {
    client: Client,
    services: Informer<Service>,
    endpoints: Informer<Endpoints>,
    slices: Informer<EndpointSlice>,
}

impl Controller {
    /// Slices have fixed names, so a cache that lags leads to a conflict, never to a second slice.
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, ReconcileError> {
        let (service, endpoints) = (self.services.get(key), self.endpoints.get(key));
        let mut wanted = wanted(service.as_deref(), endpoints.as_deref());
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &key.namespace);
        let mut again = None;
        for slice in self.slices.by_index(BY_SERVICE, &key.to_string()) {
            let name = pods::name(&slice.metadata);
            let answer = match wanted.remove(name) {
                Some(wanted) if same(&slice, &wanted) => continue,
                Some(mut wanted) => {
                    wanted.metadata.resource_version = slice.metadata.resource_version.clone();
                    api.replace(name, &PostParams::default(), &wanted).await.map(drop)
                }
                None => api.delete(name, &DeleteParams::default()).await.map(drop),
            };
            match answer {
                Err(error) if is_not_found(&error) || is_conflict(&error) => again = Some(LOOK_AGAIN),
                other => other.during(|| format!("write slice {}/{name}", key.namespace))?,
            }
        }
        for slice in wanted.values() {
            match api.create(&PostParams::default(), slice).await {
                Err(error) if namespaces::is_going(&error) => return Ok(None),
                Err(error) if is_already_exists(&error) => again = Some(LOOK_AGAIN),
                other => drop(other.during(|| format!("make a slice of {key}"))?),
            }
        }
        Ok(again)
    }
}
