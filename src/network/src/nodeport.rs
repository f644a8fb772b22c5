//! NodePorts: the kernel listeners through which the outside reaches services.
//!
//! ```text
//!  wanted ──▶ opening ──bound──▶ open ──no longer wanted──▶ closed (open connections go on)
//!               ▲  │ refused: reported, logged once
//!               └──┘ tried again, ever more slowly
//! ```

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::admit::Origin;
use crate::fabric::Route;
use crate::limits::{NODE_PORT_CONNECTIONS, NODE_PORT_RETRY_MAX};
use crate::services::{Name, WantedPorts};
use crate::stack::{Protocol, Stack};
use crate::{Fabric, NetworkError};

/// What waits in the kernel until a proxy takes it.
const KERNEL_BACKLOG: u32 = 1024;

/// The first pause between tries to open a port; it doubles up to [`NODE_PORT_RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_millis(100);

/// The pause after the kernel refused to hand out a connection (usually: no descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A NodePort that could not be opened on the node's address; it is tried again until it can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePortProblem {
    /// The namespace of the Service.
    pub namespace: String,
    /// The name of the Service.
    pub service: String,
    /// The kernel address that was refused.
    pub address: SocketAddr,
    /// What the kernel said.
    pub reason: String,
}

/// The NodePorts of this node.
#[derive(Debug, Default)]
pub(crate) struct NodePorts {
    ports: Mutex<BTreeMap<u16, NodePort>>,
}

#[derive(Debug)]
struct NodePort {
    service: Name,
    stop: CancellationToken,
    problem: Arc<Mutex<Option<String>>>,
}

impl NodePorts {
    /// Opens and closes until exactly the wanted ports are open.
    pub(crate) fn sync(&self, fabric: &Arc<Fabric>, wanted: WantedPorts) {
        let mut ports = self.ports.lock();
        ports.retain(|port, open| {
            let keep = wanted.contains_key(port);
            if !keep {
                open.stop.cancel();
            }
            keep
        });
        for (port, service) in wanted {
            if let Some(open) = ports.get_mut(&port) {
                open.service = service;
                continue;
            }
            let stop = fabric.stop().child_token();
            let problem = Arc::new(Mutex::new(None));
            fabric.spawn_detached(run(Arc::clone(fabric), port, stop.clone(), Arc::clone(&problem)));
            ports.insert(port, NodePort { service, stop, problem });
        }
    }

    pub(crate) fn problems(&self, bind: IpAddr) -> Vec<NodePortProblem> {
        let ports = self.ports.lock();
        let problems = ports.iter().filter_map(|(port, open)| {
            let reason = open.problem.lock().clone()?;
            let (namespace, service) = open.service.clone();
            Some(NodePortProblem { namespace, service, address: SocketAddr::new(bind, *port), reason })
        });
        problems.collect()
    }
}

async fn run(fabric: Arc<Fabric>, port: u16, stop: CancellationToken, problem: Arc<Mutex<Option<String>>>) {
    let address = SocketAddr::new(fabric.config().node_port_bind, port);
    let work = async {
        let listener = open(address, &problem).await;
        tracing::debug!(%address, "NodePort open");
        serve(&fabric, &listener, &Target::Service(port)).await;
    };
    stop.run_until_cancelled(work).await;
}

async fn open(address: SocketAddr, problem: &Mutex<Option<String>>) -> TcpListener {
    let mut pause = RETRY_FIRST;
    loop {
        match listen(address) {
            Ok(listener) => {
                *problem.lock() = None;
                return listener;
            }
            Err(error) => {
                let known = problem.lock().replace(error.to_string()).is_some();
                if !known {
                    tracing::warn!(%address, %error, "NodePort cannot be opened, trying again");
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(NODE_PORT_RETRY_MAX);
    }
}

/// Listens on an address of the host. Must be called inside a Tokio runtime.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(KERNEL_BACKLOG)
}

/// Where the connections of a listener on the host go.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// To the backends of the service with this NodePort.
    Service(u16),
    /// To a port of one pod.
    Pod(Arc<Stack>, u16),
}

impl Target {
    /// The way for a client, and the address that it is taken to have dialled.
    fn route(&self, fabric: &Fabric, client: SocketAddr) -> Result<(Route, SocketAddr), NetworkError> {
        let origin = Origin::visitor(client.ip());
        match self {
            Target::Service(port) => {
                let frontend =
                    fabric.services().node_port(*port, Protocol::Tcp).ok_or(NetworkError::Closed)?;
                let to = SocketAddr::new(fabric.config().node_port_bind, *port);
                Ok((fabric.route_to_backend(&frontend, &origin, to, Protocol::Tcp)?, to))
            }
            Target::Pod(stack, port) => {
                let to = SocketAddr::new(stack.ip.into(), *port);
                Ok((fabric.route_to_pod(&origin, Arc::clone(stack), to, Protocol::Tcp)?, to))
            }
        }
    }
}

/// Carries what a listener on the host accepts to its target, for ever.
pub(crate) async fn serve(fabric: &Arc<Fabric>, listener: &TcpListener, target: &Target) {
    let places = Arc::new(Semaphore::new(NODE_PORT_CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("never closed");
        match listener.accept().await {
            Ok((client, from)) => {
                let (fabric_of_task, target) = (Arc::clone(fabric), target.clone());
                fabric.spawn_detached(async move {
                    proxy(&fabric_of_task, client, from, &target).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(address = ?listener.local_addr().ok(), %error, "a port of the host cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn proxy(fabric: &Arc<Fabric>, client: TcpStream, from: SocketAddr, target: &Target) {
    let dial = async {
        let (route, to) = target.route(fabric, from)?;
        crate::tcp::dial(fabric, route, fabric.visitor(Some(from), to)).await
    };
    let result = tokio::select! {
        () = fabric.stop().cancelled() => return,
        result = dial => result,
    };
    match result {
        Ok(stream) => {
            if let Err(error) = crate::kernel::pump(client, stream, fabric.stop()).await {
                tracing::debug!(%from, %error, "a connection through the host ended early");
            }
        }
        Err(error) => {
            // What a client of a real NodePort sees when no endpoint takes the connection.
            tracing::debug!(%from, %error, "a connection through the host was refused");
            let _ = client.set_zero_linger();
        }
    }
}
