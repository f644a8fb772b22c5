//! A container's view: from names to nodes, over mount points and symbolic links, never out of it.
//!
//! A path is walked one component at a time. `..` follows the chain of directories that was walked down, not
//! the tree's own idea of a parent, so it cannot be led outside by renames; at the top it stays. Links are
//! read and their target is walked here; an absolute one starts at the container's root.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::VfsError;
use crate::tree::{FileKind, Node, Tree};
use crate::{DEPTH_MAX, LINKS_MAX, NAME_MAX, PATH_MAX};

/// One volume (or a part of it) at its place in the view.
pub(crate) struct Mount {
    pub(crate) tree: Arc<dyn Tree>,
    pub(crate) root: Node,
    pub(crate) read_only: bool,
}

impl Mount {
    /// Whether files may be renamed and linked between the two. Two mounts that differ in what they allow, or
    /// show different parts of a volume, are as good as two volumes: a link must not carry a file from a
    /// read-only view into a writable one.
    pub(crate) fn same(&self, other: &Mount) -> bool {
        self.tree.device() == other.tree.device()
            && Arc::ptr_eq(&self.root.inner, &other.root.inner)
            && self.read_only == other.read_only
    }
}

/// Where mounts are: a trie of names. A point without a mount lies above one.
#[derive(Clone, Default)]
pub(crate) struct Point {
    pub(crate) mount: Option<Arc<Mount>>,
    pub(crate) children: BTreeMap<String, Arc<Point>>,
}

/// A node together with how it was reached.
pub(crate) struct Place {
    pub(crate) mount: Arc<Mount>,
    pub(crate) node: Node,
    pub(crate) point: Option<Arc<Point>>,
    parent: Option<Arc<Place>>,
    depth: u32,
}

/// Where a path leads.
pub(crate) struct Found<'p> {
    /// The directory that holds the last name.
    pub(crate) parent: Arc<Place>,
    /// The last name; `None` if the path ends in `.` or `..`, or is one of them.
    pub(crate) name: Option<Cow<'p, str>>,
    /// What is there, if anything.
    pub(crate) place: Option<Arc<Place>>,
    /// The path ends in `/`: only a directory will do.
    pub(crate) directory: bool,
}

impl Place {
    pub(crate) fn root(mount: Arc<Mount>, point: Option<Arc<Point>>) -> Arc<Place> {
        let node = mount.root.clone();
        Arc::new(Place { mount, node, point, parent: None, depth: 0 })
    }

    pub(crate) fn tree(&self) -> &dyn Tree {
        &*self.mount.tree
    }

    /// An error unless this view may be written to.
    pub(crate) fn writable(&self) -> Result<(), VfsError> {
        if self.mount.read_only { Err(VfsError::ReadOnly) } else { Ok(()) }
    }

    /// Whether a mount lies at or below `name` here: such names can be neither removed nor renamed.
    pub(crate) fn pinned(&self, name: &str) -> bool {
        self.point.as_ref().is_some_and(|point| point.children.contains_key(name))
    }

    /// What goes by this name here.
    pub(crate) fn child(self: &Arc<Place>, name: &str) -> Result<Arc<Place>, VfsError> {
        if name.len() > NAME_MAX {
            return Err(VfsError::NameTooLong);
        }
        let depth = self.depth + 1;
        if depth > DEPTH_MAX {
            return Err(VfsError::NameTooLong);
        }
        let point = self.point.as_ref().and_then(|point| point.children.get(name)).cloned();
        let (mount, node) = match point.as_ref().and_then(|point| point.mount.clone()) {
            Some(mount) => {
                let root = mount.root.clone();
                (mount, root)
            }
            None => (Arc::clone(&self.mount), self.tree().lookup(&self.node, name)?),
        };
        Ok(Arc::new(Place { mount, node, point, parent: Some(Arc::clone(self)), depth }))
    }
}

