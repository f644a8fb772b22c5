//! Files, directories and links in memory. An inode lives as long as a name or a handle refers to it.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};

use super::content::Content;
use crate::clock::Stamp;
use crate::error::VfsError;
use crate::quota::Quota;
use crate::tree::{FileKind, NewTime, OpenFile, Stat, Times};

/// A file, directory or link. There may be a million of them, so what only some need is behind a pointer.
pub(super) struct Inode {
    pub(super) number: u64,
    shared: Arc<Shared>,
    meta: Mutex<Meta>,
    pub(super) body: Body,
}

/// What all inodes of a tree have in common.
pub(super) struct Shared {
    pub(super) device: u64,
    pub(super) quota: Quota,
}

pub(super) enum Body {
    File(RwLock<Content>),
    Directory(Box<Folder>),
    Symlink(Box<str>),
}

struct Meta {
    links: u32,
    mode: u16,
    accessed: Stamp,
    modified: Stamp,
    changed: Stamp,
}

/// What only a directory has.
pub(super) struct Folder {
    names: RwLock<Names>,
    /// The one above, for the check that none is moved into itself. Not with the names, whose lock a rename may
    /// hold already.
    parent: Mutex<Weak<Inode>>,
}

/// A directory's content.
pub(super) struct Names {
    pub(super) entries: BTreeMap<Box<str>, Arc<Inode>>,
    /// It has no name any more, so nothing can be made in it.
    pub(super) removed: bool,
}

impl Body {
    pub(super) fn empty_file() -> Body {
        Body::File(RwLock::new(Content::empty()))
    }

    pub(super) fn empty_directory() -> Body {
        let names = RwLock::new(Names { entries: BTreeMap::new(), removed: false });
        Body::Directory(Box::new(Folder { names, parent: Mutex::default() }))
    }
}

impl Inode {
    pub(super) fn new(number: u64, shared: &Arc<Shared>, mode: u16, body: Body) -> Arc<Inode> {
        let now = Stamp::now();
        let meta = Meta { links: 1, mode, accessed: now, modified: now, changed: now };
        Arc::new(Inode { number, shared: Arc::clone(shared), meta: Mutex::new(meta), body })
    }

    pub(super) fn kind(&self) -> FileKind {
        match self.body {
            Body::File(_) => FileKind::File,
            Body::Directory(_) => FileKind::Directory,
            Body::Symlink(_) => FileKind::Symlink,
        }
    }

    pub(super) fn parent(&self) -> Option<Arc<Inode>> {
        match &self.body {
            Body::Directory(folder) => folder.parent.lock().upgrade(),
            Body::File(_) | Body::Symlink(_) => None,
        }
    }

    /// Says what a directory lies in; of others nobody asks.
    pub(super) fn set_parent(&self, parent: &Arc<Inode>) {
        if let Body::Directory(folder) = &self.body {
            *folder.parent.lock() = Arc::downgrade(parent);
        }
    }

    pub(super) fn names(&self) -> Result<&RwLock<Names>, VfsError> {
        match &self.body {
            Body::Directory(folder) => Ok(&folder.names),
            Body::File(_) | Body::Symlink(_) => Err(VfsError::NotDirectory),
        }
    }

    pub(super) fn status(&self) -> Stat {
        let size = match &self.body {
            Body::File(content) => content.read().size(),
            Body::Directory(folder) => folder.names.read().entries.len() as u64,
            Body::Symlink(target) => target.len() as u64,
        };
        let meta = self.meta.lock();
        Stat {
            kind: self.kind(),
            size,
            links: meta.links.into(),
            device: self.shared.device,
            inode: self.number,
            mode: meta.mode.into(),
            accessed: meta.accessed.time(),
            modified: meta.modified.time(),
            changed: meta.changed.time(),
        }
    }

    pub(super) fn change_times(&self, times: Times) {
        let now = Stamp::now();
        let set = |time: &mut Stamp, new: NewTime| match new {
            NewTime::Keep => {}
            NewTime::Now => *time = now,
            NewTime::At(at) => *time = Stamp::of(at),
        };
        let mut meta = self.meta.lock();
        set(&mut meta.accessed, times.accessed);
        set(&mut meta.modified, times.modified);
        meta.changed = now;
    }

