//! Removes jobs that ended, `ttlSecondsAfterFinished` after they did, with everything that they own.

mod plan;
#[cfg(test)]
mod tests;

use std::time::Duration;

use coracle_client::{
    Deltas, During, Informer, Key, ReconcileError, WorkQueue, clock, is_conflict, is_not_found,
};
use futures::future::BoxFuture;
use k8s_openapi::api::batch::v1::Job;
use kube::{
    Api, Client,
    api::{DeleteParams, Preconditions},
};

use crate::context::{self, Context};

pub(crate) const NAME: &str = "ttl-after-finished";

/// Jobs removed at the same time. Kubernetes' default.
const WORKERS: usize = 5;

/// The longest sleep: what is due later is looked at now and then.
const LONGEST_SLEEP: Duration = Duration::from_hours(24);

pub(crate) fn run(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let jobs: Informer<Job> = context.informers.get();
        let queue = WorkQueue::new();
        let feed = async {
            jobs.synced().await;
            tokio::join!(feed_jobs(jobs.subscribe(), &queue), context::resync(&jobs, &queue));
        };
        let reconcile = {
            let (client, jobs) = (context.client.clone(), jobs.clone());
            move |key| reconcile(client.clone(), jobs.clone(), key)
        };
        context.run(NAME, queue.clone(), WORKERS, feed, reconcile).await;
    })
}

async fn feed_jobs(mut deltas: Deltas<Job>, queue: &WorkQueue<Key>) {
    while let Some(delta) = deltas.next().await {
        let job = delta.object();
        if plan::left(job, clock::now()).is_some() {
            queue.add(Key::of(&job.metadata));
        }
    }
}

async fn reconcile(
    client: Client,
    jobs: Informer<Job>,
    key: Key,
) -> Result<Option<Duration>, ReconcileError> {
    let Some(job) = jobs.get(&key) else { return Ok(None) };
    let Some(left) = plan::left(&job, clock::now()) else { return Ok(None) };
    if !left.is_zero() {
        return Ok(Some(left.min(LONGEST_SLEEP)));
    }
    // Someone may have prolonged its time just now: only this very version goes.
    let preconditions = Preconditions {
        uid: job.metadata.uid.clone(),
        resource_version: job.metadata.resource_version.clone(),
    };
    let options = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::foreground() };
    let api: Api<Job> = Api::namespaced(client, &key.namespace);
    match api.delete(&key.name, &options).await {
        Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(None),
        other => other.map(|_| None).during(|| format!("delete job {key}")),
    }
}
