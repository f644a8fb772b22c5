//! TCP of WASI 0.3.
//!
//! ```text
//!  unbound ──bind──▶ bound ──listen──▶ listening: a stream of sockets
//!     └──────connect───┴─▶ closed ──▶ connected: a stream in, a stream out, each taken once
//! ```
//!
//! What was accepted, and the two streams of a connection, go on when the socket they came from is dropped.

use std::future::poll_fn;
use std::iter;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use coracle_network::limits::{BACKLOG_DEFAULT, BACKLOG_MAX};
use coracle_network::{NetworkError, TcpBinding, TcpListener};
use tokio::time::Sleep;
use wasmtime::StoreContextMut;
use wasmtime::component::{
    Access, Accessor, Destination, Resource, StreamProducer, StreamReader, StreamResult,
};
use wasmtime_wasi::p3::bindings::sockets::types::{
    ErrorCode, HostTcpSocket, HostTcpSocketWithStore, IpAddressFamily, IpSocketAddress, TcpSocket as Theirs,
};
use wasmtime_wasi::p3::sockets::{SocketError, SocketResult};

use super::errors::socket_error;
use super::flow::{Ended, Ending, Receiver, Sender};
use super::sockets::{any, check_family, check_remote, check_unicast, entry, hand_out};
use crate::sockets::options::{buffer_size, either, options, positive};
use crate::sockets::{Connection, NetView, Network, Options, Place};

/// How long a listener waits that may not accept because the container has all the sockets it may have. What waits
/// in the backlog goes on waiting, as with a process out of descriptors.
const PAUSE: Duration = Duration::from_millis(10);

/// A TCP socket of a guest.
struct TcpSocket {
    family: IpAddressFamily,
    state: State,
    backlog: usize,
    options: Options,
    /// Shared with the streams that come of it, which may outlive it.
    place: Arc<Place>,
}

enum State {
    Unbound,
    Bound(TcpBinding),
    Listening(Arc<TcpListener>),
    Connected {
        connection: Connection,
        sends: bool,
        receives: bool,
    },
    /// It is being connected, or that failed, or was given up.
    Closed,
}

impl TcpSocket {
    fn new(family: IpAddressFamily, place: Place) -> TcpSocket {
        TcpSocket {
            family,
            state: State::Unbound,
            backlog: BACKLOG_DEFAULT,
            options: Options::default(),
            place: Arc::new(place),
        }
    }

    fn local(&self) -> Result<SocketAddr, ErrorCode> {
        match &self.state {
            State::Bound(binding) => Ok(binding.local_addr()),
            State::Listening(listener) => Ok(listener.local_addr()),
            State::Connected { connection, .. } => Ok(connection.stream().local_addr()),
            State::Unbound | State::Closed => Err(ErrorCode::InvalidState),
        }
    }

    /// The address it holds, or none; it has to be connected or listen next.
    fn take_binding(&mut self) -> Result<Option<TcpBinding>, ErrorCode> {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Unbound => Ok(None),
            State::Bound(binding) => Ok(Some(binding)),
            other => {
                self.state = other;
                Err(ErrorCode::InvalidState)
            }
        }
    }
}

impl NetView<'_> {
    fn tcp3(&mut self, this: &Resource<Theirs>) -> SocketResult<&mut TcpSocket> {
        entry(self.table, this)
    }
}

/// What a listener hands out.
struct Accepting<T: 'static> {
    listener: Arc<TcpListener>,
    family: IpAddressFamily,
    options: Options,
    view: for<'a> fn(&'a mut T) -> NetView<'a>,
    pause: Option<Pin<Box<Sleep>>>,
    _place: Arc<Place>,
}

impl<T: 'static> Accepting<T> {
    /// The next connection as a socket; `None` when there will be none any more.
    fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
        data: &mut T,
    ) -> Poll<wasmtime::Result<Option<Resource<Theirs>>>> {
        let view = (self.view)(data);
        loop {
            if let Some(pause) = &mut self.pause {
                std::task::ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            std::task::ready!(self.listener.poll_acceptable(cx));
            let Ok(place) = view.sockets.place() else {
                self.pause = Some(Box::pin(tokio::time::sleep(PAUSE)));
                continue;
            };
            let connection = match self.listener.try_accept() {
                Ok(stream) => view.sockets.connection(stream),
                Err(NetworkError::WouldBlock) => continue,
                Err(NetworkError::Draining | NetworkError::Closed) => return Poll::Ready(Ok(None)),
                Err(error) => {
                    tracing::debug!(%error, "a connection is not accepted");
                    continue;
                }
            };
            let socket = TcpSocket {
                state: State::Connected { connection, sends: false, receives: false },
                options: self.options.clone(),
                ..TcpSocket::new(self.family, place)
            };
            return Poll::Ready(Ok(Some(hand_out(view.table, socket)?)));
        }
    }
}

