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
//! From two runs of `cargo bench -p coracle-store` on 2026-11-21, on a virtual machine with two cores
//! that was compiling at the same time; values of 2,000 bytes. They say which order of magnitude to
//! expect, not more: the runs differ by a factor of up to three.
//!
//! | what | first run | second run |
//! | --- | --- | --- |
//! | durable writes per second, 1 writer | 930 | 2,150 |
//! | ... 16 writers | 16,100 | 18,100 |
//! | ... 256 writers | 61,300 | 81,900 |
//! | writes per second in memory, 256 writers | 339,000 | 574,000 |
//! | pages of 500 entries per second | 6,840 | 8,280 |
//! | ... 1,000 changes ago | 840 | 1,320 |
//! | opening 10,000 entries | 97 ms | 85 ms |
//! | events per second to 1,000 watchers | 5.8 million | 18 million |
//!
//! A process that only has 10,000 of them open had 46 MB resident (second run).

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
