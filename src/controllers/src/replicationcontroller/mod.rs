//! ReplicationControllers: keeps as many pods as were asked for.
//!
//! ```text
//!  pods, controllers ──▶ plan ──▶ adopt, release ──▶ create or delete ──▶ status
//!                         ▲                               │
//!                         └── expectations: the cache must show this first
//! ```
//! Reads caches, so it remembers what it wrote and does not count pods again before the cache shows it
//! (`expectations`). What it remembers is lost with the process, and not missed: a new process starts
//! from a fresh list.

mod expectations;
mod plan;
mod rank;
mod status;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use coracle_client::{
    Delta, Deltas, During, EventType, Informer, Key, Metadata, ReconcileError, Recorder, WorkQueue,
    api_message, clock, is_conflict, is_not_found,
};
use expectations::Expectations;
use futures::{StreamExt, future::BoxFuture};
use k8s_openapi::api::core::v1::{ObjectReference, Pod, ReplicationController};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
    core::Request,
};
use parking_lot::Mutex;
use plan::{Observed, Plan, plan};
use tracing::debug;

use crate::{
    context::{self, Context},
    namespaces,
    pace::Pace,
    pods,
};

pub(crate) const NAME: &str = "replicationcontroller";

/// Controllers reconciled at the same time. Kubernetes' default.
const WORKERS: usize = 5;

/// Creations and deletions of one controller under way at the same time. They share commits of the
/// store, so that a thousand pods take about thirty commits.
const IN_FLIGHT: usize = 32;

const BY_OWNER: &str = "replicationcontroller/owner";
const ORPHANS: &str = "replicationcontroller/orphans";

pub(crate) fn run(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let controllers: Informer<ReplicationController> = context.informers.get();
        let pods: Informer<Pod> = context.informers.get();
        pods.add_index(BY_OWNER, |pod| {
            pods::controller_of(&pod.metadata).map(|owner| owner.uid.clone()).into_iter().collect()
        });
        pods.add_index(ORPHANS, |pod| match pods::controller_of(&pod.metadata) {
            Some(_) => Vec::new(),
            None => vec![pods::namespace(&pod.metadata).to_owned()],
        });
        let controller = Arc::new(Controller {
            client: context.client.clone(),
            recorder: context.recorder("replication-controller"),
            controllers: controllers.clone(),
            pods: pods.clone(),
            memory: Mutex::default(),
            pace: Pace::default(),
        });
        let queue = WorkQueue::new();
        let feed = async {
            controllers.synced().await;
            pods.synced().await;
            let own = feed_controllers(controllers.subscribe(), &queue);
            let waker = Waker { controllers: &controllers, queue: &queue, pace: &controller.pace };
            tokio::join!(own, waker.feed(pods.subscribe()), context::resync(&controllers, &queue));
        };
        let reconcile = {
            let controller = controller.clone();
            move |key| {
                let controller = controller.clone();
                async move { controller.reconcile(key).await }
            }
        };
        context.run(NAME, queue.clone(), WORKERS, feed, reconcile).await;
    })
}

async fn feed_controllers(mut deltas: Deltas<ReplicationController>, queue: &WorkQueue<Key>) {
    while let Some(delta) = deltas.next().await {
        queue.add(Key::of(&delta.object().metadata));
    }
}

/// True if a controller may have to do or to say something else now.
fn matters(old: &Pod, new: &Pod) -> bool {
    pods::phase(old) != pods::phase(new)
        || pods::is_ready(old) != pods::is_ready(new)
        || pods::ready_since(old) != pods::ready_since(new)
        || old.metadata.deletion_timestamp.is_some() != new.metadata.deletion_timestamp.is_some()
        || old.metadata.labels != new.metadata.labels
        || old.metadata.owner_references != new.metadata.owner_references
}

/// Finds out whom a change of a pod concerns.
struct Waker<'a> {
    controllers: &'a Informer<ReplicationController>,
    queue: &'a WorkQueue<Key>,
    pace: &'a Pace,
}

