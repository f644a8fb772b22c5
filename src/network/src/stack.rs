//! What the guests of one pod see of the network: an address, ports, connections, names.
//!
//! ```text
//!  add_pod ──▶ open ──close──▶ closed: every connection reset, every listener and datagram socket ended,
//!                                      the address free for another pod
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::admit::{DenyReason, Gate};
use crate::bandwidth::Limits;
use crate::limits::{
    CONNECTION_COST, CONNECTIONS_PER_POD, DNS_CONNECTIONS_PER_POD, DNS_WAITING_PER_POD,
    EGRESS_CONNECTIONS_PER_POD, LISTENERS_PER_POD, LOOKUPS, LOOKUPS_PER_POD, UDP_SOCKETS_PER_POD,
};
use crate::meter::Meter;
use crate::names::stub::Pace;
use crate::pool::Share;
use crate::ports::Ports;
use crate::stream::Connection;
use crate::tcp::Backlog;
use crate::udp::Mailbox;
use crate::{
    DnsConfig, Fabric, HostNames, NetworkError, PodConfig, ResolveError, Stream, TcpBinding, TcpConnecting,
    TcpListener, UdpSocket,
};

/// The network of one pod. Cheap to clone; all clones are the same stack.
#[derive(Clone, Debug)]
pub struct PodStack {
    stack: Arc<Stack>,
}

/// What a pod's network use amounts to at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetworkUsage {
    /// TCP connections, those waiting in backlogs included.
    pub connections: usize,
    /// Bound TCP addresses.
    pub tcp_bound: usize,
    /// UDP sockets.
    pub udp_bound: usize,
    /// Bytes in its streams that nobody has read yet and that it pays for: those it wrote, and those from
    /// outside that it has not read.
    pub buffered: usize,
    /// Bytes of the pod's memory that its sockets hold.
    pub held: usize,
    /// Payload bytes written over the pod's life.
    pub sent: u64,
    /// Payload bytes read over the pod's life.
    pub received: u64,
    /// Connections and datagrams that policy refused.
    pub denied: u64,
    /// Datagrams for the pod that found no room.
    pub dropped: u64,
}

impl PodStack {
    pub(crate) fn new(stack: Arc<Stack>) -> PodStack {
        PodStack { stack }
    }

    pub(crate) fn stack(&self) -> &Arc<Stack> {
        &self.stack
    }

    /// The pod's address.
    #[must_use]
    pub fn ip(&self) -> Ipv4Addr {
        self.stack.ip
    }

    /// The pod's IPv6 address, if pods of its node have one.
    #[must_use]
    pub fn ip6(&self) -> Option<Ipv6Addr> {
        self.stack.ip6
    }

    /// Resets every connection, ends every listener and datagram socket, and frees the address.
    pub fn close(&self) {
        if let Some(fabric) = self.stack.fabric.upgrade() {
            fabric.remove_pod(&self.stack);
        }
        self.stack.close();
    }

    /// Reserves a TCP address; port 0 picks an ephemeral one.
    pub fn bind_tcp(&self, local: SocketAddr) -> Result<TcpBinding, NetworkError> {
        Ok(TcpBinding::new(self.stack.lease(Protocol::Tcp, local)?))
    }

    /// Binds and listens.
    pub fn listen(&self, local: SocketAddr, backlog: usize) -> Result<TcpListener, NetworkError> {
        Ok(self.bind_tcp(local)?.listen(backlog))
    }

    /// Dials a pod, a service, a NodePort or, as far as policy lets it, the outside.
    pub async fn connect(&self, remote: SocketAddr) -> Result<Stream, NetworkError> {
        self.start_connect(remote, None).await
    }

    /// Starts to dial, from a bound address if there is one. Usually done when it returns; where the
    /// other side must be waited for, the work goes on by itself until the handle is dropped.
    #[must_use]
    pub fn start_connect(&self, remote: SocketAddr, from: Option<TcpBinding>) -> TcpConnecting {
        crate::tcp::start_connect(&self.stack, remote, from)
    }

    /// Opens a UDP socket; port 0 picks an ephemeral one.
    pub fn bind_udp(&self, local: SocketAddr) -> Result<UdpSocket, NetworkError> {
        Ok(UdpSocket::new(self.stack.lease(Protocol::Udp, local)?))
    }

