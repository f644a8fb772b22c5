//! Steps by tables, order and identity by random histories, and the running controller on a fake API.

use coracle_client::{
    random,
    test_support::{Call, Fault, eventually},
};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{
            RollingUpdateStatefulSetStrategy, StatefulSetOrdinals,
            StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
        },
        core::v1::{Event, PersistentVolumeClaimSpec},
    },
    apimachinery::pkg::{
        apis::meta::v1::{ObjectMeta, Time},
        util::intstr::IntOrString,
    },
};
use kube::ResourceExt;
use proptest::prelude::*;

use super::{plan::Plan, *};
use crate::{
    Controller as Registered, gc,
    testing::{self, Bench, chaos, meta, node, run_on, template},
};

const ONLY: &[Registered] = &[Registered { name: NAME, run }];

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).expect("in range")
}

/// A set `web` described by words: `parallel`, `on-delete`, `partition:N`, `unavailable:N`, `start:N`,
/// `claims`, `delete:deleted` and `delete:scaled`.
fn web(replicas: i32, words: &str) -> StatefulSet {
    let mut spec = StatefulSetSpec {
        replicas: Some(replicas),
        selector: testing::selector(),
        service_name: Some("nginx".to_owned()),
        template: template("v1"),
        ..StatefulSetSpec::default()
    };
    for word in words.split_whitespace() {
        let (name, value) = word.split_once(':').unwrap_or((word, ""));
        let strategy = spec.update_strategy.get_or_insert_default();
        let rolling: &mut RollingUpdateStatefulSetStrategy = strategy.rolling_update.get_or_insert_default();
        let retention: &mut StatefulSetPersistentVolumeClaimRetentionPolicy =
            spec.persistent_volume_claim_retention_policy.get_or_insert_default();
        match name {
            "parallel" => spec.pod_management_policy = Some("Parallel".to_owned()),
            "on-delete" => {
                spec.update_strategy = Some(StatefulSetUpdateStrategy {
                    type_: Some("OnDelete".to_owned()),
                    rolling_update: None,
                });
            }
            "partition" => rolling.partition = value.parse().ok(),
            "unavailable" => rolling.max_unavailable = value.parse().ok().map(IntOrString::Int),
            "start" => spec.ordinals = Some(StatefulSetOrdinals { start: value.parse().ok() }),
            "claims" => {
                spec.volume_claim_templates = Some(vec![PersistentVolumeClaim {
                    metadata: ObjectMeta { name: Some("data".to_owned()), ..ObjectMeta::default() },
                    spec: Some(PersistentVolumeClaimSpec::default()),
                    status: None,
                }]);
            }
            "delete" if value == "deleted" => retention.when_deleted = Some("Delete".to_owned()),
            "delete" => retention.when_scaled = Some("Delete".to_owned()),
            other => panic!("unknown word {other}"),
        }
    }
    let mut set = StatefulSet { metadata: meta("web"), spec: Some(spec), status: None };
    set.metadata.uid = Some("u".to_owned());
    set
}

fn version(name: &str) -> Version {
    Version { name: name.to_owned(), template: template(name) }
}

/// A pod described as `ORDINAL VERSION` and then `ready`, `running`, `going`, `failed`, `unlabelled`.
fn described(set: &StatefulSet, text: &str) -> Arc<Pod> {
    let mut words = text.split_whitespace();
    let ordinal = words.next().and_then(|word| word.parse().ok()).expect("an ordinal");
    let mut pod = identity::pod(set, ordinal, &version(words.next().expect("a version")));
    pod.metadata.uid = Some(format!("uid-{ordinal}"));
    for word in words {
        match word {
            "ready" => run_on(&mut pod, "n", "10.0.0.1", true),
            "running" => run_on(&mut pod, "n", "10.0.0.1", false),
            "going" => pod.metadata.deletion_timestamp = Some(Time(now())),
            "failed" => pod.status.get_or_insert_default().phase = Some("Failed".to_owned()),
            "unlabelled" => drop(pod.metadata.labels.as_mut().and_then(|all| all.remove(identity::POD_NAME))),
            other => panic!("unknown word {other}"),
        }
    }
    Arc::new(pod)
}

