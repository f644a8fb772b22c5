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
    testing::{Bench, labels, pod, run_on},
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

/// So many seconds pass in which only these nodes live.
async fn pass(api: &FakeApi, seconds: u64, alive: &[&str]) {
    for _ in 0..seconds {
        alive.iter().for_each(|name| renew(api, name));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// The nodes whose pods have to go.
fn evicted(api: &FakeApi) -> Vec<String> {
    let has_to_go = |node: &Node| {
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
        taints.into_iter().flatten().any(|taint| taint.effect == "NoExecute")
    };
    let nodes = api.list::<Node>();
    nodes.iter().filter(|node| has_to_go(node)).map(|node| pods::name(&node.metadata).to_owned()).collect()
}

/// Five nodes, of which the last three fall silent: the network may have broken, and their pods stay.
async fn most_are_lost() -> Bench {
    let bench = Bench::start(ONLY);
    let api = &bench.api;
    let names = ["a", "b", "c", "d", "e"];
    names.iter().for_each(|name| drop(api.create(&node(name, "True"))));
    pass(api, 60, &names).await;
    pass(api, 120, &["a", "b"]).await;
    for name in ["c", "d", "e"] {
        let lost = api.get::<Node>("", name).expect("it is there");
        assert!(!nodes::is_ready(&lost), "{name}");
    }
    assert_eq!(evicted(api), [""; 0]);
    bench
}

/// When one of them is back, the pods of the others have to go, one node after the other.
#[tokio::test(start_paused = true)]
async fn most_of_a_small_zone_is_not_given_up() {
    let bench = most_are_lost().await;
    let api = &bench.api;
    renew(api, "c");
    api.edit("", "c", |back: &mut Node| back.status = node("n", "True").status);
    pass(api, 3, &["a", "b", "c"]).await;
    assert_eq!(evicted(api).len(), 1);
    pass(api, 10, &["a", "b", "c"]).await;
    assert_eq!(evicted(api), ["d", "e"]);
}

/// The same when one of them is taken away: two are not most of four.
#[tokio::test(start_paused = true)]
async fn a_lost_node_that_is_deleted_counts_no_more() {
    let bench = most_are_lost().await;
    bench.api.remove::<Node>("", "c");
    pass(&bench.api, 13, &["a", "b"]).await;
    assert_eq!(evicted(&bench.api), ["d", "e"]);
}

/// The same when one of them is said to be elsewhere: there nobody is ready, and here two are lost.
#[tokio::test(start_paused = true)]
async fn a_lost_node_counts_where_it_is() {
    let bench = most_are_lost().await;
    bench.api.edit("", "c", |node: &mut Node| {
        node.metadata.labels = Some(labels(&[(nodes::ZONE, "elsewhere")]));
    });
    pass(&bench.api, 13, &["a", "b"]).await;
    assert_eq!(evicted(&bench.api), ["c", "d", "e"]);
}

#[test]
fn pods_that_may_stay_and_pods_that_may_not() {
    #[track_caller]
    fn check(taint: Option<&str>, eviction: Eviction, expected: &str) {
        let mut node = node("n", "Unknown");
        let taints = [Some((UNREACHABLE, "NoSchedule")), taint.map(|key| (key, "NoExecute"))];
        let taint = |(key, effect): (&str, &str)| Taint {
            key: key.to_owned(),
            effect: effect.to_owned(),
            ..Taint::default()
        };
        node.spec.as_mut().unwrap().taints = Some(taints.into_iter().flatten().map(taint).collect());
        let (silent, grace) = (Duration::ZERO, Duration::from_secs(40));
        let plan = plan(&Observed { node: &node, pods: &[], silent, grace, eviction }, clock::now());
        let taints = plan.taints.map(|taints| {
            taints.iter().map(|taint| format!("{}:{}", taint.key, taint.effect)).collect::<Vec<_>>().join(",")
        });
        let said = format!("{} {}", taints.as_deref().unwrap_or("same"), plan.held);
        assert_eq!(said.replace("node.kubernetes.io/", ""), expected);
    }
    const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
    check(None, Eviction::Now, "unreachable:NoSchedule,unreachable:NoExecute false");
    check(None, Eviction::Held, "same true");
    check(None, Eviction::Off, "same false");
    check(Some(UNREACHABLE), Eviction::Now, "same false");
    check(Some(UNREACHABLE), Eviction::Held, "same false");
    check(Some(UNREACHABLE), Eviction::Off, "unreachable:NoSchedule false");
    let changed = Some("node.kubernetes.io/not-ready");
    check(changed, Eviction::Held, "unreachable:NoSchedule,unreachable:NoExecute false");
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
        eviction: Eviction::Now,
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
