//! What is an overlay's own: two kinds of layers, and what is remembered between them.

use std::collections::BTreeSet;

use crate::{Directory, OpenOptions, VfsError, Volume};

const READ: OpenOptions = OpenOptions {
    read: true,
    write: false,
    create: false,
    exclusive: false,
    truncate: false,
    directory: false,
    follow: true,
};
const WRITE: OpenOptions = OpenOptions { write: true, ..READ };

/// Files below, and an overlay of them that takes `limit` bytes.
fn over(files: &[&str], limit: u64) -> (Volume, Volume) {
    let below = Volume::memory(None);
    let root = below.root();
    for path in files {
        if let Some((dir, _)) = path.rsplit_once('/') {
            root.create_directories(dir).unwrap();
        }
        root.write(path, path.as_bytes()).unwrap();
    }
    let volume = Volume::overlay(std::slice::from_ref(&below), &Volume::memory(Some(limit)));
    (below, volume)
}

fn names(dir: &Directory) -> Vec<String> {
    let mut names = listed(dir);
    names.sort();
    names
}

fn listed(dir: &Directory) -> Vec<String> {
    let mut entries = dir.entries().unwrap();
    std::iter::from_fn(|| entries.next_entry().unwrap()).map(|entry| entry.name).collect()
}

#[track_caller]
fn fails<T: std::fmt::Debug>(result: Result<T, VfsError>, expected: &str) {
    assert_eq!(format!("{:?}", result.expect_err("an error was due")), expected);
}

#[test]
fn what_is_below_stays_as_it_is() {
    let (below, volume) = over(&["a", "d/b", "d/c"], 1 << 20);
    let root = volume.root();
    root.open_file("a", WRITE).unwrap().append(b"+").unwrap();
    root.unlink("d/b").unwrap();
    root.rename("d/c", &root, "c").unwrap();
    root.remove_directory("d").unwrap();
    assert_eq!((names(&root), root.read("a", 9).unwrap()), (vec!["a".into(), "c".into()], b"a+".to_vec()));
    let below = below.root();
    assert_eq!((names(&below), below.read("a", 9).unwrap()), (vec!["a".into(), "d".into()], b"a".to_vec()));
    assert_eq!(names(&below.open_directory("d").unwrap()), ["b", "c"]);
    root.create_directory("d").unwrap();
    assert_eq!(names(&root.open_directory("d").unwrap()), [""; 0], "a new folder is empty");
    root.write("d/b", b"new").unwrap();
    assert_eq!(root.read("d/b", 9).unwrap(), b"new");
    fails(root.read("d/c", 9), "NoEntry");
}

#[test]
fn folders_move_with_all_they_hold() {
    let (_below, volume) = over(&["d/deep/down/f", "e/x"], 1 << 20);
    let root = volume.root();
    let handle = root.open_directory("d/deep").unwrap();
    root.unlink("d/deep/down/f").unwrap();
    root.write("d/deep/down/g", b"g").unwrap();
    let used = volume.usage();
    root.rename("d", &root, "moved").unwrap();
    assert_eq!(volume.usage().bytes, used.bytes, "nothing is copied");
    assert_eq!(names(&root), ["e", "moved"]);
    assert_eq!(names(&root.open_directory("moved/deep/down").unwrap()), ["g"], "what was removed stays so");
    assert_eq!(handle.read("down/g", 9).unwrap(), b"g", "a handle moves along");
    handle.write("down/h", b"h").unwrap();
    assert_eq!(root.read("moved/deep/down/h", 9).unwrap(), b"h");
    root.create_directories("d/deep").unwrap();
    assert_eq!(names(&root.open_directory("d/deep").unwrap()), [""; 0], "the old name is another folder");
    fails(root.rename("moved", &root, "moved/deep/x"), "Invalid");
    fails(root.rename("moved", &root, "e"), "NotEmpty");
    root.unlink("e/x").unwrap();
    root.rename("moved", &root, "e").unwrap();
    // Into a folder that only the upper layer has, and nobody holds.
    root.create_directories("new/new").unwrap();
    root.rename("e/deep", &root, "new/new/deep").unwrap();
    assert_eq!(names(&root.open_directory("new/new/deep/down").unwrap()), ["g", "h"]);
    root.rename("new", &root, "e/new").unwrap();
    assert_eq!(names(&root.open_directory("e/new/new/deep/down").unwrap()), ["g", "h"]);
}

