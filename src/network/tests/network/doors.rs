//! Doors of the host: load balancers with the clients that they take and the health that they ask for, and both
//! families of addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use coracle_network::{Config, Fabric, HostPort, NetworkError, PodStack, Protocol};
use k8s_openapi::api::core::v1::Service;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::support::{
    NODE, any, at, config, eventually, fabric, greeter, greeting, pod, service, slice_of, soon,
};

/// A port of this host that is free for both families at this moment.
async fn free_port() -> u16 {
    let listener = TcpListener::bind("[::]:0").await.expect("a port is free");
    listener.local_addr().expect("bound").port()
}

/// What the service says to a client of this host, once its door is open; `None` if it is turned away.
async fn curl(ip: impl Into<IpAddr>, port: u16) -> Option<String> {
    let mut stream = connected(ip, port).await;
    let mut text = String::new();
    soon("an answer", stream.read_to_string(&mut text)).await.ok().map(|_| text)
}

/// A connection to this host, once its door is open.
async fn connected(ip: impl Into<IpAddr>, port: u16) -> TcpStream {
    let to = at(ip, port);
    let connected = async {
        loop {
            match TcpStream::connect(to).await {
                Ok(stream) => return stream,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    soon("the door to open", connected).await
}

/// A load balancer on a port of the node, with that node port; its one backend says "web" on both families.
fn balancer(port: u16, node_port: u16, ranges: &[&str], annotation: Option<&str>) -> Service {
    let ports = json!([{"port": port, "nodePort": node_port}]);
    let mut object = json!({
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.50", "ports": ports, "loadBalancerSourceRanges": ranges},
        "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.7", "ipMode": "VIP"}]}},
    });
    if let Some(ranges) = annotation {
        let key = "service.beta.kubernetes.io/load-balancer-source-ranges";
        object["metadata"]["annotations"] = json!({ key: ranges });
    }
    serde_json::from_value(object).expect("a service")
}

fn backend(fabric: &Arc<Fabric>, server: &PodStack) {
    let endpoints = json!([{"addresses": [server.ip()]}]);
    fabric.apply_slice(&slice_of("web", json!([{"name": "", "port": 8080}]), endpoints));
}

#[tokio::test]
async fn a_load_balancer_takes_only_the_clients_that_it_names() {
    let fabric = fabric();
    let (server, client) = (pod(&fabric, "server"), pod(&fabric, "client"));
    greeter(&server, 8080, "web");
    backend(&fabric, &server);
    let (port, node_port) = (free_port().await, free_port().await);
    let check = async |ranges: &[&str], annotation, of_host: bool, of_pods: bool| {
        fabric.apply_service(&balancer(port, node_port, ranges, annotation));
        let web = |admitted: bool| admitted.then(|| "web".to_owned());
        let shown = format!("{ranges:?} {annotation:?}");
        assert_eq!(curl(Ipv4Addr::LOCALHOST, port).await, web(of_host), "{shown}");
        for door in [at([203, 0, 113, 7], port), at(NODE, port)] {
            match client.connect(door).await {
                Ok(stream) => assert_eq!(Some(greeting(stream).await), web(of_pods), "{shown}"),
                Err(error) => {
                    assert_eq!((error, of_pods), (NetworkError::Denied(door), false), "{shown}");
                }
            }
        }
        // The ranges are those of the load balancer only.
        assert_eq!(curl(Ipv4Addr::LOCALHOST, node_port).await, web(true), "{shown}");
        for other in [at([10, 96, 0, 50], port), at(NODE, node_port)] {
            let stream = client.connect(other).await.expect("for everybody");
            assert_eq!(greeting(stream).await, "web", "{shown}");
        }
    };
    check(&[], None, true, true).await;
    check(&["203.0.113.0/24"], None, false, false).await;
    check(&["203.0.113.0/24", " 127.0.0.0/8 "], None, true, false).await;
    check(&["10.128.0.0/9"], None, false, true).await;
    check(&["0.0.0.0/0"], None, true, true).await;
    check(&["::/0"], None, false, false).await;
    check(&[], Some("127.0.0.0/8, 203.0.113.0/24"), true, false).await;
    check(&["10.128.0.0/9"], Some("127.0.0.0/8"), false, true).await;
    check(&["nonsense"], None, false, false).await;
    assert!(client.usage().denied > 0, "denials are counted");
    soon("shutdown", fabric.shutdown()).await;
}

