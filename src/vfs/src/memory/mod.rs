//! Volumes in memory: emptyDir with `medium: Memory`, configMaps and secrets, a container's root.
//!
//! Locks: each directory and each file has its own. Whoever takes two directories at once (rename, rmdir,
//! project) holds `structure` first, so that the order among directories does not matter.

mod content;
mod inode;
mod project;
mod stretches;
#[cfg(test)]
mod tests;

use std::collections::btree_map::Entry;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use coracle_budget::Budget;
use parking_lot::Mutex;

use self::inode::{Body, Inode, Shared};
use crate::DEPTH_MAX;
use crate::error::VfsError;
use crate::quota::Quota;
use crate::tree::{self, Access, Cursor, FileKind, Node, OpenFile, Stat, Times, Tree, next_device};
use crate::volume::Usage;

const FILE_MODE: u16 = 0o644;
const DIRECTORY_MODE: u16 = 0o755;
const LINK_MODE: u16 = 0o777;

/// A tree in memory.
pub(crate) struct MemoryTree {
    shared: Arc<Shared>,
    root: Arc<Inode>,
    next_inode: AtomicU64,
    structure: Mutex<()>,
}

impl MemoryTree {
    /// What it holds is memory of the pod with this budget, if one is given.
    pub(crate) fn new(limit: Option<u64>, budget: Option<&Arc<Budget>>) -> MemoryTree {
        let quota = match budget {
            Some(budget) => Quota::of_pod(limit, budget),
            None => Quota::new(limit),
        };
        let shared = Arc::new(Shared { device: next_device(), quota });
        let root = Inode::new(1, &shared, DIRECTORY_MODE, Body::empty_directory());
        MemoryTree { shared, root, next_inode: AtomicU64::new(2), structure: Mutex::new(()) }
    }

    fn inode(&self, mode: u16, body: Body) -> Arc<Inode> {
        let number = self.next_inode.fetch_add(1, Ordering::Relaxed);
        Inode::new(number, &self.shared, mode, body)
    }

    /// A symbolic link, which owns the charge for its target.
    fn link_to(&self, target: &str) -> Result<Arc<Inode>, VfsError> {
        let (quota, bytes) = (&self.shared.quota, target.len() as u64);
        quota.charge(bytes)?;
        quota.hold(bytes).inspect_err(|_| quota.release(bytes))?;
        Ok(self.inode(LINK_MODE, Body::Symlink(target.into())))
    }

    /// Puts a new name into a directory.
    fn insert(
        &self,
        dir: &Inode,
        name: &str,
        make: impl FnOnce() -> Result<Arc<Inode>, VfsError>,
    ) -> Result<Arc<Inode>, VfsError> {
        let mut names = dir.names()?.write();
        if names.removed {
            return Err(VfsError::NoEntry);
        }
        let Entry::Vacant(place) = names.entries.entry(name.into()) else { return Err(VfsError::Exists) };
        self.shared.quota.charge_entry(name)?;
        let inode = make().inspect_err(|_| self.shared.quota.release_entry(name))?;
        place.insert(Arc::clone(&inode));
        drop(names);
        dir.mark_modified();
        Ok(inode)
    }
}

impl Tree for MemoryTree {
    fn device(&self) -> u64 {
        self.shared.device
    }

    fn blocking(&self) -> bool {
        false
    }

    fn usage(&self) -> Usage {
        let quota = &self.shared.quota;
        Usage { bytes: quota.bytes(), limit: quota.limit(), entries: quota.entries() }
    }

    fn quota(&self) -> &Quota {
        &self.shared.quota
    }

    fn root(&self) -> Node {
        node(Arc::clone(&self.root))
    }

    fn lookup(&self, dir: &Node, name: &str) -> Result<Node, VfsError> {
        let dir = dir.get::<Inode>();
        let found = dir.names()?.read().entries.get(name).cloned();
        found.or_else(|| self.successor(dir, name)).map(node).ok_or(VfsError::NoEntry)
    }

