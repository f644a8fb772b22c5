//! Host ports: kernel listeners that lead to one pod (`hostPort`). They end with the pod's stack.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use crate::nodeport::{self, Target};
use crate::visitors;
use crate::{NetworkError, PodStack, Protocol};

/// A port of the host that leads to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// The address of the host; the one on which NodePorts listen if it is `None` or unspecified.
    pub ip: Option<IpAddr>,
    /// The port of the host.
    pub port: u16,
    /// The port of the pod.
    pub target: u16,
    /// Which of the two ports of that number.
    pub protocol: Protocol,
}

impl PodStack {
    /// Opens a port of the host for this pod, at once, until the stack closes.
    ///
    /// # Errors
    /// The kernel refuses the port: somebody else has it, or it takes rights that this process lacks. Or the
    /// address is one on which this node does not serve: a pod cannot reach beyond what the node's own ports are
    /// open to.
    pub fn open_host_port(&self, host: HostPort) -> Result<(), NetworkError> {
        let fabric = self.stack().fabric.upgrade().ok_or(NetworkError::Closed)?;
        let node = fabric.config().node_port_bind;
        let ip = host.ip.filter(|ip| !ip.is_unspecified()).unwrap_or(node);
        let address = SocketAddr::new(ip, host.port);
        if ip != node && !ip.is_loopback() && !node.is_unspecified() {
            return Err(NetworkError::AddressNotAvailable(address));
        }
        let stop = self.stack().host_ports().ok_or(NetworkError::Closed)?;
        let target = Target::Pod(Arc::clone(self.stack()), host.target);
        let refused = |error: io::Error| refusal(address, &error);
        let serve: Pin<Box<dyn Future<Output = ()> + Send>> = {
            let _runtime = fabric.enter();
            let of_task = Arc::clone(&fabric);
            match host.protocol {
                Protocol::Tcp => {
                    let listener = nodeport::listen(address).map_err(refused)?;
                    Box::pin(async move { nodeport::serve(&of_task, &listener, &target).await })
                }
                Protocol::Udp => {
                    let socket = nodeport::bind_udp(address).map_err(refused)?;
                    Box::pin(async move { visitors::serve(&of_task, socket, &target).await })
                }
            }
        };
        let fabric_stop = fabric.stop().clone();
        let task = async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = fabric_stop.cancelled() => {}
                () = serve => {}
            }
        };
        fabric.spawn_detached(task);
        Ok(())
    }
}

fn refusal(address: SocketAddr, error: &io::Error) -> NetworkError {
    match error.kind() {
        io::ErrorKind::AddrInUse => NetworkError::AddressInUse(address),
        io::ErrorKind::AddrNotAvailable => NetworkError::AddressNotAvailable(address),
        kind => NetworkError::Kernel { address, kind },
    }
}