    /// The addresses of a name as this pod sees it: at least one, IPv4 before IPv6, but for those of `hostAliases`.
    pub async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        crate::names::resolve(&self.stack, name).await
    }

    /// The pod's labels and its `coracle.dev/egress-hosts` as they are now. They hold for connections made from
    /// now on.
    pub fn set_labels(&self, labels: BTreeMap<String, String>, egress_hosts: Option<&str>) {
        self.stack.gate.change(labels, egress_hosts);
    }

    /// How often the pod was refused something, by reason.
    #[must_use]
    pub fn denials(&self) -> [(DenyReason, u64); DenyReason::ALL.len()] {
        self.stack.gate.counts.read()
    }

    /// What the pod uses now.
    #[must_use]
    pub fn usage(&self) -> NetworkUsage {
        let tables = self.stack.tables.lock();
        let meter = &self.stack.meter;
        NetworkUsage {
            connections: tables.connections.count,
            tcp_bound: tables.tcp.bound(),
            udp_bound: tables.udp.bound(),
            buffered: meter.buffered(),
            held: meter.held(),
            sent: meter.sent(),
            received: meter.received(),
            denied: meter.denied(),
            dropped: meter.dropped(),
        }
    }
}

/// The transport protocols of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Streams.
    Tcp,
    /// Datagrams.
    Udp,
}

impl Protocol {
    /// By its name in an object, TCP if it has none; `None` for one that pods here do not speak.
    pub(crate) fn of(name: Option<&str>) -> Option<Protocol> {
        match name {
            None | Some("TCP" | "") => Some(Protocol::Tcp),
            Some("UDP") => Some(Protocol::Udp),
            Some(_) => None,
        }
    }
}

/// A pod's stack itself.
#[derive(Debug)]
pub(crate) struct Stack {
    pub(crate) ip: Ipv4Addr,
    pub(crate) ip6: Option<Ipv6Addr>,
    pub(crate) pod: PodConfig,
    pub(crate) fabric: Weak<Fabric>,
    pub(crate) meter: Arc<Meter>,
    /// What policies go by.
    pub(crate) gate: Gate,
    pub(crate) limits: Limits,
    /// Dials to the outside under way and open.
    pub(crate) egress: Arc<Share>,
    pub(crate) home: Arc<Share>,
    /// Questions to servers that the pod names itself.
    pub(crate) questions: Pace,
    /// Lookups of external names under way.
    pub(crate) lookups: Arc<Semaphore>,
    /// Those of them that the host's resolver is busy with.
    pub(crate) resolving: Arc<Share>,
    /// Connections to the cluster's DNS server.
    pub(crate) dns_connections: Arc<Semaphore>,
    /// Queries over UDP that wait for the world.
    pub(crate) dns_waiting: Arc<Semaphore>,
    /// How names are resolved.
    pub(crate) dns: DnsConfig,
    /// The names that need nobody to be asked.
    pub(crate) names: HostNames,
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    closed: bool,
    tcp: Ports<Backlog>,
    udp: Ports<Mailbox>,
    connections: Connections,
    /// Ends the pod's host ports, if it ever had one.
    host_ports: Option<CancellationToken>,
}

/// The live connections of a pod, so that closing it can reset them.
#[derive(Debug, Default)]
struct Connections {
    slots: Vec<Option<Weak<Connection>>>,
    free: Vec<usize>,
    /// Slots taken and reservations that have no slot yet.
    count: usize,
}

