//! `wasi:filesystem` 0.3 over the container's view of files.

use std::iter;
use std::time::{Duration, SystemTime};

use coracle_vfs::{Directory, FileKind, NewTime, OpenOptions, Opened, Stat, Times};
use wasmtime::component::{Access, Accessor, Resource, StreamReader};
use wasmtime_wasi::p2::bindings::filesystem::types::DescriptorFlags as Flags;
use wasmtime_wasi::p3::bindings::clocks::system_clock::Instant;
use wasmtime_wasi::p3::bindings::filesystem::preopens;
use wasmtime_wasi::p3::bindings::filesystem::types::{
    self, Advice, Descriptor, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry, ErrorCode,
    Filesize, HostDescriptor, HostDescriptorWithStore, MetadataHashValue, NewTimestamp, OpenFlags, PathFlags,
};
use wasmtime_wasi::p3::filesystem::{FilesystemError, FilesystemResult};

use super::errors::file_error;
use super::flow::{Ended, Ending, EntryProducer, FileConsumer, FileProducer};
use crate::files::{FileSystem, FilesView, Handle, NoListing, facts, on_disk, sync_of};

impl FilesView<'_> {
    fn entry(&self, fd: &Resource<Descriptor>) -> FilesystemResult<&Handle> {
        Ok(self.table.get(&Resource::<Handle>::new_borrow(fd.rep()))?)
    }

    fn folder(&self, fd: &Resource<Descriptor>) -> FilesystemResult<Directory> {
        match self.entry(fd)? {
            Handle::Directory { directory, .. } => Ok(directory.clone()),
            Handle::File { .. } => Err(ErrorCode::NotDirectory.into()),
        }
    }

    fn facts(&self, fd: &Resource<Descriptor>) -> FilesystemResult<Stat> {
        let stat = match self.entry(fd)? {
            Handle::File { file, .. } => on_disk(file.blocking(), || file.stat()),
            Handle::Directory { directory, .. } => on_disk(directory.blocking(), || directory.stat()),
        };
        Ok(stat.map_err(file_error)?)
    }

    fn flush(&self, fd: &Resource<Descriptor>, data_only: bool) -> FilesystemResult<()> {
        let done = match self.entry(fd)? {
            Handle::File { file, .. } => on_disk(file.blocking(), || file.sync(data_only)),
            Handle::Directory { directory, .. } => on_disk(directory.blocking(), || directory.sync()),
        };
        Ok(done.map_err(file_error)?)
    }

    /// Hands a descriptor out.
    fn hand_out(&mut self, handle: Handle) -> FilesystemResult<Resource<Descriptor>> {
        Ok(Resource::new_own(self.table.push(handle)?.rep()))
    }
}

/// Does something with the container's files, now: nothing of it waits but for disks.
fn with<T, R>(
    store: &Accessor<T, FileSystem>,
    act: impl FnOnce(&mut FilesView<'_>) -> FilesystemResult<R>,
) -> FilesystemResult<R> {
    store.with(|mut access| act(&mut access.get()))
}

/// The same with a directory and a path in it.
fn at<T, R>(
    store: &Accessor<T, FileSystem>,
    fd: &Resource<Descriptor>,
    act: impl FnOnce(&Directory) -> Result<R, coracle_vfs::VfsError>,
) -> FilesystemResult<R> {
    with(store, |view| {
        let directory = view.folder(fd)?;
        Ok(on_disk(directory.paths_block(), || act(&directory)).map_err(file_error)?)
    })
}

/// The same with two directories.
fn between<T>(
    store: &Accessor<T, FileSystem>,
    (from, to): (&Resource<Descriptor>, &Resource<Descriptor>),
    act: impl FnOnce(&Directory, &Directory) -> Result<(), coracle_vfs::VfsError>,
) -> FilesystemResult<()> {
    with(store, |view| {
        let (from, to) = (view.folder(from)?, view.folder(to)?);
        Ok(on_disk(from.paths_block(), || act(&from, &to)).map_err(file_error)?)
    })
}

impl types::Host for FilesView<'_> {
    fn convert_error_code(&mut self, error: FilesystemError) -> wasmtime::Result<ErrorCode> {
        error.downcast()
    }
}

