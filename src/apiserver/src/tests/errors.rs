//! What bad requests are answered: code, reason and words.

use axum::body::Body;
use http::{Method, Request};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::harness::{JSON, JSON_PATCH, MERGE, STRATEGIC, Server, request};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const YAML: &str = "application/yaml";

/// One bad request and its answer.
struct Bad {
    method: Method,
    path: &'static str,
    type_: &'static str,
    body: String,
    answer: (u16, &'static str, &'static str),
}

/// What bodies in the tables are made of.
struct Content(String);

impl From<&str> for Content {
    fn from(text: &str) -> Content {
        Content(text.to_owned())
    }
}

impl From<String> for Content {
    fn from(text: String) -> Content {
        Content(text)
    }
}

impl From<Value> for Content {
    fn from(value: Value) -> Content {
        Content(value.to_string())
    }
}

impl From<&Value> for Content {
    fn from(value: &Value) -> Content {
        Content(value.to_string())
    }
}

fn bad(
    method: Method,
    path: &'static str,
    type_: &'static str,
    body: impl Into<Content>,
    answer: (u16, &'static str, &'static str),
) -> Bad {
    Bad { method, path, type_, body: body.into().0, answer }
}

async fn check(requests: Vec<Bad>) {
    let server = Server::new().await;
    server.config_map("default", "taken", json!({})).await;
    server.pod("pod", &["a"]).await;
    for bad in requests {
        let Bad { method, path, type_, body, answer: (code, reason, message) } = bad;
        println!("{method} {path} {}", &body[..body.len().min(80)]);
        server.send(request(method, path, type_, body)).await.fails(code, reason, message);
    }
}

