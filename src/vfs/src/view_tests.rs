//! How views are put together, and what projected volumes promise.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::testing::{fails, names};
use crate::{
    Directory, FileKind, MountOptions, Mounts, OpenOptions, ProjectedFile, ROOT_LIMIT, VfsError, Volume,
};

fn mount(mounts: &mut Mounts, path: &str, volume: &Volume) {
    mounts.add(path, volume, &MountOptions::default()).unwrap();
}

fn part_of(volume: &Volume, sub_path: &str, read_only: bool) -> Result<Mounts, VfsError> {
    let mut mounts = Mounts::new();
    let options = MountOptions { read_only, sub_path: Some(sub_path.into()) };
    mounts.add("/m", volume, &options)?;
    Ok(mounts)
}

fn files(list: &[(&str, &'static str)]) -> BTreeMap<String, ProjectedFile> {
    let file = |text: &'static str| ProjectedFile { data: Bytes::from_static(text.as_bytes()), mode: 0o440 };
    list.iter().map(|(path, text)| ((*path).to_owned(), file(text))).collect()
}

#[test]
fn a_working_directory_has_what_the_root_has_not() {
    let mut mounts = Mounts::new();
    mount(&mut mounts, "/srv/app", &Volume::memory(None));
    let root = mounts.root();
    root.create_directory("etc").unwrap();
    root.write("etc/name", b"root").unwrap();
    root.write("srv/above", b"above").unwrap();
    let here = root.working("srv/app").unwrap();
    here.write("new", b"new").unwrap();
    here.create_directory("sub").unwrap();
    here.rename("./new", &here, "sub/moved").unwrap();
    here.write("etc/more", b"more").unwrap();
    assert_eq!((names(&here), names(&root)), (vec!["sub".into()], vec!["etc".into(), "srv".into()]));
    for (path, text) in [
        ("etc/name", "root"),
        ("./etc/more", "more"),
        ("srv/app/sub/moved", "new"),
        ("sub/moved", "new"),
        ("../above", "above"),
        ("sub/../../above", "above"),
        ("../../../../etc/name", "root"),
    ] {
        assert_eq!(here.read(path, 9).unwrap(), text.as_bytes(), "{path}");
    }
    assert_eq!(root.read("srv/app/sub/moved", 9).unwrap(), b"new");
    for (path, expected) in [("/etc/name", "NotPermitted"), ("", "NoEntry"), ("e\0", "IllegalByteSequence")] {
        fails(here.stat_at(path, true), expected);
    }
    // What is opened in it is a directory like any other.
    let own = here.open_directory(".").unwrap();
    fails(own.stat_at("etc", true), "NoEntry");
    fails(own.stat_at("../above", true), "NotPermitted");
    fails(root.working("none"), "NoEntry");
}

#[test]
fn mounts_lie_inside_mounts_in_any_order() {
    let (outer, inner, innermost) = (Volume::memory(None), Volume::memory(None), Volume::memory(None));
    outer.root().create_directories("in/was").unwrap();
    let mut mounts = Mounts::new();
    mount(&mut mounts, "/out/in/most", &innermost);
    mount(&mut mounts, "/out/in", &inner);
    mount(&mut mounts, "/out", &outer);
    let root = mounts.root();
    root.write("out/f", b"outer").unwrap();
    root.write("out/in/f", b"inner").unwrap();
    root.write("out/in/most/f", b"innermost").unwrap();
    assert_eq!(outer.root().read("f", 9).unwrap(), b"outer");
    assert_eq!(inner.root().read("f", 9).unwrap(), b"inner");
    assert_eq!(innermost.root().read("f", 9).unwrap(), b"innermost");
    assert_eq!(names(&root), ["out"]);
    assert_eq!(names(&root.open_directory("out").unwrap()), ["f", "in"]);
    assert_eq!(names(&root.open_directory("out/in").unwrap()), ["f", "most"], "what was there is covered");
    assert_eq!(root.read("out/in/../f", 9).unwrap(), b"outer", "up leads back over the mount point");
    inner.root().symlink("../f", "up").unwrap();
    assert_eq!(root.read("out/in/up", 9).unwrap(), b"outer", "also through a link");
}

#[test]
fn mount_points_stay_and_volumes_do_not_mix() {
    let (a, b) = (Volume::memory(None), Volume::memory(None));
    let mut mounts = Mounts::new();
    mount(&mut mounts, "/dir/a", &a);
    mount(&mut mounts, "/b", &b);
    let root = mounts.root();
    root.write("dir/a/f", b"").unwrap();
    for path in ["dir", "dir/a", "b"] {
        fails(root.remove_directory(path), "Busy");
        fails(root.rename(path, &root, "x"), "Busy");
    }
    fails(root.create_directory("b"), "Exists");
    fails(root.rename("dir/a/f", &root, "b/f"), "CrossDevice");
    fails(root.rename("dir/a/f", &root, "f"), "CrossDevice");
    fails(root.link("dir/a/f", false, &root, "b/f"), "CrossDevice");
    for path in ["", "relative", "/", "/.", "/a/../b", "/nul\0"] {
        fails(mounts.add(path, &a, &MountOptions::default()), "Invalid");
    }
}

#[test]
fn read_only_is_a_matter_of_the_mount() {
    let volume = Volume::memory(None);
    volume.root().write("f", b"text").unwrap();
    let mut mounts = Mounts::new();
    let read_only = MountOptions { read_only: true, sub_path: None };
    mounts.add("/r", &volume, &read_only).unwrap();
    mount(&mut mounts, "/w", &volume);
    let root = mounts.root();
    let write = OpenOptions { write: true, follow: true, ..OpenOptions::default() };
    fails(root.open("r/f", write), "ReadOnly");
    fails(root.open("r/f", OpenOptions { truncate: true, write: false, read: true, ..write }), "ReadOnly");
    fails(root.write("r/new", b""), "ReadOnly");
    fails(root.create_directory("r/d"), "ReadOnly");
    fails(root.unlink("r/f"), "ReadOnly");
    fails(root.rename("r/f", &root, "r/g"), "ReadOnly");
    fails(root.symlink("f", "r/l"), "ReadOnly");
    fails(root.link("r/f", false, &root, "r/g"), "ReadOnly");
    fails(root.link("r/f", false, &root, "w/g"), "CrossDevice");
    fails(root.rename("w/f", &root, "r/f"), "CrossDevice");
    fails(root.set_times_at("r/f", true, crate::Times::default()), "ReadOnly");
    root.write("w/f", b"changed").unwrap();
    assert_eq!(root.read("r/f", 9).unwrap(), b"changed", "it is the same volume");
}

#[test]
fn a_part_of_a_volume_is_all_there_is() {
    for host in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let volume = if host { Volume::host(folder.path(), None).unwrap() } else { Volume::memory(None) };
        let whole = volume.root();
        whole.write("secret", b"secret").unwrap();
        whole.create_directories("part/below").unwrap();
        whole.write("part/one.conf", b"one").unwrap();
        whole.symlink("../../secret", "part/below/up").unwrap();
        whole.symlink("part", "link").unwrap();

        let root = part_of(&volume, "part", false).unwrap().root();
        assert_eq!(names(&root.open_directory("m").unwrap()), ["below", "one.conf"]);
        fails(root.read("m/below/up", 9), "NoEntry");
        assert_eq!(root.read("m/../m/one.conf", 9).unwrap(), b"one");

        let file = part_of(&volume, "part/one.conf", true).unwrap().root();
        assert_eq!(file.stat_at("m", true).unwrap().kind, FileKind::File);
        whole.write("new.conf", b"two").unwrap();
        whole.rename("new.conf", &whole, "part/one.conf").unwrap();
        assert_eq!(file.read("m", 9).unwrap(), b"one", "a file that is mounted stays itself");
        fails(file.unlink("m"), "Busy");
        fails(file.write("m", b"x"), "ReadOnly");

        part_of(&volume, "made/for/it", false).unwrap().root().write("m/f", b"").unwrap();
        assert_eq!(whole.stat_at("made/for/it/f", true).unwrap().kind, FileKind::File);
        assert_eq!(part_of(&volume, "link", false).unwrap().root().read("m/one.conf", 9).unwrap(), b"two");
        for path in ["/part", "..", "part/../..", "part/../../x"] {
            fails(part_of(&volume, path, false), "Invalid");
        }
    }
}

#[test]
fn a_container_fills_only_its_own_root() {
    let mounts = Mounts::new();
    let (root, copy) = (mounts.root(), mounts.clone());
    fails(root.write("f", &vec![1; ROOT_LIMIT as usize + 1]), "NoSpace");
    assert_eq!(mounts.root_usage().bytes, ROOT_LIMIT);
    assert_eq!(copy.root().stat_at("f", true).unwrap().size, ROOT_LIMIT, "a clone is the same view");
    Mounts::new().root().write("f", b"another's is empty").unwrap();
}

#[test]
fn names_are_bounded_like_bytes() {
    let volume = Volume::memory(Some(1 << 20));
    let root = volume.root();
    let error = (0..10_000).find_map(|n| root.write(&n.to_string(), b"").err()).expect("an end");
    assert!(matches!(error, VfsError::NoSpace));
    assert_eq!(volume.usage().entries, 1_024);
    fails(root.create_directory("d"), "NoSpace");
    fails(root.symlink("x", "l"), "NoSpace");
    fails(root.link("1", false, &root, "l"), "NoSpace");
    root.unlink("1").unwrap();
    root.create_directory("d").unwrap();
}

/// One byte in each of many far places costs the host more than a byte each.
#[test]
fn scattered_bytes_are_bounded() {
    let volume = Volume::memory(Some(1 << 20));
    let create = OpenOptions { write: true, create: true, ..OpenOptions::default() };
    let file = volume.root().open_file("f", create).unwrap();
    let error = (0..100_000).find_map(|n| file.write_at(n << 20, b"x").err()).expect("an end");
    assert!(matches!(error, VfsError::NoSpace));
    assert!(volume.usage().bytes < 10_000);
}

/// The names of projected content, without what the layout adds.
fn keys(dir: &Directory) -> Vec<String> {
    names(dir).into_iter().filter(|name| !name.starts_with("..")).collect()
}

#[test]
fn projected_content_changes_at_once() {
    let volume = Volume::memory(None);
    volume.project(files(&[("a", "old a"), ("keys/b", "old b"), ("keys/deep/c", "c")])).unwrap();
    let mut mounts = Mounts::new();
    mounts.add("/c", &volume, &MountOptions { read_only: true, sub_path: None }).unwrap();
    let root = mounts.root();
    let read = OpenOptions { read: true, follow: true, ..OpenOptions::default() };
    let open = root.open_file("c/a", read).unwrap();
    assert_eq!(root.stat_at("c/a", true).unwrap().mode, 0o440);
    let (bytes, entries) = (volume.usage().bytes, volume.usage().entries);
    volume.project(files(&[("a", "new a"), ("keys/d", "new d")])).unwrap();
    assert_eq!(root.read("c/a", 9).unwrap(), b"new a");
    assert_eq!(names(&root.open_directory("c/keys").unwrap()), ["d"]);
    let mut buffer = [0; 5];
    open.read_at(0, &mut buffer).unwrap();
    assert_eq!(&buffer, b"old a", "who reads goes on reading the old one");
    drop(open);
    assert_eq!(volume.usage().bytes, bytes - 1, "the old content is given back");
    assert_eq!(volume.usage().entries, entries - 2, "and its names");

    let before = (keys(&volume.root()), volume.usage());
    for bad in ["", "/a", "a/", "../a", "a/../b", "a//b", "./a", "nul\0", "..data", "..2026"] {
        fails(volume.project(files(&[(bad, "x")])), "Invalid");
    }
    fails(volume.project(files(&[("a", "x"), ("a/b", "y")])), "Invalid");
    fails(volume.project(files(&[(&"n".repeat(256), "x")])), "NameTooLong");
    assert_eq!((keys(&volume.root()), volume.usage()), before, "a failure changes nothing");
    let folder = tempfile::tempdir().unwrap();
    fails(Volume::host(folder.path(), None).unwrap().project(BTreeMap::new()), "Unsupported");
}

/// As kubelet lays it out, for programs that watch where `..data` leads.
#[test]
fn projected_content_lies_behind_a_link() {
    let volume = Volume::memory(None);
    let root = volume.root();
    volume.project(files(&[("a", "1"), ("keys/b", "1")])).unwrap();
    let folder = root.read_link("..data").unwrap();
    assert!(folder.starts_with("..20") && folder.len() > "..2026_11_22_02_30_00.".len(), "{folder}");
    assert_eq!(names(&root), [folder.as_str(), "..data", "a", "keys"]);
    assert_eq!(root.read_link("a").unwrap(), "..data/a");
    assert_eq!(root.read_link("keys").unwrap(), "..data/keys");
    assert_eq!(root.stat_at("..data/keys/b", false).unwrap().kind, FileKind::File);

    let (stat, changed) = (root.stat().unwrap(), |root: &Directory| root.read_link("..data").unwrap());
    volume.project(files(&[("a", "1"), ("keys/b", "1")])).unwrap();
    assert_eq!((changed(&root), root.stat().unwrap()), (folder.clone(), stat), "the same changes nothing");
    let data = root.open_directory("..data").unwrap();
    volume.project(files(&[("a", "2"), ("keys/b", "1")])).unwrap();
    let second = changed(&root);
    assert_ne!(second, folder);
    assert!(!names(&root).contains(&folder));
    assert_eq!(root.read(&format!("{folder}/a"), 9).unwrap(), b"2", "a path through an old folder leads on");
    assert_eq!(data.read("a", 9).unwrap(), b"1", "who holds the folder holds all of it");
    assert_eq!(names(&data), ["a", "keys"]);
    volume.project(files(&[("a", "2")])).unwrap();
    let third = changed(&root);
    assert_ne!(third, second);
    let mut other = files(&[("a", "2")]);
    other.get_mut("a").unwrap().mode = 0o400;
    volume.project(other).unwrap();
    assert_ne!(changed(&root), third, "another mode is another content");
}

/// Modes are shown, and nobody is kept out by them: guests have no users, and what their pod mounts is theirs.
#[test]
fn modes_keep_nobody_out() {
    let volume = Volume::memory(None);
    let file = |mode| ProjectedFile { data: Bytes::from_static(b"text"), mode };
    volume.project([0o400, 0o000, 0o4755].map(|mode| (mode.to_string(), file(mode))).into()).unwrap();
    for mode in [0o400, 0o000, 0o4755] {
        let name = mode.to_string();
        assert_eq!(volume.root().stat_at(&name, true).unwrap().mode, mode);
        assert_eq!(volume.root().read(&name, 9).unwrap(), b"text");
    }
}

/// Readers see all of the old content or all of the new.
#[test]
fn projection_is_seen_whole() {
    let volume = Volume::memory(None);
    let content = [files(&[("one", "1"), ("two", "1")]), files(&[("one", "2"), ("two", "2")])];
    volume.project(content[0].clone()).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..2_000 {
                volume.project(content[round % 2].clone()).unwrap();
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        let root = volume.root();
        while !done.load(std::sync::atomic::Ordering::Relaxed) {
            assert_eq!(keys(&root), ["one", "two"]);
            assert_eq!(root.read("one", 1).unwrap().len(), 1, "it is never missing");
            let data = root.open_directory("..data").unwrap();
            assert_eq!(names(&data), ["one", "two"]);
            assert_eq!(data.read("one", 1).unwrap(), data.read("two", 1).unwrap());
        }
    });
}

