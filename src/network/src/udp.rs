//! UDP inside the fabric: datagrams between pods, over loopback and to services.
//!
//! A datagram that finds no receiver, or a full one, is lost, as UDP may: the newest, and counted. Only a socket
//! that is connected learns that nobody is there, by its next call, as if by ICMP. What comes from outside and
//! goes there is the matter of [`crate::visitors`].

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};

use crate::fabric::Way;
use crate::limits::{
    DATAGRAM_COST, DATAGRAM_MAX, UDP_FLOWS, UDP_QUEUE_BYTES, UDP_QUEUE_DATAGRAMS, UDP_VISITORS,
};
use crate::meter::Meter;
use crate::policy::canonical;
use crate::pool::Share;
use crate::stack::Lease;
use crate::visitors::{Answer, Outside, Recent};
use crate::wakers::Wakers;
use crate::{Fabric, NetworkError};

/// A UDP socket of a pod. Dropping it frees the address.
#[derive(Debug)]
pub struct UdpSocket {
    mailbox: Arc<Mailbox>,
    lease: Lease,
}

/// Where datagrams for a socket arrive.
#[derive(Debug)]
pub(crate) struct Mailbox {
    /// The address of the socket.
    local: SocketAddr,
    /// Of the pod, which pays for what waits here.
    meter: Arc<Meter>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    queue: VecDeque<(Bytes, SocketAddr)>,
    bytes: usize,
    /// If connected, the only address that is heard.
    peer: Option<SocketAddr>,
    /// The services this socket talks to and the backend each was given, newest last: answers of the
    /// backend carry the service's address, and the flow stays with its backend as long as that is one.
    flows: VecDeque<Flow>,
    /// How to answer clients that came through a port of the host, by the address that they are shown with.
    visitors: Recent<SocketAddr, Answer>,
    /// The kernel sockets through which hosts outside are talked to: IPv4 and IPv6.
    outside: [Option<Arc<Outside>>; 2],
    /// What the next call fails with: the peer was not there.
    error: Option<NetworkError>,
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
        let mailbox = Arc::new(Mailbox::new(lease.local, Arc::clone(&lease.stack.meter)));
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
        state.error = None;
        if let Some(peer) = peer {
            let waiting = std::mem::take(&mut state.queue);
            let (heard, lost): (VecDeque<_>, VecDeque<_>) =
                waiting.into_iter().partition(|(_, from)| same(*from, peer));
            state.queue = heard;
            for (data, _) in lost {
                self.mailbox.paid_back(&mut state, &data);
            }
        }
        Ok(())
    }

    /// Sends a datagram to `to`, or to the connected address. Sent is not received.
    pub fn send(&self, data: Bytes, to: Option<SocketAddr>) -> Result<(), NetworkError> {
        let peer = {
            let mut state = self.mailbox.state.lock();
            if let Some(error) = state.error.take() {
                return Err(error);
            }
            state.peer
        };
        let to = match (to, peer) {
            (Some(to), Some(peer)) if to != peer => return Err(NetworkError::InvalidAddress(to)),
            (Some(to), _) | (None, Some(to)) => to,
            (None, None) => return Err(NetworkError::NotConnected),
        };
        self.check(to)?;
        if data.len() > DATAGRAM_MAX {
            return Err(NetworkError::DatagramTooLarge(data.len()));
        }
        match self.send_to(data, to) {
            // Nobody there: a datagram is lost. ICMP tells a socket that is connected.
            Err(error @ NetworkError::Refused(_)) => {
                if peer.is_some() {
                    self.mailbox.fail(error);
                }
                Ok(())
            }
            other => other,
        }
    }

    fn send_to(&self, data: Bytes, to: SocketAddr) -> Result<(), NetworkError> {
        let stack = &self.lease.stack;
        let fabric = stack.fabric.upgrade().ok_or(NetworkError::Closed)?;
        let wanted = SocketAddr::new(canonical(to.ip()), to.port());
        let (answer, known) = self.mailbox.aim(wanted);
        if let Some(answer) = answer {
            if self.may_send(&data) {
                answer.send(&data);
            }
            return Ok(());
        }
        let bound = self.lease.local;
        let source = if bound.ip().is_unspecified() { stack.source_for(wanted.ip()) } else { bound.ip() };
        let source = SocketAddr::new(source, bound.port());
        let way = fabric.datagram_way(stack, source, wanted, known)?;
        match way {
            Way::Pod(target, arrives) => {
                let Some(mailbox) = target.mailbox(arrives) else {
                    // The next one may find another backend.
                    self.mailbox.set_backend(wanted, known, None);
                    return Err(NetworkError::Refused(to));
                };
                // Before it is there: the answer may come at once.
                self.mailbox.set_backend(wanted, known, Some(arrives));
                let loopback = Arc::ptr_eq(&target, stack);
                if !loopback && !self.may_send(&data) {
                    return Ok(());
                }
                let ingress = target.limits.ingress.as_ref().filter(|_| !loopback);
                if ingress.is_some_and(|bucket| !bucket.try_spend(data.len())) {
                    target.meter.drop_datagram();
                    return Ok(());
                }
                if loopback {
                    stack.meter.wrote(data.len());
                }
                mailbox.deliver(data, source);
                Ok(())
            }
            Way::Dns(stack) => {
                stack.meter.wrote(data.len());
                crate::dns::serve::datagram(&fabric, &stack, &data, to, &self.mailbox);
                Ok(())
            }
            Way::Kernel { to, egress } => {
                let egress = egress.as_ref().unwrap_or(&stack.egress);
                let outside = self.mailbox.outside(&fabric, egress, to)?;
                self.mailbox.set_backend(wanted, known, Some(to));
                if self.may_send(&data) && !outside.send(&data, to) {
                    return Err(NetworkError::Limit("hosts that one UDP socket talks to"));
                }
                Ok(())
            }
        }
    }

    /// Counts a datagram that leaves the pod, unless its bandwidth is used up: then it is lost.
    fn may_send(&self, data: &Bytes) -> bool {
        let stack = &self.lease.stack;
        let egress = stack.limits.egress.as_ref();
        let may = egress.is_none_or(|bucket| bucket.try_spend(data.len()));
        if may {
            stack.meter.wrote(data.len());
        }
        may
    }

    /// Takes the oldest datagram and who sent it; `WouldBlock` if there is none.
    pub fn try_recv(&self) -> Result<(Bytes, SocketAddr), NetworkError> {
        let mut state = self.mailbox.state.lock();
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        match state.queue.pop_front() {
            Some((data, from)) => {
                self.mailbox.paid_back(&mut state, &data);
                self.mailbox.meter.read(data.len());
                Ok((data, from))
            }
            None if state.closed => Err(NetworkError::Closed),
            None => Err(NetworkError::WouldBlock),
        }
    }

    /// Ready when [`UdpSocket::try_recv`] would not say `WouldBlock`.
    pub fn poll_receivable(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.mailbox.state.lock();
        if state.closed || state.error.is_some() || !state.queue.is_empty() {
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
        let ip = canonical(to.ip());
        if to.port() == 0 || ip.is_unspecified() || !same_family {
            return Err(NetworkError::InvalidAddress(to));
        }
        // A socket on `::` answers IPv4 clients by their IPv6 form; one on another address has none.
        if ip.is_ipv4() && to.is_ipv6() && !self.lease.local.ip().is_unspecified() {
            return Err(NetworkError::Unreachable(to));
        }
        if ip.is_multicast() {
            return Err(NetworkError::Multicast(to));
        }
        Ok(())
    }
}

