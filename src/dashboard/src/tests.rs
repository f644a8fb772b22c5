//! Who gets in, and what an open page is told: through the router and, where it matters, the socket.

use std::{net::SocketAddr, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, Response, StatusCode, header},
};
use coracle_api::kinds;
use coracle_client::{Informers, clock, test_support::FakeApi};
use http_body_util::BodyExt;
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
    autoscaling::v2::HorizontalPodAutoscaler,
    batch::v1::{CronJob, Job},
    core::v1::{Event, Namespace, Node, PersistentVolumeClaim, Pod, ReplicationController, Service},
    discovery::v1::EndpointSlice,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::{
    Config, Dashboard,
    access::{Access, Verdict},
    routes, rows,
    view::{Filter, View},
};

const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(127, 8, 8, 8)), 8001);

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn pod(name: &str, app: &str, node: &str) -> Pod {
    object(json!({
        "metadata": {"namespace": "shop", "name": name, "labels": {"app": app}},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "a"}, {"name": "side", "image": "b"}]},
        "status": {"phase": "Running", "podIP": "10.128.0.7", "containerStatuses": [
            {"name": "main", "ready": true, "restartCount": 1, "image": "", "imageID": "",
                "state": {"running": {}}, "lastState": {"terminated": {"exitCode": 1, "finishedAt": clock::time()}}},
            {"name": "side", "ready": false, "restartCount": 0, "image": "", "imageID": "",
                "state": {"waiting": {"reason": "ErrImagePull"}}},
        ]},
    }))
}

/// Two nodes, two apps, one of them with a service, a controller and an event.
fn world() -> FakeApi {
    let api = FakeApi::new();
    for namespace in ["default", "shop"] {
        api.create::<Namespace>(&object(json!({"metadata": {"name": namespace}})));
    }
    for node in ["n1", "n2"] {
        let status =
            json!({"allocatable": {"pods": "110"}, "conditions": [{"type": "Ready", "status": "True"}]});
        api.create::<Node>(&object(json!({"metadata": {"name": node}, "status": status})));
    }
    api.create(&pod("web-1", "web", "n1"));
    api.create(&pod("db-1", "db", "n2"));
    let meta = |name: &str| json!({"namespace": "shop", "name": name, "labels": {"app": "web"}});
    api.create::<Service>(&object(json!({"metadata": meta("web"), "spec": {"type": "ClusterIP",
        "clusterIPs": ["10.96.0.9"], "ports": [{"port": 80, "protocol": "TCP"}]}})));
    api.create::<EndpointSlice>(&object(json!({"addressType": "IPv4",
        "metadata": {"namespace": "shop", "name": "web-x", "labels": {"kubernetes.io/service-name": "web"}},
        "endpoints": [{"addresses": ["10.128.0.7"], "conditions": {"ready": true}},
            {"addresses": ["10.128.0.8"], "conditions": {"ready": false}}]})));
    api.create::<ReplicationController>(&object(json!({"metadata": meta("web"), "spec": {"replicas": 3},
        "status": {"replicas": 2, "readyReplicas": 1}})));
    for (name, about) in [("e1", "web-1"), ("e2", "db-1")] {
        api.create::<Event>(&object(json!({"metadata": {"namespace": "shop", "name": name},
            "type": "Warning", "reason": "BackOff", "message": "<b>\n\"hostile\" & </script>",
            "involvedObject": {"kind": "Pod", "namespace": "shop", "name": about}})));
    }
    api
}

fn informers(api: &FakeApi) -> Informers {
    Informers::new(api.client(), CancellationToken::new())
}

async fn next(view: &mut View) -> Value {
    let update = timeout(Duration::from_secs(20), view.next()).await.expect("an update in time");
    serde_json::from_str(&update).unwrap()
}

