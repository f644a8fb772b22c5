//! Services as the fabric sees them: which address and port leads to which backends.
//!
//! Everything is worked out when a Service or EndpointSlice changes, so that a connection costs one look
//! into a hash table and one step of a counter, however many endpoints there are.

mod frontend;
mod objects;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::Timestamp;
use parking_lot::RwLock;

use crate::Config;
use crate::limits::ADDRESSES_PER_NAME;
use crate::stack::Protocol;
pub(crate) use frontend::{Caller, Candidates, Entrance, Frontend, Shut};
use objects::{Entry, Here, Port, Slice};
pub(crate) use objects::{Named, NamedEndpoint};

/// The label by which a slice names its Service.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Namespace and name.
pub(crate) type Name = (String, String);

/// All services the node knows.
#[derive(Debug, Default)]
pub(crate) struct Services {
    tables: RwLock<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    here: Here,
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

/// Where a door leads: to a port of its service, or nowhere if the node itself answers.
pub(crate) type Lead = Option<(Arc<Frontend>, Entrance)>;

/// A service's wish for a port of the node's address. In the order in which wishes are met.
#[derive(Clone, Debug)]
struct Claim {
    rank: (DoorKind, Option<Timestamp>, Name),
    lead: Lead,
}

/// How a service is on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Health {
    pub(crate) service: Name,
    /// Its endpoints here that are ready.
    pub(crate) local: usize,
}

/// Why a service has a port of the node's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DoorKind {
    /// It is the service's `nodePort`, which nobody else has.
    NodePort,
    /// It is the service's `healthCheckNodePort`, which nobody else has: the node says there how many of the
    /// service's endpoints it has.
    HealthCheck,
    /// It is the port of a service of type LoadBalancer: the oldest one gets it, unless it is one of the above.
    LoadBalancer,
}

/// Doors that have changed, and who has each now.
pub(crate) type DoorChanges = BTreeMap<Door, Option<(DoorKind, Name)>>;