impl Drop for Place {
    /// Chains are up to [`DEPTH_MAX`] long and guests run on small stacks: taken apart in a loop.
    fn drop(&mut self) {
        let mut next = self.parent.take();
        while let Some(mut place) = next.and_then(Arc::into_inner) {
            next = place.parent.take();
        }
    }
}

/// Checks a path that came from a guest: relative, and not above the directory it is relative to.
///
/// # Errors
/// [`VfsError::NotPermitted`] as `wasi:filesystem` asks for, [`VfsError::NoEntry`] for an empty path.
pub(crate) fn check_relative(path: &str) -> Result<(), VfsError> {
    check_length(path)?;
    if path.starts_with('/') {
        return Err(VfsError::NotPermitted);
    }
    let mut depth = 0_i32;
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => depth -= 1,
            _ => depth += 1,
        }
        if depth < 0 {
            return Err(VfsError::NotPermitted);
        }
    }
    Ok(())
}

/// Walks `path` from `base`. With `follow`, a symbolic link at the end is followed too.
///
/// # Errors
/// If a directory on the way is missing, is none, or leads through too many links. A missing last name is no
/// error: [`Found::place`] is `None` then.
pub(crate) fn walk<'p>(
    root: &Arc<Place>,
    base: &Arc<Place>,
    path: &'p str,
    follow: bool,
) -> Result<Found<'p>, VfsError> {
    check_length(path)?;
    let mut here = if path.starts_with('/') { Arc::clone(root) } else { Arc::clone(base) };
    let mut directory = ends_in_directory(path);
    // What is left to walk; of links that were followed, their targets with what came after them.
    let mut left = Cow::Borrowed(path);
    let mut at = 0;
    let mut links = 0;
    while let Some((start, end)) = component(&left, at) {
        let name = &left[start..end];
        at = end;
        if name == ".." {
            here = here.parent.clone().unwrap_or(here);
            continue;
        }
        let last = component(&left, end).is_none();
        let found = |place| {
            let name = match &left {
                Cow::Borrowed(path) => Cow::Borrowed(&path[start..end]),
                Cow::Owned(path) => Cow::Owned(path[start..end].to_owned()),
            };
            Found { parent: Arc::clone(&here), name: Some(name), place, directory }
        };
        let place = match here.child(name) {
            Ok(place) => place,
            Err(VfsError::NoEntry) if last => return Ok(found(None)),
            Err(error) => return Err(error),
        };
        match place.node.kind {
            FileKind::Symlink if !last || follow || directory => {
                links += 1;
                if links > LINKS_MAX {
                    return Err(VfsError::Loop);
                }
                let target = place.tree().read_link(&place.node)?;
                check_length(&target)?;
                if target.starts_with('/') {
                    here = Arc::clone(root);
                }
                directory |= last && ends_in_directory(&target);
                left = Cow::Owned(if last { target } else { format!("{target}/{}", &left[end..]) });
                at = 0;
            }
            FileKind::Directory if !last => here = place,
            _ if !last => return Err(VfsError::NotDirectory),
            _ => return Ok(found(Some(place))),
        }
    }
    Ok(Found { parent: Arc::clone(&here), name: None, place: Some(here), directory: true })
}

/// Where the next component that says anything begins and ends, from `at` on.
fn component(path: &str, at: usize) -> Option<(usize, usize)> {
    let mut start = at;
    loop {
        let rest = path.get(start..)?;
        let length = rest.find('/').unwrap_or(rest.len());
        if !matches!(&rest[..length], "" | ".") {
            return Some((start, start + length));
        }
        start += length + 1;
    }
}

/// Checks a path for what none may have.
pub(crate) fn check_length(path: &str) -> Result<(), VfsError> {
    if path.is_empty() {
        return Err(VfsError::NoEntry);
    }
    if path.len() > PATH_MAX {
        return Err(VfsError::NameTooLong);
    }
    if path.contains('\0') {
        return Err(VfsError::IllegalByteSequence);
    }
    Ok(())
}

fn ends_in_directory(path: &str) -> bool {
    path.ends_with('/') || path.ends_with("/.")
}
