//! `wasi:io/poll` with a bound on how much a guest may wait for at once.
//!
//! The table bounds how many pollables there are, but a list may name one of them a million times, and each
//! entry costs the host far more than the guest.

use wasmtime::component::{HasData, Resource, ResourceTable};
use wasmtime_wasi_io::bindings::wasi::io::poll::{Host, HostPollable};
use wasmtime_wasi_io::poll::DynPollable;

use crate::limits::RESOURCES;
use crate::stack::Slack;

/// What the host of `wasi:io/poll` sees of a container.
pub(crate) struct PollView<'a> {
    pub(crate) table: &'a mut ResourceTable,
    pub(crate) slack: &'a mut Slack,
}

/// Tells the generated bindings that their host is [`PollView`].
pub(crate) struct Poll;

impl HasData for Poll {
    type Data<'a> = PollView<'a>;
}

impl Host for PollView<'_> {
    async fn poll(&mut self, pollables: Vec<Resource<DynPollable>>) -> wasmtime::Result<Vec<u32>> {
        if pollables.len() > RESOURCES {
            return Err(wasmtime::format_err!("poll list is longer than {RESOURCES}"));
        }
        self.slack.during(self.table.poll(pollables)).await
    }
}

impl HostPollable for PollView<'_> {
    async fn block(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        self.slack.during(self.table.block(pollable)).await
    }

    async fn ready(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<bool> {
        self.table.ready(pollable).await
    }

    fn drop(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        HostPollable::drop(self.table, pollable)
    }
}