/// A file is the same file before and after it is written to, for who has it open and for who looks again.
#[test]
fn a_file_stays_itself() {
    let (_below, volume) = over(&["d/f"], 1 << 20);
    let root = volume.root();
    let number = |path: &str| root.stat_at(path, true).unwrap().inode;
    let (file, dir) = (number("d/f"), number("d"));
    let reader = root.open_file("d/f", READ).unwrap();
    root.open_file("d/f", WRITE).unwrap().append(b"!").unwrap();
    let mut buffer = [0; 8];
    assert_eq!(reader.read_at(0, &mut buffer).unwrap(), 4, "who reads sees what is written");
    assert_eq!((reader.stat().unwrap().inode, number("d/f"), number("d")), (file, file, dir));
    drop(reader);
    assert_eq!(number("d/f"), file);
    root.link("d/f", false, &root, "g").unwrap();
    root.rename("d/f", &root, "f").unwrap();
    assert_eq!((number("f"), number("g"), root.stat_at("f", true).unwrap().links), (file, file, 2));
    root.write("other", b"").unwrap();
    root.write("d/f", b"").unwrap();
    let all: BTreeSet<u64> = ["f", "d", "other", "d/f", "."].map(number).into();
    assert_eq!(all.len(), 5, "no two have one number");
}

/// Below are two names of one file; written to by one of them it is two files.
#[test]
fn copying_up_ends_a_hard_link() {
    let (below, volume) = over(&["a"], 1 << 20);
    below.root().link("a", false, &below.root(), "b").unwrap();
    let root = volume.root();
    let number = |path: &str| root.stat_at(path, true).unwrap().inode;
    assert_eq!(number("a"), number("b"));
    root.rename("a", &root, "b").unwrap();
    assert_eq!(names(&root), ["a", "b"], "two names of one file: nothing happens");
    root.open_file("b", WRITE).unwrap().append(b"!").unwrap();
    assert_eq!((root.read("a", 9).unwrap(), root.read("b", 9).unwrap()), (b"a".to_vec(), b"a!".to_vec()));
    assert_ne!(number("a"), number("b"));
    root.rename("a", &root, "b").unwrap();
    assert_eq!((names(&root), root.read("b", 9).unwrap()), (vec!["b".into()], b"a".to_vec()));
}

#[test]
fn what_does_not_fit_is_not_copied() {
    let (_below, volume) = over(&["d/f"], 2);
    let root = volume.root();
    fails(root.open("d/f", WRITE), "NoSpace");
    fails(root.rename("d/f", &root, "g"), "NoSpace");
    assert_eq!((volume.usage().bytes, names(&root)), (0, vec!["d".to_owned()]));
    assert_eq!(root.read("d/f", 9).unwrap(), b"d/f");
    root.open("d/f", OpenOptions { truncate: true, ..WRITE }).unwrap();
    assert_eq!(root.read("d/f", 9).unwrap(), b"", "who drops the content need not copy it");
}

#[test]
fn removed_names_cost_entries() {
    let upper = Volume::memory(Some(1 << 20));
    let below = Volume::memory(None);
    for n in 0..2_000 {
        below.root().write(&n.to_string(), b"").unwrap();
    }
    let volume = Volume::overlay(&[below], &upper);
    let root = volume.root();
    let error = (0..2_000).find_map(|n| root.unlink(&n.to_string()).err()).expect("an end");
    assert!(matches!(error, VfsError::NoSpace));
    assert_eq!((volume.usage().entries, names(&root).len()), (1_024, 2_000 - 1_024));
    root.write("0", b"").unwrap_err();
    drop((root, volume));
    assert_eq!(upper.usage().entries, 0, "they end with the overlay");
}

#[test]
fn who_has_a_removed_file_open_reads_on() {
    let (_below, volume) = over(&["f"], 1 << 20);
    let root = volume.root();
    let file = root.open_file("f", READ).unwrap();
    assert_eq!(file.stat().unwrap().links, 1);
    root.unlink("f").unwrap();
    let mut buffer = [0; 8];
    assert_eq!(file.read_at(0, &mut buffer).unwrap(), 1);
    assert_eq!(file.stat().unwrap().links, 0);
    fails(file.set_times(crate::Times::default()), "NoEntry");
    root.write("f", b"another").unwrap();
    assert_eq!(file.stat().unwrap().size, 1);
}

