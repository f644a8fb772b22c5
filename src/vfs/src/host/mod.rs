//! Volumes in a directory of the host: emptyDir, hostPath, local volumes.
//!
//! Capability-based: the volume's root is opened once, and from there on every name is opened below the
//! directory that holds it, one component at a time and without following links (`O_NOFOLLOW`). The kernel
//! never walks a path and never follows a link on a guest's behalf, so there is nothing to race: a directory
//! that is swapped for a link between two steps is a link, and the namespace walks it within the view.

mod errno;
pub(crate) mod handles;
pub(crate) mod image;
mod kernel;
mod listing;
mod measure;
mod open;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::io::Errno;

use self::errno::{from_errno, from_io};
use self::handles::{Handles, Permit};
use self::listing::Listing;
use self::open::{HostFile, Ledger};
use crate::error::VfsError;
use crate::quota::Quota;
use crate::tree::{Access, Cursor, FileKind, NewTime, Node, OpenFile, Stat, Times, Tree, next_device};
use crate::volume::Usage;

/// A name is opened like this to learn what it is: no access to the content, no link followed.
const LOOK: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

const FILE_MODE: Mode = Mode::from_raw_mode(0o666);
const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o777);

/// A tree of the host.
pub(crate) struct HostTree {
    device: u64,
    root: Node,
    ledger: Arc<Ledger>,
    /// Device and number of a directory that is never shown.
    hidden: Option<(u64, u64)>,
}

/// What a name led to: an `O_PATH` handle.
struct HostNode {
    handle: File,
    /// The host's number of the file system that it is on.
    on: u64,
    /// The volume's root has none.
    _permit: Option<Permit>,
}

impl HostTree {
    /// With a directory that is `hidden`: nobody gets into it, wherever in the volume it is found.
    ///
    /// # Errors
    /// If `dir` cannot be opened as a directory, or its content cannot be measured for `quota`;
    /// [`VfsError::NotPermitted`] if the kernel shows itself there; [`VfsError::Access`] if it is in what is `hidden`.
    pub(crate) fn open(
        dir: &Path,
        hidden: Option<&Path>,
        quota: Quota,
        handles: Handles,
    ) -> Result<HostTree, VfsError> {
        let handle = open_directory(dir)?;
        kernel::check(&handle)?;
        let hidden = hidden.map_or(Ok(None), |hidden| hide(&handle, hidden))?;
        let on = handle.metadata().map_err(from_io)?.dev();
        let device = next_device();
        let ledger = Arc::new(Ledger::new(device, quota, handles));
        if ledger.quota().counts() {
            measure::measure(&handle, ledger.quota())?;
        }
        let root = Arc::new(HostNode { handle, on, _permit: None });
        Ok(HostTree { device, root: Node { kind: FileKind::Directory, inner: root }, ledger, hidden })
    }

    /// Removes a name, and gives its bytes back if it was the last and nobody has it open.
    fn remove(&self, dir: &HostNode, name: &str, flags: AtFlags) -> Result<(), VfsError> {
        self.ledger.removing(&dir.handle, name, || {
            rustix::fs::unlinkat(&dir.handle, name, flags).map_err(from_errno)
        })
    }
}

impl Tree for HostTree {
    fn device(&self) -> u64 {
        self.device
    }

    fn blocking(&self) -> bool {
        true
    }

    fn usage(&self) -> Usage {
        self.ledger.quota().usage()
    }

    fn quota(&self) -> &Quota {
        self.ledger.quota()
    }

    fn root(&self) -> Node {
        self.root.clone()
    }

    fn lookup(&self, dir: &Node, name: &str) -> Result<Node, VfsError> {
        let dir = dir.of::<HostNode>();
        let permit = self.ledger.handles().take()?;
        let handle =
            File::from(rustix::fs::openat(&dir.handle, name, LOOK, Mode::empty()).map_err(from_errno)?);
        let meta = handle.metadata().map_err(from_io)?;
        let on = meta.dev();
        if on != dir.on && kernel::check(&handle).is_err() || Some((on, meta.ino())) == self.hidden {
            return Err(VfsError::Access);
        }
        Ok(Node { kind: kind(meta.mode()), inner: Arc::new(HostNode { handle, on, _permit: Some(permit) }) })
    }

