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

use coracle_client::{During, Informer, Key, ReconcileError, WorkQueue, api_message, clock};
use futures::{FutureExt, future::BoxFuture};
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
    wake::Waker,
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
            let pace = &controller.pace;
            let waker = Waker { owners: &sets, queue: &queue, pace, selects: selects::<S> };
            let own = context::feed(sets.subscribe(), &queue).boxed();
            let pods = waker.feed(pods.subscribe(), |_| {}).boxed();
            tokio::join!(own, pods, context::resync(&sets, &queue).boxed());
        };
        let reconcile =
            context::shared(&controller, |of, key| async move { of.reconcile(key).await }.boxed());
        context.run(S::NAME, queue.clone(), WORKERS, feed, reconcile).await;
    })
}

/// Whether a set would take a pod that is nobody's.
fn selects<S: Replicated>(set: &S, pod: &Pod) -> bool {
    set.selector().is_some_and(|selector| selector.matches(&pod.metadata.labels.as_ref()))
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
        let created = self.control.create_all(&reference, count, |_| body.clone(), expectations).await;
        created.failure.map(|source| {
            let expected = namespaces::is_going(&source);
            Failure { reason: "FailedCreate", source, expected }
        })
    }

    async fn delete(&self, set: &S, doomed: &[Arc<Pod>], expectations: &mut Expectations) -> Option<Failure> {
        let deleted = self.control.delete_all(&podcontrol::reference(set), doomed, expectations).await;
        deleted.failure.map(|source| Failure { reason: "FailedDelete", source, expected: false })
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
