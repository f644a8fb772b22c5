//! Datagrams that come through the host's ports, and those that leave the node.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use coracle_network::{Config, Fabric, HostPort, NetworkError, PodStack, Protocol};
use serde_json::json;
use tokio::net::UdpSocket;

use crate::support::{any, at, config, eventually, fabric, pod, service, slice_of, soon};

/// A UDP port of this host that is free at this moment.
async fn free_port() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port is free");
    socket.local_addr().expect("bound").port()
}

async fn ask(client: &UdpSocket, to: SocketAddr, question: &[u8]) {
    client.send_to(question, to).await.expect("sent");
}

async fn answer(client: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 100];
    let (size, from) = soon("an answer", client.recv_from(&mut buffer)).await.expect("received");
    buffer.truncate(size);
    (buffer, from)
}

#[tokio::test]
async fn a_node_port_of_udp_leads_to_a_backend_and_back() {
    let fabric = fabric();
    let port = free_port().await;
    let address = at(Ipv4Addr::LOCALHOST, port);
    let pods = [pod(&fabric, "a"), pod(&fabric, "b")];
    let sockets = pods.each_ref().map(|pod| pod.bind_udp(any(5353)).expect("free"));
    let ports = json!([{"port": 53, "protocol": "UDP", "nodePort": port}]);
    fabric.apply_service(&service(
        "dns",
        json!({"type": "NodePort", "clusterIP": "10.96.0.53", "ports": ports}),
    ));
    let endpoints = |pods: &[&PodStack]| {
        let endpoints: Vec<_> = pods.iter().map(|pod| json!({"addresses": [pod.ip()]})).collect();
        let ports = json!([{"name": "", "port": 5353, "protocol": "UDP"}]);
        fabric.apply_slice(&slice_of("dns", ports, json!(endpoints)));
    };
    endpoints(&[&pods[0], &pods[1]]);
    let open = async {
        while UdpSocket::bind(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    soon("the port to open", open).await;
    let clients = [UdpSocket::bind("127.0.0.1:0").await, UdpSocket::bind("127.0.0.1:0").await];
    let clients = clients.map(|client| client.expect("a port is free"));
    for round in 0..3u8 {
        // Each client stays with the backend that it began with.
        for (client, socket) in clients.iter().zip(&sockets) {
            ask(client, address, &[round]).await;
            let (question, from) = soon("a question", socket.recv()).await.expect("received");
            assert_eq!(&question[..], [round]);
            assert!(!from.ip().is_loopback(), "a guest must not take the host for itself");
            socket.send(Bytes::from(vec![round, 7]), Some(from)).expect("sent");
            assert_eq!(answer(client).await, (vec![round, 7], address));
        }
    }
    // The second is no longer of the service: its client is taken to the first.
    endpoints(&[&pods[0]]);
    ask(&clients[1], address, b"?").await;
    assert_eq!(&soon("a question", sockets[0].recv()).await.expect("received").0[..], b"?");
    // Its socket is gone: the next one finds another.
    endpoints(&[&pods[0], &pods[1]]);
    let [gone, left] = sockets;
    drop(gone);
    let answered = async {
        loop {
            ask(&clients[0], address, b"?").await;
            if let Ok(received) = tokio::time::timeout(Duration::from_millis(20), left.recv()).await {
                return received;
            }
        }
    };
    soon("a question", answered).await.expect("received");
    fabric.remove_service("default", "dns");
    let closed = async {
        while UdpSocket::bind(address).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    soon("the port to close", closed).await;
    soon("shutdown", fabric.shutdown()).await;
}

#[tokio::test]
async fn a_host_port_of_udp_leads_to_its_pod() {
    let fabric = fabric();
    let stack = pod(&fabric, "a");
    let port = free_port().await;
    let host = HostPort { ip: None, port, target: 53, protocol: Protocol::Udp };
    stack.open_host_port(host).expect("free");
    assert_eq!(stack.open_host_port(host), Err(NetworkError::AddressInUse(at(Ipv4Addr::LOCALHOST, port))));
    let socket = stack.bind_udp(any(53)).expect("free");
    let client = UdpSocket::bind("127.0.0.1:0").await.expect("a port is free");
    ask(&client, at(Ipv4Addr::LOCALHOST, port), b"?").await;
    let (_, from) = soon("a question", socket.recv()).await.expect("received");
    socket.send(Bytes::from_static(b"!"), Some(from)).expect("sent");
    assert_eq!(answer(&client).await.0, b"!");
    stack.close();
    soon("shutdown", fabric.shutdown()).await;
}

/// By a service whose endpoint is a host that the node allows: the one way that a test can take.
#[tokio::test]
async fn a_pod_talks_to_a_host_outside_and_hears_only_whom_it_talked_to() {
    let outside = UdpSocket::bind("127.0.0.1:0").await.expect("a port is free");
    let address = outside.local_addr().expect("bound");
    let fabric = Fabric::build(Config { host_endpoints: vec![address], ..config() });
    let vip = at(Ipv4Addr::new(10, 96, 0, 53), 53);
    let ports = json!([{"port": 53, "protocol": "UDP"}]);
    fabric.apply_service(&service("dns", json!({"clusterIP": "10.96.0.53", "ports": ports})));
    let ports = json!([{"name": "", "port": address.port(), "protocol": "UDP"}]);
    fabric.apply_slice(&slice_of("dns", ports, json!([{"addresses": ["127.0.0.1"]}])));
    let stack = pod(&fabric, "a");
    let socket = stack.bind_udp(any(0)).expect("free");
    for _ in 0..2 {
        socket.send(Bytes::from_static(b"?"), Some(vip)).expect("sent");
        let (question, from) = answer(&outside).await;
        assert_eq!(question, b"?");
        let stranger = UdpSocket::bind("127.0.0.1:0").await.expect("a port is free");
        ask(&stranger, from, b"x").await;
        ask(&outside, from, b"!").await;
        assert_eq!(soon("an answer", socket.recv()).await, Ok((Bytes::from_static(b"!"), vip)));
    }
    socket.send(Bytes::new(), Some(address)).expect("lost: that is the pod's own loopback");
    assert!(outside.try_recv_from(&mut [0; 8]).is_err(), "never by its own address");
    drop(socket);
    eventually("nothing to be held", || stack.usage().held == 0).await;
    soon("shutdown", fabric.shutdown()).await;
}
