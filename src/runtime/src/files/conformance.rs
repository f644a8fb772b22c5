//! What guests see of files through any door to them (0.1, 0.2, 0.3), over each kind of volume.
//!
//! A host of `wasi:filesystem` makes itself a [`Door`] and runs [`check`] over each of [`backends`], and
//! [`check_read_only`] over each of [`read_only`].

use std::sync::Arc;

use coracle_vfs::{MountOptions, Mounts, Volume};
use tempfile::TempDir;

/// A container's files as one version of WASI shows them. Paths are relative to the preopened root.
///
/// Errors are the names that 0.2 and 0.3 give them (`no-entry`); 0.1 has numbers for the same.
pub(crate) trait Door {
    /// What stands for an open file.
    type Handle;

    async fn open(&mut self, path: &str, how: How) -> Result<Self::Handle, String>;
    async fn close(&mut self, file: Self::Handle);
    /// Reads at most so many bytes from an offset.
    async fn read(&mut self, file: &Self::Handle, offset: u64, length: usize) -> Result<Vec<u8>, String>;
    /// Writes all, at an offset.
    async fn write(&mut self, file: &Self::Handle, offset: u64, data: &[u8]) -> Result<(), String>;
    /// Writes all at the end. The file was opened with [`How::append`].
    async fn append(&mut self, file: &Self::Handle, data: &[u8]) -> Result<(), String>;
    async fn set_size(&mut self, file: &Self::Handle, size: u64) -> Result<(), String>;
    async fn sync(&mut self, file: &Self::Handle) -> Result<(), String>;
    /// Says that all of it will be needed.
    async fn advise(&mut self, file: &Self::Handle) -> Result<(), String>;
    async fn stat(&mut self, file: &Self::Handle) -> Result<Seen, String>;
    async fn stat_at(&mut self, path: &str, follow: bool) -> Result<Seen, String>;
    /// Whole seconds since 1970.
    async fn set_modified(&mut self, path: &str, seconds: u64) -> Result<(), String>;
    /// Names and kinds, without `.` and `..`, in any order.
    async fn list(&mut self, path: &str) -> Result<Vec<(String, Kind)>, String>;
    async fn create_directory(&mut self, path: &str) -> Result<(), String>;
    async fn remove_directory(&mut self, path: &str) -> Result<(), String>;
    async fn unlink(&mut self, path: &str) -> Result<(), String>;
    async fn rename(&mut self, from: &str, to: &str) -> Result<(), String>;
    async fn link(&mut self, from: &str, to: &str) -> Result<(), String>;
    async fn symlink(&mut self, target: &str, path: &str) -> Result<(), String>;
    async fn read_link(&mut self, path: &str) -> Result<String, String>;
}

/// How a file is opened. To read, always.
#[derive(Clone, Copy, Default)]
pub(crate) struct How {
    pub(crate) write: bool,
    pub(crate) append: bool,
    pub(crate) create: bool,
    pub(crate) exclusive: bool,
    pub(crate) truncate: bool,
    pub(crate) directory: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    Device,
}

/// What `stat` says, and what tells files apart (device and inode, or their hash).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) kind: Kind,
    pub(crate) size: u64,
    pub(crate) links: u64,
    /// Whole seconds since 1970.
    pub(crate) modified: u64,
    pub(crate) identity: (u64, u64),
}

/// A view with the files of `/dev`.
pub(crate) fn devices() -> Mounts {
    let mut mounts = Mounts::new();
    mounts.add_devices().unwrap();
    mounts
}

/// The files of `/dev`. What is written to stdout and stderr is `out` and `err`, each once.
pub(crate) async fn check_devices<D: Door>(door: &mut D) {
    let writing = How { write: true, create: true, truncate: true, ..How::default() };
    for (name, expected) in [("null", &[][..]), ("zero", &[0; 8][..])] {
        let file = door.open(&format!("dev/{name}"), writing).await.unwrap();
        door.write(&file, 0, b"gone").await.unwrap();
        assert_eq!(door.read(&file, 1 << 40, 8).await.unwrap(), expected, "{name}");
        door.close(file).await;
    }
    let random = door.open("dev/urandom", How::default()).await.unwrap();
    assert_ne!(door.read(&random, 0, 32).await.unwrap(), door.read(&random, 0, 32).await.unwrap());
    door.close(random).await;
    door.symlink("dev/stderr", "log").await.unwrap();
    for (path, text) in [("dev/stdout", "out"), ("log", "err")] {
        let file = door.open(path, How { append: true, ..writing }).await.unwrap();
        door.append(&file, text.as_bytes()).await.unwrap();
        door.close(file).await;
    }
    assert_eq!(door.list("dev").await.unwrap().len(), 7);
    assert!(door.list("dev").await.unwrap().iter().all(|(_, kind)| *kind == Kind::Device));
}

