//! A guest's future, watched: how much CPU each poll takes, and whether the epoch clock must run.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustix::time::{ClockId, clock_gettime};

use crate::container::Exit;
use crate::run::Control;
use crate::ticker::Ticker;

/// A container's run, accounted for. It owns the end of the container: the books are closed and everything
/// inside is dropped before anybody is told.
pub(crate) struct Metered<F> {
    /// `None` once it has ended.
    run: Option<Pin<Box<F>>>,
    control: Arc<Control>,
    ticker: Arc<Ticker>,
}

impl<F: Future<Output = Exit>> Metered<F> {
    pub(crate) fn new(run: Pin<Box<F>>, control: Arc<Control>, ticker: Arc<Ticker>) -> Metered<F> {
        Metered { run: Some(run), control, ticker }
    }
}

impl<F: Future<Output = Exit>> Future for Metered<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let me = &mut *self;
        let Some(run) = &mut me.run else { return Poll::Ready(()) };
        let running = me.ticker.enter();
        let before = thread_nanos();
        let result = run.as_mut().poll(cx);
        if result.is_ready() {
            me.run = None;
        }
        me.control.add_cpu(thread_nanos().saturating_sub(before));
        drop(running);
        result.map(|exit| me.control.end(exit))
    }
}

impl<F> Drop for Metered<F> {
    /// Dropped half-way, the runtime is going away; afterwards this changes nothing.
    fn drop(&mut self) {
        self.run = None;
        self.control.end(Exit::Killed);
    }
}

/// CPU time of this thread.
fn thread_nanos() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}
