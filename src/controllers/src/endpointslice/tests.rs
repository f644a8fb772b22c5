//! Plans replayed on slices, and the running controller with many pods.

use std::collections::BTreeMap;

use coracle_client::{random, test_support::eventually};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proptest::prelude::*;

use super::*;
use crate::{
    Controller as Registered,
    testing::{Bench, chaos, pod, run_on, service},
};

const ONLY: &[Registered] = &[Registered { name: NAME, run }];

fn running(index: usize, ready: bool) -> Pod {
    let mut pod = pod(&format!("p{index}"));
    pod.metadata.uid = Some(format!("uid-{index}"));
    run_on(&mut pod, "n", &format!("10.0.{}.{}", index / 250, index % 250), ready);
    pod
}

fn web() -> Service {
    let mut service = service("web", IntOrString::Int(80));
    service.metadata.uid = Some("service".to_owned());
    service
}

fn nowhere(_: &str) -> Option<String> {
    None
}

/// The plan where nodes are in no zone.
fn look(service: Option<&Service>, pods: &[Arc<Pod>], slices: &[Arc<EndpointSlice>]) -> Plan {
    plan(&Observed { service, pods, slices, zone: &nowhere, capacity: None })
}

/// Does what the plan says, as the API would.
fn apply(slices: &mut Vec<Arc<EndpointSlice>>, plan: Plan, names: &mut usize) {
    for mut new in plan.create {
        *names += 1;
        new.metadata.name = Some(format!("web-{names}"));
        slices.push(Arc::new(new));
    }
    for new in plan.update {
        let at = slices.iter().position(|slice| slice.metadata.name == new.metadata.name).expect("it exists");
        slices[at] = Arc::new(new);
    }
    for gone in plan.delete {
        slices.retain(|slice| slice.metadata.name != gone.metadata.name);
    }
}

#[test]
fn conditions_tell_ready_serving_and_terminating() {
    let conditions = |ready: bool, going: bool, eager: bool| {
        let mut service = web();
        service.spec.as_mut().unwrap().publish_not_ready_addresses = Some(eager);
        let mut pod = running(1, ready);
        pod.metadata.deletion_timestamp = going.then(coracle_client::clock::time);
        let plan = look(Some(&service), &[Arc::new(pod)], &[]);
        let conditions = plan.create[0].endpoints[0].conditions.clone().unwrap();
        (conditions.ready.unwrap(), conditions.serving.unwrap(), conditions.terminating.unwrap())
    };
    assert_eq!(conditions(true, false, false), (true, true, false));
    assert_eq!(conditions(false, false, false), (false, false, false));
    assert_eq!(conditions(true, true, false), (false, true, true));
    assert_eq!(conditions(false, false, true), (true, false, false));
}

/// With `trafficDistribution: PreferClose` each endpoint is for its own zone, if its node is in one.
#[test]
fn endpoints_say_where_they_are_and_whom_they_are_for() {
    let check = |distribution: Option<&str>, zone: Option<&str>, hint: Option<&str>| {
        let mut service = web();
        service.spec.as_mut().unwrap().traffic_distribution = distribution.map(str::to_owned);
        let of_node = |node: &str| zone.filter(|_| node == "n").map(str::to_owned);
        let pods = [Arc::new(running(1, true))];
        let plan = plan(&Observed {
            service: Some(&service),
            pods: &pods,
            slices: &[],
            zone: &of_node,
            capacity: None,
        });
        let endpoint = &plan.create[0].endpoints[0];
        assert_eq!(endpoint.zone.as_deref(), zone);
        let hints = endpoint.hints.as_ref().map(|hints| hints.for_zones.as_ref().unwrap()[0].name.as_str());
        assert_eq!(hints, hint, "{distribution:?} {zone:?}");
    };
    check(None, None, None);
    check(None, Some("a"), None);
    check(Some("PreferClose"), Some("a"), Some("a"));
    check(Some("PreferClose"), None, None);
}

