//! When a finished job goes.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;

use crate::job;

/// How long a job still stays: nothing if it is to go now, `None` if it stays for good or is going.
pub(super) fn left(job: &Job, now: Timestamp) -> Option<Duration> {
    let seconds = job.spec.as_ref()?.ttl_seconds_after_finished?;
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let ended = job::finished(job)?.last_transition_time.as_ref()?.0;
    let ttl = SignedDuration::from_secs(i64::from(seconds));
    Some(Duration::try_from(ttl.saturating_sub(now.duration_since(ended))).unwrap_or_default())
}
