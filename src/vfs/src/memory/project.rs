//! Projected content: the whole tree replaced in one step.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;

use super::content::Content;
use super::inode::{Body, Inode};
use super::{DIRECTORY_MODE, MemoryTree, empty_directory};
use crate::error::VfsError;
use crate::volume::ProjectedFile;
use crate::{DEPTH_MAX, NAME_MAX, PATH_MAX};

impl MemoryTree {
    /// Replaces everything. The new tree is built aside and becomes visible in one step; the old one is given
    /// back when the last handle on it is gone.
    ///
    /// # Errors
    /// As [`crate::Volume::project`]; then nothing has changed.
    pub(crate) fn project(&self, files: BTreeMap<String, ProjectedFile>) -> Result<(), VfsError> {
        let staged = self.inode(DIRECTORY_MODE, empty_directory());
        for (path, file) in files {
            self.place(&staged, &path, file)?;
        }
        let _structure = self.structure.lock();
        let mut new = std::mem::take(&mut staged.names()?.write().entries);
        for inode in new.values() {
            inode.set_parent(&self.root);
        }
        std::mem::swap(&mut self.root.names()?.write().entries, &mut new);
        self.root.mark_modified();
        staged.names()?.write().entries = new; // dropped with it, charges and all
        Ok(())
    }

    fn place(&self, root: &Arc<Inode>, path: &str, file: ProjectedFile) -> Result<(), VfsError> {
        if path.len() > PATH_MAX || path.split('/').count() > DEPTH_MAX as usize {
            return Err(VfsError::NameTooLong);
        }
        let mut parts = path.split('/');
        let name = parts.next_back().unwrap_or_default();
        let mut dir = Arc::clone(root);
        for part in parts {
            check_name(part)?;
            let found = dir.names()?.read().entries.get(part).cloned();
            dir = match found {
                Some(inode) => inode,
                None => {
                    let inode = self.inode(DIRECTORY_MODE, empty_directory());
                    inode.set_parent(&dir);
                    self.add(&dir, part, inode)?
                }
            };
            dir.names().map_err(|_| VfsError::Invalid)?;
        }
        check_name(name)?;
        let content = Content::shared(file.data, &self.quota)?;
        let inode = self.inode(file.mode & 0o7777, Body::File(RwLock::new(content)));
        self.add(&dir, name, inode).map(|_| ())
    }

    fn add(&self, dir: &Arc<Inode>, name: &str, inode: Arc<Inode>) -> Result<Arc<Inode>, VfsError> {
        let mut names = dir.names()?.write();
        if names.entries.contains_key(name) {
            return Err(VfsError::Invalid);
        }
        self.quota.charge_entry()?;
        names.entries.insert(name.into(), Arc::clone(&inode));
        Ok(inode)
    }
}

fn check_name(name: &str) -> Result<(), VfsError> {
    if name.is_empty() || name == "." || name == ".." || name.contains('\0') {
        return Err(VfsError::Invalid);
    }
    if name.len() > NAME_MAX {
        return Err(VfsError::NameTooLong);
    }
    Ok(())
}
