//! Pods of several modules: shared volumes, localhost, services, node ports.

use std::{collections::BTreeSet, fs, net::TcpListener};

use crate::support::{Cluster, eventually, have_kubectl, http_get, manifest};

/// The demo's manifest with node ports that the cluster chooses: fixed ones may be taken here.
fn demo() -> String {
    manifest("demo.yaml").lines().filter(|line| !line.contains("nodePort: ")).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_demo_serves_from_three_pods_through_an_ambassador_and_an_adapter() {
    if !have_kubectl() {
        return;
    }
    let cluster = Cluster::start();
    cluster.push(&["web", "content", "adapter", "shop", "ambassador"]);
    cluster.kubectl_input("apply -f -", &demo());
    cluster.kubectl("wait --for=jsonpath='{.status.readyReplicas}'=3 rc/web --timeout=60s");
    cluster.kubectl("wait --for=jsonpath='{.status.readyReplicas}'=1 rc/shop --timeout=60s");
    let names = cluster.kubectl("get pods -l app=web -o 'jsonpath={.items[*].metadata.name}'");
    let names: BTreeSet<String> = names.split_whitespace().map(str::to_owned).collect();
    assert_eq!(names.len(), 3);

    // The node port reaches all three in turn: any three requests in a row meet three pods.
    let web = cluster.node_port("web", "http");
    eventually("three pods in turn", || {
        let mut met = BTreeSet::new();
        for _ in 0..3 {
            let (head, body) = http_get(&web, "/")?;
            if !head.starts_with("HTTP/1.1 200") {
                return Err(head);
            }
            let pod = head.lines().find_map(|l| l.strip_prefix("x-pod: ")).unwrap_or_default().to_owned();
            assert!(body.contains(&format!("<code>{pod}</code>")), "{body}");
            met.insert(pod);
        }
        if met == names { Ok(()) } else { Err(format!("met {met:?} of {names:?}")) }
    });

    // The sidecar keeps writing.
    let edition = |path| -> Result<u64, String> {
        http_get(&web, path)?.1.trim().parse().map_err(|_| "no edition yet".to_owned())
    };
    let first = eventually("an edition", || edition("/edition.txt"));
    eventually("a later edition", || match edition("/edition.txt")? {
        later if later > first + 2 => Ok(()),
        later => Err(format!("still {later}")),
    });

    // The adapter asks `web` over localhost; the shop asks its ambassador over localhost.
    let (_, metrics) = http_get(&cluster.node_port("web", "metrics"), "/metrics").unwrap();
    assert!(metrics.contains("web_up 1") && metrics.contains("web_requests_total "), "{metrics}");
    let shop = cluster.node_port("shop", "http");
    let sold = eventually("something sold", || match http_get(&shop, "/")? {
        (head, body) if head.starts_with("HTTP/1.1 200") => Ok(body),
        (head, body) => Err(format!("{head}\n{body}")),
    });
    assert!(names.iter().any(|name| sold.contains(name)), "{sold}");

    // Applied again with more replicas; then taken away whole.
    cluster.kubectl_input("apply -f -", &demo().replace("replicas: 3", "replicas: 5"));
    cluster.kubectl("wait --for=jsonpath='{.status.readyReplicas}'=5 rc/web --timeout=60s");
    cluster.kubectl_input("delete -f - --timeout=60s", &demo());
    eventually("no pods left", || match cluster.kubectl("get pods -o name") {
        left if left.is_empty() => Ok(()),
        left => Err(left),
    });
    assert!(http_get(&web, "/").is_err(), "the node port is closed with its service");
}

#[test]
fn a_config_map_is_served_and_its_change_arrives() {
    if !have_kubectl() {
        return;
    }
    let cluster = Cluster::start();
    cluster.push(&["web"]);
    let page = manifest("web/pod.yaml");
    cluster.kubectl_input("apply -f -", &page);
    cluster.kubectl("wait --for=condition=Ready pod/page --timeout=60s");
    let address = cluster.node_port("page", "");
    let served = |expected: &str| {
        eventually(expected, || match http_get(&address, "/")? {
            (_, body) if body.contains(expected) => Ok(()),
            other => Err(format!("{other:?}")),
        });
    };
    served("Hello from a ConfigMap");
    cluster.kubectl_input("apply -f -", &page.replace("Hello from a ConfigMap", "Another page"));
    served("Another page");
}

#[test]
fn a_host_port_leads_to_its_pod_once_it_is_free() {
    if !have_kubectl() {
        return;
    }
    let cluster = Cluster::start();
    cluster.push(&["web"]);
    let squatter = TcpListener::bind((cluster.host(), 0)).unwrap();
    let address = squatter.local_addr().unwrap();
    let port = format!("\"hostPort\": {}", address.port());
    let pod = |name: &str| {
        format!(
            r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "{name}"}}, "spec": {{"containers": [
                {{"name": "web", "image": "registry.local/web:1", "ports": [{{"containerPort": 8080, {port}}}]}}]}}}}"#
        )
    };
    cluster.kubectl_input("create -f -", &pod("first"));
    let told =
        format!("cannot open hostport {} for pod first_default: address already in use", address.port());
    let describes = |pod: &str, what: &str| {
        eventually(what, || match cluster.kubectl(&format!("describe pod {pod}")) {
            text if text.contains(what) => Ok(()),
            text => Err(text),
        });
    };
    describes("first", &told);
    drop(squatter);
    let answers = |name: &str| {
        eventually("an answer through the host", || match http_get(&address.to_string(), "/")? {
            (head, _) if head.contains(&format!("x-pod: {name}")) => Ok(()),
            (head, _) => Err(head),
        });
    };
    answers("first");
    // Another pod has to wait for it.
    cluster.kubectl_input("create -f -", &pod("second"));
    describes("second", "1 node(s) didn't have free ports for the requested pod ports");
    cluster.kubectl("delete pod first --now");
    answers("second");
}

/// A core module that says when it has begun, and when it was asked to end.
const STOPPABLE: &str = r#"(module
    (import "coracle:lifecycle/stop@0.1.0" "stopping" (func $stopping (result i32)))
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "\10\00\00\00\06\00\00\00\16\00\00\00\06\00\00\00begun\nasked\n")
    (func (export "_start") (local $fd i32)
        (local.set $fd (call $stopping))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 512)))
        (i32.store8 (i32.const 72) (i32.const 1))                 ;; until it can be read
        (i32.store (i32.const 80) (local.get $fd))
        (drop (call $poll (i32.const 64) (i32.const 256) (i32.const 1) (i32.const 512)))
        (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 512)))))"#;

#[test]
fn a_core_module_learns_that_it_is_to_end() {
    if !have_kubectl() {
        return;
    }
    let cluster = Cluster::start();
    let module = cluster.dir().join("stoppable.wasm");
    fs::write(&module, wat::parse_str(STOPPABLE).unwrap()).unwrap();
    cluster.push_file(&module, "stoppable:1");
    cluster.kubectl("run stoppable --image=registry.local/stoppable:1 --restart=Never");
    cluster.kubectl("wait --for=condition=Ready pod/stoppable --timeout=60s");
    let mut log = cluster.kubectl_follow("logs -f stoppable");
    log.until(|line| line == "begun");
    // Far sooner than its 30 seconds are over.
    cluster.kubectl("delete pod stoppable --timeout=20s");
    assert_eq!(log.line().as_deref(), Some("asked"));
    assert_eq!(log.line(), None);
}
