//! The descriptors of a program: small numbers, the lowest free one first, each with what it stands for.

use std::sync::Arc;
use std::task::{Context, Poll};

use coracle_network::TcpListener;
use coracle_vfs::{Directory, File};

use super::abi::{Errno, FileType, Result, fdflags, rights};
use super::readdir::Listing;
use crate::limits::OPEN_FILES;
use crate::output::Output;
use crate::sockets::{Connection, Place};
use crate::stdin::Input;

/// Something open.
pub(super) struct Descriptor {
    pub(super) kind: Kind,
    /// `fdflags`.
    pub(super) flags: u16,
    /// What may be done with it.
    pub(super) base: u64,
    /// What may be done with what is opened in it.
    pub(super) inheriting: u64,
}

/// What a descriptor stands for.
pub(super) enum Kind {
    Input {
        input: Input,
        terminal: bool,
    },
    /// `opened` by the guest, by its name in `/dev`.
    Output {
        output: Arc<dyn Output>,
        terminal: bool,
        opened: bool,
    },
    File {
        file: File,
        position: u64,
    },
    Directory(OpenDirectory),
    /// `unseen` until the guest asks or says how it behaves. It says that it does not block, so that Go waits for it
    /// together with others; but who accepts and never asked, as simple programs in C and Rust do, waits.
    Listener {
        listener: TcpListener,
        unseen: bool,
    },
    Stream(Box<OpenStream>),
}

pub(super) struct OpenDirectory {
    pub(super) directory: Directory,
    /// Its name, if the guest found it here and did not open it.
    pub(super) preopened: Option<&'static str>,
    pub(super) listing: Option<Box<Listing>>,
}

/// A connection.
pub(super) struct OpenStream {
    pub(super) connection: Connection,
    /// What was looked at and not taken.
    pub(super) peeked: bytes::Bytes,
    pub(super) _place: Place,
}

/// Which way a program waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Read,
    Write,
}

impl Descriptor {
    pub(super) fn new(kind: Kind, flags: u16) -> Descriptor {
        let base = match &kind {
            Kind::Input { .. } => rights::INPUT,
            Kind::Output { .. } => rights::OUTPUT,
            Kind::File { file, .. } => {
                let reading = if file.readable() { 0 } else { rights::FD_READ };
                let writing = if file.writable() { 0 } else { rights::WRITING };
                rights::FILE & !reading & !writing
            }
            Kind::Directory(_) => rights::DIRECTORY,
            Kind::Listener { .. } => rights::LISTENER,
            Kind::Stream(_) => rights::STREAM,
        };
        let inheriting = match &kind {
            Kind::Directory(_) => rights::INHERITING,
            Kind::Listener { .. } => rights::STREAM,
            _ => 0,
        };
        Descriptor { kind, flags, base, inheriting }
    }

    pub(super) fn file_type(&self) -> FileType {
        match &self.kind {
            Kind::Input { terminal: true, .. } | Kind::Output { terminal: true, .. } => {
                FileType::CharacterDevice
            }
            Kind::Input { .. } | Kind::Output { .. } => FileType::Unknown,
            Kind::File { file, .. } if file.device().is_some() => FileType::CharacterDevice,
            Kind::File { .. } => FileType::RegularFile,
            Kind::Directory(_) => FileType::Directory,
            Kind::Listener { .. } | Kind::Stream(_) => FileType::SocketStream,
        }
    }

    pub(super) fn nonblocking(&self) -> bool {
        self.flags & fdflags::NONBLOCK != 0
    }

    /// Whether an operation waits.
    pub(super) fn blocks(&self) -> bool {
        matches!(self.kind, Kind::Listener { unseen: true, .. }) || !self.nonblocking()
    }

    /// The guest knows now how it behaves.
    pub(super) fn seen(&mut self) {
        if let Kind::Listener { unseen, .. } = &mut self.kind {
            *unseen = false;
        }
    }