impl Mailbox {
    fn new(local: SocketAddr, meter: Arc<Meter>) -> Mailbox {
        let state = State {
            queue: VecDeque::new(),
            bytes: 0,
            peer: None,
            flows: VecDeque::new(),
            visitors: Recent::new(UDP_VISITORS),
            outside: [None, None],
            error: None,
            waiters: Wakers::default(),
            closed: false,
        };
        Mailbox { local, meter, state: Mutex::new(state) }
    }

    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        for (data, _) in std::mem::take(&mut state.queue) {
            self.paid_back(&mut state, &data);
        }
        let outside = std::mem::take(&mut state.outside);
        let waiters = state.waiters.take();
        drop(state);
        drop(outside);
        waiters.wake();
    }

    /// Takes a datagram in if somebody listens to its sender and there is room and memory for it.
    pub(crate) fn deliver(&self, data: Bytes, from: SocketAddr) {
        let state = self.state.lock();
        self.take_in(state, data, from);
    }

    /// The same for a client from outside, who is answered by `answer`.
    pub(crate) fn visit(&self, data: Bytes, from: SocketAddr, answer: Answer) {
        let mut state = self.state.lock();
        if state.visitors.insert(from, answer) {
            self.take_in(state, data, from);
        } else {
            self.meter.drop_datagram();
        }
    }

    fn take_in(&self, mut state: MutexGuard<'_, State>, data: Bytes, from: SocketAddr) {
        let from = state.flows.iter().find(|flow| flow.backend == from).map_or(from, |flow| flow.service);
        if state.closed || state.peer.is_some_and(|peer| !same(peer, from)) {
            return;
        }
        let full = state.queue.len() >= UDP_QUEUE_DATAGRAMS || state.bytes + data.len() > UDP_QUEUE_BYTES;
        if full || !self.meter.take(data.len() + DATAGRAM_COST) {
            self.meter.drop_datagram();
            return;
        }
        state.bytes += data.len();
        let from = self.as_family(from);
        state.queue.push_back((data, from));
        let waiters = state.waiters.take();
        drop(state);
        waiters.wake();
    }

    /// A datagram has left the queue.
    fn paid_back(&self, state: &mut State, data: &Bytes) {
        state.bytes -= data.len();
        self.meter.give(data.len() + DATAGRAM_COST);
    }

    /// The next call fails.
    fn fail(&self, error: NetworkError) {
        let mut state = self.state.lock();
        state.error = Some(error);
        let waiters = state.waiters.take();
        drop(state);
        waiters.wake();
    }

    /// A socket on `::` sees IPv4 addresses in their IPv6 form, as on Linux.
    fn as_family(&self, address: SocketAddr) -> SocketAddr {
        match (self.local.ip(), address.ip()) {
            (IpAddr::V6(_), IpAddr::V4(v4)) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
            _ => address,
        }
    }

    /// Where datagrams to an address have gone so far: back to a visitor, or to this backend of a service.
    fn aim(&self, to: SocketAddr) -> (Option<Answer>, Option<SocketAddr>) {
        let mut state = self.state.lock();
        let backend = state.flows.iter().find(|flow| flow.service == to).map(|flow| flow.backend);
        (state.visitors.get(&to).cloned(), backend)
    }

    /// The kernel socket for this family, opened if it is not yet.
    fn outside(
        self: &Arc<Self>,
        fabric: &Arc<Fabric>,
        egress: &Share,
        to: SocketAddr,
    ) -> Result<Arc<Outside>, NetworkError> {
        let family = usize::from(to.is_ipv6());
        let mut state = self.state.lock();
        if state.closed {
            return Err(NetworkError::Closed);
        }
        if let Some(open) = &state.outside[family] {
            return Ok(Arc::clone(open));
        }
        let open = Arc::new(Outside::open(fabric, egress, to, self)?);
        state.outside[family] = Some(Arc::clone(&open));
        Ok(open)
    }

    /// The flow to a service, or to an address that is its own backend, goes to `backend` from now on; so far to
    /// `known`.
    fn set_backend(&self, service: SocketAddr, known: Option<SocketAddr>, backend: Option<SocketAddr>) {
        let backend = backend.filter(|backend| *backend != service);
        if backend == known {
            return;
        }
        let mut state = self.state.lock();
        state.flows.retain(|flow| flow.service != service);
        let Some(backend) = backend else { return };
        if state.flows.len() >= UDP_FLOWS {
            state.flows.pop_front();
        }
        state.flows.push_back(Flow { service, backend });
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        self.mailbox.close();
    }
}

fn same(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port() && canonical_ip(a) == canonical_ip(b)
}

fn canonical_ip(address: SocketAddr) -> IpAddr {
    canonical(address.ip())
}
