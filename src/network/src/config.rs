//! What a node tells its fabric, and what a pod tells its stack.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::Ipv4Net;

/// The facts a node's network is built from.
///
/// `Config::default()` holds the cluster-wide defaults, so that a caller names only what differs.
#[derive(Clone, Debug)]
pub struct Config {
    /// The range that this node gives its pods addresses from (`spec.podCIDR` of the Node).
    pub pod_cidr: Ipv4Net,
    /// The range of all pods of the cluster. What lies in it never leaves through the kernel.
    pub cluster_cidr: Ipv4Net,
    /// The range of cluster IPs. What lies in it never leaves through the kernel.
    pub service_cidr: Ipv4Net,
    /// The domain behind service names, `cluster.local`.
    pub cluster_domain: String,
    /// The node's own addresses: guests reach NodePorts on them and nothing else.
    pub node_addresses: Vec<IpAddr>,
    /// The kernel address on which NodePorts listen.
    pub node_port_bind: IpAddr,
    /// Kernel sockets of this host that guests may reach, and only through a Service whose endpoints
    /// name them (the API server behind `kubernetes.default`).
    pub host_endpoints: Vec<SocketAddr>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            pod_cidr: net([10, 128, 0, 0], 18),
            cluster_cidr: net([10, 128, 0, 0], 9),
            service_cidr: net([10, 96, 0, 0], 16),
            cluster_domain: "cluster.local".to_owned(),
            node_addresses: Vec::new(),
            node_port_bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
            host_endpoints: Vec::new(),
        }
    }
}

fn net(address: [u8; 4], prefix: u8) -> Ipv4Net {
    Ipv4Net::new(Ipv4Addr::from(address), prefix).expect("a constant prefix of at most 32 bits")
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
    /// An address to keep if it is free (a pod that outlives its agent keeps its IP).
    pub want_ip: Option<Ipv4Addr>,
}