    /// Whether it may be used for this. What was never open for reading or writing is `EBADF`, as everywhere;
    /// what the guest gave up is `ENOTCAPABLE`.
    pub(super) fn may(&self, right: u64) -> Result<()> {
        if self.base & right == right {
            return Ok(());
        }
        let of = |rights: u64| right & rights != 0;
        Err(match &self.kind {
            Kind::Directory(_) if of(rights::FD_READ | rights::WRITING) => Errno::IsDir,
            Kind::Directory(_) if of(rights::FD_SEEK | rights::FD_TELL | rights::FD_ADVISE) => Errno::Badf,
            Kind::Directory(_) => Errno::NotCapable,
            _ if of(rights::DIRECTORY & !rights::FILE) => Errno::NotDir,
            Kind::File { .. } if of(rights::FD_READ | rights::WRITING) => Errno::Badf,
            Kind::File { .. } => Errno::NotCapable,
            _ if of(rights::FD_SEEK | rights::FD_TELL) => Errno::Spipe,
            _ if of(rights::FD_READ | rights::FD_WRITE) => Errno::Badf,
            _ => Errno::NotCapable,
        })
    }

    /// Ready when an operation would not have to wait, or would fail.
    pub(super) fn poll(&self, direction: Direction, cx: &mut Context<'_>) -> Poll<()> {
        match (&self.kind, direction) {
            (Kind::Input { input, .. }, Direction::Read) => input.poll_readable(cx),
            (Kind::Output { output, .. }, Direction::Write) => output.poll_room(cx),
            (Kind::Listener { listener, .. }, Direction::Read) => listener.poll_acceptable(cx),
            (Kind::Stream(stream), Direction::Read) if stream.peeked.is_empty() => {
                stream.connection.stream().poll_readable(cx)
            }
            (Kind::Stream(stream), Direction::Write) => stream.connection.stream().poll_writable(cx),
            _ => Poll::Ready(()),
        }
    }

    /// Whether a program can open as many of these as it likes but for [`OPEN_FILES`].
    fn is_counted(&self) -> bool {
        matches!(
            self.kind,
            Kind::File { .. } | Kind::Directory(_) | Kind::Input { .. } | Kind::Output { opened: true, .. }
        )
    }
}

/// All descriptors. There are at most [`OPEN_FILES`] files, directories and what is read like stdin; connections have
/// a bound of their own (their [`Place`]), and nothing else can be opened.
#[derive(Default)]
pub(super) struct Table {
    entries: Vec<Option<Descriptor>>,
    files: usize,
    /// No number below this one is free.
    full_below: usize,
}

impl Table {
    pub(super) fn get(&self, fd: u32) -> Result<&Descriptor> {
        self.entries.get(fd as usize).and_then(Option::as_ref).ok_or(Errno::Badf)
    }

    pub(super) fn get_mut(&mut self, fd: u32) -> Result<&mut Descriptor> {
        self.entries.get_mut(fd as usize).and_then(Option::as_mut).ok_or(Errno::Badf)
    }

    /// Whether one more file may be opened.
    pub(super) fn check_room(&self) -> Result<()> {
        if self.files < OPEN_FILES { Ok(()) } else { Err(Errno::Mfile) }
    }

    /// Gives a descriptor the lowest free number.
    pub(super) fn push(&mut self, descriptor: Descriptor) -> Result<u32> {
        if descriptor.is_counted() {
            self.check_room()?;
            self.files += 1;
        }
        let free = self.entries[self.full_below..].iter().position(Option::is_none);
        let fd = match free {
            Some(offset) => self.full_below + offset,
            None => {
                self.entries.push(None);
                self.entries.len() - 1
            }
        };
        self.entries[fd] = Some(descriptor);
        self.full_below = fd + 1;
        u32::try_from(fd).map_err(|_| Errno::Mfile)
    }

    pub(super) fn close(&mut self, fd: u32) -> Result<()> {
        self.take(fd).map(drop)
    }

    /// Puts `from` in the place of `to`, which is closed.
    pub(super) fn renumber(&mut self, from: u32, to: u32) -> Result<()> {
        self.get(to)?;
        if from == to {
            return Ok(());
        }
        let descriptor = self.take(from)?;
        let file = descriptor.is_counted();
        drop(self.take(to)?);
        self.files += usize::from(file);
        self.entries[to as usize] = Some(descriptor);
        Ok(())
    }

