//! Endpoints: the addresses behind a service in one object, for clients that know no EndpointSlices.

mod plan;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use coracle_client::{
    Delta, Deltas, During, Informer, Key, ReconcileError, WorkQueue, is_already_exists, is_not_found,
};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams, Preconditions},
};
use plan::{Observed, Plan, plan};

use crate::{
    context::{self, Context},
    namespaces,
    pace::Pace,
    services::Waker,
};

pub(crate) const NAME: &str = "endpoints";

/// Services reconciled at the same time. Kubernetes' default.
const WORKERS: usize = 5;

pub(crate) fn run(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let services: Informer<Service> = context.informers.get();
        let pods: Informer<Pod> = context.informers.get();
        let endpoints: Informer<Endpoints> = context.informers.get();
        let controller = Arc::new(Controller {
            client: context.client.clone(),
            services: services.clone(),
            pods: pods.clone(),
            endpoints: endpoints.clone(),
            pace: Pace::default(),
        });
        let queue = WorkQueue::new();
        let feed = async {
            tokio::join!(services.synced(), pods.synced(), endpoints.synced());
            let waker = Waker { services: &services, queue: &queue, pace: &controller.pace };
            tokio::join!(
                context::feed(services.subscribe(), &queue),
                waker.feed_pods(pods.subscribe()),
                feed_endpoints(endpoints.subscribe(), &queue),
                context::resync(&services, &queue),
            );
        };
        let reconcile =
            context::shared(&controller, |controller, key| async move { controller.reconcile(key).await });
        context.run(NAME, queue.clone(), WORKERS, feed, reconcile).await;
    })
}

/// Queues the service of endpoints that came from elsewhere or were lost.
async fn feed_endpoints(mut deltas: Deltas<Endpoints>, queue: &WorkQueue<Key>) {
    while let Some(delta) = deltas.next().await {
        let ours = match &delta {
            Delta::Added(new) | Delta::Updated { new, .. } => plan::is_ours(new),
            Delta::Deleted(_) => true,
        };
        if ours {
            queue.add(Key::of(&delta.object().metadata));
        }
    }
}

struct Controller {
    client: Client,
    services: Informer<Service>,
    pods: Informer<Pod>,
    endpoints: Informer<Endpoints>,
    pace: Pace,
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Result<Option<Duration>, ReconcileError> {
        let service = self.services.get(&key);
        if service.is_none() {
            self.pace.forget(&key);
        }
        let turn = service.is_some().then(|| self.pace.turn(&key));
        let (pods, current) = (self.pods.list_namespace(&key.namespace), self.endpoints.get(&key));
        let observed = Observed { service: service.as_deref(), pods: &pods, current: current.as_deref() };
        let api: Api<Endpoints> = Api::namespaced(self.client.clone(), &key.namespace);
        let outcome = match plan(&observed) {
            Plan::Nothing => Ok(()),
            Plan::Create(new) => api.create(&PostParams::default(), &new).await.map(|_| ()),
            Plan::Update(new) => api.replace(&key.name, &PostParams::default(), &new).await.map(|_| ()),
            Plan::Delete { uid } => {
                let preconditions = Some(Preconditions { uid, resource_version: None });
                let options = DeleteParams { preconditions, ..DeleteParams::default() };
                api.delete(&key.name, &options).await.map(|_| ())
            }
        };
        drop(turn);
        match outcome {
            Err(error) if namespaces::is_going(&error) => Ok(None),
            // The cache is about to show what there is, or is not; that queues the key again.
            Err(error) if is_not_found(&error) || is_already_exists(&error) => Ok(Some(LOOK_AGAIN)),
            other => other.map(|()| None).during(|| format!("write endpoints {key}")),
        }
    }
}

/// When to look again if the cache was behind.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
