//! Services as the fabric sees them: which address and port leads to which backends.
//!
//! Everything is worked out when a Service or EndpointSlice changes, so that a connection costs one look
//! into a hash table and one step of a counter, however many endpoints there are.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::jiff::Timestamp;
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

use crate::Config;
use crate::admit::Origin;
use crate::limits::{ADDRESSES_PER_NAME, AFFINITY_CLIENTS};
use crate::stack::Protocol;

/// The label by which a slice names its Service.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// How long a client stays with its backend unless the Service says otherwise: three hours.
const AFFINITY_DEFAULT: Duration = Duration::from_secs(10_800);

/// External addresses of one service that are looked at.
const EXTERNAL_IPS: usize = 64;

/// Namespace and name.
pub(crate) type Name = (String, String);

/// All services the node knows.
#[derive(Debug, Default)]
pub(crate) struct Services {
    tables: RwLock<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    node_name: String,
    api_server: Option<SocketAddr>,
    services: HashMap<Name, Entry>,
    slices: HashMap<Name, Slice>,
    /// Slices by the service they belong to, in a fixed order.
    slices_of: HashMap<Name, BTreeSet<String>>,
    frontends: HashMap<(SocketAddr, Protocol), (Arc<Frontend>, Entrance)>,
    /// The services that have an address: as a cluster IP, or as an endpoint.
    owned: HashMap<IpAddr, BTreeSet<Name>>,
    /// Who wants a port of the node's address; the first in order has it.
    doors: HashMap<Door, Vec<Claim>>,
}

/// A port of the node's address.
pub(crate) type Door = (u16, Protocol);

/// A service's wish for a port of the node's address. In the order in which wishes are met.
#[derive(Clone, Debug)]
struct Claim {
    rank: (DoorKind, Option<Timestamp>, Name),
    frontend: Arc<Frontend>,
}

/// Why a service has a port of the node's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DoorKind {
    /// It is the service's `nodePort`, which nobody else has.
    NodePort,
    /// It is the port of a service of type LoadBalancer: the oldest one gets it, unless it is a NodePort.
    LoadBalancer,
}

/// One Service.
#[derive(Debug, Default)]
struct Entry {
    created: Option<Timestamp>,
    cluster_ips: Vec<IpAddr>,
    /// `externalIPs`, and the addresses that a load balancer has given it.
    external_ips: Vec<IpAddr>,
    internal_local: bool,
    external_local: bool,
    headless: bool,
    external_name: Option<String>,
    ports: Vec<Port>,
    /// What names say of it.
    named: Arc<Named>,
}

/// A service as names lead to it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Named {
    /// The name that it stands for (ExternalName).
    pub(crate) alias: Option<String>,
    pub(crate) headless: bool,
    pub(crate) cluster_ips: Vec<IpAddr>,
    pub(crate) ports: Vec<NamedService>,
    /// Those that are ready, by address.
    pub(crate) endpoints: Vec<NamedEndpoint>,
}

/// A port of a service or of an endpoint: its name, protocol and number.
pub(crate) type NamedService = (String, Protocol, u16);

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NamedEndpoint {
    pub(crate) address: IpAddr,
    /// The host name that it has of its own.
    pub(crate) hostname: Option<String>,
    pub(crate) ports: Arc<[NamedService]>,
}

#[derive(Debug)]
struct Port {
    name: String,
    protocol: Protocol,
    port: u16,
    doors: Vec<(DoorKind, u16)>,
    frontend: Arc<Frontend>,
}

/// One EndpointSlice, reduced to what is needed.
#[derive(Debug)]
struct Slice {
    service: Name,
    ports: Arc<[NamedService]>,
    endpoints: Vec<Target>,
}

#[derive(Debug)]
struct Target {
    address: IpAddr,
    hostname: Option<String>,
    /// The node that it is on.
    node: Option<String>,
    ready: bool,
    /// Not ready, but still serving while it terminates: used when nothing is ready.
    draining: bool,
}

