//! Makes room when the machine runs short: first images that no pod uses, then pods, one at a time, those that use
//! more than they asked for and matter least first.
//!
//! ```text
//!  look ── enough ──────────────────────────────────────────▶ look later
//!   └─ short of disk: remove images ─ still short ─┐
//!   └─ short of memory ────────────────────────────┴▶ rank pods, end the first ─▶ look soon
//! ```

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
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
    context::Context,
    handle::Eviction,
    host::{self, MEMORY_RESERVE},
    static_pods,
    stats::{PodUsage, Stats},
};

/// How often the machine is looked at. Kubernetes' number.
const LOOK: Duration = Duration::from_secs(10);
/// How long an evicted pod may take to end before the next one is looked for.
const SETTLE: Duration = Duration::from_secs(5);
/// Unused images are removed when the disk is fuller than the first (in percent), until it is less full than the
/// second. Kubernetes' numbers.
const IMAGES_HIGH: u64 = 85;
const IMAGES_LOW: u64 = 80;
/// An image stays so long after it was last seen in use. Kubernetes' number.
const IMAGE_AGE: Duration = Duration::from_secs(120);
/// Pods from this priority on are never evicted. Kubernetes' number.
const CRITICAL: i32 = 2_000_000_000;

/// What the machine can be short of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signal {
    Memory,
    Disk,
}

impl Signal {
    /// How Kubernetes names the signal.
    fn name(self) -> &'static str {
        match self {
            Signal::Memory => "memory.available",
            Signal::Disk => "nodefs.available",
        }
    }

    fn resource(self) -> &'static str {
        match self {
            Signal::Memory => "memory",
            Signal::Disk => "ephemeral-storage",
        }
    }
}

/// A pod that could be evicted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Candidate {
    key: Key,
    priority: i32,
    /// Bytes used, and asked for, of what is short.
    used: u64,
    requested: u64,
    /// The container that uses most beyond its request.
    heaviest: Option<(String, u64, u64)>,
}

/// The order of evictions: who uses more than was asked for, then the least important, then who exceeds most.
fn rank(candidates: &mut [Candidate]) {
    candidates.sort_by_key(|one| {
        let exceeds = one.used > one.requested;
        let excess = i128::from(one.used) - i128::from(one.requested);
        (!exceeds, one.priority, Reverse(excess), one.key.clone())
    });
}

