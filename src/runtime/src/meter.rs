//! A guest's future, watched: how much CPU each poll takes, and whether the epoch clock must run.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustix::time::{ClockId, clock_gettime};

use crate::run::Control;
use crate::ticker::Ticker;

/// Runs `inner` and accounts for it.
pub(crate) struct Metered<F> {
    inner: Pin<Box<F>>,
    control: Arc<Control>,
    ticker: Arc<Ticker>,
}

impl<F: Future<Output = ()>> Metered<F> {
    pub(crate) fn new(inner: Pin<Box<F>>, control: Arc<Control>, ticker: Arc<Ticker>) -> Metered<F> {
        Metered { inner, control, ticker }
    }
}

impl<F: Future<Output = ()>> Future for Metered<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let me = &mut *self;
        let _running = me.ticker.enter();
        let before = thread_nanos();
        let result = me.inner.as_mut().poll(cx);
        me.control.add_cpu(thread_nanos().saturating_sub(before));
        result
    }
}

/// CPU time of this thread.
fn thread_nanos() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}
