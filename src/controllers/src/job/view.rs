//! A job and its pods, with the numbers that follow from them.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use k8s_openapi::{
    api::{
        batch::v1::{Job, JobCondition, JobSpec, JobStatus},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{
    backoff,
    indexes::Indexes,
    policy::{self, Failure},
};
use crate::pods;

/// Keeps a pod until it was counted.
pub(super) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// Annotation and label of a pod's index.
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// How many pods failed at this index before this one.
pub(super) const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// How many more failed that did not count.
pub(super) const INDEX_IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
/// The value of `managedBy` that means this controller.
const CONTROLLER: &str = "kubernetes.io/job-controller";

/// What is known.
#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) job: &'a Job,
    pub(super) spec: &'a JobSpec,
    pub(super) status: JobStatus,
    /// All pods that the job owns.
    pub(super) pods: &'a [Arc<Pod>],
    pub(super) active: Vec<Arc<Pod>>,
    /// Pods that succeeded, or failed, and are not in the status yet.
    pub(super) new_succeeded: Vec<&'a Arc<Pod>>,
    pub(super) new_failed: Vec<&'a Arc<Pod>>,
    /// How many succeeded and failed, new ones among them.
    pub(super) succeeded: i64,
    pub(super) failed: i64,
    /// The indexes that succeeded, according to the status and with the new ones.
    pub(super) counted_indexes: Indexes,
    pub(super) succeeded_indexes: Indexes,
    /// The indexes that failed, where failures are limited per index.
    pub(super) failed_indexes: Option<Indexes>,
    /// Failed pods that stay until they are replaced, because the replacement inherits their count.
    pub(super) held: BTreeMap<i32, Arc<Pod>>,
}

impl<'a> View<'a> {
    pub(super) fn new(job: &'a Job, spec: &'a JobSpec, pods: &'a [Arc<Pod>]) -> View<'a> {
        let mut view = View {
            job,
            spec,
            status: job.status.clone().unwrap_or_default(),
            pods,
            active: pods.iter().filter(|pod| pods::is_active(pod)).cloned().collect(),
            new_succeeded: Vec::new(),
            new_failed: Vec::new(),
            succeeded: 0,
            failed: 0,
            counted_indexes: Indexes::default(),
            succeeded_indexes: Indexes::default(),
            failed_indexes: None,
            held: BTreeMap::new(),
        };
        view.count();
        if view.is_indexed() {
            view.count_indexes();
        }
        view
    }

    fn count(&mut self) {
        let (succeeded, failed) = uncounted(&self.status);
        let new = |known: &HashSet<String>, ended: &dyn Fn(&Pod) -> bool| -> Vec<&'a Arc<Pod>> {
            let all = self.pods.iter().filter(|pod| is_tracked(&pod.metadata) && self.is_valid(pod));
            all.filter(|pod| !known.contains(pods::uid(&pod.metadata)) && ended(pod)).collect()
        };
        let new_succeeded = new(&succeeded, &|pod| pods::phase(pod) == "Succeeded");
        let new_failed = new(&failed, &|pod| self.is_failed(pod));
        let counted = new_failed.iter().filter(|pod| policy::failure(self.spec, pod).counts()).count();
        let total = |before: Option<i32>, known: usize, new: usize| {
            i64::from(before.unwrap_or(0)).saturating_add(i64::try_from(known + new).unwrap_or(i64::MAX))
        };
        self.succeeded = total(self.status.succeeded, succeeded.len(), new_succeeded.len());
        self.failed = total(self.status.failed, failed.len(), counted);
        self.new_succeeded = new_succeeded;
        self.new_failed = new_failed;
    }

    fn count_indexes(&mut self) {
        let completions = self.completions().unwrap_or(0);
        let parse =
            |text: Option<&String>| text.map(|text| Indexes::parse(text, completions)).unwrap_or_default();
        let tracked = || self.pods.iter().filter(|pod| is_tracked(&pod.metadata));
        let valid = |pod: &Arc<Pod>| index(pod).filter(|index| *index < completions);
        let ended = tracked().filter(|pod| pods::phase(pod) == "Succeeded");
        self.counted_indexes = parse(self.status.completed_indexes.as_ref());
        self.succeeded_indexes = self.counted_indexes.with(ended.filter_map(valid));
        self.succeeded = self.succeeded_indexes.total();
        let Some(limit) = self.spec.backoff_limit_per_index else { return };
        let failed = tracked().filter(|pod| self.fails_index(pod, limit)).filter_map(valid);
        let failed_indexes = parse(self.status.failed_indexes.as_ref()).with(failed);
        let active = Indexes::default().with(self.active.iter().filter_map(|pod| index(pod)));
        let settled = self.succeeded_indexes.union(&failed_indexes).union(&active);
        let mut held: BTreeMap<i32, Arc<Pod>> = BTreeMap::new();
        for pod in tracked().filter(|pod| self.is_failed(pod)) {
            let Some(index) = valid(pod).filter(|index| !settled.has(*index)) else { continue };
            let order = |pod: &Pod| (index_failures(pod).total(), backoff::finished(pod));
            let known = held.get(&index).map(|known| order(known));
            if known.is_none_or(|known| known <= order(pod)) {
                held.insert(index, pod.clone());
            }
        }
        self.held = held;
        self.failed_indexes = Some(failed_indexes);
    }