/// The message of an evicted pod.
fn message(signal: Signal, available: u64, threshold: &str, pod: &Candidate) -> String {
    let resource = signal.resource();
    let mut text = format!(
        "The node was low on resource: {resource}. Threshold quantity: {threshold}, available: {}. ",
        kibi(available)
    );
    if let Some((name, used, requested)) = &pod.heaviest
        && used > requested
    {
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

/// Watches over the machine's memory and disk.
pub(crate) struct Evictor {
    images: Arc<Images>,
    /// When each image was last seen in use.
    used: Mutex<HashMap<String, Instant>>,
    by_memory: AtomicU64,
    by_disk: AtomicU64,
}

impl Evictor {
    pub(crate) fn new(images: Arc<Images>) -> Evictor {
        Evictor { images, used: Mutex::default(), by_memory: AtomicU64::new(0), by_disk: AtomicU64::new(0) }
    }

    /// How many pods were evicted, by signal.
    pub(crate) fn counts(&self) -> [(&'static str, u64); 2] {
        [
            (Signal::Memory.name(), self.by_memory.load(Ordering::Relaxed)),
            (Signal::Disk.name(), self.by_disk.load(Ordering::Relaxed)),
        ]
    }

    /// Looks again and again, for ever.
    pub(crate) async fn run(&self, context: &Arc<Context>, stats: &Stats, node: &ObjectReference) {
        loop {
            let wait = self.look(context, stats, node).await;
            tokio::time::sleep(wait).await;
        }
    }

    async fn look(&self, context: &Arc<Context>, stats: &Stats, node: &ObjectReference) -> Duration {
        self.note_images(context);
        let memory = host::memory_use();
        if memory.total > 0 && memory.available < MEMORY_RESERVE {
            self.announce(context, node, "memory");
            let threshold = format!("{}Mi", MEMORY_RESERVE >> 20);
            let pods = stats.measure(context).pods;
            let usage = |pod: &PodUsage| {
                let parts = pod.containers.iter().map(|one| (one.name.to_string(), one.memory));
                parts.collect::<Vec<_>>()
            };
            let candidates = candidates(context, &pods, "memory", usage);
            return self.evict(context, Signal::Memory, memory.available, &threshold, candidates);
        }
        let disk = host::disk_use(&context.pods_dir);
        if disk.total > 0 && disk.used_percent() > IMAGES_HIGH {
            self.remove_images(&context.pods_dir).await;
        }
        let disk = host::disk_use(&context.pods_dir);
        if disk.short() {
            self.announce(context, node, "ephemeral-storage");
            let threshold = kibi(host::disk_reserve(disk.total));
            let pods = stats.measure(context).pods;
            let folder = context.pods_dir.clone();
            let measured = tokio::task::spawn_blocking(move || {
                let sizes = pods.iter().map(|pod| (pod.uid.clone(), size_of(&folder.join(&*pod.uid))));
                let sizes: HashMap<_, _> = sizes.collect();
                (pods, sizes)
            });
            // It only fails when the runtime ends.
            let Ok((pods, sizes)) = measured.await else { return LOOK };
            let usage = |pod: &PodUsage| {
                let size = sizes.get(&pod.uid).copied().unwrap_or(0);
                pod.containers.first().map(|one| (one.name.to_string(), size)).into_iter().collect()
            };
            let candidates = candidates(context, &pods, "ephemeral-storage", usage);
            return self.evict(context, Signal::Disk, disk.free, &threshold, candidates);
        }
        LOOK
    }

    fn announce(&self, context: &Context, node: &ObjectReference, resource: &str) {
        let message = format!("Attempting to reclaim {resource}");
        context.recorder.event(node, EventType::Warning, "EvictionThresholdMet", &message);
    }

    /// Ends the pod that is ranked first.
    fn evict(
        &self,
        context: &Context,
        signal: Signal,
        available: u64,
        threshold: &str,
        mut candidates: Vec<Candidate>,
    ) -> Duration {
        rank(&mut candidates);
        for candidate in candidates {
            let Some(pod) = context.pods.get(&candidate.key) else { continue };
            let handle = context.table.get(pod.metadata.uid.as_deref().unwrap_or_default());
            let Some(handle) = handle else { continue };
            let message = message(signal, available, threshold, &candidate);
            tracing::warn!(pod = %candidate.key, message, "a pod is evicted");
            context.tell(&pod, None, true, "Evicted", &message);
            handle.evict(Eviction { reason: "Evicted", message, grace: Some(Duration::ZERO) });
            let count = match signal {
                Signal::Memory => &self.by_memory,
                Signal::Disk => &self.by_disk,
            };
            count.fetch_add(1, Ordering::Relaxed);
            return SETTLE;
        }
        LOOK
    }

    /// Remembers when images came, and which of them pods of this node use.
    fn note_images(&self, context: &Context) {
        let now = Instant::now();
        let names: BTreeSet<String> = context
            .table
            .all()
            .iter()
            .filter_map(|handle| context.pods.get(handle.key()))
            .flat_map(|pod| images_of(&pod))
            .collect();
        let digests = names.iter().filter_map(|name| {
            let reference = Reference::parse(name).ok()?;
            Some(self.images.find(&reference)?.digest)
        });
        let known: BTreeSet<String> =
            self.images.list().into_iter().map(|listed| listed.image.digest).collect();
        let mut used = self.used.lock();
        used.retain(|digest, _| known.contains(digest));
        // An image that was not there before has just been pulled for somebody.
        for digest in known {
            used.entry(digest).or_insert(now);
        }
        used.extend(digests.map(|digest| (digest, now)));
    }

    /// Removes images that were pulled and that no pod has used for a while, the longest unused first.
    async fn remove_images(&self, dir: &Path) {
        match self.images.remove_unfinished().await {
            Ok(0) => {}
            Ok(bytes) => tracing::info!(bytes, "what was left of broken pulls was removed"),
            Err(error) => tracing::warn!(%error, "what is left of broken pulls was not removed"),
        }
        let now = Instant::now();
        let mut unused: Vec<(Option<Instant>, String)> = {
            let used = self.used.lock();
            let all = self.images.list().into_iter().map(|listed| listed.image.digest);
            all.map(|digest| (used.get(&digest).copied(), digest))
                .filter(|(last, _)| last.is_none_or(|last| now.duration_since(last) > IMAGE_AGE))
                .collect()
        };
        unused.sort();
        let in_use: BTreeSet<String> = {
            let unused: BTreeSet<&str> = unused.iter().map(|(_, digest)| digest.as_str()).collect();
            let used = self.used.lock();
            used.keys().filter(|digest| !unused.contains(digest.as_str())).cloned().collect()
        };
        for (_, digest) in unused {
            match self.images.remove_pulled(&digest, &in_use).await {
                Ok(0) => {}
                Ok(bytes) => tracing::info!(digest, bytes, "an unused image was removed"),
                Err(error) => tracing::warn!(digest, %error, "an unused image was not removed"),
            }
            if host::disk_use(dir).used_percent() < IMAGES_LOW {
                return;
            }
        }
    }
}

/// The images that a pod names.
fn images_of(pod: &Pod) -> Vec<String> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let own = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let beside = spec.ephemeral_containers.iter().flatten().filter_map(|one| one.image.clone());
    let volumes = crate::volumes::images(pod).map(|(name, _)| name.to_owned());
    own.filter_map(|container| container.image.clone()).chain(beside).chain(volumes).collect()
}

/// The pods that may be evicted, with what they use.
fn candidates(
    context: &Context,
    pods: &[PodUsage],
    resource: &str,
    usage: impl Fn(&PodUsage) -> Vec<(String, u64)>,
) -> Vec<Candidate> {
    let candidate = |usage_of: &PodUsage| {
        let key = Key::new(usage_of.namespace.clone(), usage_of.name.clone());
        let pod = context.pods.get(&key)?;
        let spec = pod.spec.as_ref()?;
        let priority = spec.priority.unwrap_or(0);
        if priority >= CRITICAL || static_pods::is_mirror(&pod, &context.node_name) {
            return None;
        }
        let request = |name: &str| {
            let container = spec.containers.iter().find(|container| container.name == name)?;
            let requests = container.resources.as_ref()?.requests.as_ref()?;
            u64::try_from(Quantity::parse(&requests.get(resource)?.0).ok()?.value()).ok()
        };
        let parts = usage(usage_of);
        let used = parts.iter().map(|(_, bytes)| bytes).sum();
        let requested = spec.containers.iter().filter_map(|container| request(&container.name)).sum();
        let parts = parts.into_iter().map(|(name, bytes)| {
            let requested = request(&name).unwrap_or(0);
            (name, bytes, requested)
        });
        let heaviest = parts.max_by_key(|(_, bytes, requested)| i128::from(*bytes) - i128::from(*requested));
        Some(Candidate { key, priority, used, requested, heaviest })
    };
    pods.iter().filter_map(candidate).collect()
}

/// The bytes of all files below a folder. Blocking; what cannot be read counts nothing.
fn size_of(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => size_of(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.filter_map(Result::ok).map(size).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(name: &str, priority: i32, used: u64, requested: u64) -> Candidate {
        let heaviest = Some(("main".to_owned(), used, requested));
        Candidate { key: Key::new("n", name), priority, used, requested, heaviest }
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
    fn the_message_is_that_of_other_clusters() {
        let text = message(Signal::Memory, 50 << 20, "100Mi", &candidate("p", 0, 5 << 20, 0));
        assert_eq!(
            text,
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 51200Ki. Container main was \
             using 5120Ki, request is 0, has larger consumption of memory. "
        );
        let modest = message(Signal::Disk, 1 << 20, "10Mi", &candidate("p", 0, 1, 2));
        assert_eq!(
            modest,
            "The node was low on resource: ephemeral-storage. Threshold quantity: 10Mi, available: 1024Ki. "
        );
    }

    #[test]
    fn a_folder_is_as_big_as_its_files() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::write(dir.path().join("a/b/one"), [0; 100]).unwrap();
        std::fs::write(dir.path().join("two"), [0; 11]).unwrap();
        assert_eq!(size_of(dir.path()), 111);
        assert_eq!(size_of(Path::new("/no/such/folder")), 0);
    }
}
