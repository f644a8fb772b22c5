//! A namespace goes when it is empty, and says what it waits for.

use std::collections::BTreeMap;

use coracle_client::{random, test_support::eventually};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::json;

use super::*;
use crate::{
    Controller as Registered,
    testing::{Bench, chaos, meta, namespace, pod, run_on},
};

const ONLY: &[Registered] = &[Registered { name: NAME, run }];

async fn delete(bench: &Bench, name: &str) {
    let api: Api<Namespace> = Api::all(bench.api.client());
    api.delete(name, &DeleteParams::default()).await.expect("deleted");
}

fn filled(bench: &Bench) {
    bench.api.create(&namespace("ns"));
    bench.api.create(&namespace("other"));
    bench.api.create(&ConfigMap { metadata: meta("a"), ..ConfigMap::default() });
    bench.api.create(&Secret { metadata: meta("a"), ..Secret::default() });
    bench.api.create(&pod("waiting"));
    let mut elsewhere = pod("elsewhere");
    elsewhere.metadata.namespace = Some("other".to_owned());
    bench.api.create(&elsewhere);
}

#[tokio::test(start_paused = true)]
async fn it_is_emptied_and_goes() {
    let bench = Bench::start(ONLY);
    filled(&bench);
    delete(&bench, "ns").await;
    eventually("the end", || bench.api.get::<Namespace>("", "ns").is_none().then_some(())).await;
    assert_eq!((bench.api.list::<ConfigMap>().len(), bench.api.list::<Secret>().len()), (0, 0));
    let left: Vec<_> = bench.api.list::<Pod>();
    assert_eq!(left.len(), 1, "other namespaces are left alone");
    assert!(bench.api.get::<Namespace>("", "other").is_some());
}

#[tokio::test(start_paused = true)]
async fn pods_end_first_and_are_waited_for() {
    let bench = Bench::start(ONLY);
    filled(&bench);
    bench.api.edit("ns", "waiting", |pod: &mut Pod| run_on(pod, "n", "10.0.0.1", true));
    delete(&bench, "ns").await;
    let says = |type_: &'static str| {
        let bench = &bench;
        move || {
            let conditions = bench.api.get::<Namespace>("", "ns")?.status?.conditions?;
            conditions.into_iter().find(|condition| condition.type_ == type_ && condition.status == "True")
        }
    };
    let told = eventually("the condition", says("NamespaceContentRemaining")).await;
    assert_eq!(told.reason.as_deref(), Some("SomeResourcesRemain"));
    assert_eq!(told.message.as_deref(), Some("Some resources are remaining: pods. has 1 resource instances"));
    assert_eq!(bench.api.list::<ConfigMap>().len(), 1, "the pod still has its configuration");
    tokio::time::sleep(Duration::from_secs(5)).await;
    let ended = tokio::time::Instant::now();
    bench.api.remove::<Pod>("ns", "waiting");
    eventually("the end", || bench.api.get::<Namespace>("", "ns").is_none().then_some(())).await;
    assert!(ended.elapsed() < Duration::from_millis(100), "the last pod wakes it: {:?}", ended.elapsed());
}

#[tokio::test(start_paused = true)]
async fn finalizers_of_content_are_named() {
    let bench = Bench::start(ONLY);
    bench.api.create(&namespace("ns"));
    let mut held = ConfigMap { metadata: meta("held"), ..ConfigMap::default() };
    held.metadata.finalizers = Some(vec!["example.com/hold".to_owned()]);
    bench.api.create(&held);
    delete(&bench, "ns").await;
    let says = || {
        let conditions = bench.api.get::<Namespace>("", "ns")?.status?.conditions?;
        conditions.into_iter().find(|condition| condition.type_ == "NamespaceFinalizersRemaining")
    };
    let told = eventually("the condition", says).await;
    let text =
        "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances";
    assert_eq!(told.message.as_deref(), Some(text));
    bench.api.edit("ns", "held", |map: &mut ConfigMap| map.metadata.finalizers = None);
    eventually("the end", || bench.api.get::<Namespace>("", "ns").is_none().then_some(())).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_others_hold_says_that_its_content_is_gone() {
    let bench = Bench::start(ONLY);
    let mut held = namespace("ns");
    held.metadata.finalizers = Some(vec!["example.com/hold".to_owned()]);
    bench.api.create(&held);
    delete(&bench, "ns").await;
    let finalized = || {
        let home = bench.api.get::<Namespace>("", "ns")?;
        plan::deleting_since(&home).is_none().then_some(home)
    };
    let conditions = eventually("finalized", finalized).await.status.and_then(|status| status.conditions);
    let said: Vec<_> =
        conditions.unwrap_or_default().into_iter().map(|one| (one.type_, one.status)).collect();
    let types = [
        "NamespaceDeletionDiscoveryFailure",
        "NamespaceDeletionGroupVersionParsingFailure",
        "NamespaceDeletionContentFailure",
        "NamespaceContentRemaining",
        "NamespaceFinalizersRemaining",
    ];
    assert_eq!(said, types.map(|type_| (type_.to_owned(), "False".to_owned())));
}

#[test]
fn a_status_that_says_the_same_is_not_written() {
    let mut home = namespace("ns");
    let now = Timestamp::from_second(1_800_000_000).expect("in range");
    let content = Content { left: BTreeMap::from([("pods.".to_owned(), 2)]), ..Content::default() };
    let status = status_of(&mut home, &content, now).expect("new");
    assert_eq!(status.conditions.as_ref().map(Vec::len), Some(5));
    assert_eq!(status_of(&mut home, &content, now + jiff::SignedDuration::from_secs(5)), None);
    let written = serde_json::to_value(&status.conditions.expect("five")[3]).expect("serialisable");
    let expected = json!({
        "type": "NamespaceContentRemaining", "status": "True", "reason": "SomeResourcesRemain",
        "message": "Some resources are remaining: pods. has 2 resource instances",
        "lastTransitionTime": "2027-01-15T08:00:00Z",
    });
    assert_eq!(written, expected);
}

fn status_of(
    home: &mut Namespace,
    content: &Content,
    now: Timestamp,
) -> Option<k8s_openapi::api::core::v1::NamespaceStatus> {
    let status = plan::status(home, content, now)?;
    home.status = Some(status.clone());
    Some(status)
}

#[tokio::test(start_paused = true)]
async fn under_faults_it_goes_all_the_same() {
    for seed in 0..5 {
        random::seed(seed);
        let bench = Bench::start(ONLY);
        filled(&bench);
        delete(&bench, "ns").await;
        chaos(&bench.api, 3);
        tokio::time::sleep(Duration::from_secs(3)).await;
        bench.api.clear_faults();
        bench.quiet().await;
        assert!(bench.api.get::<Namespace>("", "ns").is_none(), "seed {seed}");
    }
}
