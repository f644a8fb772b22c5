//! The operations of `wasi:filesystem/types`.

use std::time::{Duration, SystemTime};

use coracle_vfs::{FileKind, NewTime, OpenOptions, Opened, Stat, Times};
use wasmtime::component::Resource;
use wasmtime_wasi::p2::bindings::clocks::wall_clock::Datetime;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    self, Advice, Descriptor, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry,
    DirectoryEntryStream, ErrorCode, Filesize, HostDescriptor, HostDirectoryEntryStream, MetadataHashValue,
    NewTimestamp, OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::{FsError, FsResult};
use wasmtime_wasi_io::streams::{DynInputStream, DynOutputStream};

use super::error::{code, failed};
use super::streams::{FileInput, FileOutput, Sync};
use super::{FilesView, Handle, Listing, on_disk};
use crate::limits::CHUNK;
use crate::output::GuestOutput;
use crate::stdio::Own;

/// What is told of a file, in the types of the version that is in scope; `$time` makes its times.
macro_rules! facts {
    ($time:ident) => {
        fn stat_of(stat: &Stat) -> DescriptorStat {
            DescriptorStat {
                type_: type_of(stat.kind),
                link_count: stat.links,
                size: stat.size,
                data_access_timestamp: $time(stat.accessed),
                data_modification_timestamp: $time(stat.modified),
                status_change_timestamp: $time(stat.changed),
            }
        }

        /// What says whether two names mean one file; guests show it as device and inode.
        fn hash_of(stat: &Stat) -> MetadataHashValue {
            MetadataHashValue { lower: stat.inode, upper: stat.device }
        }

        fn follow(flags: PathFlags) -> bool {
            flags.contains(PathFlags::SYMLINK_FOLLOW)
        }
    };
}
pub(crate) use facts;

impl types::Host for FilesView<'_> {
    fn convert_error_code(&mut self, error: FsError) -> wasmtime::Result<ErrorCode> {
        error.downcast()
    }

    fn filesystem_error_code(
        &mut self,
        error: Resource<wasmtime::Error>,
    ) -> wasmtime::Result<Option<ErrorCode>> {
        Ok(self.table.get(&error)?.downcast_ref().map(code))
    }
}

