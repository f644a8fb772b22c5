//! The checks that are due together, as one task. Thousands of guests are asked one after the other, and when they
//! have had time to answer, what they said is read one after the other. In between nothing is kept of a check but its
//! connection: no timer, and nobody to wake. A check that takes its time keeps nothing of the others.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use coracle_network::Fabric;
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until};

use super::{
    Commands, Prober, Task,
    check::{Step, Time},
};

/// A check to be made.
pub(super) struct Due {
    pub(super) id: u64,
    pub(super) task: Arc<Task>,
    pub(super) due: Instant,
    /// Its answer is awaited, not gathered with others.
    pub(super) eager: bool,
    pub(super) time: Time,
}

/// What the checks of a slot have in common.
pub(super) struct Slot {
    pub(super) prober: Prober,
    pub(super) fabric: Arc<Fabric>,
    pub(super) commands: Commands,
    /// When the answers are read.
    pub(super) read_at: Instant,
}

impl Slot {
    /// Makes all checks, and tells the prober what each has found out.
    pub(super) async fn make(self, checks: Vec<Due>) {
        let slot = &self;
        let awaited = FuturesUnordered::<BoxFuture<'_, ()>>::new();
        let mut asked = Vec::with_capacity(checks.len());
        for check in checks {
            match at_once(Box::pin(slot.begin(check))) {
                Ok((check, step @ Step::Asked(..))) if !check.eager => asked.push((check, step)),
                Ok((check, step)) => awaited.push(Box::pin(slot.end(check, step))),
                Err(begin) => awaited.push(Box::pin(async move {
                    let (check, step) = begin.await;
                    slot.end(check, step).await;
                })),
            }
        }
        let gathered = async {
            if asked.is_empty() {
                return;
            }
            sleep_until(slot.read_at).await;
            let missing = FuturesUnordered::new();
            for (check, step) in asked {
                if let Err(end) = at_once(Box::pin(slot.end(check, step))) {
                    missing.push(end);
                }
            }
            missing.collect::<()>().await;
        };
        tokio::join!(awaited.collect::<()>(), gathered);
    }

    async fn begin(&self, check: Due) -> (Due, Step) {
        let task = &check.task;
        let step = task.check.begin(&task.target, &self.fabric, &self.commands, check.time).await;
        (check, step)
    }

    async fn end(&self, check: Due, step: Step) {
        let outcome = step.outcome(&self.fabric, check.time).await;
        self.prober.record(check.id, &check.task, check.due, outcome);
    }
}

/// What the future comes to without waiting, or else the future.
fn at_once<F: Future>(mut future: Pin<Box<F>>) -> Result<F::Output, Pin<Box<F>>> {
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Ok(output),
        Poll::Pending => Err(future),
    }
}
