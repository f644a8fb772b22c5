//! EndpointSlices: the addresses behind a service in portions of a hundred, so that a change of one pod
//! rewrites one portion.

mod hints;
mod plan;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use coracle_client::{
    Delta, Deltas, During, EventType, Informer, Key, ReconcileError, Recorder, WorkQueue, is_conflict,
    is_not_found,
};
use futures::{StreamExt, TryStreamExt, future::BoxFuture};
use hints::Capacity;
use k8s_openapi::api::{
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, PostParams, Preconditions},
};
use parking_lot::Mutex;
use plan::{Observed, Plan, US, plan};

use crate::{
    context::{self, Context},
    namespaces,
    nodes::{self, ZONE},
    pace::Pace,
    pods,
    services::{self, Waker},
};

pub(crate) const NAME: &str = "endpointslice";

/// Services reconciled at the same time. Kubernetes' default.
const WORKERS: usize = 5;

/// Slices of one service written at the same time.
const IN_FLIGHT: usize = 8;

/// How long the cache may take to show what was written before; it takes milliseconds.
const CATCH_UP: Duration = Duration::from_secs(5);

const BY_SERVICE: &str = "endpointslice/service";

pub(crate) fn run(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let services: Informer<Service> = context.informers.get();
        let pods: Informer<Pod> = context.informers.get();
        let slices: Informer<EndpointSlice> = context.informers.get();
        let nodes: Informer<Node> = context.informers.get();
        slices.add_index(BY_SERVICE, |slice| owner(slice).map(|key| key.to_string()).into_iter().collect());
        let controller = Arc::new(Controller {
            client: context.client.clone(),
            services: services.clone(),
            pods: pods.clone(),
            slices: slices.clone(),
            nodes: nodes.clone(),
            recorder: context.recorder("endpoint-slice-controller"),
            pace: Pace::default(),
            written: Mutex::default(),
            told: Mutex::default(),
        });
        let queue = WorkQueue::new();
        let feed = async {
            tokio::join!(services.synced(), pods.synced(), slices.synced(), nodes.synced());
            let waker = Waker { services: &services, queue: &queue, pace: &controller.pace };
            tokio::join!(
                context::feed(services.subscribe(), &queue),
                waker.feed_pods(pods.subscribe()),
                feed_slices(slices.subscribe(), &waker),
                feed_nodes(nodes.subscribe(), &nodes, &waker),
                context::resync(&services, &queue),
            );
        };
        let reconcile =
            context::shared(&controller, |controller, key| async move { controller.reconcile(key).await });
        context.run(NAME, queue.clone(), WORKERS, feed, reconcile).await;
    })
}

/// Queues the service of slices that were changed by others, or lost.
async fn feed_slices(mut deltas: Deltas<EndpointSlice>, waker: &Waker<'_>) {
    while let Some(delta) = deltas.next().await {
        if let Some(key) = owner(delta.object()) {
            waker.pace.wake(waker.queue, key);
        }
    }
}

/// Queues all services when nodes are in other zones than before, and those that go by it when the zones have more or
/// less CPU.
async fn feed_nodes(mut deltas: Deltas<Node>, nodes: &Informer<Node>, waker: &Waker<'_>) {
    let moves = |delta: &Delta<Node>| match delta {
        Delta::Added(node) | Delta::Deleted(node) => zone(node).is_some(),
        Delta::Updated { old, new } => zone(old) != zone(new),
    };
    let offers = |delta: &Delta<Node>| match delta {
        Delta::Added(_) | Delta::Deleted(_) => true,
        Delta::Updated { old, new } => hints::offer(old) != hints::offer(new),
    };
    let mut capacity = Capacity::default();
    while let Some(delta) = deltas.next().await {
        let (mut moved, mut offered) = (moves(&delta), offers(&delta));
        while let Some(delta) = deltas.try_next() {
            (moved, offered) = (moved | moves(&delta), offered | offers(&delta));
        }
        if offered {
            let before = std::mem::replace(&mut capacity, Capacity::of(&nodes.list()));
            offered = before != capacity;
        }
        if !moved && !offered {
            continue;
        }
        for service in waker.services.list().iter().filter(|service| moved || hints::is_auto(service)) {
            waker.pace.wake(waker.queue, Key::of(&service.metadata));
        }
    }
}

fn zone(node: &Node) -> Option<&str> {
    nodes::label(node, ZONE)
}

/// The service of a slice that this controller made.
fn owner(slice: &EndpointSlice) -> Option<Key> {
    services::slice_owner(slice, US)
}

struct Controller {
    client: Client,
    services: Informer<Service>,
    pods: Informer<Pod>,
    slices: Informer<EndpointSlice>,
    nodes: Informer<Node>,
    recorder: Recorder,
    pace: Pace,
    /// The newest revision written for each service: planning on an older cache would make slices twice.
    written: Mutex<HashMap<Key, u64>>,
    /// What was told of the hints of services that go by their zones' CPU.
    told: Mutex<HashMap<Key, Hinted>>,
}

/// By the kind of address: whether there are hints, or why not.
type Hinted = BTreeMap<&'static str, Result<(), String>>;

