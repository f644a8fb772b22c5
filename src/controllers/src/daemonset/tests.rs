//! Nodes and pods by tables, bounds by random rollouts, and the running controller on a fake API.

use coracle_client::{random, test_support::eventually};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        apps::v1::{ControllerRevision, DaemonSetSpec, DaemonSetUpdateStrategy, RollingUpdateDaemonSet},
        core::v1::{Event, NodeSpec, Taint, Toleration},
    },
    apimachinery::pkg::{
        apis::meta::v1::{ObjectMeta, Time},
        util::intstr::IntOrString,
    },
};
use kube::ResourceExt;
use proptest::prelude::*;

use super::*;
use crate::{
    Controller as Registered,
    testing::{self, Bench, chaos, labels, meta, run_on, template},
};

const ONLY: &[Registered] = &[Registered { name: NAME, run }];

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).expect("in range")
}

fn number(text: &str) -> IntOrString {
    text.parse().map_or_else(|_| IntOrString::String(text.to_owned()), IntOrString::Int)
}

/// A set `web` described by words: `surge:N`, `unavailable:N`, `on-delete`, `on:KEY=VALUE` (node selector).
fn web(words: &str) -> DaemonSet {
    let mut spec =
        DaemonSetSpec { selector: testing::selector(), template: template("v2"), ..DaemonSetSpec::default() };
    for word in words.split_whitespace() {
        let strategy: &mut DaemonSetUpdateStrategy = spec.update_strategy.get_or_insert_default();
        let rolling: &mut RollingUpdateDaemonSet = strategy.rolling_update.get_or_insert_default();
        match word.split_once(':').unwrap_or((word, "")) {
            ("surge", value) => rolling.max_surge = Some(number(value)),
            ("unavailable", value) => rolling.max_unavailable = Some(number(value)),
            ("on-delete", _) => strategy.type_ = Some("OnDelete".to_owned()),
            ("on", value) => {
                let pair = value.split_once('=').expect("key=value");
                spec.template.spec.get_or_insert_default().node_selector = Some(labels(&[pair]));
            }
            (other, _) => panic!("unknown word {other}"),
        }
    }
    let mut set = DaemonSet { metadata: meta("web"), spec: Some(spec), status: None };
    set.metadata.uid = Some("u".to_owned());
    set
}

/// A node described as `NAME` and then labels `KEY=VALUE` and taints `KEY:EFFECT`.
fn described_node(text: &str) -> Arc<Node> {
    let mut words = text.split_whitespace();
    let mut node = Node {
        metadata: ObjectMeta { name: words.next().map(str::to_owned), ..ObjectMeta::default() },
        ..Node::default()
    };
    for word in words {
        if let Some((key, value)) = word.split_once('=') {
            node.metadata.labels.get_or_insert_default().insert(key.to_owned(), value.to_owned());
        } else if let Some((key, effect)) = word.split_once(':') {
            let taint = Taint { key: key.to_owned(), effect: effect.to_owned(), ..Taint::default() };
            let spec: &mut NodeSpec = node.spec.get_or_insert_default();
            spec.taints.get_or_insert_default().push(taint);
        }
    }
    Arc::new(node)
}

/// A pod described as `NAME NODE VERSION` and then `ready`, `going`, `failed`, `succeeded`, `waiting` (not
/// bound yet).
fn described(set: &DaemonSet, index: usize, text: &str) -> Arc<Pod> {
    let words: Vec<_> = text.split_whitespace().collect();
    let (name, node, version) = (words[0], words[1], words[2]);
    let mut pod = pod::on(&pod::generic(set, version), node);
    pod.metadata.name = Some(name.to_owned());
    pod.metadata.uid = Some(format!("uid-{name}"));
    let age = SignedDuration::from_secs(1000 - i64::try_from(index).expect("small"));
    pod.metadata.creation_timestamp = Some(Time(now() - age));
    pod.spec.as_mut().expect("has one").node_name = Some(node.to_owned());
    for word in &words[3..] {
        let status = |pod: &mut Pod, phase: &str| {
            pod.status.get_or_insert_default().phase = Some(phase.to_owned());
        };
        match *word {
            "ready" => run_on(&mut pod, node, "10.0.0.1", true),
            "going" => pod.metadata.deletion_timestamp = Some(Time(now())),
            "failed" => status(&mut pod, "Failed"),
            "succeeded" => status(&mut pod, "Succeeded"),
            "waiting" => pod.spec.as_mut().expect("has one").node_name = None,
            other => panic!("unknown word {other}"),
        }
    }
    Arc::new(pod)
}

