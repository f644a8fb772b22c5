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

use coracle_vfs::{Directory, File, Mounts};
use wasmtime::component::{HasData, Resource, ResourceTable};
use wasmtime_wasi::p2::FsError;
use wasmtime_wasi::p2::bindings::filesystem::preopens;
use wasmtime_wasi::p2::bindings::filesystem::types::{Descriptor, DescriptorFlags, ErrorCode};

use crate::executor;
use crate::limits::OPEN_FILES;

/// A container's files.
pub(crate) struct Files {
    root: Directory,
    /// Descriptors that the guest holds.
    open: usize,
}

impl Files {
    pub(crate) fn new(mounts: &Mounts) -> Files {
        Files { root: mounts.root(), open: 0 }
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
enum Handle {
    File { file: File, flags: DescriptorFlags },
    Directory { directory: Directory, flags: DescriptorFlags },
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
        if self.files.open >= OPEN_FILES {
            return Err(ErrorCode::Quota.into()); // WASI has no word for "too many open files"
        }
        let handle = self.table.push(handle)?;
        self.files.open += 1;
        Ok(Resource::new_own(handle.rep()))
    }
}

impl preopens::Host for FilesView<'_> {
    /// One directory: the root of the container's view.
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        let mut flags = DescriptorFlags::READ;
        flags |= DescriptorFlags::MUTATE_DIRECTORY;
        let root = Handle::Directory { directory: self.files.root.clone(), flags };
        match self.push(root) {
            Ok(root) => Ok(vec![(root, "/".to_owned())]),
            Err(error) => Err(wasmtime::Error::new(error)),
        }
    }
}

/// Runs an operation that may wait for a disk (`blocking`) so that other guests of this thread go on meanwhile.
pub(crate) fn on_disk<T>(blocking: bool, operation: impl FnOnce() -> T) -> T {
    if blocking { executor::blocking(operation) } else { operation() }
}

#[cfg(test)]
mod tests;
