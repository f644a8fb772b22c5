//! The workers of a node's pods, by uid.

use std::{collections::HashMap, sync::Arc};

use coracle_budget::NodeBudget;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::handle::PodHandle;

/// The workers of a node's pods, by uid.
#[derive(Debug)]
pub(crate) struct PodTable {
    workers: Mutex<HashMap<Box<str>, Arc<PodHandle>>>,
    retired: Notify,
    /// What all of them may hold.
    memory: Arc<NodeBudget>,
}

impl PodTable {
    /// For pods that may hold so much together.
    pub(crate) fn new(memory: Arc<NodeBudget>) -> PodTable {
        PodTable { workers: Mutex::default(), retired: Notify::new(), memory }
    }

    /// Passes a pod's newest state to its worker; the handle to give to a new worker if there is none and
    /// `wanted` says that the pod needs one.
    pub(crate) fn apply(&self, pod: &Arc<Pod>, wanted: impl FnOnce(&Pod) -> bool) -> Option<Arc<PodHandle>> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let mut table = self.workers.lock();
        if let Some(handle) = table.get(uid) {
            handle.update(pod.clone());
            return None;
        }
        if !wanted(pod) {
            return None;
        }
        let handle = Arc::new(PodHandle::of_node(pod, &self.memory));
        table.insert(uid.into(), handle.clone());
        Some(handle)
    }

    /// The worker of a pod.
    pub(crate) fn get(&self, uid: &str) -> Option<Arc<PodHandle>> {
        self.workers.lock().get(uid).cloned()
    }

    /// Tells a pod's worker that the object is gone; false if there is no worker.
    pub(crate) fn gone(&self, uid: &str) -> bool {
        let table = self.workers.lock();
        let handle = table.get(uid);
        handle.inspect(|handle| handle.gone()).is_some()
    }

    /// Ends a worker's entry, unless something has arrived for it: then it must go on.
    pub(crate) fn retire(&self, handle: &PodHandle) -> bool {
        let mut table = self.workers.lock();
        let quiet = handle.is_quiet();
        if quiet {
            table.remove(handle.uid());
            self.retired.notify_waiters();
        }
        quiet
    }

    /// Waits until none of these has a worker any more.
    pub(crate) async fn all_retired(&self, handles: &[Arc<PodHandle>]) {
        for handle in handles {
            loop {
                let retired = self.retired.notified();
                if self.get(handle.uid()).is_none() {
                    break;
                }
                retired.await;
            }
        }
    }

    /// Every worker.
    pub(crate) fn all(&self) -> Vec<Arc<PodHandle>> {
        self.workers.lock().values().cloned().collect()
    }
}
