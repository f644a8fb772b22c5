//! The trait behind which every volume stands: nodes and names, no paths.
//!
//! A tree knows nothing of mounts, `..`, links that are followed, or read-only views: the namespace above it
//! does that once for all. Names that reach a tree are one component: not empty, not `.` or `..`, without
//! `/` and NUL, at most [`crate::NAME_MAX`] bytes.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use crate::device::Device;
use crate::error::VfsError;
use crate::quota::Quota;
use crate::volume::Usage;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A file of `/dev` that every container has.
    Device,
    /// Something of the host that guests cannot open: a device, a socket, a pipe.
    Other,
}

/// What `stat` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: FileKind,
    /// Length in bytes (of a link: of its target).
    pub size: u64,
    /// Names of this file. Directories of memory volumes say 1.
    pub links: u64,
    /// Which volume; unique in this process.
    pub device: u64,
    /// Which file of the volume.
    pub inode: u64,
    /// POSIX permission bits, without the type.
    pub mode: u32,
    /// Last read, as far as it is recorded (like `relatime`).
    pub accessed: SystemTime,
    /// Last write of the content.
    pub modified: SystemTime,
    /// Last change of anything.
    pub changed: SystemTime,
}

/// What to set a time to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NewTime {
    /// Leave it.
    #[default]
    Keep,
    /// The wall time of the change.
    Now,
    /// This time.
    At(SystemTime),
}

/// New times of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// Of the last read.
    pub accessed: NewTime,
    /// Of the last write.
    pub modified: NewTime,
}

/// One name of a directory. `.` and `..` are never listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name.
    pub name: String,
    /// What it stands for.
    pub kind: FileKind,
}

/// How a file is opened, after all questions of names are settled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Access {
    pub(crate) read: bool,
    pub(crate) write: bool,
    pub(crate) truncate: bool,
}

/// A file or directory of one tree. Only the tree that made it can look inside.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) kind: FileKind,
    pub(crate) inner: Arc<dyn Any + Send + Sync>,
}

impl Node {
    /// The tree's own type. A node of another tree is a bug of the namespace, which keeps them together.
    pub(crate) fn of<T: Any + Send + Sync>(&self) -> Arc<T> {
        Arc::clone(&self.inner).downcast().expect("a node goes back to the tree that made it")
    }

    /// As [`Node::of`], to look at.
    pub(crate) fn get<T: Any + Send + Sync>(&self) -> &T {
        self.inner.downcast_ref().expect("a node goes back to the tree that made it")
    }
}

/// What a listing costs that remembers a name and where it is.
const LISTING_BYTES: usize = 512;

/// A volume's tree. All operations are atomic against each other as POSIX has them.
pub(crate) trait Tree: Send + Sync {
    /// Unique in this process; `st_dev`.
    fn device(&self) -> u64;
    /// Whether operations may wait for a disk.
    fn blocking(&self) -> bool;
    fn usage(&self) -> Usage;
    /// The books that the tree keeps.
    fn quota(&self) -> &Quota;
    fn root(&self) -> Node;
    fn lookup(&self, dir: &Node, name: &str) -> Result<Node, VfsError>;
    fn stat(&self, node: &Node) -> Result<Stat, VfsError>;
    fn set_times(&self, node: &Node, times: Times) -> Result<(), VfsError>;
    /// Opens a regular file; anything else is [`VfsError::Access`].
    fn open(&self, node: &Node, access: Access) -> Result<Arc<dyn OpenFile>, VfsError>;
    /// Makes a new regular file and opens it; [`VfsError::Exists`] if the name is taken.
    fn create(&self, dir: &Node, name: &str, access: Access) -> Result<Arc<dyn OpenFile>, VfsError>;
    fn create_directory(&self, dir: &Node, name: &str) -> Result<(), VfsError>;
    fn symlink(&self, dir: &Node, name: &str, target: &str) -> Result<(), VfsError>;
    fn read_link(&self, node: &Node) -> Result<String, VfsError>;
    fn link(&self, from: &Node, name: &str, to: &Node, new_name: &str) -> Result<(), VfsError>;
    fn unlink(&self, dir: &Node, name: &str) -> Result<(), VfsError>;
    fn remove_directory(&self, dir: &Node, name: &str) -> Result<(), VfsError>;
    fn rename(&self, from: &Node, name: &str, to: &Node, new_name: &str) -> Result<(), VfsError>;
    fn read_directory(&self, dir: &Node) -> Result<Box<dyn Cursor>, VfsError>;
    /// What the host holds for a listing under way, at most, in bytes.
    fn listing_bytes(&self) -> usize {
        LISTING_BYTES
    }
    /// Makes a directory durable.
    fn sync(&self, dir: &Node) -> Result<(), VfsError>;
}

/// An open regular file. It stays usable after its name is gone.
pub(crate) trait OpenFile: Send + Sync {
    /// Reads at most `buffer.len()` bytes; 0 at the end.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, VfsError>;
    /// Writes a part or all of `data`; [`VfsError::NoSpace`] if nothing fits.
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<usize, VfsError>;
    /// Writes at the end, in one step against other writers.
    fn append(&self, data: &[u8]) -> Result<usize, VfsError>;
    fn set_size(&self, size: u64) -> Result<(), VfsError>;
    /// Sees to it that there is room for `length` bytes from `offset` on, and lengthens the file to their end. The sum
    /// is no more than a file may have, and `length` is not 0. After a [`VfsError::NoSpace`] all is as before.
    fn reserve(&self, offset: u64, length: u64) -> Result<(), VfsError>;
    fn stat(&self) -> Result<Stat, VfsError>;
    fn set_times(&self, times: Times) -> Result<(), VfsError>;
    /// Whether operations on it may wait for a disk.
    fn blocking(&self) -> bool;
    /// What it does, if it is one of `/dev`.
    fn device(&self) -> Option<Device> {
        None
    }
    fn sync(&self, data_only: bool) -> Result<(), VfsError>;
}

/// A position in a directory's listing. A name that exists from the first call to the last is told once.
pub(crate) trait Cursor: Send {
    fn next(&mut self) -> Result<Option<Entry>, VfsError>;
}

/// A new device number.
pub(crate) fn next_device() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
