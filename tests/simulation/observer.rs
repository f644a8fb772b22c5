//! What must hold at every change. The observer reads the store's history in order, so it sees every state
//! that the cluster ever was in; the nodes tell it what really runs.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use coracle_client::Key;
use coracle_store::{Embedded, Event, EventKind, Store, Watcher};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tokio::time::Instant;

/// What a controller may still believe: how long an old wish of the user counts beside the newest.
const MEMORY: Duration = Duration::from_mins(3);

/// A pod's program on a node.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) uid: String,
    pub(crate) pod: Key,
    pub(crate) node: String,
}

/// What really runs, whatever the API says. A clone is another handle.
#[derive(Clone, Default)]
pub(crate) struct Truth {
    world: Arc<Mutex<World>>,
}

#[derive(Default)]
struct World {
    /// By uid of the pod.
    running: BTreeMap<String, Process>,
    /// How many pods of an owner succeeded, by the owner's uid.
    succeeded: BTreeMap<String, usize>,
    broken: Vec<String>,
}

impl Truth {
    pub(crate) fn started(&self, process: Process) {
        let mut world = self.world.lock().unwrap();
        for other in world.running.values() {
            if other.uid == process.uid || other.pod == process.pod {
                let text = format!("one identity runs twice: {other:?} and {process:?}");
                world.broken.push(text);
                break;
            }
        }
        world.running.insert(process.uid.clone(), process);
    }

    pub(crate) fn ended(&self, uid: &str) {
        self.world.lock().unwrap().running.remove(uid);
    }

    pub(crate) fn succeeded(&self, pod: &Pod) {
        if let Some(owner) = pod.metadata.owner_references.as_ref().and_then(|owners| owners.first()) {
            *self.world.lock().unwrap().succeeded.entry(owner.uid.clone()).or_default() += 1;
        }
    }

    /// All that ran on the node is gone.
    pub(crate) fn power_cut(&self, node: &str) {
        self.world.lock().unwrap().running.retain(|_, process| process.node != node);
    }

    pub(crate) fn running(&self) -> Vec<Process> {
        self.world.lock().unwrap().running.values().cloned().collect()
    }

    fn succeeded_of(&self, owner: &str) -> usize {
        self.world.lock().unwrap().succeeded.get(owner).copied().unwrap_or_default()
    }

    fn take_broken(&self) -> Vec<String> {
        std::mem::take(&mut self.world.lock().unwrap().broken)
    }
}

/// What is promised in this run besides what always is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Promises {
    /// No node dies or is cut off: then rollouts keep enough pods available, and budgets hold.
    pub(crate) availability: bool,
    /// So many pods labelled `app=guarded` stay ready once they were.
    pub(crate) guarded: usize,
}

/// A number that the user wished for, and since when.
#[derive(Default)]
struct Wishes(VecDeque<(Instant, i64)>);

impl Wishes {
    fn add(&mut self, value: i64) {
        let now = Instant::now();
        if self.0.back().map(|wish| wish.1) != Some(value) {
            self.0.push_back((now, value));
        }
        // The wish that held at the beginning of the memory counts as well.
        while self.0.len() > 1 && self.0[1].0 + MEMORY < now {
            self.0.pop_front();
        }
    }

    fn most(&self) -> i64 {
        self.0.iter().map(|wish| wish.1).max().unwrap_or(0)
    }

    fn least(&self) -> i64 {
        self.0.iter().map(|wish| wish.1).min().unwrap_or(0)
    }
}

#[derive(Default)]
struct Rollout {
    /// Pods that may exist, and pods that must be available.
    at_most: Wishes,
    at_least: Wishes,
    /// Pods that its ReplicaSets ask for together: they are carried out even if the wish behind it has changed
    /// while nobody was there to scale them.
    asked: Wishes,
    /// It was as available as it must be at least once since the last wish.
    reached: bool,
}

