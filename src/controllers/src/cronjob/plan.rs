//! What a cron job has to do, given what is.

use std::{collections::HashSet, sync::Arc, time::Duration};

use coracle_api::cron::Schedule;
use coracle_client::{EventType, clock};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use k8s_openapi::{
    api::{
        batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job},
        core::v1::ObjectReference,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};

use crate::{claim, job, pods};

/// The time for which a job was made.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// Missing more schedules than this is told: something is wrong with a clock, or the controller was away.
const MANY: i64 = 100;

/// So much later than the schedule says, so that a clock that rounds does not wake too early.
const DELTA: Duration = Duration::from_millis(100);

/// What is.
pub(super) struct Observed<'a> {
    pub(super) cron: &'a CronJob,
    pub(super) spec: &'a CronJobSpec,
    /// The jobs that it controls.
    pub(super) jobs: &'a [Arc<Job>],
    /// Jobs that its status names and that are no more, by uid.
    pub(super) gone: &'a HashSet<String>,
    /// The zone of schedules that name none.
    pub(super) home: TimeZone,
}

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) status: CronJobStatus,
    pub(super) events: Vec<(EventType, &'static str, String)>,
    /// Finished jobs beyond the limits, the oldest first.
    pub(super) forget: Vec<Arc<Job>>,
    /// The job to be made.
    pub(super) create: Option<Box<Job>>,
    /// Active jobs that the new one replaces.
    pub(super) replace: Vec<ObjectReference>,
    pub(super) due: Option<Timestamp>,
    /// When the next one is due.
    pub(super) again: Option<Duration>,
}

impl Plan {
    fn tell(&mut self, type_: EventType, reason: &'static str, message: impl Into<String>) {
        self.events.push((type_, reason, message.into()));
    }
}

pub(super) fn plan(observed: &Observed<'_>, now: Timestamp) -> Plan {
    let mut plan = Plan { status: observed.cron.status.clone().unwrap_or_default(), ..Plan::default() };
    note_jobs(observed, &mut plan);
    plan.forget = beyond_history(observed);
    if observed.cron.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let spec = observed.spec;
    let zone = match spec.time_zone.as_deref() {
        None => observed.home.clone(),
        Some(name) => match TimeZone::get(name) {
            Ok(zone) => zone,
            Err(_) => {
                let message = format!("invalid timeZone: {name:?}: unknown time zone {name}");
                plan.tell(EventType::Warning, "UnknownTimeZone", message);
                return plan;
            }
        },
    };
    if spec.suspend == Some(true) {
        return plan;
    }
    match Schedule::parse(&spec.schedule) {
        Ok(schedule) => start(observed, &schedule, &zone, &mut plan, now),
        Err(why) => {
            let message = format!("unparseable schedule: {:?} : {why}", spec.schedule);
            plan.tell(EventType::Warning, "UnparseableSchedule", message);
        }
    }
    plan
}

/// Brings the list of active jobs up to date.
fn note_jobs(observed: &Observed<'_>, plan: &mut Plan) {
    let mut active = plan.status.active.take().unwrap_or_default();
    for job in observed.jobs {
        let (name, uid) = (pods::name(&job.metadata), job.metadata.uid.as_deref());
        let at = active.iter().position(|known| known.uid.as_deref() == uid);
        let over = job::finished(job);
        match (at, over) {
            (None, None) => {
                let message = format!("Saw a job that the controller did not create or forgot: {name}");
                plan.tell(EventType::Warning, "UnexpectedJob", message);
            }
            (Some(at), Some(condition)) => {
                active.remove(at);
                let message = format!("Saw completed job: {name}, status: {}", condition.type_);
                plan.tell(EventType::Normal, "SawCompletedJob", message);
            }
            (Some(_), None) | (None, Some(_)) => {}
        }
        if over.is_some_and(|condition| condition.type_ == "Complete") {
            let completed = job.status.as_ref().and_then(|status| status.completion_time.clone());
            let last = plan.status.last_successful_time.take();
            plan.status.last_successful_time = last.max(completed);
        }
    }
    active.retain(|known| {
        let gone = known.uid.as_ref().is_some_and(|uid| observed.gone.contains(uid));
        if gone {
            let message = format!("Active job went missing: {}", known.name.as_deref().unwrap_or_default());
            plan.events.push((EventType::Normal, "MissingJob", message));
        }
        !gone
    });
    plan.status.active = Some(active).filter(|active| !active.is_empty());
}

/// Finished jobs that are more than are to be kept.
fn beyond_history(observed: &Observed<'_>) -> Vec<Arc<Job>> {
    let spec = observed.spec;
    let mut doomed = Vec::new();
    for (type_, limit) in
        [("Complete", spec.successful_jobs_history_limit), ("Failed", spec.failed_jobs_history_limit)]
    {
        let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else { continue };
        let over = |job: &&Arc<Job>| {
            job.metadata.deletion_timestamp.is_none()
                && job::finished(job).is_some_and(|condition| condition.type_ == type_)
        };
        let mut all: Vec<Arc<Job>> = observed.jobs.iter().filter(over).cloned().collect();
        all.sort_by_key(|job| {
            let started = job.status.as_ref().and_then(|status| status.start_time.as_ref());
            (started.is_none(), started.map(|time| time.0), job.metadata.name.clone())
        });
        all.truncate(all.len().saturating_sub(limit));
        doomed.append(&mut all);
    }
    doomed
}

