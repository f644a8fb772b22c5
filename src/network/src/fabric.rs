//! The node's network as a whole: who has which address, and which way a connection goes.
//!
//! ```text
//!                      ┌ 127.0.0.0/8, ::1 ── the dialling pod itself
//!  remote address ── is┤ a pod's address ── that pod
//!                      ├ a cluster IP ── a ready backend of the service ─▶ a pod, or an allowed host
//!                      ├ the node's address ── a NodePort's backend, or denied
//!                      ├ forbidden (policy) ── denied
//!                      └ anything else ── the kernel, from the node
//! ```

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::Relaxed};

use ipnet::Ipv6Net;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::admit::{Denials, DenyReason, Origin, Policies};
use crate::idset::IdSet;
use crate::kernel::HostAddresses;
use crate::limits::{
    DOOR_CONNECTIONS, DOORS_PART, EGRESS_CONNECTIONS, EGRESS_PART, HOME_CONNECTIONS, HOME_PART, LOOKUPS,
};
use crate::names::outside::Cache;
use crate::nodeport::{DoorProblem, NodePorts};
use crate::policy::{Place, canonical, place};
use crate::pool::{Pool, Share};
use crate::services::{Caller, Candidates, Entrance, Frontend, Services, Shut};
use crate::stack::{Protocol, Stack};
use crate::stream::End;
use crate::{ClusterNames, Config, NetworkError, PodConfig, PodStack, Stream};

/// The most addresses a node gives out, whatever its range (a /12): bounds the table to 128 KiB.
const ADDRESSES_MAX: u32 = 1 << 20;

/// The first port that the node itself dials from. It is only ever shown, never listened on.
const NODE_PORT_FIRST: u16 = 32768;

/// The network of one node: pod addresses, services, NodePorts.
#[derive(Debug)]
pub struct Fabric {
    config: Config,
    handle: Handle,
    tasks: TaskTracker,
    stop: CancellationToken,
    addresses: Mutex<IdSet>,
    /// By each of their addresses.
    pods: RwLock<HashMap<IpAddr, Arc<Stack>>>,
    services: Services,
    pub(crate) policies: Policies,
    pub(crate) denials: Denials,
    node_ports: NodePorts,
    host: HostAddresses,
    /// Connections to the outside, to the API server, and through ports of the host.
    egress: Arc<Pool>,
    home: Arc<Pool>,
    doors: Arc<Pool>,
    lookups: Arc<Pool>,
    names: Cache,
    next_port: AtomicU16,
    denied: AtomicU64,
}

/// Which way a connection goes.
#[derive(Debug)]
pub(crate) enum Route {
    /// There is one way only.
    Direct(Way),
    /// To one of a service's backends.
    Backends(Backends),
}

/// The way to one place.
#[derive(Debug)]
pub(crate) enum Way {
    /// To this pod, as this address.
    Pod(Arc<Stack>, SocketAddr),
    /// Out of the node, counted against the pod's share if it is a pod that dials.
    Kernel { to: SocketAddr, egress: Option<Arc<Share>> },
    /// To the cluster's DNS server, for this pod.
    Dns(Arc<Stack>),
}

/// A service's backends in the order in which one dial tries them.
#[derive(Debug)]
pub(crate) struct Backends {
    order: Candidates,
    origin: Origin,
    protocol: Protocol,
    /// The address that was dialled.
    to: SocketAddr,
    /// What is to be said when none is left.
    problem: Problem,
}

/// Why there is no way to a backend.
#[derive(Clone, Debug)]
enum Problem {
    Other(NetworkError),
    /// Not counted yet.
    Denied(SocketAddr, DenyReason),
}

impl Backends {
    /// Which way to the next backend that has one; the problem with the first when all have been tried.
    pub(crate) fn next(&mut self, fabric: &Fabric) -> Result<Way, NetworkError> {
        for backend in self.order.by_ref() {
            match fabric.way_to(backend, self.to, &self.origin, self.protocol) {
                Ok(way) => return Ok(way),
                // A pod that is gone before its endpoint is.
                Err(problem) if matches!(self.problem, Problem::Other(NetworkError::Refused(_))) => {
                    self.problem = problem;
                }
                Err(_) => {}
            }
        }
        match std::mem::replace(&mut self.problem, Problem::Other(NetworkError::Refused(self.to))) {
            Problem::Other(error) => Err(error),
            Problem::Denied(to, reason) => Err(fabric.deny(&self.origin, None, to, reason)),
        }
    }
}

