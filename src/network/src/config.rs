//! What a node tells its fabric, and what a pod tells its stack.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use coracle_budget::Budget;
use ipnet::{Ipv4Net, Ipv6Net};
use k8s_openapi::api::core::v1::Pod;

use crate::names::outside::SystemResolver;
use crate::stack::Protocol;
use crate::{ClusterNames, DnsConfig, HostNames, HostResolver};

/// The facts a node's network is built from.
///
/// `Config::default()` holds the cluster-wide defaults, so that a caller names only what differs.
#[derive(Clone, Debug)]
pub struct Config {
    /// The range that this node gives its pods addresses from (`spec.podCIDR` of the Node).
    pub pod_cidr: Ipv4Net,
    /// The same for IPv6: the n-th pod address of one family belongs to the n-th of the other. Without it
    /// pods have no IPv6 address but `::1`.
    pub pod_cidr_v6: Option<Ipv6Net>,
    /// The range of all pods of the cluster. What lies in it never leaves through the kernel.
    pub cluster_cidr: Ipv4Net,
    /// The same for IPv6.
    pub cluster_cidr_v6: Option<Ipv6Net>,
    /// The range of cluster IPs. What lies in it never leaves through the kernel.
    pub service_cidr: Ipv4Net,
    /// The same for IPv6.
    pub service_cidr_v6: Option<Ipv6Net>,
    /// The domain behind service names, `cluster.local`.
    pub cluster_domain: String,
    /// The node's own addresses: guests reach NodePorts on them and nothing else.
    pub node_addresses: Vec<IpAddr>,
    /// The kernel address on which NodePorts listen. `[::]` is every address of both families.
    pub node_port_bind: IpAddr,
    /// Kernel sockets of this host that guests may reach, and only through a Service whose endpoints
    /// name them (the API server behind `kubernetes.default`).
    pub host_endpoints: Vec<SocketAddr>,
    /// Where the API server listens on this host, if it does: what `kubernetes.default` leads to while it has no
    /// endpoint, as it is with a server that listens on the loopback only.
    pub api_server: Option<SocketAddr>,
    /// The name of this node: which endpoints are local to it.
    pub node_name: String,
    /// Where the cluster's DNS server is, an address of the service range; none if `None`. A Service of that address
    /// that has endpoints takes its place.
    pub cluster_dns: Option<IpAddr>,
    /// Who knows the names of the world.
    pub resolver: Arc<dyn HostResolver>,
    /// Whether pods reach the outside unless something forbids it, or only where something allows it.
    pub egress: Egress,
}

impl Config {
    /// What names of this cluster end in, and who answers for them.
    #[must_use]
    pub fn cluster_names(&self) -> ClusterNames {
        let server = self.cluster_dns.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        ClusterNames { domain: self.cluster_domain.clone(), server }
    }
}

/// What a pod may reach outside the cluster if neither a NetworkPolicy nor its annotations say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Egress {
    /// Everything, as in Kubernetes; what would break out of the sandbox is forbidden all the same.
    #[default]
    Allow,
    /// Nothing. What is in the cluster stays reachable.
    Deny,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            pod_cidr: net([10, 128, 0, 0], 18),
            pod_cidr_v6: Some(net6(0, 64)),
            cluster_cidr: net([10, 128, 0, 0], 9),
            cluster_cidr_v6: Some(net6(0, 48)),
            service_cidr: net([10, 96, 0, 0], 16),
            service_cidr_v6: Some(net6(0xffff, 112)),
            cluster_domain: "cluster.local".to_owned(),
            node_addresses: Vec::new(),
            node_port_bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
            host_endpoints: Vec::new(),
            api_server: None,
            node_name: String::new(),
            cluster_dns: Some(Ipv4Addr::new(10, 96, 0, 10).into()),
            resolver: Arc::new(SystemResolver),
            egress: Egress::Allow,
        }
    }
}

fn net(address: [u8; 4], prefix: u8) -> Ipv4Net {
    Ipv4Net::new(Ipv4Addr::from(address), prefix).expect("a constant prefix of at most 32 bits")
}

/// A network of a unique local range, for who names no other.
fn net6(subnet: u16, prefix: u8) -> Ipv6Net {
    let address = Ipv6Addr::new(0xfd0c, 0x0ac1, 0xe000, subnet, 0, 0, 0, 0);
    Ipv6Net::new(address, prefix).expect("a constant prefix of at most 128 bits")
}

/// How fast a pod may send and receive, in bits per second. Its loopback is not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// What comes to the pod (`kubernetes.io/ingress-bandwidth`).
    pub ingress: Option<u64>,
    /// What the pod sends (`kubernetes.io/egress-bandwidth`).
    pub egress: Option<u64>,
}

/// Who a stack belongs to, and which address it would like to keep.
#[derive(Clone, Debug, Default)]
pub struct PodConfig {
    /// The pod's namespace: short service names are looked up in it first.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's uid.
    pub uid: String,
    /// The name by which the pod resolves itself; the pod's name if empty.
    pub hostname: String,
    /// How it resolves names; the cluster first if `None`.
    pub dns: Option<DnsConfig>,
    /// What it resolves without asking; its host name if `None`.
    pub host_names: Option<HostNames>,
    /// An address to keep if it is free (a pod that outlives its agent keeps its IP).
    pub want_ip: Option<Ipv4Addr>,
    /// What pays for the bytes that wait in the pod's sockets; without one they are only bounded.
    pub budget: Option<Arc<Budget>>,
    /// How fast the pod may talk to others.
    pub bandwidth: Bandwidth,
    /// The pod's labels, by which NetworkPolicies know it.
    pub labels: BTreeMap<String, String>,
    /// The ports of its containers that have names.
    pub ports: Vec<NamedPort>,
    /// `coracle.dev/egress-hosts`: the names of the hosts outside that it may reach; all if `None`.
    pub egress_hosts: Option<String>,
}

/// A port of a container that has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPort {
    name: Box<str>,
    protocol: Protocol,
    port: u16,
}

impl NamedPort {
    /// `protocol` as in a container's spec; `None` for one that pods here do not speak.
    #[must_use]
    pub fn new(name: &str, protocol: &str, port: u16) -> Option<NamedPort> {
        Some(NamedPort { name: name.into(), protocol: Protocol::of(Some(protocol))?, port })
    }

    /// The named ports of all containers of a pod.
    #[must_use]
    pub fn of_pod(pod: &Pod) -> Vec<NamedPort> {
        let Some(spec) = &pod.spec else { return Vec::new() };
        let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
        let ports = containers.flat_map(|container| container.ports.iter().flatten());
        let named = ports.filter_map(|port| {
            let protocol = port.protocol.as_deref().unwrap_or_default();
            NamedPort::new(port.name.as_deref()?, protocol, u16::try_from(port.container_port).ok()?)
        });
        named.collect()
    }

    pub(crate) fn is(&self, name: &str, protocol: Protocol, port: u16) -> bool {
        self.port == port && self.protocol == protocol && *self.name == *name
    }
}