impl HostDescriptor for FilesView<'_> {
    fn read_via_stream(
        &mut self,
        fd: Resource<Descriptor>,
        offset: Filesize,
    ) -> FsResult<Resource<DynInputStream>> {
        let Handle::File { file, open, .. } = self.handle(&fd)? else {
            return Err(ErrorCode::IsDirectory.into());
        };
        if !file.readable() {
            return Err(ErrorCode::BadDescriptor.into());
        }
        let stream: DynInputStream = match self.files.stdio.own(file) {
            Some(Own::Input(input)) => Box::new(input),
            _ => Box::new(FileInput::new(file.clone(), open.clone(), offset)),
        };
        Ok(self.table.push(stream)?)
    }

    fn write_via_stream(
        &mut self,
        fd: Resource<Descriptor>,
        offset: Filesize,
    ) -> FsResult<Resource<DynOutputStream>> {
        self.output(&fd, Some(offset))
    }

    fn append_via_stream(&mut self, fd: Resource<Descriptor>) -> FsResult<Resource<DynOutputStream>> {
        self.output(&fd, None)
    }

    async fn advise(
        &mut self,
        fd: Resource<Descriptor>,
        _offset: Filesize,
        _length: Filesize,
        _advice: Advice,
    ) -> FsResult<()> {
        match self.handle(&fd)? {
            Handle::File { .. } => Ok(()), // advice may be ignored
            Handle::Directory { .. } => Err(ErrorCode::BadDescriptor.into()),
        }
    }

    async fn sync_data(&mut self, fd: Resource<Descriptor>) -> FsResult<()> {
        self.sync_handle(&fd, true)
    }

    async fn get_flags(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorFlags> {
        match self.handle(&fd)? {
            Handle::File { flags, .. } | Handle::Directory { flags, .. } => Ok(*flags),
        }
    }

    async fn get_type(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorType> {
        match self.handle(&fd)? {
            Handle::File { file, .. } if file.device().is_some() => Ok(DescriptorType::CharacterDevice),
            Handle::File { .. } => Ok(DescriptorType::RegularFile),
            Handle::Directory { .. } => Ok(DescriptorType::Directory),
        }
    }

    async fn set_size(&mut self, fd: Resource<Descriptor>, size: Filesize) -> FsResult<()> {
        let file = self.file(&fd)?;
        on_disk(file.blocking(), || file.set_size(size)).map_err(failed)
    }

    async fn set_times(
        &mut self,
        fd: Resource<Descriptor>,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FsResult<()> {
        let times = times(accessed, modified)?;
        match self.handle(&fd)? {
            Handle::File { file, .. } => on_disk(file.blocking(), || file.set_times(times)),
            Handle::Directory { directory, .. } => {
                on_disk(directory.blocking(), || directory.set_times(times))
            }
        }
        .map_err(failed)
    }

    async fn read(
        &mut self,
        fd: Resource<Descriptor>,
        length: Filesize,
        offset: Filesize,
    ) -> FsResult<(Vec<u8>, bool)> {
        let file = self.file(&fd)?;
        let mut buffer = vec![0; usize::try_from(length).unwrap_or(usize::MAX).min(CHUNK)];
        if let Some(Own::Input(input)) = self.files.stdio.own(&file).filter(|_| file.readable()) {
            let count = input.read_into(&mut buffer).ok_or(ErrorCode::WouldBlock)?;
            let end = count == 0 && !buffer.is_empty();
            buffer.truncate(count);
            return Ok((buffer, end));
        }
        let count = on_disk(file.blocking(), || file.read_at(offset, &mut buffer)).map_err(failed)?;
        let end = count == 0 && !buffer.is_empty();
        buffer.truncate(count);
        Ok((buffer, end))
    }

    async fn write(
        &mut self,
        fd: Resource<Descriptor>,
        data: Vec<u8>,
        offset: Filesize,
    ) -> FsResult<Filesize> {
        let Handle::File { file, flags, .. } = self.handle(&fd)? else {
            return Err(ErrorCode::IsDirectory.into());
        };
        let data = &data[..data.len().min(CHUNK)];
        if let Some(Own::Output(output)) = self.files.stdio.own(file).filter(|_| file.writable()) {
            let part = &data[..data.len().min(output.room())];
            if part.is_empty() && !data.is_empty() {
                return Err(ErrorCode::WouldBlock.into());
            }
            output.write(part);
            return Ok(part.len() as u64);
        }
        let written = on_disk(file.blocking(), || {
            let written = file.write_at(offset, data)?;
            if let Some(sync) = sync_of(*flags) {
                file.sync(sync.data_only)?;
            }
            Ok(written)
        })
        .map_err(failed)?;
        Ok(written as u64)
    }

    async fn read_directory(&mut self, fd: Resource<Descriptor>) -> FsResult<Resource<DirectoryEntryStream>> {
        let directory = self.directory(&fd)?;
        let listing = self.files.list(&directory)?;
        Ok(Resource::new_own(self.table.push(listing)?.rep()))
    }

    async fn sync(&mut self, fd: Resource<Descriptor>) -> FsResult<()> {
        self.sync_handle(&fd, false)
    }

    async fn create_directory_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<()> {
        let directory = self.directory(&fd)?;
        on_disk(directory.paths_block(), || directory.create_directory(&path)).map_err(failed)
    }

    async fn stat(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorStat> {
        self.stat_handle(&fd).map(|stat| stat_of(&stat))
    }

    async fn stat_at(
        &mut self,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
    ) -> FsResult<DescriptorStat> {
        let directory = self.directory(&fd)?;
        let stat = on_disk(directory.paths_block(), || directory.stat_at(&path, follow(path_flags)))
            .map_err(failed)?;
        Ok(stat_of(&stat))
    }

    async fn set_times_at(
        &mut self,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FsResult<()> {
        let directory = self.directory(&fd)?;
        let times = times(accessed, modified)?;
        on_disk(directory.paths_block(), || directory.set_times_at(&path, follow(path_flags), times))
            .map_err(failed)
    }

    async fn link_at(
        &mut self,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
        new_fd: Resource<Descriptor>,
        new_path: String,
    ) -> FsResult<()> {
        let (from, to) = (self.directory(&fd)?, self.directory(&new_fd)?);
        on_disk(from.paths_block(), || from.link(&path, follow(path_flags), &to, &new_path)).map_err(failed)
    }

    async fn open_at(
        &mut self,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
        open_flags: OpenFlags,
        flags: DescriptorFlags,
    ) -> FsResult<Resource<Descriptor>> {
        let directory = self.directory(&fd)?;
        let options = OpenOptions {
            read: flags.contains(DescriptorFlags::READ) || !flags.contains(DescriptorFlags::WRITE),
            write: flags.contains(DescriptorFlags::WRITE),
            create: open_flags.contains(OpenFlags::CREATE),
            exclusive: open_flags.contains(OpenFlags::EXCLUSIVE),
            truncate: open_flags.contains(OpenFlags::TRUNCATE),
            directory: open_flags.contains(OpenFlags::DIRECTORY),
            follow: follow(path_flags),
        };
        // Before the file is made, if it is.
        let open = self.files.open()?;
        let handle =
            match on_disk(directory.paths_block(), || directory.open(&path, options)).map_err(failed)? {
                Opened::File(file) => Handle::File { file, flags, open },
                Opened::Directory(directory) => Handle::Directory { directory, flags, _open: open },
            };
        self.push(handle)
    }

    async fn readlink_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<String> {
        let directory = self.directory(&fd)?;
        let target = on_disk(directory.paths_block(), || directory.read_link(&path)).map_err(failed)?;
        // As the interface has it, guests are not shown where the view's root is.
        if target.starts_with('/') { Err(ErrorCode::NotPermitted.into()) } else { Ok(target) }
    }

    async fn remove_directory_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<()> {
        let directory = self.directory(&fd)?;
        on_disk(directory.paths_block(), || directory.remove_directory(&path)).map_err(failed)
    }

    async fn rename_at(
        &mut self,
        fd: Resource<Descriptor>,
        path: String,
        new_fd: Resource<Descriptor>,
        new_path: String,
    ) -> FsResult<()> {
        let (from, to) = (self.directory(&fd)?, self.directory(&new_fd)?);
        on_disk(from.paths_block(), || from.rename(&path, &to, &new_path)).map_err(failed)
    }

    async fn symlink_at(&mut self, fd: Resource<Descriptor>, target: String, path: String) -> FsResult<()> {
        let directory = self.directory(&fd)?;
        on_disk(directory.paths_block(), || directory.symlink(&target, &path)).map_err(failed)
    }

    async fn unlink_file_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<()> {
        let directory = self.directory(&fd)?;
        on_disk(directory.paths_block(), || directory.unlink(&path)).map_err(failed)
    }

    async fn is_same_object(
        &mut self,
        a: Resource<Descriptor>,
        b: Resource<Descriptor>,
    ) -> wasmtime::Result<bool> {
        match (self.stat_handle(&a), self.stat_handle(&b)) {
            (Ok(a), Ok(b)) => Ok((a.device, a.inode) == (b.device, b.inode)),
            _ => Ok(false),
        }
    }

    async fn metadata_hash(&mut self, fd: Resource<Descriptor>) -> FsResult<MetadataHashValue> {
        self.stat_handle(&fd).map(|stat| hash_of(&stat))
    }

    async fn metadata_hash_at(
        &mut self,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
    ) -> FsResult<MetadataHashValue> {
        let directory = self.directory(&fd)?;
        let stat = on_disk(directory.paths_block(), || directory.stat_at(&path, follow(path_flags)))
            .map_err(failed)?;
        Ok(hash_of(&stat))
    }

    fn drop(&mut self, fd: Resource<Descriptor>) -> wasmtime::Result<()> {
        self.table.delete(Resource::<Handle>::new_own(fd.rep()))?;
        Ok(())
    }
}

impl HostDirectoryEntryStream for FilesView<'_> {
    async fn read_directory_entry(
        &mut self,
        stream: Resource<DirectoryEntryStream>,
    ) -> FsResult<Option<DirectoryEntry>> {
        let listing = self.table.get_mut(&Resource::<Listing>::new_borrow(stream.rep()))?;
        let entry = on_disk(listing.blocking, || listing.entries.next_entry()).map_err(failed)?;
        Ok(entry.map(|entry| DirectoryEntry { type_: type_of(entry.kind), name: entry.name }))
    }

    fn drop(&mut self, stream: Resource<DirectoryEntryStream>) -> wasmtime::Result<()> {
        self.table.delete(Resource::<Listing>::new_own(stream.rep()))?;
        Ok(())
    }
}

impl FilesView<'_> {
    fn output(
        &mut self,
        fd: &Resource<Descriptor>,
        position: Option<u64>,
    ) -> FsResult<Resource<DynOutputStream>> {
        let Handle::File { file, flags, open } = self.handle(fd)? else {
            return Err(ErrorCode::IsDirectory.into());
        };
        if !file.writable() {
            return Err(ErrorCode::BadDescriptor.into());
        }
        let stream: DynOutputStream = match self.files.stdio.own(file) {
            Some(Own::Output(output)) => Box::new(GuestOutput::new(output, self.files.stdio.terminal)),
            _ => Box::new(FileOutput::new(file.clone(), open.clone(), position, sync_of(*flags))),
        };
        Ok(self.table.push(stream)?)
    }

    fn stat_handle(&self, fd: &Resource<Descriptor>) -> FsResult<Stat> {
        match self.handle(fd)? {
            Handle::File { file, .. } => on_disk(file.blocking(), || file.stat()),
            Handle::Directory { directory, .. } => on_disk(directory.blocking(), || directory.stat()),
        }
        .map_err(failed)
    }

    fn sync_handle(&self, fd: &Resource<Descriptor>, data_only: bool) -> FsResult<()> {
        match self.handle(fd)? {
            Handle::File { file, .. } => on_disk(file.blocking(), || file.sync(data_only)),
            Handle::Directory { directory, .. } => on_disk(directory.blocking(), || directory.sync()),
        }
        .map_err(failed)
    }
}

pub(crate) fn sync_of(flags: DescriptorFlags) -> Option<Sync> {
    if flags.contains(DescriptorFlags::FILE_INTEGRITY_SYNC) {
        Some(Sync { data_only: false })
    } else if flags.contains(DescriptorFlags::DATA_INTEGRITY_SYNC) {
        Some(Sync { data_only: true })
    } else {
        None
    }
}

fn type_of(kind: FileKind) -> DescriptorType {
    match kind {
        FileKind::File => DescriptorType::RegularFile,
        FileKind::Directory => DescriptorType::Directory,
        FileKind::Symlink => DescriptorType::SymbolicLink,
        FileKind::Device => DescriptorType::CharacterDevice,
        FileKind::Other => DescriptorType::Unknown,
    }
}

facts!(datetime);

/// WASI 0.2 has no times before 1970.
fn datetime(time: SystemTime) -> Option<Datetime> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(Datetime { seconds: since.as_secs(), nanoseconds: since.subsec_nanos() })
}

fn times(accessed: NewTimestamp, modified: NewTimestamp) -> FsResult<Times> {
    Ok(Times { accessed: new_time(accessed)?, modified: new_time(modified)? })
}

fn new_time(time: NewTimestamp) -> FsResult<NewTime> {
    match time {
        NewTimestamp::NoChange => Ok(NewTime::Keep),
        NewTimestamp::Now => Ok(NewTime::Now),
        NewTimestamp::Timestamp(Datetime { seconds, nanoseconds }) => {
            if nanoseconds >= 1_000_000_000 {
                return Err(ErrorCode::Invalid.into());
            }
            SystemTime::UNIX_EPOCH
                .checked_add(Duration::new(seconds, nanoseconds))
                .map(NewTime::At)
                .ok_or_else(|| ErrorCode::Overflow.into())
        }
    }
}
