//! `wasi:http` handlers behind Services.

use std::collections::BTreeSet;

use crate::support::{Cluster, eventually, have_kubectl, http_get, http_post, manifest};

#[test]
fn a_handler_is_served_behind_its_service() {
    if !have_kubectl() {
        return;
    }
    let cluster = Cluster::start();
    cluster.push(&["handler", "routes"]);
    cluster.kubectl_input("apply -f -", &manifest("handler/handler.yaml"));
    cluster.kubectl_input("apply -f -", &manifest("routes/pod.yaml"));
    cluster.kubectl("wait --for=condition=Available deployment/handler --timeout=60s");
    cluster.kubectl("wait --for=condition=Ready pod/routes --timeout=60s");

    // From outside, and each pod has its turn.
    let address = cluster.node_port("handler", "");
    let mut pods = BTreeSet::new();
    eventually("both pods answer", || {
        let (head, body) = http_get(&address, "/some/path?x=y")?;
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        let pod = body.strip_prefix("Method::Get /some/path?x=y handled by handler-");
        pods.insert(pod.unwrap_or_else(|| panic!("{body}")).to_owned());
        if pods.len() == 2 { Ok(()) } else { Err(format!("{pods:?}")) }
    });

    // From inside, by the service's name: with wasi:http, and with the toolbox's sockets.
    cluster.kubectl("expose pod routes --port=80 --target-port=8080 --type=NodePort");
    let routes = cluster.node_port("routes", "");
    let (_, body) = eventually("an answer", || http_get(&routes, "/fetch?url=http://handler/by/name"));
    assert!(body.starts_with("Method::Get /by/name handled by handler-"), "{body}");
    let body = cluster.kubectl("exec routes -- wget -q -O - http://handler.default.svc.cluster.local/");
    assert!(body.starts_with("Method::Get / handled by handler-"), "{body}");

    // What its annotation says: ten requests an instance.
    let (_, body) = http_post(&routes, "/echo", "there and back").unwrap();
    assert!(body.contains("there and back"), "{body}");
    let (head, _) = http_get(&routes, "/trap").unwrap();
    assert!(head.starts_with("HTTP/1.1 500 "), "{head}");
    let log = cluster.kubectl("logs routes");
    assert!(
        log.contains("wasi:http: a request failed: wasm trap: wasm `unreachable` instruction executed"),
        "{log}"
    );
    let pod = cluster.kubectl("get pod routes --no-headers");
    assert!(
        pod.contains("1/1") && pod.contains("Running   0 "),
        "a trap ends its request, not its pod: {pod}"
    );

    let metrics = cluster.kubectl("get --raw /api/v1/nodes/boat/proxy/metrics");
    let of_routes = "container=\"routes\",namespace=\"default\",pod=\"routes\"";
    let failed = format!("coracle_http_errors_total{{{of_routes},reason=\"failed\"}} 1");
    assert!(metrics.lines().any(|line| line == failed), "{metrics}");
    let wrong = cluster.kubectl_fails("exec routes -- /not/there", "");
    assert!(wrong.contains("not a command: it is a `wasi:http` handler"), "{wrong}");

    // Deleted, it drains and ends well before its grace period does.
    cluster.kubectl("delete pod routes --timeout=20s");
    cluster.kubectl("delete deployment handler --timeout=20s");
}
