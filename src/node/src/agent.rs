//! The agent's life: register, wait for pod addresses, build the network, become Ready, run pods.
//!
//! ```text
//!  build ─> register ─> wait for spec.podCIDR ─> fabric, informers ─> report Ready ─> pods come and go
//!                                                                                     └─> shutdown
//! ```

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use coracle_api::addresses::services_v6;
use coracle_client::{Delta, EventType, Informers, Key, Recorder};
use coracle_image::Images;
use coracle_network::{Egress, Fabric};
use coracle_runtime::Runtime;
use ipnet::{Ipv4Net, Ipv6Net};
use k8s_openapi::api::core::v1::{Node as NodeObject, Pod, Service};
use kube::Client;
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admission::Admissions,
    command,
    context::Context,
    dirs,
    doors::Doors,
    eviction::Evictor,
    exec::Toolbox,
    host::Capacity,
    images::Puller,
    instances::Instances,
    kubelet_api,
    local_volumes::LocalVolumes,
    logs::{LogBook, LogLimits, Runs},
    memory::Memory,
    network_feed,
    probes::{Commands, Prober},
    registration::{Identity, Registration},
    resize, shutdown,
    sources::Sources,
    static_pods,
    stats::Stats,
    status,
    status_writer::StatusWriter,
    table::PodTable,
    tokens::Tokens,
    worker,
};

/// How often what pods that are gone may have left is looked for. It should be nothing, so this need not be
/// soon.
const SWEEP: Duration = Duration::from_secs(300);

/// The facts a node is built from.
#[derive(Clone, Debug)]
pub struct Config {
    /// The name of the Node object.
    pub name: String,
    /// The node's address: what its InternalIP says.
    pub address: IpAddr,
    /// Where NodePorts, host ports and load balancers listen; `[::]` is every address of both families.
    pub listen: IpAddr,
    /// The data folder: `pods/`, `volumes/` and `logs/` in it are the node's.
    pub data_dir: PathBuf,
    /// How many pods the node offers to run, if the runtime has as many places beside its reserve.
    pub max_pods: u32,
    /// What `kubeletVersion` says.
    pub version: String,
    /// Where service addresses come from. The tenth is that of the cluster's DNS server.
    pub service_cidr: Ipv4Net,
    /// Where the API server listens, if that is on this host: pods reach it as `kubernetes.default`.
    pub api_server: Option<SocketAddr>,
    /// What pods may reach outside the cluster if neither policies nor their annotations say.
    pub egress: Egress,
    /// A folder of pods that this node runs without being told to; it need not exist.
    pub static_pods: Option<PathBuf>,
    /// How long pods may take to end when the node shuts down; zero ends them at once.
    pub shutdown_grace: Duration,
    /// The module of commands that `exec` and ephemeral containers find on every node; `None` for none.
    pub toolbox: Option<Bytes>,
    /// How much of containers' output is kept.
    pub log_limits: LogLimits,
}

/// What a node works with.
pub struct Deps {
    /// The node's own door to the API.
    pub client: Client,
    /// What the process has seen of the API.
    pub informers: Informers,
    /// What runs containers.
    pub runtime: Arc<Runtime>,
    /// Where images are.
    pub images: Arc<Images>,
}