impl HostDescriptor for FilesView<'_> {
    fn drop(&mut self, fd: Resource<Descriptor>) -> wasmtime::Result<()> {
        self.table.delete(Resource::<Handle>::new_own(fd.rep()))?;
        Ok(())
    }
}

impl preopens::Host for FilesView<'_> {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        let all = self.preopened().map_err(wasmtime::Error::new)?;
        let push = |(handle, name): (Handle, &str)| {
            Ok((Resource::new_own(self.table.push(handle)?.rep()), name.to_owned()))
        };
        all.into_iter().map(push).collect()
    }
}

impl<T: 'static> HostDescriptorWithStore<T> for FileSystem {
    fn read_via_stream(
        mut store: Access<'_, T, Self>,
        fd: Resource<Descriptor>,
        offset: Filesize,
    ) -> wasmtime::Result<(StreamReader<u8>, Ended<ErrorCode>)> {
        let file = match store.get().entry(&fd)? {
            Handle::Directory { .. } => Err(ErrorCode::IsDirectory),
            Handle::File { file, .. } if !file.readable() => Err(ErrorCode::BadDescriptor),
            Handle::File { file, open, .. } => Ok((file.clone(), open.clone())),
        };
        let (mut ending, ended) = Ending::new(&mut store)?;
        let stream = match file {
            Ok((file, open)) => {
                let own = store.get().files.stdio.own(&file);
                let producer = FileProducer { file, own, position: offset, ending, _open: open };
                StreamReader::new(&mut store, producer)?
            }
            Err(error) => {
                ending.fail(error);
                StreamReader::new(&mut store, iter::empty())?
            }
        };
        Ok((stream, ended))
    }

    fn write_via_stream(
        store: Access<'_, T, Self>,
        fd: Resource<Descriptor>,
        data: StreamReader<u8>,
        offset: Filesize,
    ) -> wasmtime::Result<Ended<ErrorCode>> {
        write(store, &fd, data, Some(offset))
    }

    fn append_via_stream(
        store: Access<'_, T, Self>,
        fd: Resource<Descriptor>,
        data: StreamReader<u8>,
    ) -> wasmtime::Result<Ended<ErrorCode>> {
        write(store, &fd, data, None)
    }

    async fn advise(
        store: &Accessor<T, Self>,
        fd: Resource<Descriptor>,
        _offset: Filesize,
        _length: Filesize,
        _advice: Advice,
    ) -> FilesystemResult<()> {
        with(store, |view| match view.entry(&fd)? {
            Handle::File { .. } => Ok(()), // advice may be ignored
            Handle::Directory { .. } => Err(ErrorCode::BadDescriptor.into()),
        })
    }

    async fn sync_data(store: &Accessor<T, Self>, fd: Resource<Descriptor>) -> FilesystemResult<()> {
        with(store, |view| view.flush(&fd, true))
    }

    async fn get_flags(
        store: &Accessor<T, Self>,
        fd: Resource<Descriptor>,
    ) -> FilesystemResult<DescriptorFlags> {
        with(store, |view| match view.entry(&fd)? {
            Handle::File { flags, .. } | Handle::Directory { flags, .. } => Ok(shown(*flags)),
        })
    }

    async fn get_type(
        store: &Accessor<T, Self>,
        fd: Resource<Descriptor>,
    ) -> FilesystemResult<DescriptorType> {
        with(store, |view| match view.entry(&fd)? {
            Handle::File { file, .. } if file.device().is_some() => Ok(DescriptorType::CharacterDevice),
            Handle::File { .. } => Ok(DescriptorType::RegularFile),
            Handle::Directory { .. } => Ok(DescriptorType::Directory),
        })
    }

    async fn set_size(
        store: &Accessor<T, Self>,
        fd: Resource<Descriptor>,
        size: Filesize,
    ) -> FilesystemResult<()> {
        with(store, |view| match view.entry(&fd)? {
            Handle::File { file, .. } => {
                Ok(on_disk(file.blocking(), || file.set_size(size)).map_err(file_error)?)
            }
            Handle::Directory { .. } => Err(ErrorCode::IsDirectory.into()),
        })
    }

    async fn set_times(
        store: &Accessor<T, Self>,
        fd: Resource<Descriptor>,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FilesystemResult<()> {
        let times = times(accessed, modified)?;
        with(store, |view| {
            let done = match view.entry(&fd)? {
                Handle::File { file, .. } => on_disk(file.blocking(), || file.set_times(times)),
                Handle::Directory { directory, .. } => {
                    on_disk(directory.blocking(), || directory.set_times(times))
                }
            };
            Ok(done.map_err(file_error)?)
        })
    }

    fn read_directory(
        mut store: Access<'_, T, Self>,
        fd: Resource<Descriptor>,
    ) -> wasmtime::Result<(StreamReader<DirectoryEntry>, Ended<ErrorCode>)> {
        let listing = {
            let view = store.get();
            view.folder(&fd).and_then(|directory| {
                view.files.list(&directory).map_err(|error| match error {
                    NoListing::TooMany(_) => ErrorCode::Quota.into(),
                    NoListing::Memory(_) => ErrorCode::InsufficientMemory.into(),
                    NoListing::Files(error) => file_error(error).into(),
                })
            })
        };
        let (mut ending, ended) = Ending::new(&mut store)?;
        let stream = match listing {
            Ok(listing) => StreamReader::new(&mut store, EntryProducer { listing, ending })?,
            Err(error) => {
                ending.fail(error.downcast()?);
                StreamReader::new(&mut store, iter::empty())?
            }
        };
        Ok((stream, ended))
    }

    async fn sync(store: &Accessor<T, Self>, fd: Resource<Descriptor>) -> FilesystemResult<()> {
        with(store, |view| view.flush(&fd, false))
    }

    async fn create_directory_at(
        store: &Accessor<T, Self>,
        fd: Resource<Descriptor>,
        path: String,
    ) -> FilesystemResult<()> {
        at(store, &fd, |directory| directory.create_directory(&path))
    }

    async fn stat(store: &Accessor<T, Self>, fd: Resource<Descriptor>) -> FilesystemResult<DescriptorStat> {
        with(store, |view| Ok(stat_of(&view.facts(&fd)?)))
    }

    async fn stat_at(
        store: &Accessor<T, Self>,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
    ) -> FilesystemResult<DescriptorStat> {
        at(store, &fd, |directory| directory.stat_at(&path, follow(path_flags))).map(|stat| stat_of(&stat))
    }

    async fn set_times_at(
        store: &Accessor<T, Self>,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FilesystemResult<()> {
        let times = times(accessed, modified)?;
        at(store, &fd, |directory| directory.set_times_at(&path, follow(path_flags), times))
    }

    async fn link_at(
        store: &Accessor<T, Self>,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
        new_fd: Resource<Descriptor>,
        new_path: String,
    ) -> FilesystemResult<()> {
        between(store, (&fd, &new_fd), |from, to| from.link(&path, follow(path_flags), to, &new_path))
    }

    async fn open_at(
        store: &Accessor<T, Self>,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
        open_flags: OpenFlags,
        flags: DescriptorFlags,
    ) -> FilesystemResult<Resource<Descriptor>> {
        let options = OpenOptions {
            read: flags.contains(DescriptorFlags::READ) || !flags.contains(DescriptorFlags::WRITE),
            write: flags.contains(DescriptorFlags::WRITE),
            create: open_flags.contains(OpenFlags::CREATE),
            exclusive: open_flags.contains(OpenFlags::EXCLUSIVE),
            truncate: open_flags.contains(OpenFlags::TRUNCATE),
            directory: open_flags.contains(OpenFlags::DIRECTORY),
            follow: follow(path_flags),
        };
        with(store, |view| {
            let directory = view.folder(&fd)?;
            // Before the file is made, if it is.
            let open = view.files.open().map_err(|_| ErrorCode::Quota)?;
            let opened = on_disk(directory.paths_block(), || directory.open(&path, options));
            let flags = kept(flags);
            view.hand_out(match opened.map_err(file_error)? {
                Opened::File(file) => Handle::File { file, flags, open },
                Opened::Directory(directory) => Handle::Directory { directory, flags, _open: open },
            })
        })
    }

    async fn readlink_at(
        store: &Accessor<T, Self>,
        fd: Resource<Descriptor>,
        path: String,
    ) -> FilesystemResult<String> {
        let target = at(store, &fd, |directory| directory.read_link(&path))?;
        // As the interface has it, guests are not shown where the view's root is.
        if target.starts_with('/') { Err(ErrorCode::NotPermitted.into()) } else { Ok(target) }
    }

    async fn remove_directory_at(
        store: &Accessor<T, Self>,
        fd: Resource<Descriptor>,
        path: String,
    ) -> FilesystemResult<()> {
        at(store, &fd, |directory| directory.remove_directory(&path))
    }

    async fn rename_at(
        store: &Accessor<T, Self>,
        fd: Resource<Descriptor>,
        path: String,
        new_fd: Resource<Descriptor>,
        new_path: String,
    ) -> FilesystemResult<()> {
        between(store, (&fd, &new_fd), |from, to| from.rename(&path, to, &new_path))
    }

    async fn symlink_at(
        store: &Accessor<T, Self>,
        fd: Resource<Descriptor>,
        target: String,
        path: String,
    ) -> FilesystemResult<()> {
        at(store, &fd, |directory| directory.symlink(&target, &path))
    }

    async fn unlink_file_at(
        store: &Accessor<T, Self>,
        fd: Resource<Descriptor>,
        path: String,
    ) -> FilesystemResult<()> {
        at(store, &fd, |directory| directory.unlink(&path))
    }

    async fn is_same_object(
        store: &Accessor<T, Self>,
        a: Resource<Descriptor>,
        b: Resource<Descriptor>,
    ) -> wasmtime::Result<bool> {
        Ok(match (with(store, |view| view.facts(&a)), with(store, |view| view.facts(&b))) {
            (Ok(a), Ok(b)) => (a.device, a.inode) == (b.device, b.inode),
            _ => false,
        })
    }

    async fn metadata_hash(
        store: &Accessor<T, Self>,
        fd: Resource<Descriptor>,
    ) -> FilesystemResult<MetadataHashValue> {
        with(store, |view| Ok(hash_of(&view.facts(&fd)?)))
    }

    async fn metadata_hash_at(
        store: &Accessor<T, Self>,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
    ) -> FilesystemResult<MetadataHashValue> {
        at(store, &fd, |directory| directory.stat_at(&path, follow(path_flags))).map(|stat| hash_of(&stat))
    }
}

fn write<T: 'static>(
    mut store: Access<'_, T, FileSystem>,
    fd: &Resource<Descriptor>,
    mut data: StreamReader<u8>,
    position: Option<u64>,
) -> wasmtime::Result<Ended<ErrorCode>> {
    let file = match store.get().entry(fd)? {
        Handle::Directory { .. } => Err(ErrorCode::IsDirectory),
        Handle::File { file, .. } if !file.writable() => Err(ErrorCode::BadDescriptor),
        Handle::File { file, flags, open } => Ok((file.clone(), sync_of(*flags), open.clone())),
    };
    let (mut ending, ended) = Ending::new(&mut store)?;
    match file {
        Ok((file, sync, open)) => {
            let own = store.get().files.stdio.own(&file);
            data.pipe(&mut store, FileConsumer { file, own, position, sync, ending, _open: open })?;
        }
        Err(error) => {
            ending.fail(error);
            data.close(&mut store)?;
        }
    }
    Ok(ended)
}