/// By which kind of address a service is dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entrance {
    /// A cluster IP: the internal traffic policy holds.
    Inside,
    /// A port of the node, an external IP or a load balancer's: the external one holds, for clients from outside.
    Outside,
}

/// The backends of a service port, worked out for each question.
#[derive(Debug, Default)]
struct Sets {
    /// IPv4 and IPv6, each in order.
    all: [Arc<[SocketAddr]>; 2],
    /// Those of this node.
    local: [Arc<[SocketAddr]>; 2],
    /// Clients inside the cluster, or outside, are only given those of this node.
    internal_local: bool,
    external_local: bool,
}

impl Sets {
    fn choose(&self, origin: &Origin, entrance: Entrance, is_v6: bool) -> &Arc<[SocketAddr]> {
        let local = match (entrance, origin) {
            (Entrance::Inside, _) => self.internal_local,
            (Entrance::Outside, Origin::Visitor(_)) => self.external_local,
            // Who is inside the cluster takes the short way to an outside address, as with kube-proxy.
            (Entrance::Outside, Origin::Pod(_) | Origin::Node) => false,
        };
        let sets = if local { &self.local } else { &self.all };
        &sets[usize::from(is_v6)]
    }
}

/// One port of one Service: the backends behind it and whose turn it is.
#[derive(Debug)]
pub(crate) struct Frontend {
    sets: RwLock<Sets>,
    turn: AtomicUsize,
    affinity: Option<Affinity>,
}

#[derive(Debug)]
struct Affinity {
    timeout: Duration,
    clients: Mutex<HashMap<IpAddr, (SocketAddr, Instant)>>,
}

/// Doors that have changed, and who has each now.
pub(crate) type DoorChanges = BTreeMap<Door, Option<(DoorKind, Name)>>;

impl Frontend {
    fn new(affinity: Option<Duration>) -> Frontend {
        let affinity = affinity.map(|timeout| Affinity { timeout, clients: Mutex::default() });
        Frontend { sets: RwLock::default(), turn: AtomicUsize::new(0), affinity }
    }

    /// Whether nobody is behind it.
    pub(crate) fn is_empty(&self) -> bool {
        self.sets.read().all.iter().all(|backends| backends.is_empty())
    }

    /// The backends of a family for the next connection of `client`, who is `origin`, beginning with the one whose
    /// turn it is; `None` if there is none.
    pub(crate) fn candidates(
        self: &Arc<Frontend>,
        client: IpAddr,
        origin: &Origin,
        entrance: Entrance,
        is_v6: bool,
    ) -> Option<Candidates> {
        let backends = Arc::clone(self.sets.read().choose(origin, entrance, is_v6));
        let known = self.affinity.as_ref().and_then(|affinity| affinity.known(client, &backends));
        let first = match known {
            Some(at) => at,
            None => self.turn.fetch_add(1, Relaxed).checked_rem(backends.len())?,
        };
        Some(Candidates { frontend: Arc::clone(self), client, backends, first, tried: 0, known })
    }
}

/// The backends of a service port in the order in which one connection tries them, each once.
#[derive(Debug)]
pub(crate) struct Candidates {
    frontend: Arc<Frontend>,
    client: IpAddr,
    backends: Arc<[SocketAddr]>,
    first: usize,
    tried: usize,
    /// The one that the client stays with.
    known: Option<usize>,
}

impl Iterator for Candidates {
    type Item = SocketAddr;

    fn next(&mut self) -> Option<SocketAddr> {
        if self.tried >= self.backends.len() {
            return None;
        }
        let at = (self.first + self.tried) % self.backends.len();
        self.tried += 1;
        let backend = *self.backends.get(at)?;
        if let Some(affinity) = &self.frontend.affinity
            && self.known != Some(at)
        {
            affinity.remember(self.client, backend);
        }
        Some(backend)
    }
}

impl Affinity {
    /// Where among `backends` the one is that the client stays with.
    fn known(&self, client: IpAddr, backends: &[SocketAddr]) -> Option<usize> {
        let now = Instant::now();
        let mut clients = self.clients.lock();
        let (backend, since) = clients.get_mut(&client)?;
        if now.duration_since(*since) >= self.timeout {
            return None;
        }
        let at = backends.binary_search(backend).ok()?;
        *since = now;
        Some(at)
    }