/// A view to test, with an empty folder `v` in it that holds at most [`LIMIT`] bytes.
pub(crate) struct Backend {
    pub(crate) name: &'static str,
    pub(crate) mounts: Mounts,
    _folders: Arc<Vec<TempDir>>,
}

/// Bytes that a backend's volume holds.
pub(crate) const LIMIT: u64 = 1 << 20;

const READ: How =
    How { write: false, append: false, create: false, exclusive: false, truncate: false, directory: false };
const WRITE: How = How { write: true, ..READ };
const CREATE: How = How { create: true, ..WRITE };

/// Every kind of volume that can be written to.
pub(crate) fn backends() -> Vec<Backend> {
    let folders: Arc<Vec<TempDir>> = Arc::new((0..3).map(|_| tempfile::tempdir().unwrap()).collect());
    let backend = |name, mounts| Backend { name, mounts, _folders: Arc::clone(&folders) };
    let mounted = |name, volume: Volume| {
        let mut mounts = Mounts::new();
        mounts.add("/v", &volume, &MountOptions::default()).unwrap();
        backend(name, mounts)
    };
    let host = |at: usize| Volume::host(folders[at].path(), Some(LIMIT)).unwrap();
    std::fs::create_dir(folders[2].path().join("v")).unwrap();
    let image = Volume::image(folders[2].path()).unwrap();
    let over = Mounts::over(Volume::overlay(std::slice::from_ref(&image), &Volume::memory(Some(LIMIT))));
    let over_host = Mounts::over(Volume::overlay(&[image], &host(1)));
    vec![
        mounted("memory", Volume::memory(Some(LIMIT))),
        mounted("host", host(0)),
        backend("overlay with memory", over),
        backend("overlay with a host folder", over_host),
    ]
}

/// Views whose folder `v`, with `f` ("text"), `d` and `l` (a link to `f`) in it, cannot be written to.
pub(crate) fn read_only() -> Vec<Backend> {
    let folders = Arc::new(vec![tempfile::tempdir().unwrap()]);
    let folder = folders[0].path();
    std::fs::create_dir(folder.join("d")).unwrap();
    std::fs::write(folder.join("f"), "text").unwrap();
    std::os::unix::fs::symlink("f", folder.join("l")).unwrap();
    let memory = Volume::memory(None);
    memory.root().create_directory("d").unwrap();
    memory.root().write("f", b"text").unwrap();
    memory.root().symlink("f", "l").unwrap();
    let image = Volume::image(folder).unwrap();
    let over = Volume::overlay(std::slice::from_ref(&image), &Volume::memory(None));
    let volumes = [
        ("image", image),
        ("memory, read-only", memory),
        ("host, read-only", Volume::host(folder, None).unwrap()),
        ("overlay, read-only", over),
    ];
    let mounted = |(name, volume): (&'static str, Volume)| {
        let mut mounts = Mounts::new();
        mounts.add("/v", &volume, &MountOptions { read_only: name != "image", sub_path: None }).unwrap();
        Backend { name, mounts, _folders: Arc::clone(&folders) }
    };
    volumes.map(mounted).into()
}

#[track_caller]
fn fails<T: std::fmt::Debug>(result: Result<T, String>, expected: &str) {
    assert_eq!(result.expect_err("an error was due"), expected);
}

/// What a file holds.
async fn content<D: Door>(door: &mut D, path: &str) -> Result<String, String> {
    let file = door.open(path, READ).await?;
    let mut data = Vec::new();
    loop {
        let more = door.read(&file, data.len() as u64, 1 << 16).await?;
        if more.is_empty() {
            door.close(file).await;
            return Ok(String::from_utf8(data).unwrap());
        }
        data.extend(more);
    }
}

async fn make<D: Door>(door: &mut D, path: &str, text: &str) -> Result<(), String> {
    let file = door.open(path, How { truncate: true, ..CREATE }).await?;
    let result = door.write(&file, 0, text.as_bytes()).await;
    door.close(file).await;
    result
}

