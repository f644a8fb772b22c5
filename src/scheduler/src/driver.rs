//! The task that owns the queue and the cluster: it hears of changes, decides, and has the writes done.

use std::sync::Arc;

use coracle_client::{Delta, Deltas, EventType, Informer, Informers, Key, Recorder, api_message};
use k8s_openapi::api::{
    core::v1::{Namespace, Node, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod, Service},
    policy::v1::PodDisruptionBudget,
    storage::v1::StorageClass,
};
use kube::{Client, Resource};
use rand::{SeedableRng, rngs::StdRng};
use tokio::{
    sync::watch,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::{
    bind::{self, Bound},
    claims::{self, ClaimsFailed},
    placement::{Candidate, Cluster, Happening, Nomination, Placement, Profile, Unplaced, place},
    preempted,
    queue::Queue,
    writes::Writes,
};

/// Bindings and reports under way at the same time. They share commits of the store.
const IN_FLIGHT: usize = 32;

/// Bindings that wait for volumes do not count among them, up to so many.
const WAITING: usize = 1024;

/// Changes taken in before deciding again, so that neither waits for the other for long.
const BATCH: usize = 512;

/// Happenings that parked pods are held against one by one; when there are more, all of them are woken.
const HAPPENINGS: usize = 4096;

/// How often it is looked whether a pod has been parked for too long.
const TICK: Duration = Duration::from_secs(30);

pub(crate) struct Driver {
    client: Client,
    profiles: Vec<(Profile, Recorder)>,
    sources: Sources,
    random: StdRng,
    cluster: Cluster,
    queue: Queue,
    /// What happened since parked pods were woken last.
    happenings: Vec<Happening>,
    /// Those that wait do so for volumes.
    writes: Writes<Written>,
    /// Told when a claim changes.
    claims_changed: watch::Sender<()>,
    stop: CancellationToken,
}

/// Where the driver hears from.
#[derive(Clone)]
struct Sources {
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    namespaces: Informer<Namespace>,
    services: Informer<Service>,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
    budgets: Informer<PodDisruptionBudget>,
}

struct Feeds {
    pods: Deltas<Pod>,
    nodes: Deltas<Node>,
    namespaces: Deltas<Namespace>,
    services: Deltas<Service>,
    claims: Deltas<PersistentVolumeClaim>,
    volumes: Deltas<PersistentVolume>,
    classes: Deltas<StorageClass>,
    budgets: Deltas<PodDisruptionBudget>,
}

/// Something that the driver heard of.
enum Change {
    Pod(Delta<Pod>),
    Node(Delta<Node>),
    Namespace(Delta<Namespace>),
    Service(Delta<Service>),
    Claim(Delta<PersistentVolumeClaim>),
    Volume(Delta<PersistentVolume>),
    Class(Delta<StorageClass>),
    Budget(Delta<PodDisruptionBudget>),
}

/// A write that has ended.
enum Written {
    Bound(Box<Binding>),
    Reported,
    /// Pods were told to make room for this one; false if one of them could not be told.
    Preempted(Arc<str>, Box<Nomination>, bool),
}

struct Binding {
    pod: Candidate,
    placement: Placement,
    outcome: Outcome,
}

enum Outcome {
    Bind(Bound),
    Claims(ClaimsFailed),
}

impl Driver {
    pub(crate) fn new(
        client: Client,
        informers: &Informers,
        profiles: Vec<(Profile, Recorder)>,
        seed: u64,
        stop: CancellationToken,
    ) -> Self {
        let sources = Sources {
            pods: informers.get(),
            nodes: informers.get(),
            namespaces: informers.get(),
            services: informers.get(),
            claims: informers.get(),
            volumes: informers.get(),
            classes: informers.get(),
            budgets: informers.get(),
        };
        Driver {
            client,
            profiles,
            sources,
            random: StdRng::seed_from_u64(seed),
            cluster: Cluster::new(),
            queue: Queue::default(),
            happenings: Vec::new(),
            writes: Writes::default(),
            claims_changed: watch::Sender::new(()),
            stop,
        }
    }

    pub(crate) async fn run(mut self) {
        let stop = self.stop.clone();
        let sources = self.sources.clone();
        // The others are waited for by the pods that need them.
        let synced = async {
            sources.pods.synced().await;
            sources.nodes.synced().await;
            sources.namespaces.synced().await;
            sources.services.synced().await;
        };
        if stop.run_until_cancelled(synced).await.is_none() {
            return;
        }
        let mut feeds = self.sources.subscribe();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.take_in(&mut feeds);
            let now = Instant::now();
            self.wake(now);
            self.place_some(now);
            let idle = self.is_busy() || !self.queue.has_active();
            let due = self.queue.due();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(written) = self.writes.next(), if !self.writes.is_empty() => match written {
                    Ok(written) => self.settle(written),
                    // A bug: its pod stays in hand until a restart. The others go on.
                    Err(failure) => error!(%failure, "a write of the scheduler panicked"),
                },
                change = feeds.next() => match change {
                    Some(change) => self.changed(&change),
                    None => break,
                },
                () = sleep_until(due), if due.is_some() => {}
                _ = tick.tick() => self.queue.wake_late(Instant::now()),
                () = std::future::ready(()), if !idle => {}
            }
        }
        // Bindings under way are finished, because nobody else would say how they ended.
        while let Some(written) = self.writes.next().await {
            if let Ok(written) = written {
                self.settle(written);
            }
        }
    }

    /// Takes in what has changed already.
    fn take_in(&mut self, feeds: &mut Feeds) {
        for _ in 0..BATCH {
            let Some(change) = feeds.try_next() else { break };
            self.changed(&change);
        }
    }

    fn changed(&mut self, change: &Change) {
        match change {
            Change::Node(delta) => self.node_changed(delta),
            Change::Namespace(delta) => self.namespace_changed(delta),
            Change::Service(delta) => self.service_changed(delta),
            Change::Class(delta) => self.class_changed(delta),
            Change::Volume(delta) => self.volume_changed(delta),
            Change::Claim(delta) => self.claim_changed(delta),
            Change::Budget(delta) => self.budget_changed(delta),
            Change::Pod(delta) => self.pod_changed(delta),
        }
    }

    fn node_changed(&mut self, delta: &Delta<Node>) {
        let name = delta.object().metadata.name.as_deref().unwrap_or_default();
        match delta {
            Delta::Added(node) | Delta::Updated { new: node, .. } => {
                let change = self.cluster.set_node(node);
                if change.matters() {
                    self.happened(Happening::Node { name: name.to_owned(), change });
                }
            }
            Delta::Deleted(_) => {
                self.cluster.remove_node(name);
                self.happened(Happening::NodeRemoved);
            }
        }
    }

    fn namespace_changed(&mut self, delta: &Delta<Namespace>) {
        let name = delta.object().metadata.name.as_deref().unwrap_or_default();
        if self.cluster.set_namespace(name, present(delta).map(|namespace| &**namespace)) {
            self.happened(Happening::Namespace);
        }
    }

    fn service_changed(&mut self, delta: &Delta<Service>) {
        let key = Key::of(&delta.object().metadata);
        self.cluster.set_service(&key, present(delta).map(|service| &**service));
    }

    fn class_changed(&mut self, delta: &Delta<StorageClass>) {
        let name = delta.object().metadata.name.as_deref().unwrap_or_default();
        self.cluster.set_storage_class(name, present(delta).cloned());
        self.happened(Happening::Volume);
    }

    fn volume_changed(&mut self, delta: &Delta<PersistentVolume>) {
        let name = delta.object().metadata.name.as_deref().unwrap_or_default();
        self.cluster.set_volume(name, present(delta).cloned());
        self.happened(Happening::Volume);
    }

    fn claim_changed(&mut self, delta: &Delta<PersistentVolumeClaim>) {
        let key = Key::of(&delta.object().metadata);
        self.cluster.set_claim(key.clone(), present(delta).cloned());
        self.claims_changed.send_replace(());
        self.happened(Happening::Claim(key));
    }

    fn budget_changed(&mut self, delta: &Delta<PodDisruptionBudget>) {
        let key = Key::of(&delta.object().metadata);
        self.cluster.set_budget(&key, present(delta).map(|budget| &**budget));
    }

    fn pod_changed(&mut self, delta: &Delta<Pod>) {
        let pod = delta.object();
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let ended = matches!(phase, Some("Succeeded" | "Failed"));
        if matches!(delta, Delta::Deleted(_)) || ended {
            self.queue.remove(uid);
            self.cluster.denominate(uid);
            self.remove(uid);
            return;
        }
        let Some(spec) = &pod.spec else { return };
        if let Some(node) = spec.node_name.as_deref().filter(|node| !node.is_empty()) {
            self.queue.remove(uid);
            self.placed(pod, node);
            return;
        }
        let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
        let ours = self.profile_of(pod).is_some();
        if !ours || gated || pod.metadata.deletion_timestamp.is_some() {
            self.queue.remove(uid);
            self.cluster.denominate(uid);
        } else if !self.cluster.is_assumed(uid) {
            self.queue_pod(delta);
        }
    }

    /// A pod is on a node, as the API says.
    fn placed(&mut self, pod: &Arc<Pod>, node: &str) {
        let new = self.cluster.candidate(pod.clone());
        let uid = new.uid().clone();
        let there = self.cluster.place_of(&uid) == Some(node);
        let old = self.cluster.placed(&uid).filter(|_| there && !self.cluster.is_assumed(&uid)).cloned();
        self.cluster.set_pod(new.clone(), node);
        match old {
            None => self.happened(Happening::PodAdded(new)),
            Some(old) if old.class() != new.class() || old.is_terminating() != new.is_terminating() => {
                self.happened(Happening::PodChanged { old, new });
            }
            Some(_) => {}
        }
    }

    fn queue_pod(&mut self, delta: &Delta<Pod>) {
        let pod = self.cluster.candidate(delta.object().clone());
        let uid = pod.uid().clone();
        let promised = |pod: &Pod| pod.status.as_ref().and_then(|status| status.nominated_node_name.clone());
        let (changed, before) = match delta {
            Delta::Updated { old, new } => {
                let changed = old.spec != new.spec || old.metadata.labels != new.metadata.labels;
                (changed, promised(old))
            }
            _ => (false, None),
        };
        if promised(pod.pod()) != before {
            match pod.nominated().map(str::to_owned) {
                Some(node) => self.cluster.nominate(pod.clone(), &node),
                None => self.cluster.denominate(&uid),
            }
        } else if changed && let Some(node) = self.cluster.nominated(&uid).map(str::to_owned) {
            self.cluster.nominate(pod.clone(), &node);
        }
        if changed && self.queue.contains(&uid) {
            self.queue.changed(pod, Instant::now());
        } else {
            self.queue.add(pod);
        }
    }

    /// Something happened that may help parked pods.
    fn happened(&mut self, happening: Happening) {
        if !self.queue.is_nobody_parked() && self.happenings.len() <= HAPPENINGS {
            self.happenings.push(happening);
        }
    }

    fn wake(&mut self, now: Instant) {
        if self.happenings.is_empty() {
            return;
        }
        let happenings = std::mem::take(&mut self.happenings);
        let many = happenings.len() > HAPPENINGS;
        let cluster = &self.cluster;
        let helps = |happening: &Happening, pod: &Candidate, failed| cluster.may_help(happening, pod, failed);
        self.queue.wake(|pod, failed| many || happenings.iter().any(|it| helps(it, pod, failed)), now);
    }

    fn profile_of(&self, pod: &Pod) -> Option<usize> {
        let name = pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref());
        let name = name.unwrap_or("default-scheduler");
        self.profiles.iter().position(|(profile, _)| profile.name == name)
    }

    fn recorder_of(&self, pod: &Candidate) -> &Recorder {
        let profile = self.profile_of(pod.pod()).unwrap_or(0);
        &self.profiles[profile].1
    }

    fn is_busy(&self) -> bool {
        self.writes.count(WAITING) >= IN_FLIGHT
    }

    /// Places pods until the writes under way are enough.
    fn place_some(&mut self, now: Instant) {
        while !self.is_busy() {
            let Some(pod) = self.queue.pop(now) else { break };
            if pod.has_claims() && !self.sources.know_volumes() {
                self.queue.retry(pod.uid(), now);
                continue;
            }
            let profile = self.profile_of(pod.pod()).unwrap_or(0);
            match place(&mut self.cluster, &self.profiles[profile].0, &pod, &mut self.random) {
                Ok(placement) => self.bind(pod, placement),
                Err(mut unplaced) => {
                    // Nobody is told to go while it is not known whom budgets protect.
                    let early = unplaced.nomination.is_some() && !self.sources.budgets.is_synced();
                    if early {
                        unplaced.nomination = None;
                    }
                    self.park(&pod, unplaced);
                    if early {
                        self.queue.retry(pod.uid(), now);
                    }
                }
            }
        }
    }

    fn bind(&mut self, pod: Candidate, placement: Placement) {
        self.cluster.assume(pod.clone(), &placement);
        let client = self.client.clone();
        if placement.volumes.is_empty() {
            self.writes.spawn(async move {
                let outcome = Outcome::Bind(bind::bind(client, &pod, &placement.node).await);
                Written::Bound(Box::new(Binding { pod, placement, outcome }))
            });
            return;
        }
        let waiting = claims::Waiting {
            client: client.clone(),
            pods: self.sources.pods.clone(),
            claims: self.sources.claims.clone(),
            volumes: self.sources.volumes.clone(),
            changed: self.claims_changed.subscribe(),
            stop: self.stop.clone(),
        };
        self.writes.spawn_waiting(async move {
            let outcome = match waiting.until_bound(&pod, &placement.volumes).await {
                Ok(()) => Outcome::Bind(bind::bind(client, &pod, &placement.node).await),
                Err(failed) => Outcome::Claims(failed),
            };
            Written::Bound(Box::new(Binding { pod, placement, outcome }))
        });
    }

    fn park(&mut self, pod: &Candidate, unplaced: Unplaced) {
        let Unplaced { message, plugins, nomination, clear } = unplaced;
        debug!(pod = %pod.key(), message, "no node takes a pod");
        self.recorder_of(pod).event(&reference(pod), EventType::Warning, "FailedScheduling", &message);
        self.queue.park(pod.uid(), plugins);
        let promise = match &nomination {
            Some(nomination) => bind::Promise::Node(nomination.node.clone()),
            None if clear && (pod.nominated().is_some() || self.cluster.nominated(pod.uid()).is_some()) => {
                bind::Promise::Nothing
            }
            None => bind::Promise::AsBefore,
        };
        match &promise {
            bind::Promise::Node(node) => self.cluster.nominate(pod.clone(), node),
            bind::Promise::Nothing => self.cluster.denominate(pod.uid()),
            bind::Promise::AsBefore => {}
        }
        let (client, object) = (self.client.clone(), pod.pod().clone());
        self.writes.spawn(async move {
            bind::report(client, object, "Unschedulable", message, promise).await;
            Written::Reported
        });
        if let Some(nomination) = nomination {
            self.preempt(pod, nomination);
        }
    }

    /// Has pods told to make room.
    fn preempt(&mut self, pod: &Candidate, nomination: Box<Nomination>) {
        for victim in &nomination.victims {
            self.cluster.set_leaving(victim.uid(), true);
        }
        for other in &nomination.demoted {
            self.cluster.denominate(other.uid());
            if self.queue.is_parked(other.uid()) {
                self.queue.retry(other.uid(), Instant::now());
            }
        }
        let (client, recorder, pod) = (self.client.clone(), self.recorder_of(pod).clone(), pod.clone());
        self.writes.spawn(async move {
            let told = preempted::tell(&client, &recorder, &pod, &nomination).await;
            Written::Preempted(pod.uid().clone(), nomination, told)
        });
    }

    /// Not all could be told to make room: nothing may happen that the pod could wait for.
    fn not_told(&mut self, uid: &str, nomination: &Nomination) {
        for victim in &nomination.victims {
            self.cluster.set_leaving(victim.uid(), false);
        }
        if self.queue.is_parked(uid) {
            self.queue.retry(uid, Instant::now());
        }
    }

    fn settle(&mut self, written: Written) {
        let binding = match written {
            Written::Bound(binding) => *binding,
            Written::Reported => return,
            Written::Preempted(uid, nomination, told) => {
                if !told {
                    self.not_told(&uid, &nomination);
                }
                return;
            }
        };
        let Binding { pod, placement, outcome } = binding;
        if !placement.volumes.is_empty() {
            self.cluster.volumes_settled(&placement.volumes);
        }
        let key = pod.key();
        match outcome {
            Outcome::Bind(Bound::Done) => {
                self.queue.remove(pod.uid());
                let message = format!("Successfully assigned {key} to {}", placement.node);
                self.recorder_of(&pod).event(&reference(&pod), EventType::Normal, "Scheduled", &message);
            }
            Outcome::Bind(Bound::Gone) | Outcome::Claims(ClaimsFailed::Gone) => {
                self.queue.remove(pod.uid());
                self.forget(&pod);
            }
            Outcome::Claims(ClaimsFailed::Stopped) => {}
            Outcome::Bind(Bound::Failed(error)) => {
                self.failed(&pod, &format!("binding rejected: {}", api_message(&error)));
            }
            Outcome::Claims(ClaimsFailed::Because(why)) => {
                self.failed(
                    &pod,
                    &format!("running PreBind plugin \"VolumeBinding\": binding volumes: {why}"),
                );
            }
        }
    }

    /// The pod was placed but could not be bound.
    fn failed(&mut self, pod: &Candidate, message: &str) {
        warn!(pod = %pod.key(), message, "a pod could not be bound");
        self.recorder_of(pod).event(&reference(pod), EventType::Warning, "FailedScheduling", message);
        self.forget(pod);
        self.queue.retry(pod.uid(), Instant::now());
    }

    /// The pod does not count where it was placed, unless the API has said meanwhile that it is there.
    fn forget(&mut self, pod: &Candidate) {
        if self.cluster.is_assumed(pod.uid()) {
            self.remove(pod.uid());
        }
    }

    fn remove(&mut self, uid: &str) {
        let pod = self.cluster.placed(uid).cloned();
        self.cluster.remove_pod(uid);
        if let Some(pod) = pod {
            self.happened(Happening::PodRemoved(pod));
        }
    }
}

