//! Who gets which volume, and that nobody gets two.

use std::collections::BTreeMap;

use coracle_client::{clock, random, test_support::eventually};
use k8s_openapi::{
    api::core::v1::{
        Event, PersistentVolumeClaimSpec, PersistentVolumeSpec, PersistentVolumeStatus,
        VolumeResourceRequirements,
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};
use kube::{Api, api::DeleteParams};

use super::{
    plan::{ClaimPlan, Observed, VolumePlan},
    *,
};
use crate::{
    Controller as Registered,
    testing::{self, Bench, chaos, labels, meta},
};

const ONLY: &[Registered] = &[Registered { name: NAME, run }];

fn storage(size: &str) -> Option<BTreeMap<String, Quantity>> {
    Some(BTreeMap::from([("storage".to_owned(), Quantity(size.to_owned()))]))
}

fn cluster(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
}

fn claim(name: &str, size: &str, class: &str) -> PersistentVolumeClaim {
    PersistentVolumeClaim {
        metadata: ObjectMeta { uid: Some(format!("uid-of-{name}")), ..meta(name) },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            resources: Some(VolumeResourceRequirements { requests: storage(size), limits: None }),
            storage_class_name: Some(class.to_owned()),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

fn volume(name: &str, size: &str, class: &str) -> PersistentVolume {
    PersistentVolume {
        metadata: cluster(name),
        spec: Some(PersistentVolumeSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned(), "ReadOnlyMany".to_owned()]),
            capacity: storage(size),
            storage_class_name: Some(class.to_owned()),
            persistent_volume_reclaim_policy: Some("Retain".to_owned()),
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    }
}

fn class(name: &str, mode: &str) -> StorageClass {
    StorageClass {
        metadata: cluster(name),
        provisioner: rules::LOCAL.to_owned(),
        volume_binding_mode: Some(mode.to_owned()),
        ..StorageClass::default()
    }
}

fn node(name: &str) -> Node {
    let labels = labels(&[("kubernetes.io/hostname", name)]);
    Node { metadata: ObjectMeta { labels: Some(labels), ..cluster(name) }, ..Node::default() }
}

/// What the plan for a claim is, in short.
#[track_caller]
fn check(
    claim: &PersistentVolumeClaim,
    volumes: &[PersistentVolume],
    class: Option<&StorageClass>,
    expected: &str,
) {
    let volumes: Vec<_> = volumes.iter().cloned().map(Arc::new).collect();
    let nodes = |name: &str| (name == "n").then(|| Arc::new(node("n")));
    let observed = Observed { volumes: &volumes, class, nodes: &nodes, unscheduled: &Vec::new };
    let said = match plan::claim(claim, &observed) {
        ClaimPlan::Wait(note) => format!("wait {}", note.map_or("", |note| note.reason)),
        ClaimPlan::Bind(volume) => format!("bind {}", pods::name(&volume.metadata)),
        ClaimPlan::Provision { node } => format!("provision on {node}"),
        ClaimPlan::Ask { provisioner } => format!("ask {provisioner}"),
        ClaimPlan::ForgetNode => "forget the node".to_owned(),
        ClaimPlan::Lost(note) => format!("lost {}", note.reason),
    };
    assert_eq!(said, expected);
}

fn annotated(mut claim: PersistentVolumeClaim, name: &str, value: &str) -> PersistentVolumeClaim {
    claim.metadata.annotations.get_or_insert_default().insert(name.to_owned(), value.to_owned());
    claim
}

fn promised(mut volume: PersistentVolume, to: &str, uid: Option<&str>) -> PersistentVolume {
    volume.spec.as_mut().unwrap().claim_ref = Some(k8s_openapi::api::core::v1::ObjectReference {
        namespace: Some("ns".to_owned()),
        name: Some(to.to_owned()),
        uid: uid.map(str::to_owned),
        ..Default::default()
    });
    volume
}

#[test]
fn claims_get_the_smallest_volume_that_fits() {
    let volumes = [
        volume("big", "9Gi", ""),
        volume("small", "1Gi", ""),
        volume("fit", "3Gi", ""),
        volume("x", "3Gi", "x"),
    ];
    check(&claim("c", "2Gi", ""), &volumes, None, "bind fit");
    check(&claim("c", "2Gi", "x"), &volumes, None, "bind x");
    check(&claim("c", "10Gi", ""), &volumes, None, "wait FailedBinding");
    check(&claim("c", "1Gi", "none"), &volumes, None, "wait ProvisioningFailed");
    let mut picky = claim("c", "2Gi", "");
    picky.spec.as_mut().unwrap().access_modes = Some(vec!["ReadWriteMany".to_owned()]);
    check(&picky, &volumes, None, "wait FailedBinding");
}

#[test]
fn promises_and_wishes_count_first() {
    let mine = promised(volume("mine", "9Gi", ""), "c", None);
    let others = promised(volume("others", "2Gi", ""), "other", Some("u"));
    check(&claim("c", "2Gi", ""), &[volume("fit", "3Gi", ""), mine, others.clone()], None, "bind mine");
    let mut wish = claim("c", "2Gi", "");
    wish.spec.as_mut().unwrap().volume_name = Some("others".to_owned());
    check(&wish, &[others], None, "wait FailedBinding");
    check(&wish, &[], None, "wait ");
    check(&wish, &[volume("others", "1Gi", "")], None, "wait VolumeMismatch");
    check(&wish, &[volume("others", "2Gi", "")], None, "bind others");
    let bound = annotated(wish, plan::COMPLETED, "yes");
    check(&bound, &[], None, "lost ClaimLost");
    check(&bound, &[promised(volume("others", "2Gi", ""), "other", Some("u"))], None, "lost ClaimMisbound");
    check(&bound, &[promised(volume("others", "2Gi", ""), "c", Some("uid-of-c"))], None, "bind others");
}

#[test]
fn folders_are_made_where_the_first_pod_is() {
    let waiting = claim("c", "2Gi", "local");
    let local = class("local", "WaitForFirstConsumer");
    let local = || Some(&local);
    check(&waiting, &[], local(), "wait WaitForFirstConsumer");
    check(&annotated(waiting.clone(), plan::SELECTED_NODE, "n"), &[], local(), "provision on n");
    check(&annotated(waiting.clone(), plan::SELECTED_NODE, "gone"), &[], local(), "forget the node");
    check(&waiting, &[], Some(&class("local", "Immediate")), "wait ProvisioningFailed");
    let other = StorageClass { provisioner: "x.example".to_owned(), ..class("local", "Immediate") };
    check(&waiting, &[], Some(&other), "ask x.example");
    let mut picky = annotated(waiting.clone(), plan::SELECTED_NODE, "n");
    picky.spec.as_mut().unwrap().selector = Some(testing::selector());
    check(&picky, &[], local(), "wait ProvisioningFailed");
    check(&picky, &[], Some(&other), "ask x.example");
    let mut block = annotated(waiting, plan::SELECTED_NODE, "n");
    block.spec.as_mut().unwrap().volume_mode = Some("Block".to_owned());
    check(&block, &[], local(), "wait ProvisioningFailed");
}

#[test]
fn what_becomes_of_a_volume() {
    #[track_caller]
    fn check(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>, expected: &VolumePlan) {
        assert_eq!(&plan::volume(volume, claim, &[Arc::new(node("n"))]), expected);
    }
    let free = volume("v", "2Gi", "");
    let own = claim("c", "2Gi", "");
    check(&free, None, &VolumePlan::Phase("Available"));
    check(&promised(free.clone(), "c", None), None, &VolumePlan::Phase("Available"));
    let bound = promised(free, "c", Some("uid-of-c"));
    check(&bound, Some(&own), &VolumePlan::LookAtClaim);
    check(&bound, None, &VolumePlan::Phase("Released"));
    let named = |name: &str| {
        let mut claim = own.clone();
        claim.spec.as_mut().unwrap().volume_name = Some(name.to_owned());
        claim
    };
    check(&bound, Some(&named("v")), &VolumePlan::Phase("Bound"));
    check(&bound, Some(&named("other")), &VolumePlan::Phase("Released"));
    let mut chosen = bound.clone();
    chosen.metadata.annotations = Some(labels(&[(plan::BY_CONTROLLER, "yes")]));
    check(&chosen, Some(&named("other")), &VolumePlan::Free);

    let mut local = bound;
    let spec = local.spec.as_mut().unwrap();
    spec.persistent_volume_reclaim_policy = Some("Delete".to_owned());
    let message =
        "error getting deleter volume plugin for volume \"v\": no deletable volume plugin matched".to_owned();
    let note = plan::Note { warning: true, reason: "VolumeFailedDelete", message };
    check(&local, None, &VolumePlan::Fail(note));
    let mut foreign = local.clone();
    foreign.metadata.annotations = Some(labels(&[(plan::PROVISIONED_BY, "x.example")]));
    check(&foreign, None, &VolumePlan::Phase("Released"));
    let spec = local.spec.as_mut().unwrap();
    spec.csi = Some(k8s_openapi::api::core::v1::CSIPersistentVolumeSource {
        driver: rules::LOCAL_DRIVER.to_owned(),
        ..Default::default()
    });
    check(&local, None, &VolumePlan::Phase("Released"));
    local.status = Some(PersistentVolumeStatus { phase: Some("Released".to_owned()), ..Default::default() });
    check(&local, None, &VolumePlan::Delete);
    local.metadata.deletion_timestamp = Some(clock::time());
    check(&local, None, &VolumePlan::Phase("Released"));
    local.metadata.finalizers = Some(vec![plan::LOCAL_FINALIZER.to_owned()]);
    check(&local, None, &VolumePlan::Phase("Released"));
    assert_eq!(
        plan::volume(&local, None, &[]),
        VolumePlan::DropFinalizer,
        "a volume without affinity is reached by any node; without nodes by none"
    );
}

#[tokio::test(start_paused = true)]
async fn a_claim_tells_for_whom_it_waits() {
    let bench = Bench::start(ONLY);
    bench.api.create(&class("local", "WaitForFirstConsumer"));
    bench.api.create(&claim("c", "1Gi", "local"));
    tokio::time::sleep(Duration::from_secs(20)).await;
    for name in ["one", "two"] {
        let mut pod = testing::pod(name);
        testing::claim(&mut pod, "c");
        bench.api.create(&pod);
        tokio::time::sleep(Duration::from_secs(20)).await;
    }
    bench.handle.shutdown().await;
    let events = bench.api.list::<Event>();
    let told: std::collections::BTreeSet<String> = events
        .into_iter()
        .map(|event| format!("{}: {}", event.reason.unwrap_or_default(), event.message.unwrap_or_default()))
        .collect();
    let wanted = [
        "WaitForFirstConsumer: waiting for first consumer to be created before binding",
        "WaitForPodScheduled: waiting for pod one to be scheduled",
        "WaitForPodScheduled: waiting for pods one,two to be scheduled",
    ];
    assert_eq!(told, wanted.map(str::to_owned).into());
}

#[tokio::test(start_paused = true)]
async fn what_nobody_can_delete_says_so_once() {
    let bench = Bench::start(ONLY);
    let mut left = promised(volume("left", "1Gi", ""), "gone", Some("u"));
    left.spec.as_mut().unwrap().persistent_volume_reclaim_policy = Some("Delete".to_owned());
    bench.api.create(&left);
    let status = eventually("failed", || {
        let status = bench.api.get::<PersistentVolume>("", "left").and_then(|volume| volume.status);
        status.filter(|status| status.phase.as_deref() == Some("Failed"))
    })
    .await;
    let why = "error getting deleter volume plugin for volume \"left\": no deletable volume plugin matched";
    assert_eq!(status.message.as_deref(), Some(why));
    bench.quiet().await;
    bench.handle.shutdown().await;
    let events = bench.api.list::<Event>();
    let told: Vec<_> = events.iter().map(|event| (event.reason.as_deref(), event.count)).collect();
    assert_eq!(told, [(Some("VolumeFailedDelete"), Some(1))]);
}

#[tokio::test(start_paused = true)]
async fn who_is_asked_stands_under_both_names() {
    let bench = Bench::start(ONLY);
    bench.api.create(&StorageClass { provisioner: "x.example".to_owned(), ..class("other", "Immediate") });
    bench.api.create(&claim("c", "1Gi", "other"));
    let asked = eventually("annotations", || {
        bench.api.get::<PersistentVolumeClaim>("ns", "c").and_then(|claim| claim.metadata.annotations)
    })
    .await;
    let names = ["volume.beta.kubernetes.io/storage-provisioner", "volume.kubernetes.io/storage-provisioner"];
    assert_eq!(asked, labels(&names.map(|name| (name, "x.example"))));
}

#[tokio::test(start_paused = true)]
async fn under_faults_every_claim_gets_one_volume() {
    for seed in 0..5 {
        random::seed(seed);
        let bench = Bench::start(ONLY);
        let api = &bench.api;
        chaos(api, 4);
        api.create(&class("local", "WaitForFirstConsumer"));
        api.create(&node("n"));
        for number in 0..4 {
            api.create(&volume(&format!("v{number}"), "2Gi", ""));
            api.create(&claim(&format!("static{number}"), "1Gi", ""));
            let dynamic = claim(&format!("dynamic{number}"), "1Gi", "local");
            api.create(&annotated(dynamic, plan::SELECTED_NODE, "n"));
            tokio::time::sleep(Duration::from_millis(random::below(200))).await;
            if random::below(2) == 0 {
                api.cut_watches();
            }
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        api.clear_faults();
        let phase = |claim: &PersistentVolumeClaim| claim.status.clone().and_then(|status| status.phase);
        eventually("all are bound", || {
            api.list::<PersistentVolumeClaim>()
                .iter()
                .all(|claim| phase(claim).as_deref() == Some("Bound"))
                .then_some(())
        })
        .await;
        bench.quiet().await;
        let volumes = api.list::<PersistentVolume>();
        assert_eq!(volumes.len(), 8, "seed {seed}");
        for claim in api.list::<PersistentVolumeClaim>() {
            let name = claim.spec.unwrap().volume_name.unwrap();
            let volume = api.get::<PersistentVolume>("", &name).unwrap();
            let status = volume.status.and_then(|status| status.phase);
            assert_eq!(status.as_deref(), Some("Bound"), "seed {seed}");
            let reference = volume.spec.unwrap().claim_ref.unwrap();
            assert_eq!(reference.uid, claim.metadata.uid, "seed {seed}");
        }

        let claims: Api<PersistentVolumeClaim> = Api::namespaced(api.client(), "ns");
        for number in 0..4 {
            claims.delete(&format!("static{number}"), &DeleteParams::default()).await.unwrap();
            claims.delete(&format!("dynamic{number}"), &DeleteParams::default()).await.unwrap();
        }
        eventually("kept volumes are released, made ones go once their node lets them", || {
            let (made, kept): (Vec<_>, Vec<_>) = api
                .list::<PersistentVolume>()
                .into_iter()
                .partition(|volume| pods::name(&volume.metadata).starts_with("pvc-"));
            let released = kept.iter().filter(|volume| {
                volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Released")
            });
            let going = made.iter().filter(|volume| volume.metadata.deletion_timestamp.is_some());
            ((released.count(), going.count()) == (4, 4)).then_some(())
        })
        .await;
        api.remove::<Node>("", "n");
        eventually("the node is gone for good", || {
            let left = api.list::<PersistentVolume>();
            let ours = |volume: &&PersistentVolume| {
                volume.metadata.finalizers.iter().flatten().any(|name| name == plan::LOCAL_FINALIZER)
            };
            (!left.iter().any(|volume| ours(&volume))).then_some(())
        })
        .await;
        bench.quiet().await;
    }
}
