//! Bad input over the wire: the same status code and reason as Kubernetes.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Cluster, connection::Connection, get, have_kubectl};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const JSON: &str = "application/json";

struct Api {
    connection: Connection,
    runtime: tokio::runtime::Runtime,
}

impl Api {
    fn send(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: impl Into<reqwest::Body>,
    ) -> (u16, Value) {
        self.runtime.block_on(async {
            let request =
                self.connection.request(method, path).header("content-type", content_type).body(body);
            let response = request.send().await.unwrap();
            let status = response.status();
            (status.as_u16(), serde_json::from_slice(&response.bytes().await.unwrap()).unwrap())
        })
    }

    #[track_caller]
    fn check(&self, request: (Method, &str, &str, String), code: u16, reason: &str, words: &str) {
        let (method, path, content_type, body) = request;
        let (status, answer) = self.send(method.clone(), path, content_type, body);
        let what = format!("{method} {path}: {answer}");
        assert_eq!(status, code, "{what}");
        assert_eq!(answer["kind"], "Status", "{what}");
        assert_eq!(answer["code"], code, "{what}");
        assert_eq!(answer["reason"].as_str().unwrap_or_default(), reason, "{what}");
        assert!(answer["message"].as_str().unwrap_or_default().contains(words), "no {words:?} in {what}");
    }
}

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}})
}

#[test]
fn bad_input_is_answered_as_kubernetes_does() {
    let cluster = Cluster::start();
    let api = Api { connection: cluster.connection(), runtime: tokio::runtime::Runtime::new().unwrap() };
    let post = |body: String| (Method::POST, MAPS, JSON, body);
    assert_eq!(api.send(Method::POST, MAPS, JSON, map("here").to_string()).0, 201);

    api.check(post("{\"kind\": ".into()), 400, "BadRequest", "");
    api.check((Method::POST, MAPS, "application/yaml", "a: [b".into()), 400, "BadRequest", "");
    api.check((Method::POST, MAPS, "text/plain", "a".into()), 415, "UnsupportedMediaType", "");
    api.check(post(map("here").to_string()), 409, "AlreadyExists", "configmaps \"here\" already exists");
    api.check(
        post(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}}).to_string()),
        422,
        "Invalid",
        "name or generateName is required",
    );
    api.check(post(map("Not a name").to_string()), 422, "Invalid", "metadata.name: Invalid value");
    api.check(
        post(
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": "text"})
                .to_string(),
        ),
        400,
        "BadRequest",
        "data",
    );
    api.check(
        post(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}}).to_string()),
        400,
        "BadRequest",
        "Secret",
    );

    let strict = format!("{MAPS}?fieldValidation=Strict");
    let mut unknown = map("x");
    unknown["daat"] = json!({});
    api.check(
        (Method::POST, &strict, JSON, unknown.to_string()),
        400,
        "BadRequest",
        "unknown field \"daat\"",
    );
    let twice = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x","name":"y"}}"#;
    api.check(
        (Method::POST, &strict, JSON, twice.into()),
        400,
        "BadRequest",
        "duplicate field \"metadata.name\"",
    );
    api.check(
        (Method::POST, &format!("{MAPS}?dryRun=Some"), JSON, map("x").to_string()),
        422,
        "Invalid",
        "dryRun: Unsupported value",
    );

    let mut large = map("large");
    large["data"]["a"] = json!("x".repeat(2 << 20));
    api.check(post(large.to_string()), 422, "Invalid", "Too long");
    api.check(post(" ".repeat(4 << 20)), 413, "RequestEntityTooLarge", "");

    let mut stale = map("here");
    stale["metadata"]["resourceVersion"] = json!("1");
    let here = format!("{MAPS}/here");
    api.check((Method::PUT, &here, JSON, stale.to_string()), 409, "Conflict", "the object has been modified");
    api.check((Method::PUT, &here, JSON, map("other").to_string()), 400, "BadRequest", "name");
    api.check((Method::PATCH, &here, "application/json-patch+json", "{".into()), 400, "BadRequest", "");
    api.check(
        (Method::PATCH, &here, "application/json-patch+json", r#"[{"op":"remove","path":"/none"}]"#.into()),
        422,
        "Invalid",
        "",
    );
    api.check((Method::PATCH, &here, JSON, "{}".into()), 415, "UnsupportedMediaType", "");

    let read = |path: &'static str| (Method::GET, path, JSON, String::new());
    api.check(
        read("/api/v1/namespaces/default/configmaps/none"),
        404,
        "NotFound",
        "configmaps \"none\" not found",
    );
    api.check(
        read("/api/v1/namespaces/default/boats"),
        404,
        "NotFound",
        "the server could not find the requested resource",
    );
    api.check(
        read("/apis/none.example/v1/boats"),
        404,
        "NotFound",
        "the server could not find the requested resource",
    );
    api.check(read("/api/v1/pods?labelSelector=a%20in%20("), 400, "BadRequest", "");
    api.check(
        read("/api/v1/pods?fieldSelector=spec.none%3Dx"),
        400,
        "BadRequest",
        "field label not supported: spec.none",
    );
    api.check(read("/api/v1/pods?limit=1&continue=!!"), 400, "BadRequest", "continue");
    api.check(
        (Method::POST, "/api/v1/namespaces/none/configmaps", JSON, map("x").to_string()),
        404,
        "NotFound",
        "namespaces \"none\" not found",
    );
    api.check((Method::DELETE, "/version", JSON, String::new()), 405, "MethodNotAllowed", "");
    api.check(
        (Method::DELETE, &here, JSON, r#"{"preconditions":{"uid":"another"}}"#.into()),
        409,
        "Conflict",
        "the UID in the precondition (another) does not match the UID in record",
    );
}

#[test]
fn only_client_certificates_of_the_cluster_are_let_in() {
    let cluster = Cluster::start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let admitted = cluster.connection();
    let anonymous =
        reqwest::Client::builder().tls_danger_accept_invalid_certs(true).no_proxy().build().unwrap();
    runtime.block_on(async {
        let address = admitted.request(Method::GET, "/readyz").build().unwrap().url().clone();
        let refused = anonymous.get(address.join("/api/v1/pods").unwrap()).send().await.unwrap();
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
        let status: Value = refused.json().await.unwrap();
        assert_eq!((&status["reason"], &status["code"]), (&json!("Unauthorized"), &json!(401)));
        let registry = anonymous.get(address.join("/v2/").unwrap()).send().await.unwrap();
        assert_eq!(registry.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(anonymous.get(address).send().await.unwrap().status(), StatusCode::OK);
        assert_eq!(get(&admitted, "/api/v1/pods").await.unwrap()["kind"], "PodList");
    });
}

#[test]
fn kubectl_shows_what_is_wrong() {
    if !have_kubectl() {
        return;
    }
    let cluster = Cluster::start();
    let error = cluster.kubectl_fails("apply -f -", "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [{name: a, image: b, imagee: c}]}");
    assert!(error.contains("unknown field \"spec.containers[0].imagee\""), "{error}");
    let error = cluster.kubectl_fails(
        "apply -f -",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: []}",
    );
    assert!(error.contains("spec.containers: Required value"), "{error}");
    let error = cluster.kubectl_fails("apply -f -", "apiVersion: v1\nkind: Boat\nmetadata: {name: x}");
    assert!(error.contains("no matches for kind \"Boat\" in version \"v1\""), "{error}");
    let error = cluster.kubectl_fails("get pod none", "");
    assert!(error.contains("Error from server (NotFound): pods \"none\" not found"), "{error}");
}
