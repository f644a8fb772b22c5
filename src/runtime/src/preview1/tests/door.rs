//! The files of 0.1 by the suite that all versions pass: its functions, called as the linker calls them, on a memory
//! of the test.

use coracle_vfs::Mounts;

use crate::container::Cpu;
use crate::files::conformance::{
    Door, How, Kind as Seems, Seen, backends, check, check_devices, check_read_only, devices, read_only,
};
use crate::preview1::abi::{
    DIRENT_BYTES, Errno, FileType, Result, SYMLINK_FOLLOW, Snapshot, fdflags, fstflags, oflags, rights,
};
use crate::preview1::memory::GuestMemory;
use crate::preview1::readdir::Progress;
use crate::preview1::{Guest, Listeners, Preview1};
use crate::run::Control;
use crate::sockets::Sockets;
use crate::stdio::Stdio;
use crate::tests::{Bench, Capture};

#[tokio::test]
async fn volumes_are_the_same_through_0_1() {
    let bench = Bench::new();
    for backend in backends() {
        println!("{}", backend.name);
        let mut door = Door1::new(&bench, &backend.mounts);
        check(&mut door).await;
        door.all_closed();
    }
    for backend in read_only() {
        println!("{}", backend.name);
        check_read_only(&mut Door1::new(&bench, &backend.mounts)).await;
    }
}

#[tokio::test]
async fn devices_are_the_same_through_0_1() {
    let mut door = Door1::new(&Bench::new(), &devices());
    let log = std::sync::Arc::new(Capture::default());
    door.preview1.stdio = Stdio::to(&log);
    check_devices(&mut door).await;
    assert_eq!(log.text(), "outerr");
    door.create_directory("v").await.unwrap();
    door.all_closed();
}

/// Where things lie in the memory: results, a list of one buffer, two paths, data.
const RESULT: u32 = 0;
const LIST: u32 = 128;
const PATH: u32 = 1 << 12;
const OTHER: u32 = 1 << 13;
const DATA: u32 = 1 << 16;
const DATA_BYTES: u32 = 1 << 17;

struct Door1 {
    memory: Vec<u8>,
    preview1: Preview1,
    sockets: Sockets,
}

/// The preopened directory.
const ROOT: u32 = 3;

impl Door1 {
    fn new(bench: &Bench, mounts: &Mounts) -> Door1 {
        let mut spec = bench.spec(&std::sync::Arc::new(Capture::default()));
        spec.mounts = mounts.clone();
        let share = bench.runtime.executor.share(Cpu::default());
        let control = std::sync::Arc::new(Control::new("door".into(), &spec.stdin, share, 0));
        let preview1 = Preview1::new(&mut spec, Listeners::default(), &control);
        let sockets = Sockets::new(spec.network, &control);
        Door1 { memory: vec![0; (DATA + DATA_BYTES) as usize], preview1, sockets }
    }

    fn guest(&mut self) -> Guest<'_> {
        let memory = GuestMemory(&mut self.memory);
        Guest { memory, preview1: &mut self.preview1, sockets: &self.sockets }
    }

    /// Puts a path where it is looked for, and gives its length.
    fn put(&mut self, at: u32, path: &str) -> u32 {
        self.guest().memory.put(at, path.as_bytes()).unwrap();
        path.len() as u32
    }

    /// A list of one buffer, of so many bytes.
    fn list(&mut self, length: usize) -> u32 {
        let length = (length as u32).min(DATA_BYTES);
        let mut guest = self.guest();
        guest.memory.put_u32(LIST, DATA).unwrap();
        guest.memory.put_u32(LIST + 4, length).unwrap();
        length
    }

    fn result(&mut self) -> u32 {
        self.guest().memory.u32(RESULT).unwrap()
    }

    fn filestat(&mut self) -> Seen {
        let guest = self.guest();
        let at = |offset: u32| guest.memory.u64(RESULT + offset).unwrap();
        Seen {
            kind: seems(guest.memory.u8(RESULT + 16).unwrap()),
            size: at(32),
            links: at(24),
            modified: at(48) / 1_000_000_000,
            identity: (at(8), at(0)),
        }
    }

    /// The lowest free number is that after the root.
    fn all_closed(mut self) {
        let path = self.put(PATH, "v");
        let opened =
            self.guest().path_open(ROOT, 0, PATH, path, oflags::DIRECTORY, rights::FD_READDIR, 0, 0, RESULT);
        assert_eq!((opened, self.result()), (Ok(()), ROOT + 1));
    }
}