    fn remember(&self, client: IpAddr, backend: SocketAddr) {
        let now = Instant::now();
        let mut clients = self.clients.lock();
        if clients.len() >= AFFINITY_CLIENTS && !clients.contains_key(&client) {
            clients.retain(|_, (_, since)| now.duration_since(*since) < self.timeout);
            if clients.len() >= AFFINITY_CLIENTS {
                // All are recent: better all choose anew than that the table grows.
                clients.clear();
            }
        }
        clients.insert(client, (backend, now));
    }
}

impl Services {
    pub(crate) fn new(config: &Config) -> Services {
        let (node_name, api_server) = (config.node_name.clone(), config.api_server);
        Services { tables: RwLock::new(Tables { node_name, api_server, ..Tables::default() }) }
    }

    /// Takes in a Service. Answers which doors have changed.
    pub(crate) fn apply(&self, service: &Service) -> DoorChanges {
        let name = name_of(&service.metadata);
        let mut tables = self.tables.write();
        let old = tables.services.remove(&name);
        if let Some(old) = &old {
            tables.withdraw(&name, old);
        }
        let entry = Entry::from_service(service, old.as_ref());
        tables.announce(&name, &entry);
        let doors = tables.owners(old.iter().chain([&entry]));
        tables.services.insert(name.clone(), entry);
        tables.refresh(&name);
        doors
    }

    /// Forgets a Service. Answers which doors have changed.
    pub(crate) fn remove(&self, namespace: &str, name: &str) -> DoorChanges {
        let name = (namespace.to_owned(), name.to_owned());
        let mut tables = self.tables.write();
        let old = tables.services.remove(&name);
        if let Some(old) = &old {
            tables.withdraw(&name, old);
            tables.disown(&name, &old.named);
        }
        tables.owners(&old)
    }

    /// Services of type LoadBalancer whose port somebody else has on this node: service, port, and who has it.
    pub(crate) fn contested(&self) -> Vec<(Name, Door, Name)> {
        let tables = self.tables.read();
        let contested = tables.doors.iter().filter_map(|(door, claims)| Some((door, claims.split_first()?)));
        contested
            .flat_map(|(door, (first, others))| {
                others.iter().map(|other| (other.rank.2.clone(), *door, first.rank.2.clone()))
            })
            .filter(|(loser, _, owner)| loser != owner)
            .collect()
    }

    /// Takes in an EndpointSlice.
    pub(crate) fn apply_slice(&self, slice: &EndpointSlice) {
        let key = name_of(&slice.metadata);
        let mut tables = self.tables.write();
        tables.remove_slice(&key);
        let label = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME_LABEL));
        let Some(service) = label else { return };
        let service = (key.0.clone(), service.clone());
        tables.slices_of.entry(service.clone()).or_default().insert(key.1.clone());
        tables.slices.insert(key, Slice::from_slice(slice, service.clone()));
        tables.refresh(&service);
    }

    /// Forgets an EndpointSlice.
    pub(crate) fn remove_slice(&self, namespace: &str, name: &str) {
        self.tables.write().remove_slice(&(namespace.to_owned(), name.to_owned()));
    }

    /// Who answers on a cluster IP, an external IP or that of a load balancer.
    pub(crate) fn frontend(&self, to: SocketAddr, protocol: Protocol) -> Option<(Arc<Frontend>, Entrance)> {
        self.tables.read().frontends.get(&(to, protocol)).cloned()
    }

    /// Who answers on a port of the node's address.
    pub(crate) fn door(&self, door: Door) -> Option<Arc<Frontend>> {
        let tables = self.tables.read();
        tables.doors.get(&door)?.first().map(|claim| Arc::clone(&claim.frontend))
    }

    /// What names say of a service.
    pub(crate) fn named(&self, namespace: &str, service: &str) -> Option<Arc<Named>> {
        let tables = self.tables.read();
        tables.services.get(&(namespace.to_owned(), service.to_owned())).map(|entry| Arc::clone(&entry.named))
    }

    /// The services that have an address, as a cluster IP or as an endpoint.
    pub(crate) fn owners_of(&self, address: IpAddr) -> Vec<(Name, Arc<Named>)> {
        let tables = self.tables.read();
        let names = tables.owned.get(&address).into_iter().flatten().take(ADDRESSES_PER_NAME);
        names.filter_map(|name| Some((name.clone(), Arc::clone(&tables.services.get(name)?.named)))).collect()
    }
}