impl Stack {
    pub(crate) fn new(
        ip: Ipv4Addr,
        ip6: Option<Ipv6Addr>,
        mut pod: PodConfig,
        fabric: &Arc<Fabric>,
    ) -> Stack {
        let cluster = || fabric.config().cluster_names();
        let dns = pod.dns.take().unwrap_or_else(|| DnsConfig::cluster_first(&pod.namespace, &cluster()));
        let names = pod.host_names.take().unwrap_or_else(|| HostNames::simple(&pod.hostname));
        Stack {
            ip,
            ip6,
            gate: Gate::new(&mut pod),
            meter: Arc::new(Meter::new(pod.budget.as_ref())),
            limits: Limits::new(pod.bandwidth, fabric),
            pod,
            fabric: Arc::downgrade(fabric),
            egress: Arc::new(fabric.egress().share(EGRESS_CONNECTIONS_PER_POD)),
            home: Arc::new(fabric.home().share(EGRESS_CONNECTIONS_PER_POD)),
            questions: Pace::default(),
            lookups: Arc::new(Semaphore::new(LOOKUPS_PER_POD)),
            resolving: Arc::new(fabric.lookups().share(LOOKUPS)),
            dns_connections: Arc::new(Semaphore::new(DNS_CONNECTIONS_PER_POD)),
            dns_waiting: Arc::new(Semaphore::new(DNS_WAITING_PER_POD)),
            dns,
            names,
            tables: Mutex::default(),
        }
    }

    pub(crate) fn close(&self) {
        let mut tables = self.tables.lock();
        tables.closed = true;
        let connections = std::mem::take(&mut tables.connections.slots);
        let (listeners, mailboxes) = (tables.tcp.targets(), tables.udp.targets());
        let host_ports = tables.host_ports.take();
        drop(tables);
        host_ports.iter().for_each(CancellationToken::cancel);
        for connection in connections.into_iter().flatten() {
            if let Some(connection) = connection.upgrade() {
                connection.reset();
            }
        }
        for listener in listeners {
            listener.close();
        }
        for mailbox in mailboxes {
            mailbox.close();
        }
    }

    /// What ends with the stack, for its host ports; `None` if it has closed.
    pub(crate) fn host_ports(&self) -> Option<CancellationToken> {
        let mut tables = self.tables.lock();
        (!tables.closed).then(|| tables.host_ports.get_or_insert_default().clone())
    }

    /// Counts a connection in, before it exists.
    pub(crate) fn reserve(self: &Arc<Stack>) -> Result<ConnectionGuard, NetworkError> {
        let mut tables = self.tables.lock();
        if tables.closed {
            return Err(NetworkError::Closed);
        }
        if tables.connections.count >= CONNECTIONS_PER_POD {
            return Err(NetworkError::Limit("connections"));
        }
        if !self.meter.take(CONNECTION_COST) {
            return Err(NetworkError::NoBuffers);
        }
        tables.connections.count += 1;
        Ok(ConnectionGuard { stack: Arc::clone(self), slot: None, lease: None })
    }

    /// Holds an address of the pod.
    fn lease(self: &Arc<Stack>, protocol: Protocol, local: SocketAddr) -> Result<Lease, NetworkError> {
        if !self.owns(local.ip()) {
            return Err(NetworkError::AddressNotAvailable(local));
        }
        let mut tables = self.tables.lock();
        if tables.closed {
            return Err(NetworkError::Closed);
        }
        let local = match protocol {
            Protocol::Tcp if tables.tcp.bound() >= LISTENERS_PER_POD => {
                return Err(NetworkError::Limit("bound TCP addresses"));
            }
            Protocol::Udp if tables.udp.bound() >= UDP_SOCKETS_PER_POD => {
                return Err(NetworkError::Limit("UDP sockets"));
            }
            Protocol::Tcp => tables.tcp.bind(local)?,
            Protocol::Udp => tables.udp.bind(local)?,
        };
        Ok(Lease { stack: Arc::clone(self), protocol, local, bound: true })
    }

    /// Holds a port for an outgoing connection from `address`.
    pub(crate) fn lease_ephemeral(self: &Arc<Stack>, address: IpAddr) -> Result<Lease, NetworkError> {
        let mut tables = self.tables.lock();
        let port = tables.tcp.take_ephemeral();
        let port = port.ok_or(NetworkError::AddressInUse(SocketAddr::new(address, 0)))?;
        let local = SocketAddr::new(address, port);
        Ok(Lease { stack: Arc::clone(self), protocol: Protocol::Tcp, local, bound: false })
    }

    pub(crate) fn set_listener(&self, local: SocketAddr, backlog: &Arc<Backlog>) {
        let mut tables = self.tables.lock();
        tables.tcp.set_target(local, Arc::downgrade(backlog));
        let closed = tables.closed;
        drop(tables);
        if closed {
            backlog.close();
        }
    }

