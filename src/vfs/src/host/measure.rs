//! What a directory holds when it becomes a volume with a limit.

use std::collections::BTreeSet;
use std::fs::File;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::errno::from_errno;
use super::listing;
use crate::DEPTH_MAX;
use crate::error::VfsError;
use crate::quota::Quota;

/// Charges everything below `root`: files with their length (once, however many names), names by count.
///
/// # Errors
/// If a directory cannot be read, or they are nested deeper than [`DEPTH_MAX`].
pub(super) fn measure(root: &File, quota: &Quota) -> Result<(), VfsError> {
    let mut open = vec![listing(root)?];
    let mut linked = BTreeSet::new();
    loop {
        let depth = open.len();
        let Some(dir) = open.last_mut() else { return Ok(()) };
        let Some(entry) = dir.read() else {
            open.pop();
            continue;
        };
        let entry = entry.map_err(from_errno)?;
        let name = entry.file_name();
        if name.to_bytes() == b"." || name.to_bytes() == b".." {
            continue;
        }
        let fd = dir.fd().map_err(from_errno)?;
        let stat = match rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(from_errno(errno)),
        };
        quota.charge_existing_entry();
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile if stat.st_nlink == 1 || linked.insert(stat.st_ino) => {
                quota.charge_existing(u64::try_from(stat.st_size).unwrap_or(0));
            }
            FileType::Directory => {
                if depth >= DEPTH_MAX as usize {
                    return Err(VfsError::NameTooLong);
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let below = rustix::fs::openat(fd, name, flags, Mode::empty()).map_err(from_errno)?;
                open.push(rustix::fs::Dir::new(below).map_err(from_errno)?);
            }
            _ => {}
        }
    }
}
