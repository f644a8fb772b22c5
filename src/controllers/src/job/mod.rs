//! Jobs: runs pods until enough of them have succeeded, and counts each exactly once.
//!
//! ```text
//!  pods, jobs ──▶ view ──▶ plan ──▶ create or delete ──▶ track ──▶ status ──▶ finalizers off ──▶ close ──▶ status
//!                  ▲                                                                              │
//!                  └────────── the caches must show what was written before the next look ────────┘
//! ```
//! Nothing is planned on a stale cache: what was written to the job or its pods must show first. A process
//! that starts anew begins with a fresh list. A second queue takes the finalizer off pods whose job is
//! gone or over.

mod act;
mod backoff;
mod indexes;
mod orphans;
mod plan;
mod policy;
mod status;
mod template;
#[cfg(test)]
mod tests;
mod view;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use act::Which;
use backoff::Backoff;
use coracle_api::selector::LabelSelector;
use coracle_client::{
    Delta, Deltas, During, EventType, Informer, Key, ReconcileError, WorkQueue, clock, is_ambiguous,
    is_not_found,
};
use futures::future::BoxFuture;
use k8s_openapi::api::{
    batch::v1::{Job, JobStatus},
    core::v1::Pod,
};
use kube::{Api, Client, api::PostParams};
use parking_lot::Mutex;
use plan::Verdict;
use view::View;

use crate::{
    claim::{self, Claims},
    context::{self, Context},
    expectations::{self, Expectations},
    pace::Pace,
    podcontrol::{self, PodControl},
    pods,
    wake::Waker,
};

pub(crate) use view::finished;

pub(crate) const NAME: &str = "job";

/// Jobs reconciled at the same time. Kubernetes' default.
const WORKERS: usize = 5;

/// Pods of gone jobs that are let go of at the same time.
const ORPHAN_WORKERS: usize = 5;

pub(crate) fn run(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let jobs: Informer<Job> = context.informers.get();
        let pods: Informer<Pod> = context.informers.get();
        pods::add_indexes(&pods);
        let controller = Arc::new(Controller {
            client: context.client.clone(),
            control: PodControl::new(&context, "job-controller"),
            jobs: jobs.clone(),
            pods: pods.clone(),
            memory: Mutex::default(),
            pace: Pace::default(),
        });
        let (queue, orphans) = (WorkQueue::new(), WorkQueue::new());
        let feed = async {
            jobs.synced().await;
            pods.synced().await;
            let owners = Waker { owners: &jobs, queue: &queue, pace: &controller.pace, selects };
            let feeder = Feeder { owners, pods: &pods, orphans: &orphans };
            tokio::join!(
                feeder.feed_jobs(jobs.subscribe()),
                feeder.feed_pods(pods.subscribe()),
                context::resync(&jobs, &queue)
            );
        };
        let reconcile =
            context::shared(&controller, |controller, key| async move { controller.reconcile(key).await });
        let release =
            context::shared(
                &controller,
                |controller, key| async move { controller.let_go_of_orphan(key).await },
            );
        tokio::join!(
            context.run(NAME, queue.clone(), WORKERS, feed, reconcile),
            context.run(NAME, orphans.clone(), ORPHAN_WORKERS, std::future::ready(()), release),
        );
    })
}

/// Finds out whom a change concerns.
struct Feeder<'a> {
    owners: Waker<'a, Job, Pod>,
    pods: &'a Informer<Pod>,
    orphans: &'a WorkQueue<Key>,
}

impl Feeder<'_> {
    async fn feed_jobs(&self, mut deltas: Deltas<Job>) {
        while let Some(delta) = deltas.next().await {
            let job = delta.object();
            let key = Key::of(&job.metadata);
            match &delta {
                // Its own writes of the status come back this way.
                Delta::Updated { old, new } if old.metadata.generation == new.metadata.generation => {
                    self.owners.pace.wake(self.owners.queue, key);
                }
                Delta::Added(_) | Delta::Updated { .. } | Delta::Deleted(_) => self.owners.queue.add(key),
            }
            if matches!(delta, Delta::Deleted(_)) || finished(job).is_some() {
                for pod in self.pods.by_index(pods::BY_CONTROLLER, pods::uid(&job.metadata)) {
                    self.check_orphan(&pod);
                }
            }
        }
    }

    async fn feed_pods(&self, mut deltas: Deltas<Pod>) {
        while let Some(delta) = deltas.next().await {
            match &delta {
                // Pods of nobody are many, and what they do is no job's business.
                Delta::Updated { old, new }
                    if pods::controller_of(&new.metadata).is_none() && !pods::matters(old, new) => {}
                Delta::Updated { old, new } => {
                    self.wake(old, false);
                    self.wake(new, true);
                }
                Delta::Added(pod) => self.wake(pod, true),
                Delta::Deleted(pod) => self.wake(pod, false),
            }
        }
    }

    /// Queues the job of a pod, or those that could adopt it.
    fn wake(&self, pod: &Pod, exists: bool) {
        self.owners.wake(pod, exists);
        if exists {
            self.check_orphan(pod);
        }
    }

    fn check_orphan(&self, pod: &Pod) {
        if orphans::is_orphan(self.owners.owners, pod) {
            self.orphans.add(Key::of(&pod.metadata));
        }
    }
}