fn seems(file_type: u8) -> Seems {
    [
        (FileType::RegularFile, Seems::File),
        (FileType::Directory, Seems::Directory),
        (FileType::SymbolicLink, Seems::Symlink),
        (FileType::CharacterDevice, Seems::Device),
    ]
    .into_iter()
    .find_map(|(known, seems)| (known as u8 == file_type).then_some(seems))
    .expect("one of these")
}

fn lookup(follow: bool) -> u32 {
    if follow { SYMLINK_FOLLOW } else { 0 }
}

/// The name that the later versions give an error.
fn said<T>(result: Result<T>) -> std::result::Result<T, String> {
    result.map_err(|errno| {
        let word = match errno {
            Errno::Badf => "bad-descriptor",
            Errno::Exist => "exist",
            Errno::Fbig => "file-too-large",
            Errno::Ilseq => "illegal-byte-sequence",
            Errno::Inval => "invalid",
            Errno::IsDir => "is-directory",
            Errno::Loop => "loop",
            Errno::NameTooLong => "name-too-long",
            Errno::NoEnt => "no-entry",
            Errno::NoSpc => "insufficient-space",
            Errno::NotDir => "not-directory",
            Errno::NotEmpty => "not-empty",
            Errno::Perm => "not-permitted",
            Errno::RoFs => "read-only",
            other => return format!("{other:?}"),
        };
        word.to_owned()
    })
}

type Said<T> = std::result::Result<T, String>;

impl Door for Door1 {
    type Handle = u32;

    async fn open(&mut self, path: &str, how: How) -> Said<u32> {
        let length = self.put(PATH, path);
        let mut open = 0;
        for (wanted, flag) in [
            (how.create, oflags::CREAT),
            (how.exclusive, oflags::EXCL),
            (how.truncate, oflags::TRUNC),
            (how.directory, oflags::DIRECTORY),
        ] {
            open |= if wanted { flag } else { 0 };
        }
        let base = rights::FD_READ | rights::FD_READDIR | if how.write { rights::FD_WRITE } else { 0 };
        let flags = if how.append { fdflags::APPEND } else { 0 };
        let opened =
            self.guest().path_open(ROOT, SYMLINK_FOLLOW, PATH, length, open, base, 0, flags.into(), RESULT);
        said(opened)?;
        Ok(self.result())
    }

    async fn close(&mut self, file: u32) {
        self.guest().fd_close(file).unwrap();
    }

    async fn read(&mut self, file: &u32, offset: u64, length: usize) -> Said<Vec<u8>> {
        self.list(length);
        said(self.guest().fd_pread(*file, LIST, 1, offset, RESULT))?;
        let read = self.result();
        Ok(self.guest().memory.bytes(DATA, read).unwrap().to_vec())
    }

    async fn write(&mut self, file: &u32, offset: u64, mut data: &[u8]) -> Said<()> {
        let mut offset = offset;
        while !data.is_empty() {
            let length = self.list(data.len()) as usize;
            self.guest().memory.put(DATA, &data[..length]).unwrap();
            said(self.guest().fd_pwrite(*file, LIST, 1, offset, RESULT))?;
            let written = self.result();
            offset += u64::from(written);
            data = &data[written as usize..];
        }
        Ok(())
    }

    async fn append(&mut self, file: &u32, data: &[u8]) -> Said<()> {
        let length = self.list(data.len());
        self.guest().memory.put(DATA, data).unwrap();
        said(self.guest().fd_write(*file, LIST, 1, RESULT))?;
        assert_eq!(self.result(), length);
        Ok(())
    }

    async fn set_size(&mut self, file: &u32, size: u64) -> Said<()> {
        said(self.guest().fd_filestat_set_size(*file, size))
    }

    async fn sync(&mut self, file: &u32) -> Said<()> {
        said(self.guest().fd_datasync(*file))?;
        said(self.guest().fd_sync(*file))
    }

