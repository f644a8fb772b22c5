//! The engine on sled 0.34: one batch per commit, and our own `fdatasync` behind it.
//!
//! The folder holds sled's files (`db`, `conf`, `snap.*`, an empty `blobs/`) and two of ours: `lock`,
//! held while the store is open, and `witness`, the revision when it was last opened or closed. sled
//! recovers from a damaged file by forgetting what comes after the damage; the head record and the
//! witness turn such a loss into [`OpenError::Damaged`] instead of a store that went back in time.
//!
//! sled panics on some damage, so nothing of it is called without catching that.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use crate::engine::record::{self, Decoder, FORMAT, HEAD_KEY, Head};
use crate::engine::{Batch, Engine, EngineError, Loaded, chain, panic_text};
use crate::{EventKind, OpenError, Revision};

/// What sled may keep of its own pages in memory, in bytes. Nobody reads through it, so this only
/// spares reading back the page that a write changes.
const PAGE_CACHE: u64 = 8 * 1024 * 1024;

/// How often sled's own thread looks for file segments worth rewriting, in milliseconds. It spends up
/// to half of this time on it; without it the file only grows. It never decides what is durable.
const CLEAN_EVERY: u64 = 500;

/// The revision of a store that was never written to. 0 means "any" in the Kubernetes API.
const FIRST: Revision = 1;

pub(crate) struct Sled {
    db: sled::Db,
    /// sled's data file, opened once more: syncing any handle syncs the file.
    data: File,
    data_path: PathBuf,
    head: Head,
    dir: PathBuf,
    /// Released last, when the fields above are gone.
    _lock: File,
}

impl Sled {
    pub(crate) fn open(dir: &Path) -> Result<(Sled, Loaded), OpenError> {
        fs::create_dir_all(dir).map_err(|source| io_error(dir, "create", source))?;
        let lock = lock(dir)?;
        let witness = read_witness(dir)?;
        let db = guarded(dir, || open_db(dir))?;
        let (head, loaded) = guarded(dir, || load(dir, &db, witness))?;
        let data_path = dir.join("db");
        let data = File::options().read(true).write(true).open(&data_path);
        let data = data.map_err(|source| io_error(&data_path, "open", source))?;
        let mut engine = Sled { db, data, data_path, head, dir: dir.to_owned(), _lock: lock };
        if witness.is_none() {
            // The first record of a new store; also shows now, not later, whether it can be written.
            engine
                .commit(&Batch { revision: head.revision, events: Vec::new() })
                .map_err(|error| io_error(dir, "write", io::Error::other(chain(&error))))?;
        }
        write_witness(dir, engine.head.revision).map_err(|source| io_error(dir, "write", source))?;
        Ok((engine, loaded))
    }
}

impl Engine for Sled {
    fn commit(&mut self, batch: &Batch) -> Result<(), EngineError> {
        let mut writes = sled::Batch::default();
        let mut head = self.head;
        for event in &batch.events {
            if let Some(previous) = &event.previous {
                head.remove(previous);
                // What the new version also has is written over below: the last one counts.
                record::keys(previous).for_each(|key| writes.remove(key));
            }
            if event.kind != EventKind::Deleted {
                head.add(&event.entry);
                record::encode(&event.entry).for_each(|(key, record)| writes.insert(key, record));
            }
        }
        head.revision = batch.revision;
        writes.insert(HEAD_KEY, head.encode());

        self.db.apply_batch(writes).map_err(EngineError::Apply)?;
        self.db.flush().map_err(EngineError::Flush)?;
        self.data.sync_data().map_err(|source| EngineError::Sync { path: self.data_path.clone(), source })?;
        self.head = head;
        Ok(())
    }

    fn blocks(&self) -> bool {
        true
    }
}

impl Drop for Sled {
    fn drop(&mut self) {
        if let Err(error) = write_witness(&self.dir, self.head.revision) {
            tracing::warn!(%error, dir = %self.dir.display(), "cannot note the revision of the closed store");
        }
    }
}