/// The schedule that was missed last, and whether it was one of many.
fn missed(
    observed: &Observed<'_>,
    schedule: &Schedule,
    zone: &TimeZone,
    now: Timestamp,
) -> Option<(Timestamp, bool)> {
    let deadline = observed.spec.starting_deadline_seconds;
    let mut earliest = earliest(observed)?;
    if let Some(deadline) = deadline {
        let horizon = now.checked_sub(SignedDuration::from_secs(deadline)).unwrap_or(Timestamp::MIN);
        earliest = earliest.max(horizon);
    }
    let first = schedule.next(earliest, zone).filter(|first| *first <= now)?;
    let latest = schedule.latest(earliest, now, zone)?;
    let between = schedule.next(first, zone).map(|second| second.duration_since(first).as_secs());
    let passed = now.duration_since(first).as_secs();
    let count = between.and_then(|between| passed.checked_div(between)).unwrap_or(0) + 1;
    Some((latest, count > MANY))
}

/// From when on schedules may be missed.
fn earliest(observed: &Observed<'_>) -> Option<Timestamp> {
    let status = observed.cron.status.as_ref();
    let last = status.and_then(|status| status.last_schedule_time.as_ref());
    last.or(observed.cron.metadata.creation_timestamp.as_ref()).map(|time| time.0)
}

/// Decides whether a job is to be made now.
fn start(observed: &Observed<'_>, schedule: &Schedule, zone: &TimeZone, plan: &mut Plan, now: Timestamp) {
    let from = match schedule {
        Schedule::Every(_) => {
            let earliest = earliest(observed).unwrap_or(now);
            schedule.latest(earliest, now, zone).unwrap_or(earliest)
        }
        Schedule::At(_) => now,
    };
    plan.again = schedule
        .next(from, zone)
        .and_then(|next| Duration::try_from(next.duration_since(now)).ok())
        .map(|left| left + DELTA);
    let Some((due, many)) = missed(observed, schedule, zone, now) else { return };
    if many {
        let message =
            "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        plan.tell(EventType::Warning, "TooManyMissedTimes", message);
    }
    let spec = observed.spec;
    let late = spec.starting_deadline_seconds.is_some_and(|deadline| {
        due.checked_add(SignedDuration::from_secs(deadline)).is_ok_and(|latest| latest < now)
    });
    if late {
        let at = due.to_zoned(TimeZone::UTC).strftime("%a, %d %b %Y %H:%M:%S %z");
        let message = format!("Missed scheduled time to start a job: {at}");
        return plan.tell(EventType::Warning, "MissSchedule", message);
    }
    let name = job_name(observed.cron, due);
    let active = plan.status.active.as_deref().unwrap_or_default();
    let last = plan.status.last_schedule_time.as_ref().map(|time| time.0);
    if last == Some(due) || active.iter().any(|known| known.name.as_deref() == Some(name.as_str())) {
        return;
    }
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if !active.is_empty() => {
            let message =
                "Not starting job because prior execution is running and concurrency policy is Forbid";
            return plan.tell(EventType::Normal, "JobAlreadyActive", message);
        }
        Some("Replace") => plan.replace = active.to_vec(),
        _ => {}
    }
    plan.due = Some(due);
    plan.create = Some(Box::new(job_for(observed, name, due, zone)));
}

/// The same time always makes the same name, which keeps a job from being made twice.
fn job_name(cron: &CronJob, due: Timestamp) -> String {
    format!("{}-{}", pods::name(&cron.metadata), due.as_second().div_euclid(60))
}

fn job_for(observed: &Observed<'_>, name: String, due: Timestamp, zone: &TimeZone) -> Job {
    let template = observed.spec.job_template.clone();
    let meta = template.metadata.unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(SCHEDULED.to_owned(), rfc3339(due, zone));
    Job {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: observed.cron.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: claim::owner_reference(observed.cron).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

/// A time in a zone as Go writes it.
fn rfc3339(time: Timestamp, zone: &TimeZone) -> String {
    let local = time.to_zoned(zone.clone());
    let format = if local.offset().is_zero() { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S%:z" };
    local.strftime(format).to_string()
}

/// The status once the job for `due` exists.
pub(super) fn started(mut status: CronJobStatus, job: ObjectReference, due: Timestamp) -> CronJobStatus {
    status.active.get_or_insert_default().push(job);
    status.last_schedule_time = Some(Time(clock::seconds(due)));
    status
}

/// The status without a job.
pub(super) fn without(mut status: CronJobStatus, uid: Option<&str>) -> CronJobStatus {
    let mut active = status.active.take().unwrap_or_default();
    active.retain(|known| known.uid.as_deref() != uid);
    status.active = Some(active).filter(|active| !active.is_empty());
    status
}
