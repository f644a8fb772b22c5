//! What is special about folders of the host: names that guests cannot say, large files, images.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::handles::Handles;
use super::image::{ITEM_BYTES, ImageTree};
use crate::testing::{CREATE, READ, WRITE, fails, names};
use crate::tree::Tree;
use crate::{Directory, FileKind, MountOptions, Mounts, OpenOptions, PodShare, VfsError, Volume};

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

/// By procfs a guest could read and write this process's memory: neither as a volume, nor from one that it lies in.
#[test]
fn the_kernel_s_own_files_are_not_shown() {
    for path in ["/proc", "/proc/self", "/proc/sys", "/sys", "/sys/kernel"] {
        let refused = Volume::host(std::path::Path::new(path), None).map(|_| ());
        assert!(matches!(refused, Err(VfsError::NotPermitted | VfsError::NoEntry)), "{path}: {refused:?}");
    }
    assert!(matches!(Volume::host("/proc/self".as_ref(), None), Err(VfsError::NotPermitted)));
    let root = Volume::host("/".as_ref(), None).unwrap().root();
    fails(root.open("proc/self/mem", READ), "Access");
    fails(root.open_directory("proc"), "Access");
    assert!(names(&root).contains(&"proc".to_owned()), "the name itself is the folder's");
}

#[test]
fn a_hidden_folder_is_found_by_no_name() {
    let host = tempfile::tempdir().unwrap();
    let (own, above) = (host.path().join("a/own"), host.path().join("a"));
    std::fs::create_dir_all(own.join("keys")).unwrap();
    std::fs::write(own.join("secret"), "x").unwrap();
    std::os::unix::fs::symlink("own/secret", above.join("link")).unwrap();
    std::os::unix::fs::symlink(&own, host.path().join("way")).unwrap();
    let open = |dir: &std::path::Path| Volume::host_without(&PodShare::new(None), dir, &own);
    for inside in [own.clone(), own.join("keys"), host.path().join("way"), host.path().join("way/keys")] {
        assert!(matches!(open(&inside), Err(VfsError::Access)), "{}", inside.display());
    }
    let root = open(&above).unwrap().root();
    fails(root.read("link", 9), "Access");
    fails(root.read("own/secret", 9), "Access");
    fails(root.rename("own/secret", &root, "out"), "Access");
    std::fs::rename(&own, above.join("other")).unwrap();
    fails(root.open_directory("other"), "Access");
    std::fs::create_dir(&own).unwrap();
    assert!(root.open_directory("own").is_ok(), "by what it is, not by its name");
}

/// Some hundred names of the longest are told a page at a time, and what is told is not held.
#[test]
fn listings_of_long_names_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let volume = Volume::host(folder.path(), None).unwrap();
    let root = volume.root();
    let mut expected = Vec::new();
    for n in 0..100 {
        expected.push(format!("{n:0255}"));
        root.create_directory(&expected[n]).unwrap();
    }
    let mut seen = names(&root);
    seen.sort();
    assert_eq!(seen, expected);
    assert!(root.listing_bytes() < 5_000);
}

/// A pod has a part of the disk's names, in however many volumes, and no byte to write for it.
#[test]
fn names_on_disk_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let share = PodShare::new(None);
    let volume = Volume::scratch_for(&share, folder.path(), None).unwrap();
    share.disk.bound_entries(1);
    let root = volume.root();
    let made = (0..2_000).take_while(|n| root.create_directory(&n.to_string()).is_ok()).count();
    assert_eq!(made, 1_024, "any pod may have so many");
    fails(root.create_directory("one"), "NoSpace");
    root.remove_directory("7").unwrap();
    root.create_directory("one").unwrap();
}

/// What is remembered of an image's names is bounded; beyond that its folders are read each time, and look the same.
#[test]
fn folders_of_an_image_need_not_be_remembered() {
    let folder = tempfile::tempdir().unwrap();
    for n in 0..50 {
        std::fs::write(folder.path().join(format!("{n:03}")), n.to_string()).unwrap();
    }
    std::fs::create_dir(folder.path().join("small")).unwrap();
    std::fs::write(folder.path().join("small/file"), "below").unwrap();
    std::os::unix::fs::symlink("small/file", folder.path().join("link")).unwrap();
    let tree = ImageTree::remembering(folder.path(), Handles::default(), 2_000).unwrap();
    let tree: Arc<dyn Tree> = Arc::new(tree);
    let root = Directory::of_tree(&tree);
    assert_eq!(names(&root).len(), 52);
    assert_eq!(
        (root.read("049", 9).unwrap(), root.read("link", 9).unwrap()),
        (b"49".to_vec(), b"below".to_vec())
    );
    fails(root.stat_at("050", true), "NoEntry");
    fails(root.open("049/x", READ), "NotDirectory");
    let inode = |path: &str| root.stat_at(path, false).unwrap().inode;
    assert_eq!((inode("007"), inode("small/file")), (inode("007"), inode("small/../small/file")));
    assert_eq!(names(&root.open_directory("small").unwrap()), ["file"]);
    // Each folder that there is room for is remembered.
    std::fs::write(folder.path().join("051"), "").unwrap();
    std::fs::write(folder.path().join("small/new"), "").unwrap();
    assert!(root.stat_at("051", true).is_ok());
    drop((root, tree));
    let whole = Volume::image(folder.path()).unwrap().root();
    assert_eq!(names(&whole).len(), 53);
}

/// Names may be short where they are deep.
#[test]
fn the_path_of_a_folder_counts_with_its_names() {
    #[track_caller]
    fn check(room: usize, remembered: bool) {
        let folder = tempfile::tempdir().unwrap();
        let long = "x".repeat(200);
        let deep = folder.path().join(&long);
        std::fs::create_dir(&deep).unwrap();
        std::fs::write(deep.join("a"), "").unwrap();
        let tree: Arc<dyn Tree> =
            Arc::new(ImageTree::remembering(folder.path(), Handles::default(), room).unwrap());
        let root = Directory::of_tree(&tree);
        assert_eq!(names(&root.open_directory(&long).unwrap()), ["a"]);
        std::fs::write(deep.join("b"), "").unwrap();
        assert_eq!(root.stat_at(&format!("{long}/b"), true).is_err(), remembered);
    }
    let names = ITEM_BYTES + 200 + ITEM_BYTES + 1;
    check(names + 200, true);
    check(names + 199, false);
}
