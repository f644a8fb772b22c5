//! Deletes: grace, finalizers, preconditions, collections, namespaces.

use futures::future::join_all;
use serde_json::json;

use super::harness::{MERGE, Server, names, version};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const MAP: &str = "/api/v1/namespaces/default/configmaps/a";
const POD: &str = "/api/v1/namespaces/default/pods/p";

#[tokio::test]
async fn a_plain_object_goes_at_once() {
    let server = Server::new().await;
    let object = server.config_map("default", "a", json!({})).await;
    let done = server.delete(MAP, json!({"propagationPolicy": "Background"})).await.is(200);
    assert_eq!((&done["kind"], &done["status"]), (&json!("Status"), &json!("Success")));
    assert_eq!(done["details"]["uid"], object["metadata"]["uid"]);
    assert_eq!((&done["details"]["name"], &done["details"]["kind"]), (&json!("a"), &json!("configmaps")));
    server.get(MAP).await.fails(404, "NotFound", "configmaps \"a\" not found");
    server.delete(MAP, json!(null)).await.fails(404, "NotFound", "configmaps \"a\" not found");
}

#[tokio::test]
async fn the_last_finalizer_takes_the_object_with_it() {
    let server = Server::new().await;
    let body = json!({"metadata": {"name": "a", "finalizers": ["x.io/one", "x.io/two"]}});
    server.post(MAPS, body).await.is(201);
    let mut watch = server.watch(&format!("{MAPS}?watch=true")).await;
    assert_eq!(watch.short().await, "ADDED a");
    let marked = server.delete(MAP, json!({})).await.is(200);
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
    let again = server.post(MAPS, json!({"metadata": {"name": "a"}})).await;
    again.fails(409, "AlreadyExists", "object is being deleted: configmaps \"a\" already exists");
    let more = json!({"metadata": {"finalizers": ["x.io/one", "x.io/two", "x.io/three"]}});
    server.patch(MAP, MERGE, more).await.fails(
        422,
        "Invalid",
        "no new finalizers can be added if the object is being deleted",
    );
    let revive = json!({"metadata": {"deletionTimestamp": null, "finalizers": ["x.io/one"]}});
    let still = server.patch(MAP, MERGE, revive).await.is(200);
    assert_eq!(still["metadata"]["deletionTimestamp"], marked["metadata"]["deletionTimestamp"]);
    server.patch(MAP, MERGE, json!({"metadata": {"finalizers": []}})).await.is(200);
    server.get(MAP).await.fails(404, "NotFound", "");
    assert_eq!(watch.short().await, "MODIFIED a");
    assert_eq!(watch.short().await, "MODIFIED a");
    let gone = watch.event().await;
    assert_eq!(gone["type"], "DELETED");
    assert_eq!(
        gone["object"]["metadata"].get("finalizers").filter(|f| !f.as_array().unwrap().is_empty()),
        None
    );
}

#[tokio::test]
async fn jobs_leave_their_pods_unless_asked() {
    let server = Server::new().await;
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let pod = json!({"containers": [{"name": "c", "image": "registry.local/c:1"}], "restartPolicy": "Never"});
    let body = json!({"metadata": {"name": "j"}, "spec": {"template": {"spec": pod}}});
    server.post(jobs, body.clone()).await.is(201);
    let quiet = server.delete(&format!("{jobs}/j"), json!({"propagationPolicy": "Background"})).await;
    assert_eq!(quiet.header("warning"), "");
    quiet.is(200);
    server.post(jobs, body).await.is(201);
    let warned = server.delete(&format!("{jobs}/j"), json!({})).await;
    let warning = "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove \
        them or set propagationPolicy=Orphan to suppress this warning";
    assert_eq!(warned.header("warning"), format!("299 - \"{warning}\""));
    assert_eq!(warned.is(200)["metadata"]["finalizers"], json!(["orphan"]));
}

#[tokio::test]
async fn propagation_becomes_a_finalizer() {
    let server = Server::new().await;
    for (policy, finalizer) in [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")] {
        server.config_map("default", "a", json!({})).await;
        let marked = server.delete(&format!("{MAP}?propagationPolicy={policy}"), json!(null)).await.is(200);
        assert_eq!(marked["metadata"]["finalizers"], json!([finalizer]));
        server.patch(MAP, MERGE, json!({"metadata": {"finalizers": null}})).await.is(200);
        server.get(MAP).await.fails(404, "NotFound", "");
    }
}