/// A node could not be built.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A folder of the node cannot be made.
    #[error("cannot make the folder {path}")]
    Folder {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A running node agent.
///
/// Guarantees: a pod's containers run at most once at a time; nothing of a pod but its logs is left on disk after it
/// is over, and nothing at all after its object is gone; a pod that is bound to this node when it starts is run (again)
/// in the same object.
pub struct Node {
    context: Arc<Context>,
    registration: Arc<Registration>,
    shutdown_grace: Duration,
    ready: watch::Receiver<bool>,
}

impl Node {
    /// Starts the agent. Must be called inside a Tokio runtime.
    pub fn build(config: Config, deps: Deps) -> Result<Node, NodeError> {
        let folder = |name: &str| {
            let path = config.data_dir.join(name);
            std::fs::create_dir_all(&path)
                .map_err(|source| NodeError::Folder { path: path.clone(), source })?;
            Ok(path)
        };
        let pods_dir = folder("pods")?;
        let logs_dir = folder("logs")?;
        let local_volumes = Arc::new(LocalVolumes::new(folder("volumes")?));
        let tokens = Arc::new(Tokens::new(deps.client.clone()));
        let capacity = Capacity::measure(&config.data_dir);
        let memory = Arc::new(Memory::new(&capacity, deps.runtime.memory()));
        let instances = Arc::new(Instances::new(deps.runtime.clone()));
        // A pod has one container at least.
        let max_pods = config.max_pods.min(Instances::most_pods(&deps.runtime));
        let recorder = Recorder::new(deps.client.clone(), "kubelet", &config.name);
        let context = Arc::new(Context {
            node_name: config.name.clone(),
            host_ip: config.address,
            pods_dir,
            allocatable: capacity.allocatable(),
            max_pods,
            admissions: Admissions::default(),
            nodes: deps.informers.get::<NodeObject>(),
            pods: deps.informers.get::<Pod>(),
            services: deps.informers.get::<Service>(),
            sources: Arc::new(Sources::new(
                &deps.informers,
                &config.name,
                local_volumes.clone(),
                tokens.clone(),
                deps.images.clone(),
            )),
            tokens,
            runtime: deps.runtime,
            puller: Puller::new(deps.images.clone()),
            toolbox: Toolbox::new(config.toolbox.clone()),
            prober: Prober::new(recorder.clone()),
            stats: Stats::default(),
            evictor: Evictor::new(deps.images.clone(), instances.clone()),
            recorder,
            statuses: StatusWriter::new(deps.client.clone()),
            logs: LogBook::new(logs_dir, config.log_limits),
            table: PodTable::new(memory.budget().clone()),
            memory: memory.clone(),
            fabric: OnceLock::new(),
            tasks: TaskTracker::new(),
            draining: CancellationToken::new(),
            stop: CancellationToken::new(),
        });
        let identity = Identity {
            name: config.name.clone(),
            address: config.address,
            max_pods,
            version: config.version.clone(),
            data_dir: config.data_dir.clone(),
            capacity,
        };
        let shutdown_grace = config.shutdown_grace;
        let client = deps.client.clone();
        let registration = Arc::new(Registration::new(
            identity,
            deps.client,
            deps.informers.get::<NodeObject>(),
            deps.images,
            instances,
            memory,
            context.stop.clone(),
        ));
        let (tell_ready, ready) = watch::channel(false);
        let agent = Agent {
            context: context.clone(),
            config,
            client,
            informers: deps.informers,
            registration: registration.clone(),
            local_volumes,
            ready: tell_ready,
        };
        let stop = context.stop.clone();
        let life = Box::pin(agent.run());
        context.tasks.spawn(async move { stop.run_until_cancelled_owned(life).await });
        Ok(Node { context, registration, shutdown_grace, ready })
    }

    /// What its workers share.
    #[cfg(test)]
    pub(crate) fn context(&self) -> &Context {
        &self.context
    }

    /// The kubelet API.
    pub fn router(&self) -> axum::Router {
        kubelet_api::router(self.context.clone())
    }

    /// Waits until the Node object says that the node is Ready.
    pub async fn ready(&self) {
        // An error means that the agent has ended, and then nobody waits for it to become ready.
        let _ = self.ready.clone().wait_for(|ready| *ready).await;
    }

    /// Ends all guests and tasks. Pod objects are left as they are, so that the pods run again when the
    /// node comes back. What does not end before the deadline is abandoned.
    ///
    /// With a [`Config::shutdown_grace`] the node first says that it is not ready, and pods end as if they
    /// were deleted: hooks, a word to stop, time to do so, ordinary pods before critical ones.
    pub async fn shutdown(self, deadline: Duration) {
        let end = Instant::now() + deadline;
        let context = &self.context;
        context.draining.cancel();
        if !self.shutdown_grace.is_zero() && *self.ready.borrow() {
            let drained = shutdown::drain(context, &self.registration, self.shutdown_grace);
            // What is left is ended below.
            let _ = tokio::time::timeout_at(end, drained).await;
        }
        context.stop.cancel();
        context.table.all().iter().for_each(|handle| handle.shutdown(Duration::ZERO));
        context.statuses.shutdown();
        context.tasks.close();
        let last = async {
            context.tasks.wait().await;
            if let Some(fabric) = context.fabric.get() {
                fabric.shutdown().await;
            }
            context.recorder.shutdown().await;
        };
        if tokio::time::timeout_at(end, last).await.is_err() {
            tracing::warn!(tasks = context.tasks.len(), "the node did not end in time");
        }
    }
}

/// What the agent's own task works with.
struct Agent {
    context: Arc<Context>,
    config: Config,
    client: Client,
    informers: Informers,
    registration: Arc<Registration>,
    local_volumes: Arc<LocalVolumes>,
    ready: watch::Sender<bool>,
}

impl Agent {
    async fn run(self) {
        let Agent { context, config, client, informers, registration, local_volumes, ready } = self;
        let node = registration.register().await;
        context.recorder.event(&registration.reference(), EventType::Normal, "Starting", "Starting kubelet.");
        let lease = registration.clone();
        let registered = node.clone();
        context.tasks.spawn(async move { lease.keep_lease(&registered).await });
        let Some((pod_cidr, pod_cidr_v6)) = registration.pod_cidrs(&node).await else { return };
        let fabric = Fabric::build(coracle_network::Config {
            pod_cidr,
            pod_cidr_v6,
            cluster_cidr_v6: pod_cidr_v6.and_then(cluster_of),
            service_cidr: config.service_cidr,
            service_cidr_v6: pod_cidr_v6.and_then(cluster_of).map(services_v6),
            cluster_dns: config.service_cidr.hosts().nth(9).map(IpAddr::V4),
            api_server: config.api_server,
            egress: config.egress,
            node_name: config.name.clone(),
            node_addresses: vec![config.address],
            node_port_bind: config.listen,
            ..coracle_network::Config::default()
        });
        let fabric = context.fabric.get_or_init(|| fabric);
        let stop = &context.stop;
        let task = |future: futures::future::BoxFuture<'static, ()>| {
            let stop = stop.clone();
            context.tasks.spawn(async move { stop.run_until_cancelled_owned(future).await });
        };
        let volumes = informers.get();
        let (node_name, stopped) = (config.name.clone(), stop.clone());
        context.tasks.spawn(local_volumes.run(client.clone(), volumes, node_name, stopped));
        task(Box::pin(context.tokens.clone().run()));
        let (tell_fed, fed) = oneshot::channel();
        task(Box::pin(network_feed::run(informers.clone(), fabric.clone(), config.name.clone(), tell_fed)));
        task(Box::pin(network_feed::tell_denials(context.clone())));
        task(Box::pin(context.sources.clone().run()));
        let prober = context.prober.clone();
        let commands = commands(&context);
        context.tasks.spawn(prober.run(fabric.clone(), commands, context.tasks.clone(), stop.clone()));
        context.statuses.start(&context.tasks);

        if fed.await.is_err() {
            return;
        }
        let doors = Doors {
            fabric: fabric.clone(),
            services: informers.get(),
            registration: registration.clone(),
            recorder: context.recorder.clone(),
        };
        task(Box::pin(doors.run(informers.get())));
        context.pods.synced().await;
        context.services.synced().await;
        context.sources.synced().await;
        sweep(&context).await;
        recall_logs(&context).await;

        registration.report().await;
        let (status, recorder) = (registration.clone(), context.recorder.clone());
        context.tasks.spawn(async move { status.keep_status(&recorder).await });
        registration.tell_turn("NodeReady", &context.recorder);
        tracing::info!(node = config.name, %pod_cidr, "the node is ready");
        // Nobody may be waiting.
        let _ = ready.send(true);
        let sweeper = context.clone();
        task(Box::pin(async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                sweep(&sweeper).await;
            }
        }));
        let measured = context.clone();
        task(Box::pin(async move { measured.stats.run(&measured).await }));
        let (watched, own) = (context.clone(), registration.reference());
        task(Box::pin(async move { watched.evictor.run(&watched, &watched.stats, &own).await }));
        let (watched, own) = (context.clone(), registration.reference());
        task(Box::pin(async move { watched.memory.run(&watched, &own).await }));
        if let Some(dir) = config.static_pods {
            task(Box::pin(static_pods::run(context.clone(), client, informers.get(), dir)));
        }
        dispatch(&context).await;
    }
}

