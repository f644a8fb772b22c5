//! Addresses, ports, backlogs and bounds of pods.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use coracle_network::limits::{BACKLOG_WAITERS, CONNECT_TIMEOUT, CONNECTIONS_PER_POD, LISTENERS_PER_POD};
use coracle_network::{Config, Fabric, NetworkError, PodConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{any, at, fabric, greeter, greeting, pod, soon};

#[tokio::test]
async fn addresses_come_from_the_range_and_are_reused_late() {
    let config = Config { pod_cidr: "10.128.64.0/29".parse().expect("a range"), ..Config::default() };
    let fabric = Fabric::build(config);
    let pods: Vec<_> = (0..5).map(|i| pod(&fabric, &format!("p{i}"))).collect();
    let last: Vec<_> = pods.iter().map(|pod| pod.ip().octets()[3]).collect();
    assert_eq!(last, [2, 3, 4, 5, 6], "without the network's, the node's and the broadcast address");
    assert!(matches!(fabric.add_pod(PodConfig::default()), Err(NetworkError::NoAddress(_))));
    pods[1].close();
    pods[3].close();
    pods[3].close();
    assert_eq!(pod(&fabric, "a").ip(), pods[1].ip());
    pods[0].close();
    assert_eq!(pod(&fabric, "b").ip(), pods[3].ip(), "what was freed last comes last");
    let keep = PodConfig { want_ip: Some(pods[0].ip()), ..PodConfig::default() };
    assert_eq!(fabric.add_pod(keep.clone()).expect("free").ip(), pods[0].ip());
    pods[2].close();
    assert_eq!(fabric.add_pod(keep).expect("another").ip(), pods[2].ip(), "taken, so another");
}

#[tokio::test]
async fn binding() {
    let fabric = fabric();
    let stack = pod(&fabric, "pod");
    let other = pod(&fabric, "other");
    let held = stack.bind_tcp(any(80)).expect("free");
    assert_eq!(
        stack.bind_tcp(at(stack.ip(), 80)).err(),
        Some(NetworkError::AddressInUse(at(stack.ip(), 80)))
    );
    other.bind_tcp(any(80)).expect("ports are the pod's own");
    drop(held);
    stack.bind_tcp(any(80)).expect("free again");
    for foreign in [at(other.ip(), 80), at(Ipv4Addr::new(1, 1, 1, 1), 80)] {
        assert_eq!(stack.bind_tcp(foreign).err(), Some(NetworkError::AddressNotAvailable(foreign)));
    }
    let ephemeral = stack.bind_tcp(any(0)).expect("free").local_addr();
    assert!((32768..=60999).contains(&ephemeral.port()));
}

#[tokio::test]
async fn a_port_can_be_taken_again_while_its_connections_live() {
    let fabric = fabric();
    let stack = pod(&fabric, "pod");
    let listener = stack.listen(any(80), 8).expect("free");
    let mut client = stack.connect(at(stack.ip(), 80)).await.expect("it listens");
    let mut server = listener.accept().await.expect("it waits");
    drop(listener);
    let refused = stack.connect(at(stack.ip(), 80)).await.err();
    assert_eq!(refused, Some(NetworkError::Refused(at(stack.ip(), 80))));
    let _again = stack.listen(any(80), 8).expect("free again");
    client.write_all(b"x").await.expect("open");
    server.read_exact(&mut [0]).await.expect("open");
}

#[tokio::test]
async fn who_listens_where_is_reached_there_only() {
    let fabric = fabric();
    let (stack, other) = (pod(&fabric, "pod"), pod(&fabric, "other"));
    let _local = stack.listen(at(Ipv4Addr::LOCALHOST, 81), 8).expect("free");
    let _global = stack.listen(at(stack.ip(), 82), 8).expect("free");
    let _dual = stack.listen(at(Ipv6Addr::UNSPECIFIED, 83), 8).expect("free");
    stack.connect(at(Ipv4Addr::LOCALHOST, 81)).await.expect("loopback");
    assert!(other.connect(at(stack.ip(), 81)).await.is_err());
    assert!(stack.connect(at(Ipv4Addr::LOCALHOST, 82)).await.is_err());
    other.connect(at(stack.ip(), 82)).await.expect("its address");
    let seen = other.connect(at(stack.ip(), 83)).await.expect("dual stack").local_addr();
    let accepted = _dual.accept().await.expect("it waits");
    assert_eq!(accepted.peer_addr(), at(other.ip().to_ipv6_mapped(), seen.port()));
    assert!(other.connect(at(Ipv4Addr::LOCALHOST, 81)).await.is_err(), "its own loopback, where nobody is");
}

#[tokio::test]
async fn a_bound_address_is_dialled_from() {
    let fabric = fabric();
    let stack = pod(&fabric, "pod");
    let listener = stack.listen(any(80), 8).expect("free");
    let from = stack.bind_tcp(any(5000)).expect("free");
    let _client = stack.start_connect(at(stack.ip(), 80), Some(from)).await.expect("it listens");
    assert_eq!(listener.accept().await.expect("it waits").peer_addr(), at(stack.ip(), 5000));
    assert!(stack.bind_tcp(any(5000)).is_err(), "the connection holds its port");
    let from = stack.bind_tcp(at(Ipv4Addr::LOCALHOST, 0)).expect("free");
    let far = at(Ipv4Addr::new(10, 128, 9, 9), 80);
    assert!(stack.start_connect(far, Some(from)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_full_backlog_makes_callers_wait_and_then_time_out() {
    let fabric = fabric();
    let stack = pod(&fabric, "pod");
    let to = at(stack.ip(), 80);
    let listener = stack.listen(any(80), 2).expect("free");
    let _queued = [stack.connect(to).await.expect("room"), stack.connect(to).await.expect("room")];
    let waiting = stack.start_connect(to, None);
    let _first = listener.accept().await.expect("two wait");
    waiting.await.expect("there is room now");
    let began = tokio::time::Instant::now();
    assert_eq!(stack.connect(to).await.err(), Some(NetworkError::TimedOut(to)));
    assert_eq!(began.elapsed().as_secs(), CONNECT_TIMEOUT.as_secs());
    let waiting: Vec<_> = (0..BACKLOG_WAITERS).map(|_| stack.start_connect(to, None)).collect();
    assert_eq!(stack.connect(to).await.err(), Some(NetworkError::Refused(to)), "the line is bounded, too");
    drop(listener);
    for waiting in waiting {
        assert_eq!(waiting.await.err(), Some(NetworkError::Refused(to)));
    }
}

#[tokio::test]
async fn a_backlog_can_change_its_size() {
    let fabric = fabric();
    let stack = pod(&fabric, "pod");
    let to = at(stack.ip(), 80);
    let listener = stack.listen(any(80), 4).expect("free");
    let mut kept = Vec::new();
    for _ in 0..4 {
        kept.push(stack.connect(to).await.expect("room"));
    }
    listener.set_backlog(1);
    for _ in 0..3 {
        listener.accept().await.expect("they wait");
    }
    let room = |stack: &coracle_network::PodStack| {
        let mut dial = Box::pin(stack.start_connect(to, None));
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        match dial.as_mut().poll(&mut cx) {
            std::task::Poll::Ready(stream) => Some(stream.expect("it listens")),
            std::task::Poll::Pending => None,
        }
    };
    assert!(room(&stack).is_none(), "one waits, and one may");
    listener.set_backlog(3);
    kept.extend([room(&stack).expect("room"), room(&stack).expect("room")]);
    assert!(room(&stack).is_none());
}

#[tokio::test]
async fn closing_a_pod_ends_everything_it_has() {
    let fabric = fabric();
    let (stack, other) = (pod(&fabric, "pod"), pod(&fabric, "other"));
    let listener = stack.listen(any(80), 8).expect("free");
    let udp = stack.bind_udp(any(53)).expect("free");
    let mut client = other.connect(at(stack.ip(), 80)).await.expect("it listens");
    let mut server = listener.accept().await.expect("it waits");
    let mut queued = other.connect(at(stack.ip(), 80)).await.expect("it listens");
    let accepting = tokio::spawn(async move { listener.accept().await });
    let _first = accepting.await.expect("runs").expect("the queued one");
    let listener = stack.listen(any(81), 8).expect("free");
    let accepting = tokio::spawn(async move { listener.accept().await.err() });
    let receiving = tokio::spawn(async move { udp.recv().await.err() });
    let reading = tokio::spawn(async move { client.read(&mut [0; 8]).await.map_err(|error| error.kind()) });
    tokio::task::yield_now().await;
    stack.close();
    assert_eq!(soon("accept", accepting).await.expect("runs"), Some(NetworkError::Closed));
    assert_eq!(soon("recv", receiving).await.expect("runs"), Some(NetworkError::Closed));
    let reset = Err(std::io::ErrorKind::ConnectionReset);
    assert_eq!(soon("read", reading).await.expect("runs"), reset);
    assert_eq!(queued.read(&mut [0; 8]).await.map_err(|error| error.kind()), reset);
    assert_eq!(server.read(&mut [0; 8]).await.map_err(|error| error.kind()), reset);
    assert_eq!(stack.connect(at(other.ip(), 80)).await.err(), Some(NetworkError::Closed));
    let gone = at(stack.ip(), 80);
    assert_eq!(other.connect(gone).await.err(), Some(NetworkError::Unreachable(gone)));
    assert_eq!(stack.bind_tcp(any(1)).err(), Some(NetworkError::Closed));
}

#[tokio::test]
async fn the_node_reaches_pods_and_is_seen_as_the_first_address() {
    let fabric = fabric();
    let stack = pod(&fabric, "pod");
    let listener = stack.listen(any(80), 8).expect("free");
    let mut probe = fabric.connect(at(stack.ip(), 80)).await.expect("it listens");
    let server = listener.accept().await.expect("it waits");
    assert_eq!(server.peer_addr().ip(), Ipv4Addr::new(10, 128, 0, 1));
    drop(server);
    assert_eq!(probe.read(&mut [0; 8]).await.expect("an orderly end"), 0);
    let refused = fabric.connect(at(stack.ip(), 81)).await.expect_err("nobody listens");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_pod_can_hold_only_so_much() {
    let fabric = fabric();
    let (stack, other) = (pod(&fabric, "pod"), pod(&fabric, "other"));
    let bound: Vec<_> = (0..LISTENERS_PER_POD).map(|_| stack.bind_tcp(any(0)).expect("allowed")).collect();
    assert!(matches!(stack.bind_tcp(any(0)), Err(NetworkError::Limit(_))));
    drop(bound);
    let listener = stack.listen(any(80), 8).expect("free");
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS_PER_POD / 2 {
        held.push(stack.connect(at(stack.ip(), 80)).await.expect("allowed"));
        held.push(listener.accept().await.expect("it waits"));
    }
    let _greeter = greeter(&other, 80, "other");
    assert!(matches!(stack.connect(at(other.ip(), 80)).await, Err(NetworkError::Limit(_))));
    let to = at(stack.ip(), 80);
    assert_eq!(other.connect(to).await.err(), Some(NetworkError::Refused(to)), "full, and a stranger asks");
    held.truncate(10);
    assert_eq!(greeting(stack.connect(at(other.ip(), 80)).await.expect("room again")).await, "other");
    assert_eq!(stack.usage().connections, 10);
}

#[tokio::test(start_paused = true)]
async fn shutdown_ends_dials_that_wait() {
    let fabric = fabric();
    let stack = pod(&fabric, "pod");
    let to = at(stack.ip(), 80);
    let _listener = stack.listen(any(80), 1).expect("free");
    let _queued = stack.connect(to).await.expect("room");
    let waiting = stack.start_connect(to, None);
    tokio::time::timeout(Duration::from_secs(1), fabric.shutdown()).await.expect("at once");
    assert!(waiting.await.is_err());
    assert!(matches!(fabric.add_pod(PodConfig::default()), Err(NetworkError::Closed)));
}
