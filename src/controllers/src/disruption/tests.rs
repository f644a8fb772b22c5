//! Plans by tables, and the running controller on a fake API.

use coracle_client::{random, test_support::eventually};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        core::v1::{PodCondition, ReplicationController},
        policy::v1::PodDisruptionBudgetSpec,
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector as ApiSelector, OwnerReference, Time},
        util::intstr::IntOrString,
    },
};
use kube::ResourceExt;

use super::{plan::Plan, *};
use crate::{
    Controller as Registered, claim,
    testing::{Bench, chaos, labels, meta, pod, replication_controller, run_on},
};

const ONLY: &[Registered] = &[Registered { name: NAME, run }];

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).expect("in range")
}

/// A budget like `min=2`, `max=25%`, with pods whose eviction was granted some seconds ago: `granted=NAME:9`.
fn budget(text: &str) -> PodDisruptionBudget {
    let selector = ApiSelector { match_labels: Some(labels(&[("app", "web")])), ..ApiSelector::default() };
    let mut spec = PodDisruptionBudgetSpec { selector: Some(selector), ..PodDisruptionBudgetSpec::default() };
    let mut status = PodDisruptionBudgetStatus::default();
    for word in text.split_whitespace() {
        let (name, value) = word.split_once('=').expect("NAME=VALUE");
        let number =
            || Some(value.parse().map_or_else(|_| IntOrString::String(value.to_owned()), IntOrString::Int));
        match name {
            "min" => spec.min_available = number(),
            "max" => spec.max_unavailable = number(),
            "granted" => {
                let (pod, ago) = value.split_once(':').expect("NAME:SECONDS");
                let time = now() - SignedDuration::from_secs(ago.parse().expect("a number"));
                status.disrupted_pods.get_or_insert_default().insert(pod.to_owned(), Time(time));
            }
            other => panic!("unknown word {other}"),
        }
    }
    PodDisruptionBudget { metadata: meta("budget"), spec: Some(spec), status: Some(status) }
}

/// A pod by its name, then `ready`, `going`.
fn described(text: &str) -> Arc<Pod> {
    let mut words = text.split_whitespace();
    let mut pod = pod(words.next().expect("a name"));
    for word in words {
        match word {
            "ready" => run_on(&mut pod, "n", "10.0.0.1", true),
            "going" => pod.metadata.deletion_timestamp = Some(Time(now())),
            other => panic!("unknown word {other}"),
        }
    }
    Arc::new(pod)
}

fn planned(text: &str, pods: &[&str], expected: i64) -> Result<Plan, String> {
    let budget = budget(text);
    let pods: Vec<_> = pods.iter().map(|text| described(text)).collect();
    let expected = Expected { pods: expected, unmanaged: false };
    let spec = budget.spec.as_ref().expect("has one");
    plan::plan(&Observed { budget: &budget, spec, pods: &pods, expected }, now())
}

/// `healthy/desired of expected: allowed`, and why.
#[track_caller]
fn check(text: &str, pods: &[&str], expected: i64, said: &str) {
    let plan = planned(text, pods, expected).expect("can be planned");
    let status = plan.status;
    let condition = &status.conditions.as_ref().expect("one")[0];
    let told: Vec<_> = plan.events.iter().map(|(_, reason, _)| *reason).collect();
    let told = if told.is_empty() { String::new() } else { format!("; {}", told.join(",")) };
    let is = format!(
        "{}/{} of {}: {} {}{told}",
        status.current_healthy,
        status.desired_healthy,
        status.expected_pods,
        status.disruptions_allowed,
        condition.reason
    );
    assert_eq!(is, said, "{text}");
    assert_eq!(condition.status == "True", status.disruptions_allowed > 0);
}

#[test]
fn budgets() {
    let three = ["a ready", "b ready", "c ready"];
    check("min=2", &three, 0, "3/2 of 3: 1 SufficientPods");
    check("min=2", &["a ready", "b ready", "c"], 0, "2/2 of 3: 0 InsufficientPods");
    check("min=5", &three, 0, "3/5 of 3: 0 InsufficientPods");
    check("min=0", &[], 0, "0/0 of 0: 0 InsufficientPods; NoPods");
    check("min=50%", &three, 3, "3/2 of 3: 1 SufficientPods");
    check("min=50%", &three, 10, "3/5 of 10: 0 InsufficientPods");
    check("max=1", &three, 3, "3/2 of 3: 1 SufficientPods");
    check("max=1", &["a ready", "b ready going", "c ready"], 3, "2/2 of 3: 0 InsufficientPods");
    check("max=30%", &three, 3, "3/2 of 3: 1 SufficientPods");
    check("max=9", &three, 3, "3/0 of 3: 3 SufficientPods");
    check("min=1 granted=a:10", &three, 0, "2/1 of 3: 1 SufficientPods");
    check("min=1 granted=a:130", &three, 0, "3/1 of 3: 2 SufficientPods");
    assert!(planned("max=some", &three, 3).is_err());
}

