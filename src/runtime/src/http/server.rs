//! A handler's container: its listener, its connections, its end.

use std::convert::Infallible;
use std::net::Ipv6Addr;
use std::pin::pin;
use std::sync::Arc;

use coracle_network::{NetworkError, Stream, TcpListener};
use hyper::service::service_fn;
use hyper_util::server::conn::auto::Builder;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::answer::answer;
use super::body::Failed;
use super::charge::{Account, Requests};
use super::client::Client;
use super::config::{
    BODY_AHEAD, CONCURRENCY_MAX, CONNECTIONS, H2_CONNECTION_WINDOW, H2_FRAME, H2_HEAD_BYTES, H2_MISTAKES,
    H2_SEND_BYTES, H2_TAKEN_BACK, HEAD_BYTES, HttpConfig, IDLE, LINE, REQUESTS, STREAMS,
};
use super::connection::Connection;
use super::factory::{Factory, Full, Instance};
use super::gate::Gate;
use super::io::{Activity, Io};
use super::metrics::Metrics;
use super::pool::Pool;
use super::tasks::{Phase, Spawner, Tasks};
use super::trouble::Trouble;
use crate::container::{Container, ContainerSpec, Exit};
use crate::error::StartError;
use crate::limiter::Purse;
use crate::limits::MEMORY_MAX;
use crate::places::Part;
use crate::program::{Program, ProgramKind};
use crate::run::{Control, message};
use crate::runtime::Runtime;

/// Connections that wait to be accepted: as many as the network lets wait.
const BACKLOG: usize = coracle_network::limits::BACKLOG_MAX;

/// The answer on a connection that is one too many, or that cannot be paid for, whatever was asked.
pub(super) const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// What all connections of a handler share.
pub(super) struct Server {
    pub(super) config: HttpConfig,
    pub(super) gate: Gate,
    pub(super) pool: Pool,
    pub(super) factory: Factory,
    pub(super) metrics: Arc<Metrics>,
    pub(super) trouble: Trouble,
    pub(super) tasks: Arc<Tasks>,
    pub(super) requests: Arc<Requests>,
    control: Arc<Control>,
    purse: Purse,
    connections: Arc<Semaphore>,
    protocol: Builder<Spawner>,
}

impl Runtime {
    /// Serves HTTP on the pod's network with instances of a handler, until it is stopped or killed. What its
    /// instances print goes to the outputs of `spec`; its stdin is not used.
    ///
    /// Stopped, it takes no new connections, answers what it was asked, and ends with code 0.
    ///
    /// # Errors
    /// [`StartError::NotHandler`] for a command, [`StartError::Listen`] if the port is taken.
    pub fn serve(
        &self,
        program: Arc<Program>,
        spec: ContainerSpec,
        config: HttpConfig,
    ) -> Result<Container, StartError> {
        if program.kind() != ProgramKind::HttpHandler {
            return Err(StartError::NotHandler);
        }
        let port = config.port;
        let listener = spec
            .network
            .listen((Ipv6Addr::UNSPECIFIED, port).into(), BACKLOG)
            .map_err(|source| StartError::Listen { port, source })?;
        let metrics = Arc::new(Metrics::default());
        let share = self.executor.share(spec.cpu);
        let memory_limit = spec.memory_limit.unwrap_or(self.default_memory_limit).min(MEMORY_MAX);
        let control = Control::serving(spec.name.clone(), share, memory_limit, Arc::clone(&metrics));
        let control = Arc::new(control.taking(program.places()));
        control.stop.listens(listener.drain_handle());
        let tasks = Tasks::new(Arc::clone(&control.share));
        // Its share of the node's places, whatever its instances take.
        let most = CONCURRENCY_MAX / usize::try_from(program.places()).unwrap_or(CONCURRENCY_MAX);
        let concurrency = config.concurrency.clamp(1, most.max(1));
        let purse = Purse::new(&spec.budget, &control);
        let server = Arc::new(Server {
            config,
            requests: Requests::new(purse.clone(), REQUESTS),
            gate: Gate::new(concurrency, LINE),
            pool: Pool::new(config.reuse, concurrency, &control.share),
            trouble: Trouble::new(Arc::clone(&spec.stderr)),
            factory: Factory {
                engine: self.engine.clone(),
                program,
                control: Arc::clone(&control),
                part: Part::new(&self.places),
                client: Client::new(spec.network.clone(), &control, purse.clone()),
                metrics: Arc::clone(&metrics),
                spec,
            },
            metrics,
            protocol: protocol(&tasks),
            tasks,
            control: Arc::clone(&control),
            purse,
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
        });
        control.share.spawn(run(server, listener), control.ending());
        Ok(Container { control })
    }
}