pub(crate) struct Observer {
    watchers: Vec<Watcher>,
    promises: Promises,
    truth: Truth,
    pods: BTreeMap<String, Value>,
    /// ReplicaSet uid → Deployment uid, and the pods that it asks for.
    replica_sets: BTreeMap<String, (String, i64)>,
    deployments: BTreeMap<String, Rollout>,
    /// Parallelism by the job's uid.
    jobs: BTreeMap<String, Wishes>,
    /// The uids of the jobs of schedules.
    ticks: BTreeMap<String, String>,
    volumes: BTreeMap<String, String>,
    claims: BTreeMap<String, String>,
    guarded: bool,
    /// Owners that were deleted so that their dependents stay, and those that have to go last.
    orphaning: BTreeSet<String>,
    foreground: BTreeSet<String>,
    secrets: BTreeMap<String, Secret>,
}

struct Secret {
    /// The owner that it had at first.
    owner: String,
    /// It has it still.
    owned: bool,
}

impl Observer {
    pub(crate) fn new(store: &Embedded, promises: Promises, truth: Truth) -> Observer {
        let from = store.revision();
        let kinds = [
            "deployments.apps",
            "replicasets.apps",
            "jobs.batch",
            "persistentvolumes",
            "persistentvolumeclaims",
            "pods",
            "configmaps",
            "secrets",
        ];
        Observer {
            watchers: kinds.map(|kind| store.watch(kind, from).unwrap()).into(),
            promises,
            truth,
            pods: BTreeMap::new(),
            replica_sets: BTreeMap::new(),
            deployments: BTreeMap::new(),
            jobs: BTreeMap::new(),
            ticks: BTreeMap::new(),
            volumes: BTreeMap::new(),
            claims: BTreeMap::new(),
            guarded: false,
            orphaning: BTreeSet::new(),
            foreground: BTreeSet::new(),
            secrets: BTreeMap::new(),
        }
    }

    /// Takes in all changes so far; panics with what does not hold. Must be called more often than history is
    /// compacted.
    pub(crate) fn look(&mut self) {
        let mut changes: Vec<Arc<Event>> = Vec::new();
        for watcher in &mut self.watchers {
            while let Some(event) = watcher.try_next().unwrap() {
                changes.push(event);
            }
        }
        changes.sort_by_key(|event| event.revision());
        for change in changes {
            self.take_in(&change);
        }
        let broken = self.truth.take_broken();
        assert!(broken.is_empty(), "{broken:#?}");
    }

    fn take_in(&mut self, event: &Event) {
        let key = event.entry.key();
        let object: Value = serde_json::from_slice(event.entry.value()).unwrap();
        let uid = text(&object, "/metadata/uid").to_owned();
        let deleted = event.kind == EventKind::Deleted;
        match key.split('/').next().unwrap() {
            "pods" => self.pod(key, &object, deleted),
            "replicasets.apps" => self.replica_set(uid, &object, deleted),
            "deployments.apps" => self.deployment(uid, &object),
            "jobs.batch" => {
                if key.rsplit('/').next().is_some_and(|name| name.starts_with("tick-")) {
                    let first = self.ticks.entry(key.to_owned()).or_insert_with(|| uid.clone());
                    assert_eq!(*first, uid, "{key} runs twice for one time of its schedule");
                }
                self.job(uid, &object);
            }
            "configmaps" => self.owner(&uid, &object, deleted),
            "secrets" => self.secret(key, &object, deleted),
            "persistentvolumes" if !deleted => {
                bound_once(&mut self.volumes, key, text(&object, "/spec/claimRef/uid"));
            }
            "persistentvolumeclaims" if !deleted => {
                bound_once(&mut self.claims, &uid, text(&object, "/spec/volumeName"));
            }
            _ => {}
        }
    }

