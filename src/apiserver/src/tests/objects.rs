//! Creates, updates and patches.

use futures::future::join_all;
use http::Method;
use serde_json::{Value, json};

use super::harness::{JSON_PATCH, MERGE, STRATEGIC, Server, request, version};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const MAP: &str = "/api/v1/namespaces/default/configmaps/a";

#[tokio::test]
async fn the_server_owns_part_of_the_metadata() {
    let server = Server::new().await;
    let body = json!({"metadata": {
        "name": "a", "uid": "mine", "creationTimestamp": null, "deletionTimestamp": "2020-01-01T00:00:00Z",
        "generation": 7, "selfLink": "/x", "managedFields": [{"manager": "me", "operation": "Update"}],
    }});
    let object = server.post(MAPS, body).await.is(201);
    let metadata = object["metadata"].as_object().unwrap();
    let keys: Vec<&str> = metadata.keys().map(String::as_str).collect();
    assert_eq!(keys, ["creationTimestamp", "name", "namespace", "resourceVersion", "uid"]);
    assert_ne!(metadata["uid"], "mine");
    assert_eq!((&object["kind"], &object["apiVersion"]), (&json!("ConfigMap"), &json!("v1")));
    assert_eq!(server.get(MAP).await.is(200), object);
}

#[tokio::test]
async fn yaml_and_generated_names() {
    let server = Server::new().await;
    let yaml = "metadata:\n  generateName: made-\ndata:\n  a: b\n";
    let post = || server.send(request(Method::POST, MAPS, "application/yaml", yaml));
    let (one, two) = (post().await.is(201), post().await.is(201));
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap().to_owned();
    assert!(name(&one).starts_with("made-") && name(&one).len() == 10, "{}", name(&one));
    assert_ne!(name(&one), name(&two));
    assert_eq!(one["data"]["a"], "b");
}

#[tokio::test]
async fn an_update_that_changes_nothing_is_not_written() {
    let server = Server::new().await;
    let object = server.config_map("default", "a", json!({"x": "y"})).await;
    let mut same = object.clone();
    same["metadata"]["managedFields"] = json!([]);
    assert_eq!(server.put(MAP, &same).await.is(200), object);
    let patch = json!({"metadata": {"labels": {"x": "y"}}});
    assert_eq!(server.patch(MAP, MERGE, patch).await.is(200), object);
    let before = server.core.store.revision();
    same["data"]["key"] = json!("other");
    let changed = server.put(MAP, &same).await.is(200);
    assert_eq!(changed["data"]["key"], "other");
    assert_eq!(server.core.store.revision(), before + 1);
    assert_ne!(version(&changed), version(&object));
}

#[tokio::test]
async fn updates_without_a_version_win() {
    let server = Server::new().await;
    let object = server.config_map("default", "a", json!({})).await;
    server.put(MAP, &json!({"metadata": {"name": "a"}, "data": {"b": "c"}})).await.is(200);
    let now = server.get(MAP).await.is(200);
    assert_eq!(now["data"], json!({"b": "c"}));
    assert_eq!(now["metadata"]["uid"], object["metadata"]["uid"]);
    assert_eq!(now["metadata"]["creationTimestamp"], object["metadata"]["creationTimestamp"]);
}

#[tokio::test]
async fn every_kind_of_patch() {
    let server = Server::new().await;
    server.pod("p", &["a", "b"]).await;
    let pod = "/api/v1/namespaces/default/pods/p";
    let patch =
        json!({"metadata": {"labels": {"x": "1"}}, "spec": {"containers": [{"name": "b", "image": "new"}]}});
    let object = server.patch(pod, STRATEGIC, patch).await.is(200);
    assert_eq!(object["spec"]["containers"][0]["image"], "i");
    assert_eq!(object["spec"]["containers"][1]["image"], "new");
    assert_eq!(object["metadata"]["generation"], 2);
    let patch = json!([{"op": "add", "path": "/metadata/labels/y", "value": "2"}, {"op": "test", "path": "/metadata/labels/x", "value": "1"}]);
    let object = server.patch(pod, JSON_PATCH, patch).await.is(200);
    assert_eq!(object["metadata"]["labels"], json!({"x": "1", "y": "2"}));
    let object = server.patch(pod, MERGE, json!({"metadata": {"labels": {"x": null}}})).await.is(200);
    assert_eq!(object["metadata"]["labels"], json!({"y": "2"}));
    assert_eq!(object["metadata"]["generation"], 2);
}

