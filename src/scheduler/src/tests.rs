//! The running scheduler on a fake API.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use coracle_client::{
    Informers, random,
    test_support::{FakeApi, Fault, eventually},
};
use k8s_openapi::{
    api::{
        core::v1::{
            Container, Event, Node, NodeCondition, NodeSpec, NodeStatus, PersistentVolumeClaim,
            PersistentVolumeClaimSpec, PersistentVolumeClaimVolumeSource, Pod, PodCondition, PodSpec,
            ResourceRequirements, Volume,
        },
        storage::v1::StorageClass,
    },
    apimachinery::pkg::api::resource::Quantity,
};
use kube::ResourceExt;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Config, Handle, start};

struct Bench {
    api: FakeApi,
    handle: Handle,
    _informers: DropGuard,
}

fn bench(api: FakeApi) -> Bench {
    let end = CancellationToken::new();
    let informers = Informers::new(api.client(), end.clone());
    let handle = start(api.client(), &informers, Config { seed: Some(1), ..Config::default() });
    Bench { api, handle, _informers: end.drop_guard() }
}

fn node(name: &str, cpu: &str) -> Node {
    let mut node = Node::default();
    node.metadata.name = Some(name.to_owned());
    node.spec = Some(NodeSpec::default());
    let amounts = [("cpu", cpu), ("memory", "8Gi"), ("pods", "10000")];
    let amounts = amounts.map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned())));
    let ready =
        NodeCondition { type_: "Ready".to_owned(), status: "True".to_owned(), ..NodeCondition::default() };
    node.status = Some(NodeStatus {
        allocatable: Some(BTreeMap::from(amounts)),
        conditions: Some(vec![ready]),
        ..NodeStatus::default()
    });
    node
}

fn pod(name: &str, cpu: &str) -> Pod {
    let requests = BTreeMap::from([("cpu".to_owned(), Quantity(cpu.to_owned()))]);
    let resources = ResourceRequirements { requests: Some(requests), ..ResourceRequirements::default() };
    let container = Container { name: "main".to_owned(), resources: Some(resources), ..Container::default() };
    let mut pod = Pod::default();
    pod.metadata.name = Some(name.to_owned());
    pod.metadata.namespace = Some("ns".to_owned());
    pod.spec = Some(PodSpec { containers: vec![container], ..PodSpec::default() });
    pod
}

fn place_of(api: &FakeApi, name: &str) -> Option<String> {
    api.get::<Pod>("ns", name)?.spec?.node_name
}

fn condition(api: &FakeApi, name: &str) -> Option<PodCondition> {
    let conditions = api.get::<Pod>("ns", name)?.status?.conditions?;
    conditions.into_iter().find(|condition| condition.type_ == "PodScheduled")
}

fn bindings(api: &FakeApi) -> usize {
    api.writes().iter().filter(|write| write.contains("/binding")).count()
}