impl<T: 'static> StreamProducer<T> for Accepting<T> {
    type Item = Resource<Theirs>;
    type Buffer = Option<Resource<Theirs>>;

    fn poll_produce<'a>(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut store: StoreContextMut<'a, T>,
        mut destination: Destination<'a, Resource<Theirs>, Option<Resource<Theirs>>>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let this = self.get_mut();
        let accepted = if destination.remaining(&mut store) == Some(0) {
            this.listener.poll_acceptable(cx).map(|()| None)
        } else {
            match this.poll_accept(cx, store.data_mut()) {
                Poll::Ready(Ok(None)) => return Poll::Ready(Ok(StreamResult::Dropped)),
                Poll::Ready(Ok(accepted)) => Poll::Ready(accepted),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => Poll::Pending,
            }
        };
        match accepted {
            Poll::Ready(accepted) => {
                destination.set_buffer(accepted);
                Poll::Ready(Ok(StreamResult::Completed))
            }
            Poll::Pending if finish => Poll::Ready(Ok(StreamResult::Cancelled)),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<T: Send + 'static> HostTcpSocketWithStore<T> for Network {
    async fn connect(
        store: &Accessor<T, Self>,
        this: Resource<Theirs>,
        remote: IpSocketAddress,
    ) -> SocketResult<()> {
        let remote = SocketAddr::from(remote);
        let mut dial = store.with(|mut access| -> SocketResult<_> {
            let view = access.get();
            let stack = view.sockets.stack();
            let socket = entry::<TcpSocket, _>(view.table, &this)?;
            check_remote(socket.family, remote)?;
            check_unicast(remote.ip())?;
            let binding = socket.take_binding()?;
            Ok(stack.start_connect(remote, binding))
        })?;
        let dialled = poll_fn(|cx| Pin::new(&mut dial).poll(cx)).await;
        store.with(|mut access| {
            let view = access.get();
            let connected = dialled.map(|stream| view.sockets.connection(stream)).map_err(socket_error);
            let socket = entry::<TcpSocket, _>(view.table, &this)?;
            socket.state = State::Connected { connection: connected?, sends: false, receives: false };
            Ok(())
        })
    }

    async fn listen(
        mut store: Access<'_, T, Self>,
        this: Resource<Theirs>,
    ) -> SocketResult<StreamReader<Resource<Theirs>>> {
        let view = store.getter();
        let accepting = {
            let net = store.get();
            let (stack, control) = (net.sockets.stack(), net.sockets.control());
            let socket = entry::<TcpSocket, _>(net.table, &this)?;
            let binding = match socket.take_binding()? {
                Some(binding) => binding,
                None => match stack.bind_tcp(any(socket.family)) {
                    Ok(binding) => binding,
                    Err(error) => {
                        socket.state = State::Unbound;
                        return Err(socket_error(error).into());
                    }
                },
            };
            let listener = Arc::new(binding.listen(socket.backlog));
            control.stop.listens(listener.drain_handle());
            socket.state = State::Listening(Arc::clone(&listener));
            let (family, options) = (socket.family, socket.options.clone());
            Accepting { listener, family, options, view, pause: None, _place: Arc::clone(&socket.place) }
        };
        StreamReader::new(&mut store, accepting).map_err(SocketError::trap)
    }

    fn send(
        mut store: Access<'_, T, Self>,
        this: Resource<Theirs>,
        mut data: StreamReader<u8>,
    ) -> wasmtime::Result<Ended<ErrorCode>> {
        let connection = match &mut store.get().tcp3(&this)?.state {
            State::Connected { connection, sends, .. } if !*sends => {
                *sends = true;
                Some(connection.clone())
            }
            _ => None,
        };
        let (mut ending, ended) = Ending::new(&mut store)?;
        match connection {
            Some(connection) => data.pipe(&mut store, Sender { connection, ending })?,
            None => {
                ending.fail(ErrorCode::InvalidState);
                data.close(&mut store)?;
            }
        }
        Ok(ended)
    }

    fn receive(
        mut store: Access<'_, T, Self>,
        this: Resource<Theirs>,
    ) -> wasmtime::Result<(StreamReader<u8>, Ended<ErrorCode>)> {
        let connection = match &mut store.get().tcp3(&this)?.state {
            State::Connected { connection, receives, .. } if !*receives => {
                *receives = true;
                Some(connection.clone())
            }
            _ => None,
        };
        let (mut ending, ended) = Ending::new(&mut store)?;
        let stream = match connection {
            Some(connection) => StreamReader::new(&mut store, Receiver { connection, ending })?,
            None => {
                ending.fail(ErrorCode::InvalidState);
                StreamReader::new(&mut store, iter::empty())?
            }
        };
        Ok((stream, ended))
    }
}

