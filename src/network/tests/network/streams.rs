//! One suite for every kind of connection: within a pod, between pods, through a service, out through
//! the kernel and in through a NodePort.

use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use coracle_network::limits::{STREAM_WINDOW, WRITE_MAX};
use coracle_network::{Config, Fabric, PodStack, Stream};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{any, at, config, eventually, fabric, plain_service, pod, service, slice, soon};

#[derive(Clone, Copy, Debug)]
enum Kind {
    Loopback,
    LoopbackV6,
    OwnAddress,
    PodToPod,
    PodToPodV6,
    Service,
    Egress,
    NodePort,
}

const KINDS: [Kind; 8] = [
    Kind::Loopback,
    Kind::LoopbackV6,
    Kind::OwnAddress,
    Kind::PodToPod,
    Kind::PodToPodV6,
    Kind::Service,
    Kind::Egress,
    Kind::NodePort,
];

/// One end, in the fabric or in the kernel.
enum End {
    Fabric(Stream),
    Kernel(TcpStream),
}

/// Two ends and what keeps them alive.
struct Pair {
    client: End,
    server: End,
    fabric: Arc<Fabric>,
    _pods: Vec<PodStack>,
}

async fn pair(kind: Kind) -> Pair {
    if matches!(kind, Kind::Egress | Kind::NodePort) {
        return kernel_pair(kind).await;
    }
    let fabric = fabric();
    let server = pod(&fabric, "server");
    let client = if matches!(kind, Kind::PodToPod | Kind::PodToPodV6 | Kind::Service) {
        pod(&fabric, "client")
    } else {
        server.clone()
    };
    let (bind, dial) = match kind {
        Kind::Loopback => (any(80), at(Ipv4Addr::LOCALHOST, 80)),
        Kind::LoopbackV6 => (at(Ipv6Addr::UNSPECIFIED, 80), at(Ipv6Addr::LOCALHOST, 80)),
        Kind::OwnAddress | Kind::PodToPod => (any(80), at(server.ip(), 80)),
        Kind::PodToPodV6 => (at(Ipv6Addr::UNSPECIFIED, 80), at(server.ip6().expect("two families"), 80)),
        _ => (any(8080), at(Ipv4Addr::new(10, 96, 0, 50), 80)),
    };
    fabric.apply_service(&plain_service("web", "10.96.0.50"));
    fabric.apply_slice(&slice("web", 8080, &[server.ip()]));
    let listener = server.listen(bind, 8).expect("the port is free");
    let dialled = client.connect(dial).await.expect("somebody listens");
    let accepted = listener.accept().await.expect("a connection waits");
    assert_eq!(dialled.peer_addr(), dial);
    assert_eq!(accepted.peer_addr(), dialled.local_addr());
    Pair { client: End::Fabric(dialled), server: End::Fabric(accepted), fabric, _pods: vec![client, server] }
}