    fn stat(&self, node: &Node) -> Result<Stat, VfsError> {
        Ok(node.get::<Inode>().status())
    }

    fn set_times(&self, node: &Node, times: Times) -> Result<(), VfsError> {
        node.get::<Inode>().change_times(times);
        Ok(())
    }

    fn open(&self, node: &Node, access: Access) -> Result<Arc<dyn OpenFile>, VfsError> {
        let inode = node.of::<Inode>();
        match inode.kind() {
            FileKind::File => {}
            FileKind::Directory => return Err(VfsError::IsDirectory),
            FileKind::Symlink | FileKind::Device | FileKind::Other => return Err(VfsError::Loop),
        }
        if access.truncate {
            inode.set_size(0)?;
        }
        Ok(inode)
    }

    fn create(&self, dir: &Node, name: &str, _access: Access) -> Result<Arc<dyn OpenFile>, VfsError> {
        let file = || Ok(self.inode(FILE_MODE, Body::empty_file()));
        Ok(self.insert(dir.get(), name, file)?)
    }

    fn create_directory(&self, dir: &Node, name: &str) -> Result<(), VfsError> {
        let parent = dir.of::<Inode>();
        let below = || {
            let inode = self.inode(DIRECTORY_MODE, Body::empty_directory());
            inode.set_parent(&parent);
            Ok(inode)
        };
        self.insert(&parent, name, below).map(|_| ())
    }

    fn symlink(&self, dir: &Node, name: &str, target: &str) -> Result<(), VfsError> {
        self.insert(dir.get(), name, || self.link_to(target)).map(|_| ())
    }

    fn read_link(&self, node: &Node) -> Result<String, VfsError> {
        match &node.get::<Inode>().body {
            Body::Symlink(target) => Ok(target.as_ref().to_owned()),
            Body::File(_) | Body::Directory(_) => Err(VfsError::Invalid),
        }
    }

    fn link(&self, from: &Node, name: &str, to: &Node, new_name: &str) -> Result<(), VfsError> {
        let inode = self.lookup(from, name)?.of::<Inode>();
        if inode.kind() == FileKind::Directory {
            return Err(VfsError::NotPermitted);
        }
        self.insert(to.get(), new_name, || {
            inode.link()?;
            Ok(Arc::clone(&inode))
        })
        .map(|_| ())
    }

    fn unlink(&self, dir: &Node, name: &str) -> Result<(), VfsError> {
        let dir = dir.get::<Inode>();
        let mut names = dir.names()?.write();
        let kind = names.entries.get(name).ok_or(VfsError::NoEntry)?.kind();
        if kind == FileKind::Directory {
            return Err(VfsError::IsDirectory);
        }
        let gone = names.entries.remove(name);
        drop(names);
        self.shared.quota.release_entry(name);
        if let Some(inode) = gone {
            inode.unlink();
        }
        dir.mark_modified();
        Ok(())
    }

    fn remove_directory(&self, dir: &Node, name: &str) -> Result<(), VfsError> {
        let _structure = self.structure.lock();
        let dir = dir.get::<Inode>();
        let mut names = dir.names()?.write();
        let child = Arc::clone(names.entries.get(name).ok_or(VfsError::NoEntry)?);
        retire(&child)?;
        names.entries.remove(name);
        drop(names);
        self.shared.quota.release_entry(name);
        child.unlink();
        dir.mark_modified();
        Ok(())
    }

