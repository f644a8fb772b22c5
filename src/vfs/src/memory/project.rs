//! Projected content, laid out as kubelet's atomic writer does it, since programs watch that:
//!
//! ```text
//!   ..2026_11_22_02_30_00.000000001/   what was projected last, whole
//!   ..data -> ..2026_11_22_02_30_00.000000001
//!   key    -> ..data/key               one link for each name at the top
//! ```
//!
//! New content is built aside and appears in one step, under one lock. Who has a file, or the folder behind
//! `..data`, open keeps the old one for as long; who looks `..data` up once and reads below it reads all old or all
//! new. Who has read the link but not yet opened what it names finds the new folder under the old one's name, so
//! that nothing is ever missing in between. Content that is the same changes nothing, not even a time.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use coracle_budget::Charge;
use parking_lot::RwLock;

use super::content::Content;
use super::inode::{Body, Inode};
use super::{DIRECTORY_MODE, MemoryTree};
use crate::clock;
use crate::error::VfsError;
use crate::volume::ProjectedFile;
use crate::{DEPTH_MAX, NAME_MAX, PATH_MAX};

/// The link to what is shown now; a name that Kubernetes fixes.
const DATA: &str = "..data";

impl MemoryTree {
    /// Replaces everything. The old content is given back when the last handle on it is gone.
    ///
    /// # Errors
    /// As [`crate::Volume::project`]; then nothing has changed.
    pub(crate) fn project(&self, files: BTreeMap<String, ProjectedFile>) -> Result<(), VfsError> {
        if self.shows(&files) {
            return Ok(());
        }
        let data = self.inode(DIRECTORY_MODE, Body::empty_directory());
        let mut held = BTreeMap::<_, Option<Arc<Charge>>>::new();
        for (path, file) in files {
            let held = match held.entry(identity(&file.data)) {
                Entry::Occupied(known) => known.get().clone(),
                Entry::Vacant(new) => new.insert(self.shared.quota.apart(file.data.len() as u64)?).clone(),
            };
            self.place(&data, &path, file, held)?;
        }
        let staged = self.inode(DIRECTORY_MODE, Body::empty_directory());
        let name = folder_name(clock::now());
        for key in data.names()?.read().entries.keys() {
            self.add(&staged, key, self.link_to(&format!("{DATA}/{key}"))?)?;
        }
        self.add(&staged, DATA, self.link_to(&name)?)?;
        self.add(&staged, &name, data)?;
        let _structure = self.structure.lock();
        let mut new = std::mem::take(&mut staged.names()?.write().entries);
        new.values().for_each(|inode| inode.set_parent(&self.root));
        std::mem::swap(&mut self.root.names()?.write().entries, &mut new);
        self.root.mark_modified();
        staged.names()?.write().entries = new; // dropped with it, charges and all
        Ok(())
    }

    /// What is shown now, for the name of a folder that was shown before.
    pub(super) fn successor(&self, dir: &Inode, name: &str) -> Option<Arc<Inode>> {
        if !std::ptr::eq(dir, &*self.root) || !is_folder_name(name) {
            return None;
        }
        let names = dir.names().ok()?.read();
        match &names.entries.get(DATA)?.body {
            Body::Symlink(target) => names.entries.get(target).cloned(),
            Body::File(_) | Body::Directory(_) => None,
        }
    }

    /// Whether just these files were projected last. What a guest changed since is not the same.
    fn shows(&self, files: &BTreeMap<String, ProjectedFile>) -> bool {
        let data = |inode: &Arc<Inode>| match &inode.body {
            Body::Symlink(target) => step(&self.root, target),
            Body::File(_) | Body::Directory(_) => None,
        };
        let Some(data) = step(&self.root, DATA).as_ref().and_then(data) else { return false };
        // The same bytes under many paths are compared once.
        let mut known = BTreeSet::new();
        let mut same_data = |shown: &Bytes, new: &Bytes| {
            let pair = (identity(shown), identity(new));
            pair.0 == pair.1 || known.contains(&pair) || shown == new && known.insert(pair)
        };
        let same = |(path, file): (&String, &ProjectedFile)| {
            let found = path.split('/').try_fold(Arc::clone(&data), |dir, name| step(&dir, name));
            found.is_some_and(|inode| {
                u32::from(inode.mode()) == file.mode & 0o7777
                    && inode.content().is_ok_and(|content| {
                        content.read().as_shared().is_some_and(|shown| same_data(shown, &file.data))
                    })
            })
        };
        files.iter().all(same) && count_files(&data) == files.len()
    }

