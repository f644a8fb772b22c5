//! Names that have just come free.

use std::{collections::HashMap, time::Duration};

use coracle_client::Key;
use parking_lot::Mutex;
use tokio::time::Instant;

/// How long nobody gets the name of a pod that is gone.
///
/// `kubectl delete` up to 1.35 looks twice before it waits: it gets the pod, and if it is there lists it. Where
/// the pod went and another came between the two, it waits for the end of the new one
/// (github.com/kubernetes/kubectl/issues/1803). Elsewhere a pod takes a second to end, so that both looks find
/// the old one; here it takes milliseconds. The time is long beside what passes between the looks, a few
/// milliseconds or some tens on a busy machine, and short beside what a rollout waits for anyway.
pub(super) const REST: Duration = Duration::from_millis(200);

/// When pods that were gone lately went.
#[derive(Debug, Default)]
pub(super) struct Names(Mutex<HashMap<Key, Instant>>);

impl Names {
    /// The pod of this name is gone.
    pub(super) fn free(&self, pod: Key) {
        let mut freed = self.0.lock();
        freed.retain(|_, at| at.elapsed() < REST);
        freed.insert(pod, Instant::now());
    }

    /// How long the name must still rest.
    pub(super) fn rest(&self, pod: &Key) -> Option<Duration> {
        let at = self.0.lock().get(pod).copied()?;
        REST.checked_sub(at.elapsed()).filter(|left| !left.is_zero())
    }
}
