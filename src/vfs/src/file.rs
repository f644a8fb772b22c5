//! Open regular files.

use std::sync::Arc;

use crate::device::Device;
use crate::error::VfsError;
use crate::namespace::Mount;
use crate::tree::{OpenFile, Stat, Times};

/// A regular file, open. Clones are handles on the same one; there is no position, offsets are given.
#[derive(Clone)]
pub struct File {
    inner: Arc<dyn OpenFile>,
    read: bool,
    write: bool,
    read_only: bool,
}

impl File {
    pub(crate) fn new(inner: Arc<dyn OpenFile>, mount: &Mount, read: bool, write: bool) -> File {
        File { inner, read, write, read_only: mount.read_only }
    }

    /// Whether operations may wait for a disk.
    pub fn blocking(&self) -> bool {
        self.inner.blocking()
    }

    /// What it does, if it is one of `/dev`. Who opened one of the program's own streams uses that stream instead.
    pub fn device(&self) -> Option<Device> {
        self.inner.device()
    }

    /// Whether it was opened to be read.
    pub fn readable(&self) -> bool {
        self.read
    }

    /// Whether it was opened to be written.
    pub fn writable(&self) -> bool {
        self.write
    }

    /// Reads at most `buffer.len()` bytes from `offset`; 0 at the end of the file.
    ///
    /// # Errors
    /// As `pread(2)`.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, VfsError> {
        if !self.read {
            return Err(VfsError::BadDescriptor);
        }
        self.inner.read_at(offset, buffer)
    }

    /// Writes at `offset` and says how much of `data` was written: at least one byte, unless `data` is empty.
    ///
    /// # Errors
    /// As `pwrite(2)`; [`VfsError::NoSpace`] when the volume's limit leaves no room for even one byte.
    pub fn write_at(&self, offset: u64, data: &[u8]) -> Result<usize, VfsError> {
        self.may_write()?;
        if data.is_empty() {
            return Ok(0);
        }
        check_end(offset, data.len() as u64)?;
        self.inner.write_at(offset, data)
    }

    /// Writes at the end of the file, wherever that is then, in one step against other writers.
    ///
    /// # Errors
    /// As [`File::write_at`].
    pub fn append(&self, data: &[u8]) -> Result<usize, VfsError> {
        self.may_write()?;
        if data.is_empty() {
            return Ok(0);
        }
        self.inner.append(data)
    }

    /// Cuts the file, or lengthens it with a hole.
    ///
    /// # Errors
    /// As `ftruncate(2)`.
    pub fn set_size(&self, size: u64) -> Result<(), VfsError> {
        self.may_write()?;
        check_end(size, 0)?;
        self.inner.set_size(size)
    }

    /// Reserves room for `length` bytes from `offset` on, and lengthens the file if it ends before their end: what is
    /// written there from now on does not fail for want of room, until the file is cut.
    ///
    /// Room in memory is charged at once, to the volume's limit and to the pod, and taken from the host as it is
    /// written. Room on a disk is taken at once, but for a little that reservations leave free; on a file system that
    /// cannot reserve (it says so itself) it is only looked whether there is room now.
    ///
    /// # Errors
    /// As `posix_fallocate(3)`: [`VfsError::Invalid`] for a `length` of 0, and [`VfsError::NoSpace`] if there is not
    /// room for all of it, which leaves the file as it was.
    pub fn reserve(&self, offset: u64, length: u64) -> Result<(), VfsError> {
        self.may_write()?;
        if length == 0 {
            return Err(VfsError::Invalid);
        }
        check_end(offset, length)?;
        self.inner.reserve(offset, length)
    }

    /// The file's metadata.
    ///
    /// # Errors
    /// If the host fails.
    pub fn stat(&self) -> Result<Stat, VfsError> {
        self.inner.stat()
    }

    /// Sets the file's times.
    ///
    /// # Errors
    /// As `futimens(2)`.
    pub fn set_times(&self, times: Times) -> Result<(), VfsError> {
        if self.read_only {
            return Err(VfsError::ReadOnly);
        }
        self.inner.set_times(times)
    }

    /// Makes what was written durable; with `data_only` without the times.
    ///
    /// # Errors
    /// As `fsync(2)`.
    pub fn sync(&self, data_only: bool) -> Result<(), VfsError> {
        self.inner.sync(data_only)
    }

    fn may_write(&self) -> Result<(), VfsError> {
        if self.write { Ok(()) } else { Err(VfsError::BadDescriptor) }
    }
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("File").field("read", &self.read).field("write", &self.write).finish_non_exhaustive()
    }
}

/// Files end where signed offsets end.
fn check_end(offset: u64, length: u64) -> Result<(), VfsError> {
    match offset.checked_add(length) {
        Some(end) if i64::try_from(end).is_ok() => Ok(()),
        _ => Err(VfsError::TooLarge),
    }
}
