//! How long a job waits with new pods after failed ones.

use std::{cmp::Reverse, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use crate::pods;

const FIRST: SignedDuration = SignedDuration::from_secs(10);
/// The number in Kubernetes' code; its documentation says six minutes.
const LONGEST: SignedDuration = SignedDuration::from_mins(10);

/// The failures since the last success.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Backoff {
    failures: u32,
    last: Option<Timestamp>,
}

impl Backoff {
    /// With pods that ended since.
    pub(super) fn after(self, succeeded: &[&Arc<Pod>], failed: &[&Arc<Pod>]) -> Backoff {
        let mut failed: Vec<Timestamp> = failed.iter().map(|pod| finished(pod)).collect();
        failed.sort_unstable_by_key(|time| Reverse(*time));
        let last_success = succeeded.iter().map(|pod| finished(pod)).max();
        let (before, since) = match last_success {
            None => (self, failed.len()),
            Some(success) => (Backoff::default(), failed.iter().take_while(|time| **time > success).count()),
        };
        if since == 0 {
            return before;
        }
        let failures = before.failures.saturating_add(u32::try_from(since).unwrap_or(u32::MAX));
        Backoff { failures, last: failed.first().copied() }
    }

    /// How long no pod is to be created.
    pub(super) fn left(self, now: Timestamp) -> Option<Duration> {
        left(self.failures, self.last?, now)
    }
}

/// How long a pod that replaces a failed one has to wait, when `failures` pods failed before it.
pub(super) fn left_after(failures: u32, pod: &Pod, now: Timestamp) -> Option<Duration> {
    left(failures, finished(pod), now)
}

fn left(failures: u32, last: Timestamp, now: Timestamp) -> Option<Duration> {
    let doublings = failures.checked_sub(1)?.min(16);
    let wait = (FIRST * (1_i32 << doublings)).min(LONGEST);
    // A node's clock may be ahead: that prolongs nothing.
    let passed = now.duration_since(last).max(SignedDuration::ZERO);
    Duration::try_from(wait - passed).ok().filter(|left| !left.is_zero())
}

/// When a pod ended: when its last container did, or as nearly as can be told.
pub(super) fn finished(pod: &Pod) -> Timestamp {
    containers_finished(pod)
        .or_else(|| {
            let ready = pods::condition(pod, "Ready").filter(|ready| ready.status == "False")?;
            ready.last_transition_time.as_ref().map(|time| time.0)
        })
        .or_else(|| {
            let deleted = pod.metadata.deletion_timestamp.as_ref()?.0;
            let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0).clamp(0, i64::from(u32::MAX));
            deleted.checked_sub(SignedDuration::from_secs(grace)).ok()
        })
        .or_else(|| pod.metadata.creation_timestamp.as_ref().map(|time| time.0))
        .unwrap_or(Timestamp::UNIX_EPOCH)
}

fn containers_finished(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let times: Option<Vec<Timestamp>> = statuses
        .iter()
        .map(|status| {
            let terminated = status.state.as_ref()?.terminated.as_ref()?;
            terminated.finished_at.as_ref().map(|time| time.0)
        })
        .collect();
    times?.into_iter().max()
}
