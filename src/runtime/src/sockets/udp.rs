//! `wasi:sockets/udp` and `udp-create-socket`.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;

use coracle_network::{NetworkError, UdpSocket as Socket};
use wasmtime::component::Resource;
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddressFamily, IpSocketAddress, Network};
use wasmtime_wasi::p2::bindings::sockets::udp::{
    Host, HostIncomingDatagramStream, HostOutgoingDatagramStream, HostUdpSocket, IncomingDatagram,
    IncomingDatagramStream as TheirIncoming, OutgoingDatagram, OutgoingDatagramStream as TheirOutgoing,
};
use wasmtime_wasi::p2::bindings::sockets::udp_create_socket;
use wasmtime_wasi::p2::{DynPollable, Pollable, SocketError, SocketResult, UdpSocket as Theirs, subscribe};

use super::errors::error_code;
use super::options::{Options, buffer_size, options, positive};
use super::{NetView, Place, check_family, check_remote, ours, ours_owned, theirs};

/// Datagrams handed over in one call, either way.
const DATAGRAMS_PER_CALL: usize = 16;

/// Bytes handed over in one `receive`, give or take one datagram.
const BYTES_PER_CALL: usize = 64 << 10;

/// A UDP socket of a guest.
struct UdpSocket {
    family: IpAddressFamily,
    state: State,
    options: Options,
    _place: Place,
}

enum State {
    Unbound,
    /// `start-bind` has been called, `finish-bind` not yet. The address is held already.
    Binding(Arc<Socket>),
    Bound(Arc<Socket>),
}

struct Incoming(Arc<Socket>);

struct Outgoing {
    socket: Arc<Socket>,
    family: IpAddressFamily,
    /// What the last `check-send` allowed.
    permit: usize,
}

/// Whether this is an IPv4 client of a socket on `::`, which is dual-stack here, and answers such clients by the
/// address that it saw.
pub(crate) fn answers_ipv4(socket: &Socket, to: SocketAddr) -> bool {
    let mapped = matches!(to, SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_some());
    mapped && socket.local_addr().ip().is_unspecified()
}

impl UdpSocket {
    fn bound(&self) -> Result<&Arc<Socket>, ErrorCode> {
        match &self.state {
            State::Bound(socket) => Ok(socket),
            State::Unbound | State::Binding(_) => Err(ErrorCode::InvalidState),
        }
    }
}

#[async_trait::async_trait]
impl Pollable for UdpSocket {
    /// Nothing that is done with the socket itself ever waits.
    async fn ready(&mut self) {}
}

#[async_trait::async_trait]
impl Pollable for Incoming {
    async fn ready(&mut self) {
        poll_fn(|cx| self.0.poll_receivable(cx)).await;
    }
}

#[async_trait::async_trait]
impl Pollable for Outgoing {
    /// A datagram is delivered or lost at once.
    async fn ready(&mut self) {}
}

impl NetView<'_> {
    fn udp(&mut self, this: &Resource<Theirs>) -> SocketResult<&mut UdpSocket> {
        Ok(self.table.get_mut(&ours(this))?)
    }
}

impl Host for NetView<'_> {}

impl HostUdpSocket for NetView<'_> {
    async fn start_bind(
        &mut self,
        this: Resource<Theirs>,
        network: Resource<Network>,
        local: IpSocketAddress,
    ) -> SocketResult<()> {
        self.check_capability(&network)?;
        let stack = &self.sockets.stack;
        let socket = self.table.get_mut(&ours::<UdpSocket, _>(&this))?;
        match socket.state {
            State::Unbound => {}
            State::Binding(_) => return Err(ErrorCode::ConcurrencyConflict.into()),
            State::Bound(_) => return Err(ErrorCode::InvalidState.into()),
        }
        let local = SocketAddr::from(local);
        check_family(socket.family, local.ip())?;
        let bound = stack.bind_udp(local).map_err(|error| error_code(&error))?;
        socket.state = State::Binding(Arc::new(bound));
        Ok(())
    }

    fn finish_bind(&mut self, this: Resource<Theirs>) -> SocketResult<()> {
        let socket = self.udp(&this)?;
        let State::Binding(bound) = &socket.state else {
            return Err(ErrorCode::NotInProgress.into());
        };
        socket.state = State::Bound(Arc::clone(bound));
        Ok(())
    }

    async fn stream(
        &mut self,
        this: Resource<Theirs>,
        remote: Option<IpSocketAddress>,
    ) -> SocketResult<(Resource<TheirIncoming>, Resource<TheirOutgoing>)> {
        let handle = ours::<UdpSocket, _>(&this);
        let mut children = self.table.iter_children(&handle)?;
        if children.any(|child| child.is::<Incoming>() || child.is::<Outgoing>()) {
            return Err(SocketError::trap(wasmtime::format_err!("UDP streams not dropped yet")));
        }
        drop(children);
        let socket = self.table.get(&handle)?;
        let (family, bound) = (socket.family, Arc::clone(socket.bound()?));
        let remote = remote.map(SocketAddr::from);
        if let Some(remote) = remote {
            check_remote(family, remote)?;
        }
        bound.connect(remote).map_err(|error| error_code(&error))?;
        let incoming = self.push_child(Incoming(Arc::clone(&bound)), &handle)?;
        match self.push_child(Outgoing { socket: bound, family, permit: 0 }, &handle) {
            Ok(outgoing) => Ok((theirs(&incoming), theirs(&outgoing))),
            Err(error) => {
                self.table.delete(incoming)?;
                Err(error)
            }
        }
    }

    fn local_address(&mut self, this: Resource<Theirs>) -> SocketResult<IpSocketAddress> {
        Ok(self.udp(&this)?.bound()?.local_addr().into())
    }

    fn remote_address(&mut self, this: Resource<Theirs>) -> SocketResult<IpSocketAddress> {
        let peer = self.udp(&this)?.bound()?.peer_addr();
        Ok(peer.ok_or(ErrorCode::InvalidState)?.into())
    }

    fn address_family(&mut self, this: Resource<Theirs>) -> wasmtime::Result<IpAddressFamily> {
        let socket: &UdpSocket = self.table.get(&ours(&this))?;
        Ok(socket.family)
    }

    options! { udp:
        unicast_hop_limit, set_unicast_hop_limit => hop_limit: u8, positive;
        receive_buffer_size, set_receive_buffer_size => receive_buffer: u64, buffer_size;
        send_buffer_size, set_send_buffer_size => send_buffer: u64, buffer_size;
    }

    fn subscribe(&mut self, this: Resource<Theirs>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table, ours::<UdpSocket, _>(&this))
    }

    fn drop(&mut self, this: Resource<Theirs>) -> wasmtime::Result<()> {
        self.table.delete(ours_owned::<UdpSocket, _>(&this))?;
        Ok(())
    }
}