/// The cluster's range of IPv6 addresses: the unique local /48 that a node's range lies in.
fn cluster_of(range: Ipv6Net) -> Option<Ipv6Net> {
    Ipv6Net::new(range.network(), 48.min(range.prefix_len())).ok().map(|range| range.trunc())
}

/// Gives every change of this node's pods to the pod's worker, until the informer ends. Pods that the node ran before
/// come first, the oldest before the others: what they have is theirs.
async fn dispatch(context: &Arc<Context>) {
    let mut deltas = context.pods.subscribe();
    for pod in &began(context) {
        apply(context, pod);
    }
    while let Some(delta) = deltas.next().await {
        let pod = delta.object();
        if !context.is_own(pod) {
            continue;
        }
        if let Delta::Deleted(pod) = &delta {
            // Its worker may take a while to hear of it, and what it had may be another's already.
            context.admissions.release(pod.metadata.uid.as_deref().unwrap_or_default());
            // A pod that was over has no worker, but may have left logs and volumes.
            if !context.table.gone(pod.metadata.uid.as_deref().unwrap_or_default()) {
                context.tasks.spawn(context.clean_up(pod, runs_of(pod)));
            }
            continue;
        }
        apply(context, pod);
    }
}

fn apply(context: &Arc<Context>, pod: &Arc<Pod>) {
    let wanted = |pod: &Pod| needs_worker(pod) && !context.draining.is_cancelled();
    if let Some(handle) = context.table.apply(pod, wanted) {
        context.tasks.spawn(worker::run(context.clone(), handle, pod.clone()));
    }
}

