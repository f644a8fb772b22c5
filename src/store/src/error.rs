//! What can fail, one type per question: opening, writing, listing and watching, the store as a whole.

use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;

use crate::{Entry, Revision};

/// Why a store could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process (or another store in this one) has the folder.
    #[error("the store at {path} is in use by another process; stop that process first", path = .path.display())]
    Locked {
        /// The store's folder.
        path: PathBuf,
    },
    /// The folder holds something that cannot be read back as it was written.
    #[error(
        "the store at {path} is damaged: {reason}. \
         Restore the folder from a backup, or move it away to start with an empty store",
        path = .path.display()
    )]
    Damaged {
        /// The store's folder.
        path: PathBuf,
        /// What did not fit.
        reason: String,
    },
    /// The data was written by a version of Coracle that this one does not know.
    #[error(
        "the store at {path} has format {found}, and this version of Coracle reads format {known}; \
         use the version that wrote it",
        path = .path.display()
    )]
    Format {
        /// The store's folder.
        path: PathBuf,
        /// The format found.
        found: u32,
        /// The format this build reads and writes.
        known: u32,
    },
    /// The folder cannot be created, read or written.
    #[error("cannot {action} the store at {path}", path = .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried: `create`, `lock`, `open`, …
        action: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// Why the engine could not make a batch durable, in one line with all its causes.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{reason}")]
pub struct Failure {
    reason: Arc<str>,
}

impl Failure {
    pub(crate) fn new(reason: &str) -> Failure {
        Failure { reason: reason.into() }
    }
}

/// The store cannot serve any more.
#[derive(Clone, Debug, Error)]
pub enum StoreError {
    /// It was closed.
    #[error("the store is closed")]
    Closed,
    /// A commit failed earlier. What was acknowledged can still be read; nothing can be written
    /// until the store is opened again.
    #[error("the store takes no more writes, because a commit failed")]
    Failed(#[source] Failure),
}

/// Why a write was refused. Unless it says otherwise nothing was changed.
#[derive(Clone, Debug, Error)]
pub enum WriteError {
    /// A creation found the key.
    #[error("{} already exists", .current.key())]
    Exists {
        /// What is there.
        current: Arc<Entry>,
    },
    /// An update or deletion did not find the key.
    #[error("the key does not exist")]
    NotFound,
    /// An update or deletion expected another revision.
    #[error("{} is at revision {}", .current.key(), .current.revision())]
    Conflict {
        /// What is there.
        current: Arc<Entry>,
    },
    /// The value is larger than [`MAX_VALUE_BYTES`](crate::MAX_VALUE_BYTES).
    #[error("the value has {size} bytes, more than the {limit} that a value may have")]
    TooLarge {
        /// Bytes of the payload.
        size: usize,
        /// Bytes that are allowed.
        limit: usize,
    },
    /// The key or the payload cannot be stored.
    #[error("{0}")]
    Invalid(&'static str),
    /// The store was closed before the write was taken.
    #[error("the store is closed")]
    Closed,
    /// The commit of this write or of one before it failed. Whether this write will be there when
    /// the store is opened again is not known; it is not visible until then.
    #[error("the write could not be made durable")]
    Failed(#[source] Failure),
}

/// The history before this point is gone: list again and watch from there.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("revision {requested} is older than the history, which begins at revision {oldest}")]
pub struct Compacted {
    /// The revision that was asked for.
    pub requested: Revision,
    /// The oldest revision that can still be listed at or watched from.
    pub oldest: Revision,
}

/// Why a watch ended.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum WatchError {
    /// The watcher fell behind the history window, or the history was compacted over it.
    #[error(transparent)]
    Compacted(#[from] Compacted),
    /// The store was closed, and everything before that was delivered.
    #[error("the store is closed")]
    Closed,
}
