//! What a job has to do, given what is.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    batch::v1::{Job, JobSpec},
    core::v1::Pod,
};

use super::{
    backoff::{self, Backoff},
    indexes::Indexes,
    policy::{self, Failure},
    view::{self, IndexFailures, View},
};
use crate::{pods, replicaset::rank};

/// Pods created or deleted in one go, before looking again. Kubernetes' number.
pub(super) const BURST: usize = 500;

/// What is to be done with pods, before anything is counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Act {
    #[default]
    Nothing,
    Create(Vec<Slot>),
    /// Deletes pods that are too many. They are let go of first: they count as nothing.
    Remove(Vec<Arc<Pod>>),
    /// Deletes what still runs because the job is over. These pods are counted.
    End(Vec<Arc<Pod>>),
}

/// A pod to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) index: Option<i32>,
    /// The failures at its index before, where they are limited per index.
    pub(super) failures: Option<IndexFailures>,
}

/// How the job ends. Told by an interim condition while pods still end, then by the final one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) success: bool,
    pub(super) reason: String,
    pub(super) message: String,
}

impl Verdict {
    fn failure(reason: &str, message: impl Into<String>) -> Verdict {
        Verdict { success: false, reason: reason.to_owned(), message: message.into() }
    }

    /// Everything asked for was completed.
    pub(super) fn completed() -> Verdict {
        Verdict {
            success: true,
            reason: "CompletionsReached".to_owned(),
            message: "Reached expected number of succeeded pods".to_owned(),
        }
    }

    pub(super) fn interim(&self) -> &'static str {
        if self.success { "SuccessCriteriaMet" } else { "FailureTarget" }
    }

    pub(super) fn terminal(&self) -> &'static str {
        if self.success { "Complete" } else { "Failed" }
    }
}

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) act: Act,
    /// The job is over; otherwise it may still turn out to be complete.
    pub(super) verdict: Option<Verdict>,
    /// To be remembered once new failures are in the status.
    pub(super) backoff: Backoff,
    /// When to look again although nothing changes.
    pub(super) again: Option<Duration>,
}

/// What the job has to do with its pods. `before` are the failures that are in the status already.
pub(super) fn plan(view: &View<'_>, before: Backoff, now: Timestamp) -> Plan {
    let mut plan = Plan { backoff: before.after(&view.new_succeeded, &view.new_failed), ..Plan::default() };
    plan.verdict = verdict(view, now);
    if plan.verdict.is_some() {
        plan.act = Act::End(view.active.clone());
        return plan;
    }
    plan.again = deadline(view, now);
    if view.is_going() {
        return plan;
    }
    if view.is_suspended() {
        plan.act = Act::Remove(view.active.clone());
        return plan;
    }
    let doomed = too_many(view, now);
    if doomed.is_empty() {
        create(view, &mut plan, now);
    } else {
        plan.act = Act::Remove(doomed);
    }
    plan
}

/// Whether the job is over, apart from being complete.
fn verdict(view: &View<'_>, now: Timestamp) -> Option<Verdict> {
    for (type_, success) in [("SuccessCriteriaMet", true), ("FailureTarget", false)] {
        if let Some(known) = view::condition(view.job, type_) {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            return Some(Verdict { success, reason: text(&known.reason), message: text(&known.message) });
        }
    }
    let spec = view.spec;
    let fatal = view.pods.iter().filter(|pod| view.is_failed(pod)).find_map(|pod| {
        let Failure::FailsJob(message) = policy::failure(spec, pod) else { return None };
        Some(message)
    });
    if let Some(message) = fatal {
        return Some(Verdict::failure("PodFailurePolicy", message));
    }
    let limit = i64::from(backoff_limit(spec));
    if view.failed > limit || restarted_too_often(view, limit) {
        let message = "Job has reached the specified backoff limit";
        return Some(Verdict::failure("BackoffLimitExceeded", message));
    }
    if until_deadline(view, now).is_some_and(|left| !left.is_positive()) {
        let message = "Job was active longer than specified deadline";
        return Some(Verdict::failure("DeadlineExceeded", message));
    }
    by_indexes(view)
}

