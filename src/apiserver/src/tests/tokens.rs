//! Service accounts: their tokens, what these are good for, and who is asked about them.

use http::Method;
use serde_json::{Value, json};

use tower::ServiceExt;

use super::harness::{Answer, JSON, Server, request};
use crate::auth::User;

const ACCOUNT: &str = "/api/v1/namespaces/default/serviceaccounts/robot";
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// A server with a service account `robot`.
async fn server() -> Server {
    let server = Server::new().await;
    let body = json!({"metadata": {"name": "robot"}});
    server.post("/api/v1/namespaces/default/serviceaccounts", body).await.is(201);
    server
}

async fn token(server: &Server, spec: Value) -> String {
    let made = server.post(&format!("{ACCOUNT}/token"), json!({"spec": spec})).await.is(201);
    assert_eq!((&made["kind"], &made["metadata"]["name"]), (&json!("TokenRequest"), &json!("robot")));
    made["status"]["token"].as_str().unwrap().to_owned()
}

async fn get(server: &Server, token: &str, path: &str) -> Answer {
    server.send_with(token, request(Method::GET, path, "", "")).await
}

async fn post(server: &Server, token: &str, path: &str, body: &Value) -> Answer {
    server.send_with(token, request(Method::POST, path, JSON, body.to_string())).await
}

#[tokio::test]
async fn an_account_reads_where_it_lives() {
    let server = server().await;
    let token = token(&server, json!({})).await;
    let pods = get(&server, &token, "/api/v1/namespaces/default/pods").await.is(200);
    assert_eq!(pods["kind"], "PodList");
    get(&server, &token, "/apis").await.is(200);
    let other = get(&server, &token, "/api/v1/namespaces/kube-system/pods").await;
    other.fails(
        403,
        "Forbidden",
        "pods is forbidden: User \"system:serviceaccount:default:robot\" cannot list resource \"pods\" in API group \"\" in the namespace \"kube-system\"",
    );
    let secrets = get(&server, &token, "/api/v1/namespaces/default/secrets").await;
    secrets.fails(403, "Forbidden", "cannot list resource \"secrets\"");
    let metrics = get(&server, &token, "/metrics").await;
    let why = "forbidden: User \"system:serviceaccount:default:robot\" cannot get path \"/metrics\"";
    metrics.fails(403, "Forbidden", why);
    get(&server, &token, "/v2/").await.fails(403, "Forbidden", "cannot get path \"/v2/\"");
    let more = post(&server, &token, &format!("{ACCOUNT}/token"), &json!({})).await;
    more.fails(403, "Forbidden", "cannot create resource \"serviceaccounts/token\"");
    get(&server, "x.y.z", "/api").await.fails(401, "Unauthorized", "Unauthorized");
}

#[tokio::test]
async fn an_account_can_ask_about_itself() {
    let server = server().await;
    let token = token(&server, json!({})).await;
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let me = post(&server, &token, path, &json!({})).await.is(201);
    let user = &me["status"]["userInfo"];
    assert_eq!(user["username"], "system:serviceaccount:default:robot");
    assert_eq!(
        user["groups"],
        json!(["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"])
    );
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let ask = |verb: &str, resource: &str| json!({"spec": {"resourceAttributes": {"namespace": "default", "verb": verb, "resource": resource}}});
    let may = post(&server, &token, path, &ask("list", "pods")).await.is(201);
    assert_eq!(may["status"], json!({"allowed": true}));
    let may = post(&server, &token, path, &ask("delete", "pods")).await.is(201);
    assert_eq!(may["status"]["allowed"], false);
    let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let rules = post(&server, &token, path, &json!({"spec": {"namespace": "default"}})).await.is(201);
    assert_eq!(rules["status"]["resourceRules"].as_array().unwrap().len(), 4);
    let all = server.post(path, json!({"spec": {"namespace": "default"}})).await.is(201);
    assert_eq!(all["status"]["resourceRules"][0]["verbs"], json!(["*"]));
    let groups = server.get("/apis").await.is(200);
    let names: Vec<&Value> = groups["groups"].as_array().unwrap().iter().map(|g| &g["name"]).collect();
    assert!(names.contains(&&json!("authentication.k8s.io")), "{names:?}");
    let list = server.get("/apis/authorization.k8s.io/v1").await.is(200);
    assert_eq!(list["resources"][1]["verbs"], json!(["create"]));
}

#[tokio::test]
async fn a_token_ends_with_what_it_is_bound_to() {
    let server = server().await;
    let spec = json!({"serviceAccountName": "robot", "containers": [{"name": "a", "image": "i"}]});
    let pod = json!({"metadata": {"name": "p"}, "spec": spec});
    let pod = server.post("/api/v1/namespaces/default/pods", pod).await.is(201);
    server.bind("p", "n").await.is(201);
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let reference = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid});
    let token = token(&server, json!({"boundObjectRef": reference})).await;
    let review = || server.post(REVIEWS, json!({"spec": {"token": token}}));
    let status = review().await.is(201)["status"].clone();
    assert_eq!(status["authenticated"], true);
    assert_eq!(status["audiences"], json!(["https://kubernetes.default.svc.cluster.local"]));
    let extra = &status["user"]["extra"];
    assert_eq!(extra["authentication.kubernetes.io/pod-name"], json!(["p"]));
    assert_eq!(extra["authentication.kubernetes.io/pod-uid"], json!([uid]));
    assert_eq!(extra["authentication.kubernetes.io/node-name"], json!(["n"]));
    get(&server, &token, "/api").await.is(200);

    let pod = "/api/v1/namespaces/default/pods/p";
    server.delete(pod, json!({"gracePeriodSeconds": 0})).await.is(200);
    get(&server, &token, "/api").await.fails(401, "Unauthorized", "");
    let status = review().await.is(201)["status"].clone();
    assert_eq!(status["error"], "service account token has been invalidated");
    assert_eq!(status.get("authenticated"), None);
}

