//! A volume: one tree with its limit, cheap to clone and to share between containers.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::directory::Directory;
use crate::error::VfsError;
use crate::host::HostTree;
use crate::memory::MemoryTree;
use crate::tree::Tree;

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
        let tree = Arc::new(MemoryTree::new(limit));
        Volume { tree: Arc::clone(&tree) as Arc<dyn Tree>, memory: Some(tree) }
    }

    /// A directory of the host, which must exist.
    ///
    /// Nothing outside of it can be reached, whatever links it holds. What it holds already counts toward
    /// `limit`; a file counts with its length.
    ///
    /// # Errors
    /// If the directory cannot be opened, or cannot be measured for the limit.
    pub fn host(dir: &Path, limit: Option<u64>) -> Result<Volume, VfsError> {
        Ok(Volume { tree: Arc::new(HostTree::open(dir, limit)?), memory: None })
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
    /// Keys are relative paths (`a.conf`, `keys/tls.crt`).
    ///
    /// # Errors
    /// [`VfsError::Unsupported`] for a volume that is not in memory, [`VfsError::Invalid`] for a path that is
    /// absolute, holds `..` or is below another file, [`VfsError::NoSpace`] beyond the limit.
    pub fn project(&self, files: BTreeMap<String, ProjectedFile>) -> Result<(), VfsError> {
        self.memory.as_ref().ok_or(VfsError::Unsupported)?.project(files)
    }
}

impl std::fmt::Debug for Volume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Volume").field("usage", &self.usage()).finish_non_exhaustive()
    }
}
