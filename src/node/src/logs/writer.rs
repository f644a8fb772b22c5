//! One run's log file, written by guest threads.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
};

use coracle_client::clock;
use coracle_runtime::{OutputReader, PipedOutput, output_pipe};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    book::OpenFiles,
    format::{self, StreamName},
    pace::Pace,
};

/// How much of a container's output is kept. The defaults are Kubernetes'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLimits {
    /// A log file is rotated when it would grow past this many bytes (`containerLogMaxSize`).
    pub max_size: u64,
    /// How many files of one run are kept, the current one included; at least 1 (`containerLogMaxFiles`).
    pub max_files: u32,
}

impl Default for LogLimits {
    fn default() -> LogLimits {
        LogLimits { max_size: 10 << 20, max_files: 5 }
    }
}

/// The log of one run of one container. Both outputs share one file, as in the CRI.
#[derive(Debug)]
pub(crate) struct ContainerLog {
    path: PathBuf,
    run: i32,
    /// What the run before left on disk.
    before: u64,
    open_files: Arc<OpenFiles>,
    inner: Mutex<Inner>,
    changed: Notify,
    limits: LogLimits,
    /// Who reads the output as it comes.
    attached: Mutex<Vec<(StreamName, Arc<PipedOutput>)>>,
}

#[derive(Debug, Default)]
struct Inner {
    file: Option<File>,
    /// The file was opened at least once.
    written: bool,
    size: u64,
    /// How long the older files are, the newest first.
    older: Vec<u64>,
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
    pub(super) fn new(
        path: PathBuf,
        run: i32,
        limits: LogLimits,
        open_files: Arc<OpenFiles>,
    ) -> ContainerLog {
        ContainerLog {
            path,
            run,
            before: 0,
            open_files,
            inner: Mutex::default(),
            changed: Notify::new(),
            limits,
            attached: Mutex::default(),
        }
    }

    /// Says what the run before left on disk.
    pub(super) fn after(self, before: u64) -> ContainerLog {
        ContainerLog { before, ..self }
    }

    #[cfg(test)]
    pub(super) fn with_max_size(path: PathBuf, max_size: u64) -> ContainerLog {
        ContainerLog::new(path, 0, LogLimits { max_size, ..LogLimits::default() }, Arc::default())
    }

    /// Where the newest entries are; the file may not exist yet.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The restart count of the run.
    pub(crate) fn run(&self) -> i32 {
        self.run
    }

    /// False as long as there is no file.
    pub(crate) fn is_written(&self) -> bool {
        self.inner.lock().written
    }

    /// What is on disk of this run and the one before.
    pub(crate) fn bytes(&self) -> u64 {
        let inner = self.inner.lock();
        self.before + inner.size + inner.older.iter().sum::<u64>()
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
        self.attached.lock().clear();
    }

    /// The output from now on, as it comes: stdout and stderr as far as they are wanted. The container waits for
    /// whoever reads them, for as long as they are not dropped; they end with the container.
    pub(crate) fn attach(&self, stdout: bool, stderr: bool) -> (Option<OutputReader>, Option<OutputReader>) {
        let inner = self.inner.lock();
        let mut attached = self.attached.lock();
        attached.retain(|(_, output)| output.is_read());
        let mut open = |wanted: bool, stream| {
            let (output, reader) = output_pipe();
            if wanted && !inner.closed {
                attached.push((stream, output));
            }
            wanted.then_some(reader)
        };
        (open(stdout, StreamName::Stdout), open(stderr, StreamName::Stderr))
    }

