//! The trait that every store fulfils, embedded or distributed.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{Compacted, Entry, Payload, StoreError, Watcher, WriteError};

/// A point in the history of the whole store.
///
/// An empty store begins at revision 1, so that no list ever says 0 (which means "any" in the
/// Kubernetes API); the first write gets 2. It never goes back, also not over restarts.
pub type Revision = u64;

/// A write: what to do, and what must be true for it.
#[derive(Clone, Debug)]
pub enum Op {
    /// Creates a key that does not exist.
    Create {
        /// The full key.
        key: String,
        /// Its value.
        payload: Payload,
    },
    /// Replaces the value of a key that is at revision `expect`.
    Update {
        /// The full key.
        key: String,
        /// Its new value.
        payload: Payload,
        /// The revision it was derived from.
        expect: Revision,
    },
    /// Deletes a key that is at revision `expect`.
    Delete {
        /// The full key.
        key: String,
        /// The revision that was looked at.
        expect: Revision,
        /// The final state, which watchers get with the deletion.
        last: Payload,
    },
}

impl Op {
    /// The key it is about.
    pub fn key(&self) -> &str {
        match self {
            Op::Create { key, .. } | Op::Update { key, .. } | Op::Delete { key, .. } => key,
        }
    }

    pub(crate) fn payload(&self) -> &Payload {
        match self {
            Op::Create { payload, .. } | Op::Update { payload, .. } => payload,
            Op::Delete { last, .. } => last,
        }
    }
}

/// Which part of a range to list.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// The state at this revision; the newest if `None` or in the future.
    pub at: Option<Revision>,
    /// Only keys greater than this full key.
    pub after: Option<String>,
    /// At most so many entries; `None` and 0 mean all.
    pub limit: Option<usize>,
}

/// A consistent view of a range, in key order.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The entries of this page.
    pub entries: Vec<Arc<Entry>>,
    /// The revision at which exactly this was true.
    pub revision: Revision,
    /// How many entries of the range come after this page.
    pub remaining: usize,
    /// Whether there are any.
    pub more: bool,
}

/// A revisioned key-value store with watch.
///
/// Keys are `<segment>/…`, where the segment is the part up to the first `/`; a prefix names (a
/// part of) one segment, and a prefix without `/` all of it. Each segment has one log of its own, so
/// watchers of pods are not woken by leases.
///
/// Guarantees:
/// - Writes are linear: each sees all before it, and revisions are given in that order, one each.
/// - A write that was answered is durable, and visible to every read that begins after the answer.
/// - What a read or a watcher shows is durable.
/// - A watcher gets every change of its prefix after its starting revision, once, in order, or an
///   error that says that it cannot.
/// - Dropping the future of a write does not tell whether the write happens.
#[async_trait]
pub trait Store: Send + Sync {
    /// The newest revision that can be read.
    fn revision(&self) -> Revision;

    /// Waits until memory holds all that was acknowledged, by anyone, before this call, and says
    /// which revision that is. Also tells whether the store still works.
    async fn fresh(&self) -> Result<Revision, StoreError>;

    /// The newest version of a key.
    fn get(&self, key: &str) -> Option<Arc<Entry>>;

    /// The keys that begin with `prefix`, as they were at one revision. An older revision costs
    /// time in proportion to the changes since.
    fn list(&self, prefix: &str, options: ListOptions) -> Result<Listing, Compacted>;

    /// Does `op`, and answers when it is durable with the new version (of a deletion: the final
    /// state).
    async fn write(&self, op: Op) -> Result<Arc<Entry>, WriteError>;

    /// The changes below `prefix` with a revision greater than `from`.
    fn watch(&self, prefix: &str, from: Revision) -> Result<Watcher, Compacted>;

    /// Forgets the history before `revision`: nothing older can be listed at or watched from.
    fn compact(&self, revision: Revision);
}
