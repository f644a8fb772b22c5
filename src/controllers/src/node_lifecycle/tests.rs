//! Nodes that fall silent, come back, and what becomes of their pods.

use coracle_client::test_support::{FakeApi, eventually};
use k8s_openapi::{
    api::{
        coordination::v1::LeaseSpec,
        core::v1::{NodeCondition, NodeSpec, NodeStatus, Taint},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::*;
use crate::{
    Controller as Registered,
    testing::{Bench, pod, run_on},
};

const ONLY: &[Registered] = &[Registered { name: NAME, run }];

fn node(name: &str, ready: &str) -> Node {
    Node {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        spec: Some(NodeSpec::default()),
        status: Some(NodeStatus {
            conditions: Some(vec![NodeCondition {
                type_: "Ready".to_owned(),
                status: ready.to_owned(),
                ..NodeCondition::default()
            }]),
            ..NodeStatus::default()
        }),
    }
}

fn renew(api: &FakeApi, name: &str) {
    let spec = Some(LeaseSpec { renew_time: Some(clock::micro_time()), ..LeaseSpec::default() });
    if api.get::<Lease>(LEASES, name).is_some() {
        api.edit(LEASES, name, |lease: &mut Lease| lease.spec = spec);
    } else {
        let metadata = ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(LEASES.to_owned()),
            ..ObjectMeta::default()
        };
        api.create(&Lease { metadata, spec });
    }
}

fn status_of(api: &FakeApi, type_: &str) -> Option<String> {
    let conditions = api.get::<Node>("", "n")?.status?.conditions?;
    conditions.into_iter().find(|condition| condition.type_ == type_).map(|condition| condition.status)
}

fn taints_of(api: &FakeApi) -> Vec<String> {
    let taints = api.get::<Node>("", "n").and_then(|node| node.spec?.taints).unwrap_or_default();
    taints.into_iter().map(|taint| format!("{}:{}", taint.key, taint.effect)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_is_lost_after_forty_seconds_and_can_come_back() {
    let bench = Bench::start(ONLY);
    let api = &bench.api;
    api.create(&node("n", "True"));
    let mut running = pod("p");
    run_on(&mut running, "n", "10.0.0.1", true);
    api.create(&running);
    for _ in 0..12 {
        renew(api, "n");
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    assert_eq!(status_of(api, "Ready").as_deref(), Some("True"), "it renews every ten seconds");
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert_eq!(status_of(api, "Ready").as_deref(), Some("True"), "35 seconds are not too long");
    tokio::time::sleep(Duration::from_secs(6)).await;
    for type_ in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
        assert_eq!(status_of(api, type_).as_deref(), Some("Unknown"), "{type_}");
    }
    assert_eq!(
        taints_of(api),
        ["node.kubernetes.io/unreachable:NoSchedule"],
        "no other node is ready: it may be us who are cut off"
    );
    api.create(&node("other", "True"));
    eventually("pods have to go", || {
        let both = ["node.kubernetes.io/unreachable:NoSchedule", "node.kubernetes.io/unreachable:NoExecute"];
        (taints_of(api) == both).then_some(())
    })
    .await;
    let pod: Pod = api.get("ns", "p").expect("it stays");
    assert!(!pods::is_ready(&pod));
    // The node comes back.
    renew(api, "n");
    api.edit("", "n", |back: &mut Node| back.status = node("n", "True").status);
    eventually("no taint", || taints_of(api).is_empty().then_some(())).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_says_it_is_not_ready_is_believed_at_once() {
    let bench = Bench::start(ONLY);
    bench.api.create(&node("n", "True"));
    let mut running = pod("p");
    run_on(&mut running, "n", "10.0.0.1", true);
    bench.api.create(&running);
    bench.informers.get::<Pod>().reached(bench.api.revision()).await;
    bench.api.edit("", "n", |sick: &mut Node| sick.status = node("n", "False").status);
    let marked = || bench.api.get::<Pod>("ns", "p").filter(|pod| !pods::is_ready(pod));
    eventually("the pod is not ready", marked).await;
    eventually("the taint", || {
        (taints_of(&bench.api) == ["node.kubernetes.io/not-ready:NoSchedule"]).then_some(())
    })
    .await;
}

/// What the plan says, in short.
#[track_caller]
fn check(change: impl FnOnce(&mut Node), silent: u64, expected: &str) {
    let mut node = node("n", "True");
    change(&mut node);
    let observed = Observed {
        node: &node,
        pods: &[],
        silent: Duration::from_secs(silent),
        grace: Duration::from_secs(40),
        all_lost: false,
    };
    let plan = plan(&observed, clock::now());
    let conditions = plan.conditions.iter().flatten().map(|condition| {
        format!("{}={} {}", condition.type_, condition.status, condition.reason.clone().unwrap_or_default())
    });
    let taints = plan.taints.iter().flatten().map(|taint| format!("taint {}:{}", taint.key, taint.effect));
    let none = plan.taints.as_ref().is_some_and(Vec::is_empty).then(|| "no taints".to_owned());
    let again = plan.again.map(|again| format!("again {}", again.as_secs()));
    let said: Vec<_> = conditions.chain(taints).chain(none).chain(again).collect();
    assert_eq!(said.join(", "), expected);
}

#[test]
fn plans() {
    let taint =
        |key: &str| Taint { key: key.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() };
    let tainted = |keys: &[&str]| -> Option<Vec<Taint>> { Some(keys.iter().map(|key| taint(key)).collect()) };
    check(|_| {}, 10, "again 30");
    check(
        |_| {},
        40,
        "Ready=Unknown NodeStatusUnknown, MemoryPressure=Unknown NodeStatusNeverUpdated, DiskPressure=Unknown \
         NodeStatusNeverUpdated, PIDPressure=Unknown NodeStatusNeverUpdated",
    );
    check(
        |node| node.status = None,
        0,
        "taint node.kubernetes.io/not-ready:NoSchedule, taint node.kubernetes.io/not-ready:NoExecute, again 40",
    );
    check(
        |node| node.spec.as_mut().unwrap().unschedulable = Some(true),
        0,
        "taint node.kubernetes.io/unschedulable:NoSchedule, again 40",
    );
    check(
        |node| node.spec.as_mut().unwrap().taints = tainted(&["mine", "node.kubernetes.io/not-ready"]),
        0,
        "taint mine:NoSchedule, again 40",
    );
    check(
        |node| node.spec.as_mut().unwrap().taints = tainted(&["node.kubernetes.io/not-ready"]),
        0,
        "no taints, again 40",
    );
    check(|node| node.spec.as_mut().unwrap().taints = tainted(&["mine"]), 0, "again 40");
}
