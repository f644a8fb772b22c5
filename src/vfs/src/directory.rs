//! Directories: where paths start, and all that is done by name.

use std::ops::Bound;
use std::sync::Arc;

use crate::error::VfsError;
use crate::file::File;
use crate::namespace::{Found, Mount, Place, Point, check_length, check_relative, walk};
use crate::tree::{Access, Cursor, Entry, FileKind, Stat, Times, Tree};

/// How many times a name may appear and vanish under an open before it gives up.
const RACES_MAX: u32 = 16;

/// How [`Directory::open`] opens. All off: an existing file, for reading its metadata.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// To read.
    pub read: bool,
    /// To write.
    pub write: bool,
    /// Make the file if it is missing.
    pub create: bool,
    /// With `create`: fail if it exists, also as a link.
    pub exclusive: bool,
    /// Drop the content.
    pub truncate: bool,
    /// Only a directory will do.
    pub directory: bool,
    /// Follow a symbolic link at the end of the path.
    pub follow: bool,
}

/// What [`Directory::open`] found.
#[derive(Debug)]
pub enum Opened {
    /// A regular file.
    File(File),
    /// A directory.
    Directory(Directory),
}

/// A directory of a view, open. Clones are handles on the same one.
///
/// Paths are relative to it, as `wasi:filesystem` defines them: neither absolute nor above it. Symbolic links
/// on the way lead anywhere in the container's view, never out of it.
#[derive(Clone)]
pub struct Directory {
    pub(crate) place: Arc<Place>,
    root: Arc<Place>,
    paths_block: bool,
    /// See [`Directory::working`].
    is_working: bool,
}

impl Directory {
    pub(crate) fn new(root: Arc<Place>, paths_block: bool) -> Directory {
        Directory { place: Arc::clone(&root), root, paths_block, is_working: false }
    }

    pub(crate) fn of_tree(tree: &Arc<dyn Tree>) -> Directory {
        let mount = Mount { root: tree.root(), tree: Arc::clone(tree), read_only: false };
        Directory::new(Place::root(Arc::new(mount), None), tree.blocking())
    }

    /// Whether operations on the directory itself may wait for a disk.
    pub fn blocking(&self) -> bool {
        self.place.tree().blocking()
    }

    /// Whether operations on paths may wait for a disk: some volume of the view is on one.
    pub fn paths_block(&self) -> bool {
        self.paths_block
    }

    /// Whether writes are refused here.
    pub fn read_only(&self) -> bool {
        self.place.mount.read_only
    }

    /// Opens a file or a directory.
    ///
    /// # Errors
    /// As `openat(2)`.
    pub fn open(&self, path: &str, options: OpenOptions) -> Result<Opened, VfsError> {
        for _ in 0..RACES_MAX {
            let found = self.find(path, options.follow && !(options.create && options.exclusive))?;
            match &found.place {
                Some(place) => {
                    match self.open_existing(place, found.directory, options) {
                        Err(VfsError::NoEntry) if options.create => {} // removed meanwhile
                        result => return result,
                    }
                }
                None => {
                    match create(&found, options) {
                        Err(VfsError::Exists) if !options.exclusive => {} // made meanwhile
                        result => return result.map(Opened::File),
                    }
                }
            }
        }
        Err(VfsError::Busy)
    }

    /// Opens a directory.
    ///
    /// # Errors
    /// As `openat(2)` with `O_DIRECTORY`.
    pub fn open_directory(&self, path: &str) -> Result<Directory, VfsError> {
        let options = OpenOptions { read: true, directory: true, follow: true, ..OpenOptions::default() };
        match self.open(path, options)? {
            Opened::Directory(directory) => Ok(directory),
            Opened::File(_) => Err(VfsError::NotDirectory),
        }
    }

    /// Opens a directory for programs that work in it and say neither of a path whether it was absolute. One whose
    /// first name is in the view's root begins there; all others begin in the directory, and may lead above it.
    ///
    /// # Errors
    /// As [`Directory::open_directory`].
    pub fn working(&self, path: &str) -> Result<Directory, VfsError> {
        Ok(Directory { is_working: true, ..self.open_directory(path)? })
    }

    /// Opens a regular file.
    ///
    /// # Errors
    /// As `openat(2)`; [`VfsError::IsDirectory`] for a directory.
    pub fn open_file(&self, path: &str, options: OpenOptions) -> Result<File, VfsError> {
        match self.open(path, options)? {
            Opened::File(file) => Ok(file),
            Opened::Directory(_) => Err(VfsError::IsDirectory),
        }
    }

