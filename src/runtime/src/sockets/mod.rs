//! `wasi:sockets` 0.2 over the pod's virtual network.
//!
//! The interfaces are those that `wasmtime-wasi` generates; the sockets behind them are ours. A handle of
//! the guest carries only a number into the resource table, so its static type (`wasmtime-wasi`'s socket)
//! is exchanged for ours by [`ours`] and [`theirs`]; the table checks the real type at every look-up.
//!
//! Nothing here blocks and nothing here touches a kernel socket. A container may hold [`SOCKETS`], and the
//! table bounds what it holds altogether ([`crate::limits::RESOURCES`]); a guest that wants more is told
//! `new-socket-limit`. What its pod holds is bounded by [`coracle_network::limits`].

mod errors;
mod lookup;
pub(crate) mod options;
mod streams;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use coracle_network::{PodStack, Stream};
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::p2::bindings::sockets::{
    instance_network, ip_name_lookup, network, tcp as tcp_bindings, tcp_create_socket, udp as udp_bindings,
    udp_create_socket,
};
use wasmtime_wasi::p2::{SocketError, SocketResult};

use self::network::{ErrorCode, IpAddressFamily};
pub(crate) use self::options::Options;
pub(crate) use self::udp::answers_ipv4;
use crate::run::{Control, Traffic};
use crate::state::State;

/// Sockets of one container: a connected one takes three entries of the table and one or two more while it
/// is polled, so with this many (Linux's usual soft `ulimit -n`) half of the table is left for the rest. A
/// full table would make the guest's next poll a trap.
const SOCKETS: usize = 1024;

/// A container's share of its pod's network.
pub(crate) struct Sockets {
    stack: PodStack,
    open: Arc<AtomicUsize>,
    control: Arc<Control>,
}

impl Sockets {
    pub(crate) fn new(stack: PodStack, control: &Arc<Control>) -> Sockets {
        Sockets { stack, open: Arc::default(), control: Arc::clone(control) }
    }

    /// A place for one more socket, given back when it is dropped.
    pub(crate) fn place(&self) -> Result<Place, ErrorCode> {
        let place = Place(Arc::clone(&self.open));
        if self.open.fetch_add(1, Relaxed) < SOCKETS { Ok(place) } else { Err(ErrorCode::NewSocketLimit) }
    }

    /// Counts a connection.
    pub(crate) fn connection(&self, stream: Stream) -> Connection {
        Connection::new(stream, &self.control.traffic)
    }

    pub(crate) fn stack(&self) -> &PodStack {
        &self.stack
    }

    pub(crate) fn control(&self) -> &Control {
        &self.control
    }
}

/// One of the [`SOCKETS`].
pub(crate) struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A connection of the container, and what it is counted by.
#[derive(Clone)]
pub(crate) struct Connection(Arc<Counted>);

struct Counted {
    stream: Stream,
    traffic: Arc<Traffic>,
}

impl Connection {
    fn new(stream: Stream, traffic: &Arc<Traffic>) -> Connection {
        traffic.connections.fetch_add(1, Relaxed);
        Connection(Arc::new(Counted { stream, traffic: Arc::clone(traffic) }))
    }

    pub(crate) fn stream(&self) -> &Stream {
        &self.0.stream
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.0.traffic.sent.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.0.traffic.received.fetch_add(bytes as u64, Relaxed);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.traffic.connections.fetch_sub(1, Relaxed);
    }
}

/// What the hosts of `wasi:sockets` see of a container.
pub(crate) struct NetView<'a> {
    /// Where sockets, streams and pollables live; bounded by [`crate::limits::RESOURCES`].
    pub(crate) table: &'a mut ResourceTable,
    /// The container's share of the pod's network.
    pub(crate) sockets: &'a Sockets,
}

/// Tells the generated bindings that their host is [`NetView`].
pub(crate) struct Network;

impl HasData for Network {
    type Data<'a> = NetView<'a>;
}

/// Adds `wasi:sockets` to what guests may import.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let options = network::LinkOptions::default();
    network::add_to_linker::<State, Network>(linker, &options, State::net)?;
    instance_network::add_to_linker::<State, Network>(linker, State::net)?;
    tcp_bindings::add_to_linker::<State, Network>(linker, State::net)?;
    tcp_create_socket::add_to_linker::<State, Network>(linker, State::net)?;
    udp_bindings::add_to_linker::<State, Network>(linker, State::net)?;
    udp_create_socket::add_to_linker::<State, Network>(linker, State::net)?;
    ip_name_lookup::add_to_linker::<State, Network>(linker, State::net)
}

