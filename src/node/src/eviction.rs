//! Ends pods that keep more on disk than they may, and makes room when the machine runs short: first images that no
//! pod uses, then pods, one at a time, those that use more than they asked for and matter least first.
//!
//! ```text
//!  look ── enough ──────────────────────────────────────────▶ look later
//!   └─ pods beyond their limits: end them ──────────────────────────────────┐
//!   └─ short of disk: remove images ─ still short ─┐                        │
//!   └─ short of memory, for long of instances ─────┴▶ rank pods, end the first ─▶ wait for what they free, look
//! ```

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use coracle_api::quantity::Quantity;
use coracle_client::{EventType, Key};
use coracle_image::{Images, Reference};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    admission::is_critical,
    context::Context,
    handle::{Eviction, PodHandle},
    host::{self, MEMORY_RESERVE},
    instances::{Instances, Places},
    stats::{PodUsage, Stats},
    storage::StorageUsage,
};

/// How often the machine is looked at. Kubernetes' number.
const LOOK: Duration = Duration::from_secs(10);
/// How long evicted pods may take to end and to give back what they have, before the next one is looked for.
/// Kubernetes' number.
const CLEANUP: Duration = Duration::from_secs(30);
/// How long after that the machine may take to say what it has now: memory comes back a little late.
const SETTLE: Duration = Duration::from_secs(1);
/// Unused images are removed when the disk is fuller than the first (in percent), until it is less full than the
/// second. Kubernetes' numbers.
const IMAGES_HIGH: u64 = 85;
const IMAGES_LOW: u64 = 80;
/// An image stays so long after it was last seen in use. Kubernetes' number.
const IMAGE_AGE: Duration = Duration::from_secs(120);
/// Kubernetes' word for it: the reason of events, and of the pod's failure.
const REASON: &str = "Evicted";
/// What an evicted pod's containers have to end. Kubernetes' number.
const GRACE: Duration = Duration::from_secs(1);
/// The same where nothing breaks before they have: their own grace, up to this. It fits [`CLEANUP`].
const SOFT_GRACE: Duration = Duration::from_secs(20);

/// Why pods are evicted: the machine is short of something, or they keep more on disk than they may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    Memory,
    Disk,
    Inodes,
    Instances,
    EmptyDir,
    Pod,
    Container,
}

impl Signal {
    const ALL: [Signal; 7] = [
        Signal::Memory,
        Signal::Disk,
        Signal::Inodes,
        Signal::Instances,
        Signal::EmptyDir,
        Signal::Pod,
        Signal::Container,
    ];

    /// How Kubernetes names the signal.
    fn name(self) -> &'static str {
        match self {
            Signal::Memory => "memory.available",
            Signal::Disk => "nodefs.available",
            Signal::Inodes => "nodefs.inodesFree",
            // An instance is to a guest what a process is to a program elsewhere.
            Signal::Instances => "pid.available",
            Signal::EmptyDir => "emptydirfs.limit",
            Signal::Pod => "ephemeralpodfs.limit",
            Signal::Container => "ephemeralcontainerfs.limit",
        }
    }

    /// Whether it is the machine's, and not the pod's own doing. Only that is a disruption, as Kubernetes has it.
    fn of_node(self) -> bool {
        matches!(self, Signal::Memory | Signal::Disk | Signal::Inodes | Signal::Instances)
    }

    /// Whether it is counted, in no unit.
    fn is_count(self) -> bool {
        matches!(self, Signal::Inodes | Signal::Instances)
    }

    /// What a pod that is evicted for it has to end.
    fn grace(self, pod: &Pod) -> Duration {
        let own = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
        match self {
            Signal::Instances => own
                .and_then(|own| u64::try_from(own).ok())
                .map_or(SOFT_GRACE, Duration::from_secs)
                .min(SOFT_GRACE),
            _ => GRACE,
        }
    }
}