impl Waker<'_> {
    async fn feed(&self, mut deltas: Deltas<Pod>) {
        while let Some(delta) = deltas.next().await {
            match &delta {
                Delta::Updated { old, new } if matters(old, new) => {
                    self.wake(old, false);
                    self.wake(new, true);
                }
                Delta::Updated { .. } => {}
                Delta::Added(pod) => self.wake(pod, true),
                Delta::Deleted(pod) => self.wake(pod, false),
            }
        }
    }

    /// Queues the controller of a pod, or those that could adopt it.
    fn wake(&self, pod: &Pod, adopt: bool) {
        let namespace = pods::namespace(&pod.metadata);
        match pods::controller_of(&pod.metadata) {
            Some(owner) if owner.kind == "ReplicationController" => {
                self.pace.wake(self.queue, Key::new(namespace, owner.name.clone()));
            }
            None if adopt => {
                for controller in self.controllers.list_namespace(namespace) {
                    let selector = controller.spec.as_ref().and_then(|spec| spec.selector.as_ref());
                    if pods::selects(selector, pod.metadata.labels.as_ref()) {
                        self.pace.wake(self.queue, Key::of(&controller.metadata));
                    }
                }
            }
            Some(_) | None => {}
        }
    }
}

struct Controller {
    client: Client,
    recorder: Recorder,
    controllers: Informer<ReplicationController>,
    pods: Informer<Pod>,
    /// What was written for each controller and may not be in the cache yet. Taken out while the key is
    /// reconciled, which one worker does at a time.
    memory: Mutex<HashMap<Key, (String, Expectations)>>,
    pace: Pace,
}

/// What kept the number of pods from being reached.
struct Failure {
    reason: &'static str,
    source: kube::Error,
    /// It will be so for as long as the namespace is being deleted, and nobody needs to be told.
    expected: bool,
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Result<Option<Duration>, ReconcileError> {
        let remembered = self.memory.lock().remove(&key);
        let Some(controller) = self.controllers.get(&key) else {
            self.pace.forget(&key);
            return Ok(None);
        };
        let _turn = self.pace.turn(&key);
        let uid = pods::uid(&controller.metadata).to_owned();
        // Another controller of the same name starts afresh.
        let mut expectations =
            remembered.filter(|(of, _)| *of == uid).map(|(_, expectations)| expectations).unwrap_or_default();
        let outcome = self.reconcile_with(&key, &controller, &mut expectations).await;
        self.memory.lock().insert(key, (uid, expectations));
        outcome
    }

    async fn reconcile_with(
        &self,
        key: &Key,
        controller: &ReplicationController,
        expectations: &mut Expectations,
    ) -> Result<Option<Duration>, ReconcileError> {
        let seen = self.pods.seen();
        let candidates = self.candidates(controller, expectations).await?;
        let met = expectations.met(seen, &candidates);
        let now = clock::now();
        let plan = plan(&Observed { controller, pods: &candidates, caught_up: met }, now);
        self.settle_ownership(controller, &plan).await?;
        let failure = if plan.create > 0 {
            self.create(controller, plan.create, expectations).await
        } else {
            self.delete(controller, &plan.delete, expectations).await
        };
        let reason = failure.as_ref().map(|failure| (failure.reason, api_message(&failure.source)));
        self.write_status(key, controller, &plan, reason.as_ref()).await?;
        match failure {
            Some(failure) if !failure.expected => {
                Err(failure.source).during(|| format!("reach the number of pods of {key}"))
            }
            _ if !met || expectations.is_uncertain() => Ok(Some(expectations::LOOK_AGAIN)),
            _ => Ok(plan.again),
        }
    }

    /// The pods that are or could be the controller's.
    async fn candidates(
        &self,
        controller: &ReplicationController,
        expectations: &mut Expectations,
    ) -> Result<Vec<Arc<Pod>>, ReconcileError> {
        let namespace = pods::namespace(&controller.metadata);
        if expectations.is_uncertain() {
            // An answer was lost, so the cache may lack a pod nobody can name: ask the API itself.
            let selector = controller.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            let labels: Vec<String> =
                selector.into_iter().flatten().map(|(name, value)| format!("{name}={value}")).collect();
            let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
            let list = api
                .list(&ListParams::default().labels(&labels.join(",")))
                .await
                .during(|| format!("list pods of {namespace}"))?;
            let found: Vec<_> = list.items.into_iter().map(Arc::new).collect();
            expectations.certain(&found);
            return Ok(found);
        }
        let mut found = self.pods.by_index(BY_OWNER, pods::uid(&controller.metadata));
        found.extend(self.pods.by_index(ORPHANS, namespace));
        Ok(found)
    }

