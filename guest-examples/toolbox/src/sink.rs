//! Files that are written to, whose errors say what went wrong.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::platform;

/// A file that is written to.
///
/// The C library of WASI 0.2 writes through a stream and does not ask for the reason when that fails: every failed
/// write is an `EIO`, also one to a full volume. So the reason is asked for here.
pub struct Sink {
    file: File,
    path: PathBuf,
}

impl Sink {
    pub fn create(path: &Path) -> io::Result<Sink> {
        Sink::open(path, false)
    }

    /// Opens a file to write to its end or from its start, and makes it if it is not there.
    pub fn open(path: &Path, append: bool) -> io::Result<Sink> {
        let mut how = OpenOptions::new();
        how.create(true).write(true).append(append).truncate(!append);
        Ok(Sink { file: how.open(path)?, path: path.to_owned() })
    }

    pub fn set_modified(&self, time: SystemTime) -> io::Result<()> {
        self.file.set_modified(time)
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes).map_err(|error| platform::why_not_written(&self.path).unwrap_or(error))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
