//! Watching: a cursor in a segment's history. It holds no events, so a slow watcher costs nothing
//! but its own chance to be overtaken.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

use crate::cache::Cache;
use crate::history::Scan;
use crate::{Event, Revision, WatchError};

/// The changes below a prefix after a revision, in order, each once.
///
/// One that falls behind the history window ([`HISTORY_EVENTS`](crate::HISTORY_EVENTS),
/// [`HISTORY_AGE`](crate::HISTORY_AGE), [`HISTORY_BYTES`](crate::HISTORY_BYTES)) ends with
/// [`WatchError::Compacted`] instead of leaving anything out.
pub struct Watcher {
    cache: Arc<Cache>,
    segment: usize,
    signal: watch::Receiver<()>,
    prefix: Box<str>,
    /// The number of the next change to look at.
    cursor: u64,
    /// Everything up to here was delivered, or did not concern this watcher.
    seen: Revision,
}

impl Watcher {
    pub(crate) fn new(
        cache: Arc<Cache>,
        segment: usize,
        signal: watch::Receiver<()>,
        prefix: &str,
        from: Revision,
        cursor: u64,
    ) -> Watcher {
        Watcher { cache, segment, signal, prefix: prefix.into(), cursor, seen: from }
    }

    /// Waits for the next change. Cancel safe: a change is taken only when it is returned.
    pub async fn next(&mut self) -> Result<Arc<Event>, WatchError> {
        loop {
            // Marked before looking, so that a change between looking and waiting wakes us.
            self.signal.mark_unchanged();
            if let Some(event) = self.try_next()? {
                return Ok(event);
            }
            self.signal.changed().await.map_err(|_| WatchError::Closed)?;
        }
    }

    /// The next change if there is one already.
    pub fn try_next(&mut self) -> Result<Option<Arc<Event>>, WatchError> {
        match self.cache.scan(self.segment, self.cursor, &self.prefix, self.seen)? {
            Scan::Found(event, next) => {
                self.cursor = next;
                self.seen = event.revision();
                Ok(Some(event))
            }
            Scan::End(end) => {
                self.cursor = end;
                Ok(None)
            }
        }
    }

    /// Every change of the prefix up to this revision was delivered: what a bookmark may say.
    ///
    /// It is the newest revision when [`try_next`](Watcher::try_next) would find nothing to look at,
    /// also if only other prefixes changed.
    pub fn progress(&self) -> Revision {
        self.cache.caught_up(self.segment, self.cursor).map_or(self.seen, |revision| revision.max(self.seen))
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watcher({} after {})", self.prefix, self.seen)
    }
}
