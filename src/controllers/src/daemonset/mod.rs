//! DaemonSets: one pod on every node that suits.
//!
//! ```text
//!  nodes, set, pods, revisions ──▶ adopt, release ──▶ plan ──▶ create or delete ──▶ status
//!                                                      ▲                 │
//!                                                      └── expectations: the cache must show this first
//! ```
//! A pod is made for its node by node affinity, and the scheduler binds it there when there is room.

mod backoff;
mod plan;
mod pod;
mod status;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use backoff::Failures;
use coracle_api::selector::LabelSelector as Selector;
use coracle_client::{Delta, Deltas, During, EventType, Informer, Key, ReconcileError, WorkQueue, clock};
use futures::future::BoxFuture;
use k8s_openapi::api::{
    apps::v1::{DaemonSet, DaemonSetStatus},
    core::v1::{Node, Pod},
};
use kube::Client;
use plan::{Observed, Plan, plan};

use crate::{
    claim::{claim, settle},
    context::{self, Context},
    expectations::{self, Expectations, Memory},
    namespaces,
    pace::Pace,
    podcontrol::{PodControl, reference},
    pods,
    revisions::{self, Ensured, Revisions},
    wake::Waker,
};

pub(crate) const NAME: &str = "daemonset";

/// Sets reconciled at the same time. Kubernetes' default.
const WORKERS: usize = 2;

pub(crate) fn run(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let sets: Informer<DaemonSet> = context.informers.get();
        let pods: Informer<Pod> = context.informers.get();
        let nodes: Informer<Node> = context.informers.get();
        pods::add_indexes(&pods);
        let controller = Arc::new(Controller {
            client: context.client.clone(),
            control: PodControl::new(&context, "daemonset-controller"),
            revisions: Revisions::new(&context, pod::HASH),
            sets: sets.clone(),
            pods: pods.clone(),
            nodes: nodes.clone(),
            memory: Memory::default(),
            failures: Failures::default(),
            pace: Pace::default(),
        });
        let queue = WorkQueue::new();
        let feed = async {
            sets.synced().await;
            pods.synced().await;
            nodes.synced().await;
            controller.revisions.synced().await;
            let waker = Waker { owners: &sets, queue: &queue, pace: &controller.pace, selects };
            tokio::join!(
                context::feed(sets.subscribe(), &queue),
                waker.feed(pods.subscribe(), |_| {}),
                feed_nodes(nodes.subscribe(), &waker),
                context::resync(&sets, &queue),
            );
        };
        let reconcile = context::shared(&controller, |controller, key| async move {
            Box::pin(controller.reconcile(key)).await
        });
        context.run(NAME, queue.clone(), WORKERS, feed, reconcile).await;
    })
}

/// Queues every set when a node changes. What nodes report all the time concerns nobody here.
async fn feed_nodes(mut deltas: Deltas<Node>, sets: &Waker<'_, DaemonSet, Pod>) {
    while let Some(delta) = deltas.next().await {
        if let Delta::Updated { old, new } = &delta
            && old.metadata.labels == new.metadata.labels
            && old.spec == new.spec
        {
            continue;
        }
        for set in sets.owners.list() {
            sets.pace.wake(sets.queue, Key::of(&set.metadata));
        }
    }
}

/// Whether a set would take a pod that is nobody's.
fn selects(set: &DaemonSet, pod: &Pod) -> bool {
    selector(set).is_some_and(|selector| selector.matches(&pod.metadata.labels.as_ref()))
}

fn selector(set: &DaemonSet) -> Option<Selector> {
    pods::selector(&set.spec.as_ref()?.selector)
}

struct Controller {
    client: Client,
    control: PodControl,
    revisions: Revisions,
    sets: Informer<DaemonSet>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    memory: Memory,
    failures: Failures,
    pace: Pace,
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Result<Option<Duration>, ReconcileError> {
        let Some(set) = self.sets.get(&key) else {
            self.memory.forget(&key);
            self.failures.forget(&key);
            self.pace.forget(&key);
            return Ok(None);
        };
        let _turn = self.pace.turn(&key);
        let Some(selector) = selector(&set) else {
            let message = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.control.recorder.event(&reference(&*set), EventType::Warning, "SelectingAll", message);
            return Ok(None);
        };
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let uid = pods::uid(&set.metadata);
        let mut expectations = self.memory.take(&key, uid);
        let outcome = self.reconcile_with(&key, &set, &selector, &mut expectations).await;
        self.memory.put(key, uid, expectations);
        outcome
    }