/// What a machine that is short of something looks for among its pods.
struct Shortage {
    signal: Signal,
    /// As pods ask for it.
    resource: &'static str,
    available: u64,
    threshold: String,
}

/// A pod that could be evicted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Candidate {
    key: Key,
    uid: Box<str>,
    priority: i32,
    /// What is used, and asked for, of what is short, of which nobody can ask for inodes and instances.
    used: u64,
    requested: u64,
    /// The containers that use more than they asked for, with both amounts.
    exceeding: Vec<(String, u64, u64)>,
}

/// The order of evictions: who uses more than was asked for, then the least important, then who exceeds most.
fn rank(candidates: &mut [Candidate]) {
    candidates.sort_by_key(|one| {
        let exceeds = one.used > one.requested;
        let excess = i128::from(one.used) - i128::from(one.requested);
        (!exceeds, one.priority, Reverse(excess), one.key.clone())
    });
}

/// The message of a pod that is evicted for the machine's sake.
fn message(shortage: &Shortage, pod: &Candidate) -> String {
    let Shortage { signal, resource, threshold, available } = shortage;
    let mut text = format!(
        "The node was low on resource: {resource}. Threshold quantity: {threshold}, available: {}. ",
        if signal.is_count() { available.to_string() } else { kibi(*available) }
    );
    for (name, used, requested) in &pod.exceeding {
        let requested = if *requested == 0 { "0".to_owned() } else { kibi(*requested) };
        text.push_str(&format!(
            "Container {name} was using {}, request is {requested}, has larger consumption of {resource}. ",
            kibi(*used)
        ));
    }
    text
}

fn kibi(bytes: u64) -> String {
    format!("{}Ki", bytes / 1024)
}

/// Watches over the machine's memory and disk, what pods keep there, and the runtime's places.
pub(crate) struct Evictor {
    images: Arc<Images>,
    pub(crate) instances: Arc<Instances>,
    /// When each image was last seen in use.
    used: Mutex<HashMap<String, Instant>>,
    /// Compilers were asked for memory in this shortage of it.
    recalled: AtomicBool,
    /// How many pods were evicted, in the order of [`Signal::ALL`].
    counts: [AtomicU64; Signal::ALL.len()],
}

impl Evictor {
    pub(crate) fn new(images: Arc<Images>, instances: Arc<Instances>) -> Evictor {
        Evictor {
            images,
            instances,
            used: Mutex::default(),
            recalled: AtomicBool::default(),
            counts: Default::default(),
        }
    }