impl Sources {
    fn subscribe(&self) -> Feeds {
        Feeds {
            pods: self.pods.subscribe(),
            nodes: self.nodes.subscribe(),
            namespaces: self.namespaces.subscribe(),
            services: self.services.subscribe(),
            claims: self.claims.subscribe(),
            volumes: self.volumes.subscribe(),
            classes: self.classes.subscribe(),
            budgets: self.budgets.subscribe(),
        }
    }

    fn know_volumes(&self) -> bool {
        self.claims.is_synced() && self.volumes.is_synced() && self.classes.is_synced()
    }
}

/// Pods come last, so that they find what they need.
impl Feeds {
    async fn next(&mut self) -> Option<Change> {
        tokio::select! {
            biased;
            delta = self.nodes.next() => delta.map(Change::Node),
            delta = self.namespaces.next() => delta.map(Change::Namespace),
            delta = self.services.next() => delta.map(Change::Service),
            delta = self.classes.next() => delta.map(Change::Class),
            delta = self.volumes.next() => delta.map(Change::Volume),
            delta = self.claims.next() => delta.map(Change::Claim),
            delta = self.budgets.next() => delta.map(Change::Budget),
            delta = self.pods.next() => delta.map(Change::Pod),
        }
    }

    fn try_next(&mut self) -> Option<Change> {
        let node = self.nodes.try_next().map(Change::Node);
        node.or_else(|| self.namespaces.try_next().map(Change::Namespace))
            .or_else(|| self.services.try_next().map(Change::Service))
            .or_else(|| self.classes.try_next().map(Change::Class))
            .or_else(|| self.volumes.try_next().map(Change::Volume))
            .or_else(|| self.claims.try_next().map(Change::Claim))
            .or_else(|| self.budgets.try_next().map(Change::Budget))
            .or_else(|| self.pods.try_next().map(Change::Pod))
    }
}

/// The object of a change, unless it is gone.
fn present<K>(delta: &Delta<K>) -> Option<&Arc<K>> {
    match delta {
        Delta::Added(object) | Delta::Updated { new: object, .. } => Some(object),
        Delta::Deleted(_) => None,
    }
}

async fn sleep_until(due: Option<Instant>) {
    if let Some(due) = due {
        tokio::time::sleep_until(due).await;
    }
}

fn reference(pod: &Candidate) -> ObjectReference {
    let pod = pod.pod();
    ObjectReference { resource_version: pod.metadata.resource_version.clone(), ..pod.object_ref(&()) }
}