impl HostIncomingDatagramStream for NetView<'_> {
    fn receive(&mut self, this: Resource<TheirIncoming>, max: u64) -> SocketResult<Vec<IncomingDatagram>> {
        let incoming: &Incoming = self.table.get(&ours(&this))?;
        let max = usize::try_from(max).unwrap_or(usize::MAX).min(DATAGRAMS_PER_CALL);
        let mut datagrams = Vec::new();
        let mut bytes = 0;
        while datagrams.len() < max && bytes < BYTES_PER_CALL {
            match incoming.0.try_recv() {
                Ok((data, from)) => {
                    bytes += data.len();
                    datagrams.push(IncomingDatagram { data: data.into(), remote_address: from.into() });
                }
                Err(NetworkError::WouldBlock) => break,
                Err(_) if !datagrams.is_empty() => break,
                Err(error) => return Err(error_code(&error).into()),
            }
        }
        Ok(datagrams)
    }

    fn subscribe(&mut self, this: Resource<TheirIncoming>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table, ours::<Incoming, _>(&this))
    }

    fn drop(&mut self, this: Resource<TheirIncoming>) -> wasmtime::Result<()> {
        self.table.delete(ours_owned::<Incoming, _>(&this))?;
        Ok(())
    }
}

impl HostOutgoingDatagramStream for NetView<'_> {
    fn check_send(&mut self, this: Resource<TheirOutgoing>) -> SocketResult<u64> {
        let outgoing: &mut Outgoing = self.table.get_mut(&ours(&this))?;
        outgoing.permit = DATAGRAMS_PER_CALL;
        Ok(DATAGRAMS_PER_CALL as u64)
    }

    fn send(&mut self, this: Resource<TheirOutgoing>, datagrams: Vec<OutgoingDatagram>) -> SocketResult<u64> {
        let outgoing: &mut Outgoing = self.table.get_mut(&ours(&this))?;
        if datagrams.is_empty() {
            return Ok(0);
        }
        if datagrams.len() > outgoing.permit {
            return Err(SocketError::trap(wasmtime::format_err!(
                "unpermitted: argument exceeds permitted size"
            )));
        }
        outgoing.permit = 0;
        let mut sent = 0;
        for datagram in datagrams {
            let to = datagram.remote_address.map(SocketAddr::from);
            let result = match to {
                Some(to) if answers_ipv4(&outgoing.socket, to) => Ok(()),
                Some(to) => check_remote(outgoing.family, to),
                None => Ok(()),
            };
            let send = || outgoing.socket.send(datagram.data.into(), to).map_err(|error| error_code(&error));
            match result.and_then(|()| send()) {
                Ok(()) => sent += 1,
                // What was sent counts; the error shows with the next call.
                Err(_) if sent > 0 => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(sent)
    }

    fn subscribe(&mut self, this: Resource<TheirOutgoing>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table, ours::<Outgoing, _>(&this))
    }

    async fn drop(&mut self, this: Resource<TheirOutgoing>) -> wasmtime::Result<()> {
        self.table.delete(ours_owned::<Outgoing, _>(&this))?;
        Ok(())
    }
}

impl udp_create_socket::Host for NetView<'_> {
    async fn create_udp_socket(&mut self, family: IpAddressFamily) -> SocketResult<Resource<Theirs>> {
        let place = self.sockets.place()?;
        let socket = UdpSocket { family, state: State::Unbound, options: Options::default(), _place: place };
        Ok(theirs(&self.push(socket)?))
    }
}
