//! Pod disruption budgets: says how many of the selected pods may be evicted.
//!
//! ```text
//!  budgets, pods, scales of their owners ──▶ plan ──▶ status  ◀── evictions take from it
//! ```
//! Whoever evicts a pod writes it into `status.disruptedPods` in one conditional write; a status that was
//! computed without that write is refused as a conflict and computed anew. A second queue takes the
//! condition `DisruptionTarget` back from pods that were not disrupted after all.

mod owners;
mod plan;
mod stale;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use coracle_api::selector::LabelSelector;
use coracle_client::{Delta, Deltas, EventType, Informer, Key, ReconcileError, Recorder, WorkQueue, clock};
use futures::future::BoxFuture;
use k8s_openapi::api::{
    core::v1::Pod,
    policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus},
};
use kube::Client;
use owners::Owners;
use plan::{Expected, Observed};

use crate::{
    context::{self, Context},
    pace::Pace,
    podcontrol, pods,
};

pub(crate) const NAME: &str = "disruption";

/// Budgets computed at the same time.
const WORKERS: usize = 5;

/// When a budget that could not be computed is tried again, if nothing changes.
const RETRY: Duration = Duration::from_secs(30);

pub(crate) fn run(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let budgets: Informer<PodDisruptionBudget> = context.informers.get();
        let pods: Informer<Pod> = context.informers.get();
        let controller = Arc::new(Controller {
            client: context.client.clone(),
            recorder: context.recorder("controllermanager"),
            budgets: budgets.clone(),
            pods: pods.clone(),
            owners: Owners::new(context.client.clone(), &context.informers),
            pace: Pace::default(),
        });
        let (queue, stale) = (WorkQueue::new(), WorkQueue::new());
        let feed = async {
            budgets.synced().await;
            pods.synced().await;
            controller.owners.synced().await;
            let waker = Waker { budgets: &budgets, queue: &queue, stale: &stale, pace: &controller.pace };
            tokio::join!(
                context::feed(budgets.subscribe(), &queue),
                waker.feed_pods(pods.subscribe()),
                context::resync(&budgets, &queue)
            );
        };
        let reconcile =
            context::shared(&controller, |controller, key| async move { controller.reconcile(key).await });
        let take_back = {
            let (client, pods) = (context.client.clone(), pods.clone());
            move |key| stale::reconcile(client.clone(), pods.clone(), key)
        };
        tokio::join!(
            context.run(NAME, queue.clone(), WORKERS, feed, reconcile),
            context.run(NAME, stale.clone(), WORKERS, std::future::ready(()), take_back),
        );
    })
}

/// Finds out which budgets a change concerns.
struct Waker<'a> {
    budgets: &'a Informer<PodDisruptionBudget>,
    queue: &'a WorkQueue<Key>,
    stale: &'a WorkQueue<Key>,
    pace: &'a Pace,
}

impl Waker<'_> {
    async fn feed_pods(&self, mut deltas: Deltas<Pod>) {
        while let Some(delta) = deltas.next().await {
            match &delta {
                Delta::Updated { old, new } if pods::matters(old, new) => self.wake(&[old, new]),
                Delta::Updated { .. } => {}
                Delta::Added(pod) | Delta::Deleted(pod) => self.wake(&[pod]),
            }
            let pod = delta.object();
            if !matches!(delta, Delta::Deleted(_)) && stale::left(pod, clock::now()).is_some() {
                self.stale.add(Key::of(&pod.metadata));
            }
        }
    }

    /// Queues the budgets that select the pod as it was or as it is.
    fn wake(&self, states: &[&Pod]) {
        let Some(pod) = states.first() else { return };
        for budget in self.budgets.list_namespace(pods::namespace(&pod.metadata)) {
            let Some(selector) = selector(&budget) else { continue };
            if states.iter().any(|pod| selector.matches(&pod.metadata.labels.as_ref())) {
                self.pace.wake(self.queue, Key::of(&budget.metadata));
            }
        }
    }
}

/// What selects a budget's pods: an empty selector all of its namespace, none at all none.
fn selector(budget: &PodDisruptionBudget) -> Option<LabelSelector> {
    LabelSelector::from_api(budget.spec.as_ref()?.selector.as_ref()?).ok()
}

struct Controller {
    client: Client,
    recorder: Recorder,
    budgets: Informer<PodDisruptionBudget>,
    pods: Informer<Pod>,
    owners: Owners,
    pace: Pace,
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Result<Option<Duration>, ReconcileError> {
        let Some(budget) = self.budgets.get(&key) else {
            self.pace.forget(&key);
            return Ok(None);
        };
        let _turn = self.pace.turn(&key);
        let Some(spec) = &budget.spec else { return Ok(None) };
        let selector = selector(&budget);
        let selected: Vec<Arc<Pod>> = self
            .pods
            .list_namespace(&key.namespace)
            .into_iter()
            .filter(|pod| {
                selector.as_ref().is_some_and(|selector| selector.matches(&pod.metadata.labels.as_ref()))
            })
            .collect();
        let expected = if plan::needs_scale(spec) {
            self.owners.expected(&selected).await
        } else {
            Ok(Expected::default())
        };
        let now = clock::now();
        let planned = expected.and_then(|expected| {
            plan::plan(&Observed { budget: &budget, spec, pods: &selected, expected }, now)
        });
        let plan = match planned {
            Ok(plan) => plan,
            Err(why) => {
                let message = format!("Failed to calculate the number of expected pods: {why}");
                self.tell(&budget, EventType::Warning, "CalculateExpectedPodCountFailed", &message);
                self.write_status(&budget, plan::failed(&budget, &why, now)).await?;
                return Ok(Some(RETRY));
            }
        };
        for (type_, reason, message) in &plan.events {
            self.tell(&budget, *type_, reason, message);
        }
        for pod in &plan.spared {
            let message = format!("Pod was expected by PDB {key} to be deleted but it wasn't");
            self.recorder.event(&podcontrol::reference(&**pod), EventType::Warning, "NotDeleted", &message);
        }
        self.write_status(&budget, plan.status).await?;
        Ok(plan.again)
    }

    async fn write_status(
        &self,
        budget: &PodDisruptionBudget,
        status: PodDisruptionBudgetStatus,
    ) -> Result<(), ReconcileError> {
        if budget.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let changed = PodDisruptionBudget { status: Some(status), ..budget.clone() };
        context::replace_status(&self.client, &changed).await
    }

    fn tell(&self, budget: &PodDisruptionBudget, type_: EventType, reason: &str, message: &str) {
        self.recorder.event(&podcontrol::reference(budget), type_, reason, message);
    }
}
