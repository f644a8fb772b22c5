//! The listener: TCP accept, TLS, HTTP/1.1 and HTTP/2 by ALPN.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Extension, Router};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use crate::auth::{LenientVerifier, Stranger};

/// A client that has not finished its handshake by then is dropped, so that idle sockets cannot hold
/// the server's memory.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Open connections at once. `kubectl` uses one, a watch-heavy operator a handful; further ones wait
/// in the kernel's backlog.
const MAX_CONNECTIONS: usize = 4096;
/// How many of those nobody has to answer for: connections without a certificate of the cluster that have
/// shown no valid token either. Probes and
/// load balancers ask for health and leave; with this bound strangers cannot take the places of users.
pub(crate) const MAX_ANONYMOUS: usize = 256;
/// How long such a connection may last. All that it can ask for is answered at once.
const ANONYMOUS_LIFETIME: Duration = Duration::from_secs(30);
/// HTTP/2 streams per connection: what client-go's servers announce.
const MAX_STREAMS: u32 = 250;
/// How long the listener rests after the kernel refused an accept (out of file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections until `shutdown`, then lets those that are open finish their requests.
pub(crate) struct Listener {
    pub(crate) socket: TcpListener,
    pub(crate) tls: ServerConfig,
    pub(crate) verifier: Arc<LenientVerifier>,
    pub(crate) router: Router,
    pub(crate) shutdown: CancellationToken,
}

impl Listener {
    /// Runs the accept loop; returns after `shutdown`, when every connection has ended. The caller
    /// bounds that wait.
    pub(crate) async fn run(self) {
        let acceptor = TlsAcceptor::from(Arc::new(self.tls));
        let connections = TaskTracker::new();
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let anonymous = Arc::new(Semaphore::new(MAX_ANONYMOUS));
        loop {
            let slot = tokio::select! {
                () = self.shutdown.cancelled() => break,
                slot = slots.clone().acquire_owned() => slot.expect("the semaphore is never closed"),
            };
            let accepted = tokio::select! {
                () = self.shutdown.cancelled() => break,
                accepted = self.socket.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let connection = Connection {
                acceptor: acceptor.clone(),
                verifier: self.verifier.clone(),
                router: self.router.clone(),
                anonymous: anonymous.clone(),
                shutdown: self.shutdown.clone(),
            };
            connections.spawn(async move {
                connection.serve(stream, peer).await;
                drop(slot);
            });
        }
        connections.close();
        connections.wait().await;
    }
}

struct Connection {
    acceptor: TlsAcceptor,
    verifier: Arc<LenientVerifier>,
    router: Router,
    anonymous: Arc<Semaphore>,
    shutdown: CancellationToken,
}

impl Connection {
    async fn serve(self, stream: TcpStream, peer: SocketAddr) {
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%peer, %error, "cannot set TCP_NODELAY");
        }
        let stream = match timeout(HANDSHAKE_TIMEOUT, self.acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return debug!(%peer, %error, "TLS handshake failed"),
            Err(_) => return debug!(%peer, "TLS handshake took too long"),
        };
        let user = stream.get_ref().1.peer_certificates().and_then(|chain| self.verifier.user(chain));
        let (router, stranger) = match user {
            Some(user) => (self.router.layer(Extension(user)), None),
            None => match self.anonymous.try_acquire_owned() {
                Ok(place) => {
                    let stranger = Stranger::new(place);
                    (self.router.layer(Extension(stranger.clone())), Some(stranger))
                }
                Err(_) => return debug!(%peer, "too many connections without a certificate"),
            },
        };
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HANDSHAKE_TIMEOUT);
        builder.http2().timer(TokioTimer::new()).max_concurrent_streams(MAX_STREAMS);
        let service = TowerToHyperService::new(router);
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            () = overstays(stranger.as_deref()) => {
                connection.as_mut().graceful_shutdown();
                match timeout(HANDSHAKE_TIMEOUT, connection).await {
                    Ok(ended) => ended,
                    Err(_) => return debug!(%peer, "a connection without a certificate took too long"),
                }
            }
        };
        if let Err(error) = ended {
            debug!(%peer, %error, "connection ended");
        }
    }
}

/// Waits until a stranger has been one for too long; for ever if somebody introduces themselves before.
async fn overstays(stranger: Option<&Stranger>) {
    let Some(stranger) = stranger else { return std::future::pending().await };
    tokio::select! {
        () = sleep(ANONYMOUS_LIFETIME) => {}
        () = stranger.known() => std::future::pending().await,
    }
}
