//! `wasi:sockets` over the pod's virtual network.

use coracle_network::PodStack;
use wasmtime::component::{HasData, Linker, ResourceTable};

use crate::state::State;

/// What the hosts of `wasi:sockets` see of a container.
pub(crate) struct NetView<'a> {
    /// Where sockets, streams and pollables live; bounded by [`crate::limits::RESOURCES`].
    pub(crate) table: &'a mut ResourceTable,
    /// The pod's network.
    pub(crate) stack: &'a PodStack,
}

/// Tells the generated bindings that their host is [`NetView`].
pub(crate) struct Network;

impl HasData for Network {
    type Data<'a> = NetView<'a>;
}

/// Adds `wasi:sockets` to what guests may import.
pub(crate) fn add_to_linker(_linker: &mut Linker<State>) -> wasmtime::Result<()> {
    Ok(())
}