fn planned(set: &DaemonSet, nodes: &[Arc<Node>], pods: &[Arc<Pod>]) -> Plan {
    let back_off = |node: &str| (node == "bad").then_some(Duration::from_secs(7));
    plan(&Observed { set, nodes, pods, hash: "v2", caught_up: true, back_off: &back_off }, now())
}

#[track_caller]
fn check(set: &DaemonSet, nodes: &[&str], pods: &[&str], expected: &str) {
    let nodes: Vec<_> = nodes.iter().map(|text| described_node(text)).collect();
    let pods: Vec<_> = pods.iter().enumerate().map(|(index, text)| described(set, index, text)).collect();
    let plan = planned(set, &nodes, &pods);
    let mut said = Vec::new();
    if !plan.create.is_empty() {
        said.push(format!("create {}", plan.create.join(",")));
    }
    let mut names: Vec<_> = plan.delete.iter().map(|pod| pod.name_any()).collect();
    names.sort();
    if !names.is_empty() {
        said.push(format!("delete {}", names.join(",")));
    }
    assert_eq!(said.join("; "), expected);
}

#[test]
fn every_node_that_suits_gets_one() {
    let set = web("");
    check(&set, &["a", "b"], &[], "create a,b");
    check(&set, &["a", "b"], &["p a v2 ready"], "create b");
    check(&set, &["a"], &["p a v2", "q a v2"], "delete q");
    check(&set, &["a"], &["p a v2 waiting"], "");
    check(&set, &["a"], &["p a v2 waiting", "q a v2"], "delete p");
    check(&set, &["a"], &["p a v2 ready going"], "");
    check(&set, &["a"], &["p gone v2 waiting"], "create a; delete p");
    check(&set, &["a"], &["p a v2 failed"], "delete p");
    check(&set, &["a"], &["p a v2 succeeded"], "delete p");
    check(&set, &["bad"], &["p bad v2 failed"], "");
    check(&set, &["bad"], &["p bad v2 succeeded"], "delete p");
    check(&web("on:disk=ssd"), &["a disk=ssd", "b"], &["p b v2 ready"], "create a; delete p");
}

/// Only what goes in this step is told of, and counts as a failure of its node.
#[test]
fn no_more_have_ended_than_go_at_once() {
    let names: Vec<_> = (0..600).map(|index| format!("n{index:03}")).collect();
    let nodes: Vec<_> = names.iter().map(|name| described_node(name)).collect();
    let set = web("");
    let mut pods: Vec<_> =
        names.iter().map(|name| described(&set, 0, &format!("p-{name} {name} v2 failed"))).collect();
    while !pods.is_empty() {
        let before = pods.len();
        let plan = planned(&set, &nodes, &pods);
        let uids = |pods: Vec<&Arc<Pod>>| pods.iter().map(|pod| pod.uid()).collect::<Vec<_>>();
        let ended = uids(plan.ended.iter().map(|(pod, _)| pod).collect());
        assert_eq!(ended, uids(plan.delete.iter().collect()));
        pods.retain(|pod| !ended.contains(&pod.uid()));
        assert_eq!(before - pods.len(), before.min(250));
    }
}

#[test]
fn taints_keep_daemons_off() {
    let set = web("");
    check(&set, &["a special:NoSchedule"], &[], "");
    check(&set, &["a special:NoSchedule"], &["p a v2 ready"], "");
    check(&set, &["a special:NoExecute"], &["p a v2 ready"], "delete p");
    check(&set, &["a special:PreferNoSchedule"], &[], "create a");
    for tolerated in [
        "node.kubernetes.io/not-ready:NoExecute",
        "node.kubernetes.io/unreachable:NoExecute",
        "node.kubernetes.io/disk-pressure:NoSchedule",
        "node.kubernetes.io/unschedulable:NoSchedule",
    ] {
        check(&set, &[&format!("a {tolerated}")], &[], "create a");
    }
    let network = "a node.kubernetes.io/network-unavailable:NoSchedule";
    check(&set, &[network], &[], "");
    let mut host = web("");
    let spec = host.spec.as_mut().and_then(|spec| spec.template.spec.as_mut()).expect("has one");
    spec.host_network = Some(true);
    check(&host, &[network], &[], "create a");
    spec_tolerates(&mut host, "special");
    check(&host, &["a special:NoSchedule"], &[], "create a");
}

