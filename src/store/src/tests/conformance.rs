//! What every store must do. Each case runs over every engine.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::{Compacted, EventKind, HISTORY_EVENTS, MAX_KEY_BYTES, MAX_VALUE_BYTES, StoreError, WatchError};

macro_rules! conformance {
    ($($case:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test] async fn $case() { super::$case(&crate::Embedded::memory()).await; })*
        }
        mod sled {
            $(#[tokio::test] async fn $case() {
                let dir = tempfile::tempdir().unwrap();
                let store = crate::Embedded::sled(&dir.path().join("store")).unwrap();
                super::$case(&store).await;
                store.close().await;
            })*
        }
    };
}

conformance!(
    creates_updates_and_deletes,
    refuses_what_does_not_fit,
    lets_one_of_many_win,
    lists_prefixes_of_one_segment,
    pages_through_a_snapshot_while_others_write,
    lists_the_past_by_undoing,
    watches_from_a_revision,
    delivers_every_change_once_and_in_order,
    knows_its_progress,
    compacts,
    cuts_off_who_lags,
    computes_a_memo_once,
    closes,
);

async fn creates_updates_and_deletes(store: &Arc<Embedded>) {
    assert_eq!(store.revision(), 1, "an empty store is never at revision 0");
    let created = create(store, "pods/a/x", "one").await.unwrap();
    assert_eq!((created.revision(), created.create_revision()), (2, 2));
    assert_eq!(*created.value(), stored("one", 2));

    let updated = update(store, "pods/a/x", "two", 2).await.unwrap();
    assert_eq!((updated.revision(), updated.create_revision()), (3, 2));
    assert_eq!(*updated.value(), stored("two", 3));
    assert!(Arc::ptr_eq(&updated, &store.get("pods/a/x").unwrap()));

    let last = delete(store, "pods/a/x", 3).await.unwrap();
    assert_eq!((last.revision(), last.create_revision()), (4, 2));
    assert_eq!(*last.value(), stored("last", 4));
    assert!(store.get("pods/a/x").is_none());

    let again = create(store, "pods/a/x", "three").await.unwrap();
    assert_eq!((again.revision(), again.create_revision()), (5, 5));
    assert_eq!(store.revision(), 5);
    assert_eq!(store.fresh().await.unwrap(), 5);
}

async fn refuses_what_does_not_fit(store: &Arc<Embedded>) {
    create(store, "pods/a/x", "one").await.unwrap();
    let current = update(store, "pods/a/x", "two", 2).await.unwrap();

    let WriteError::Exists { current: seen } = create(store, "pods/a/x", "").await.unwrap_err() else {
        panic!()
    };
    assert!(Arc::ptr_eq(&seen, &current));
    for stale in [0, 2, 4] {
        let error = update(store, "pods/a/x", "", stale).await.unwrap_err();
        let WriteError::Conflict { current: seen } = error else { panic!("{error}") };
        assert!(Arc::ptr_eq(&seen, &current));
        assert!(matches!(delete(store, "pods/a/x", stale).await, Err(WriteError::Conflict { .. })));
    }
    assert!(matches!(update(store, "pods/a/y", "", 2).await, Err(WriteError::NotFound)));
    assert!(matches!(delete(store, "pods/a/y", 2).await, Err(WriteError::NotFound)));

    let large = "x".repeat(MAX_VALUE_BYTES);
    assert!(matches!(create(store, "pods/a/y", &large).await, Err(WriteError::TooLarge { .. })));
    for key in ["", "pods/\0", &"k".repeat(MAX_KEY_BYTES + 1)] {
        assert!(matches!(create(store, key, "").await, Err(WriteError::Invalid(_))), "{key:?}");
    }
    let outside = Payload { bytes: vec![b' '; 3], revision_at: 4 };
    let outside = store.write(Op::Create { key: "pods/a/y".to_owned(), payload: outside }).await;
    assert!(matches!(outside, Err(WriteError::Invalid(_))));

    assert_eq!(store.revision(), 3, "a refused write has no revision");
    assert_eq!(contents(store, "pods"), [("pods/a/x".to_owned(), 3)]);
}

