//! Deployments: bring a set of pods from one template to the next, a few at a time.
//!
//! ```text
//!  deployments, replica sets ──▶ adopt, release ──▶ plan ──▶ replica sets created, scaled, deleted
//!                                                    │                      │
//!                                                    └──▶ revision, status ◀┘
//! ```
//! A deployment touches replica sets only; those make the pods. Every write names the version it is
//! based on, and the next look waits until the cache shows what was written, so that no step is taken
//! on the ground of what no longer is.

mod bounds;
mod plan;
mod revision;
mod rollout;
mod status;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc, time::Duration};

use coracle_client::{
    Delta, Deltas, During, EventType, Informer, Key, ReconcileError, Recorder, WorkQueue, api_message, clock,
    is_already_exists, is_ambiguous, is_not_found,
};
use futures::future::BoxFuture;
use k8s_openapi::api::{
    apps::v1::{Deployment, DeploymentStatus, ReplicaSet},
    core::v1::Pod,
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
};
use parking_lot::Mutex;
use plan::{Change, Observed, plan};

use crate::{
    claim::{claim, settle},
    context::{self, Context},
    expectations::LOOK_AGAIN,
    namespaces,
    pace::Pace,
    podcontrol::reference,
    pods,
    wake::Waker,
};

pub(crate) const NAME: &str = "deployment";

/// Deployments reconciled at the same time. Kubernetes' default.
const WORKERS: usize = 5;

pub(crate) fn run(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let deployments: Informer<Deployment> = context.informers.get();
        let sets: Informer<ReplicaSet> = context.informers.get();
        let pods: Informer<Pod> = context.informers.get();
        pods::add_indexes(&sets);
        pods::add_indexes(&pods);
        let controller = Arc::new(Controller {
            client: context.client.clone(),
            recorder: context.recorder("deployment-controller"),
            deployments: deployments.clone(),
            sets: sets.clone(),
            pods: pods.clone(),
            written: Mutex::default(),
            pace: Pace::default(),
        });
        let queue = WorkQueue::new();
        let feed = async {
            deployments.synced().await;
            sets.synced().await;
            pods.synced().await;
            let waker = Waker { owners: &deployments, queue: &queue, pace: &controller.pace, selects };
            tokio::join!(
                context::feed(deployments.subscribe(), &queue),
                feed_sets(sets.subscribe(), &waker),
                feed_pods(pods.subscribe(), &sets, &waker),
                context::resync(&deployments, &queue),
            );
        };
        let reconcile = context::shared(&controller, |controller, key| async move {
            Box::pin(controller.reconcile(key)).await
        });
        context.run(NAME, queue.clone(), WORKERS, feed, reconcile).await;
    })
}

/// Queues the deployments that changes of replica sets concern.
async fn feed_sets(mut deltas: Deltas<ReplicaSet>, waker: &Waker<'_, Deployment, ReplicaSet>) {
    while let Some(delta) = deltas.next().await {
        if let Delta::Updated { old, .. } = &delta {
            waker.wake(old, false);
        }
        waker.wake(delta.object(), !matches!(delta, Delta::Deleted(_)));
    }
}

/// The last old pod that is gone lets a `Recreate` go on.
async fn feed_pods(
    mut deltas: Deltas<Pod>,
    sets: &Informer<ReplicaSet>,
    waker: &Waker<'_, Deployment, ReplicaSet>,
) {
    while let Some(delta) = deltas.next().await {
        let ended = match &delta {
            Delta::Deleted(pod) => pod,
            Delta::Updated { old, new } if !pods::is_terminal(old) && pods::is_terminal(new) => new,
            Delta::Updated { .. } | Delta::Added(_) => continue,
        };
        let owner = pods::controller_of(&ended.metadata).filter(|owner| owner.kind == "ReplicaSet");
        let key = owner.map(|owner| Key::new(pods::namespace(&ended.metadata), owner.name.clone()));
        if let Some(set) = key.and_then(|key| sets.get(&key)) {
            waker.wake(&set, false);
        }
    }
}

fn selects(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let selector = deployment.spec.as_ref().and_then(|spec| pods::selector(&spec.selector));
    selector.is_some_and(|selector| selector.matches(&set.metadata.labels.as_ref()))
}

struct Controller {
    client: Client,
    recorder: Recorder,
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
    written: Mutex<HashMap<Key, Written>>,
    pace: Pace,
}

/// What was written for a deployment and must show in the cache before the next step.
#[derive(Clone, Copy, Debug, Default)]
struct Written {
    /// The newest revision of a replica set.
    revision: u64,
    /// An answer was lost: the revision must be asked for.
    uncertain: bool,
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Result<Option<Duration>, ReconcileError> {
        let Some(deployment) = self.deployments.get(&key) else {
            self.written.lock().remove(&key);
            self.pace.forget(&key);
            return Ok(None);
        };
        let _turn = self.pace.turn(&key);
        if !self.is_caught_up(&key).await? {
            return Ok(Some(LOOK_AGAIN));
        }
        if deployment.spec.as_ref().is_none_or(|spec| pods::selector(&spec.selector).is_none()) {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            self.recorder.event(&reference(&*deployment), EventType::Warning, "SelectingAll", message);
            return Ok(None);
        }
        let candidates = pods::candidates(&self.sets, &deployment.metadata);
        let claims = claim(&deployment.metadata, &candidates, |set| selects(&deployment, set));
        settle(&self.client, &*deployment, &claims, None).await?;
        let pods = |uid: &str| self.pods.by_index(pods::BY_CONTROLLER, uid);
        let observed = Observed { deployment: &deployment, sets: &claims.owned, pods: &pods };
        let plan = plan(&observed, clock::now());
        let mut current = (*deployment).clone();
        let mut status = plan.status;
        for change in plan.changes {
            if let Err(error) = self.apply(&key, &deployment, change, &mut status).await {
                // What could not be done is told, and what was counted is not.
                self.write_status(&current, status).await?;
                return Err(error);
            }
        }
        if let Some(revision) = plan.revision {
            current = self.annotate(&key, current, &revision).await?;
        }
        self.write_status(&current, status).await?;
        Ok(plan.again)
    }

