//! Real guests on the pod's network: the examples, as their pods are meant to be composed.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use coracle_budget::Budget;
use coracle_network::k8s::api::core::v1::{Service, ServicePort, ServiceSpec};
use coracle_network::k8s::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use coracle_network::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use coracle_network::{Fabric, PodConfig, PodStack};
use coracle_vfs::{MountOptions, Mounts, ProjectedFile, Volume};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use wasmtime_wasi::p2::bindings::sockets::instance_network::Host as _;
use wasmtime_wasi::p2::bindings::sockets::tcp::HostTcpSocket as _;
use wasmtime_wasi::p2::bindings::sockets::tcp_create_socket::Host as _;

use super::*;
use crate::executor::Executor;
use crate::{Config, Container, ContainerSpec, Cpu, Exit, Output, Runtime};

const PATIENCE: Duration = Duration::from_secs(60);

/// A node without an agent.
struct Node {
    runtime: Arc<Runtime>,
    fabric: Arc<Fabric>,
    _dir: TempDir,
}

#[derive(Default)]
struct Capture(Mutex<Vec<u8>>);

impl Output for Capture {
    fn write(&self, bytes: &[u8]) {
        self.0.lock().extend_from_slice(bytes);
    }
}

impl Capture {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock()).into_owned()
    }
}

impl Node {
    fn new() -> Node {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { threads: 2, max_containers: 32, ..Config::new(dir.path().join("compiled")) };
        let network = coracle_network::Config {
            node_addresses: vec![IpAddr::from([192, 0, 2, 10])],
            ..coracle_network::Config::default()
        };
        Node { runtime: Runtime::build(config).unwrap(), fabric: Fabric::build(network), _dir: dir }
    }

    fn pod(&self, name: &str) -> PodStack {
        let pod = PodConfig { namespace: "default".into(), name: name.into(), ..PodConfig::default() };
        self.fabric.add_pod(pod).unwrap()
    }

