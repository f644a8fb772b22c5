//! Cron jobs: makes a job whenever the schedule says so.
//!
//! ```text
//!  cron jobs, jobs ──▶ plan ──▶ forget old jobs ──▶ replace, create ──▶ status
//! ```
//! The name of a job follows from its time, so that it is made once whatever stops in between. Times in
//! schedules are those of the cron job's zone, or of this process if it names none.

mod plan;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use coracle_client::{
    Delta, Deltas, During, EventType, Informer, Key, ReconcileError, Recorder, WorkQueue, api_message, clock,
    is_already_exists, is_not_found,
};
use futures::future::BoxFuture;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, PostParams, Preconditions},
};
use parking_lot::Mutex;
use plan::{Observed, Plan};

use crate::{
    context::{self, Context},
    expectations, namespaces, podcontrol, pods,
};

pub(crate) const NAME: &str = "cronjob";

/// Cron jobs reconciled at the same time. Kubernetes' default.
const WORKERS: usize = 5;

/// The longest sleep: what is due later is looked at now and then.
const LONGEST_SLEEP: Duration = Duration::from_hours(24);

pub(crate) fn run(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let crons: Informer<CronJob> = context.informers.get();
        let jobs: Informer<Job> = context.informers.get();
        pods::add_indexes(&jobs);
        let controller = Arc::new(Controller {
            client: context.client.clone(),
            recorder: context.recorder("cronjob-controller"),
            crons: crons.clone(),
            jobs: jobs.clone(),
            written: Mutex::default(),
        });
        let queue = WorkQueue::new();
        let feed = async {
            crons.synced().await;
            jobs.synced().await;
            tokio::join!(
                context::feed(crons.subscribe(), &queue),
                feed_jobs(jobs.subscribe(), &queue),
                context::resync(&crons, &queue)
            );
        };
        let reconcile =
            context::shared(&controller, |controller, key| async move { controller.reconcile(key).await });
        context.run(NAME, queue.clone(), WORKERS, feed, reconcile).await;
    })
}

async fn feed_jobs(mut deltas: Deltas<Job>, queue: &WorkQueue<Key>) {
    while let Some(delta) = deltas.next().await {
        let wake = |job: &Job| {
            let owner = pods::controller_of(&job.metadata).filter(|owner| owner.kind == "CronJob");
            if let Some(owner) = owner {
                queue.add(Key::new(pods::namespace(&job.metadata), owner.name.clone()));
            }
        };
        if let Delta::Updated { old, .. } = &delta {
            wake(old);
        }
        wake(delta.object());
    }
}

struct Controller {
    client: Client,
    recorder: Recorder,
    crons: Informer<CronJob>,
    jobs: Informer<Job>,
    /// The revision that each cron job's last status made: the cache must show it first.
    written: Mutex<HashMap<Key, u64>>,
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Result<Option<Duration>, ReconcileError> {
        let seen = self.crons.seen();
        let Some(cron) = self.crons.get(&key) else {
            self.written.lock().remove(&key);
            return Ok(None);
        };
        if self.written.lock().get(&key).is_some_and(|written| *written > seen) {
            return Ok(Some(expectations::LOOK_AGAIN));
        }
        let Some(spec) = &cron.spec else { return Ok(None) };
        let jobs = self.jobs.by_index(pods::BY_CONTROLLER, pods::uid(&cron.metadata));
        let gone = self.gone(&cron, &jobs).await?;
        let observed = Observed { cron: &cron, spec, jobs: &jobs, gone: &gone, home: TimeZone::system() };
        let mut plan = plan::plan(&observed, clock::now());
        for (type_, reason, message) in &plan.events {
            self.tell(&cron, *type_, reason, message);
        }
        for job in &plan.forget {
            // Failing to forget one keeps nobody from making the next.
            let _ = self.delete(&cron, pods::name(&job.metadata), job.metadata.uid.as_deref()).await;
        }
        let outcome = self.start(&cron, &mut plan).await;
        self.write_status(&key, &cron, &plan.status).await?;
        outcome.map(|()| plan.again.map(|again| again.min(LONGEST_SLEEP)))
    }

