//! Watches: where they begin, what they show, how they end.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use futures::future::join_all;
use serde_json::json;

use super::harness::{JSON, MERGE, Server, TABLE, version};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const MAP: &str = "/api/v1/namespaces/default/configmaps/a";

#[tokio::test]
async fn changes_after_a_list() {
    let server = Server::new().await;
    server.config_map("default", "old", json!({})).await;
    let from = version(&server.get(MAPS).await.is(200));
    let mut watch = server.watch(&format!("{MAPS}?watch=true&resourceVersion={from}")).await;
    let created = server.config_map("default", "a", json!({})).await;
    server.config_map("kube-system", "elsewhere", json!({})).await;
    let patched = server.patch(MAP, MERGE, json!({"data": {"key": "new"}})).await.is(200);
    server.delete(MAP, json!(null)).await.is(200);
    assert_eq!(watch.event().await, json!({"type": "ADDED", "object": created}));
    assert_eq!(watch.event().await, json!({"type": "MODIFIED", "object": patched}));
    let deleted = watch.event().await;
    assert_eq!((&deleted["type"], &deleted["object"]["data"]["key"]), (&json!("DELETED"), &json!("new")));
    assert_ne!(version(&deleted["object"]), version(&patched));
}

#[tokio::test]
async fn a_watch_from_nowhere_begins_with_what_is_there() {
    let server = Server::new().await;
    server.config_map("default", "a", json!({})).await;
    for query in ["watch=true", "watch=1&resourceVersion=0"] {
        let mut watch = server.watch(&format!("{MAPS}?{query}")).await;
        assert_eq!(watch.short().await, "ADDED a");
    }
    let mut old_style = server.watch("/api/v1/watch/namespaces/default/configmaps/a").await;
    assert_eq!(old_style.short().await, "ADDED a");
}

#[tokio::test]
async fn selected_objects_come_and_go() {
    let server = Server::new().await;
    let from = version(&server.get(MAPS).await.is(200));
    let mut watch =
        server.watch(&format!("{MAPS}?watch=true&resourceVersion={from}&labelSelector=x%3D1")).await;
    let label = |value: &str| server.patch(MAP, MERGE, json!({"metadata": {"labels": {"x": value}}}));
    server.config_map("default", "a", json!({"x": "0"})).await;
    let came = label("1").await.is(200);
    server.patch(MAP, MERGE, json!({"data": {"key": "new"}})).await.is(200);
    let left = label("2").await.is(200);
    label("3").await.is(200);
    label("1").await.is(200);
    server.delete(MAP, json!(null)).await.is(200);
    assert_eq!(watch.event().await, json!({"type": "ADDED", "object": came}));
    assert_eq!(watch.short().await, "MODIFIED a");
    let gone = watch.event().await;
    // What it was when it was last selected, at the version at which it no longer was.
    assert_eq!((&gone["type"], &gone["object"]["metadata"]["labels"]["x"]), (&json!("DELETED"), &json!("1")));
    assert_eq!(version(&gone["object"]), version(&left));
    assert_eq!(watch.short().await, "ADDED a");
    assert_eq!(watch.short().await, "DELETED a");
}

#[tokio::test]
async fn a_watch_of_one_name() {
    let server = Server::new().await;
    let mut watch = server.watch(&format!("{MAPS}?watch=true&fieldSelector=metadata.name%3Da")).await;
    server.config_map("default", "ab", json!({})).await;
    server.config_map("default", "a", json!({})).await;
    assert_eq!(watch.short().await, "ADDED a");
}

#[tokio::test]
async fn history_that_is_gone_is_an_error_in_the_stream() {
    let server = Server::new().await;
    server.config_map("default", "a", json!({})).await;
    server.core.store.compact(server.core.store.revision());
    let mut watch = server.watch(&format!("{MAPS}?watch=true&resourceVersion=2")).await;
    let event = watch.event().await;
    assert_eq!(event["type"], "ERROR");
    assert_eq!((&event["object"]["code"], &event["object"]["reason"]), (&json!(410), &json!("Expired")));
    assert!(event["object"]["message"].as_str().unwrap().starts_with("too old resource version: 2 ("));
    assert_eq!(watch.line().await, None);
}

#[tokio::test(start_paused = true)]
async fn bookmarks_and_the_end_of_time() {
    let server = Server::new().await;
    server.config_map("default", "a", json!({})).await;
    let from = version(&server.get(MAPS).await.is(200));
    let query = "watch=true&allowWatchBookmarks=true&timeoutSeconds=150";
    let mut watch = server.watch(&format!("{MAPS}?{query}&resourceVersion={from}")).await;
    // Another kind's change moves the bookmark.
    server.pod("p", &["a"]).await;
    let revision = server.core.store.revision().to_string();
    for _ in 0..3 {
        let event = watch.event_within_a_day().await;
        assert_eq!(event["type"], "BOOKMARK");
        assert_eq!(event["object"]["kind"], "ConfigMap");
        assert_eq!(event["object"]["metadata"], json!({"resourceVersion": revision}));
    }
    assert_eq!(watch.line_within_a_day().await, None);
}