    async fn reconcile_with(
        &self,
        key: &Key,
        set: &DaemonSet,
        selector: &Selector,
        expectations: &mut Expectations,
    ) -> Result<Option<Duration>, ReconcileError> {
        let Some(spec) = &set.spec else { return Ok(None) };
        let known = self.revisions.claim(set, selector).await?;
        let collisions = set.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
        let revision = match self.revisions.ensure(set, &spec.template, &known, collisions).await? {
            Ensured::Revision(revision) => revision,
            Ensured::Collision => {
                let mut status = set.status.clone().unwrap_or_default();
                status.collision_count = Some(collisions.saturating_add(1));
                self.write_status(set, status).await?;
                return Ok(Some(expectations::LOOK_AGAIN));
            }
        };
        let seen = self.pods.seen();
        let candidates = expectations::candidates(&self.client, &self.pods, set, expectations).await?;
        let met = expectations.met(seen, &candidates);
        let claims =
            claim(&set.metadata, &candidates, |pod: &Pod| selector.matches(&pod.metadata.labels.as_ref()));
        settle(&self.client, set, &claims, None).await?;
        let generation = set.metadata.generation;
        let nodes = self.nodes.list();
        let observed = Observed {
            set,
            nodes: &nodes,
            pods: &claims.owned,
            hash: revisions::label(&revision, pod::HASH),
            caught_up: met,
            back_off: &|node| self.failures.left(key, generation, node),
        };
        let plan = plan(&observed, clock::now());
        for (pod, node) in &plan.ended {
            self.tell_ended(set, pod, node);
            if pods::phase(pod) == "Failed" {
                self.failures.add(key, generation, node);
            }
        }
        let failed = self.act(set, observed.hash, &plan, expectations).await;
        self.write_status(set, plan.status).await?;
        if let Some(failed) = failed {
            return Err(failed).during(|| format!("put pods on the nodes of {key}"));
        }
        let hashes: BTreeSet<&str> = claims
            .owned
            .iter()
            .filter_map(|pod| pod.metadata.labels.as_ref()?.get(pod::HASH).map(String::as_str))
            .collect();
        let live = known
            .iter()
            .filter(|known| {
                known.metadata.name == revision.metadata.name
                    || hashes.contains(revisions::label(known, pod::HASH))
            })
            .map(|known| pods::name(&known.metadata).to_owned())
            .collect();
        self.revisions.truncate(&known, &live, spec.revision_history_limit).await?;
        if !met || expectations.is_uncertain() {
            return Ok(Some(expectations::LOOK_AGAIN));
        }
        Ok(plan.again)
    }

    fn tell_ended(&self, set: &DaemonSet, pod: &Pod, node: &str) {
        let home = format!("{}/{}", pods::namespace(&pod.metadata), pods::name(&pod.metadata));
        let (type_, reason, message) = if pods::phase(pod) == "Failed" {
            let message = format!("Found failed daemon pod {home} on node {node}, will try to kill it");
            (EventType::Warning, "FailedDaemonPod", message)
        } else {
            let message = format!("Found succeeded daemon pod {home} on node {node}, will try to delete it");
            (EventType::Normal, "SucceededDaemonPod", message)
        };
        self.control.recorder.event(&reference(set), type_, reason, &message);
    }

    /// Creates and deletes; the first failure that someone should know of is the answer.
    async fn act(
        &self,
        set: &DaemonSet,
        hash: &str,
        plan: &Plan,
        expectations: &mut Expectations,
    ) -> Option<kube::Error> {
        let reference = &reference(set);
        let generic = pod::generic(set, hash);
        let body = |index: usize| {
            let pod = pod::on(&generic, &plan.create[index]);
            serde_json::to_vec(&pod).expect("a pod is serialisable")
        };
        let created = self.control.create_all(reference, plan.create.len(), body, expectations).await;
        let failure = created.failure.filter(|error| !namespaces::is_going(error));
        let deleted = self.control.delete_all(reference, &plan.delete, expectations).await;
        failure.or(deleted.failure)
    }

    /// Writes the status if it changed.
    async fn write_status(&self, set: &DaemonSet, status: DaemonSetStatus) -> Result<(), ReconcileError> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let changed = DaemonSet { status: Some(status), ..set.clone() };
        context::replace_status(&self.client, &changed).await
    }
}
