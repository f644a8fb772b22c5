//! Services and EndpointSlices, reduced to what the fabric needs. Pure, but for the frontends that an update keeps.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::jiff::Timestamp;

use super::frontend::{Backends, Entrance, Frontend, Sets};
use super::{Door, DoorKind, Lead, Name};
use crate::stack::Protocol;

/// How long a client stays with its backend unless the Service says otherwise: three hours.
const AFFINITY_DEFAULT: Duration = Duration::from_secs(10_800);

/// External addresses of one service that are looked at.
const EXTERNAL_IPS: usize = 64;

/// What said where a load balancer's clients may come from, before `loadBalancerSourceRanges` did.
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

/// Which endpoints are near.
#[derive(Debug, Default)]
pub(super) struct Here {
    /// The name of this node.
    pub(super) node: String,
    /// The zone that it is in.
    pub(super) zone: Option<String>,
}

/// One Service.
#[derive(Debug, Default)]
pub(super) struct Entry {
    pub(super) created: Option<Timestamp>,
    cluster_ips: Vec<IpAddr>,
    /// `externalIPs`, and the addresses that a load balancer has given it.
    external_ips: Vec<(IpAddr, Entrance)>,
    internal_local: bool,
    external_local: bool,
    sources: Option<Arc<[IpNet]>>,
    headless: bool,
    external_name: Option<String>,
    pub(super) ports: Vec<Port>,
    /// Where load balancers ask whether this node has endpoints.
    health: Option<u16>,
    /// The endpoints of this node that are ready.
    pub(super) ready_here: usize,
    /// What names say of it.
    pub(super) named: Arc<Named>,
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

/// One port of a Service.
#[derive(Debug)]
pub(super) struct Port {
    name: String,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    doors: Vec<(DoorKind, u16)>,
    pub(super) frontend: Arc<Frontend>,
}

/// One EndpointSlice.
#[derive(Debug)]
pub(super) struct Slice {
    pub(super) service: Name,
    ports: Arc<[NamedService]>,
    endpoints: Vec<Target>,
}

#[derive(Debug)]
struct Target {
    address: IpAddr,
    hostname: Option<String>,
    /// The node that it is on.
    node: Option<String>,
    /// The zones whose clients it is meant for, if anybody says.
    zones: Box<[Box<str>]>,
    ready: bool,
    /// Not ready, but still serving while it terminates: used when nothing is ready.
    draining: bool,
}

impl Entry {
    /// The addresses at which its ports answer.
    pub(super) fn addresses(&self) -> impl Iterator<Item = (IpAddr, Entrance)> + '_ {
        let inside = self.cluster_ips.iter().map(|ip| (*ip, Entrance::Inside));
        inside.chain(self.external_ips.iter().copied())
    }

    /// The ports of the node's address that it wants, why, and where they lead.
    pub(super) fn doors(&self) -> impl Iterator<Item = (DoorKind, Door, Lead)> + '_ {
        let of_port = |port: &Port, kind: DoorKind, number: u16| {
            // A service may have one number for both; then the load balancer's rules hold.
            let balanced = port.doors.contains(&(DoorKind::LoadBalancer, number));
            let entrance = if balanced { Entrance::Balanced } else { Entrance::Outside };
            (kind, (number, port.protocol), Some((Arc::clone(&port.frontend), entrance)))
        };
        let ports = self.ports.iter();
        let of_ports = ports
            .flat_map(move |port| port.doors.iter().map(move |(kind, number)| of_port(port, *kind, *number)));
        let health = self.health.map(|number| (DoorKind::HealthCheck, (number, Protocol::Tcp), None));
        of_ports.chain(health)
    }

    /// `old` lends its frontends, so that turns and affinity outlive an update.
    pub(super) fn from_service(service: &Service, old: Option<&Entry>) -> Entry {
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
        let external = spec.external_ips.iter().flatten().map(|ip| (ip, Entrance::Outside));
        let external = external.chain(balanced_ips.map(|ip| (ip, Entrance::Balanced)));
        let external = external.filter_map(|(ip, entrance)| Some((ip.parse().ok()?, entrance)));
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
                known.name == name && known.protocol == protocol && known.frontend.affinity() == affinity
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
        let external_local = is_local(&spec.external_traffic_policy);
        let health = spec.health_check_node_port.filter(|_| type_ == "LoadBalancer" && external_local);
        // What names said of it so far: the difference tells which addresses it has no more.
        let named = old.map(|old| Arc::clone(&old.named)).unwrap_or_default();
        Entry {
            created: service.metadata.creation_timestamp.as_ref().map(|time| time.0),
            cluster_ips,
            external_ips: external.take(EXTERNAL_IPS).collect(),
            internal_local: is_local(&spec.internal_traffic_policy),
            external_local,
            sources: if type_ == "LoadBalancer" { sources(service, spec) } else { None },
            headless,
            external_name: None,
            ports: ports.collect(),
            health: health.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0),
            ready_here: 0,
            named,
        }
    }

    /// The backends of one of its ports, for clients that are here.
    pub(super) fn sets(&self, port: &Port, slices: &[&Slice], here: &Here) -> Sets {
        let mut families: [Vec<(SocketAddr, &Target)>; 2] = Default::default();
        for slice in slices {
            let is_it = |known: &&NamedService| known.0 == port.name && known.1 == port.protocol;
            for (_, _, number) in slice.ports.iter().filter(is_it) {
                for target in &slice.endpoints {
                    let family = &mut families[usize::from(target.address.is_ipv6())];
                    family.push((SocketAddr::new(target.address, *number), target));
                }
            }
        }
        Sets {
            all: families.each_ref().map(|family| {
                let zone = here.zone.as_deref().filter(|zone| is_enough(family, zone));
                usable(family, |target| zone.is_none_or(|zone| target.is_for(zone)))
            }),
            local: families
                .each_ref()
                .map(|family| usable(family, |target| target.node.as_ref() == Some(&here.node))),
            internal_local: self.internal_local,
            external_local: self.external_local,
            sources: self.sources.clone(),
        }
    }

    /// What names say of it.
    pub(super) fn name(&self, slices: &[&Slice]) -> Named {
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
        let ports = self.ports.iter().map(|port| (port.name.clone(), port.protocol, port.port));
        Named {
            alias: self.external_name.clone(),
            headless: self.headless,
            cluster_ips: self.cluster_ips.clone(),
            ports: ports.collect(),
            endpoints,
        }
    }
}

