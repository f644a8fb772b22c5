//! TCP inside the fabric: binding, listening, accepting, dialling.
//!
//! A dial that finds room in the listener's backlog is done at once, before anybody accepts it, as on
//! Linux. When the backlog is full Linux drops the SYN and the client tries again; here the dial waits in
//! line, for at most [`CONNECT_TIMEOUT`], then it has timed out. At most [`BACKLOG_WAITERS`] wait.
//!
//! ```text
//!  listening ──drain──▶ draining: refuses dials, hands out its queue, fails one accept ──drop──▶ closed
//! ```
//!
//! A dial of a service goes on to the next ready backend when one refuses or drains.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio_util::task::AbortOnDropHandle;

use crate::admit::Origin;
use crate::fabric::{Backends, Route, Way};
use crate::limits::{BACKLOG_MAX, BACKLOG_WAITERS, CONNECT_TIMEOUT};
use crate::policy::canonical;
use crate::pool::Share;
use crate::stack::{Lease, Protocol, Stack};
use crate::stream::{End, Stream};
use crate::wakers::Wakers;
use crate::{Fabric, NetworkError};

/// A reserved TCP address that neither listens nor is connected yet.
#[derive(Debug)]
pub struct TcpBinding {
    lease: Lease,
}

impl TcpBinding {
    pub(crate) fn new(lease: Lease) -> TcpBinding {
        TcpBinding { lease }
    }

    /// The address held, with the port picked if none was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.lease.local
    }

    /// Begins to listen. `backlog` is cut to 1..=[`BACKLOG_MAX`].
    #[must_use]
    pub fn listen(self, backlog: usize) -> TcpListener {
        let backlog = Arc::new(Backlog::new(self.lease.local, backlog));
        self.lease.stack.set_listener(self.lease.local, &backlog);
        TcpListener { backlog, lease: self.lease }
    }
}

/// A listening TCP socket. Dropping it resets what nobody accepted and frees the address.
#[derive(Debug)]
pub struct TcpListener {
    backlog: Arc<Backlog>,
    lease: Lease,
}

impl TcpListener {
    /// The address listened on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.lease.local
    }

    /// Takes the oldest connection that waits; `WouldBlock` if there is none, `Closed` once the pod is, and
    /// `Draining` once when the listener was told to end and has handed out all that waited.
    pub fn try_accept(&self) -> Result<Stream, NetworkError> {
        self.backlog.take()
    }

    /// True if [`TcpListener::try_accept`] would not say `WouldBlock`.
    #[must_use]
    pub fn is_acceptable(&self) -> bool {
        self.backlog.queue.lock().is_acceptable()
    }

    /// Ready when [`TcpListener::is_acceptable`].
    pub fn poll_acceptable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.backlog.poll_acceptable(cx)
    }

    /// Waits for a connection.
    pub async fn accept(&self) -> Result<Stream, NetworkError> {
        loop {
            match self.try_accept() {
                Err(NetworkError::WouldBlock) => {}
                other => return other,
            }
            std::future::poll_fn(|cx| self.poll_acceptable(cx)).await;
        }
    }

    /// Changes how many connections may wait, cut to 1..=[`BACKLOG_MAX`]. Those that wait already stay.
    pub fn set_backlog(&self, backlog: usize) {
        self.backlog.resize(backlog);
    }

    /// What tells this listener to end, for somebody who does not own it.
    #[must_use]
    pub fn drain_handle(&self) -> DrainHandle {
        DrainHandle(Arc::downgrade(&self.backlog))
    }
}

/// Tells a listener to end. It does not keep the listener alive.
#[derive(Clone, Debug)]
pub struct DrainHandle(Weak<Backlog>);

impl DrainHandle {
    /// Lets the listener take no new connections. What waits is still handed out; then `accept` fails once,
    /// so that the server notices. False if the listener is gone.
    pub fn drain(&self) -> bool {
        self.0.upgrade().is_some_and(|backlog| backlog.drain())
    }

    /// Whether the listener still exists.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.strong_count() > 0
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        self.backlog.close();
    }
}