impl Controller {
    async fn reconcile(&self, key: Key) -> Result<Option<Duration>, ReconcileError> {
        let floor = self.written.lock().get(&key).copied().unwrap_or(0);
        if tokio::time::timeout(CATCH_UP, self.slices.reached(floor)).await.is_err() {
            return Err(ReconcileError::NotYet(format!("the slices of {key} are not in the cache yet")));
        }
        let service = self.services.get(&key);
        let turn = service.is_some().then(|| self.pace.turn(&key));
        let pods = self.pods.list_namespace(&key.namespace);
        let slices = self.slices.by_index(BY_SERVICE, &key.to_string());
        let zone =
            |node: &str| self.nodes.get(&Key::cluster(node)).and_then(|node| zone(&node).map(str::to_owned));
        let goes_by_it = service.as_ref().is_some_and(|service| hints::is_auto(service));
        let capacity = goes_by_it.then(|| Capacity::of(&self.nodes.list()));
        let mut plan = plan(&Observed {
            service: service.as_deref(),
            pods: &pods,
            slices: &slices,
            zone: &zone,
            capacity: capacity.as_ref(),
        });
        let hints = std::mem::take(&mut plan.hints);
        let outcome = self.apply(&key, plan).await;
        drop(turn);
        if let (Some(service), Ok(())) = (&service, &outcome) {
            self.tell(service, &key, hints);
        }
        if service.is_none() {
            self.pace.forget(&key);
            self.written.lock().remove(&key);
            self.told.lock().remove(&key);
        }
        match outcome {
            Err(error) if namespaces::is_going(&error) => Ok(None),
            // The cache is about to show what there is; that queues the key again.
            Err(error) if is_not_found(&error) => Ok(Some(LOOK_AGAIN)),
            other => other.map(|()| None).during(|| format!("write the slices of {key}")),
        }
    }

    /// An event for each turn of a service's hints.
    fn tell(&self, service: &Service, key: &Key, hints: Hinted) {
        let mut told = self.told.lock();
        let before = told.remove(key).unwrap_or_default();
        let tell = |outcome: Result<&str, &str>| {
            let (type_, reason, message) = match outcome {
                Ok(family) => {
                    let message = format!("Topology Aware Hints has been enabled, addressType: {family}");
                    (EventType::Normal, "TopologyAwareHintsEnabled", message)
                }
                Err(why) => (EventType::Warning, "TopologyAwareHintsDisabled", why.to_owned()),
            };
            self.recorder.event(&service.object_ref(&()), type_, reason, &message);
        };
        for (family, outcome) in hints.iter().filter(|(family, outcome)| before.get(*family) != Some(outcome))
        {
            tell(outcome.as_ref().map(|()| *family).map_err(String::as_str));
        }
        for (family, _) in before.iter().filter(|(family, had)| had.is_ok() && !hints.contains_key(*family)) {
            tell(Err(&format!("Topology Aware Hints has been disabled, addressType: {family}")));
        }
        if !hints.is_empty() {
            told.insert(key.clone(), hints);
        }
    }

    async fn apply(&self, key: &Key, plan: Plan) -> Result<(), kube::Error> {
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &key.namespace);
        let creations =
            plan.create.into_iter().map(|slice| Write { api: api.clone(), slice, verb: Verb::Create });
        let updates =
            plan.update.into_iter().map(|slice| Write { api: api.clone(), slice, verb: Verb::Update });
        let deletions =
            plan.delete.into_iter().map(|slice| Write { api: api.clone(), slice, verb: Verb::Delete });
        // Addresses are added before others are taken away, so that a service is never without.
        for phase in [creations.chain(updates).collect::<Vec<_>>(), deletions.collect()] {
            futures::stream::iter(phase.into_iter().map(Write::run))
                .buffer_unordered(IN_FLIGHT)
                .try_for_each(|revision| {
                    let mut written = self.written.lock();
                    let floor = written.entry(key.clone()).or_default();
                    *floor = revision.max(*floor);
                    futures::future::ready(Ok(()))
                })
                .await?;
        }
        Ok(())
    }
}

/// When to look again if the cache was behind.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

enum Verb {
    Create,
    Update,
    Delete,
}

struct Write {
    api: Api<EndpointSlice>,
    slice: EndpointSlice,
    verb: Verb,
}

impl Write {
    /// Gives the revision that the cache must include before the next plan.
    async fn run(self) -> Result<u64, kube::Error> {
        let name = pods::name(&self.slice.metadata);
        match self.verb {
            Verb::Create => {
                let answer = self.api.create(&PostParams::default(), &self.slice).await?;
                Ok(pods::revision(&answer.metadata))
            }
            Verb::Update => {
                let answer = self.api.replace(name, &PostParams::default(), &self.slice).await?;
                Ok(pods::revision(&answer.metadata))
            }
            Verb::Delete => {
                let preconditions =
                    Some(Preconditions { uid: self.slice.metadata.uid.clone(), resource_version: None });
                let options = DeleteParams { preconditions, ..DeleteParams::default() };
                match self.api.delete(name, &options).await {
                    Ok(_) => Ok(0),
                    Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(0),
                    Err(error) => Err(error),
                }
            }
        }
    }
}
