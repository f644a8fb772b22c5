//! The cluster's own domain: what exists at a name in it, and the names of an address. This is the table that
//! both look-ups and the DNS server read, laid out as Kubernetes' DNS specification has it.
//!
//! ```text
//!  web.ns.svc.cluster.local              a service: its cluster IPs, or its endpoints if it is headless
//!  _http._tcp.web.ns.svc.cluster.local   a port of it
//!  db-0.db.ns.svc.cluster.local          an endpoint by its host name, or by its address: 10-128-0-2.db.ns.svc…
//!  10-128-0-2.ns.pod.cluster.local       a pod's address
//! ```

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::Fabric;
use crate::limits::ADDRESSES_PER_NAME;
use crate::services::{Named, NamedEndpoint};
use crate::stack::Protocol;

/// The version of the DNS specification, `dns-version.cluster.local`.
const VERSION: &str = "1.1.0";

/// What exists at a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Addresses, perhaps none, and where services are.
    Records { addresses: Vec<IpAddr>, services: Vec<Service> },
    /// Another name stands here.
    Alias(String),
    /// A text.
    Text(&'static str),
}

/// Where a port of a service is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) target: String,
    pub(crate) port: u16,
    pub(crate) addresses: Vec<IpAddr>,
}

impl Found {
    fn nothing() -> Found {
        Found::Records { addresses: Vec::new(), services: Vec::new() }
    }

    fn addresses(addresses: Vec<IpAddr>) -> Found {
        Found::Records { addresses, services: Vec::new() }
    }
}

/// Whether a name (lower case, no final dot) is the cluster's domain or lies in it.
pub(crate) fn is_ours(fabric: &Fabric, name: &str) -> bool {
    inside(fabric, name).is_some()
}

/// The part of a name before the cluster's domain.
fn inside<'a>(fabric: &Fabric, name: &'a str) -> Option<&'a str> {
    let before = name.strip_suffix(fabric.config().cluster_domain.as_str())?;
    if before.is_empty() { Some(before) } else { before.strip_suffix('.') }
}

/// What exists at a name in the cluster's domain; `None` if nothing does.
pub(crate) fn find(fabric: &Fabric, name: &str) -> Option<Found> {
    let labels: Vec<&str> = match inside(fabric, name)? {
        "" => Vec::new(),
        inside => inside.rsplit('.').collect(),
    };
    match labels[..] {
        [] | ["svc" | "pod"] => Some(Found::nothing()),
        ["dns-version"] => Some(Found::Text(VERSION)),
        ["svc" | "pod", namespace] => fabric.policies.has_namespace(namespace).then(Found::nothing),
        ["pod", namespace, dashed] if fabric.policies.has_namespace(namespace) => {
            let address = undashed(dashed)?;
            fabric.is_cluster(address).then(|| Found::addresses(vec![address]))
        }
        ["svc", namespace, service] => {
            let named = fabric.services().named(namespace, service)?;
            Some(match &named.alias {
                Some(alias) => Found::Alias(alias.clone()),
                None => Found::Records { addresses: addresses(&named), services: ports(&named, name, None) },
            })
        }
        ["svc", namespace, service, protocol @ ("_tcp" | "_udp")] => {
            let _ = protocol;
            fabric.services().named(namespace, service).map(|_| Found::nothing())
        }
        ["svc", namespace, service, host] => {
            let named = fabric.services().named(namespace, service)?;
            let is_it = |endpoint: &&NamedEndpoint| host_of(endpoint) == host;
            let found: Vec<_> = named.endpoints.iter().filter(is_it).collect();
            let services = found.iter().flat_map(|endpoint| {
                let ports = endpoint.ports.iter().map(|(_, _, port)| *port);
                ports.map(|port| (name.to_owned(), port, endpoint.address))
            });
            let addresses = unique(found.iter().map(|endpoint| endpoint.address));
            (!addresses.is_empty()).then(|| Found::Records { addresses, services: gathered(services) })
        }
        ["svc", namespace, service, protocol, port] => {
            let protocol = match protocol {
                "_tcp" => Protocol::Tcp,
                "_udp" => Protocol::Udp,
                _ => return None,
            };
            let port = port.strip_prefix('_')?;
            let named = fabric.services().named(namespace, service)?;
            let at = format!("{service}.{namespace}.svc.{}", fabric.config().cluster_domain);
            let services = ports(&named, &at, Some((port, protocol)));
            let mut addresses: Vec<IpAddr> =
                services.iter().flat_map(|service| service.addresses.iter().copied()).collect();
            addresses.sort();
            addresses.dedup();
            (!services.is_empty()).then_some(Found::Records { addresses, services })
        }
        _ => None,
    }
}