/// The plan while `v1` is what was, and `v2` is what is to be.
fn planned(set: &StatefulSet, pods: &[Arc<Pod>]) -> Plan {
    plan(&Observed { set, pods, current: &version("v1"), update: &version("v2") }, now())
}

fn said(plan: &Plan) -> String {
    let words = plan.steps.iter().map(|step| match step {
        Step::Create(pod) => format!("create {} {}", pod.name_any(), identity::revision(pod)),
        Step::Replace(pod) => format!("replace {}", pod.name_any()),
        Step::Delete(pod) => format!("delete {}", pod.name_any()),
        Step::Repair(pod) => format!("repair {}", pod.name_any()),
    });
    words.collect::<Vec<_>>().join("; ").replace("web-", "")
}

#[track_caller]
fn check(set: &StatefulSet, pods: &[&str], expected: &str) {
    let pods: Vec<_> = pods.iter().map(|text| described(set, text)).collect();
    assert_eq!(said(&planned(set, &pods)), expected);
}

#[test]
fn pods_come_in_order() {
    check(&web(3, ""), &[], "create 0 v2");
    check(&web(3, ""), &["0 v2"], "");
    check(&web(3, ""), &["0 v2 running"], "");
    check(&web(3, ""), &["0 v2 ready"], "create 1 v2");
    check(&web(3, ""), &["0 v2 ready going", "1 v2 ready"], "");
    check(&web(3, ""), &["0 v2 ready", "2 v2 ready"], "create 1 v2");
    check(&web(3, "parallel"), &["1 v2"], "create 0 v2; create 2 v2");
    check(&web(2, "start:5"), &["5 v2 ready"], "create 6 v2");
    check(&web(2, "start:5"), &["0 v2 ready", "5 v2 ready", "6 v2 ready"], "delete 0");
    check(&web(1, ""), &["0 v2 failed"], "replace 0");
    check(&web(1, ""), &["0 v2 failed going"], "");
    check(&web(2, "parallel"), &["0 v2 failed"], "replace 0; create 1 v2");
    check(&web(1, ""), &["0 v2 ready unlabelled"], "repair 0");
}

#[test]
fn pods_go_in_reverse_order() {
    check(&web(1, ""), &["0 v2 ready", "1 v2 ready", "2 v2 ready"], "delete 2");
    check(&web(1, ""), &["0 v2 ready", "1 v2 ready", "2 v2 ready going"], "");
    check(&web(1, ""), &["0 v2 running", "1 v2 ready"], "");
    // An unhealthy one goes only if no lower one is unhealthy.
    check(&web(1, ""), &["0 v2 ready", "1 v2 ready", "2 v2 running"], "delete 2");
    check(&web(1, ""), &["0 v2 ready", "1 v2 running", "2 v2 running"], "");
    check(&web(0, "parallel"), &["0 v2 ready", "1 v2"], "delete 1; delete 0");
}

#[test]
fn pods_are_updated_in_reverse_order() {
    check(&web(3, ""), &["0 v1 ready", "1 v1 ready", "2 v1 ready"], "delete 2");
    check(&web(3, ""), &["0 v1 ready", "1 v1 ready", "2 v2 ready"], "delete 1");
    check(&web(3, ""), &["0 v1 ready", "1 v1 ready", "2 v2 running"], "");
    check(&web(3, "parallel"), &["0 v1 ready", "1 v1 ready", "2 v2 running"], "");
    check(&web(3, "partition:2"), &["0 v1 ready", "1 v1 ready", "2 v2 ready"], "");
    check(&web(3, "partition:2"), &["0 v1 ready", "2 v2 ready"], "create 1 v1");
    check(&web(3, "partition:2"), &["0 v1 ready", "1 v2 ready", "2 v1 ready"], "delete 2");
    check(&web(3, "on-delete"), &["0 v1 ready", "1 v1 ready", "2 v1 ready"], "");
    check(&web(3, "on-delete"), &["0 v1 ready", "2 v1 ready"], "create 1 v2");
    check(&web(3, "start:4 partition:2"), &["4 v1 ready", "5 v1 ready", "6 v1 ready"], "delete 6");
    check(&web(3, "unavailable:2"), &["0 v1 ready", "1 v1 ready", "2 v1 ready"], "delete 2; delete 1");
    let parallel = web(4, "unavailable:2 parallel");
    check(&parallel, &["0 v1 ready", "1 v1 ready", "2 v1 ready", "3 v2 running"], "delete 2");
    check(&parallel, &["0 v1 ready", "1 v1 ready", "3 v2 running"], "create 2 v2");
}