fn spec_tolerates(set: &mut DaemonSet, key: &str) {
    let spec = set.spec.as_mut().and_then(|spec| spec.template.spec.as_mut()).expect("has one");
    let toleration = Toleration {
        key: Some(key.to_owned()),
        operator: Some("Exists".to_owned()),
        ..Toleration::default()
    };
    spec.tolerations = Some(vec![toleration]);
}

#[test]
fn old_pods_go_as_many_as_may_be_missing() {
    let nodes = ["a", "b", "c"];
    let all = ["p a v1 ready", "q b v1 ready", "r c v1 ready"];
    check(&web(""), &nodes, &all, "delete p");
    check(&web("unavailable:2"), &nodes, &all, "delete p,q");
    check(&web("unavailable:50%"), &nodes, &all, "delete p,q");
    check(&web("on-delete"), &nodes, &all, "");
    check(&web(""), &nodes, &["p a v1 ready going", "q b v1 ready", "r c v1 ready"], "");
    check(&web(""), &nodes, &["p a v2", "q b v1 ready", "r c v1 ready"], "");
    check(&web(""), &nodes, &["p a v2 ready", "q b v1 ready", "r c v1 ready"], "delete q");
    // What is broken is missed by nobody.
    check(&web(""), &nodes, &["p a v2", "q b v1", "r c v1 ready"], "delete q");
    // A node without its pod comes first.
    check(&web("unavailable:3"), &nodes, &["p a v1 ready", "q b v1 ready"], "create c");
}

#[test]
fn new_pods_come_beside_old_ones() {
    let set = web("surge:1 unavailable:0");
    let nodes = ["a", "b"];
    check(&set, &nodes, &["p a v1 ready", "q b v1 ready"], "create a");
    check(&set, &nodes, &["p a v1 ready", "q b v1 ready", "x a v2"], "");
    check(&set, &nodes, &["p a v1 ready", "q b v1 ready", "x a v2 ready"], "delete p");
    check(&set, &nodes, &["p a v1", "q b v1 ready", "x a v2"], "delete p");
    check(&set, &nodes, &["p a v1", "q b v1", "x a v2 ready"], "delete p");
    check(&set, &nodes, &["q b v1 ready", "x a v2 ready"], "create b");
    check(&set, &nodes, &["p a v1", "q b v1"], "create a,b");
    check(&set, &nodes, &["p a v1 ready", "q b v2 ready", "x a v2", "y a v2"], "delete y");
}

#[test]
fn a_pod_is_made_for_its_node() {
    let mut set = web("");
    set.metadata.annotations = Some(labels(&[("deprecated.daemonset.template.generation", "4")]));
    let made = pod::on(&pod::generic(&set, "hash"), "a");
    assert_eq!(pod::target(&made), Some("a"));
    let own = made.metadata.labels.as_ref().expect("has some");
    assert_eq!(
        (own["controller-revision-hash"].as_str(), own["pod-template-generation"].as_str()),
        ("hash", "4")
    );
    assert_eq!(made.metadata.generate_name.as_deref(), Some("web-"));
    let spec = made.spec.as_ref().expect("has one");
    assert_eq!(spec.tolerations.as_ref().map(Vec::len), Some(6));
    assert!(pod::fit(spec, &described_node("a")).run);
    assert!(!pod::fit(spec, &described_node("b")).run);
    // Every alternative that the template names is for this node.
    let again = pod::on(&made, "b");
    assert_eq!(pod::target(&again), Some("b"));
}