/// The names in a part of an update: `pods/put` gives `["shop/web-1"]`.
fn names(update: &Value, table: &str, part: &str) -> Vec<String> {
    match &update["tables"][table][part] {
        Value::Object(rows) => rows.keys().cloned().collect(),
        Value::Array(names) => names.iter().map(|name| name.as_str().unwrap().to_owned()).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn who_gets_in() {
    let access = Access::new(LISTEN);
    let url = access.url();
    let token = url.strip_prefix("http://127.8.8.8:8001/?token=").unwrap();
    assert!(token.len() == 64 && token.bytes().all(|byte| byte.is_ascii_hexdigit()), "{token}");
    assert_ne!(url, Access::new(LISTEN).url());
    let cookie = format!("other=1; coracle-dashboard-8001={token}");
    assert!(access.set_cookie().starts_with(&cookie["other=1; ".len()..]));

    let check = |uri: &str, headers: &[(&'static str, &str)], expected: Verdict| {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        assert_eq!(access.judge(&uri.parse().unwrap(), &map), expected, "{uri} {headers:?}");
    };
    let host = ("host", "127.8.8.8:8001");
    let good = ("cookie", cookie.as_str());
    // The host.
    for name in ["localhost", "LocalHost:1", "127.0.0.1:8001", "127.8.8.8", "[::1]:8001"] {
        check("/", &[("host", name), good], Verdict::Pass);
    }
    for name in
        ["evil.example", "127.0.0.1.evil.example:8001", "127.0.0.1@evil.example", "192.168.0.1", "", "[::1"]
    {
        check("/", &[("host", name), good], Verdict::WrongHost);
    }
    check("/", &[good], Verdict::WrongHost);
    check("/", &[host, host, good], Verdict::WrongHost);
    check("http://evil.example/", &[host, good], Verdict::WrongHost);
    check("/?token=x", &[("host", "evil.example")], Verdict::WrongHost);
    // The token.
    let with = |token: &str| format!("/?token={token}");
    check(&with(token), &[host], Verdict::Enter);
    check(&with(""), &[host], Verdict::Locked);
    check(&with(&token[1..]), &[host], Verdict::Locked);
    check(&with(&format!("{token}0")), &[host], Verdict::Locked);
    check(&with(&"0".repeat(64)), &[host, good], Verdict::Locked);
    check(&format!("/stream?token={token}"), &[host], Verdict::Locked);
    // The cookie.
    check("/stream?selector=a", &[host, good], Verdict::Pass);
    check("/", &[host, ("cookie", "a=b"), good], Verdict::Pass);
    check("/", &[host], Verdict::Locked);
    check("/", &[host, ("cookie", "coracle-dashboard-8001=")], Verdict::Locked);
    check("/", &[host, ("cookie", &cookie.replace("8001", "8002"))], Verdict::Locked);
    // Pages of others.
    check("/stream", &[host, good, ("sec-fetch-site", "same-origin")], Verdict::Pass);
    check("/stream", &[host, good, ("sec-fetch-site", "same-site")], Verdict::Locked);
    check("/app.js", &[host, good, ("sec-fetch-site", "cross-site")], Verdict::Locked);
    check("/", &[host, good, ("sec-fetch-site", "same-site"), ("sec-fetch-mode", "navigate")], Verdict::Pass);
}

async fn get(router: &Router, path: &str, cookie: Option<&str>) -> Response<Body> {
    let mut request = Request::get(path).header(header::HOST, "localhost");
    if let Some(cookie) = cookie {
        request = request.header(header::COOKIE, cookie);
    }
    router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

#[tokio::test]
async fn nothing_is_served_without_the_cookie() {
    let access = Access::new(LISTEN);
    let enter = access.url().split_once("8001").unwrap().1.to_owned();
    let router = routes::router(access, informers(&FakeApi::new()), CancellationToken::new());
    let paths = ["/", "/app.js", "/style.css", "/icon.svg", "/stream", "/favicon.ico"];
    for path in paths {
        let answer = get(&router, path, None).await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{path}");
        assert!(
            answer.headers()[header::CONTENT_SECURITY_POLICY]
                .to_str()
                .unwrap()
                .starts_with("default-src 'none';")
        );
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&body).contains("<code>coracle up</code>"), "{path}");
    }
    let entered = get(&router, &enter, None).await;
    assert_eq!(
        (entered.status(), &entered.headers()[header::LOCATION]),
        (StatusCode::SEE_OTHER, &"/".parse().unwrap())
    );
    let cookie = entered.headers()[header::SET_COOKIE].to_str().unwrap();
    assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Strict"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap();
    for path in &paths[..5] {
        let answer = get(&router, path, Some(cookie)).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        assert_eq!(answer.headers()[header::CACHE_CONTROL], "no-store", "{path}");
    }
}

#[tokio::test]
async fn a_selector_that_does_not_parse_is_explained() {
    let access = Access::new(LISTEN);
    let cookie = access.set_cookie();
    let router = routes::router(access, informers(&FakeApi::new()), CancellationToken::new());
    let answer = get(&router, "/stream?selector=a%3D%3D%3Db", cookie.split(';').next()).await;
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let body = String::from_utf8_lossy(&body);
    assert!(body.contains("event: refused\n") && body.contains("found '='"), "{body}");
}

#[tokio::test(start_paused = true)]
async fn rows_say_what_kubectl_says() {
    let now = clock::now();
    let pod = pod("web-1", "web", "n1");
    let row = rows::pod(&pod, now);
    let hooks = &kinds::find("", "v1", "pods").unwrap().hooks;
    let table = hooks.row(&serde_json::to_value(&pod).unwrap(), now);
    assert_eq!(row[1..7], [&table[..4], &table[5..7]].concat());
    assert_eq!(row[2..4], [json!("1/2"), json!("ErrImagePull")]);
    assert_eq!(row[7], json!([["main", "a", true], ["side", "b", false]]));
    assert!(rows::ages(&row), "{row:?}");

    let update = next(&mut View::new(&informers(&world()), Filter::default())).await;
    let row = |table: &str, key: &str| &update["tables"][table]["put"][key];
    assert_eq!(update["complete"], true);
    assert_eq!(row("nodes", "n1").as_array().unwrap()[..3], [json!("n1"), json!("Ready"), json!([1, 110])]);
    assert_eq!(
        row("services", "shop/web").as_array().unwrap()[..6],
        ["shop", "web", "ClusterIP", "10.96.0.9", "80/TCP", "1/2"].map(Value::from)
    );
    assert_eq!(
        row("workloads", "ReplicationController/shop/web").as_array().unwrap()[..5],
        [json!("shop"), json!("ReplicationController"), json!("web"), json!([1, 3]), json!("Progressing")]
    );
    assert_eq!(row("events", "shop/e1")[4], "pod/web-1");
    assert_eq!(row("events", "shop/e1")[5], "<b>\n\"hostile\" & </script>", "data stays data");
}

/// Hostile names and messages cannot become markup: the script has no way to make any from text.
#[test]
fn the_page_makes_no_markup_from_data() {
    let (page, script) = (include_str!("../assets/page.html"), include_str!("../assets/app.js"));
    for banned in [
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "document.write",
        "eval(",
        "Function(",
        "srcdoc",
        ".href",
        "http:",
        "https:",
    ] {
        assert!(!script.contains(banned), "{banned}");
    }
    for banned in [" on", "style=", "http:", "https:", "<style", "javascript:"] {
        assert!(
            !page.split('<').any(|tag| format!("<{tag}").split('>').next().unwrap().contains(banned)),
            "{banned}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn filters_select_what_is_shown() {
    let informers = informers(&world());
    let check = async |namespace: &str, selector: &str, expected: [&[&str]; 5]| {
        let update = next(&mut View::new(&informers, Filter::parse(namespace, selector).unwrap())).await;
        let shown =
            ["nodes", "pods", "services", "workloads", "events"].map(|table| names(&update, table, "put"));
        assert_eq!(
            shown,
            expected.map(|names| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
        );
        assert_eq!(names(&update, "namespaces", "put"), ["default", "shop"], "the picker is not filtered");
    };
    let (both, web): (&[&str], &[&str]) = (&["n1", "n2"], &["shop/web"]);
    let controller: &[&str] = &["ReplicationController/shop/web"];
    check("", "", [both, &["shop/db-1", "shop/web-1"], web, controller, &["shop/e1", "shop/e2"]]).await;
    check(
        "shop",
        "app in (db, web)",
        [both, &["shop/db-1", "shop/web-1"], web, controller, &["shop/e1", "shop/e2"]],
    )
    .await;
    check("shop", " app=web", [&["n1"], &["shop/web-1"], web, controller, &["shop/e1"]]).await;
    check("", "app,app notin (web)", [&["n2"], &["shop/db-1"], &[], &[], &["shop/e2"]]).await;
    check("default", "", [both, &[], &[], &[], &[]]).await;
    check("", "app=none", [&[], &[], &[], &[], &[]]).await;
}

#[tokio::test(start_paused = true)]
async fn only_what_changed_is_sent_and_at_most_four_times_a_second() {
    let api = world();
    let informers = informers(&api);
    let mut view = View::new(&informers, Filter::parse("", "app=web").unwrap());
    next(&mut view).await;
    let started = tokio::time::Instant::now();
    // Many steps of one pod, and one of a pod that is not shown, become one row.
    for count in 2..50 {
        for name in ["web-1", "db-1"] {
            api.edit::<Pod>("shop", name, |pod| {
                pod.status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0].restart_count = count;
            });
        }
    }
    let update = next(&mut view).await;
    assert!(started.elapsed() >= Duration::from_millis(250), "{:?}", started.elapsed());
    assert_eq!(
        (&update["complete"], update["tables"].as_object().unwrap().len()),
        (&json!(false), 1),
        "{update}"
    );
    assert_eq!(names(&update, "pods", "put"), ["shop/web-1"]);
    assert!(
        update["tables"]["pods"]["put"]["shop/web-1"][4].as_str().unwrap().starts_with("49 ("),
        "{update}"
    );

    // A pod that loses its label goes, and its node and its event with it.
    api.edit::<Pod>("shop", "web-1", |pod| pod.metadata.labels = None);
    let update = next(&mut view).await;
    for (table, name) in [("pods", "shop/web-1"), ("nodes", "n1"), ("events", "shop/e1")] {
        assert_eq!(names(&update, table, "gone"), [name], "{update}");
    }
}

/// Each kind has its row, and a step of a rollout is one row of a few hundred bytes.
#[tokio::test(start_paused = true)]
async fn workloads_of_all_kinds_are_one_table() {
    let api = world();
    let meta = |name: &str| json!({"namespace": "shop", "name": name, "generation": 1});
    let template = json!({"spec": {"containers": [{"name": "c", "image": "registry.local/web:1"}]}});
    let spec = json!({"replicas": 2, "template": template, "selector": {}, "serviceName": ""});
    let done = json!({"observedGeneration": 1, "replicas": 2, "readyReplicas": 2, "availableReplicas": 2,
        "updatedReplicas": 2});
    api.create::<Deployment>(&object(json!({"metadata": meta("d"), "spec": spec, "status": done})));
    api.create::<StatefulSet>(&object(json!({"metadata": meta("s"), "spec": spec, "status": done})));
    api.create::<ReplicaSet>(&object(json!({"metadata": meta("r"), "spec": spec, "status": done})));
    let mut kept = json!({"metadata": meta("kept"), "spec": {"replicas": 0, "selector": {}}});
    kept["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": "d",
        "uid": "u", "controller": true}]);
    api.create::<ReplicaSet>(&object(kept));
    api.create::<DaemonSet>(&object(json!({"metadata": meta("a"),
        "spec": {"selector": {}, "template": template}})));
    api.create::<Job>(&object(json!({"metadata": meta("j"), "spec": {"template": template}})));
    let cron = json!({"schedule": "0 * * * *", "jobTemplate": {"spec": {"template": template}}});
    api.create::<CronJob>(&object(json!({"metadata": meta("c"), "spec": cron})));
    let scaler = json!({"maxReplicas": 5, "scaleTargetRef": {"kind": "Deployment", "name": "d"}});
    api.create::<HorizontalPodAutoscaler>(&object(json!({"metadata": meta("h"), "spec": scaler})));
    api.create::<PersistentVolumeClaim>(&object(json!({"metadata": meta("v"),
        "status": {"phase": "Pending"}})));

    let mut view = View::new(&informers(&api), Filter::parse("shop", "").unwrap());
    let update = next(&mut view).await;
    assert_eq!(
        names(&update, "workloads", "put"),
        [
            "Autoscaler/shop/h",
            "Claim/shop/v",
            "CronJob/shop/c",
            "DaemonSet/shop/a",
            "Deployment/shop/d",
            "Job/shop/j",
            "ReplicaSet/shop/r",
            "ReplicationController/shop/web",
            "StatefulSet/shop/s"
        ]
    );
    let row = &update["tables"]["workloads"]["put"]["Deployment/shop/d"];
    assert_eq!((&row[3], &row[4]), (&json!([2, 2]), &json!("Available")));
    assert_eq!(row[6], json!(["registry.local/web:1"]));

    api.edit::<Deployment>("shop", "d", |found| found.status.as_mut().unwrap().updated_replicas = Some(1));
    let update = timeout(Duration::from_secs(20), view.next()).await.unwrap();
    assert!(update.len() < 400, "{} bytes: {update}", update.len());
    let update: Value = serde_json::from_str(&update).unwrap();
    let row = &update["tables"]["workloads"]["put"]["Deployment/shop/d"];
    assert_eq!((&row[4], &row[5]), (&json!("Progressing"), &json!(["1 of 2 up to date", "1 old"])));
    api.remove::<Deployment>("shop", "d");
    assert_eq!(names(&next(&mut view).await, "workloads", "gone"), ["Deployment/shop/d"]);
}

/// The count of a node's pods follows them, also those that are not shown.
#[tokio::test(start_paused = true)]
async fn nodes_count_their_pods() {
    let api = world();
    let mut view = View::new(&informers(&api), Filter::parse("", "app=web").unwrap());
    let count = |update: &Value, node: &str| update["tables"]["nodes"]["put"][node][2][0].clone();
    let first = next(&mut view).await;
    assert_eq!((count(&first, "n1"), count(&first, "n2")), (json!(1), Value::Null));
    api.create(&pod("db-2", "db", "n1"));
    assert_eq!(count(&next(&mut view).await, "n1"), json!(2));
    api.edit::<Pod>("shop", "db-2", |pod| pod.status.as_mut().unwrap().phase = Some("Succeeded".into()));
    assert_eq!(count(&next(&mut view).await, "n1"), json!(1));
    api.create(&pod("web-2", "web", "n2"));
    assert_eq!(count(&next(&mut view).await, "n2"), json!(2), "it has something to show now");
    api.remove::<Pod>("shop", "web-2");
    assert_eq!(names(&next(&mut view).await, "nodes", "gone"), ["n2"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_long_ago_gets_older_by_itself() {
    let api = world();
    let mut view = View::new(&informers(&api), Filter::default());
    let first = next(&mut view).await;
    let second = next(&mut view).await;
    let restarts = |update: &Value| update["tables"]["pods"]["put"]["shop/web-1"][4].clone();
    assert!(restarts(&second).is_string() && restarts(&first) != restarts(&second), "{first} {second}");
}

#[tokio::test]
async fn a_browser_enters_sees_a_change_and_is_let_go_at_the_end() {
    let api = world();
    let listen = "127.0.0.1:0".parse().unwrap();
    let dashboard = Dashboard::build(Config { listen }, &informers(&api)).await.unwrap();
    let url = dashboard.url();
    let (address, token) = url.strip_prefix("http://").unwrap().split_once("/?token=").unwrap();
    let taken = Dashboard::build(Config { listen: address.parse().unwrap() }, &informers(&api)).await;
    assert!(taken.is_err(), "a taken port fails at start");

    let port = address.rsplit(':').next().unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET /stream HTTP/1.1\r\nhost: {address}\r\ncookie: coracle-dashboard-{port}={token}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut read = String::new();
    until(&mut stream, &mut read, "\"complete\":true").await;
    assert!(
        read.starts_with("HTTP/1.1 200 OK\r\n") && read.contains("content-type: text/event-stream\r\n"),
        "{read}"
    );
    api.create(&pod("web-2", "web", "n1"));
    until(&mut stream, &mut read, "\"shop/web-2\"").await;

    timeout(Duration::from_secs(20), dashboard.shutdown(Duration::from_mins(1)))
        .await
        .expect("ends by itself");
    until(&mut stream, &mut read, "\r\n0\r\n\r\n").await;
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

/// Reads until `wanted` has come.
async fn until(stream: &mut TcpStream, read: &mut String, wanted: &str) {
    let more = async {
        while !read.contains(wanted) {
            let mut part = [0; 4096];
            let count = stream.read(&mut part).await.unwrap();
            assert_ne!(count, 0, "ended before {wanted}: {read}");
            read.push_str(&String::from_utf8_lossy(&part[..count]));
        }
    };
    timeout(Duration::from_secs(20), more).await.unwrap_or_else(|_| panic!("never: {wanted}"));
}
