//! Read-only volumes of an image's files: a folder of the content store that nobody writes to.
//!
//! What a folder holds is read once, when it is first looked into, and then shared by every pod that uses the
//! image: names, kinds, lengths and link targets cost no handle and no call of the host afterwards. That is memory
//! of nobody's, so it is bounded, for each image and for all: folders beyond that are read again each time. Only open
//! files are handles, bounded for each volume and pod, so that one pod does not use up another's. Files are
//! opened from the folder's own handle down, one component at a time and without following links.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use rustix::fs::{AtFlags, Mode, OFlags};

use super::errno::{from_errno, from_io};
use super::handles::{Handles, Permit};
use super::listing::{self, Listing as HostListing};
use super::{LOOK, kind, listing as all_of, open_directory, reread};
use crate::clock::Stamp;
use crate::error::VfsError;
use crate::quota::Quota;
use crate::tree::{Access, Cursor, Entry, FileKind, Node, OpenFile, Stat, Times, Tree, next_device};
use crate::volume::Usage;

/// What is remembered of the names of one image, in bytes: some 40,000 names as they mostly are, which is more than
/// most images have.
const IMAGE_BYTES: usize = 8 << 20;

/// What is remembered of all of them.
const ALL_BYTES: usize = 128 << 20;

/// What a name costs beside its letters: the item with its counts, and its place in the list.
pub(super) const ITEM_BYTES: usize = size_of::<Item>() + 3 * size_of::<usize>() + 16;

/// What all images have of [`ALL_BYTES`].
static REMEMBERED: AtomicUsize = AtomicUsize::new(0);

/// Files of an image, for one pod or container.
pub(crate) struct ImageTree {
    device: u64,
    index: Arc<Index>,
    handles: Handles,
    /// Empty: nothing is ever charged.
    quota: Quota,
}

/// What is known of a folder, shared by all volumes that show it.
struct Index {
    root: File,
    top: Arc<Item>,
    /// What is remembered of it, and how much that may be.
    bytes: AtomicUsize,
    most: usize,
    /// Held while a directory is read: however many look into it at once, it is read for one of them.
    reading: Mutex<()>,
}

/// A name of the folder.
struct Item {
    name: Box<str>,
    /// The path of the directory that holds it, from the root.
    above: Arc<str>,
    size: u64,
    inode: u64,
    links: u64,
    mode: u32,
    modified: Stamp,
    body: Body,
}

/// What a directory holds.
type Names = Box<[Arc<Item>]>;

enum Body {
    File,
    Symlink(Box<str>),
    /// Its names in their order, once they were read; nothing if they are too many to be remembered.
    Directory(OnceLock<Option<Names>>),
    Other,
}

impl ImageTree {
    /// # Errors
    /// If `dir` cannot be opened as a directory.
    pub(crate) fn open(dir: &Path, handles: Handles) -> Result<ImageTree, VfsError> {
        ImageTree::remembering(dir, handles, IMAGE_BYTES)
    }

    /// As [`ImageTree::open`], where so many bytes of names are remembered.
    pub(super) fn remembering(dir: &Path, handles: Handles, most: usize) -> Result<ImageTree, VfsError> {
        let index = Index::of(open_directory(dir)?, most)?;
        Ok(ImageTree { device: next_device(), index, handles, quota: Quota::new(None) })
    }
}

impl Index {
    /// The index of this folder; by what it is, not by how it is called. As long as the index lives its handle
    /// keeps the number from being used again.
    fn of(root: File, most: usize) -> Result<Arc<Index>, VfsError> {
        static KNOWN: Mutex<BTreeMap<(u64, u64), Weak<Index>>> = Mutex::new(BTreeMap::new());
        let meta = root.metadata().map_err(from_io)?;
        let mut known = KNOWN.lock();
        let key = (meta.dev(), meta.ino());
        if let Some(index) = known.get(&key).and_then(Weak::upgrade) {
            return Ok(index);
        }
        known.retain(|_, index| index.strong_count() > 0);
        let stat = rustix::fs::fstat(&root).map_err(from_errno)?;
        let top = Arc::new(Item::new("", &Arc::from(""), &stat, Body::Directory(OnceLock::new())));
        let index = Index { root, top, bytes: AtomicUsize::new(0), most, reading: Mutex::new(()) };
        let index = Arc::new(index);
        known.insert(key, Arc::downgrade(&index));
        Ok(index)
    }