    /// The jobs that the status names and that are no more: not in the cache, nor in the API.
    async fn gone(&self, cron: &CronJob, jobs: &[Arc<Job>]) -> Result<HashSet<String>, ReconcileError> {
        let active = cron.status.as_ref().and_then(|status| status.active.as_deref()).unwrap_or_default();
        let mut gone = HashSet::new();
        let api: Api<Job> = Api::namespaced(self.client.clone(), pods::namespace(&cron.metadata));
        for known in active {
            let (Some(uid), Some(name)) = (&known.uid, &known.name) else { continue };
            if jobs.iter().any(|job| job.metadata.uid.as_ref() == Some(uid)) {
                continue;
            }
            match api.get(name).await {
                Ok(job) if job.metadata.uid.as_ref() == Some(uid) => {}
                Err(error) if !is_not_found(&error) => {
                    return Err(error).during(|| format!("read job {name}"));
                }
                Ok(_) | Err(_) => {
                    gone.insert(uid.clone());
                }
            }
        }
        Ok(gone)
    }

    /// Makes the job that is due, and puts it into the plan's status.
    async fn start(&self, cron: &CronJob, plan: &mut Plan) -> Result<(), ReconcileError> {
        let (Some(job), Some(due)) = (plan.create.take(), plan.due) else { return Ok(()) };
        for old in std::mem::take(&mut plan.replace) {
            let name = old.name.as_deref().unwrap_or_default();
            self.delete(cron, name, old.uid.as_deref()).await.during(|| format!("replace job {name}"))?;
            plan.status = plan::without(std::mem::take(&mut plan.status), old.uid.as_deref());
        }
        let name = pods::name(&job.metadata).to_owned();
        let api: Api<Job> = Api::namespaced(self.client.clone(), pods::namespace(&cron.metadata));
        let made = match api.create(&PostParams::default(), &job).await {
            Ok(made) => {
                let message = format!("Created job {name}");
                self.tell(cron, EventType::Normal, "SuccessfulCreate", &message);
                made
            }
            // Made before, but the status does not say so; or somebody else's, who will say so.
            Err(error) if is_already_exists(&error) => {
                let found = api.get(&name).await.during(|| format!("read job {name}"))?;
                let owner = pods::controller_of(&found.metadata).map(|owner| &owner.uid);
                if owner != cron.metadata.uid.as_ref() {
                    return Ok(());
                }
                found
            }
            Err(error) if namespaces::is_going(&error) => return Ok(()),
            Err(error) => {
                let message = format!("Error creating job: {}", api_message(&error));
                self.tell(cron, EventType::Warning, "FailedCreate", &message);
                return Err(error).during(|| format!("create job {name}"));
            }
        };
        plan.status = plan::started(std::mem::take(&mut plan.status), podcontrol::reference(&made), due);
        Ok(())
    }

    async fn delete(&self, cron: &CronJob, name: &str, uid: Option<&str>) -> Result<(), kube::Error> {
        let api: Api<Job> = Api::namespaced(self.client.clone(), pods::namespace(&cron.metadata));
        let preconditions = Preconditions { uid: uid.map(str::to_owned), resource_version: None };
        let options = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
        match api.delete(name, &options).await {
            Ok(_) => {
                let message = format!("Deleted job {name}");
                self.tell(cron, EventType::Normal, "SuccessfulDelete", &message);
                Ok(())
            }
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => {
                let message = format!("Deleted job: {}", api_message(&error));
                self.tell(cron, EventType::Warning, "FailedDelete", &message);
                Err(error)
            }
        }
    }

    async fn write_status(
        &self,
        key: &Key,
        cron: &CronJob,
        status: &CronJobStatus,
    ) -> Result<(), ReconcileError> {
        if *status == cron.status.clone().unwrap_or_default() {
            return Ok(());
        }
        let api: Api<CronJob> = Api::namespaced(self.client.clone(), &key.namespace);
        let changed = CronJob { status: Some(status.clone()), ..cron.clone() };
        match api.replace_status(&key.name, &PostParams::default(), &changed).await {
            Ok(stored) => {
                self.written.lock().insert(key.clone(), pods::revision(stored.meta()));
                Ok(())
            }
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(error).during(|| format!("write the status of cron job {key}")),
        }
    }

    fn tell(&self, cron: &CronJob, type_: EventType, reason: &str, message: &str) {
        self.recorder.event(&podcontrol::reference(cron), type_, reason, message);
    }
}
