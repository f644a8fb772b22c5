//! `wasi:sockets` 0.3 over the pod's virtual network: what TCP and UDP have in common, and look-ups.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use wasmtime::component::{Accessor, Resource, ResourceTable};
use wasmtime_wasi::p3::bindings::sockets::ip_name_lookup::{self, ErrorCode as LookupError};
use wasmtime_wasi::p3::bindings::sockets::types::{self, ErrorCode, IpAddress, IpAddressFamily};
use wasmtime_wasi::p3::sockets::{SocketError, SocketResult};

use super::errors::lookup_error;
use crate::sockets::{NetView, Network, Place};

impl types::Host for NetView<'_> {
    fn convert_error_code(&mut self, error: SocketError) -> wasmtime::Result<ErrorCode> {
        error.downcast()
    }
}

impl ip_name_lookup::Host for NetView<'_> {}

impl<T: 'static> ip_name_lookup::HostWithStore<T> for Network {
    async fn resolve_addresses(
        store: &Accessor<T, Self>,
        name: String,
    ) -> wasmtime::Result<Result<Vec<IpAddress>, LookupError>> {
        let stack = store.with(|mut access| access.get().sockets.stack().clone());
        let found = stack.resolve(&name).await;
        Ok(found.map(|found| found.into_iter().map(IpAddress::from).collect()).map_err(lookup_error))
    }
}

impl NetView<'_> {
    /// A place for one more socket of 0.3. Its words have none for "too many open files".
    pub(super) fn socket_place(&self) -> Result<Place, ErrorCode> {
        self.sockets.place().map_err(|_| ErrorCode::Other(Some("too many open sockets".into())))
    }
}

/// What lies in the table under a handle; one that was made up traps.
pub(super) fn entry<'a, Ours: 'static, Theirs: 'static>(
    table: &'a mut ResourceTable,
    handle: &Resource<Theirs>,
) -> SocketResult<&'a mut Ours> {
    table.get_mut(&Resource::<Ours>::new_borrow(handle.rep())).map_err(SocketError::trap)
}

/// A handle for something of ours.
pub(super) fn hand_out<Ours: Send + 'static, Theirs: 'static>(
    table: &mut ResourceTable,
    ours: Ours,
) -> SocketResult<Resource<Theirs>> {
    table.push(ours).map(|handle| Resource::new_own(handle.rep())).map_err(SocketError::trap)
}

/// Whether an address may be given to a socket of this family. IPv4 addresses in IPv6 clothes are refused, as WASI
/// says: its IPv6 sockets are IPv6 only.
pub(super) fn check_family(family: IpAddressFamily, address: IpAddr) -> Result<(), ErrorCode> {
    let fits = match (family, address) {
        (IpAddressFamily::Ipv4, IpAddr::V4(_)) => true,
        (IpAddressFamily::Ipv6, IpAddr::V6(v6)) => {
            let compatible = v6.segments()[..6] == [0; 6] && v6.segments()[6] != 0;
            v6.to_ipv4_mapped().is_none() && !compatible
        }
        (IpAddressFamily::Ipv4, IpAddr::V6(_)) | (IpAddressFamily::Ipv6, IpAddr::V4(_)) => false,
    };
    if fits { Ok(()) } else { Err(ErrorCode::InvalidArgument) }
}

/// Whether an address can be sent to at all.
pub(super) fn check_remote(family: IpAddressFamily, address: SocketAddr) -> Result<(), ErrorCode> {
    check_family(family, address.ip())?;
    if address.ip().is_unspecified() || address.port() == 0 {
        return Err(ErrorCode::InvalidArgument);
    }
    Ok(())
}

/// Whether an address is one host's.
pub(super) fn check_unicast(address: IpAddr) -> Result<(), ErrorCode> {
    let many = address.is_multicast() || address == Ipv4Addr::BROADCAST;
    if many { Err(ErrorCode::InvalidArgument) } else { Ok(()) }
}

/// Where a socket is bound that was not told where.
pub(super) fn any(family: IpAddressFamily) -> SocketAddr {
    match family {
        IpAddressFamily::Ipv4 => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddressFamily::Ipv6 => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}
