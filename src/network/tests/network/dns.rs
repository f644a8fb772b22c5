//! The cluster's DNS server, as a pod that speaks DNS meets it; and names of the world under policy.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use coracle_network::{
    Config, DenyReason, DnsConfig, Egress, Fabric, HostResolver, NameError, NetworkError, PodConfig,
    PodStack, ResolveError,
};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::{ProptestConfig, any as arbitrary, proptest};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{any, at, config, fabric, greeter, greeting, pod, service, slice, slice_of, soon};

const DNS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)), 53);

/// A world with a few names.
#[derive(Debug, Default)]
struct World {
    names: HashMap<&'static str, Vec<IpAddr>>,
    asked: AtomicUsize,
}

impl World {
    fn new(names: &[(&'static str, &str)]) -> Arc<World> {
        let mut world = World::default();
        for (name, address) in names {
            world.names.entry(name).or_default().push(address.parse().expect("an address"));
        }
        Arc::new(world)
    }
}

impl HostResolver for World {
    fn lookup(&self, name: String) -> Pin<Box<dyn Future<Output = Result<Vec<IpAddr>, NameError>> + Send>> {
        self.asked.fetch_add(1, Relaxed);
        let found = match name.as_str() {
            "broken.example.org" => Err(NameError::Temporary),
            name => self.names.get(name).cloned().ok_or(NameError::NotFound),
        };
        Box::pin(std::future::ready(found))
    }
}

fn query(name: &str, type_: RecordType) -> Message {
    let mut query = Message::query();
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(Name::from_ascii(name).expect("a name"), type_));
    query
}

async fn exchange(stack: &PodStack, query: &[u8]) -> Message {
    let socket = stack.bind_udp(any(0)).expect("a port is free");
    socket.send(Bytes::copy_from_slice(query), Some(DNS)).expect("sent");
    let (answer, from) = soon("an answer", socket.recv()).await.expect("open");
    assert_eq!(from, DNS);
    Message::from_vec(&answer).expect("a message")
}

async fn ask(stack: &PodStack, name: &str, type_: RecordType) -> Message {
    let query = query(name, type_);
    let answer = exchange(stack, &query.to_vec().expect("short")).await;
    assert_eq!(answer.metadata.id, query.metadata.id);
    assert_eq!((answer.metadata.message_type, &answer.queries), (MessageType::Response, &query.queries));
    assert!(answer.metadata.recursion_desired && answer.metadata.recursion_available);
    answer
}

/// Code and records of an answer in short.
fn shown(answer: &Message) -> String {
    let records = answer.answers.iter().map(|record| format!(" {} {}", record.record_type(), record.data));
    let authority = if answer.authorities.is_empty() { "" } else { " +SOA" };
    let code = match answer.metadata.response_code {
        ResponseCode::NoError => "ok".to_owned(),
        other => format!("{other:?}"),
    };
    code + &records.collect::<String>() + authority
}

async fn check(stack: &PodStack, name: &str, type_: RecordType, expected: &str) {
    assert_eq!(shown(&ask(stack, name, type_).await), expected, "{name} {type_}");
}

fn cluster(fabric: &Arc<Fabric>) {
    let ports = json!([{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
    fabric.apply_service(&service("web", json!({"clusterIP": "10.96.0.50", "ports": ports})));
    fabric.apply_service(&service(
        "db",
        json!({"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]}),
    ));
    let endpoints = json!([{"addresses": ["10.128.0.8"], "hostname": "db-0"}, {"addresses": ["10.128.0.9"]}]);
    fabric.apply_slice(&slice_of("db", json!([{"name": "sql", "port": 6432}]), endpoints));
    let alias = |name, to| service(name, json!({"type": "ExternalName", "externalName": to}));
    fabric.apply_service(&alias("inside", "web.default.svc.cluster.local"));
    fabric.apply_service(&alias("world", "www.example.org"));
    fabric.apply_service(&alias("loop", "loop.default.svc.cluster.local"));
    let namespace = json!({"metadata": {"name": "default"}});
    fabric.apply_namespace(&serde_json::from_value(namespace).expect("a namespace"));
}

#[tokio::test]
async fn records_of_the_cluster() {
    use RecordType::{A, AAAA, CNAME, MX, NS, PTR, SOA, SRV, TXT};
    let fabric = fabric();
    cluster(&fabric);
    let stack = pod(&fabric, "client");
    let check = async |name: &str, type_, expected: &str| {
        let name = if name.ends_with('.') { name.to_owned() } else { format!("{name}.cluster.local.") };
        check(&stack, &name, type_, expected).await;
    };
    check("web.default.svc", A, "ok A 10.96.0.50").await;
    check("WEB.default.SVC", A, "ok A 10.96.0.50").await;
    check("web.default.svc", AAAA, "ok +SOA").await;
    check("web.default.svc", MX, "ok +SOA").await;
    check("_http._tcp.web.default.svc", SRV, "ok SRV 0 100 80 web.default.svc.cluster.local.").await;
    check("_http._udp.web.default.svc", SRV, "NXDomain +SOA").await;
    check("_tcp.web.default.svc", SRV, "ok +SOA").await;
    check(
        "web.default.svc",
        SRV,
        "ok SRV 0 50 80 web.default.svc.cluster.local. SRV 0 50 53 web.default.svc.cluster.local.",
    )
    .await;
    check("db.default.svc", A, "ok A 10.128.0.8 A 10.128.0.9").await;
    check("db-0.db.default.svc", A, "ok A 10.128.0.8").await;
    check("10-128-0-9.db.default.svc", A, "ok A 10.128.0.9").await;
    check(
        "_sql._tcp.db.default.svc",
        SRV,
        "ok SRV 0 50 6432 db-0.db.default.svc.cluster.local. SRV 0 50 6432 10-128-0-9.db.default.svc.cluster.local.",
    )
    .await;
    check("10-128-0-7.default.pod", A, "ok A 10.128.0.7").await;
    check("1-1-1-1.default.pod", A, "NXDomain +SOA").await;
    check("10-128-0-7.nowhere.pod", A, "NXDomain +SOA").await;
    check("inside.default.svc", A, "ok CNAME web.default.svc.cluster.local. A 10.96.0.50").await;
    check("world.default.svc", CNAME, "ok CNAME www.example.org.").await;
    for nothing in ["nothing.default.svc", "web.nowhere.svc", "x.y.z.a.b.c", "web", "x.web.default.svc"] {
        check(nothing, A, "NXDomain +SOA").await;
    }
    for empty in ["default.svc", "svc", "pod", "cluster.local."] {
        check(empty, A, "ok +SOA").await;
    }
    check("dns-version", TXT, "ok TXT 1.1.0").await;
    check("cluster.local.", NS, "ok NS ns.dns.cluster.local.").await;
    let soa = ask(&stack, "cluster.local.", SOA).await;
    assert_eq!((soa.answers.len(), soa.answers[0].record_type()), (1, SOA));
    check("50.0.96.10.in-addr.arpa.", PTR, "ok PTR web.default.svc.cluster.local.").await;
    check("8.0.128.10.in-addr.arpa.", PTR, "ok PTR db-0.db.default.svc.cluster.local.").await;
    check("9.0.128.10.in-addr.arpa.", PTR, "ok PTR 10-128-0-9.db.default.svc.cluster.local.").await;
    check("1.1.1.1.in-addr.arpa.", PTR, "NXDomain +SOA").await;
    check("localhost.", A, "ok A 127.0.0.1").await;
    assert_eq!(
        ask(&stack, "loop.default.svc.cluster.local.", A).await.metadata.response_code,
        ResponseCode::ServFail
    );
    let srv = ask(&stack, "_sql._tcp.db.default.svc.cluster.local.", SRV).await;
    assert_eq!(srv.additionals.len(), 2, "the addresses of the targets");

    let six = json!([{"addresses": ["fd00::8"], "hostname": "db-0"}, {"addresses": ["fd00::9"]}]);
    let mut six = slice_of("db", json!([{"name": "sql", "port": 6432}]), six);
    (six.metadata.name, six.address_type) = (Some("db-6".to_owned()), "IPv6".to_owned());
    fabric.apply_slice(&six);
    let srv = ask(&stack, "_sql._tcp.db.default.svc.cluster.local.", SRV).await;
    let mut targets: Vec<_> = srv.answers.iter().map(|record| record.data.to_string()).collect();
    targets.sort();
    let of = |label: &str| format!("0 33 6432 {label}.db.default.svc.cluster.local.");
    assert_eq!(targets, ["10-128-0-9", "db-0", "fd00--9"].map(of), "db-0 once");
    let mut addresses: Vec<_> = srv.additionals.iter().map(|record| record.data.to_string()).collect();
    addresses.sort();
    assert_eq!(addresses, ["10.128.0.8", "10.128.0.9", "fd00::8", "fd00::9"]);
    let own = ask(&stack, "db-0.db.default.svc.cluster.local.", SRV).await;
    assert_eq!((own.answers.len(), own.additionals.len()), (1, 2));
    check("db-0.db.default.svc", AAAA, "ok AAAA fd00::8").await;
    fabric.remove_slice("default", "db-6");

    fabric.remove_slice("default", "db-1");
    check("db.default.svc", A, "ok +SOA").await;
    check("8.0.128.10.in-addr.arpa.", PTR, "NXDomain +SOA").await;
    fabric.remove_service("default", "web");
    check("web.default.svc", A, "NXDomain +SOA").await;
    check("50.0.96.10.in-addr.arpa.", PTR, "NXDomain +SOA").await;
}

#[tokio::test]
async fn the_world_through_the_host() {
    let world = World::new(&[
        ("www.example.org", "203.0.113.1"),
        ("www.example.org", "2001:db8::1"),
        ("evil.example.org", "169.254.169.254"),
    ]);
    let resolver = Arc::clone(&world);
    let fabric = Fabric::build(Config { resolver, ..config() });
    cluster(&fabric);
    let stack = pod(&fabric, "client");
    check(&stack, "www.example.org.", RecordType::A, "ok A 203.0.113.1").await;
    check(&stack, "www.example.org.", RecordType::A, "ok A 203.0.113.1").await;
    assert_eq!(world.asked.load(Relaxed), 1, "what was asked a moment ago is known");
    check(&stack, "www.example.org.", RecordType::AAAA, "ok AAAA 2001:db8::1").await;
    check(&stack, "www.example.org.", RecordType::MX, "ok").await;
    check(&stack, "nobody.example.org.", RecordType::A, "NXDomain").await;
    check(&stack, "broken.example.org.", RecordType::A, "ServFail").await;
    check(&stack, "evil.example.org.", RecordType::A, "Refused").await;
    assert!(stack.denials().contains(&(DenyReason::Forbidden, 1)));
    check(
        &stack,
        "world.default.svc.cluster.local.",
        RecordType::A,
        "ok CNAME www.example.org. A 203.0.113.1",
    )
    .await;
    let before = world.asked.load(Relaxed);
    for private in ["printer.", "printer.local.", "www.example.org.cluster.local."] {
        assert_eq!(ask(&stack, private, RecordType::A).await.metadata.response_code, ResponseCode::NXDomain);
    }
    assert_eq!(world.asked.load(Relaxed), before, "names of the host's own network are not asked for");
    let both = ["203.0.113.1", "2001:db8::1"].map(|address| address.parse().expect("an address"));
    assert_eq!(stack.resolve("www.example.org").await, Ok(both.to_vec()));
    let resolver = Arc::clone(&world);
    let single = Fabric::build(Config { resolver, pod_cidr_v6: None, ..config() });
    assert_eq!(pod(&single, "client").resolve("www.example.org").await, Ok(both[..1].to_vec()));
    assert!(matches!(stack.resolve("broken.example.org").await, Err(ResolveError::Temporary(_))));
}

#[tokio::test]
async fn messages_that_are_no_plain_queries() {
    let fabric = fabric();
    cluster(&fabric);
    let stack = pod(&fabric, "client");
    let code = async |change: &dyn Fn(&mut Message)| {
        let mut query = query("web.default.svc.cluster.local.", RecordType::A);
        change(&mut query);
        exchange(&stack, &query.to_vec().expect("short")).await.metadata.response_code
    };
    assert_eq!(code(&|_| {}).await, ResponseCode::NoError);
    assert_eq!(code(&|query| query.queries.clear()).await, ResponseCode::FormErr);
    let twice = |query: &mut Message| query.queries.push(query.queries[0].clone());
    assert_eq!(code(&twice).await, ResponseCode::FormErr);
    assert_eq!(code(&|query| query.metadata.op_code = OpCode::Notify).await, ResponseCode::NotImp);
    let class = |query: &mut Message| {
        query.queries[0].set_query_class(DNSClass::CH);
    };
    assert_eq!(code(&class).await, ResponseCode::Refused);
    for (type_, expected) in
        [(RecordType::ANY, ResponseCode::NotImp), (RecordType::AXFR, ResponseCode::Refused)]
    {
        let typed = |query: &mut Message| {
            query.queries[0].set_query_type(type_);
        };
        assert_eq!(code(&typed).await, expected);
    }
    let mut edns = Edns::new();
    edns.set_version(1);
    let newer = |query: &mut Message| {
        query.set_edns(edns.clone());
    };
    // The library reads 16 as its other meaning.
    assert_eq!(u16::from(code(&newer).await), u16::from(ResponseCode::BADVERS));
    let rest = [&[0xab, 0xcd, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &[0xff; 20]].concat();
    let garbage = exchange(&stack, &rest).await;
    assert_eq!((garbage.metadata.id, garbage.metadata.response_code), (0xabcd, ResponseCode::FormErr));
    // An answer is not answered, nor is what is too short or too long; the next query still is.
    let socket = stack.bind_udp(any(0)).expect("a port is free");
    let mut answer = query("web.default.svc.cluster.local.", RecordType::A);
    answer.metadata.message_type = MessageType::Response;
    for nothing in [answer.to_vec().expect("short"), vec![0; 5], vec![0; 5000]] {
        socket.send(nothing.into(), Some(DNS)).expect("sent");
    }
    assert_eq!(socket.try_recv(), Err(NetworkError::WouldBlock));
    check(&stack, "web.default.svc.cluster.local.", RecordType::A, "ok A 10.96.0.50").await;
}

/// The world is slower than who asks: what waits is bounded, and what is lost is not remembered.
#[tokio::test]
async fn a_flood_of_queries_is_lost_and_not_queued() {
    let fabric =
        Fabric::build(Config { resolver: World::new(&[("a.example.org", "203.0.113.1")]), ..config() });
    let client = pod(&fabric, "client");
    let socket = client.bind_udp(any(0)).expect("a port is free");
    let asked = query("a.example.org", RecordType::A).to_vec().expect("short");
    // On this thread nothing is answered meanwhile.
    for _ in 0..1_000 {
        socket.send(Bytes::copy_from_slice(&asked), Some(DNS)).expect("sent");
    }
    let mut answers = 0;
    while tokio::time::timeout(Duration::from_millis(50), socket.recv()).await.is_ok() {
        answers += 1;
    }
    assert_eq!(answers, coracle_network::limits::DNS_WAITING_PER_POD);
    check(&client, "a.example.org.", RecordType::A, "ok A 203.0.113.1").await;
}

#[tokio::test]
async fn long_answers_are_cut_and_whole_over_tcp() {
    let fabric = fabric();
    cluster(&fabric);
    let stack = pod(&fabric, "client");
    let many: Vec<Ipv4Addr> = (1..=60).map(|last| Ipv4Addr::new(10, 128, 1, last)).collect();
    fabric.apply_slice(&slice("db", 1, &many));
    let name = "db.default.svc.cluster.local.";
    let plain = ask(&stack, name, RecordType::A).await;
    assert!(plain.metadata.truncation && plain.answers.is_empty());
    let mut with_edns = query(name, RecordType::A);
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    with_edns.set_edns(edns);
    let whole = exchange(&stack, &with_edns.to_vec().expect("short")).await;
    assert!(!whole.metadata.truncation && whole.edns.is_some(), "{}", whole.answers.len());
    assert_eq!(whole.answers.len(), 60);

    let mut stream = stack.connect(DNS).await.expect("the server listens");
    for type_ in [RecordType::A, RecordType::AAAA] {
        let bytes = query(name, type_).to_vec().expect("short");
        stream.write_all(&u16::try_from(bytes.len()).expect("short").to_be_bytes()).await.expect("open");
        stream.write_all(&bytes).await.expect("open");
        let mut length = [0; 2];
        soon("an answer", stream.read_exact(&mut length)).await.expect("open");
        let mut answer = vec![0; u16::from_be_bytes(length).into()];
        soon("an answer", stream.read_exact(&mut answer)).await.expect("open");
        let answer = Message::from_vec(&answer).expect("a message");
        assert_eq!(answer.answers.len(), if type_ == RecordType::A { 60 } else { 0 });
    }
    let held: Vec<_> = futures_of(&stack, 15).await;
    let full = stack.connect(DNS).await.err();
    assert_eq!(full, Some(NetworkError::Limit("connections to the DNS server")));
    drop((held, stream));
}

async fn futures_of(stack: &PodStack, count: usize) -> Vec<coracle_network::Stream> {
    let mut streams = Vec::new();
    for _ in 0..count {
        streams.push(stack.connect(DNS).await.expect("the server listens"));
    }
    streams
}

#[tokio::test]
async fn a_service_with_endpoints_takes_the_servers_place() {
    let fabric = fabric();
    let stack = pod(&fabric, "client");
    let own = pod(&fabric, "coredns");
    greeter(&own, 5353, "another server");
    let spec = json!({"clusterIP": "10.96.0.10", "ports": [{"port": 53, "protocol": "TCP"}]});
    fabric.apply_service(&service("kube-dns", spec));
    assert!(stack.connect(DNS).await.is_ok(), "nobody is behind it yet");
    fabric.apply_slice(&slice("kube-dns", 5353, &[own.ip()]));
    assert_eq!(greeting(stack.connect(DNS).await.expect("ready")).await, "another server");
}

#[tokio::test(start_paused = true)]
async fn only_the_hosts_of_the_list() {
    let world = World::new(&[("api.example.org", "203.0.113.1"), ("www.example.org", "203.0.113.2")]);
    for egress in [Egress::Allow, Egress::Deny] {
        let resolver = Arc::clone(&world);
        let fabric = Fabric::build(Config { resolver, egress, ..config() });
        let listed = PodConfig {
            name: "listed".to_owned(),
            egress_hosts: Some("api.example.org".to_owned()),
            ..PodConfig::default()
        };
        let stack = fabric.add_pod(listed).expect("an address is free");
        let api = at(Ipv4Addr::new(203, 0, 113, 1), 443);
        let is_denied = async || {
            let dialled = tokio::time::timeout(Duration::from_millis(50), stack.connect(api)).await;
            matches!(dialled, Ok(Err(NetworkError::Denied(_))))
        };
        assert!(is_denied().await, "not looked up yet");
        assert_eq!(stack.resolve("api.example.org").await, Ok(vec![api.ip()]));
        assert!(!is_denied().await);
        assert!(matches!(stack.resolve("www.example.org").await, Err(ResolveError::Denied(_))));
        tokio::time::advance(Duration::from_secs(301)).await;
        assert!(is_denied().await, "too long ago");
        check(&stack, "api.example.org.", RecordType::A, "ok A 203.0.113.1").await;
        assert!(!is_denied().await, "the pod's own resolver counts as well");
        stack.set_labels([].into(), Some("www.example.org"));
        assert!(is_denied().await, "another list");
    }
}

#[tokio::test]
async fn servers_that_the_pod_names() {
    let world = World::new(&[("www.example.org", "203.0.113.1")]);
    let fabric = Fabric::build(Config { resolver: world, ..config() });
    cluster(&fabric);
    let server = pod(&fabric, "server");
    let socket = server.bind_udp(any(53)).expect("a port is free");
    tokio::spawn(async move {
        while let Ok((query, from)) = socket.recv().await {
            let query = Message::from_vec(&query).expect("a query");
            let mut answer = Message::response(query.metadata.id, OpCode::Query);
            answer.queries = query.queries.clone();
            let name = query.queries[0].name().clone();
            if name.to_ascii() == "x.corp.example." && query.queries[0].query_type() == RecordType::A {
                let data = RData::A(hickory_proto::rr::rdata::A(Ipv4Addr::new(198, 51, 100, 7)));
                answer.answers.push(hickory_proto::rr::Record::from_rdata(name, 5, data));
            } else if !name.to_ascii().starts_with("x.corp") {
                answer.metadata.response_code = ResponseCode::NXDomain;
            }
            // Somebody else's answer is not heard.
            let mut forged = answer.clone();
            forged.metadata.id = answer.metadata.id.wrapping_add(1);
            for message in [forged, answer] {
                socket.send(message.to_vec().expect("short").into(), Some(from)).expect("sent");
            }
        }
    });
    let with = |dns: Value| {
        let spec = json!({"containers": [], "dnsPolicy": "None", "dnsConfig": dns});
        let object = json!({"metadata": {"name": "p", "namespace": "default"}, "spec": spec});
        let object: Pod = serde_json::from_value(object).expect("a pod");
        let dns = DnsConfig::of_pod(&object, &config().cluster_names());
        let pod = PodConfig { namespace: "default".to_owned(), dns: Some(dns), ..PodConfig::default() };
        fabric.add_pod(pod).expect("an address is free")
    };
    let stack = with(json!({"nameservers": [server.ip()], "searches": ["corp.example"]}));
    let found = vec![IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7))];
    assert_eq!(soon("a name", stack.resolve("x")).await, Ok(found));
    assert!(matches!(soon("a name", stack.resolve("y")).await, Err(ResolveError::NotFound(_))));
    assert!(
        matches!(soon("a name", stack.resolve("web")).await, Err(ResolveError::NotFound(_))),
        "not the cluster's"
    );

    let cluster_only =
        with(json!({"nameservers": ["10.96.0.10"], "searches": ["default.svc.cluster.local"]}));
    assert_eq!(cluster_only.resolve("web").await, Ok(vec![IpAddr::V4(Ipv4Addr::new(10, 96, 0, 50))]));
    let nobody = with(json!({}));
    assert!(matches!(nobody.resolve("web").await, Err(ResolveError::NotFound(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a guest sends, the server answers or keeps silent, and what it says is a message of bounded length.
    #[test]
    fn no_datagram_does_harm(
        start in proptest::sample::select(vec![0_usize, 2, 12, 20]),
        noise in proptest::collection::vec(arbitrary::<u8>(), 0..600),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let fabric = fabric();
            cluster(&fabric);
            let stack = pod(&fabric, "client");
            let mut bytes = query("web.default.svc.cluster.local.", RecordType::A).to_vec().expect("short");
            bytes.truncate(start);
            bytes.extend(noise);
            let socket = stack.bind_udp(any(0)).expect("a port is free");
            socket.send(bytes.into(), Some(DNS)).expect("sent");
            if let Ok((answer, _)) = socket.try_recv() {
                assert!(answer.len() <= 4096 && Message::from_vec(&answer).is_ok());
            }
        });
    }
}
