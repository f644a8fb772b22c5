//! What a directory holds when it becomes a volume with a limit.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::fs::File;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::errno::from_errno;
use super::listing;
use crate::error::VfsError;
use crate::quota::Quota;

/// How directories are opened: never through a link.
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A directory on the way to where the walk is.
struct Level {
    /// Its device and number.
    identity: (u64, u64),
    /// Directories in it that have not been walked yet.
    left: Vec<CString>,
}

/// Charges everything below `root`: files with their length (once, however many names), names by count.
///
/// Guests nest directories deeper than a process may have files open: one is, and the way back is `..`.
///
/// # Errors
/// If a directory cannot be read; [`VfsError::Busy`] if somebody moves directories meanwhile.
pub(super) fn measure(root: &File, quota: &Quota) -> Result<(), VfsError> {
    let mut linked = BTreeSet::new();
    let mut here = open(root, c".")?;
    let mut way = vec![charge(&here, quota, &mut linked)?];
    while let Some(level) = way.last_mut() {
        if let Some(name) = level.left.pop() {
            match rustix::fs::openat(&here, &name, DIRECTORY, Mode::empty()) {
                Ok(below) => here = below.into(),
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(from_errno(errno)),
            }
            way.push(charge(&here, quota, &mut linked)?);
            continue;
        }
        way.pop();
        let Some(above) = way.last() else { break };
        here = open(&here, c"..")?;
        if identity(&rustix::fs::fstat(&here).map_err(from_errno)?) != above.identity {
            return Err(VfsError::Busy);
        }
    }
    Ok(())
}

/// Charges what lies directly in a directory.
fn charge(dir: &File, quota: &Quota, linked: &mut BTreeSet<u64>) -> Result<Level, VfsError> {
    let identity = identity(&rustix::fs::fstat(dir).map_err(from_errno)?);
    let mut left = Vec::new();
    let mut entries = listing(dir)?;
    while let Some(entry) = entries.read() {
        let entry = entry.map_err(from_errno)?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(from_errno(errno)),
        };
        quota.charge_existing_entry();
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile if stat.st_nlink == 1 || linked.insert(stat.st_ino) => {
                quota.charge_existing(u64::try_from(stat.st_size).unwrap_or(0));
            }
            FileType::Directory => left.push(name.to_owned()),
            _ => {}
        }
    }
    Ok(Level { identity, left })
}

fn open(dir: &File, name: &CStr) -> Result<File, VfsError> {
    rustix::fs::openat(dir, name, DIRECTORY, Mode::empty()).map(File::from).map_err(from_errno)
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}
