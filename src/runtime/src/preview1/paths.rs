//! `path_*`: what is done by name, relative to an open directory.

use coracle_vfs::{Directory, OpenOptions, Opened, VfsError};

use super::Guest;
use super::abi::{Errno, Filestat, Result, SYMLINK_FOLLOW, Snapshot, oflags, rights};
use super::files::{fd_flags, new_times};
use super::table::{Descriptor, Kind, OpenDirectory};
use crate::files::on_disk;
use crate::stdio::Own;

impl Guest<'_> {
    pub(super) fn path_create_directory(&mut self, fd: u32, path: u32, length: u32) -> Result<()> {
        self.by_name(fd, rights::PATH_CREATE_DIRECTORY, path, length, |directory, path| {
            directory.create_directory(path)
        })
    }

    pub(super) fn path_filestat_get(
        &mut self,
        snapshot: Snapshot,
        fd: u32,
        lookup: u32,
        path: u32,
        length: u32,
        result_at: u32,
    ) -> Result<()> {
        let follow = follows(lookup)?;
        let stat = self.by_name(fd, rights::PATH_FILESTAT_GET, path, length, |directory, path| {
            directory.stat_at(path, follow)
        })?;
        self.put_filestat(snapshot, result_at, &Filestat::from(&stat))
    }

    #[expect(clippy::too_many_arguments, reason = "the interface has that many")]
    pub(super) fn path_filestat_set_times(
        &mut self,
        fd: u32,
        lookup: u32,
        path: u32,
        length: u32,
        accessed: u64,
        modified: u64,
        which: u32,
    ) -> Result<()> {
        let (follow, times) = (follows(lookup)?, new_times(accessed, modified, which)?);
        self.by_name(fd, rights::PATH_FILESTAT_SET_TIMES, path, length, |directory, path| {
            directory.set_times_at(path, follow, times)
        })
    }

    #[expect(clippy::too_many_arguments, reason = "the interface has that many")]
    pub(super) fn path_link(
        &mut self,
        fd: u32,
        lookup: u32,
        path: u32,
        length: u32,
        new_fd: u32,
        new_path: u32,
        new_length: u32,
    ) -> Result<()> {
        let follow = follows(lookup)?;
        let to = self.directory(new_fd, rights::PATH_LINK_TARGET)?;
        let new_path = self.memory.path(new_path, new_length)?;
        self.by_name(fd, rights::PATH_LINK_SOURCE, path, length, |from, path| {
            from.link(path, follow, &to, new_path)
        })
    }

    #[expect(clippy::too_many_arguments, reason = "the interface has that many")]
    pub(super) fn path_open(
        &mut self,
        fd: u32,
        lookup: u32,
        path: u32,
        length: u32,
        how: u32,
        base: u64,
        _inheriting: u64,
        flags: u32,
        result_at: u32,
    ) -> Result<()> {
        self.memory.check(result_at, 4)?;
        let (follow, flags) = (follows(lookup)?, fd_flags(flags)?);
        if how & !(oflags::CREAT | oflags::DIRECTORY | oflags::EXCL | oflags::TRUNC) != 0 {
            return Err(Errno::Inval);
        }
        let parent = self.preview1.table.get(fd)?;
        parent.may(rights::PATH_OPEN)?;
        let handed_down = parent.inheriting;
        // Programs ask for more rights than they need, or for none at all, so those that are asked for decide
        // only between reading and writing.
        let options = OpenOptions {
            read: base & (rights::FD_READ | rights::FD_READDIR) != 0,
            write: base & rights::FD_WRITE != 0,
            create: how & oflags::CREAT != 0,
            exclusive: how & oflags::EXCL != 0,
            truncate: how & oflags::TRUNC != 0,
            directory: how & oflags::DIRECTORY != 0,
            follow,
        };
        let mut right = rights::PATH_OPEN;
        right |= if options.create { rights::PATH_CREATE_FILE } else { 0 };
        right |= if options.truncate { rights::PATH_FILESTAT_SET_SIZE } else { 0 };
        self.preview1.table.check_room()?;
        let opened =
            self.by_name(fd, right, path, length, |directory, path| directory.open(path, options))?;
        let kind = match opened {
            Opened::File(file) => {
                let stdio = &self.preview1.stdio;
                match stdio.own(&file) {
                    Some(Own::Input(input)) if file.readable() => {
                        Kind::Input { input, terminal: stdio.terminal }
                    }
                    Some(Own::Output(output)) if file.writable() => {
                        Kind::Output { output, terminal: stdio.terminal, opened: true }
                    }
                    _ => Kind::File { file, position: 0 },
                }
            }
            Opened::Directory(directory) => {
                Kind::Directory(OpenDirectory { directory, preopened: None, listing: None })
            }
        };
        let mut descriptor = Descriptor::new(kind, flags);
        // What a directory's holder gave up, nothing opened in it has.
        descriptor.base &= handed_down;
        descriptor.inheriting &= handed_down;
        let new = self.preview1.table.push(descriptor)?;
        self.memory.put_u32(result_at, new)
    }

    /// A target that is longer than the room for it is cut, as `readlink(2)` does.
    pub(super) fn path_readlink(
        &mut self,
        fd: u32,
        path: u32,
        length: u32,
        buffer: u32,
        room: u32,
        used_at: u32,
    ) -> Result<()> {
        let target = self
            .by_name(fd, rights::PATH_READLINK, path, length, |directory, path| directory.read_link(path))?;
        let out = self.memory.bytes_mut(buffer, room)?;
        let used = target.len().min(out.len());
        out[..used].copy_from_slice(&target.as_bytes()[..used]);
        self.put_count(used_at, used)
    }

    pub(super) fn path_remove_directory(&mut self, fd: u32, path: u32, length: u32) -> Result<()> {
        self.by_name(fd, rights::PATH_REMOVE_DIRECTORY, path, length, |directory, path| {
            directory.remove_directory(path)
        })
    }

    pub(super) fn path_rename(
        &mut self,
        fd: u32,
        path: u32,
        length: u32,
        new_fd: u32,
        new_path: u32,
        new_length: u32,
    ) -> Result<()> {
        let to = self.directory(new_fd, rights::PATH_RENAME_TARGET)?;
        let new_path = self.memory.path(new_path, new_length)?;
        self.by_name(fd, rights::PATH_RENAME_SOURCE, path, length, |from, path| {
            from.rename(path, &to, new_path)
        })
    }

    pub(super) fn path_symlink(
        &mut self,
        target: u32,
        target_length: u32,
        fd: u32,
        path: u32,
        length: u32,
    ) -> Result<()> {
        let target = self.memory.path(target, target_length)?;
        self.by_name(fd, rights::PATH_SYMLINK, path, length, |directory, path| {
            directory.symlink(target, path)
        })
    }

    pub(super) fn path_unlink_file(&mut self, fd: u32, path: u32, length: u32) -> Result<()> {
        self.by_name(fd, rights::PATH_UNLINK_FILE, path, length, |directory, path| directory.unlink(path))
    }

    /// Does something with a directory and a path, on this thread.
    fn by_name<T>(
        &self,
        fd: u32,
        right: u64,
        path: u32,
        length: u32,
        operation: impl FnOnce(&Directory, &str) -> std::result::Result<T, VfsError>,
    ) -> Result<T> {
        let directory = self.directory(fd, right)?;
        let path = self.memory.path(path, length)?;
        Ok(on_disk(directory.paths_block(), || operation(&directory, path))?)
    }
}

fn follows(lookup: u32) -> Result<bool> {
    if lookup & !SYMLINK_FOLLOW != 0 {
        return Err(Errno::Inval);
    }
    Ok(lookup & SYMLINK_FOLLOW != 0)
}