#[tokio::test]
async fn parallel_patches_all_land() {
    let server = Server::new().await;
    server.config_map("default", "a", json!({})).await;
    let patches = (0..50).map(|n| {
        let patch = json!({"data": {format!("k{n}"): "v"}});
        server.patch(MAP, MERGE, patch)
    });
    for answer in join_all(patches).await {
        answer.is(200);
    }
    let object = server.get(MAP).await.is(200);
    assert_eq!(object["data"].as_object().unwrap().len(), 51);
}

#[tokio::test]
async fn of_parallel_updates_of_one_version_one_wins() {
    let server = Server::new().await;
    let object = server.config_map("default", "a", json!({})).await;
    let updates = (0..10).map(|n| {
        let mut object = object.clone();
        object["data"]["key"] = json!(n.to_string());
        let server = &server;
        async move { server.put(MAP, &object).await.code }
    });
    let mut codes = join_all(updates).await;
    codes.sort_unstable();
    assert_eq!(codes, [vec![200], vec![409; 9]].concat());
}

#[tokio::test]
async fn dry_runs_leave_nothing() {
    let server = Server::new().await;
    let before = server.core.store.revision();
    let created =
        server.post(&format!("{MAPS}?dryRun=All"), json!({"metadata": {"name": "a"}})).await.is(201);
    assert!(created["metadata"].get("resourceVersion").is_none());
    assert_eq!(server.core.store.revision(), before);
    let object = server.config_map("default", "a", json!({})).await;
    let patched =
        server.patch(&format!("{MAP}?dryRun=All"), MERGE, json!({"data": {"key": "new"}})).await.is(200);
    assert_eq!(patched["data"]["key"], "new");
    server.delete(&format!("{MAP}?dryRun=All"), json!(null)).await.is(200);
    assert_eq!(server.get(MAP).await.is(200), object);
    let taken = server.post(&format!("{MAPS}?dryRun=All"), json!({"metadata": {"name": "a"}})).await;
    taken.fails(409, "AlreadyExists", "configmaps \"a\" already exists");
}

#[tokio::test]
async fn status_is_written_by_itself() {
    let server = Server::new().await;
    let pod = server.pod("p", &["a"]).await;
    let path = "/api/v1/namespaces/default/pods/p";
    let mut both = pod.clone();
    both["status"]["phase"] = json!("Running");
    both["metadata"]["labels"] = json!({"a": "b"});
    let object = server.put(path, &both).await.is(200);
    assert_eq!(
        (&object["status"]["phase"], &object["metadata"]["labels"]["a"]),
        (&json!("Pending"), &json!("b"))
    );
    let patch = json!({"status": {"phase": "Running"}, "spec": {"activeDeadlineSeconds": 5}});
    let object = server.patch(&format!("{path}/status"), MERGE, patch).await.is(200);
    assert_eq!(object["status"]["phase"], "Running");
    assert!(object["spec"].get("activeDeadlineSeconds").is_none());
    assert_eq!(object["metadata"]["labels"]["a"], "b");
    assert_eq!(server.get(&format!("{path}/status")).await.is(200), object);
}