/// The queue between those who dial a listener and the one who accepts.
#[derive(Debug)]
pub(crate) struct Backlog {
    local: SocketAddr,
    /// One permit per free place in the queue; closed with the listener.
    room: Arc<Semaphore>,
    /// Dials that wait for a permit.
    waiting: AtomicUsize,
    queue: Mutex<Queue>,
}

#[derive(Debug)]
struct Queue {
    streams: VecDeque<Stream>,
    waiters: Wakers,
    size: usize,
    /// Places to take away once they are free, after the backlog was made smaller.
    surplus: usize,
    life: Life,
}

impl Queue {
    fn is_acceptable(&self) -> bool {
        let failing = matches!(self.life, Life::Draining { told: false } | Life::Closed);
        failing || !self.streams.is_empty()
    }
}

/// How far a listener's end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Open,
    /// It takes no new connections. `told`: whoever accepts has been told.
    Draining {
        told: bool,
    },
    Closed,
}

impl Backlog {
    fn new(local: SocketAddr, size: usize) -> Backlog {
        let size = size.clamp(1, BACKLOG_MAX);
        let queue = Queue {
            streams: VecDeque::new(),
            waiters: Wakers::default(),
            size,
            surplus: 0,
            life: Life::Open,
        };
        Backlog {
            local,
            room: Arc::new(Semaphore::new(size)),
            waiting: AtomicUsize::new(0),
            queue: Mutex::new(queue),
        }
    }

    pub(crate) fn close(&self) {
        self.room.close();
        let mut queue = self.queue.lock();
        queue.life = Life::Closed;
        let (streams, waiters) = (std::mem::take(&mut queue.streams), queue.waiters.take());
        drop(queue);
        for stream in streams {
            stream.abort();
        }
        waiters.wake();
    }

    /// Takes no new connections from now on. False if it was closed before.
    fn drain(&self) -> bool {
        self.room.close();
        let mut queue = self.queue.lock();
        match queue.life {
            Life::Open => queue.life = Life::Draining { told: false },
            Life::Draining { .. } => return true,
            Life::Closed => return false,
        }
        let waiters = queue.waiters.take();
        drop(queue);
        waiters.wake();
        true
    }

    fn resize(&self, size: usize) {
        let size = size.clamp(1, BACKLOG_MAX);
        let mut queue = self.queue.lock();
        let before = std::mem::replace(&mut queue.size, size);
        if size >= before {
            let paid = queue.surplus.min(size - before);
            queue.surplus -= paid;
            self.room.add_permits(size - before - paid);
        } else {
            queue.surplus += before - size - self.room.forget_permits(before - size);
        }
    }

    fn take(&self) -> Result<Stream, NetworkError> {
        let mut queue = self.queue.lock();
        let Some(stream) = queue.streams.pop_front() else {
            return Err(match &mut queue.life {
                Life::Draining { told: told @ false } => {
                    *told = true;
                    NetworkError::Draining
                }
                Life::Open | Life::Draining { .. } => NetworkError::WouldBlock,
                Life::Closed => NetworkError::Closed,
            });
        };
        if queue.surplus > 0 {
            queue.surplus -= 1;
        } else {
            self.room.add_permits(1);
        }
        Ok(stream)
    }

    fn poll_acceptable(&self, cx: &Context<'_>) -> Poll<()> {
        let mut queue = self.queue.lock();
        if queue.is_acceptable() {
            return Poll::Ready(());
        }
        queue.waiters.register(cx);
        Poll::Pending
    }

    /// Joins the dialling end to a new one in the queue; gives it back if the listener does not want it.
    fn join(&self, caller: End, target: &Arc<Stack>, to: SocketAddr, room: OwnedSemaphorePermit) -> Call {
        // The target cannot say more to a stranger than that it does not want the connection.
        let Ok(guard) = target.reserve() else { return Call::Away(caller) };
        let listener =
            End { local: self.as_family(to), peer: self.as_family(caller.local), guard: Some(guard) };
        let peer = caller.peer;
        // Under the lock, so that the end of the listener comes either before the dial or after it.
        let mut queue = self.queue.lock();
        if queue.life != Life::Open {
            drop(queue);
            return Call::Away(caller);
        }
        let Some((ours, theirs)) = Stream::pair(caller, listener) else {
            return Call::Done(Err(NetworkError::Refused(peer)));
        };
        queue.streams.push_back(theirs);
        room.forget();
        let waiters = queue.waiters.take();
        drop(queue);
        waiters.wake();
        Call::Done(Ok(ours))
    }

