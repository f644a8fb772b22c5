//! What the volumes of one pod have together: a place on the node's disk, and handles of the host.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use crate::quota::Quota;
use crate::volume::Usage;

/// What the volumes of one pod have together, whatever limits each of them has besides. Clones are handles on the same
/// share.
///
/// Without it a pod of many volumes would have as many shares of the node.
#[derive(Debug, Clone)]
pub struct PodShare {
    pub(crate) disk: Arc<Quota>,
    /// Handles of the host that are held.
    pub(crate) handles: Arc<AtomicUsize>,
}

impl PodShare {
    /// The share of a pod that may keep `limit` bytes on the node's disk; without a limit they are only counted (the
    /// names are bounded as those of any volume).
    pub fn new(limit: Option<u64>) -> PodShare {
        PodShare { disk: Arc::new(Quota::new(limit)), handles: Arc::default() }
    }

    /// What the pod keeps on the node's disk in volumes of its own.
    pub fn usage(&self) -> Usage {
        self.disk.usage()
    }
}
