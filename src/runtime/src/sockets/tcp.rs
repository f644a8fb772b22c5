//! `wasi:sockets/tcp` and `tcp-create-socket`.
//!
//! ```text
//!              start-bind        finish-bind
//!  unbound ─────────────▶ binding ─────────▶ bound ──start-listen──▶ (starting) ──finish──▶ listening
//!     └──────────── start-connect ─────────────┘
//!                        ▼
//!                    connecting ──finish-connect──▶ connected
//!                        └──────── failed ────────▶ closed
//! ```

use std::future::poll_fn;
use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use coracle_network::limits::{BACKLOG_DEFAULT, BACKLOG_MAX};
use coracle_network::{NetworkError, Stream, TcpBinding, TcpConnecting, TcpListener};
use wasmtime::component::Resource;
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddressFamily, IpSocketAddress, Network};
use wasmtime_wasi::p2::bindings::sockets::tcp::{Host, HostTcpSocket, ShutdownType};
use wasmtime_wasi::p2::bindings::sockets::tcp_create_socket;
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, DynPollable, Pollable, SocketResult, TcpSocket as Theirs, subscribe,
};

use super::errors::error_code;
use super::options::{Options, buffer_size, either, options, positive};
use super::streams::{Input, Output};
use super::{Connection, NetView, Place, check_family, check_remote, ours, ours_owned, theirs};

/// A TCP socket of a guest.
struct TcpSocket {
    family: IpAddressFamily,
    state: State,
    backlog: usize,
    options: Options,
    _place: Place,
}

enum State {
    Unbound,
    /// `start-bind` has been called, `finish-bind` not yet. The address is held already.
    Binding(TcpBinding),
    Bound(TcpBinding),
    /// `start-listen` has been called, `finish-listen` not yet.
    Starting(TcpListener),
    Listening(TcpListener),
    Connecting(Connecting),
    Connected(Connection),
    /// A dial failed; the socket is of no more use.
    Closed(ErrorCode),
}

/// A dial, and its result once it was seen by a poll.
enum Connecting {
    Under(TcpConnecting),
    Done(Result<Stream, NetworkError>),
}

impl TcpSocket {
    fn new(family: IpAddressFamily, place: Place) -> TcpSocket {
        TcpSocket {
            family,
            state: State::Unbound,
            backlog: BACKLOG_DEFAULT,
            options: Options::default(),
            _place: place,
        }
    }

    /// Takes the state out to move on from it; whoever calls this puts one back.
    fn take(&mut self) -> State {
        std::mem::replace(&mut self.state, State::Closed(ErrorCode::InvalidState))
    }

    /// An operation that was started must be finished before the next is.
    fn check_idle(&self) -> Result<(), ErrorCode> {
        match &self.state {
            State::Binding(_) | State::Starting(_) | State::Connecting(_) => {
                Err(ErrorCode::ConcurrencyConflict)
            }
            State::Closed(error) => Err(*error),
            State::Unbound | State::Bound(_) | State::Listening(_) | State::Connected(_) => Ok(()),
        }
    }

    fn local(&self) -> Result<SocketAddr, ErrorCode> {
        match &self.state {
            State::Bound(binding) => Ok(binding.local_addr()),
            State::Starting(listener) | State::Listening(listener) => Ok(listener.local_addr()),
            State::Connected(connection) => Ok(connection.stream().local_addr()),
            State::Closed(error) => Err(*error),
            State::Unbound | State::Binding(_) | State::Connecting(_) => Err(ErrorCode::InvalidState),
        }
    }

    fn connected(&self) -> Result<&Stream, ErrorCode> {
        match &self.state {
            State::Connected(connection) => Ok(connection.stream()),
            State::Closed(error) => Err(*error),
            _ => Err(ErrorCode::InvalidState),
        }
    }
}

impl Connecting {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Connecting::Under(dial) = self {
            match Pin::new(dial).poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(result) => *self = Connecting::Done(result),
            }
        }
        Poll::Ready(())
    }
}

#[async_trait::async_trait]
impl Pollable for TcpSocket {
    async fn ready(&mut self) {
        match &mut self.state {
            State::Connecting(connecting) => poll_fn(|cx| connecting.poll(cx)).await,
            State::Listening(listener) => poll_fn(|cx| listener.poll_acceptable(cx)).await,
            _ => {}
        }
    }
}

/// A connection's streams.
const STREAMS: usize = 2;