#[test]
fn status_counts_nodes() {
    let set = web("on:disk=ssd");
    let nodes = ["a disk=ssd", "b disk=ssd", "c disk=ssd", "d"];
    let nodes: Vec<_> = nodes.iter().map(|text| described_node(text)).collect();
    let pods = ["p a v2 ready", "q b v1", "r d v2 ready"];
    let pods: Vec<_> = pods.iter().enumerate().map(|(index, text)| described(&set, index, text)).collect();
    let status = planned(&set, &nodes, &pods).status;
    assert_eq!((status.desired_number_scheduled, status.current_number_scheduled), (3, 2));
    assert_eq!((status.number_misscheduled, status.number_ready), (1, 1));
    assert_eq!((status.updated_number_scheduled, status.number_available), (Some(1), Some(1)));
    assert_eq!(status.number_unavailable, Some(2));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    /// From a running set, whatever nodes do: never two pods of one template on a node, never fewer
    /// available nodes than demanded nor more doubled ones than allowed, and in the end all is new.
    #[test]
    fn rollouts_keep_their_bounds(
        count in 1..7_usize,
        bound in 1..4_usize,
        surges in any::<bool>(),
        choices in proptest::collection::vec(any::<bool>(), 60),
    ) {
        let words = if surges { format!("surge:{bound} unavailable:0") } else { format!("unavailable:{bound}") };
        let set = web(&words);
        let nodes: Vec<_> = (0..count).map(|index| described_node(&format!("n{index}"))).collect();
        let mut pods: Vec<_> = (0..count)
            .map(|index| described(&set, index, &format!("p{index} n{index} v1 ready")))
            .collect();
        let mut choices = choices.into_iter().cycle();
        let mut serial = count;
        for round in 0..150 {
            let plan = planned(&set, &nodes, &pods);
            for node in plan.create {
                pods.push(described(&set, serial, &format!("p{serial} {node} v2")));
                serial += 1;
            }
            for doomed in plan.delete {
                let place = pods.iter_mut().find(|pod| pod.name_any() == doomed.name_any());
                Arc::make_mut(place.expect("exists")).metadata.deletion_timestamp = Some(Time(now()));
            }
            let lives = |pod: &&Arc<Pod>| pod.metadata.deletion_timestamp.is_none();
            let mut served = BTreeSet::new();
            let mut seen = BTreeSet::new();
            let mut doubled = BTreeSet::new();
            for pod in pods.iter().filter(lives) {
                let node = pod::target(pod).expect("has one").to_owned();
                prop_assert!(seen.insert((node.clone(), pod::is_updated(pod, "v2"))), "two on {node}");
                if seen.contains(&(node.clone(), !pod::is_updated(pod, "v2"))) {
                    doubled.insert(node.clone());
                }
                if pods::is_ready(pod) {
                    served.insert(node);
                }
            }
            if surges {
                prop_assert_eq!(served.len(), count);
                prop_assert!(doubled.len() <= bound);
            } else {
                prop_assert!(served.len() + bound >= count, "{} of {count}", served.len());
                prop_assert!(doubled.is_empty());
            }
            let lazy = round < 100;
            pods.retain(|pod| pod.metadata.deletion_timestamp.is_none() || (lazy && choices.next() == Some(true)));
            for pod in &mut pods {
                let rests = lazy && choices.next() == Some(true);
                if !rests && !pods::is_ready(pod) {
                    let node = pod::target(pod).expect("has one").to_owned();
                    run_on(Arc::make_mut(pod), &node, "10.0.0.1", true);
                }
            }
        }
        prop_assert_eq!(pods.len(), count);
        prop_assert!(pods.iter().all(|pod| pod::is_updated(pod, "v2")));
    }
}

/// What scheduler and nodes do: pods are bound to the node they are made for, run, and end.
fn work(bench: &Bench) {
    for pod in bench.api.list::<Pod>() {
        let name = pod.name_any();
        if pod.metadata.deletion_timestamp.is_some() {
            bench.api.remove::<Pod>("ns", &name);
        } else if !pods::is_ready(&pod) && !pods::is_terminal(&pod) {
            let node = pod::target(&pod).expect("is made for one").to_owned();
            bench.api.edit("ns", &name, |pod: &mut Pod| run_on(pod, &node, "10.0.0.1", true));
        }
    }
}

fn places(bench: &Bench) -> Vec<String> {
    let pods = bench.api.list::<Pod>();
    let mut places: Vec<_> = pods
        .iter()
        .filter(|pod| pods::is_active(pod))
        .map(|pod| format!("{} {}", pod::target(pod).expect("has one"), image(pod)))
        .collect();
    places.sort();
    places
}

fn image(pod: &Pod) -> String {
    pod.spec.as_ref().and_then(|spec| spec.containers[0].image.clone()).expect("has one")
}

