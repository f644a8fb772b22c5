//! StatefulSets: pods that keep their names and their volumes.
//!
//! ```text
//!  set, pods, revisions ──▶ adopt, release ──▶ plan ──▶ claims, pods created ──▶ status
//!                                               │          pods deleted
//!                                               └── ordered: one step at a time
//! ```
//! A pod's name is its identity, and the API gives each name once: whatever the caches say, there are never
//! two pods of one identity. Deletions name the uid.

mod identity;
mod names;
mod plan;
mod retention;
mod status;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use coracle_api::selector::LabelSelector as Selector;
use coracle_client::{
    During, EventType, Informer, Key, ReconcileError, Recorder, WorkQueue, api_message, clock,
    is_already_exists, is_conflict, is_not_found,
};
use futures::{FutureExt, StreamExt, future::BoxFuture};
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus},
    core::v1::{PersistentVolumeClaim, Pod},
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use names::Names;
use plan::{Observed, Step, Version, plan};

use crate::{
    claim::{claim, settle},
    context::{self, Context},
    expectations::{Expectations, LOOK_AGAIN, Memory},
    namespaces,
    pace::Pace,
    podcontrol::reference,
    pods,
    revisions::{self, Ensured, Revisions},
    slow_start::IN_FLIGHT,
    wake::Waker,
};

pub(crate) const NAME: &str = "statefulset";

/// Sets reconciled at the same time. Kubernetes' default.
const WORKERS: usize = 5;

/// The label of a controller revision with its hash.
const HASH: &str = "controller.kubernetes.io/hash";

pub(crate) fn run(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let sets: Informer<StatefulSet> = context.informers.get();
        let pods: Informer<Pod> = context.informers.get();
        let claims: Informer<PersistentVolumeClaim> = context.informers.get();
        pods::add_indexes(&pods);
        let controller = Arc::new(Controller {
            client: context.client.clone(),
            recorder: context.recorder("statefulset-controller"),
            revisions: Revisions::new(&context, HASH),
            sets: sets.clone(),
            pods: pods.clone(),
            claims: claims.clone(),
            memory: Memory::default(),
            pace: Pace::default(),
            names: Names::default(),
        });
        let queue = WorkQueue::new();
        let feed = async {
            sets.synced().await;
            pods.synced().await;
            claims.synced().await;
            controller.revisions.synced().await;
            let waker = Waker { owners: &sets, queue: &queue, pace: &controller.pace, selects };
            let gone = |pod: &Pod| controller.names.free(Key::of(&pod.metadata));
            tokio::join!(
                context::feed(sets.subscribe(), &queue),
                waker.feed(pods.subscribe(), gone),
                context::resync(&sets, &queue),
            );
        };
        let reconcile = context::shared(&controller, |controller, key| async move {
            Box::pin(controller.reconcile(key)).await
        });
        context.run(NAME, queue.clone(), WORKERS, feed, reconcile).await;
    })
}

fn selector(set: &StatefulSet) -> Option<Selector> {
    pods::selector(&set.spec.as_ref()?.selector)
}

/// A pod of the set has its labels and is named like one.
fn selects(set: &StatefulSet, pod: &Pod) -> bool {
    identity::ordinal(set, pod).is_some()
        && selector(set).is_some_and(|selector| selector.matches(&pod.metadata.labels.as_ref()))
}

struct Controller {
    client: Client,
    recorder: Recorder,
    revisions: Revisions,
    sets: Informer<StatefulSet>,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
    memory: Memory,
    pace: Pace,
    names: Names,
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Result<Option<Duration>, ReconcileError> {
        let Some(set) = self.sets.get(&key) else {
            self.memory.forget(&key);
            self.pace.forget(&key);
            return Ok(None);
        };
        let _turn = self.pace.turn(&key);
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let uid = pods::uid(&set.metadata);
        let mut expectations = self.memory.take(&key, uid);
        let outcome = self.reconcile_with(&set, &mut expectations).await;
        self.memory.put(key, uid, expectations);
        outcome
    }