    /// Everybody who reads an output as it comes.
    fn readers(&self, stream: StreamName) -> Vec<Arc<PipedOutput>> {
        let mut attached = self.attached.lock();
        if attached.is_empty() {
            return Vec::new();
        }
        attached.retain(|(_, output)| output.is_read());
        attached.iter().filter(|(of, _)| *of == stream).map(|(_, output)| output.clone()).collect()
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
        if inner.size > 0 && inner.size + entries.len() as u64 > self.limits.max_size {
            inner.file = None;
            rotate(&self.path, self.limits.max_files)?;
            let size = std::mem::take(&mut inner.size);
            inner.older.insert(0, size);
            inner.older.truncate(self.limits.max_files.saturating_sub(1) as usize);
            inner.rotations += 1;
        }
        let mut file = match inner.file.take() {
            Some(file) => file,
            None => {
                let file = OpenOptions::new().create(true).append(true).open(&self.path)?;
                inner.written = true;
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
    pace: Arc<Pace>,
}

impl LogOutput {
    /// Both outputs of a log.
    pub(crate) fn both(log: &Arc<ContainerLog>) -> (Arc<LogOutput>, Arc<LogOutput>) {
        let pace = Arc::new(Pace::default());
        let output = |stream| Arc::new(LogOutput { log: log.clone(), stream, pace: pace.clone() });
        (output(StreamName::Stdout), output(StreamName::Stderr))
    }
}

impl coracle_runtime::Output for LogOutput {
    fn write(&self, bytes: &[u8]) {
        self.pace.take(bytes.len());
        self.log.write(self.stream, bytes);
        self.log.readers(self.stream).iter().for_each(|reader| reader.write(bytes));
    }

    fn room(&self) -> usize {
        let readers = self.log.readers(self.stream);
        readers.iter().map(|reader| reader.room()).min().unwrap_or(usize::MAX).min(self.pace.room())
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        for reader in self.log.readers(self.stream) {
            ready!(reader.poll_room(cx));
        }
        self.pace.poll_room(cx)
    }
}

/// The name of a rotated file: `0.log` → `0.log.1`, the newest of the old ones.
pub(super) fn rotated(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

fn rotate(path: &Path, max_files: u32) -> io::Result<()> {
    if max_files <= 1 {
        return std::fs::remove_file(path);
    }
    for number in (1..max_files - 1).rev() {
        match std::fs::rename(rotated(path, number), rotated(path, number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    std::fs::rename(path, rotated(path, 1))
}

/// What [`OpenFiles`] remembers of a log.
pub(super) type OpenLog = Weak<ContainerLog>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_files_go_when_there_are_enough() {
        #[track_caller]
        fn check(max_files: u32, kept: &[&str]) {
            let dir = tempfile::tempdir().unwrap();
            let limits = LogLimits { max_size: 50, max_files };
            let log = Arc::new(ContainerLog::new(dir.path().join("0.log"), 0, limits, Arc::default()));
            for line in 1..=6 {
                log.write(StreamName::Stdout, format!("line {line}\n").as_bytes());
            }
            let on_disk = std::fs::read_dir(dir.path()).unwrap();
            let on_disk: u64 = on_disk.map(|file| file.unwrap().metadata().unwrap().len()).sum();
            assert_eq!(log.bytes(), on_disk);
            let mut files: Vec<_> =
                std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap()).collect();
            files.sort_by_key(|file| file.file_name());
            let last = |file: &std::fs::DirEntry| {
                let text = std::fs::read_to_string(file.path()).unwrap();
                format!("{}: {}", file.file_name().display(), text.trim_end().rsplit(' ').next().unwrap())
            };
            assert_eq!(files.iter().map(last).collect::<Vec<_>>(), kept);
        }
        check(1, &["0.log: 6"]);
        check(2, &["0.log: 6", "0.log.1: 5"]);
        check(4, &["0.log: 6", "0.log.1: 5", "0.log.2: 4", "0.log.3: 3"]);
    }

    #[tokio::test]
    async fn who_is_attached_sees_what_comes_and_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let log = Arc::new(ContainerLog::with_max_size(dir.path().join("0.log"), 1000));
        let (stdout, stderr) = LogOutput::both(&log);
        let print = |output: &LogOutput, text: &str| coracle_runtime::Output::write(output, text.as_bytes());
        print(&stdout, "before");
        let (out, none) = log.attach(true, false);
        let (_, err) = log.attach(false, true);
        assert!(none.is_none());
        print(&stdout, "out");
        print(&stderr, "err");
        let (mut out, mut err) = (out.unwrap(), err.unwrap());
        assert_eq!(out.read().await.as_deref(), Some(&b"out"[..]));
        assert_eq!(err.read().await.as_deref(), Some(&b"err"[..]));
        drop(err);
        print(&stderr, "nobody");
        log.finish();
        assert_eq!(out.read().await, None);
        assert_eq!(log.attach(true, true).0.unwrap().read().await, None, "it has ended");
    }

    #[test]
    fn the_container_waits_for_who_is_attached() {
        let dir = tempfile::tempdir().unwrap();
        let log = Arc::new(ContainerLog::with_max_size(dir.path().join("0.log"), 1 << 30));
        let (stdout, _) = LogOutput::both(&log);
        let output: &dyn coracle_runtime::Output = &*stdout;
        let (reader, _) = log.attach(true, false);
        let mut written = 0;
        while output.room() > 0 && written < 1 << 30 {
            output.write(&[b'x'; 1000]);
            written += 1000;
        }
        assert!(written < 1 << 20, "{written}");
        drop(reader);
        assert!(output.room() > 0);
    }
}