    fn stat(&self, node: &Node) -> Result<Stat, VfsError> {
        stat(&node.of::<HostNode>().handle, self.device)
    }

    fn set_times(&self, node: &Node, times: Times) -> Result<(), VfsError> {
        let node = node.of::<HostNode>();
        let times = timestamps(times)?;
        rustix::fs::utimensat(&node.handle, "", &times, AtFlags::EMPTY_PATH).map_err(from_errno)
    }

    fn open(&self, node: &Node, access: Access) -> Result<Arc<dyn OpenFile>, VfsError> {
        if node.kind != FileKind::File {
            return Err(VfsError::Access);
        }
        let node = node.of::<HostNode>();
        let file = HostFile::open(&self.ledger, || reopen(&node.handle, flags(access)))?;
        if access.truncate {
            file.set_size(0)?;
        }
        Ok(Arc::new(file))
    }

    fn create(&self, dir: &Node, name: &str, access: Access) -> Result<Arc<dyn OpenFile>, VfsError> {
        let dir = dir.of::<HostNode>();
        let flags = flags(access) | OFlags::CREATE | OFlags::EXCL;
        let file = HostFile::create(&self.ledger, || {
            Ok(File::from(rustix::fs::openat(&dir.handle, name, flags, FILE_MODE).map_err(from_errno)?))
        })?;
        Ok(Arc::new(file))
    }

    fn create_directory(&self, dir: &Node, name: &str) -> Result<(), VfsError> {
        let dir = dir.of::<HostNode>();
        self.ledger.adding(|| rustix::fs::mkdirat(&dir.handle, name, DIRECTORY_MODE).map_err(from_errno))
    }

    fn symlink(&self, dir: &Node, name: &str, target: &str) -> Result<(), VfsError> {
        let dir = dir.of::<HostNode>();
        self.ledger.adding(|| rustix::fs::symlinkat(target, &dir.handle, name).map_err(from_errno))
    }

    fn read_link(&self, node: &Node) -> Result<String, VfsError> {
        let node = node.of::<HostNode>();
        let target = rustix::fs::readlinkat(&node.handle, "", Vec::new()).map_err(|errno| match errno {
            Errno::NOENT => VfsError::Invalid, // what the kernel says of a handle that is no link
            errno => from_errno(errno),
        })?;
        target.into_string().map_err(|_| VfsError::IllegalByteSequence)
    }

    fn link(&self, from: &Node, name: &str, to: &Node, new_name: &str) -> Result<(), VfsError> {
        let (from, to) = (from.of::<HostNode>(), to.of::<HostNode>());
        self.ledger.adding(|| {
            rustix::fs::linkat(&from.handle, name, &to.handle, new_name, AtFlags::empty()).map_err(from_errno)
        })
    }

    fn unlink(&self, dir: &Node, name: &str) -> Result<(), VfsError> {
        self.remove(&dir.of::<HostNode>(), name, AtFlags::empty())
    }

    fn remove_directory(&self, dir: &Node, name: &str) -> Result<(), VfsError> {
        self.remove(&dir.of::<HostNode>(), name, AtFlags::REMOVEDIR)
    }

    fn rename(&self, from: &Node, name: &str, to: &Node, new_name: &str) -> Result<(), VfsError> {
        let (from, to) = (from.of::<HostNode>(), to.of::<HostNode>());
        self.ledger.replacing((&from.handle, name), (&to.handle, new_name), || {
            rustix::fs::renameat(&from.handle, name, &to.handle, new_name).map_err(from_errno)
        })
    }

    fn read_directory(&self, dir: &Node) -> Result<Box<dyn Cursor>, VfsError> {
        let dir = dir.of::<HostNode>();
        let permit = self.ledger.handles().take()?;
        Ok(Box::new(Listing::new(reread(&dir.handle)?, permit)))
    }

    fn listing_bytes(&self) -> usize {
        listing::BYTES
    }

    fn sync(&self, dir: &Node) -> Result<(), VfsError> {
        let dir = reread(&dir.of::<HostNode>().handle)?;
        rustix::fs::fsync(dir).map_err(from_errno)
    }
}