    /// Reads a whole file of at most `max` bytes.
    ///
    /// # Errors
    /// As [`Directory::open_file`]; [`VfsError::TooLarge`] beyond `max`.
    pub fn read(&self, path: &str, max: usize) -> Result<Vec<u8>, VfsError> {
        let options = OpenOptions { read: true, follow: true, ..OpenOptions::default() };
        let file = self.open_file(path, options)?;
        let mut data = Vec::new();
        let mut buffer = [0; 8_192];
        loop {
            let count = file.read_at(data.len() as u64, &mut buffer)?;
            if count == 0 {
                return Ok(data);
            }
            if data.len() + count > max {
                return Err(VfsError::TooLarge);
            }
            data.extend_from_slice(&buffer[..count]);
        }
    }

    /// Makes or replaces a file with this content.
    ///
    /// # Errors
    /// As [`Directory::open_file`] and [`File::write_at`].
    pub fn write(&self, path: &str, data: &[u8]) -> Result<(), VfsError> {
        let options =
            OpenOptions { write: true, create: true, truncate: true, follow: true, ..OpenOptions::default() };
        let file = self.open_file(path, options)?;
        let mut written = 0;
        while written < data.len() {
            written += file.write_at(written as u64, &data[written..])?;
        }
        Ok(())
    }

    /// The directory's own metadata.
    ///
    /// # Errors
    /// If the host fails.
    pub fn stat(&self) -> Result<Stat, VfsError> {
        self.place.tree().stat(&self.place.node)
    }

    /// Metadata of what `path` names.
    ///
    /// # Errors
    /// As `fstatat(2)`.
    pub fn stat_at(&self, path: &str, follow: bool) -> Result<Stat, VfsError> {
        let place = existing(&self.find(path, follow)?)?;
        place.tree().stat(&place.node)
    }

    /// Sets the directory's own times.
    ///
    /// # Errors
    /// As `futimens(2)`.
    pub fn set_times(&self, times: Times) -> Result<(), VfsError> {
        self.place.writable()?;
        self.place.tree().set_times(&self.place.node, times)
    }

