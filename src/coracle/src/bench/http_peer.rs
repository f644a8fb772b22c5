//! The peer of `coracle bench http`: what `wasmtime serve` of version 48 does with its default settings, so that
//! no other binary is needed to compare with.
//!
//! One task per connection with hyper's HTTP/1, `ProxyHandler` of wasmtime-wasi-http with one request per instance,
//! the pooling allocator as it comes, no epochs, no limits.

use std::{
    convert::Infallible,
    future::pending,
    path::Path,
    pin::Pin,
    task::{self, Poll},
};

use anyhow::Context as _;
use http_body_util::BodyExt;
use hyper::{Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use tokio::net::TcpListener;
use wasmtime::{
    Engine, PoolingAllocationConfig, Store, StoreContextMut, StoreLimits,
    component::{Component, GuestTaskId, Linker, ResourceTable},
};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
    handler::{
        HandlerState, Instance, ProxyHandler, ProxyPre, ShouldAccept, WorkerExpiration, WorkerState,
        WorkerStatus,
    },
    io::TokioIo,
    p2::bindings,
};

/// Serves until the process is killed.
pub(crate) async fn run(component: &Path) -> anyhow::Result<()> {
    let handler = ProxyHandler::new(Handler::load(component).map_err(anyhow::Error::msg)?);
    let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot listen")?;
    let address = listener.local_addr().context("cannot listen")?;
    crate::ui::note(&format!("Serving HTTP on http://{address}/"));
    loop {
        let (stream, _) = listener.accept().await.context("cannot accept")?;
        stream.set_nodelay(true).context("cannot set up a connection")?;
        let handler = handler.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let handler = handler.clone();
                async move { Ok::<_, Infallible>(answer(&handler, request).await) }
            });
            // A client that goes away is its own affair.
            let _ =
                http1::Builder::new().keep_alive(true).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(handler: &ProxyHandler<Handler>, request: Request<Incoming>) -> Response<WasiBody> {
    let request = request.map(|body| body.map_err(Error::from).boxed_unsync());
    match handler.handle((), request).await {
        Ok(response) => response,
        Err(error) => {
            tracing::error!(%error, "a request failed");
            let body = http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync();
            let mut response = Response::new(body);
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
    }
}

struct Handler {
    engine: Engine,
    component: ProxyPre<Host>,
}

impl Handler {
    fn load(component: &Path) -> wasmtime::Result<Handler> {
        let mut config = wasmtime::Config::new();
        config.allocation_strategy(PoolingAllocationConfig::new());
        let engine = Engine::new(&config)?;
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
        let bytes = std::fs::read(component)?;
        let component = linker.instantiate_pre(&Component::new(&engine, bytes)?)?;
        Ok(Handler { engine, component: ProxyPre::P2(bindings::ProxyPre::new(component)?) })
    }
}

impl HandlerState for Handler {
    type StoreData = Host;
    type WorkerExpiration = Never;
    type WorkerState = Once;

    async fn instantiate(&self) -> wasmtime::Result<Instance<Host, Never, Once>> {
        let host = Host {
            table: ResourceTable::new(),
            wasi: WasiCtx::builder().build(),
            http: WasiHttpCtx::new(),
            hooks: Hooks,
            limits: StoreLimits::default(),
        };
        let mut store = Store::new(&self.engine, host);
        store.limiter(|host| &mut host.limits);
        let proxy = self.component.instantiate_async(&mut store).await?;
        Ok(Instance { store, proxy, view: Host::http, expiration: Never, state: Once })
    }
}

struct Host {
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: Hooks,
    limits: StoreLimits,
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Host {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.hooks, table: &mut self.table, ctx: &mut self.http }
    }
}

/// The component sends no requests.
struct Hooks;

type Rest = Box<dyn Future<Output = Result<(), Error>> + Send>;

impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        _request: Request<WasiBody>,
        _options: Option<RequestOptions>,
        _processed: Rest,
    ) -> Box<dyn Future<Output = Result<(Response<WasiBody>, Rest), Error>> + Send> {
        Box::new(async { Err(Error::HttpRequestDenied) })
    }
}

/// There is no timeout.
struct Never;

impl WorkerExpiration for Never {
    fn poll(
        self: Pin<&mut Self>,
        _cx: &mut task::Context<'_>,
        _status: WorkerStatus,
        _since: std::time::Instant,
    ) -> Poll<()> {
        Poll::Pending
    }
}

/// One request per instance.
struct Once;

impl WorkerState for Once {
    type StoreData = Host;
    type RequestData = ();

    fn should_accept_request(&self, _concurrent: usize, total: usize) -> ShouldAccept {
        if total == 0 { ShouldAccept::Yes } else { ShouldAccept::Never }
    }

    fn on_request_start(
        &self,
        _store: StoreContextMut<'_, Host>,
        (): (),
        _task: GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + Sync>> {
        Box::pin(pending())
    }

    fn drop(&self, _store: Store<Host>, result: Result<(), wasmtime::Error>) {
        if let Err(error) = result {
            tracing::error!(%error, "an instance failed");
        }
    }
}
