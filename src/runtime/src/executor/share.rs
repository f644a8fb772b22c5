//! A container's share of the CPUs: what its tasks are due together, and what they used.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::Inner;
use super::queue::GroupId;
use super::task::{Job, Lost};
use crate::container::Cpu;
use crate::limits::MEMORY_MAX;

/// What a run's tasks have in common: their weight, their limit, and the CPU time they used.
///
/// Runs beside one another in one container ([`Share::beside`]) are due one share together. What each used counts as
/// the container's, and so for its first run, as in a control group; it stays counted when the run has ended.
pub(crate) struct Share {
    group: Arc<Group>,
    /// What it used itself, if it was made beside others.
    own: Option<AtomicU64>,
    memory: AtomicU64,
    ending: AtomicBool,
}

/// A group of the queue, removed with its last share.
struct Group {
    id: GroupId,
    executor: Arc<Inner>,
    /// CPU time of all of its shares.
    used: AtomicU64,
}

impl Share {
    pub(super) fn new(executor: &Arc<Inner>, cpu: Cpu) -> Arc<Share> {
        let id = executor.add_group(cpu);
        Share::of(Arc::new(Group { id, executor: Arc::clone(executor), used: AtomicU64::new(0) }), None)
    }

    /// A share of the same group.
    pub(crate) fn beside(&self) -> Arc<Share> {
        Share::of(Arc::clone(&self.group), Some(AtomicU64::new(0)))
    }

    fn of(group: Arc<Group>, own: Option<AtomicU64>) -> Arc<Share> {
        Arc::new(Share { group, own, memory: AtomicU64::new(MEMORY_MAX), ending: AtomicBool::new(false) })
    }

    /// Runs a future on this share, as [`super::Executor::spawn`] does.
    pub(crate) fn spawn<F, E>(self: &Arc<Self>, future: F, end: E)
    where
        F: Future<Output: Send> + Send + 'static,
        E: FnOnce(Result<F::Output, Lost>) + Send + 'static,
    {
        self.executor().spawn(self, Job::boxed(Box::pin(future), end));
    }

    /// Changes what the group is due, from now on.
    pub(crate) fn set(&self, cpu: Cpu) {
        self.group.executor.set_group(self.group.id, cpu);
    }

    /// The memory limit of the run: what [`super::memory_limit`] says during its turns.
    pub(crate) fn set_memory(&self, bytes: u64) {
        self.memory.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn memory(&self) -> u64 {
        self.memory.load(Ordering::Relaxed)
    }

    /// CPU time that the tasks of this share used, as of their last turn; for the container's first, that of all.
    pub(crate) fn used(&self) -> Duration {
        let used = self.own.as_ref().unwrap_or(&self.group.used);
        Duration::from_nanos(used.load(Ordering::Relaxed))
    }

    /// The tasks of this share are to end: from now on their turns come before all others', also beyond their limit.
    /// Whoever calls this must make them end.
    pub(crate) fn hurry(self: &Arc<Self>) {
        self.ending.store(true, Ordering::Release);
        self.group.executor.hurry(self.group.id, self);
    }

    pub(super) fn group(&self) -> GroupId {
        self.group.id
    }

    pub(super) fn executor(&self) -> &Arc<Inner> {
        &self.group.executor
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    pub(super) fn add(&self, nanos: u64) {
        for used in self.own.iter().chain([&self.group.used]) {
            used.fetch_add(nanos, Ordering::Relaxed);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.executor.remove_group(self.id);
    }
}