impl HostTcpSocket for NetView<'_> {
    fn create(&mut self, family: IpAddressFamily) -> SocketResult<Resource<Theirs>> {
        let place = self.socket_place()?;
        hand_out(self.table, TcpSocket::new(family, place))
    }

    async fn bind(&mut self, this: Resource<Theirs>, local: IpSocketAddress) -> SocketResult<()> {
        let stack = self.sockets.stack();
        let socket = entry::<TcpSocket, _>(self.table, &this)?;
        if !matches!(socket.state, State::Unbound) {
            return Err(ErrorCode::InvalidState.into());
        }
        let local = SocketAddr::from(local);
        check_family(socket.family, local.ip())?;
        check_unicast(local.ip())?;
        socket.state = State::Bound(stack.bind_tcp(local).map_err(socket_error)?);
        Ok(())
    }

    fn get_local_address(&mut self, this: Resource<Theirs>) -> SocketResult<IpSocketAddress> {
        Ok(self.tcp3(&this)?.local()?.into())
    }

    fn get_remote_address(&mut self, this: Resource<Theirs>) -> SocketResult<IpSocketAddress> {
        match &self.tcp3(&this)?.state {
            State::Connected { connection, .. } => Ok(connection.stream().peer_addr().into()),
            _ => Err(ErrorCode::InvalidState.into()),
        }
    }

    fn get_is_listening(&mut self, this: Resource<Theirs>) -> wasmtime::Result<bool> {
        Ok(matches!(self.tcp3(&this)?.state, State::Listening(_)))
    }

    fn get_address_family(&mut self, this: Resource<Theirs>) -> wasmtime::Result<IpAddressFamily> {
        Ok(self.tcp3(&this)?.family)
    }

    fn set_listen_backlog_size(&mut self, this: Resource<Theirs>, value: u64) -> SocketResult<()> {
        let size = usize::try_from(positive(value)?).unwrap_or(usize::MAX).min(BACKLOG_MAX);
        let socket = self.tcp3(&this)?;
        match &socket.state {
            State::Unbound | State::Bound(_) => socket.backlog = size,
            State::Listening(listener) => listener.set_backlog(size),
            State::Connected { .. } | State::Closed => {
                return Err(ErrorCode::InvalidState.into());
            }
        }
        Ok(())
    }

    options! { tcp3:
        get_keep_alive_enabled, set_keep_alive_enabled => keep_alive: bool, either;
        get_keep_alive_idle_time, set_keep_alive_idle_time => keep_alive_idle: u64, positive;
        get_keep_alive_interval, set_keep_alive_interval => keep_alive_interval: u64, positive;
        get_keep_alive_count, set_keep_alive_count => keep_alive_count: u32, positive;
        get_hop_limit, set_hop_limit => hop_limit: u8, positive;
        get_receive_buffer_size, set_receive_buffer_size => receive_buffer: u64, buffer_size;
        get_send_buffer_size, set_send_buffer_size => send_buffer: u64, buffer_size;
    }

    fn drop(&mut self, this: Resource<Theirs>) -> wasmtime::Result<()> {
        self.table.delete(Resource::<TcpSocket>::new_own(this.rep()))?;
        Ok(())
    }
}
