//! The status of a daemon set.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};

use super::{plan::Place, pod};
use crate::pods;

pub(super) fn status(
    set: &DaemonSet,
    places: &[Place<'_>],
    hash: &str,
    min_ready: SignedDuration,
    now: Timestamp,
) -> DaemonSetStatus {
    let old = set.status.clone().unwrap_or_default();
    let mut status = DaemonSetStatus {
        observed_generation: set.metadata.generation,
        collision_count: old.collision_count,
        conditions: old.conditions,
        ..DaemonSetStatus::default()
    };
    let (mut updated, mut available) = (0, 0);
    for place in places {
        if !place.fit.run {
            status.number_misscheduled += i32::from(!place.pods.is_empty());
            continue;
        }
        status.desired_number_scheduled += 1;
        // The oldest one counts; while the template changes there may be a second.
        let Some(first) = place.pods.first() else { continue };
        status.current_number_scheduled += 1;
        status.number_ready += i32::from(pods::is_ready(first));
        available += i32::from(pods::is_available(first, min_ready, now));
        updated += i32::from(pod::is_updated(first, hash));
    }
    status.updated_number_scheduled = some(updated);
    status.number_available = some(available);
    status.number_unavailable = some(status.desired_number_scheduled - available);
    status
}

/// Nothing for none, as the API leaves zeros out.
fn some(count: i32) -> Option<i32> {
    Some(count).filter(|count| *count > 0)
}
