//! Plans by tables, and the running controller on a fake API that misbehaves.

use std::collections::BTreeSet;

use coracle_client::{random, test_support::eventually};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetSpec},
        core::v1::{ContainerStatus, Event, ReplicationController},
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement, Time},
};
use kube::{Resource, ResourceExt};
use proptest::prelude::*;

use super::{kinds::Replicated, *};
use crate::{
    Controller as Registered,
    testing::{Bench, chaos, labels, namespace, pod, replication_controller, run_on},
};

const ONLY: &[Registered] = &[
    Registered { name: CONTROLLERS, run: run::<ReplicationController> },
    Registered { name: SETS, run: run::<ReplicaSet> },
];

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).expect("in range")
}

/// A controller `web` with uid `u`.
fn web(replicas: i32) -> ReplicationController {
    let mut controller = replication_controller("web", replicas);
    controller.metadata.uid = Some("u".to_owned());
    controller
}

/// A pod described by words: its name, then `mine`, `other` (another's), `off` (not selected), `ended`,
/// `going`.
fn described(text: &str) -> Arc<Pod> {
    let mut words = text.split_whitespace();
    let mut pod = pod(words.next().expect("a name"));
    pod.metadata.uid = Some(format!("uid-{}", pod.name_any()));
    for word in words {
        match word {
            "mine" => {
                pod.metadata.owner_references = web(0).controller_owner_ref(&()).map(|owner| vec![owner]);
            }
            "other" => {
                let mut owner = web(0).controller_owner_ref(&()).expect("has a uid");
                owner.uid = "other".to_owned();
                pod.metadata.owner_references = Some(vec![owner]);
            }
            "off" => pod.metadata.labels = Some(labels(&[("app", "else")])),
            "ended" => pod.status.get_or_insert_default().phase = Some("Succeeded".to_owned()),
            "going" => pod.metadata.deletion_timestamp = Some(Time(now())),
            other => panic!("unknown word {other}"),
        }
    }
    Arc::new(pod)
}

fn planned<S: Replicated>(set: &S, pods: &[Arc<Pod>], caught_up: bool) -> Plan {
    let related = || pods.to_vec();
    plan(&Observed { set, pods, related: &related, caught_up }, now())
}

#[track_caller]
fn check(replicas: i32, pods: &[&str], expected: &str) {
    let pods: Vec<_> = pods.iter().map(|text| described(text)).collect();
    let plan = planned(&web(replicas), &pods, true);
    let names = |pods: &[Arc<Pod>]| pods.iter().map(|pod| pod.name_any()).collect::<Vec<_>>().join(",");
    let mut said = Vec::new();
    for (verb, pods) in
        [("adopt", &plan.claims.adopt), ("release", &plan.claims.release), ("delete", &plan.delete)]
    {
        if !pods.is_empty() {
            said.push(format!("{verb} {}", names(pods)));
        }
    }
    if plan.create > 0 {
        said.push(format!("create {}", plan.create));
    }
    assert_eq!(said.join("; "), expected);
}

#[test]
fn plans() {
    check(2, &[], "create 2");
    check(2, &["a mine", "b mine"], "");
    check(2, &["a mine", "b mine going"], "create 1");
    check(2, &["a mine", "b mine ended"], "create 1");
    check(1, &["a mine", "b mine"], "delete a");
    check(0, &["a mine"], "delete a");
    check(2, &["a", "b off", "c other"], "adopt a; create 1");
    check(1, &["a", "b mine"], "adopt a; delete a");
    check(1, &["a mine off"], "release a; create 1");
    check(1, &["a going", "b ended"], "create 1");
    check(2000, &[], "create 500");
    check(-1, &["a mine"], "delete a");
}