#[test]
fn names_and_ordinals() {
    let set = web(1, "");
    let of = |name: &str| identity::ordinal(&set, &testing::pod(name));
    assert_eq!((of("web-0"), of("web-12")), (Some(0), Some(12)));
    for name in ["web", "web-", "web-01", "web-x", "web-1x", "web--1", "webs-1", "web-99999999999"] {
        assert_eq!(of(name), None, "{name}");
    }
}

#[test]
fn a_pod_has_its_name_and_its_claims() {
    let mut set = web(1, "claims");
    let spec = set.spec.as_mut().and_then(|spec| spec.template.spec.as_mut()).expect("has one");
    let volume = |name: &str| k8s_openapi::api::core::v1::Volume {
        name: name.to_owned(),
        ..k8s_openapi::api::core::v1::Volume::default()
    };
    spec.volumes = Some(vec![volume("data"), volume("scratch")]);
    let of =
        Version { name: "web-x".to_owned(), template: set.spec.as_ref().expect("has one").template.clone() };
    let pod = identity::pod(&set, 3, &of);
    let labels = pod.metadata.labels.as_ref().expect("has some");
    assert_eq!(labels["statefulset.kubernetes.io/pod-name"], "web-3");
    assert_eq!(labels["apps.kubernetes.io/pod-index"], "3");
    assert_eq!(labels["controller-revision-hash"], "web-x");
    let spec = pod.spec.expect("has one");
    assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("web-3"), Some("nginx")));
    let volumes = spec.volumes.expect("has some");
    let names: Vec<_> = volumes.iter().map(|volume| volume.name.as_str()).collect();
    assert_eq!(names, ["data", "scratch"]);
    let claim = volumes[0].persistent_volume_claim.as_ref().map(|claim| claim.claim_name.as_str());
    assert_eq!(claim, Some("data-web-3"));
}

/// Whom a claim is to belong to, if that is a change: `set`, `pod`, `nobody`, or `as it is`.
#[track_caller]
fn check_owners(policy: &str, has: &str, surplus: bool, expected: &str) {
    let set = web(1, policy);
    let pod = described(&set, "0 v1 ready");
    let mut claim = identity::claims(&web(1, "claims"), 0).remove("data").expect("has one");
    claim.metadata.owner_references = match has {
        "set" => crate::claim::owner_reference(&set).map(|owner| vec![owner]),
        "pod" => crate::claim::owner_reference(&*pod).map(|owner| vec![owner]),
        _ => None,
    };
    let said = match retention::owners(&set, &claim, Some(&pod), surplus).as_deref() {
        None => "as it is",
        Some([]) => "nobody",
        Some([owner]) if owner.kind == "Pod" => "pod",
        Some([owner]) if owner.kind == "StatefulSet" => "set",
        Some(other) => panic!("{other:?}"),
    };
    assert_eq!(said, expected);
}

#[test]
fn claims_belong_to_whom_they_go_with() {
    check_owners("", "nobody", false, "as it is");
    check_owners("", "set", false, "nobody");
    check_owners("", "pod", true, "nobody");
    check_owners("delete:deleted", "nobody", false, "set");
    check_owners("delete:deleted", "set", true, "as it is");
    check_owners("delete:scaled", "nobody", false, "as it is");
    check_owners("delete:scaled", "nobody", true, "pod");
    check_owners("delete:scaled", "pod", false, "nobody");
    check_owners("delete:scaled delete:deleted", "set", true, "pod");
    check_owners("delete:scaled delete:deleted", "pod", false, "set");
}