#[test]
fn slices_are_made_as_kubernetes_makes_them() {
    let plan = look(Some(&web()), &[Arc::new(running(1, true))], &[]);
    let text = serde_json::to_value(&plan.create).unwrap();
    let expected = serde_json::json!([{
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "generateName": "web-",
            "namespace": "ns",
            "labels": {
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": "web",
            },
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Service", "name": "web", "uid": "service",
                "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "addressType": "IPv4",
        "endpoints": [{
            "addresses": ["10.0.0.1"],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": "n",
            "targetRef": {"kind": "Pod", "namespace": "ns", "name": "p1", "uid": "uid-1"},
        }],
        "ports": [{"name": "", "port": 80, "protocol": "TCP"}],
    }]);
    assert_eq!(text, expected);
}

#[test]
fn a_service_without_endpoints_keeps_one_empty_slice() {
    let (mut slices, mut names) = (Vec::new(), 0);
    let service = web();
    apply(&mut slices, look(Some(&service), &[], &[]), &mut names);
    assert_eq!((slices.len(), slices[0].endpoints.len()), (1, 0));
    let again = look(Some(&service), &[], &slices);
    assert_eq!((again.create.len(), again.update.len(), again.delete.len()), (0, 0, 0));
    let gone = look(None, &[], &slices);
    assert_eq!(gone.delete.len(), 1);
}

#[test]
fn one_change_is_one_write() {
    let (mut slices, mut names) = (Vec::new(), 0);
    let service = web();
    let mut pods: Vec<_> = (0..250).map(|index| Arc::new(running(index, true))).collect();
    apply(&mut slices, look(Some(&service), &pods, &[]), &mut names);
    let sizes: Vec<_> = slices.iter().map(|slice| slice.endpoints.len()).collect();
    assert_eq!(sizes, [100, 100, 50]);
    pods[7] = Arc::new(running(7, false));
    let change = look(Some(&service), &pods, &slices);
    assert_eq!((change.create.len(), change.update.len(), change.delete.len()), (0, 1, 0));
    apply(&mut slices, change, &mut names);
    // One goes from a full slice, another comes: it takes its place.
    pods[8] = Arc::new(running(300, true));
    let change = look(Some(&service), &pods, &slices);
    assert_eq!((change.create.len(), change.update.len(), change.delete.len()), (0, 1, 0));
}

proptest! {
    /// However pods come and go, the slices hold each endpoint exactly once, none is too full, none is
    /// empty without need, and a second look finds nothing to do.
    #[test]
    fn slices_hold_every_endpoint_once(
        steps in proptest::collection::vec(proptest::collection::btree_map(0_usize..400, any::<bool>(), 0..330), 1..6),
    ) {
        let (mut slices, mut names) = (Vec::new(), 0);
        let service = web();
        for step in steps {
            let pods: Vec<_> = step.iter().map(|(index, ready)| Arc::new(running(*index, *ready))).collect();
            let first = look(Some(&service), &pods, &slices);
            apply(&mut slices, first, &mut names);
            let mut found: BTreeMap<String, bool> = BTreeMap::new();
            for slice in &slices {
                prop_assert!(slice.endpoints.len() <= 100);
                prop_assert!(!slice.endpoints.is_empty() || slices.len() == 1);
                for endpoint in &slice.endpoints {
                    let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready);
                    let twice = found.insert(endpoint.addresses[0].clone(), ready == Some(true));
                    prop_assert_eq!(twice, None);
                }
            }
            let expected: BTreeMap<_, _> = step
                .iter()
                .map(|(index, ready)| (format!("10.0.{}.{}", index / 250, index % 250), *ready))
                .collect();
            prop_assert_eq!(found, expected);
            let again = look(Some(&service), &pods, &slices);
            prop_assert_eq!((again.create.len(), again.update.len(), again.delete.len()), (0, 0, 0));
        }
    }
}

/// A node of a zone, with so many CPUs.
fn node_of(name: &str, zone: &str, cpu: &str) -> Node {
    let object = serde_json::json!({
        "metadata": {"name": name, "labels": {ZONE: zone}},
        "status": {"conditions": [{"type": "Ready", "status": "True"}], "allocatable": {"cpu": cpu}},
    });
    serde_json::from_value(object).unwrap()
}

