//! One future of a guest, and whether it could run.
//!
//! ```text
//!            wake            picked            pending
//!   ASLEEP ───────▶ QUEUED ─────────▶ POLLED ──────────▶ ASLEEP
//!                     ▲                 │ wake
//!                     │    pending      ▼            ready, panicked, shut down
//!                     └───────────── WOKEN     any ─────────────────────────────▶ OVER
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;

use super::share::Share;

const ASLEEP: u8 = 0;
const QUEUED: u8 = 1;
const POLLED: u8 = 2;
const WOKEN: u8 = 3;
const OVER: u8 = 4;

/// Why there is no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    /// A poll panicked: the host has a bug.
    Panicked,
    /// The executor was shut down.
    ShutDown,
}

/// A future on the executor.
pub(super) struct Task {
    pub(super) share: Arc<Share>,
    /// Where the executor lists it.
    pub(super) number: usize,
    state: AtomicU8,
    /// `None` once it is over. Only its turn and the shutdown lock this.
    work: Mutex<Option<Box<dyn Work>>>,
}

/// What a turn came to.
pub(super) enum Turned {
    /// It waits for something.
    Asleep,
    /// It could run on.
    Again,
    /// It is over. The work is left to be closed.
    Over(Option<Box<dyn Work>>),
}

impl Task {
    pub(super) fn new(share: Arc<Share>, number: usize, work: Box<dyn Work>) -> Arc<Task> {
        Arc::new(Task { share, number, state: AtomicU8::new(QUEUED), work: Mutex::new(Some(work)) })
    }

    /// Gives the task its turn.
    pub(super) fn turn(self: &Arc<Self>) -> Turned {
        // What whoever woke it last has written is seen from here on: `wake` writes, too, if only what was there.
        self.state.swap(POLLED, Ordering::AcqRel);
        let waker = Waker::from(Arc::clone(self));
        let mut slot = self.work.lock();
        let Some(work) = slot.as_mut() else { return Turned::Over(None) };
        let polled = catch_unwind(AssertUnwindSafe(|| work.poll(&mut Context::from_waker(&waker))));
        match polled {
            Ok(Poll::Pending) => {}
            Ok(Poll::Ready(())) => return Turned::Over(self.over(slot.take())),
            Err(_) => {
                // The hook has said where; what it held is dropped, and its owner told.
                let mut work = slot.take();
                drop(slot);
                work.iter_mut().for_each(|work| work.lose(Lost::Panicked));
                return Turned::Over(self.over(work));
            }
        }
        drop(slot);
        match self.state.compare_exchange(POLLED, ASLEEP, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Turned::Asleep,
            Err(_) => {
                self.state.swap(QUEUED, Ordering::AcqRel);
                Turned::Again
            }
        }
    }

    fn over(&self, work: Option<Box<dyn Work>>) -> Option<Box<dyn Work>> {
        self.state.store(OVER, Ordering::Release);
        work
    }

    /// Drops what the task holds, if it is not having a turn; then its turn's end does it.
    pub(super) fn shut_down(&self) {
        let Some(mut slot) = self.work.try_lock() else { return };
        let work = slot.take();
        drop(slot);
        if let Some(mut work) = self.over(work) {
            work.lose(Lost::ShutDown);
            close(work);
        }
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        let woken = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| match state {
            ASLEEP => Some(QUEUED),
            POLLED => Some(WOKEN),
            QUEUED | WOKEN => Some(state),
            _ => None,
        });
        if woken == Ok(ASLEEP) {
            let executor = Arc::clone(self.share.executor());
            executor.wake(self);
        }
    }
}

/// A future, and whom to tell how it ended. Nothing here panics but [`Work::poll`].
pub(super) trait Work: Send {
    /// Ready when the future is gone and its result kept.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Gives the future up.
    fn lose(&mut self, why: Lost);

    /// Tells how it ended.
    fn close(self: Box<Self>);
}

/// Tells how a task ended. A panic there is as much a bug as one of a poll, and costs as little.
pub(super) fn close(work: Box<dyn Work>) {
    let _ = catch_unwind(AssertUnwindSafe(|| work.close()));
}

/// [`Work`] made of a future and a closure.
pub(super) struct Job<F: Future, E> {
    future: Option<Pin<Box<F>>>,
    result: Result<F::Output, Lost>,
    end: E,
}

impl<F, E> Job<F, E>
where
    F: Future<Output: Send> + Send + 'static,
    E: FnOnce(Result<F::Output, Lost>) + Send + 'static,
{
    pub(super) fn boxed(future: Pin<Box<F>>, end: E) -> Box<dyn Work> {
        Box::new(Job { future: Some(future), result: Err(Lost::ShutDown), end })
    }
}

impl<F, E> Work for Job<F, E>
where
    F: Future<Output: Send> + Send + 'static,
    E: FnOnce(Result<F::Output, Lost>) + Send + 'static,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(future) = &mut self.future else { return Poll::Ready(()) };
        match future.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(result) => {
                self.result = Ok(result);
                self.future = None;
                Poll::Ready(())
            }
        }
    }

    fn lose(&mut self, why: Lost) {
        let future = self.future.take();
        // Dropping what panicked may panic again.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(future)));
        self.result = Err(why);
    }

    fn close(self: Box<Self>) {
        (self.end)(self.result);
    }
}
