//! An overlay: trees that are only read, and one above them that takes what is written.
//!
//! What the lower trees cannot say (names that were removed or replaced, directories that moved, numbers of files
//! that were copied up) is remembered here and not in the upper tree: an overlay lives as long as its container
//! does, so no name is reserved for marks, a directory of a lower layer is moved in one step whatever it holds,
//! and a removed one that is made anew is empty ("opaque") because its name is covered. What is remembered is
//! bounded by the names of the lower layers, and each of these costs an entry of the upper tree's quota.
//!
//! A file is copied up, whole, when it is first opened for writing, or renamed, linked or given times. Who has it
//! open for reading reads the copy from then on. Inode numbers stay, but for files that have several names in a
//! lower layer: the copy is one of the name that was written to alone. Modes are those of new files.
//!
//! Locks: `names` is held while names are looked up or changed, so each operation is one step. Content is copied
//! without it, behind the file's name in the upper layer, which nobody sees until the copy is whole; before `names`
//! comes the lock of the file that is copied.

mod file;
mod item;
mod listing;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use parking_lot::Mutex;

use self::file::{OverlayFile, READ};
use self::item::{Child, Item};
use self::listing::Listing;
use crate::DEPTH_MAX;
use crate::clock::now;
use crate::error::VfsError;
use crate::quota::Quota;
use crate::tree::{Access, Cursor, FileKind, NewTime, Node, OpenFile, Stat, Times, Tree, next_device};
use crate::volume::Usage;

/// Bytes that are copied up at a time.
const COPY: usize = 64 << 10;

/// The longest file that is copied up although it is longer than the upper layer's limit. Its holes are free there,
/// but somebody has to read through them, in one call that nothing interrupts: this takes less than a tenth of a second.
const SPARSE: u64 = 256 << 20;

/// Several trees, seen as one.
pub(crate) struct OverlayTree {
    core: Arc<Core>,
    root: Arc<Item>,
}

/// What open files need, too.
struct Core {
    device: u64,
    /// The topmost first.
    lowers: Vec<Arc<dyn Tree>>,
    upper: Arc<dyn Tree>,
    names: Mutex<()>,
}

impl OverlayTree {
    pub(crate) fn new(lowers: Vec<Arc<dyn Tree>>, upper: Arc<dyn Tree>) -> OverlayTree {
        let roots = lowers.iter().map(|tree| tree.root()).enumerate().collect();
        let root = Item::new(FileKind::Directory, roots, None, Some(upper.root()), None);
        let core = Core { device: next_device(), lowers, upper, names: Mutex::new(()) };
        OverlayTree { core: Arc::new(core), root }
    }
}

impl Drop for OverlayTree {
    fn drop(&mut self) {
        self.root.take_apart(|name| self.core.upper.quota().release_entry(name));
    }
}

impl Core {
    /// What a name of a directory stands for.
    fn child(&self, dir: &Arc<Item>, name: &str) -> Result<Arc<Item>, VfsError> {
        let (origin, known) = dir.child(name);
        if let Some(item) = known {
            return Ok(item);
        }
        let upper = match dir.upper() {
            Some(above) => found(self.upper.lookup(&above, name))?,
            None => None,
        };
        let mut lowers = match &upper {
            Some(node) if node.kind != FileKind::Directory => Vec::new(),
            _ => self.below(dir, name)?,
        };
        if upper.is_some() {
            lowers.retain(|(_, node)| node.kind == FileKind::Directory); // a file below is hidden by a directory
        }
        let kind = upper.as_ref().or(lowers.first().map(|(_, node)| node)).ok_or(VfsError::NoEntry)?.kind;
        let (merged, shared) = (upper.is_some() && !lowers.is_empty(), !lowers.is_empty());
        let item = Item::new(kind, lowers, origin, upper, Some((Arc::clone(dir), name.into())));
        if merged {
            dir.remember(name, Child::Kept(Arc::clone(&item)));
            self.keep(dir);
        } else if let Some(number) = origin {
            dir.remember(name, Child::Copied(number, Arc::downgrade(&item)));
        } else if shared || kind == FileKind::Directory {
            dir.remember(name, Child::Seen(Arc::downgrade(&item)));
        }
        Ok(item)
    }

