//! Open files of the host, and the ledger that keeps their volume within its limit.
//!
//! A file counts with its length. What changes lengths (writes past the end, truncation, removal of the last
//! name, the last close of a file without names) or names happens under one lock per volume, so that two writers
//! cannot both take the last bytes, nor a removal give back what a write is adding. A volume without a limit, of
//! its own or with others, has no books and takes no lock.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::IoSlice;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{AtFlags, FallocateFlags, FileType};
use rustix::io::{Errno, ReadWriteFlags, retry_on_intr};

use super::errno::{from_errno, from_io};
use super::handles::{Handles, Permit};
use super::{stat, timestamps};
use crate::error::VfsError;
use crate::quota::Quota;
use crate::tree::{OpenFile, Stat, Times};

/// A volume's books.
pub(super) struct Ledger {
    device: u64,
    quota: Quota,
    handles: Handles,
    /// How many handles each inode has. Its lock is the volume's lock on lengths.
    open: Mutex<BTreeMap<u64, u64>>,
}

impl Ledger {
    pub(super) fn new(device: u64, quota: Quota, handles: Handles) -> Ledger {
        Ledger { device, quota, handles, open: Mutex::new(BTreeMap::new()) }
    }

    pub(super) fn quota(&self) -> &Quota {
        &self.quota
    }

    pub(super) fn handles(&self) -> &Handles {
        &self.handles
    }

    /// Runs `add`, which makes a name, and books it.
    pub(super) fn adding<T>(&self, add: impl FnOnce() -> Result<T, VfsError>) -> Result<T, VfsError> {
        let _lengths = self.keeps_books().then(|| self.open.lock());
        self.charging(add)
    }

    /// As [`Ledger::adding`], for a caller that holds the lock.
    fn charging<T>(&self, add: impl FnOnce() -> Result<T, VfsError>) -> Result<T, VfsError> {
        if !self.keeps_books() {
            return add();
        }
        self.quota.charge_entry("")?;
        add().inspect_err(|_| self.quota.release_entry(""))
    }

    fn keeps_books(&self) -> bool {
        self.quota.counts()
    }

    /// Runs `remove`, which takes a name away, and books it.
    pub(super) fn removing(
        &self,
        dir: &File,
        name: &str,
        remove: impl FnOnce() -> Result<(), VfsError>,
    ) -> Result<(), VfsError> {
        if !self.keeps_books() {
            return remove();
        }
        let open = self.open.lock();
        let freed = freed_by_removal(dir, name, &open);
        remove()?;
        self.quota.release(freed);
        self.quota.release_entry("");
        Ok(())
    }

    /// Runs `rename`, which may replace a file, and books that.
    pub(super) fn replacing(
        &self,
        from: (&File, &str),
        to: (&File, &str),
        rename: impl FnOnce() -> Result<(), VfsError>,
    ) -> Result<(), VfsError> {
        if !self.keeps_books() {
            return rename();
        }
        let open = self.open.lock();
        let inode = |(dir, name): (&File, &str)| {
            rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).ok().map(|stat| stat.st_ino)
        };
        let replaced = inode(to);
        let freed = if replaced.is_some() && replaced != inode(from) {
            Some(freed_by_removal(to.0, to.1, &open))
        } else {
            None
        };
        rename()?;
        if let Some(bytes) = freed {
            self.quota.release(bytes);
            self.quota.release_entry("");
        }
        Ok(())
    }
}

/// What the volume wins when this name goes: nothing while other names or handles keep the file.
fn freed_by_removal(dir: &File, name: &str, open: &BTreeMap<u64, u64>) -> u64 {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat)
            if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
                && stat.st_nlink == 1
                && !open.contains_key(&stat.st_ino) =>
        {
            u64::try_from(stat.st_size).unwrap_or(0)
        }
        _ => 0,
    }
}

/// An open regular file of the host.
pub(super) struct HostFile {
    file: File,
    inode: u64,
    ledger: Arc<Ledger>,
    _permit: Permit,
}

