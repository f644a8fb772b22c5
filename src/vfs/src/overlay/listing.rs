//! Listings of merged directories.
//!
//! First come the names of the lower layers, then those of the upper one that are not among them. Which of the two
//! a name belongs to is decided by what was covered when the listing began: so a name that is there all the time
//! is told once, also if it is copied up, or replaced, while the listing is under way.

use std::sync::Arc;

use super::Core;
use super::item::Item;
use crate::error::VfsError;
use crate::tree::{Cursor, Entry, FileKind};

pub(super) struct Listing {
    core: Arc<Core>,
    dir: Arc<Item>,
    /// How many names were covered when it began.
    covered: usize,
    /// Which of the directory's lower layers is being read; behind the last, the upper one.
    layer: usize,
    cursor: Option<Box<dyn Cursor>>,
}

impl Listing {
    pub(super) fn new(core: &Arc<Core>, dir: Arc<Item>) -> Listing {
        let covered = dir.covered();
        Listing { core: Arc::clone(core), dir, covered, layer: 0, cursor: None }
    }

    /// The next name of the layer that is being read.
    fn read(&mut self) -> Result<Option<Entry>, VfsError> {
        if self.cursor.is_none() {
            self.cursor = match (self.dir.lowers.get(self.layer), self.dir.upper()) {
                (Some((layer, node)), _) => Some(self.core.lowers[*layer].read_directory(node)?),
                (None, Some(node)) => Some(self.core.upper.read_directory(&node)?),
                (None, None) => None,
            };
        }
        self.cursor.as_mut().map_or(Ok(None), |cursor| cursor.next())
    }

    /// What kind a name of a lower layer is now; `None` if it is gone.
    fn visible(&self, entry: &Entry) -> Result<Option<FileKind>, VfsError> {
        if let Some(upper) = self.dir.upper() {
            match self.core.upper.lookup(&upper, &entry.name) {
                Ok(node) => return Ok(Some(node.kind)),
                Err(VfsError::NoEntry) => {}
                Err(error) => return Err(error),
            }
        }
        Ok((!self.dir.covers(&entry.name)).then_some(entry.kind))
    }

    /// Whether one of the first `layers` lower layers has this name.
    fn lower_has(&self, layers: usize, name: &str) -> Result<bool, VfsError> {
        for (layer, node) in &self.dir.lowers[..layers] {
            match self.core.lowers[*layer].lookup(node, name) {
                Ok(_) => return Ok(true),
                Err(VfsError::NoEntry) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}

impl Cursor for Listing {
    fn next(&mut self) -> Result<Option<Entry>, VfsError> {
        let layers = self.dir.lowers.len();
        loop {
            let Some(entry) = self.read()? else {
                if self.layer == layers {
                    return Ok(None);
                }
                self.layer += 1;
                self.cursor = None;
                continue;
            };
            let covered = self.dir.was_covered(&entry.name, self.covered);
            if self.layer == layers {
                if covered || !self.lower_has(layers, &entry.name)? {
                    return Ok(Some(entry));
                }
            } else if !covered
                && !self.lower_has(self.layer, &entry.name)?
                && let Some(kind) = self.visible(&entry)?
            {
                return Ok(Some(Entry { kind, ..entry }));
            }
        }
    }
}