    /// A listener on `::` sees IPv4 addresses in their IPv6 form, as on Linux.
    fn as_family(&self, address: SocketAddr) -> SocketAddr {
        match (self.local.ip(), address.ip()) {
            (IpAddr::V6(_), IpAddr::V4(v4)) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
            _ => address,
        }
    }
}

/// A connection being made. Dropping it gives up.
#[derive(Debug)]
pub struct TcpConnecting {
    progress: Progress,
}

#[derive(Debug)]
enum Progress {
    Done(Option<Result<Stream, NetworkError>>),
    Under(AbortOnDropHandle<Result<Stream, NetworkError>>),
}

impl TcpConnecting {
    fn done(result: Result<Stream, NetworkError>) -> TcpConnecting {
        TcpConnecting { progress: Progress::Done(Some(result)) }
    }
}

impl Future for TcpConnecting {
    type Output = Result<Stream, NetworkError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.progress {
            Progress::Done(result) => Poll::Ready(result.take().unwrap_or(Err(NetworkError::Closed))),
            Progress::Under(task) => {
                let task = Pin::new(task);
                // The task ends early only with the fabric's runtime.
                task.poll(cx).map(|result| result.unwrap_or(Err(NetworkError::Closed)))
            }
        }
    }
}

pub(crate) fn start_connect(
    stack: &Arc<Stack>,
    remote: SocketAddr,
    from: Option<TcpBinding>,
) -> TcpConnecting {
    let begin = || {
        let fabric = stack.fabric.upgrade().ok_or(NetworkError::Closed)?;
        let remote_ip = canonical(remote.ip());
        let to = SocketAddr::new(remote_ip, remote.port());
        let route = fabric.route(&Origin::Pod(Arc::clone(stack)), to, Protocol::Tcp)?;
        let caller = caller(stack, remote, remote_ip, from)?;
        Ok(dial(&fabric, route, caller))
    };
    begin().unwrap_or_else(|error| TcpConnecting::done(Err(error)))
}

/// The guest's end of a dial: where it comes from, and what it costs the pod.
fn caller(
    stack: &Arc<Stack>,
    remote: SocketAddr,
    remote_ip: IpAddr,
    from: Option<TcpBinding>,
) -> Result<End, NetworkError> {
    let source = stack.source_for(remote_ip);
    let guard = stack.reserve()?;
    let (lease, local) = match from {
        None => {
            let lease = stack.lease_ephemeral(source)?;
            let local = lease.local;
            (lease, local)
        }
        Some(binding) => {
            let bound = binding.local_addr();
            if bound.is_ipv4() != remote.is_ipv4() || bound.ip().is_loopback() && !source.is_loopback() {
                return Err(NetworkError::InvalidAddress(remote));
            }
            let ip = if bound.ip().is_unspecified() { source } else { bound.ip() };
            (binding.lease, SocketAddr::new(ip, bound.port()))
        }
    };
    Ok(End { local, peer: remote, guard: Some(guard.with_lease(lease)) })
}

/// Dials along a route. Nothing is waited for if the other side has room.
pub(crate) fn dial(fabric: &Arc<Fabric>, route: Route, caller: End) -> TcpConnecting {
    match route {
        Route::Direct(Way::Pod(target, to)) => dial_pod(fabric, &target, to, caller),
        Route::Direct(Way::Kernel { to, egress }) => dial_kernel(fabric, to, egress, caller),
        Route::Direct(Way::Dns(stack)) => {
            TcpConnecting::done(crate::dns::serve::connect(fabric, &stack, caller))
        }
        Route::Backends(backends) => dial_backends(fabric, backends, caller),
    }
}

