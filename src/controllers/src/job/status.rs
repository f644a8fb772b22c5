//! The status of a job, and how a pod comes to be counted exactly once.
//!
//! ```text
//!   pod ended, finalizer on ──(1)──▶ its uid is in the status ──(2)──▶ finalizer off ──(3)──▶ counted
//! ```
//! (1) and (3) are writes of the status, (2) is one of the pod. Whatever stops between them, the next
//! look finds the step that is missing: a pod with the finalizer is not counted, one without it is
//! counted if the status still names it. An index that succeeded is counted by (1), since counting it
//! twice changes nothing.

use std::{collections::HashSet, sync::Arc};

use coracle_client::clock;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        batch::v1::{JobCondition, JobStatus, UncountedTerminatedPods},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{
    plan::{Plan, Verdict},
    policy,
    view::{self, View},
};
use crate::pods;

/// Pods named in a status at once; keeps it below 20 KB. Kubernetes' number.
const MOST_UNCOUNTED: usize = 500;

/// What came of the plan's act.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Done {
    pub(super) created: usize,
    pub(super) deleted: usize,
    pub(super) deleted_ready: usize,
    /// Everything was carried out.
    pub(super) whole: bool,
}

/// What is to be written before finalizers are taken off, and which.
#[derive(Debug)]
pub(super) struct Tracked {
    pub(super) status: JobStatus,
    pub(super) release: Vec<Arc<Pod>>,
    /// How the job ends, if everything else is done.
    verdict: Option<Verdict>,
    /// More is to be counted than the status may name.
    full: bool,
    /// Reasons and messages to be told once the status is written.
    pub(super) events: Vec<(&'static str, &'static str)>,
}

/// Step (1).
pub(super) fn track(view: &View<'_>, plan: &Plan, done: Done, now: Timestamp) -> Tracked {
    let mut status = view.status.clone();
    let mut events = Vec::new();
    if status.start_time.is_none() && !view.is_suspended() {
        status.start_time = Some(time(now));
    }
    let active = (view.active.len() + done.created).saturating_sub(done.deleted);
    let mut verdict = plan.verdict.clone().filter(|_| done.whole);
    if plan.verdict.is_none() {
        if active == 0 && is_complete(view) {
            verdict = Some(Verdict::completed());
        } else if !view.is_going() {
            events.extend(suspension(view, &mut status, now));
        }
    }
    let ready = view.active.iter().filter(|pod| pods::is_ready(pod)).count();
    status.active = number(active);
    status.ready = Some(number(ready.saturating_sub(done.deleted_ready)).unwrap_or(0));
    status.terminating = Some(number(view.terminating().count() + done.deleted).unwrap_or(0));
    let kept: HashSet<String> = view
        .pods
        .iter()
        .filter(|pod| view::is_tracked(&pod.metadata))
        .map(|pod| pods::uid(&pod.metadata).to_owned())
        .collect();
    settle(&mut status, &kept);
    let (release, full) = name_ended(view, verdict.as_ref(), &mut status);
    if let Some(verdict) = &verdict {
        ensure(&mut status, verdict.interim(), true, &verdict.reason, &verdict.message, now);
    }
    Tracked { status, release, verdict, full, events }
}

/// Step (3), and the end of the job if nothing is left. `kept` are the pods that still have the
/// finalizer. Says how the job ended.
pub(super) fn close(
    tracked: &Tracked,
    kept: &HashSet<String>,
    now: Timestamp,
) -> (JobStatus, Option<Verdict>) {
    let mut status = tracked.status.clone();
    settle(&mut status, kept);
    let Some(verdict) = tracked.verdict.clone() else { return (status, None) };
    let (succeeded, failed) = view::uncounted(&status);
    let left = succeeded.len() + failed.len();
    if tracked.full || left > 0 || status.terminating.unwrap_or(0) > 0 {
        return (status, None);
    }
    ensure(&mut status, verdict.terminal(), true, &verdict.reason, &verdict.message, now);
    if verdict.success {
        status.completion_time = Some(time(now));
    }
    (status, Some(verdict))
}

fn is_complete(view: &View<'_>) -> bool {
    view.completions().map_or(view.succeeded > 0, |wanted| view.succeeded >= i64::from(wanted))
}

/// Says whether the job is suspended. One that is resumed starts anew.
fn suspension(
    view: &View<'_>,
    status: &mut JobStatus,
    now: Timestamp,
) -> Option<(&'static str, &'static str)> {
    if view.is_suspended() {
        ensure(status, "Suspended", true, "JobSuspended", "Job suspended", now)
            .then_some(("Suspended", "Job suspended"))
    } else if ensure(status, "Suspended", false, "JobResumed", "Job resumed", now) {
        status.start_time = Some(time(now));
        Some(("Resumed", "Job resumed"))
    } else {
        None
    }
}