impl Fabric {
    /// Builds the fabric.
    ///
    /// # Panics
    /// Outside a Tokio runtime. The runtime it is built in carries its timers, its kernel sockets and its
    /// NodePorts until [`Fabric::shutdown`]; streams may be used from anywhere.
    #[must_use]
    pub fn build(config: Config) -> Arc<Fabric> {
        let size = (u64::from(u32::from(config.pod_cidr.broadcast()))
            - u64::from(u32::from(config.pod_cidr.network()))
            + 1)
        .min(u64::from(ADDRESSES_MAX));
        let size = usize::try_from(size).expect("at most a million");
        let mut addresses = IdSet::new(size);
        // The network's own address, the node's (see `visitor`), and the broadcast address.
        for reserved in [0, 1, size - 1] {
            addresses.claim(reserved);
        }
        Arc::new(Fabric {
            services: Services::new(&config),
            config,
            handle: Handle::current(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            addresses: Mutex::new(addresses),
            pods: RwLock::default(),
            policies: Policies::default(),
            denials: Denials::default(),
            node_ports: NodePorts::default(),
            host: HostAddresses::new(),
            egress: Pool::part("connections to the outside", EGRESS_PART, EGRESS_CONNECTIONS),
            home: Pool::part("connections to the API server", HOME_PART, HOME_CONNECTIONS),
            doors: Pool::part("connections through ports of the node", DOORS_PART, DOOR_CONNECTIONS),
            lookups: Pool::new("look-ups of the host's resolver", LOOKUPS),
            names: Cache::default(),
            next_port: AtomicU16::new(NODE_PORT_FIRST),
            denied: AtomicU64::new(0),
        })
    }

    /// Gives a pod an address and a stack: the wanted address if it is free, else the one that has been
    /// free for longest.
    pub fn add_pod(self: &Arc<Self>, mut pod: PodConfig) -> Result<PodStack, NetworkError> {
        if self.stop.is_cancelled() {
            return Err(NetworkError::Closed);
        }
        if pod.hostname.is_empty() {
            pod.hostname.clone_from(&pod.name);
        }
        let network = u32::from(self.config.pod_cidr.network());
        let wanted = pod.want_ip.and_then(|ip| u32::from(ip).checked_sub(network));
        let mut addresses = self.addresses.lock();
        let id = match wanted.and_then(|id| usize::try_from(id).ok()) {
            Some(id) if addresses.claim(id) => id,
            _ => addresses.take().ok_or(NetworkError::NoAddress(self.config.pod_cidr))?,
        };
        drop(addresses);
        let id = u32::try_from(id).expect("at most a million addresses");
        let ip = Ipv4Addr::from(network + id);
        let stack = Arc::new(Stack::new(ip, self.ipv6_of(ip), pod, self));
        let mut pods = self.pods.write();
        for address in stack.addresses() {
            pods.insert(address, Arc::clone(&stack));
        }
        drop(pods);
        Ok(PodStack::new(stack))
    }

    /// The IPv6 address of the pod with this IPv4 address, if pods of this node have any.
    #[must_use]
    pub fn ipv6_of(&self, ip: Ipv4Addr) -> Option<Ipv6Addr> {
        let range = self.config.pod_cidr_v6?;
        let id = u32::from(ip).checked_sub(u32::from(self.config.pod_cidr.network()))?;
        let address = Ipv6Addr::from(u128::from(range.network()) + u128::from(id));
        range.contains(&address).then_some(address)
    }

    /// Takes in a Service as it is now.
    pub fn apply_service(self: &Arc<Self>, service: &Service) {
        let doors = self.services.apply(service);
        self.node_ports.sync(self, doors);
    }

    /// Forgets a Service; its NodePorts close, connections made go on.
    pub fn remove_service(self: &Arc<Self>, namespace: &str, name: &str) {
        let doors = self.services.remove(namespace, name);
        self.node_ports.sync(self, doors);
    }

    /// Takes in an EndpointSlice as it is now.
    pub fn apply_slice(&self, slice: &EndpointSlice) {
        self.services.apply_slice(slice);
    }

    /// Forgets an EndpointSlice.
    pub fn remove_slice(&self, namespace: &str, name: &str) {
        self.services.remove_slice(namespace, name);
    }

    /// The zone that this node is in (its label `topology.kubernetes.io/zone`): endpoints with hints are chosen by it.
    pub fn set_zone(&self, zone: Option<&str>) {
        self.services.set_zone(zone);
    }

    /// The node dials a pod or a service (probes, port-forward). The same policy holds as for guests, so
    /// that nobody reaches the host through the node.
    pub async fn connect(self: &Arc<Self>, address: SocketAddr) -> io::Result<Stream> {
        let to = SocketAddr::new(canonical(address.ip()), address.port());
        let route = self.route(&Origin::Node, to, Protocol::Tcp)?;
        Ok(crate::tcp::dial(self, route, self.visitor(None, to)).await?)
    }

    /// The node dials on behalf of the pod with this address, as the pod's guests would: what they may not reach, it
    /// may not either (probes and hooks that name a host).
    pub async fn connect_as(self: &Arc<Self>, pod: IpAddr, address: SocketAddr) -> io::Result<Stream> {
        let stack = self.pods.read().get(&pod).cloned();
        let stack =
            stack.ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the pod has no network"))?;
        Ok(crate::tcp::start_connect(&stack, address, None).await?)
    }

    /// Ports of the node's address that services want and do not have.
    #[must_use]
    pub fn door_problems(&self) -> Vec<DoorProblem> {
        self.node_ports.problems(self)
    }

    /// The ports of the node's address on which load balancers are served, in order; `None` while there are some that
    /// were not tried yet.
    #[must_use]
    pub fn balanced_doors(&self) -> Option<Vec<(u16, Protocol)>> {
        self.node_ports.balanced(self)
    }

    /// Waits until [`Fabric::door_problems`] or [`Fabric::balanced_doors`] may say something new.
    pub async fn door_problems_changed(&self) {
        self.node_ports.changed().await;
    }

    /// What names of this cluster end in, and who answers for them.
    #[must_use]
    pub fn cluster_names(&self) -> ClusterNames {
        self.config.cluster_names()
    }

    /// What the pods that are here now were refused: namespace, pod, reason and how often.
    #[must_use]
    pub fn denials(&self) -> Vec<(String, String, &'static str, u64)> {
        let mut stacks: Vec<_> = self.pods.read().values().map(Arc::clone).collect();
        stacks.sort_by_key(|stack| stack.ip);
        stacks.dedup_by(|a, b| Arc::ptr_eq(a, b));
        let counts = stacks.iter().flat_map(|stack| {
            let counts = stack.gate.counts.read().into_iter().filter(|(_, count)| *count > 0);
            let pod = &stack.pod;
            counts.map(move |(reason, count)| (pod.namespace.clone(), pod.name.clone(), reason.name(), count))
        });
        counts.collect()
    }

    /// How many connections and datagrams policy has refused on this node.
    #[must_use]
    pub fn denied(&self) -> u64 {
        self.denied.load(Relaxed)
    }

    /// Closes all pods and NodePorts and waits until every task of the fabric has ended.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        let pods: Vec<_> = self.pods.write().drain().map(|(_, stack)| stack).collect();
        for stack in pods {
            stack.close();
        }
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Which way to `to`, a canonical address.
    pub(crate) fn route(
        &self,
        origin: &Origin,
        to: SocketAddr,
        protocol: Protocol,
    ) -> Result<Route, NetworkError> {
        if to.port() == 0 {
            return Err(NetworkError::InvalidAddress(to));
        }
        let forbidden = || self.deny(origin, None, to, DenyReason::Forbidden);
        match (place(to.ip()), origin.pod()) {
            (Place::Unspecified, _) => return Err(NetworkError::InvalidAddress(to)),
            (Place::Loopback, Some(stack)) => return Ok(Route::Direct(Way::Pod(Arc::clone(stack), to))),
            (Place::Loopback, None) | (Place::Forbidden, _) => return Err(forbidden()),
            (Place::Outside, _) => {}
        }
        if let Some(pod) = self.pod_at(to) {
            return self.route_to_pod(origin, pod, to, protocol);
        }
        let frontend = self.frontend(to, protocol);
        if let Some(stack) = origin.pod().filter(|_| self.is_dns(to))
            && frontend.as_ref().is_none_or(|(frontend, _)| frontend.is_empty())
        {
            return Ok(Route::Direct(Way::Dns(Arc::clone(stack))));
        }
        if let Some((frontend, entrance)) = frontend {
            return self.route_to_backend(&frontend, self.caller(origin, entrance, to), to, protocol);
        }
        if self.is_node(to.ip()) {
            return Err(forbidden());
        }
        match self.way_outside(origin, to, protocol) {
            Ok(way) => Ok(Route::Direct(way)),
            Err(Problem::Other(error)) => Err(error),
            Err(Problem::Denied(to, reason)) => Err(self.deny(origin, None, to, reason)),
        }
    }

    /// The service that answers at an address, one of the node's included.
    fn frontend(&self, to: SocketAddr, protocol: Protocol) -> Option<(Arc<Frontend>, Entrance)> {
        let at_door = || self.is_node(to.ip()).then(|| self.services.door((to.port(), protocol))).flatten();
        self.services.frontend(to, protocol).or_else(at_door)
    }

    /// Somebody inside who dials a service at `to`.
    fn caller<'a>(&self, origin: &'a Origin, entrance: Entrance, to: SocketAddr) -> Caller<'a> {
        let client = match origin {
            Origin::Node => self.gateway().into(),
            Origin::Pod(stack) => stack.source_for(to.ip()),
            Origin::Visitor(address) => *address,
        };
        Caller { client, origin, entrance, is_v6: to.is_ipv6() }
    }

    /// The way to a port of a pod of this node, if policy lets `origin` go there. Datagrams are judged one by one:
    /// see [`Fabric::datagram_way`].
    pub(crate) fn route_to_pod(
        &self,
        origin: &Origin,
        pod: Arc<Stack>,
        to: SocketAddr,
        protocol: Protocol,
    ) -> Result<Route, NetworkError> {
        if protocol == Protocol::Tcp
            && let Err(reason) = self.admit(origin, &pod, to, protocol)
        {
            return Err(self.deny(origin, Some(&pod), to, reason));
        }
        Ok(Route::Direct(Way::Pod(pod, to)))
    }

    /// The way of a datagram from `source`, an address of `from`: to `to`, or to the backend of that service that
    /// the flow has had so far if it still is one, or else to the one whose turn it is.
    pub(crate) fn datagram_way(
        &self,
        from: &Arc<Stack>,
        source: SocketAddr,
        to: SocketAddr,
        backend: Option<SocketAddr>,
    ) -> Result<Way, NetworkError> {
        let origin = Origin::Pod(Arc::clone(from));
        let known = backend.and_then(|backend| {
            let (frontend, entrance) = self.frontend(to, Protocol::Udp)?;
            let stays = frontend.has(&self.caller(&origin, entrance, to), backend);
            stays.then(|| self.way_to(backend, to, &origin, Protocol::Udp).ok()).flatten()
        });
        let way = match known {
            Some(way) => way,
            None => match self.route(&origin, to, Protocol::Udp)? {
                Route::Direct(way) => way,
                Route::Backends(mut backends) => backends.next(self)?,
            },
        };
        if let Way::Pod(target, to) = &way
            && let Err(reason) = self.admit_datagram(from, source, target, *to)
        {
            return Err(self.deny(&origin, Some(target), *to, reason));
        }
        Ok(way)
    }

    /// Whether a datagram from outside may come to a port of this pod.
    pub(crate) fn admit_visit(
        &self,
        origin: &Origin,
        target: &Arc<Stack>,
        to: SocketAddr,
    ) -> Result<(), NetworkError> {
        self.admit(origin, target, to, Protocol::Udp)
            .map_err(|reason| self.deny(origin, Some(target), to, reason))
    }

    /// The ways to a service's backends, beginning with the one whose turn it is. `to` is the address that was
    /// dialled.
    pub(crate) fn route_to_backend(
        &self,
        frontend: &Arc<Frontend>,
        caller: Caller<'_>,
        to: SocketAddr,
        protocol: Protocol,
    ) -> Result<Route, NetworkError> {
        let refused = NetworkError::Refused(to);
        let order = match frontend.candidates(&caller) {
            Ok(order) => order,
            Err(Shut::Empty) => return Err(refused),
            Err(Shut::Denied) => return Err(self.deny(caller.origin, None, to, DenyReason::SourceRanges)),
        };
        let (origin, problem) = (caller.origin.clone(), Problem::Other(refused));
        Ok(Route::Backends(Backends { order, origin, protocol, to, problem }))
    }

    /// Which way to one backend of a service that was dialled as `dialled`.
    fn way_to(
        &self,
        backend: SocketAddr,
        dialled: SocketAddr,
        origin: &Origin,
        protocol: Protocol,
    ) -> Result<Way, Problem> {
        let denied = |reason| Problem::Denied(backend, reason);
        if let Some(pod) = self.pod_at(backend) {
            if protocol == Protocol::Tcp {
                self.admit(origin, &pod, backend, protocol).map_err(denied)?;
            }
            return Ok(Way::Pod(pod, backend));
        }
        if self.config.host_endpoints.contains(&backend) || self.config.api_server == Some(backend) {
            let from = origin.pod();
            if let Some(from) = from {
                self.admit_cluster(from, dialled, backend, protocol).map_err(denied)?;
            }
            return Ok(Way::Kernel { to: backend, egress: from.map(|stack| Arc::clone(&stack.home)) });
        }
        if place(canonical(backend.ip())) != Place::Outside || self.is_node(backend.ip()) {
            return Err(denied(DenyReason::Forbidden));
        }
        self.way_outside(origin, backend, protocol)
    }

    fn way_outside(&self, origin: &Origin, to: SocketAddr, protocol: Protocol) -> Result<Way, Problem> {
        let config = &self.config;
        let within = |range: Option<Ipv6Net>, v6: &Ipv6Addr| range.is_some_and(|range| range.contains(v6));
        let (service, cluster) = match to.ip() {
            IpAddr::V4(v4) => (
                config.service_cidr.contains(&v4),
                config.cluster_cidr.contains(&v4) || config.pod_cidr.contains(&v4),
            ),
            IpAddr::V6(v6) => (
                within(config.service_cidr_v6, &v6),
                within(config.cluster_cidr_v6, &v6) || within(config.pod_cidr_v6, &v6),
            ),
        };
        if service {
            return Err(Problem::Other(NetworkError::Refused(to)));
        }
        // The one place where a way to pods of other nodes belongs: it would begin here.
        if cluster {
            return Err(Problem::Other(NetworkError::Unreachable(to)));
        }
        let denied = |reason| Problem::Denied(to, reason);
        if self.host.contains(to.ip()) {
            return Err(denied(DenyReason::Forbidden));
        }
        let from = origin.pod();
        if let Some(from) = from {
            self.admit_outside(from, to, protocol).map_err(denied)?;
        }
        Ok(Way::Kernel { to, egress: from.map(|stack| Arc::clone(&stack.egress)) })
    }

    pub(crate) fn count_denial(&self) {
        self.denied.fetch_add(1, Relaxed);
    }

    pub(crate) fn pod_at(&self, address: SocketAddr) -> Option<Arc<Stack>> {
        self.pods.read().get(&address.ip()).cloned()
    }

    pub(crate) fn is_node(&self, address: IpAddr) -> bool {
        self.config.node_addresses.contains(&address)
    }

    /// The dialling end of somebody who is not a pod: a client from outside with its own address, the
    /// node as the first address of the pod range. A client on the node itself is shown as the node, for
    /// `127.0.0.1` would look like the pod's own loopback to the guest; and so is one of the other family, of
    /// which the guest's socket may know nothing.
    pub(crate) fn visitor(&self, client: Option<SocketAddr>, to: SocketAddr) -> End {
        let client = client.map(|client| SocketAddr::new(canonical(client.ip()), client.port()));
        let shown = |client: &SocketAddr| !client.ip().is_loopback() && client.is_ipv4() == to.is_ipv4();
        let local = client.filter(shown).unwrap_or_else(|| {
            let port = self.next_port.fetch_add(1, Relaxed).max(NODE_PORT_FIRST);
            SocketAddr::new(self.gateway_for(to.ip()), port)
        });
        End { local, peer: to, guard: None }
    }

    fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.config.pod_cidr.network()) + 1)
    }

    /// The node as a pod sees it that is dialled as `to`.
    fn gateway_for(&self, to: IpAddr) -> IpAddr {
        let v6 = if to.is_ipv6() { self.ipv6_of(self.gateway()) } else { None };
        v6.map_or(self.gateway().into(), IpAddr::V6)
    }

    pub(crate) fn remove_pod(&self, stack: &Arc<Stack>) {
        let mut pods = self.pods.write();
        if !pods.get(&stack.ip.into()).is_some_and(|known| Arc::ptr_eq(known, stack)) {
            return;
        }
        for address in stack.addresses() {
            pods.remove(&address);
        }
        drop(pods);
        let id = u32::from(stack.ip) - u32::from(self.config.pod_cidr.network());
        self.addresses.lock().release(usize::try_from(id).expect("at most a million addresses"));
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn services(&self) -> &Services {
        &self.services
    }

    pub(crate) fn egress(&self) -> &Arc<Pool> {
        &self.egress
    }

    pub(crate) fn home(&self) -> &Arc<Pool> {
        &self.home
    }

    pub(crate) fn doors(&self) -> &Arc<Pool> {
        &self.doors
    }

    /// Whether this is the cluster's DNS server.
    fn is_dns(&self, to: SocketAddr) -> bool {
        to.port() == 53 && self.config.cluster_dns == Some(to.ip())
    }

    /// Whether an address is one of the cluster's pods'.
    pub(crate) fn is_cluster(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.config.cluster_cidr.contains(&v4) || self.config.pod_cidr.contains(&v4),
            IpAddr::V6(v6) => {
                let within = |range: Option<Ipv6Net>| range.is_some_and(|range| range.contains(&v6));
                within(self.config.cluster_cidr_v6) || within(self.config.pod_cidr_v6)
            }
        }
    }

    pub(crate) fn names(&self) -> &Cache {
        &self.names
    }

    pub(crate) fn lookups(&self) -> &Arc<Pool> {
        &self.lookups
    }

    pub(crate) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Runs a dial on the fabric's runtime until it is done, given up or the fabric shuts down.
    pub(crate) fn spawn(
        &self,
        dial: impl Future<Output = Result<Stream, NetworkError>> + Send + 'static,
    ) -> AbortOnDropHandle<Result<Stream, NetworkError>> {
        let stop = self.stop.clone();
        let dial = async move { stop.run_until_cancelled(dial).await.unwrap_or(Err(NetworkError::Closed)) };
        AbortOnDropHandle::new(self.tasks.spawn_on(dial, &self.handle))
    }

    /// Runs something on the fabric's runtime; `None` if the fabric shut down first.
    pub(crate) fn spawn_task<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<Option<T>> {
        let stop = self.stop.clone();
        self.tasks.spawn_on(async move { stop.run_until_cancelled(task).await }, &self.handle)
    }

    /// The runtime that carries the kernel sockets.
    pub(crate) fn enter(&self) -> tokio::runtime::EnterGuard<'_> {
        self.handle.enter()
    }

    /// Runs something that watches the fabric's [`Fabric::stop`] itself.
    pub(crate) fn spawn_detached(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(task, &self.handle);
    }
}