#[tokio::test]
async fn pods_go_with_grace() {
    let server = Server::new().await;
    server.pod("p", &["a"]).await;
    // Nobody runs it: it goes at once.
    let gone = server.delete(POD, json!({})).await.is(200);
    assert_eq!((&gone["kind"], &gone["metadata"]["name"]), (&json!("Pod"), &json!("p")));
    server.get(POD).await.fails(404, "NotFound", "pods \"p\" not found");

    let pod = server.pod("p", &["a"]).await;
    server.bind("p", "n").await.is(201);
    let marked = server.delete(POD, json!({})).await.is(200);
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(marked["metadata"]["generation"], pod["metadata"]["generation"].as_i64().unwrap() + 1);
    let same = server.delete(POD, json!({"gracePeriodSeconds": 60})).await.is(200);
    assert_eq!(version(&same), version(&marked));
    let shorter = server.delete(POD, json!({"gracePeriodSeconds": 5})).await.is(200);
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    let wrong = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": "other"}});
    server.delete(POD, wrong).await.fails(
        409,
        "Conflict",
        "the UID in the precondition (other) does not match the UID in record",
    );
    let right = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}});
    server.delete(POD, right).await.is(200);
    server.get(POD).await.fails(404, "NotFound", "");
}

#[tokio::test]
async fn preconditions_on_the_version() {
    let server = Server::new().await;
    let object = server.config_map("default", "a", json!({})).await;
    server.patch(MAP, MERGE, json!({"data": {"x": "y"}})).await.is(200);
    let stale = json!({"preconditions": {"resourceVersion": version(&object)}});
    server.delete(MAP, stale).await.fails(409, "Conflict", "the ResourceVersion in the precondition (");
}

#[tokio::test]
async fn collections() {
    let server = Server::new().await;
    for n in 0..40 {
        server.config_map("default", &format!("m{n:02}"), json!({"odd": (n % 2 == 1).to_string()})).await;
    }
    server.config_map("kube-system", "other", json!({"odd": "true"})).await;
    let deleted = server.delete(&format!("{MAPS}?labelSelector=odd%3Dtrue"), json!({})).await.is(200);
    assert_eq!((deleted["kind"].as_str(), names(&deleted).len()), (Some("ConfigMapList"), 20));
    let left = server.get("/api/v1/configmaps").await.is(200);
    assert_eq!(names(&left).len(), 21);
    server.delete("/api/v1/configmaps", json!({})).await.fails(405, "MethodNotAllowed", "");
    server.delete("/api/v1/namespaces", json!({})).await.fails(405, "MethodNotAllowed", "");
}

#[tokio::test]
async fn a_namespace_waits_for_its_content() {
    let server = Server::new().await;
    let path = "/api/v1/namespaces/n";
    let namespace = server.post("/api/v1/namespaces", json!({"metadata": {"name": "n"}})).await.is(201);
    assert_eq!(namespace["spec"]["finalizers"], json!(["kubernetes"]));
    let marked = server.delete(path, json!({})).await.is(200);
    assert_eq!(marked["status"]["phase"], "Terminating");
    let refused = server.post(&format!("{path}/configmaps"), json!({"metadata": {"name": "a"}})).await;
    refused.fails(403, "Forbidden", "configmaps \"a\" is forbidden: unable to create new content in namespace n because it is being terminated");
    assert_eq!(refused.json()["details"]["causes"][0]["reason"], "NamespaceTerminating");
    server.delete(path, json!({})).await.is(200);
    server.get(path).await.is(200);
    let mut empty = marked;
    empty["spec"]["finalizers"] = json!([]);
    server.put(&format!("{path}/finalize"), &empty).await.is(200);
    server.get(path).await.fails(404, "NotFound", "namespaces \"n\" not found");
}

#[tokio::test]
async fn of_parallel_deletes_one_finds_the_object() {
    let server = Server::new().await;
    server.config_map("default", "a", json!({})).await;
    let mut codes: Vec<u16> =
        join_all((0..8).map(|_| server.delete(MAP, json!({})))).await.iter().map(|a| a.code).collect();
    codes.sort_unstable();
    assert_eq!(codes, [vec![200], vec![404; 7]].concat());
}

#[tokio::test(start_paused = true)]
async fn events_are_kept_for_an_hour() {
    let server = Server::new().await;
    let event = |name: &str| {
        let involved = json!({"kind": "Pod", "namespace": "default", "name": "p"});
        json!({"metadata": {"name": name}, "involvedObject": involved, "reason": "R", "message": "m", "type": "Normal"})
    };
    let path = "/api/v1/namespaces/default/events";
    server.post(path, event("old")).await.is(201);
    tokio::time::advance(std::time::Duration::from_secs(3000)).await;
    server.post(path, event("young")).await.is(201);
    tokio::time::advance(std::time::Duration::from_secs(700)).await;
    crate::events::sweep(&server.core).await;
    assert_eq!(names(&server.get(path).await.is(200)), ["young"]);
}
