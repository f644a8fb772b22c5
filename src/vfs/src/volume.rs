//! A volume: one tree with its limit, cheap to clone and to share between containers.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use coracle_budget::Budget;

use crate::directory::Directory;
use crate::error::VfsError;
use crate::host::handles::Handles;
use crate::host::image::ImageTree;
use crate::host::{self, HostTree};
use crate::memory::MemoryTree;
use crate::overlay::OverlayTree;
use crate::quota::Quota;
use crate::share::PodShare;
use crate::tree::Tree;

/// The part of the names that a disk has room for which one pod may have in volumes of its own: so much that a disk
/// with none left over is the work of twenty pods, of which the node has ended the first before.
const SHARE_OF_NAMES: u64 = 20;

/// One file of a projected volume (configMap, secret, downwardAPI).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectedFile {
    /// The content.
    pub data: Bytes,
    /// POSIX permission bits, as `defaultMode` and `items[].mode` give them.
    pub mode: u32,
}

/// What a volume holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes charged to the limit.
    pub bytes: u64,
    /// The limit in bytes; `None` for none.
    pub limit: Option<u64>,
    /// Names in use (files, directories, links).
    pub entries: u64,
}

/// A tree of files that containers mount. Clones are handles on the same tree.
#[derive(Clone)]
pub struct Volume {
    pub(crate) tree: Arc<dyn Tree>,
    memory: Option<Arc<MemoryTree>>,
}

impl Volume {
    /// An empty volume in memory.
    ///
    /// `limit` is in bytes of file content that is stored (holes of sparse files are free). A write beyond it
    /// fails at once with [`VfsError::NoSpace`].
    pub fn memory(limit: Option<u64>) -> Volume {
        Volume::in_memory(MemoryTree::new(limit, None))
    }

    /// As [`Volume::memory`], with what the host holds for it (content, names, what is spare in allocations) counted
    /// as memory of the pod with this budget. A write or a new name that the pod has no memory for is
    /// [`VfsError::NoSpace`], too.
    pub fn memory_of(limit: Option<u64>, budget: &Arc<Budget>) -> Volume {
        Volume::in_memory(MemoryTree::new(limit, Some(budget)))
    }

    fn in_memory(tree: MemoryTree) -> Volume {
        let tree = Arc::new(tree);
        Volume { tree: Arc::clone(&tree) as Arc<dyn Tree>, memory: Some(tree) }
    }

    /// A directory of the host, which must exist.
    ///
    /// Nothing outside of it can be reached, whatever links it holds, nor file systems in it by which the kernel shows
    /// itself (procfs, sysfs and the like: [`VfsError::Access`]). What it holds already counts toward `limit`; a file
    /// counts with its length.
    ///
    /// # Errors
    /// If the directory cannot be opened, or cannot be measured for the limit; [`VfsError::NotPermitted`] if it is on
    /// such a file system itself.
    pub fn host(dir: &Path, limit: Option<u64>) -> Result<Volume, VfsError> {
        Volume::on_host(dir, None, Quota::new(limit), Handles::default())
    }

    /// As [`Volume::host`] without a limit, where open files and folders count as those of the pod with this share, and
    /// the directory `hidden` is not shown to anybody: what leads into it is [`VfsError::Access`], wherever in the
    /// volume it is found. It need not exist, nor be in the volume.
    ///
    /// # Errors
    /// As [`Volume::host`]; [`VfsError::Access`] for a directory in `hidden`.
    pub fn host_without(share: &PodShare, dir: &Path, hidden: &Path) -> Result<Volume, VfsError> {
        Volume::on_host(dir, Some(hidden), Quota::new(None), Handles::of(share))
    }

    /// As [`Volume::host`], where what it holds is counted, with or without a limit, and the pod's own, as its open
    /// files are: a write beyond what the pod may keep on disk in all such volumes is [`VfsError::NoSpace`], too; so is
    /// a name beyond its part of those that the disk has room for.
    ///
    /// # Errors
    /// As [`Volume::host`].
    pub fn scratch_for(share: &PodShare, dir: &Path, limit: Option<u64>) -> Result<Volume, VfsError> {
        let volume = Volume::on_host(dir, None, Quota::sharing(limit, &share.disk), Handles::of(share))?;
        if let Some(names) = host::names_on(dir) {
            share.disk.bound_entries(names / SHARE_OF_NAMES);
        }
        Ok(volume)
    }