    /// True if the cache shows what was written.
    async fn is_caught_up(&self, key: &Key) -> Result<bool, ReconcileError> {
        let Some(mut written) = self.written.lock().get(key).copied() else { return Ok(true) };
        if written.uncertain {
            let api: Api<ReplicaSet> = Api::namespaced(self.client.clone(), &key.namespace);
            let list = api
                .list_metadata(&ListParams::default())
                .await
                .during(|| format!("list replica sets of {}", key.namespace))?;
            let newest = list.items.iter().map(|set| pods::revision(&set.metadata)).max().unwrap_or(0);
            written = Written { revision: written.revision.max(newest), uncertain: false };
            self.written.lock().insert(key.clone(), written);
        }
        Ok(self.sets.seen() >= written.revision)
    }

    async fn apply(
        &self,
        key: &Key,
        deployment: &Deployment,
        change: Change,
        status: &mut DeploymentStatus,
    ) -> Result<(), ReconcileError> {
        let api: Api<ReplicaSet> = Api::namespaced(self.client.clone(), &key.namespace);
        match change {
            Change::Create(set) => match api.create(&PostParams::default(), &set).await {
                Ok(created) => {
                    self.wrote(key, &created);
                    self.tell_scaled(deployment, &created, 0);
                    Ok(())
                }
                Err(error) => {
                    self.may_have_written(key, &error);
                    self.not_created(deployment, &set, error, status).await
                }
            },
            Change::Update { set, from } => {
                let name = pods::name(&set.metadata);
                let answer = api.replace(name, &PostParams::default(), &set).await;
                let updated = answer
                    .inspect_err(|error| self.may_have_written(key, error))
                    .during(|| format!("update replica set {}/{name}", key.namespace))?;
                self.wrote(key, &updated);
                self.tell_scaled(deployment, &updated, from);
                Ok(())
            }
            Change::Delete(set) => {
                let preconditions = Preconditions {
                    uid: set.metadata.uid.clone(),
                    resource_version: set.metadata.resource_version.clone(),
                };
                let options =
                    DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
                match api.delete(pods::name(&set.metadata), &options).await {
                    Err(error) if is_not_found(&error) => Ok(()),
                    other => other.map(|_| ()).during(|| format!("delete an old replica set of {key}")),
                }
            }
        }
    }

    /// The replica set could not be created. If it is there after all, it will show; if one of another
    /// template has its name, the next try takes another name.
    async fn not_created(
        &self,
        deployment: &Deployment,
        set: &ReplicaSet,
        error: kube::Error,
        status: &mut DeploymentStatus,
    ) -> Result<(), ReconcileError> {
        let name = pods::name(&set.metadata);
        let action = || format!("create replica set {name}");
        if is_already_exists(&error) {
            let api: Api<ReplicaSet> = Api::namespaced(self.client.clone(), pods::namespace(&set.metadata));
            let there = api.get(name).await.during(action)?;
            let owner = pods::controller_of(&there.metadata);
            let own = owner.is_some_and(|owner| owner.uid == pods::uid(&deployment.metadata));
            if !(own && revision::has_template(&there, deployment)) {
                status.collision_count = Some(status.collision_count.unwrap_or(0).saturating_add(1));
            }
        } else if !namespaces::is_going(&error) {
            let message = format!("Failed to create new replica set {name:?}: {}", api_message(&error));
            status::note_failure(deployment, status, &message, clock::now());
            self.recorder.event(&reference(deployment), EventType::Warning, status::CREATE_FAILED, &message);
        }
        Err(error).during(action)
    }

    fn wrote(&self, key: &Key, set: &ReplicaSet) {
        let mut written = self.written.lock();
        let known = written.entry(key.clone()).or_default();
        known.revision = known.revision.max(pods::revision(&set.metadata));
    }

    fn may_have_written(&self, key: &Key, error: &kube::Error) {
        if is_ambiguous(error) {
            self.written.lock().entry(key.clone()).or_default().uncertain = true;
        }
    }

    fn tell_scaled(&self, deployment: &Deployment, set: &ReplicaSet, from: i32) {
        let to = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        if from == to {
            return;
        }
        let way = if to > from { "up" } else { "down" };
        let name = pods::name(&set.metadata);
        let message = format!("Scaled {way} replica set {name} from {from} to {to}");
        self.recorder.event(&reference(deployment), EventType::Normal, "ScalingReplicaSet", &message);
    }

    /// Writes the revision on the deployment; the answer is its newest version.
    async fn annotate(
        &self,
        key: &Key,
        mut deployment: Deployment,
        revision: &str,
    ) -> Result<Deployment, ReconcileError> {
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), &key.namespace);
        let patch = serde_json::json!({"metadata": {
            "uid": deployment.metadata.uid,
            "resourceVersion": deployment.metadata.resource_version,
            "annotations": {revision::REVISION: revision},
        }});
        let answer = api
            .patch_metadata(&key.name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .during(|| format!("write the revision of {key}"))?;
        deployment.metadata = answer.metadata;
        Ok(deployment)
    }

    /// Writes the status if it changed.
    async fn write_status(
        &self,
        deployment: &Deployment,
        status: DeploymentStatus,
    ) -> Result<(), ReconcileError> {
        if deployment.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let changed = Deployment { status: Some(status), ..deployment.clone() };
        context::replace_status(&self.client, &changed).await
    }
}