    /// How many pods were evicted, by signal.
    pub(crate) fn counts(&self) -> [(&'static str, u64); Signal::ALL.len()] {
        Signal::ALL.map(|signal| (signal.name(), self.counts[signal as usize].load(Ordering::Relaxed)))
    }

    /// Looks again and again, for ever.
    pub(crate) async fn run(&self, context: &Arc<Context>, stats: &Stats, node: &ObjectReference) {
        loop {
            let evicted = self.look(context, stats, node).await;
            let wait = if evicted.is_empty() { LOOK } else { SETTLE };
            // Otherwise it would look as if they had freed nothing, and others would go in vain.
            let _ = tokio::time::timeout(CLEANUP, context.table.all_retired(&evicted)).await;
            tokio::time::sleep(wait).await;
        }
    }

    /// The pods that it ended.
    async fn look(
        &self,
        context: &Arc<Context>,
        stats: &Stats,
        node: &ObjectReference,
    ) -> Vec<Arc<PodHandle>> {
        self.note_images(context);
        let overdue = self.instances.overdue();
        let evicted = self.evict_beyond_limits(context);
        if !evicted.is_empty() {
            return evicted;
        }
        let memory = host::memory_use();
        if !memory.short() {
            self.recalled.store(false, Ordering::Relaxed);
        } else if context.memory.recall() && !self.recalled.swap(true, Ordering::Relaxed) {
            // Compilers give back what they have before pods do, and have until the next look for it.
            return Vec::new();
        }
        if memory.short() {
            let shortage = Shortage {
                signal: Signal::Memory,
                resource: "memory",
                available: memory.available,
                threshold: format!("{}Mi", MEMORY_RESERVE >> 20),
            };
            self.announce(context, node, &shortage);
            let usage = |pod: &PodUsage| {
                let parts = pod.containers.iter().map(|one| (one.name.to_string(), one.memory));
                (pod.memory(), parts.collect())
            };
            let candidates = candidates(context, &stats.measure(context).pods, &shortage, usage);
            return self.evict_first(context, &shortage, candidates);
        }
        let disk = host::disk_use(&context.pods_dir);
        if disk.used_percent() > IMAGES_HIGH || disk.short_of_inodes() {
            self.remove_images(&context.pods_dir).await;
        }
        let disk = host::disk_use(&context.pods_dir);
        if disk.short() {
            let shortage = Shortage {
                signal: Signal::Disk,
                resource: "ephemeral-storage",
                available: disk.free,
                threshold: kibi(host::disk_reserve(disk.total)),
            };
            self.announce(context, node, &shortage);
            let usage = |pod: &PodUsage| {
                let parts =
                    pod.containers.iter().map(|one| (one.name.to_string(), one.root_bytes + one.log_bytes));
                (pod.storage, parts.collect())
            };
            let candidates = candidates(context, &stats.measure(context).pods, &shortage, usage);
            return self.evict_first(context, &shortage, candidates);
        }
        if disk.short_of_inodes() {
            let shortage = Shortage {
                signal: Signal::Inodes,
                resource: "inodes",
                available: disk.inodes_free,
                threshold: disk.inodes_reserve().to_string(),
            };
            self.announce(context, node, &shortage);
            let usage = |pod: &PodUsage| (pod.entries, Vec::new());
            let candidates = candidates(context, &stats.measure(context).pods, &shortage, usage);
            return self.evict_first(context, &shortage, candidates);
        }
        overdue.map_or_else(Vec::new, |places| self.evict_for_places(context, stats, node, places))
    }

    /// Ends the pod that is ranked first of those that take places: nobody asks for those, so the least important goes,
    /// and of such the one that takes most.
    pub(crate) fn evict_for_places(
        &self,
        context: &Context,
        stats: &Stats,
        node: &ObjectReference,
        places: Places,
    ) -> Vec<Arc<PodHandle>> {
        let shortage = Shortage {
            signal: Signal::Instances,
            resource: "pids",
            available: places.free.into(),
            threshold: places.reserve.to_string(),
        };
        self.announce(context, node, &shortage);
        let usage = |pod: &PodUsage| (pod.places(), Vec::new());
        let mut candidates = candidates(context, &stats.measure(context).pods, &shortage, usage);
        // The end of those would free nothing.
        candidates.retain(|one| one.used > 0);
        let evicted = self.evict_first(context, &shortage, candidates);
        if !evicted.is_empty() {
            self.instances.evicted();
        }
        evicted
    }

    fn announce(&self, context: &Context, node: &ObjectReference, shortage: &Shortage) {
        let message = format!("Attempting to reclaim {}", shortage.resource);
        context.recorder.event(node, EventType::Warning, "EvictionThresholdMet", &message);
    }

    /// Ends the pods that keep more on disk than they may.
    pub(crate) fn evict_beyond_limits(&self, context: &Context) -> Vec<Arc<PodHandle>> {
        let mut evicted = Vec::new();
        for handle in context.table.all() {
            let Some(limits) = &handle.storage_limits else { continue };
            let Some((signal, message)) = limits.exceeded(&StorageUsage::of(&handle)) else { continue };
            let Some(pod) = evictable(context, handle.key(), handle.uid()) else { continue };
            evicted.extend(self.evict(context, &pod, signal, message));
        }
        evicted
    }

    /// Ends the pod that is ranked first.
    fn evict_first(
        &self,
        context: &Context,
        shortage: &Shortage,
        mut candidates: Vec<Candidate>,
    ) -> Vec<Arc<PodHandle>> {
        rank(&mut candidates);
        for candidate in candidates {
            let Some(pod) = evictable(context, &candidate.key, &candidate.uid) else { continue };
            let evicted = self.evict(context, &pod, shortage.signal, message(shortage, &candidate));
            if evicted.is_some() {
                return evicted.into_iter().collect();
            }
        }
        Vec::new()
    }

    /// Ends a pod for its memory, of which the node has so much left; whether it is ended.
    pub(crate) fn evict_for_memory(&self, context: &Context, key: &Key, uid: &str, available: u64) -> bool {
        let shortage = Shortage {
            signal: Signal::Memory,
            resource: "memory",
            available,
            threshold: format!("{}Mi", MEMORY_RESERVE >> 20),
        };
        let candidate = Candidate { key: key.clone(), uid: uid.into(), ..Candidate::default() };
        !self.evict_first(context, &shortage, vec![candidate]).is_empty()
    }

    /// As if the machine were short of disk, and this pod ranked first; whether it is ended.
    #[cfg(test)]
    pub(crate) fn evict_for_disk(&self, context: &Context, key: &Key, uid: &str) -> bool {
        let threshold = "10Mi".to_owned();
        let shortage =
            Shortage { signal: Signal::Disk, resource: "ephemeral-storage", available: 0, threshold };
        let candidate = Candidate { key: key.clone(), uid: uid.into(), ..Candidate::default() };
        !self.evict_first(context, &shortage, vec![candidate]).is_empty()
    }

    /// Ends a pod; `None` if it is ending or over already.
    fn evict(&self, context: &Context, pod: &Pod, signal: Signal, message: String) -> Option<Arc<PodHandle>> {
        let handle = context.table.get(pod.metadata.uid.as_deref().unwrap_or_default());
        let handle = handle.filter(|handle| handle.evict_once())?;
        tracing::warn!(pod = %handle.key(), message, "a pod is evicted");
        context.tell(pod, None, true, REASON, &message);
        let grace = Some(signal.grace(pod));
        handle.evict(Eviction { reason: REASON, message, grace, disruption: signal.of_node() });
        self.counts[signal as usize].fetch_add(1, Ordering::Relaxed);
        Some(handle)
    }

    /// Remembers when images came, and which of them pods of this node use.
    fn note_images(&self, context: &Context) {
        let now = Instant::now();
        let in_use = self.images_in_use(context);
        let known = self.images.pulled();
        let mut used = self.used.lock();
        used.retain(|digest, _| known.contains(digest));
        // An image that was not there before has just been pulled for somebody.
        for digest in known {
            used.entry(digest).or_insert(now);
        }
        used.extend(in_use.into_iter().map(|digest| (digest, now)));
    }

    /// The digests of the images that pods of this node were given, wherever their tags have moved since, and of those
    /// that pods would be given today.
    pub(crate) fn images_in_use(&self, context: &Context) -> BTreeSet<String> {
        let handles = context.table.all();
        let pods = handles.iter().filter_map(|handle| context.pods.get(handle.key()));
        let names: BTreeSet<String> = pods.flat_map(|pod| images_of(&pod)).collect();
        let named = names.iter().filter_map(|name| {
            let reference = Reference::parse(name).ok()?;
            Some(self.images.find(&reference)?.digest)
        });
        let given = handles.iter().flat_map(|handle| handle.images()).map(String::from);
        named.chain(given).collect()
    }

    /// Removes images that were pulled and that no pod has used for a while, the longest unused first, whether they
    /// can run or not.
    async fn remove_images(&self, dir: &Path) {
        match self.images.remove_unfinished().await {
            Ok(0) => {}
            Ok(bytes) => tracing::info!(bytes, "what was left of broken pulls was removed"),
            Err(error) => tracing::warn!(%error, "what is left of broken pulls was not removed"),
        }
        let (unused, in_use) = sort_out(self.images.pulled(), &self.used.lock(), Instant::now());
        for digest in unused {
            match self.images.remove_pulled(&digest, &in_use).await {
                Ok(0) => {}
                Ok(bytes) => tracing::info!(digest, bytes, "an unused image was removed"),
                Err(error) => tracing::warn!(digest, %error, "an unused image was not removed"),
            }
            let disk = host::disk_use(dir);
            if disk.used_percent() < IMAGES_LOW && !disk.short_of_inodes() {
                return;
            }
        }
    }
}

/// Images by when they were last `used`: those that may go, the longest unused first, and those that stay.
fn sort_out(
    pulled: BTreeSet<String>,
    used: &HashMap<String, Instant>,
    now: Instant,
) -> (Vec<String>, BTreeSet<String>) {
    let (mut unused, mut in_use) = (Vec::new(), BTreeSet::new());
    for digest in pulled {
        // One that nobody has noted yet has come just now.
        match used.get(&digest).filter(|last| now.duration_since(**last) > IMAGE_AGE) {
            Some(last) => unused.push((*last, digest)),
            None => {
                in_use.insert(digest);
            }
        }
    }
    unused.sort();
    (unused.into_iter().map(|(_, digest)| digest).collect(), in_use)
}

/// The images that a pod names.
fn images_of(pod: &Pod) -> Vec<String> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let own = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let beside = spec.ephemeral_containers.iter().flatten().filter_map(|one| one.image.clone());
    let volumes = crate::volumes::images(pod).map(|(name, _)| name.to_owned());
    own.filter_map(|container| container.image.clone()).chain(beside).chain(volumes).collect()
}

