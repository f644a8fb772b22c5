//! ReplicaSets and ReplicationControllers: keep as many pods as were asked for.
//!
//! ```text
//!  pods, sets ──▶ plan ──▶ adopt, release ──▶ create or delete ──▶ status
//!                  ▲                               │
//!                  └── expectations: the cache must show this first
//! ```
//! One engine for both kinds (`kinds`); each has a loop, a queue and a source of events of its own. Reads
//! caches, so it remembers what it wrote and does not count pods again before the cache shows it.

mod kinds;
mod plan;
pub(crate) mod rank;
mod status;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use coracle_client::{
    Delta, Deltas, During, Informer, Key, ReconcileError, WorkQueue, api_message, clock, is_ambiguous,
    is_conflict, is_not_found,
};
use futures::{FutureExt, StreamExt, future::BoxFuture};
use k8s_openapi::api::core::v1::Pod;
use kinds::Replicated;
use kube::Client;
use plan::{Observed, Plan, plan};

use crate::{
    claim,
    context::{self, Context},
    expectations::{self, Expectations, Memory},
    namespaces,
    pace::Pace,
    podcontrol::{self, PodControl},
    pods,
    slow_start::{IN_FLIGHT, slow_start},
};

/// The names of the two loops.
pub(crate) const SETS: &str = "replicaset";
pub(crate) const CONTROLLERS: &str = "replicationcontroller";

/// Sets reconciled at the same time. Kubernetes' default.
const WORKERS: usize = 5;

pub(crate) fn run<S: Replicated>(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let sets: Informer<S> = context.informers.get();
        let pods: Informer<Pod> = context.informers.get();
        pods::add_indexes(&pods);
        pods::add_indexes(&sets);
        let controller = Arc::new(Controller {
            client: context.client.clone(),
            control: PodControl::new(&context, S::COMPONENT),
            sets: sets.clone(),
            pods: pods.clone(),
            memory: Memory::default(),
            pace: Pace::default(),
        });
        let queue = WorkQueue::new();
        let feed = async {
            sets.synced().await;
            pods.synced().await;
            let waker = Waker { sets: &sets, queue: &queue, pace: &controller.pace };
            let own = context::feed(sets.subscribe(), &queue).boxed();
            let pods = waker.feed(pods.subscribe()).boxed();
            tokio::join!(own, pods, context::resync(&sets, &queue).boxed());
        };
        let reconcile = {
            let controller = controller.clone();
            move |key| {
                let controller = controller.clone();
                async move { controller.reconcile(key).await }.boxed()
            }
        };
        context.run(S::NAME, queue.clone(), WORKERS, feed, reconcile).await;
    })
}

/// Finds out whom a change of a pod concerns.
struct Waker<'a, S> {
    sets: &'a Informer<S>,
    queue: &'a WorkQueue<Key>,
    pace: &'a Pace,
}

impl<S: Replicated> Waker<'_, S> {
    async fn feed(&self, mut deltas: Deltas<Pod>) {
        while let Some(delta) = deltas.next().await {
            match &delta {
                Delta::Updated { old, new } if pods::matters(old, new) => {
                    self.wake(old, false);
                    self.wake(new, true);
                }
                Delta::Updated { .. } => {}
                Delta::Added(pod) => self.wake(pod, true),
                Delta::Deleted(pod) => self.wake(pod, false),
            }
        }
    }

    /// Queues the set of a pod, or those that could adopt it.
    fn wake(&self, pod: &Pod, adopt: bool) {
        let namespace = pods::namespace(&pod.metadata);
        match pods::controller_of(&pod.metadata) {
            Some(owner) if owner.kind == S::kind(&()) => {
                self.pace.wake(self.queue, Key::new(namespace, owner.name.clone()));
            }
            None if adopt => {
                for set in self.sets.list_namespace(namespace) {
                    if set.selector().is_some_and(|selector| selector.matches(&pod.metadata.labels.as_ref()))
                    {
                        self.pace.wake(self.queue, Key::of(set.meta()));
                    }
                }
            }
            Some(_) | None => {}
        }
    }
}

struct Controller<S> {
    client: Client,
    control: PodControl,
    sets: Informer<S>,
    pods: Informer<Pod>,
    memory: Memory,
    pace: Pace,
}

/// What kept the number of pods from being reached.
struct Failure {
    reason: &'static str,
    source: kube::Error,
    /// It will be so for as long as the namespace is being deleted, and nobody needs to be told.
    expected: bool,
}