/// Where the clients of a load balancer may come from; anywhere if `None`. What is no range, which the API takes from
/// nobody, lets nobody in.
fn sources(service: &Service, spec: &ServiceSpec) -> Option<Arc<[IpNet]>> {
    let field = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    let annotation = service.metadata.annotations.as_ref().and_then(|all| all.get(SOURCE_RANGES));
    let annotation = annotation.filter(|text| field.is_empty() && !text.trim().is_empty());
    let texts =
        field.iter().map(String::as_str).chain(annotation.into_iter().flat_map(|text| text.split(',')));
    let mut texts = texts.peekable();
    texts.peek()?;
    let range = |text: &str| {
        let range = text.trim().parse::<IpNet>();
        range.inspect_err(|_| tracing::warn!(text, "a load balancer's source range cannot be read")).ok()
    };
    Some(texts.filter_map(range).collect())
}

/// Whether clients in a zone are given only the endpoints that are meant for it. kube-proxy's rule: every endpoint
/// that is ready says which zones it is for, and one of them is for this one.
fn is_enough(endpoints: &[(SocketAddr, &Target)], zone: &str) -> bool {
    let mut ready = endpoints.iter().map(|(_, target)| target).filter(|target| target.ready);
    ready.clone().all(|target| !target.zones.is_empty()) && ready.any(|target| target.is_for(zone))
}

/// The endpoints among those that are `meant` that are ready, or else those that still serve while they end.
fn usable(endpoints: &[(SocketAddr, &Target)], meant: impl Fn(&Target) -> bool) -> Backends {
    let those = |which: fn(&Target) -> bool| {
        let those = endpoints.iter().filter(|(_, target)| which(target) && meant(target));
        let mut those: Vec<_> = those.map(|(address, _)| *address).collect();
        those.sort();
        those.dedup();
        those
    };
    let ready = those(|target| target.ready);
    if ready.is_empty() { those(|target| target.draining) } else { ready }.into()
}

/// How many endpoints of this node are ready. One with an address of each family counts once.
pub(super) fn ready_here(slices: &[&Slice], here: &Here) -> usize {
    let all = slices.iter().flat_map(|slice| &slice.endpoints);
    let local: HashSet<IpAddr> = all
        .filter(|target| target.ready && target.node.as_ref() == Some(&here.node))
        .map(|target| target.address)
        .collect();
    let v6 = local.iter().filter(|address| address.is_ipv6()).count();
    v6.max(local.len() - v6)
}

impl Named {
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.cluster_ips.iter().copied().chain(self.endpoints.iter().map(|endpoint| endpoint.address))
    }
}

impl Slice {
    pub(super) fn from_slice(slice: &EndpointSlice, service: Name) -> Slice {
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
        let zones = endpoint.hints.iter().flat_map(|hints| hints.for_zones.iter().flatten());
        Some(Target {
            address,
            hostname: endpoint.hostname.clone(),
            node: endpoint.node_name.clone(),
            zones: zones.map(|zone| zone.name.as_str().into()).collect(),
            ready,
            draining: serving && terminating,
        })
    }

    fn is_for(&self, zone: &str) -> bool {
        self.zones.iter().any(|known| **known == *zone)
    }
}