#[tokio::test]
async fn a_watch_may_ask_for_more_time_than_there_is() {
    let server = Server::new().await;
    server.config_map("default", "a", json!({})).await;
    let mut watch = server.watch(&format!("{MAPS}?watch=true&timeoutSeconds={}", i64::MAX)).await;
    assert_eq!(watch.event().await["type"], "ADDED");
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let server = Server::new().await;
    server.config_map("default", "a", json!({})).await;
    let query =
        "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = server.watch(&format!("{MAPS}?{query}")).await;
    assert_eq!(watch.short().await, "ADDED a");
    let end = watch.event().await;
    assert_eq!(end["type"], "BOOKMARK");
    assert_eq!(end["object"]["metadata"]["annotations"], json!({"k8s.io/initial-events-end": "true"}));
    assert_eq!(version(&end["object"]), server.core.store.revision().to_string());
    server.config_map("default", "b", json!({})).await;
    assert_eq!(watch.short().await, "ADDED b");
}

#[tokio::test]
async fn tables_name_their_columns_once() {
    let server = Server::new().await;
    server.config_map("default", "a", json!({})).await;
    let mut watch = server.watch_as(&format!("{MAPS}?watch=true"), TABLE).await;
    let first = watch.event().await;
    assert_eq!((&first["type"], &first["object"]["kind"]), (&json!("ADDED"), &json!("Table")));
    assert_eq!(first["object"]["columnDefinitions"][0]["name"], "Name");
    assert_eq!(first["object"]["rows"][0]["cells"][0], "a");
    server.config_map("default", "b", json!({})).await;
    let second = watch.event().await;
    assert!(second["object"]["columnDefinitions"].as_array().is_none_or(Vec::is_empty));
    assert_eq!(second["object"]["rows"][0]["object"]["metadata"]["name"], "b");
}

#[tokio::test]
async fn watches_end_with_the_server() {
    let server = Server::new().await;
    let mut watch = server.watch_as(&format!("{MAPS}?watch=true"), JSON).await;
    server.config_map("default", "a", json!({})).await;
    assert_eq!(watch.short().await, "ADDED a");
    server.core.shutdown.cancel();
    assert_eq!(watch.line().await, None);
}

#[tokio::test]
async fn many_watchers_see_the_same() {
    let server = Server::new().await;
    let mut watches = Vec::new();
    for n in 0..50 {
        let query = if n % 2 == 0 { "" } else { "&labelSelector=x%3D1" };
        watches.push(server.watch(&format!("{MAPS}?watch=true{query}")).await);
    }
    for n in 0..20 {
        server.config_map("default", &format!("m{n:02}"), json!({"x": "1"})).await;
    }
    for watch in &mut watches {
        for n in 0..20 {
            assert_eq!(watch.short().await, format!("ADDED m{n:02}"));
        }
    }
}

/// While the name of an object is given again and again, everybody who lists and then watches it hears of the
/// end of the one that was listed: how kubectl and informers wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_lists_an_object_hears_of_its_end() {
    let server = Arc::new(Server::new().await);
    server.config_map("default", "a", json!({})).await;
    let over = Arc::new(AtomicBool::new(false));
    let waiters: Vec<_> = (0..8).map(|_| tokio::spawn(wait(server.clone(), over.clone()))).collect();
    for _ in 0..300 {
        server.delete(MAP, json!(null)).await.is(200);
        server.config_map("default", "a", json!({})).await;
    }
    server.delete(MAP, json!(null)).await.is(200);
    over.store(true, Ordering::Relaxed);
    let heard: usize = join_all(waiters).await.into_iter().map(Result::unwrap).sum();
    assert!(heard > 0);
}

/// Waits for the ends of the objects called `a` until there will be no more; how many it heard of.
async fn wait(server: Arc<Server>, over: Arc<AtomicBool>) -> usize {
    let named = format!("{MAPS}?fieldSelector=metadata.name%3Da");
    let mut heard = 0;
    loop {
        let last = over.load(Ordering::Relaxed);
        let list = server.get(&format!("{named}&limit=500&resourceVersion=0")).await.is(200);
        let Some(listed) = list["items"].get(0) else {
            if last {
                return heard;
            }
            tokio::task::yield_now().await;
            continue;
        };
        let mut watch = server.watch(&format!("{named}&watch=true&resourceVersion={}", version(&list))).await;
        let event = watch.event().await;
        assert_eq!(event["type"], "DELETED");
        assert_eq!(event["object"]["metadata"]["uid"], listed["metadata"]["uid"]);
        heard += 1;
    }
}
