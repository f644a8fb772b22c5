//! What the store does per second on this machine: `cargo bench -p coracle-store`.
//!
//! Plain measurements of a few seconds in all, for the figures in the crate's documentation.

use std::path::Path;
use std::sync::Arc;

use coracle_store::{Embedded, ListOptions, Op, Payload, Store};
use tokio::time::Instant;

/// A usual small object.
const VALUE: usize = 2_000;

/// The argument that says: only open this folder.
const OPEN: &str = "--open-only";

fn main() {
    // Memory is measured in a process of its own, which has done nothing else.
    let open_only = std::env::args_os().skip_while(|arg| arg != OPEN).nth(1);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build();
    let runtime = runtime.expect("a runtime can be made");
    runtime.block_on(async {
        if let Some(dir) = open_only {
            return opening(Path::new(&dir)).await;
        }
        let dir = tempfile::tempdir().expect("a folder for the store");
        for (writers, writes) in [(1, 500), (16, 200), (256, 80)] {
            overwrite(&open(&dir.path().join(writers.to_string())), "sled", writers, writes).await;
        }
        overwrite(&Embedded::memory(), "memory", 256, 400).await;
        large(&dir.path().join("large")).await;
        fan_out().await;
    });
}

fn open(dir: &Path) -> Arc<Embedded> {
    Embedded::sled(dir).expect("the store opens")
}

fn payload() -> Payload {
    Payload { bytes: vec![b'x'; VALUE], revision_at: 20 }
}

/// `writers` tasks each overwrite a key of their own `writes` times.
async fn overwrite(store: &Arc<Embedded>, name: &str, writers: usize, writes: usize) {
    let start = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let key = format!("pods/bench/{writer}");
                let create = Op::Create { key: key.clone(), payload: payload() };
                let mut entry = store.write(create).await.expect("the key is new");
                for _ in 1..writes {
                    let update =
                        Op::Update { key: key.clone(), payload: payload(), expect: entry.revision() };
                    entry = store.write(update).await.expect("nobody else writes it");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a writer finishes");
    }
    report(&format!("{name}: {writers} writers, {VALUE} bytes"), writers * writes, "writes", start);
    store.close().await;
}

/// Ten thousand objects: lists now and in the past, memory, and opening them again.
async fn large(dir: &Path) {
    let store = open(dir);
    let tasks: Vec<_> = (0..10_000)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                let key = format!("configmaps/bench/{n:05}");
                store.write(Op::Create { key, payload: payload() }).await.expect("the key is new").revision()
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a writer finishes");
    }
    for (name, back) in [("now", 0), ("1,000 changes ago", 1_000)] {
        let at = Some(store.revision() - back);
        let start = Instant::now();
        for _ in 0..100 {
            let options = ListOptions { at, limit: Some(500), ..ListOptions::default() };
            let listing = store.list("configmaps/", options).expect("the history reaches back");
            assert_eq!(listing.entries.len(), 500);
        }
        report(&format!("pages of 500 of 10,000, {name}"), 100, "pages", start);
    }
    print("10,000 objects", &format!("{:?}", store.usage()));
    store.close().await;

    let exe = std::env::current_exe().expect("this program has a path");
    let status = std::process::Command::new(exe).arg(OPEN).arg(dir).status();
    assert!(status.expect("this program starts").success());
}

async fn opening(dir: &Path) {
    let before = resident();
    let start = Instant::now();
    let store = open(dir);
    print("opening 10,000 objects", &format!("{:?}", start.elapsed()));
    print("resident memory, MB: at start, with the store open", &format!("{before} {}", resident()));
    store.close().await;
}

/// A thousand watchers of the same kind.
async fn fan_out() {
    let (watchers, changes) = (1_000, 2_000);
    let store = Embedded::memory();
    let start = Instant::now();
    let tasks: Vec<_> = (0..watchers)
        .map(|_| {
            let mut watcher = store.watch("pods/", 1).expect("the store is new");
            tokio::spawn(async move {
                for _ in 0..changes {
                    watcher.next().await.expect("it keeps up");
                }
            })
        })
        .collect();
    for n in 0..changes {
        let create = Op::Create { key: format!("pods/bench/{n}"), payload: payload() };
        store.write(create).await.expect("the key is new");
    }
    for task in tasks {
        task.await.expect("a watcher finishes");
    }
    report(&format!("{watchers} watchers of {changes} changes"), watchers * changes, "deliveries", start);
}

fn report(what: &str, count: usize, unit: &str, start: Instant) {
    let seconds = start.elapsed().as_secs_f64();
    print(what, &format!("{:.0} {unit}/s", count as f64 / seconds));
}

#[expect(clippy::print_stdout, reason = "printing is what a benchmark does")]
fn print(what: &str, result: &str) {
    println!("{what:<55} {result}");
}

/// Resident memory of this process in megabytes; 0 where the system does not say.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok()).unwrap_or(0) / 1024
}
