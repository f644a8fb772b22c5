//! Datagrams.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use bytes::Bytes;
use coracle_network::limits::{DATAGRAM_MAX, UDP_QUEUE_BYTES, UDP_QUEUE_DATAGRAMS};
use coracle_network::{Fabric, NetworkError, PodStack};
use serde_json::json;

use crate::support::{any, at, fabric, pod, service, slice_of, soon};

#[tokio::test]
async fn datagrams_keep_their_bounds_and_their_sender() {
    let fabric = fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    let server = b.bind_udp(any(53)).expect("free");
    let client = a.bind_udp(any(0)).expect("free");
    for payload in [&b""[..], b"one", b"another"] {
        client.send(Bytes::copy_from_slice(payload), Some(at(b.ip(), 53))).expect("sent");
        let (data, from) = soon("a datagram", server.recv()).await.expect("received");
        assert_eq!((&data[..], from), (payload, at(a.ip(), client.local_addr().port())));
        server.send(data, Some(from)).expect("sent");
        let (data, from) = soon("an answer", client.recv()).await.expect("received");
        assert_eq!((&data[..], from), (payload, at(b.ip(), 53)));
    }
    let v6 = a.bind_udp(at(Ipv6Addr::LOCALHOST, 0)).expect("free");
    v6.send(Bytes::from_static(b"self"), Some(v6.local_addr())).expect("sent");
    assert_eq!(v6.try_recv().expect("received").1, v6.local_addr());
}

#[tokio::test]
async fn what_cannot_be_delivered_is_lost_and_what_cannot_be_sent_is_an_error() {
    let fabric = fabric();
    let stack = pod(&fabric, "pod");
    let socket = stack.bind_udp(any(0)).expect("free");
    let send = |ip: Ipv4Addr, port, size| socket.send(vec![0; size].into(), Some(at(ip, port)));
    assert_eq!(send(stack.ip(), 9, 1), Ok(()), "nobody listens");
    assert_eq!(send(Ipv4Addr::new(10, 96, 9, 9), 9, 1), Ok(()), "no such service");
    assert_eq!(send(stack.ip(), 9, DATAGRAM_MAX + 1), Err(NetworkError::DatagramTooLarge(DATAGRAM_MAX + 1)));
    assert!(matches!(send(stack.ip(), 0, 1), Err(NetworkError::InvalidAddress(_))));
    assert!(matches!(send(Ipv4Addr::new(224, 0, 0, 251), 5353, 1), Err(NetworkError::Multicast(_))));
    assert!(matches!(send(Ipv4Addr::BROADCAST, 5353, 1), Err(NetworkError::Denied(_))));
    assert!(matches!(
        stack.bind_udp(at(Ipv4Addr::new(224, 0, 0, 251), 5353)),
        Err(NetworkError::AddressNotAvailable(_))
    ));
    assert!(matches!(send(Ipv4Addr::new(169, 254, 169, 254), 53, 1), Err(NetworkError::Denied(_))));
    assert_eq!(socket.send(Bytes::new(), None), Err(NetworkError::NotConnected));
}

#[tokio::test]
async fn queues_are_bounded() {
    let fabric = fabric();
    let stack = pod(&fabric, "pod");
    for size in [1, 60_000] {
        let server = stack.bind_udp(any(53)).expect("free");
        let client = stack.bind_udp(any(0)).expect("free");
        for _ in 0..UDP_QUEUE_DATAGRAMS + 10 {
            client.send(vec![0; size].into(), Some(at(stack.ip(), 53))).expect("lost, if anything");
        }
        let received = std::iter::from_fn(|| server.try_recv().ok()).count();
        assert_eq!(received, UDP_QUEUE_DATAGRAMS.min(UDP_QUEUE_BYTES / size));
    }
}

#[tokio::test]
async fn a_connected_socket_hears_only_its_peer() {
    let fabric = fabric();
    let stack = pod(&fabric, "pod");
    let [a, b, c] = [1001, 1002, 1003].map(|port| stack.bind_udp(any(port)).expect("free"));
    let to_a = Some(at(stack.ip(), 1001));
    c.send(Bytes::from_static(b"early"), to_a).expect("sent");
    a.connect(Some(at(stack.ip(), 1002))).expect("a fine address");
    c.send(Bytes::from_static(b"late"), to_a).expect("sent");
    b.send(Bytes::from_static(b"heard"), to_a).expect("sent");
    assert_eq!(&a.try_recv().expect("from its peer").0[..], b"heard");
    assert_eq!(a.try_recv(), Err(NetworkError::WouldBlock));
    a.send(Bytes::from_static(b"x"), None).expect("to its peer");
    assert_eq!(b.try_recv().expect("received").1, at(stack.ip(), 1001));
    assert!(a.send(Bytes::new(), Some(at(stack.ip(), 1003))).is_err());
    a.connect(None).expect("nobody");
    c.send(Bytes::from_static(b"again"), to_a).expect("sent");
    assert_eq!(&a.try_recv().expect("from anybody").0[..], b"again");
}

#[tokio::test]
async fn answers_of_a_service_come_from_the_service() {
    let fabric = fabric();
    let (client, server) = (pod(&fabric, "client"), pod(&fabric, "server"));
    let vip = at(Ipv4Addr::new(10, 96, 0, 53), 53);
    let ports = json!([{"port": 53, "protocol": "UDP"}]);
    fabric.apply_service(&service("dns", json!({"clusterIP": "10.96.0.53", "ports": ports})));
    let ports = json!([{"name": "", "port": 5353, "protocol": "UDP"}]);
    fabric.apply_slice(&slice_of("dns", ports, json!([{"addresses": [server.ip()]}])));
    let listening = server.bind_udp(any(5353)).expect("free");
    let asking = client.bind_udp(any(0)).expect("free");
    asking.connect(Some(vip)).expect("a fine address");
    for _ in 0..2 {
        asking.send(Bytes::from_static(b"?"), None).expect("sent");
        let (_, from) = listening.try_recv().expect("received");
        listening.send(Bytes::from_static(b"!"), Some(from)).expect("sent");
        assert_eq!(asking.try_recv().expect("an answer"), (Bytes::from_static(b"!"), vip));
    }
}