    /// Sets the times of what `path` names.
    ///
    /// # Errors
    /// As `utimensat(2)`.
    pub fn set_times_at(&self, path: &str, follow: bool, times: Times) -> Result<(), VfsError> {
        let place = existing(&self.find(path, follow)?)?;
        place.writable()?;
        place.tree().set_times(&place.node, times)
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// As `mkdirat(2)`.
    pub fn create_directory(&self, path: &str) -> Result<(), VfsError> {
        let found = self.find(path, false)?;
        let (Some(name), None) = (&found.name, &found.place) else { return Err(VfsError::Exists) };
        found.parent.writable()?;
        found.parent.tree().create_directory(&found.parent.node, name)
    }

    /// Makes a directory and those above it.
    ///
    /// # Errors
    /// As [`Directory::create_directory`], but an existing directory is fine.
    pub fn create_directories(&self, path: &str) -> Result<(), VfsError> {
        check_relative(path)?;
        let ends = path.char_indices().filter(|(_, c)| *c == '/').map(|(at, _)| at).chain([path.len()]);
        for end in ends {
            let part = &path[..end];
            if part.is_empty() {
                continue;
            }
            match self.create_directory(part) {
                Ok(()) | Err(VfsError::Exists) => {}
                Err(error) => return Err(error),
            }
        }
        match self.stat_at(path, true)?.kind {
            FileKind::Directory => Ok(()),
            _ => Err(VfsError::NotDirectory),
        }
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// As `unlinkat(2)` with `AT_REMOVEDIR`; [`VfsError::Busy`] for a mount point or what lies above one.
    pub fn remove_directory(&self, path: &str) -> Result<(), VfsError> {
        let found = self.find(path, false)?;
        let place = existing(&found)?;
        let name = found.name.as_deref().ok_or(VfsError::Invalid)?;
        removable(&found.parent, name)?;
        if place.node.kind != FileKind::Directory {
            return Err(VfsError::NotDirectory);
        }
        found.parent.tree().remove_directory(&found.parent.node, name)
    }

    /// Removes a name of a file or link. Those who have it open keep it.
    ///
    /// # Errors
    /// As `unlinkat(2)`; [`VfsError::IsDirectory`] for a directory.
    pub fn unlink(&self, path: &str) -> Result<(), VfsError> {
        let found = self.find(path, false)?;
        let place = existing(&found)?;
        let Some(name) = found.name.as_deref() else { return Err(VfsError::IsDirectory) };
        removable(&found.parent, name)?;
        if place.node.kind == FileKind::Directory {
            return Err(VfsError::IsDirectory);
        }
        if found.directory {
            return Err(VfsError::NotDirectory);
        }
        found.parent.tree().unlink(&found.parent.node, name)
    }

    /// Renames, replacing what the new name stood for.
    ///
    /// # Errors
    /// As `renameat(2)`; [`VfsError::CrossDevice`] between two mounts.
    pub fn rename(&self, path: &str, to: &Directory, new_path: &str) -> Result<(), VfsError> {
        let from = self.find(path, false)?;
        let into = to.find(new_path, false)?;
        let place = existing(&from)?;
        let name = from.name.as_deref().ok_or(VfsError::Busy)?;
        let new_name = into.name.as_deref().ok_or(VfsError::Busy)?;
        if !from.parent.mount.same(&into.parent.mount) {
            return Err(VfsError::CrossDevice);
        }
        removable(&from.parent, name)?;
        removable(&into.parent, new_name)?;
        if (from.directory || into.directory) && place.node.kind != FileKind::Directory {
            return Err(VfsError::NotDirectory);
        }
        from.parent.tree().rename(&from.parent.node, name, &into.parent.node, new_name)
    }

    /// Gives a file a second name.
    ///
    /// # Errors
    /// As `linkat(2)`; [`VfsError::CrossDevice`] between two mounts, [`VfsError::NotPermitted`] for a directory.
    pub fn link(&self, path: &str, follow: bool, to: &Directory, new_path: &str) -> Result<(), VfsError> {
        let from = self.find(path, follow)?;
        let into = to.find(new_path, false)?;
        let place = existing(&from)?;
        if place.node.kind == FileKind::Directory {
            return Err(VfsError::NotPermitted);
        }
        if from.directory {
            return Err(VfsError::NotDirectory);
        }
        let (Some(new_name), None) = (&into.name, &into.place) else { return Err(VfsError::Exists) };
        if into.directory {
            return Err(VfsError::NoEntry);
        }
        let name = from.name.as_deref().ok_or(VfsError::NotPermitted)?;
        if !place.mount.same(&into.parent.mount) || from.parent.pinned(name) {
            return Err(VfsError::CrossDevice);
        }
        into.parent.writable()?;
        into.parent.tree().link(&from.parent.node, name, &into.parent.node, new_name)
    }

    /// Makes a symbolic link. What it names need not exist.
    ///
    /// # Errors
    /// As `symlinkat(2)`; [`VfsError::NotPermitted`] for an absolute target, as `wasi:filesystem` asks for.
    pub fn symlink(&self, target: &str, path: &str) -> Result<(), VfsError> {
        if target.is_empty() {
            return Err(VfsError::NoEntry);
        }
        if target.starts_with('/') {
            return Err(VfsError::NotPermitted);
        }
        if target.len() > crate::PATH_MAX {
            return Err(VfsError::NameTooLong);
        }
        if target.contains('\0') {
            return Err(VfsError::IllegalByteSequence);
        }
        let found = self.find(path, false)?;
        let (Some(name), None) = (&found.name, &found.place) else { return Err(VfsError::Exists) };
        if found.directory {
            return Err(VfsError::NoEntry);
        }
        found.parent.writable()?;
        found.parent.tree().symlink(&found.parent.node, name, target)
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// As `readlinkat(2)`.
    pub fn read_link(&self, path: &str) -> Result<String, VfsError> {
        let place = existing(&self.find(path, false)?)?;
        if place.node.kind != FileKind::Symlink {
            return Err(VfsError::Invalid);
        }
        place.tree().read_link(&place.node)
    }

    /// Starts a listing.
    ///
    /// # Errors
    /// If the host fails.
    pub fn entries(&self) -> Result<Entries, VfsError> {
        let cursor = self.place.tree().read_directory(&self.place.node)?;
        Ok(Entries { point: self.place.point.clone(), mounted: None, in_mounts: true, cursor })
    }

    /// What the host holds for a listing of it under way, at most, in bytes.
    pub fn listing_bytes(&self) -> usize {
        self.place.tree().listing_bytes()
    }

    /// Makes the directory durable.
    ///
    /// # Errors
    /// As `fsync(2)`.
    pub fn sync(&self) -> Result<(), VfsError> {
        self.place.tree().sync(&self.place.node)
    }

    pub(crate) fn find<'p>(&self, path: &'p str, follow: bool) -> Result<Found<'p>, VfsError> {
        if !self.is_working {
            check_relative(path)?;
            return walk(&self.root, &self.place, path, follow);
        }
        check_length(path)?;
        if path.starts_with('/') {
            return Err(VfsError::NotPermitted);
        }
        let first = path.split('/').find(|name| !matches!(*name, "" | "."));
        let in_root = first.is_some_and(|name| name != ".." && self.root.child(name).is_ok());
        walk(&self.root, if in_root { &self.root } else { &self.place }, path, follow)
    }

    fn open_existing(
        &self,
        place: &Arc<Place>,
        directory: bool,
        options: OpenOptions,
    ) -> Result<Opened, VfsError> {
        if options.create && options.exclusive {
            return Err(VfsError::Exists);
        }
        let write = options.write || options.truncate;
        match place.node.kind {
            FileKind::Directory if write || options.create => Err(VfsError::IsDirectory),
            FileKind::Directory => {
                let place = Arc::clone(place);
                Ok(Opened::Directory(Directory { place, is_working: false, ..self.clone() }))
            }
            _ if directory || options.directory => Err(VfsError::NotDirectory),
            FileKind::Symlink => Err(VfsError::Loop),
            FileKind::Other => Err(VfsError::Access),
            FileKind::File | FileKind::Device => {
                if write {
                    place.writable()?;
                }
                let access = Access { read: options.read, write, truncate: options.truncate };
                let file = place.tree().open(&place.node, access)?;
                Ok(Opened::File(File::new(file, &place.mount, options.read, options.write)))
            }
        }
    }
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Directory").field("read_only", &self.read_only()).finish_non_exhaustive()
    }
}

