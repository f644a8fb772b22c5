//! The tasks of one handler's container: where they run, what ends them, and when the last has ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, watch};

use crate::executor::Share;

/// How far the end of the container has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Serving,
    /// Requests in flight are finished; no others are taken.
    Draining,
    /// Everything ends.
    Ended,
}

/// Spawns tasks that end with the container.
pub(super) struct Tasks {
    share: Arc<Share>,
    phase: watch::Sender<Phase>,
    live: AtomicUsize,
    none: Notify,
}

impl Tasks {
    pub(super) fn new(share: Arc<Share>) -> Arc<Tasks> {
        Arc::new(Tasks {
            share,
            phase: watch::Sender::new(Phase::Serving),
            live: AtomicUsize::new(0),
            none: Notify::new(),
        })
    }

    /// Runs `work` as a guest of the container, until it is done or everything ends.
    pub(super) fn spawn(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        self.live.fetch_add(1, Ordering::AcqRel);
        let (live, mut phase) = (Live(Arc::clone(self)), self.phase.subscribe());
        let until_the_end = async move {
            let _live = live;
            tokio::select! {
                biased;
                _ = phase.wait_for(|phase| *phase == Phase::Ended) => {}
                () = work => {}
            }
        };
        // Lost, it is as if it had ended: whoever waited for it has its answer from whatever it held.
        self.share.spawn(until_the_end, |_| {});
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    pub(super) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Waits until no task is left.
    pub(super) async fn all_ended(&self) {
        loop {
            let none = self.none.notified();
            if self.live.load(Ordering::Acquire) == 0 {
                return;
            }
            none.await;
        }
    }
}

struct Live(Arc<Tasks>);

impl Drop for Live {
    fn drop(&mut self) {
        if self.0.live.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.none.notify_waiters();
        }
    }
}

/// For hyper, which runs each stream of an HTTP/2 connection as a task.
#[derive(Clone)]
pub(super) struct Spawner(pub(super) Arc<Tasks>);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Spawner {
    fn execute(&self, work: F) {
        self.0.spawn(work);
    }
}