impl Services {
    pub(crate) fn new(config: &Config) -> Services {
        let here = Here { node: config.node_name.clone(), zone: None };
        Services { tables: RwLock::new(Tables { here, api_server: config.api_server, ..Tables::default() }) }
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
            tables.disown(&name, old.named.addresses());
        }
        tables.owners(&old)
    }

    /// Services that want a port of this node that somebody else has: why, service, port, and who has it.
    pub(crate) fn contested(&self) -> Vec<(DoorKind, Name, Door, Name)> {
        let tables = self.tables.read();
        let contested = tables.doors.iter().filter_map(|(door, claims)| Some((door, claims.split_first()?)));
        contested
            .flat_map(|(door, (first, others))| {
                others.iter().map(|Claim { rank, .. }| (rank.0, rank.2.clone(), *door, first.rank.2.clone()))
            })
            .filter(|(_, loser, _, owner)| loser != owner)
            .collect()
    }

    /// The doors that services of type LoadBalancer want, whoever has them.
    pub(crate) fn balanced(&self) -> Vec<Door> {
        let tables = self.tables.read();
        let wants = |claims: &[Claim]| claims.iter().any(|claim| claim.rank.0 == DoorKind::LoadBalancer);
        tables.doors.iter().filter(|(_, claims)| wants(claims)).map(|(door, _)| *door).collect()
    }

    /// Takes in an EndpointSlice.
    pub(crate) fn apply_slice(&self, slice: &EndpointSlice) {
        let key = name_of(&slice.metadata);
        let label = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME_LABEL));
        let service = label.map(|service| (key.0.clone(), service.clone()));
        let mut tables = self.tables.write();
        // Backends are worked out once: nobody may see a service without its endpoints in between.
        let old = tables.take_slice(&key);
        if let Some(service) = &service {
            tables.slices_of.entry(service.clone()).or_default().insert(key.1.clone());
            tables.slices.insert(key, Slice::from_slice(slice, service.clone()));
            tables.refresh(service);
        }
        if let Some(old) = old.filter(|old| Some(old) != service.as_ref()) {
            tables.refresh(&old);
        }
    }

    /// Forgets an EndpointSlice.
    pub(crate) fn remove_slice(&self, namespace: &str, name: &str) {
        let mut tables = self.tables.write();
        if let Some(service) = tables.take_slice(&(namespace.to_owned(), name.to_owned())) {
            tables.refresh(&service);
        }
    }

    /// The zone that this node is in, by which endpoints with hints are chosen.
    pub(crate) fn set_zone(&self, zone: Option<&str>) {
        let mut tables = self.tables.write();
        if tables.here.zone.as_deref() == zone {
            return;
        }
        tables.here.zone = zone.map(str::to_owned);
        let all: Vec<Name> = tables.services.keys().cloned().collect();
        all.iter().for_each(|service| tables.refresh(service));
    }

    /// Who answers on a cluster IP, an external IP or that of a load balancer.
    pub(crate) fn frontend(&self, to: SocketAddr, protocol: Protocol) -> Option<(Arc<Frontend>, Entrance)> {
        self.tables.read().frontends.get(&(to, protocol)).cloned()
    }

    /// Who answers on a port of the node's address.
    pub(crate) fn door(&self, door: Door) -> Option<(Arc<Frontend>, Entrance)> {
        let tables = self.tables.read();
        tables.doors.get(&door)?.first()?.lead.clone()
    }

    /// What the node answers at a door itself: how the service is whose health check it is.
    pub(crate) fn health(&self, door: Door) -> Option<Health> {
        let tables = self.tables.read();
        let (kind, _, service) = &tables.doors.get(&door)?.first()?.rank;
        let entry = tables.services.get(service).filter(|_| *kind == DoorKind::HealthCheck)?;
        Some(Health { service: service.clone(), local: entry.ready_here })
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
                let taken = entrance != Entrance::Inside
                    && self.frontends.get(&key).is_some_and(|(_, known)| *known == Entrance::Inside);
                if !taken {
                    self.frontends.insert(key, (Arc::clone(&port.frontend), entrance));
                }
            }
        }
        for (kind, door, lead) in entry.doors() {
            let claims = self.doors.entry(door).or_default();
            claims.push(Claim { rank: (kind, entry.created, name.clone()), lead });
            claims.sort_by(|a, b| a.rank.cmp(&b.rank));
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
        }
        for (_, door, _) in entry.doors() {
            let Some(claims) = self.doors.get_mut(&door) else { continue };
            claims.retain(|claim| claim.rank.2 != *name);
            if claims.is_empty() {
                self.doors.remove(&door);
            }
        }
    }

    /// Who has the doors that these want.
    fn owners<'a>(&self, entries: impl IntoIterator<Item = &'a Entry>) -> DoorChanges {
        let doors = entries.into_iter().flat_map(Entry::doors).map(|(_, door, _)| door);
        let owner = |door: &Door| {
            let first = self.doors.get(door)?.first()?;
            Some((first.rank.0, first.rank.2.clone()))
        };
        doors.map(|door| (door, owner(&door))).collect()
    }

    /// Takes a slice out. The service that it belonged to is to be refreshed.
    fn take_slice(&mut self, key: &Name) -> Option<Name> {
        let old = self.slices.remove(key)?;
        if let Some(slices) = self.slices_of.get_mut(&old.service) {
            slices.remove(&key.1);
            if slices.is_empty() {
                self.slices_of.remove(&old.service);
            }
        }
        Some(old.service)
    }

    /// Works out the backends of a service anew.
    fn refresh(&mut self, service: &Name) {
        let Tables { services, slices, slices_of, owned, api_server, here, .. } = self;
        let Some(entry) = services.get_mut(service) else { return };
        let names = slices_of.get(service).into_iter().flatten();
        let slices: Vec<&Slice> =
            names.filter_map(|name| slices.get(&(service.0.clone(), name.clone()))).collect();
        // Where the API server is while it has no endpoint.
        let own = api_server.filter(|_| service.0 == "default" && service.1 == "kubernetes");
        for port in &entry.ports {
            let mut sets = entry.sets(port, &slices, here);
            if let Some(server) = own
                && sets.all.iter().all(|backends| backends.is_empty())
            {
                sets.all[usize::from(server.is_ipv6())] = [server].into();
            }
            port.frontend.set(sets);
        }
        entry.ready_here = objects::ready_here(&slices, here);
        let named = Arc::new(entry.name(&slices));
        if *named == *entry.named {
            return;
        }
        let old = std::mem::replace(&mut entry.named, Arc::clone(&named));
        let [before, after] = [&old, &named].map(|named| named.addresses().collect::<HashSet<IpAddr>>());
        for address in after.difference(&before) {
            owned.entry(*address).or_default().insert(service.clone());
        }
        self.disown(service, before.difference(&after).copied());
    }

    fn disown(&mut self, service: &Name, addresses: impl IntoIterator<Item = IpAddr>) {
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

pub(crate) fn name_of(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Name {
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}
