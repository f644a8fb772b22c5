//! How many of the process's file descriptors guests may hold through volumes.
//!
//! Every name that a guest has walked over is an open handle as long as something below it is open, so a
//! thousand open folders at a depth of a thousand would be a million. The process needs descriptors for
//! itself: its API, its store and the logs of everybody.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use rustix::process::{Resource, getrlimit};

use crate::error::VfsError;

/// What one volume may hold at most: four containers with as many files open as they may, or one path down
/// to [`crate::DEPTH_MAX`] and as much again.
const VOLUME_MAX: usize = 4_096;

/// Any volume gets this much, as far as there is any: a container's bound on open files.
const VOLUME_MIN: usize = 1_024;

/// Handles that all volumes of the process hold.
static HELD: AtomicUsize = AtomicUsize::new(0);

/// Handles of one volume.
#[derive(Debug, Default)]
pub(super) struct Handles(Arc<AtomicUsize>);

/// A place for one handle, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Permit(Arc<AtomicUsize>);

impl Handles {
    /// # Errors
    /// [`VfsError::TooManyOpen`] if the volume, or all of them together, hold too many.
    pub(super) fn take(&self) -> Result<Permit, VfsError> {
        let all = budget();
        let permit = Permit(Arc::clone(&self.0)); // gives back both counts, also on the way out
        let volume = self.0.fetch_add(1, Relaxed);
        let held = HELD.fetch_add(1, Relaxed);
        if volume >= share(all) || held >= all {
            return Err(VfsError::TooManyOpen);
        }
        Ok(permit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
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

/// What one volume may hold, so that a few cannot take everything.
fn share(budget: usize) -> usize {
    (budget / 8).clamp(VOLUME_MIN, VOLUME_MAX)
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
        assert!(held.len() <= share(budget()));
        held.pop();
        held.push(handles.take().expect("one was given back"));
        drop(held);
        assert_eq!(handles.0.load(Relaxed), 0);
    }

    #[test]
    fn shares_follow_the_budget() {
        for (budget, expected) in [(512, 1_024), (10_000, 1_250), (262_144, 4_096)] {
            assert_eq!(share(budget), expected);
        }
    }
}
