//! Files that are written to, whose errors say what went wrong.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::Path,
    time::SystemTime,
};

/// A file that is written to.
///
/// The C library of WASI 0.2 writes through a stream and does not ask for the reason when that fails: every failed
/// write is an `EIO`, also one to a full volume. A change of the file's length is no stream and fails with the reason.
pub struct Sink(File);

impl Sink {
    pub fn create(path: &Path) -> io::Result<Sink> {
        Sink::open(path, false)
    }

    /// Opens a file to write to its end or from its start, and makes it if it is not there.
    pub fn open(path: &Path, append: bool) -> io::Result<Sink> {
        let mut how = OpenOptions::new();
        how.create(true).write(true).append(append).truncate(!append);
        how.open(path).map(Sink)
    }

    pub fn set_modified(&self, time: SystemTime) -> io::Result<()> {
        self.0.set_modified(time)
    }

    fn explain(&self, error: io::Error) -> io::Error {
        if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return error;
        }
        let Ok(length) = self.0.metadata().map(|metadata| metadata.len()) else { return error };
        match self.0.set_len(length.saturating_add(1)) {
            Err(reason) => reason,
            Ok(()) => {
                self.0.set_len(length).ok();
                error
            }
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(|error| self.explain(error))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