#[test]
fn a_claim_is_stale_that_goes_with_another_pod_of_the_name() {
    let set = web(1, "claims");
    let pod = described(&set, "0 v1");
    let with_uid = |uid: Option<&str>| {
        let mut pod = Pod::clone(&pod);
        pod.metadata.uid = uid.map(str::to_owned);
        pod
    };
    let mut claim = identity::claims(&set, 0).remove("data").expect("has one");
    assert!(!retention::is_stale(&claim, &with_uid(None)), "it goes with nobody");
    claim.metadata.owner_references = crate::claim::owner_reference(&*pod).map(|owner| vec![owner]);
    assert!(!retention::is_stale(&claim, &pod), "the pod may keep its own");
    assert!(retention::is_stale(&claim, &with_uid(None)), "a pod not created yet");
    assert!(retention::is_stale(&claim, &with_uid(Some("another"))));
    claim.metadata.deletion_timestamp = Some(Time(now()));
    assert!(retention::is_stale(&claim, &pod), "it is being deleted");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// From any state, whatever nodes do: ordered sets take one step at a time, what exists is not created
    /// again, no rollout makes more pods unavailable than it may, and in the end all is as asked for.
    #[test]
    fn sets_come_to_rest(
        replicas in 0..5_i32,
        words in proptest::sample::select(vec!["", "parallel", "unavailable:2", "parallel unavailable:2", "partition:1"]),
        start in proptest::collection::btree_map(0..7_i32, (0..2_usize, 0..3_usize), 0..6),
        choices in proptest::collection::vec(any::<bool>(), 40),
    ) {
        let set = web(replicas, words);
        let ordered = !words.contains("parallel");
        let most = if words.contains("unavailable") { 2 } else { 1 };
        let mut pods: Vec<Arc<Pod>> = start
            .iter()
            .map(|(ordinal, (version, state))| {
                let state = ["", "running", "ready"][*state];
                described(&set, &format!("{ordinal} v{} {state}", version + 1))
            })
            .collect();
        let mut choices = choices.into_iter().cycle();
        for round in 0..400 {
            let plan = planned(&set, &pods);
            if ordered {
                let repairs = |step: &&Step| matches!(step, Step::Repair(_));
                let steps = plan.steps.iter().filter(|step| !repairs(step)).count();
                prop_assert!(steps <= most, "{}", said(&plan));
            }
            let healthy = |pod: &Arc<Pod>| pods::is_ready(pod) && pod.metadata.deletion_timestamp.is_none();
            let inside = |pod: &Arc<Pod>| identity::ordinal(&set, pod).is_some_and(|ordinal| ordinal < replicas);
            let before = pods.iter().filter(|pod| inside(pod) && healthy(pod)).count();
            let deleted = plan
                .steps
                .iter()
                .filter(|step| matches!(step, Step::Delete(pod) if inside(pod) && healthy(pod)))
                .count();
            // In parallel, Kubernetes looks only at the pods above the one that it replaces.
            if deleted > 0 && words != "parallel" {
                let wanted = usize::try_from(replicas).expect("not negative");
                prop_assert!(before - deleted + most >= wanted, "{before} were healthy: {}", said(&plan));
            }
            for step in plan.steps {
                match step {
                    Step::Create(pod) => {
                        let same = pods.iter().any(|other| other.name_any() == pod.name_any());
                        prop_assert!(!same, "{} is there twice", pod.name_any());
                        pods.push(Arc::from(pod));
                    }
                    Step::Delete(pod) | Step::Replace(pod) => {
                        let place = pods.iter_mut().find(|other| other.name_any() == pod.name_any());
                        let pod = Arc::make_mut(place.expect("exists"));
                        pod.metadata.deletion_timestamp = Some(Time(now()));
                    }
                    Step::Repair(_) => prop_assert!(false, "nothing is to be repaired"),
                }
            }
            // Nodes work, at the end without delay.
            let lazy = round < 100;
            pods.retain(|pod| {
                pod.metadata.deletion_timestamp.is_none() || (lazy && choices.next() == Some(true))
            });
            for pod in &mut pods {
                let rests = lazy && choices.next() == Some(true);
                if !rests && !pods::is_ready(pod) {
                    run_on(Arc::make_mut(pod), "n", "10.0.0.1", true);
                }
            }
        }
        prop_assert_eq!(said(&planned(&set, &pods)), "");
        let mut names: Vec<_> = pods.iter().map(|pod| identity::ordinal(&set, pod).expect("has one")).collect();
        names.sort_unstable();
        prop_assert_eq!(names, (0..replicas).collect::<Vec<_>>());
        let from = i32::from(words.contains("partition"));
        for pod in &pods {
            let old = identity::revision(pod) == "v1";
            prop_assert!(!old || identity::ordinal(&set, pod) < Some(from));
        }
    }
}

