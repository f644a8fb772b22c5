//! Pods that may only talk so fast.

use std::time::Duration;

use bytes::Bytes;
use coracle_network::{Bandwidth, Fabric, PodConfig, PodStack};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::support::{any, at, fabric};

/// Bits per second, so a megabyte in a second.
const RATE: u64 = 8_000_000;

fn limited(fabric: &std::sync::Arc<Fabric>, ingress: Option<u64>, egress: Option<u64>) -> PodStack {
    let pod = PodConfig { bandwidth: Bandwidth { ingress, egress }, ..PodConfig::default() };
    fabric.add_pod(pod).expect("an address is free")
}

/// How long two megabytes take from one pod to another.
async fn transfer(from: &PodStack, to: &PodStack) -> Duration {
    const SIZE: usize = 2_000_000;
    let listener = to.listen(any(80), 8).expect("free");
    let mut client = from.connect(at(to.ip(), 80)).await.expect("it listens");
    let mut server = listener.accept().await.expect("it waits");
    let began = Instant::now();
    let sending = async {
        client.write_all(&vec![7; SIZE]).await.expect("open");
        client.shutdown(std::net::Shutdown::Write);
    };
    let mut received = Vec::new();
    let (read, ()) = tokio::join!(server.read_to_end(&mut received), sending);
    assert_eq!(read.expect("all of it"), SIZE);
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn streams_wait_for_bandwidth() {
    for (ingress, egress, seconds) in [
        (None, None, 0.0),
        (None, Some(RATE), 2.0),
        (Some(RATE), None, 2.0),
        (Some(RATE / 2), Some(RATE), 4.0),
        (Some(RATE * 1000), Some(RATE), 2.0),
    ] {
        let fabric = fabric();
        let (from, to) = (limited(&fabric, None, egress), limited(&fabric, ingress, None));
        let took = transfer(&from, &to).await.as_secs_f64();
        assert!((seconds * 0.9..=seconds * 1.05 + 0.001).contains(&took), "{ingress:?} {egress:?}: {took}");
    }
}

/// A pod's own connections are not counted, by whichever address it dials itself.
#[tokio::test(start_paused = true)]
async fn loopback_has_no_limit() {
    let fabric = fabric();
    let stack = limited(&fabric, Some(RATE), Some(RATE));
    assert!(transfer(&stack, &stack).await < Duration::from_millis(1));
}

/// All connections of a pod share its limit, and none of them starves.
#[tokio::test(start_paused = true)]
async fn connections_share_a_limit() {
    let fabric = fabric();
    let (from, to) = (limited(&fabric, None, Some(RATE)), limited(&fabric, None, None));
    let listener = to.listen(any(80), 8).expect("free");
    let began = Instant::now();
    let mut transfers = Vec::new();
    for _ in 0..4 {
        let mut client = from.connect(at(to.ip(), 80)).await.expect("it listens");
        let mut server = listener.accept().await.expect("it waits");
        transfers.push(tokio::spawn(async move {
            let sending = tokio::spawn(async move { client.write_all(&[7; 500_000]).await });
            let read = server.read_to_end(&mut Vec::new()).await.expect("all of it");
            sending.await.expect("it runs").expect("open");
            (read, began.elapsed())
        }));
    }
    for transfer in transfers {
        let (read, took) = transfer.await.expect("it runs");
        assert_eq!(read, 500_000);
        assert!((1.0..2.2).contains(&took.as_secs_f64()), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn datagrams_beyond_the_limit_are_lost() {
    for (ingress, egress) in [(None, Some(RATE)), (Some(RATE), None)] {
        let fabric = fabric();
        let (from, to) = (limited(&fabric, None, egress), limited(&fabric, ingress, None));
        let server = to.bind_udp(any(53)).expect("free");
        let client = from.bind_udp(any(0)).expect("free");
        let mut received = 0;
        // Twice as fast as allowed for two seconds.
        for _ in 0..2000 {
            for _ in 0..2 {
                client.send(Bytes::from_static(&[7; 1000]), Some(at(to.ip(), 53))).expect("sent, or lost");
            }
            received += std::iter::from_fn(|| server.try_recv().ok()).count();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!((2000..=2100).contains(&received), "{received}");
    }
}