async fn lets_one_of_many_win(store: &Arc<Embedded>) {
    let creations = run_all((0..64).map(|n| {
        let store = store.clone();
        async move { create(&store, "leases/l", &n.to_string()).await }
    }));
    let winners: Vec<_> = creations.await.into_iter().filter_map(Result::ok).collect();
    assert_eq!(winners.len(), 1);

    // Everybody increments with compare and swap until it worked: no increment may be lost.
    run_all((0..16).map(|_| {
        let store = store.clone();
        async move {
            let mut expect = store.get("leases/l").unwrap().revision();
            while let Err(error) = update(&store, "leases/l", "", expect).await {
                let WriteError::Conflict { current } = error else { panic!("{error}") };
                expect = current.revision();
            }
        }
    }))
    .await;
    assert_eq!(store.get("leases/l").unwrap().revision(), winners[0].revision() + 16);
}

async fn lists_prefixes_of_one_segment(store: &Arc<Embedded>) {
    for key in
        ["pods/a/x", "pods/ab/x", "pods/a/y", "pod/a/x", "podsets/a/x", "nodes/n", "pods/a.b/x", "pods"]
    {
        create(store, key, "").await.unwrap();
    }
    let keys = |prefix: &str, after: Option<&str>| {
        let options = ListOptions { after: after.map(str::to_owned), ..ListOptions::default() };
        let listing = store.list(prefix, options).unwrap();
        assert_eq!(listing.revision, store.revision());
        listing.entries.iter().map(|entry| entry.key().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(keys("pods/", None), ["pods/a.b/x", "pods/a/x", "pods/a/y", "pods/ab/x"]);
    assert_eq!(keys("pods", None), ["pods", "pods/a.b/x", "pods/a/x", "pods/a/y", "pods/ab/x"]);
    assert_eq!(keys("pods/a/", None), ["pods/a/x", "pods/a/y"]);
    assert_eq!(keys("pods/a/", Some("pods/a/x")), ["pods/a/y"]);
    assert_eq!(keys("pods/a/", Some("a")), ["pods/a/x", "pods/a/y"], "before the range is all of it");
    assert_eq!(keys("pods/a/", Some("pods/z")), [""; 0], "after the range is none of it");
    assert_eq!(keys("services/", None), [""; 0]);
    assert_eq!(keys("", None), [""; 0]);
}

async fn pages_through_a_snapshot_while_others_write(store: &Arc<Embedded>) {
    for n in 0..100 {
        create(store, &format!("pods/a/{n:03}"), "").await.unwrap();
    }
    let expected = contents(store, "pods/a/");
    let revision = store.revision();

    let writer = tokio::spawn({
        let (store, expected) = (store.clone(), expected.clone());
        async move {
            for (n, (key, at)) in expected.iter().enumerate() {
                match n % 3 {
                    0 => drop(delete(&store, key, *at).await.unwrap()),
                    1 => drop(update(&store, key, "new", *at).await.unwrap()),
                    _ => drop(create(&store, &format!("{key}-more"), "").await.unwrap()),
                }
                tokio::task::yield_now().await;
            }
        }
    });

    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let options = ListOptions { at: Some(revision), after, limit: Some(7) };
        let page = store.list("pods/a/", options).unwrap();
        assert_eq!(page.revision, revision);
        seen.extend(page.entries.iter().map(|entry| (entry.key().to_owned(), entry.revision())));
        assert_eq!(page.remaining, expected.len() - seen.len());
        assert_eq!(page.more, page.remaining > 0);
        if !page.more {
            break;
        }
        after = page.entries.last().map(|entry| entry.key().to_owned());
        tokio::task::yield_now().await;
    }
    assert_eq!(seen, expected);
    writer.await.unwrap();
    assert_ne!(contents(store, "pods/a/"), expected);
}

async fn lists_the_past_by_undoing(store: &Arc<Embedded>) {
    // Every past revision must read as it was, over creations, updates and deletions.
    let mut past: Vec<BTreeMap<String, Revision>> = vec![BTreeMap::new()];
    for step in 0..60_u64 {
        let mut state = past.last().unwrap().clone();
        let key = format!("pods/a/{}", step * 7 % 10);
        match state.get(&key).copied() {
            Some(at) if step % 3 == 0 => {
                delete(store, &key, at).await.unwrap();
                state.remove(&key);
            }
            Some(at) => {
                let entry = update(store, &key, "", at).await.unwrap();
                state.insert(key, entry.revision());
            }
            None => {
                let entry = create(store, &key, "").await.unwrap();
                state.insert(key, entry.revision());
            }
        }
        past.push(state);
    }
    for (at, expected) in (1..).zip(&past) {
        let listing = store.list("pods/", ListOptions { at: Some(at), ..ListOptions::default() }).unwrap();
        let found: BTreeMap<_, _> =
            listing.entries.iter().map(|e| (e.key().to_owned(), e.revision())).collect();
        assert_eq!((listing.revision, &found), (at, expected));
        assert!(listing.entries.is_sorted_by_key(|entry| entry.key().to_owned()));
    }
    let future = ListOptions { at: Some(1_000), ..ListOptions::default() };
    assert_eq!(store.list("pods/", future).unwrap().revision, store.revision(), "the future reads as now");
}

async fn watches_from_a_revision(store: &Arc<Embedded>) {
    create(store, "pods/a/x", "one").await.unwrap(); // 2
    create(store, "pods/b/x", "one").await.unwrap(); // 3
    create(store, "nodes/n", "").await.unwrap(); // 4
    update(store, "pods/a/x", "two", 2).await.unwrap(); // 5
    let mut all = store.watch("pods/", 2).unwrap();
    let mut some = store.watch("pods/a/", 1).unwrap();
    let mut future = store.watch("pods/", 6).unwrap();
    delete(store, "pods/a/x", 5).await.unwrap(); // 6
    create(store, "pods/b/y", "").await.unwrap(); // 7

    let kinds = |events: Vec<Arc<Event>>| events.iter().map(|e| (e.kind, e.revision())).collect::<Vec<_>>();
    use EventKind::{Added, Deleted, Modified};
    assert_eq!(kinds(drain(&mut all)), [(Added, 3), (Modified, 5), (Deleted, 6), (Added, 7)]);
    let events = drain(&mut some);
    assert_eq!(events[1].previous.as_ref().map(|previous| previous.revision()), Some(2));
    assert_eq!(*events[2].entry.value(), stored("last", 6));
    assert_eq!(kinds(events), [(Added, 2), (Modified, 5), (Deleted, 6)]);
    assert_eq!(kinds(drain(&mut future)), [(Added, 7)]);
}

async fn delivers_every_change_once_and_in_order(store: &Arc<Embedded>) {
    let (writers, writes) = (8, 100);
    let start = store.revision();
    let end = start + writers * writes;
    let watchers: Vec<_> = (0..4)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                // Some begin in the middle, from a revision in the past.
                while store.revision() < start + n * 50 {
                    tokio::task::yield_now().await;
                }
                let mut watcher = store.watch("pods/", start + n * 25).unwrap();
                let mut revisions = Vec::new();
                while watcher.progress() < end {
                    revisions.push(watcher.next().await.unwrap().revision());
                }
                assert_eq!(revisions, (start + n * 25 + 1..=end).collect::<Vec<_>>());
            })
        })
        .collect();
    run_all((0..writers).map(|writer| {
        let store = store.clone();
        async move {
            let key = format!("pods/{writer}/x");
            let mut entry = create(&store, &key, "").await.unwrap();
            for _ in 1..writes {
                entry = update(&store, &key, "", entry.revision()).await.unwrap();
                assert!(store.revision() >= entry.revision(), "visible before it is answered");
                assert!(Arc::ptr_eq(&store.get(&key).unwrap(), &entry));
            }
        }
    }))
    .await;
    for watcher in watchers {
        watcher.await.unwrap();
    }
}

