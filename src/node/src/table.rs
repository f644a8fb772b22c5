//! The workers of a node's pods, by uid.

use std::{collections::HashMap, sync::Arc};

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

use crate::handle::PodHandle;

/// The workers of a node's pods, by uid.
#[derive(Debug, Default)]
pub(crate) struct PodTable(Mutex<HashMap<Box<str>, Arc<PodHandle>>>);

impl PodTable {
    /// Passes a pod's newest state to its worker; the handle to give to a new worker if there is none and
    /// `wanted` says that the pod needs one.
    pub(crate) fn apply(&self, pod: &Arc<Pod>, wanted: impl FnOnce(&Pod) -> bool) -> Option<Arc<PodHandle>> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let mut table = self.0.lock();
        if let Some(handle) = table.get(uid) {
            handle.update(pod.clone());
            return None;
        }
        if !wanted(pod) {
            return None;
        }
        let handle = Arc::new(PodHandle::new(pod));
        table.insert(uid.into(), handle.clone());
        Some(handle)
    }

    /// The worker of a pod.
    pub(crate) fn get(&self, uid: &str) -> Option<Arc<PodHandle>> {
        self.0.lock().get(uid).cloned()
    }

    /// Tells a pod's worker that the object is gone; false if there is no worker.
    pub(crate) fn gone(&self, uid: &str) -> bool {
        let table = self.0.lock();
        let handle = table.get(uid);
        handle.inspect(|handle| handle.gone()).is_some()
    }

    /// Ends a worker's entry, unless something has arrived for it: then it must go on.
    pub(crate) fn retire(&self, handle: &PodHandle) -> bool {
        let mut table = self.0.lock();
        let quiet = handle.is_quiet();
        if quiet {
            table.remove(handle.uid());
        }
        quiet
    }

    /// Every worker.
    pub(crate) fn all(&self) -> Vec<Arc<PodHandle>> {
        self.0.lock().values().cloned().collect()
    }
}
