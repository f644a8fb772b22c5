//! `wasi:filesystem` over the container's view of files.
//!
//! The generated traits of wasmtime-wasi are implemented for our own view. Their resource types are only names
//! for handles here: what lies in the table under a handle is our [`Handle`], [`Entries`] or stream, and the
//! table checks that when it is looked up.

#[cfg(test)]
pub(crate) mod conformance;
mod descriptor;
mod error;
mod streams;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use coracle_budget::{Budget, Charge, Exceeded};
use coracle_vfs::{Directory, Entries, File, Mounts, VfsError};
use wasmtime::component::{HasData, Resource, ResourceTable};
use wasmtime_wasi::p2::FsError;
use wasmtime_wasi::p2::bindings::filesystem::preopens;
use wasmtime_wasi::p2::bindings::filesystem::types::{Descriptor, DescriptorFlags, ErrorCode};

pub(crate) use self::descriptor::{facts, sync_of};
pub(crate) use self::streams::Sync;
use crate::executor;
use crate::limits::OPEN_FILES;
use crate::stdio::Stdio;

/// A container's files.
pub(crate) struct Files {
    root: Directory,
    /// Where the guest works, if it is to be told by a directory ([`Files::work_in`]).
    working: Option<Directory>,
    /// What the guest has open.
    open: Arc<AtomicUsize>,
    /// What its pod may hold.
    budget: Arc<Budget>,
    pub(crate) stdio: Stdio,
}

impl Files {
    pub(crate) fn new(mounts: &Mounts, budget: &Arc<Budget>, stdio: Stdio) -> Files {
        let (open, budget) = (Arc::default(), Arc::clone(budget));
        Files { root: mounts.root(), working: None, open, budget, stdio }
    }

    /// The guest finds its working directory as a second one, `.`.
    pub(crate) fn work_in(&mut self, path: &str) {
        self.working = working(&self.root, path);
    }

    /// Starts a listing, which holds on to the directory, so that it counts as one more that is open.
    pub(crate) fn list(&self, directory: &Directory) -> Result<Listing, NoListing> {
        let place = self.open()?;
        let held = self.budget.charge(directory.listing_bytes() as u64)?;
        let blocking = directory.blocking();
        let entries = on_disk(blocking, || directory.entries())?;
        Ok(Listing { entries, blocking, _open: place, _held: held })
    }

    /// A place for one more that is open, given back when it is dropped.
    pub(crate) fn open(&self) -> Result<Open, TooMany> {
        let place = Open(Arc::new(Place(Arc::clone(&self.open))));
        if self.open.fetch_add(1, Relaxed) < OPEN_FILES { Ok(place) } else { Err(TooMany) }
    }

    /// How many are open.
    #[cfg(test)]
    pub(crate) fn opened(&self) -> usize {
        self.open.load(Relaxed)
    }
}

