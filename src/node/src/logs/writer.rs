//! One run's log file, written by guest threads.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use coracle_client::clock;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    book::OpenFiles,
    format::{self, StreamName},
};

/// A log file is rotated when it has grown past this. Kubernetes' default for `containerLogMaxSize`.
const MAX_SIZE: u64 = 10 * 1024 * 1024;
/// How many files of one run are kept, the current one included. Kubernetes' default is 5.
pub(super) const MAX_FILES: u32 = 5;

/// The log of one run of one container. Both outputs share one file, as in the CRI.
#[derive(Debug)]
pub(crate) struct ContainerLog {
    path: PathBuf,
    run: i32,
    open_files: Arc<OpenFiles>,
    inner: Mutex<Inner>,
    changed: Notify,
    max_size: u64,
}

#[derive(Debug, Default)]
struct Inner {
    file: Option<File>,
    size: u64,
    rotations: u64,
    closed: bool,
    partial: [Vec<u8>; 2],
}

/// Where a log stands: what a follower compares with what it has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// How many bytes the current file holds.
    pub(super) size: u64,
    /// How many times it was rotated.
    pub(super) rotations: u64,
    /// The container has ended: nothing will follow.
    pub(super) closed: bool,
}

impl ContainerLog {
    pub(super) fn new(path: PathBuf, run: i32, open_files: Arc<OpenFiles>) -> ContainerLog {
        ContainerLog {
            path,
            run,
            open_files,
            inner: Mutex::default(),
            changed: Notify::new(),
            max_size: MAX_SIZE,
        }
    }

    #[cfg(test)]
    pub(super) fn with_max_size(path: PathBuf, max_size: u64) -> ContainerLog {
        ContainerLog { max_size, ..ContainerLog::new(path, 0, Arc::default()) }
    }

    /// Where the newest entries are; the file may not exist yet.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The restart count of the run.
    pub(crate) fn run(&self) -> i32 {
        self.run
    }

    /// Takes in what the guest wrote; in the file when this returns.
    ///
    /// A full disk loses log lines, never the guest: the failure is reported once per write at debug
    /// level, since the log is where users would look for it.
    pub(crate) fn write(self: &Arc<Self>, stream: StreamName, bytes: &[u8]) {
        let mut entries = Vec::new();
        let mut inner = self.inner.lock();
        if inner.closed {
            return;
        }
        let partial = &mut inner.partial[stream as usize];
        format::append(&mut entries, partial, stream, bytes, clock::now());
        self.store(&mut inner, &entries);
    }

    /// Ends the log: lines left open are completed, followers come to their end.
    pub(crate) fn finish(self: &Arc<Self>) {
        let mut entries = Vec::new();
        let mut inner = self.inner.lock();
        for stream in [StreamName::Stdout, StreamName::Stderr] {
            format::finish(&mut entries, &mut inner.partial[stream as usize], stream, clock::now());
        }
        self.store(&mut inner, &entries);
        inner.file = None;
        inner.closed = true;
        drop(inner);
        self.changed.notify_waiters();
    }

    pub(super) fn position(&self) -> Position {
        let inner = self.inner.lock();
        Position { size: inner.size, rotations: inner.rotations, closed: inner.closed }
    }

    /// Completes when the position changes after this call.
    pub(super) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }

    /// Gives the file handle back if nobody is writing; the next write opens it again.
    pub(super) fn release(&self) {
        if let Some(mut inner) = self.inner.try_lock() {
            inner.file = None;
        }
    }

    fn store(self: &Arc<Self>, inner: &mut Inner, entries: &[u8]) {
        if entries.is_empty() {
            return;
        }
        if let Err(error) = self.try_store(inner, entries) {
            inner.file = None;
            tracing::debug!(path = %self.path.display(), %error, "log lines lost");
        }
        self.changed.notify_waiters();
    }

    fn try_store(self: &Arc<Self>, inner: &mut Inner, entries: &[u8]) -> io::Result<()> {
        if inner.size > 0 && inner.size + entries.len() as u64 > self.max_size {
            inner.file = None;
            rotate(&self.path)?;
            inner.size = 0;
            inner.rotations += 1;
        }
        let mut file = match inner.file.take() {
            Some(file) => file,
            None => {
                let file = open(&self.path)?;
                inner.size = file.metadata()?.len();
                self.open_files.opened(Arc::downgrade(self));
                file
            }
        };
        file.write_all(entries)?;
        inner.size += entries.len() as u64;
        inner.file = Some(file);
        Ok(())
    }
}

/// A handle for one of the two outputs, for the runtime.
#[derive(Debug)]
pub(crate) struct LogOutput {
    log: Arc<ContainerLog>,
    stream: StreamName,
}

impl LogOutput {
    /// Both outputs of a log.
    pub(crate) fn both(log: &Arc<ContainerLog>) -> (Arc<LogOutput>, Arc<LogOutput>) {
        let output = |stream| Arc::new(LogOutput { log: log.clone(), stream });
        (output(StreamName::Stdout), output(StreamName::Stderr))
    }
}

impl coracle_runtime::Output for LogOutput {
    fn write(&self, bytes: &[u8]) {
        self.log.write(self.stream, bytes);
    }
}

/// The name of a rotated file: `0.log` → `0.log.1`, the newest of the old ones.
pub(super) fn rotated(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

fn rotate(path: &Path) -> io::Result<()> {
    for number in (1..MAX_FILES - 1).rev() {
        match std::fs::rename(rotated(path, number), rotated(path, number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    std::fs::rename(path, rotated(path, 1))
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            options.open(path)
        }
        result => result,
    }
}

/// What [`OpenFiles`] remembers of a log.
pub(super) type OpenLog = Weak<ContainerLog>;