    fn place(
        &self,
        root: &Arc<Inode>,
        path: &str,
        file: ProjectedFile,
        held: Option<Arc<Charge>>,
    ) -> Result<(), VfsError> {
        if path.len() > PATH_MAX || path.split('/').count() > DEPTH_MAX as usize {
            return Err(VfsError::NameTooLong);
        }
        if path.starts_with("..") {
            return Err(VfsError::Invalid); // the layout's own names
        }
        let mut parts = path.split('/');
        let name = parts.next_back().unwrap_or_default();
        let mut dir = Arc::clone(root);
        for part in parts {
            check_name(part)?;
            dir = match step(&dir, part) {
                Some(inode) => inode,
                None => self.add(&dir, part, self.inode(DIRECTORY_MODE, Body::empty_directory()))?,
            };
            dir.names().map_err(|_| VfsError::Invalid)?;
        }
        check_name(name)?;
        let content = Content::shared(file.data, held, &self.shared.quota)?;
        let mode = u16::try_from(file.mode & 0o7777).unwrap_or_default();
        self.add(&dir, name, self.inode(mode, Body::File(RwLock::new(content)))).map(|_| ())
    }

    fn add(&self, dir: &Arc<Inode>, name: &str, inode: Arc<Inode>) -> Result<Arc<Inode>, VfsError> {
        let mut names = dir.names()?.write();
        if names.entries.contains_key(name) {
            return Err(VfsError::Invalid);
        }
        self.shared.quota.charge_entry(name)?;
        inode.set_parent(dir);
        names.entries.insert(name.into(), Arc::clone(&inode));
        Ok(inode)
    }
}

/// Where bytes are: two of the same are one in memory.
fn identity(data: &Bytes) -> (usize, usize) {
    (data.as_ptr().addr(), data.len())
}

/// What a directory has under this name.
fn step(dir: &Inode, name: &str) -> Option<Arc<Inode>> {
    dir.names().ok()?.read().entries.get(name).cloned()
}

/// How many names below are no directories. Projected trees are as shallow as the paths in their spec.
fn count_files(dir: &Arc<Inode>) -> usize {
    let (mut count, mut left) = (0, vec![Arc::clone(dir)]);
    while let Some(dir) = left.pop() {
        match dir.names() {
            Ok(names) => left.extend(names.read().entries.values().cloned()),
            Err(_) => count += 1,
        }
    }
    count
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

/// The name of a folder of content: the time to the second, as kubelet has it, and a number that differs from the
/// one before.
fn folder_name(now: SystemTime) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    let number = NEXT.fetch_add(1, Ordering::Relaxed) % 1_000_000_000;
    format!("..{year:04}_{month:02}_{day:02}_{hour:02}_{minute:02}_{second:02}.{number:09}")
}

fn is_folder_name(name: &str) -> bool {
    let shape = "..0000_00_00_00_00_00.000000000";
    let fits = |(of, like): (u8, u8)| if like == b'0' { of.is_ascii_digit() } else { of == like };
    name.len() == shape.len() && name.bytes().zip(shape.bytes()).all(fits)
}

/// Year, month and day of a day since 1970.
fn date(mut days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    loop {
        let length = if leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let february = if leap(year) { 29 } else { 28 };
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= months[month] {
        days -= months[month];
        month += 1;
    }
    (year, month as u64 + 1, days + 1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn folders_are_named_as_kubelet_names_them() {
        #[track_caller]
        fn check(seconds: u64, expected: &str) {
            let name = folder_name(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!(&name[..21], expected);
            assert!(is_folder_name(&name));
        }
        check(0, "..1970_01_01_00_00_00");
        check(951_782_400, "..2000_02_29_00_00_00");
        check(1_709_251_199, "..2024_02_29_23_59_59");
        check(1_798_761_599, "..2026_12_31_23_59_59");
        assert_ne!(folder_name(SystemTime::UNIX_EPOCH), folder_name(SystemTime::UNIX_EPOCH));
    }
}