/// One of the [`OPEN_FILES`]: what is open counts once, until the last that uses it is gone.
#[derive(Clone)]
pub(crate) struct Open(#[expect(dead_code, reason = "what counts is how long it is there")] Arc<Place>);

struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A listing under way, with what is counted for it.
pub(crate) struct Listing {
    pub(crate) entries: Entries,
    pub(crate) blocking: bool,
    _open: Open,
    _held: Charge,
}

/// Why a listing did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoListing {
    #[error(transparent)]
    TooMany(#[from] TooMany),
    #[error(transparent)]
    Memory(#[from] Exceeded),
    #[error(transparent)]
    Files(#[from] VfsError),
}

impl From<NoListing> for FsError {
    fn from(error: NoListing) -> FsError {
        match error {
            NoListing::TooMany(error) => error.into(),
            NoListing::Memory(_) => ErrorCode::InsufficientMemory.into(),
            NoListing::Files(error) => error::failed(error),
        }
    }
}

/// A container has [`OPEN_FILES`] open. WASI has no word for it but "quota".
#[derive(Debug, thiserror::Error)]
#[error("too many open files")]
pub(crate) struct TooMany;

impl From<TooMany> for FsError {
    fn from(_: TooMany) -> FsError {
        ErrorCode::Quota.into()
    }
}

/// What the hosts of `wasi:filesystem` see of a container.
pub(crate) struct FilesView<'a> {
    pub(crate) table: &'a mut ResourceTable,
    pub(crate) files: &'a mut Files,
}

/// Tells the generated bindings that their host is [`FilesView`].
pub(crate) struct FileSystem;

impl HasData for FileSystem {
    type Data<'a> = FilesView<'a>;
}

/// What a guest's descriptor stands for.
pub(crate) enum Handle {
    File { file: File, flags: DescriptorFlags, open: Open },
    Directory { directory: Directory, flags: DescriptorFlags, _open: Open },
}

impl FilesView<'_> {
    fn handle(&self, fd: &Resource<Descriptor>) -> Result<&Handle, FsError> {
        Ok(self.table.get(&Resource::<Handle>::new_borrow(fd.rep()))?)
    }

    fn file(&self, fd: &Resource<Descriptor>) -> Result<File, FsError> {
        match self.handle(fd)? {
            Handle::File { file, .. } => Ok(file.clone()),
            Handle::Directory { .. } => Err(ErrorCode::IsDirectory.into()),
        }
    }

    fn directory(&self, fd: &Resource<Descriptor>) -> Result<Directory, FsError> {
        match self.handle(fd)? {
            Handle::Directory { directory, .. } => Ok(directory.clone()),
            Handle::File { .. } => Err(ErrorCode::NotDirectory.into()),
        }
    }

    /// Hands a descriptor out.
    fn push(&mut self, handle: Handle) -> Result<Resource<Descriptor>, FsError> {
        Ok(Resource::new_own(self.table.push(handle)?.rep()))
    }

    /// What the guest finds open, with its names: the root of the container's view and, if it is to be told so, the
    /// directory to work in. They are opened once more each time.
    pub(crate) fn preopened(&self) -> Result<Vec<(Handle, &'static str)>, TooMany> {
        let flags = DescriptorFlags::READ | DescriptorFlags::MUTATE_DIRECTORY;
        let working = self.files.working.as_ref().map(|working| (working, WORKING));
        let all = [(&self.files.root, ROOT)].into_iter().chain(working);
        all.map(|(directory, name)| {
            let directory = directory.clone();
            Ok((Handle::Directory { directory, flags, _open: self.files.open()? }, name))
        })
        .collect()
    }
}

/// The name of the root among the directories that a guest finds open.
pub(crate) const ROOT: &str = "/";

/// The name of the directory to work in. It comes after the root: wasi-libc takes both for the same prefix of every
/// path, and the later one for the better.
pub(crate) const WORKING: &str = ".";

/// The directory that a guest works in, unless that is the root, or it is missing.
pub(crate) fn working(root: &Directory, path: &str) -> Option<Directory> {
    let path = path.trim_matches('/');
    let is_root = path.split('/').all(|name| matches!(name, "" | "."));
    if is_root { None } else { on_disk(root.paths_block(), || root.working(path)).ok() }
}

impl preopens::Host for FilesView<'_> {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        let all = self.preopened().map_err(|error| wasmtime::Error::new(FsError::from(error)))?;
        let push = |(handle, name): (Handle, &str)| {
            Ok((self.push(handle).map_err(wasmtime::Error::new)?, name.to_owned()))
        };
        all.into_iter().map(push).collect()
    }
}

/// Runs an operation on this thread; if it may wait for a disk (`blocking`), so that another thread stands in when
/// it takes long.
pub(crate) fn on_disk<T>(blocking: bool, operation: impl FnOnce() -> T) -> T {
    if blocking { executor::blocking(operation) } else { operation() }
}

#[cfg(test)]
mod tests;