async fn kernel_pair(kind: Kind) -> Pair {
    let outside = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = outside.local_addr().expect("it is bound");
    let fabric = Fabric::build(Config { host_endpoints: vec![address], ..config() });
    let guest = pod(&fabric, "guest");
    if matches!(kind, Kind::Egress) {
        let SocketAddr::V4(v4) = address else { panic!("bound to IPv4") };
        fabric.apply_service(&plain_service("outside", "10.96.0.60"));
        fabric.apply_slice(&slice("outside", address.port(), &[*v4.ip()]));
        let dialled = guest.connect(at(Ipv4Addr::new(10, 96, 0, 60), 80)).await.expect("it listens");
        let (accepted, _) = outside.accept().await.expect("a connection waits");
        return Pair {
            client: End::Fabric(dialled),
            server: End::Kernel(accepted),
            fabric,
            _pods: vec![guest],
        };
    }
    // The port is free a moment later, and it is tried again if somebody is faster.
    drop(outside);
    let spec = json!({"type": "NodePort", "clusterIP": "10.96.0.70", "ports": [{"port": 80, "nodePort": address.port()}]});
    fabric.apply_service(&service("web", spec));
    fabric.apply_slice(&slice("web", 8080, &[guest.ip()]));
    let listener = guest.listen(any(8080), 8).expect("the port is free");
    let dial = async {
        loop {
            match TcpStream::connect(address).await {
                Ok(stream) => return stream,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let dialled = soon("the NodePort to open", dial).await;
    let accepted = listener.accept().await.expect("a connection waits");
    assert!(!accepted.peer_addr().ip().is_loopback(), "a guest must not take the host for itself");
    Pair { client: End::Kernel(dialled), server: End::Fabric(accepted), fabric, _pods: vec![guest] }
}

impl AsyncRead for End {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            End::Fabric(stream) => Pin::new(stream).poll_read(cx, buffer),
            End::Kernel(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for End {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            End::Fabric(stream) => Pin::new(stream).poll_write(cx, data),
            End::Kernel(stream) => Pin::new(stream).poll_write(cx, data),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            End::Fabric(stream) => Pin::new(stream).poll_shutdown(cx),
            End::Kernel(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl End {
    /// Goes away without a goodbye.
    fn reset(self) {
        match self {
            End::Fabric(stream) => stream.abort(),
            End::Kernel(stream) => stream.set_zero_linger().expect("a live socket"),
        }
    }
}

/// Runs one scenario over every kind, and over each kind in both directions.
async fn for_all<F: Future<Output = ()>>(scenario: impl Fn(Kind, End, End) -> F) {
    for kind in KINDS {
        for swapped in [false, true] {
            let Pair { client, server, fabric, _pods } = pair(kind).await;
            let (a, b) = if swapped { (server, client) } else { (client, server) };
            soon(&format!("{kind:?}, swapped: {swapped}"), scenario(kind, a, b)).await;
            soon("shutdown", fabric.shutdown()).await;
        }
    }
}

#[tokio::test]
async fn bytes_arrive_in_order_both_ways() {
    for_all(|kind, mut a, mut b| async move {
        for message in [&b"x"[..], b"hello", &[7; 5000]] {
            let mut received = vec![0; message.len()];
            a.write_all(message).await.expect("open");
            b.read_exact(&mut received).await.expect("open");
            assert_eq!(received, message, "{kind:?}");
            b.write_all(message).await.expect("open");
            a.read_exact(&mut received).await.expect("open");
            assert_eq!(received, message, "{kind:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn megabytes_cross_each_other() {
    let data: Arc<Vec<u8>> = Arc::new((0..3_000_000u32).map(|i| (i % 251) as u8).collect());
    for_all(|kind, a, b| {
        let data = Arc::clone(&data);
        async move {
            let run = |end: End| {
                let data = Arc::clone(&data);
                async move {
                    let (mut read, mut write) = tokio::io::split(end);
                    let sending = async {
                        write.write_all(&data).await?;
                        write.shutdown().await
                    };
                    let mut received = Vec::new();
                    let (sent, read) = tokio::join!(sending, read.read_to_end(&mut received));
                    sent.expect("open");
                    read.expect("an orderly end");
                    assert!(received == *data, "{kind:?}: {} bytes, or not the same", received.len());
                }
            };
            tokio::join!(run(a), run(b));
        }
    })
    .await;
}

#[tokio::test]
async fn one_direction_ends_and_the_other_goes_on() {
    for_all(|kind, mut a, mut b| async move {
        a.write_all(b"last words").await.expect("open");
        a.shutdown().await.expect("open");
        let mut received = Vec::new();
        b.read_to_end(&mut received).await.expect("an orderly end");
        assert_eq!(received, b"last words", "{kind:?}");
        assert_eq!(b.read(&mut [0; 8]).await.expect("still the end"), 0);
        b.write_all(b"answer").await.expect("the other direction is open");
        drop(b);
        let mut received = Vec::new();
        a.read_to_end(&mut received).await.expect("an orderly end");
        assert_eq!(received, b"answer", "{kind:?}");
    })
    .await;
}

#[tokio::test]
async fn a_slow_reader_holds_the_writer_back() {
    for_all(|kind, mut a, mut b| async move {
        let block = [1u8; 4096];
        let mut written = 0;
        // Written until nothing moves any more, however long the other tasks are given.
        let mut stalled = 0;
        while stalled < 1000 {
            match poll_fn(|cx| Poll::Ready(Pin::new(&mut a).poll_write(cx, &block))).await {
                Poll::Ready(result) => {
                    written += result.expect("open");
                    stalled = 0;
                }
                Poll::Pending => {
                    stalled += 1;
                    tokio::task::yield_now().await;
                }
            }
            assert!(written < 64 << 20, "{kind:?}: nothing held the writer back");
        }
        if matches!((&a, &b), (End::Fabric(_), End::Fabric(_))) {
            assert_eq!(written, STREAM_WINDOW, "{kind:?}");
        }
        let mut received = 0;
        let mut buffer = vec![0; 65536];
        while received < written {
            received += b.read(&mut buffer).await.expect("open");
        }
        assert_eq!(received, written, "{kind:?}");
        a.write_all(b"on it goes").await.expect("there is room again");
        b.read_exact(&mut buffer[..10]).await.expect("open");
    })
    .await;
}

#[tokio::test]
async fn closing_with_unread_data_resets() {
    for_all(|kind, mut a, mut b| async move {
        a.write_all(b"never read").await.expect("open");
        // Certain to have arrived: what follows on the same connection has been answered.
        b.write_all(b"!").await.expect("open");
        a.read_exact(&mut [0]).await.expect("open");
        b.read_exact(&mut [0]).await.expect("the first byte has arrived, and nine are left");
        drop(b);
        let error = a.read(&mut [0; 8]).await.expect_err("not an orderly end");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{kind:?}");
    })
    .await;
}

#[tokio::test]
async fn a_reset_is_seen_and_ends_writing() {
    for_all(|kind, mut a, mut b| async move {
        b.write_all(b"!").await.expect("open");
        a.read_exact(&mut [0]).await.expect("open");
        b.reset();
        let error = a.read(&mut [0; 8]).await.expect_err("not an orderly end");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{kind:?}");
        assert!(a.write(b"x").await.is_err(), "{kind:?}");
    })
    .await;
}

#[tokio::test]
async fn writing_to_who_is_gone_fails() {
    for_all(|kind, mut a, b| async move {
        drop(b);
        assert_eq!(a.read(&mut [0; 8]).await.expect("an orderly end"), 0, "{kind:?}");
        let error = loop {
            match a.write(b"x").await {
                Ok(_) => tokio::task::yield_now().await,
                Err(error) => break error,
            }
        };
        let gone = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
        assert!(gone.contains(&error.kind()), "{kind:?}: {error}");
    })
    .await;
}

async fn memory_pair() -> (Stream, Stream, PodStack) {
    let fabric = fabric();
    let stack = pod(&fabric, "pod");
    let listener = stack.listen(any(80), 8).expect("free");
    let client = stack.connect(at(stack.ip(), 80)).await.expect("it listens");
    let server = listener.accept().await.expect("it waits");
    (client, server, stack)
}

#[tokio::test]
async fn reading_can_be_shut_down_alone() {
    let (client, server, _stack) = memory_pair().await;
    client.try_write(b"lost").expect("room");
    server.shutdown(std::net::Shutdown::Read);
    assert_eq!(server.try_read(&mut [0; 8]).expect("the end"), 0);
    for _ in 0..100 {
        assert_eq!(client.try_write(&[0; 9000]).expect("taken and discarded"), 9000);
    }
    server.try_write(b"still talks").expect("open");
    assert_eq!(client.try_read_bytes(100).expect("arrived"), &b"still talks"[..]);
}

#[tokio::test]
async fn writing_after_shutdown_is_a_broken_pipe() {
    let (client, server, _stack) = memory_pair().await;
    client.shutdown(std::net::Shutdown::Write);
    let error = client.try_write(b"x").expect_err("shut");
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    assert!(client.write_capacity().is_err());
    assert_eq!(server.try_read_bytes(10).expect("the end").len(), 0);
}

#[tokio::test]
async fn capacity_is_what_a_write_takes() {
    let (client, server, stack) = memory_pair().await;
    let mut written = 0;
    loop {
        let capacity = client.write_capacity().expect("open");
        if capacity == 0 {
            break;
        }
        assert!(capacity <= WRITE_MAX);
        client.try_write_bytes(vec![3; capacity].into()).expect("allowed");
        written += capacity;
        assert_eq!(stack.usage().buffered, written);
    }
    assert_eq!(written, STREAM_WINDOW);
    let ready = poll_fn(|cx| Poll::Ready(client.poll_writable(cx).is_ready())).await;
    assert!(!ready);
    while server.try_read_bytes(usize::MAX).is_ok() {}
    assert_eq!(stack.usage().buffered, 0);
    assert_eq!(client.write_capacity().expect("open"), WRITE_MAX);
    let too_much = client.try_write_bytes(vec![0; WRITE_MAX + 1].into()).expect_err("more than allowed");
    assert_eq!(too_much.kind(), io::ErrorKind::InvalidInput);
}

#[tokio::test]
async fn what_a_guest_wrote_before_it_left_reaches_the_outside() {
    let Pair { client, mut server, fabric, _pods } = kernel_pair(Kind::Egress).await;
    let End::Fabric(client) = client else { panic!("the guest dialled") };
    let data = vec![9u8; 200_000];
    let mut written = 0;
    while written < data.len() {
        written += client.try_write(&data[written..]).expect("less than a window");
    }
    drop(client);
    let mut received = Vec::new();
    soon("the rest", server.read_to_end(&mut received)).await.expect("an orderly end");
    assert_eq!(received.len(), data.len());
    drop(server);
    soon("shutdown", fabric.shutdown()).await;
}

#[tokio::test]
async fn a_pod_that_closes_resets_its_connections_to_the_outside() {
    let Pair { client: _client, mut server, _pods, .. } = kernel_pair(Kind::Egress).await;
    _pods[0].close();
    let error = soon("the reset", server.read(&mut [0; 8])).await.expect_err("not an orderly end");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let usage = || _pods[0].usage().connections;
    drop(_client);
    eventually("the connection to be forgotten", || usage() == 0).await;
}

/// What a program is told when something is wrong, as `errno` would.
#[tokio::test(start_paused = true)]
async fn errors_as_programs_expect_them() {
    use io::ErrorKind::*;
    let fabric = fabric();
    let (stack, other) = (pod(&fabric, "pod"), pod(&fabric, "other"));
    let v4 = |last| Ipv4Addr::new(10, 128, 0, last);
    let connect = async |to: SocketAddr| match stack.connect(to).await {
        Ok(_) => panic!("{to} must not be reached"),
        Err(error) => error.kind(),
    };
    let _full = other.listen(any(81), 1).expect("free");
    let _queued = stack.connect(at(other.ip(), 81)).await.expect("room for one");
    for (to, expected) in [
        (at(other.ip(), 80), ConnectionRefused),
        (at(Ipv4Addr::LOCALHOST, 80), ConnectionRefused),
        (at(Ipv6Addr::LOCALHOST, 80), ConnectionRefused),
        (at(Ipv4Addr::new(10, 96, 9, 9), 80), ConnectionRefused),
        (at(v4(200), 80), HostUnreachable),
        (at(other.ip(), 81), TimedOut),
        (at(other.ip(), 0), InvalidInput),
        (at(Ipv4Addr::UNSPECIFIED, 80), InvalidInput),
        (at(Ipv4Addr::new(169, 254, 169, 254), 80), PermissionDenied),
        (at(Ipv4Addr::new(224, 0, 0, 1), 80), PermissionDenied),
    ] {
        assert_eq!(connect(to).await, expected, "{to}");
    }
    let bind = |local| stack.bind_tcp(local).expect_err("not to be had").kind();
    let _held = stack.bind_tcp(any(90)).expect("free");
    assert_eq!(bind(any(90)), AddrInUse);
    assert_eq!(bind(at(other.ip(), 91)), AddrNotAvailable);

    let listener = other.listen(any(80), 8).expect("free");
    let dial = async || {
        let client = stack.connect(at(other.ip(), 80)).await.expect("it listens");
        (client, listener.accept().await.expect("it waits"))
    };
    let read = |stream: &Stream| stream.try_read(&mut [0; 8]).map_err(|error| error.kind());
    let write = |stream: &Stream| stream.try_write(b"x").map_err(|error| error.kind());

    let (client, server) = dial().await;
    assert_eq!(read(&client), Err(WouldBlock));
    while write(&client).is_ok() {}
    assert_eq!(write(&client), Err(WouldBlock));
    // With something unread the other side is told that it was not read.
    drop(server);
    assert_eq!((read(&client), write(&client)), (Err(ConnectionReset), Err(ConnectionReset)));

    let (client, server) = dial().await;
    write(&server).expect("room");
    drop(server);
    assert_eq!((read(&client), read(&client), write(&client)), (Ok(1), Ok(0), Err(BrokenPipe)));

    let (client, server) = dial().await;
    client.shutdown(std::net::Shutdown::Write);
    assert_eq!((write(&client), read(&server), write(&server)), (Err(BrokenPipe), Ok(0), Ok(1)));
    assert_eq!(read(&client), Ok(1));

    // Nobody has accepted it, and nobody will.
    let client = stack.connect(at(other.ip(), 80)).await.expect("it listens");
    drop(listener);
    assert_eq!(read(&client), Err(ConnectionReset));
}