    fn rename(&self, from: &Node, name: &str, to: &Node, new_name: &str) -> Result<(), VfsError> {
        let _structure = self.structure.lock();
        let (from, to) = (from.of::<Inode>(), to.of::<Inode>());
        let inode = Arc::clone(from.names()?.read().entries.get(name).ok_or(VfsError::NoEntry)?);
        if inode.kind() == FileKind::Directory && within(&to, &inode)? {
            return Err(VfsError::Invalid);
        }
        let same = Arc::ptr_eq(&from, &to);
        let replaced = {
            let mut source = from.names()?.write();
            let mut target = if same { None } else { Some(to.names()?.write()) };
            let into = target.as_deref().unwrap_or(&source);
            if into.removed {
                return Err(VfsError::NoEntry);
            }
            // The name may have gone, or changed, since it was looked up: files come and go without `structure`.
            if !source.entries.get(name).is_some_and(|now| Arc::ptr_eq(now, &inode)) {
                return Err(VfsError::NoEntry);
            }
            let old = into.entries.get(new_name);
            if let Some(old) = old {
                if Arc::ptr_eq(old, &inode) {
                    return Ok(()); // two names of one file: nothing happens, says POSIX
                }
                match (inode.kind(), old.kind()) {
                    (_, FileKind::Directory) if within(&from, old)? => return Err(VfsError::NotEmpty),
                    (FileKind::Directory, FileKind::Directory) => {}
                    (FileKind::Directory, _) => return Err(VfsError::NotDirectory),
                    (_, FileKind::Directory) => return Err(VfsError::IsDirectory),
                    _ => {}
                }
            }
            self.shared.quota.rename_entry(name, new_name)?;
            if let Some(old) = old.filter(|old| old.kind() == FileKind::Directory)
                && let Err(error) = retire(old)
            {
                let _ = self.shared.quota.rename_entry(new_name, name);
                return Err(error);
            }
            source.entries.remove(name);
            target.as_deref_mut().unwrap_or(&mut source).entries.insert(new_name.into(), Arc::clone(&inode))
        };
        inode.set_parent(&to);
        if let Some(old) = replaced {
            self.shared.quota.release_entry(new_name);
            old.unlink();
        }
        from.mark_modified();
        if !same {
            to.mark_modified();
        }
        Ok(())
    }

    fn read_directory(&self, dir: &Node) -> Result<Box<dyn Cursor>, VfsError> {
        let dir = dir.of::<Inode>();
        dir.names()?;
        Ok(Box::new(Listing { dir, last: None }))
    }

    fn sync(&self, _dir: &Node) -> Result<(), VfsError> {
        Ok(())
    }
}

/// A listing in the order of names: it goes on after the last name it told, so what comes and goes meanwhile
/// cannot make it skip or repeat the others. That name is all it holds: a guest may have many listings under way, and
/// to find the next one costs less than to tell it.
struct Listing {
    dir: Arc<Inode>,
    last: Option<Box<str>>,
}

impl Cursor for Listing {
    fn next(&mut self) -> Result<Option<tree::Entry>, VfsError> {
        let names = self.dir.names()?.read();
        let from = match &self.last {
            Some(last) => Bound::Excluded(&**last),
            None => Bound::Unbounded,
        };
        let next = names.entries.range::<str, _>((from, Bound::Unbounded)).next();
        let Some((name, inode)) = next else { return Ok(None) };
        let entry = tree::Entry { name: name.as_ref().to_owned(), kind: inode.kind() };
        self.last = Some(name.clone());
        Ok(Some(entry))
    }
}

fn node(inode: Arc<Inode>) -> Node {
    Node { kind: inode.kind(), inner: inode }
}

/// Marks an empty directory as removed, so that nothing is made in it from here on.
fn retire(dir: &Inode) -> Result<(), VfsError> {
    let mut names = dir.names()?.write();
    if !names.entries.is_empty() {
        return Err(VfsError::NotEmpty);
    }
    names.removed = true;
    Ok(())
}

/// Whether `dir` is `above`, or below it. The caller holds `structure`, so parents do not change.
///
/// # Errors
/// [`VfsError::NameTooLong`] if `dir` lies deeper than [`DEPTH_MAX`]: the volume is locked meanwhile.
fn within(dir: &Arc<Inode>, above: &Arc<Inode>) -> Result<bool, VfsError> {
    let mut next = Some(Arc::clone(dir));
    for _ in 0..=DEPTH_MAX {
        let Some(dir) = next else { return Ok(false) };
        if Arc::ptr_eq(&dir, above) {
            return Ok(true);
        }
        next = dir.parent();
    }
    Err(VfsError::NameTooLong)
}