/// Counts the pods that the status names and that have lost the finalizer.
fn settle(status: &mut JobStatus, kept: &HashSet<String>) {
    let uncounted = status.uncounted_terminated_pods.get_or_insert_default();
    for (uids, count) in
        [(&mut uncounted.succeeded, &mut status.succeeded), (&mut uncounted.failed, &mut status.failed)]
    {
        let Some(all) = uids else { continue };
        let before = all.len();
        all.retain(|uid| kept.contains(uid));
        let gone = before - all.len();
        if gone > 0 {
            *count = Some(count.unwrap_or(0).saturating_add(number(gone).unwrap_or(0)));
        }
    }
    tidy(uncounted);
}

/// Empty lists are left out, as the API leaves them out.
fn tidy(uncounted: &mut UncountedTerminatedPods) {
    for list in [&mut uncounted.succeeded, &mut uncounted.failed] {
        if list.as_ref().is_some_and(Vec::is_empty) {
            *list = None;
        }
    }
}

/// Names the pods that ended in the status. Says which of them then may lose the finalizer, and whether
/// there are more.
fn name_ended(view: &View<'_>, verdict: Option<&Verdict>, status: &mut JobStatus) -> (Vec<Arc<Pod>>, bool) {
    let (succeeded, failed) = view::uncounted(&view.status);
    let named = status.uncounted_terminated_pods.get_or_insert_default();
    let mut new_succeeded = named.succeeded.take().unwrap_or_default();
    let mut new_failed = named.failed.take().unwrap_or_default();
    let mut new_indexes = 0;
    let mut release = Vec::new();
    let mut full = false;
    let mut tracked: Vec<&Arc<Pod>> =
        view.pods.iter().filter(|pod| view::is_tracked(&pod.metadata)).collect();
    if view.is_indexed() {
        tracked.sort_by_key(|pod| view::index(pod));
    }
    let lost = verdict.is_some_and(|verdict| !verdict.success);
    for pod in tracked {
        if !may_release(view, verdict, pod) {
            continue;
        }
        release.push(pod.clone());
        let uid = pods::uid(&pod.metadata);
        if pods::phase(pod) == "Succeeded" && !failed.contains(uid) {
            match view::index(pod).filter(|_| view.is_indexed()) {
                Some(index) if view.is_valid(pod) && !view.counted_indexes.has(index) => {
                    new_indexes += 1;
                }
                None if !view.is_indexed() && !succeeded.contains(uid) => new_succeeded.push(uid.to_owned()),
                Some(_) | None => {}
            }
        } else if (view.is_failed(pod) || lost)
            && !failed.contains(uid)
            && view.is_valid(pod)
            && policy::failure(view.spec, pod).counts()
        {
            new_failed.push(uid.to_owned());
        }
        if new_indexes + new_succeeded.len() + new_failed.len() >= MOST_UNCOUNTED {
            full = true;
            break;
        }
    }
    named.succeeded = Some(new_succeeded);
    named.failed = Some(new_failed);
    tidy(named);
    if view.is_indexed() {
        let all = &view.succeeded_indexes;
        status.succeeded = i32::try_from(all.total()).ok().filter(|count| *count > 0);
        status.completed_indexes = Some(all.to_string()).filter(|text| !text.is_empty());
        status.failed_indexes = view.failed_indexes.as_ref().map(ToString::to_string);
    }
    (release, full)
}

/// True if the pod need not be kept any longer once the status names it.
fn may_release(view: &View<'_>, verdict: Option<&Verdict>, pod: &Pod) -> bool {
    if view.is_going() || verdict.is_some() || pods::phase(pod) == "Succeeded" {
        return true;
    }
    let held = || {
        let held = view::index(pod).and_then(|index| view.held.get(&index));
        held.is_some_and(|held| held.metadata.uid == pod.metadata.uid)
    };
    view.is_failed(pod) && !held()
}

/// Sets a condition; true if that changed something. One that was never true is not added as false.
fn ensure(
    status: &mut JobStatus,
    type_: &str,
    value: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> bool {
    let conditions = status.conditions.get_or_insert_default();
    let new = JobCondition {
        type_: type_.to_owned(),
        status: if value { "True" } else { "False" }.to_owned(),
        reason: Some(reason.to_owned()).filter(|text| !text.is_empty()),
        message: Some(message.to_owned()).filter(|text| !text.is_empty()),
        last_probe_time: Some(time(now)),
        last_transition_time: Some(time(now)),
    };
    let known = conditions.iter_mut().find(|condition| condition.type_ == type_);
    let changed = match known {
        Some(known)
            if known.status == new.status && known.reason == new.reason && known.message == new.message =>
        {
            false
        }
        Some(known) => {
            *known = new;
            true
        }
        None if value => {
            conditions.push(new);
            true
        }
        None => false,
    };
    if conditions.is_empty() {
        status.conditions = None;
    }
    changed
}

fn time(now: Timestamp) -> Time {
    Time(clock::seconds(now))
}

/// A count; nothing for none, as the API leaves zeros out.
fn number(count: usize) -> Option<i32> {
    Some(i32::try_from(count).unwrap_or(i32::MAX)).filter(|count| *count > 0)
}
