//! What is stored: payloads on their way in, entries once they have a revision, events between them.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::Revision;

/// The bytes of a value before it has a revision.
///
/// For a Kubernetes object this is its JSON with `"resourceVersion":""` and the offset between those
/// two quotes: the store writes the decimal revision there. An offset beyond the end is refused
/// with [`WriteError::Invalid`](crate::WriteError::Invalid).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// The value without its revision.
    pub bytes: Vec<u8>,
    /// Where the decimal revision goes, in bytes from the start.
    pub revision_at: usize,
}

impl Payload {
    /// The value with `revision` written into it, in a buffer of exactly its size.
    ///
    /// The caller has checked that `revision_at` lies inside.
    pub(crate) fn splice(&self, revision: Revision) -> Bytes {
        let digits = revision.to_string();
        let (head, tail) = self.bytes.split_at(self.revision_at);
        let mut value = Vec::with_capacity(self.bytes.len() + digits.len());
        value.extend_from_slice(head);
        value.extend_from_slice(digits.as_bytes());
        value.extend_from_slice(tail);
        Bytes::from(value)
    }
}

/// One version of one key. Immutable and shared: the live map, the history, lists and watchers all
/// hold the same allocation.
pub struct Entry {
    key: Box<str>,
    value: Bytes,
    create_revision: Revision,
    revision: Revision,
    memo: Memo,
}

impl Entry {
    /// What an entry costs beside its key and value: the struct, its reference counts, its slot in
    /// the ordered map at the usual fill (two thirds of 8 bytes) and the bookkeeping of three heap
    /// blocks. The memo is not counted; it belongs to whoever made it.
    pub(crate) const OVERHEAD: usize = size_of::<Entry>() + 2 * size_of::<usize>() + 12 + 3 * 8;

    pub(crate) fn new(
        key: Box<str>,
        value: Bytes,
        create_revision: Revision,
        revision: Revision,
    ) -> Arc<Entry> {
        Arc::new(Entry { key, value, create_revision, revision, memo: Memo::default() })
    }

    /// The full key, `<storage>/<namespace>/<name>` or `<storage>/<name>`.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The bytes with the revision written into them. A clone shares them.
    pub fn value(&self) -> &Bytes {
        &self.value
    }

    /// The revision at which the key was created (after its last deletion, if any).
    pub fn create_revision(&self) -> Revision {
        self.create_revision
    }

    /// The revision of this version.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// What `make` makes of this entry, computed at most once per type `T` however many readers ask
    /// at the same time, and kept as long as the entry.
    ///
    /// Meant for the parsed labels and fields that every list and watch needs. `make` must not ask
    /// this same entry for the same `T`. If it panics, the next caller computes again.
    pub fn memo<T: Any + Send + Sync>(&self, make: impl FnOnce(&Entry) -> T) -> &T {
        self.memo.get_or_init(|| make(self))
    }

    /// Bytes of memory this version holds.
    pub(crate) fn cost(&self) -> usize {
        self.key.len() + self.value.len() + Entry::OVERHEAD
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{} ({} bytes)", self.key, self.revision, self.value.len())
    }
}

/// A list of values with one place per type, filled in the order in which types are first asked for.
#[derive(Default)]
struct Memo(OnceLock<Box<MemoNode>>);

struct MemoNode {
    value: Box<dyn Any + Send + Sync>,
    next: Memo,
}

impl Memo {
    fn get_or_init<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> &T {
        let mut place = self;
        let mut make = Some(make);
        loop {
            let node = place.0.get_or_init(|| {
                let make = make.take().expect("a value was made but its node was not of its type");
                Box::new(MemoNode { value: Box::new(make()), next: Memo::default() })
            });
            match node.value.downcast_ref() {
                Some(value) => return value,
                None => place = &node.next,
            }
        }
    }
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// The key did not exist before.
    Added,
    /// The key got a new version.
    Modified,
    /// The key is gone; the event's entry is its final state.
    Deleted,
}

/// One change of one key, shared by all watchers.
#[derive(Debug)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The new version; of a deletion the final state, with the revision of the deletion in it.
    pub entry: Arc<Entry>,
    /// The version before, unless there was none.
    pub previous: Option<Arc<Entry>>,
}

impl Event {
    /// The revision of the change.
    pub fn revision(&self) -> Revision {
        self.entry.revision()
    }
}