#[test]
fn a_stale_cache_or_a_going_controller_changes_no_number() {
    let pods = [described("a mine"), described("b")];
    let stale = planned(&web(5), &pods, false);
    assert_eq!((stale.create, stale.claims.adopt.len()), (0, 1));
    let mut going = web(5);
    going.metadata.deletion_timestamp = Some(Time(now()));
    let going = planned(&going, &pods, true);
    assert_eq!((going.create, going.claims.adopt.len(), going.claims.owned.len()), (0, 0, 1));
}

/// Pods in the order in which they go. Words: `on:NODE`, `running`, `ready:SECONDS` (since), `cost:N`,
/// `restarts:N`, `age:SECONDS`.
#[track_caller]
fn check_order(pods: &[&str]) {
    let made = |text: &&str| {
        let mut words = text.split_whitespace();
        let mut pod = pod(words.next().expect("a name"));
        pod.metadata.uid = pod.metadata.name.clone();
        let ago = |seconds: &str| {
            Some(Time(now() - jiff::SignedDuration::from_secs(seconds.parse().expect("a number"))))
        };
        for word in words {
            let (name, value) = word.split_once(':').unwrap_or((word, ""));
            match name {
                "on" => pod.spec.get_or_insert_default().node_name = Some(value.to_owned()),
                "running" => pod.status.get_or_insert_default().phase = Some("Running".to_owned()),
                "ready" => {
                    let node = pods::node_name(&pod).unwrap_or("n").to_owned();
                    run_on(&mut pod, &node, "10.0.0.1", true);
                    let conditions = pod.status.as_mut().and_then(|status| status.conditions.as_mut());
                    conditions.expect("set above")[0].last_transition_time = ago(value);
                }
                "cost" => {
                    let cost = labels(&[("controller.kubernetes.io/pod-deletion-cost", value)]);
                    pod.metadata.annotations = Some(cost);
                }
                "restarts" => {
                    let status = ContainerStatus {
                        restart_count: value.parse().expect("a number"),
                        ..ContainerStatus::default()
                    };
                    pod.status.get_or_insert_default().container_statuses = Some(vec![status]);
                }
                "age" => pod.metadata.creation_timestamp = ago(value),
                other => panic!("unknown word {other}"),
            }
        }
        Arc::new(pod)
    };
    let sorted: Vec<_> = pods.iter().map(made).collect();
    let mut shuffled = sorted.clone();
    shuffled.reverse();
    let names = |pods: &[Arc<Pod>]| pods.iter().map(|pod| pod.name_any()).collect::<Vec<_>>();
    assert_eq!(names(&rank::first_to_go(&shuffled, &shuffled, pods.len(), now())), names(&sorted));
}

#[test]
fn who_goes_first() {
    check_order(&["z", "a on:n"]);
    check_order(&["z on:n", "a on:n running"]);
    check_order(&["z on:n running", "a on:n ready:60"]);
    check_order(&["z on:n ready:60 cost:-5", "a on:n ready:60", "b on:n ready:60 cost:1"]);
    check_order(&["y on:crowd running", "z on:crowd running", "a on:lone running"]);
    check_order(&["z on:n ready:10", "a on:n ready:10000"]);
    check_order(&["z on:n running restarts:3", "a on:n running restarts:1"]);
    check_order(&["z on:n running age:10", "a on:n running age:10000"]);
    // About the same age: the uid decides.
    check_order(&["a on:n ready:65", "z on:n ready:60"]);
}