impl HostFile {
    /// Runs `create`, which makes a file and opens it, and books both.
    ///
    /// # Errors
    /// As [`HostFile::open`]; [`VfsError::NoSpace`] if the volume holds too many names.
    pub(super) fn create(
        ledger: &Arc<Ledger>,
        create: impl FnOnce() -> Result<File, VfsError>,
    ) -> Result<HostFile, VfsError> {
        HostFile::open(ledger, || ledger.charging(create))
    }

    /// Runs `open` and books the handle, in one step against removals.
    ///
    /// # Errors
    /// Those of `open`; [`VfsError::Access`] if it is no regular file: a name can change between lookup and open.
    pub(super) fn open(
        ledger: &Arc<Ledger>,
        open: impl FnOnce() -> Result<File, VfsError>,
    ) -> Result<HostFile, VfsError> {
        let permit = ledger.handles.take()?;
        let handles = ledger.keeps_books().then(|| ledger.open.lock());
        let file = open()?;
        let meta = file.metadata().map_err(from_io)?;
        if !meta.is_file() {
            return Err(VfsError::Access);
        }
        let inode = meta.ino();
        if let Some(mut handles) = handles {
            *handles.entry(inode).or_default() += 1;
        }
        Ok(HostFile { file, inode, ledger: Arc::clone(ledger), _permit: permit })
    }

    /// Writes at `offset`, or at the end for `None`, within the limit.
    fn write_limited(&self, offset: Option<u64>, data: &[u8]) -> Result<usize, VfsError> {
        let _lengths = self.ledger.open.lock();
        let size = self.file.metadata().map_err(from_io)?.size();
        let offset = offset.unwrap_or(size);
        let end = offset.checked_add(data.len() as u64).ok_or(VfsError::TooLarge)?;
        let growth = end.saturating_sub(size);
        let granted = self.ledger.quota.charge_some(growth);
        let reach = if growth == 0 { end } else { size + granted };
        let count = usize::try_from(reach.saturating_sub(offset)).unwrap_or(usize::MAX).min(data.len());
        if count == 0 {
            self.ledger.quota.release(granted);
            return Err(VfsError::NoSpace);
        }
        let result = self.file.write_at(&data[..count], offset).map_err(from_io);
        // A write that fails has written nothing.
        let written = *result.as_ref().unwrap_or(&0) as u64;
        let grown = if written == 0 { 0 } else { (offset + written).saturating_sub(size) };
        self.ledger.quota.release(granted.saturating_sub(grown));
        result
    }
}

impl OpenFile for HostFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, VfsError> {
        if i64::try_from(offset).is_err() {
            return Ok(0);
        }
        self.file.read_at(buffer, offset).map_err(from_io)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<usize, VfsError> {
        if self.ledger.keeps_books() {
            return self.write_limited(Some(offset), data);
        }
        self.file.write_at(data, offset).map_err(from_io)
    }

    fn append(&self, data: &[u8]) -> Result<usize, VfsError> {
        if self.ledger.keeps_books() {
            return self.write_limited(None, data);
        }
        rustix::io::pwritev2(&self.file, &[IoSlice::new(data)], 0, ReadWriteFlags::APPEND).map_err(from_errno)
    }

    fn set_size(&self, size: u64) -> Result<(), VfsError> {
        if !self.ledger.keeps_books() {
            return self.file.set_len(size).map_err(from_io);
        }
        let _lengths = self.ledger.open.lock();
        let before = self.file.metadata().map_err(from_io)?.size();
        let growth = size.saturating_sub(before);
        self.ledger.quota.charge(growth)?;
        self.file.set_len(size).map_err(|error| {
            self.ledger.quota.release(growth);
            from_io(error)
        })?;
        self.ledger.quota.release(before.saturating_sub(size));
        Ok(())
    }

    fn reserve(&self, offset: u64, length: u64) -> Result<(), VfsError> {
        let end = offset.checked_add(length).ok_or(VfsError::TooLarge)?;
        if !self.ledger.keeps_books() {
            return allocate(&self.file, offset, length);
        }
        let _lengths = self.ledger.open.lock();
        let growth = end.saturating_sub(self.file.metadata().map_err(from_io)?.size());
        self.ledger.quota.charge(growth)?;
        allocate(&self.file, offset, length).inspect_err(|_| self.ledger.quota.release(growth))
    }

