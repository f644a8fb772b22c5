//! Doors: the kernel sockets through which the outside reaches services: NodePorts, and the ports of services
//! of type LoadBalancer on the node's address; and those where load balancers ask for a service's health.
//!
//! ```text
//!  wanted ──▶ opening ──bound──▶ open ──no longer wanted──▶ closed (open connections go on)
//!               ▲  │ refused: reported, logged once
//!               └──┘ tried again, ever more slowly
//! ```

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::admit::Origin;
use crate::fabric::Route;
use crate::limits::{NODE_PORT_CONNECTIONS, NODE_PORT_RETRY_MAX};
use crate::policy::canonical;
use crate::services::{Caller, Door, DoorChanges, DoorKind, Name};
use crate::stack::{Protocol, Stack};
use crate::{Fabric, NetworkError};

/// What waits in the kernel until a proxy takes it.
const KERNEL_BACKLOG: i32 = 1024;

/// The first pause between tries to open a port; it doubles up to [`NODE_PORT_RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_millis(100);

/// The pause after the kernel refused to hand out a connection (usually: no descriptors left), and until it is looked
/// again whether there is a place for one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A port of the node's address that a service wants and does not have. It is tried again until it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoorProblem {
    /// The namespace of the Service.
    pub namespace: String,
    /// The name of the Service.
    pub service: String,
    /// Why the service wants it.
    pub kind: DoorKind,
    /// The kernel address that was refused.
    pub address: SocketAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// What the kernel said, or who has the port.
    pub reason: String,
}

/// The doors of this node.
#[derive(Debug, Default)]
pub(crate) struct NodePorts {
    doors: Mutex<BTreeMap<Door, Opened>>,
    changed: Arc<Notify>,
}

#[derive(Debug)]
struct Opened {
    kind: DoorKind,
    service: Name,
    stop: CancellationToken,
    state: Arc<Mutex<State>>,
}

/// How far a door is.
#[derive(Clone, Debug)]
enum State {
    /// Not tried yet.
    Opening,
    Open,
    /// What the kernel said; it is tried again.
    Refused(String),
}

impl NodePorts {
    /// Opens and closes what has changed.
    pub(crate) fn sync(&self, fabric: &Arc<Fabric>, changes: DoorChanges) {
        if changes.is_empty() {
            return;
        }
        let mut doors = self.doors.lock();
        for (door, owner) in changes {
            let Some((kind, service)) = owner else {
                if let Some(open) = doors.remove(&door) {
                    open.stop.cancel();
                }
                continue;
            };
            if let Some(open) = doors.get_mut(&door) {
                (open.kind, open.service) = (kind, service);
                continue;
            }
            let stop = fabric.stop().child_token();
            let state = Arc::new(Mutex::new(State::Opening));
            let told = (Arc::clone(&state), Arc::clone(&self.changed));
            fabric.spawn_detached(run(Arc::clone(fabric), door, stop.clone(), told));
            doors.insert(door, Opened { kind, service, stop, state });
        }
        drop(doors);
        self.changed.notify_one();
    }

    pub(crate) fn problems(&self, fabric: &Fabric) -> Vec<DoorProblem> {
        let bind = fabric.config().node_port_bind;
        let problem = |(namespace, service), (port, protocol), kind, reason| DoorProblem {
            namespace,
            service,
            kind,
            address: SocketAddr::new(bind, port),
            protocol,
            reason,
        };
        let doors = self.doors.lock();
        let refused = doors.iter().filter_map(|(door, open)| {
            let State::Refused(reason) = open.state.lock().clone() else { return None };
            Some(problem(open.service.clone(), *door, open.kind, reason))
        });
        let mut problems: Vec<_> = refused.collect();
        drop(doors);
        problems.extend(fabric.services().contested().into_iter().map(
            |(kind, loser, door, (namespace, name))| {
                let reason = format!("the service {namespace}/{name} has it");
                problem(loser, door, kind, reason)
            },
        ));
        problems
    }

    /// The open doors among those that load balancers want, in order; `None` while one was not tried yet.
    pub(crate) fn balanced(&self, fabric: &Fabric) -> Option<Vec<Door>> {
        let mut wanted = fabric.services().balanced();
        wanted.sort_unstable();
        let doors = self.doors.lock();
        let mut open = Vec::new();
        for door in wanted {
            match doors.get(&door).map(|opened| opened.state.lock().clone()) {
                Some(State::Open) => open.push(door),
                Some(State::Refused(_)) => {}
                None | Some(State::Opening) => return None,
            }
        }
        Some(open)
    }

