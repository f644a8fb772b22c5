//! Pods: admission, binding, logs.

use axum::{Router, extract::Request, routing::get};
use http::StatusCode;
use serde_json::{Value, json};

use super::harness::{JSON_PATCH, MERGE, STRATEGIC, Server};

const POD: &str = "/api/v1/namespaces/default/pods/p";

#[tokio::test]
async fn admission_fills_in() {
    let server = Server::new().await;
    let pod = server.pod("p", &["a"]).await;
    let spec = &pod["spec"];
    assert_eq!(
        (&spec["serviceAccountName"], &spec["serviceAccount"]),
        (&json!("default"), &json!("default"))
    );
    assert_eq!((&spec["priority"], &spec["preemptionPolicy"]), (&json!(0), &json!("PreemptLowerPriority")));
    let keys: Vec<&str> =
        spec["tolerations"].as_array().unwrap().iter().map(|t| t["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]);
    assert_eq!(pod["status"]["phase"], "Pending");
    let all = json!([{"operator": "Exists"}]);
    let spec = json!({"containers": [{"name": "a", "image": "i"}], "tolerations": all, "priorityClassName": "system-node-critical"});
    let body = json!({"metadata": {"name": "q"}, "spec": spec});
    let pod = server.post("/api/v1/namespaces/default/pods", body).await.is(201);
    assert_eq!(pod["spec"]["tolerations"], all);
    assert_eq!(pod["spec"]["priority"], 2_000_001_000);
    let spec = json!({"containers": [{"name": "a", "image": "i"}], "priorityClassName": "nope"});
    let refused = server
        .post("/api/v1/namespaces/default/pods", json!({"metadata": {"name": "r"}, "spec": spec}))
        .await;
    refused.fails(403, "Forbidden", "pods \"r\" is forbidden: no PriorityClass with name nope was found");
}

#[tokio::test]
async fn a_pod_is_bound_once() {
    let server = Server::new().await;
    server.pod("p", &["a"]).await;
    let done = server.bind("p", "one").await.is(201);
    assert_eq!((&done["kind"], &done["status"]), (&json!("Status"), &json!("Success")));
    let pod = server.get(POD).await.is(200);
    assert_eq!(pod["spec"]["nodeName"], "one");
    let condition = &pod["status"]["conditions"][0];
    assert_eq!((&condition["type"], &condition["status"]), (&json!("PodScheduled"), &json!("True")));
    server.bind("p", "two").await.fails(
        409,
        "Conflict",
        "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"one\"",
    );
    server.delete(POD, json!({})).await.is(200);
    server.bind("nope", "one").await.fails(404, "NotFound", "pods \"nope\" not found");
    let list = server.get("/api/v1/pods?fieldSelector=spec.nodeName%3Done").await.is(200);
    assert_eq!(super::harness::names(&list), ["p"]);
}

#[tokio::test]
async fn an_update_keeps_what_admission_gave() {
    let server = Server::new().await;
    let pod = server.pod("p", &["a"]).await;
    let mut update = pod.clone();
    for field in ["tolerations", "priority", "preemptionPolicy"] {
        update["spec"].as_object_mut().unwrap().remove(field);
    }
    assert_eq!(server.put(POD, &update).await.is(200), pod);
}

/// Says that the containers of a pod run.
async fn run(server: &Server, containers: &[&str]) {
    let statuses: Vec<Value> = containers
        .iter()
        .map(|name| json!({"name": name, "image": "i", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}))
        .collect();
    let patch = json!({"status": {"phase": "Running", "containerStatuses": statuses}});
    server.patch(&format!("{POD}/status"), MERGE, patch).await.is(200);
}

#[tokio::test]
async fn logs_come_from_the_node() {
    let server = Server::new().await;
    let echo = get(|request: Request| async move { format!("asked {}\n", request.uri()) });
    server
        .core
        .nodes
        .register("n", Router::new().route("/containerLogs/{namespace}/{pod}/{container}", echo));
    server.pod("p", &["a"]).await;
    let empty = server.get(&format!("{POD}/log")).await;
    assert_eq!((empty.code, empty.text().as_str()), (200, ""));
    server.bind("p", "n").await.is(201);
    let waiting = server.get(&format!("{POD}/log")).await;
    waiting.fails(400, "BadRequest", "container \"a\" in pod \"p\" is waiting to start: ContainerCreating");
    run(&server, &["a"]).await;
    let log = server.get(&format!("{POD}/log?follow=true&tailLines=5&sinceTime=2026-01-01T00%3A00%3A00Z&insecureSkipTLSVerifyBackend=true")).await;
    assert_eq!(log.header("content-type"), "text/plain");
    assert_eq!(
        log.text(),
        "asked /containerLogs/default/p/a?follow=true&sinceTime=2026-01-01T00%3A00%3A00Z&tailLines=5\n"
    );
    server.get(&format!("{POD}/log?container=b")).await.fails(
        400,
        "BadRequest",
        "container b is not valid for pod p",
    );
    server.get(&format!("{POD}/log?tailLines=-1")).await.fails(
        422,
        "Invalid",
        "tailLines: Invalid value: -1: must be greater than or equal to 0",
    );
    server.get(&format!("{POD}/log?previous=true")).await.fails(
        400,
        "BadRequest",
        "previous terminated container \"a\" in pod \"p\" not found",
    );
}

#[tokio::test]
async fn a_log_needs_one_container_and_a_node_that_answers() {
    let server = Server::new().await;
    server.pod("p", &["a", "b"]).await;
    server.bind("p", "n").await.is(201);
    run(&server, &["a", "b"]).await;
    server.get(&format!("{POD}/log")).await.fails(
        400,
        "BadRequest",
        "a container name must be specified for pod p, choose one of: [a b]",
    );
    server.get(&format!("{POD}/log?container=a")).await.fails(
        500,
        "InternalError",
        "the node \"n\" of the pod cannot be reached",
    );
    let broken = Router::new().fallback(|| async { (StatusCode::NOT_FOUND, "no such container") });
    server.core.nodes.register("n", broken);
    server.get(&format!("{POD}/log?container=a")).await.fails(404, "NotFound", "no such container");
}

/// What a node ignores or refuses is said when it is written, and once.
#[tokio::test]
async fn who_asks_for_linux_is_warned() {
    let server = Server::new().await;
    let pods = "/api/v1/namespaces/default/pods";
    let containers = json!([{"name": "a", "image": "i"}]);
    let spec = json!({"runtimeClassName": "wasmedge", "containers": containers});
    let written = server.post(pods, json!({"metadata": {"name": "p"}, "spec": spec})).await;
    written.is(201);
    let ignored = "ignored: there is one runtime, and it runs Wasm modules";
    assert_eq!(written.header("warning"), format!("299 - \"spec.runtimeClassName: {ignored}\""));
    let labelled = server.patch(POD, MERGE, json!({"metadata": {"labels": {"a": "b"}}})).await;
    labelled.is(200);
    assert_eq!(labelled.header("warning"), "");
    let privileged = json!({"name": "debug", "image": "i", "securityContext": {"privileged": true}});
    let patch = json!({"spec": {"ephemeralContainers": [privileged]}});
    let debugged = server.patch(&format!("{POD}/ephemeralcontainers"), STRATEGIC, patch).await;
    debugged.is(200);
    let refused = "not supported: a module reaches no device of the host";
    let place = "spec.ephemeralContainers[0].securityContext.privileged";
    assert_eq!(debugged.header("warning"), format!("299 - \"{place}: {refused}\""));
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": spec});
    let deployment = json!({"metadata": {"name": "d"}, "spec": {
        "selector": {"matchLabels": {"a": "b"}}, "template": template,
    }});
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let mut written = server.post(path, deployment).await;
    assert_eq!(
        written.header("warning"),
        format!("299 - \"spec.template.spec.runtimeClassName: {ignored}\"")
    );
    let mut object = written.is(201).clone();
    object["spec"]["replicas"] = json!(3);
    written = server.put(&format!("{path}/d"), &object).await;
    written.is(200);
    assert_eq!(written.header("warning"), "");
}

#[tokio::test]
async fn ephemeral_containers_are_added_and_stay() {
    let server = Server::new().await;
    server.pod("p", &["a"]).await;
    let path = format!("{POD}/ephemeralcontainers");
    let patch = json!({
        "metadata": {"labels": {"not": "taken"}},
        "spec": {"ephemeralContainers": [{"name": "debug", "image": "toolbox", "targetContainerName": "a"}]},
    });
    let pod = server.patch(&path, STRATEGIC, patch).await.is(200);
    let debug = &pod["spec"]["ephemeralContainers"][0];
    assert_eq!(
        (&debug["name"], &debug["terminationMessagePolicy"]),
        (&json!("debug"), &json!("File")),
        "defaults are filled in"
    );
    assert_eq!(pod["metadata"].get("labels"), None);
    assert_eq!(server.get(&path).await.is(200), pod);

    let mut changed = pod.clone();
    changed["spec"]["ephemeralContainers"][0]["image"] = json!("other");
    let why =
        "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"debug\" may not be changed";
    server.put(&path, &changed).await.fails(422, "Invalid", why);
    changed["spec"].as_object_mut().unwrap().remove("ephemeralContainers");
    let why =
        "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"debug\" may not be removed";
    server.put(&path, &changed).await.fails(422, "Invalid", why);
    let same_name = json!({"spec": {"ephemeralContainers": [{"name": "a", "image": "x"}]}});
    server.patch(&path, STRATEGIC, same_name).await.fails(422, "Invalid", "Duplicate value: \"a\"");
    let whole = json!({"spec": {"ephemeralContainers": [{"name": "b", "image": "x"}]}});
    server.patch(POD, STRATEGIC, whole).await.fails(422, "Invalid", "pod updates may not change fields");
}

#[tokio::test]
async fn resources_change_where_the_node_can_do_it() {
    let server = Server::new().await;
    let resources = json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "200m"}});
    let spec = json!({"containers": [{"name": "a", "image": "i", "resources": resources}]});
    let body = json!({"metadata": {"name": "p"}, "spec": spec});
    server.post("/api/v1/namespaces/default/pods", body).await.is(201);
    let path = format!("{POD}/resize");
    let resize = |resources: Value| json!({"spec": {"containers": [{"name": "a", "resources": resources}]}});
    let bigger = resize(json!({"requests": {"cpu": "150m"}}));
    let pod = server.patch(&path, STRATEGIC, bigger.clone()).await.is(200);
    assert_eq!(pod["spec"]["containers"][0]["resources"]["requests"]["cpu"], "150m");
    assert_eq!(pod["spec"]["containers"][0]["image"], "i");
    let more = resize(json!({"requests": {"ephemeral-storage": "1Mi"}}));
    server.patch(&path, STRATEGIC, more).await.fails(
        422,
        "Invalid",
        "only cpu and memory resources are mutable",
    );
    let some = resize(json!({"limits": {"memory": "20Mi"}, "requests": {"memory": "5Mi"}}));
    server.patch(&path, STRATEGIC, some).await.is(200);
    let less = resize(json!({"limits": {"memory": "10Mi"}}));
    server.patch(&path, STRATEGIC, less.clone()).await.fails(
        422,
        "Invalid",
        "spec.containers[0].resources.limits[memory]: Forbidden: memory limits cannot be decreased unless \
         resizePolicy is RestartContainer",
    );
    let policy = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    let mut restarting = less;
    restarting["spec"]["containers"][0]["resizePolicy"] = policy;
    server.patch(&path, STRATEGIC, restarting).await.is(200);
    let gone = json!([{"op": "remove", "path": "/spec/containers/0/resources"}]);
    let classless = server.patch(&path, JSON_PATCH, gone).await;
    classless.fails(422, "Invalid", "Pod QOS Class may not change as a result of resizing");
    run(&server, &["a"]).await;
    let unable = server.patch(&path, STRATEGIC, resize(json!({"requests": {"cpu": "160m"}}))).await;
    unable.fails(422, "Invalid", "spec: Forbidden: Pod running on node without support for resize");
}

