//! Decisions by tables, and candidates on a fake API, on a paused clock.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use tokio::task::JoinHandle;

use super::*;
use crate::{
    in_process,
    test_support::{FakeApi, Fault, eventually},
};

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).expect("in range")
}

fn held(by: &str, transitions: i32) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(by.to_owned()),
        lease_duration_seconds: Some(15),
        lease_transitions: Some(transitions),
        // A clock that is wrong by a year says nothing.
        renew_time: Some(MicroTime(now() + SignedDuration::from_hours(8760))),
        acquire_time: Some(MicroTime(now() - SignedDuration::from_hours(1))),
        ..LeaseSpec::default()
    }
}

#[test]
fn decisions() {
    #[track_caller]
    fn check(spec: Option<&LeaseSpec>, unchanged: u64, expected: &str) {
        let seen = Seen { spec, unchanged: Duration::from_secs(unchanged) };
        let said = match decide("me", Duration::from_secs(15), seen, now()) {
            Step::Wait(left) => format!("wait {}", left.as_secs()),
            Step::Write(spec) => {
                assert_eq!(spec.renew_time.as_ref().map(|time| time.0), Some(now()));
                let since = spec.acquire_time.map(|time| now().duration_since(time.0).as_secs());
                format!(
                    "{} since {} after {}",
                    spec.holder_identity.unwrap_or_default(),
                    since.unwrap_or(-1),
                    spec.lease_transitions.unwrap_or(-1)
                )
            }
        };
        assert_eq!(said, expected);
    }
    check(None, 0, "me since 0 after 0");
    check(Some(&held("me", 3)), 0, "me since 3600 after 3");
    check(Some(&held("", 3)), 0, "me since 0 after 4");
    check(Some(&LeaseSpec::default()), 0, "me since 0 after 1");
    check(Some(&held("other", 3)), 0, "wait 15");
    check(Some(&held("other", 3)), 14, "wait 1");
    check(Some(&held("other", 3)), 15, "me since 0 after 4");
    check(Some(&LeaseSpec { lease_duration_seconds: Some(-5), ..held("other", 3) }), 0, "me since 0 after 4");
}

/// A candidate whose connection can be cut.
struct Candidate {
    cut: Arc<AtomicBool>,
    leads: Arc<AtomicBool>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Candidate {
    fn start(api: &FakeApi, identity: &str, leaders: &Arc<AtomicUsize>) -> Candidate {
        let (cut, leads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let stop = CancellationToken::new();
        let service = {
            let (api, cut) = (api.clone(), cut.clone());
            tower::service_fn(move |request: http::Request<kube::client::Body>| -> BoxFuture<'static, _> {
                let (mut api, cut) = (api.clone(), cut.clone());
                Box::pin(async move {
                    if cut.load(Ordering::SeqCst) {
                        std::future::pending::<Infallible>().await;
                    }
                    tower::Service::call(&mut api, request).await
                })
            })
        };
        let election = LeaderElection::new(in_process(service), Election::new("boss", identity));
        let work = {
            let (leads, leaders) = (leads.clone(), leaders.clone());
            move |token: CancellationToken| {
                let (leads, leaders) = (leads.clone(), leaders.clone());
                async move {
                    assert_eq!(leaders.fetch_add(1, Ordering::SeqCst), 0, "two leaders");
                    leads.store(true, Ordering::SeqCst);
                    token.cancelled().await;
                    leads.store(false, Ordering::SeqCst);
                    leaders.fetch_sub(1, Ordering::SeqCst);
                }
            }
        };
        let task = tokio::spawn(election.lead(stop.clone(), work));
        Candidate { cut, leads, stop, task }
    }

    fn leads(&self) -> Option<()> {
        self.leads.load(Ordering::SeqCst).then_some(())
    }
}

fn lease(api: &FakeApi) -> LeaseSpec {
    api.get::<Lease>("kube-system", "boss").and_then(|lease| lease.spec).unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn a_free_lease_and_ones_own_are_taken_at_once() {
    let api = FakeApi::new();
    let leaders = Arc::default();
    for _ in 0..2 {
        let start = Instant::now();
        let one = Candidate::start(&api, "one", &leaders);
        eventually("leads", || one.leads()).await;
        assert!(start.elapsed() < Duration::from_millis(50), "{:?}", start.elapsed());
        // Killed: it neither stops what it does nor gives the lease back.
        one.task.abort();
        assert_eq!(lease(&api).holder_identity.as_deref(), Some("one"));
        leaders.store(0, Ordering::SeqCst);
    }
    assert_eq!(lease(&api).lease_transitions, Some(0));
}

#[tokio::test(start_paused = true)]
async fn the_next_takes_over_when_the_leader_ends_or_dies() {
    let api = FakeApi::new();
    let leaders = Arc::default();
    let one = Candidate::start(&api, "one", &leaders);
    eventually("one leads", || one.leads()).await;
    let two = Candidate::start(&api, "two", &leaders);
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert!(one.leads().is_some() && two.leads().is_none());
    let start = Instant::now();
    one.stop.cancel();
    eventually("two leads", || two.leads()).await;
    assert!(start.elapsed() < Duration::from_secs(3), "given back: {:?}", start.elapsed());
    one.task.await.expect("ends");
    let three = Candidate::start(&api, "three", &leaders);
    tokio::time::sleep(Duration::from_mins(1)).await;
    two.task.abort();
    leaders.store(0, Ordering::SeqCst);
    let start = Instant::now();
    eventually("three leads", || three.leads()).await;
    let took = start.elapsed();
    assert!((Duration::from_secs(12)..Duration::from_secs(19)).contains(&took), "{took:?}");
    assert_eq!(
        (lease(&api).holder_identity.as_deref(), lease(&api).lease_transitions),
        (Some("three"), Some(2))
    );
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_stops_before_another_begins() {
    let mut changes = 0;
    for seed in 0..20 {
        random::seed(seed);
        let api = FakeApi::new();
        api.set_faults(|_| {
            Some(match random::below(12) {
                0 => Fault::Refuse(500, "InternalError"),
                1 => Fault::LoseReply,
                2 => Fault::Delay(Duration::from_millis(random::below(3000))),
                _ => return None,
            })
        });
        let leaders = Arc::default();
        let candidates = ["one", "two"].map(|name| Candidate::start(&api, name, &leaders));
        for _ in 0..30 {
            let at = usize::from(random::below(2) == 0);
            let cut = random::below(2) == 0;
            let before = candidates[0].leads().is_some();
            candidates[at].cut.store(cut, Ordering::SeqCst);
            // The work itself asserts that there are never two leaders.
            tokio::time::sleep(Duration::from_millis(random::below(40_000))).await;
            changes += usize::from(before != candidates[0].leads().is_some());
        }
        for candidate in candidates {
            assert!(!candidate.task.is_finished(), "seed {seed}");
            candidate.stop.cancel();
        }
    }
    assert!(changes > 40, "the lease changed hands {changes} times");
}

#[tokio::test(start_paused = true)]
async fn whose_lease_is_taken_away_stops() {
    let api = FakeApi::new();
    let one = Candidate::start(&api, "one", &Arc::default());
    eventually("leads", || one.leads()).await;
    api.edit("kube-system", "boss", |lease: &mut Lease| lease.spec = Some(held("thief", 7)));
    let start = Instant::now();
    eventually("stops", || one.leads().is_none().then_some(())).await;
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    eventually("leads again", || one.leads()).await;
    assert!(start.elapsed() >= Duration::from_secs(15), "{:?}", start.elapsed());
}
