//! Open files of an overlay: read below until somebody writes, above from then on.

use std::sync::{Arc, OnceLock};

use super::Core;
use super::item::Item;
use crate::error::VfsError;
use crate::tree::{Access, OpenFile, Stat, Times};

/// For reading only.
pub(super) const READ: Access = Access { read: true, write: false, truncate: false };

pub(super) struct OverlayFile {
    core: Arc<Core>,
    item: Arc<Item>,
    /// What was opened below, if it had not been copied up then.
    lower: Option<Arc<dyn OpenFile>>,
    /// What was opened above, at once or when it was found to be there.
    upper: OnceLock<Arc<dyn OpenFile>>,
}

impl OverlayFile {
    pub(super) fn below(core: &Arc<Core>, item: Arc<Item>, file: Arc<dyn OpenFile>) -> OverlayFile {
        OverlayFile { core: Arc::clone(core), item, lower: Some(file), upper: OnceLock::new() }
    }

    pub(super) fn above(core: &Arc<Core>, item: Arc<Item>, file: Arc<dyn OpenFile>) -> OverlayFile {
        OverlayFile { core: Arc::clone(core), item, lower: None, upper: OnceLock::from(file) }
    }

    fn upper(&self) -> Result<Option<&Arc<dyn OpenFile>>, VfsError> {
        if let Some(file) = self.upper.get() {
            return Ok(Some(file));
        }
        let Some(node) = self.item.upper() else { return Ok(None) };
        let file = self.core.upper.open(&node, READ)?;
        Ok(Some(self.upper.get_or_init(|| file)))
    }

    /// For what changes it: it was copied up when it was opened for that.
    fn writable(&self) -> Result<&Arc<dyn OpenFile>, VfsError> {
        self.upper.get().ok_or(VfsError::BadDescriptor)
    }

    fn current(&self) -> Result<&Arc<dyn OpenFile>, VfsError> {
        self.upper()?.or(self.lower.as_ref()).ok_or(VfsError::BadDescriptor)
    }
}

impl OpenFile for OverlayFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, VfsError> {
        self.current()?.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<usize, VfsError> {
        self.writable()?.write_at(offset, data)
    }

    fn append(&self, data: &[u8]) -> Result<usize, VfsError> {
        self.writable()?.append(data)
    }

    fn set_size(&self, size: u64) -> Result<(), VfsError> {
        self.writable()?.set_size(size)
    }

    fn reserve(&self, offset: u64, length: u64) -> Result<(), VfsError> {
        self.writable()?.reserve(offset, length)
    }

    fn stat(&self) -> Result<Stat, VfsError> {
        let above = self.upper()?;
        let stat = self.current()?.stat()?;
        let stat = self.core.as_ours(&self.item, stat, above.is_some())?;
        let removed = above.is_none() && self.item.place().is_none();
        Ok(Stat { links: if removed { 0 } else { stat.links }, ..stat })
    }

    fn blocking(&self) -> bool {
        self.upper.get().or(self.lower.as_ref()).is_some_and(|file| file.blocking())
    }

    fn set_times(&self, times: Times) -> Result<(), VfsError> {
        match self.upper()? {
            Some(file) => file.set_times(times),
            None => self.core.set_times(&self.item, times),
        }
    }

    fn sync(&self, data_only: bool) -> Result<(), VfsError> {
        self.upper()?.map_or(Ok(()), |file| file.sync(data_only))
    }
}