async fn names<D: Door>(door: &mut D, path: &str) -> Vec<String> {
    let mut names: Vec<String> = door.list(path).await.unwrap().into_iter().map(|(name, _)| name).collect();
    names.sort();
    names
}

/// The rules that hold for every volume; leaves it empty.
pub(crate) async fn check<D: Door>(door: &mut D) {
    flags(door).await;
    content_of_files(door).await;
    names_of_files(door).await;
    directories_are_no_files(door).await;
    odd_paths(door).await;
    links(door).await;
    limits(door).await;
    assert_eq!(names(door, "v").await, [""; 0]);
}

async fn flags<D: Door>(door: &mut D) {
    fails(door.open("v/f", READ).await.map(drop), "no-entry");
    make(door, "v/f", "hello").await.unwrap();
    fails(door.open("v/f", How { exclusive: true, ..CREATE }).await.map(drop), "exist");
    let file = door.open("v/f", CREATE).await.unwrap();
    assert_eq!(door.stat(&file).await.unwrap().size, 5, "creating leaves what is there");
    door.close(file).await;
    let file = door.open("v/f", How { truncate: true, ..WRITE }).await.unwrap();
    assert_eq!(door.stat(&file).await.unwrap().size, 0);
    door.close(file).await;
    let reader = door.open("v/f", READ).await.unwrap();
    fails(door.write(&reader, 0, b"x").await, "bad-descriptor");
    door.close(reader).await;
    fails(door.open("v/f", How { directory: true, ..READ }).await.map(drop), "not-directory");
    fails(door.open("v", WRITE).await.map(drop), "is-directory");
    fails(door.open("v/f/x", CREATE).await.map(drop), "not-directory");
    fails(door.open("v/none/x", CREATE).await.map(drop), "no-entry");
    fails(door.open("../f", READ).await.map(drop), "not-permitted");
    fails(door.open("v/../../f", READ).await.map(drop), "not-permitted");
    fails(door.open(&format!("v/{}", "n".repeat(256)), CREATE).await.map(drop), "name-too-long");
    let longest = format!("v/{}", "n".repeat(255));
    make(door, &longest, "").await.unwrap();
    door.unlink(&longest).await.unwrap();
    door.unlink("v/f").await.unwrap();
}

async fn content_of_files<D: Door>(door: &mut D) {
    let file = door.open("v/f", CREATE).await.unwrap();
    door.write(&file, 0, b"abcdef").await.unwrap();
    door.set_size(&file, 3).await.unwrap();
    door.set_size(&file, 6).await.unwrap();
    assert_eq!(content(door, "v/f").await.unwrap(), "abc\0\0\0", "what was cut does not come back");
    door.write(&file, 40_000, b"end").await.unwrap();
    assert_eq!(door.read(&file, 39_998, 10).await.unwrap(), b"\0\0end");
    assert_eq!(door.read(&file, 1 << 40, 10).await.unwrap(), b"");
    fails(door.write(&file, u64::MAX >> 1, b"x").await, "file-too-large");
    door.sync(&file).await.unwrap();

    let other = door.open("v/f", READ).await.unwrap();
    door.set_size(&file, 0).await.unwrap();
    door.write(&file, 0, b"seen").await.unwrap();
    assert_eq!(door.read(&other, 0, 10).await.unwrap(), b"seen", "at once, by who has it open");
    door.unlink("v/f").await.unwrap();
    door.write(&file, 4, b" on").await.unwrap();
    assert_eq!(door.read(&other, 0, 10).await.unwrap(), b"seen on", "also without a name");
    assert_eq!(door.stat(&other).await.unwrap().links, 0);
    door.close(file).await;
    door.close(other).await;

    let one = door.open("v/log", How { append: true, ..CREATE }).await.unwrap();
    let two = door.open("v/log", How { append: true, ..WRITE }).await.unwrap();
    door.append(&one, b"one,").await.unwrap();
    door.append(&two, b"two,").await.unwrap();
    door.append(&one, b"three").await.unwrap();
    assert_eq!(content(door, "v/log").await.unwrap(), "one,two,three");
    door.close(one).await;
    door.close(two).await;
    door.set_modified("v/log", 1_000_000_000).await.unwrap();
    assert_eq!(door.stat_at("v/log", true).await.unwrap().modified, 1_000_000_000);
    make(door, "v/log", "x").await.unwrap();
    assert!(door.stat_at("v/log", true).await.unwrap().modified > 1_000_000_000);
    door.unlink("v/log").await.unwrap();
}

