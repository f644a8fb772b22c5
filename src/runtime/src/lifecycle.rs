//! `coracle:lifecycle/stop` (`wit/lifecycle.wit`): a guest that imports it learns that it is asked to end.
//!
//! A core module imports the same two functions by the interface's full name, which is then a module's:
//!
//! ```text
//!   (import "coracle:lifecycle/stop@0.1.0" "is-stopping" (func (result i32)))  1 once it was asked, 0 before
//!   (import "coracle:lifecycle/stop@0.1.0" "stopping" (func (result i32)))     a descriptor; -1 if it has too many
//! ```
//!
//! WASI 0.1 waits for descriptors where 0.2 waits for pollables: this one can be waited for with `poll_oneoff`, and
//! read. It is at its end from the moment the program is asked to end, and never has anything to read.

use std::sync::Arc;

use wasmtime::component::{Linker, Resource};
use wasmtime::{Caller, StoreContextMut};
use wasmtime_wasi_io::poll::{DynPollable, Pollable, subscribe};

use crate::run::Control;
use crate::state::State;

/// The interfaces.
pub(crate) const INTERFACES: &[&str] = &["coracle:lifecycle/stop"];

/// What core modules import it as.
const MODULE: &str = "coracle:lifecycle/stop@0.1.0";

const IS_STOPPING: &str = "is-stopping";
const STOPPING: &str = "stopping";

/// What lies behind the pollable.
struct Stopping(Arc<Control>);

#[async_trait::async_trait]
impl Pollable for Stopping {
    async fn ready(&mut self) {
        self.0.stop.asked().await;
    }
}

/// Adds it to what guests may import.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut stop = linker.instance(MODULE)?;
    stop.func_wrap(IS_STOPPING, |store: StoreContextMut<'_, State>, (): ()| {
        Ok((store.data().control.stop.look(),))
    })?;
    stop.func_wrap(STOPPING, |mut store: StoreContextMut<'_, State>, (): ()| {
        let state = store.data_mut();
        state.control.stop.look();
        let stopping = state.table.push(Stopping(Arc::clone(&state.control)))?;
        let pollable: Resource<DynPollable> = subscribe(&mut state.table, stopping)?;
        Ok((pollable,))
    })
}

/// Whether core modules may import this.
pub(crate) fn offers(module: &str, function: &str) -> bool {
    module == MODULE && [IS_STOPPING, STOPPING].contains(&function)
}

/// Adds it to what core modules may import.
pub(crate) fn add_to_modules(linker: &mut wasmtime::Linker<State>) -> wasmtime::Result<()> {
    linker.func_wrap(MODULE, IS_STOPPING, |caller: Caller<'_, State>| {
        u32::from(caller.data().control.stop.look())
    })?;
    linker.func_wrap(MODULE, STOPPING, |mut caller: Caller<'_, State>| {
        let stopping = caller.data_mut().preview1.as_mut().and_then(|preview1| preview1.open_stopping());
        stopping.map_or(-1, u32::cast_signed)
    })?;
    Ok(())
}
