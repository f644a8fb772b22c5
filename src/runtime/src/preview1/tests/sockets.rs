//! `sock_*`: listeners that a program finds, and what it accepts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::StartError;

/// A pod, and how its container is told to listen.
fn listening(bench: &Bench, ports: &[u16]) -> (coracle_network::PodStack, impl FnOnce(&mut ContainerSpec)) {
    let pod = bench.pod();
    let (network, listen) = (pod.clone(), ports.to_vec());
    (pod, move |spec: &mut ContainerSpec| {
        spec.network = network;
        spec.listen = listen;
    })
}

/// The first listener is 3, the root comes after the last; what looks for directories finds it there.
#[tokio::test]
async fn listeners_come_first_and_are_no_directories() {
    let bench = Bench::new();
    let (pod, listen) = listening(&bench, &[80, 81]);
    let steps = [
        ("environ_sizes_get 0 4", 0),
        ("get32 0", 1),
        ("environ_get 100 200", 0),
        ("same 200 'LISTEN_FDS=2\0'", 1),
        ("fd_prestat_get 3 300", 0),
        ("get8 300", 1),
        ("get32 304", 0),
        ("fd_prestat_dir_name 3 300 10", 54),
        ("fd_prestat_get 4 300", 0),
        ("get8 300", 1),
        ("fd_prestat_get 5 300", 0),
        ("get8 300", 0),
        ("fd_prestat_dir_name 5 300 1", 0),
        ("fd_prestat_get 6 300", 8),
        ("fd_fdstat_get 3 400", 0),
        ("get8 400", 6),
        ("get16 402", 4),
        ("fd_filestat_get 3 400", 0),
        ("get8 416", 6),
        ("path_open 5 0 'f' 1 66 0 0 100", 0),
        ("iov 0 300 1", 0),
        ("fd_read 3 0 1 104", 8),
        ("fd_write 3 0 1 104", 8),
        ("sock_recv 3 0 1 0 104 108", 53),
        ("sock_send 3 0 1 0 104", 53),
        ("sock_shutdown 3 3", 53),
        ("sock_accept 5 0 104", 57),
        ("sock_accept 1 0 104", 57),
        ("sock_accept 9 0 104", 8),
        ("sock_recv 1 0 1 0 104 108", 57),
        ("sock_accept 3 4 104", 6),
        ("fd_fdstat_set_flags 3 4", 0),
        ("sock_accept 3 0 104", 6),
        ("sock_accept 3 1 104", 28),
    ];
    run_in(&bench, ONE, &steps, listen).await;
    assert_eq!(pod.usage().tcp_bound, 0, "they end with their program");
}

/// Who does not accept does not listen, whatever the container declares.
#[tokio::test]
async fn a_port_that_nobody_accepts_on_stays_closed() {
    let bench = Bench::new();
    for module in [ONE, ZERO] {
        let (_, listen) = listening(&bench, &[80]);
        let steps = [("fd_prestat_get 3 300", 0), ("get8 300", 0), ("fd_prestat_get 4 300", 8)];
        run_in(&bench, module, &steps, listen).await;
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_before_the_start() {
    let bench = Bench::new();
    let (pod, listen) = listening(&bench, &[80]);
    let taken = pod.listen(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 80)), 1).unwrap();
    let program = bench.prepare(&Script::text(ONE, &[("sock_accept 3 0 100", 0)])).await.unwrap();
    let mut spec = bench.spec(&std::sync::Arc::default());
    listen(&mut spec);
    let refused = bench.runtime.start(program, spec).unwrap_err();
    assert!(matches!(refused, StartError::Listen { port: 80, .. }), "{refused:?}");
    assert_eq!(bench.runtime.running(), 0);
    drop(taken);
}

/// A server that greets, echoes, and knows the end; its client dials by IPv4, then by IPv6.
#[tokio::test]
async fn connections_are_served() {
    let bench = Bench::new();
    let steps = [
        ("sock_accept 3 0 100", 0),
        ("get32 100", 5),
        ("fd_fdstat_get 5 400", 0),
        ("get8 400", 6),
        ("fd_prestat_get 5 300", 8),
        ("fd_seek 5 0 0 400", 70),
        ("put 300 'hello'", 0),
        ("iov 0 300 5", 0),
        ("fd_write 5 0 1 104", 0),
        ("iov 0 1000 100", 0),
        // Looked at, then taken, then waited for until all nine are there.
        ("sock_recv 5 0 1 1 104 108", 0),
        ("get32 104", 3),
        ("get16 108", 0),
        ("iov 0 1000 2", 0),
        ("sock_recv 5 0 1 0 104 108", 0),
        ("get32 104", 2),
        ("same 1000 'ab'", 1),
        ("fd_read 5 0 1 104", 0),
        ("get32 104", 1),
        ("same 1000 'c'", 1),
        ("fd_fdstat_set_flags 5 4", 0),
        ("fd_read 5 0 1 104", 6),
        ("fd_fdstat_set_flags 5 0", 0),
        ("put 300 'more'", 0),
        ("iov 8 300 4", 0),
        ("sock_send 5 8 1 0 104", 0),
        ("sock_send 5 8 1 1 104", 28),
        ("iov 0 1000 4", 0),
        ("iov 8 1004 5", 0),
        ("sock_recv 5 0 2 2 104 108", 0),
        ("get32 104", 9),
        ("same 1000 '123456789'", 1),
        ("sock_recv 5 0 1 2 104 108", 0),
        ("get32 104", 0),
        ("sock_recv 5 0 1 4 104 108", 28),
        ("sock_shutdown 5 0", 28),
        ("sock_shutdown 5 2", 0),
        ("fd_write 5 8 1 104", 64),
        ("fd_close 5", 0),
        ("sock_recv 5 0 1 0 104 108", 8),
    ];
    for address in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
        let (pod, listen) = listening(&bench, &[80]);
        let (container, _) = start(&bench, &steps, listen).await;
        let mut stream = pod.connect(SocketAddr::from((address, 80))).await.unwrap();
        let mut text = [0; 5];
        stream.read_exact(&mut text).await.unwrap();
        assert_eq!(&text, b"hello");
        stream.write_all(b"abc").await.unwrap();
        stream.read_exact(&mut text[..4]).await.unwrap();
        assert_eq!(&text, b"moreo");
        stream.write_all(b"1234").await.unwrap();
        tokio::task::yield_now().await;
        stream.write_all(b"56789").await.unwrap();
        stream.shutdown(std::net::Shutdown::Write);
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty());
        verdict(&steps, &ended(&container).await);
        let usage = container.usage();
        assert_eq!((usage.sent, usage.received, usage.connections), (9, 12, 0));
    }
}

