//! Instances that wait a moment for their next request.

use std::sync::Arc;

use super::config::INSTANCE_IDLE;
use super::factory::Instance;
use super::idle::Idle;
use super::tasks::{Phase, Tasks};
use crate::executor::Share;

/// Instances that may be used again.
pub(super) struct Pool {
    /// How many requests an instance may have.
    reuse: u32,
    idle: Idle<Instance>,
    /// Not the server's, which ends when all of those have ended: these end with the pool.
    tasks: Arc<Tasks>,
}

impl Pool {
    /// `most` instances wait at one time.
    pub(super) fn new(reuse: u32, most: usize, share: &Arc<Share>) -> Pool {
        let tasks = Tasks::new(Arc::clone(share));
        Pool { reuse, idle: Idle::new(most, INSTANCE_IDLE, Arc::clone(&tasks)), tasks }
    }

    /// The one that was used last: its memory is still in the processor's caches.
    pub(super) fn take(&self) -> Option<Instance> {
        if self.reuse <= 1 {
            return None;
        }
        self.idle.take(|_| true)
    }

    /// Keeps an instance for its next request, if it may have one and can pay for what it keeps of others.
    pub(super) fn give(&self, mut instance: Instance) {
        if instance.requests < self.reuse && instance.settle().is_ok() {
            self.idle.give(instance);
        }
    }

    /// Drops all, and keeps none from now on.
    pub(super) async fn close(&self) {
        self.idle.close();
        self.tasks.enter(Phase::Ended);
        self.tasks.all_ended().await;
    }
}