/// A listing under way.
pub struct Entries {
    /// What is mounted here: told first, and instead of what has the same name in the directory.
    point: Option<Arc<Point>>,
    /// The last of these that was told.
    mounted: Option<String>,
    in_mounts: bool,
    cursor: Box<dyn Cursor>,
}

impl Entries {
    /// The next name. One that exists from the first call to the last is told once, whatever else changes.
    ///
    /// # Errors
    /// If the host fails.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, VfsError> {
        if self.in_mounts {
            if let Some(entry) = self.next_mounted() {
                self.mounted = Some(entry.name.clone());
                return Ok(Some(entry));
            }
            (self.mounted, self.in_mounts) = (None, false);
        }
        while let Some(entry) = self.cursor.next()? {
            if !self.hides(&entry.name) {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    fn next_mounted(&self) -> Option<Entry> {
        let from = self.mounted.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut points = self.point.as_ref()?.children.range::<str, _>((from, Bound::Unbounded));
        points.find_map(|(name, child)| {
            let mount = child.mount.as_ref()?;
            Some(Entry { name: name.clone(), kind: mount.root.kind })
        })
    }

    fn hides(&self, name: &str) -> bool {
        let child = self.point.as_ref().and_then(|point| point.children.get(name));
        child.is_some_and(|child| child.mount.is_some())
    }
}

impl std::fmt::Debug for Entries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entries").finish_non_exhaustive()
    }
}

fn create(found: &Found<'_>, options: OpenOptions) -> Result<File, VfsError> {
    let name = found.name.as_deref().ok_or(VfsError::NoEntry)?;
    if !options.create {
        return Err(VfsError::NoEntry);
    }
    if options.directory {
        return Err(VfsError::Invalid);
    }
    if found.directory {
        return Err(VfsError::IsDirectory);
    }
    found.parent.writable()?;
    let access = Access { read: options.read, write: options.write, truncate: false };
    let file = found.parent.tree().create(&found.parent.node, name, access)?;
    Ok(File::new(file, &found.parent.mount, options.read, options.write))
}

fn existing(found: &Found<'_>) -> Result<Arc<Place>, VfsError> {
    let place = found.place.clone().ok_or(VfsError::NoEntry)?;
    if found.directory && place.node.kind != FileKind::Directory {
        return Err(VfsError::NotDirectory);
    }
    Ok(place)
}

fn removable(parent: &Place, name: &str) -> Result<(), VfsError> {
    if parent.pinned(name) {
        return Err(VfsError::Busy);
    }
    parent.writable()
}