    async fn reconcile_with(
        &self,
        set: &StatefulSet,
        expectations: &mut Expectations,
    ) -> Result<Option<Duration>, ReconcileError> {
        let (Some(selector), Some(spec)) = (selector(set), &set.spec) else { return Ok(None) };
        let seen = self.pods.seen();
        let candidates = pods::candidates(&self.pods, &set.metadata);
        if !expectations.met(seen, &candidates) {
            return Ok(Some(LOOK_AGAIN));
        }
        let claims = claim(&set.metadata, &candidates, |pod| selects(set, pod));
        settle(&self.client, set, &claims, None).await?;
        let known = self.revisions.claim(set, &selector).await?;
        let old = set.status.clone().unwrap_or_default();
        let collisions = old.collision_count.unwrap_or(0);
        let update = match self.revisions.ensure(set, &spec.template, &known, collisions).await? {
            Ensured::Revision(revision) => Version { name: name(&revision), template: spec.template.clone() },
            Ensured::Collision => {
                let status = StatefulSetStatus { collision_count: Some(collisions.saturating_add(1)), ..old };
                self.write_status(set, status).await?;
                return Ok(Some(LOOK_AGAIN));
            }
        };
        let current = known
            .iter()
            .find(|revision| Some(name(revision)) == old.current_revision)
            .and_then(|revision| {
                Some(Version { name: name(revision), template: revisions::template(revision)? })
            })
            .unwrap_or_else(|| update.clone());
        let observed = Observed { set, pods: &claims.owned, current: &current, update: &update };
        let mut plan = plan(&observed, clock::now());
        let rests = self.let_names_rest(&mut plan);
        let outcome = self.act(set, &plan, expectations).await;
        self.write_status(set, plan.status).await?;
        outcome?;
        let mut live: BTreeSet<String> =
            claims.owned.iter().map(|pod| identity::revision(pod).to_owned()).collect();
        live.extend([current.name.clone(), update.name.clone()]);
        self.revisions.truncate(&known, &live, spec.revision_history_limit).await?;
        Ok(plan.again.into_iter().chain(rests).min())
    }

    /// Pods whose names have just come free are made later: says when.
    fn let_names_rest(&self, plan: &mut plan::Plan) -> Option<Duration> {
        let mut soonest: Option<Duration> = None;
        plan.steps.retain(|step| {
            let Step::Create(pod) = step else { return true };
            let rest = self.names.rest(&Key::of(&pod.metadata));
            soonest = soonest.into_iter().chain(rest).min();
            rest.is_none()
        });
        soonest
    }

    async fn act(
        &self,
        set: &StatefulSet,
        plan: &plan::Plan,
        expectations: &mut Expectations,
    ) -> Result<(), ReconcileError> {
        for pod in &plan.kept {
            self.settle_claims(set, pod, false).await?;
        }
        for pod in &plan.surplus {
            self.settle_claims(set, pod, true).await?;
        }
        // What cannot be done for one pod does not keep the others waiting; in order there is but one.
        let calls: Vec<_> = plan.steps.iter().map(|step| self.apply(set, step).boxed()).collect();
        let answers: Vec<_> = futures::stream::iter(calls).buffer_unordered(IN_FLIGHT).collect().await;
        let mut outcome = Ok(());
        for answer in answers {
            match answer {
                Ok(deleted) => deleted.into_iter().for_each(|uid| expectations.deleted(uid)),
                Err(failure) => outcome = outcome.and(Err(failure)),
            }
        }
        outcome
    }