    async fn settle_ownership(
        &self,
        controller: &ReplicationController,
        plan: &Plan,
    ) -> Result<(), ReconcileError> {
        if !plan.adopt.is_empty() {
            self.may_adopt(controller).await?;
        }
        for pod in &plan.adopt {
            let mut owners = pod.metadata.owner_references.clone().unwrap_or_default();
            owners.extend(controller.controller_owner_ref(&()));
            self.set_owners(pod, owners).await?;
            debug!(pod = pods::name(&pod.metadata), "adopted");
        }
        for pod in &plan.release {
            let uid = controller.metadata.uid.as_deref();
            let mut owners = pod.metadata.owner_references.clone().unwrap_or_default();
            owners.retain(|owner| Some(owner.uid.as_str()) != uid);
            self.set_owners(pod, owners).await?;
            debug!(pod = pods::name(&pod.metadata), "released");
        }
        Ok(())
    }

    /// A controller that is gone, or going, must not take pods with it that were never its own. The cache
    /// may not know yet.
    async fn may_adopt(&self, controller: &ReplicationController) -> Result<(), ReconcileError> {
        let name = pods::name(&controller.metadata);
        let api: Api<ReplicationController> =
            Api::namespaced(self.client.clone(), pods::namespace(&controller.metadata));
        let fresh = api.get(name).await.during(|| format!("read replication controller {name}"))?;
        if fresh.metadata.uid == controller.metadata.uid && fresh.metadata.deletion_timestamp.is_none() {
            Ok(())
        } else {
            Err(ReconcileError::NotYet(format!(
                "replication controller {name} was replaced or is being deleted"
            )))
        }
    }

    async fn set_owners(
        &self,
        pod: &Pod,
        owners: Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference>,
    ) -> Result<(), ReconcileError> {
        let name = pods::name(&pod.metadata);
        let api: Api<Pod> = Api::namespaced(self.client.clone(), pods::namespace(&pod.metadata));
        let patch = serde_json::json!({"metadata": {
            "uid": pod.metadata.uid,
            "resourceVersion": pod.metadata.resource_version,
            "ownerReferences": owners,
        }});
        match api.patch_metadata(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(error) if is_not_found(&error) => Ok(()),
            other => other.map(|_| ()).during(|| format!("change the owners of pod {name}")),
        }
    }

    /// Creates `count` pods: one, then two, four and so on, so that what fails for one is not tried for
    /// all.
    async fn create(
        &self,
        controller: &ReplicationController,
        count: usize,
        expectations: &mut Expectations,
    ) -> Option<Failure> {
        let template = plan::pod(controller);
        let path = Pod::url_path(&(), controller.metadata.namespace.as_deref());
        let body = serde_json::to_vec(&template).expect("a pod is serialisable");
        let reference = reference(controller);
        let mut left = count;
        let mut width = 1;
        let mut failure = None;
        while left > 0 && failure.is_none() {
            let batch = if width < IN_FLIGHT { width.min(left) } else { left };
            let failed = AtomicBool::new(false);
            // After a failure those under way are awaited, but no further ones are begun.
            let mut answers = futures::stream::iter(0..batch)
                .take_while(|_| futures::future::ready(!failed.load(Ordering::Relaxed)))
                .map(|_| self.create_one(&path, &body))
                .buffer_unordered(width);
            while let Some(answer) = answers.next().await {
                match answer {
                    Ok(pod) => {
                        expectations.created(pods::revision(&pod.metadata));
                        let message = format!("Created pod: {}", pods::name(&pod.metadata));
                        self.recorder.event(&reference, EventType::Normal, "SuccessfulCreate", &message);
                    }
                    Err(error) => {
                        failed.store(true, Ordering::Relaxed);
                        if is_ambiguous(&error) {
                            expectations.uncertain();
                        }
                        let expected = namespaces::is_going(&error);
                        if !expected {
                            let message = format!("Error creating: {}", api_message(&error));
                            self.recorder.event(&reference, EventType::Warning, "FailedCreate", &message);
                        }
                        failure.get_or_insert(Failure { reason: "FailedCreate", source: error, expected });
                    }
                }
            }
            left -= batch;
            width = (width * 2).min(IN_FLIGHT);
        }
        failure
    }