/// The pods that the node has begun with before, the oldest first; all of them keep what they have before any other
/// pod is looked at.
fn began(context: &Context) -> Vec<Arc<Pod>> {
    let start = |pod: &Pod| pod.status.as_ref()?.start_time.as_ref().map(|time| time.0);
    let mut began = context.pods.list();
    began.retain(|pod| {
        let deleted = pod.metadata.deletion_timestamp.is_some();
        context.is_own(pod) && start(pod).is_some() && needs_worker(pod) && !deleted
    });
    began.sort_by_key(|pod| (start(pod), Key::of(&pod.metadata)));
    for pod in &began {
        let granted = resize::recalled(pod);
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        context.admissions.keep(uid, granted.as_ref().unwrap_or(pod));
    }
    began
}

/// How probes run commands. The prober is a part of the context, so it must not keep it.
fn commands(context: &Arc<Context>) -> Commands {
    let context = Arc::downgrade(context);
    Arc::new(move |target, argv| {
        let (context, handle) = (context.upgrade(), target.handle.clone());
        let container = target.container.clone();
        Box::pin(async move {
            let context = context.ok_or("the node has ended")?;
            command::run(&context, &handle, &container, argv).await
        })
    })
}

/// A pod that is over needs nobody, until it is to be deleted.
fn needs_worker(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some() || !pod.status.as_ref().is_some_and(status::is_over)
}

/// Removes what pods that are gone have left on disk, and the folders of those that are over.
async fn sweep(context: &Arc<Context>) {
    let context = context.clone();
    let swept = tokio::task::spawn_blocking(move || {
        let pods = context.pods.list();
        let uids: HashSet<&str> = pods.iter().filter_map(|pod| pod.metadata.uid.as_deref()).collect();
        let over = pods.iter().filter(|pod| pod.status.as_ref().is_some_and(status::is_over));
        let over: HashSet<&str> = over.filter_map(|pod| pod.metadata.uid.as_deref()).collect();
        // A pod that came after the list has a worker, or no folder yet.
        let works = |uid: &str| context.table.get(uid).is_some();
        dirs::sweep(&context.pods_dir, &|uid| works(uid) || uids.contains(uid) && !over.contains(uid))?;
        context.logs.sweep(&|uid| works(uid) || uids.contains(uid))
    });
    if let Ok(Err(error)) = swept.await {
        tracing::warn!(%error, "folders of pods that are gone were not removed");
    }
}

/// Learns of the runs that began before this process did, of the pods that go on.
async fn recall_logs(context: &Arc<Context>) {
    let context = context.clone();
    let recalled = tokio::task::spawn_blocking(move || {
        let pods = context.pods.list();
        let own = pods.iter().filter(|pod| context.is_own(pod) && needs_worker(pod));
        let uids: HashSet<&str> = own.filter_map(|pod| pod.metadata.uid.as_deref()).collect();
        context.logs.recall(&|uid| uids.contains(uid))
    });
    if let Ok(Err(error)) = recalled.await {
        tracing::warn!(%error, "the logs of before cannot be listed");
    }
}

/// The newest runs of the containers of a pod that is over.
fn runs_of(pod: &Pod) -> Runs {
    let Some(status) = &pod.status else { return Runs::new() };
    let lists =
        [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    let all = lists.into_iter().flatten().flatten();
    all.map(|status| (status.name.as_str().into(), status.restart_count)).collect()
}