fn names(bench: &Bench) -> Vec<String> {
    bench.api.list::<Pod>().iter().map(ResourceExt::name_any).collect()
}

async fn settled(bench: &Bench, replicas: i32, version: &str) {
    eventually("all pods", || {
        node(&bench.api);
        let set: StatefulSet = bench.api.get("ns", "web")?;
        let status = set.status?;
        let of = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.containers[0].image.clone());
        let all = bench.api.list::<Pod>().iter().all(|pod| of(pod).as_deref() == Some(version));
        (all && i32::try_from(names(bench).len()) == Ok(replicas)
            && status.replicas == replicas
            && status.ready_replicas.unwrap_or(0) == replicas
            && status.current_revision == status.update_revision)
            .then_some(())
    })
    .await;
}

fn change(bench: &Bench, edit: impl FnOnce(&mut StatefulSetSpec)) {
    bench.api.edit("ns", "web", |set: &mut StatefulSet| edit(set.spec.as_mut().expect("has one")));
}

#[tokio::test(start_paused = true)]
async fn a_set_grows_rolls_back_and_shrinks() {
    let bench = Bench::start(ONLY);
    bench.api.create(&web(3, "claims"));
    settled(&bench, 3, "v1").await;
    assert_eq!(names(&bench), ["web-0", "web-1", "web-2"]);
    let claims = bench.api.list::<PersistentVolumeClaim>();
    assert_eq!(
        claims.iter().map(ResourceExt::name_any).collect::<Vec<_>>().join(" "),
        "data-web-0 data-web-1 data-web-2"
    );
    let first: StatefulSet = bench.api.get("ns", "web").expect("exists");
    change(&bench, |spec| spec.template = template("v2"));
    settled(&bench, 3, "v2").await;
    change(&bench, |spec| spec.template = template("v1"));
    settled(&bench, 3, "v1").await;
    let back: StatefulSet = bench.api.get("ns", "web").expect("exists");
    let revision = |set: &StatefulSet| set.status.as_ref().and_then(|status| status.current_revision.clone());
    assert_eq!(revision(&first), revision(&back), "back to the first revision");
    let mut numbers: Vec<_> =
        bench.api.list::<ControllerRevision>().iter().map(|revision| revision.revision).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [2, 3]);
    change(&bench, |spec| spec.replicas = Some(1));
    settled(&bench, 1, "v1").await;
    bench.quiet().await;
    assert_eq!(names(&bench), ["web-0"]);
    assert_eq!(bench.api.list::<PersistentVolumeClaim>().len(), 3, "claims stay");
    let messages: Vec<_> = bench.api.list::<Event>().into_iter().filter_map(|event| event.message).collect();
    for expected in [
        "create Claim data-web-0 Pod web-0 in StatefulSet web success",
        "create Pod web-0 in StatefulSet web successful",
        "delete Pod web-2 in StatefulSet web successful",
    ] {
        assert!(messages.iter().any(|message| message == expected), "{expected} in {messages:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_taken_is_tried_again() {
    let bench = Bench::start(ONLY);
    let without_labels = meta("web-0");
    bench.api.create(&Pod { metadata: without_labels, ..testing::pod("web-0") });
    bench.api.create(&web(1, "claims"));
    eventually("a try", || (!bench.api.list::<PersistentVolumeClaim>().is_empty()).then_some(())).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(names(&bench), ["web-0"]);
    bench.api.remove::<Pod>("ns", "web-0");
    settled(&bench, 1, "v1").await;
}

#[tokio::test(start_paused = true)]
async fn a_name_rests_before_it_is_given_again() {
    let bench = Bench::start(ONLY);
    bench.api.create(&web(2, "parallel"));
    settled(&bench, 2, "v1").await;
    bench.quiet().await;
    bench.api.remove::<Pod>("ns", "web-0");
    tokio::time::sleep(names::REST * 3 / 4).await;
    assert_eq!(names(&bench), ["web-1"]);
    tokio::time::sleep(names::REST / 2).await;
    assert_eq!(names(&bench), ["web-0", "web-1"]);
    settled(&bench, 2, "v1").await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_deleted_once_although_the_cache_lags() {
    let bench = Bench::start(ONLY);
    bench.api.create(&web(2, ""));
    settled(&bench, 2, "v1").await;
    bench.quiet().await;
    let late = |call: &Call| call.watch && call.uri.contains("/pods");
    bench.api.set_faults(move |call| late(call).then_some(Fault::Delay(Duration::from_secs(20))));
    bench.api.cut_watches();
    tokio::time::sleep(Duration::from_secs(5)).await;
    for replicas in [1, 0, 1] {
        change(&bench, |spec| spec.replicas = Some(replicas));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let deleted = bench.api.calls().iter().filter(|call| call.method == "DELETE").count();
    assert_eq!(deleted, 1);
    bench.api.clear_faults();
    settled(&bench, 1, "v1").await;
}

#[tokio::test(start_paused = true)]
async fn claims_go_with_the_set_and_with_its_size() {
    const WITH_GC: &[Registered] =
        &[Registered { name: NAME, run }, Registered { name: gc::NAME, run: gc::run }];
    let bench = Bench::start(WITH_GC);
    bench.api.create(&web(2, "claims delete:scaled delete:deleted"));
    settled(&bench, 2, "v1").await;
    change(&bench, |spec| spec.replicas = Some(1));
    eventually("one claim", || {
        node(&bench.api);
        (bench.api.list::<PersistentVolumeClaim>().len() == 1).then_some(())
    })
    .await;
    change(&bench, |spec| spec.replicas = Some(2));
    settled(&bench, 2, "v1").await;
    assert_eq!(bench.api.list::<PersistentVolumeClaim>().len(), 2);
    bench.api.remove::<StatefulSet>("ns", "web");
    eventually("nothing", || {
        node(&bench.api);
        (bench.api.list::<PersistentVolumeClaim>().is_empty() && names(&bench).is_empty()).then_some(())
    })
    .await;
}

/// Under faults of every kind: pods come in order, and in the end all is as asked for.
#[tokio::test(start_paused = true)]
async fn under_faults_identities_are_kept() {
    for seed in 0..4 {
        random::seed(seed);
        let bench = Bench::start(ONLY);
        bench.api.create(&web(3, "claims"));
        settled(&bench, 3, "v1").await;
        chaos(&bench.api, 5);
        let mut wanted = "v1".to_owned();
        for step in 0..60 {
            match random::below(12) {
                0 => {
                    wanted = format!("v{}", random::below(3));
                    change(&bench, |spec| spec.template = template(&wanted));
                }
                1 => bench.api.cut_watches(),
                2 => bench.api.compact(),
                _ if step % 3 == 0 => node(&bench.api),
                _ => {}
            }
            tokio::time::sleep(Duration::from_millis(random::below(200))).await;
            let ready = bench
                .api
                .list::<Pod>()
                .iter()
                .filter(|pod| pods::is_active(pod) && pods::is_ready(pod))
                .count();
            assert!(ready >= 2, "seed {seed}: {ready} are ready");
        }
        bench.api.clear_faults();
        settled(&bench, 3, &wanted).await;
        bench.quiet().await;
        assert_eq!(names(&bench), ["web-0", "web-1", "web-2"]);
        bench.handle.shutdown().await;
    }
}
