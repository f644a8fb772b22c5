//! UDP of WASI 0.3. A socket that was not told where to be is bound when it first connects or sends.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;

use coracle_network::{NetworkError, UdpSocket as Socket};
use wasmtime::component::{Accessor, Resource};
use wasmtime_wasi::p3::bindings::sockets::types::{
    ErrorCode, HostUdpSocket, HostUdpSocketWithStore, IpAddressFamily, IpSocketAddress, UdpSocket as Theirs,
};
use wasmtime_wasi::p3::sockets::SocketResult;

use super::errors::socket_error;
use super::sockets::{any, check_family, check_remote, entry, hand_out};
use crate::sockets::options::{buffer_size, options, positive};
use crate::sockets::{NetView, Network, Options, Place, answers_ipv4};

/// A UDP socket of a guest.
struct UdpSocket {
    family: IpAddressFamily,
    /// `None` until it is bound.
    socket: Option<Arc<Socket>>,
    options: Options,
    _place: Place,
}

impl NetView<'_> {
    fn udp3(&mut self, this: &Resource<Theirs>) -> SocketResult<&mut UdpSocket> {
        entry(self.table, this)
    }

    fn bound3(&mut self, this: &Resource<Theirs>) -> SocketResult<Arc<Socket>> {
        Ok(Arc::clone(self.udp3(this)?.socket.as_ref().ok_or(ErrorCode::InvalidState)?))
    }

    /// The socket, bound anywhere if it is not yet.
    fn bind_anywhere(&mut self, this: &Resource<Theirs>) -> SocketResult<Arc<Socket>> {
        let stack = self.sockets.stack();
        let socket = entry::<UdpSocket, _>(self.table, this)?;
        if let Some(socket) = &socket.socket {
            return Ok(Arc::clone(socket));
        }
        let bound = Arc::new(stack.bind_udp(any(socket.family)).map_err(socket_error)?);
        socket.socket = Some(Arc::clone(&bound));
        Ok(bound)
    }
}

impl<T: 'static> HostUdpSocketWithStore<T> for Network {
    async fn send(
        store: &Accessor<T, Self>,
        this: Resource<Theirs>,
        data: Vec<u8>,
        remote: Option<IpSocketAddress>,
    ) -> SocketResult<()> {
        store.with(|mut access| {
            let mut view = access.get();
            let remote = remote.map(SocketAddr::from);
            if let Some(remote) = remote {
                let socket = view.udp3(&this)?;
                if !socket.socket.as_ref().is_some_and(|socket| answers_ipv4(socket, remote)) {
                    check_remote(socket.family, remote)?;
                }
            }
            let socket = view.bind_anywhere(&this)?;
            if remote.is_none() && socket.peer_addr().is_none() {
                return Err(ErrorCode::InvalidArgument.into());
            }
            Ok(socket.send(data.into(), remote).map_err(socket_error)?)
        })
    }

    async fn receive(
        store: &Accessor<T, Self>,
        this: Resource<Theirs>,
    ) -> SocketResult<(Vec<u8>, IpSocketAddress)> {
        let socket = store.with(|mut access| access.get().bound3(&this))?;
        loop {
            poll_fn(|cx| socket.poll_receivable(cx)).await;
            match socket.try_recv() {
                Ok((data, from)) => return Ok((data.into(), from.into())),
                Err(NetworkError::WouldBlock) => {} // somebody else has it
                Err(error) => return Err(socket_error(error).into()),
            }
        }
    }
}

impl HostUdpSocket for NetView<'_> {
    async fn create(&mut self, family: IpAddressFamily) -> SocketResult<Resource<Theirs>> {
        let place = self.socket_place()?;
        let socket = UdpSocket { family, socket: None, options: Options::default(), _place: place };
        hand_out(self.table, socket)
    }

    async fn bind(&mut self, this: Resource<Theirs>, local: IpSocketAddress) -> SocketResult<()> {
        let stack = self.sockets.stack();
        let socket = entry::<UdpSocket, _>(self.table, &this)?;
        if socket.socket.is_some() {
            return Err(ErrorCode::InvalidState.into());
        }
        let local = SocketAddr::from(local);
        check_family(socket.family, local.ip())?;
        socket.socket = Some(Arc::new(stack.bind_udp(local).map_err(socket_error)?));
        Ok(())
    }

    async fn connect(&mut self, this: Resource<Theirs>, remote: IpSocketAddress) -> SocketResult<()> {
        let remote = SocketAddr::from(remote);
        check_remote(self.udp3(&this)?.family, remote)?;
        let socket = self.bind_anywhere(&this)?;
        Ok(socket.connect(Some(remote)).map_err(socket_error)?)
    }

    fn disconnect(&mut self, this: Resource<Theirs>) -> SocketResult<()> {
        let socket = self.bound3(&this)?;
        if socket.peer_addr().is_none() {
            return Err(ErrorCode::InvalidState.into());
        }
        Ok(socket.connect(None).map_err(socket_error)?)
    }

    fn get_local_address(&mut self, this: Resource<Theirs>) -> SocketResult<IpSocketAddress> {
        Ok(self.bound3(&this)?.local_addr().into())
    }

    fn get_remote_address(&mut self, this: Resource<Theirs>) -> SocketResult<IpSocketAddress> {
        Ok(self.bound3(&this)?.peer_addr().ok_or(ErrorCode::InvalidState)?.into())
    }

    fn get_address_family(&mut self, this: Resource<Theirs>) -> wasmtime::Result<IpAddressFamily> {
        Ok(self.udp3(&this)?.family)
    }

    options! { udp3:
        get_unicast_hop_limit, set_unicast_hop_limit => hop_limit: u8, positive;
        get_receive_buffer_size, set_receive_buffer_size => receive_buffer: u64, buffer_size;
        get_send_buffer_size, set_send_buffer_size => send_buffer: u64, buffer_size;
    }

    fn drop(&mut self, this: Resource<Theirs>) -> wasmtime::Result<()> {
        self.table.delete(Resource::<UdpSocket>::new_own(this.rep()))?;
        Ok(())
    }
}