pub(super) fn type_of(kind: FileKind) -> DescriptorType {
    match kind {
        FileKind::File => DescriptorType::RegularFile,
        FileKind::Directory => DescriptorType::Directory,
        FileKind::Symlink => DescriptorType::SymbolicLink,
        FileKind::Device => DescriptorType::CharacterDevice,
        FileKind::Other => DescriptorType::Other(None),
    }
}

/// The flags of the two versions, which have the same names.
const FLAGS: [(DescriptorFlags, Flags); 6] = [
    (DescriptorFlags::READ, Flags::READ),
    (DescriptorFlags::WRITE, Flags::WRITE),
    (DescriptorFlags::FILE_INTEGRITY_SYNC, Flags::FILE_INTEGRITY_SYNC),
    (DescriptorFlags::DATA_INTEGRITY_SYNC, Flags::DATA_INTEGRITY_SYNC),
    (DescriptorFlags::REQUESTED_WRITE_SYNC, Flags::REQUESTED_WRITE_SYNC),
    (DescriptorFlags::MUTATE_DIRECTORY, Flags::MUTATE_DIRECTORY),
];

fn kept(flags: DescriptorFlags) -> Flags {
    let set = FLAGS.iter().filter(|(flag, _)| flags.contains(*flag));
    set.fold(Flags::empty(), |all, (_, flag)| all | *flag)
}