#[tokio::test]
async fn scale_of_a_controller() {
    let server = Server::new().await;
    let template =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let body = json!({"metadata": {"name": "rc"}, "spec": {"replicas": 2, "selector": {"a": "b"}, "template": template}});
    let path = "/api/v1/namespaces/default/replicationcontrollers";
    let rc = server.post(path, body).await.is(201);
    assert_eq!(rc["metadata"]["generation"], 1);
    let path = format!("{path}/rc/scale");
    let scale = server.get(&path).await.is(200);
    assert_eq!((&scale["kind"], &scale["apiVersion"]), (&json!("Scale"), &json!("autoscaling/v1")));
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["selector"]), (&json!(2), &json!("a=b")));
    let patched = server.patch(&path, MERGE, json!({"spec": {"replicas": 5}})).await.is(200);
    assert_eq!(patched["spec"]["replicas"], 5);
    server.put(&path, &scale).await.fails(409, "Conflict", "the object has been modified");
    let mut scale = patched;
    scale["spec"]["replicas"] = json!(0);
    assert_eq!(server.put(&path, &scale).await.is(200)["spec"], json!({}));
    scale["spec"]["replicas"] = json!(-1);
    let answer = server.put(&path, &scale).await;
    answer.fails(422, "Invalid", "Scale.autoscaling \"rc\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0");
    let rc = server.get("/api/v1/namespaces/default/replicationcontrollers/rc").await.is(200);
    assert_eq!((&rc["spec"]["replicas"], &rc["metadata"]["generation"]), (&json!(0), &json!(3)));
}

#[tokio::test]
async fn two_versions_of_one_autoscaler() {
    let server = Server::new().await;
    let group = server.get("/apis/autoscaling").await.is(200);
    assert_eq!(group["preferredVersion"]["version"], "v2");
    let body = json!({
        "metadata": {"name": "h"},
        "spec": {
            "scaleTargetRef": {"kind": "Deployment", "name": "web"}, "maxReplicas": 3,
            "targetCPUUtilizationPercentage": 50,
        },
    });
    let old = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
    let new = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    server.post(old, body).await.is(201);
    let stored = server.get(&format!("{new}/h")).await.is(200);
    assert_eq!(stored["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
    let patch =
        json!({"status": {"desiredReplicas": 2, "conditions": [{"type": "AbleToScale", "status": "True"}]}});
    server.patch(&format!("{new}/h/status"), MERGE, patch).await.is(200);
    // A write in the older version leaves what it has no field for.
    let patch = json!({"spec": {"targetCPUUtilizationPercentage": 60}});
    server.patch(&format!("{old}/h"), MERGE, patch).await.is(200);
    let stored = server.get(&format!("{new}/h")).await.is(200);
    assert_eq!(stored["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 60);
    assert_eq!(stored["status"]["conditions"][0]["type"], "AbleToScale");
    assert_eq!(stored["metadata"]["annotations"], Value::Null);
    assert_eq!(stored["metadata"]["generation"], Value::Null);
}

#[tokio::test]
async fn two_views_of_one_event() {
    let server = Server::new().await;
    let body = json!({
        "metadata": {"name": "e"}, "type": "Normal", "reason": "Started", "message": "it runs",
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"},
        "source": {"component": "kubelet"}, "count": 3,
    });
    server.post("/api/v1/namespaces/default/events", body).await.is(201);
    let path = "/apis/events.k8s.io/v1/namespaces/default/events";
    let view = server.get(&format!("{path}/e")).await.is(200);
    assert_eq!(view["apiVersion"], "events.k8s.io/v1");
    assert_eq!((&view["note"], &view["regarding"]["name"]), (&json!("it runs"), &json!("p")));
    let list = server.get(path).await.is(200);
    assert_eq!(list["items"][0], view);
    let patch = json!({"metadata": {"labels": {"a": "b"}}});
    server.patch(&format!("{path}/e"), MERGE, patch).await.is(200);
    let core = server.get("/api/v1/namespaces/default/events/e").await.is(200);
    assert_eq!((&core["apiVersion"], &core["message"]), (&json!("v1"), &json!("it runs")));
    assert_eq!(core["metadata"]["labels"]["a"], "b");
}

#[tokio::test]
async fn a_write_that_has_begun_ends_without_its_client() {
    let server = Server::new().await;
    let mut write = Box::pin(server.config_map("default", "left", json!({})));
    assert!(futures::poll!(write.as_mut()).is_pending(), "a write takes its time");
    drop(write);
    server.core.tasks.close();
    server.core.tasks.wait().await;
    server.get("/api/v1/namespaces/default/configmaps/left").await.is(200);
}