    async fn advise(&mut self, file: &u32) -> Said<()> {
        const WILL_NEED: u32 = 3;
        said(self.guest().fd_advise(*file, 0, u64::MAX, WILL_NEED))
    }

    async fn stat(&mut self, file: &u32) -> Said<Seen> {
        said(self.guest().fd_filestat_get(Snapshot::One, *file, RESULT))?;
        Ok(self.filestat())
    }

    async fn stat_at(&mut self, path: &str, follow: bool) -> Said<Seen> {
        let length = self.put(PATH, path);
        said(self.guest().path_filestat_get(Snapshot::One, ROOT, lookup(follow), PATH, length, RESULT))?;
        Ok(self.filestat())
    }

    async fn set_modified(&mut self, path: &str, seconds: u64) -> Said<()> {
        let length = self.put(PATH, path);
        let (time, which) = (seconds * 1_000_000_000, fstflags::MTIM);
        said(self.guest().path_filestat_set_times(ROOT, SYMLINK_FOLLOW, PATH, length, 0, time, which))
    }

    async fn list(&mut self, path: &str) -> Said<Vec<(String, Seems)>> {
        // Room for a few, so that the listing takes many calls.
        const ROOM: u32 = 4 * (DIRENT_BYTES as u32 + 255);
        let fd = self.open(path, How { directory: true, ..How::default() }).await?;
        let (mut found, mut cookie) = (Vec::new(), 0);
        loop {
            let mut progress = Progress::from(cookie);
            while !said(self.guest().fd_readdir((fd, DATA, ROOM, cookie, RESULT), &mut progress))? {}
            let used = self.result();
            let bytes = self.guest().memory.bytes(DATA, used).unwrap().to_vec();
            let mut rest = &bytes[..];
            // The last one may be cut; then it is read again.
            while let Some((head, tail)) = rest.split_at_checked(DIRENT_BYTES) {
                let length = u32::from_le_bytes(head[16..20].try_into().unwrap()) as usize;
                let Some((name, tail)) = tail.split_at_checked(length) else { break };
                cookie = u64::from_le_bytes(head[..8].try_into().unwrap());
                let name = String::from_utf8(name.to_vec()).unwrap();
                if name != "." && name != ".." {
                    found.push((name, seems(head[20])));
                }
                rest = tail;
            }
            if used < ROOM {
                break;
            }
        }
        self.close(fd).await;
        Ok(found)
    }

    async fn create_directory(&mut self, path: &str) -> Said<()> {
        let length = self.put(PATH, path);
        said(self.guest().path_create_directory(ROOT, PATH, length))
    }

    async fn remove_directory(&mut self, path: &str) -> Said<()> {
        let length = self.put(PATH, path);
        said(self.guest().path_remove_directory(ROOT, PATH, length))
    }

    async fn unlink(&mut self, path: &str) -> Said<()> {
        let length = self.put(PATH, path);
        said(self.guest().path_unlink_file(ROOT, PATH, length))
    }

    async fn rename(&mut self, from: &str, to: &str) -> Said<()> {
        let (from, to) = (self.put(PATH, from), self.put(OTHER, to));
        said(self.guest().path_rename(ROOT, PATH, from, ROOT, OTHER, to))
    }

    async fn link(&mut self, from: &str, to: &str) -> Said<()> {
        let (from, to) = (self.put(PATH, from), self.put(OTHER, to));
        said(self.guest().path_link(ROOT, 0, PATH, from, ROOT, OTHER, to))
    }

    async fn symlink(&mut self, target: &str, path: &str) -> Said<()> {
        let (target, path) = (self.put(OTHER, target), self.put(PATH, path));
        said(self.guest().path_symlink(OTHER, target, ROOT, PATH, path))
    }

    async fn read_link(&mut self, path: &str) -> Said<String> {
        let length = self.put(PATH, path);
        said(self.guest().path_readlink(ROOT, PATH, length, DATA, DATA_BYTES, RESULT))?;
        let used = self.result();
        Ok(String::from_utf8(self.guest().memory.bytes(DATA, used).unwrap().to_vec()).unwrap())
    }
}