impl NetView<'_> {
    fn tcp(&mut self, this: &Resource<Theirs>) -> SocketResult<&mut TcpSocket> {
        Ok(self.table.get_mut(&ours(this))?)
    }

    fn listening(&mut self, this: &Resource<Theirs>) -> SocketResult<(&TcpSocket, &TcpListener)> {
        let socket = self.tcp(this)?;
        match &socket.state {
            State::Listening(listener) => Ok((socket, listener)),
            State::Closed(error) => Err((*error).into()),
            _ => Err(ErrorCode::InvalidState.into()),
        }
    }

    /// The two streams of a connection, as children of its socket.
    fn tcp_streams(
        &mut self,
        socket: &Resource<TcpSocket>,
        connection: &Connection,
    ) -> SocketResult<(Resource<DynInputStream>, Resource<DynOutputStream>)> {
        let input: DynInputStream = Box::new(Input(connection.clone()));
        let output: DynOutputStream = Box::new(Output::new(connection.clone()));
        let input = self.push_child(input, socket)?;
        match self.push_child(output, socket) {
            Ok(output) => Ok((input, output)),
            Err(error) => {
                self.table.delete(input)?;
                Err(error)
            }
        }
    }
}

impl Host for NetView<'_> {}

impl HostTcpSocket for NetView<'_> {
    async fn start_bind(
        &mut self,
        this: Resource<Theirs>,
        network: Resource<Network>,
        local: IpSocketAddress,
    ) -> SocketResult<()> {
        self.check_capability(&network)?;
        let stack = &self.sockets.stack;
        let socket = self.table.get_mut(&ours::<TcpSocket, _>(&this))?;
        socket.check_idle()?;
        if !matches!(socket.state, State::Unbound) {
            return Err(ErrorCode::InvalidState.into());
        }
        let local = SocketAddr::from(local);
        check_family(socket.family, local.ip())?;
        if local.ip().is_multicast() || local.ip() == std::net::Ipv4Addr::BROADCAST {
            return Err(ErrorCode::InvalidArgument.into());
        }
        let binding = stack.bind_tcp(local).map_err(|error| error_code(&error))?;
        socket.state = State::Binding(binding);
        Ok(())
    }

    fn finish_bind(&mut self, this: Resource<Theirs>) -> SocketResult<()> {
        let socket = self.tcp(&this)?;
        match socket.take() {
            State::Binding(binding) => {
                socket.state = State::Bound(binding);
                Ok(())
            }
            other => {
                socket.state = other;
                Err(ErrorCode::NotInProgress.into())
            }
        }
    }

    fn start_connect(
        &mut self,
        this: Resource<Theirs>,
        network: Resource<Network>,
        remote: IpSocketAddress,
    ) -> SocketResult<()> {
        self.check_capability(&network)?;
        let stack = &self.sockets.stack;
        let socket = self.table.get_mut(&ours::<TcpSocket, _>(&this))?;
        socket.check_idle()?;
        if !matches!(socket.state, State::Unbound | State::Bound(_)) {
            return Err(ErrorCode::InvalidState.into());
        }
        let remote = SocketAddr::from(remote);
        check_remote(socket.family, remote)?;
        if remote.ip().is_multicast() || remote.ip() == std::net::Ipv4Addr::BROADCAST {
            return Err(ErrorCode::InvalidArgument.into());
        }
        let from = match socket.take() {
            State::Bound(binding) => Some(binding),
            _ => None,
        };
        socket.state = State::Connecting(Connecting::Under(stack.start_connect(remote, from)));
        Ok(())
    }

    fn finish_connect(
        &mut self,
        this: Resource<Theirs>,
    ) -> SocketResult<(Resource<DynInputStream>, Resource<DynOutputStream>)> {
        self.check_room(STREAMS)?;
        let traffic = &self.sockets.control.traffic;
        let socket = self.table.get_mut(&ours::<TcpSocket, _>(&this))?;
        let mut connecting = match socket.take() {
            State::Connecting(connecting) => connecting,
            other => {
                socket.state = other;
                return Err(ErrorCode::NotInProgress.into());
            }
        };
        let _ = connecting.poll(&mut Context::from_waker(Waker::noop()));
        let connection = match connecting {
            Connecting::Under(_) => {
                socket.state = State::Connecting(connecting);
                return Err(ErrorCode::WouldBlock.into());
            }
            Connecting::Done(Err(error)) => {
                let code = error_code(&error);
                socket.state = State::Closed(code);
                return Err(code.into());
            }
            Connecting::Done(Ok(stream)) => Connection::new(stream, traffic),
        };
        socket.state = State::Connected(connection.clone());
        self.tcp_streams(&ours(&this), &connection)
    }

    async fn start_listen(&mut self, this: Resource<Theirs>) -> SocketResult<()> {
        let control = &self.sockets.control;
        let socket = self.table.get_mut(&ours::<TcpSocket, _>(&this))?;
        socket.check_idle()?;
        match socket.take() {
            State::Bound(binding) => {
                let listener = binding.listen(socket.backlog);
                control.stop.listens(listener.drain_handle());
                socket.state = State::Starting(listener);
                Ok(())
            }
            other => {
                socket.state = other;
                Err(ErrorCode::InvalidState.into())
            }
        }
    }

    fn finish_listen(&mut self, this: Resource<Theirs>) -> SocketResult<()> {
        let socket = self.tcp(&this)?;
        match socket.take() {
            State::Starting(listener) => {
                socket.state = State::Listening(listener);
                Ok(())
            }
            other => {
                socket.state = other;
                Err(ErrorCode::NotInProgress.into())
            }
        }
    }

    fn accept(
        &mut self,
        this: Resource<Theirs>,
    ) -> SocketResult<(Resource<Theirs>, Resource<DynInputStream>, Resource<DynOutputStream>)> {
        // Servers ask more often than somebody comes.
        if !self.listening(&this)?.1.is_acceptable() {
            return Err(ErrorCode::WouldBlock.into());
        }
        // Without room, or without a place, the connection stays in the backlog, as with a process out of descriptors.
        self.check_room(1 + STREAMS)?;
        let sockets = self.sockets;
        let place = sockets.place()?;
        let (socket, listener) = self.listening(&this)?;
        let stream = listener.try_accept().map_err(|error| error_code(&error))?;
        let connection = Connection::new(stream, &sockets.control.traffic);
        let accepted = TcpSocket {
            family: socket.family,
            state: State::Connected(connection.clone()),
            backlog: BACKLOG_DEFAULT,
            options: socket.options.clone(),
            _place: place,
        };
        let accepted = self.push(accepted)?;
        match self.tcp_streams(&accepted, &connection) {
            Ok((input, output)) => Ok((theirs(&accepted), input, output)),
            Err(error) => {
                self.table.delete(accepted)?;
                Err(error)
            }
        }
    }

    fn local_address(&mut self, this: Resource<Theirs>) -> SocketResult<IpSocketAddress> {
        Ok(self.tcp(&this)?.local()?.into())
    }

    fn remote_address(&mut self, this: Resource<Theirs>) -> SocketResult<IpSocketAddress> {
        Ok(self.tcp(&this)?.connected()?.peer_addr().into())
    }

    fn is_listening(&mut self, this: Resource<Theirs>) -> wasmtime::Result<bool> {
        let socket: &TcpSocket = self.table.get(&ours(&this))?;
        Ok(matches!(socket.state, State::Listening(_)))
    }

    fn address_family(&mut self, this: Resource<Theirs>) -> wasmtime::Result<IpAddressFamily> {
        let socket: &TcpSocket = self.table.get(&ours(&this))?;
        Ok(socket.family)
    }

    fn set_listen_backlog_size(&mut self, this: Resource<Theirs>, value: u64) -> SocketResult<()> {
        let size = usize::try_from(positive(value)?).unwrap_or(usize::MAX).min(BACKLOG_MAX);
        let socket = self.tcp(&this)?;
        match &socket.state {
            State::Unbound | State::Binding(_) | State::Bound(_) => socket.backlog = size,
            State::Starting(listener) | State::Listening(listener) => listener.set_backlog(size),
            State::Connecting(_) | State::Connected(_) => return Err(ErrorCode::InvalidState.into()),
            State::Closed(error) => return Err((*error).into()),
        }
        Ok(())
    }

    options! { tcp:
        keep_alive_enabled, set_keep_alive_enabled => keep_alive: bool, either;
        keep_alive_idle_time, set_keep_alive_idle_time => keep_alive_idle: u64, positive;
        keep_alive_interval, set_keep_alive_interval => keep_alive_interval: u64, positive;
        keep_alive_count, set_keep_alive_count => keep_alive_count: u32, positive;
        hop_limit, set_hop_limit => hop_limit: u8, positive;
        receive_buffer_size, set_receive_buffer_size => receive_buffer: u64, buffer_size;
        send_buffer_size, set_send_buffer_size => send_buffer: u64, buffer_size;
    }

    fn subscribe(&mut self, this: Resource<Theirs>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table, ours::<TcpSocket, _>(&this))
    }

    fn shutdown(&mut self, this: Resource<Theirs>, how: ShutdownType) -> SocketResult<()> {
        self.tcp(&this)?.connected()?.shutdown(Shutdown::from(how));
        Ok(())
    }

    fn drop(&mut self, this: Resource<Theirs>) -> wasmtime::Result<()> {
        self.table.delete(ours_owned::<TcpSocket, _>(&this))?;
        Ok(())
    }
}

impl tcp_create_socket::Host for NetView<'_> {
    fn create_tcp_socket(&mut self, family: IpAddressFamily) -> SocketResult<Resource<Theirs>> {
        let place = self.sockets.place()?;
        Ok(theirs(&self.push(TcpSocket::new(family, place))?))
    }
}
