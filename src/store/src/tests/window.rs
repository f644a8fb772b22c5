//! The bounds of the history: age and bytes. Its count is a matter of [`super::conformance`].

use std::time::Duration;

use super::*;
use crate::{HISTORY_AGE, HISTORY_BYTES};

#[tokio::test(start_paused = true)]
async fn old_changes_are_forgotten_without_a_write() {
    let store = Embedded::memory();
    create(&store, "pods/a/x", "").await.unwrap();
    let half = HISTORY_AGE / 2;
    tokio::time::sleep(half).await;
    update(&store, "pods/a/x", "", 2).await.unwrap();
    tokio::time::sleep(half + Duration::from_secs(1)).await;
    assert_eq!(store.usage().history_events, 1, "the first one is too old");
    assert_eq!(store.watch("pods/", 1).unwrap_err().oldest, 2);
    tokio::time::sleep(half).await;
    assert_eq!((store.usage().history_events, store.usage().history_bytes), (0, 0));
    assert_eq!(store.watch("pods/", 2).unwrap_err().oldest, 3);
    assert!(store.watch("pods/", 3).is_ok());
}

#[tokio::test]
async fn a_fat_history_gives_way_and_a_thin_one_stays() {
    let store = Embedded::memory();
    create(&store, "nodes/n", "").await.unwrap();
    let fat = "x".repeat(1024 * 1024);
    let mut entry = create(&store, "secrets/a/x", &fat).await.unwrap();
    for _ in 0..2 * HISTORY_BYTES / fat.len() {
        entry = update(&store, "secrets/a/x", &fat, entry.revision()).await.unwrap();
        assert!(store.usage().history_bytes <= HISTORY_BYTES);
    }
    assert!(store.usage().history_bytes > HISTORY_BYTES - 2 * fat.len());
    assert!(store.watch("secrets/", 3).is_err());
    assert_eq!(drain(&mut store.watch("nodes/", 1).unwrap()).len(), 1);
}

#[tokio::test]
async fn usage_is_counted_down_again() {
    let store = Embedded::memory();
    let entry = create(&store, "pods/a/x", "some text").await.unwrap();
    let one = store.usage();
    assert_eq!((one.entries, one.history_events), (1, 1));
    assert!(one.bytes > entry.key().len() + entry.value().len());
    let entry = update(&store, "pods/a/x", "same size", entry.revision()).await.unwrap();
    assert_eq!(store.usage().bytes, one.bytes);
    delete(&store, "pods/a/x", entry.revision()).await.unwrap();
    store.compact(store.revision());
    assert_eq!(store.usage(), crate::Usage::default());
}
