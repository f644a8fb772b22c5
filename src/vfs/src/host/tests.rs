//! What is special about folders of the host: names that guests cannot say, large files, images.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use crate::testing::{CREATE, READ, WRITE, fails, names};
use crate::{FileKind, MountOptions, Mounts, OpenOptions, PodShare, VfsError, Volume};

/// They are left out: WASI's strings cannot say them, and an escape would be a name that is there twice.
#[test]
fn names_that_are_not_utf_8_are_not_seen() {
    let folder = tempfile::tempdir().unwrap();
    let bad = OsStr::from_bytes(b"caf\xe9");
    std::fs::create_dir(folder.path().join("d")).unwrap();
    std::fs::write(folder.path().join("d").join(bad), "latin 1").unwrap();
    std::os::unix::fs::symlink(bad, folder.path().join("d/link")).unwrap();
    std::fs::write(folder.path().join("d/good"), "").unwrap();
    let (host, limited) = (Volume::host(folder.path(), None), Volume::host(folder.path(), Some(1 << 20)));
    assert_eq!(limited.as_ref().unwrap().usage().bytes, 7, "they count all the same");
    for volume in [host.unwrap(), limited.unwrap(), Volume::image(folder.path()).unwrap()] {
        let dir = volume.root().open_directory("d").unwrap();
        assert_eq!(names(&dir), ["good", "link"]);
        let error = dir.read("link", 9).unwrap_err();
        assert!(matches!(error, VfsError::IllegalByteSequence | VfsError::Access), "{error}");
    }
    let root = Volume::host(folder.path(), None).unwrap().root();
    root.unlink("d/good").unwrap();
    root.unlink("d/link").unwrap();
    fails(root.remove_directory("d"), "NotEmpty");
    root.rename("d", &root, "e").unwrap();
    assert!(folder.path().join("e").join(bad).exists());
}

#[test]
fn large_files_are_sparse_on_disk_too() {
    let folder = tempfile::tempdir().unwrap();
    let volume = Volume::host(folder.path(), None).unwrap();
    let file = volume.root().open_file("f", CREATE).unwrap();
    let end: u64 = 4 << 30;
    file.set_size(end).unwrap();
    file.write_at(end - 3, b"end").unwrap();
    let mut buffer = [7; 6];
    file.read_at(end - 6, &mut buffer).unwrap();
    assert_eq!(&buffer, b"\0\0\0end");
    drop(file);
    let limited = Volume::host(folder.path(), Some(1 << 20)).unwrap();
    assert_eq!(limited.usage().bytes, end, "a file counts with its length");
    let file = limited.root().open_file("f", CREATE).unwrap();
    fails(file.set_size(end + 1), "NoSpace");
    fails(file.append(b"x"), "NoSpace");
    file.set_size(0).unwrap();
    assert_eq!(limited.usage().bytes, 0);
}

/// Blocks are taken, not only a length; and no more than the volume, or the pod, may have.
#[test]
fn what_is_reserved_is_taken_from_the_disk() {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().unwrap();
    let share = PodShare::new(Some(3 << 20));
    let unlimited = Volume::host(folder.path(), None).unwrap();
    let blocks = || folder.path().join("f").metadata().unwrap().blocks() * 512;
    let file = unlimited.root().open_file("f", CREATE).unwrap();
    file.set_size(1 << 20).unwrap();
    assert_eq!(blocks(), 0);
    file.reserve(0, 1 << 20).unwrap();
    assert!(blocks() >= 1 << 20);
    drop(file);
    let scratch = Volume::scratch_for(&share, folder.path(), None).unwrap();
    let file = scratch.root().open_file("f", WRITE).unwrap();
    fails(file.reserve(0, (3 << 20) + 1), "NoSpace");
    file.reserve(1 << 20, 2 << 20).unwrap();
    assert_eq!((share.usage().bytes, file.stat().unwrap().size), (3 << 20, 3 << 20));
    fails(file.append(b"x"), "NoSpace");
}

