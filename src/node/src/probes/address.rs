//! Where a probe or a hook looks, and what is said when nobody is there.

use std::{io, net::IpAddr};

use k8s_openapi::{api::core::v1::Container, apimachinery::pkg::util::intstr::IntOrString};

/// The pod itself unless the spec names a host.
pub(super) fn host(host: Option<&str>, pod: IpAddr) -> Result<IpAddr, String> {
    match host.filter(|host| !host.is_empty()) {
        None => Ok(pod),
        Some(host) => host.parse().map_err(|_| format!("probe host \"{host}\" is not an IP address")),
    }
}

/// A port by number or by the container's name for it.
pub(super) fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
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
pub(super) fn dial_problem(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".into(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".into(),
        io::ErrorKind::ConnectionReset => "connect: connection reset by peer".into(),
        io::ErrorKind::TimedOut => "i/o timeout".into(),
        _ => error.to_string(),
    }
}