/// The pod of this name if it may be evicted, and if it is this one: another may have the name by now.
fn evictable(context: &Context, key: &Key, uid: &str) -> Option<Arc<Pod>> {
    let known = context.pods.get(key).filter(|pod| pod.metadata.uid.as_deref() == Some(uid));
    // Critical and static pods stay, whatever happens.
    known.filter(|pod| !is_critical(pod, &context.node_name))
}

/// The pods that may be evicted, with what they use: all of it, and by container.
fn candidates(
    context: &Context,
    pods: &[PodUsage],
    shortage: &Shortage,
    usage: impl Fn(&PodUsage) -> (u64, Vec<(String, u64)>),
) -> Vec<Candidate> {
    let candidate = |usage_of: &PodUsage| {
        let key = Key::new(usage_of.namespace.clone(), usage_of.name.clone());
        let uid = usage_of.uid.clone();
        let pod = evictable(context, &key, &uid)?;
        let spec = pod.spec.as_ref()?;
        let priority = spec.priority.unwrap_or(0);
        let request = |name: &str| {
            let container = spec.containers.iter().find(|container| container.name == name)?;
            let requests = container.resources.as_ref()?.requests.as_ref()?;
            u64::try_from(Quantity::parse(&requests.get(shortage.resource)?.0).ok()?.value()).ok()
        };
        let (used, parts) = usage(usage_of);
        let requested = spec.containers.iter().filter_map(|container| request(&container.name)).sum();
        let parts = parts.into_iter().map(|(name, bytes)| {
            let requested = request(&name).unwrap_or(0);
            (name, bytes, requested)
        });
        let exceeding = parts.filter(|(_, bytes, requested)| bytes > requested).collect();
        Some(Candidate { key, uid, priority, used, requested, exceeding })
    };
    pods.iter().filter_map(candidate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(name: &str, priority: i32, used: u64, requested: u64) -> Candidate {
        Candidate { key: Key::new("n", name), priority, used, requested, ..Candidate::default() }
    }

    #[test]
    fn who_exceeds_its_request_and_matters_least_goes_first() {
        let mut pods = [
            candidate("modest", 0, 10, 100),
            candidate("important", 1_000, 500, 0),
            candidate("greedy", 0, 400, 100),
            candidate("greedier", 0, 900, 100),
            candidate("modest-and-unimportant", -5, 50, 100),
        ];
        rank(&mut pods);
        let order: Vec<_> = pods.iter().map(|pod| pod.key.name.as_str()).collect();
        assert_eq!(order, ["greedier", "greedy", "important", "modest-and-unimportant", "modest"]);
    }

    #[test]
    fn images_go_when_they_were_not_used_for_a_while() {
        let now = Instant::now() + 10 * IMAGE_AGE;
        let ages = [("old", 3), ("older", 5), ("young", 1)];
        let used = ages.map(|(name, age)| (name.to_owned(), now - age * IMAGE_AGE)).into();
        let pulled = ["just-pulled", "old", "older", "young"].map(str::to_owned).into();
        let (unused, in_use) = sort_out(pulled, &used, now);
        assert_eq!(unused, ["older", "old"]);
        assert!(in_use.iter().eq(["just-pulled", "young"]));
    }

    #[test]
    fn where_nobody_asks_for_any_who_matters_least_and_has_most_goes_first() {
        let mut pods = [
            candidate("important", 1_000, 90, 0),
            candidate("one", 0, 1, 0),
            candidate("many", 0, 40, 0),
            candidate("unimportant", -5, 2, 0),
        ];
        rank(&mut pods);
        let order: Vec<_> = pods.iter().map(|pod| pod.key.name.as_str()).collect();
        assert_eq!(order, ["unimportant", "many", "one", "important"]);
    }

    #[test]
    fn where_nothing_breaks_pods_have_their_own_time_to_end() {
        #[track_caller]
        fn check(signal: Signal, own: Option<i64>, seconds: u64) {
            let spec = k8s_openapi::api::core::v1::PodSpec {
                termination_grace_period_seconds: own,
                ..Default::default()
            };
            let pod = Pod { spec: Some(spec), ..Pod::default() };
            assert_eq!(signal.grace(&pod), Duration::from_secs(seconds));
        }
        check(Signal::Memory, Some(5), 1);
        check(Signal::Instances, Some(5), 5);
        check(Signal::Instances, Some(0), 0);
        check(Signal::Instances, Some(3_600), 20);
        check(Signal::Instances, None, 20);
    }

    #[test]
    fn the_message_is_that_of_other_clusters() {
        let shortage = |signal, resource, available, threshold: &str| Shortage {
            signal,
            resource,
            available,
            threshold: threshold.into(),
        };
        let memory = shortage(Signal::Memory, "memory", 50 << 20, "100Mi");
        let parts = [("main", 5, 0), ("side", 3, 2)];
        let exceeding =
            parts.map(|(name, used, requested)| (name.to_owned(), used << 20, requested << 20)).into();
        let text = message(&memory, &Candidate { exceeding, ..Candidate::default() });
        assert_eq!(
            text,
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 51200Ki. Container main was \
             using 5120Ki, request is 0, has larger consumption of memory. Container side was using 3072Ki, request is \
             2048Ki, has larger consumption of memory. "
        );
        let disk = shortage(Signal::Disk, "ephemeral-storage", 1 << 20, "10Mi");
        let modest = message(&disk, &Candidate::default());
        assert_eq!(
            modest,
            "The node was low on resource: ephemeral-storage. Threshold quantity: 10Mi, available: 1024Ki. "
        );
        let names = shortage(Signal::Inodes, "inodes", 120, "300");
        assert_eq!(
            message(&names, &candidate("p", 0, 5_000, 0)),
            "The node was low on resource: inodes. Threshold quantity: 300, available: 120. "
        );
        let pids = shortage(Signal::Instances, "pids", 3, "550");
        assert_eq!(
            message(&pids, &candidate("p", 0, 40, 0)),
            "The node was low on resource: pids. Threshold quantity: 550, available: 3. "
        );
    }
}
