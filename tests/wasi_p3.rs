//! Programs of WASI 0.3, on a node that allows them and on one that does not.

use std::{net::UdpSocket, time::Duration};

use crate::support::{Cluster, eventually, have_kubectl, http_get, http_post, manifest};

#[test]
fn programs_of_0_3_run_where_the_flag_allows_it() {
    if !have_kubectl() {
        return;
    }
    let cluster = Cluster::start_with(&["--wasi-p3"]);
    cluster.push(&["preview3", "routes3", "handler"]);
    for file in ["preview3/pod.yaml", "routes3/pod.yaml", "handler/handler.yaml"] {
        cluster.kubectl_input("apply -f -", &manifest(file));
    }
    cluster.kubectl("wait --for=jsonpath='{.status.phase}'=Succeeded pod/preview3 --timeout=60s");
    assert_eq!(cluster.kubectl("logs preview3"), "Hello from WASI 0.3\n");

    cluster.kubectl("wait --for=condition=Ready pod/routes3 --timeout=60s");
    cluster.kubectl("expose pod routes3 --port=80 --target-port=8080 --type=NodePort");
    let routes = cluster.node_port("routes3", "");
    let (_, body) = eventually("an answer", || http_get(&routes, "/"));
    assert_eq!(body, "hello\n");
    let (_, body) = http_post(&routes, "/echo", "there and back").unwrap();
    assert_eq!(body, "there and back");
    // A handler of 0.2, by the name of its service.
    cluster.kubectl("wait --for=condition=Available deployment/handler --timeout=60s");
    let (_, body) = eventually("an answer", || http_get(&routes, "/fetch?url=http://handler/by/name"));
    assert!(body.starts_with("Method::Get /by/name handled by handler-"), "{body}");
    let (head, _) = http_get(&routes, "/trap").unwrap();
    assert!(head.starts_with("HTTP/1.1 500 "), "{head}");
    let log = cluster.kubectl("logs routes3");
    let told = "wasi:http: a request failed: wasm trap: wasm `unreachable` instruction executed";
    assert!(log.contains(told), "{log}");

    // A command beside it, in the same pod's network and files.
    let (_, body) = http_get(&routes, "/later?ms=1").unwrap();
    assert_eq!(body, "now\n");
    eventually("what it did later", || {
        let log = cluster.kubectl("logs routes3");
        if log.contains("later\n") { Ok(()) } else { Err(log) }
    });
    cluster.kubectl("delete pod routes3 --timeout=20s");

    // Datagrams of the outside and of its own pod.
    cluster.kubectl_input("apply -f -", DATAGRAMS);
    cluster.kubectl("expose pod datagrams --port=53 --target-port=5353 --protocol=UDP --type=NodePort");
    let to = cluster.node_port("datagrams", "");
    let socket = UdpSocket::bind((cluster.host(), 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let echo = || -> std::io::Result<Vec<u8>> {
        let mut answer = [0; 64];
        socket.send_to(b"there and back", &to)?;
        let (length, from) = socket.recv_from(&mut answer)?;
        assert_eq!(from.to_string(), to, "the answer comes from whom was asked");
        Ok(answer[..length].to_vec())
    };
    let answer = eventually("an echo", || echo().map_err(|error| error.to_string()));
    assert_eq!(answer, b"there and back");
    assert_eq!(cluster.kubectl("exec datagrams -- preview3 datagram 5353 within"), "within");
}

/// Who answers datagrams.
const DATAGRAMS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: datagrams, labels: {app: datagrams}}
spec:
  containers: [{name: c, image: 'registry.local/preview3:1', args: [datagrams, '5353', '100000']}]
";

#[test]
fn without_the_flag_they_say_what_they_need() {
    if !have_kubectl() {
        return;
    }
    let cluster = Cluster::start();
    cluster.push(&["preview3", "routes3"]);
    for pod in ["preview3", "routes3"] {
        cluster.kubectl_input("apply -f -", &manifest(&format!("{pod}/pod.yaml")));
        let path = "{.status.containerStatuses[0].state.waiting}";
        let waiting = eventually(pod, || {
            let waiting = cluster.kubectl(&format!("get pod {pod} -o 'jsonpath={path}'"));
            if waiting.contains("CreateContainerError") { Ok(waiting) } else { Err(waiting) }
        });
        assert!(waiting.contains("WASI 0.3 needs the node's flag --wasi-p3"), "{waiting}");
    }
}
