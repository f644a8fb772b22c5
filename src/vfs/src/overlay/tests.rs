//! What is an overlay's own: two kinds of layers, and what is remembered between them.

use std::collections::BTreeSet;
use std::sync::{Arc, Barrier};
use std::time::{Duration, SystemTime};

use super::OverlayTree;
use crate::memory::MemoryTree;
use crate::testing::{READ, WRITE, fails, listed, names};
use crate::tree::{Access, NewTime, Node, OpenFile, Stat, Times, Tree};
use crate::{OpenOptions, VfsError, Volume};

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

/// A file of nothing but a hole would take no room above, but reading it takes as long as if it did.
#[test]
fn who_changes_a_file_that_is_larger_than_the_limit_is_told_at_once() {
    let (below, volume) = over(&["f", "g"], 1 << 20);
    for name in ["f", "g"] {
        below.root().open_file(name, WRITE).unwrap().set_size(1 << 60).unwrap();
    }
    let root = volume.root();
    fails(root.open_file("f", WRITE).and_then(|file| file.append(b"+")), "NoSpace");
    root.write("g", b"new").unwrap();
    assert_eq!(root.read("g", 9).unwrap(), b"new");
}

#[test]
fn what_is_reserved_is_reserved_above() {
    let (below, volume) = over(&["f"], 1_000);
    let file = volume.root().open_file("f", WRITE).unwrap();
    fails(file.reserve(0, 1_001), "NoSpace");
    file.reserve(1, 999).unwrap();
    assert_eq!((volume.usage().bytes, volume.root().read("f", 1_000).unwrap()[0]), (1_000, b'f'));
    assert_eq!(below.root().read("f", 9).unwrap(), b"f");
    fails(volume.root().open_file("f", READ).unwrap().reserve(0, 1), "BadDescriptor");
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
    let before = file.stat().unwrap();
    let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(7);
    file.set_times(Times { accessed: NewTime::Keep, modified: NewTime::At(modified) }).unwrap();
    let after = file.stat().unwrap();
    assert_eq!((after.modified, after.accessed, after.links), (modified, before.accessed, 0));
    assert_eq!((names(&root), volume.usage().bytes), (Vec::<String>::new(), 0), "nothing is copied for it");
    root.write("f", b"another").unwrap();
    assert_eq!(file.stat().unwrap().size, 1);
}

#[test]
fn a_removed_folder_costs_no_more_than_its_name() {
    let files: Vec<String> = (0..500).map(|n| format!("d/{}/{n}", n % 5)).collect();
    let paths: Vec<&str> = files.iter().map(String::as_str).collect();
    for replaced in [false, true] {
        let (_below, volume) = over(&paths, 1 << 20);
        let root = volume.root();
        let open = root.open_directory("d/0").unwrap();
        files.iter().for_each(|file| root.unlink(file).unwrap());
        assert!(volume.usage().entries >= 500);
        if replaced {
            root.create_directory("new").unwrap();
            for n in 0..5 {
                root.rename("new", &root, &format!("d/{n}")).unwrap();
                root.rename(&format!("d/{n}"), &root, "new").unwrap();
            }
            root.remove_directory("new").unwrap();
        } else {
            (0..5).for_each(|n| root.remove_directory(&format!("d/{n}")).unwrap());
        }
        root.remove_directory("d").unwrap();
        assert_eq!(volume.usage().entries, 1, "only that it is gone, {replaced}");
        assert_eq!(names(&open), [""; 0], "nothing comes back for who has it open");
        fails(open.read("0", 9), "NoEntry");
        fails(open.write("0", b""), "NoEntry");
        drop((open, root));
        assert_eq!(volume.usage().entries, 1);
    }
}

/// Memory whose files are read only when the test lets them be: half of each, and then the rest.
struct Gate {
    memory: Arc<dyn Tree>,
    reached: Barrier,
    opened: Barrier,
}

struct Gated(Arc<dyn OpenFile>, Arc<Gate>);

impl Gate {
    fn file(self: &Arc<Gate>, node: &Node) -> Arc<dyn OpenFile> {
        Arc::new(Gated(self.memory.open(node, super::READ).unwrap(), Arc::clone(self)))
    }
}

/// A handle of the gate that is a tree.
struct Gates(Arc<Gate>);

impl OpenFile for Gated {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, VfsError> {
        if offset > 0 {
            self.1.reached.wait();
            self.1.opened.wait();
        }
        let length = buffer.len().min(if offset == 0 { 2 } else { 9 });
        self.0.read_at(offset, &mut buffer[..length])
    }
    fn write_at(&self, _: u64, _: &[u8]) -> Result<usize, VfsError> {
        Err(VfsError::ReadOnly)
    }
    fn append(&self, _: &[u8]) -> Result<usize, VfsError> {
        Err(VfsError::ReadOnly)
    }
    fn set_size(&self, _: u64) -> Result<(), VfsError> {
        Err(VfsError::ReadOnly)
    }
    fn reserve(&self, _: u64, _: u64) -> Result<(), VfsError> {
        Err(VfsError::ReadOnly)
    }
    fn stat(&self) -> Result<Stat, VfsError> {
        self.0.stat()
    }
    fn set_times(&self, _: Times) -> Result<(), VfsError> {
        Err(VfsError::ReadOnly)
    }
    fn blocking(&self) -> bool {
        false
    }
    fn sync(&self, _: bool) -> Result<(), VfsError> {
        Ok(())
    }
}

