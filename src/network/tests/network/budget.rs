//! What sockets hold is a part of their pod's memory.

use std::sync::Arc;

use bytes::Bytes;
use coracle_budget::Budget;
use coracle_network::limits::{CONNECTION_COST, POD_SOCKET_SHARE, STREAM_WINDOW, STREAM_WINDOW_MIN};
use coracle_network::{Fabric, NetworkError, PodConfig, PodStack};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{any, at, fabric, pod, soon};

fn with_memory(fabric: &Arc<Fabric>, bytes: u64) -> (PodStack, Arc<Budget>) {
    let budget = Budget::new(Some(bytes));
    let pod = PodConfig { budget: Some(Arc::clone(&budget)), ..PodConfig::default() };
    (fabric.add_pod(pod).expect("an address is free"), budget)
}

#[tokio::test]
async fn who_writes_pays_until_it_is_read() {
    let fabric = fabric();
    let ((a, memory_of_a), (b, memory_of_b)) = (with_memory(&fabric, 8 << 20), with_memory(&fabric, 8 << 20));
    let listener = b.listen(any(80), 8).expect("free");
    let mut client = a.connect(at(b.ip(), 80)).await.expect("it listens");
    let mut server = listener.accept().await.expect("it waits");
    let cost = CONNECTION_COST as u64;
    assert_eq!((memory_of_a.used(), memory_of_b.used()), (cost, cost));
    client.write_all(&[7; STREAM_WINDOW]).await.expect("room");
    let waiting = (STREAM_WINDOW - STREAM_WINDOW_MIN) as u64;
    assert_eq!((memory_of_a.used(), memory_of_b.used()), (cost + waiting, cost));
    assert_eq!(client.write_capacity().expect("open"), 0);
    let mut read = vec![0; STREAM_WINDOW];
    server.read_exact(&mut read).await.expect("it is there");
    assert_eq!((memory_of_a.used(), memory_of_b.used()), (cost, cost));
    client.write_all(&[7; 5000]).await.expect("room");
    drop((client, server));
    assert_eq!((memory_of_a.used(), memory_of_b.used()), (0, 0));
}

/// Its connections go on with small pieces, others of the pod are not made, and nobody waits for ever.
#[tokio::test]
async fn a_pod_without_memory_left_goes_on_slowly() {
    let fabric = fabric();
    let (a, memory) = with_memory(&fabric, 8 << 20);
    let b = pod(&fabric, "b");
    let listener = b.listen(any(80), 8).expect("free");
    let to = at(b.ip(), 80);
    let mut client = a.connect(to).await.expect("it listens");
    let mut server = listener.accept().await.expect("it waits");
    let modules = memory.charge((8 << 20) - memory.used()).expect("the rest");
    assert_eq!(a.connect(to).await.err(), Some(NetworkError::NoBuffers));
    let sending = tokio::spawn(async move { client.write_all(&[7; 1_000_000]).await });
    let mut received = vec![0; 1_000_000];
    soon("all of it", server.read_exact(&mut received)).await.expect("all of it");
    sending.await.expect("it runs").expect("open");
    assert!(memory.used() <= 8 << 20);
    drop(modules);
    a.connect(to).await.expect("there is memory again");
}

/// Whoever sends to a pod can use up only a part of its memory.
#[tokio::test]
async fn strangers_cannot_use_up_a_pods_memory() {
    let fabric = fabric();
    let (victim, memory) = with_memory(&fabric, 4 << 20);
    let other = pod(&fabric, "other");
    let listener = victim.listen(any(80), 1024).expect("free");
    let sockets: Vec<_> = (0..20u16).map(|n| victim.bind_udp(any(1000 + n)).expect("free")).collect();
    let sender = other.bind_udp(any(0)).expect("free");
    for socket in &sockets {
        for _ in 0..100 {
            let to = at(victim.ip(), socket.local_addr().port());
            sender.send(Bytes::from(vec![7; 2000]), Some(to)).expect("lost, if anything");
        }
    }
    let mut connections = Vec::new();
    while let Ok(stream) = other.connect(at(victim.ip(), 80)).await {
        connections.push((stream, listener.accept().await.expect("it waits")));
    }
    assert!(memory.used() <= (4 << 20) / POD_SOCKET_SHARE, "{}", memory.used());
    assert!(victim.usage().dropped > 0);
    drop((connections, sockets));
    assert_eq!((memory.used(), victim.usage().held), (0, 0));
}