#[test]
fn status_counts_and_tells_failures() {
    let mut controller = web(3);
    controller.metadata.generation = Some(7);
    controller.spec.as_mut().expect("has one").min_ready_seconds = Some(10);
    let ready_since = |seconds: i64| {
        let mut pod = pod("p");
        run_on(&mut pod, "n", "10.0.0.1", true);
        let conditions = pod.status.as_mut().and_then(|status| status.conditions.as_mut()).expect("set");
        conditions[0].last_transition_time = Some(Time(now() - jiff::SignedDuration::from_secs(seconds)));
        Arc::new(pod)
    };
    let mut unlabelled = pod("q");
    unlabelled.metadata.labels = None;
    let pods = [ready_since(60), ready_since(4), Arc::new(unlabelled)];
    let failure = ("FailedCreate", "no".to_owned());
    let mut plan = planned(&controller, &[], true);
    plan.claims.owned = pods.to_vec();
    plan.terminating = 2;
    let status = status::status(&controller, &plan, Some(&failure), now());
    assert_eq!(status.terminating_replicas, Some(2));
    assert_eq!(status.replicas, 3);
    assert_eq!(status.fully_labeled_replicas, Some(2));
    assert_eq!(status.ready_replicas, Some(2));
    assert_eq!(status.available_replicas, Some(1));
    assert_eq!(status.observed_generation, Some(7));
    assert!(controller.set_status(status.clone()));
    assert!(!controller.set_status(status.clone()), "the same");
    let conditions = status.conditions.expect("the failure");
    assert_eq!((conditions[0].type_.as_str(), conditions[0].status.as_str()), ("ReplicaFailure", "True"));
    assert_eq!(status::status(&controller, &plan, None, now()).conditions, None);
}

proptest! {
    /// Whatever the cache lacks, expectations are not met before it shows what was written.
    #[test]
    fn expectations_wait_for_the_cache(
        created in proptest::collection::vec(1_u64..100, 0..5),
        deleted in proptest::collection::btree_set(0_usize..5, 0..5),
        seen in 0_u64..100,
        gone in proptest::collection::btree_set(0_usize..5, 0..5),
    ) {
        let mut expectations = Expectations::default();
        created.iter().for_each(|revision| expectations.created(*revision));
        deleted.iter().for_each(|index| expectations.deleted(&format!("uid-p{index}")));
        let pods: Vec<_> = (0..5)
            .map(|index| described(&format!("p{index} mine{}", if gone.contains(&index) { " going" } else { "" })))
            .collect();
        let shows = created.iter().all(|revision| *revision <= seen) && deleted.is_subset(&gone);
        prop_assert_eq!(expectations.met(seen, &pods), shows);
    }
}

fn active(bench: &Bench) -> Vec<Pod> {
    bench.api.list::<Pod>().into_iter().filter(pods::is_active).collect()
}

#[tokio::test(start_paused = true)]
async fn pods_are_created_replaced_and_deleted() {
    let bench = Bench::start(ONLY);
    bench.api.create(&replication_controller("web", 3));
    eventually("three pods", || (active(&bench).len() == 3).then_some(())).await;
    let first = active(&bench)[0].name_any();
    assert!(first.starts_with("web-"), "{first}");
    bench.api.remove::<Pod>("ns", &first);
    eventually("a replacement", || (active(&bench).len() == 3).then_some(())).await;
    for pod in active(&bench) {
        bench.api.edit("ns", &pod.name_any(), |pod: &mut Pod| run_on(pod, "n", "10.0.0.1", true));
    }
    let ready = || {
        let controller: ReplicationController = bench.api.get("ns", "web")?;
        let status = controller.status?;
        (status.ready_replicas == Some(3) && status.available_replicas == Some(3)).then_some(())
    };
    eventually("status", ready).await;
    bench.api.edit("ns", "web", |controller: &mut ReplicationController| {
        controller.spec.as_mut().expect("has one").replicas = Some(1);
    });
    eventually("one pod", || (active(&bench).len() == 1).then_some(())).await;
    bench.quiet().await;
    bench.handle.shutdown().await;
    let reasons: BTreeSet<_> =
        bench.api.list::<Event>().into_iter().filter_map(|event| event.reason).collect();
    assert_eq!(reasons, ["SuccessfulCreate", "SuccessfulDelete"].map(str::to_owned).into());
}