impl Tables {
    fn announce(&mut self, name: &Name, entry: &Entry) {
        for port in &entry.ports {
            for (ip, entrance) in entry.addresses() {
                let key = (SocketAddr::new(ip, port.port), port.protocol);
                // A cluster IP is its owner's, whoever claims it as an external one.
                let taken = entrance == Entrance::Outside
                    && self.frontends.get(&key).is_some_and(|(_, known)| *known == Entrance::Inside);
                if !taken {
                    self.frontends.insert(key, (Arc::clone(&port.frontend), entrance));
                }
            }
            for (kind, number) in &port.doors {
                let claims = self.doors.entry((*number, port.protocol)).or_default();
                let rank = (*kind, entry.created, name.clone());
                claims.push(Claim { rank, frontend: Arc::clone(&port.frontend) });
                claims.sort_by(|a, b| a.rank.cmp(&b.rank));
            }
        }
    }

    fn withdraw(&mut self, name: &Name, entry: &Entry) {
        // Two services may claim one address for a moment while objects change hands.
        let ours = |frontend: &Arc<Frontend>, port: &Port| Arc::ptr_eq(frontend, &port.frontend);
        for port in &entry.ports {
            for (ip, _) in entry.addresses() {
                let key = (SocketAddr::new(ip, port.port), port.protocol);
                if self.frontends.get(&key).is_some_and(|(frontend, _)| ours(frontend, port)) {
                    self.frontends.remove(&key);
                }
            }
            for (_, number) in &port.doors {
                let door = (*number, port.protocol);
                let Some(claims) = self.doors.get_mut(&door) else { continue };
                claims.retain(|claim| claim.rank.2 != *name);
                if claims.is_empty() {
                    self.doors.remove(&door);
                }
            }
        }
    }