/// Guests nest folders deeper than a path, or the open files of a process, can go; they are counted all the same.
#[test]
fn what_is_nested_deep_is_measured() {
    use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, unlinkat};
    const DEEP: usize = 2 * crate::DEPTH_MAX as usize;
    let folder = tempfile::tempdir().unwrap();
    let open = |dir: &std::fs::File, name: &str| {
        std::fs::File::from(openat(dir, name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap())
    };
    let mut here = std::fs::File::open(folder.path()).unwrap();
    for _ in 0..DEEP {
        mkdirat(&here, "d", Mode::RWXU).unwrap();
        here = open(&here, "d");
    }
    let flags = OFlags::WRONLY | OFlags::CREATE;
    std::fs::File::from(openat(&here, "f", flags, Mode::RWXU).unwrap()).set_len(5).unwrap();
    std::fs::write(folder.path().join("g"), "xx").unwrap();
    let usage = Volume::host(folder.path(), Some(1 << 30)).unwrap().usage();
    assert_eq!((usage.bytes, usage.entries), (7, DEEP as u64 + 2));
    unlinkat(&here, "f", AtFlags::empty()).unwrap();
    for _ in 0..DEEP {
        here = open(&here, "..");
        unlinkat(&here, "d", AtFlags::REMOVEDIR).unwrap();
    }
}

#[test]
fn the_scratch_volumes_of_a_pod_have_a_limit_together() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let share = PodShare::new(Some(100));
    let create = OpenOptions { write: true, create: true, ..READ };
    let make = |index: usize, limit| Volume::scratch_for(&share, folders[index].path(), limit).unwrap();
    let write = |volume: &Volume, bytes: usize| {
        volume.root().open_file("f", create).unwrap().write_at(0, &vec![b'x'; bytes])
    };
    let (first, second) = (make(0, None), make(1, Some(50)));
    assert_eq!(write(&first, 60).unwrap(), 60);
    assert_eq!(write(&second, 50).unwrap(), 40, "what is left of the pod's");
    assert_eq!(write(&first, 61).unwrap(), 60, "nothing more");
    assert_eq!((first.usage().bytes, second.usage().bytes), (60, 40));
    assert_eq!((share.usage().bytes, share.usage().entries), (100, 2));
    fails(second.root().open_file("f", create).unwrap().set_size(41), "NoSpace");
    first.root().unlink("f").unwrap();
    assert_eq!(write(&second, 70).unwrap(), 50, "its own limit holds as well");
    assert_eq!(write(&first, 70).unwrap(), 50);
    // What is there already counts even beyond the limit, and once however often it is opened anew.
    drop(first);
    let other = PodShare::new(Some(10));
    assert_eq!((share.usage().bytes, share.usage().entries), (50, 1));
    let again = Volume::scratch_for(&other, folders[0].path(), None).unwrap();
    assert_eq!((other.usage().bytes, again.usage().limit), (50, None));
    fails(again.root().write("g", b"x"), "NoSpace");
    drop((second, again));
    assert_eq!([share.usage(), other.usage()].map(|usage| (usage.bytes, usage.entries)), [(0, 0); 2]);
}

/// A folder as an image has it, and its volume.
fn image() -> (tempfile::TempDir, Volume) {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    std::fs::create_dir_all(at("usr/lib")).unwrap();
    std::fs::create_dir(at("etc")).unwrap();
    std::fs::write(at("usr/lib/module"), "code").unwrap();
    std::fs::write(at("etc/config"), "text").unwrap();
    std::os::unix::fs::symlink("usr/lib", at("lib")).unwrap();
    std::os::unix::fs::symlink("/etc/config", at("usr/absolute")).unwrap();
    std::os::unix::fs::symlink("/../../../../../../../../etc/hostname", at("usr/escape")).unwrap();
    let volume = Volume::image(folder.path()).unwrap();
    (folder, volume)
}

