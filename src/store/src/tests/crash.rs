//! Nothing acknowledged is lost and nothing unacknowledged is shown: when a commit fails before or
//! after it reached the disk, and when the process is killed in the middle of its work.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use super::*;
use crate::engine::memory::Memory;
use crate::engine::sled::Sled;
use crate::engine::{Batch, Engine, EngineError, Loaded};
use crate::{StoreError, WatchError};

/// What the engine does at the commit that fails.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Nothing, and says that it failed.
    Before,
    /// Everything, and says that it failed: a disk that loses its last answer.
    After,
    Panic,
}

/// An engine with a fault at its nth commit.
struct Faulty<E> {
    inner: E,
    healthy: usize,
    fault: Fault,
}

impl<E: Engine> Engine for Faulty<E> {
    fn commit(&mut self, batch: &Batch) -> Result<(), EngineError> {
        if self.healthy > 0 {
            self.healthy -= 1;
            return self.inner.commit(batch);
        }
        match self.fault {
            Fault::Before => Err(EngineError::Injected),
            Fault::After => self.inner.commit(batch).and(Err(EngineError::Injected)),
            Fault::Panic => panic!("a fault was injected"),
        }
    }

    fn blocks(&self) -> bool {
        self.inner.blocks()
    }
}

/// Writes until the fault; gives the store and the last acknowledged revision.
async fn check<E: Engine + 'static>(inner: E, loaded: Loaded, fault: Fault) -> (Arc<Embedded>, Revision) {
    let store = Embedded::start(Box::new(Faulty { inner, healthy: 3, fault }), loaded);
    let mut watcher = store.watch("pods/", store.revision()).unwrap();
    for n in 0..3 {
        create(&store, &format!("pods/a/{n}"), "").await.unwrap();
    }
    let acknowledged = store.revision();

    // One batch: the refused creation rests on state that the batch only would have made.
    let (a, b, c) = tokio::join!(
        create(&store, "pods/a/new", ""),
        create(&store, "pods/a/new", ""),
        update(&store, "pods/a/0", "new", 2)
    );
    for outcome in [a, b, c] {
        let Err(WriteError::Failed(failure)) = outcome else { panic!("{fault:?}: {outcome:?}") };
        assert!(failure.to_string().contains("a fault was injected"), "{failure}");
    }
    assert!(matches!(create(&store, "nodes/n", "").await, Err(WriteError::Failed(_))), "it stays failed");
    assert!(matches!(store.fresh().await, Err(StoreError::Failed(_))));

    assert_eq!(store.revision(), acknowledged);
    assert!(store.get("pods/a/new").is_none());
    assert_eq!(contents(&store, "pods/").len(), 3);
    assert_eq!(drain(&mut watcher).len(), 3);
    store.close().await;
    assert_eq!(watcher.next().await.unwrap_err(), WatchError::Closed);
    (store, acknowledged)
}

#[tokio::test]
async fn a_failed_commit_fails_its_writes_and_all_after() {
    for fault in [Fault::Before, Fault::After, Fault::Panic] {
        check(Memory, Loaded { revision: 1, entries: Vec::new() }, fault).await;

        let dir = tempfile::tempdir().unwrap();
        let (engine, loaded) = Sled::open(dir.path()).unwrap();
        let (_, acknowledged) = check(engine, loaded, fault).await;
        let store = Embedded::sled(dir.path()).unwrap();
        assert!(store.revision() >= acknowledged);
        let written = matches!(fault, Fault::After);
        assert_eq!(store.get("pods/a/new").is_some(), written, "{fault:?}");
        assert_eq!(store.get("pods/a/0").unwrap().revision() > acknowledged, written, "all of it or none");
        assert!(store.get("nodes/n").is_none());
        store.close().await;
    }
}

const FOLDER: &str = "CORACLE_STORE_TEST_FOLDER";
const WRITERS: usize = 8;

/// The key that a writer's nth write is about.
fn key(writer: usize, n: usize) -> String {
    format!("pods/{writer}/{}", n % 20)
}

/// Not a test of its own: what [`kill_9_loses_nothing_acknowledged`] runs in a process and kills.
#[tokio::test]
async fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let store = Embedded::sled(Path::new(&folder)).unwrap();
    let writers = (0..WRITERS).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            let text = "x".repeat(1_000 * writer);
            for n in 0.. {
                let key = key(writer, n);
                let entry = match store.get(&key) {
                    None => create(&store, &key, &text).await.unwrap(),
                    Some(current) if n % 7 == 0 => delete(&store, &key, current.revision()).await.unwrap(),
                    Some(current) => update(&store, &key, &text, current.revision()).await.unwrap(),
                };
                println!("\nack {writer} {n} {} {} end", entry.revision(), store.get(&key).is_some());
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
}

#[tokio::test]
async fn kill_9_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    // Every key that is there, with its revision; in the beginning none.
    let mut expected: BTreeMap<String, Revision> = BTreeMap::new();
    let mut newest = 1;
    for round in 0..4 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["tests::crash::child", "--exact", "--nocapture"])
            .env(FOLDER, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut count = 0;
        let mut next = [0; WRITERS];
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            // The last line may be cut off by the kill.
            let ["ack", writer, n, revision, exists, "end"] = line.split(' ').collect::<Vec<_>>()[..] else {
                continue;
            };
            let (writer, n): (usize, usize) = (writer.parse().unwrap(), n.parse().unwrap());
            let revision = revision.parse().unwrap();
            match exists {
                "true" => drop(expected.insert(key(writer, n), revision)),
                _ => drop(expected.remove(&key(writer, n))),
            }
            newest = newest.max(revision);
            next[writer] = n + 1;
            count += 1;
            if count == 300 + round * 97 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(count >= 300, "the child wrote and was killed");

        let store = Embedded::sled(dir.path()).unwrap();
        assert!(store.revision() >= newest, "the revision does not go back");
        let mut found: BTreeMap<_, _> = contents(&store, "pods/").into_iter().collect();
        let all = found.clone();
        // A writer has one write at a time, so only its next one may be there or not.
        for (writer, n) in next.into_iter().enumerate() {
            found.remove(&key(writer, n));
            expected.remove(&key(writer, n));
        }
        assert_eq!(found, expected);
        // What could be read must stay as well.
        (expected, newest) = (all, store.revision());
        store.close().await;
    }
}
