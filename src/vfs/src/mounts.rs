//! A container's view, put together from volumes.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::device;
use crate::directory::Directory;
use crate::error::VfsError;
use crate::namespace::{Mount, Place, Point};
use crate::tree::FileKind;
use crate::volume::Volume;

/// What a container may write outside of its mounts, in bytes: what programs put into `/tmp` and the like, and
/// files of the image that they change. It is memory, which a pod has little of, hence small.
pub const ROOT_LIMIT: u64 = 16 << 20;

/// How a volume is mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// Writes fail with [`VfsError::ReadOnly`].
    pub read_only: bool,
    /// Only this part of the volume: a relative path to a directory or a file. A missing directory is made.
    pub sub_path: Option<String>,
}

/// A container's view: a root of its own with volumes mounted in it. Without a word it is an empty one in memory
/// ([`ROOT_LIMIT`]).
///
/// A clone is the same view (for `exec`): same root, same volumes.
#[derive(Clone)]
pub struct Mounts {
    root: Volume,
    root_read_only: bool,
    points: Arc<Point>,
    /// Some volume is on a disk.
    blocking: bool,
}

impl Default for Mounts {
    fn default() -> Mounts {
        Mounts::new()
    }
}

impl Mounts {
    /// A view with nothing mounted.
    pub fn new() -> Mounts {
        Mounts::over(Volume::memory(Some(ROOT_LIMIT)))
    }

    /// A view of this volume with nothing mounted.
    pub fn over(root: Volume) -> Mounts {
        let blocking = root.tree.blocking();
        Mounts { root, root_read_only: false, points: Arc::default(), blocking }
    }

    /// Mounts `volume` at the absolute `path`, over what is there. Mounts may lie inside mounts, in any order.
    ///
    /// # Errors
    /// [`VfsError::Invalid`] for a path that is relative, `/`, or holds `..`; those of the walk if
    /// `options.sub_path` leads nowhere, or out of the volume.
    pub fn add(&mut self, path: &str, volume: &Volume, options: &MountOptions) -> Result<(), VfsError> {
        let names = absolute(path)?;
        let source = volume.root();
        let root = match options.sub_path.as_deref().filter(|path| !path.is_empty()) {
            None => source.place.node.clone(),
            Some(sub_path) => part(&source, sub_path)?,
        };
        self.make_point(&names)?;
        let mount = Mount { tree: Arc::clone(&volume.tree), root, read_only: options.read_only };
        let mut point = Arc::make_mut(&mut self.points);
        for name in names {
            point = Arc::make_mut(point.children.entry(name.to_owned()).or_default());
        }
        self.blocking |= mount.tree.blocking();
        point.mount = Some(Arc::new(mount));
        Ok(())
    }

    /// Puts the files into `/dev` that programs expect in every container (see [`crate::Device`]). What is mounted
    /// there afterwards comes over them.
    ///
    /// # Errors
    /// If the directory cannot be made.
    pub fn add_devices(&mut self) -> Result<(), VfsError> {
        self.make_point(&["dev", "null"])?;
        Arc::make_mut(&mut self.points).children.insert("dev".to_owned(), device::point());
        Ok(())
    }

    /// Mounts a file of the view's own root over itself: it stays what it is, and can be written to whatever becomes of
    /// the root ([`Mounts::set_root_read_only`]).
    ///
    /// # Errors
    /// Those of [`Mounts::add`], and if there is no such file.
    pub fn add_root_file(&mut self, path: &str) -> Result<(), VfsError> {
        let within = path.trim_start_matches('/');
        if self.root.root().stat_at(within, false)?.kind != FileKind::File {
            return Err(VfsError::Invalid);
        }
        let options = MountOptions { read_only: false, sub_path: Some(within.to_owned()) };
        self.add(path, &self.root.clone(), &options)
    }

    /// From now on only what is mounted can be written to, as far as it can.
    pub fn set_root_read_only(&mut self) {
        self.root_read_only = true;
    }

    /// The view's root directory.
    pub fn root(&self) -> Directory {
        let tree = Arc::clone(&self.root.tree);
        let mount = Arc::new(Mount { root: tree.root(), tree, read_only: self.root_read_only });
        let point = (!self.points.children.is_empty()).then(|| Arc::clone(&self.points));
        Directory::new(Place::root(mount, point), self.blocking)
    }

    /// What the container wrote outside of its mounts.
    pub fn root_usage(&self) -> crate::Usage {
        self.root.usage()
    }

    /// Makes the directories above a mount point, so that it is listed and can be walked to. The point itself
    /// needs no entry: the view shows it. Where nothing can be made (a read-only or foreign tree), directories
    /// that are missing stay missing, as with any mount over them.
    fn make_point(&self, names: &[&str]) -> Result<(), VfsError> {
        let mut directory = self.root();
        for name in &names[..names.len() - 1] {
            match directory.create_directory(name) {
                Ok(()) | Err(VfsError::Exists | VfsError::Busy) => {}
                Err(error) => return Err(error),
            }
            directory = directory.open_directory(name)?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Mounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        fn list(point: &Point, at: &str, out: &mut BTreeMap<String, bool>) {
            for (name, child) in &point.children {
                let path = format!("{at}/{name}");
                if let Some(mount) = &child.mount {
                    out.insert(path.clone(), mount.read_only);
                }
                list(child, &path, out);
            }
        }
        let mut mounts = BTreeMap::new();
        list(&self.points, "", &mut mounts);
        f.debug_struct("Mounts").field("read_only_by_path", &mounts).finish_non_exhaustive()
    }
}

/// The names of an absolute path.
fn absolute(path: &str) -> Result<Vec<&str>, VfsError> {
    let relative = path.strip_prefix('/').ok_or(VfsError::Invalid)?;
    let names: Vec<&str> = relative.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
    if names.is_empty() || names.contains(&"..") || path.contains('\0') {
        return Err(VfsError::Invalid);
    }
    Ok(names)
}

/// The node at `sub_path`; missing directories are made.
fn part(source: &Directory, sub_path: &str) -> Result<crate::tree::Node, VfsError> {
    if sub_path.starts_with('/') || sub_path.split('/').any(|name| name == "..") {
        return Err(VfsError::Invalid);
    }
    match source.find(sub_path, true) {
        Ok(found) if found.place.is_some() => {}
        Ok(_) | Err(VfsError::NoEntry) => source.create_directories(sub_path)?,
        Err(error) => return Err(error),
    }
    let place = source.find(sub_path, true)?.place.ok_or(VfsError::NoEntry)?;
    Ok(place.node.clone())
}
