//! Few writers never wait for others; many share commits.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::*;
use crate::engine::memory::Memory;
use crate::engine::{Batch, Engine, EngineError, Loaded};
use crate::writer::GATHER;

/// A disk that takes no time, and counts.
struct Disk {
    commits: Arc<AtomicUsize>,
}

impl Engine for Disk {
    fn commit(&mut self, batch: &Batch) -> Result<(), EngineError> {
        self.commits.fetch_add(1, Ordering::Relaxed);
        Memory.commit(batch)
    }

    fn blocks(&self) -> bool {
        true
    }
}

/// Each of the writers writes so often, one write after the other; how long it took and how many commits.
async fn check(writers: usize, writes: usize) -> (Duration, usize) {
    let commits = Arc::new(AtomicUsize::new(0));
    let disk = Disk { commits: commits.clone() };
    let store = Embedded::start(Box::new(disk), Loaded { revision: 1, entries: Vec::new() });
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for writer in 0..writers {
        let store = store.clone();
        tasks.spawn(async move {
            for n in 0..writes {
                create(&store, &format!("pods/{writer}/{n}"), "").await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    let took = began.elapsed();
    store.close().await;
    (took, commits.load(Ordering::Relaxed))
}

#[tokio::test(start_paused = true)]
async fn a_writer_alone_waits_for_nobody() {
    assert_eq!(check(1, 50).await, (Duration::ZERO, 50));
    assert_eq!(check(2, 20).await.0, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_busy_store_commits_for_many_at_a_time() {
    let (took, commits) = check(32, 20).await;
    assert!(took >= GATHER * 15 && took <= GATHER * 40, "{took:?}");
    assert!(commits <= 40, "{commits} commits for 640 writes");
}