    fn deployment(&mut self, uid: String, object: &Value) {
        let number = |path: &str| object.pointer(path).and_then(Value::as_i64).unwrap_or(0);
        let replicas = number("/spec/replicas");
        let rollout = self.deployments.entry(uid).or_default();
        let at_least = replicas - number("/spec/strategy/rollingUpdate/maxUnavailable");
        rollout.at_most.add(replicas + number("/spec/strategy/rollingUpdate/maxSurge"));
        if rollout.at_least.0.back().is_some_and(|wish| wish.1 < at_least) {
            rollout.reached = false;
        }
        rollout.at_least.add(at_least);
    }

    /// ReplicaSets together never ask for more than the deployment allows.
    fn replica_set(&mut self, uid: String, object: &Value, deleted: bool) {
        let deployment = text(object, "/metadata/ownerReferences/0/uid").to_owned();
        let asks = object.pointer("/spec/replicas").and_then(Value::as_i64).filter(|_| !deleted).unwrap_or(0);
        let before = self.replica_sets.insert(uid, (deployment.clone(), asks)).map_or(0, |before| before.1);
        let sum = self.replica_sets.values().filter(|one| one.0 == deployment).map(|one| one.1).sum();
        let Some(rollout) = self.deployments.get_mut(&deployment) else { return };
        rollout.asked.add(sum);
        let most = rollout.at_most.most();
        assert!(
            asks <= before || sum <= most,
            "the replica sets of a deployment ask for {sum} pods; {most} may be"
        );
    }

    fn job(&mut self, uid: String, object: &Value) {
        let number = |path: &str| object.pointer(path).and_then(Value::as_i64).unwrap_or(0);
        let (completions, succeeded) = (number("/spec/completions"), number("/status/succeeded"));
        let truth = self.truth.succeeded_of(&uid);
        assert!(succeeded <= completions, "a job counts {succeeded} of {completions}");
        assert!(
            usize::try_from(succeeded).unwrap() <= truth,
            "a job counts {succeeded} pods, of which {truth} succeeded"
        );
        self.jobs.entry(uid).or_default().add(number("/spec/parallelism"));
    }

    /// An owner that is deleted in the foreground goes after those that block it.
    fn owner(&mut self, uid: &str, object: &Value, deleted: bool) {
        if deleted && self.foreground.contains(uid) {
            let left = self.secrets.iter().find(|(_, secret)| secret.owned && secret.owner == uid);
            let left = left.map(|(key, _)| key);
            assert!(left.is_none(), "{} went before {left:?}", text(object, "/metadata/name"));
        }
        if object.pointer("/metadata/deletionTimestamp").is_some() {
            let finalizers = object.pointer("/metadata/finalizers").and_then(Value::as_array);
            for finalizer in finalizers.into_iter().flatten() {
                match finalizer.as_str() {
                    Some("orphan") => drop(self.orphaning.insert(uid.to_owned())),
                    Some("foregroundDeletion") => drop(self.foreground.insert(uid.to_owned())),
                    _ => {}
                }
            }
        }
    }

    /// Nobody but the garbage collector deletes these, and those that are orphaned nobody at all.
    fn secret(&mut self, key: &str, object: &Value, deleted: bool) {
        let owner = text(object, "/metadata/ownerReferences/0/uid");
        if let Some(secret) = self.secrets.get_mut(key) {
            let going = deleted || object.pointer("/metadata/deletionTimestamp").is_some();
            assert!(!going || !self.orphaning.contains(&secret.owner), "{key} is an orphan, and deleted");
            secret.owned = !deleted && secret.owner == owner;
        } else {
            self.secrets.insert(key.to_owned(), Secret { owner: owner.to_owned(), owned: true });
        }
    }