#[tokio::test]
async fn a_pod_without_a_budget_is_evicted() {
    let server = Server::new().await;
    server.pod("p", &["a"]).await;
    server.bind("p", "n").await.is(201);
    run(&server, &["a"]).await;
    let path = format!("{POD}/eviction");
    let eviction = |name: &str, options: Value| json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}, "deleteOptions": options});
    let other = server.post(&path, eviction("q", json!({}))).await;
    other.fails(400, "BadRequest", "name in URL does not match name in Eviction object");
    server.post(&path, eviction("p", json!({"dryRun": ["All"]}))).await.is(201);
    let mut of_old = eviction("p", json!({"dryRun": ["All"]}));
    of_old["apiVersion"] = json!("policy/v1beta1");
    server.post(&path, of_old.clone()).await.is(201);
    of_old["apiVersion"] = json!("policy/v2");
    server.post(&path, of_old).await.fails(400, "BadRequest", "does not match the expected API version");
    let stale = eviction("p", json!({"preconditions": {"resourceVersion": "1"}}));
    server.post(&path, stale).await.fails(409, "Conflict", "");
    assert!(server.get(POD).await.is(200)["metadata"].get("deletionTimestamp").is_none());
    let done = server.post(&path, eviction("p", json!({"gracePeriodSeconds": 7}))).await.is(201);
    assert_eq!((&done["kind"], &done["status"]), (&json!("Status"), &json!("Success")));
    let pod = server.get(POD).await.is(200);
    assert_eq!(pod["metadata"]["deletionGracePeriodSeconds"], 7);
    let conditions = pod["status"]["conditions"].as_array().unwrap();
    let target = conditions.iter().find(|c| c["type"] == "DisruptionTarget").unwrap();
    assert_eq!(
        (&target["status"], &target["reason"], &target["message"]),
        (&json!("True"), &json!("EvictionByEvictionAPI"), &json!("Eviction API: evicting"))
    );
}

