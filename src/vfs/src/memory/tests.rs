//! What volumes in memory cost.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use coracle_budget::Budget;

use crate::quota::ENTRY_BYTES;
use crate::testing::{CREATE, READ, fails, names};
use crate::{DEPTH_MAX, Directory, ProjectedFile, VfsError, Volume};

#[test]
fn the_pod_pays_for_what_is_held() {
    let budget = Budget::new(Some(1 << 20));
    let volume = Volume::memory_of(Some(1 << 30), &budget);
    let root = volume.root();
    root.write("file", &[1; 4_096]).unwrap();
    assert_eq!(budget.used(), 4_096 + ENTRY_BYTES + 4);
    root.rename("file", &root, "f").unwrap();
    assert_eq!(budget.used(), 4_096 + ENTRY_BYTES + 1);
    root.symlink("target", "l").unwrap();
    assert_eq!(budget.used(), 4_096 + 2 * (ENTRY_BYTES + 1) + 6);

    let other = budget.charge(900 << 10).unwrap();
    let error = root.write("big", &[1; 200 << 10]).unwrap_err();
    assert!(matches!(error, VfsError::NoSpace), "the pod is full before the volume is");
    assert!(budget.used() > 1_000 << 10);
    drop(other);
    root.write("big", &[1; 200 << 10]).unwrap();
    let rest = budget.limit().unwrap() - budget.used();
    let _full = budget.charge(rest).unwrap();
    assert!(matches!(root.create_directory("d"), Err(VfsError::NoSpace)));
    assert!(matches!(root.symlink("x", "m"), Err(VfsError::NoSpace)));
    root.unlink("big").unwrap();
    root.create_directory("d").unwrap();
    drop((root, volume));
    assert_eq!(budget.used(), rest, "all is given back");
}

/// Programs that ask what was wrong with a write try a smaller one: a full pod has no room for that, either.
#[test]
fn a_full_pod_is_full_to_the_last_byte() {
    for limit in [100_000, 100_001, 200_000, 1 << 20] {
        let budget = Budget::new(Some(limit));
        let volume = Volume::memory_of(None, &budget);
        let file = volume.root().open_file("f", CREATE).unwrap();
        let mut size = 0;
        let error = loop {
            match file.write_at(size, &[1; 4_096]) {
                Ok(written) => size += written as u64,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, VfsError::NoSpace));
        assert!(matches!(file.write_at(size, b"x"), Err(VfsError::NoSpace)), "{limit}: {size}");
        assert_eq!((file.stat().unwrap().size, volume.usage().bytes), (size, size));
        // Another piece would cost something itself.
        assert!((limit - 64..=limit).contains(&budget.used()), "{} of {limit}", budget.used());
        file.set_size(0).unwrap();
        assert_eq!(file.write_at(0, &[1; 4_096]).unwrap(), 4_096);
    }
}

/// What is reserved is the pod's at once, and the host's only as it is written.
#[test]
fn the_pod_pays_for_what_is_reserved() {
    let budget = Budget::new(Some(1 << 40));
    let volume = Volume::memory_of(Some(1 << 34), &budget);
    let file = volume.root().open_file("f", CREATE).unwrap();
    let (empty, size) = (budget.used(), 8_u64 << 30);
    file.reserve(0, size).unwrap();
    assert!((size..size + (size >> 7)).contains(&(budget.used() - empty)), "{}", budget.used());
    file.write_at(size - 1, b"x").unwrap();
    assert_eq!((volume.usage().bytes, file.stat().unwrap().size), (size, size));
    file.set_size(0).unwrap();
    assert_eq!(budget.used(), empty);

    // What the pod has no memory for is refused before anything is charged.
    budget.set_limit(Some(empty + (1 << 20)));
    assert!(matches!(file.reserve(0, 1 << 20), Err(VfsError::NoSpace)), "the pieces cost something, too");
    assert_eq!((budget.used(), volume.usage().bytes), (empty, 0));
    file.reserve(0, 1 << 19).unwrap();
    let rest = budget.limit().unwrap() - budget.used();
    let _full = budget.charge(rest).unwrap();
    for page in (0..128_u32).rev() {
        assert_eq!(file.write_at(u64::from(page) * 4_096, &[1; 4_096]).unwrap(), 4_096);
    }
    assert!(matches!(file.append(b"x"), Err(VfsError::NoSpace)));
    // A volume without any limit has one all the same.
    let unlimited = Volume::memory(None);
    let file = unlimited.root().open_file("f", CREATE).unwrap();
    assert!(matches!(file.reserve(0, 1 << 50), Err(VfsError::NoSpace)));
}