/// All that a directory holds, from the beginning.
fn listing(dir: &File) -> Result<Dir, VfsError> {
    Dir::new(reread(dir)?).map_err(from_errno)
}

/// Opens a directory anew, to read it; `.` of an open directory is that directory, whatever its name is now.
fn reread(dir: &File) -> Result<File, VfsError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(dir, ".", flags, Mode::empty()).map(File::from).map_err(from_errno)
}

/// Opens a directory to begin at.
fn open_directory(dir: &Path) -> Result<File, VfsError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(dir, flags, Mode::empty()).map(File::from).map_err(from_errno)
}

/// How many names the disk that a directory is on has room for, if it says.
pub(crate) fn names_on(dir: &Path) -> Option<u64> {
    rustix::fs::statvfs(dir).ok().map(|stat| stat.f_files).filter(|names| *names > 0)
}

/// What says that a directory is the hidden one; nothing if there is none.
///
/// # Errors
/// [`VfsError::Access`] if `root` is in it. By where its handle is, which no name that changes meanwhile can alter.
fn hide(root: &File, hidden: &Path) -> Result<Option<(u64, u64)>, VfsError> {
    let hidden = match open_directory(hidden) {
        Err(VfsError::NoEntry) => return Ok(None),
        hidden => hidden?,
    };
    let place = |handle: &File| std::fs::read_link(by_handle(handle)).map_err(from_io);
    if place(root)?.starts_with(place(&hidden)?) {
        return Err(VfsError::Access);
    }
    let meta = hidden.metadata().map_err(from_io)?;
    Ok(Some((meta.dev(), meta.ino())))
}

/// The entry in `/proc` of an open handle, which leads to its inode and not through any name.
fn by_handle(handle: &File) -> String {
    format!("/proc/self/fd/{}", handle.as_raw_fd())
}

/// Opens the very file that an `O_PATH` handle stands for: one that was renamed or replaced meanwhile is no other.
fn reopen(handle: &File, flags: OFlags) -> Result<File, VfsError> {
    let file = rustix::fs::open(by_handle(handle), flags.difference(OFlags::NOFOLLOW), Mode::empty());
    file.map(File::from).map_err(from_errno)
}

fn flags(access: Access) -> OFlags {
    let mode = match (access.read, access.write) {
        (true, true) => OFlags::RDWR,
        (false, true) => OFlags::WRONLY,
        (_, false) => OFlags::RDONLY,
    };
    mode | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY
}

fn kind(mode: u32) -> FileKind {
    match FileType::from_raw_mode(mode) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        _ => FileKind::Other,
    }
}

fn stat(file: &File, device: u64) -> Result<Stat, VfsError> {
    let meta = file.metadata().map_err(from_io)?;
    let modified = meta.modified().map_err(from_io)?;
    let changed = u64::try_from(meta.ctime()).ok().and_then(|seconds| {
        let nanos = u32::try_from(meta.ctime_nsec()).ok()?;
        std::time::SystemTime::UNIX_EPOCH.checked_add(std::time::Duration::new(seconds, nanos))
    });
    Ok(Stat {
        kind: kind(meta.mode()),
        size: meta.size(),
        links: meta.nlink(),
        device,
        inode: meta.ino(),
        mode: meta.mode() & 0o7777,
        accessed: meta.accessed().map_err(from_io)?,
        modified,
        changed: changed.unwrap_or(modified),
    })
}

fn timestamps(times: Times) -> Result<Timestamps, VfsError> {
    fn one(time: NewTime) -> Result<Timespec, VfsError> {
        let at = match time {
            NewTime::Keep => return Ok(Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }),
            NewTime::Now => return Ok(Timespec { tv_sec: 0, tv_nsec: UTIME_NOW }),
            NewTime::At(at) => at,
        };
        let since = at.duration_since(std::time::SystemTime::UNIX_EPOCH).map_err(|_| VfsError::Invalid)?;
        let seconds = i64::try_from(since.as_secs()).map_err(|_| VfsError::Invalid)?;
        Ok(Timespec { tv_sec: seconds, tv_nsec: i64::from(since.subsec_nanos()) })
    }
    Ok(Timestamps { last_access: one(times.accessed)?, last_modification: one(times.modified)? })
}