fn shown(flags: Flags) -> DescriptorFlags {
    let set = FLAGS.iter().filter(|(_, flag)| flags.contains(*flag));
    set.fold(DescriptorFlags::empty(), |all, (flag, _)| all | *flag)
}

facts!(instant);

/// Seconds are counted from 1970 in both directions, nanoseconds always forward.
fn instant(time: SystemTime) -> Option<Instant> {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => {
            Some(Instant { seconds: i64::try_from(since.as_secs()).ok()?, nanoseconds: since.subsec_nanos() })
        }
        Err(before) => {
            let before = before.duration();
            let seconds = i64::try_from(before.as_secs()).ok()?.checked_neg()?;
            Some(match before.subsec_nanos() {
                0 => Instant { seconds, nanoseconds: 0 },
                nanos => Instant { seconds: seconds.checked_sub(1)?, nanoseconds: 1_000_000_000 - nanos },
            })
        }
    }
}

fn times(accessed: NewTimestamp, modified: NewTimestamp) -> Result<Times, ErrorCode> {
    Ok(Times { accessed: new_time(accessed)?, modified: new_time(modified)? })
}

fn new_time(time: NewTimestamp) -> Result<NewTime, ErrorCode> {
    match time {
        NewTimestamp::NoChange => Ok(NewTime::Keep),
        NewTimestamp::Now => Ok(NewTime::Now),
        NewTimestamp::Timestamp(instant) => system_time(instant).map(NewTime::At),
    }
}