async fn names_of_files<D: Door>(door: &mut D) {
    door.create_directory("v/d").await.unwrap();
    fails(door.create_directory("v/d").await, "exist");
    make(door, "v/d/f", "f").await.unwrap();
    fails(door.remove_directory("v/d").await, "not-empty");
    fails(door.remove_directory("v/d/f").await, "not-directory");
    fails(door.unlink("v/d").await, "is-directory");
    fails(door.rename("v/d", "v/d/x").await, "invalid");
    make(door, "v/g", "g").await.unwrap();
    let old = door.open("v/d/f", READ).await.unwrap();
    door.rename("v/g", "v/d/f").await.unwrap();
    assert_eq!(content(door, "v/d/f").await.unwrap(), "g");
    assert_eq!(door.read(&old, 0, 9).await.unwrap(), b"f", "who had the old one open keeps it");
    door.close(old).await;
    fails(door.rename("v/none", "v/x").await, "no-entry");
    fails(door.rename("v/d/f", "v/d").await, "not-empty");
    fails(door.rename("v/d", "v/d/f").await, "invalid");
    door.create_directory("v/e").await.unwrap();
    fails(door.rename("v/d/f", "v/e").await, "is-directory");
    door.rename("v/d", "v/e").await.unwrap();
    assert_eq!(content(door, "v/e/f").await.unwrap(), "g");
    assert_eq!(names(door, "v").await, ["e"]);
    door.unlink("v/e/f").await.unwrap();

    for n in 0..200 {
        make(door, &format!("v/e/{n}"), "").await.unwrap();
    }
    let mut listed = door.list("v/e").await.unwrap();
    assert!(listed.iter().all(|(_, kind)| *kind == Kind::File));
    listed.sort_by_key(|(name, _)| name.parse::<u32>().unwrap());
    assert!(listed.iter().map(|(name, _)| name.clone()).eq((0..200).map(|n| n.to_string())));
    for n in 0..200 {
        door.unlink(&format!("v/e/{n}")).await.unwrap();
    }
    door.remove_directory("v/e").await.unwrap();
    fails(door.remove_directory("v/e").await, "no-entry");
}

async fn directories_are_no_files<D: Door>(door: &mut D) {
    let file = door.open("v/f", CREATE).await.unwrap();
    door.advise(&file).await.unwrap();
    door.close(file).await;
    door.create_directory("v/d").await.unwrap();
    let directory = door.open("v/d", How { directory: true, ..READ }).await.unwrap();
    fails(door.read(&directory, 0, 9).await, "is-directory");
    fails(door.write(&directory, 0, b"x").await, "is-directory");
    fails(door.set_size(&directory, 0).await, "is-directory");
    fails(door.advise(&directory).await, "bad-descriptor");
    door.sync(&directory).await.unwrap();
    assert_eq!(door.stat(&directory).await.unwrap(), door.stat_at("v/d", true).await.unwrap());
    door.set_modified("v/d", 1_000_000_000).await.unwrap();
    assert_eq!(door.stat(&directory).await.unwrap().modified, 1_000_000_000);
    // Who has it open goes on after it is gone.
    door.remove_directory("v/d").await.unwrap();
    assert_eq!(door.stat(&directory).await.unwrap().kind, Kind::Directory);
    fails(door.stat_at("v/d", true).await, "no-entry");
    door.close(directory).await;
    door.unlink("v/f").await.unwrap();
}

async fn odd_paths<D: Door>(door: &mut D) {
    make(door, "v/f", "f").await.unwrap();
    let deep = format!("v/{}f", "./".repeat(2_100));
    for (path, expected) in [
        ("", "no-entry"),
        ("/v/f", "not-permitted"),
        ("v/f/", "not-directory"),
        ("v/f/.", "not-directory"),
        ("v/f/..", "not-directory"),
        ("v/\0", "illegal-byte-sequence"),
        (&deep, "name-too-long"),
    ] {
        fails(door.open(path, READ).await.map(drop), expected);
        fails(door.stat_at(path, true).await, expected);
        fails(door.unlink(path).await, expected);
    }
    for path in ["./v/f", "v/./f", "v//f", "v/../v/f"] {
        assert_eq!(content(door, path).await.unwrap(), "f", "{path}");
    }
    for path in ["v/", "v/.", "./v//"] {
        assert_eq!(door.stat_at(path, true).await.unwrap().kind, Kind::Directory, "{path}");
        fails(door.create_directory(path).await, "exist");
    }
    door.rename("v/f", "v/f").await.unwrap();
    door.rename("v/f", "v/ü€").await.unwrap();
    assert_eq!(names(door, "v").await, ["ü€"]);
    door.unlink("v/ü€").await.unwrap();
}