/// Folders that are moved take along what they hold; but nobody moves folders where the way up is long.
#[test]
fn folders_are_moved_only_where_one_can_walk_to() {
    let memory = || Volume::memory(None);
    for volume in [memory(), Volume::overlay(&[memory()], &memory())] {
        let (root, half) = (volume.root(), "d/".repeat(DEPTH_MAX as usize / 2));
        let down = |from: &Directory| {
            from.create_directories(&half).unwrap();
            from.open_directory(&half).unwrap()
        };
        let (a, b) = (down(&root), "b/".to_owned() + &half);
        root.create_directories(&b).unwrap();
        let deep = root.open_directory(&b).unwrap();
        deep.create_directories("d/d/x").unwrap();
        deep.create_directory("y").unwrap();
        deep.rename("y", &deep, "d/y").unwrap();
        root.rename("b", &a, "b").unwrap();
        assert_eq!(names(&deep.open_directory("d").unwrap()), ["d", "y"], "a handle moves along");
        let error = deep.rename("d/y", &deep, "d/d/y").unwrap_err();
        assert!(matches!(error, VfsError::NameTooLong), "{error}");
    }
}

/// Four gibibytes with a few bytes in them.
#[test]
fn holes_cost_nothing() {
    let budget = Budget::new(Some(1 << 20));
    let volume = Volume::memory_of(Some(1 << 20), &budget);
    let file = volume.root().open_file("sparse", CREATE).unwrap();
    let end = 4 << 30;
    file.set_size(end).unwrap();
    file.write_at(end - 3, b"end").unwrap();
    file.write_at(end / 2, b"middle").unwrap();
    assert_eq!(file.stat().unwrap().size, end);
    let mut buffer = [7; 64];
    assert_eq!(file.read_at(end - 64, &mut buffer).unwrap(), 64);
    assert!(buffer[..61].iter().all(|byte| *byte == 0) && &buffer[61..] == b"end");
    assert!(budget.used() < 64 << 10, "{}", budget.used());
    file.set_size(end / 2 + 6).unwrap();
    file.set_size(u64::from(u32::MAX)).unwrap();
    assert_eq!(file.read_at(end / 2, &mut buffer).unwrap(), 64);
    assert!(buffer.starts_with(b"middle\0"));
}

/// A hundred thousand names in one folder: each step is a step in a tree of names, and a listing holds a few of
/// them at a time.
#[test]
fn large_folders_are_folders() {
    let volume = Volume::memory(None);
    let root = volume.root();
    let count = 100_000;
    for n in 0..count {
        root.open_file(&n.to_string(), CREATE).unwrap();
    }
    let mut entries = root.entries().unwrap();
    let mut seen = BTreeSet::new();
    while let Some(entry) = entries.next_entry().unwrap() {
        let n: u32 = entry.name.parse().unwrap();
        assert!(seen.insert(n));
        root.stat_at(&entry.name, true).unwrap();
        root.unlink(&entry.name).unwrap();
    }
    assert_eq!((seen.len(), volume.usage().entries), (count, 0));
}

/// Bytes that many names show are held once, and as long as one of them does; the names cost what names do.
#[test]
fn what_is_shown_under_many_names_is_held_once() {
    let budget = Budget::new(Some(1 << 20));
    let volume = Volume::memory_of(None, &budget);
    let data = Bytes::from(vec![1; 500 << 10]);
    let file = |data: &Bytes| ProjectedFile { data: data.clone(), mode: 0o644 };
    let files: BTreeMap<_, _> = (0..100).map(|n| (n.to_string(), file(&data))).collect();
    volume.project(files.clone()).unwrap();
    let once = budget.used();
    assert!(once > 500 << 10 && once < 600 << 10, "{once}");
    volume.project(files).unwrap();
    assert_eq!(budget.used(), once, "nothing has changed");
    // An old version that somebody has open is still held, whichever of its names that is.
    let old = volume.root().open_file("50", READ).unwrap();
    volume.project(BTreeMap::from([("new".to_owned(), file(&Bytes::from_static(b"new")))])).unwrap();
    assert!(budget.used() > 500 << 10);
    fails(
        volume.project(BTreeMap::from([("f".to_owned(), file(&Bytes::from(vec![2; 600 << 10])))])),
        "NoSpace",
    );
    assert_eq!(volume.root().read("new", 9).unwrap(), b"new", "it goes on showing what it did");
    drop(old);
    let many = (0..10_000).map(|n| (n.to_string(), file(&data))).collect();
    fails(volume.project(many), "NoSpace");
    drop(volume);
    assert_eq!(budget.used(), 0);
}
