//! `coracle:lifecycle/stop` (`wit/lifecycle.wit`): a guest that imports it learns that it is asked to end.

use std::sync::Arc;

use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi_io::poll::{DynPollable, Pollable, subscribe};

use crate::run::Control;
use crate::state::State;

/// The version that guests are built against, and the interfaces.
pub(crate) const OFFERED: (&str, &[&str]) = ("0.1", &["coracle:lifecycle/stop"]);

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
    let mut stop = linker.instance("coracle:lifecycle/stop@0.1.0")?;
    stop.func_wrap("is-stopping", |store: StoreContextMut<'_, State>, (): ()| {
        Ok((store.data().control.stop.look(),))
    })?;
    stop.func_wrap("stopping", |mut store: StoreContextMut<'_, State>, (): ()| {
        let state = store.data_mut();
        state.control.stop.look();
        let stopping = state.table.push(Stopping(Arc::clone(&state.control)))?;
        let pollable: Resource<DynPollable> = subscribe(&mut state.table, stopping)?;
        Ok((pollable,))
    })
}
