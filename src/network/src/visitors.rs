//! Datagrams between pods and the outside: clients that come through a port of the host ("visitors"), and hosts
//! that a pod's socket talks to.
//!
//! ```text
//!  client ─▶ kernel socket of the host ─▶ mailbox of a pod's socket      (the client stays with its backend)
//!         ◀─ the same kernel socket    ◀─ send to the client's address
//!
//!  a pod's socket ─▶ its own kernel socket ─▶ host outside               (only who was sent to is heard)
//! ```

use std::collections::HashMap;
use std::hash::Hash;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::net::UdpSocket;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::admit::Origin;
use crate::fabric::{Route, Way};
use crate::limits::{DATAGRAM_MAX, UDP_IDLE, UDP_PEERS, UDP_VISITORS};
use crate::nodeport::{Target, bind_udp};
use crate::policy::wildcard;
use crate::pool::{Permit, Share};
use crate::stack::{Protocol, Stack};
use crate::udp::Mailbox;
use crate::{Fabric, NetworkError};

/// A bounded table whose entries are forgotten after [`UDP_IDLE`] of silence.
#[derive(Debug)]
pub(crate) struct Recent<K, V> {
    entries: HashMap<K, (V, Instant)>,
    most: usize,
    /// When it was last looked through for entries to forget: not for every newcomer to a full table.
    swept: Option<Instant>,
}

impl<K: Hash + Eq, V> Recent<K, V> {
    pub(crate) fn new(most: usize) -> Recent<K, V> {
        Recent { entries: HashMap::new(), most, swept: None }
    }

    /// The entry, which is not silent then.
    pub(crate) fn get(&mut self, key: &K) -> Option<&V> {
        let (_, since) = self.entries.get(key)?;
        let now = Instant::now();
        if now.duration_since(*since) >= UDP_IDLE {
            self.entries.remove(key);
            return None;
        }
        let (value, since) = self.entries.get_mut(key)?;
        *since = now;
        Some(value)
    }

    /// False if the table is full.
    pub(crate) fn insert(&mut self, key: K, value: V) -> bool {
        let now = Instant::now();
        if self.entries.len() >= self.most && !self.entries.contains_key(&key) {
            let often = self.swept.is_some_and(|swept| now.duration_since(swept) < UDP_IDLE / 60);
            if !often {
                self.swept = Some(now);
                self.entries.retain(|_, (_, since)| now.duration_since(*since) < UDP_IDLE);
            }
            if self.entries.len() >= self.most {
                return false;
            }
        }
        self.entries.insert(key, (value, now));
        true
    }

    pub(crate) fn remove(&mut self, key: &K) {
        self.entries.remove(key);
    }
}

/// How a pod's socket answers a visitor, as long as the port of the host is open.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    socket: Weak<UdpSocket>,
    client: SocketAddr,
}

impl Answer {
    /// Sends, or loses it if the kernel has no room.
    pub(crate) fn send(&self, data: &[u8]) {
        if let Some(socket) = self.socket.upgrade() {
            send(&socket, data, self.client);
        }
    }
}

/// Not through Tokio: it would first have to learn that the socket is writable, and a datagram may be lost.
fn send(socket: &UdpSocket, data: &[u8], to: SocketAddr) {
    let sent = socket2::SockRef::from(socket).send_to(data, &to.into());
    if let Err(error) = sent {
        tracing::trace!(%to, %error, "a datagram to the outside was lost");
    }
}

/// Where one client's datagrams go.
#[derive(Clone, Debug)]
struct Visit {
    stack: Weak<Stack>,
    arrives: SocketAddr,
    /// The client as the pod sees it.
    shown: SocketAddr,
}

/// Carries what arrives at a socket of the host to its target, for ever.
pub(crate) async fn serve(fabric: &Arc<Fabric>, socket: UdpSocket, target: &Target) {
    let socket = Arc::new(socket);
    let mut visits = Recent::new(UDP_VISITORS);
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((size, client)) => {
                let data = Bytes::copy_from_slice(&buffer[..size]);
                let answer = Answer { socket: Arc::downgrade(&socket), client };
                if let Err(error) = arrive(fabric, &mut visits, target, data, answer) {
                    tracing::debug!(%client, %error, "a datagram from outside was refused");
                }
            }
            // An error that an earlier datagram met on its way.
            Err(error) => tracing::trace!(%error, "a UDP port of the host"),
        }
    }
}

