//! What guests may not reach.

use std::net::{Ipv4Addr, SocketAddr};

use coracle_network::NetworkError;
use tokio::net::TcpListener;

use crate::support::{NODE, at, fabric, pod};

#[tokio::test]
async fn the_host_is_out_of_reach_however_it_is_spelled() {
    // Something that would answer on every address of the host.
    let listener = TcpListener::bind("0.0.0.0:0").await.expect("a port is free");
    let port = listener.local_addr().expect("bound").port();
    let fabric = fabric();
    let stack = pod(&fabric, "guest");
    let dial = async |ip: &str| {
        let to = SocketAddr::new(ip.parse().expect("an address"), port);
        stack.connect(to).await.expect_err(ip)
    };
    for own in ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"] {
        assert!(matches!(dial(own).await, NetworkError::Refused(_)), "{own} is the pod's own loopback");
    }
    for nobody in ["0.0.0.0", "::", "::ffff:0.0.0.0"] {
        assert!(matches!(dial(nobody).await, NetworkError::InvalidAddress(_)), "{nobody}");
    }
    let before = fabric.denied();
    let forbidden = [
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "224.0.0.1",
        "255.255.255.255",
        "fe80::1",
        "192.0.2.10",
    ];
    for address in forbidden {
        assert!(matches!(dial(address).await, NetworkError::Denied(_)), "{address}");
    }
    assert_eq!(fabric.denied() - before, forbidden.len() as u64);
    assert_eq!(stack.usage().denied, forbidden.len() as u64);
    assert_eq!(stack.connect(at(NODE, 22)).await.err(), Some(NetworkError::Denied(at(NODE, 22))));
    for nowhere in ["10.128.5.5", "10.200.0.1", "2606:4700::1111", "fd00::1"] {
        assert!(matches!(dial(nowhere).await, NetworkError::Unreachable(_)), "{nowhere}");
    }
    assert!(matches!(dial("10.96.1.1").await, NetworkError::Refused(_)), "no such service");
}

#[tokio::test]
async fn addresses_of_the_host_that_nobody_configured_are_denied_too() {
    let own = std::net::UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        // Picks the interface that leads outside; sends nothing.
        socket.connect("1.1.1.1:9")?;
        socket.local_addr()
    });
    let Ok(SocketAddr::V4(own)) = own else { return };
    if own.ip().is_loopback() || *own.ip() == Ipv4Addr::UNSPECIFIED {
        return;
    }
    let listener = TcpListener::bind((*own.ip(), 0)).await.expect("a port is free");
    let to = listener.local_addr().expect("bound");
    let stack = pod(&fabric(), "guest");
    let error = stack.connect(to).await.expect_err("the host's own address");
    // The fabric above is gone at once; a live one denies.
    assert_eq!(error, NetworkError::Closed);
    let fabric = fabric();
    let stack = pod(&fabric, "guest");
    assert_eq!(stack.connect(to).await.err(), Some(NetworkError::Denied(to)));
    let probe = fabric.connect(to).await.expect_err("nor through the node");
    assert_eq!(probe.kind(), std::io::ErrorKind::PermissionDenied);
}

#[tokio::test]
async fn port_zero_is_nowhere() {
    let fabric = fabric();
    let stack = pod(&fabric, "guest");
    let to = at(stack.ip(), 0);
    assert_eq!(stack.connect(to).await.err(), Some(NetworkError::InvalidAddress(to)));
}