    /// Who has the doors that these want.
    fn owners<'a>(&self, entries: impl IntoIterator<Item = &'a Entry>) -> DoorChanges {
        let ports = entries.into_iter().flat_map(|entry| &entry.ports);
        let doors = ports.flat_map(|port| port.doors.iter().map(|(_, number)| (*number, port.protocol)));
        let owner = |door: &Door| {
            let first = self.doors.get(door)?.first()?;
            Some((first.rank.0, first.rank.2.clone()))
        };
        doors.map(|door| (door, owner(&door))).collect()
    }

    fn remove_slice(&mut self, key: &Name) {
        let Some(old) = self.slices.remove(key) else { return };
        if let Some(slices) = self.slices_of.get_mut(&old.service) {
            slices.remove(&key.1);
            if slices.is_empty() {
                self.slices_of.remove(&old.service);
            }
        }
        self.refresh(&old.service);
    }

    /// Works out the backends of a service anew.
    fn refresh(&mut self, service: &Name) {
        let Tables { services, slices, slices_of, owned, api_server, node_name, .. } = self;
        let Some(entry) = services.get_mut(service) else { return };
        let names = slices_of.get(service).into_iter().flatten();
        let slices: Vec<&Slice> =
            names.filter_map(|name| slices.get(&(service.0.clone(), name.clone()))).collect();
        for port in &entry.ports {
            let mut all = backends(&slices, port, |_| true);
            if all.is_empty() && service.0 == "default" && service.1 == "kubernetes" {
                all.extend(*api_server);
            }
            let local = backends(&slices, port, |target| target.node.as_deref() == Some(&*node_name));
            let sets = Sets {
                all: by_family(all),
                local: by_family(local),
                internal_local: entry.internal_local,
                external_local: entry.external_local,
            };
            *port.frontend.sets.write() = sets;
        }
        let ready = slices.iter().flat_map(|slice| {
            let ready = slice.endpoints.iter().filter(|target| target.ready);
            ready.map(|target| NamedEndpoint {
                address: target.address,
                hostname: target.hostname.clone(),
                ports: Arc::clone(&slice.ports),
            })
        });
        let mut endpoints: Vec<_> = ready.collect();
        endpoints.sort();
        endpoints.dedup();
        let ports = entry.ports.iter().map(|port| (port.name.clone(), port.protocol, port.port));
        let named = Arc::new(Named {
            alias: entry.external_name.clone(),
            headless: entry.headless,
            cluster_ips: entry.cluster_ips.clone(),
            ports: ports.collect(),
            endpoints,
        });
        if *named == *entry.named {
            return;
        }
        let old = std::mem::replace(&mut entry.named, Arc::clone(&named));
        for address in named.addresses() {
            owned.entry(address).or_default().insert(service.clone());
        }
        let gone: Vec<IpAddr> = {
            let kept: HashSet<IpAddr> = named.addresses().collect();
            old.addresses().filter(|address| !kept.contains(address)).collect()
        };
        self.disown_addresses(service, gone);
    }

    fn disown(&mut self, service: &Name, named: &Named) {
        self.disown_addresses(service, named.addresses());
    }

    fn disown_addresses(&mut self, service: &Name, addresses: impl IntoIterator<Item = IpAddr>) {
        for address in addresses {
            if let Some(names) = self.owned.get_mut(&address) {
                names.remove(service);
                if names.is_empty() {
                    self.owned.remove(&address);
                }
            }
        }
    }
}

/// The backends of a port among those that are `meant`: who is ready, or else who still serves while it ends.
fn backends(slices: &[&Slice], port: &Port, meant: impl Fn(&Target) -> bool) -> Vec<SocketAddr> {
    let collect = |usable: fn(&Target) -> bool| {
        let mut found = Vec::new();
        for slice in slices {
            let matching = slice
                .ports
                .iter()
                .filter(|(name, protocol, _)| *name == port.name && *protocol == port.protocol);
            for (_, _, number) in matching {
                let usable = slice.endpoints.iter().filter(|target| usable(target) && meant(target));
                found.extend(usable.map(|target| SocketAddr::new(target.address, *number)));
            }
        }
        found.sort();
        found.dedup();
        found
    };
    let ready = collect(|target| target.ready);
    if ready.is_empty() { collect(|target| target.draining) } else { ready }
}

fn by_family(backends: Vec<SocketAddr>) -> [Arc<[SocketAddr]>; 2] {
    let (v6, v4): (Vec<_>, Vec<_>) = backends.into_iter().partition(SocketAddr::is_ipv6);
    [v4.into(), v6.into()]
}

