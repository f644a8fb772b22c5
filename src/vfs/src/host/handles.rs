//! How many of the process's file descriptors guests may hold through volumes.
//!
//! Every name that a guest has walked over is an open handle as long as something below it is open, so a
//! thousand open folders at a depth of a thousand would be a million. The process needs descriptors for
//! itself: its API, its store and the logs of everybody.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use rustix::process::{Resource, getrlimit};

use crate::error::VfsError;
use crate::share::PodShare;

/// What one volume may hold at most: four containers with as many files open as they may, or one path down
/// to [`crate::DEPTH_MAX`] and as much again.
const VOLUME_MAX: usize = 4_096;

/// What all volumes of a pod may hold at most: as much as two of them, since containers that fill their tables with
/// open files do so in a volume or two.
const POD_MAX: usize = 2 * VOLUME_MAX;

/// Any volume and any pod gets this much, as far as there is any: a container's bound on open files.
const MIN: usize = 1_024;

/// Handles that all volumes of the process hold.
static HELD: AtomicUsize = AtomicUsize::new(0);

/// Handles of one volume, which may be one of several that a pod has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Handles {
    volume: Arc<AtomicUsize>,
    pod: Option<Arc<AtomicUsize>>,
}

/// A place for one handle, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Permit(Handles);

impl Handles {
    /// Those of a volume of the pod with this share.
    pub(crate) fn of(share: &PodShare) -> Handles {
        Handles { volume: Arc::default(), pod: Some(Arc::clone(&share.handles)) }
    }

    /// # Errors
    /// [`VfsError::TooManyOpen`] if the volume, its pod, or all of them together hold too many.
    pub(super) fn take(&self) -> Result<Permit, VfsError> {
        let all = budget();
        let permit = Permit(self.clone()); // gives back all counts, also on the way out
        let volume = self.volume.fetch_add(1, Relaxed);
        let pod = self.pod.as_ref().map_or(0, |pod| pod.fetch_add(1, Relaxed));
        let held = HELD.fetch_add(1, Relaxed);
        if volume >= share(all, VOLUME_MAX) || pod >= share(all, POD_MAX) || held >= all {
            return Err(VfsError::TooManyOpen);
        }
        Ok(permit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.volume.fetch_sub(1, Relaxed);
        if let Some(pod) = &self.0.pod {
            pod.fetch_sub(1, Relaxed);
        }
        HELD.fetch_sub(1, Relaxed);
    }
}

/// What all volumes may hold: half of what the kernel gives the process.
fn budget() -> usize {
    static BUDGET: OnceLock<usize> = OnceLock::new();
    *BUDGET.get_or_init(|| {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        usize::try_from(limit).unwrap_or(usize::MAX) / 2
    })
}

/// What one of them may hold, so that a few cannot take everything.
fn share(budget: usize, most: usize) -> usize {
    (budget / 8).clamp(MIN, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_has_a_share() {
        let handles = Handles::default();
        let mut held = Vec::new();
        while let Ok(permit) = handles.take() {
            held.push(permit);
        }
        assert!(held.len() <= share(budget(), VOLUME_MAX));
        held.pop();
        held.push(handles.take().expect("one was given back"));
        drop(held);
        assert_eq!(handles.volume.load(Relaxed), 0);
    }

    #[test]
    fn a_pod_of_many_volumes_has_one_share_and_leaves_others_theirs() {
        let pod = PodShare::new(None);
        let mut held = Vec::new();
        for _ in 0..POD_MAX {
            // One for each volume, as if each were opened once.
            held.push(Handles::of(&pod).take());
        }
        let most = share(budget(), POD_MAX);
        assert!(held.iter().filter(|permit| permit.is_ok()).count() <= most);
        let other = Handles::of(&PodShare::new(None)).take();
        assert!(other.is_ok() || budget() <= 4 * most, "another pod has its own");
        held.clear();
        assert_eq!(pod.handles.load(Relaxed), 0);
    }

    #[test]
    fn shares_follow_the_budget() {
        for (budget, volume, pod) in
            [(512, 1_024, 1_024), (10_000, 1_250, 1_250), (50_000, 4_096, 6_250), (262_144, 4_096, 8_192)]
        {
            assert_eq!((share(budget, VOLUME_MAX), share(budget, POD_MAX)), (volume, pod));
        }
    }
}