/// The capability to use the network. Guests have to name it; it decides nothing, the pod's stack does.
struct Capability;

/// Our type behind a handle that the bindings believe to be of theirs.
fn ours<Ours: 'static, Theirs: 'static>(handle: &Resource<Theirs>) -> Resource<Ours> {
    Resource::new_borrow(handle.rep())
}

/// The same for a handle that is given up.
fn ours_owned<Ours: 'static, Theirs: 'static>(handle: &Resource<Theirs>) -> Resource<Ours> {
    Resource::new_own(handle.rep())
}

/// The handle to give to the guest for something of ours.
fn theirs<Ours: 'static, Theirs: 'static>(handle: &Resource<Ours>) -> Resource<Theirs> {
    Resource::new_own(handle.rep())
}

impl NetView<'_> {
    /// Every use of the network names the capability; a made-up handle traps.
    fn check_capability(&self, handle: &Resource<network::Network>) -> SocketResult<()> {
        self.table.get(&ours::<Capability, _>(handle))?;
        Ok(())
    }

    /// A new entry of the table, or `new-socket-limit` if the container holds too much already.
    fn push<T: Send + 'static>(&mut self, entry: T) -> SocketResult<Resource<T>> {
        self.table.push(entry).map_err(|_| ErrorCode::NewSocketLimit.into())
    }

    /// Fails while there is no room for so many more entries: before something is taken that would be lost.
    fn check_room(&mut self, entries: usize) -> SocketResult<()> {
        let mut taken = Vec::with_capacity(entries);
        let checked = (0..entries).try_for_each(|_| self.push(()).map(|entry| taken.push(entry)));
        for entry in taken {
            self.table.delete(entry)?;
        }
        checked
    }

    /// A new entry that must go before `parent` does.
    fn push_child<T: Send + 'static, P: 'static>(
        &mut self,
        entry: T,
        parent: &Resource<P>,
    ) -> SocketResult<Resource<T>> {
        self.table.push_child(entry, parent).map_err(|_| ErrorCode::NewSocketLimit.into())
    }
}

impl network::Host for NetView<'_> {
    fn convert_error_code(&mut self, error: SocketError) -> wasmtime::Result<ErrorCode> {
        error.downcast()
    }

    fn network_error_code(
        &mut self,
        error: Resource<wasmtime::Error>,
    ) -> wasmtime::Result<Option<ErrorCode>> {
        Ok(self.table.get(&error)?.downcast_ref::<std::io::Error>().map(errors::stream_error_code))
    }
}

impl network::HostNetwork for NetView<'_> {
    fn drop(&mut self, handle: Resource<network::Network>) -> wasmtime::Result<()> {
        self.table.delete(ours_owned::<Capability, _>(&handle))?;
        Ok(())
    }
}

impl instance_network::Host for NetView<'_> {
    fn instance_network(&mut self) -> wasmtime::Result<Resource<network::Network>> {
        Ok(theirs(&self.table.push(Capability)?))
    }
}

/// Whether an address may be given to a socket of this family. IPv4 addresses in IPv6 clothes are refused,
/// as WASI says: its IPv6 sockets are IPv6 only.
fn check_family(family: IpAddressFamily, address: IpAddr) -> Result<(), ErrorCode> {
    let fits = match (family, address) {
        (IpAddressFamily::Ipv4, IpAddr::V4(_)) => true,
        (IpAddressFamily::Ipv6, IpAddr::V6(v6)) => {
            let compatible = v6.segments()[..6] == [0; 6] && v6.segments()[6] != 0;
            v6.to_ipv4_mapped().is_none() && !compatible
        }
        _ => false,
    };
    if fits { Ok(()) } else { Err(ErrorCode::InvalidArgument) }
}

/// Whether an address can be dialled at all.
fn check_remote(family: IpAddressFamily, address: SocketAddr) -> Result<(), ErrorCode> {
    check_family(family, address.ip())?;
    if address.ip().is_unspecified() || address.port() == 0 {
        return Err(ErrorCode::InvalidArgument);
    }
    Ok(())
}
