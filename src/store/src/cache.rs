//! The whole state in memory: what all reads and watches are served from.
//!
//! One lock over everything keeps "the state at revision N" one fact: a list that says N shows
//! exactly N, over all segments. It is held for the time it takes to insert a batch, or to copy the
//! pointers of a page. Values are shared, never copied.
//!
//! The cache does not know where changes come from: the embedded writer publishes its batches here,
//! and a follower of a distributed store would publish what it watches.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::history::{self, HISTORY_BYTES, History, Scan};
use crate::{Compacted, Entry, Event, EventKind, ListOptions, Listing, Revision, WatchError, Watcher};

/// How much a store holds in memory. The numbers count keys, values and our own structures, not what
/// readers attach through [`Entry::memo`] nor what the engine underneath uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Live entries.
    pub entries: usize,
    /// Bytes of the live entries.
    pub bytes: usize,
    /// Changes in the history of all segments.
    pub history_events: usize,
    /// Bytes that only the history holds.
    pub history_bytes: usize,
}

pub(crate) struct Cache {
    state: RwLock<State>,
}

struct State {
    revision: Revision,
    /// The floor of segments that do not exist yet: nothing of theirs was dropped since.
    floor: Revision,
    closed: bool,
    /// Places in `segments`. A segment stays for the life of the process, so its place does too;
    /// there is one per kind that was ever stored or watched.
    names: HashMap<Box<str>, usize>,
    segments: Vec<Segment>,
    entry_bytes: usize,
}

struct Segment {
    entries: BTreeSet<ByKey>,
    history: History,
    /// Tells watchers to look again. It carries nothing: they read the history.
    signal: watch::Sender<()>,
}

/// An entry in the order of its key. The key lives in the entry only.
struct ByKey(Arc<Entry>);

impl Cache {
    /// The state at the start, with no history: nothing before `revision` can be watched from.
    pub(crate) fn new(revision: Revision, entries: Vec<Arc<Entry>>) -> Arc<Cache> {
        let mut state = State {
            revision,
            floor: revision,
            closed: false,
            names: HashMap::new(),
            segments: Vec::new(),
            entry_bytes: 0,
        };
        for entry in entries {
            state.entry_bytes += entry.cost();
            let index = state.segment_or_new(entry.key());
            state.segments[index].entries.insert(ByKey(entry));
        }
        Arc::new(Cache { state: RwLock::new(state) })
    }

    pub(crate) fn revision(&self) -> Revision {
        self.state.read().revision
    }

    pub(crate) fn get(&self, key: &str) -> Option<Arc<Entry>> {
        let state = self.state.read();
        state.segment(key)?.entries.get(key).map(|found| found.0.clone())
    }

    pub(crate) fn list(&self, prefix: &str, options: &ListOptions) -> Result<Listing, Compacted> {
        let state = self.state.read();
        let at = options.at.filter(|at| *at < state.revision);
        let revision = at.unwrap_or(state.revision);
        let mut listing = Listing { entries: Vec::new(), revision, remaining: 0, more: false };
        let Some(segment) = state.segment(prefix) else {
            return history::reaches(state.floor, revision).map(|()| listing);
        };
        segment.history.reaches(revision)?;
        let limit = options.limit.filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        segment.visit(prefix, options.after.as_deref(), at, |entry| {
            if listing.entries.len() < limit {
                listing.entries.push(entry.clone());
            } else {
                listing.remaining += 1;
            }
        });
        listing.more = listing.remaining > 0;
        Ok(listing)
    }

    pub(crate) fn watch(self: &Arc<Cache>, prefix: &str, from: Revision) -> Result<Watcher, Compacted> {
        let mut state = self.state.write();
        let index = state.segment_or_new(prefix);
        let segment = &state.segments[index];
        segment.history.reaches(from)?;
        let signal = segment.signal.subscribe();
        Ok(Watcher::new(self.clone(), index, signal, prefix, from, segment.history.seek(from)))
    }

    /// The next change for a cursor of segment `index`.
    pub(crate) fn scan(
        &self,
        index: usize,
        from: u64,
        prefix: &str,
        after: Revision,
    ) -> Result<Scan, WatchError> {
        let state = self.state.read();
        let history = &state.segments[index].history;
        match history.scan(from, prefix, after) {
            None => Err(Compacted { requested: after, oldest: history.floor() }.into()),
            Some(Scan::End(_)) if state.closed => Err(WatchError::Closed),
            Some(scan) => Ok(scan),
        }
    }

    /// The newest revision, if a cursor of segment `index` has seen all its changes.
    pub(crate) fn caught_up(&self, index: usize, cursor: u64) -> Option<Revision> {
        let state = self.state.read();
        (state.segments[index].history.end() == cursor).then_some(state.revision)
    }