#[tokio::test(start_paused = true)]
async fn pods_are_bound_and_it_is_told() {
    let bench = bench(FakeApi::new());
    bench.api.create(&node("n", "4"));
    bench.api.create(&pod("p", "1"));
    eventually("a node", || place_of(&bench.api, "p").filter(|node| node == "n")).await;
    bench.handle.shutdown().await;
    let events = bench.api.list::<Event>();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].reason.as_deref(), Some("Scheduled"));
    assert_eq!(events[0].message.as_deref(), Some("Successfully assigned ns/p to n"));
    let source = events[0].source.as_ref().and_then(|source| source.component.as_deref());
    assert_eq!(source, Some("default-scheduler"));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_fits_nowhere_says_why_and_goes_when_there_is_room() {
    let bench = bench(FakeApi::new());
    bench.api.create(&node("n", "1"));
    bench.api.create(&pod("first", "800m"));
    eventually("a node", || place_of(&bench.api, "first")).await;
    bench.api.create(&pod("second", "800m"));
    let told = eventually("the condition", || condition(&bench.api, "second")).await;
    let text = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption \
                victims found for incoming pod.";
    assert_eq!((told.status.as_str(), told.reason.as_deref()), ("False", Some("Unschedulable")));
    assert_eq!(told.message.as_deref(), Some(text));
    let event = || {
        let events = bench.api.list::<Event>();
        events.into_iter().find(|event| event.reason.as_deref() == Some("FailedScheduling"))
    };
    let event = eventually("the event", event).await;
    assert_eq!((event.message.as_deref(), event.type_.as_deref()), (Some(text), Some("Warning")));
    // The status it wrote does not wake it.
    let tried = bench.api.writes().len();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bench.api.writes().len(), tried);
    bench.api.remove::<Pod>("ns", "first");
    eventually("room", || place_of(&bench.api, "second")).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_node_wakes_pods_after_their_backoff() {
    let bench = bench(FakeApi::new());
    bench.api.create(&pod("p", "1"));
    eventually("the condition", || condition(&bench.api, "p")).await;
    let start = tokio::time::Instant::now();
    bench.api.create(&node("n", "4"));
    eventually("a node", || place_of(&bench.api, "p")).await;
    assert!(start.elapsed() <= Duration::from_millis(1100), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_late_report_does_not_deny_a_binding() {
    let api = FakeApi::new();
    let late = |uri: &str| uri.contains("/status").then_some(Fault::Delay(Duration::from_secs(5)));
    api.set_faults(move |call| late(&call.uri));
    let bench = bench(api);
    bench.api.create(&pod("p", "1"));
    let reported = || bench.api.writes().iter().any(|write| write.contains("/status")).then_some(());
    eventually("a report under way", reported).await;
    bench.api.create(&node("n", "4"));
    eventually("a node", || place_of(&bench.api, "p")).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(condition(&bench.api, "p").is_none_or(|condition| condition.status != "False"));
}

#[tokio::test(start_paused = true)]
async fn other_schedulers_and_gated_pods_are_left_alone() {
    let bench = bench(FakeApi::new());
    bench.api.create(&node("n", "4"));
    let mut foreign = pod("foreign", "1");
    foreign.spec.as_mut().unwrap().scheduler_name = Some("mine".to_owned());
    bench.api.create(&foreign);
    let mut gated = pod("gated", "1");
    gated.spec.as_mut().unwrap().scheduling_gates =
        Some(vec![k8s_openapi::api::core::v1::PodSchedulingGate { name: "wait".to_owned() }]);
    bench.api.create(&gated);
    bench.api.create(&pod("p", "1"));
    eventually("a node", || place_of(&bench.api, "p")).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((place_of(&bench.api, "foreign"), place_of(&bench.api, "gated")), (None, None));
    bench.api.edit("ns", "gated", |pod: &mut Pod| pod.spec.as_mut().unwrap().scheduling_gates = None);
    eventually("a node", || place_of(&bench.api, "gated")).await;
}

#[tokio::test(start_paused = true)]
async fn a_thousand_pods_are_bound_in_half_a_second() {
    let api = FakeApi::new();
    for index in 0..10 {
        api.create(&node(&format!("n{index}"), "1000"));
    }
    for index in 0..1000 {
        api.create(&pod(&format!("p{index}"), "1m"));
    }
    // A write takes as long as a commit on a slow disk.
    api.set_faults(|call| (call.method != "GET").then_some(Fault::Delay(Duration::from_millis(10))));
    let start = tokio::time::Instant::now();
    let bench = bench(api);
    eventually("a thousand bindings", || (bindings(&bench.api) == 1000).then_some(())).await;
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
}

/// Under faults of every kind: no pod is ever moved, no node overcommitted, and in the end all that fits
/// has a node.
#[tokio::test(start_paused = true)]
async fn under_faults_every_pod_finds_its_place() {
    for seed in 0..8 {
        random::seed(seed);
        let api = FakeApi::new();
        let faults = Arc::new(AtomicUsize::new(0));
        let count = faults.clone();
        api.set_faults(move |call| {
            let fault = match random::below(12) {
                0 => Fault::Refuse(500, "InternalError"),
                1 if call.method != "GET" => Fault::Refuse(409, "Conflict"),
                1 => Fault::Refuse(410, "Expired"),
                2 => Fault::LoseReply,
                3 => Fault::Delay(Duration::from_millis(random::below(300))),
                4 if call.watch => Fault::CutAfter(usize::try_from(random::below(4)).unwrap_or(0)),
                _ => return None,
            };
            count.fetch_add(1, Ordering::Relaxed);
            Some(fault)
        });
        let bench = bench(api);
        let mut places: BTreeMap<String, String> = BTreeMap::new();
        for index in 0..3 {
            bench.api.create(&node(&format!("n{index}"), "2"));
        }
        for step in 0..60 {
            match random::below(8) {
                0 => bench.api.cut_watches(),
                1 => bench.api.compact(),
                2 if step > 5 => {
                    if let Some(pod) = bench.api.list::<Pod>().first() {
                        places.remove(&pod.name_any());
                        bench.api.remove::<Pod>("ns", &pod.name_any());
                    }
                }
                _ => {
                    bench.api.create(&pod(&format!("p{step:02}"), "300m"));
                }
            }
            tokio::time::sleep(Duration::from_millis(random::below(400))).await;
            let mut used: BTreeMap<String, u32> = BTreeMap::new();
            for pod in bench.api.list::<Pod>() {
                let Some(place) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) else { continue };
                *used.entry(place.clone()).or_default() += 300;
                let before = places.insert(pod.name_any(), place.clone());
                assert!(before.is_none_or(|before| before == place), "seed {seed}: a pod was moved");
            }
            assert!(used.values().all(|cpu| *cpu <= 2000), "seed {seed}: {used:?}");
        }
        bench.api.clear_faults();
        let settled = || {
            let pods = bench.api.list::<Pod>();
            let placed =
                pods.iter().filter(|pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()));
            // Six of them fit on a node.
            (placed.count() == pods.len().min(18)).then_some(())
        };
        eventually("a place for all that fit", settled).await;
        assert!(faults.load(Ordering::Relaxed) > 0, "seed {seed}: nothing went wrong");
    }
}

