//! The one task that writes: it gives the revisions and the order.
//!
//! ```text
//!  ┌─► wait ── ops in the queue ──► evaluate ── events ──► commit ── durable ──► publish, answer ─┐
//!  │     │                             │ nothing changes      │ failed                            │
//!  │     │ closed and drained          ▼                      ▼                                   │
//!  │     ▼                          answer               failed: every write of this batch        │
//!  │  release the engine                                 and after it is answered with the cause  │
//!  └──────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! While a commit waits for the disk new writes queue up and become the next batch, so the number
//! of writes per second grows with the number of writers while the number of disk flushes does not. After a
//! batch of several writes the next one waits a moment for more.
//! Answers, refusals included, wait for the commit: a refusal may rest on a write of the same batch.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::cache::Cache;
use crate::engine::{self, Batch, Engine};
use crate::{Entry, Event, EventKind, Failure, Op, Revision, WriteError};

/// Bytes that one value may have: the limit of an etcd request, which is what Kubernetes' clients
/// meet elsewhere.
pub const MAX_VALUE_BYTES: usize = 3 * 512 * 1024;

/// Bytes that one key may have. The longest Kubernetes key (resource and group, namespace, name) has
/// 63 + 1 + 253 + 1 + 63 + 1 + 253 = 635.
pub const MAX_KEY_BYTES: usize = 768;

/// Writes in one batch at most. Beyond this a larger batch no longer saves flushes worth mentioning,
/// and makes the first writer in it wait for the last.
pub const MAX_BATCH_WRITES: usize = 1_024;

/// Bytes in one batch at most, but for its last write: bounds the memory and the time of a commit.
pub const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;

/// Writes in a batch from which on more are likely to be on their way...
const BUSY_BATCH: usize = 4;
/// ... and how long after the end of its commit the next one begins at the earliest. A commit costs the same
/// processor time for one write as for ten, so that a busy store, whose writers wait for a processor anyway,
/// answers more of them with fewer commits. A store with few writers never waits.
pub(crate) const GATHER: Duration = Duration::from_millis(2);

/// How long a closing store waits for an engine whose commit has failed. A healthy one is waited
/// for without limit.
const RELEASE_FAILED: Duration = Duration::from_secs(5);

pub(crate) type Answer = Result<Arc<Entry>, WriteError>;

/// A write that waits for its turn.
pub(crate) struct Request {
    pub(crate) op: Op,
    pub(crate) answer: oneshot::Sender<Answer>,
}

pub(crate) struct Writer {
    pub(crate) cache: Arc<Cache>,
    pub(crate) engine: Box<dyn Engine>,
    pub(crate) queue: mpsc::Receiver<Request>,
    pub(crate) stop: CancellationToken,
    /// Set once, by the first commit that failed.
    pub(crate) failure: Arc<OnceLock<Failure>>,
}

impl Writer {
    pub(crate) async fn run(mut self) {
        let mut waiting: Vec<Request> = Vec::new();
        let mut busy_until = None;
        while self.wait(&mut waiting).await {
            if let Some(until) = busy_until {
                sleep_until(until).await;
                self.take(&mut waiting);
            }
            let rest = waiting.split_off(batch_length(&waiting));
            let batch = std::mem::replace(&mut waiting, rest);
            let busy = self.engine.blocks() && batch.len() >= BUSY_BATCH;
            self = self.process(batch).await;
            busy_until = busy.then(|| Instant::now() + GATHER);
        }
        self.cache.close();
        release(self.engine, self.failure.get().is_some()).await;
    }

