//! UDP inside the fabric: datagrams between pods, over loopback and to services.
//!
//! A datagram that finds no receiver, or a full one, is lost without an error, as UDP may. Datagrams
//! leave the node only in a later version: the outside is `Unreachable`.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::NetworkError;
use crate::fabric::Way;
use crate::limits::{DATAGRAM_MAX, UDP_FLOWS, UDP_QUEUE_BYTES, UDP_QUEUE_DATAGRAMS};
use crate::policy::canonical;
use crate::stack::Lease;
use crate::wakers::Wakers;

/// A UDP socket of a pod. Dropping it frees the address.
#[derive(Debug)]
pub struct UdpSocket {
    mailbox: Arc<Mailbox>,
    lease: Lease,
}

/// Where datagrams for a socket arrive.
#[derive(Debug)]
pub(crate) struct Mailbox {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<(Bytes, SocketAddr)>,
    bytes: usize,
    /// If connected, the only address that is heard.
    peer: Option<SocketAddr>,
    /// The services this socket talks to and the backend each was given, newest last: answers of the
    /// backend carry the service's address, and the flow stays with its backend.
    flows: VecDeque<Flow>,
    waiters: Wakers,
    closed: bool,
}

#[derive(Debug)]
struct Flow {
    service: SocketAddr,
    backend: SocketAddr,
}

impl UdpSocket {
    pub(crate) fn new(lease: Lease) -> UdpSocket {
        let mailbox = Arc::new(Mailbox { state: Mutex::default() });
        lease.stack.set_mailbox(lease.local, &mailbox);
        UdpSocket { mailbox, lease }
    }

    /// The address the socket is bound to.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.lease.local
    }

    /// The address the socket is connected to.
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.mailbox.state.lock().peer
    }

    /// Hears and addresses only `peer` from now on, or everybody again. What waits from others is lost.
    pub fn connect(&self, peer: Option<SocketAddr>) -> Result<(), NetworkError> {
        if let Some(peer) = peer {
            self.check(peer)?;
        }
        let mut state = self.mailbox.state.lock();
        state.peer = peer;
        if let Some(peer) = peer {
            state.queue.retain(|(_, from)| *from == peer);
            state.bytes = state.queue.iter().map(|(data, _)| data.len()).sum();
        }
        Ok(())
    }

    /// Sends a datagram to `to`, or to the connected address. Sent is not received.
    pub fn send(&self, data: Bytes, to: Option<SocketAddr>) -> Result<(), NetworkError> {
        let peer = self.peer_addr();
        let to = match (to, peer) {
            (Some(to), Some(peer)) if to != peer => return Err(NetworkError::InvalidAddress(to)),
            (Some(to), _) | (None, Some(to)) => to,
            (None, None) => return Err(NetworkError::NotConnected),
        };
        self.check(to)?;
        if data.len() > DATAGRAM_MAX {
            return Err(NetworkError::DatagramTooLarge(data.len()));
        }
        let stack = &self.lease.stack;
        let fabric = stack.fabric.upgrade().ok_or(NetworkError::Closed)?;
        let wanted = SocketAddr::new(canonical(to.ip()), to.port());
        let bound = self.lease.local;
        let source = if bound.ip().is_unspecified() { stack.source_for(wanted.ip()) } else { bound.ip() };
        let source = SocketAddr::new(source, bound.port());
        let (target, arrives) =
            match fabric.datagram_way(stack, source, wanted, self.mailbox.backend_of(wanted)) {
                Ok(Way::Pod(target, arrives)) => (target, arrives),
                Ok(Way::Kernel { .. }) => return Err(NetworkError::Unreachable(to)),
                // Nobody there: a datagram is lost, not refused.
                Err(NetworkError::Refused(_)) => return Ok(()),
                Err(error) => return Err(error),
            };
        if arrives != wanted {
            self.mailbox.remember(Flow { service: to, backend: arrives });
        }
        if let Some(mailbox) = target.mailbox(arrives) {
            mailbox.deliver(data, source);
        }
        Ok(())
    }

    /// Takes the oldest datagram and who sent it; `WouldBlock` if there is none.
    pub fn try_recv(&self) -> Result<(Bytes, SocketAddr), NetworkError> {
        let mut state = self.mailbox.state.lock();
        match state.queue.pop_front() {
            Some((data, from)) => {
                state.bytes -= data.len();
                Ok((data, from))
            }
            None if state.closed => Err(NetworkError::Closed),
            None => Err(NetworkError::WouldBlock),
        }
    }

    /// Ready when [`UdpSocket::try_recv`] would not say `WouldBlock`.
    pub fn poll_receivable(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.mailbox.state.lock();
        if state.closed || !state.queue.is_empty() {
            return Poll::Ready(());
        }
        state.waiters.register(cx);
        Poll::Pending
    }

    /// Waits for a datagram.
    pub async fn recv(&self) -> Result<(Bytes, SocketAddr), NetworkError> {
        loop {
            match self.try_recv() {
                Err(NetworkError::WouldBlock) => {}
                other => return other,
            }
            std::future::poll_fn(|cx| self.poll_receivable(cx)).await;
        }
    }

    fn check(&self, to: SocketAddr) -> Result<(), NetworkError> {
        let same_family = to.is_ipv4() == self.lease.local.is_ipv4();
        if to.port() == 0 || canonical(to.ip()).is_unspecified() || !same_family {
            return Err(NetworkError::InvalidAddress(to));
        }
        Ok(())
    }
}

impl Mailbox {
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.queue.clear();
        let waiters = state.waiters.take();
        drop(state);
        waiters.wake();
    }

    fn deliver(&self, data: Bytes, from: SocketAddr) {
        let mut state = self.state.lock();
        let from = state.flows.iter().find(|flow| flow.backend == from).map_or(from, |flow| flow.service);
        let heard = state.peer.is_none_or(|peer| same(peer, from));
        let full = state.queue.len() >= UDP_QUEUE_DATAGRAMS || state.bytes + data.len() > UDP_QUEUE_BYTES;
        if state.closed || !heard || full {
            return;
        }
        state.bytes += data.len();
        state.queue.push_back((data, from));
        let waiters = state.waiters.take();
        drop(state);
        waiters.wake();
    }

    fn backend_of(&self, service: SocketAddr) -> Option<SocketAddr> {
        let state = self.state.lock();
        state.flows.iter().find(|flow| flow.service == service).map(|flow| flow.backend)
    }

    fn remember(&self, flow: Flow) {
        let mut state = self.state.lock();
        state.flows.retain(|known| known.service != flow.service);
        if state.flows.len() >= UDP_FLOWS {
            state.flows.pop_front();
        }
        state.flows.push_back(flow);
    }
}

fn same(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port() && canonical_ip(a) == canonical_ip(b)
}

fn canonical_ip(address: SocketAddr) -> IpAddr {
    canonical(address.ip())
}
