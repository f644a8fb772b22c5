//! What is filled in and what is refused between decoding and storing.

use serde_json::{Value, json};

use super::harness::{MERGE, Server};

const PODS: &str = "/api/v1/namespaces/default/pods";
const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";

fn claim(name: &str, class: Value) -> Value {
    let mut spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    if !class.is_null() {
        spec["storageClassName"] = class;
    }
    json!({"metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn claims_get_the_default_class_and_are_protected() {
    let server = Server::new().await;
    let classes = "/apis/storage.k8s.io/v1/storageclasses";
    let local = server.get(&format!("{classes}/local")).await.is(200);
    assert_eq!(
        (&local["provisioner"], &local["volumeBindingMode"]),
        (&json!("coracle.dev/local"), &json!("WaitForFirstConsumer"))
    );
    let made = server.post(CLAIMS, claim("a", Value::Null)).await.is(201);
    assert_eq!(made["spec"]["storageClassName"], "local");
    assert_eq!(made["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    let none = server.post(CLAIMS, claim("b", json!(""))).await.is(201);
    assert_eq!(none["spec"]["storageClassName"], "");
    server.delete(&format!("{classes}/local"), Value::Null).await.is(200);
    let without = server.post(CLAIMS, claim("c", Value::Null)).await.is(201);
    assert_eq!(without["spec"].get("storageClassName"), None);
}

#[tokio::test]
async fn claims_grow_where_their_class_lets_them() {
    let server = Server::new().await;
    server.post(CLAIMS, claim("a", Value::Null)).await.is(201);
    let path = format!("{CLAIMS}/a");
    let bound = json!({"status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}});
    server.patch(&format!("{path}/status"), MERGE, bound).await.is(200);
    let more = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    let why = "persistentvolumeclaims \"a\" is forbidden: only dynamically provisioned pvc can be resized and the \
               storageclass that provisions the pvc must support resize";
    server.patch(&path, MERGE, more.clone()).await.fails(403, "Forbidden", why);
    let class = "/apis/storage.k8s.io/v1/storageclasses/local";
    server.patch(class, MERGE, json!({"allowVolumeExpansion": true})).await.is(200);
    server.patch(&path, MERGE, more).await.is(200);
}

#[tokio::test]
async fn a_token_is_mounted_where_it_is_asked_for() {
    let server = Server::new().await;
    let pod = |name: &str, account: &str, automount: Value| {
        let mut spec = json!({
            "serviceAccountName": account,
            "initContainers": [{"name": "i", "image": "i"}],
            "containers": [{"name": "a", "image": "i"}],
        });
        if !automount.is_null() {
            spec["automountServiceAccountToken"] = automount;
        }
        json!({"metadata": {"name": name}, "spec": spec})
    };
    let missing = server.post(PODS, pod("p", "robot", Value::Null)).await;
    let why = "error looking up service account default/robot: serviceaccount \"robot\" not found";
    missing.fails(403, "Forbidden", why);
    let account = json!({
        "metadata": {"name": "robot"},
        "automountServiceAccountToken": true,
        "imagePullSecrets": [{"name": "registry"}],
    });
    server.post("/api/v1/namespaces/default/serviceaccounts", account).await.is(201);

    let with = server.post(PODS, pod("with", "robot", Value::Null)).await.is(201);
    let volume = &with["spec"]["volumes"][0];
    let name = volume["name"].as_str().unwrap();
    assert!(name.starts_with("kube-api-access-") && name.len() == 21, "{name}");
    assert_eq!(volume["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"], 3607);
    let mount = json!([{
        "name": name, "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
    }]);
    assert_eq!(with["spec"]["containers"][0]["volumeMounts"], mount);
    assert_eq!(with["spec"]["initContainers"][0]["volumeMounts"], mount);
    assert_eq!(with["spec"]["imagePullSecrets"], json!([{"name": "registry"}]));

    let without = server.post(PODS, pod("without", "robot", json!(false))).await.is(201);
    assert_eq!(without["spec"].get("volumes"), None);
    let silent = server.post(PODS, pod("silent", "default", Value::Null)).await.is(201);
    assert_eq!(silent["spec"].get("volumes"), None);
    let asks = server.post(PODS, pod("asks", "default", json!(true))).await.is(201);
    assert_eq!(asks["spec"]["volumes"].as_array().map(Vec::len), Some(1));
}

fn pod(name: &str, more: &Value) -> Value {
    let mut spec = json!({"containers": [{"name": "a", "image": "i"}]});
    for (field, value) in more.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    json!({"metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn a_class_says_how_much_a_pod_matters() {
    let server = Server::new().await;
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    let system = server.get(&format!("{classes}/system-node-critical")).await.is(200);
    assert_eq!(system["value"], 2_000_001_000);
    let class = |name: &str, value: i64, default: bool| {
        json!({
            "metadata": {"name": name}, "value": value, "globalDefault": default,
            "preemptionPolicy": if default { "Never" } else { "PreemptLowerPriority" },
        })
    };
    server.post(classes, class("high", 1000, false)).await.is(201);
    let high = server.post(PODS, pod("p", &json!({"priorityClassName": "high"}))).await.is(201);
    assert_eq!(
        (&high["spec"]["priority"], &high["spec"]["preemptionPolicy"]),
        (&json!(1000), &json!("PreemptLowerPriority"))
    );
    let wrong = json!({"priorityClassName": "high", "priority": 7});
    server.post(PODS, pod("q", &wrong)).await.fails(
        403,
        "Forbidden",
        "pods \"q\" is forbidden: the integer value of priority (7) must not be provided in pod spec; priority admission controller computed 1000 from the given PriorityClass name",
    );
    server.post(classes, class("usual", 10, true)).await.is(201);
    let usual = server.post(PODS, pod("r", &json!({}))).await.is(201);
    let spec = &usual["spec"];
    assert_eq!(
        (&spec["priority"], &spec["preemptionPolicy"], &spec["priorityClassName"]),
        (&json!(10), &json!("Never"), &json!("usual"))
    );
    let second = server.post(classes, class("other", 11, true)).await;
    let why = "PriorityClass usual is already marked as default. Only one default can exist";
    second.fails(403, "Forbidden", why);
}

#[tokio::test]
async fn limits_of_a_namespace_fill_in_and_refuse() {
    let server = Server::new().await;
    let limit = json!({
        "type": "Container", "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m"}, "max": {"cpu": "1"},
    });
    let range = json!({"metadata": {"name": "l"}, "spec": {"limits": [limit]}});
    server.post("/api/v1/namespaces/default/limitranges", range).await.is(201);
    let made = server.post(PODS, pod("p", &json!({}))).await.is(201);
    assert_eq!(
        made["spec"]["containers"][0]["resources"],
        json!({"limits": {"cpu": "500m"}, "requests": {"cpu": "100m"}})
    );
    assert_eq!(made["status"]["qosClass"], "Burstable");
    let big = json!({"containers": [{"name": "a", "image": "i", "resources": {"limits": {"cpu": "2"}}}]});
    let why = "pods \"q\" is forbidden: maximum cpu usage per Container is 1, but limit is 2";
    server.post(PODS, pod("q", &big)).await.fails(403, "Forbidden", why);
}

/// A server whose default namespace has a quota of these amounts, of which nothing is used.
async fn with_quota(hard: Value) -> Server {
    let server = Server::new().await;
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": hard}});
    server.post(quotas, quota).await.is(201);
    let used: serde_json::Map<String, Value> =
        hard.as_object().unwrap().keys().map(|name| (name.clone(), json!("0"))).collect();
    let patch = json!({"status": {"hard": hard, "used": used}});
    server.patch(&format!("{quotas}/q/status"), MERGE, patch).await.is(200);
    server
}

async fn used(server: &Server) -> Value {
    let quota = server.get("/api/v1/namespaces/default/resourcequotas/q").await.is(200);
    quota["status"]["used"].clone()
}

#[tokio::test]
async fn a_quota_is_never_overdrawn() {
    let server = with_quota(json!({"pods": "3"})).await;
    let creates = (0..10).map(|index| {
        let server = &server;
        async move { server.post(PODS, pod(&format!("p{index}"), &json!({}))).await.code }
    });
    let codes = futures::future::join_all(creates).await;
    assert_eq!(codes.iter().filter(|code| **code == 201).count(), 3, "{codes:?}");
    assert_eq!(used(&server).await, json!({"pods": "3"}));
    server.post(PODS, pod("more", &json!({}))).await.fails(
        403,
        "Forbidden",
        "pods \"more\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=3, limited: pods=3",
    );
}

#[tokio::test]
async fn what_is_not_stored_is_not_charged() {
    let server =
        with_quota(json!({"count/configmaps": "5", "services.nodeports": "1", "limits.cpu": "1"})).await;
    server.config_map("default", "a", json!({})).await;
    let again = json!({"metadata": {"name": "a"}});
    let maps = "/api/v1/namespaces/default/configmaps";
    server.post(maps, again.clone()).await.fails(409, "AlreadyExists", "");
    let dry = json!({"metadata": {"name": "b"}});
    server.post(&format!("{maps}?dryRun=All"), dry).await.is(201);
    assert_eq!(used(&server).await["count/configmaps"], "1");

    let services = "/api/v1/namespaces/default/services";
    let service =
        |type_: &str| json!({"metadata": {"name": "s"}, "spec": {"type": type_, "ports": [{"port": 80}]}});
    server.post(services, service("ClusterIP")).await.is(201);
    let patch = |type_: &str| json!({"spec": {"type": type_}});
    server.patch(&format!("{services}/s"), MERGE, patch("NodePort")).await.is(200);
    assert_eq!(used(&server).await["services.nodeports"], "1");
    let mut second = service("NodePort");
    second["metadata"]["name"] = json!("t");
    server.post(services, second).await.fails(403, "Forbidden", "requested: services.nodeports=1");
    server.patch(&format!("{services}/s"), MERGE, patch("ClusterIP")).await.is(200);
    assert_eq!(used(&server).await["services.nodeports"], "0");

    let silent = server.post(PODS, pod("p", &json!({}))).await;
    silent.fails(403, "Forbidden", "failed quota: q: must specify limits.cpu for: a");
}