    fn on_host(
        dir: &Path,
        hidden: Option<&Path>,
        quota: Quota,
        handles: Handles,
    ) -> Result<Volume, VfsError> {
        Ok(Volume { tree: Arc::new(HostTree::open(dir, hidden, quota, handles)?), memory: None })
    }

    /// The files of an image: a directory of the host that nobody writes to, for reading. All writes are
    /// [`VfsError::ReadOnly`].
    ///
    /// What is known of the directory is shared by all volumes of it; only open files are handles of the host, and
    /// each volume has its own share of these.
    ///
    /// # Errors
    /// If the directory cannot be opened.
    pub fn image(dir: &Path) -> Result<Volume, VfsError> {
        Ok(Volume { tree: Arc::new(ImageTree::open(dir, Handles::default())?), memory: None })
    }

    /// As [`Volume::image`], where open files count as those of the pod with this share.
    ///
    /// # Errors
    /// As [`Volume::image`].
    pub fn image_for(share: &PodShare, dir: &Path) -> Result<Volume, VfsError> {
        Ok(Volume { tree: Arc::new(ImageTree::open(dir, Handles::of(share))?), memory: None })
    }

    /// Volumes seen as one: what is written goes to `upper`, what is there already comes from it and from `lowers`,
    /// the topmost first. The lower ones are never written to and must not change meanwhile.
    ///
    /// The limit and what counts toward it are those of `upper`, with an entry for each name of a lower volume that
    /// is removed or replaced. Such removals are remembered by this volume and not in `upper`: they end with it.
    /// A file with several names in a lower volume that is written to by one of them is from then on a file of its
    /// own. An upper volume on a disk holds a handle of the host for each directory of a lower one that is written
    /// to.
    pub fn overlay(lowers: &[Volume], upper: &Volume) -> Volume {
        let lowers = lowers.iter().map(|volume| Arc::clone(&volume.tree)).collect();
        Volume { tree: Arc::new(OverlayTree::new(lowers, Arc::clone(&upper.tree))), memory: None }
    }

    /// The volume's own root, as a namespace of its own: links that point up or are absolute end there.
    pub fn root(&self) -> Directory {
        Directory::of_tree(&self.tree)
    }

    /// What the volume holds now.
    pub fn usage(&self) -> Usage {
        self.tree.usage()
    }

    /// Gives a volume that has a limit another one, at once for all who use it. What it holds beyond that stays.
    ///
    /// # Errors
    /// [`VfsError::Unsupported`] for a volume without a limit: what it holds is not counted.
    pub fn set_limit(&self, limit: u64) -> Result<(), VfsError> {
        let quota = self.tree.quota();
        quota.limit().ok_or(VfsError::Unsupported)?;
        quota.set_limit(limit);
        Ok(())
    }

    /// Replaces the whole content of a memory volume in one step: a reader that opens a file sees the old tree
    /// or the new one, and files that are open keep their old content.
    ///
    /// It looks as Kubernetes has it: `..data` is a link to a folder with the content, each name at the top is a
    /// link through `..data`, and new content is a new folder behind `..data`. Programs that watch for another
    /// target of `..data`, and those that open it and read what belongs together, find what they expect.
    /// The same content again changes nothing.
    ///
    /// Keys are relative paths (`a.conf`, `keys/tls.crt`) that do not begin with `..`. Modes are shown and not
    /// enforced: a guest reads what its pod mounts, as root would, also a file of mode 0.
    ///
    /// # Errors
    /// [`VfsError::Unsupported`] for a volume that is not in memory, [`VfsError::Invalid`] for a path that is
    /// absolute, begins with or holds `..`, or is below another file, [`VfsError::NoSpace`] beyond the limit.
    pub fn project(&self, files: BTreeMap<String, ProjectedFile>) -> Result<(), VfsError> {
        self.memory.as_ref().ok_or(VfsError::Unsupported)?.project(files)
    }
}

impl std::fmt::Debug for Volume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Volume").field("usage", &self.usage()).finish_non_exhaustive()
    }
}
