//! Instances that wait a moment for their next request.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::config::INSTANCE_IDLE;
use super::factory::Instance;

/// Instances that may be used again.
pub(super) struct Pool {
    /// How many requests an instance may have.
    reuse: u32,
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    /// The longest idle first.
    instances: Vec<(Instance, Instant)>,
    /// Somebody will drop those that wait too long.
    watched: bool,
    closed: bool,
}

impl Pool {
    pub(super) fn new(reuse: u32) -> Arc<Pool> {
        Arc::new(Pool { reuse, idle: Mutex::default() })
    }

    /// The one that was used last: its memory is still in the processor's caches.
    pub(super) fn take(&self) -> Option<Instance> {
        if self.reuse <= 1 {
            return None;
        }
        self.idle.lock().instances.pop().map(|(instance, _)| instance)
    }

    /// Keeps an instance for its next request, if it may have one.
    pub(super) fn give(self: &Arc<Self>, instance: Instance) {
        if instance.requests >= self.reuse {
            return;
        }
        let mut idle = self.idle.lock();
        if idle.closed {
            drop(idle); // an instance takes a while to drop
            return;
        }
        idle.instances.push((instance, Instant::now()));
        if !std::mem::replace(&mut idle.watched, true) {
            tokio::spawn(watch(Arc::clone(self)));
        }
    }

    /// Drops all, and keeps none from now on.
    pub(super) fn close(&self) {
        let mut idle = self.idle.lock();
        idle.closed = true;
        let instances = std::mem::take(&mut idle.instances);
        drop(idle);
        drop(instances);
    }

    /// Drops those that have waited too long; false if none is left to watch.
    fn sweep(&self) -> bool {
        let mut idle = self.idle.lock();
        let now = Instant::now();
        let old = idle.instances.partition_point(|(_, since)| now.duration_since(*since) >= INSTANCE_IDLE);
        let gone: Vec<_> = idle.instances.drain(..old).collect();
        idle.watched = !idle.instances.is_empty();
        let watched = idle.watched;
        drop(idle);
        drop(gone);
        watched
    }
}

/// Looks after idle instances as long as there are any.
async fn watch(pool: Arc<Pool>) {
    loop {
        tokio::time::sleep(INSTANCE_IDLE / 2).await;
        if !pool.sweep() {
            return;
        }
    }
}