impl Entry {
    /// The addresses at which its ports answer.
    fn addresses(&self) -> impl Iterator<Item = (IpAddr, Entrance)> + '_ {
        let inside = self.cluster_ips.iter().map(|ip| (*ip, Entrance::Inside));
        inside.chain(self.external_ips.iter().map(|ip| (*ip, Entrance::Outside)))
    }

    /// `old` lends its frontends, so that turns and affinity outlive an update.
    fn from_service(service: &Service, old: Option<&Entry>) -> Entry {
        let Some(spec) = &service.spec else { return Entry::default() };
        let type_ = spec.type_.as_deref().unwrap_or("ClusterIP");
        if type_ == "ExternalName" {
            let named = old.map(|old| Arc::clone(&old.named)).unwrap_or_default();
            return Entry { external_name: spec.external_name.clone(), named, ..Entry::default() };
        }
        let ips = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
        let mut cluster_ips: Vec<IpAddr> = ips.filter_map(|ip| ip.parse().ok()).collect();
        cluster_ips.dedup();
        cluster_ips.truncate(2);
        let balanced_ips = service.status.iter().flat_map(|status| {
            let ingress = status.load_balancer.iter().flat_map(|balancer| balancer.ingress.iter().flatten());
            // Others than VIP want their traffic to pass the balancer.
            let whole = ingress.filter(|ingress| ingress.ip_mode.as_deref().unwrap_or("VIP") == "VIP");
            whole.filter_map(|ingress| ingress.ip.as_ref())
        });
        let external = spec.external_ips.iter().flatten().chain(balanced_ips);
        let external_ips = external.filter_map(|ip| ip.parse().ok()).take(EXTERNAL_IPS).collect();
        let is_local = |policy: &Option<String>| policy.as_deref() == Some("Local");
        let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
            let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
            let seconds = config.and_then(|config| config.timeout_seconds);
            seconds.and_then(|s| u64::try_from(s).ok()).map_or(AFFINITY_DEFAULT, Duration::from_secs)
        });
        // Who names a class wants somebody else's load balancer.
        let balanced = type_ == "LoadBalancer" && spec.load_balancer_class.is_none();
        let ports = spec.ports.iter().flatten().filter_map(|port| {
            let name = port.name.clone().unwrap_or_default();
            let protocol = Protocol::of(port.protocol.as_deref())?;
            let known = old.into_iter().flat_map(|old| &old.ports).find(|known| {
                let same_affinity = known.frontend.affinity.as_ref().map(|a| a.timeout) == affinity;
                known.name == name && known.protocol == protocol && same_affinity
            });
            let frontend =
                known.map_or_else(|| Arc::new(Frontend::new(affinity)), |known| Arc::clone(&known.frontend));
            let number = u16::try_from(port.port).ok()?;
            let node_port =
                port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
            let node_port = node_port.filter(|_| type_ != "ClusterIP").map(|port| (DoorKind::NodePort, port));
            let own = balanced.then_some((DoorKind::LoadBalancer, number));
            let doors = node_port.into_iter().chain(own).collect();
            Some(Port { name, protocol, port: number, doors, frontend })
        });
        let headless = spec.cluster_ip.as_deref() == Some("None");
        // What names said of it so far: the difference tells which addresses it has no more.
        let named = old.map(|old| Arc::clone(&old.named)).unwrap_or_default();
        Entry {
            created: service.metadata.creation_timestamp.as_ref().map(|time| time.0),
            cluster_ips,
            external_ips,
            internal_local: is_local(&spec.internal_traffic_policy),
            external_local: is_local(&spec.external_traffic_policy),
            headless,
            external_name: None,
            ports: ports.collect(),
            named,
        }
    }
}

impl Named {
    fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.cluster_ips.iter().copied().chain(self.endpoints.iter().map(|endpoint| endpoint.address))
    }
}

impl Slice {
    fn from_slice(slice: &EndpointSlice, service: Name) -> Slice {
        let ports = slice.ports.iter().flatten().filter_map(|port| {
            let number = u16::try_from(port.port?).ok()?;
            Some((port.name.clone().unwrap_or_default(), Protocol::of(port.protocol.as_deref())?, number))
        });
        let endpoints = slice.endpoints.iter().filter_map(Target::from_endpoint);
        Slice { service, ports: ports.collect(), endpoints: endpoints.collect() }
    }
}

impl Target {
    fn from_endpoint(endpoint: &Endpoint) -> Option<Target> {
        // The addresses of one endpoint are interchangeable, and consumers use the first.
        let address = endpoint.addresses.first()?.parse().ok()?;
        let conditions = endpoint.conditions.as_ref();
        let is = |condition: Option<Option<bool>>, otherwise: bool| condition.flatten().unwrap_or(otherwise);
        let ready = is(conditions.map(|c| c.ready), true);
        let serving = is(conditions.map(|c| c.serving), ready);
        let terminating = is(conditions.map(|c| c.terminating), false);
        Some(Target {
            address,
            hostname: endpoint.hostname.clone(),
            node: endpoint.node_name.clone(),
            ready,
            draining: serving && terminating,
        })
    }
}

pub(crate) fn name_of(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Name {
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}