/// HTTP/1.1, and HTTP/2 for who begins with it.
fn protocol(tasks: &Arc<Tasks>) -> Builder<Spawner> {
    let mut builder = Builder::new(Spawner(Arc::clone(tasks)));
    builder.http1().max_buf_size(HEAD_BYTES);
    builder
        .http2()
        .max_concurrent_streams(STREAMS)
        .max_frame_size(H2_FRAME)
        .max_pending_accept_reset_streams(H2_TAKEN_BACK)
        .max_local_error_reset_streams(H2_MISTAKES)
        .max_header_list_size(H2_HEAD_BYTES)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .initial_stream_window_size(BODY_AHEAD)
        .max_send_buf_size(H2_SEND_BYTES);
    builder
}

/// The life of the container.
async fn run(server: Arc<Server>, listener: TcpListener) -> Exit {
    let exit = tokio::select! {
        biased;
        () = server.control.killed() => None,
        exit = serve(&server, listener) => Some(exit),
    };
    server.tasks.enter(Phase::Ended);
    server.tasks.all_ended().await;
    server.pool.close().await;
    let exit = exit.unwrap_or_else(|| server.control.ended_from_outside().unwrap_or(Exit::Killed));
    tracing::debug!(container = server.control.name(), ?exit, "container ended");
    exit
}

/// Takes connections until it is told to stop, and then finishes what it was asked.
async fn serve(server: &Arc<Server>, listener: TcpListener) -> Exit {
    loop {
        match listener.accept().await {
            Ok(stream) => match Arc::clone(&server.connections).try_acquire_owned() {
                Ok(place) => server.tasks.spawn(connection(Arc::clone(server), stream, place)),
                Err(_) => {
                    // Not left to wait: nobody would see then that the listener is to end.
                    server.metrics.overloaded();
                    let _ = stream.try_write(FULL);
                }
            },
            Err(NetworkError::Draining) => break,
            Err(error) => {
                // The pod's network is gone, and the pod with it.
                tracing::debug!(container = server.control.name(), %error, "a handler's listener has ended");
                return Exit::Killed;
            }
        }
    }
    drop(listener);
    server.tasks.enter(Phase::Draining);
    server.tasks.all_ended().await;
    Exit::Code(0)
}

async fn connection(server: Arc<Server>, stream: Stream, _place: OwnedSemaphorePermit) {
    let (activity, account) = (Activity::new(), Account::new(&server.purse));
    let shared = Connection::new(stream.local_addr(), &activity, &account);
    let io = Io::new(stream, Arc::clone(&server.control.traffic), account, Some(Arc::clone(&activity)));
    let service = service_fn(|request| {
        let answered = answer(Arc::clone(&server), Arc::clone(&shared), request);
        async { Ok::<_, Infallible>(answered.await) }
    });
    let mut exchange = pin!(server.protocol.serve_connection(io, service));
    // Twice, so that who waits for the beginning of an answer is told that there is none before this comes.
    let mut silence = pin!(activity.silence(IDLE, server.config.timeout * 2));
    let mut phase = server.tasks.phase();
    let mut draining = false;
    loop {
        tokio::select! {
            biased;
            result = &mut exchange => {
                if let Err(error) = result {
                    tracing::debug!(container = server.control.name(), %error, "a connection ended early");
                }
                return;
            }
            () = &mut silence => return,
            _ = phase.wait_for(|phase| *phase == Phase::Draining), if !draining => {
                draining = true;
                exchange.as_mut().graceful_shutdown();
            }
        }
    }
}

impl Server {
    /// A guest has come back from its request.
    pub(super) fn returned(&self, result: wasmtime::Result<Instance>) -> Result<(), Failed> {
        match result {
            Ok(instance) => {
                // What nobody needs now goes first where others find no room.
                if self.factory.part.may_idle() {
                    self.pool.give(instance);
                } else {
                    drop(instance);
                }
                self.factory.part.free();
                Ok(())
            }
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// A guest has trapped.
    pub(super) fn failed(&self, error: &wasmtime::Error) -> Failed {
        let full = Full::of(error);
        if self.control.ended_from_outside().is_none() {
            self.metrics.failed();
            match full {
                Some(_) => self.trouble.tell(&error.root_cause().to_string()),
                None => self.trouble.tell(&message(error, &self.factory.program)),
            }
        }
        Failed(full)
    }
}