#[test]
fn images_are_read() {
    let (folder, volume) = image();
    let root = volume.root();
    assert_eq!(names(&root), ["etc", "lib", "usr"]);
    assert_eq!(root.read("lib/module", 9).unwrap(), b"code");
    assert_eq!(root.read("usr/absolute", 9).unwrap(), b"text", "absolute links start at the image");
    fails(root.read("usr/escape", 9), "NoEntry");
    assert_eq!(root.read_link("usr/absolute").unwrap(), "/etc/config");
    let stat = root.stat_at("etc/config", true).unwrap();
    assert_eq!((stat.kind, stat.size, stat.links), (FileKind::File, 4, 1));
    assert_eq!(root.stat_at("lib", false).unwrap().kind, FileKind::Symlink);
    let file = root.open_file("etc/config", READ).unwrap();
    assert_eq!((file.stat().unwrap(), file.readable()), (stat, true));
    file.sync(false).unwrap();
    root.sync().unwrap();
    fails(root.read("etc/none", 9), "NoEntry");
    fails(root.read("etc/config/x", 9), "NotDirectory");
    fails(root.read("etc", 9), "IsDirectory");
    fails(Volume::image(&folder.path().join("etc/config")), "NotDirectory");
    fails(Volume::image(&folder.path().join("none")), "NoEntry");
    assert_eq!(volume.usage().bytes, 0);

    let mut mounts = Mounts::new();
    let options = MountOptions { read_only: true, sub_path: Some("usr".into()) };
    mounts.add("/u", &volume, &options).unwrap();
    assert_eq!(mounts.root().read("u/lib/module", 9).unwrap(), b"code");
    fails(mounts.root().read("u/absolute", 9), "NoEntry");
    let options = MountOptions { read_only: true, sub_path: Some("missing".into()) };
    fails(mounts.add("/v", &volume, &options), "ReadOnly");
}

#[test]
fn images_are_not_written_to() {
    let (_folder, volume) = image();
    let root = volume.root();
    fails(root.write("etc/config", b"x"), "ReadOnly");
    fails(root.write("new", b"x"), "ReadOnly");
    fails(root.open("etc/config", OpenOptions { truncate: true, ..READ }), "ReadOnly");
    fails(root.create_directory("d"), "ReadOnly");
    fails(root.remove_directory("etc"), "ReadOnly");
    fails(root.unlink("etc/config"), "ReadOnly");
    fails(root.rename("etc/config", &root, "c"), "ReadOnly");
    fails(root.link("etc/config", false, &root, "c"), "ReadOnly");
    fails(root.symlink("x", "l"), "ReadOnly");
    fails(root.set_times_at("etc/config", true, crate::Times::default()), "ReadOnly");
    let file = root.open_file("etc/config", READ).unwrap();
    fails(file.set_times(crate::Times::default()), "ReadOnly");
    fails(root.create_directory("etc"), "Exists");
}

/// What was read of a folder is there for all volumes of it, but none uses up another's handles.
#[test]
fn images_are_shared() {
    let (folder, volume) = image();
    let other = Volume::image(folder.path()).unwrap();
    let node = |volume: &Volume| volume.root().open_directory("usr/lib").unwrap().place.node.inner.clone();
    assert!(Arc::ptr_eq(&node(&volume), &node(&other)));
    assert_ne!(
        volume.root().stat_at("usr", true).unwrap().device,
        other.root().stat_at("usr", true).unwrap().device
    );
    let mut held = Vec::new();
    while let Ok(file) = volume.root().open_file("etc/config", READ) {
        held.push(file);
    }
    assert!(held.len() >= 512);
    assert_eq!(other.root().read("etc/config", 9).unwrap(), b"text");
    assert_eq!(
        names(&volume.root().open_directory("usr/lib").unwrap()),
        ["module"],
        "folders are no handles"
    );
}