#[tokio::test(start_paused = true)]
async fn the_less_important_make_room() {
    let bench = bench(FakeApi::new());
    bench.api.create(&node("n", "1"));
    bench.api.create(&pod("low", "800m"));
    eventually("a node", || place_of(&bench.api, "low")).await;
    let mut high = pod("high", "800m");
    high.spec.as_mut().unwrap().priority = Some(10);
    bench.api.create(&high);
    let promised = || bench.api.get::<Pod>("ns", "high")?.status?.nominated_node_name;
    assert_eq!(eventually("a promise", promised).await, "n");
    let told = condition(&bench.api, "high").expect("the condition");
    assert_eq!(told.message.as_deref(), Some("0/1 nodes are available: 1 Insufficient cpu."));
    let event = || {
        let events = bench.api.list::<Event>();
        events.into_iter().find(|event| event.reason.as_deref() == Some("Preempted"))
    };
    let event = eventually("the event", event).await;
    assert_eq!(event.involved_object.name.as_deref(), Some("low"));
    let uid = bench.api.get::<Pod>("ns", "high").expect("there").metadata.uid.expect("set by the API");
    assert_eq!(event.message, Some(format!("Preempted by pod {uid} on node n")));
    if let Some(low) = bench.api.get::<Pod>("ns", "low") {
        let conditions = low.status.and_then(|status| status.conditions).unwrap_or_default();
        let target = conditions.iter().find(|condition| condition.type_ == "DisruptionTarget");
        assert_eq!(target.and_then(|it| it.reason.as_deref()), Some("PreemptionByScheduler"));
        assert!(low.metadata.deletion_timestamp.is_some());
        bench.api.remove::<Pod>("ns", "low");
    }
    eventually("its place", || place_of(&bench.api, "high").filter(|node| node == "n")).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_bound_after_its_claims() {
    let bench = bench(FakeApi::new());
    let mut class = StorageClass {
        provisioner: "coracle.dev/local".to_owned(),
        volume_binding_mode: Some("WaitForFirstConsumer".to_owned()),
        ..StorageClass::default()
    };
    class.metadata.name = Some("local".to_owned());
    bench.api.create(&class);
    let mut claim = PersistentVolumeClaim::default();
    claim.metadata.name = Some("data".to_owned());
    claim.metadata.namespace = Some("ns".to_owned());
    claim.spec = Some(PersistentVolumeClaimSpec {
        storage_class_name: Some("local".to_owned()),
        ..PersistentVolumeClaimSpec::default()
    });
    bench.api.create(&claim);
    bench.api.create(&node("n", "4"));
    let mut mounting = pod("p", "1");
    let source = PersistentVolumeClaimVolumeSource { claim_name: "data".to_owned(), read_only: None };
    mounting.spec.as_mut().unwrap().volumes =
        Some(vec![Volume { persistent_volume_claim: Some(source), ..Volume::default() }]);
    bench.api.create(&mounting);
    let selected = || {
        let claim = bench.api.get::<PersistentVolumeClaim>("ns", "data")?;
        claim.metadata.annotations?.get("volume.kubernetes.io/selected-node").cloned()
    };
    assert_eq!(eventually("the annotation", selected).await, "n");
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(place_of(&bench.api, "p"), None);
    // The provisioner gives it back once: it is tried again.
    bench.api.edit("ns", "data", |claim: &mut PersistentVolumeClaim| claim.metadata.annotations = None);
    let failed = || {
        let events = bench.api.list::<Event>();
        let mut messages = events.into_iter().filter_map(|event| event.message);
        messages.find(|message| message.contains("provisioning failed for PVC \"data\""))
    };
    eventually("the failure", failed).await;
    assert_eq!(eventually("the annotation", selected).await, "n");
    bench.api.edit("ns", "data", |claim: &mut PersistentVolumeClaim| {
        claim.spec.as_mut().unwrap().volume_name = Some("pv".to_owned());
        claim.status.get_or_insert_default().phase = Some("Bound".to_owned());
    });
    eventually("a node", || place_of(&bench.api, "p")).await;
}

#[tokio::test(start_paused = true)]
async fn every_profile_has_its_name() {
    let bench = bench(FakeApi::new());
    bench.api.create(&node("full", "4"));
    bench.api.create(&node("empty", "4"));
    let mut first = pod("first", "1");
    first.spec.as_mut().unwrap().node_name = Some("full".to_owned());
    bench.api.create(&first);
    let mut packed = pod("packed", "1");
    packed.spec.as_mut().unwrap().scheduler_name = Some("bin-packing-scheduler".to_owned());
    bench.api.create(&packed);
    assert_eq!(eventually("a node", || place_of(&bench.api, "packed")).await, "full");
    bench.handle.shutdown().await;
    let events = bench.api.list::<Event>();
    let source = events[0].source.as_ref().and_then(|source| source.component.as_deref());
    assert_eq!(source, Some("bin-packing-scheduler"));
}

#[tokio::test(start_paused = true)]
async fn only_what_may_help_wakes_a_pod() {
    let bench = bench(FakeApi::new());
    bench.api.create(&node("n", "1"));
    bench.api.create(&pod("other", "500m"));
    eventually("a node", || place_of(&bench.api, "other")).await;
    let mut choosy = pod("choosy", "100m");
    let wanted = BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]);
    choosy.spec.as_mut().unwrap().node_selector = Some(wanted.clone());
    bench.api.create(&choosy);
    eventually("the condition", || condition(&bench.api, "choosy")).await;
    let failures = || {
        let events = bench.api.list::<Event>();
        let failed = events.iter().filter(|event| event.reason.as_deref() == Some("FailedScheduling"));
        failed.map(|event| event.count.unwrap_or(1)).sum::<i32>()
    };
    eventually("the event", || (failures() == 1).then_some(())).await;
    bench.api.remove::<Pod>("ns", "other");
    bench.api.create(&node("another", "1"));
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(failures(), 1, "neither room nor a node without the label is what it waits for");
    bench.api.edit("", "n", |node: &mut Node| node.metadata.labels = Some(wanted.clone()));
    eventually("a node", || place_of(&bench.api, "choosy").filter(|node| node == "n")).await;
}