/// Whether the indexes decide: too many failed, all are settled, or enough succeeded.
fn by_indexes(view: &View<'_>) -> Option<Verdict> {
    if !view.is_indexed() {
        return None;
    }
    let completions = view.completions().unwrap_or(0);
    if let Some(failed) = &view.failed_indexes {
        if view.spec.max_failed_indexes.is_some_and(|most| failed.total() > i64::from(most)) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return Some(Verdict::failure("MaxFailedIndexesExceeded", message));
        }
        let settled = failed.total() + view.succeeded_indexes.total();
        if !failed.is_empty() && settled >= i64::from(completions) {
            return Some(Verdict::failure("FailedIndexes", "Job has failed indexes"));
        }
    }
    let message = policy::success(view.spec, completions, &view.succeeded_indexes)?;
    Some(Verdict { success: true, reason: "SuccessPolicy".to_owned(), message })
}

/// How many failures are too many; the server fills it in.
fn backoff_limit(spec: &JobSpec) -> i32 {
    let usual = if spec.backoff_limit_per_index.is_some() { i32::MAX } else { 6 };
    spec.backoff_limit.unwrap_or(usual)
}

/// Containers that restart in place count towards the limit, too.
fn restarted_too_often(view: &View<'_>, limit: i64) -> bool {
    let policy = view.spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
    if policy != Some("OnFailure") {
        return false;
    }
    let running = view.pods.iter().filter(|pod| matches!(pods::phase(pod), "Running" | "Pending"));
    let restarts: i64 = running
        .filter_map(|pod| pod.status.as_ref())
        .flat_map(|status| status.init_container_statuses.iter().chain(&status.container_statuses).flatten())
        .map(|container| i64::from(container.restart_count.max(0)))
        .sum();
    restarts > 0 && restarts >= limit
}

/// How long the job may still run; `None` if there is no deadline, or it does not run.
fn until_deadline(view: &View<'_>, now: Timestamp) -> Option<SignedDuration> {
    let seconds = view.spec.active_deadline_seconds.filter(|_| !view.is_suspended())?;
    // A job that is resumed starts anew, which its status is about to say.
    if view::condition(view.job, "Suspended").is_some() {
        return None;
    }
    let started = view.status.start_time.as_ref()?.0;
    Some(SignedDuration::from_secs(seconds).saturating_sub(now.duration_since(started)))
}

fn deadline(view: &View<'_>, now: Timestamp) -> Option<Duration> {
    let seconds = view.spec.active_deadline_seconds.filter(|_| !view.is_suspended())?;
    let left = until_deadline(view, now).unwrap_or(SignedDuration::from_secs(seconds));
    Duration::try_from(left).ok()
}

/// How many pods should run.
fn wanted(view: &View<'_>) -> i64 {
    let parallelism = i64::from(view.spec.parallelism.unwrap_or(1).max(0));
    match view.completions() {
        // After the first success nothing new is begun, and what runs may end on its own.
        None if view.succeeded > 0 => i64::try_from(view.active.len()).unwrap_or(i64::MAX),
        None => parallelism,
        Some(completions) => (i64::from(completions) - view.succeeded).clamp(0, parallelism),
    }
}

/// Active pods that are to go: those of no index or of one that is taken, then as many as are too many.
fn too_many(view: &View<'_>, now: Timestamp) -> Vec<Arc<Pod>> {
    let mut left = view.active.clone();
    let mut doomed = Vec::new();
    if view.is_indexed() {
        let mut by_index: BTreeMap<i32, Vec<Arc<Pod>>> = BTreeMap::new();
        for pod in left.drain(..) {
            match view::index(&pod).filter(|_| view.is_valid(&pod)) {
                Some(index) => by_index.entry(index).or_default().push(pod),
                None => doomed.push(pod),
            }
        }
        for same in by_index.into_values() {
            let mut ranked = rank::first_to_go(&same, &view.active, same.len(), now);
            left.extend(ranked.pop());
            doomed.extend(ranked);
        }
    }
    let excess = i64::try_from(view.active.len()).unwrap_or(i64::MAX) - wanted(view);
    let more = usize::try_from(excess).unwrap_or(0).saturating_sub(doomed.len());
    doomed.extend(rank::first_to_go(&left, &view.active, more, now));
    doomed.truncate(BURST);
    doomed
}