    /// Opens a directory by its path from the root.
    fn folder(&self, path: &str) -> Result<File, VfsError> {
        let mut here = self.root.try_clone().map_err(from_io)?;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let below = rustix::fs::openat(&here, name, LOOK | OFlags::DIRECTORY, Mode::empty());
            here = File::from(below.map_err(from_errno)?);
        }
        Ok(here)
    }

    /// What a directory holds, in its order; `None` if that is not remembered.
    fn names<'a>(&self, item: &'a Item) -> Result<Option<&'a [Arc<Item>]>, VfsError> {
        let Body::Directory(names) = &item.body else { return Err(VfsError::NotDirectory) };
        if let Some(names) = names.get() {
            return Ok(names.as_deref());
        }
        let _reading = self.reading.lock();
        if let Some(names) = names.get() {
            return Ok(names.as_deref());
        }
        let read = self.read(item)?;
        Ok(names
            .get_or_init(|| read.and_then(|(list, bytes)| self.remember(bytes).then_some(list)))
            .as_deref())
    }

    /// Takes so much of what may be remembered; false if there is not enough left.
    fn remember(&self, bytes: usize) -> bool {
        let take = |of: &AtomicUsize, most| {
            of.fetch_update(Relaxed, Relaxed, |used| Some(used + bytes).filter(|sum| *sum <= most)).is_ok()
        };
        if !take(&self.bytes, self.most) {
            return false;
        }
        let taken = take(&REMEMBERED, ALL_BYTES);
        if !taken {
            self.bytes.fetch_sub(bytes, Relaxed);
        }
        taken
    }

    /// Reads what a directory holds, and what it costs to remember that; `None` if that would be too much.
    fn read(&self, item: &Item) -> Result<Option<(Names, usize)>, VfsError> {
        let path = item.path();
        let folder = self.folder(&path)?;
        let (above, mut list, mut bytes) = (Arc::<str>::from(path), Vec::new(), 0);
        let room = self.most.saturating_sub(self.bytes.load(Relaxed));
        for entry in all_of(&folder)? {
            let entry = entry.map_err(from_errno)?;
            // A name that is not UTF-8 cannot be said in WASI, so nothing could be done with it.
            let Some(name) = entry.file_name().to_str().ok().filter(|name| !matches!(*name, "." | ".."))
            else {
                continue;
            };
            let item = match look(&folder, name, &above) {
                Err(VfsError::NoEntry) => continue,
                item => item?,
            };
            // All of them share the path of their folder.
            bytes += item.bytes() + if list.is_empty() { above.len() } else { 0 };
            if bytes > room {
                return Ok(None);
            }
            list.push(item);
        }
        list.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(Some((list.into(), bytes)))
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        REMEMBERED.fetch_sub(*self.bytes.get_mut(), Relaxed);
    }
}

/// What a name of an open folder, whose path is `above`, stands for.
fn look(folder: &File, name: &str, above: &Arc<str>) -> Result<Arc<Item>, VfsError> {
    let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(from_errno)?;
    let body = match kind(stat.st_mode) {
        FileKind::File => Body::File,
        FileKind::Directory => Body::Directory(OnceLock::new()),
        FileKind::Device | FileKind::Other => Body::Other,
        FileKind::Symlink => {
            let target = rustix::fs::readlinkat(folder, name, Vec::new()).map_err(from_errno)?;
            match target.into_string() {
                Ok(target) => Body::Symlink(target.into()),
                Err(_) => Body::Other,
            }
        }
    };
    Ok(Arc::new(Item::new(name, above, &stat, body)))
}

impl Item {
    fn new(name: &str, above: &Arc<str>, stat: &rustix::fs::Stat, body: Body) -> Item {
        let nanos = i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec);
        Item {
            name: name.into(),
            above: Arc::clone(above),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            inode: stat.st_ino,
            links: stat.st_nlink,
            mode: stat.st_mode & 0o7777,
            modified: Stamp::of_nanos(nanos),
            body,
        }
    }

    /// What it costs to remember it.
    fn bytes(&self) -> usize {
        let target = match &self.body {
            Body::Symlink(target) => target.len(),
            Body::File | Body::Directory(_) | Body::Other => 0,
        };
        ITEM_BYTES + self.name.len() + target
    }

    fn path(&self) -> String {
        if self.above.is_empty() { self.name.to_string() } else { format!("{}/{}", self.above, self.name) }
    }

    fn kind(&self) -> FileKind {
        match self.body {
            Body::File => FileKind::File,
            Body::Symlink(_) => FileKind::Symlink,
            Body::Directory(_) => FileKind::Directory,
            Body::Other => FileKind::Other,
        }
    }

    /// As far as guests are concerned nothing here was ever read or changed since it was made: what others do with
    /// a shared folder is not theirs to see.
    fn stat(&self, device: u64) -> Stat {
        let time = self.modified.time();
        Stat {
            kind: self.kind(),
            size: self.size,
            links: self.links,
            device,
            inode: self.inode,
            mode: self.mode,
            accessed: time,
            modified: time,
            changed: time,
        }
    }
}

fn node(item: &Arc<Item>) -> Node {
    Node { kind: item.kind(), inner: Arc::clone(item) as _ }
}

impl Tree for ImageTree {
    fn device(&self) -> u64 {
        self.device
    }

    fn blocking(&self) -> bool {
        true
    }

    fn usage(&self) -> Usage {
        Usage::default()
    }

    fn quota(&self) -> &Quota {
        &self.quota
    }

    fn root(&self) -> Node {
        node(&self.index.top)
    }

    fn lookup(&self, dir: &Node, name: &str) -> Result<Node, VfsError> {
        let dir = dir.get::<Item>();
        let Some(names) = self.index.names(dir)? else {
            let path = dir.path();
            let folder = self.index.folder(&path)?;
            return Ok(node(&look(&folder, name, &Arc::from(path))?));
        };
        let at = names.binary_search_by(|item| (*item.name).cmp(name)).map_err(|_| VfsError::NoEntry)?;
        Ok(node(&names[at]))
    }