/// What a load balancer hears that asks for the health of `default/web` on this node: the head and the body.
async fn health(port: u16) -> (String, String) {
    let mut client = connected(Ipv4Addr::LOCALHOST, port).await;
    client.write_all(b"GET /any HTTP/1.1\r\nHost: n\r\n\r\n").await.expect("open");
    let mut text = String::new();
    soon("an answer", client.read_to_string(&mut text)).await.expect("an orderly end");
    let (head, body) = text.split_once("\r\n\r\n").expect("a whole head");
    (head.to_lowercase(), body.to_owned())
}

#[tokio::test]
async fn a_balancer_of_local_endpoints_has_its_health_told() {
    let fabric = Fabric::build(Config { node_name: "here".to_owned(), ..config() });
    let (port, node_port, asked) = (free_port().await, free_port().await, free_port().await);
    let balancer = |policy: &str| {
        let ports = json!([{"port": port, "nodePort": node_port}]);
        service(
            "web",
            json!({
                "type": "LoadBalancer", "clusterIP": "10.96.0.50", "ports": ports,
                "externalTrafficPolicy": policy, "healthCheckNodePort": asked,
            }),
        )
    };
    fabric.apply_service(&balancer("Local"));
    let check = async |endpoints: serde_json::Value, status: &str, local: usize| {
        let ports = json!([{"name": "", "port": 8080}, {"name": "more", "port": 8081}]);
        fabric.apply_slice(&slice_of("web", ports, endpoints.clone()));
        let (head, body) = health(asked).await;
        for line in [
            &format!("http/1.1 {status}"),
            "content-type: application/json",
            "x-content-type-options: nosniff",
            &format!("x-load-balancing-endpoint-weight: {local}"),
        ] {
            assert!(head.lines().any(|own| own == line), "{endpoints}: no {line:?} in {head}");
        }
        let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        let service = json!({"namespace": "default", "name": "web"});
        let expected = json!({"service": service, "localEndpoints": local, "serviceProxyHealthy": true});
        assert_eq!(body, expected, "{endpoints}");
    };
    let at_node = |ip: &str, node: &str, ready: bool| {
        let conditions = json!({"ready": ready, "serving": true, "terminating": !ready});
        json!({"addresses": [ip], "nodeName": node, "conditions": conditions})
    };
    check(json!([]), "503 service unavailable", 0).await;
    check(json!([at_node("10.128.0.9", "there", true)]), "503 service unavailable", 0).await;
    check(json!([at_node("10.128.0.9", "here", false)]), "503 service unavailable", 0).await;
    let two = json!([at_node("10.128.0.9", "here", true), at_node("10.128.0.8", "here", true)]);
    check(two, "200 ok", 2).await;

    fabric.apply_service(&balancer("Cluster"));
    closes(asked).await;
    fabric.apply_service(&balancer("Local"));
    health(asked).await;
    fabric.remove_service("default", "web");
    closes(asked).await;
    soon("shutdown", fabric.shutdown()).await;
}

/// The ports of load balancers that are open are known: all of them, and once each was tried.
#[tokio::test]
async fn a_node_tells_where_it_balances() {
    let fabric = fabric();
    assert_eq!(fabric.balanced_doors(), Some(Vec::new()));
    let squatter = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let taken = squatter.local_addr().expect("bound").port();
    let (port, node_port) = (free_port().await, free_port().await);
    let balancer = |name: &str, ports: serde_json::Value| {
        service(name, json!({"type": "LoadBalancer", "clusterIP": "10.96.0.50", "ports": ports}))
    };
    let twice = json!([{"name": "t", "port": port, "nodePort": node_port}, {"name": "u", "port": port, "protocol": "UDP"}]);
    fabric.apply_service(&balancer("web", twice));
    fabric.apply_service(&balancer("taken", json!([{"port": taken}])));
    assert_eq!(fabric.balanced_doors(), None, "none was tried yet");
    eventually("a try", || fabric.balanced_doors().is_some()).await;
    assert_eq!(fabric.balanced_doors(), Some(vec![(port, Protocol::Tcp), (port, Protocol::Udp)]));
    drop(squatter);
    eventually("the third", || fabric.balanced_doors().is_some_and(|open| open.len() == 3)).await;
    fabric.remove_service("default", "web");
    assert_eq!(fabric.balanced_doors(), Some(vec![(taken, Protocol::Tcp)]));
    soon("shutdown", fabric.shutdown()).await;
}

