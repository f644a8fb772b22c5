//! `fd_readdir`: a directory's entries, by cookies.
//!
//! A cookie is a position in the listing; 0 is its beginning. The listing goes on where the last call ended,
//! stable under change as `coracle-vfs` has it, and remembers the last few entries, because what did not fit
//! into a buffer is asked for again. A cookie further back begins a new listing and leaves out what is before.

use std::collections::VecDeque;
use std::sync::Arc;

use coracle_budget::{Budget, Charge};
use coracle_vfs::{Directory, Entries, Entry, FileKind, VfsError};

use super::abi::{DIRENT_BYTES, Errno, FileType, Result, rights};
use super::table::Kind;
use super::{Guest, Preview1};
use crate::files::on_disk;

/// Entries that a listing remembers: programs go on from the last or last but one they were given. A guest may have
/// many listings under way, and names have up to 255 bytes.
const REMEMBERED: usize = 2;

/// What a listing holds beside what its volume does: these entries.
const REMEMBERED_BYTES: usize = 1_024;

/// Entries that are read before others get their turn.
const AT_ONCE: usize = 1_024;

/// A listing under way.
pub(super) struct Listing {
    entries: Entries,
    /// The last entries that were read, and how many there were before the first of them.
    recent: VecDeque<Entry>,
    before: u64,
    ended: bool,
    _held: Charge,
}

/// `.` and `..`, which volumes do not list.
const DOTS: [&str; 2] = [".", ".."];

impl Listing {
    fn new(directory: &Directory, budget: &Arc<Budget>) -> Result<Listing> {
        let bytes = directory.listing_bytes() + REMEMBERED_BYTES;
        let held = budget.charge(bytes as u64).map_err(|_| Errno::NoMem)?;
        let recent = VecDeque::with_capacity(REMEMBERED);
        Ok(Listing { entries: directory.entries()?, recent, before: 0, ended: false, _held: held })
    }

    /// Reads on until the entry at `position` is known, or there is none: at most `budget` entries, then it is
    /// false.
    fn read_to(&mut self, position: u64, budget: &mut usize) -> Result<bool> {
        while self.count() <= position && !self.ended {
            if *budget == 0 {
                return Ok(false);
            }
            *budget -= 1;
            let dot = usize::try_from(self.count()).ok().and_then(|count| DOTS.get(count));
            let next = match dot {
                Some(dot) => Some(Entry { name: (*dot).to_owned(), kind: FileKind::Directory }),
                None => self.entries.next_entry()?,
            };
            let Some(entry) = next else {
                self.ended = true;
                break;
            };
            if self.recent.len() == REMEMBERED {
                self.recent.pop_front();
                self.before += 1;
            }
            self.recent.push_back(entry);
        }
        Ok(true)
    }

    /// The entry at `position`, which must not be before what is remembered.
    fn at(&self, position: u64) -> Option<&Entry> {
        let offset = usize::try_from(position.checked_sub(self.before)?).ok()?;
        self.recent.get(offset)
    }

    /// Entries read so far.
    fn count(&self) -> u64 {
        self.before + self.recent.len() as u64
    }
}

/// How far a call has come.
pub(super) struct Progress {
    used: usize,
    position: u64,
}

impl Progress {
    pub(super) fn from(cookie: u64) -> Progress {
        Progress { used: 0, position: cookie }
    }
}

impl Guest<'_> {
    /// Fills the buffer with entries from a cookie on, the last one cut if it does not fit: only a buffer that is
    /// not full says that this was all. False if there is more to do, for which to call again.
    pub(super) fn fd_readdir(
        &mut self,
        (fd, buffer, length, cookie, used_at): (u32, u32, u32, u64, u32),
        progress: &mut Progress,
    ) -> Result<bool> {
        self.memory.check(used_at, 4)?;
        let Preview1 { table, budget, .. } = &mut *self.preview1;
        let descriptor = table.get_mut(fd)?;
        descriptor.may(rights::FD_READDIR)?;
        let Kind::Directory(open) = &mut descriptor.kind else { return Err(Errno::NotDir) };
        let out = self.memory.bytes_mut(buffer, length)?;
        let directory = &open.directory;
        let done = on_disk(directory.paths_block(), || {
            // The beginning is always new: what is there now.
            let anew = cookie == 0 && progress.used == 0;
            let listing = match open.listing.take() {
                Some(listing) if !anew && progress.position >= listing.before => listing,
                _ => Box::new(Listing::new(directory, budget)?),
            };
            fill(out, open.listing.insert(listing), directory, progress)
        })?;
        self.memory.put_u32(used_at, u32::try_from(progress.used).map_err(|_| Errno::Overflow)?)?;
        Ok(done)
    }
}

/// True if `out` is full, or the listing has come to its end.
fn fill(
    out: &mut [u8],
    listing: &mut Listing,
    directory: &Directory,
    progress: &mut Progress,
) -> Result<bool> {
    let mut budget = AT_ONCE;
    while progress.used < out.len() {
        if !listing.read_to(progress.position, &mut budget)? {
            return Ok(false);
        }
        let Some(entry) = listing.at(progress.position) else { break };
        let inode = match directory.stat_at(inode_of(&entry.name), false) {
            Ok(stat) => stat.inode,
            Err(VfsError::NoEntry) => 0, // removed meanwhile
            Err(error) => return Err(error.into()),
        };
        progress.position += 1;
        let mut head = [0; DIRENT_BYTES];
        head[..8].copy_from_slice(&progress.position.to_le_bytes());
        head[8..16].copy_from_slice(&inode.to_le_bytes());
        head[16..20].copy_from_slice(&u32::try_from(entry.name.len()).unwrap_or(u32::MAX).to_le_bytes());
        head[20] = FileType::from(entry.kind) as u8;
        for part in [&head[..], entry.name.as_bytes()] {
            let rest = &mut out[progress.used..];
            let fits = part.len().min(rest.len());
            rest[..fits].copy_from_slice(&part[..fits]);
            progress.used += fits;
        }
    }
    Ok(true)
}

/// What to look at for an entry's inode. The directory above may be out of reach; nobody compares its inode.
fn inode_of(name: &str) -> &str {
    if name == ".." { "." } else { name }
}