    fn pod(&mut self, key: &str, object: &Value, deleted: bool) {
        let before =
            if deleted { self.pods.remove(key) } else { self.pods.insert(key.to_owned(), object.clone()) };
        let same = before.as_ref().filter(|old| text(old, "/metadata/uid") == text(object, "/metadata/uid"));
        if let Some(old) = same {
            let (was, is) = (text(old, "/spec/nodeName"), text(object, "/spec/nodeName"));
            assert!(was.is_empty() || was == is, "{key} moved from {was} to {is}");
        }
        let owner = text(object, "/metadata/ownerReferences/0/uid").to_owned();
        if before.is_none() && !deleted {
            self.born(key, &owner);
        }
        let fell = same.is_some_and(is_available) && (deleted || !is_available(object));
        let ended_by_someone = deleted || object.pointer("/metadata/deletionTimestamp").is_some();
        if self.promises.availability && fell && ended_by_someone {
            self.fell(key, &owner);
        }
        self.guard();
        if let Some((deployment, _)) = self.replica_sets.get(&owner).cloned() {
            let available = self.of_deployment(&deployment).filter(|pod| is_available(pod)).count();
            if let Some(rollout) = self.deployments.get_mut(&deployment) {
                rollout.reached |= i64::try_from(available).unwrap() >= rollout.at_least.most();
            }
        }
    }

    fn born(&self, key: &str, owner: &str) {
        if let Some((deployment, _)) = self.replica_sets.get(owner) {
            let count = self.of_deployment(deployment).filter(|pod| is_active(pod)).count();
            let rollout = self.deployments.get(deployment);
            let most = rollout.map_or(i64::MAX, |rollout| rollout.at_most.most().max(rollout.asked.most()));
            assert!(i64::try_from(count).unwrap() <= most, "{key} is one of {count} pods; {most} may be");
        }
        if let Some(parallelism) = self.jobs.get(owner).map(Wishes::most) {
            let pods = self.pods.values().filter(|pod| text(pod, "/metadata/ownerReferences/0/uid") == owner);
            let active: Vec<&Value> = pods.filter(|pod| is_active(pod)).collect();
            let count = active.len();
            let most = i64::try_from(count).unwrap() <= parallelism;
            assert!(most, "{key} is one of {count} active pods of a job: {}", json!(active));
        }
    }

    /// A pod that was available is being ended.
    fn fell(&self, key: &str, owner: &str) {
        let Some((deployment, _)) = self.replica_sets.get(owner) else { return };
        let Some(rollout) = self.deployments.get(deployment).filter(|rollout| rollout.reached) else {
            return;
        };
        let available = self.of_deployment(deployment).filter(|pod| is_available(pod)).count();
        let least = rollout.at_least.least();
        assert!(
            i64::try_from(available).unwrap() >= least,
            "without {key} only {available} of {least} are left"
        );
    }

    fn guard(&mut self) {
        let guarded = self.pods.values().filter(|pod| text(pod, "/metadata/labels/app") == "guarded");
        let ready = guarded.filter(|pod| is_available(pod)).count();
        if ready >= self.promises.guarded {
            self.guarded = true;
        } else if self.promises.availability && self.guarded {
            panic!("the budget leaves {} pods, but {ready} are left", self.promises.guarded);
        }
    }

    fn of_deployment<'a>(&'a self, deployment: &'a str) -> impl Iterator<Item = &'a Value> {
        self.pods.values().filter(move |pod| {
            let owner = text(pod, "/metadata/ownerReferences/0/uid");
            self.replica_sets.get(owner).is_some_and(|owner| owner.0 == deployment)
        })
    }
}

/// What once was bound stays bound to the same.
fn bound_once(known: &mut BTreeMap<String, String>, key: &str, to: &str) {
    if to.is_empty() {
        return;
    }
    let first = known.entry(key.to_owned()).or_insert_with(|| to.to_owned());
    assert_eq!(first, to, "{key} was bound twice");
}

fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    object.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

/// It has neither ended nor is it being deleted.
fn is_active(pod: &Value) -> bool {
    !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
        && pod.pointer("/metadata/deletionTimestamp").is_none()
}

fn is_available(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    let ready = conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True");
    ready && is_active(pod)
}