async fn links<D: Door>(door: &mut D) {
    door.create_directory("v/d").await.unwrap();
    make(door, "v/d/f", "text").await.unwrap();
    door.symlink("d/f", "v/l").await.unwrap();
    door.symlink("d", "v/to-d").await.unwrap();
    door.symlink("../../../../../../etc/hostname", "v/out").await.unwrap();
    assert_eq!(content(door, "v/l").await.unwrap(), "text");
    assert_eq!(content(door, "v/to-d/f").await.unwrap(), "text");
    assert_eq!(door.read_link("v/l").await.unwrap(), "d/f");
    assert_eq!(door.stat_at("v/l", false).await.unwrap().kind, Kind::Symlink);
    assert_eq!(door.stat_at("v/to-d", true).await.unwrap().kind, Kind::Directory);
    fails(door.open("v/out", READ).await.map(drop), "no-entry");
    fails(door.symlink("/etc/hostname", "v/absolute").await, "not-permitted");
    fails(door.read_link("v/d").await, "invalid");
    door.symlink("b", "v/a").await.unwrap();
    door.symlink("a", "v/b").await.unwrap();
    fails(door.open("v/a", READ).await.map(drop), "loop");

    door.link("v/d/f", "v/second").await.unwrap();
    let (first, second) =
        (door.stat_at("v/d/f", true).await.unwrap(), door.stat_at("v/second", true).await.unwrap());
    assert_eq!((first.links, first), (2, second));
    make(door, "v/second", "changed").await.unwrap();
    assert_eq!(content(door, "v/d/f").await.unwrap(), "changed");
    fails(door.link("v/d", "v/e").await, "not-permitted");
    fails(door.link("v/d/f", "v/second").await, "exist");
    for path in ["v/l", "v/to-d", "v/out", "v/a", "v/b", "v/second", "v/d/f"] {
        door.unlink(path).await.unwrap();
    }
    door.remove_directory("v/d").await.unwrap();
}

async fn limits<D: Door>(door: &mut D) {
    let file = door.open("v/f", CREATE).await.unwrap();
    let chunk = vec![1; 1 << 15];
    let mut offset = 0;
    let error = loop {
        match door.write(&file, offset, &chunk).await {
            Ok(()) => offset += chunk.len() as u64,
            Err(error) => break error,
        }
    };
    assert_eq!((error.as_str(), offset), ("insufficient-space", LIMIT));
    fails(make(door, "v/g", "x").await, "insufficient-space");
    door.write(&file, 0, &chunk).await.unwrap();
    door.close(file).await;
    door.unlink("v/f").await.unwrap();
    make(door, "v/g", "x").await.unwrap();
    door.unlink("v/g").await.unwrap();
}

/// The rules of what cannot be written to.
pub(crate) async fn check_read_only<D: Door>(door: &mut D) {
    assert_eq!(content(door, "v/l").await.unwrap(), "text");
    assert_eq!(names(door, "v").await, ["d", "f", "l"]);
    let file = door.open("v/f", READ).await.unwrap();
    fails(door.write(&file, 0, b"x").await, "bad-descriptor");
    door.sync(&file).await.unwrap();
    door.close(file).await;
    fails(door.open("v/f", WRITE).await.map(drop), "read-only");
    fails(door.open("v/f", How { truncate: true, ..WRITE }).await.map(drop), "read-only");
    fails(door.open("v/new", CREATE).await.map(drop), "read-only");
    fails(door.create_directory("v/new").await, "read-only");
    fails(door.remove_directory("v/d").await, "read-only");
    fails(door.unlink("v/f").await, "read-only");
    fails(door.rename("v/f", "v/g").await, "read-only");
    fails(door.link("v/f", "v/g").await, "read-only");
    fails(door.symlink("f", "v/m").await, "read-only");
    fails(door.set_modified("v/f", 1).await, "read-only");
}