fn system_time(Instant { seconds, nanoseconds }: Instant) -> Result<SystemTime, ErrorCode> {
    if nanoseconds >= 1_000_000_000 {
        return Err(ErrorCode::Invalid);
    }
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(whole)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(whole)
    };
    time.and_then(|time| time.checked_add(Duration::from_nanos(nanoseconds.into())))
        .ok_or(ErrorCode::Overflow)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_back_as_they_were() {
        for (seconds, nanoseconds) in [
            (0, 0),
            (0, 1),
            (1_700_000_000, 999_999_999),
            (-1, 0),
            (-1, 1),
            (-1, 999_999_999),
            (-2_000_000_000, 5),
        ] {
            let time = system_time(Instant { seconds, nanoseconds }).unwrap();
            let back = instant(time).unwrap();
            assert_eq!((back.seconds, back.nanoseconds), (seconds, nanoseconds));
        }
        assert!(matches!(
            system_time(Instant { seconds: 0, nanoseconds: 1_000_000_000 }),
            Err(ErrorCode::Invalid)
        ));
        for seconds in [i64::MIN, i64::MAX] {
            assert!(matches!(
                system_time(Instant { seconds, nanoseconds: 999_999_999 }),
                Err(ErrorCode::Overflow) | Ok(_)
            ));
        }
    }

    #[test]
    fn flags_keep_their_names() {
        for (flag, same) in FLAGS {
            assert!(kept(flag) == same && shown(same) == flag);
        }
    }
}