/// A ready pod `p` of which a budget says how many may go.
async fn with_budget(status: Value) -> Server {
    let server = Server::new().await;
    let body = json!({
        "metadata": {"name": "p", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "a", "image": "i"}]},
    });
    server.post("/api/v1/namespaces/default/pods", body).await.is(201);
    server.bind("p", "n").await.is(201);
    run(&server, &["a"]).await;
    budget(&server, "one", status).await;
    server
}

const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";

async fn budget(server: &Server, name: &str, status: Value) {
    let spec = json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}});
    server.post(BUDGETS, json!({"metadata": {"name": name}, "spec": spec})).await.is(201);
    server.patch(&format!("{BUDGETS}/{name}/status"), MERGE, json!({"status": status})).await.is(200);
}

async fn ready(server: &Server) {
    let condition = json!({"type": "Ready", "status": "True"});
    let patch = json!({"status": {"conditions": [condition]}});
    server.patch(&format!("{POD}/status"), STRATEGIC, patch).await.is(200);
}

fn status(allowed: i64, healthy: i64, observed: i64) -> Value {
    json!({
        "disruptionsAllowed": allowed, "currentHealthy": healthy, "desiredHealthy": 1, "expectedPods": 1,
        "observedGeneration": observed,
    })
}

async fn evict(server: &Server) -> super::harness::Answer {
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    server.post(&format!("{POD}/eviction"), eviction).await
}

