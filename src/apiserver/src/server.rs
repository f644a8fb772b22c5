//! The API server as the composition root sees it: built from a configuration and a store, serving
//! until it is shut down.

use std::{io, net::IpAddr, net::SocketAddr, ops::RangeInclusive, path::PathBuf, sync::Arc, time::Duration};

use axum::{Extension, Router, middleware};
use coracle_api::addresses;
use coracle_store::Store;
use ipnet::Ipv4Net;
use jiff::Timestamp;
use thiserror::Error;
use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    auth::{self, User},
    bootstrap::{self, BootstrapError},
    core::Core,
    events,
    nodes::NodeProxies,
    pki::{self, AdminCredentials, Pki, PkiError},
    serve::Listener,
};

/// What an API server is built from.
pub struct Config {
    /// Where to listen; port 0 picks a free one.
    pub listen: SocketAddr,
    /// The folder of the cluster's certificates; made on first start.
    pub pki_dir: PathBuf,
    /// Where `clusterIP`s come from. Its first address is the `kubernetes` Service.
    pub service_cidr: Ipv4Net,
    /// Where `nodePort`s come from.
    pub node_ports: RangeInclusive<u16>,
    /// Further routes behind authentication, such as the embedded registry's `/v2/`.
    pub extra_routes: Router,
    /// Wall time.
    pub now: fn() -> Timestamp,
}

/// Why an API server could not start.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The certificates could not be read or made.
    #[error("cannot set up the certificates")]
    Pki(#[source] PkiError),
    /// The address could not be bound.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The objects that every cluster has could not be written.
    #[error("cannot create the cluster's first objects")]
    Bootstrap(#[source] BootstrapError),
}

/// A running API server.
///
/// Dropping it stops the accept loop and every watch, without waiting for them.
pub struct ApiServer {
    address: SocketAddr,
    ca_pem: String,
    admin: AdminCredentials,
    core: Arc<Core>,
    router: Router,
    /// Cancelled first: no new connection, open ones finish their requests, watches end.
    shutdown: CancellationToken,
}

impl ApiServer {
    /// Makes what is missing (certificates, first namespaces, the `kubernetes` Service), binds and
    /// starts serving.
    pub async fn build(config: Config, store: Arc<dyn Store>) -> Result<ApiServer, BuildError> {
        let pki = Pki::open(&config.pki_dir, (config.now)()).map_err(BuildError::Pki)?;
        let admin = pki.admin(&config.pki_dir).map_err(BuildError::Pki)?;
        let kubernetes = bootstrap::first_address(config.service_cidr);
        let names = [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ];
        let mut addresses = vec![IpAddr::from([127, 0, 0, 1]), IpAddr::V4(kubernetes)];
        if !config.listen.ip().is_unspecified() && !addresses.contains(&config.listen.ip()) {
            addresses.push(config.listen.ip());
        }
        let (tls, verifier) = pki.server(&names, &addresses).map_err(BuildError::Pki)?;

        let listen = |source| BuildError::Listen { address: config.listen, source };
        let socket = TcpListener::bind(config.listen).await.map_err(listen)?;
        let address = socket.local_addr().map_err(listen)?;

        let shutdown = CancellationToken::new();
        let tokens = pki.tokens(&config.pki_dir).map_err(BuildError::Pki)?;
        let node_ports = config.node_ports.clone();
        let service_cidr_v6 = addresses::services_v6(addresses::cluster_v6(pki.ca_pem()));
        let core = Core::new(
            store,
            config.service_cidr,
            service_cidr_v6,
            node_ports,
            tokens,
            config.now,
            shutdown.clone(),
        );
        bootstrap::run(&core, address).await.map_err(BuildError::Bootstrap)?;

        // Whatever the extra routes do not know is the API's.
        let router = config.extra_routes.fallback_service(core.clone().router());
        let door = middleware::from_fn_with_state(core.clone(), auth::require_user);
        let listener = Listener {
            socket,
            tls,
            verifier,
            router: router.clone().layer(door),
            shutdown: shutdown.clone(),
        };
        core.tasks.spawn(listener.run());
        core.tasks.spawn(events::expire(core.clone()));
        core.tasks.spawn(bootstrap::keep(core.clone(), address));
        core.tasks.close();
        let ca_pem = pki.ca_pem().to_owned();
        Ok(ApiServer { address, ca_pem, admin, core, router, shutdown })
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate of the cluster's CA, PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The administrator's credentials.
    pub fn admin(&self) -> &AdminCredentials {
        &self.admin
    }

    /// A kubeconfig for the administrator.
    pub fn kubeconfig(&self) -> String {
        let host = match self.address.ip() {
            ip if ip.is_unspecified() => SocketAddr::from(([127, 0, 0, 1], self.address.port())),
            _ => self.address,
        };
        pki::kubeconfig(&format!("https://{host}"), &self.admin)
    }

    /// The in-process door: the same router, with a fixed identity.
    pub fn service_as(&self, user: User) -> Router {
        let door = middleware::from_fn_with_state(self.core.clone(), auth::require_user);
        self.router.clone().layer(door).layer(Extension(user))
    }

    /// The nodes whose kubelet API can be reached from here.
    pub fn nodes(&self) -> &NodeProxies {
        &self.core.nodes
    }

    /// Stops accepting, ends watches and log streams, and waits up to `deadline` for requests that are
    /// under way.
    pub async fn shutdown(self, deadline: Duration) {
        self.shutdown.cancel();
        if timeout(deadline, self.core.tasks.wait()).await.is_err() {
            tracing::warn!("some requests did not end in time");
        }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}