/// The names of an address of the cluster: of the service whose cluster IP it is, or of the endpoints that have it.
pub(crate) fn names_of(fabric: &Fabric, address: IpAddr) -> Vec<String> {
    let domain = &fabric.config().cluster_domain;
    let owners = fabric.services().owners_of(address);
    let whole = owners.iter().filter(|(_, named)| named.cluster_ips.contains(&address));
    let names: Vec<_> =
        whole.map(|((namespace, service), _)| format!("{service}.{namespace}.svc.{domain}")).collect();
    if !names.is_empty() {
        return names;
    }
    let parts = owners.iter().flat_map(|((namespace, service), named)| {
        let own = named.endpoints.iter().filter(|endpoint| endpoint.address == address);
        own.map(move |endpoint| format!("{}.{service}.{namespace}.svc.{domain}", host_of(endpoint)))
    });
    unique(parts.take(ADDRESSES_PER_NAME))
}

/// What the name of a service leads to.
fn addresses(named: &Named) -> Vec<IpAddr> {
    let mut addresses = match named.headless {
        true => unique(named.endpoints.iter().map(|endpoint| endpoint.address)),
        false => named.cluster_ips.clone(),
    };
    addresses.truncate(ADDRESSES_PER_NAME);
    addresses
}

/// Where the ports of the service `at` are: all of them, or the one with this name and protocol.
fn ports(named: &Named, at: &str, only: Option<(&str, Protocol)>) -> Vec<Service> {
    let wanted = |name: &str, protocol: Protocol| only.is_none_or(|only| only == (name, protocol));
    if !named.headless {
        let ports = named.ports.iter().filter(|(name, protocol, _)| wanted(name, *protocol));
        let services = ports.map(|(_, _, port)| Service {
            target: at.to_owned(),
            port: *port,
            addresses: named.cluster_ips.clone(),
        });
        return services.collect();
    }
    let services = named.endpoints.iter().flat_map(|endpoint| {
        let ports = endpoint.ports.iter().filter(|(name, protocol, _)| wanted(name, *protocol));
        ports.map(|(_, _, port)| (format!("{}.{at}", host_of(endpoint)), *port, endpoint.address))
    });
    // A service of two families has each endpoint twice.
    let mut services = gathered(services.take(2 * ADDRESSES_PER_NAME));
    services.truncate(ADDRESSES_PER_NAME);
    services
}

/// Endpoints of the same name and port are one: each family of addresses has a slice of its own.
fn gathered(endpoints: impl Iterator<Item = (String, u16, IpAddr)>) -> Vec<Service> {
    let mut services: Vec<Service> = Vec::new();
    let mut known: HashMap<(String, u16), usize> = HashMap::new();
    for (target, port, address) in endpoints {
        let next = services.len();
        let at = *known.entry((target.clone(), port)).or_insert(next);
        if at == next {
            services.push(Service { target, port, addresses: Vec::new() });
        }
        let addresses = &mut services[at].addresses;
        if addresses.len() < ADDRESSES_PER_NAME && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    services
}

/// Each of them once, in the order in which they come.
fn unique<T: Clone + Eq + Hash>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut known = HashSet::new();
    all.filter(|one| known.insert(one.clone())).collect()
}

/// The label of an endpoint: its own host name, or its address with dashes.
fn host_of(endpoint: &NamedEndpoint) -> String {
    endpoint.hostname.clone().unwrap_or_else(|| dashed(endpoint.address))
}

fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

fn undashed(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
    v4.or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6)).ok()
}