#[tokio::test]
async fn tokens_that_are_not_made() {
    let server = server().await;
    let ask = async |spec: Value| server.post(&format!("{ACCOUNT}/token"), json!({"spec": spec})).await;
    let short = ask(json!({"expirationSeconds": 599})).await;
    short.fails(
        422,
        "Invalid",
        "spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes",
    );
    let reference = |kind: &str, name: &str, uid: &str| json!({"boundObjectRef": {"apiVersion": "v1", "kind": kind, "name": name, "uid": uid}});
    ask(reference("Pod", "nope", "")).await.fails(404, "NotFound", "pods \"nope\" not found");
    let foreign = ask(reference("ConfigMap", "x", "")).await;
    foreign.fails(400, "BadRequest", "cannot bind token to object of type /v1, Kind=ConfigMap");
    server.pod("p", &["a"]).await;
    ask(reference("Pod", "p", "")).await.fails(400, "BadRequest", "cannot bind token for serviceaccount");
    let node = json!({"metadata": {"name": "n"}});
    server.post("/api/v1/nodes", node).await.is(201);
    ask(reference("Node", "n", "other")).await.fails(409, "Conflict", "does not match the UID in record");
    ask(reference("Node", "n", "")).await.is(201);
    let gone = server.post("/api/v1/namespaces/default/serviceaccounts/nobody/token", json!({})).await;
    gone.fails(404, "NotFound", "serviceaccounts \"nobody\" not found");
}

#[tokio::test]
async fn a_token_for_others_is_nothing_here() {
    let server = server().await;
    let token = token(&server, json!({"audiences": ["vault"]})).await;
    get(&server, &token, "/api").await.fails(401, "Unauthorized", "");
    let body = json!({"spec": {"token": token, "audiences": ["vault", "x"]}});
    let status = server.post(REVIEWS, body).await.is(201)["status"].clone();
    assert_eq!(status["audiences"], json!(["vault"]));
}

#[tokio::test]
async fn anybody_can_learn_how_tokens_are_checked() {
    let server = server().await;
    let configuration = server.get("/.well-known/openid-configuration").await.is(200);
    assert_eq!(configuration["issuer"], "https://kubernetes.default.svc.cluster.local");
    let keys = server.get("/openid/v1/jwks").await;
    assert_eq!(keys.header("content-type"), "application/jwk-set+json");
    assert_eq!(keys.json()["keys"][0]["alg"], "ES256");
}

#[tokio::test]
async fn nobody_is_served_as_themselves_who_asks_to_be_another() {
    let server = server().await;
    let token = token(&server, json!({})).await;
    for (name, path) in [
        ("Impersonate-User", "/api/v1/namespaces/default/pods"),
        ("impersonate-extra-scopes", "/version"),
        ("Impersonate-Uid", "/v2/"),
    ] {
        let mut asked = request(Method::GET, path, "", "");
        asked.headers_mut().insert(http::HeaderName::try_from(name).unwrap(), "x".parse().unwrap());
        let answer = server.send_with(&token, asked).await;
        answer.fails(403, "Forbidden", "forbidden: impersonation is not supported by this server");
    }
}

#[tokio::test]
async fn reviews_know_an_account_by_its_name() {
    let server = server().await;
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let may = async |user: &str, verb: &str, groups: Value| {
        let attributes = json!({"namespace": "default", "verb": verb, "resource": "pods"});
        let spec = json!({"user": user, "groups": groups, "resourceAttributes": attributes});
        server.post(path, json!({"spec": spec})).await.is(201)["status"]["allowed"].clone()
    };
    let robot = "system:serviceaccount:default:robot";
    for groups in [json!([]), json!(["system:authenticated"]), json!(["system:serviceaccounts"])] {
        assert_eq!(may(robot, "list", groups.clone()).await, true, "{groups}");
        assert_eq!(may(robot, "delete", groups.clone()).await, false, "{groups}");
    }
    assert_eq!(may("system:serviceaccount:other:robot", "list", json!([])).await, false);
    assert_eq!(may("admin", "delete", json!(["system:authenticated"])).await, true);
}

#[tokio::test]
async fn an_account_watches_only_so_much_at_once() {
    let server = server().await;
    let robot = User::account("default", "robot", "u", Default::default());
    let watch = async || {
        let mut asked = request(Method::GET, "/api/v1/namespaces/default/pods?watch=true", "", "");
        asked.extensions_mut().insert(robot.clone());
        server.core.clone().router().oneshot(asked).await.unwrap()
    };
    let mut open = Vec::new();
    let refused = loop {
        let answer = watch().await;
        if answer.status() != 200 || open.len() > 1000 {
            break answer;
        }
        open.push(answer);
    };
    assert_eq!((open.len(), refused.status().as_u16()), (256, 429));
    assert_eq!(refused.headers()["retry-after"], "1");
    drop(server.watch("/api/v1/pods?watch=true").await);
    open.pop();
    assert_eq!(watch().await.status(), 200);
}
