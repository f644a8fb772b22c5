//! The composition root: builds the rooms in order, hands each what it needs, stops them in reverse.
//!
//! ```text
//!  data folder ─ store ─ API server ─┬─ client (in process) ─ informers ─┬─ controllers
//!                                    │                                   ├─ scheduler
//!              images ─ registry ────┘        runtime ─ network ─ vfs ───┴─ node
//! ```

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use bytes::Bytes;
use coracle_apiserver::{ApiServer, User};
use coracle_client::{Election, Informers};
use coracle_dashboard::Dashboard;
use coracle_image::{Images, Reference, SignaturePolicy, SignatureRule};
use coracle_node::Node;
use coracle_runtime::{Compiler, Runtime};
use coracle_store::Embedded;
use ipnet::Ipv4Net;
use tokio::{task::spawn_blocking, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{cli::NodeOptions, data_dir::DataDir, guests};

/// Where pod addresses come from; every node gets a part of it. Half of 10/8: 512 nodes of 16,382 pods.
const CLUSTER_CIDR: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 128, 0, 0), 9);
/// Where service addresses come from: Kubernetes' own customary range.
const SERVICE_CIDR: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 16);
/// The port range of NodePort services: Kubernetes' default.
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;
/// Pods on one node, if it takes as many containers: ten thousand of one kind and some beside them.
const MAX_PODS: u32 = 10_500;

/// This binary, which is also the compiler: whatever lies under its name by now.
const SELF: &str = "/proc/self/exe";

/// The image of the node's toolbox, for `kubectl debug` and for pods to look around from.
const TOOLBOX_IMAGE: &str = "registry.local/coracle/toolbox:latest";

/// What pods have to end when the process is told to, if nothing else is said: enough for a server to answer what it
/// has accepted, and hardly noticed by whoever waits for the prompt.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(500);

/// What a cluster is started with.
pub(crate) struct Config {
    /// Its folder, locked.
    pub data: DataDir,
    /// Where the API server listens.
    pub listen: SocketAddr,
    /// The node's name, or the host's.
    pub node_name: Option<String>,
    /// Where the dashboard listens, if it is wanted.
    pub dashboard: Option<SocketAddr>,
    /// What its node may do.
    pub node: NodeOptions,
}

/// A running one-machine cluster.
pub(crate) struct Cluster {
    dashboard: Option<Dashboard>,
    // Fields in the order in which they are stopped; `stop` says what depends on what.
    node: Node,
    shutdown_grace: Duration,
    scheduler: coracle_scheduler::Handle,
    controllers: coracle_controllers::Handle,
    informers_stop: CancellationToken,
    informers: Informers,
    server: ApiServer,
    store: Arc<Embedded>,
    kubeconfig: PathBuf,
    _data: DataDir,
}

impl Cluster {
    /// Starts every room. What fails names itself.
    pub(crate) async fn start(config: Config) -> anyhow::Result<Cluster> {
        let data = config.data;
        let name = match config.node_name {
            Some(name) => name,
            None => host_name()?,
        };
        if let Some(wrong) = coracle_api::names::dns_subdomain(&name).first() {
            bail!("{name:?} cannot be a node's name: {wrong}");
        }
        // The pool's guard pages take a while: meanwhile everything else is started.
        let runtime = coracle_runtime::Config {
            max_containers: config.node.max_containers,
            density: config.node.density.into(),
            wasi_p3: config.node.wasi_p3,
            compiler: Compiler::Process(SELF.into()),
            compile_time: Duration::from_secs(config.node.compile_seconds),
            cache_size: config.node.cache_size.map(|mebibytes| mebibytes.saturating_mul(1 << 20)),
            ..coracle_runtime::Config::new(data.join("compiled"))
        };
        let runtime = spawn_blocking(|| Runtime::build(runtime));
        let store = Embedded::sled(&data.join("store")).context("cannot open the store")?;
        let images = Images::open(coracle_image::Config {
            plain_http: config.node.insecure_registry.clone(),
            policy: config.node.image_policy.as_deref().map(image_policy).transpose()?.unwrap_or_default(),
            ..coracle_image::Config::new(data.join("images"))
        })
        .context("cannot open the image store")?;
        let toolbox = push_toolbox(&images);
        let server = ApiServer::build(
            coracle_apiserver::Config {
                listen: config.listen,
                pki_dir: data.join("pki"),
                service_cidr: SERVICE_CIDR,
                node_ports: NODE_PORTS,
                extra_routes: images.registry_router(),
                now: coracle_client::clock::now,
            },
            store.clone(),
        );
        let (toolbox, server) = tokio::join!(toolbox, server);
        toolbox.context("cannot store the toolbox's image")?;
        let server = server.context("cannot start the API server")?;
        let kubeconfig = data.write_kubeconfig(&server.kubeconfig())?;

        let informers_stop = CancellationToken::new();
        let system = server.service_as(User::new("system:coracle", &["system:masters"]));
        let informers = Informers::new(coracle_client::in_process(system), informers_stop.clone());

        let identity = data.identity(&name)?;
        let user = User::new("system:kube-controller-manager", &[]);
        let controllers = coracle_controllers::start(
            coracle_client::in_process(server.service_as(user)),
            &informers,
            coracle_controllers::Config {
                lease: Some(Election::new("kube-controller-manager", &identity)),
                ..coracle_controllers::Config::new(CLUSTER_CIDR, server.admin().ca_pem.clone())
            },
        );
        let user = User::new("system:kube-scheduler", &[]);
        let scheduler = coracle_scheduler::start(
            coracle_client::in_process(server.service_as(user)),
            &informers,
            coracle_scheduler::Config {
                lease: Some(Election::new("kube-scheduler", &identity)),
                ..coracle_scheduler::Config::default()
            },
        );

        let dashboard = match config.dashboard {
            Some(listen) => {
                let config = coracle_dashboard::Config { listen };
                Some(Dashboard::build(config, &informers).await.context("cannot start the dashboard")?)
            }
            None => None,
        };
        let runtime = runtime.await.context("the Wasm runtime's start panicked")?;
        let runtime = runtime.context("cannot start the Wasm runtime")?;
        let user = User::new(format!("system:node:{name}"), &["system:nodes"]);
        let shutdown_grace = config.node.shutdown_grace.map_or(SHUTDOWN_GRACE, Duration::from_secs);
        let node = Node::build(
            coracle_node::Config {
                name: name.clone(),
                address: node_address(server.address().ip()),
                listen: server.address().ip(),
                data_dir: data.root().to_owned(),
                max_pods: MAX_PODS.min(config.node.max_containers),
                version: coracle_apiserver::GIT_VERSION.to_owned(),
                service_cidr: SERVICE_CIDR,
                api_server: Some(reachable(server.address())),
                egress: config.node.egress.into(),
                toolbox: Some(Bytes::from_static(guests::TOOLBOX.wasm)),
                static_pods: Some(data.join("manifests")),
                shutdown_grace,
                log_limits: coracle_node::LogLimits::default(),
            },
            coracle_node::Deps {
                client: coracle_client::in_process(server.service_as(user)),
                informers: informers.clone(),
                runtime,
                images,
            },
        )
        .with_context(|| format!("cannot start the node {name:?}"))?;
        server.nodes().register(&name, node.router());
        Ok(Cluster {
            dashboard,
            node,
            shutdown_grace,
            scheduler,
            controllers,
            informers_stop,
            informers,
            server,
            store,
            kubeconfig,
            _data: data,
        })
    }