/// Each name that is there all the time is told once: also those that are copied up, replaced or moved over.
#[test]
fn listings_are_whole_while_layers_change() {
    let files: Vec<String> = (0..300).map(|n| format!("{n:03}")).collect();
    let (_below, volume) = over(&files.iter().map(String::as_str).collect::<Vec<_>>(), 1 << 20);
    let root = volume.root();
    root.unlink("007").unwrap();
    root.write("007", b"made anew").unwrap();
    root.write("above", b"").unwrap();
    for started in [0, 1, 150, 300] {
        let mut entries = root.entries().unwrap();
        let mut seen: Vec<String> =
            (0..started).map(|_| entries.next_entry().unwrap().unwrap().name).collect();
        for name in &files {
            match name.as_bytes()[2] % 3 {
                0 => drop(root.open_file(name, WRITE).unwrap()),
                1 => {
                    root.write("new", b"").unwrap();
                    root.rename("new", &root, name).unwrap();
                }
                _ => {}
            }
        }
        seen.extend(std::iter::from_fn(|| entries.next_entry().unwrap()).map(|entry| entry.name));
        let unique: BTreeSet<&String> = seen.iter().collect();
        assert_eq!(unique.len(), seen.len(), "no name twice");
        assert!(files.iter().all(|name| unique.contains(name)), "none is missing");
    }
}

#[test]
fn the_topmost_layer_is_seen() {
    let layers = [("a", "top"), ("a", "bottom"), ("b", "bottom")];
    let (top, bottom) = (Volume::memory(None), Volume::memory(None));
    for (name, text) in layers {
        let volume = if text == "top" { &top } else { &bottom };
        volume.root().write(name, text.as_bytes()).unwrap();
    }
    top.root().create_directory("x").unwrap();
    bottom.root().write("x", b"a file").unwrap();
    top.root().write("y", b"a file").unwrap();
    bottom.root().create_directories("y/z").unwrap();
    let volume = Volume::overlay(&[top, bottom], &Volume::memory(None));
    let root = volume.root();
    assert_eq!(names(&root), ["a", "b", "x", "y"]);
    assert_eq!(listed(&root).len(), 4);
    assert_eq!(
        (root.read("a", 9).unwrap(), root.read("b", 9).unwrap()),
        (b"top".to_vec(), b"bottom".to_vec())
    );
    assert_eq!(
        (names(&root.open_directory("x").unwrap()).len(), root.read("y", 9).unwrap()),
        (0, b"a file".into())
    );
    root.unlink("a").unwrap();
    root.remove_directory("x").unwrap();
    fails(root.stat_at("a", true), "NoEntry");
    assert_eq!(names(&root), ["b", "y"]);
}

/// Copied up at the bottom, moved, and dropped, on a guest's stack.
#[test]
fn deep_layers_end_on_a_small_stack() {
    let test = || {
        let below = Volume::memory(None);
        let mut bottom = below.root();
        for _ in 0..2_000 {
            bottom.create_directory("d").unwrap();
            bottom = bottom.open_directory("d").unwrap();
        }
        bottom.write("f", b"deep").unwrap();
        let volume = Volume::overlay(&[below], &Volume::memory(None));
        let mut deep = volume.root();
        for _ in 0..2_000 {
            deep = deep.open_directory("d").unwrap();
        }
        deep.open_file("f", WRITE).unwrap().append(b"er").unwrap();
        assert_eq!(deep.read("f", 9).unwrap(), b"deeper");
        assert_eq!(volume.usage().entries, 2_001);
        volume.root().rename("d", &volume.root(), "e").unwrap();
        drop(volume);
        drop(deep);
    };
    std::thread::Builder::new().stack_size(128 << 10).spawn(test).unwrap().join().unwrap();
}

/// Holes stay holes, so a large file that is nearly empty can be copied up.
#[test]
fn holes_are_not_copied() {
    let below = Volume::memory(None);
    let create = OpenOptions { create: true, ..WRITE };
    let file = below.root().open_file("f", create).unwrap();
    file.write_at(1 << 26, b"end").unwrap();
    let volume = Volume::overlay(&[below], &Volume::memory(Some(1 << 20)));
    volume.root().open_file("f", WRITE).unwrap().write_at(0, b"start").unwrap();
    let stat = volume.root().stat_at("f", true).unwrap();
    assert_eq!(stat.size, (1 << 26) + 3);
    assert!(volume.usage().bytes <= 64 << 10);
}
