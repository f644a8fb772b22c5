//! WASI 0.3 over the same files and the same network as 0.2, where the node's flag allows it.
//!
//! In 0.3 what takes time is an asynchronous function, and what flows is a stream of the component model: the
//! hosts of [`files`] and [`sockets`] hand such streams out ([`flow`]) rather than `wasi:io` streams. Clocks,
//! random numbers and the command line are those of `wasmtime-wasi`. A guest's futures run inside its own store, so a
//! container of 0.3 is one task as any other, and ends as any other when it is dropped.
//!
//! What a guest can make the host hold is bounded as in 0.2: streams and futures by
//! [`crate::limits::RESOURCES`], each of their steps by [`crate::limits::CHUNK`], files and their streams by
//! [`crate::limits::OPEN_FILES`]. A pipe from host to host gives way when its turn is over, as a guest does.

mod errors;
mod files;
mod flow;
mod sockets;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;

use wasmtime::Store;
use wasmtime::component::Linker;
use wasmtime_wasi::p3::bindings::{CommandPre, filesystem, sockets as network};
use wasmtime_wasi::p3::{cli, clocks, random};

use crate::files::FileSystem;
use crate::sockets::Network;
use crate::state::State;

/// Adds WASI 0.3 to what guests may import. The engine must support concurrency.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    cli::add_to_linker(linker)?;
    clocks::add_to_linker(linker)?;
    random::add_to_linker(linker)?;
    filesystem::types::add_to_linker::<State, FileSystem>(linker, State::files)?;
    filesystem::preopens::add_to_linker::<State, FileSystem>(linker, State::files)?;
    network::types::add_to_linker::<State, Network>(linker, State::net)?;
    network::ip_name_lookup::add_to_linker::<State, Network>(linker, State::net)
}

/// Runs a command to its end.
pub(crate) async fn run(
    store: &mut Store<State>,
    command: &CommandPre<State>,
) -> wasmtime::Result<Result<(), ()>> {
    let command = command.instantiate_async(&mut *store).await?;
    store.run_concurrent(async |accessor| command.wasi_cli_run().call_run(accessor).await).await?
}
