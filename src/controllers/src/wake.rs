//! Whom a change of an object concerns: its controller, or those that could adopt it.

use coracle_client::{Delta, Deltas, Informer, Key, WorkQueue};
use k8s_openapi::api::core::v1::Pod;
use kube::Resource;

use crate::{claim::Namespaced, pace::Pace, pods};

/// Queues the objects of kind `O` that changes of objects of kind `C` concern.
pub(crate) struct Waker<'a, O, C> {
    pub(crate) owners: &'a Informer<O>,
    pub(crate) queue: &'a WorkQueue<Key>,
    pub(crate) pace: &'a Pace,
    /// Whether an owner would take an object that is nobody's.
    pub(crate) selects: fn(&O, &C) -> bool,
}

impl<O: Namespaced, C: Resource<DynamicType = ()>> Waker<'_, O, C> {
    /// Queues the controller of an object, or those that could adopt it.
    pub(crate) fn wake(&self, object: &C, adopt: bool) {
        let namespace = pods::namespace(object.meta());
        match pods::controller_of(object.meta()) {
            Some(owner) if owner.kind == O::kind(&()) => {
                self.pace.wake(self.queue, Key::new(namespace, owner.name.clone()));
            }
            None if adopt => {
                for owner in self.owners.list_namespace(namespace) {
                    if (self.selects)(&owner, object) {
                        self.pace.wake(self.queue, Key::of(owner.meta()));
                    }
                }
            }
            Some(_) | None => {}
        }
    }
}

impl<O: Namespaced> Waker<'_, O, Pod> {
    /// Follows all pods; `gone` hears of one that is gone before its owner is queued.
    pub(crate) async fn feed(&self, mut deltas: Deltas<Pod>, gone: impl Fn(&Pod) + Send) {
        while let Some(delta) = deltas.next().await {
            match &delta {
                Delta::Updated { old, new } if pods::matters(old, new) => {
                    self.wake(old, false);
                    self.wake(new, true);
                }
                Delta::Updated { .. } => {}
                Delta::Added(pod) => self.wake(pod, true),
                Delta::Deleted(pod) => {
                    gone(pod);
                    self.wake(pod, false);
                }
            }
        }
    }
}