async fn knows_its_progress(store: &Arc<Embedded>) {
    let mut watcher = store.watch("pods/a/", 1).unwrap();
    create(store, "nodes/n", "").await.unwrap(); // 2
    assert_eq!(watcher.progress(), 2, "other segments have nothing for it");
    create(store, "pods/b/x", "").await.unwrap(); // 3
    create(store, "pods/a/x", "").await.unwrap(); // 4
    create(store, "pods/b/y", "").await.unwrap(); // 5
    assert_eq!(watcher.progress(), 1, "it has not looked yet");
    assert_eq!(watcher.try_next().unwrap().unwrap().revision(), 4);
    assert_eq!(watcher.progress(), 4);
    assert!(watcher.try_next().unwrap().is_none());
    assert_eq!(watcher.progress(), 5);
}

async fn compacts(store: &Arc<Embedded>) {
    for n in 0..8 {
        create(store, &format!("pods/a/{n}"), "").await.unwrap();
    }
    let mut early = store.watch("pods/", 3).unwrap();
    let mut late = store.watch("pods/", 6).unwrap();
    store.compact(6);

    let gone = |requested| Compacted { requested, oldest: 6 };
    assert_eq!(store.watch("pods/", 5).unwrap_err(), gone(5));
    assert_eq!(store.watch("never-used/", 5).unwrap_err(), gone(5));
    let options = ListOptions { at: Some(5), ..ListOptions::default() };
    assert_eq!(store.list("pods/", options.clone()).unwrap_err(), gone(5));
    assert_eq!(store.list("never-used-either/", options).unwrap_err(), gone(5));
    assert_eq!(early.next().await.unwrap_err(), WatchError::Compacted(gone(3)));
    assert_eq!(late.next().await.unwrap().revision(), 7);

    assert!(store.watch("pods/", 6).is_ok());
    let listing = store.list("pods/", ListOptions { at: Some(6), ..ListOptions::default() }).unwrap();
    assert_eq!((listing.entries.len(), listing.revision), (5, 6));
    store.compact(1_000);
    assert!(store.watch("pods/", store.revision()).is_ok(), "the present cannot be compacted");
}