/// A service of datagrams whose backends are these pods, on 5353.
fn dns(fabric: &Arc<Fabric>, pods: &[&PodStack]) {
    let ports = json!([{"port": 53, "protocol": "UDP"}]);
    fabric.apply_service(&service("dns", json!({"clusterIP": "10.96.0.53", "ports": ports})));
    let ports = json!([{"name": "", "port": 5353, "protocol": "UDP"}]);
    let endpoints: Vec<_> = pods.iter().map(|pod| json!({"addresses": [pod.ip()]})).collect();
    fabric.apply_slice(&slice_of("dns", ports, json!(endpoints)));
}

#[tokio::test]
async fn a_flow_stays_with_its_backend_as_long_as_that_is_one() {
    let fabric = fabric();
    let (a, b, client) = (pod(&fabric, "a"), pod(&fabric, "b"), pod(&fabric, "client"));
    let vip = at(Ipv4Addr::new(10, 96, 0, 53), 53);
    dns(&fabric, &[&a, &b]);
    let [first, second] = [&a, &b].map(|pod| pod.bind_udp(any(5353)).expect("free"));
    let asking = client.bind_udp(any(0)).expect("free");
    let ask = || asking.send(Bytes::from_static(b"?"), Some(vip)).expect("sent");
    for _ in 0..3 {
        ask();
        first.try_recv().expect("it stays");
    }
    // It still runs, but the service is no longer its.
    dns(&fabric, &[&b]);
    ask();
    let (_, from) = second.try_recv().expect("of the service");
    second.send(Bytes::from_static(b"!"), Some(from)).expect("sent");
    assert_eq!(asking.try_recv(), Ok((Bytes::from_static(b"!"), vip)));
    dns(&fabric, &[&a, &b]);
    ask();
    second.try_recv().expect("it stays here now");
    fabric.remove_service("default", "dns");
    ask();
    assert!(first.try_recv().is_err() && second.try_recv().is_err(), "nobody's any more");
}

#[tokio::test]
async fn a_flow_that_finds_nobody_tries_the_next_backend() {
    let fabric = fabric();
    let (a, b, client) = (pod(&fabric, "a"), pod(&fabric, "b"), pod(&fabric, "client"));
    let vip = at(Ipv4Addr::new(10, 96, 0, 53), 53);
    dns(&fabric, &[&a, &b]);
    let listening = b.bind_udp(any(5353)).expect("free");
    let asking = client.bind_udp(any(0)).expect("free");
    for _ in 0..2 {
        asking.send(Bytes::from_static(b"?"), Some(vip)).expect("lost, the first time");
    }
    listening.try_recv().expect("the second");
    // The backend that it has goes away: one is lost, and the next finds another.
    let other = a.bind_udp(any(5353)).expect("free");
    drop(listening);
    for _ in 0..2 {
        asking.send(Bytes::from_static(b"?"), Some(vip)).expect("lost, the first time");
    }
    other.try_recv().expect("the second");
}

/// As by ICMP: the next call of a connected socket says that nobody is there, once.
#[tokio::test]
async fn a_connected_socket_is_refused_where_nobody_is() {
    let fabric = fabric();
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    fabric.apply_service(&service(
        "dns",
        json!({"clusterIP": "10.96.0.53", "ports": [{"port": 53, "protocol": "UDP"}]}),
    ));
    for nobody in [at(b.ip(), 53), at(Ipv4Addr::new(10, 96, 0, 53), 53)] {
        let socket = a.bind_udp(any(0)).expect("free");
        socket.connect(Some(nobody)).expect("a fine address");
        let refused = Err(NetworkError::Refused(nobody));
        socket.send(Bytes::from_static(b"?"), None).expect("sent");
        assert_eq!(soon("the refusal", socket.recv()).await, refused);
        assert_eq!(socket.try_recv(), Err(NetworkError::WouldBlock));
        socket.send(Bytes::from_static(b"?"), None).expect("sent");
        assert_eq!(socket.send(Bytes::from_static(b"?"), None), refused.map(drop));
    }
    let server = b.bind_udp(any(53)).expect("free");
    let socket = a.bind_udp(any(0)).expect("free");
    socket.connect(Some(at(b.ip(), 53))).expect("a fine address");
    socket.send(Bytes::from_static(b"?"), None).expect("sent");
    server.try_recv().expect("received");
    drop(server);
    socket.send(Bytes::from_static(b"?"), None).expect("sent");
    assert_eq!(socket.try_recv(), Err(NetworkError::Refused(at(b.ip(), 53))));
}

/// What does not fit is counted; the oldest stay.
#[tokio::test]
async fn the_newest_is_dropped_and_counted() {
    let fabric = fabric();
    let stack = pod(&fabric, "pod");
    let server = stack.bind_udp(any(53)).expect("free");
    let client = stack.bind_udp(any(0)).expect("free");
    for n in 0..u16::try_from(UDP_QUEUE_DATAGRAMS).expect("few") + 3 {
        client.send(Bytes::copy_from_slice(&n.to_be_bytes()), Some(at(stack.ip(), 53))).expect("sent");
    }
    assert_eq!(&server.try_recv().expect("the first").0[..], 0u16.to_be_bytes());
    assert_eq!(stack.usage().dropped, 3);
    drop(server);
    assert_eq!(stack.usage().held, 0);
}
