//! What lies under the writer: something that makes a batch durable, all or nothing.

pub(crate) mod memory;
pub(crate) mod record;
pub(crate) mod sled;

use std::any::Any;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;

use crate::{Entry, Event, Revision};

/// Changes that become durable together. They are in order, and a key may occur several times.
pub(crate) struct Batch {
    /// The revision after the batch, that of its last change.
    pub(crate) revision: Revision,
    pub(crate) events: Vec<Arc<Event>>,
}

/// A journal of batches. It is never read but when it is opened.
pub(crate) trait Engine: Send {
    /// Makes the batch durable: after `Ok` it survives the loss of power. After an error or a panic
    /// it may or may not be there, whole, at the next start, and the engine is not used again.
    fn commit(&mut self, batch: &Batch) -> Result<(), EngineError>;

    /// Whether a commit waits for a disk, so that it must not run on the runtime's threads.
    fn blocks(&self) -> bool;
}

/// What an engine found when it was opened.
pub(crate) struct Loaded {
    pub(crate) revision: Revision,
    pub(crate) entries: Vec<Arc<Entry>>,
}

/// Why a commit failed.
#[derive(Debug, Error)]
pub(crate) enum EngineError {
    #[error("sled did not take the batch")]
    Apply(#[source] ::sled::Error),
    #[error("sled did not write the batch")]
    Flush(#[source] ::sled::Error),
    #[error("cannot make {path} durable", path = .path.display())]
    Sync {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[cfg(test)]
    #[error("a fault was injected")]
    Injected,
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it did not say why")
}