    /// Waits until the node is Ready.
    pub(crate) async fn ready(&self) {
        self.node.ready().await;
    }

    /// The API server's URL.
    pub(crate) fn url(&self) -> String {
        format!("https://{}", reachable(self.server.address()))
    }

    /// The dashboard's URL with its token, if there is a dashboard.
    pub(crate) fn dashboard(&self) -> Option<String> {
        self.dashboard.as_ref().map(Dashboard::url)
    }

    /// The administrator's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The address where the node's ports are.
    pub(crate) fn node_address(&self) -> IpAddr {
        node_address(self.server.address().ip())
    }

    /// What the parts of this process have seen of the API.
    pub(crate) fn informers(&self) -> &Informers {
        &self.informers
    }

    /// Stops everything within `deadline` and what pods have to end: first who writes (node, scheduler, controllers), then the
    /// API server, then the store, so that nobody loses the room below.
    pub(crate) async fn stop(self, deadline: Duration) {
        let phase = deadline / 5;
        if let Some(dashboard) = self.dashboard {
            dashboard.shutdown(phase).await;
        }
        self.node.shutdown(phase + self.shutdown_grace).await;
        let writers = async { tokio::join!(self.scheduler.shutdown(), self.controllers.shutdown()) };
        if timeout(phase, writers).await.is_err() {
            tracing::warn!("the controllers did not end in time");
        }
        self.informers_stop.cancel();
        self.server.shutdown(phase).await;
        if timeout(phase, self.store.close()).await.is_err() {
            tracing::warn!("the store did not close in time; what was acknowledged is on disk all the same");
        }
    }
}

/// Reads a file of rules for signatures; the keys that it names are beside it.
fn image_policy(path: &Path) -> anyhow::Result<SignaturePolicy> {
    let read = || {
        let rules: Vec<SignatureRule> = serde_saphyr::from_str(&std::fs::read_to_string(path)?)?;
        Ok(SignaturePolicy::build(rules, path.parent().unwrap_or(Path::new(".")))?)
    };
    let policy: anyhow::Result<SignaturePolicy> = read();
    policy.with_context(|| format!("the image policy {} cannot be used", path.display()))
}

/// Puts this binary's toolbox into the registry, unless it is there.
async fn push_toolbox(images: &Images) -> anyhow::Result<()> {
    // The first name that is read costs more than all others: a large regular expression is compiled.
    let reference: Reference = spawn_blocking(|| TOOLBOX_IMAGE.parse()).await??;
    Ok(images.ship(&reference, guests::TOOLBOX.wasm).await?)
}

/// The address that the node tells others: where the API server listens, or, if that is everywhere, the one from which
/// this host goes out into the world; the loopback if it does not.
fn node_address(listen: IpAddr) -> IpAddr {
    if !listen.is_unspecified() {
        return listen;
    }
    // Any address that is not of this host will do: this chooses a way there and sends nothing.
    let outward = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        Ok::<_, std::io::Error>(socket.local_addr()?.ip())
    };
    outward().ok().filter(|ip| !ip.is_unspecified()).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// Where this process reaches its own API server.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = address.ip();
    let ip = if ip.is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { ip };
    SocketAddr::new(ip, address.port())
}

/// The host's name as a node's name: lower case, and only what RFC 1123 allows.
fn host_name() -> anyhow::Result<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").context("cannot read the host's name")?;
    let name: String = name
        .trim()
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' })
        .collect();
    let name = name.trim_matches(['-', '.']);
    Ok(if name.is_empty() { "coracle".to_owned() } else { name.to_owned() })
}
