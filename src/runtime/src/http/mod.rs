//! `wasi:http`: requests to handlers, and requests of all guests.
//!
//! ```text
//!            pod's stack                     guests' threads
//!   client ─▶ listener ─▶ connection (hyper) ─▶ gate ─▶ instance: new, or one that waits
//!                               ▲                           │ handle(request)
//!                               └──── head, body, trailers ◀┘
//!
//!   serving ──stop──▶ draining: no new connections, requests in flight finish ──▶ Exit::Code(0)
//!        └───kill───▶ all connections and instances end at once ───────────────▶ Exit::Killed
//! ```
//!
//! A handler's container holds a listener and nothing else until somebody asks. Each request gets an instance of
//! its own from the engine's pool; with [`HttpConfig::reuse`] an instance answers several, one after the other,
//! and waits a moment for the next. The guest runs inside the task of its connection: an answer costs no
//! change of threads, and when the client goes away the instance goes with it. All instances together are held
//! to the container's memory limit.
//!
//! What clients make the node hold for a handler is paid from the container's memory limit and its pod's ([`charge`],
//! [`memory`]): whole heads of requests and 64 KiB ahead of each body, heads, bodies and trailers of answers until the
//! last of them has left, and the buffers of connections that grew large. Who reads slowly, or never, so fills the
//! memory of whom it asks, and the next is told that it is full. In numbers, for one handler:
//!
//! | what | at most | who pays |
//! | --- | --- | --- |
//! | connections that do little | 1,024 (`CONNECTIONS`) of 32 KiB: 32 MiB | nobody |
//! | connections of HTTP/2 | 384 KiB (`H2_CONNECTION_BYTES`) each, which the refusals of 100 streams are part of | the container |
//! | connections that receive or send much | 128 KiB (`READ_BYTES`), and what waits to be sent at once | the container |
//! | pieces of HTTP/2 bodies that wait for their guest | 1,538 (`pieces`) on a connection, of a buffer of 8 KiB each, from 256 KiB on | the container |
//! | requests, until their guest has returned and their answer left | 2,048 (`REQUESTS`) of 4 KiB, their heads, 64 KiB while a body lasts | the container |
//! | what an instance keeps of earlier ones | 128 KiB (`READ_BYTES`) for each | the container, or it gets no other |
//! | answers | heads and trailers of 128 KiB, and 48 KiB (`BODY_BYTES`) while a body lasts | the container |
//!
//! So a handler's clients make the node hold no more than its memory limit and 32 MiB, and 256 KiB for each of its
//! connections that has requests with bodies.
//!
//! On a small node a handler does not take all places for instances (see `places`): its requests wait for each other
//! when it has three times as many as it leaves, and while the node's last places are touched, no instance waits for its
//! next request.
//!
//! What guests ask of others (connecting, TLS, the exchange) runs as tasks on their container's share of the CPUs,
//! too, and so does what drops connections and instances that nobody used again.
//!
//! Read first: [`server`] (the life of the container and its connections), [`answer`] (one request) and
//! [`client`] (requests of guests).

mod answer;
mod body;
mod charge;
mod client;
mod config;
mod connect;
mod connection;
mod errors;
mod factory;
mod gate;
mod idle;
mod io;
mod memory;
mod metrics;
mod output;
mod pieces;
mod pool;
mod server;
mod tasks;
mod trouble;

use std::sync::Arc;

use coracle_network::PodStack;
use wasmtime::component::ResourceTable;
use wasmtime_wasi_http::{
    DEFAULT_FORBIDDEN_HEADERS, Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks,
};

pub(crate) use self::client::Client;
use self::config::HEAD_BYTES;
pub use self::config::{CONCURRENCY_MAX, HttpConfig};
#[cfg(test)]
pub(crate) use self::config::{CONNECTIONS, H2_CONNECTION_BYTES, READ_BYTES, REQUESTS};
#[cfg(test)]
pub(crate) use self::memory::BODY_BYTES;
pub(crate) use self::memory::add_to_linker;
use self::memory::{BODY_CHUNK, Heads};
pub(crate) use self::metrics::Metrics;
pub use self::metrics::{BUCKETS, HttpUsage};
use crate::limiter::{Limiter, Purse};
use crate::run::Control;

/// A guest's side of `wasi:http`.
pub(crate) struct Http {
    ctx: WasiHttpCtx,
    hooks: Hooks,
}

struct Hooks {
    way: Way,
    heads: Heads,
}

/// How a guest's requests leave.
enum Way {
    /// It has sent none yet; most never do.
    Unused { stack: PodStack, control: Arc<Control>, purse: Purse },
    /// Its container's client.
    Used(Arc<Client>),
}

impl Http {
    /// For a container that is one instance.
    pub(crate) fn new(stack: PodStack, control: Arc<Control>, purse: Purse) -> Http {
        Http::leaving(Way::Unused { stack, control, purse })
    }

    /// For an instance of a container that has many.
    pub(crate) fn sharing(client: Arc<Client>) -> Http {
        Http::leaving(Way::Used(client))
    }

    fn leaving(way: Way) -> Http {
        Http { ctx: WasiHttpCtx::new(), hooks: Hooks { way, heads: Heads::default() } }
    }

    /// Its requests, responses and fields are about to take so many bytes more.
    ///
    /// # Errors
    /// If that is more than the container or its pod may hold.
    pub(crate) fn grow(
        &mut self,
        bytes: u64,
        table: &mut ResourceTable,
        limiter: &mut Limiter,
    ) -> wasmtime::Result<()> {
        self.hooks.heads.grow(bytes, table, limiter)
    }

    /// A request is over, and another may come.
    ///
    /// # Errors
    /// If what is kept of it is more than the container or its pod may hold.
    pub(crate) fn settle(
        &mut self,
        table: &mut ResourceTable,
        limiter: &mut Limiter,
    ) -> wasmtime::Result<()> {
        self.hooks.heads.settle(table, limiter)
    }

    /// For the hosts of `wasi:http`.
    pub(crate) fn view<'a>(&'a mut self, table: &'a mut ResourceTable) -> WasiHttpCtxView<'a> {
        WasiHttpCtxView { hooks: &mut self.hooks, table, ctx: &mut self.ctx }
    }
}

impl Way {
    fn client(&mut self) -> Arc<Client> {
        if let Way::Unused { stack, control, purse } = self {
            *self = Way::Used(Client::new(stack.clone(), control, purse.clone()));
        }
        match self {
            Way::Used(client) => Arc::clone(client),
            Way::Unused { .. } => unreachable!("replaced just above"),
        }
    }
}

/// The end of what is left to do for a request after its answer: nothing, in the end.
type Rest = Box<dyn Future<Output = Result<(), Error>> + Send>;

type Answered = Result<(http::Response<WasiBody>, Rest), Error>;

impl WasiHttpHooks for Hooks {
    fn is_forbidden_header(&mut self, name: &http::HeaderName) -> bool {
        DEFAULT_FORBIDDEN_HEADERS.contains(name)
    }

    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _processed: Rest,
    ) -> Box<dyn Future<Output = Answered> + Send> {
        self.heads.comes(HEAD_BYTES as u64); // of the answer
        let answered = self.way.client().send(request, options.unwrap_or_default());
        Box::new(async move {
            let response = answered.await?;
            Ok((response, Box::new(std::future::ready(Ok(()))) as Rest))
        })
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK
    }
}