async fn cuts_off_who_lags(store: &Arc<Embedded>) {
    let mut lagging = store.watch("pods/a/", 1).unwrap();
    let mut other = store.watch("nodes/", 1).unwrap();
    create(store, "nodes/n", "").await.unwrap();
    run_all((0..=HISTORY_EVENTS).map(|n| {
        let store = store.clone();
        async move { create(&store, &format!("pods/b/{n}"), "").await.unwrap() }
    }))
    .await;
    let Err(WatchError::Compacted(compacted)) = lagging.next().await else { panic!() };
    assert_eq!((compacted.requested, compacted.oldest), (1, 3));
    assert_eq!(other.next().await.unwrap().revision(), 2, "a busy kind does not cost another its history");
    assert!(store.watch("pods/", 3).is_ok());
}

async fn computes_a_memo_once(store: &Arc<Embedded>) {
    struct Length(usize);
    let entry = create(store, "pods/a/x", "text").await.unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (entry, calls) = (entry.clone(), calls.clone());
            std::thread::spawn(move || {
                let length = entry.memo(|entry| {
                    calls.fetch_add(1, Ordering::Relaxed);
                    Length(entry.value().len())
                });
                assert_eq!(length.0, entry.value().len());
                assert_eq!(
                    *entry.memo(|entry| entry.key().to_owned()),
                    "pods/a/x",
                    "another type, another memo"
                );
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    let same = store.get("pods/a/x").unwrap();
    assert_eq!(same.memo::<Length>(|_| panic!("it was computed already")).0, entry.value().len());
}

async fn closes(store: &Arc<Embedded>) {
    let mut watcher = store.watch("pods/", 1).unwrap();
    let writes: Vec<_> = (0..50)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { create(&store, &format!("pods/a/{n}"), "").await })
        })
        .collect();
    tokio::task::yield_now().await;
    store.close().await;
    store.close().await;
    let mut acknowledged = 0;
    for write in writes {
        match write.await.unwrap() {
            Ok(entry) => {
                assert!(store.get(entry.key()).is_some());
                acknowledged += 1;
            }
            Err(error) => assert!(matches!(error, WriteError::Closed), "{error}"),
        }
    }
    for _ in 0..acknowledged {
        watcher.next().await.unwrap();
    }
    assert_eq!(watcher.next().await.unwrap_err(), WatchError::Closed);
    assert!(matches!(create(store, "pods/a/x", "").await, Err(WriteError::Closed)));
    assert!(matches!(store.fresh().await, Err(StoreError::Closed)));
    assert_eq!(contents(store, "pods/").len(), acknowledged, "what was read into memory stays readable");
}

/// Runs the futures as tasks of their own and gives their results.
async fn run_all<T: Send + 'static>(
    futures: impl Iterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let tasks: Vec<_> = futures.map(tokio::spawn).collect();
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.unwrap());
    }
    results
}
