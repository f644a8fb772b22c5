//! Room `store`: a revisioned key-value store that can be watched.
//!
//! Every write gets the next [`Revision`] of one counter for the whole store, is durable before it
//! is answered, and becomes visible to readers and watchers just before its answer. All reads come
//! from memory; the [engine](Embedded) underneath is only read once, at the start.
//!
//! The store knows keys and bytes. It must never know what a pod is, do HTTP, or look into a value:
//! the one thing it writes into a value is the decimal revision, at the offset that the writer named
//! ([`Payload`]), so that an object is serialised once and the same bytes serve storage, lists and
//! every watcher.
//!
//! Read first: [`Store`] (what every engine offers), [`Embedded`] (the two engines inside this
//! process), [`Watcher`] (a cursor in a shared log, not a queue).
//!
//! ```text
//!  write(op) ──► queue ──► writer task ─ evaluate ─► Batch ─► Engine::commit (disk) ─┐
//!                             ▲                                                      │ durable
//!                             └── next batch: all that queued meanwhile              ▼
//!  get, list, watch ◄───────────────────────────────────────────── Cache::publish ──► answers
//! ```
//!
//! # Memory
//! An entry costs its key, its value and 132 bytes; what the API server attaches by [`Entry::memo`]
//! comes on top. The history holds at most [`HISTORY_BYTES`] beyond the live entries. sled keeps up
//! to 8 MB of pages and half a megabyte per write buffer. [`Embedded::usage`] counts.
//!
//! # Figures
//! Measured on 2026-11-21 with `cargo bench -p coracle-store` on a virtual machine with two cores,
//! with values of 2,000 bytes:
//!
//! | what | figure |
//! | --- | --- |
//! | durable writes per second: 1, 16, 256 writers | 2,150, 18,100, 81,900 |
//! | writes per second in memory, 256 writers | 574,000 |
//! | pages of 500 entries per second: now, 1,000 changes ago | 8,280, 1,320 |
//! | opening 10,000 entries | 85 ms |
//! | resident memory of a process that only has these open | 46 MB |
//! | events per second to 1,000 watchers | 18 million |

mod cache;
mod embedded;
mod engine;
mod entry;
mod error;
mod history;
mod store;
mod watcher;
mod writer;

#[cfg(test)]
mod tests;

pub use cache::Usage;
pub use embedded::Embedded;
pub use entry::{Entry, Event, EventKind, Payload};
pub use error::{Compacted, Failure, OpenError, StoreError, WatchError, WriteError};
pub use history::{HISTORY_AGE, HISTORY_BYTES, HISTORY_EVENTS};
pub use store::{ListOptions, Listing, Op, Revision, Store};
pub use watcher::Watcher;
pub use writer::{MAX_BATCH_BYTES, MAX_BATCH_WRITES, MAX_KEY_BYTES, MAX_VALUE_BYTES};
