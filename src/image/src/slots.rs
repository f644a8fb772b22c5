//! Who may talk to registries at the same time: a bound for the node, and a lower one for each host, so that
//! one registry, however slow, leaves room for the others. Several slow ones together can take it all until their
//! pulls run out of time.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

pub(crate) struct Slots {
    node: Semaphore,
    of_host: usize,
    /// Those that somebody has or waits for.
    hosts: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// Room for one, until it is dropped.
pub(crate) struct Slot<'a> {
    _node: SemaphorePermit<'a>,
    _host: OwnedSemaphorePermit,
}

impl Slots {
    pub(crate) fn new(node: usize, of_host: usize) -> Slots {
        Slots { node: Semaphore::new(node), of_host, hosts: Mutex::default() }
    }

    /// Waits for room. Who waits for their host takes no room of the node's.
    pub(crate) async fn acquire(&self, host: &str) -> Slot<'_> {
        let of_host = self.of(host);
        let _host = of_host.acquire_owned().await.expect("the semaphore is never closed");
        let _node = self.node.acquire().await.expect("the semaphore is never closed");
        Slot { _node, _host }
    }

    fn of(&self, host: &str) -> Arc<Semaphore> {
        let mut hosts = self.hosts.lock();
        if let Some(known) = hosts.get(host).and_then(Weak::upgrade) {
            return known;
        }
        hosts.retain(|_, slots| slots.strong_count() > 0);
        let slots = Arc::new(Semaphore::new(self.of_host));
        hosts.insert(host.to_owned(), Arc::downgrade(&slots));
        slots
    }
}