    fn fails_index(&self, pod: &Pod, limit: i32) -> bool {
        self.is_failed(pod)
            && match policy::failure(self.spec, pod) {
                Failure::FailsIndex => true,
                Failure::Ignored => false,
                Failure::Counts | Failure::FailsJob(_) => {
                    i64::from(index_failures(pod).counted) >= i64::from(limit)
                }
            }
    }

    pub(super) fn is_indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    /// How many completions are asked for; `None` if any success will do.
    pub(super) fn completions(&self) -> Option<i32> {
        self.spec.completions.map(|completions| completions.max(0))
    }

    pub(super) fn is_suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }

    pub(super) fn is_going(&self) -> bool {
        self.job.metadata.deletion_timestamp.is_some()
    }

    /// A pod that is being deleted is replaced only when it has ended.
    pub(super) fn replaces_only_failed(&self) -> bool {
        self.spec.pod_replacement_policy.as_deref() == Some("Failed")
            || self.spec.pod_failure_policy.is_some()
    }

    /// True if the pod has failed, or counts as such because it is being deleted.
    pub(super) fn is_failed(&self, pod: &Pod) -> bool {
        match pods::phase(pod) {
            "Failed" => true,
            "Succeeded" => false,
            _ => pod.metadata.deletion_timestamp.is_some() && !self.replaces_only_failed(),
        }
    }

    /// True if the pod is one of those that the job asks for: of an indexed job only with an index.
    pub(super) fn is_valid(&self, pod: &Pod) -> bool {
        !self.is_indexed() || index(pod).is_some_and(|index| index < self.completions().unwrap_or(0))
    }

    /// Pods that are being deleted and still run.
    pub(super) fn terminating(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_some() && !pods::is_terminal(pod))
    }
}

/// How many pods failed at an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IndexFailures {
    pub(super) counted: i32,
    pub(super) ignored: i32,
}

impl IndexFailures {
    pub(super) fn total(self) -> u32 {
        self.counted.saturating_add(self.ignored).unsigned_abs()
    }
}

/// The failures before this pod at its index. Users may have written anything there.
pub(super) fn index_failures(pod: &Pod) -> IndexFailures {
    let number = |name| -> i32 {
        let text = pod.metadata.annotations.as_ref().and_then(|all| all.get(name));
        text.and_then(|text| text.parse().ok()).filter(|number| *number >= 0).unwrap_or(0)
    };
    IndexFailures { counted: number(INDEX_FAILURES), ignored: number(INDEX_IGNORED) }
}

/// The uids in the status that are counted when their pods have lost the finalizer.
pub(super) fn uncounted(status: &JobStatus) -> (HashSet<String>, HashSet<String>) {
    let uncounted = status.uncounted_terminated_pods.as_ref();
    let set = |uids: Option<&Vec<String>>| uids.into_iter().flatten().cloned().collect();
    (
        set(uncounted.and_then(|pods| pods.succeeded.as_ref())),
        set(uncounted.and_then(|pods| pods.failed.as_ref())),
    )
}

/// True if the pod is kept until it was counted.
pub(super) fn is_tracked(meta: &ObjectMeta) -> bool {
    meta.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

/// The index of a pod.
pub(super) fn index(pod: &Pod) -> Option<i32> {
    let text = pod.metadata.annotations.as_ref()?.get(INDEX)?;
    text.parse().ok().filter(|index| *index >= 0)
}

/// The condition of a job that is true.
pub(super) fn condition<'a>(job: &'a Job, type_: &str) -> Option<&'a JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == type_ && condition.status == "True")
}

/// The condition that says that the job is over: Complete or Failed.
pub(crate) fn finished(job: &Job) -> Option<&JobCondition> {
    condition(job, "Complete").or_else(|| condition(job, "Failed"))
}

/// True if another controller manages the job.
pub(super) fn is_foreign(job: &Job) -> bool {
    let manager = job.spec.as_ref().and_then(|spec| spec.managed_by.as_deref());
    manager.is_some_and(|manager| manager != CONTROLLER)
}
