//! `fd_*`: what is done with one descriptor.

use std::time::{Duration, SystemTime};

use coracle_vfs::{Directory, File, FileKind, NewTime, Stat, Times};

use super::Guest;
use super::abi::{
    Errno, FileType, Filestat, PREOPEN_DIRECTORY, PREOPEN_LISTENER, Result, Snapshot, Whence, fdflags,
    fstflags, rights,
};
use super::table::{Kind, OpenDirectory};
use crate::files::on_disk;
use crate::limits::CHUNK;

/// Kinds of advice that there are.
const ADVICES: u32 = 6;

impl Guest<'_> {
    /// Advice may be ignored, and is.
    pub(super) fn fd_advise(&mut self, fd: u32, _offset: u64, _length: u64, advice: u32) -> Result<()> {
        if advice >= ADVICES {
            return Err(Errno::Inval);
        }
        self.file(fd, rights::FD_ADVISE).map(drop)
    }

    pub(super) fn fd_allocate(&mut self, fd: u32, offset: u64, length: u64) -> Result<()> {
        let (file, _) = self.file(fd, rights::FD_ALLOCATE)?;
        Ok(on_disk(file.blocking(), || file.reserve(offset, length))?)
    }

    pub(super) fn fd_close(&mut self, fd: u32) -> Result<()> {
        self.preview1.table.close(fd)
    }

    pub(super) fn fd_datasync(&mut self, fd: u32) -> Result<()> {
        self.make_durable(fd, rights::FD_DATASYNC, true)
    }

    pub(super) fn fd_sync(&mut self, fd: u32) -> Result<()> {
        self.make_durable(fd, rights::FD_SYNC, false)
    }

    fn make_durable(&mut self, fd: u32, right: u64, data_only: bool) -> Result<()> {
        let descriptor = self.preview1.table.get(fd)?;
        descriptor.may(right)?;
        match &descriptor.kind {
            Kind::File { file, .. } => on_disk(file.blocking(), || file.sync(data_only))?,
            Kind::Directory(OpenDirectory { directory, .. }) => {
                on_disk(directory.blocking(), || directory.sync())?;
            }
            _ => return Err(Errno::Inval),
        }
        Ok(())
    }

    pub(super) fn fd_fdstat_get(&mut self, fd: u32, result_at: u32) -> Result<()> {
        let descriptor = self.preview1.table.get_mut(fd)?;
        descriptor.seen();
        let mut stat = [0; 24];
        stat[0] = descriptor.file_type() as u8;
        stat[2..4].copy_from_slice(&descriptor.flags.to_le_bytes());
        stat[8..16].copy_from_slice(&descriptor.base.to_le_bytes());
        stat[16..].copy_from_slice(&descriptor.inheriting.to_le_bytes());
        self.memory.put(result_at, &stat)
    }

    pub(super) fn fd_fdstat_set_flags(&mut self, fd: u32, flags: u32) -> Result<()> {
        let flags = fd_flags(flags)?;
        let descriptor = self.preview1.table.get_mut(fd)?;
        descriptor.may(rights::FD_FDSTAT_SET_FLAGS)?;
        descriptor.flags = flags;
        descriptor.seen();
        Ok(())
    }

    /// Rights can only be given up.
    pub(super) fn fd_fdstat_set_rights(&mut self, fd: u32, base: u64, inheriting: u64) -> Result<()> {
        let descriptor = self.preview1.table.get_mut(fd)?;
        if base & !descriptor.base != 0 || inheriting & !descriptor.inheriting != 0 {
            return Err(Errno::NotCapable);
        }
        (descriptor.base, descriptor.inheriting) = (base, inheriting);
        Ok(())
    }

    pub(super) fn fd_filestat_get(&mut self, snapshot: Snapshot, fd: u32, result_at: u32) -> Result<()> {
        let descriptor = self.preview1.table.get(fd)?;
        descriptor.may(rights::FD_FILESTAT_GET)?;
        let stat = match &descriptor.kind {
            Kind::File { file, .. } => Filestat::from(&on_disk(file.blocking(), || file.stat())?),
            Kind::Directory(OpenDirectory { directory, .. }) => {
                Filestat::from(&on_disk(directory.blocking(), || directory.stat())?)
            }
            _ => Filestat::of(descriptor.file_type()),
        };
        self.put_filestat(snapshot, result_at, &stat)
    }

    pub(super) fn put_filestat(&mut self, snapshot: Snapshot, at: u32, stat: &Filestat) -> Result<()> {
        let (bytes, length) = snapshot.filestat(stat);
        self.memory.put(at, &bytes[..length])
    }

    pub(super) fn fd_filestat_set_size(&mut self, fd: u32, size: u64) -> Result<()> {
        let (file, _) = self.file(fd, rights::FD_FILESTAT_SET_SIZE)?;
        Ok(on_disk(file.blocking(), || file.set_size(size))?)
    }

    pub(super) fn fd_filestat_set_times(
        &mut self,
        fd: u32,
        accessed: u64,
        modified: u64,
        which: u32,
    ) -> Result<()> {
        let times = new_times(accessed, modified, which)?;
        let descriptor = self.preview1.table.get(fd)?;
        descriptor.may(rights::FD_FILESTAT_SET_TIMES)?;
        match &descriptor.kind {
            Kind::File { file, .. } => on_disk(file.blocking(), || file.set_times(times))?,
            Kind::Directory(OpenDirectory { directory, .. }) => {
                on_disk(directory.blocking(), || directory.set_times(times))?;
            }
            _ => return Err(Errno::NotSup),
        }
        Ok(())
    }

    pub(super) fn fd_pread(
        &mut self,
        fd: u32,
        list: u32,
        count: u32,
        offset: u64,
        result_at: u32,
    ) -> Result<()> {
        self.at_offset(fd, rights::FD_READ, result_at, |guest, file, _| {
            guest.read_file(file, offset, list, count)
        })
    }

    pub(super) fn fd_pwrite(
        &mut self,
        fd: u32,
        list: u32,
        count: u32,
        offset: u64,
        result_at: u32,
    ) -> Result<()> {
        self.at_offset(fd, rights::FD_WRITE, result_at, |guest, file, flags| {
            guest.write_file(file, Some(offset), flags, list, count)
        })
    }

    /// Moves bytes of a file that has offsets, and says how many.
    fn at_offset(
        &mut self,
        fd: u32,
        right: u64,
        result_at: u32,
        transfer: impl FnOnce(&mut Self, &File, u16) -> Result<usize>,
    ) -> Result<()> {
        self.memory.check(result_at, 4)?;
        let (file, flags) = self.file(fd, right | rights::FD_SEEK)?;
        let moved = transfer(self, &file, flags)?;
        self.put_count(result_at, moved)
    }

    /// What is a directory says its name. What is a listener says only that it is something else.
    pub(super) fn fd_prestat_get(&mut self, fd: u32, result_at: u32) -> Result<()> {
        let (tag, length) = match &self.preview1.table.get(fd)?.kind {
            Kind::Directory(OpenDirectory { preopened: Some(name), .. }) => {
                (PREOPEN_DIRECTORY, name.len() as u8)
            }
            Kind::Listener { .. } => (PREOPEN_LISTENER, 0),
            _ => return Err(Errno::Badf),
        };
        self.memory.put(result_at, &[tag, 0, 0, 0, length, 0, 0, 0])
    }

    pub(super) fn fd_prestat_dir_name(&mut self, fd: u32, name: u32, length: u32) -> Result<()> {
        let own = match &self.preview1.table.get(fd)?.kind {
            Kind::Directory(OpenDirectory { preopened: Some(own), .. }) => *own,
            Kind::Listener { .. } => return Err(Errno::NotDir),
            _ => return Err(Errno::Badf),
        };
        if (length as usize) < own.len() {
            return Err(Errno::NameTooLong);
        }
        self.memory.put(name, own.as_bytes())
    }

    pub(super) fn fd_read(&mut self, fd: u32, list: u32, count: u32, result_at: u32) -> Result<()> {
        self.memory.check(result_at, 4)?;
        let descriptor = self.preview1.table.get_mut(fd)?;
        descriptor.may(rights::FD_READ)?;
        let read = match &mut descriptor.kind {
            Kind::Input { input, .. } => {
                self.memory.transfer(list, count, 0, |part| input.read_into(part).ok_or(Errno::Again))?
            }
            Kind::File { file, position } => {
                let (file, position) = (file.clone(), *position);
                let read = self.read_file(&file, position, list, count)?;
                self.advance(fd, position + read as u64);
                read
            }
            Kind::Stream(stream) => self.memory.transfer(list, count, 0, |part| stream.read(part))?,
            Kind::Output { .. } | Kind::Directory(_) | Kind::Listener { .. } => return Err(Errno::Badf),
        };
        self.put_count(result_at, read)
    }

    pub(super) fn fd_write(&mut self, fd: u32, list: u32, count: u32, result_at: u32) -> Result<()> {
        self.memory.check(result_at, 4)?;
        let descriptor = self.preview1.table.get_mut(fd)?;
        descriptor.may(rights::FD_WRITE)?;
        let written = match &mut descriptor.kind {
            Kind::Output { output, .. } => self.memory.transfer(list, count, 0, |part| {
                let part = &part[..part.len().min(output.room()).min(CHUNK)];
                if part.is_empty() {
                    return Err(Errno::Again);
                }
                output.write(part);
                Ok(part.len())
            })?,
            Kind::File { file, position } => {
                let (file, position, flags) = (file.clone(), *position, descriptor.flags);
                let position = (flags & fdflags::APPEND == 0).then_some(position);
                let written = self.write_file(&file, position, flags, list, count)?;
                let end = match position {
                    Some(position) => position + written as u64,
                    None => on_disk(file.blocking(), || file.stat())?.size,
                };
                self.advance(fd, end);
                written
            }
            Kind::Stream(stream) => self.memory.transfer(list, count, 0, |part| stream.write(part))?,
            Kind::Input { .. } | Kind::Directory(_) | Kind::Listener { .. } => return Err(Errno::Badf),
        };
        self.put_count(result_at, written)
    }

    pub(super) fn fd_renumber(&mut self, from: u32, to: u32) -> Result<()> {
        self.preview1.table.renumber(from, to)
    }

    pub(super) fn fd_seek(&mut self, fd: u32, offset: i64, whence: Whence, result_at: u32) -> Result<()> {
        self.memory.check(result_at, 8)?;
        let descriptor = self.preview1.table.get_mut(fd)?;
        let only_tells = offset == 0 && whence == Whence::Current;
        descriptor.may(if only_tells { rights::FD_TELL } else { rights::FD_SEEK })?;
        let Kind::File { file, position } = &mut descriptor.kind else { return Err(Errno::Spipe) };
        let from = match whence {
            Whence::Start => 0,
            Whence::Current => *position,
            Whence::End => on_disk(file.blocking(), || file.stat())?.size,
        };
        let to = from.checked_add_signed(offset).filter(|to| i64::try_from(*to).is_ok());
        *position = to.ok_or(Errno::Inval)?;
        let position = *position;
        self.memory.put_u64(result_at, position)
    }

    pub(super) fn fd_tell(&mut self, fd: u32, result_at: u32) -> Result<()> {
        let descriptor = self.preview1.table.get(fd)?;
        descriptor.may(rights::FD_TELL)?;
        let Kind::File { position, .. } = descriptor.kind else { return Err(Errno::Spipe) };
        self.memory.put_u64(result_at, position)
    }

    /// An open file and its flags, if it may be used for this.
    fn file(&self, fd: u32, right: u64) -> Result<(File, u16)> {
        let descriptor = self.preview1.table.get(fd)?;
        descriptor.may(right)?;
        match &descriptor.kind {
            Kind::File { file, .. } => Ok((file.clone(), descriptor.flags)),
            Kind::Directory(_) => Err(Errno::IsDir),
            _ => Err(Errno::Spipe),
        }
    }

    /// An open directory, if it may be used for this.
    pub(super) fn directory(&self, fd: u32, right: u64) -> Result<Directory> {
        let descriptor = self.preview1.table.get(fd)?;
        descriptor.may(right)?;
        match &descriptor.kind {
            Kind::Directory(OpenDirectory { directory, .. }) => Ok(directory.clone()),
            _ => Err(Errno::NotDir),
        }
    }

    /// Reads right into the guest's buffers.
    fn read_file(&mut self, file: &File, offset: u64, list: u32, count: u32) -> Result<usize> {
        let mut at = offset;
        on_disk(file.blocking(), || {
            self.memory.transfer(list, count, 0, |part| {
                let read = file.read_at(at, part)?;
                at = at.saturating_add(read as u64);
                Ok(read)
            })
        })
    }

    /// Writes right from the guest's buffers; without an offset at the end.
    fn write_file(
        &mut self,
        file: &File,
        offset: Option<u64>,
        flags: u16,
        list: u32,
        count: u32,
    ) -> Result<usize> {
        let mut at = offset;
        on_disk(file.blocking(), || {
            let written = self.memory.transfer(list, count, 0, |part| match &mut at {
                None => Ok(file.append(part)?),
                Some(at) => {
                    let written = file.write_at(*at, part)?;
                    *at = at.saturating_add(written as u64);
                    Ok(written)
                }
            })?;
            if flags & (fdflags::SYNC | fdflags::RSYNC) != 0 {
                file.sync(false)?;
            } else if flags & fdflags::DSYNC != 0 {
                file.sync(true)?;
            }
            Ok(written)
        })
    }

    fn advance(&mut self, fd: u32, to: u64) {
        if let Ok(descriptor) = self.preview1.table.get_mut(fd)
            && let Kind::File { position, .. } = &mut descriptor.kind
        {
            *position = to;
        }
    }

    pub(super) fn put_count(&mut self, at: u32, count: usize) -> Result<()> {
        self.memory.put_u32(at, u32::try_from(count).map_err(|_| Errno::Overflow)?)
    }
}

