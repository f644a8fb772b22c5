//! Instances of a handler.

use std::future::{pending, poll_fn};
use std::sync::Arc;

use coracle_budget::Exceeded;
use futures::channel;
use http::header::HOST;
use http::uri::{self, Authority};
use http::{Request, Uri};
use tokio::sync::oneshot;
use wasmtime::{AsContextMut, Engine, Store};
use wasmtime_wasi_http::handler::{Prepared, Proxy};
use wasmtime_wasi_http::p2::bindings::Proxy as Proxy2;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::{WasiBody, WasiHttpView};

use super::memory::{BODY_BYTES, charged};
use super::metrics::{Alive, Metrics};
use super::output::Lines;
use super::{Client, Http};
use crate::container::ContainerSpec;
use crate::engine;
use crate::error::StartError;
use crate::limiter::OutOfMemory;
use crate::output::Output;
use crate::places::{NoPlace, Part, PartPlace};
use crate::program::{Entry, Program};
use crate::run::{Control, store};
use crate::state::State;

/// What a guest answers: a response, or the error that it gives instead.
pub(super) type Head = Result<http::Response<WasiBody>, String>;

/// Makes instances, all alike.
pub(super) struct Factory {
    pub(super) engine: Engine,
    pub(super) program: Arc<Program>,
    pub(super) spec: ContainerSpec,
    pub(super) control: Arc<Control>,
    /// Of the node's places.
    pub(super) part: Arc<Part>,
    pub(super) client: Arc<Client>,
    pub(super) metrics: Arc<Metrics>,
}

/// No instance could be made.
#[derive(Debug)]
pub(super) enum MakeError {
    /// There is no room for another.
    NoRoom(Full),
    /// What room there is is for others, until one of the handler's instances is free.
    Part,
    /// The guest failed before its first request.
    Failed(wasmtime::Error),
}

/// What is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// The node's places for instances, or its memory.
    Node,
    /// The container's memory limit.
    Container,
    /// The pod's memory.
    Pod,
}

impl Full {
    /// What was full, if it was for want of memory, or of room in the engine, that a guest ended.
    pub(super) fn of(error: &wasmtime::Error) -> Option<Full> {
        let memory = error.downcast_ref::<OutOfMemory>().map(Full::from);
        memory.or_else(|| engine::is_full(error).then_some(Full::Node))
    }
}

impl From<&OutOfMemory> for Full {
    fn from(error: &OutOfMemory) -> Full {
        match error {
            OutOfMemory::Container { .. } => Full::Container,
            OutOfMemory::Pod(Exceeded::Pod { .. }) => Full::Pod,
            OutOfMemory::Pod(Exceeded::Node { .. }) | OutOfMemory::Node => Full::Node,
        }
    }
}

/// An instance and what it may hold.
pub(super) struct Instance {
    store: Store<State>,
    handler: Handler,
    /// Requests it was given.
    pub(super) requests: u32,
    _place: PartPlace,
    _alive: Alive,
}

/// How an instance is called.
enum Handler {
    Two(Proxy2),
    Three(Proxy),
}

impl Factory {
    pub(super) async fn make(&self) -> Result<Instance, MakeError> {
        let place = self.part.take(self.program.places()).map_err(|why| match why {
            NoPlace::Full => MakeError::NoRoom(Full::Node),
            NoPlace::Part => MakeError::Part,
        })?;
        let http = Http::sharing(Arc::clone(&self.client));
        let lines = |output: &Arc<dyn Output>| Lines::new(output) as Arc<dyn Output>;
        let (stdout, stderr) = (lines(&self.spec.stdout), lines(&self.spec.stderr));
        let state = State::one_of_many(&self.program, &self.spec, stdout, stderr, &self.control, http);
        let mut store = store(&self.engine, state, &self.control);
        let handler = async {
            store.data_mut().limiter.keep(self.program.context(), self.program.heap()).await?;
            match self.program.entry() {
                Entry::Handler(handler) => handler.instantiate_async(&mut store).await.map(Handler::Two),
                Entry::Handler3(handler) => {
                    let handler = handler.instantiate_async(&mut store).await;
                    handler.map(|handler| Handler::Three(Proxy::P3(handler)))
                }
                _ => Err(wasmtime::Error::new(StartError::NotHandler)),
            }
        };
        let handler = handler
            .await
            .map_err(|error| Full::of(&error).map_or(MakeError::Failed(error), MakeError::NoRoom))?;
        Ok(Instance { store, handler, requests: 0, _place: place, _alive: Alive::begin(&self.metrics) })
    }
}

impl Instance {
    /// It has returned from a request, and may get another.
    ///
    /// # Errors
    /// If what it keeps of the request cannot be paid for.
    pub(super) fn settle(&mut self) -> wasmtime::Result<()> {
        self.store.data_mut().http_settles()
    }

    /// Has the guest handle a request, and gives the instance back when it has returned. The answer's head goes to
    /// `head` before, if the guest gives one.
    ///
    /// # Errors
    /// If the guest traps, exits or is ended: then the instance is gone.
    pub(super) async fn handle(
        mut self,
        request: Request<WasiBody>,
        head: oneshot::Sender<Head>,
    ) -> wasmtime::Result<Instance> {
        self.requests += 1;
        match &self.handler {
            Handler::Two(handler) => {
                let mut http = self.store.data_mut().http();
                let request = http.new_incoming_request(Scheme::Http, request)?;
                let out = http.new_response_outparam_from_callback(move |answer| {
                    // Nobody waits any more: the client is gone.
                    let _ = head.send(answer.map_err(|code| format!("{code:?}")));
                })?;
                handler.wasi_http_incoming_handler().call_handle(&mut self.store, request, out).await?;
            }
            Handler::Three(handler) => {
                handle_3(&mut self.store, handler, with_authority(request), head).await?;
            }
        }
        Ok(self)
    }
}

/// A request that says in its target whom it is for, as a guest of 0.3 is told. One of HTTP/1.1 says so in a header.
fn with_authority(request: Request<WasiBody>) -> Request<WasiBody> {
    let (mut head, body) = request.into_parts();
    if head.uri.authority().is_none()
        && let Some(host) = head.headers.get(HOST)
        && let Ok(authority) = Authority::try_from(host.as_bytes())
    {
        let mut parts = head.uri.clone().into_parts();
        (parts.scheme, parts.authority) = (Some(uri::Scheme::HTTP), Some(authority));
        if let Ok(target) = Uri::from_parts(parts) {
            head.uri = target;
        }
    }
    Request::from_parts(head, body)
}

/// A guest of WASI 0.3 gives its response back and goes on writing it; it is done when all that it began is.
async fn handle_3(
    store: &mut Store<State>,
    handler: &Proxy,
    request: Request<WasiBody>,
    head: oneshot::Sender<Head>,
) -> wasmtime::Result<()> {
    let held = store.data().limiter.lend(BODY_BYTES)?;
    let (sender, answer) = channel::oneshot::channel::<wasmtime::Result<http::Response<WasiBody>>>();
    let pass_on = async {
        if let Ok(answer) = answer.await {
            let answer = answer.map(|answer| answer.map(|body| charged(body, held)));
            let _ = head.send(answer.map_err(|error| format!("{error:#}")));
        }
    };
    store
        .run_concurrent(async |accessor| {
            let prepared = accessor.with(|mut store| {
                Prepared::new(store.as_context_mut(), handler, request, State::http, sender)
            })?;
            let (ran, ()) = futures::join!(prepared.run(accessor, pending()), pass_on);
            ran?;
            poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
            wasmtime::Result::Ok(())
        })
        .await?
}
