//! The door to a pod's worker: a mailbox that keeps the newest of each kind of news, and the pod's current
//! runs. What a pod costs while nothing happens is this, its task and its containers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use coracle_budget::{Budget, NodeBudget};
use coracle_client::Key;
use coracle_vfs::PodShare;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    exec::{Guests, Running},
    logs::ContainerLog,
    state::ProbeKind,
    storage::StorageLimits,
    volumes::Means,
};

/// A probe's verdict that changed.
#[derive(Clone, Debug)]
pub(crate) struct ProbeWord {
    pub(crate) index: usize,
    pub(crate) run: i32,
    pub(crate) probe: ProbeKind,
    pub(crate) healthy: bool,
}

/// News for a worker.
#[derive(Debug, Default)]
pub(crate) struct Mail {
    /// The newest state of the object.
    pub(crate) pod: Option<Arc<Pod>>,
    /// The object is gone.
    pub(crate) gone: bool,
    /// Something that the pod refers to has changed.
    pub(crate) sources_changed: bool,
    /// The agent stops: end the guests within this time and leave the object alone.
    pub(crate) shutdown: Option<Duration>,
    /// The node wants the pod gone.
    pub(crate) eviction: Option<Box<Eviction>>,
    pub(crate) probes: Vec<ProbeWord>,
}

/// Why the node wants a pod gone: what the failed pod's status says.
#[derive(Debug)]
pub(crate) struct Eviction {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// What its containers have to end; the pod's own grace if not said.
    pub(crate) grace: Option<Duration>,
    /// It ends for the node's sake, and not by its own fault.
    pub(crate) disruption: bool,
}

impl Mail {
    fn is_empty(&self) -> bool {
        self.pod.is_none()
            && !self.gone
            && !self.sources_changed
            && self.shutdown.is_none()
            && self.eviction.is_none()
            && self.probes.is_empty()
    }
}

/// An image that a pod was given, by digest: the names in its spec may stand for others by now.
#[derive(Debug)]
struct Given {
    /// The container whose newest run has it; `None` for a volume.
    container: Option<Box<str>>,
    digest: Box<str>,
}

/// The door to a pod's worker.
#[derive(Debug)]
pub(crate) struct PodHandle {
    uid: Box<str>,
    key: Key,
    mail: Mutex<Mail>,
    arrived: Notify,
    logs: Mutex<Vec<Option<Arc<ContainerLog>>>>,
    /// Its running containers, and what was started beside them.
    pub(crate) guests: Guests,
    /// The memory that it may hold.
    pub(crate) budget: Arc<Budget>,
    /// What it keeps on disk, and the files that it has open there.
    pub(crate) share: PodShare,
    evicted: AtomicBool,
    images: Mutex<Box<[Given]>>,
    /// What it may keep on disk, if its spec says.
    pub(crate) storage_limits: Option<Box<StorageLimits>>,
}

impl PodHandle {
    /// For a pod of a node that has memory without end.
    #[cfg(test)]
    pub(crate) fn new(pod: &Pod) -> PodHandle {
        PodHandle::of_node(pod, &NodeBudget::new(u64::MAX))
    }

    pub(crate) fn of_node(pod: &Pod, memory: &Arc<NodeBudget>) -> PodHandle {
        let storage_limits = StorageLimits::of(pod).map(Box::new);
        PodHandle {
            uid: pod.metadata.uid.as_deref().unwrap_or_default().into(),
            key: Key::of(&pod.metadata),
            mail: Mutex::default(),
            arrived: Notify::new(),
            logs: Mutex::default(),
            guests: Guests::default(),
            budget: Budget::of_node(None, memory),
            share: PodShare::new(storage_limits.as_ref().and_then(|limits| limits.of_pod())),
            evicted: AtomicBool::new(false),
            images: Mutex::default(),
            storage_limits,
        }
    }

    pub(crate) fn uid(&self) -> &str {
        &self.uid
    }

    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    pub(crate) fn update(&self, pod: Arc<Pod>) {
        self.post(|mail| mail.pod = Some(pod));
    }

    pub(crate) fn gone(&self) {
        self.post(|mail| mail.gone = true);
    }

    pub(crate) fn sources_changed(&self) {
        self.post(|mail| mail.sources_changed = true);
    }

    /// Ends the guests within this time; at once if it is zero.
    pub(crate) fn shutdown(&self, grace: Duration) {
        self.post(|mail| mail.shutdown = Some(grace));
    }

    /// True for who is to evict the pod: the first who asks.
    pub(crate) fn evict_once(&self) -> bool {
        !self.evicted.swap(true, Ordering::Relaxed)
    }

    /// Fails the pod and ends its containers.
    pub(crate) fn evict(&self, eviction: Eviction) {
        self.post(|mail| mail.eviction = Some(Box::new(eviction)));
    }

    pub(crate) fn probed(&self, word: ProbeWord) {
        self.post(|mail| mail.probes.push(word));
    }

    /// What has arrived; waits if nothing has.
    pub(crate) async fn mail(&self) -> Mail {
        loop {
            let mail = std::mem::take(&mut *self.mail.lock());
            if !mail.is_empty() {
                return mail;
            }
            self.arrived.notified().await;
        }
    }

    /// True if nothing waits to be read.
    pub(crate) fn is_quiet(&self) -> bool {
        self.mail.lock().is_empty()
    }

    /// What a container that runs now was given.
    pub(crate) fn running(&self, container: &str) -> Option<Arc<Running>> {
        self.guests.get(container)
    }

    /// Notes the log of a container's newest run.
    pub(crate) fn set_log(&self, index: usize, log: Arc<ContainerLog>) {
        let mut logs = self.logs.lock();
        if logs.len() <= index {
            logs.resize(index + 1, None);
        }
        logs[index] = Some(log);
    }

    /// The log of a container's newest run in this process.
    pub(crate) fn log(&self, index: usize) -> Option<Arc<ContainerLog>> {
        self.logs.lock().get(index)?.clone()
    }

    /// Notes the image that a container's new run is given.
    pub(crate) fn set_image(&self, container: &str, digest: &str) {
        let new = Given { container: Some(container.into()), digest: digest.into() };
        self.give([new], |given| given.container.as_deref() != Some(container));
    }

    /// Notes the images whose files its volumes show.
    pub(crate) fn set_volume_images(&self, digests: Vec<Box<str>>) {
        let new = digests.into_iter().map(|digest| Given { container: None, digest });
        self.give(new, |given| given.container.is_some());
    }

    /// Adds to what it was given and is to be kept.
    fn give(&self, new: impl IntoIterator<Item = Given>, keep: impl FnMut(&Given) -> bool) {
        let mut images = self.images.lock();
        let mut given = std::mem::take(&mut *images).into_vec();
        given.retain(keep);
        given.extend(new);
        *images = given.into_boxed_slice();
    }

    /// The digests of the images that it was given.
    pub(crate) fn images(&self) -> Vec<Box<str>> {
        self.images.lock().iter().map(|given| given.digest.clone()).collect()
    }

    /// What its volumes may take.
    pub(crate) fn means(&self) -> Means {
        Means { memory: self.budget.clone(), share: self.share.clone() }
    }

    /// What the logs of its containers take on disk.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.logs.lock().iter().flatten().map(|log| log.bytes()).sum()
    }

    fn post(&self, change: impl FnOnce(&mut Mail)) {
        change(&mut self.mail.lock());
        self.arrived.notify_one();
    }
}