fn arrive(
    fabric: &Arc<Fabric>,
    visits: &mut Recent<SocketAddr, Visit>,
    target: &Target,
    data: Bytes,
    answer: Answer,
) -> Result<(), NetworkError> {
    let client = answer.client;
    let known = visits.get(&client).filter(|visit| target.has(fabric, client, visit.arrives)).cloned();
    let is_new = known.is_none();
    let visit = match known {
        Some(visit) => visit,
        None => first_visit(fabric, target, client)?,
    };
    let stack = visit.stack.upgrade();
    let mailbox = stack.as_ref().and_then(|stack| stack.mailbox(visit.arrives));
    let (Some(stack), Some(mailbox)) = (stack, mailbox) else {
        // The next one may find another backend.
        visits.remove(&client);
        return Err(NetworkError::Refused(visit.arrives));
    };
    fabric.admit_visit(&Origin::visitor(client.ip()), &stack, visit.arrives)?;
    let shown = visit.shown;
    if is_new && !visits.insert(client, visit) {
        return Err(NetworkError::Limit("clients of a UDP port"));
    }
    if stack.limits.ingress.as_ref().is_some_and(|bucket| !bucket.try_spend(data.len())) {
        stack.meter.drop_datagram();
        return Ok(());
    }
    mailbox.visit(data, shown, answer);
    Ok(())
}

fn first_visit(fabric: &Arc<Fabric>, target: &Target, client: SocketAddr) -> Result<Visit, NetworkError> {
    let (route, to) = target.route(fabric, client, Protocol::Udp)?;
    let way = match route {
        Route::Direct(way) => way,
        Route::Backends(mut backends) => backends.next(fabric)?,
    };
    match way {
        Way::Pod(stack, arrives) => {
            let shown = fabric.visitor(Some(client), to).local;
            Ok(Visit { stack: Arc::downgrade(&stack), arrives, shown })
        }
        Way::Dns(_) => Err(NetworkError::Closed),
        Way::Kernel { to, .. } => Err(NetworkError::Unreachable(to)),
    }
}

/// The kernel socket of a pod's socket. Dropping it closes the one and forgets who it talked to.
#[derive(Debug)]
pub(crate) struct Outside {
    socket: Arc<UdpSocket>,
    peers: Arc<Mutex<Recent<SocketAddr, ()>>>,
    _permit: Permit,
    _stop: DropGuard,
}

impl Outside {
    /// Opens it for a family. What comes back goes to `mailbox`.
    pub(crate) fn open(
        fabric: &Arc<Fabric>,
        egress: &Share,
        to: SocketAddr,
        mailbox: &Arc<Mailbox>,
    ) -> Result<Outside, NetworkError> {
        let permit = egress.take().ok_or_else(|| NetworkError::Limit(egress.purpose()))?;
        let socket = {
            let _runtime = fabric.enter();
            bind_udp(SocketAddr::new(wildcard(to.ip()), 0))
        };
        let refused = |error: io::Error| NetworkError::Kernel { address: to, kind: error.kind() };
        let socket = Arc::new(socket.map_err(refused)?);
        let peers = Arc::new(Mutex::new(Recent::new(UDP_PEERS)));
        let stop = CancellationToken::new();
        let hear = hear(Arc::clone(&socket), Arc::clone(&peers), Arc::downgrade(mailbox));
        let stopped = stop.clone();
        drop(fabric.spawn_task(async move { stopped.run_until_cancelled(hear).await }));
        Ok(Outside { socket, peers, _permit: permit, _stop: stop.drop_guard() })
    }

    /// Sends; `false` if this socket talks to too many already.
    pub(crate) fn send(&self, data: &[u8], to: SocketAddr) -> bool {
        let mut peers = self.peers.lock();
        if peers.get(&to).is_none() && !peers.insert(to, ()) {
            return false;
        }
        drop(peers);
        send(&self.socket, data, to);
        true
    }
}

async fn hear(socket: Arc<UdpSocket>, peers: Arc<Mutex<Recent<SocketAddr, ()>>>, mailbox: Weak<Mailbox>) {
    let mut buffer = Vec::new();
    loop {
        // Most sockets wait most of the time: the buffer is there only while something is.
        if socket.readable().await.is_err() {
            return;
        }
        buffer.resize(DATAGRAM_MAX, 0);
        while let Ok((size, from)) = socket.try_recv_from(&mut buffer) {
            if peers.lock().get(&from).is_none() {
                continue;
            }
            let Some(mailbox) = mailbox.upgrade() else { return };
            mailbox.deliver(Bytes::copy_from_slice(&buffer[..size]), from);
        }
        buffer = Vec::new();
    }
}