async fn settled(bench: &Bench, expected: &[&str]) {
    let expected: Vec<_> = expected.iter().map(|text| (*text).to_owned()).collect();
    eventually("every node has its pod", || {
        work(bench);
        let status = bench.api.get::<DaemonSet>("ns", "web")?.status?;
        let count = i32::try_from(expected.len()).ok();
        (places(bench) == expected
            && status.updated_number_scheduled == count
            && status.number_available == count)
            .then_some(())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn nodes_come_and_go_and_templates_roll() {
    let bench = Bench::start(ONLY);
    for name in ["a", "b"] {
        bench.api.create(&*described_node(name));
    }
    bench.api.create(&web(""));
    settled(&bench, &["a v2", "b v2"]).await;
    bench.api.create(&*described_node("c"));
    settled(&bench, &["a v2", "b v2", "c v2"]).await;
    bench.api.edit("ns", "web", |set: &mut DaemonSet| {
        set.spec.as_mut().expect("has one").template = template("v3");
    });
    settled(&bench, &["a v3", "b v3", "c v3"]).await;
    let mut revisions: Vec<_> =
        bench.api.list::<ControllerRevision>().iter().map(|revision| revision.revision).collect();
    revisions.sort_unstable();
    assert_eq!(revisions, [1, 2]);
    bench.api.edit("", "c", |node: &mut Node| {
        let taint = Taint { key: "x".to_owned(), effect: "NoExecute".to_owned(), ..Taint::default() };
        node.spec.get_or_insert_default().taints = Some(vec![taint]);
    });
    settled(&bench, &["a v3", "b v3"]).await;
    bench.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_fails_is_replaced_after_a_pause() {
    let bench = Bench::start(ONLY);
    bench.api.create(&*described_node("a"));
    bench.api.create(&web(""));
    settled(&bench, &["a v2"]).await;
    let fail = || {
        for pod in bench.api.list::<Pod>() {
            bench.api.edit("ns", &pod.name_any(), |pod: &mut Pod| {
                pod.status.get_or_insert_default().phase = Some("Failed".to_owned());
            });
        }
    };
    fail();
    settled(&bench, &["a v2"]).await;
    let start = tokio::time::Instant::now();
    fail();
    settled(&bench, &["a v2"]).await;
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(900), "{took:?}");
    let events = bench.api.list::<Event>();
    let told =
        events.iter().find(|event| event.reason.as_deref() == Some("FailedDaemonPod")).expect("is told");
    let message = told.message.as_deref().expect("has one");
    assert!(
        message.starts_with("Found failed daemon pod ns/web-")
            && message.ends_with(" on node a, will try to kill it")
    );
}

/// Under faults of every kind: never two pods of one template on a node, and in the end one on each.
#[tokio::test(start_paused = true)]
async fn under_faults_there_is_never_one_too_many() {
    for seed in 0..4 {
        random::seed(seed);
        let bench = Bench::start(ONLY);
        for name in ["a", "b", "c"] {
            bench.api.create(&*described_node(name));
        }
        bench.api.create(&web(""));
        settled(&bench, &["a v2", "b v2", "c v2"]).await;
        chaos(&bench.api, 5);
        let mut wanted = "v2".to_owned();
        for step in 0..60 {
            match random::below(12) {
                0 => {
                    wanted = format!("v{}", random::below(3));
                    bench.api.edit("ns", "web", |set: &mut DaemonSet| {
                        set.spec.as_mut().expect("has one").template = template(&wanted);
                    });
                }
                1 => bench.api.cut_watches(),
                2 => bench.api.compact(),
                _ if step % 3 == 0 => work(&bench),
                _ => {}
            }
            tokio::time::sleep(Duration::from_millis(random::below(200))).await;
            let places = places(&bench);
            let nodes: BTreeSet<_> = places.iter().map(|place| place.split(' ').next()).collect();
            assert_eq!(nodes.len(), places.len(), "seed {seed}: {places:?}");
        }
        bench.api.clear_faults();
        let expected = ["a", "b", "c"].map(|node| format!("{node} {wanted}"));
        settled(&bench, &expected.each_ref().map(String::as_str)).await;
        bench.quiet().await;
        bench.handle.shutdown().await;
    }
}