/// Flags that a descriptor can have.
pub(super) fn fd_flags(flags: u32) -> Result<u16> {
    u16::try_from(flags).ok().filter(|flags| flags & !fdflags::ALL == 0).ok_or(Errno::Inval)
}

/// Times to set, from nanoseconds since 1970.
pub(super) fn new_times(accessed: u64, modified: u64, which: u32) -> Result<Times> {
    let new = |time: u64, at: u32, now: u32| match (which & at != 0, which & now != 0) {
        (false, false) => Ok(NewTime::Keep),
        (true, false) => SystemTime::UNIX_EPOCH
            .checked_add(Duration::from_nanos(time))
            .map(NewTime::At)
            .ok_or(Errno::Overflow),
        (false, true) => Ok(NewTime::Now),
        (true, true) => Err(Errno::Inval),
    };
    if which & !(fstflags::ATIM | fstflags::ATIM_NOW | fstflags::MTIM | fstflags::MTIM_NOW) != 0 {
        return Err(Errno::Inval);
    }
    Ok(Times {
        accessed: new(accessed, fstflags::ATIM, fstflags::ATIM_NOW)?,
        modified: new(modified, fstflags::MTIM, fstflags::MTIM_NOW)?,
    })
}

impl From<&Stat> for Filestat {
    fn from(stat: &Stat) -> Filestat {
        Filestat {
            device: stat.device,
            inode: stat.inode,
            file_type: stat.kind.into(),
            links: stat.links,
            size: stat.size,
            accessed: nanoseconds(stat.accessed),
            modified: nanoseconds(stat.modified),
            changed: nanoseconds(stat.changed),
        }
    }
}

impl From<FileKind> for FileType {
    fn from(kind: FileKind) -> FileType {
        match kind {
            FileKind::File => FileType::RegularFile,
            FileKind::Directory => FileType::Directory,
            FileKind::Symlink => FileType::SymbolicLink,
            FileKind::Device => FileType::CharacterDevice,
            FileKind::Other => FileType::Unknown,
        }
    }
}

/// 0.1 has no times before 1970, and none after 2554.
pub(super) fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