    /// Takes a step; says the uid of the pod that it deleted.
    async fn apply<'a>(&self, set: &StatefulSet, step: &'a Step) -> Result<Option<&'a str>, ReconcileError> {
        match step {
            Step::Create(pod) => self.create(set, pod).await.map(|()| None),
            Step::Replace(pod) => {
                let home = format!("{}/{}", pods::namespace(&set.metadata), pods::name(&set.metadata));
                let name = pods::name(&pod.metadata);
                let (type_, reason, how) = if pods::phase(pod) == "Failed" {
                    (EventType::Warning, "RecreatingFailedPod", "failed")
                } else {
                    (EventType::Normal, "RecreatingTerminatedPod", "terminated")
                };
                let message = format!("StatefulSet {home} is recreating {how} Pod {name}");
                self.recorder.event(&reference(set), type_, reason, &message);
                self.delete(set, pod).await.map(|()| Some(pods::uid(&pod.metadata)))
            }
            Step::Delete(pod) => self.delete(set, pod).await.map(|()| Some(pods::uid(&pod.metadata))),
            Step::Repair(pod) => {
                let name = pods::name(&pod.metadata);
                let api: Api<Pod> = Api::namespaced(self.client.clone(), pods::namespace(&pod.metadata));
                let answer = api.replace(name, &PostParams::default(), pod).await;
                self.tell_pod(set, "update", "Update", name, answer.as_ref().err());
                answer.map(|_| None).during(|| format!("update pod {name}"))
            }
        }
    }

    async fn create(&self, set: &StatefulSet, pod: &Pod) -> Result<(), ReconcileError> {
        let name = pods::name(&pod.metadata);
        self.make_claims(set, pod).await?;
        let api: Api<Pod> = Api::namespaced(self.client.clone(), pods::namespace(&pod.metadata));
        match api.create(&PostParams::default(), pod).await {
            // The cache will show it, or it is somebody else's, whose going wakes nobody.
            Err(error) if is_already_exists(&error) => {
                Err(ReconcileError::NotYet(format!("pod {name} is there already")))
            }
            Err(error) if namespaces::is_going(&error) => Ok(()),
            answer => {
                self.tell_pod(set, "create", "Create", name, answer.as_ref().err());
                answer.map(|_| ()).during(|| format!("create pod {name}"))
            }
        }
    }

    async fn delete(&self, set: &StatefulSet, pod: &Pod) -> Result<(), ReconcileError> {
        let name = pods::name(&pod.metadata);
        let api: Api<Pod> = Api::namespaced(self.client.clone(), pods::namespace(&pod.metadata));
        let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let options = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match api.delete(name, &options).await {
            Err(error) if is_not_found(&error) => Ok(()),
            answer => {
                let refused = answer.as_ref().err().filter(|error| !is_conflict(error));
                if answer.is_ok() || refused.is_some() {
                    self.tell_pod(set, "delete", "Delete", name, refused);
                }
                answer.map(|_| ()).during(|| format!("delete pod {name}"))
            }
        }
    }

    /// Tells what became of a pod. `verb` is for the message, `word` for the reason.
    fn tell_pod(&self, set: &StatefulSet, verb: &str, word: &str, pod: &str, failed: Option<&kube::Error>) {
        let of = pods::name(&set.metadata);
        let (type_, reason, message) = match failed {
            None => (
                EventType::Normal,
                format!("Successful{word}"),
                format!("{verb} Pod {pod} in StatefulSet {of} successful"),
            ),
            Some(error) => (
                EventType::Warning,
                format!("Failed{word}"),
                format!("{verb} Pod {pod} in StatefulSet {of} failed error: {}", api_message(error)),
            ),
        };
        self.recorder.event(&reference(set), type_, &reason, &message);
    }

    /// Creates the claims that a pod needs. What is there is used, unless it is about to go.
    async fn make_claims(&self, set: &StatefulSet, pod: &Pod) -> Result<(), ReconcileError> {
        let Some(ordinal) = identity::ordinal(set, pod) else { return Ok(()) };
        let pod_name = pods::name(&pod.metadata);
        for mut claim in identity::claims(set, ordinal).into_values() {
            let key = Key::of(&claim.metadata);
            if let Some(there) = self.claims.get(&key) {
                if retention::is_stale(&there, pod) {
                    return Err(ReconcileError::NotYet(format!("claim {key} is being deleted")));
                }
                continue;
            }
            claim.metadata.owner_references = retention::owners(set, &claim, None, false);
            let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
            let answer = api.create(&PostParams::default(), &claim).await;
            let of = pods::name(&set.metadata);
            let (type_, reason, message) = match &answer {
                Err(error) if is_already_exists(error) => continue,
                Ok(_) => (
                    EventType::Normal,
                    "SuccessfulCreate",
                    format!("create Claim {} Pod {pod_name} in StatefulSet {of} success", key.name),
                ),
                Err(error) => (
                    EventType::Warning,
                    "FailedCreate",
                    format!(
                        "create Claim {} for Pod {pod_name} in StatefulSet {of} failed error: {}",
                        key.name,
                        api_message(error)
                    ),
                ),
            };
            if !answer.as_ref().is_err_and(namespaces::is_going) {
                self.recorder.event(&reference(set), type_, reason, &message);
            }
            answer.during(|| format!("create claim {key}"))?;
        }
        Ok(())
    }

    /// A pod that waits gets the claims it lacks, and every claim belongs to whom it should go with.
    async fn settle_claims(&self, set: &StatefulSet, pod: &Pod, surplus: bool) -> Result<(), ReconcileError> {
        let Some(ordinal) = identity::ordinal(set, pod) else { return Ok(()) };
        let going = pod.metadata.deletion_timestamp.is_some();
        if !surplus && !going && pods::phase(pod) == "Pending" {
            self.make_claims(set, pod).await?;
        }
        for claim in identity::claims(set, ordinal).into_values() {
            let key = Key::of(&claim.metadata);
            let Some(there) = self.claims.get(&key) else { continue };
            let Some(owners) = retention::owners(set, &there, Some(pod), surplus) else { continue };
            let patch = serde_json::json!({"metadata": {
                "uid": there.metadata.uid,
                "resourceVersion": there.metadata.resource_version,
                "ownerReferences": owners,
            }});
            let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
            match api.patch_metadata(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Err(error) if is_not_found(&error) => {}
                other => drop(other.during(|| format!("change the owners of claim {key}"))?),
            }
        }
        Ok(())
    }

    /// Writes the status if it changed.
    async fn write_status(&self, set: &StatefulSet, status: StatefulSetStatus) -> Result<(), ReconcileError> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let changed = StatefulSet { status: Some(status), ..set.clone() };
        context::replace_status(&self.client, &changed).await
    }
}

fn name(revision: &ControllerRevision) -> String {
    pods::name(&revision.metadata).to_owned()
}