proptest! {
    /// Wherever pods are, hints by the zones' CPU are given to all that are ready or to none, and a second look finds
    /// nothing to do.
    #[test]
    fn hints_are_for_all_and_stay(
        steps in proptest::collection::vec(proptest::collection::btree_map(0_usize..250, any::<bool>(), 0..240), 1..4),
        cpus in proptest::collection::vec(1_u8..9, 2..4),
    ) {
        let (mut slices, mut names) = (Vec::new(), 0);
        let zones: Vec<String> = (0..cpus.len()).map(|zone| format!("z{zone}")).collect();
        let nodes: Vec<_> =
            zones.iter().zip(&cpus).map(|(zone, cpu)| Arc::new(node_of(zone, zone, &cpu.to_string()))).collect();
        let capacity = Capacity::of(&nodes);
        let zone = |node: &str| Some(node.to_owned());
        let service = auto(web());
        for step in steps {
            let on = |(index, ready): (&usize, &bool)| {
                let mut pod = running(*index, *ready);
                pod.spec.as_mut().unwrap().node_name = Some(zones[index * index % 7 % zones.len()].clone());
                Arc::new(pod)
            };
            let pods: Vec<_> = step.iter().map(on).collect();
            let look = |slices: &[Arc<EndpointSlice>]| {
                let capacity = Some(&capacity);
                plan(&Observed { service: Some(&service), pods: &pods, slices, zone: &zone, capacity })
            };
            let first = look(&slices);
            let outcome = first.hints["IPv4"].clone();
            apply(&mut slices, first, &mut names);
            for endpoint in slices.iter().flat_map(|slice| &slice.endpoints) {
                prop_assert_eq!(endpoint.hints.is_some(), outcome.is_ok() && hints::is_ready(endpoint));
            }
            let again = look(&slices);
            prop_assert_eq!((again.create.len(), again.update.len(), again.delete.len()), (0, 0, 0));
            prop_assert_eq!(again.hints["IPv4"].clone(), outcome);
        }
    }
}

fn auto(mut service: Service) -> Service {
    let mode = ("service.kubernetes.io/topology-mode".to_owned(), "Auto".to_owned());
    service.metadata.annotations = Some(BTreeMap::from([mode]));
    service
}

/// Hints come when the zones allow them and go with the annotation, each time with an event.
#[tokio::test(start_paused = true)]
async fn hints_by_cpu_come_and_go() {
    let bench = Bench::start(ONLY);
    bench.api.create(&auto(service("web", IntOrString::Int(80))));
    bench.api.create(&node_of("a", "a", "2"));
    for (index, node) in ["a", "a", "b", "b"].into_iter().enumerate() {
        let mut pod = running(index, true);
        run_on(&mut pod, node, &format!("10.0.0.{index}"), true);
        bench.api.create(&pod);
    }
    let hints = || {
        let slices = bench.api.list::<EndpointSlice>();
        let zones = slices.iter().flat_map(|slice| &slice.endpoints).filter_map(|endpoint| {
            endpoint.hints.as_ref()?.for_zones.as_ref()?.first().map(|zone| zone.name.clone())
        });
        zones.collect::<String>()
    };
    let told = |words: &str| {
        let events = bench.api.list::<k8s_openapi::api::core::v1::Event>();
        events.iter().any(|event| event.message.as_deref() == Some(words)).then_some(())
    };
    let no_nodes = "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes, addressType: IPv4";
    eventually("why there are none", || told(no_nodes)).await;
    assert_eq!(hints(), "");
    bench.api.create(&node_of("b", "b", "2"));
    eventually("hints", || (hints() == "aabb").then_some(())).await;
    eventually("the event", || told("Topology Aware Hints has been enabled, addressType: IPv4")).await;
    bench.api.edit("", "b", |node: &mut Node| {
        *node.status.as_mut().unwrap() = node_of("b", "b", "6").status.unwrap();
    });
    // Three of four are for the zone with three quarters of the CPU.
    eventually("other hints", || (hints().matches('b').count() == 3).then_some(())).await;
    bench.api.edit("ns", "web", |service: &mut Service| service.metadata.annotations = None);
    eventually("no hints", || hints().is_empty().then_some(())).await;
    eventually("the event", || told("Topology Aware Hints has been disabled, addressType: IPv4")).await;
}

fn ready_endpoints(bench: &Bench) -> Vec<String> {
    let slices = bench.api.list::<EndpointSlice>();
    let ready = slices.iter().flat_map(|slice| &slice.endpoints).filter(|endpoint| {
        endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) == Some(true)
    });
    let mut addresses: Vec<_> = ready.flat_map(|endpoint| endpoint.addresses.clone()).collect();
    addresses.sort();
    addresses
}