impl<S: Replicated> Controller<S> {
    async fn reconcile(&self, key: Key) -> Result<Option<Duration>, ReconcileError> {
        let Some(set) = self.sets.get(&key) else {
            self.memory.forget(&key);
            self.pace.forget(&key);
            return Ok(None);
        };
        let _turn = self.pace.turn(&key);
        let uid = pods::uid(set.meta());
        let mut expectations = self.memory.take(&key, uid);
        let outcome = self.reconcile_with(&key, &set, &mut expectations).await;
        self.memory.put(key, uid, expectations);
        outcome
    }

    async fn reconcile_with(
        &self,
        key: &Key,
        set: &S,
        expectations: &mut Expectations,
    ) -> Result<Option<Duration>, ReconcileError> {
        let seen = self.pods.seen();
        let candidates = expectations::candidates(&self.client, &self.pods, set, expectations).await?;
        let met = expectations.met(seen, &candidates);
        let related = || self.related(set);
        let observed = Observed { set, pods: &candidates, related: &related, caught_up: met };
        let plan = plan(&observed, clock::now());
        claim::settle(&self.client, set, &plan.claims, None).await?;
        let failure = if plan.create > 0 {
            self.create(set, plan.create, expectations).await
        } else {
            self.delete(set, &plan.delete, expectations).await
        };
        let reason = failure.as_ref().map(|failure| (failure.reason, api_message(&failure.source)));
        // Whoever reads the status relies on it: it counts what the set did for this generation.
        if met {
            self.write_status(set, &plan, reason.as_ref()).await?;
        }
        match failure {
            Some(failure) if !failure.expected => {
                Err(failure.source).during(|| format!("reach the number of pods of {key}"))
            }
            _ if !met || expectations.is_uncertain() => Ok(Some(expectations::LOOK_AGAIN)),
            _ => Ok(plan.again),
        }
    }

    /// The pods of all sets of the set's own controller.
    fn related(&self, set: &S) -> Vec<Arc<Pod>> {
        let of = |meta| self.pods.by_index(pods::BY_CONTROLLER, pods::uid(meta));
        match pods::controller_of(set.meta()) {
            Some(owner) => {
                let sets = self.sets.by_index(pods::BY_CONTROLLER, &owner.uid);
                sets.iter().flat_map(|set| of(set.meta())).collect()
            }
            None => of(set.meta()),
        }
    }

    async fn create(&self, set: &S, count: usize, expectations: &mut Expectations) -> Option<Failure> {
        let pod = podcontrol::from_template(set, set.template());
        let body = serde_json::to_vec(&pod).expect("a pod is serialisable");
        let reference = podcontrol::reference(set);
        let mut failure = None;
        let call = |_| self.control.create(&reference, &body);
        slow_start(count, call, |_, answer| match answer {
            Ok(pod) => expectations.created(pods::revision(&pod.metadata)),
            Err(error) => {
                if is_ambiguous(&error) {
                    expectations.uncertain();
                }
                let expected = namespaces::is_going(&error);
                failure.get_or_insert(Failure { reason: "FailedCreate", source: error, expected });
            }
        })
        .await;
        failure
    }

    async fn delete(&self, set: &S, doomed: &[Arc<Pod>], expectations: &mut Expectations) -> Option<Failure> {
        let reference = &podcontrol::reference(set);
        let mut failed = None;
        let mut answers = futures::stream::iter(doomed.to_vec())
            .map(|pod| async move {
                let answer = self.control.delete(reference, &pod).await;
                (pod, answer)
            })
            .buffer_unordered(IN_FLIGHT);
        while let Some((pod, answer)) = answers.next().await {
            match answer {
                Ok(()) => expectations.deleted(pods::uid(&pod.metadata)),
                Err(error) if is_not_found(&error) => expectations.deleted(pods::uid(&pod.metadata)),
                // It has another uid by now, or so it seems: look at the API itself.
                Err(error) if is_conflict(&error) => expectations.uncertain(),
                Err(error) => {
                    if is_ambiguous(&error) {
                        expectations.uncertain();
                    }
                    failed.get_or_insert(Failure { reason: "FailedDelete", source: error, expected: false });
                }
            }
        }
        failed
    }

    /// Writes the status if it changed.
    async fn write_status(
        &self,
        set: &S,
        plan: &Plan,
        failure: Option<&(&'static str, String)>,
    ) -> Result<(), ReconcileError> {
        let mut changed = set.clone();
        if !changed.set_status(status::status(set, plan, failure, clock::now())) {
            return Ok(());
        }
        context::replace_status(&self.client, &changed).await
    }
}
