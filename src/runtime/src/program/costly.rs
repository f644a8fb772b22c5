//! The modules that took too much to compile: refused for a while without another try, also by the next process.
//!
//! Without that, whoever starts such a container again and again would keep a place in the line of compiles.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::cache;
use crate::error::PrepareError;

/// For how long a module that took too much is refused.
pub(super) const COSTLY_FOR: Duration = Duration::from_secs(10 * 60);

/// How many such modules are remembered.
pub(super) const COSTLY: usize = 1_000;

/// Where they are remembered: a file of some tens of kilobytes at most.
const FILE: &str = "costly";

/// Those modules, by the name that their code would have in the cache.
pub(super) struct Costly {
    path: PathBuf,
    /// CPU seconds that any module may take: who gets more may try again.
    seconds: u64,
    known: Mutex<BTreeMap<String, Known>>,
    /// Held while the file is written, so that the newest is the last.
    writing: Mutex<()>,
}

#[derive(Debug, Clone)]
struct Known {
    until: Instant,
    /// What it took more of than it may.
    limit: String,
}

/// What the file holds.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Stored {
    seconds: u64,
    /// By name: seconds since 1970, and the limit.
    modules: BTreeMap<String, (i64, String)>,
}

impl Costly {
    /// Reads what was remembered in this folder.
    pub(super) fn open(dir: &Path, seconds: u64) -> Costly {
        let path = dir.join(FILE);
        let text = fs::read(&path).unwrap_or_default();
        // One that is damaged says nothing.
        let stored: Stored = serde_json::from_slice(&text).unwrap_or_default();
        let now = (cache::wall_clock(), Instant::now());
        let known = |(name, (until, limit)): (String, (i64, String))| {
            let left = Duration::from_secs(u64::try_from(until.saturating_sub(now.0)).ok()?).min(COSTLY_FOR);
            Some((name, Known { until: now.1 + left, limit }))
        };
        let known = match stored {
            Stored { seconds: then, modules } if then == seconds => {
                modules.into_iter().filter_map(known).take(COSTLY).collect()
            }
            _ => BTreeMap::new(),
        };
        Costly { path, seconds, known: Mutex::new(known), writing: Mutex::default() }
    }

    /// Whether this module is tried, or why it is not yet tried again.
    pub(super) fn may_try(&self, name: &str) -> Result<(), PrepareError> {
        match self.known.lock().get(name) {
            Some(known) if Instant::now() < known.until => {
                Err(PrepareError::TooCostly { limit: known.limit.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Remembers a module that took more than `limit`.
    pub(super) fn remember(&self, name: String, limit: &str) {
        let now = Instant::now();
        let mut known = self.known.lock();
        known.retain(|_, known| now < known.until);
        if known.len() < COSTLY {
            known.insert(name, Known { until: now + COSTLY_FOR, limit: limit.to_owned() });
        }
    }

    /// Keeps what is remembered for the next process, on a thread that may block.
    pub(super) fn save(self: &Arc<Costly>) {
        let costly = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let writing = costly.writing.lock();
            if let Err(error) = costly.write() {
                tracing::warn!(%error, "costly modules cannot be remembered");
            }
            drop(writing);
        });
    }

    fn write(&self) -> std::io::Result<()> {
        let now = (cache::wall_clock(), Instant::now());
        let stored = |(name, known): (&String, &Known)| {
            let left = known.until.saturating_duration_since(now.1).as_secs();
            (name.clone(), (now.0.saturating_add_unsigned(left), known.limit.clone()))
        };
        let modules = self.known.lock().iter().map(stored).collect();
        let text = serde_json::to_vec(&Stored { seconds: self.seconds, modules })?;
        // A leftover of this ending goes when the folder is opened.
        let beside = self.path.with_extension("tmp");
        fs::write(&beside, text)?;
        fs::rename(&beside, &self.path)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.known.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(costly: &Costly, name: &str, expected: Option<&str>) {
        let refused = costly.may_try(name).err().map(|error| error.to_string());
        assert_eq!(refused.as_deref(), expected, "{name}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_process_knows_what_this_one_learnt() {
        let dir = tempfile::tempdir().unwrap();
        let costly = Costly::open(dir.path(), 20);
        check(&costly, "one", None);
        costly.remember("one".into(), "20s of CPU time");
        costly.write().unwrap();
        let said = Some("compiling took more than 20s of CPU time");
        let next = Costly::open(dir.path(), 20);
        check(&next, "one", said);
        check(&next, "two", None);
        check(&Costly::open(dir.path(), 30), "one", None);
        tokio::time::advance(COSTLY_FOR + Duration::from_secs(1)).await;
        check(&next, "one", None);
        // What has expired is not kept, whatever the file says; nor for longer than from now on.
        let at = |until: i64| format!(r#"{{"seconds":20,"modules":{{"one":[{until},"x"]}}}}"#);
        for (text, expected) in [
            (at(cache::wall_clock() - 1), None),
            (at(i64::MAX), Some("compiling took more than x")),
            (at(i64::MIN + 1), None),
            ("{".into(), None),
            (String::new(), None),
        ] {
            fs::write(dir.path().join(FILE), text).unwrap();
            check(&Costly::open(dir.path(), 20), "one", expected);
        }
        fs::write(dir.path().join(FILE), at(i64::MAX)).unwrap();
        let far = Costly::open(dir.path(), 20);
        tokio::time::advance(COSTLY_FOR).await;
        check(&far, "one", None);
    }
}