/// Whether a job would take a pod that is nobody's.
fn selects(job: &Job, pod: &Pod) -> bool {
    selector(job).is_some_and(|selector| selector.matches(&pod.metadata.labels.as_ref()))
}

/// What selects a job's pods. One without a selector, which the server does not let through, has none.
fn selector(job: &Job) -> Option<LabelSelector> {
    pods::selector(job.spec.as_ref()?.selector.as_ref()?)
}

struct Controller {
    client: Client,
    control: PodControl,
    jobs: Informer<Job>,
    pods: Informer<Pod>,
    /// What was written for each job. Taken out while the key is reconciled, which one worker does at a
    /// time.
    memory: Mutex<HashMap<Key, (String, Memory)>>,
    pace: Pace,
}

/// What is remembered of an unfinished job.
#[derive(Debug, Default)]
struct Memory {
    expectations: Expectations,
    /// The failures that are in the status; `None` until the first look.
    backoff: Option<Backoff>,
    /// The revision that the job's last status made.
    revision: u64,
    /// Whether a status was written is not known.
    uncertain: bool,
}

/// What a look at a job is based on.
enum Look {
    At(Arc<Job>),
    /// The cache does not show what was written before.
    TooEarly,
    Gone,
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Result<Option<Duration>, ReconcileError> {
        let remembered = self.memory.lock().remove(&key);
        let Some(job) = self.jobs.get(&key) else {
            self.pace.forget(&key);
            return Ok(None);
        };
        if plan::is_settled(&job) {
            return Ok(None);
        }
        let _turn = self.pace.turn(&key);
        let uid = pods::uid(&job.metadata).to_owned();
        let mut memory =
            remembered.filter(|(of, _)| *of == uid).map(|(_, memory)| memory).unwrap_or_default();
        let outcome = self.reconcile_with(&key, job, &mut memory).await;
        self.memory.lock().insert(key, (uid, memory));
        outcome
    }

    async fn reconcile_with(
        &self,
        key: &Key,
        job: Arc<Job>,
        memory: &mut Memory,
    ) -> Result<Option<Duration>, ReconcileError> {
        let job = match self.look(key, job, memory).await? {
            Look::At(job) => job,
            Look::TooEarly => return Ok(Some(expectations::LOOK_AGAIN)),
            Look::Gone => return Ok(None),
        };
        let Some(spec) = job.spec.as_ref().filter(|_| !plan::is_settled(&job)) else { return Ok(None) };
        if !matches!(spec.completion_mode.as_deref(), None | Some("NonIndexed" | "Indexed")) {
            let message = "Skipped Job sync because completion mode is unknown";
            self.tell(&job, EventType::Warning, "UnknownCompletionMode", message);
            return Ok(None);
        }
        let Some(owned) = self.pods_of(&job, &mut memory.expectations).await? else {
            return Ok(Some(expectations::LOOK_AGAIN));
        };
        let now = clock::now();
        let view = View::new(&job, spec, &owned);
        let before = memory.backoff.unwrap_or_else(|| plan::recover(&view));
        let plan = plan::plan(&view, before, now);
        let (done, failure) = self.act(&job, &plan.act, &mut memory.expectations).await;
        let tracked = status::track(&view, &plan, done, now);
        let mut stored = self.write_status(key, &job, &tracked.status, memory).await?;
        memory.backoff = Some(plan.backoff);
        for (reason, message) in &tracked.events {
            self.tell(&job, EventType::Normal, reason, message);
        }
        let released = self.let_go(&tracked.release, Which::Any, &mut memory.expectations).await;
        let kept: HashSet<String> = owned
            .iter()
            .filter(|pod| view::is_tracked(&pod.metadata))
            .map(|pod| pods::uid(&pod.metadata).to_owned())
            .filter(|uid| !released.uids.contains(uid))
            .collect();
        let (status, ended) = status::close(&tracked, &kept, clock::now());
        stored = self.write_status(key, &stored, &status, memory).await?;
        if let Some(verdict) = ended {
            self.tell_end(&stored, &verdict);
        }
        match failure.into_iter().chain(released.failure).next() {
            Some(failure) => Err(failure),
            None if !tracked.release.is_empty() || memory.expectations.is_uncertain() => {
                Ok(Some(expectations::LOOK_AGAIN))
            }
            None => Ok(plan.again),
        }
    }

