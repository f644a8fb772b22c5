//! What is in sled's folder: it keeps everything, is not shared, and is not believed when damaged.

use std::fs;
use std::path::Path;

use super::*;
use crate::OpenError;
use crate::engine::record::CHUNK;

#[tokio::test]
async fn reopening_keeps_everything() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::sled(dir.path()).unwrap();
    for n in 0..300 {
        create(&store, &format!("pods/a/{n}"), &n.to_string()).await.unwrap();
    }
    for n in (0..300).step_by(3) {
        update(&store, &format!("pods/a/{n}"), "new", n + 2).await.unwrap();
    }
    for n in (1..300).step_by(3) {
        delete(&store, &format!("pods/a/{n}"), n + 2).await.unwrap();
    }
    let (revision, before) = (store.revision(), snapshot(&store));
    store.close().await;

    for _ in 0..2 {
        let store = Embedded::sled(dir.path()).unwrap();
        assert_eq!((store.revision(), snapshot(&store)), (revision, before.clone()));
        assert!(store.watch("pods/", revision).is_ok());
        assert!(store.watch("pods/", revision - 1).is_err(), "the history does not survive, and says so");
        store.close().await;
    }
    // The revision does not go back either when the newest change was a deletion.
    let store = Embedded::sled(dir.path()).unwrap();
    let last = delete(&store, "pods/a/0", store.get("pods/a/0").unwrap().revision()).await.unwrap();
    store.close().await;
    let store = Embedded::sled(dir.path()).unwrap();
    assert_eq!(store.revision(), last.revision());
    assert!(store.get("pods/a/0").is_none());
    store.close().await;
}

#[tokio::test]
async fn values_of_all_sizes_grow_and_shrink() {
    let dir = tempfile::tempdir().unwrap();
    let overhead = payload("").bytes.len() + 1;
    let sizes = [0, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 1_000_000, 10, 2 * CHUNK, 200_000];
    let mut expect = None;
    for size in sizes {
        let store = Embedded::sled(dir.path()).unwrap();
        let text = "x".repeat(size.saturating_sub(overhead));
        let long = format!("pods/{}", "k".repeat(700));
        let entry = match expect {
            None => create(&store, &long, &text).await.unwrap(),
            Some(expect) => update(&store, &long, &text, expect).await.unwrap(),
        };
        expect = Some(entry.revision());
        store.close().await;
        let store = Embedded::sled(dir.path()).unwrap();
        assert_eq!(store.get(&long).unwrap().value(), entry.value());
        store.close().await;
        let apart = fs::read_dir(dir.path().join("blobs")).unwrap().count();
        assert_eq!(apart, 0, "sled would not sync what it stores apart");
    }
}

#[tokio::test]
async fn a_folder_has_one_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::sled(dir.path()).unwrap();
    let error = Embedded::sled(dir.path()).err().unwrap();
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    store.close().await;
    Embedded::sled(dir.path()).unwrap().close().await;
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let error = Embedded::sled(&dir.path().join("file").join("store")).err().unwrap();
    assert!(matches!(error, OpenError::Io { action: "create", .. }), "{error}");
    fs::create_dir_all(dir.path().join("store").join("lock")).unwrap();
    let error = Embedded::sled(&dir.path().join("store")).err().unwrap();
    assert!(error.to_string().contains("cannot create the store at"), "{error}");
}

#[tokio::test]
async fn a_lost_file_is_noticed() {
    let (dir, _) = filled().await;
    check_damaged(dir.path(), "witness", "its witness file is not a number", |path| {
        fs::write(path, "x").unwrap();
    });
    check_damaged(dir.path(), "witness", "revision 99999999 was seen", |path| {
        fs::write(path, "99999999\n").unwrap();
    });
    check_damaged(dir.path(), "db", "its head record is missing", |path| {
        fs::remove_file(path).unwrap();
        for entry in fs::read_dir(path.parent().unwrap()).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name().to_string_lossy().starts_with("snap.") {
                fs::remove_file(entry.path()).unwrap();
            }
        }
    });
}

/// Wherever a bit flips or the file ends early: either all is there, or it says that it is not.
#[tokio::test]
async fn damage_is_never_served() {
    let (dir, before) = filled().await;
    let length = fs::metadata(dir.path().join("db")).unwrap().len() as usize;
    let mut refused = 0;
    for step in 0..24 {
        let place = length * step / 24 + step * 997 % 4096;
        let copy = copy_of(dir.path());
        let path = copy.path().join("db");
        let mut bytes = fs::read(&path).unwrap();
        if step % 4 == 3 {
            bytes.truncate(place);
        } else {
            bytes[place..(place + 64).min(length)].fill(0xa5);
        }
        fs::write(&path, bytes).unwrap();
        match Embedded::sled(copy.path()) {
            Ok(store) => {
                assert_eq!(snapshot(&store), before, "with damage at {place} of {length}");
                store.close().await;
            }
            Err(error) => {
                assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "none of the damage hit anything");
}

async fn filled() -> (tempfile::TempDir, Vec<(String, String)>) {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::sled(dir.path()).unwrap();
    for n in 0..400 {
        create(&store, &format!("pods/a/{n}"), &"text ".repeat(200)).await.unwrap();
    }
    let contents = snapshot(&store);
    store.close().await;
    (dir, contents)
}

/// Spoils one file in a copy of the folder, and expects to be told.
#[track_caller]
fn check_damaged(dir: &Path, file: &str, reason: &str, spoil: impl FnOnce(&Path)) {
    let copy = copy_of(dir);
    spoil(&copy.path().join(file));
    let error = Embedded::sled(copy.path()).err().expect("the damage is noticed");
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains(reason), "{error}");
    assert!(error.to_string().contains("Restore the folder from a backup"), "{error}");
}

fn copy_of(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    fs::create_dir(copy.path().join("blobs")).unwrap();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
        fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

fn snapshot(store: &Embedded) -> Vec<(String, String)> {
    let listing = store.list("pods/", ListOptions::default()).unwrap();
    let pairs = listing.entries.iter();
    pairs.map(|entry| (entry.key().to_owned(), String::from_utf8(entry.value().to_vec()).unwrap())).collect()
}