    /// Waits until there may be other problems, or other open doors.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// Where a door says how far it is.
type Told = (Arc<Mutex<State>>, Arc<Notify>);

async fn run(fabric: Arc<Fabric>, door: Door, stop: CancellationToken, told: Told) {
    let address = SocketAddr::new(fabric.config().node_port_bind, door.0);
    let target = Target::Service(door);
    let work = async {
        match door.1 {
            Protocol::Tcp => {
                let listener = open(address, &told, listen).await;
                serve(&fabric, &listener, &target).await;
            }
            Protocol::Udp => {
                let socket = open(address, &told, bind_udp).await;
                crate::visitors::serve(&fabric, socket, &target).await;
            }
        }
    };
    stop.run_until_cancelled(work).await;
}

async fn open<T>(
    address: SocketAddr,
    (state, changed): &Told,
    try_open: fn(SocketAddr) -> io::Result<T>,
) -> T {
    let mut pause = RETRY_FIRST;
    loop {
        match try_open(address) {
            Ok(socket) => {
                *state.lock() = State::Open;
                changed.notify_one();
                tracing::debug!(%address, "a port of the node is open");
                return socket;
            }
            Err(error) => {
                let before = std::mem::replace(&mut *state.lock(), State::Refused(error.to_string()));
                if !matches!(before, State::Refused(_)) {
                    tracing::warn!(%address, %error, "a port of the node cannot be opened, trying again");
                    changed.notify_one();
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(NODE_PORT_RETRY_MAX);
    }
}

/// Listens on an address of the host. Must be called inside a Tokio runtime.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let (socket, address) = socket(address, Type::STREAM)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(KERNEL_BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// A datagram socket of the host. Must be called inside a Tokio runtime.
pub(crate) fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let (socket, address) = socket(address, Type::DGRAM)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

/// A socket for an address. `[::]` is both families, and IPv4 alone on a host that has no other.
fn socket(address: SocketAddr, type_: Type) -> io::Result<(Socket, SocketAddr)> {
    let any = address.ip() == Ipv6Addr::UNSPECIFIED;
    let (socket, address) = match Socket::new(Domain::for_address(address), type_, None) {
        Err(_) if any => {
            (Socket::new(Domain::IPV4, type_, None)?, (Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        socket => (socket?, address),
    };
    if address.ip() == Ipv6Addr::UNSPECIFIED {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

/// Where what arrives at a socket of the host goes.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// To the backends of the service that has this door.
    Service(Door),
    /// To a port of one pod.
    Pod(Arc<Stack>, u16),
}

impl Target {
    /// The way for a client, and the address that it is taken to have dialled.
    pub(crate) fn route(
        &self,
        fabric: &Fabric,
        client: SocketAddr,
        protocol: Protocol,
    ) -> Result<(Route, SocketAddr), NetworkError> {
        let client = canonical(client.ip());
        let origin = Origin::visitor(client);
        match self {
            Target::Service(door) => {
                let (frontend, entrance) = fabric.services().door(*door).ok_or(NetworkError::Closed)?;
                let caller = |is_v6| Caller { client, origin: &origin, entrance, is_v6 };
                // Who finds nobody of its own family is taken to the other one, as if by the node.
                let (own, other) = (client.is_ipv6(), !client.is_ipv6());
                let crosses = !frontend.serves(&caller(own)) && frontend.serves(&caller(other));
                let is_v6 = if crosses { other } else { own };
                let bind = fabric.config().node_port_bind;
                let any: IpAddr =
                    if is_v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
                let to = SocketAddr::new(if bind.is_ipv6() == is_v6 { bind } else { any }, door.0);
                Ok((fabric.route_to_backend(&frontend, caller(is_v6), to, protocol)?, to))
            }
            Target::Pod(stack, port) => {
                let v6 = stack.ip6.filter(|_| client.is_ipv6()).map(|ip| SocketAddr::new(ip.into(), *port));
                let v6 = v6.filter(|to| stack.hears(*to, protocol));
                let to = v6.unwrap_or_else(|| SocketAddr::new(stack.ip.into(), *port));
                Ok((fabric.route_to_pod(&origin, Arc::clone(stack), to, protocol)?, to))
            }
        }
    }

    /// Whether a client that was taken to `backend` would still be.
    pub(crate) fn has(&self, fabric: &Fabric, client: SocketAddr, backend: SocketAddr) -> bool {
        let Target::Service(door) = self else { return true };
        let Some((frontend, entrance)) = fabric.services().door(*door) else { return false };
        let client = canonical(client.ip());
        let origin = Origin::visitor(client);
        frontend.has(&Caller { client, origin: &origin, entrance, is_v6: backend.is_ipv6() }, backend)
    }
}

/// Carries what a listener on the host accepts to its target, for ever.
pub(crate) async fn serve(fabric: &Arc<Fabric>, listener: &TcpListener, target: &Target) {
    let connections = fabric.doors().share(NODE_PORT_CONNECTIONS);
    loop {
        match listener.accept().await {
            Ok((client, from)) => {
                // Only now: a port that nobody uses has no place of those that all ports share.
                let permit = loop {
                    match connections.take() {
                        Some(permit) => break permit,
                        None => tokio::time::sleep(ACCEPT_PAUSE).await,
                    }
                };
                let (fabric_of_task, target) = (Arc::clone(fabric), target.clone());
                fabric.spawn_detached(async move {
                    proxy(&fabric_of_task, client, from, &target).await;
                    drop(permit);
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
    if let Target::Service(door) = target
        && fabric.services().health(*door).is_some()
    {
        return crate::health::answer(fabric, client, *door).await;
    }
    let dial = async {
        let (route, to) = target.route(fabric, from, Protocol::Tcp)?;
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

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::Config;

    #[tokio::test]
    async fn a_port_that_nobody_uses_has_no_place() {
        let fabric = Fabric::build(Config::default());
        let listener = listen((Ipv4Addr::LOCALHOST, 0).into()).expect("a port");
        let address = listener.local_addr().expect("bound");
        // Of no service: who comes is told so.
        let target = Target::Service((1, Protocol::Tcp));
        let mut served = pin!(serve(&fabric, &listener, &target));
        tokio::select! {
            biased;
            () = &mut served => {}
            () = std::future::ready(()) => {}
        }
        assert_eq!(fabric.doors().held(), 0);
        let client = async {
            let mut client = TcpStream::connect(address).await.expect("it listens");
            client.read(&mut [0]).await.expect_err("a reset")
        };
        let told = tokio::select! {
            () = &mut served => None,
            told = tokio::time::timeout(Duration::from_secs(10), client) => told.ok(),
        };
        assert_eq!(told.map(|error| error.kind()), Some(io::ErrorKind::ConnectionReset));
    }
}
