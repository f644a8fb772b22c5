//! Listeners that are told to end, and services that lose no connection over it.

use std::net::Ipv4Addr;
use std::task::{Context, Poll, Waker};

use coracle_network::{NetworkError, PodStack, TcpListener};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{any, at, fabric, greeter, greeting, plain_service, pod, slice, soon};

fn listen(stack: &PodStack) -> TcpListener {
    stack.listen(any(80), 4).expect("the port is free")
}

#[tokio::test]
async fn a_draining_listener_hands_out_its_queue_fails_once_and_then_waits() {
    let fabric = fabric();
    let (server, client) = (pod(&fabric, "server"), pod(&fabric, "client"));
    let listener = listen(&server);
    let address = at(server.ip(), 80);
    let mut early = client.connect(address).await.expect("it listens");
    early.write_all(b"early").await.expect("buffered");
    let drain = listener.drain_handle();
    assert!(drain.drain() && drain.drain());
    assert_eq!(client.connect(address).await.expect_err("no more"), NetworkError::Refused(address));
    let mut accepted = listener.accept().await.expect("it was in the queue");
    AsyncWriteExt::shutdown(&mut early).await.expect("still open");
    let mut text = String::new();
    soon("the rest", accepted.read_to_string(&mut text)).await.expect("an orderly end");
    assert_eq!(text, "early");
    assert_eq!(listener.accept().await.expect_err("nothing is left"), NetworkError::Draining);
    assert_eq!(listener.try_accept().expect_err("only once"), NetworkError::WouldBlock);
    let mut cx = Context::from_waker(Waker::noop());
    assert_eq!(listener.poll_acceptable(&mut cx), Poll::Pending);
    drop(listener);
    assert!(!drain.drain() && !drain.is_open());
}

#[tokio::test]
async fn draining_wakes_who_accepts() {
    let fabric = fabric();
    let listener = listen(&pod(&fabric, "server"));
    let drain = listener.drain_handle();
    let waiting = tokio::spawn(async move { listener.accept().await });
    tokio::task::yield_now().await;
    drain.drain();
    let accepted = soon("the end of accept", waiting).await.expect("no panic");
    assert_eq!(accepted.expect_err("nobody dialled"), NetworkError::Draining);
}

/// Whoever refuses, drains or is gone is passed over as long as there is another.
#[tokio::test]
async fn a_service_passes_over_endpoints_that_refuse() {
    let fabric = fabric();
    let [good, draining, deaf, gone] = ["good", "draining", "deaf", "gone"].map(|name| pod(&fabric, name));
    let client = pod(&fabric, "client");
    let vip = Ipv4Addr::new(10, 96, 0, 50);
    fabric.apply_service(&plain_service("web", &vip.to_string()));
    let ips = [good.ip(), draining.ip(), deaf.ip(), gone.ip()];
    fabric.apply_slice(&slice("web", 80, &ips));
    let _greeter = greeter(&good, 80, "good");
    let drained = listen(&draining);
    drained.drain_handle().drain();
    gone.close();
    for _ in 0..12 {
        let stream = client.connect(at(vip, 80)).await.expect("one is left");
        assert_eq!(greeting(stream).await, "good");
    }
    good.close();
    let error = client.connect(at(vip, 80)).await.expect_err("none is left");
    assert!(matches!(error, NetworkError::Unreachable(_)), "{error}");
}

/// Dials that wait for room in a backlog that is then drained go on to the next endpoint.
#[tokio::test]
async fn who_waits_for_room_goes_on_to_the_next_endpoint() {
    let fabric = fabric();
    let (first, second, client) = (pod(&fabric, "first"), pod(&fabric, "second"), pod(&fabric, "client"));
    let full = first.listen(any(80), 1).expect("the port is free");
    let vip = Ipv4Addr::new(10, 96, 0, 50);
    fabric.apply_service(&plain_service("web", &vip.to_string()));
    fabric.apply_slice(&slice("web", 80, &[first.ip()]));
    let queued = client.connect(at(vip, 80)).await.expect("there is room for one");
    fabric.apply_slice(&slice("web", 80, &[first.ip(), second.ip()]));
    let _greeter = greeter(&second, 80, "second");
    let dials: Vec<_> = (0..2)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.connect(at(vip, 80)).await })
        })
        .collect();
    tokio::task::yield_now().await;
    full.drain_handle().drain();
    let stream = full.accept().await.expect("the one in the queue");
    drop((stream, queued));
    for dial in dials {
        let stream = soon("a dial", dial).await.expect("no panic").expect("the other endpoint");
        assert_eq!(greeting(stream).await, "second");
    }
}
