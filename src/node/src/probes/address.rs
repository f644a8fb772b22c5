//! Where a probe or a hook looks, and what is said when nobody is there.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use coracle_network::{Fabric, Stream};
use k8s_openapi::{api::core::v1::Container, apimachinery::pkg::util::intstr::IntOrString};

/// Where a check goes, and as whom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Destination {
    pub(super) address: SocketAddr,
    /// The pod that goes there. The node goes to the pod itself, past its policies, as a kubelet does; anywhere else
    /// it would be the pod's way around the policies of others.
    pod: Option<IpAddr>,
}

impl Destination {
    /// The pod itself unless the spec names a host.
    pub(super) fn of(
        host: Option<&str>,
        port: &IntOrString,
        container: &Container,
        pod: IpAddr,
    ) -> Result<Destination, String> {
        let ip = match host.filter(|host| !host.is_empty()) {
            None => pod,
            Some("localhost") => Ipv4Addr::LOCALHOST.into(),
            Some(host) => host.parse().map_err(|_| format!("probe host \"{host}\" is not an IP address"))?,
        };
        let address = SocketAddr::new(ip, self::port(port, container)?);
        Ok(Destination { address, pod: (ip != pod).then_some(pod) })
    }

    /// Connects; the error is in Go's words.
    pub(super) async fn dial(&self, fabric: &Arc<Fabric>) -> Result<Stream, String> {
        let stream = match self.pod {
            None => fabric.connect(self.address).await,
            Some(pod) => fabric.connect_as(pod, self.address).await,
        };
        stream.map_err(|error| format!("dial tcp {}: {}", self.address, dial_problem(&error)))
    }
}

/// A port by number or by the container's name for it.
fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_deref() == Some(name));
            named.map(|port| port.container_port).or_else(|| name.parse().ok()).unwrap_or(-1)
        }
    };
    u16::try_from(number)
        .ok()
        .filter(|number| *number > 0)
        .ok_or_else(|| format!("invalid port number: {number}"))
}

/// Go's words for a failed dial.
pub(crate) fn dial_problem(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".into(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".into(),
        io::ErrorKind::ConnectionReset => "connect: connection reset by peer".into(),
        io::ErrorKind::TimedOut => "i/o timeout".into(),
        _ => error.to_string(),
    }
}