    /// Makes durable changes visible, all at once, and wakes who watches them. `revision` is that of
    /// the last one.
    pub(crate) fn publish(&self, events: &[Arc<Event>], revision: Revision, now: Instant) {
        let mut state = self.state.write();
        let state = &mut *state;
        let mut touched = Vec::new();
        for event in events {
            let index = state.segment_or_new(event.entry.key());
            let segment = &mut state.segments[index];
            if event.kind == EventKind::Deleted {
                segment.entries.remove(event.entry.key());
            } else {
                segment.entries.replace(ByKey(event.entry.clone()));
                state.entry_bytes += event.entry.cost();
            }
            state.entry_bytes -= event.previous.as_ref().map_or(0, |previous| previous.cost());
            segment.history.push(event.clone(), now);
            if !touched.contains(&index) {
                touched.push(index);
            }
        }
        state.revision = revision;
        state.bound_history();
        for index in touched {
            state.segments[index].signal.send_replace(());
        }
    }

    /// Forgets changes that are too old, and says when the next one will be.
    pub(crate) fn expire(&self, now: Instant) -> Option<Instant> {
        self.state.write().segments.iter_mut().filter_map(|segment| segment.history.expire(now)).min()
    }

    pub(crate) fn compact(&self, revision: Revision) {
        let mut state = self.state.write();
        let revision = revision.min(state.revision);
        state.floor = state.floor.max(revision);
        for segment in &mut state.segments {
            segment.history.compact(revision);
        }
    }

    /// Ends all watches, once they have delivered what is there.
    pub(crate) fn close(&self) {
        let mut state = self.state.write();
        state.closed = true;
        for segment in &state.segments {
            segment.signal.send_replace(());
        }
    }

    pub(crate) fn usage(&self) -> Usage {
        let state = self.state.read();
        let mut usage = Usage { bytes: state.entry_bytes, ..Usage::default() };
        for segment in &state.segments {
            usage.entries += segment.entries.len();
            usage.history_events += segment.history.len();
            usage.history_bytes += segment.history.bytes();
        }
        usage
    }
}

impl State {
    fn segment(&self, key: &str) -> Option<&Segment> {
        self.names.get(segment_name(key)).map(|index| &self.segments[*index])
    }

    fn segment_or_new(&mut self, key: &str) -> usize {
        let name = segment_name(key);
        if let Some(index) = self.names.get(name) {
            return *index;
        }
        let index = self.segments.len();
        self.names.insert(name.into(), index);
        self.segments.push(Segment {
            entries: BTreeSet::new(),
            history: History::new(self.floor),
            signal: watch::Sender::new(()),
        });
        index
    }

    /// Lets the largest history give way until all together fit.
    fn bound_history(&mut self) {
        let mut total: usize = self.segments.iter().map(|segment| segment.history.bytes()).sum();
        while total > HISTORY_BYTES {
            let largest = self.segments.iter_mut().max_by_key(|segment| segment.history.bytes());
            let Some(Segment { history, .. }) = largest else { return };
            total -= history.bytes();
            history.drop_oldest();
            total += history.bytes();
        }
    }
}

impl Segment {
    /// Calls `visit` for the entries below `prefix` with a key greater than `after`, in key order,
    /// as they are now or were at revision `at`.
    fn visit<'a>(
        &'a self,
        prefix: &str,
        after: Option<&str>,
        at: Option<Revision>,
        mut visit: impl FnMut(&'a Arc<Entry>),
    ) {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let live = self.entries.range::<str, _>((start, Bound::Unbounded)).map(|entry| &entry.0);
        let live = live.take_while(|entry| entry.key().starts_with(prefix));
        let Some(at) = at else {
            return live.for_each(visit);
        };

        let undone = self.history.undo(at, prefix);
        let mut past =
            undone.range::<str, _>((start, Bound::Unbounded)).filter_map(|(_, then)| *then).peekable();
        for entry in live.filter(|entry| !undone.contains_key(entry.key())) {
            while let Some(then) = past.next_if(|then| then.key() < entry.key()) {
                visit(then);
            }
            visit(entry);
        }
        past.for_each(visit);
    }
}

fn segment_name(key: &str) -> &str {
    key.split_once('/').map_or(key, |(name, _)| name)
}

impl Borrow<str> for ByKey {
    fn borrow(&self) -> &str {
        self.0.key()
    }
}

impl Ord for ByKey {
    fn cmp(&self, other: &ByKey) -> Ordering {
        self.0.key().cmp(other.0.key())
    }
}

impl PartialOrd for ByKey {
    fn partial_cmp(&self, other: &ByKey) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ByKey {
    fn eq(&self, other: &ByKey) -> bool {
        self.0.key() == other.0.key()
    }
}

impl Eq for ByKey {}
