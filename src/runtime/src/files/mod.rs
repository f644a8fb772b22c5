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
    /// What the guest has open.
    open: Arc<AtomicUsize>,
    /// What its pod may hold.
    budget: Arc<Budget>,
    pub(crate) stdio: Stdio,
}

impl Files {
    pub(crate) fn new(mounts: &Mounts, budget: &Arc<Budget>, stdio: Stdio) -> Files {
        Files { root: mounts.root(), open: Arc::default(), budget: Arc::clone(budget), stdio }
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

    /// The root of the container's view, opened once more.
    pub(crate) fn root(&self) -> Result<Handle, TooMany> {
        let flags = DescriptorFlags::READ | DescriptorFlags::MUTATE_DIRECTORY;
        Ok(Handle::Directory { directory: self.files.root.clone(), flags, _open: self.files.open()? })
    }
}

impl preopens::Host for FilesView<'_> {
    /// One directory: the root of the container's view.
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        let root = self.root().map_err(FsError::from).and_then(|root| self.push(root));
        Ok(vec![(root.map_err(wasmtime::Error::new)?, "/".to_owned())])
    }
}

/// Runs an operation on this thread; if it may wait for a disk (`blocking`), so that another thread stands in when
/// it takes long.
pub(crate) fn on_disk<T>(blocking: bool, operation: impl FnOnce() -> T) -> T {
    if blocking { executor::blocking(operation) } else { operation() }
}

#[cfg(test)]
mod tests;