#[tokio::test(start_paused = true)]
async fn a_quiet_service_follows_within_milliseconds() {
    let bench = Bench::start(ONLY);
    bench.api.create(&service("web", IntOrString::Int(80)));
    bench.api.create(&running(1, false));
    eventually("the slice", || (!bench.api.list::<EndpointSlice>().is_empty()).then_some(())).await;
    bench.quiet().await;
    let start = tokio::time::Instant::now();
    bench.api.edit("ns", "p1", |pod: &mut Pod| run_on(pod, "n", "10.0.0.1", true));
    eventually("an endpoint", || (ready_endpoints(&bench).len() == 1).then_some(())).await;
    assert!(start.elapsed() < Duration::from_millis(10), "{:?}", start.elapsed());
}

/// A node that is put into another zone takes its endpoints with it.
#[tokio::test(start_paused = true)]
async fn endpoints_follow_their_node_into_its_zone() {
    let bench = Bench::start(ONLY);
    let node = Node {
        metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
            name: Some("n".to_owned()),
            ..Default::default()
        },
        ..Node::default()
    };
    bench.api.create(&node);
    bench.api.create(&service("web", IntOrString::Int(80)));
    bench.api.create(&running(1, true));
    eventually("an endpoint", || (ready_endpoints(&bench).len() == 1).then_some(())).await;
    bench.api.edit("", "n", |node: &mut Node| {
        node.metadata.labels = Some(BTreeMap::from([(ZONE.to_owned(), "a".to_owned())]));
    });
    let zone = || bench.api.list::<EndpointSlice>().first()?.endpoints.first()?.zone.clone();
    eventually("its zone", || zone().filter(|zone| zone == "a")).await;
}

#[tokio::test(start_paused = true)]
async fn a_thousand_pods_that_become_ready_are_not_a_thousand_rewrites() {
    let bench = Bench::start(ONLY);
    bench.api.create(&service("web", IntOrString::Int(80)));
    for index in 0..1000 {
        bench.api.create(&running(index, false));
    }
    eventually("ten slices", || (bench.api.list::<EndpointSlice>().len() == 10).then_some(())).await;
    bench.quiet().await;
    bench.api.forget_calls();
    for index in 0..1000 {
        let (name, address) = (format!("p{index}"), format!("10.0.{}.{}", index / 250, index % 250));
        bench.api.edit("ns", &name, |pod: &mut Pod| run_on(pod, "n", &address, true));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    eventually("all ready", || (ready_endpoints(&bench).len() == 1000).then_some(())).await;
    let writes = bench.api.writes().len();
    assert!(writes < 200, "{writes} writes");
}

#[tokio::test(start_paused = true)]
async fn under_faults_slices_converge() {
    for seed in 0..4 {
        random::seed(seed);
        let bench = Bench::start(ONLY);
        chaos(&bench.api, 4);
        bench.api.create(&service("web", IntOrString::Int(80)));
        for _ in 0..80 {
            let index = usize::try_from(random::below(20)).expect("small");
            match bench.api.get::<Pod>("ns", &format!("p{index}")) {
                Some(_) if random::below(2) == 0 => {
                    bench.api.remove::<Pod>("ns", &format!("p{index}"));
                }
                Some(_) => {
                    let ready = random::below(2) == 0;
                    let address = format!("10.0.0.{index}");
                    bench
                        .api
                        .edit("ns", &format!("p{index}"), |pod: &mut Pod| run_on(pod, "n", &address, ready));
                }
                None => {
                    bench.api.create(&running(index, random::below(2) == 0));
                }
            }
            match random::below(15) {
                0 => bench.api.cut_watches(),
                1 => bench.api.compact(),
                _ => {}
            }
            tokio::time::sleep(Duration::from_millis(random::below(60))).await;
        }
        bench.api.clear_faults();
        bench.quiet().await;
        let mut expected: Vec<_> = bench
            .api
            .list::<Pod>()
            .iter()
            .filter(|pod| pods::is_ready(pod))
            .filter_map(|pod| pod.status.as_ref()?.pod_ip.clone())
            .collect();
        expected.sort();
        assert_eq!(ready_endpoints(&bench), expected, "seed {seed}");
        assert_eq!(bench.api.list::<EndpointSlice>().len(), 1, "seed {seed}");
    }
}
