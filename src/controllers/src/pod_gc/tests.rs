//! What is garbage, and what only looks like it.

use std::sync::Arc;

use coracle_client::{clock, test_support::eventually};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::*;
use crate::{
    Controller as Registered,
    testing::{Bench, pod, run_on},
};

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn plans() {
    #[track_caller]
    fn check(node: &str, phase: &str, deleting: bool, expected: Option<Option<&str>>) {
        let mut pod = pod("p");
        run_on(&mut pod, node, "10.0.0.1", false);
        pod.status.as_mut().unwrap().phase = Some(phase.to_owned());
        pod.metadata.deletion_timestamp = deleting.then(clock::time);
        let garbage = plan(&[Arc::new(pod)], &set(&["gone"]), &set(&["off"]));
        let found = garbage.first().map(|garbage| garbage.why.map(|why| why.message));
        assert_eq!(found, expected, "{node:?} {phase} {deleting}");
    }
    check("gone", "Running", false, Some(Some("PodGC: node no longer exists")));
    check("gone", "Succeeded", false, Some(None));
    check("there", "Running", true, None);
    check("there", "Failed", false, None);
    check("off", "Running", false, None);
    check("off", "Running", true, Some(None));
    check("", "Pending", true, Some(None));
    check("", "Pending", false, None);
}

#[test]
fn the_oldest_ended_pods_go_when_there_are_too_many() {
    let ended = |number: i64| {
        let mut pod = pod(&format!("p{number}"));
        run_on(&mut pod, "n", "10.0.0.1", false);
        pod.status.as_mut().unwrap().phase = Some("Succeeded".to_owned());
        pod.metadata.creation_timestamp =
            Some(Time(jiff::Timestamp::from_second(1_000_000 - number).unwrap()));
        Arc::new(pod)
    };
    let pods: Vec<_> = (0..i64::try_from(plan::TERMINATED).unwrap() + 2).map(ended).collect();
    let names: Vec<_> = plan(&pods, &set(&[]), &set(&[]))
        .iter()
        .map(|garbage| garbage.pod.metadata.name.clone().unwrap())
        .collect();
    assert_eq!(names, ["p12501", "p12500"]);
}

#[tokio::test(start_paused = true)]
async fn pods_of_a_deleted_node_go_after_the_quarantine() {
    let bench = Bench::start(&[Registered { name: NAME, run }]);
    let api = &bench.api;
    let node = |name: &str| Node {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        ..Node::default()
    };
    for name in ["stays", "goes"] {
        api.create(&node(name));
        let mut pod = pod(name);
        run_on(&mut pod, name, "10.0.0.1", true);
        api.create(&pod);
    }
    tokio::time::sleep(Duration::from_secs(100)).await;
    api.remove::<Node>("", "goes");
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(api.get::<Pod>("ns", "goes").is_some(), "the node may come back");
    tokio::time::sleep(Duration::from_secs(60)).await;
    eventually("it is gone", || api.get::<Pod>("ns", "goes").is_none().then_some(())).await;
    assert!(api.get::<Pod>("ns", "stays").is_some());
}