fn lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|source| io_error(&path, "create", source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked { path: dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(io_error(&path, "lock", source)),
    }
}

fn open_db(dir: &Path) -> Result<sled::Db, OpenError> {
    let config = sled::Config::new().path(dir).cache_capacity(PAGE_CACHE).flush_every_ms(Some(CLEAN_EVERY));
    config.open().map_err(|error| match error {
        sled::Error::Io(source) if source.to_string().contains("could not acquire lock") => {
            OpenError::Locked { path: dir.to_owned() }
        }
        sled::Error::Io(source)
            if !matches!(source.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData) =>
        {
            io_error(dir, "open", source)
        }
        other => damaged(dir, chain(&other)),
    })
}

/// Reads everything, and compares it with what the head and the witness say there must be.
fn load(dir: &Path, db: &sled::Db, witness: Option<Revision>) -> Result<(Head, Loaded), OpenError> {
    let mut head = None;
    let mut found = Head { revision: FIRST, entries: 0, sum: 0 };
    let mut entries = Vec::new();
    let mut decoder = Decoder::default();
    for record in db.iter() {
        let (key, value) = record.map_err(|error| damaged(dir, chain(&error)))?;
        if *key == *HEAD_KEY {
            let decoded = Head::decode(&value);
            let decoded = decoded
                .map_err(|found| OpenError::Format { path: dir.to_owned(), found, known: FORMAT })?
                .ok_or_else(|| damaged(dir, "its head record is cut off".to_owned()))?;
            head = Some(decoded);
        } else if let Some(entry) = decoder.push(&key, &value).map_err(|reason| damaged(dir, reason))? {
            found.add(&entry);
            found.revision = found.revision.max(entry.revision());
            entries.push(entry);
        }
    }
    decoder.finish().map_err(|reason| damaged(dir, reason))?;

    let Some(head) = head else {
        if witness.is_some() || !entries.is_empty() {
            return Err(damaged(dir, "its head record is missing".to_owned()));
        }
        return Ok((found, Loaded { revision: FIRST, entries }));
    };
    if (head.entries, head.sum) != (found.entries, found.sum) || found.revision > head.revision {
        let reason = format!("{} entries were read where there must be {}", found.entries, head.entries);
        return Err(damaged(dir, reason));
    }
    if let Some(witness) = witness.filter(|witness| *witness > head.revision) {
        let reason = format!("it ends at revision {}, but revision {witness} was seen", head.revision);
        return Err(damaged(dir, reason));
    }
    Ok((head, Loaded { revision: head.revision, entries }))
}

/// Does what may panic inside sled.
fn guarded<T>(dir: &Path, work: impl FnOnce() -> Result<T, OpenError>) -> Result<T, OpenError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(damaged(dir, format!("reading it fails with {:?}", panic_text(&*panic)))))
}

fn read_witness(dir: &Path) -> Result<Option<Revision>, OpenError> {
    let path = dir.join("witness");
    match fs::read_to_string(&path) {
        Ok(text) => match text.trim_end().parse() {
            Ok(revision) => Ok(Some(revision)),
            Err(_) => Err(damaged(dir, "its witness file is not a number".to_owned())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(damaged(dir, "its witness file is not text".to_owned()))
        }
        Err(source) => Err(io_error(&path, "read", source)),
    }
}

/// Replaces the witness and makes the names in the folder durable, those of sled's files too.
fn write_witness(dir: &Path, revision: Revision) -> io::Result<()> {
    let draft = dir.join("witness.new");
    let mut file = File::create(&draft)?;
    file.write_all(format!("{revision}\n").as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, dir.join("witness"))?;
    File::open(dir)?.sync_all()?;
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

fn io_error(path: &Path, action: &'static str, source: io::Error) -> OpenError {
    OpenError::Io { path: path.to_owned(), action, source }
}

fn damaged(dir: &Path, reason: String) -> OpenError {
    OpenError::Damaged { path: dir.to_owned(), reason }
}