    async fn start(
        &self,
        pod: &PodStack,
        example: &str,
        args: &[&str],
        env: &[(&str, &str)],
        mounts: Mounts,
    ) -> (Container, Arc<Capture>) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guest-examples/built");
        let wasm = folder.join(format!("{example}.wasm"));
        let program = self.runtime.prepare(&format!("example:{example}"), &wasm, "test").await.unwrap();
        let output = Arc::new(Capture::default());
        let spec = ContainerSpec {
            budget: Budget::new(None),
            cpu: Cpu::default(),
            listen: Vec::new(),
            name: format!("default/{example}"),
            args: [example].iter().chain(args).map(|arg| (*arg).to_owned()).collect(),
            env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            mounts,
            network: pod.clone(),
            memory_limit: None,
            working_dir: None,
            stdin: crate::Stdin::Closed,
            tty: false,
            stdout: Arc::clone(&output) as Arc<dyn Output>,
            stderr: Arc::clone(&output) as Arc<dyn Output>,
        };
        (self.runtime.start(program, spec).unwrap(), output)
    }

    /// A pod that serves `edition.txt`, with the adapter beside it.
    async fn web_pod(&self, name: &str) -> PodStack {
        let pod = self.pod(name);
        let page = ProjectedFile { data: "7".into(), mode: 0o644 };
        let www = Volume::memory(None);
        www.project(BTreeMap::from([("edition.txt".to_owned(), page)])).unwrap();
        let mut mounts = Mounts::new();
        mounts.add("/www", &www, &MountOptions::default()).unwrap();
        self.start(&pod, "web", &[], &[("HOSTNAME", name)], mounts).await;
        self.start(&pod, "adapter", &[], &[], Mounts::new()).await;
        pod
    }

    /// A Service `web` on port 80 for port 8080 of these pods.
    fn expose(&self, ip: Ipv4Addr, pods: &[PodStack]) {
        let metadata = |name: &str| ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("default".to_owned()),
            labels: Some(BTreeMap::from([("kubernetes.io/service-name".to_owned(), "web".to_owned())])),
            ..ObjectMeta::default()
        };
        let ports = vec![ServicePort { port: 80, ..ServicePort::default() }];
        let spec =
            ServiceSpec { cluster_ip: Some(ip.to_string()), ports: Some(ports), ..ServiceSpec::default() };
        self.fabric.apply_service(&Service {
            metadata: metadata("web"),
            spec: Some(spec),
            ..Service::default()
        });
        let endpoint =
            |pod: &PodStack| Endpoint { addresses: vec![pod.ip().to_string()], ..Endpoint::default() };
        self.fabric.apply_slice(&EndpointSlice {
            address_type: "IPv4".to_owned(),
            endpoints: pods.iter().map(endpoint).collect(),
            metadata: metadata("web-1"),
            ports: Some(vec![EndpointPort { port: Some(8080), ..EndpointPort::default() }]),
        });
    }

    /// An HTTP answer, once the server is up.
    async fn get(&self, address: SocketAddr, path: &str) -> String {
        let ask = async {
            loop {
                if let Ok(mut stream) = self.fabric.connect(address).await {
                    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
                    stream.write_all(request.as_bytes()).await.unwrap();
                    let mut answer = String::new();
                    stream.read_to_string(&mut answer).await.unwrap();
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, ask).await.expect("the guest answers")
    }
}

/// Modules of one pod meet on localhost: the adapter counts what the web server has served.
#[tokio::test]
async fn neighbours_share_localhost() {
    let node = Node::new();
    let pod = node.web_pod("web-0").await;
    let served = node.get(SocketAddr::new(pod.ip().into(), 8080), "/edition.txt").await;
    assert!(served.starts_with("HTTP/1.1 200") && served.ends_with('7'), "{served}");
    let metrics = node.get(SocketAddr::new(pod.ip().into(), 9100), "/metrics").await;
    assert!(metrics.starts_with("HTTP/1.1 200") && metrics.contains("requests"), "{metrics}");
}

/// A shop that knows only localhost reaches all pods of a service in turn, by name, through its ambassador.
#[tokio::test]
async fn an_ambassador_leads_to_a_service_by_name() {
    let node = Node::new();
    let pods = [node.web_pod("web-0").await, node.web_pod("web-1").await];
    node.expose(Ipv4Addr::new(10, 96, 0, 50), &pods);
    for pod in &pods {
        node.get(SocketAddr::new(pod.ip().into(), 8080), "/edition.txt").await;
    }
    let shop = node.pod("shop");
    node.start(&shop, "shop", &[], &[], Mounts::new()).await;
    node.start(&shop, "ambassador", &[], &[], Mounts::new()).await;
    let address = SocketAddr::new(shop.ip().into(), 8081);
    let ask = async {
        let mut sellers = std::collections::BTreeSet::new();
        // Until the ambassador is up the shop answers 502.
        while sellers.len() < 2 {
            let answer = node.get(address, "/").await;
            let sold = answer.split_once("sells edition 7 of pod ").map(|(_, rest)| rest);
            sellers.extend(sold.and_then(|rest| rest.split(',').next()).map(str::to_owned));
        }
        sellers
    };
    let sellers = tokio::time::timeout(PATIENCE, ask).await.expect("the shop sells");
    assert_eq!(sellers.into_iter().collect::<Vec<_>>(), ["web-0", "web-1"]);
}

/// Whatever listens on the host, a guest does not get there, and is told so.
#[tokio::test]
async fn guests_do_not_reach_the_host() {
    let node = Node::new();
    let pod = node.pod("hostile");
    let host = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = host.local_addr().unwrap().port();
    for (address, told) in [
        (format!("127.0.0.1:{port}"), "Connection refused"),
        (format!("[::1]:{port}"), "Connection refused"),
        (format!("192.0.2.10:{port}"), "Permission denied"),
        ("169.254.169.254:80".to_owned(), "Permission denied"),
        ("nowhere:80".to_owned(), "not resolve"),
    ] {
        let (container, output) = node.start(&pod, "hostile", &["dial", &address], &[], Mounts::new()).await;
        let exit = tokio::time::timeout(PATIENCE, container.wait()).await.expect("it ends");
        assert_eq!(exit, Exit::Code(0), "{address}: {}", output.text());
        assert!(output.text().contains(told), "{address}: {}", output.text());
    }
    assert_eq!(pod.usage().denied, 2);
    assert_eq!(pod.usage().connections, 0);
}

/// Asked to end, a server serves what has reached it, then learns of it by its accept, and ends by itself.
#[tokio::test]
async fn a_server_that_is_asked_to_end_ends_by_itself() {
    let node = Node::new();
    let pod = node.pod("shop");
    let (container, output) = node.start(&pod, "shop", &[], &[], Mounts::new()).await;
    let address = SocketAddr::new(pod.ip().into(), 8081);
    let answer = node.get(address, "/").await;
    assert!(answer.starts_with("HTTP/1.1"), "{answer}");
    let usage = container.usage();
    assert!(usage.received > 0 && usage.sent > 0, "{usage:?}");
    container.stop();
    let exit = tokio::time::timeout(PATIENCE, container.wait()).await.expect("it ends");
    assert_eq!(exit, Exit::Code(0), "{}", output.text());
    assert!(node.fabric.connect(address).await.is_err());
    assert_eq!((container.usage().connections, pod.usage().tcp_bound), (0, 0));
}

/// A guest that waits in accept is woken when its pod is closed, and nothing it held is left after its end.
#[tokio::test]
async fn closing_the_pod_wakes_its_guests() {
    let node = Node::new();
    let pod = node.pod("shop");
    let (container, output) = node.start(&pod, "shop", &[], &[], Mounts::new()).await;
    let until = async |condition: &dyn Fn() -> bool| {
        let wait = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("it comes to that");
    };
    until(&|| output.text().contains("open on port") && pod.usage().tcp_bound == 1).await;
    pod.close();
    // The guest's accept fails, and it ends by itself.
    assert_eq!(tokio::time::timeout(PATIENCE, container.wait()).await.expect("it ends"), Exit::Code(0));
    assert_eq!(pod.usage().tcp_bound, 0);
}

/// A guest whose table is full loses no connection: it can have it later.
#[tokio::test]
async fn connections_wait_until_there_is_room() {
    let io = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let executor = Executor::start(1, io, || {}, || {}).unwrap();
    let fabric = Fabric::build(coracle_network::Config::default());
    let pod = PodConfig { namespace: "default".into(), name: "pod".into(), ..PodConfig::default() };
    let stack = fabric.add_pod(pod).unwrap();
    let share = executor.share(Cpu::default());
    let control = Arc::new(Control::new("test".into(), &crate::Stdin::Closed, share, 1 << 20));
    let sockets = Sockets::new(stack, &control);
    let mut table = ResourceTable::new();
    table.set_max_capacity(100);
    let mut view = NetView { table: &mut table, sockets: &sockets };

    let network = view.instance_network().unwrap().rep();
    let capability = || Resource::new_borrow(network);
    let create = |view: &mut NetView<'_>| view.create_tcp_socket(IpAddressFamily::Ipv4).unwrap().rep();
    let (listener, client) = (create(&mut view), create(&mut view));
    let address = SocketAddr::from(([127, 0, 0, 1], 7_000));
    view.start_bind(Resource::new_borrow(listener), capability(), address.into()).await.unwrap();
    view.finish_bind(Resource::new_borrow(listener)).unwrap();
    view.start_listen(Resource::new_borrow(listener)).await.unwrap();
    view.finish_listen(Resource::new_borrow(listener)).unwrap();
    view.start_connect(Resource::new_borrow(client), capability(), address.into()).unwrap();

    let full = |view: &mut NetView<'_>, error: SocketError| {
        assert_eq!(error.downcast().unwrap(), ErrorCode::NewSocketLimit);
        view.table.set_max_capacity(100);
    };
    view.table.set_max_capacity(4); // one more, where two are needed
    let error = view.finish_connect(Resource::new_borrow(client)).unwrap_err();
    full(&mut view, error);
    view.finish_connect(Resource::new_borrow(client)).unwrap();
    view.table.set_max_capacity(7); // two more, where three are needed
    let error = view.accept(Resource::new_borrow(listener)).unwrap_err();
    full(&mut view, error);
    view.accept(Resource::new_borrow(listener)).unwrap();
}