#[tokio::test]
async fn bodies() {
    let named = |name: &str| json!({"metadata": {"name": name}});
    let big = format!(r#"{{"metadata":{{"name":"big"}},"data":{{"a":"{}"}}}}"#, "x".repeat(3 << 20));
    check(vec![
        bad(Method::POST, MAPS, JSON, r#"{"kind":"#, (400, "BadRequest", "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: ")),
        bad(Method::POST, MAPS, JSON, "[1]", (400, "BadRequest", "cannot unmarshal array into Go value")),
        bad(Method::POST, MAPS, YAML, "a: [", (400, "BadRequest", "the object provided is unrecognized (must be of type ConfigMap): yaml: ")),
        bad(Method::POST, MAPS, "text/plain", "x", (415, "UnsupportedMediaType", "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf")),
        bad(Method::POST, MAPS, "application/vnd.kubernetes.protobuf", "k8s\0garbage", (400, "BadRequest", "the object provided is unrecognized")),
        bad(Method::POST, MAPS, JSON, big, (413, "RequestEntityTooLarge", "Request entity too large: limit is 3145728")),
        bad(Method::POST, MAPS, JSON, json!({"kind": "Pod", "apiVersion": "v1"}), (400, "BadRequest", "Pod in version \"v1\" cannot be handled as a ConfigMap: ")),
        bad(Method::POST, MAPS, JSON, json!({"kind": "Nonsense", "apiVersion": "v1"}), (400, "BadRequest", "no kind \"Nonsense\" is registered for version \"v1\"")),
        bad(Method::POST, MAPS, JSON, json!({"kind": "ConfigMap", "apiVersion": "v2"}), (400, "BadRequest", "the API version in the data (v2) does not match the expected API version (v1)")),
        bad(Method::POST, MAPS, JSON, json!({"metadata": {"name": "x", "namespace": "other"}}), (400, "BadRequest", "the namespace of the provided object does not match the namespace sent on the request")),
        bad(Method::POST, MAPS, JSON, json!({}), (422, "Invalid", "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required")),
        bad(Method::POST, MAPS, JSON, named("A_b"), (422, "Invalid", "ConfigMap \"A_b\" is invalid: metadata.name: Invalid value: \"A_b\": a lowercase RFC 1123 subdomain must consist of")),
        bad(Method::POST, MAPS, JSON, named("taken"), (409, "AlreadyExists", "configmaps \"taken\" already exists")),
        bad(Method::POST, MAPS, JSON, json!({"metadata": {"name": "x", "resourceVersion": "5"}}), (500, "", "resourceVersion should not be set on objects to be created")),
        bad(Method::POST, "/api/v1/namespaces/nope/configmaps", JSON, named("x"), (404, "NotFound", "namespaces \"nope\" not found")),
    ])
    .await;
}

#[tokio::test]
async fn strictness() {
    let unknown = json!({"metadata": {"name": "x"}, "foo": 1});
    check(vec![
        bad(Method::POST, "/api/v1/namespaces/default/configmaps?fieldValidation=Strict", JSON, &unknown, (400, "BadRequest", "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"foo\"")),
        bad(Method::POST, "/api/v1/namespaces/default/configmaps?fieldValidation=Strict", JSON, r#"{"metadata":{"name":"x"},"data":{"a":"b"},"data":{}}"#, (400, "BadRequest", "strict decoding error: duplicate field \"data\"")),
        bad(Method::POST, MAPS, JSON, json!({"metadata": {"name": "x"}, "data": {"a": 5}}), (400, "BadRequest", "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go struct field ConfigMap.data of type string")),
        bad(Method::POST, "/api/v1/namespaces/default/configmaps?fieldValidation=Odd", JSON, &unknown, (422, "Invalid", "CreateOptions.meta.k8s.io \"\" is invalid: fieldValidation: Unsupported value: \"Odd\"")),
        bad(Method::POST, "/api/v1/namespaces/default/configmaps?dryRun=Some", JSON, &unknown, (422, "Invalid", "dryRun: Unsupported value: ")),
        bad(Method::PATCH, "/api/v1/namespaces/default/configmaps/taken?fieldValidation=Strict", MERGE, json!({"foo": 1}), (400, "BadRequest", "strict decoding error: unknown field \"foo\"")),
    ])
    .await;

    let server = Server::new().await;
    let warned = server.post(MAPS, unknown.clone()).await;
    assert!(warned.is(201).get("foo").is_none());
    assert_eq!(warned.header("warning"), r#"299 - "unknown field \"foo\"""#);
    let mut ignored = unknown;
    ignored["metadata"]["name"] = json!("y");
    let ignored = server.post(&format!("{MAPS}?fieldValidation=Ignore"), ignored).await;
    ignored.is(201);
    assert_eq!(ignored.header("warning"), "");
}

#[tokio::test]
async fn updates() {
    let stale = json!({"metadata": {"name": "taken", "resourceVersion": "1"}});
    let other = json!({"metadata": {"name": "taken", "uid": "other"}});
    check(vec![
        bad(Method::PUT, "/api/v1/namespaces/default/configmaps/taken", JSON, &stale, (409, "Conflict", "Operation cannot be fulfilled on configmaps \"taken\": the object has been modified; please apply your changes to the latest version and try again")),
        bad(Method::PUT, "/api/v1/namespaces/default/configmaps/taken", JSON, &other, (409, "Conflict", "Precondition failed: UID in precondition: other, UID in object meta: ")),
        bad(Method::PUT, "/api/v1/namespaces/default/configmaps/b", JSON, &stale, (400, "BadRequest", "the name of the object (taken) does not match the name on the URL (b)")),
        bad(Method::PUT, "/api/v1/namespaces/default/configmaps/taken", JSON, json!({}), (400, "BadRequest", "name must be provided")),
        bad(Method::PUT, "/api/v1/namespaces/default/configmaps/nope", JSON, json!({"metadata": {"name": "nope"}}), (404, "NotFound", "configmaps \"nope\" not found")),
        bad(Method::PATCH, "/api/v1/namespaces/default/configmaps/taken", MERGE, json!({"metadata": {"resourceVersion": "1"}}), (409, "Conflict", "the object has been modified")),
        bad(Method::PATCH, "/api/v1/namespaces/default/configmaps/taken", MERGE, json!({"metadata": {"uid": "other"}}), (422, "Invalid", "metadata.uid: Invalid value: \"other\": field is immutable")),
        bad(Method::PATCH, "/api/v1/namespaces/default/configmaps/taken", MERGE, "{", (400, "BadRequest", "error decoding patch")),
        bad(Method::PATCH, "/api/v1/namespaces/default/configmaps/taken", JSON_PATCH, json!([{"op": "remove", "path": "/nope"}]), (422, "Invalid", "")),
        bad(Method::PATCH, "/api/v1/namespaces/default/configmaps/taken", JSON_PATCH, json!([{"op": "test", "path": "/data/key", "value": "other"}]), (422, "Invalid", "")),
        bad(Method::PATCH, "/api/v1/namespaces/default/configmaps/taken", JSON, json!({}), (415, "UnsupportedMediaType", "accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json")),
        bad(Method::PATCH, "/api/v1/namespaces/default/configmaps/taken", "application/apply-patch+yaml", "{}", (415, "UnsupportedMediaType", "server-side apply is not supported")),
        bad(Method::PATCH, "/api/v1/namespaces/default/configmaps/taken?force=true&fieldManager=kubectl", "application/apply-patch+yaml", "{}", (415, "UnsupportedMediaType", "kubectl apply --server-side=false")),
        bad(Method::PATCH, "/api/v1/namespaces/default/configmaps/nope", STRATEGIC, json!({}), (404, "NotFound", "configmaps \"nope\" not found")),
        bad(Method::PATCH, "/api/v1/namespaces/default/configmaps/taken?force=true", MERGE, json!({}), (422, "Invalid", "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch")),
    ])
    .await;
}

#[tokio::test]
async fn reads() {
    let get = |path, answer| bad(Method::GET, path, "", "", answer);
    check(vec![
        get("/api/v1/namespaces/default/configmaps/nope", (404, "NotFound", "configmaps \"nope\" not found")),
        get("/api/v1/namespaces/default/unknowns", (404, "NotFound", "the server could not find the requested resource")),
        get("/apis/nope.io/v1/things", (404, "NotFound", "the server could not find the requested resource")),
        get("/nowhere", (404, "NotFound", "the server could not find the requested resource")),
        get("/api/v1/namespaces/default/pods/pod/nope", (404, "NotFound", "the server could not find the requested resource")),
        get("/api/v1/namespaces/default/nodes", (404, "NotFound", "the server could not find the requested resource")),
        get("/api/v1/pods?labelSelector=a%3D%3D%3Db%21%21", (400, "BadRequest", "unable to parse requirement: ")),
        get("/api/v1/pods?fieldSelector=spec.nope%3Dx", (400, "BadRequest", "field label not supported: spec.nope")),
        get("/api/v1/configmaps?fieldSelector=data%3Dx", (400, "BadRequest", "\"data\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")),
        get("/api/v1/pods?fieldSelector=nonsense", (400, "BadRequest", "invalid selector: 'nonsense'; can't understand 'nonsense'")),
        get("/api/v1/pods?continue=nonsense", (400, "BadRequest", "continue key is not valid: ")),
        get("/api/v1/pods?limit=many", (400, "BadRequest", "strconv.ParseInt: parsing \"many\": invalid syntax")),
        get("/api/v1/pods?resourceVersion=x", (422, "Invalid", "resourceVersion: Invalid value: \"x\"")),
        get("/api/v1/pods?resourceVersionMatch=Exact", (422, "Invalid", "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided")),
        get("/api/v1/pods?watch=true&resourceVersionMatch=NotOlderThan", (422, "Invalid", "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided")),
        bad(Method::POST, "/api/v1/pods", JSON, json!({}), (405, "MethodNotAllowed", "the server does not allow this method on the requested resource")),
        bad(Method::PATCH, MAPS, MERGE, json!({}), (405, "MethodNotAllowed", "")),
        bad(Method::POST, "/healthz", JSON, json!({}), (405, "MethodNotAllowed", "")),
        bad(Method::DELETE, "/api/v1/namespaces/default/configmaps/taken", JSON, json!({"propagationPolicy": "Odd"}), (422, "Invalid", "propagationPolicy: Unsupported value: \"Odd\"")),
        bad(Method::DELETE, "/api/v1/namespaces/default/configmaps/taken", JSON, json!({"propagationPolicy": "Orphan", "orphanDependents": true}), (422, "Invalid", "orphanDependents and deletionPropagation cannot be both set")),
        bad(Method::DELETE, "/api/v1/namespaces/default", JSON, json!({}), (403, "Forbidden", "namespaces \"default\" is forbidden: this namespace may not be deleted")),
    ])
    .await;
}

#[tokio::test]
async fn only_what_is_served_can_be_accepted() {
    let server = Server::new().await;
    let answer = server.get_as("/api/v1/pods", "application/vnd.kubernetes.protobuf").await;
    answer.fails(
        406,
        "NotAcceptable",
        "only the following media types are accepted: application/json, application/yaml",
    );
    let yaml = server.get_as("/api/v1/namespaces/default", "application/yaml").await;
    assert_eq!((yaml.code, yaml.header("content-type")), (200, "application/yaml"));
    assert!(yaml.text().contains("\nkind: Namespace\n"), "{}", yaml.text());
}

#[tokio::test]
async fn nobody_gets_nothing() {
    let server = Server::new().await;
    let request = Request::get("/api/v1/pods").body(Body::empty()).unwrap();
    let answer = server.router.clone().oneshot(request).await.unwrap();
    assert_eq!(answer.status(), 401);
}

#[tokio::test]
async fn a_body_at_the_limit_is_read() {
    let server = Server::new().await;
    let filler = " ".repeat((3 << 20) - 30);
    let body = format!(r#"{{"metadata":{{"name":"x"}}}}{filler}"#);
    let created: Value = server.send(request(Method::POST, MAPS, JSON, body)).await.is(201);
    assert_eq!(created["metadata"]["name"], "x");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_ends_is_not_waited_for() {
    let server = Server::new().await;
    let endless = Body::from_stream(futures::stream::pending::<Result<bytes::Bytes, std::io::Error>>());
    server.send(request(Method::POST, MAPS, JSON, endless)).await.fails(
        504,
        "Timeout",
        "the body did not arrive in time",
    );
}

#[tokio::test]
async fn bodies_that_explode_are_refused() {
    let server = Server::new().await;
    let deep = "[".repeat(200_000);
    server.send(request(Method::POST, MAPS, JSON, deep)).await.fails(400, "BadRequest", "");
    let deep = format!("a: {}", "[".repeat(100_000));
    server.send(request(Method::POST, MAPS, YAML, deep)).await.fails(400, "BadRequest", "");
    let mut laughs = "l0: &l0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..12 {
        let last = n - 1;
        let many = vec![format!("*l{last}"); 10].join(", ");
        laughs.push_str(&format!("l{n}: &l{n} [{many}]\n"));
    }
    server.send(request(Method::POST, MAPS, YAML, laughs)).await.fails(400, "BadRequest", "");
}