    fn take(&mut self, fd: u32) -> Result<Descriptor> {
        let descriptor = self.entries.get_mut(fd as usize).and_then(Option::take).ok_or(Errno::Badf)?;
        self.files -= usize::from(descriptor.is_counted());
        self.full_below = self.full_below.min(fd as usize);
        Ok(descriptor)
    }
}

#[cfg(test)]
mod tests {
    use coracle_vfs::{Mounts, OpenOptions};

    use super::*;

    fn directory() -> Descriptor {
        let directory = OpenDirectory { directory: Mounts::new().root(), preopened: None, listing: None };
        Descriptor::new(Kind::Directory(directory), 0)
    }

    fn file(read: bool, write: bool) -> Descriptor {
        let options = OpenOptions { read, write, create: true, ..OpenOptions::default() };
        let file = Mounts::new().root().open_file("f", options).unwrap();
        Descriptor::new(Kind::File { file, position: 0 }, 0)
    }

    #[test]
    fn numbers_are_the_lowest_that_are_free() {
        let mut table = Table::default();
        for expected in 0..5 {
            assert_eq!(table.push(directory()), Ok(expected));
        }
        table.close(3).unwrap();
        table.close(1).unwrap();
        assert_eq!(table.close(1), Err(Errno::Badf));
        assert_eq!(table.push(directory()), Ok(1));
        assert_eq!(table.push(directory()), Ok(3));
        assert_eq!(table.push(directory()), Ok(5));
        table.renumber(2, 5).unwrap();
        assert_eq!(table.renumber(2, 5), Err(Errno::Badf));
        assert_eq!(table.renumber(5, 2), Err(Errno::Badf), "only in the place of one that is open");
        assert_eq!(table.renumber(5, u32::MAX), Err(Errno::Badf));
        assert_eq!(table.push(directory()), Ok(2));
        table.renumber(2, 2).unwrap();
        assert!(table.get(2).is_ok());
    }

    #[test]
    fn files_are_bounded_and_come_back() {
        let mut table = Table::default();
        for _ in 0..OPEN_FILES {
            table.push(directory()).unwrap();
        }
        assert_eq!(table.push(directory()), Err(Errno::Mfile));
        table.renumber(0, 7).unwrap();
        assert_eq!(table.push(directory()), Ok(0));
        assert_eq!(table.push(directory()), Err(Errno::Mfile));
        for fd in 0..OPEN_FILES as u32 {
            table.close(fd).unwrap();
        }
        assert_eq!(table.files, 0);
        assert_eq!(table.push(directory()), Ok(0));
    }

    #[test]
    fn what_may_not_be_done_says_why() {
        #[track_caller]
        fn check(descriptor: &Descriptor, right: u64, expected: Result<()>) {
            assert_eq!(descriptor.may(right), expected);
        }
        check(&directory(), rights::FD_READDIR, Ok(()));
        check(&directory(), rights::FD_READ, Err(Errno::IsDir));
        check(&directory(), rights::FD_WRITE, Err(Errno::IsDir));
        check(&directory(), rights::FD_FILESTAT_SET_SIZE, Err(Errno::IsDir));
        check(&directory(), rights::FD_SEEK, Err(Errno::Badf));
        check(&file(true, false), rights::FD_READ, Ok(()));
        check(&file(true, false), rights::FD_WRITE, Err(Errno::Badf));
        check(&file(true, false), rights::FD_FILESTAT_SET_SIZE, Err(Errno::Badf));
        check(&file(false, true), rights::FD_READ, Err(Errno::Badf));
        check(&file(false, true), rights::FD_SEEK | rights::FD_WRITE, Ok(()));
        check(&file(true, true), rights::PATH_OPEN, Err(Errno::NotDir));
        check(&file(true, true), rights::FD_READDIR, Err(Errno::NotDir));
        let mut given_up = file(true, true);
        given_up.base = 0;
        check(&given_up, rights::FD_SEEK, Err(Errno::NotCapable));
        let mut given_up = directory();
        given_up.base = 0;
        check(&given_up, rights::PATH_OPEN, Err(Errno::NotCapable));
    }
}
