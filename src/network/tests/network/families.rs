//! Pods with addresses of both families.

use std::net::{Ipv4Addr, Ipv6Addr};

use bytes::Bytes;
use coracle_network::{Config, Fabric, NetworkError, PodConfig};
use serde_json::json;

use crate::support::{any, at, fabric, pod, service, slice_of};

fn v6(text: &str) -> Ipv6Addr {
    text.parse().expect("an address")
}

#[tokio::test]
async fn both_addresses_of_a_pod_have_the_same_number() {
    let config = Config {
        pod_cidr: "10.128.64.0/18".parse().expect("a range"),
        pod_cidr_v6: Some("fd00:1:2:3::/64".parse().expect("a range")),
        ..Config::default()
    };
    let fabric = Fabric::build(config.clone());
    let (a, b) = (pod(&fabric, "a"), pod(&fabric, "b"));
    assert_eq!((a.ip(), a.ip6()), (Ipv4Addr::new(10, 128, 64, 2), Some(v6("fd00:1:2:3::2"))));
    assert_eq!(b.ip6(), Some(v6("fd00:1:2:3::3")));
    assert_eq!(fabric.ipv6_of(b.ip()), b.ip6());
    assert_eq!(a.resolve("a").await, Ok(vec![a.ip().into(), v6("fd00:1:2:3::2").into()]));
    let keep = PodConfig { want_ip: Some(Ipv4Addr::new(10, 128, 64, 9)), ..PodConfig::default() };
    assert_eq!(fabric.add_pod(keep).expect("free").ip6(), Some(v6("fd00:1:2:3::9")));

    let single = Fabric::build(Config { pod_cidr_v6: None, ..config });
    let stack = pod(&single, "a");
    assert_eq!(stack.ip6(), None);
    assert_eq!(stack.resolve("a").await, Ok(vec![stack.ip().into()]));
    stack.bind_tcp(at(Ipv6Addr::LOCALHOST, 80)).expect("its loopback has both");
}

#[tokio::test]
async fn who_is_reached_by_which_address() {
    let fabric = fabric();
    let (stack, other) = (pod(&fabric, "pod"), pod(&fabric, "other"));
    let own = stack.ip6().expect("two families");
    let _all = stack.listen(at(Ipv6Addr::UNSPECIFIED, 80), 8).expect("free");
    let _one = stack.listen(at(own, 81), 8).expect("free");
    let _local = stack.listen(at(Ipv6Addr::LOCALHOST, 82), 8).expect("free");
    let _v4 = stack.listen(any(83), 8).expect("free");
    for (from, to, reached) in [
        (&other, at(own, 80), true),
        (&other, at(stack.ip(), 80), true),
        (&stack, at(Ipv6Addr::LOCALHOST, 80), true),
        (&stack, at(Ipv4Addr::LOCALHOST, 80), true),
        (&other, at(own, 81), true),
        (&other, at(stack.ip(), 81), false),
        (&stack, at(Ipv6Addr::LOCALHOST, 81), false),
        (&stack, at(own, 82), false),
        (&stack, at(Ipv6Addr::LOCALHOST, 82), true),
        (&other, at(own, 83), false),
    ] {
        let dialled = from.connect(to).await;
        assert_eq!(dialled.as_ref().err().cloned(), (!reached).then_some(NetworkError::Refused(to)), "{to}");
        if let Ok(stream) = dialled {
            assert_eq!(stream.local_addr().ip().is_ipv4(), to.is_ipv4());
        }
    }
    assert_eq!(stack.bind_tcp(at(own, 80)).err(), Some(NetworkError::AddressInUse(at(own, 80))));
    let foreign = at(other.ip6().expect("two families"), 90);
    assert_eq!(stack.bind_tcp(foreign).err(), Some(NetworkError::AddressNotAvailable(foreign)));
    stack.close();
    let gone = at(own, 80);
    assert_eq!(other.connect(gone).await.err(), Some(NetworkError::Unreachable(gone)));
    let nobody = at(v6("fd0c:ac1:e000:ffff::5"), 80);
    assert_eq!(other.connect(nobody).await.err(), Some(NetworkError::Refused(nobody)), "no such service");
}

#[tokio::test]
async fn a_service_has_an_address_of_each_family() {
    let fabric = fabric();
    let (client, server) = (pod(&fabric, "client"), pod(&fabric, "server"));
    let vip = v6("fd0c:ac1:e000:ffff::50");
    fabric.apply_service(&service(
        "web",
        json!({"clusterIP": "10.96.0.50", "clusterIPs": ["10.96.0.50", vip], "ports": [{"port": 80}]}),
    ));
    let ports = json!([{"name": "", "port": 8080}]);
    fabric.apply_slice(&slice_of("web", ports, json!([{"addresses": [server.ip6()]}])));
    let _listener = server.listen(at(Ipv6Addr::UNSPECIFIED, 8080), 8).expect("free");
    client.connect(at(vip, 80)).await.expect("a ready endpoint");
}

#[tokio::test]
async fn a_datagram_socket_on_the_wildcard_of_ipv6_answers_both_families() {
    let fabric = fabric();
    let (client, server) = (pod(&fabric, "client"), pod(&fabric, "server"));
    let listening = server.bind_udp(at(Ipv6Addr::UNSPECIFIED, 53)).expect("free");
    let own = client.ip6().expect("two families");
    for (bind, to, shown) in [
        (at(Ipv4Addr::UNSPECIFIED, 0), at(server.ip(), 53), at(client.ip().to_ipv6_mapped(), 0)),
        (at(Ipv6Addr::UNSPECIFIED, 0), at(server.ip6().expect("two families"), 53), at(own, 0)),
    ] {
        let asking = client.bind_udp(bind).expect("free");
        asking.send(Bytes::from_static(b"?"), Some(to)).expect("sent");
        let (_, from) = listening.try_recv().expect("received");
        assert_eq!(from.ip(), shown.ip());
        listening.send(Bytes::from_static(b"!"), Some(from)).expect("sent");
        assert_eq!(asking.try_recv(), Ok((Bytes::from_static(b"!"), to)));
    }
}