#[tokio::test(start_paused = true)]
async fn pods_are_adopted_and_released() {
    let bench = Bench::start(ONLY);
    bench.api.create(&pod("stray"));
    bench.api.create(&replication_controller("web", 2));
    let owner = |name: &str| {
        let pod: Pod = bench.api.get("ns", name)?;
        pods::controller_of(&pod.metadata).map(|owner| owner.name.clone())
    };
    eventually("adoption", || owner("stray").filter(|owner| owner == "web")).await;
    eventually("two pods", || (active(&bench).len() == 2).then_some(())).await;
    bench.api.edit("ns", "stray", |pod: &mut Pod| pod.metadata.labels = Some(labels(&[("app", "debug")])));
    eventually("release", || owner("stray").is_none().then_some(())).await;
    eventually("a replacement", || (active(&bench).len() == 3).then_some(())).await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_and_does_not_flood() {
    let bench = Bench::start(ONLY);
    bench.api.set_faults(|call| {
        let refused = call.method == "POST" && call.uri.contains("/pods");
        refused.then_some(coracle_client::test_support::Fault::Refuse(403, "Forbidden"))
    });
    bench.api.create(&replication_controller("web", 100));
    let failed = || {
        let controller: ReplicationController = bench.api.get("ns", "web")?;
        controller.status?.conditions?.into_iter().find(|condition| condition.type_ == "ReplicaFailure")
    };
    let condition = eventually("the condition", failed).await;
    assert_eq!(condition.reason.as_deref(), Some("FailedCreate"));
    assert_eq!(condition.message.as_deref(), Some("a fault of the test"));
    let tried = bench.api.writes().iter().filter(|call| call.contains("/pods")).count();
    assert!(tried < 20, "one at a time, not a hundred: {tried}");
    bench.api.clear_faults();
    eventually("a hundred pods", || (active(&bench).len() == 100).then_some(())).await;
    eventually("no condition", || failed().is_none().then_some(())).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_created_in_a_namespace_that_is_going() {
    let bench = Bench::start(ONLY);
    bench.api.create(&namespace("ns"));
    bench.api.create(&replication_controller("web", 2));
    bench.api.edit("", "ns", |home: &mut k8s_openapi::api::core::v1::Namespace| {
        home.metadata.deletion_timestamp = Some(Time(now()));
    });
    bench.quiet().await;
    bench.handle.shutdown().await;
    assert_eq!(bench.api.list::<Event>().len(), 0, "it is no news");
}

#[tokio::test(start_paused = true)]
async fn a_thousand_pods_take_about_a_second() {
    let bench = Bench::start(ONLY);
    // A write takes as long as a commit on a slow disk.
    bench.api.set_faults(|call| {
        let write = call.method != "GET";
        write.then_some(coracle_client::test_support::Fault::Delay(Duration::from_millis(10)))
    });
    let start = tokio::time::Instant::now();
    bench.api.create(&replication_controller("web", 1000));
    eventually("a thousand pods", || (bench.api.list::<Pod>().len() == 1000).then_some(())).await;
    let took = start.elapsed();
    assert!(took < Duration::from_millis(1500), "{took:?}");
    let created = bench.api.writes().iter().filter(|call| call.contains("/ns/pods")).count();
    assert_eq!(created, 1000);
}

/// Under faults of every kind: never more pods than were asked for, and in the end exactly as many.
#[tokio::test(start_paused = true)]
async fn under_faults_there_is_never_one_too_many() {
    for seed in 0..6 {
        random::seed(seed);
        let bench = Bench::start(ONLY);
        chaos(&bench.api, 4);
        bench.api.create(&replication_controller("web", 5));
        let mut most = 5;
        for _ in 0..60 {
            match random::below(12) {
                0 => {
                    let wanted = 1 + i32::try_from(random::below(9)).expect("small");
                    most = most.max(usize::try_from(wanted).expect("positive"));
                    bench.api.edit("ns", "web", |controller: &mut ReplicationController| {
                        controller.spec.as_mut().expect("has one").replicas = Some(wanted);
                    });
                }
                1 => bench.api.cut_watches(),
                2 => bench.api.compact(),
                3 | 4 => {
                    if let Some(pod) = active(&bench).first() {
                        bench.api.remove::<Pod>("ns", &pod.name_any());
                    }
                }
                _ => {}
            }
            let step = Duration::from_millis(random::below(200));
            let until = tokio::time::Instant::now() + step;
            while tokio::time::Instant::now() < until {
                let have = active(&bench).len();
                assert!(have <= most, "seed {seed}: {have} pods, {most} were asked for at most");
                tokio::time::sleep(Duration::from_millis(4)).await;
            }
        }
        bench.api.clear_faults();
        bench.quiet().await;
        let controller: ReplicationController = bench.api.get("ns", "web").expect("exists");
        assert_eq!(active(&bench).len(), plan::wanted(&controller), "seed {seed}");
        assert_eq!(
            controller.status.map(|status| status.replicas),
            controller.spec.and_then(|spec| spec.replicas)
        );
    }
}

/// A replica set that asks for what the replication controller asks for.
fn replica_set(name: &str, replicas: i32) -> ReplicaSet {
    let controller = replication_controller(name, replicas).spec.expect("has one");
    ReplicaSet {
        metadata: crate::testing::meta(name),
        spec: Some(ReplicaSetSpec {
            replicas: controller.replicas,
            selector: LabelSelector { match_labels: controller.selector, ..LabelSelector::default() },
            template: controller.template,
            min_ready_seconds: None,
        }),
        status: None,
    }
}

#[test]
fn a_set_selects_by_expressions_and_not_by_nothing() {
    let mut set = replica_set("web", 1);
    set.metadata.uid = Some("u".to_owned());
    let pods = [described("a"), described("b off")];
    assert_eq!(planned(&set, &pods, true).claims.adopt.len(), 1);
    let requirement = LabelSelectorRequirement {
        key: "app".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec!["web".to_owned(), "else".to_owned()]),
    };
    let selector = LabelSelector { match_expressions: Some(vec![requirement]), match_labels: None };
    set.spec.as_mut().expect("has one").selector = selector;
    assert_eq!(planned(&set, &pods, true).claims.adopt.len(), 2);
    set.spec.as_mut().expect("has one").selector = LabelSelector::default();
    assert_eq!(planned(&set, &pods, true).claims.adopt.len(), 0);
}

#[test]
fn nodes_crowded_by_sets_of_the_same_owner_lose_first() {
    let on = |name: &str, node: &str| {
        let mut pod = pod(name);
        run_on(&mut pod, node, "10.0.0.1", true);
        Arc::new(pod)
    };
    let owned = [on("a", "lone"), on("b", "crowd")];
    let related = [owned[0].clone(), owned[1].clone(), on("other", "crowd")];
    let first = rank::first_to_go(&owned, &related, 1, now());
    assert_eq!(first[0].name_any(), "b");
}

#[tokio::test(start_paused = true)]
async fn a_set_and_a_controller_do_not_take_from_each_other() {
    let bench = Bench::start(ONLY);
    bench.api.create(&replica_set("web", 3));
    eventually("three pods", || (active(&bench).len() == 3).then_some(())).await;
    bench.api.create(&replication_controller("web", 2));
    bench.quiet().await;
    let of = |kind: &str| {
        let of = |pod: &Pod| pods::controller_of(&pod.metadata).is_some_and(|owner| owner.kind == kind);
        active(&bench).into_iter().filter(of).count()
    };
    assert_eq!((of("ReplicaSet"), of("ReplicationController")), (3, 2));
    let set: ReplicaSet = bench.api.get("ns", "web").expect("exists");
    assert_eq!(set.status.map(|status| (status.replicas, status.fully_labeled_replicas)), Some((3, Some(3))));
}