    /// What the lower layers have under a name that is not covered.
    fn below(&self, dir: &Item, name: &str) -> Result<Vec<(usize, Node)>, VfsError> {
        let mut list = Vec::new();
        if dir.lowers.is_empty() || dir.covers(name) {
            return Ok(list);
        }
        for (layer, node) in &dir.lowers {
            match found(self.lowers[*layer].lookup(node, name))? {
                None => {}
                Some(node) if node.kind == FileKind::Directory => list.push((*layer, node)),
                Some(node) if list.is_empty() => return Ok(vec![(*layer, node)]),
                Some(_) => break,
            }
        }
        Ok(list)
    }

    /// Keeps a directory that has something to remember, and those above it.
    fn keep(&self, dir: &Arc<Item>) {
        let mut here = Arc::clone(dir);
        while let Some((parent, name)) = here.place() {
            parent.remember(&name, Child::Kept(here));
            here = parent;
        }
    }

    /// The directory of the upper layer that stands for this one, made if there is none.
    fn copy_up_directory(&self, dir: &Arc<Item>) -> Result<Node, VfsError> {
        let (mut missing, mut here) = (Vec::new(), Arc::clone(dir));
        let mut above = loop {
            if let Some(node) = here.upper() {
                break node;
            }
            let (parent, _) = here.place().ok_or(VfsError::NoEntry)?;
            missing.push(std::mem::replace(&mut here, parent));
        };
        let copied = !missing.is_empty();
        while let Some(item) = missing.pop() {
            let (_, name) = item.place().ok_or(VfsError::NoEntry)?;
            self.upper.create_directory(&above, &name)?;
            let node = self.upper.lookup(&above, &name)?;
            self.upper.set_times(&node, self.times_below(&item)?)?;
            item.set_upper(node.clone());
            above = node;
        }
        if copied {
            self.keep(dir);
        }
        Ok(above)
    }

    /// Makes the upper layer have this, with or without its content. Not to be called with `names` locked: content
    /// is copied without.
    fn copy_up(&self, item: &Arc<Item>, without_content: bool) -> Result<Node, VfsError> {
        let _copying = item.copying.lock();
        let (above, name, file) = {
            let _names = self.names.lock();
            if item.kind != FileKind::File {
                self.copy_up_now(item)?;
            }
            if let Some(node) = item.upper() {
                return Ok(node);
            }
            let (parent, name) = item.place().ok_or(VfsError::NoEntry)?;
            let above = self.copy_up_directory(&parent)?;
            let file =
                self.upper.create(&above, &name, Access { read: false, write: true, truncate: false })?;
            item.set_draft(true);
            (above, name, file)
        };
        let copied = self.copy_content(item, &*file, without_content);
        let _names = self.names.lock();
        // Who removed or replaced it meanwhile did so with the copy.
        let (ours, place) = (item.set_draft(false), item.place());
        match (copied, place) {
            (Ok(()), Some((parent, name))) if ours => self.publish(item, &parent, &name),
            (copied, _) => {
                drop(file);
                if ours {
                    let _ = self.upper.unlink(&above, &name);
                }
                Err(copied.err().unwrap_or(VfsError::NoEntry))
            }
        }
    }

    fn copy_content(&self, item: &Item, to: &dyn OpenFile, without_content: bool) -> Result<(), VfsError> {
        let (layer, below) = item.lowers.first().ok_or(VfsError::NoEntry)?;
        if !without_content {
            let from = self.lowers[*layer].open(below, READ)?;
            let size = from.stat()?.size;
            if self.upper.quota().limit().is_some_and(|limit| size > limit.max(SPARSE)) {
                return Err(VfsError::NoSpace);
            }
            copy(&*from, to)?;
        }
        to.set_times(self.times_below(item)?)
    }

    /// Makes the upper layer have a directory or link; false for a file that [`Core::copy_up`] has to copy before.
    fn copy_up_now(&self, item: &Arc<Item>) -> Result<bool, VfsError> {
        if item.upper().is_some() {
            return Ok(true);
        }
        match item.kind {
            FileKind::Directory => self.copy_up_directory(item).map(|_| true),
            FileKind::File => Ok(false),
            FileKind::Symlink => {
                let (parent, name) = item.place().ok_or(VfsError::NoEntry)?;
                let (layer, below) = item.lowers.first().ok_or(VfsError::NoEntry)?;
                let target = self.lowers[*layer].read_link(below)?;
                self.upper.symlink(&self.copy_up_directory(&parent)?, &name, &target)?;
                self.publish(item, &parent, &name).map(|_| true)
            }
            FileKind::Device | FileKind::Other => Err(VfsError::Unsupported),
        }
    }