/// Directories nested deeper than any path can say, by moving chains below chains, are taken apart without
/// recursion.
#[test]
fn deep_trees_end_on_a_small_stack() {
    let test = || {
        let volume = Volume::memory(None);
        let root = volume.root();
        for round in 0..50 {
            let mut bottom = root.clone();
            for _ in 0..1_000 {
                bottom.create_directory("d").unwrap();
                bottom = bottom.open_directory("d").unwrap();
            }
            if round > 0 {
                root.rename("chain", &bottom, "chain").unwrap();
            }
            root.rename("d", &root, "chain").unwrap();
        }
        assert_eq!(volume.usage().entries, 50_000);
        let mut deep = root.open_directory("chain").unwrap();
        let error = loop {
            match deep.open_directory("d").or_else(|_| deep.open_directory("chain")) {
                Ok(below) => deep = below,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, VfsError::NameTooLong));
    };
    let thread = std::thread::Builder::new().stack_size(128 << 10).spawn(test).unwrap();
    thread.join().unwrap();
}

#[test]
fn what_a_folder_holds_counts_from_the_start() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("d")).unwrap();
    std::fs::write(folder.path().join("d/f"), [0; 600]).unwrap();
    std::fs::hard_link(folder.path().join("d/f"), folder.path().join("g")).unwrap();
    let volume = Volume::host(folder.path(), Some(1_000)).unwrap();
    assert_eq!((volume.usage().bytes, volume.usage().entries), (600, 3));
    fails(volume.root().write("h", &[0; 500]), "NoSpace");
    assert_eq!(volume.root().stat_at("h", true).unwrap().size, 400);
    let small = Volume::host(folder.path(), Some(10)).unwrap();
    fails(small.root().write("i", b"x"), "NoSpace");
    small.root().unlink("h").unwrap();
    fails(Volume::host(&folder.path().join("g"), None), "NotDirectory");
    fails(Volume::host(&folder.path().join("missing"), None), "NoEntry");
}

/// Devices, pipes and sockets of a host folder are seen but not opened; nobody waits for a pipe's other end.
#[test]
fn special_files_stay_closed() {
    let folder = tempfile::tempdir().unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
    let fifo = folder.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let root = Volume::host(folder.path(), None).unwrap().root();
    for name in ["socket", "fifo"] {
        assert_eq!(root.stat_at(name, true).unwrap().kind, FileKind::Other);
        fails(root.read(name, 1), "Access");
        fails(root.write(name, b"x"), "Access");
    }
    root.unlink("fifo").unwrap();
}