async fn closes(port: u16) {
    soon("the port to close", async {
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

fn everywhere() -> Arc<Fabric> {
    Fabric::build(Config { node_port_bind: Ipv6Addr::UNSPECIFIED.into(), ..config() })
}

#[tokio::test]
async fn a_node_on_all_addresses_serves_both_families() {
    let fabric = everywhere();
    let server = pod(&fabric, "server");
    greeter(&server, 8080, "four");
    let listener = server.listen(at(server.ip6().expect("two families"), 8080), 8).expect("free");
    let port = free_port().await;
    fabric.apply_service(&service(
        "web",
        json!({"type": "NodePort", "clusterIP": "10.96.0.50", "ports": [{"port": 80, "nodePort": port}]}),
    ));
    backend(&fabric, &server);
    assert_eq!(curl(Ipv4Addr::LOCALHOST, port).await.as_deref(), Some("four"));
    assert_eq!(curl(Ipv6Addr::LOCALHOST, port).await.as_deref(), Some("four"), "there is no other family");

    let mut second =
        slice_of("web", json!([{"name": "", "port": 8080}]), json!([{"addresses": [server.ip6()]}]));
    (second.metadata.name, second.address_type) = (Some("web-2".to_owned()), "IPv6".to_owned());
    fabric.apply_slice(&second);
    assert_eq!(curl(Ipv4Addr::LOCALHOST, port).await.as_deref(), Some("four"));
    let client = TcpStream::connect(at(Ipv6Addr::LOCALHOST, port)).await.expect("open");
    let accepted = soon("a connection", listener.accept()).await.expect("of its family");
    assert!(accepted.peer_addr().is_ipv6(), "{}", accepted.peer_addr());
    drop(client);
    soon("shutdown", fabric.shutdown()).await;
}

#[tokio::test]
async fn host_ports_serve_both_families() {
    let fabric = everywhere();
    let stack = pod(&fabric, "pod");
    greeter(&stack, 8080, "four");
    let port = free_port().await;
    let host = HostPort { ip: None, port, target: 8080, protocol: Protocol::Tcp };
    stack.open_host_port(host).expect("free");
    for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        assert_eq!(curl(ip, port).await.as_deref(), Some("four"), "{ip}");
    }

    let udp = HostPort { target: 53, protocol: Protocol::Udp, ..host };
    stack.open_host_port(udp).expect("free");
    echoes(&stack, any(53), port).await;
    echoes(&stack, at(Ipv6Addr::UNSPECIFIED, 53), port).await;
    soon("shutdown", fabric.shutdown()).await;
}

/// A pod's socket there is asked by clients of both families, and answers them.
async fn echoes(stack: &PodStack, bound: SocketAddr, port: u16) {
    let socket = stack.bind_udp(bound).expect("free");
    for (client, host) in
        [("127.0.0.1:0", at(Ipv4Addr::LOCALHOST, port)), ("[::1]:0", at(Ipv6Addr::LOCALHOST, port))]
    {
        let client = UdpSocket::bind(client).await.expect("a port is free");
        client.send_to(b"?", host).await.expect("sent");
        let (_, from) = soon("a question", socket.recv()).await.expect("received");
        assert_eq!(from.is_ipv4(), bound.is_ipv4(), "{host}");
        socket.send(Bytes::from_static(b"!"), Some(from)).expect("sent");
        let mut answer = [0; 8];
        let (size, from) = soon("an answer", client.recv_from(&mut answer)).await.expect("received");
        assert_eq!((&answer[..size], from), (&b"!"[..], host));
    }
}