#[tokio::test]
async fn a_budget_is_charged_before_its_pod_goes() {
    let server = with_budget(status(1, 2, 1)).await;
    ready(&server).await;
    evict(&server).await.is(201);
    let budget = server.get(&format!("{BUDGETS}/one")).await.is(200);
    assert_eq!(budget["status"]["disruptionsAllowed"], 0);
    assert!(budget["status"]["disruptedPods"]["p"].is_string());
    assert_eq!(budget["status"]["conditions"][0]["reason"], "InsufficientPods");
    assert!(server.get(POD).await.is(200)["metadata"]["deletionTimestamp"].is_string());
}

#[tokio::test]
async fn a_budget_protects_its_pods() {
    let server = with_budget(status(0, 1, 1)).await;
    ready(&server).await;
    let refused = evict(&server).await;
    let message = "Cannot evict pod as it would violate the pod's disruption budget.";
    refused.fails(429, "TooManyRequests", message);
    let cause = &refused.json()["details"]["causes"][0];
    assert_eq!(cause["reason"], "DisruptionBudget");
    assert_eq!(cause["message"], "The disruption budget one needs 1 healthy pods and has 1 currently");
    assert!(server.get(POD).await.is(200)["metadata"].get("deletionTimestamp").is_none());

    budget(&server, "two", status(1, 1, 1)).await;
    let why =
        "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
    evict(&server).await.fails(500, "", why);
}

#[tokio::test]
async fn a_budget_that_nobody_has_looked_at_protects_too() {
    let server = with_budget(status(1, 2, 0)).await;
    ready(&server).await;
    let refused = evict(&server).await;
    refused.fails(429, "TooManyRequests", "");
    assert_eq!(refused.header("retry-after"), "10");
    let why = "The disruption budget one is still being processed by the server.";
    assert_eq!(refused.json()["details"]["causes"][0]["message"], why);
}

#[tokio::test]
async fn a_pod_that_is_not_ready_is_spare_if_enough_others_are() {
    let server = with_budget(status(0, 1, 1)).await;
    evict(&server).await.is(201);
    assert_eq!(server.get(&format!("{BUDGETS}/one")).await.is(200)["status"]["disruptionsAllowed"], 0);
    let server = with_budget(status(0, 0, 1)).await;
    evict(&server).await.fails(429, "TooManyRequests", "");
    let always = json!({"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}});
    server.patch(&format!("{BUDGETS}/one"), MERGE, always).await.is(200);
    evict(&server).await.is(201);
}