    fn stat(&self) -> Result<Stat, VfsError> {
        stat(&self.file, self.ledger.device)
    }

    fn blocking(&self) -> bool {
        true
    }

    fn set_times(&self, times: Times) -> Result<(), VfsError> {
        rustix::fs::futimens(&self.file, &timestamps(times)?).map_err(from_errno)
    }

    fn sync(&self, data_only: bool) -> Result<(), VfsError> {
        if data_only { self.file.sync_data() } else { self.file.sync_all() }.map_err(from_io)
    }
}

/// What reservations leave free of a disk, or a tenth of it if that is less. A program that writes takes its time, and
/// who watches the disk sees it coming; a reservation fills it in one call, and the node's own store may be on it, too.
const SPARE: u64 = 1 << 30;

/// Takes blocks for a part of a file, all or none as far as programs see, and lengthens it to the end of that.
fn allocate(file: &File, offset: u64, length: u64) -> Result<(), VfsError> {
    look_for_room(file, offset, length)?;
    // First without lengthening: a file system that runs out of blocks in the middle has lengthened it so far.
    for flags in [FallocateFlags::KEEP_SIZE, FallocateFlags::empty()] {
        match retry_on_intr(|| rustix::fs::fallocate(file, flags, offset, length)) {
            Ok(()) => {}
            // Some can do only one of both.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) if flags == FallocateFlags::KEEP_SIZE => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return lengthen(file, offset + length),
            Err(errno) => return Err(from_errno(errno)),
        }
    }
    Ok(())
}

/// Whether the disk has room for what a part of a file may need, and something to spare.
fn look_for_room(file: &File, offset: u64, length: u64) -> Result<(), VfsError> {
    let disk = rustix::fs::fstatvfs(file).map_err(from_errno)?;
    // Blocks have 512 bytes here, whatever the file system's own have.
    let taken = file.metadata().map_err(from_io)?.blocks().saturating_mul(512);
    let missing = (offset + length).saturating_sub(taken).min(length);
    let spare = SPARE.min(disk.f_blocks.saturating_mul(disk.f_frsize) / 10);
    let room = disk.f_bavail.saturating_mul(disk.f_frsize).saturating_sub(spare);
    if missing > room { Err(VfsError::NoSpace) } else { Ok(()) }
}

/// For file systems that cannot reserve: there was room a moment ago, and that is all that can be said.
fn lengthen(file: &File, end: u64) -> Result<(), VfsError> {
    let size = file.metadata().map_err(from_io)?.size();
    if end > size { file.set_len(end).map_err(from_io) } else { Ok(()) }
}

impl Drop for HostFile {
    /// The last handle of a file without a name gives its bytes back.
    fn drop(&mut self) {
        if !self.ledger.keeps_books() {
            return;
        }
        let mut open = self.ledger.open.lock();
        let Some(count) = open.get_mut(&self.inode) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        open.remove(&self.inode);
        if let Ok(meta) = self.file.metadata()
            && meta.nlink() == 0
        {
            self.ledger.quota.release(meta.size());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_reservation_fills_the_disk() {
        let file = tempfile::tempfile().unwrap();
        allocate(&file, 0, 1_000).unwrap();
        let disk = rustix::fs::fstatvfs(&file).unwrap();
        let free = disk.f_bavail * disk.f_frsize;
        for length in [1 << 60, free, free - 4_096] {
            assert!(matches!(allocate(&file, 1_000, length), Err(VfsError::NoSpace)));
        }
        assert_eq!(file.metadata().unwrap().len(), 1_000);
        look_for_room(&file, 0, 1_000).unwrap();
    }

    #[test]
    fn where_nothing_can_be_reserved_files_are_lengthened() {
        let file = tempfile::tempfile().unwrap();
        lengthen(&file, 1_000).unwrap();
        lengthen(&file, 10).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 1_000);
    }
}
