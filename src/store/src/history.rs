//! The recent changes of one segment: a log that many watchers read through cursors, and that lists
//! at an older revision undo.
//!
//! Places in the log are numbered from 0 over the segment's life, so a cursor stays valid while old
//! changes are dropped at the front, and can tell that it was overtaken.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::{Compacted, Entry, Event, EventKind, Revision};

/// Changes that one segment remembers at most. A thousand pods that start at once make about six
/// thousand changes: a client that lists them in pages meanwhile must not be told to begin again.
pub const HISTORY_EVENTS: usize = 8_192;

/// How long a change is remembered at most: as long as Kubernetes keeps etcd's history between two
/// compactions, which is what clients are built for.
pub const HISTORY_AGE: Duration = Duration::from_secs(5 * 60);

/// Bytes that the history of all segments together may hold beyond the live entries. Past that the
/// segment with the largest history gives up its oldest changes, so a busy kind pays for itself. It
/// holds some six thousand versions of a usual pod and keeps a small machine small.
pub const HISTORY_BYTES: usize = 24 * 1024 * 1024;

/// The changes of one segment, oldest first.
pub(crate) struct History {
    records: VecDeque<Record>,
    /// Number of the first record that is still there.
    first: u64,
    /// Every change with a revision greater than this is in `records`.
    floor: Revision,
    bytes: usize,
}

struct Record {
    event: Arc<Event>,
    at: Instant,
}

/// What a cursor finds when it looks.
pub(crate) enum Scan {
    /// A change for it, and the number after it.
    Found(Arc<Event>, u64),
    /// Nothing yet; everything before this number was looked at.
    End(u64),
}

impl History {
    /// An empty history of a segment that has not changed since `floor`.
    pub(crate) fn new(floor: Revision) -> History {
        History { records: VecDeque::new(), first: 0, floor, bytes: 0 }
    }

    pub(crate) fn floor(&self) -> Revision {
        self.floor
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// The number that the next change will get.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.records.len() as u64
    }

    pub(crate) fn push(&mut self, event: Arc<Event>, at: Instant) {
        self.bytes += cost(&event);
        self.records.push_back(Record { event, at });
        if self.records.len() > HISTORY_EVENTS {
            self.drop_oldest();
        }
    }

    /// Drops the oldest change, if there is one.
    pub(crate) fn drop_oldest(&mut self) {
        if let Some(record) = self.records.pop_front() {
            self.bytes -= cost(&record.event);
            self.first += 1;
            self.floor = self.floor.max(record.event.revision());
        }
    }

    /// Drops what is too old, and says when the next change will be.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Instant> {
        while let Some(record) = self.records.front() {
            let until = record.at + HISTORY_AGE;
            if until > now {
                return Some(until);
            }
            self.drop_oldest();
        }
        self.records.shrink_to_fit();
        None
    }

    /// Drops every change up to `revision`.
    pub(crate) fn compact(&mut self, revision: Revision) {
        while self.records.front().is_some_and(|record| record.event.revision() <= revision) {
            self.drop_oldest();
        }
        self.floor = self.floor.max(revision);
    }

    /// Whether the history reaches back to `revision`.
    pub(crate) fn reaches(&self, revision: Revision) -> Result<(), Compacted> {
        reaches(self.floor, revision)
    }

    /// The number of the first change after `revision`.
    pub(crate) fn seek(&self, revision: Revision) -> u64 {
        self.first + self.records.partition_point(|record| record.event.revision() <= revision) as u64
    }

    /// The first change at number `from` or later whose key begins with `prefix` and whose revision
    /// is greater than `after`; `None` if changes at `from` were dropped.
    pub(crate) fn scan(&self, from: u64, prefix: &str, after: Revision) -> Option<Scan> {
        let skip = usize::try_from(from.checked_sub(self.first)?).ok()?;
        let found = self.records.iter().enumerate().skip(skip).find(|(_, record)| {
            record.event.entry.key().starts_with(prefix) && record.event.revision() > after
        });
        Some(match found {
            Some((index, record)) => Scan::Found(record.event.clone(), self.first + index as u64 + 1),
            None => Scan::End(self.end()),
        })
    }

    /// For each key below `prefix` that changed after `revision`: what it was then.
    pub(crate) fn undo(&self, revision: Revision, prefix: &str) -> BTreeMap<&str, Option<&Arc<Entry>>> {
        let mut before = BTreeMap::new();
        for Record { event, .. } in self.records.iter().rev() {
            if event.revision() <= revision {
                break;
            }
            if event.entry.key().starts_with(prefix) {
                before.insert(event.entry.key(), event.previous.as_ref());
            }
        }
        before
    }
}

/// Whether a history with this floor reaches back to `revision`.
pub(crate) fn reaches(floor: Revision, revision: Revision) -> Result<(), Compacted> {
    if revision >= floor { Ok(()) } else { Err(Compacted { requested: revision, oldest: floor }) }
}

/// Bytes that a change keeps in memory beyond the live entries: itself, the version it replaced, and
/// the final state if it is a deletion.
fn cost(event: &Event) -> usize {
    let last = if event.kind == EventKind::Deleted { event.entry.cost() } else { 0 };
    size_of::<Record>()
        + size_of::<Event>()
        + 24
        + last
        + event.previous.as_ref().map_or(0, |entry| entry.cost())
}
