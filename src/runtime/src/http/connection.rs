//! What belongs to a connection: its account, its activity, and a timer that its requests use one after the other.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};

use super::charge::Account;
use super::io::Activity;

/// What the requests of one connection share.
pub(super) struct Connection {
    pub(super) local: SocketAddr,
    pub(super) activity: Arc<Activity>,
    pub(super) account: Arc<Account>,
    /// A timer that no request uses at this moment. Most connections have one request at a time; for the next, its
    /// timer is moved on, which costs much less than a new one.
    timer: Mutex<Option<Pin<Box<Sleep>>>>,
}

impl Connection {
    pub(super) fn new(
        local: SocketAddr,
        activity: &Arc<Activity>,
        account: &Arc<Account>,
    ) -> Arc<Connection> {
        let (activity, account) = (Arc::clone(activity), Arc::clone(account));
        Arc::new(Connection { local, activity, account, timer: Mutex::new(None) })
    }

    /// A timer for one request.
    pub(super) fn deadline(self: &Arc<Self>, at: Instant) -> Deadline {
        let timer = match self.timer.lock().take() {
            Some(mut timer) => {
                timer.as_mut().reset(at);
                timer
            }
            None => Box::pin(tokio::time::sleep_until(at)),
        };
        Deadline { timer: Some(timer), connection: Arc::clone(self) }
    }
}

/// When an answer must have begun.
pub(super) struct Deadline {
    timer: Option<Pin<Box<Sleep>>>,
    connection: Arc<Connection>,
}

impl Deadline {
    /// Ready when it has passed.
    pub(super) fn passed(&mut self) -> Passed<'_> {
        Passed(self)
    }
}

/// See [`Deadline::passed`].
pub(super) struct Passed<'a>(&'a mut Deadline);

impl Future for Passed<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.0.timer {
            Some(timer) => timer.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        *self.connection.timer.lock() = self.timer.take();
    }
}