    pub(super) fn mark_modified(&self) {
        let now = Stamp::now();
        let mut meta = self.meta.lock();
        meta.modified = now;
        meta.changed = now;
    }

    /// Adds a name's worth of links.
    ///
    /// # Errors
    /// [`VfsError::TooManyLinks`] if no more can be counted.
    pub(super) fn link(&self) -> Result<(), VfsError> {
        let mut meta = self.meta.lock();
        meta.links = meta.links.checked_add(1).ok_or(VfsError::TooManyLinks)?;
        meta.changed = Stamp::now();
        Ok(())
    }

    /// Takes a name's worth of links.
    pub(super) fn unlink(&self) {
        let mut meta = self.meta.lock();
        meta.links = meta.links.saturating_sub(1);
        meta.changed = Stamp::now();
    }

    /// Like `relatime`: only the first read after a write is recorded, so that readers do not contend.
    fn mark_accessed(&self) {
        let mut meta = self.meta.lock();
        if meta.accessed <= meta.modified {
            meta.accessed = Stamp::now();
        }
    }

    fn quota(&self) -> &Quota {
        &self.shared.quota
    }

    pub(super) fn mode(&self) -> u16 {
        self.meta.lock().mode
    }

    pub(super) fn content(&self) -> Result<&RwLock<Content>, VfsError> {
        match &self.body {
            Body::File(content) => Ok(content),
            Body::Directory(_) => Err(VfsError::IsDirectory),
            Body::Symlink(_) => Err(VfsError::Loop),
        }
    }
}

impl OpenFile for Inode {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, VfsError> {
        let count = self.content()?.read().read(offset, buffer);
        self.mark_accessed();
        Ok(count)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<usize, VfsError> {
        let written = self.content()?.write().write(offset, data, self.quota())?;
        self.mark_modified();
        Ok(written)
    }

    fn append(&self, data: &[u8]) -> Result<usize, VfsError> {
        let written = {
            let mut content = self.content()?.write();
            let end = content.size();
            if i64::try_from(end.saturating_add(data.len() as u64)).is_err() {
                return Err(VfsError::TooLarge);
            }
            content.write(end, data, self.quota())?
        };
        self.mark_modified();
        Ok(written)
    }

    fn set_size(&self, size: u64) -> Result<(), VfsError> {
        self.content()?.write().set_size(size, self.quota())?;
        self.mark_modified();
        Ok(())
    }

    fn reserve(&self, offset: u64, length: u64) -> Result<(), VfsError> {
        self.content()?.write().reserve(offset, length, self.quota())?;
        self.mark_modified();
        Ok(())
    }

    fn stat(&self) -> Result<Stat, VfsError> {
        Ok(self.status())
    }

    fn blocking(&self) -> bool {
        false
    }

    fn set_times(&self, times: Times) -> Result<(), VfsError> {
        self.change_times(times);
        Ok(())
    }

    fn sync(&self, _data_only: bool) -> Result<(), VfsError> {
        Ok(())
    }
}

impl Drop for Inode {
    /// Gives charges back. Directories can be as deep as guests care to nest them, so their content is taken
    /// apart in a loop, not by recursion.
    fn drop(&mut self) {
        let quota = &self.shared.quota;
        match &mut self.body {
            Body::File(content) => content.get_mut().discard(quota),
            Body::Symlink(target) => {
                quota.release(target.len() as u64);
                quota.let_go(target.len() as u64);
            }
            Body::Directory(folder) => {
                let mut left = vec![std::mem::take(&mut folder.names.get_mut().entries)];
                while let Some(entries) = left.pop() {
                    for (name, inode) in entries {
                        quota.release_entry(&name);
                        inode.unlink();
                        if let Some(mut inode) = Arc::into_inner(inode)
                            && let Body::Directory(folder) = &mut inode.body
                        {
                            left.push(std::mem::take(&mut folder.names.get_mut().entries));
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With the two counts of its `Arc`; see [`crate::quota::ENTRY_BYTES`].
    #[test]
    fn an_inode_is_small() {
        let size = size_of::<Inode>() + 2 * size_of::<usize>();
        assert!(size <= 128, "{size} bytes");
        assert!(size_of::<Folder>() <= 64, "{} bytes", size_of::<Folder>());
    }
}
