//! Jobs go when their time has come.

use coracle_client::test_support::eventually;
use k8s_openapi::{
    api::batch::v1::{JobCondition, JobSpec, JobStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::*;
use crate::{
    Controller,
    testing::{Bench, meta},
};

fn finished(name: &str, ttl: Option<i32>, type_: &str) -> Job {
    let condition = JobCondition {
        type_: type_.to_owned(),
        status: "True".to_owned(),
        last_transition_time: Some(clock::time()),
        ..JobCondition::default()
    };
    Job {
        metadata: meta(name),
        spec: Some(JobSpec { ttl_seconds_after_finished: ttl, ..JobSpec::default() }),
        status: Some(JobStatus { conditions: Some(vec![condition]), ..JobStatus::default() }),
    }
}

#[test]
fn how_long_jobs_stay() {
    #[track_caller]
    fn check(ttl: Option<i32>, type_: &str, ago: i64, expected: Option<u64>) {
        let ended = jiff::Timestamp::from_second(1_800_000_000).expect("in range");
        let mut job = finished("work", ttl, type_);
        let conditions = job.status.as_mut().and_then(|status| status.conditions.as_mut());
        conditions.expect("set")[0].last_transition_time = Some(Time(ended));
        let now = ended + jiff::SignedDuration::from_secs(ago);
        assert_eq!(plan::left(&job, now).map(|left| left.as_secs()), expected);
        job.metadata.deletion_timestamp = Some(Time(now));
        assert_eq!(plan::left(&job, now), None);
    }
    check(Some(10), "Complete", 4, Some(6));
    check(Some(10), "Failed", 10, Some(0));
    check(Some(10), "Failed", 100, Some(0));
    check(Some(0), "Complete", 0, Some(0));
    check(Some(10), "Suspended", 100, None);
    check(None, "Complete", 100, None);
}

#[tokio::test(start_paused = true)]
async fn finished_jobs_go() {
    let bench = Bench::start(&[Controller { name: NAME, run }]);
    for (name, ttl, type_) in
        [("soon", Some(30), "Complete"), ("later", Some(90_000), "Failed"), ("never", None, "Complete")]
    {
        bench.api.create(&finished(name, ttl, type_));
    }
    let start = tokio::time::Instant::now();
    let gone = |name: &'static str| {
        let api = bench.api.clone();
        move || {
            let job: Option<Job> = api.get("ns", name);
            job.is_none_or(|job| job.metadata.deletion_timestamp.is_some()).then_some(())
        }
    };
    eventually("soon gone", gone("soon")).await;
    assert!((29..=32).contains(&start.elapsed().as_secs()));
    tokio::time::sleep(Duration::from_hours(26)).await;
    assert!(gone("later")().is_some() && gone("never")().is_none());
}