/// Dials one backend after the other until one takes the connection.
fn dial_backends(fabric: &Arc<Fabric>, mut backends: Backends, mut caller: End) -> TcpConnecting {
    loop {
        let (target, to) = match backends.next(fabric) {
            Ok(Way::Pod(target, to)) => (target, to),
            Ok(Way::Kernel { to, egress }) => return dial_kernel(fabric, to, egress, caller),
            Ok(Way::Dns(stack)) => {
                return TcpConnecting::done(crate::dns::serve::connect(fabric, &stack, caller));
            }
            Err(error) => return TcpConnecting::done(Err(error)),
        };
        match call(&target, to, caller) {
            Call::Done(result) => return TcpConnecting::done(result),
            Call::Away(back) => caller = back,
            Call::Busy(call) => {
                let wait = wait_for_room(call, Some((Arc::clone(fabric), backends)));
                return TcpConnecting { progress: Progress::Under(fabric.spawn(wait)) };
            }
        }
    }
}

fn dial_kernel(
    fabric: &Arc<Fabric>,
    to: SocketAddr,
    egress: Option<Arc<Share>>,
    caller: End,
) -> TcpConnecting {
    let connect = crate::kernel::connect(Arc::clone(fabric), to, egress, caller);
    TcpConnecting { progress: Progress::Under(fabric.spawn(connect)) }
}

fn dial_pod(fabric: &Arc<Fabric>, target: &Arc<Stack>, to: SocketAddr, caller: End) -> TcpConnecting {
    let remote = caller.peer;
    match call(target, to, caller) {
        Call::Done(result) => TcpConnecting::done(result),
        Call::Away(_) => TcpConnecting::done(Err(NetworkError::Refused(remote))),
        Call::Busy(call) => {
            TcpConnecting { progress: Progress::Under(fabric.spawn(wait_for_room(call, None))) }
        }
    }
}

/// What one pod says to a dial.
enum Call {
    Done(Result<Stream, NetworkError>),
    /// It does not want it; another may.
    Away(End),
    /// It has no room at this moment.
    Busy(Waiting),
}

fn call(target: &Arc<Stack>, to: SocketAddr, caller: End) -> Call {
    let Some(backlog) = target.listener(to) else { return Call::Away(caller) };
    match Arc::clone(&backlog.room).try_acquire_owned() {
        Ok(room) => backlog.join(caller, target, to, room),
        Err(TryAcquireError::Closed) => Call::Away(caller),
        Err(TryAcquireError::NoPermits) => match Place::enter(&backlog) {
            Some(place) => Call::Busy(Waiting { place, caller, target: Arc::clone(target), to }),
            None => Call::Away(caller),
        },
    }
}

/// A dial that waits for room in a backlog.
struct Waiting {
    place: Place,
    caller: End,
    target: Arc<Stack>,
    to: SocketAddr,
}

/// `others` are the backends that are left if this one closes meanwhile.
async fn wait_for_room(
    waiting: Waiting,
    others: Option<(Arc<Fabric>, Backends)>,
) -> Result<Stream, NetworkError> {
    let Waiting { place, caller, target, to } = waiting;
    let (remote, backlog) = (caller.peer, Arc::clone(&place.0));
    let room = tokio::time::timeout(CONNECT_TIMEOUT, Arc::clone(&backlog.room).acquire_owned()).await;
    drop(place);
    let call = match room {
        Err(_) => return Err(NetworkError::TimedOut(remote)),
        Ok(Err(_)) => Call::Away(caller),
        Ok(Ok(room)) => backlog.join(caller, &target, to, room),
    };
    match (call, others) {
        (Call::Done(result), _) => result,
        // Boxed: it may come here again.
        (Call::Away(caller), Some((fabric, others))) => {
            Box::pin(dial_backends(&fabric, others, caller)).await
        }
        (Call::Away(_) | Call::Busy(_), _) => Err(NetworkError::Refused(remote)),
    }
}

/// One dial that waits for room, counted.
struct Place(Arc<Backlog>);

impl Place {
    fn enter(backlog: &Arc<Backlog>) -> Option<Place> {
        let place = Place(Arc::clone(backlog));
        (backlog.waiting.fetch_add(1, Relaxed) < BACKLOG_WAITERS).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}