    fn stat(&self, node: &Node) -> Result<Stat, VfsError> {
        Ok(node.get::<Item>().stat(self.device))
    }

    fn open(&self, node: &Node, access: Access) -> Result<Arc<dyn OpenFile>, VfsError> {
        let item = node.of::<Item>();
        if !matches!(item.body, Body::File) {
            return Err(VfsError::Access);
        }
        if access.write || access.truncate {
            return Err(VfsError::ReadOnly);
        }
        let permit = self.handles.take()?;
        let folder = self.index.folder(&item.above)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = rustix::fs::openat(&folder, &*item.name, flags, Mode::empty()).map_err(from_errno)?;
        let file = File::from(file);
        if !file.metadata().map_err(from_io)?.is_file() {
            return Err(VfsError::Access);
        }
        Ok(Arc::new(ImageFile { file, item, device: self.device, _permit: permit }))
    }

    fn read_link(&self, node: &Node) -> Result<String, VfsError> {
        match &node.get::<Item>().body {
            Body::Symlink(target) => Ok(target.to_string()),
            Body::File | Body::Directory(_) | Body::Other => Err(VfsError::Invalid),
        }
    }

    fn read_directory(&self, dir: &Node) -> Result<Box<dyn Cursor>, VfsError> {
        let dir = dir.of::<Item>();
        if self.index.names(&dir)?.is_some() {
            return Ok(Box::new(Listing { dir, next: 0 }));
        }
        let permit = self.handles.take()?;
        Ok(Box::new(HostListing::new(reread(&self.index.folder(&dir.path())?)?, permit)))
    }

    fn listing_bytes(&self) -> usize {
        listing::BYTES
    }

    fn sync(&self, _dir: &Node) -> Result<(), VfsError> {
        Ok(())
    }

    fn set_times(&self, _node: &Node, _times: Times) -> Result<(), VfsError> {
        Err(VfsError::ReadOnly)
    }

    fn create(&self, _dir: &Node, _name: &str, _access: Access) -> Result<Arc<dyn OpenFile>, VfsError> {
        Err(VfsError::ReadOnly)
    }

    fn create_directory(&self, _dir: &Node, _name: &str) -> Result<(), VfsError> {
        Err(VfsError::ReadOnly)
    }

    fn symlink(&self, _dir: &Node, _name: &str, _target: &str) -> Result<(), VfsError> {
        Err(VfsError::ReadOnly)
    }

    fn link(&self, _from: &Node, _name: &str, _to: &Node, _new_name: &str) -> Result<(), VfsError> {
        Err(VfsError::ReadOnly)
    }

    fn unlink(&self, _dir: &Node, _name: &str) -> Result<(), VfsError> {
        Err(VfsError::ReadOnly)
    }

    fn remove_directory(&self, _dir: &Node, _name: &str) -> Result<(), VfsError> {
        Err(VfsError::ReadOnly)
    }

    fn rename(&self, _from: &Node, _name: &str, _to: &Node, _new_name: &str) -> Result<(), VfsError> {
        Err(VfsError::ReadOnly)
    }
}

/// Names do not change, so a position is a number.
struct Listing {
    dir: Arc<Item>,
    next: usize,
}

impl Cursor for Listing {
    fn next(&mut self) -> Result<Option<Entry>, VfsError> {
        let Body::Directory(names) = &self.dir.body else { return Ok(None) };
        let item = names.get().and_then(Option::as_ref).and_then(|names| names.get(self.next));
        self.next += 1;
        Ok(item.map(|item| Entry { name: item.name.to_string(), kind: item.kind() }))
    }
}

/// An open file of an image.
struct ImageFile {
    file: File,
    item: Arc<Item>,
    device: u64,
    _permit: Permit,
}

impl OpenFile for ImageFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, VfsError> {
        if i64::try_from(offset).is_err() {
            return Ok(0);
        }
        self.file.read_at(buffer, offset).map_err(from_io)
    }

    fn write_at(&self, _offset: u64, _data: &[u8]) -> Result<usize, VfsError> {
        Err(VfsError::ReadOnly)
    }

    fn append(&self, _data: &[u8]) -> Result<usize, VfsError> {
        Err(VfsError::ReadOnly)
    }

    fn set_size(&self, _size: u64) -> Result<(), VfsError> {
        Err(VfsError::ReadOnly)
    }

    fn reserve(&self, _offset: u64, _length: u64) -> Result<(), VfsError> {
        Err(VfsError::ReadOnly)
    }

    fn stat(&self) -> Result<Stat, VfsError> {
        Ok(self.item.stat(self.device))
    }

    fn blocking(&self) -> bool {
        true
    }

    fn set_times(&self, _times: Times) -> Result<(), VfsError> {
        Err(VfsError::ReadOnly)
    }

    fn sync(&self, _data_only: bool) -> Result<(), VfsError> {
        Ok(())
    }
}