fn create(view: &View<'_>, plan: &mut Plan, now: Timestamp) {
    let terminating = if view.replaces_only_failed() { view.terminating().count() } else { 0 };
    let have = i64::try_from(view.active.len() + terminating).unwrap_or(i64::MAX);
    let missing = usize::try_from(wanted(view) - have).unwrap_or(0).min(BURST);
    if missing == 0 {
        return;
    }
    let per_index = view.failed_indexes.is_some();
    if !per_index && let Some(left) = plan.backoff.left(now) {
        plan.again = plan.again.into_iter().chain([left]).min();
        return;
    }
    let slots = if view.is_indexed() {
        let (ready, next) = free_slots(view, missing, now);
        plan.again = plan.again.into_iter().chain(next).min();
        ready
    } else {
        vec![Slot { index: None, failures: None }; missing]
    };
    if !slots.is_empty() {
        plan.act = Act::Create(slots);
    }
}

/// Indexes that nobody works on and that may be begun now, and when the next one may be.
fn free_slots(view: &View<'_>, count: usize, now: Timestamp) -> (Vec<Slot>, Option<Duration>) {
    let mut taken = view.succeeded_indexes.union(&view.failed_indexes.clone().unwrap_or_default());
    taken = taken.with(view.active.iter().filter_map(|pod| view::index(pod)));
    if view.replaces_only_failed() {
        taken = taken.union(&Indexes::default().with(view.terminating().filter_map(|pod| view::index(pod))));
    }
    let mut slots = Vec::new();
    let mut next: Option<Duration> = None;
    for index in taken.first_missing(count, view.completions().unwrap_or(0)) {
        let last = view.held.get(&index);
        let tries = last.map(|pod| view::index_failures(pod).total().saturating_add(1));
        let left = tries.zip(last).and_then(|(tries, pod)| backoff::left_after(tries, pod, now));
        match left {
            Some(left) => next = next.into_iter().chain([left]).min(),
            None => {
                let failures = view.failed_indexes.is_some().then(|| inherited(view, last));
                slots.push(Slot { index: Some(index), failures });
            }
        }
    }
    (slots, next)
}

/// The failures that a pod inherits from the one that it replaces.
fn inherited(view: &View<'_>, last: Option<&Arc<Pod>>) -> IndexFailures {
    let Some(last) = last else { return IndexFailures { counted: 0, ignored: 0 } };
    let mut failures = view::index_failures(last);
    if policy::failure(view.spec, last).counts() {
        failures.counted = failures.counted.saturating_add(1);
    } else {
        failures.ignored = failures.ignored.saturating_add(1);
    }
    failures
}

/// True if nothing is left to do for the job itself, or it is another controller's.
pub(super) fn is_settled(job: &Job) -> bool {
    view::finished(job).is_some() || view::is_foreign(job)
}

/// The failures before this process: those of pods that are counted and still there.
pub(super) fn recover(view: &View<'_>) -> Backoff {
    let new: HashSet<&str> =
        view.new_succeeded.iter().chain(&view.new_failed).map(|pod| pods::uid(&pod.metadata)).collect();
    let counted = || view.pods.iter().filter(|pod| !new.contains(pods::uid(&pod.metadata)));
    let succeeded: Vec<_> = counted().filter(|pod| pods::phase(pod) == "Succeeded").collect();
    let failed: Vec<_> = counted().filter(|pod| view.is_failed(pod)).collect();
    Backoff::default().after(&succeeded, &failed)
}
