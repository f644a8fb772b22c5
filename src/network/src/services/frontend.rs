//! One port of a service: the backends behind it, whose turn it is, and which client stays with which.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use ipnet::IpNet;
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

use crate::admit::Origin;
use crate::limits::AFFINITY_CLIENTS;

/// By which kind of address a service is dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entrance {
    /// A cluster IP: the internal traffic policy holds.
    Inside,
    /// A port of the node or an external IP: the external one holds, for clients from outside.
    Outside,
    /// A load balancer's address: the same, and only the clients that `loadBalancerSourceRanges` names may come.
    Balanced,
}

/// Who dials a service, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller<'a> {
    /// The client's own address.
    pub(crate) client: IpAddr,
    pub(crate) origin: &'a Origin,
    pub(crate) entrance: Entrance,
    /// The family of the backends that it wants.
    pub(crate) is_v6: bool,
}

/// Why a service has no backend for somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shut {
    Empty,
    /// `loadBalancerSourceRanges` does not name the client.
    Denied,
}

/// The backends of one family, in order.
pub(super) type Backends = Arc<[SocketAddr]>;

/// The backends of a service port, worked out for each question.
#[derive(Debug, Default)]
pub(super) struct Sets {
    /// IPv4 and IPv6.
    pub(super) all: [Backends; 2],
    /// Those of this node.
    pub(super) local: [Backends; 2],
    /// Clients inside the cluster, or outside, are only given those of this node.
    pub(super) internal_local: bool,
    pub(super) external_local: bool,
    /// Where clients of the load balancer may come from; anywhere if `None`.
    pub(super) sources: Option<Arc<[IpNet]>>,
}

impl Sets {
    fn choose(&self, caller: &Caller<'_>) -> &Backends {
        let local = match (caller.entrance, caller.origin) {
            (Entrance::Inside, _) => self.internal_local,
            (Entrance::Outside | Entrance::Balanced, Origin::Visitor(_)) => self.external_local,
            // Who is inside the cluster takes the short way to an outside address, as with kube-proxy.
            (Entrance::Outside | Entrance::Balanced, Origin::Pod(_) | Origin::Node) => false,
        };
        let sets = if local { &self.local } else { &self.all };
        &sets[usize::from(caller.is_v6)]
    }

    fn admits(&self, caller: &Caller<'_>) -> bool {
        let named = |ranges: &Arc<[IpNet]>| ranges.iter().any(|range| range.contains(&caller.client));
        caller.entrance != Entrance::Balanced || self.sources.as_ref().is_none_or(named)
    }
}

/// One port of one Service: the backends behind it and whose turn it is.
#[derive(Debug)]
pub(crate) struct Frontend {
    sets: RwLock<Sets>,
    turn: AtomicUsize,
    affinity: Option<Affinity>,
}

#[derive(Debug)]
struct Affinity {
    timeout: Duration,
    clients: Mutex<HashMap<IpAddr, (SocketAddr, Instant)>>,
}

impl Frontend {
    /// `affinity` is how long a client stays with its backend.
    pub(super) fn new(affinity: Option<Duration>) -> Frontend {
        let affinity = affinity.map(|timeout| Affinity { timeout, clients: Mutex::default() });
        Frontend { sets: RwLock::default(), turn: AtomicUsize::new(0), affinity }
    }

    pub(super) fn affinity(&self) -> Option<Duration> {
        self.affinity.as_ref().map(|affinity| affinity.timeout)
    }

    pub(super) fn set(&self, sets: Sets) {
        *self.sets.write() = sets;
    }

    /// Whether nobody is behind it.
    pub(crate) fn is_empty(&self) -> bool {
        self.sets.read().all.iter().all(|backends| backends.is_empty())
    }

    /// Whether somebody is behind it for this caller.
    pub(crate) fn serves(&self, caller: &Caller<'_>) -> bool {
        !self.sets.read().choose(caller).is_empty()
    }

    /// Whether this caller may (still) be given this backend.
    pub(crate) fn has(&self, caller: &Caller<'_>, backend: SocketAddr) -> bool {
        let sets = self.sets.read();
        sets.admits(caller) && sets.choose(caller).binary_search(&backend).is_ok()
    }

    /// The backends for the next connection of a caller, beginning with the one whose turn it is.
    pub(crate) fn candidates(self: &Arc<Frontend>, caller: &Caller<'_>) -> Result<Candidates, Shut> {
        let sets = self.sets.read();
        if !sets.admits(caller) {
            return Err(Shut::Denied);
        }
        let backends = Arc::clone(sets.choose(caller));
        drop(sets);
        let client = caller.client;
        let known = self.affinity.as_ref().and_then(|affinity| affinity.known(client, &backends));
        let first = match known {
            Some(at) => at,
            None => self.turn.fetch_add(1, Relaxed).checked_rem(backends.len()).ok_or(Shut::Empty)?,
        };
        Ok(Candidates { frontend: Arc::clone(self), client, backends, first, tried: 0, known })
    }
}

/// The backends of a service port in the order in which one connection tries them, each once.
#[derive(Debug)]
pub(crate) struct Candidates {
    frontend: Arc<Frontend>,
    client: IpAddr,
    backends: Backends,
    first: usize,
    tried: usize,
    /// The one that the client stays with.
    known: Option<usize>,
}

impl Iterator for Candidates {
    type Item = SocketAddr;

    fn next(&mut self) -> Option<SocketAddr> {
        if self.tried >= self.backends.len() {
            return None;
        }
        let at = (self.first + self.tried) % self.backends.len();
        self.tried += 1;
        let backend = *self.backends.get(at)?;
        if let Some(affinity) = &self.frontend.affinity
            && self.known != Some(at)
        {
            affinity.remember(self.client, backend);
        }
        Some(backend)
    }
}

impl Affinity {
    /// Where among `backends` the one is that the client stays with.
    fn known(&self, client: IpAddr, backends: &[SocketAddr]) -> Option<usize> {
        let now = Instant::now();
        let mut clients = self.clients.lock();
        let (backend, since) = clients.get_mut(&client)?;
        if now.duration_since(*since) >= self.timeout {
            return None;
        }
        let at = backends.binary_search(backend).ok()?;
        *since = now;
        Some(at)
    }

    fn remember(&self, client: IpAddr, backend: SocketAddr) {
        let now = Instant::now();
        let mut clients = self.clients.lock();
        if clients.len() >= AFFINITY_CLIENTS && !clients.contains_key(&client) {
            clients.retain(|_, (_, since)| now.duration_since(*since) < self.timeout);
            if clients.len() >= AFFINITY_CLIENTS {
                // All are recent: better all choose anew than that the table grows.
                clients.clear();
            }
        }
        clients.insert(client, (backend, now));
    }
}