    /// The job as it is now, or why that cannot be told.
    async fn look(&self, key: &Key, job: Arc<Job>, memory: &mut Memory) -> Result<Look, ReconcileError> {
        if !memory.uncertain {
            let shows = self.jobs.seen() >= memory.revision;
            return Ok(if shows { Look::At(job) } else { Look::TooEarly });
        }
        let api: Api<Job> = Api::namespaced(self.client.clone(), &key.namespace);
        match api.get(&key.name).await {
            Err(error) if is_not_found(&error) => Ok(Look::Gone),
            Ok(fresh) if fresh.metadata.uid != job.metadata.uid => Ok(Look::Gone),
            other => {
                let fresh = other.during(|| format!("read job {key}"))?;
                memory.uncertain = false;
                memory.revision = memory.revision.max(pods::revision(&fresh.metadata));
                Ok(Look::At(Arc::new(fresh)))
            }
        }
    }

    /// The pods that the job owns; `None` if they cannot be counted yet.
    async fn pods_of(
        &self,
        job: &Job,
        expectations: &mut Expectations,
    ) -> Result<Option<Vec<Arc<Pod>>>, ReconcileError> {
        let Some(selector) = selector(job) else { return Ok(None) };
        let seen = self.pods.seen();
        let candidates = expectations::candidates(&self.client, &self.pods, job, expectations).await?;
        let claims: Claims<Pod> =
            claim::claim(&job.metadata, &candidates, |pod| selector.matches(&pod.metadata.labels.as_ref()));
        if !expectations.met(seen, &claims.owned) {
            return Ok(None);
        }
        claim::settle(&self.client, job, &claims, Some(view::FINALIZER)).await?;
        // A pod that was adopted is counted when the cache shows it with the finalizer.
        let changed = !claims.adopt.is_empty() || !claims.release.is_empty();
        Ok((!changed).then_some(claims.owned))
    }

    /// Writes the status if it changed. Returns the job as it is then.
    async fn write_status(
        &self,
        key: &Key,
        job: &Job,
        status: &JobStatus,
        memory: &mut Memory,
    ) -> Result<Job, ReconcileError> {
        if job.status.as_ref() == Some(status) {
            return Ok(job.clone());
        }
        let api: Api<Job> = Api::namespaced(self.client.clone(), &key.namespace);
        let changed = Job { status: Some(status.clone()), ..job.clone() };
        let answer = api.replace_status(&key.name, &PostParams::default(), &changed).await;
        match &answer {
            Ok(stored) => memory.revision = memory.revision.max(pods::revision(&stored.metadata)),
            Err(error) => memory.uncertain |= is_ambiguous(error),
        }
        answer.during(|| format!("write the status of {key}"))
    }

    fn tell(&self, job: &Job, type_: EventType, reason: &str, message: &str) {
        self.control.recorder.event(&podcontrol::reference(job), type_, reason, message);
    }

    fn tell_end(&self, job: &Job, verdict: &Verdict) {
        if !verdict.success {
            return self.tell(job, EventType::Warning, &verdict.reason, &verdict.message);
        }
        let wanted = job.spec.as_ref().and_then(|spec| spec.completions);
        let have = job.status.as_ref().and_then(|status| status.succeeded).unwrap_or(0);
        if wanted.is_some_and(|wanted| have > wanted) {
            let message = "Too many succeeded pods running after completion count reached";
            self.tell(job, EventType::Warning, "TooManySucceededPods", message);
        }
        self.tell(job, EventType::Normal, "Completed", "Job completed");
    }
}