#[test]
fn granted_evictions_are_forgotten() {
    let plan =
        planned("min=1 granted=a:10 granted=b:130 granted=c:50 granted=gone:5", &["a", "b", "c going"], 0)
            .expect("can be planned");
    let left: Vec<_> = plan.status.disrupted_pods.into_iter().flatten().map(|(name, _)| name).collect();
    assert_eq!(left, ["a"]);
    assert_eq!(plan.spared.iter().map(|pod| pod.name_any()).collect::<Vec<_>>(), ["b"]);
    assert_eq!(plan.again, Some(Duration::from_secs(110)));
}

fn status_of(bench: &Bench) -> PodDisruptionBudgetStatus {
    bench.api.get::<PodDisruptionBudget>("ns", "budget").and_then(|budget| budget.status).unwrap_or_default()
}

fn owned(name: &str, owner: Option<OwnerReference>, ready: bool) -> Pod {
    let mut pod = pod(name);
    run_on(&mut pod, "n", "10.0.0.1", ready);
    pod.metadata.owner_references = owner.map(|owner| vec![owner]);
    pod
}

#[tokio::test(start_paused = true)]
async fn budgets_follow_pods_and_owners() {
    let bench = Bench::start(ONLY);
    bench.api.create(&replication_controller("web", 4));
    let owner =
        bench.api.get::<ReplicationController>("ns", "web").and_then(|owner| claim::owner_reference(&owner));
    let mut fresh = budget("max=25%");
    fresh.status = None;
    bench.api.create(&fresh);
    for at in 0..4 {
        bench.api.create(&owned(&format!("p{at}"), owner.clone(), true));
    }
    eventually("one allowed", || (status_of(&bench).disruptions_allowed == 1).then_some(())).await;
    assert_eq!((status_of(&bench).desired_healthy, status_of(&bench).expected_pods), (3, 4));
    bench.api.edit("ns", "p0", |pod: &mut Pod| run_on(pod, "n", "10.0.0.1", false));
    eventually("none allowed", || (status_of(&bench).disruptions_allowed == 0).then_some(())).await;
    // A pod whose owner is of a kind that nobody knows.
    let stranger = OwnerReference { uid: "x".to_owned(), kind: "Thing".to_owned(), ..owner.expect("one") };
    bench.api.create(&owned("stray", Some(stranger), true));
    let failed = || {
        let condition = status_of(&bench).conditions?.pop()?;
        (condition.reason == "SyncFailed").then_some(condition.message)
    };
    assert_eq!(eventually("failure", failed).await, "found no controllers for pod \"stray\"");
    bench.api.remove::<Pod>("ns", "stray");
    eventually("computed again", || failed().is_none().then_some(())).await;
    bench.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn conditions_of_pods_that_stayed_are_taken_back() {
    let bench = Bench::start(ONLY);
    let mark = |name: &str, reason: &str| {
        let condition = PodCondition {
            type_: "DisruptionTarget".to_owned(),
            status: "True".to_owned(),
            reason: Some(reason.to_owned()),
            last_transition_time: Some(clock::time()),
            ..PodCondition::default()
        };
        let mut pod = pod(name);
        pod.status.get_or_insert_default().conditions = Some(vec![condition]);
        bench.api.create(&pod);
    };
    mark("stayed", "EvictionByEvictionAPI");
    mark("ending", "TerminationByKubelet");
    let is = |name: &str| {
        let pod: Pod = bench.api.get("ns", name).expect("exists");
        pods::condition(&pod, "DisruptionTarget").map(|condition| condition.status.clone())
    };
    tokio::time::sleep(Duration::from_secs(110)).await;
    assert_eq!(is("stayed").as_deref(), Some("True"));
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!((is("stayed").as_deref(), is("ending").as_deref()), (Some("False"), Some("True")));
}

/// Whatever fails, no budget is left that allows more than it may.
#[tokio::test(start_paused = true)]
async fn under_faults_budgets_come_to_rest() {
    for seed in 0..3 {
        random::seed(seed);
        let bench = Bench::start(ONLY);
        chaos(&bench.api, 4);
        let mut fresh = budget("min=2");
        fresh.status = None;
        bench.api.create(&fresh);
        for at in 0..5 {
            bench.api.create(&owned(&format!("p{at}"), None, true));
        }
        let mut ready = [true; 5];
        for _ in 0..40 {
            let at = usize::try_from(random::below(5)).expect("small");
            ready[at] = random::below(2) == 0;
            let now = ready[at];
            bench.api.edit("ns", &format!("p{at}"), |pod: &mut Pod| run_on(pod, "n", "10.0.0.1", now));
            tokio::time::sleep(Duration::from_millis(random::below(300))).await;
        }
        bench.api.clear_faults();
        bench.quiet().await;
        let healthy = i32::try_from(ready.iter().filter(|ready| **ready).count()).expect("small");
        let status = status_of(&bench);
        assert_eq!(
            (status.current_healthy, status.disruptions_allowed),
            (healthy, (healthy - 2).max(0)),
            "seed {seed}"
        );
    }
}
