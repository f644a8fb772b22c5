//! What every request shares: the store, the table of resources, admission, metrics, the clock.

use std::{ops::RangeInclusive, sync::Arc};

use axum::Router;
use coracle_store::Store;
use ipnet::{Ipv4Net, Ipv6Net};
use jiff::Timestamp;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admission::Admission, dispatch, dispatch::Admittance, metrics::Metrics, nodes::NodeProxies,
    registry::Registry, shares::Shares, summaries::Summaries, tokens::Tokens,
};

/// Upgraded connections at once (exec, attach, port-forward, proxied WebSockets), beyond those that the
/// listener counts: each costs a few tens of kilobytes of buffers.
const MAX_STREAMS: usize = 2048;

/// The server without its sockets.
pub(crate) struct Core {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) registry: Registry,
    pub(crate) admission: Admission,
    pub(crate) admittance: Admittance,
    pub(crate) metrics: Metrics,
    pub(crate) nodes: NodeProxies,
    /// What the nodes measured last.
    pub(crate) summaries: Summaries,
    /// Bounds how many connections are turned into streams.
    pub(crate) streams: Arc<Semaphore>,
    /// Bounds the long-running requests of each service account.
    pub(crate) shares: Shares,
    /// Where `clusterIP`s come from.
    pub(crate) service_cidr: Ipv4Net,
    /// Cancelled when the server stops: watches and log streams end.
    pub(crate) shutdown: CancellationToken,
    /// Writes under way and the server's own loops.
    pub(crate) tasks: TaskTracker,
    /// The key of the service accounts' tokens.
    pub(crate) tokens: Tokens,
    clock: fn() -> Timestamp,
}

impl Core {
    /// A server over a store. Addresses that stored services have are taken from the start.
    pub(crate) fn new(
        store: Arc<dyn Store>,
        service_cidr: Ipv4Net,
        service_cidr_v6: Ipv6Net,
        node_ports: RangeInclusive<u16>,
        tokens: Tokens,
        clock: fn() -> Timestamp,
        shutdown: CancellationToken,
    ) -> Arc<Core> {
        let admission = Admission::new(service_cidr, service_cidr_v6, node_ports, &*store);
        Arc::new(Core {
            store,
            registry: Registry::builtin(),
            admission,
            admittance: Admittance::default(),
            metrics: Metrics::default(),
            nodes: NodeProxies::default(),
            summaries: Summaries::default(),
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            shares: Shares::default(),
            service_cidr,
            shutdown,
            tasks: TaskTracker::new(),
            tokens,
            clock,
        })
    }

    /// All routes of the server. Who calls must be in the extensions of each request.
    pub(crate) fn router(self: Arc<Self>) -> Router {
        Router::new().fallback(dispatch::handle).with_state(self)
    }

    /// Wall time.
    pub(crate) fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// Wall time in the form that `metadata` has it: RFC 3339 in whole seconds.
    pub(crate) fn now_text(&self) -> String {
        seconds_text(self.now())
    }
}

/// A time in whole seconds, as `metadata` writes it.
pub(crate) fn seconds_text(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

/// Randomness for names; the one place it comes from.
pub(crate) fn random() -> u64 {
    rand::random()
}

/// A new object's `uid`.
pub(crate) fn new_uid() -> String {
    // The generator of this thread, which is seeded by the system: no call to it for each.
    uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string()
}