/// Who never asked how a listener behaves waits in `sock_accept`; who asked is told that it does not block, and it
/// does not.
#[tokio::test]
async fn a_listener_behaves_as_it_is_taken() {
    let bench = Bench::new();
    for (steps, waits) in [
        (&[("fd_fdstat_get 3 400", 0), ("get16 402", 4), ("sock_accept 3 0 100", 6)][..], false),
        (&[("fd_fdstat_set_flags 3 0", 0), ("sock_accept 3 0 100", 28)], true),
        (&[("sock_accept 3 0 100", 28)], true),
    ] {
        let (_, listen) = listening(&bench, &[80]);
        let (container, _) = start(&bench, steps, listen).await;
        if waits {
            // It waits until it is told that nobody will come; it cannot have been told before it began to.
            while container.usage().cpu.is_zero() {
                tokio::task::yield_now().await;
            }
            container.stop();
        }
        verdict(steps, &ended(&container).await);
    }
}

/// A dual-stack port on the pod's own address, and a poll on the listener.
#[tokio::test]
async fn a_poll_tells_of_connections_and_of_bytes() {
    let bench = Bench::new();
    let steps = [
        ("fd_fdstat_set_flags 3 4", 0),
        ("set64 1000 7", 0),
        ("set8 1008 1", 0),
        ("set32 1016 3", 0),
        ("poll_oneoff 1000 2000 1 3000", 0),
        ("get64 2000", 7),
        ("sock_accept 3 4 100", 0),
        ("set32 1016 5", 0),
        ("poll_oneoff 1000 2000 1 3000", 0),
        ("iov 0 4000 100", 0),
        ("fd_read 5 0 1 104", 0),
        ("get32 104", 1),
        ("fd_read 5 0 1 104", 6),
        ("sock_shutdown 5 2", 0),
        ("set8 1008 2", 0),
        ("poll_oneoff 1000 2000 1 3000", 0),
        ("get16 2024", 1),
    ];
    let (pod, listen) = listening(&bench, &[8080]);
    let (container, _) = start(&bench, &steps, listen).await;
    let other = bench.pod();
    let mut stream = other.connect(SocketAddr::from((pod.ip(), 8080))).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    verdict(&steps, &ended(&container).await);
}

/// Asked to end, a server that waits for connections is told once, as one of 0.2 is.
#[tokio::test]
async fn who_accepts_learns_that_it_is_to_end() {
    let bench = Bench::new();
    let steps = [
        ("put 300 'ready'", 0),
        ("iov 0 300 5", 0),
        ("fd_write 1 0 1 104", 0),
        ("sock_accept 3 0 100", 28),
        ("fd_fdstat_set_flags 3 4", 0),
        ("sock_accept 3 0 100", 6),
    ];
    let (_, listen) = listening(&bench, &[80]);
    let (container, output) = start(&bench, &steps, listen).await;
    output.shows("ready").await;
    container.stop();
    verdict(&steps, &ended(&container).await);
}

/// A guest that waits can be killed, and what it held is given back.
#[tokio::test]
async fn who_waits_can_be_killed() {
    let bench = Bench::new();
    let (pod, listen) = listening(&bench, &[80]);
    let steps = [("sock_accept 3 0 100", 0), ("iov 0 300 5", 0), ("fd_read 5 0 1 104", 0)];
    let (container, _) = start(&bench, &steps, listen).await;
    let mut stream = pod.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, 80))).await.unwrap();
    while container.usage().connections == 0 {
        tokio::task::yield_now().await;
    }
    container.kill();
    assert_eq!(ended(&container).await, Exit::Killed);
    assert_eq!(stream.read(&mut [0; 9]).await.unwrap(), 0);
    drop(stream);
    assert_eq!((pod.usage().connections, pod.usage().tcp_bound), (0, 0));
}
