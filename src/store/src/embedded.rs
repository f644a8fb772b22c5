//! The stores inside this process: memory and sled.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::cache::Cache;
use crate::engine::memory::Memory;
use crate::engine::sled::Sled;
use crate::engine::{Engine, Loaded};
use crate::writer::{MAX_BATCH_WRITES, Request, Writer};
use crate::{
    Compacted, Entry, Failure, ListOptions, Listing, Op, OpenError, Revision, Store, StoreError, Usage,
    Watcher, WriteError,
};

/// A store inside this process. Its writer runs as one task on the runtime it was opened on.
///
/// Dropping it closes it in the background; [`close`](Embedded::close) says when its folder is free.
pub struct Embedded {
    cache: Arc<Cache>,
    queue: mpsc::Sender<Request>,
    failure: Arc<OnceLock<Failure>>,
    /// Cancelled when the writer has ended and the engine is released.
    ended: CancellationToken,
    stop: DropGuard,
}

impl Embedded {
    /// An empty store that keeps nothing.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn memory() -> Arc<Embedded> {
        Embedded::start(Box::new(Memory), Loaded { revision: 1, entries: Vec::new() })
    }

    /// The store in this folder, which is made if it does not exist. Reads everything into memory.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn sled(dir: &Path) -> Result<Arc<Embedded>, OpenError> {
        let (engine, loaded) = Sled::open(dir)?;
        Ok(Embedded::start(Box::new(engine), loaded))
    }

    pub(crate) fn start(engine: Box<dyn Engine>, loaded: Loaded) -> Arc<Embedded> {
        let cache = Cache::new(loaded.revision, loaded.entries);
        let (queue, requests) = mpsc::channel(MAX_BATCH_WRITES);
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        let failure = Arc::new(OnceLock::new());
        let writer = Writer {
            cache: cache.clone(),
            engine,
            queue: requests,
            stop: stop.clone(),
            failure: failure.clone(),
        };
        let done = ended.clone().drop_guard();
        tokio::spawn(async move {
            writer.run().await;
            drop(done);
        });
        Arc::new(Embedded { cache, queue, failure, ended, stop: stop.drop_guard() })
    }

    /// Takes no more writes, finishes those that were taken, ends the watches, and releases the
    /// engine and its folder. Reads go on. More calls wait for the same end.
    pub async fn close(&self) {
        self.stop.token().cancel();
        self.ended.cancelled().await;
    }

    /// What the store holds in memory.
    pub fn usage(&self) -> Usage {
        self.cache.usage()
    }

    /// Why no answer came.
    fn gone(&self) -> WriteError {
        self.failure.get().map_or(WriteError::Closed, |failure| WriteError::Failed(failure.clone()))
    }
}

#[async_trait]
impl Store for Embedded {
    fn revision(&self) -> Revision {
        self.cache.revision()
    }

    /// Never waits: a write is in memory before it is acknowledged, and nobody else writes.
    async fn fresh(&self) -> Result<Revision, StoreError> {
        match self.failure.get() {
            Some(failure) => Err(StoreError::Failed(failure.clone())),
            None if self.queue.is_closed() => Err(StoreError::Closed),
            None => Ok(self.cache.revision()),
        }
    }

    fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.cache.get(key)
    }

    fn list(&self, prefix: &str, options: ListOptions) -> Result<Listing, Compacted> {
        self.cache.list(prefix, &options)
    }

    async fn write(&self, op: Op) -> Result<Arc<Entry>, WriteError> {
        let (answer, answered) = oneshot::channel();
        self.queue.send(Request { op, answer }).await.map_err(|_| self.gone())?;
        answered.await.unwrap_or_else(|_| Err(self.gone()))
    }

    fn watch(&self, prefix: &str, from: Revision) -> Result<Watcher, Compacted> {
        self.cache.watch(prefix, from)
    }

    fn compact(&self, revision: Revision) {
        self.cache.compact(revision);
    }
}
