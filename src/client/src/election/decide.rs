//! What a candidate has to do, given what it saw of the lease.
//!
//! Times in a lease are other people's clocks and are only written, never compared: a candidate measures
//! by its own monotonic clock how long it has seen no change.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{api::coordination::v1::LeaseSpec, apimachinery::pkg::apis::meta::v1::MicroTime};

/// What is known of the lease.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    /// What is in it; `None` if there is no lease.
    pub(super) spec: Option<&'a LeaseSpec>,
    /// How long it has been seen unchanged.
    pub(super) unchanged: Duration,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Write this: the lease is free, has run out, or is the candidate's own.
    Write(LeaseSpec),
    /// Another holds it, for so long at least.
    Wait(Duration),
}

/// Decides for the candidate `identity`, who takes the lease for `length`.
pub(super) fn decide(identity: &str, length: Duration, seen: Seen<'_>, now: Timestamp) -> Step {
    let Some(spec) = seen.spec else { return Step::Write(taken(None, identity, length, now)) };
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    if holder == identity || holder.is_empty() {
        return Step::Write(taken(Some(spec), identity, length, now));
    }
    let theirs = u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0);
    match Duration::from_secs(theirs).checked_sub(seen.unchanged) {
        Some(left) if !left.is_zero() => Step::Wait(left),
        _ => Step::Write(taken(Some(spec), identity, length, now)),
    }
}

/// The lease in the hands of `identity`.
fn taken(before: Option<&LeaseSpec>, identity: &str, length: Duration, now: Timestamp) -> LeaseSpec {
    let now = MicroTime(Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now));
    let mine = before.is_some_and(|before| before.holder_identity.as_deref() == Some(identity));
    let acquired = before.filter(|_| mine).and_then(|before| before.acquire_time.clone());
    let transitions = before.and_then(|before| before.lease_transitions).unwrap_or(0);
    let changed = i32::from(before.is_some() && !mine);
    LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: Some(i32::try_from(length.as_secs()).unwrap_or(i32::MAX)),
        acquire_time: Some(acquired.unwrap_or_else(|| now.clone())),
        renew_time: Some(now),
        lease_transitions: Some(transitions.saturating_add(changed)),
        ..LeaseSpec::default()
    }
}

/// The lease given back, so that the next candidate need not wait.
pub(super) fn released(before: &LeaseSpec, now: Timestamp) -> LeaseSpec {
    let now = MicroTime(Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now));
    LeaseSpec {
        holder_identity: Some(String::new()),
        lease_duration_seconds: Some(1),
        acquire_time: Some(now.clone()),
        renew_time: Some(now),
        lease_transitions: before.lease_transitions,
        ..LeaseSpec::default()
    }
}
