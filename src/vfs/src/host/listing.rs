//! Listings by the kernel, which promises what [`Cursor`] does.

use std::fs::File;
use std::mem::MaybeUninit;

use rustix::fs::{AtFlags, FileType, RawDir};

use super::errno::from_errno;
use super::handles::Permit;
use super::kind;
use crate::error::VfsError;
use crate::tree::{Cursor, Entry, FileKind};

/// How much the kernel tells at a time. A guest may have as many listings under way as it has files open, so it is a
/// page: some 15 of the longest names, or a hundred as they mostly are.
const BUFFER: usize = 4_096;

/// What a listing holds at most: what the kernel told, and itself.
pub(super) const BYTES: usize = BUFFER + 512;

/// A listing under way.
pub(super) struct Listing {
    dir: File,
    /// What was told and not passed on: for each name its kind, its length and itself.
    told: Vec<u8>,
    at: usize,
    _permit: Permit,
}

impl Listing {
    pub(super) fn new(dir: File, permit: Permit) -> Listing {
        Listing { dir, told: Vec::new(), at: 0, _permit: permit }
    }

    /// Asks the kernel for more; false at the end.
    fn fill(&mut self) -> Result<bool, VfsError> {
        (self.told, self.at) = (Vec::new(), 0);
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut entries = RawDir::new(&self.dir, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(from_errno)?;
            let (name, kind) = (entry.file_name().to_bytes(), entry.file_type());
            if let Ok(length) = u8::try_from(name.len()) {
                self.told.extend([code(kind), length]);
                self.told.extend_from_slice(name);
            }
            if entries.is_buffer_empty() {
                self.told.shrink_to_fit();
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The next name that was told.
    fn take(&mut self) -> Option<(Option<FileKind>, &[u8])> {
        let rest = self.told.get(self.at..)?;
        let (&[code, length], rest) = rest.split_first_chunk::<2>()?;
        let name = rest.get(..length.into())?;
        self.at += 2 + name.len();
        Some((known(code), name))
    }

    /// For filesystems that do not tell kinds in listings. `None` if the name is gone.
    fn kind_of(&self, name: &str) -> Option<FileKind> {
        let stat = rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some(kind(stat.st_mode))
    }
}

impl Cursor for Listing {
    fn next(&mut self) -> Result<Option<Entry>, VfsError> {
        loop {
            let Some((kind, name)) = self.take() else {
                if self.fill()? {
                    continue;
                }
                return Ok(None);
            };
            // A name that is not UTF-8 cannot be said in WASI, so nothing could be done with it.
            let Ok(name) = std::str::from_utf8(name).map(str::to_owned) else { continue };
            if name == "." || name == ".." {
                continue;
            }
            if let Some(kind) = kind.or_else(|| self.kind_of(&name)) {
                return Ok(Some(Entry { name, kind }));
            }
        }
    }
}

/// What the kernel said of a kind, in a byte: [`known`] reads it.
fn code(kind: FileType) -> u8 {
    match kind {
        FileType::RegularFile => b'f',
        FileType::Directory => b'd',
        FileType::Symlink => b'l',
        FileType::Unknown => b'?',
        _ => b'o',
    }
}

/// `None` if the kernel did not say.
fn known(code: u8) -> Option<FileKind> {
    match code {
        b'f' => Some(FileKind::File),
        b'd' => Some(FileKind::Directory),
        b'l' => Some(FileKind::Symlink),
        b'?' => None,
        _ => Some(FileKind::Other),
    }
}
