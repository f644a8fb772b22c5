//! Schedules and plans by tables, and the running controller on a fake API.

use std::collections::BTreeSet;

use coracle_api::cron::Schedule;
use coracle_client::{
    random,
    test_support::{FakeApi, eventually},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        batch::v1::{CronJobSpec, JobCondition, JobSpec, JobStatus, JobTemplateSpec},
        core::v1::Event,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::ResourceExt;

use super::*;
use crate::{
    Controller as Registered, claim,
    testing::{Bench, chaos, meta},
};

const ONLY: &[Registered] = &[Registered { name: NAME, run }];

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

#[track_caller]
fn check_next(schedule: &str, zone: &str, after: &str, expected: &str) {
    let zone = TimeZone::get(zone).expect("a zone");
    let schedule = Schedule::parse(schedule).expect("a schedule");
    let next = schedule.next(at(after), &zone);
    let said = next.map_or("never".to_owned(), |next| next.to_string());
    assert_eq!(said, expected);
    if let Some(next) = next.filter(|_| !matches!(schedule, Schedule::Every(_))) {
        assert_eq!(schedule.latest(at(after), next, &zone), Some(next), "the same backwards");
        let before = next - SignedDuration::from_secs(1);
        assert_eq!(schedule.latest(at(after), before, &zone), None, "none in between");
    }
}

#[test]
fn schedules() {
    let check = |schedule, after, expected| check_next(schedule, "UTC", after, expected);
    check("* * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z");
    check("* * * * *", "2026-01-01T00:00:59.5Z", "2026-01-01T00:01:00Z");
    check("*/15 * * * *", "2026-01-01T00:15:00Z", "2026-01-01T00:30:00Z");
    check("5/20 8-18/5 * * *", "2026-01-01T09:00:00Z", "2026-01-01T13:05:00Z");
    check("0 0 1 jan,JUL ?", "2026-01-01T00:00:00Z", "2026-07-01T00:00:00Z");
    check("0 12 * * mon-fri", "2026-01-02T12:00:00Z", "2026-01-05T12:00:00Z");
    check("0 0 13 * 5", "2026-01-10T00:00:00Z", "2026-01-13T00:00:00Z");
    check("0 0 13 * 5", "2026-01-13T00:00:00Z", "2026-01-16T00:00:00Z");
    check("0 0 */2 * 5", "2026-01-01T01:00:00Z", "2026-01-02T00:00:00Z");
    check("0 0 13 * *", "2026-01-13T00:00:00Z", "2026-02-13T00:00:00Z");
    check("0 0 29 2 *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z");
    check("0 0 31 2 *", "2026-01-01T00:00:00Z", "never");
    check(", * * * *", "2026-01-01T00:00:00Z", "never");
    check("@hourly", "2026-01-01T00:30:00Z", "2026-01-01T01:00:00Z");
    check("@weekly", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z");
    check("@yearly", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z");
    check("@every 1h30m", "2026-01-01T00:00:07Z", "2026-01-01T01:30:07Z");
    for wrong in [
        "",
        "* * * *",
        "60 * * * *",
        "* * 0 * *",
        "* * * * 7",
        "5-1 * * * *",
        "*/0 * * * *",
        "@soon",
        "@every x",
        "TZ=UTC * * * * *",
    ] {
        assert!(Schedule::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn clocks_go_forward_and_back() {
    let check = |schedule, after, expected| check_next(schedule, "Europe/Berlin", after, expected);
    check("0 9 * * *", "2026-01-01T00:00:00Z", "2026-01-01T08:00:00Z");
    check("0 9 * * *", "2026-07-01T00:00:00Z", "2026-07-01T07:00:00Z");
    // 02:30 does not exist on 29 March, and exists twice on 25 October.
    check("30 2 * * *", "2026-03-28T12:00:00Z", "2026-03-30T00:30:00Z");
    check("30 2 * * *", "2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z");
    check("30 2 * * *", "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z");
    check_next("0 0 * * *", "Asia/Kathmandu", "2026-01-01T00:00:00Z", "2026-01-01T18:15:00Z");
}

fn now() -> Timestamp {
    at("2026-01-01T12:00:30Z")
}

/// A cron job by words like `schedule=*/5_*_*_*_* last=MINUTES active=NAME,…`; made a day ago.
fn cron(text: &str) -> CronJob {
    let mut cron = CronJob {
        metadata: meta("report"),
        spec: Some(CronJobSpec { schedule: "*/5 * * * *".to_owned(), ..CronJobSpec::default() }),
        status: None,
    };
    cron.metadata.uid = Some("u".to_owned());
    cron.metadata.creation_timestamp = Some(Time(now() - SignedDuration::from_hours(24)));
    let spec = cron.spec.as_mut().expect("has one");
    let mut status = CronJobStatus::default();
    for word in text.split_whitespace() {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let minutes_ago = || {
            let minutes = value.parse().expect("a number");
            Some(Time(at("2026-01-01T12:00:00Z") - SignedDuration::from_mins(minutes)))
        };
        match name {
            "schedule" => spec.schedule = value.replace('_', " "),
            "zone" => spec.time_zone = Some(value.to_owned()),
            "last" => status.last_schedule_time = minutes_ago(),
            "deadline" => spec.starting_deadline_seconds = value.parse().ok(),
            "suspend" => spec.suspend = Some(true),
            "going" => cron.metadata.deletion_timestamp = Some(Time(now())),
            "keep" => {
                spec.successful_jobs_history_limit = value.parse().ok();
                spec.failed_jobs_history_limit = value.parse().ok();
            }
            "active" => {
                let reference = |name: &str| k8s_openapi::api::core::v1::ObjectReference {
                    name: Some(name.to_owned()),
                    uid: Some(format!("uid-{name}")),
                    ..Default::default()
                };
                status.active = Some(value.split(',').map(reference).collect());
            }
            policy => spec.concurrency_policy = Some(policy.to_owned()),
        }
    }
    cron.status = Some(status);
    cron
}

/// A job by its name, then `Complete` or `Failed`, and the minutes ago when it started.
fn described(text: &str) -> Arc<Job> {
    let mut words = text.split_whitespace();
    let mut job = Job { metadata: meta(words.next().expect("a name")), ..Job::default() };
    job.metadata.uid = Some(format!("uid-{}", job.name_any()));
    let mut status = JobStatus::default();
    for word in words {
        match word.parse::<i64>() {
            Ok(minutes) => {
                let time = Time(now() - SignedDuration::from_mins(minutes));
                (status.start_time, status.completion_time) = (Some(time.clone()), Some(time));
            }
            Err(_) => {
                let condition = JobCondition {
                    type_: word.to_owned(),
                    status: "True".to_owned(),
                    ..JobCondition::default()
                };
                status.conditions = Some(vec![condition]);
            }
        }
    }
    job.status = Some(status);
    Arc::new(job)
}

#[track_caller]
fn check(text: &str, jobs: &[&str], gone: &[&str], expected: &str) {
    let cron = cron(text);
    let jobs: Vec<_> = jobs.iter().map(|text| described(text)).collect();
    let gone = gone.iter().map(|name| format!("uid-{name}")).collect();
    let spec = cron.spec.as_ref().expect("has one");
    let observed = Observed { cron: &cron, spec, jobs: &jobs, gone: &gone, home: TimeZone::UTC };
    let plan = plan::plan(&observed, now());
    let mut said: Vec<String> = plan.events.iter().map(|(_, reason, _)| (*reason).to_owned()).collect();
    said.extend(plan.forget.iter().map(|job| format!("forget {}", job.name_any())));
    said.extend(plan.replace.iter().map(|old| format!("replace {}", old.name.clone().unwrap_or_default())));
    said.extend(plan.due.map(|due| format!("start {due}")));
    let active: Vec<_> = plan.status.active.iter().flatten().filter_map(|job| job.name.clone()).collect();
    said.extend(Some(format!("active {}", active.join(","))).filter(|_| !active.is_empty()));
    said.extend(plan.again.map(|again| format!("again in {}", again.as_secs())));
    assert_eq!(said.join("; "), expected, "{text}");
}

#[test]
fn plans() {
    let five = "again in 270";
    check("last=5", &[], &[], &format!("start 2026-01-01T12:00:00Z; {five}"));
    check("last=0", &[], &[], five);
    check("last=20", &[], &[], &format!("start 2026-01-01T12:00:00Z; {five}"));
    check("last=600", &[], &[], &format!("TooManyMissedTimes; start 2026-01-01T12:00:00Z; {five}"));
    check("", &[], &[], &format!("TooManyMissedTimes; start 2026-01-01T12:00:00Z; {five}"));
    check("last=600 deadline=400", &[], &[], &format!("start 2026-01-01T12:00:00Z; {five}"));
    check("last=5 deadline=10", &[], &[], five);
    check("last=5 suspend", &[], &[], "");
    check("last=5 going", &[], &[], "");
    check("last=5 zone=Mars/Olympus", &[], &[], "UnknownTimeZone");
    check("last=5 schedule=x", &[], &[], "UnparseableSchedule");
    check(
        "schedule=0_13_*_*_* zone=Europe/Berlin last=1440",
        &[],
        &[],
        "start 2026-01-01T12:00:00Z; again in 86370",
    );
    check("schedule=@every_7m last=8", &[], &[], "start 2026-01-01T11:59:00Z; again in 330");
    check("schedule=0_0_31_2_*", &[], &[], "");
}

#[test]
fn jobs_are_noted_and_forgotten() {
    let idle = "last=0 keep=1";
    check(
        &format!("{idle} active=a,b"),
        &["a Complete 5", "b"],
        &[],
        "SawCompletedJob; active b; again in 270",
    );
    check(&format!("{idle} active=a"), &[], &["a"], "MissingJob; again in 270");
    check(&format!("{idle} active=a"), &[], &[], "active a; again in 270");
    check(idle, &["a"], &[], "UnexpectedJob; again in 270");
    check(
        idle,
        &["a Complete 1", "b Complete 9", "c Complete 5", "d Failed 9", "e Failed"],
        &[],
        "forget b; forget c; forget d; again in 270",
    );
    check("last=0", &["a Complete 1", "b Complete 9"], &[], "again in 270");
}

#[test]
fn only_so_many_at_once() {
    let start = "start 2026-01-01T12:00:00Z";
    check("last=5 active=a Allow", &["a"], &[], &format!("{start}; active a; again in 270"));
    check("last=5 active=a Forbid", &["a"], &[], "JobAlreadyActive; active a; again in 270");
    check("last=5 active=a Forbid", &["a Failed"], &[], &format!("SawCompletedJob; {start}; again in 270"));
    check("last=5 active=a Replace", &["a"], &[], &format!("replace a; {start}; active a; again in 270"));
    let name = "report-29454480";
    check(&format!("last=5 active={name}"), &[name], &[], &format!("active {name}; again in 270"));
}

fn fresh(words: &str) -> CronJob {
    let mut cron = cron(words);
    cron.metadata.uid = None;
    cron.metadata.creation_timestamp = None;
    cron.status = None;
    let template = JobTemplateSpec { spec: Some(JobSpec::default()), ..JobTemplateSpec::default() };
    cron.spec.as_mut().expect("has one").job_template = template;
    cron
}

fn finish(api: &FakeApi, name: &str) {
    api.edit("ns", name, |job: &mut Job| {
        let condition = JobCondition {
            type_: "Complete".to_owned(),
            status: "True".to_owned(),
            last_transition_time: Some(clock::time()),
            ..JobCondition::default()
        };
        let status = job.status.get_or_insert_default();
        status.conditions = Some(vec![condition]);
        status.start_time = Some(clock::time());
        status.completion_time = Some(clock::time());
    });
}

#[tokio::test(start_paused = true)]
async fn a_job_every_minute() {
    let bench = Bench::start(ONLY);
    bench.api.create(&fresh("schedule=*_*_*_*_* keep=2"));
    let mut names = BTreeSet::new();
    for _ in 0..4 {
        let new = || bench.api.list::<Job>().into_iter().find(|job| !names.contains(&job.name_any()));
        // The controller and the API take a moment after the minute.
        tokio::time::sleep(Duration::from_secs(61)).await;
        let job = eventually("a job", new).await;
        let due = job.annotations()["batch.kubernetes.io/cronjob-scheduled-timestamp"].clone();
        let minute = at(&due).as_second() / 60;
        assert_eq!(job.name_any(), format!("report-{minute}"));
        let cron: CronJob = bench.api.get("ns", "report").expect("exists");
        assert_eq!(job.owner_references(), [claim::owner_reference(&cron).expect("has a uid")]);
        names.insert(job.name_any());
        finish(&bench.api, &job.name_any());
    }
    eventually("two are kept", || {
        let status = bench.api.get::<CronJob>("ns", "report")?.status?;
        let done = status.active.is_none() && status.last_successful_time.is_some();
        (done && bench.api.list::<Job>().len() <= 3).then_some(())
    })
    .await;
    bench.handle.shutdown().await;
    let reasons: BTreeSet<_> =
        bench.api.list::<Event>().into_iter().filter_map(|event| event.reason).collect();
    for reason in ["SuccessfulCreate", "SawCompletedJob", "SuccessfulDelete"] {
        assert!(reasons.contains(reason), "{reasons:?}");
    }
    assert!(!reasons.contains("UnexpectedJob"), "{reasons:?}");
}

/// Under faults of every kind and with a process that is restarted, each time makes one job.
#[tokio::test(start_paused = true)]
async fn under_faults_every_time_makes_one_job() {
    for seed in 0..4 {
        random::seed(seed);
        let api = FakeApi::new();
        api.create(&fresh("schedule=*_*_*_*_* Forbid"));
        let mut bench = Bench::start_on(api.clone(), ONLY);
        chaos(&api, 4);
        let mut seen = BTreeSet::new();
        for _ in 0..120 {
            match random::below(8) {
                0 => api.cut_watches(),
                1 => {
                    bench.handle.shutdown().await;
                    bench = Bench::start_on(api.clone(), ONLY);
                }
                _ => {}
            }
            tokio::time::sleep(Duration::from_millis(random::below(20_000))).await;
            let open: Vec<_> =
                api.list::<Job>().into_iter().filter(|job| crate::job::finished(job).is_none()).collect();
            assert!(open.len() <= 1, "seed {seed}: {} jobs at once", open.len());
            for job in open {
                let minute: i64 =
                    job.name_any().rsplit('-').next().and_then(|text| text.parse().ok()).expect("a number");
                seen.insert(minute);
                if random::below(2) == 0 {
                    finish(&api, &job.name_any());
                }
            }
        }
        assert!(seen.len() > 5, "seed {seed}: {seen:?}");
        bench.handle.shutdown().await;
    }
}