    pub(crate) fn set_mailbox(&self, local: SocketAddr, mailbox: &Arc<Mailbox>) {
        let mut tables = self.tables.lock();
        tables.udp.set_target(local, Arc::downgrade(mailbox));
        let closed = tables.closed;
        drop(tables);
        if closed {
            mailbox.close();
        }
    }

    pub(crate) fn listener(&self, to: SocketAddr) -> Option<Arc<Backlog>> {
        self.tables.lock().tcp.find(to)
    }

    pub(crate) fn mailbox(&self, to: SocketAddr) -> Option<Arc<Mailbox>> {
        self.tables.lock().udp.find(to)
    }

    /// Whether a socket of the pod would get what arrives for `to`.
    pub(crate) fn hears(&self, to: SocketAddr, protocol: Protocol) -> bool {
        match protocol {
            Protocol::Tcp => self.listener(to).is_some(),
            Protocol::Udp => self.mailbox(to).is_some(),
        }
    }

    /// The address this pod is seen with by `remote`.
    pub(crate) fn source_for(&self, remote: IpAddr) -> IpAddr {
        match remote {
            IpAddr::V4(v4) if v4.is_loopback() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V4(_) => self.ip.into(),
            IpAddr::V6(v6) if v6.is_loopback() => Ipv6Addr::LOCALHOST.into(),
            IpAddr::V6(_) => self.ip6.unwrap_or(Ipv6Addr::LOCALHOST).into(),
        }
    }

    /// The pod's addresses, IPv4 first.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        [Some(IpAddr::V4(self.ip)), self.ip6.map(IpAddr::V6)].into_iter().flatten()
    }

    /// Whether a guest may bind this address: the pod's own, its loopback, or any.
    fn owns(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => v4 == self.ip || v4.is_loopback() || v4.is_unspecified(),
            IpAddr::V6(v6) => Some(v6) == self.ip6 || v6.is_loopback() || v6.is_unspecified(),
        }
    }
}

/// A held port. Dropping it frees the port.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) stack: Arc<Stack>,
    protocol: Protocol,
    pub(crate) local: SocketAddr,
    /// Bound by the guest, or picked for an outgoing connection.
    bound: bool,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut tables = self.stack.tables.lock();
        match (self.protocol, self.bound) {
            (Protocol::Tcp, true) => tables.tcp.unbind(self.local),
            (Protocol::Tcp, false) => tables.tcp.release_ephemeral(self.local.port()),
            (Protocol::Udp, _) => tables.udp.unbind(self.local),
        }
    }
}

/// A pod's share in one connection: its place in the table and, if it dialled, its port.
#[derive(Debug)]
pub(crate) struct ConnectionGuard {
    stack: Arc<Stack>,
    slot: Option<usize>,
    lease: Option<Lease>,
}

impl ConnectionGuard {
    pub(crate) fn with_lease(mut self, lease: Lease) -> ConnectionGuard {
        self.lease = Some(lease);
        self
    }

    pub(crate) fn meter(&self) -> &Arc<Meter> {
        &self.stack.meter
    }

    pub(crate) fn stack(&self) -> &Arc<Stack> {
        &self.stack
    }

    /// Lets the pod reset the connection when it closes. False if it has closed already.
    pub(crate) fn watch(&mut self, connection: &Arc<Connection>) -> bool {
        let mut tables = self.stack.tables.lock();
        if tables.closed {
            return false;
        }
        let connections = &mut tables.connections;
        let slot = connections.free.pop().unwrap_or_else(|| {
            connections.slots.push(None);
            connections.slots.len() - 1
        });
        connections.slots[slot] = Some(Arc::downgrade(connection));
        self.slot = Some(slot);
        true
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        let mut tables = self.stack.tables.lock();
        let connections = &mut tables.connections;
        connections.count -= 1;
        self.stack.meter.give(CONNECTION_COST);
        // A closed pod has given up its slots.
        if let Some(slot) = self.slot
            && let Some(entry) = connections.slots.get_mut(slot)
        {
            *entry = None;
            connections.free.push(slot);
        }
        drop(tables);
        // `lease` locks the tables itself, so it is dropped after this.
    }
}