    /// Adds what has queued up, waiting for it if there is nothing left from before. False when the
    /// store is closed and everything was processed.
    async fn wait(&mut self, waiting: &mut Vec<Request>) -> bool {
        if self.stop.is_cancelled() {
            self.queue.close();
        }
        self.take(waiting);
        while waiting.is_empty() {
            let expiry = self.cache.expire(Instant::now());
            let expired = async {
                match expiry {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                count = self.queue.recv_many(waiting, MAX_BATCH_WRITES) => if count == 0 { return false },
                () = self.stop.cancelled(), if !self.queue.is_closed() => self.queue.close(),
                () = expired => {}
            }
        }
        true
    }

    /// Adds what has queued up.
    fn take(&mut self, waiting: &mut Vec<Request>) {
        while waiting.len() < MAX_BATCH_WRITES {
            match self.queue.try_recv() {
                Ok(request) => waiting.push(request),
                Err(_) => break,
            }
        }
    }

    /// Evaluates, commits, publishes and answers one batch.
    async fn process(mut self, requests: Vec<Request>) -> Writer {
        if let Some(failure) = self.failure.get() {
            answer_failed(requests, failure);
            return self;
        }
        let first = self.cache.revision();
        let (answers, events): (Vec<_>, _) = {
            let mut evaluation = Evaluation::new(&self.cache, first);
            let answers = requests
                .into_iter()
                .map(|Request { op, answer }| (evaluation.evaluate(op), answer))
                .collect();
            (answers, evaluation.events)
        };
        let batch = Batch { revision: first + events.len() as Revision, events };
        let (engine, batch, outcome) = if batch.events.is_empty() {
            (self.engine, batch, Ok(()))
        } else {
            commit(self.engine, batch).await
        };
        self.engine = engine;
        match outcome {
            Ok(()) => {
                self.cache.publish(&batch.events, batch.revision, Instant::now());
                for (outcome, answer) in answers {
                    // Who went away does not need its answer.
                    let _ = answer.send(outcome);
                }
            }
            Err(failure) => {
                tracing::error!(reason = %failure, "a commit failed; the store takes no more writes");
                for (_, answer) in answers {
                    let _ = answer.send(Err(WriteError::Failed(failure.clone())));
                }
                self.failure.get_or_init(|| failure);
            }
        }
        self
    }
}

/// How many of the waiting writes make up the next batch.
fn batch_length(waiting: &[Request]) -> usize {
    let mut bytes = 0;
    let length = waiting.iter().take_while(|request| {
        let fits = bytes < MAX_BATCH_BYTES;
        bytes += request.op.payload().bytes.len();
        fits
    });
    length.take(MAX_BATCH_WRITES).count()
}

fn answer_failed(requests: Vec<Request>, failure: &Failure) {
    for request in requests {
        let _ = request.answer.send(Err(WriteError::Failed(failure.clone())));
    }
}

/// Commits where waiting for a disk hurts nobody. The engine comes back also if it failed.
async fn commit(mut engine: Box<dyn Engine>, batch: Batch) -> (Box<dyn Engine>, Batch, Result<(), Failure>) {
    let blocks = engine.blocks();
    let work = move || {
        // The engine is not used again after a panic, only released.
        let outcome = catch_unwind(AssertUnwindSafe(|| engine.commit(&batch)));
        let outcome = match outcome {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Failure::new(&engine::chain(&error))),
            Err(panic) => Err(Failure::new(&format!("the engine panicked: {}", engine::panic_text(&*panic)))),
        };
        (engine, batch, outcome)
    };
    if !blocks {
        return work();
    }
    spawn_blocking(work).await.expect("the closure catches panics, and its runtime runs this task")
}

/// Lets the engine go, outside the runtime's threads: it may still write, and sled may panic.
async fn release(engine: Box<dyn Engine>, failed: bool) {
    let released = spawn_blocking(move || catch_unwind(AssertUnwindSafe(|| drop(engine))));
    if failed {
        let _ = timeout(RELEASE_FAILED, released).await;
    } else if !matches!(released.await, Ok(Ok(()))) {
        tracing::warn!("the store's engine did not close cleanly; what was acknowledged is safe");
    }
}

/// Writes against the state that the writes before them leave behind.
struct Evaluation<'a> {
    cache: &'a Cache,
    revision: Revision,
    /// Keys that this batch has changed, as it leaves them.
    overlay: HashMap<Box<str>, Option<Arc<Entry>>>,
    events: Vec<Arc<Event>>,
}

impl Evaluation<'_> {
    fn new(cache: &Cache, revision: Revision) -> Evaluation<'_> {
        Evaluation { cache, revision, overlay: HashMap::new(), events: Vec::new() }
    }

    fn evaluate(&mut self, op: Op) -> Answer {
        check(&op)?;
        let current = match self.overlay.get(op.key()) {
            Some(current) => current.clone(),
            None => self.cache.get(op.key()),
        };
        let (kind, key, payload) = match (op, &current) {
            (Op::Create { .. }, Some(current)) => {
                return Err(WriteError::Exists { current: current.clone() });
            }
            (Op::Create { key, payload }, None) => (EventKind::Added, key, payload),
            (Op::Update { .. } | Op::Delete { .. }, None) => return Err(WriteError::NotFound),
            (Op::Update { expect, .. } | Op::Delete { expect, .. }, Some(current))
                if current.revision() != expect =>
            {
                return Err(WriteError::Conflict { current: current.clone() });
            }
            (Op::Update { key, payload, .. }, Some(_)) => (EventKind::Modified, key, payload),
            (Op::Delete { key, last, .. }, Some(_)) => (EventKind::Deleted, key, last),
        };
        self.revision += 1;
        let created = current.as_ref().map_or(self.revision, |current| current.create_revision());
        let key = key.into_boxed_str();
        let entry = Entry::new(key.clone(), payload.splice(self.revision), created, self.revision);
        self.overlay.insert(key, (kind != EventKind::Deleted).then(|| entry.clone()));
        self.events.push(Arc::new(Event { kind, entry: entry.clone(), previous: current }));
        Ok(entry)
    }
}

/// What can be said about a write without looking at the state.
fn check(op: &Op) -> Result<(), WriteError> {
    let (key, payload) = (op.key(), op.payload());
    if key.is_empty() || key.len() > MAX_KEY_BYTES || key.contains('\0') {
        return Err(WriteError::Invalid("the key is empty, too long, or has a NUL in it"));
    }
    if payload.revision_at > payload.bytes.len() {
        return Err(WriteError::Invalid("the place for the revision lies outside the value"));
    }
    let size = payload.bytes.len();
    if size > MAX_VALUE_BYTES {
        return Err(WriteError::TooLarge { size, limit: MAX_VALUE_BYTES });
    }
    Ok(())
}
