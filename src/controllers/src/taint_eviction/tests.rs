//! Who has to go, and when.

use coracle_client::test_support::eventually;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{Event, NodeSpec, Toleration},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};

use super::*;
use crate::{
    Controller as Registered,
    testing::{Bench, pod, run_on},
};

fn taint(key: &str, added: Timestamp) -> Taint {
    Taint { key: key.to_owned(), effect: "NoExecute".to_owned(), time_added: Some(Time(added)), value: None }
}

fn tolerate(key: &str, seconds: Option<i64>) -> Toleration {
    Toleration {
        key: Some(key.to_owned()).filter(|key| !key.is_empty()),
        operator: Some("Exists".to_owned()),
        toleration_seconds: seconds,
        ..Toleration::default()
    }
}

/// Two taints, `a` and `b`, were added 100 seconds ago.
#[track_caller]
fn check(tolerations: &[Toleration], expected: Plan) {
    let now = clock::now();
    let added = now - SignedDuration::from_secs(100);
    let mut pod = pod("p");
    pod.spec.as_mut().unwrap().tolerations = Some(tolerations.to_vec());
    assert_eq!(plan(&pod, &[taint("a", added), taint("b", added)], now), expected);
}

#[test]
fn plans() {
    check(&[], Plan::Now);
    check(&[tolerate("a", None)], Plan::Now);
    check(&[tolerate("a", None), tolerate("b", None)], Plan::Stay);
    check(&[tolerate("", None)], Plan::Stay);
    check(&[tolerate("", Some(300))], Plan::Later(Duration::from_secs(200)));
    check(&[tolerate("a", None), tolerate("b", Some(300))], Plan::Later(Duration::from_secs(200)));
    check(&[tolerate("a", Some(150)), tolerate("b", Some(300))], Plan::Later(Duration::from_secs(50)));
    check(&[tolerate("", None), tolerate("b", Some(90))], Plan::Now);
    check(&[tolerate("", Some(-1))], Plan::Now);
    let equal = Toleration { operator: None, value: Some("x".to_owned()), ..tolerate("a", None) };
    check(&[equal, tolerate("b", None)], Plan::Now);
    let other = Toleration { effect: Some("NoSchedule".to_owned()), ..tolerate("", None) };
    check(&[other], Plan::Now);
}

fn node() -> Node {
    Node {
        metadata: ObjectMeta { name: Some("n".to_owned()), ..ObjectMeta::default() },
        spec: Some(NodeSpec::default()),
        status: None,
    }
}

/// Of another pod of the same name nothing was planned that could be cancelled.
#[tokio::test(start_paused = true)]
async fn a_pod_that_goes_early_waits_no_more() {
    let bench = Bench::start(&[Registered { name: NAME, run }]);
    let mut tainted = node();
    tainted.spec = Some(NodeSpec { taints: Some(vec![taint("lost", clock::now())]), ..NodeSpec::default() });
    bench.api.create(&tainted);
    for seconds in [Some(31_536_000), None] {
        let mut running = pod("p");
        run_on(&mut running, "n", "10.0.0.1", true);
        running.spec.as_mut().unwrap().tolerations = Some(vec![tolerate("lost", seconds)]);
        bench.api.create(&running);
        bench.quiet().await;
        bench.api.remove::<Pod>("ns", "p");
        bench.quiet().await;
    }
    bench.handle.shutdown().await;
    assert_eq!(bench.api.list::<Event>(), []);
}

#[tokio::test(start_paused = true)]
async fn a_pod_leaves_when_its_time_is_over_unless_the_taint_goes_first() {
    let bench = Bench::start(&[Registered { name: NAME, run }]);
    let api = &bench.api;
    api.create(&node());
    let mut running = pod("p");
    run_on(&mut running, "n", "10.0.0.1", true);
    running.spec.as_mut().unwrap().tolerations = Some(vec![tolerate("lost", Some(60))]);
    api.create(&running);
    let set = |taints: Vec<Taint>| {
        api.edit("", "n", |node: &mut Node| {
            node.spec = Some(NodeSpec { taints: Some(taints), ..NodeSpec::default() });
        });
    };
    let gone = || api.get::<Pod>("ns", "p").is_none_or(|pod| pod.metadata.deletion_timestamp.is_some());
    set(vec![taint("lost", clock::now())]);
    tokio::time::sleep(Duration::from_secs(30)).await;
    set(Vec::new());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!gone(), "the taint went in time");
    // As `kubectl taint` writes it: nothing says since when, and other changes of the node do not matter.
    let unsaid = |key: &str| Taint { time_added: None, ..taint(key, clock::now()) };
    set(vec![unsaid("lost")]);
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert!(!gone(), "it has ten seconds left");
    set(vec![unsaid("lost"), Taint { effect: "NoSchedule".to_owned(), ..unsaid("other") }]);
    tokio::time::sleep(Duration::from_secs(15)).await;
    eventually("it has to go", || gone().then_some(())).await;
    bench.handle.shutdown().await;
    let events = bench.api.list::<Event>();
    let told: Vec<_> = events.iter().map(|event| (event.message.as_deref(), event.count)).collect();
    let said = ["Cancelling deletion of Pod ns/p", "Marking for deletion Pod ns/p"];
    assert_eq!(told, said.map(|message| (Some(message), Some(1))));
}