impl Tree for Gates {
    fn device(&self) -> u64 {
        self.0.memory.device()
    }
    fn blocking(&self) -> bool {
        false
    }
    fn usage(&self) -> crate::volume::Usage {
        self.0.memory.usage()
    }
    fn quota(&self) -> &crate::quota::Quota {
        self.0.memory.quota()
    }
    fn root(&self) -> Node {
        self.0.memory.root()
    }
    fn lookup(&self, dir: &Node, name: &str) -> Result<Node, VfsError> {
        self.0.memory.lookup(dir, name)
    }
    fn stat(&self, node: &Node) -> Result<Stat, VfsError> {
        self.0.memory.stat(node)
    }
    fn set_times(&self, _: &Node, _: Times) -> Result<(), VfsError> {
        Err(VfsError::ReadOnly)
    }
    fn open(&self, node: &Node, _: Access) -> Result<Arc<dyn OpenFile>, VfsError> {
        Ok(self.0.file(node))
    }
    fn create(&self, _: &Node, _: &str, _: Access) -> Result<Arc<dyn OpenFile>, VfsError> {
        Err(VfsError::ReadOnly)
    }
    fn create_directory(&self, _: &Node, _: &str) -> Result<(), VfsError> {
        Err(VfsError::ReadOnly)
    }
    fn symlink(&self, _: &Node, _: &str, _: &str) -> Result<(), VfsError> {
        Err(VfsError::ReadOnly)
    }
    fn read_link(&self, node: &Node) -> Result<String, VfsError> {
        self.0.memory.read_link(node)
    }
    fn link(&self, _: &Node, _: &str, _: &Node, _: &str) -> Result<(), VfsError> {
        Err(VfsError::ReadOnly)
    }
    fn unlink(&self, _: &Node, _: &str) -> Result<(), VfsError> {
        Err(VfsError::ReadOnly)
    }
    fn remove_directory(&self, _: &Node, _: &str) -> Result<(), VfsError> {
        Err(VfsError::ReadOnly)
    }
    fn rename(&self, _: &Node, _: &str, _: &Node, _: &str) -> Result<(), VfsError> {
        Err(VfsError::ReadOnly)
    }
    fn read_directory(&self, dir: &Node) -> Result<Box<dyn crate::tree::Cursor>, VfsError> {
        self.0.memory.read_directory(dir)
    }
    fn sync(&self, _: &Node) -> Result<(), VfsError> {
        Ok(())
    }
}

/// While a file is copied up others use the overlay, see the file as it was, and may remove or replace it.
#[test]
fn names_are_free_while_a_file_is_copied() {
    #[track_caller]
    fn check(meanwhile: impl FnOnce(&OverlayTree, &Node), written: Result<(), &str>, left: &[(&str, &[u8])]) {
        const CREATE: Access = Access { read: true, write: true, truncate: false };
        let memory = MemoryTree::new(None, None);
        memory.create(&memory.root(), "f", CREATE).unwrap().append(b"whole").unwrap();
        let gate =
            Arc::new(Gate { memory: Arc::new(memory), reached: Barrier::new(2), opened: Barrier::new(2) });
        let tree =
            OverlayTree::new(vec![Arc::new(Gates(Arc::clone(&gate)))], Arc::new(MemoryTree::new(None, None)));
        let root = tree.root();
        let file = tree.lookup(&root, "f").unwrap();
        std::thread::scope(|threads| {
            let writer =
                threads.spawn(|| tree.open(&file, CREATE).and_then(|file| file.append(b"!")).map(drop));
            gate.reached.wait();
            assert_eq!(tree.stat(&file).unwrap().size, 5, "what is not whole is not seen");
            assert_eq!(
                tree.lookup(&root, "none").err().map(|error| format!("{error:?}")).unwrap(),
                "NoEntry"
            );
            assert!(matches!(tree.create(&root, "f", CREATE).map(drop), Err(VfsError::Exists)));
            let mut listing = tree.read_directory(&root).unwrap();
            assert_eq!(listing.next().unwrap().unwrap().name, "f");
            assert_eq!(listing.next().unwrap(), None);
            meanwhile(&tree, &root);
            gate.opened.wait();
            gate.reached.wait(); // the end of the file
            gate.opened.wait();
            assert_eq!(
                writer.join().unwrap().map_err(|error| format!("{error:?}")),
                written.map_err(str::to_owned)
            );
        });
        let mut listing = tree.read_directory(&root).unwrap();
        for (name, content) in left {
            assert_eq!(listing.next().unwrap().unwrap().name, *name);
            let mut buffer = [0; 16];
            let file = tree.open(&tree.lookup(&root, name).unwrap(), CREATE).unwrap();
            let count = file.read_at(0, &mut buffer).unwrap();
            assert_eq!(&buffer[..count], *content);
        }
        assert_eq!(listing.next().unwrap(), None);
    }
    const NEW: Access = Access { read: true, write: true, truncate: false };
    let (whole, gone) = (&b"whole!"[..], Err("NoEntry"));
    check(|_, _| {}, Ok(()), &[("f", whole)]);
    check(|tree, root| tree.unlink(root, "f").unwrap(), gone, &[]);
    let replace = |tree: &OverlayTree, root: &Node| {
        tree.create(root, "g", NEW).unwrap().append(b"other").unwrap();
        tree.rename(root, "g", root, "f").unwrap();
    };
    check(replace, gone, &[("f", b"other")]);
    let again = |tree: &OverlayTree, root: &Node| {
        tree.unlink(root, "f").unwrap();
        tree.create(root, "f", NEW).unwrap().append(b"new").unwrap();
    };
    check(again, gone, &[("f", b"new")]);
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