    /// From now on the file or link is what the upper layer has under its name.
    fn publish(&self, item: &Arc<Item>, parent: &Arc<Item>, name: &str) -> Result<Node, VfsError> {
        let (layer, below) = item.lowers.first().ok_or(VfsError::NoEntry)?;
        let above = parent.upper().ok_or(VfsError::NoEntry)?;
        let node = self.upper.lookup(&above, name)?;
        let stat = self.lowers[*layer].stat(below)?;
        let child = if stat.links > 1 {
            Child::Seen(Arc::downgrade(item))
        } else {
            Child::Copied(self.number(*layer + 1, stat.inode), Arc::downgrade(item))
        };
        parent.remember(name, child);
        self.keep(parent);
        item.set_upper(node.clone());
        Ok(node)
    }

    fn set_times(&self, item: &Arc<Item>, times: Times) -> Result<(), VfsError> {
        match self.copy_up(item, false) {
            Ok(above) => self.upper.set_times(&above, times),
            // Who has it open sees it, and nobody else ever will.
            Err(VfsError::NoEntry) if item.place().is_none() => {
                let (stat, now) = (self.stat(item)?, now());
                let new = |time, old| match time {
                    NewTime::Keep => old,
                    NewTime::Now => now,
                    NewTime::At(time) => time,
                };
                let (accessed, modified) =
                    (new(times.accessed, stat.accessed), new(times.modified, stat.modified));
                item.set_times(Stat { accessed, modified, changed: now, ..stat });
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn times_below(&self, item: &Item) -> Result<Times, VfsError> {
        let (layer, node) = item.lowers.first().ok_or(VfsError::NoEntry)?;
        let stat = self.lowers[*layer].stat(node)?;
        Ok(Times { accessed: NewTime::At(stat.accessed), modified: NewTime::At(stat.modified) })
    }

    /// Pays for a name that is to be covered; [`Core::cover`] does it, or [`Core::not_covering`] gives it back.
    fn covering(&self, dir: &Arc<Item>, name: &str) -> Result<bool, VfsError> {
        if self.below(dir, name)?.is_empty() {
            return Ok(false);
        }
        self.copy_up_directory(dir)?;
        self.upper.quota().charge_entry(name)?;
        Ok(true)
    }

    fn not_covering(&self, due: bool, name: &str) {
        if due {
            self.upper.quota().release_entry(name);
        }
    }

    fn cover(&self, due: bool, dir: &Arc<Item>, name: &str) {
        if due && dir.cover(name) {
            self.keep(dir);
            if let Some(above) = dir.upper() {
                let now = Times { accessed: NewTime::Keep, modified: NewTime::Now };
                let _ = self.upper.set_times(&above, now); // the name is gone, whatever the time says
            }
        }
    }

    /// What has no name any more: with a directory go its covered names, and what they cost.
    fn end(&self, item: &Arc<Item>) {
        item.set_place(None);
        item.set_draft(false);
        if item.kind == FileKind::Directory {
            item.take_apart(|name| self.upper.quota().release_entry(name));
        }
    }

    fn number(&self, layer: usize, inode: u64) -> u64 {
        inode.wrapping_mul(self.lowers.len() as u64 + 1).wrapping_add(layer as u64)
    }

    /// A layer's answer with the device and number that the overlay gives.
    fn as_ours(&self, item: &Item, stat: Stat, above: bool) -> Result<Stat, VfsError> {
        let inode = match (item.origin, item.lowers.first()) {
            (Some(number), _) => number,
            (None, Some((layer, _))) if !above => self.number(*layer + 1, stat.inode),
            (None, Some((layer, node))) => {
                let below = self.lowers[*layer].stat(node)?;
                if item.kind == FileKind::Directory || below.links <= 1 {
                    self.number(*layer + 1, below.inode)
                } else {
                    self.number(0, stat.inode)
                }
            }
            (None, None) => self.number(0, stat.inode),
        };
        let stat = if above { stat } else { item.with_times(stat) };
        Ok(Stat { device: self.device, inode, ..stat })
    }

    fn stat(&self, item: &Item) -> Result<Stat, VfsError> {
        match (item.upper(), item.lowers.first()) {
            (Some(node), _) => self.as_ours(item, self.upper.stat(&node)?, true),
            (None, Some((layer, node))) => self.as_ours(item, self.lowers[*layer].stat(node)?, false),
            (None, None) => Err(VfsError::NoEntry),
        }
    }

    /// Whether two names stand for one file, in the layer where it is.
    fn same_file(&self, a: &Arc<Item>, b: &Arc<Item>) -> Result<bool, VfsError> {
        if Arc::ptr_eq(a, b) {
            return Ok(true);
        }
        if a.kind == FileKind::Directory || b.kind == FileKind::Directory {
            return Ok(false);
        }
        match (a.upper(), b.upper()) {
            (Some(a), Some(b)) => Ok(self.upper.stat(&a)?.inode == self.upper.stat(&b)?.inode),
            (None, None) => Ok(self.stat(a)?.inode == self.stat(b)?.inode),
            _ => Ok(false),
        }
    }

    fn is_empty(&self, dir: &Arc<Item>) -> Result<bool, VfsError> {
        if let Some(node) = dir.upper()
            && self.upper.read_directory(&node)?.next()?.is_some()
        {
            return Ok(false);
        }
        for (layer, node) in &dir.lowers {
            let mut names = self.lowers[*layer].read_directory(node)?;
            while let Some(entry) = names.next()? {
                if !dir.covers(&entry.name) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

impl Tree for OverlayTree {
    fn device(&self) -> u64 {
        self.core.device
    }

    fn blocking(&self) -> bool {
        self.core.upper.blocking() || self.core.lowers.iter().any(|tree| tree.blocking())
    }

    fn usage(&self) -> Usage {
        self.core.upper.usage()
    }

    fn quota(&self) -> &Quota {
        self.core.upper.quota()
    }

    fn root(&self) -> Node {
        node(Arc::clone(&self.root))
    }

    fn lookup(&self, dir: &Node, name: &str) -> Result<Node, VfsError> {
        let _names = self.core.names.lock();
        self.core.child(&dir.of(), name).map(node)
    }

    fn stat(&self, node: &Node) -> Result<Stat, VfsError> {
        self.core.stat(node.get())
    }

    fn set_times(&self, node: &Node, times: Times) -> Result<(), VfsError> {
        self.core.set_times(&node.of(), times)
    }

    fn open(&self, node: &Node, access: Access) -> Result<Arc<dyn OpenFile>, VfsError> {
        let (core, item) = (&self.core, node.of::<Item>());
        if item.kind != FileKind::File {
            return Err(VfsError::Access);
        }
        if access.write || access.truncate {
            core.copy_up(&item, access.truncate)?;
        }
        let _names = core.names.lock();
        if let Some(above) = item.upper() {
            let file = core.upper.open(&above, access)?;
            return Ok(Arc::new(OverlayFile::above(core, item, file)));
        }
        let (layer, below) = item.lowers.first().ok_or(VfsError::NoEntry)?;
        let file = core.lowers[*layer].open(below, READ)?;
        Ok(Arc::new(OverlayFile::below(core, item, file)))
    }

    fn create(&self, dir: &Node, name: &str, access: Access) -> Result<Arc<dyn OpenFile>, VfsError> {
        let core = &self.core;
        let _names = core.names.lock();
        let above = self.place_for(&dir.of(), name)?;
        let file = core.upper.create(&above, name, access)?;
        let item = Item::new(FileKind::File, Vec::new(), None, None, None);
        Ok(Arc::new(OverlayFile::above(core, item, file)))
    }

    fn create_directory(&self, dir: &Node, name: &str) -> Result<(), VfsError> {
        let _names = self.core.names.lock();
        let above = self.place_for(&dir.of(), name)?;
        self.core.upper.create_directory(&above, name)
    }

    fn symlink(&self, dir: &Node, name: &str, target: &str) -> Result<(), VfsError> {
        let _names = self.core.names.lock();
        let above = self.place_for(&dir.of(), name)?;
        self.core.upper.symlink(&above, name, target)
    }

    fn read_link(&self, node: &Node) -> Result<String, VfsError> {
        let item = node.get::<Item>();
        match (item.upper(), item.lowers.first()) {
            (Some(node), _) => self.core.upper.read_link(&node),
            (None, Some((layer, node))) => self.core.lowers[*layer].read_link(node),
            (None, None) => Err(VfsError::NoEntry),
        }
    }

    fn link(&self, from: &Node, name: &str, to: &Node, new_name: &str) -> Result<(), VfsError> {
        let (from, to) = (from.of(), to.of());
        self.with_copies(|| self.try_link((&from, name), (&to, new_name)))
    }

    fn unlink(&self, dir: &Node, name: &str) -> Result<(), VfsError> {
        let core = &self.core;
        let _names = core.names.lock();
        let dir = dir.of::<Item>();
        let item = core.child(&dir, name)?;
        if item.kind == FileKind::Directory {
            return Err(VfsError::IsDirectory);
        }
        self.remove(&dir, name, &item, |above| core.upper.unlink(above, name))
    }

    fn remove_directory(&self, dir: &Node, name: &str) -> Result<(), VfsError> {
        let core = &self.core;
        let _names = core.names.lock();
        let dir = dir.of::<Item>();
        let item = core.child(&dir, name)?;
        if item.kind != FileKind::Directory {
            return Err(VfsError::NotDirectory);
        }
        if !core.is_empty(&item)? {
            return Err(VfsError::NotEmpty);
        }
        self.remove(&dir, name, &item, |above| core.upper.remove_directory(above, name))
    }

    fn rename(&self, from: &Node, name: &str, to: &Node, new_name: &str) -> Result<(), VfsError> {
        let (from, to) = (from.of(), to.of());
        self.with_copies(|| self.try_rename((&from, name), (&to, new_name)))
    }

    fn read_directory(&self, dir: &Node) -> Result<Box<dyn Cursor>, VfsError> {
        let item = dir.of::<Item>();
        if item.kind != FileKind::Directory {
            return Err(VfsError::NotDirectory);
        }
        Ok(Box::new(Listing::new(&self.core, item)))
    }

    /// Its own, and of one layer at a time.
    fn listing_bytes(&self) -> usize {
        let layers = self.core.lowers.iter().chain([&self.core.upper]);
        layers.map(|tree| tree.listing_bytes()).max().unwrap_or(0) + size_of::<Listing>()
    }

    fn sync(&self, dir: &Node) -> Result<(), VfsError> {
        dir.get::<Item>().upper().map_or(Ok(()), |node| self.core.upper.sync(&node))
    }
}

impl OverlayTree {
    /// Where in the upper layer a new name goes.
    fn place_for(&self, dir: &Arc<Item>, name: &str) -> Result<Node, VfsError> {
        match self.core.child(dir, name) {
            Ok(_) => Err(VfsError::Exists),
            Err(VfsError::NoEntry) => self.core.copy_up_directory(dir),
            Err(error) => Err(error),
        }
    }

    /// Does what needs files to be copied up. Each is copied or removed once in an overlay's life, so there is an
    /// end to it whatever others do meanwhile.
    fn with_copies(&self, mut attempt: impl FnMut() -> Result<Tried, VfsError>) -> Result<(), VfsError> {
        loop {
            let Tried::Copy(item) = attempt()? else { return Ok(()) };
            match self.core.copy_up(&item, false) {
                // Removed meanwhile: something else may have its name now.
                Err(VfsError::NoEntry) if item.place().is_none() => {}
                copied => drop(copied?),
            }
        }
    }

    fn try_link(&self, (from, name): Named<'_>, (to, new_name): Named<'_>) -> Result<Tried, VfsError> {
        let core = &self.core;
        let _names = core.names.lock();
        let item = core.child(from, name)?;
        if item.kind == FileKind::Directory {
            return Err(VfsError::NotPermitted);
        }
        let into = self.place_for(to, new_name)?;
        if !core.copy_up_now(&item)? {
            return Ok(Tried::Copy(item));
        }
        let above = from.upper().ok_or(VfsError::NoEntry)?;
        core.upper.link(&above, name, &into, new_name)?;
        if let (Some(number), _) = from.child(name) {
            to.remember(new_name, Child::Copied(number, Arc::downgrade(&item)));
            core.keep(to);
        }
        Ok(Tried::Done)
    }

    fn try_rename(&self, (from, name): Named<'_>, (to, new_name): Named<'_>) -> Result<Tried, VfsError> {
        let core = &self.core;
        let _names = core.names.lock();
        let item = core.child(from, name)?;
        if item.kind == FileKind::Directory && within(to, &item)? {
            return Err(VfsError::Invalid);
        }
        let old = found(core.child(to, new_name))?;
        if let Some(old) = &old {
            if core.same_file(old, &item)? {
                return Ok(Tried::Done); // two names of one file: nothing happens, says POSIX
            }
            match (item.kind, old.kind) {
                (_, FileKind::Directory) if within(from, old)? => return Err(VfsError::NotEmpty),
                (FileKind::Directory, FileKind::Directory) if core.is_empty(old)? => {}
                (FileKind::Directory, FileKind::Directory) => return Err(VfsError::NotEmpty),
                (FileKind::Directory, _) => return Err(VfsError::NotDirectory),
                (_, FileKind::Directory) => return Err(VfsError::IsDirectory),
                _ => {}
            }
        }
        let into = core.copy_up_directory(to)?;
        if !core.copy_up_now(&item)? {
            return Ok(Tried::Copy(item));
        }
        let above = from.upper().ok_or(VfsError::NoEntry)?;
        let leaves = core.covering(from, name)?;
        let arrives = core.covering(to, new_name).inspect_err(|_| core.not_covering(leaves, name))?;
        if let Err(error) = core.upper.rename(&above, name, &into, new_name) {
            core.not_covering(leaves, name);
            core.not_covering(arrives, new_name);
            return Err(error);
        }
        core.cover(leaves, from, name);
        core.cover(arrives, to, new_name);
        if let Some(old) = old {
            core.end(&old);
        }
        to.forget(new_name);
        item.set_place(Some((Arc::clone(to), new_name.into())));
        let child = match from.forget(name) {
            _ if item.kind == FileKind::Directory && item.is_special() => {
                Some(Child::Kept(Arc::clone(&item)))
            }
            Some(Child::Kept(item)) => Some(Child::Seen(Arc::downgrade(&item))),
            other => other,
        };
        if let Some(child) = child {
            let keep = !matches!(child, Child::Seen(_));
            to.remember(new_name, child);
            if keep {
                core.keep(to);
            }
        }
        Ok(Tried::Done)
    }

    /// Takes a name away, above with `remove`, below by covering it.
    fn remove(
        &self,
        dir: &Arc<Item>,
        name: &str,
        item: &Arc<Item>,
        remove: impl FnOnce(&Node) -> Result<(), VfsError>,
    ) -> Result<(), VfsError> {
        let core = &self.core;
        let due = core.covering(dir, name)?;
        if (item.upper().is_some() || item.is_draft())
            && let Some(above) = dir.upper()
            && let Err(error) = remove(&above)
        {
            core.not_covering(due, name);
            return Err(error);
        }
        core.cover(due, dir, name);
        dir.forget(name);
        core.end(item);
        Ok(())
    }
}

/// A name in a directory.
type Named<'a> = (&'a Arc<Item>, &'a str);

/// What came of an attempt to change names.
enum Tried {
    Done,
    /// First this file is to be copied up.
    Copy(Arc<Item>),
}

fn node(item: Arc<Item>) -> Node {
    Node { kind: item.kind, inner: item }
}

/// A missing name is an answer, not an error.
fn found<T>(result: Result<T, VfsError>) -> Result<Option<T>, VfsError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(VfsError::NoEntry) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether `dir` is `above`, or below it.
///
/// # Errors
/// [`VfsError::NameTooLong`] if `dir` lies deeper than [`DEPTH_MAX`]: the volume is locked meanwhile.
fn within(dir: &Arc<Item>, above: &Arc<Item>) -> Result<bool, VfsError> {
    let mut next = Some(Arc::clone(dir));
    for _ in 0..=DEPTH_MAX {
        let Some(dir) = next else { return Ok(false) };
        if Arc::ptr_eq(&dir, above) {
            return Ok(true);
        }
        next = dir.place().map(|(parent, _)| parent);
    }
    Err(VfsError::NameTooLong)
}

/// Copies a whole file. Stretches of zeros are left out: they are holes, or may as well be.
fn copy(from: &dyn OpenFile, to: &dyn OpenFile) -> Result<(), VfsError> {
    let (mut buffer, mut offset) = (vec![0; COPY], 0);
    loop {
        let count = from.read_at(offset, &mut buffer)?;
        if count == 0 {
            return to.set_size(offset);
        }
        let mut data = &buffer[..count];
        if data.iter().any(|byte| *byte != 0) {
            let mut at = offset;
            while !data.is_empty() {
                let written = to.write_at(at, data)?;
                at += written as u64;
                data = &data[written..];
            }
        }
        offset += count as u64;
    }
}
