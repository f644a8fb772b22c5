//! The task that owns the queue and the cluster: it hears of changes, decides, and has the writes done.

use std::sync::Arc;

use coracle_client::{Delta, Deltas, EventType, Informer, Informers, Recorder, api_message};
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod};
use kube::{Client, Resource};
use rand::{SeedableRng, rngs::StdRng};
use tokio::{
    task::JoinSet,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::{
    bind::{self, Bound},
    placement::{Candidate, Cluster, Unplaced, place},
    queue::{Queue, Wake},
};

/// Bindings and reports under way at the same time. They share commits of the store.
const IN_FLIGHT: usize = 32;

/// Changes taken in before deciding again, so that neither waits for the other for long.
const BATCH: usize = 512;

/// How often it is looked whether a pod has been parked for too long.
const TICK: Duration = Duration::from_secs(30);

pub(crate) struct Driver {
    client: Client,
    name: String,
    recorder: Recorder,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    random: StdRng,
    cluster: Cluster,
    queue: Queue,
    /// What happened since parked pods were woken last.
    wake: Wake,
    writes: JoinSet<Written>,
}

/// A write that has ended.
enum Written {
    Bound(Box<Binding>),
    Reported,
}

struct Binding {
    pod: Candidate,
    node: Arc<str>,
    outcome: Bound,
}

impl Driver {
    pub(crate) fn new(
        client: Client,
        informers: &Informers,
        name: String,
        recorder: Recorder,
        seed: u64,
    ) -> Self {
        Driver {
            client,
            name,
            recorder,
            pods: informers.get(),
            nodes: informers.get(),
            random: StdRng::seed_from_u64(seed),
            cluster: Cluster::new(),
            queue: Queue::default(),
            wake: Wake::default(),
            writes: JoinSet::new(),
        }
    }

    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let informers = (self.pods.clone(), self.nodes.clone());
        let synced = async {
            informers.0.synced().await;
            informers.1.synced().await;
        };
        if stop.run_until_cancelled(synced).await.is_none() {
            return;
        }
        let (mut pods, mut nodes) = (self.pods.subscribe(), self.nodes.subscribe());
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.take_in(&mut pods, &mut nodes);
            let now = Instant::now();
            if self.wake != Wake::default() {
                self.queue.wake(std::mem::take(&mut self.wake), now);
            }
            self.place_some(now);
            let idle = self.writes.len() >= IN_FLIGHT || !self.queue.has_active();
            let due = self.queue.due();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(written) = self.writes.join_next(), if !self.writes.is_empty() => match written {
                    Ok(written) => self.settle(written),
                    // A bug: its pod stays in hand until a restart. The others go on.
                    Err(failure) => error!(%failure, "a write of the scheduler panicked"),
                },
                delta = nodes.next() => match delta {
                    Some(delta) => self.node_changed(&delta),
                    None => break,
                },
                delta = pods.next() => match delta {
                    Some(delta) => self.pod_changed(&delta),
                    None => break,
                },
                () = sleep_until(due), if due.is_some() => {}
                _ = tick.tick() => self.queue.wake(Wake::default(), Instant::now()),
                () = std::future::ready(()), if !idle => {}
            }
        }
        // Bindings under way are finished, because nobody else would say how they ended.
        while let Some(written) = self.writes.join_next().await {
            if let Ok(written) = written {
                self.settle(written);
            }
        }
    }

    /// Takes in what has changed already: nodes first, so that pods find them.
    fn take_in(&mut self, pods: &mut Deltas<Pod>, nodes: &mut Deltas<Node>) {
        while let Some(delta) = nodes.try_next() {
            self.node_changed(&delta);
        }
        for _ in 0..BATCH {
            let Some(delta) = pods.try_next() else { break };
            self.pod_changed(&delta);
        }
    }

    fn node_changed(&mut self, delta: &Delta<Node>) {
        match delta {
            Delta::Added(node) => {
                self.cluster.set_node(node);
                self.wake.nodes = true;
            }
            Delta::Updated { old, new } => {
                self.cluster.set_node(new);
                self.wake.nodes |= matters(old, new);
            }
            Delta::Deleted(node) => {
                self.cluster.remove_node(node.metadata.name.as_deref().unwrap_or_default());
            }
        }
    }

    fn pod_changed(&mut self, delta: &Delta<Pod>) {
        let pod = delta.object();
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let ended = matches!(phase, Some("Succeeded" | "Failed"));
        if matches!(delta, Delta::Deleted(_)) || ended {
            self.queue.remove(uid);
            self.wake.room |= self.cluster.remove_pod(uid);
            return;
        }
        let Some(spec) = &pod.spec else { return };
        if let Some(node) = spec.node_name.as_deref().filter(|node| !node.is_empty()) {
            self.queue.remove(uid);
            let known = self.cluster.place_of(uid).is_some_and(|place| **place == *node);
            if !known || self.cluster.is_assumed(uid) {
                self.cluster.set_pod(Candidate::new(pod.clone()), node);
            }
            return;
        }
        let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
        let ours = spec.scheduler_name.as_deref().unwrap_or("default-scheduler") == self.name;
        if !ours || gated || pod.metadata.deletion_timestamp.is_some() {
            self.queue.remove(uid);
        } else if !self.cluster.is_assumed(uid) {
            self.queue_pod(delta, uid);
        }
    }

    fn queue_pod(&mut self, delta: &Delta<Pod>, uid: &str) {
        let pod = Candidate::new(delta.object().clone());
        let changed = match delta {
            Delta::Updated { old, new } => old.spec != new.spec || old.metadata.labels != new.metadata.labels,
            _ => false,
        };
        if changed && self.queue.contains(uid) {
            self.queue.changed(pod, Instant::now());
        } else {
            self.queue.add(pod);
        }
    }

    /// Places pods until the writes under way are enough.
    fn place_some(&mut self, now: Instant) {
        while self.writes.len() < IN_FLIGHT {
            let Some(pod) = self.queue.pop(now) else { break };
            match place(&self.cluster, &pod, &mut self.random) {
                Ok(node) => self.bind(pod, node),
                Err(unplaced) => self.park(&pod, &unplaced),
            }
        }
    }

    fn bind(&mut self, pod: Candidate, node: Arc<str>) {
        self.cluster.assume(pod.clone(), &node);
        let client = self.client.clone();
        self.writes.spawn(async move {
            let outcome = bind::bind(client, &pod, &node).await;
            Written::Bound(Box::new(Binding { pod, node, outcome }))
        });
    }

    fn park(&mut self, pod: &Candidate, unplaced: &Unplaced) {
        let message = unplaced.to_string();
        debug!(pod = %pod.key(), message, "no node takes a pod");
        self.recorder.event(&reference(pod), EventType::Warning, "FailedScheduling", &message);
        self.queue.park(pod.uid(), unplaced.is_crowded());
        let (client, object) = (self.client.clone(), pod.pod().clone());
        self.writes.spawn(async move {
            bind::report(client, object, "Unschedulable", message).await;
            Written::Reported
        });
    }

    fn settle(&mut self, written: Written) {
        let Written::Bound(binding) = written else { return };
        let Binding { pod, node, outcome } = *binding;
        let key = pod.key();
        match outcome {
            Bound::Done => {
                self.queue.remove(pod.uid());
                let message = format!("Successfully assigned {key} to {node}");
                self.recorder.event(&reference(&pod), EventType::Normal, "Scheduled", &message);
            }
            Bound::Gone => {
                self.queue.remove(pod.uid());
                self.forget(&pod);
            }
            Bound::Failed(error) => {
                let message = format!("binding rejected: {}", api_message(&error));
                warn!(pod = %key, node = %node, message, "a pod could not be bound");
                self.recorder.event(&reference(&pod), EventType::Warning, "FailedScheduling", &message);
                self.forget(&pod);
                if self.queue.get(pod.uid()).is_some() {
                    self.queue.retry(pod.uid(), Instant::now());
                }
            }
        }
    }

    /// The pod does not count where it was placed, unless the API has said meanwhile that it is there.
    fn forget(&mut self, pod: &Candidate) {
        if self.cluster.is_assumed(pod.uid()) {
            self.wake.room |= self.cluster.remove_pod(pod.uid());
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    if let Some(due) = due {
        tokio::time::sleep_until(due).await;
    }
}

/// True if a pod that did not fit may fit now. Heartbeats do not matter.
fn matters(old: &Node, new: &Node) -> bool {
    let spec = |node: &Node| {
        let spec = node.spec.as_ref();
        (spec.and_then(|spec| spec.unschedulable), spec.and_then(|spec| spec.taints.clone()))
    };
    let status = |node: &Node| {
        let status = node.status.as_ref();
        let conditions = status.and_then(|status| status.conditions.as_ref());
        let ready = conditions.into_iter().flatten().find(|condition| condition.type_ == "Ready");
        (
            ready.map(|ready| ready.status.clone()),
            status.and_then(|status| status.allocatable.clone()),
            status.and_then(|status| status.capacity.clone()),
        )
    };
    old.metadata.labels != new.metadata.labels || spec(old) != spec(new) || status(old) != status(new)
}

fn reference(pod: &Candidate) -> ObjectReference {
    let pod = pod.pod();
    ObjectReference { resource_version: pod.metadata.resource_version.clone(), ..pod.object_ref(&()) }
}