    async fn create_one(&self, path: &str, body: &[u8]) -> Result<Metadata, kube::Error> {
        let request = Request::new(path)
            .create(&PostParams::default(), body.to_vec())
            .map_err(kube::Error::BuildRequest)?;
        self.client.request(request).await
    }

    async fn delete(
        &self,
        controller: &ReplicationController,
        doomed: &[Arc<Pod>],
        expectations: &mut Expectations,
    ) -> Option<Failure> {
        let reference = reference(controller);
        let api: Api<Pod> = Api::namespaced(self.client.clone(), pods::namespace(&controller.metadata));
        let mut failed = None;
        let mut answers = futures::stream::iter(doomed.to_vec())
            .map(|pod| {
                let api = api.clone();
                async move {
                    let answer = delete_one(&api, &pod).await;
                    (pod, answer)
                }
            })
            .buffer_unordered(IN_FLIGHT);
        while let Some((pod, answer)) = answers.next().await {
            let name = pods::name(&pod.metadata);
            match answer {
                Ok(()) => {
                    expectations.deleted(pods::uid(&pod.metadata));
                    let message = format!("Deleted pod: {name}");
                    self.recorder.event(&reference, EventType::Normal, "SuccessfulDelete", &message);
                }
                Err(error) if is_not_found(&error) => expectations.deleted(pods::uid(&pod.metadata)),
                // It has another uid by now, or so it seems: look at the API itself.
                Err(error) if is_conflict(&error) => expectations.uncertain(),
                Err(error) => {
                    if is_ambiguous(&error) {
                        expectations.uncertain();
                    }
                    let message = format!("Error deleting: {}", api_message(&error));
                    self.recorder.event(&reference, EventType::Warning, "FailedDelete", &message);
                    failed.get_or_insert(Failure { reason: "FailedDelete", source: error, expected: false });
                }
            }
        }
        failed
    }

    /// Writes the status if it changed.
    async fn write_status(
        &self,
        key: &Key,
        controller: &ReplicationController,
        plan: &Plan,
        failure: Option<&(&'static str, String)>,
    ) -> Result<(), ReconcileError> {
        let status = status::status(controller, &plan.owned, failure, clock::now());
        if controller.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let api: Api<ReplicationController> = Api::namespaced(self.client.clone(), &key.namespace);
        let mut changed = controller.clone();
        changed.status = Some(status);
        match api.replace_status(&key.name, &PostParams::default(), &changed).await {
            Err(error) if is_not_found(&error) => Ok(()),
            other => other.map(|_| ()).during(|| format!("write the status of {key}")),
        }
    }
}

async fn delete_one(api: &Api<Pod>, pod: &Pod) -> Result<(), kube::Error> {
    let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
    let options = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    api.delete(pods::name(&pod.metadata), &options).await.map(|_| ())
}

/// True if the call may have been carried out although it failed.
fn is_ambiguous(error: &kube::Error) -> bool {
    !matches!(error, kube::Error::Api(status) if status.code < 500)
}

fn reference(controller: &ReplicationController) -> ObjectReference {
    ObjectReference {
        resource_version: controller.metadata.resource_version.clone(),
        ..controller.object_ref(&())
    }
}

/// The labels that a controller's pods are told by.
fn labels_of(controller: &ReplicationController) -> Option<&BTreeMap<String, String>> {
    controller.spec.as_ref()?.template.as_ref()?.metadata.as_ref()?.labels.as_ref()
}
