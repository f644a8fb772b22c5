//! Files, directories and links in memory. An inode lives as long as a name or a handle refers to it.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use parking_lot::{Mutex, RwLock};

use super::content::Content;
use crate::clock;
use crate::error::VfsError;
use crate::quota::Quota;
use crate::tree::{FileKind, NewTime, OpenFile, Stat, Times};

pub(super) struct Inode {
    pub(super) number: u64,
    pub(super) device: u64,
    quota: Arc<Quota>,
    meta: Mutex<Meta>,
    pub(super) body: Body,
}

pub(super) enum Body {
    File(RwLock<Content>),
    Directory(RwLock<Names>),
    Symlink(Box<str>),
}

struct Meta {
    links: u64,
    mode: u32,
    accessed: SystemTime,
    modified: SystemTime,
    changed: SystemTime,
    /// Of a directory: the one above, for the check that none is moved into itself. Not with the names, whose
    /// lock a rename may hold already.
    parent: Weak<Inode>,
}

/// A directory's content.
pub(super) struct Names {
    pub(super) entries: BTreeMap<Arc<str>, Arc<Inode>>,
    /// It has no name any more, so nothing can be made in it.
    pub(super) removed: bool,
}

impl Inode {
    pub(super) fn new(number: u64, device: u64, quota: &Arc<Quota>, mode: u32, body: Body) -> Arc<Inode> {
        let now = clock::now();
        let meta = Meta { links: 1, mode, accessed: now, modified: now, changed: now, parent: Weak::new() };
        Arc::new(Inode { number, device, quota: Arc::clone(quota), meta: Mutex::new(meta), body })
    }

    pub(super) fn kind(&self) -> FileKind {
        match self.body {
            Body::File(_) => FileKind::File,
            Body::Directory(_) => FileKind::Directory,
            Body::Symlink(_) => FileKind::Symlink,
        }
    }

    pub(super) fn parent(&self) -> Option<Arc<Inode>> {
        self.meta.lock().parent.upgrade()
    }

    pub(super) fn set_parent(&self, parent: &Arc<Inode>) {
        self.meta.lock().parent = Arc::downgrade(parent);
    }

    pub(super) fn names(&self) -> Result<&RwLock<Names>, VfsError> {
        match &self.body {
            Body::Directory(names) => Ok(names),
            Body::File(_) | Body::Symlink(_) => Err(VfsError::NotDirectory),
        }
    }

    pub(super) fn status(&self) -> Stat {
        let size = match &self.body {
            Body::File(content) => content.read().size(),
            Body::Directory(names) => names.read().entries.len() as u64,
            Body::Symlink(target) => target.len() as u64,
        };
        let meta = self.meta.lock();
        Stat {
            kind: self.kind(),
            size,
            links: meta.links,
            device: self.device,
            inode: self.number,
            mode: meta.mode,
            accessed: meta.accessed,
            modified: meta.modified,
            changed: meta.changed,
        }
    }

    pub(super) fn change_times(&self, times: Times) {
        let now = clock::now();
        let set = |time: &mut SystemTime, new: NewTime| match new {
            NewTime::Keep => {}
            NewTime::Now => *time = now,
            NewTime::At(at) => *time = at,
        };
        let mut meta = self.meta.lock();
        set(&mut meta.accessed, times.accessed);
        set(&mut meta.modified, times.modified);
        meta.changed = now;
    }

    pub(super) fn mark_modified(&self) {
        let now = clock::now();
        let mut meta = self.meta.lock();
        meta.modified = now;
        meta.changed = now;
    }

    /// Adds a name's worth of links.
    pub(super) fn link(&self) {
        let mut meta = self.meta.lock();
        meta.links += 1;
        meta.changed = clock::now();
    }

    /// Takes a name's worth of links.
    pub(super) fn unlink(&self) {
        let mut meta = self.meta.lock();
        meta.links = meta.links.saturating_sub(1);
        meta.changed = clock::now();
    }

    /// Like `relatime`: only the first read after a write is recorded, so that readers do not contend.
    fn mark_accessed(&self) {
        let mut meta = self.meta.lock();
        if meta.accessed <= meta.modified {
            meta.accessed = clock::now();
        }
    }

    fn content(&self) -> Result<&RwLock<Content>, VfsError> {
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
        let written = self.content()?.write().write(offset, data, &self.quota)?;
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
            content.write(end, data, &self.quota)?
        };
        self.mark_modified();
        Ok(written)
    }

    fn set_size(&self, size: u64) -> Result<(), VfsError> {
        self.content()?.write().set_size(size, &self.quota)?;
        self.mark_modified();
        Ok(())
    }

    fn stat(&self) -> Result<Stat, VfsError> {
        Ok(self.status())
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
        match &mut self.body {
            Body::File(content) => content.get_mut().discard(&self.quota),
            Body::Symlink(target) => self.quota.release(target.len() as u64),
            Body::Directory(names) => {
                let mut left = vec![std::mem::take(&mut names.get_mut().entries)];
                while let Some(entries) = left.pop() {
                    self.quota.release_entries(entries.len() as u64);
                    for inode in entries.into_values() {
                        inode.unlink();
                        if let Some(mut inode) = Arc::into_inner(inode)
                            && let Body::Directory(names) = &mut inode.body
                        {
                            left.push(std::mem::take(&mut names.get_mut().entries));
                        }
                    }
                }
            }
        }
    }
}
