//! Plans in short form, and the running controller.

use coracle_client::test_support::eventually;
use k8s_openapi::{api::core::v1::ContainerPort, apimachinery::pkg::util::intstr::IntOrString};

use super::{plan::*, *};
use crate::{
    Controller as Registered,
    testing::{Bench, labels, pod, run_on, service},
};

const ONLY: &[Registered] = &[Registered { name: NAME, run }];

/// Subsets as `ready|not ready:ports`, separated by blanks.
fn short(endpoints: &Endpoints) -> String {
    let ips = |list: &Option<Vec<k8s_openapi::api::core::v1::EndpointAddress>>| {
        list.iter().flatten().map(|address| address.ip.clone()).collect::<Vec<_>>().join(",")
    };
    let subsets = endpoints.subsets.iter().flatten().map(|subset| {
        let ports: Vec<_> = subset
            .ports
            .iter()
            .flatten()
            .map(|port| {
                format!(
                    "{}{}",
                    port.name.as_deref().map_or(String::new(), |name| format!("{name}=")),
                    port.port
                )
            })
            .collect();
        format!("{}|{}:{}", ips(&subset.addresses), ips(&subset.not_ready_addresses), ports.join(","))
    });
    subsets.collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn check(service: &Service, pods: Vec<Pod>, expected: &str) {
    let pods: Vec<_> = pods.into_iter().map(Arc::new).collect();
    let got = match plan(&Observed { service: Some(service), pods: &pods, current: None }) {
        Plan::Create(new) => short(&new),
        other => format!("{other:?}"),
    };
    assert_eq!(got, expected);
}

fn running(name: &str, address: &str, ready: bool) -> Pod {
    let mut pod = pod(name);
    run_on(&mut pod, "n", address, ready);
    pod
}

#[test]
fn addresses_are_grouped_by_ports_and_readiness() {
    let plain = service("web", IntOrString::Int(8080));
    check(&plain, vec![], "");
    check(
        &plain,
        vec![running("b", "10.0.0.2", true), running("a", "10.0.0.1", true)],
        "10.0.0.1,10.0.0.2|:8080",
    );
    check(
        &plain,
        vec![running("a", "10.0.0.1", true), running("b", "10.0.0.2", false)],
        "10.0.0.1|10.0.0.2:8080",
    );
    let mut other = running("a", "10.0.0.1", true);
    other.metadata.labels = Some(labels(&[("app", "other")]));
    let mut ended = running("b", "10.0.0.2", true);
    ended.status.as_mut().unwrap().phase = Some("Succeeded".to_owned());
    let mut going = running("c", "10.0.0.3", true);
    going.metadata.deletion_timestamp = Some(coracle_client::clock::time());
    check(&plain, vec![other, ended, going.clone(), pod("no-address")], "");
    let mut eager = plain;
    eager.spec.as_mut().unwrap().publish_not_ready_addresses = Some(true);
    check(&eager, vec![running("a", "10.0.0.1", false), going], "10.0.0.1,10.0.0.3|:8080");
}

#[test]
fn named_ports_are_found_in_each_pod() {
    let named = service("web", IntOrString::String("http".to_owned()));
    let with_port = |name: &str, address: &str, port: i32, protocol: &str| {
        let mut pod = running(name, address, true);
        pod.spec.as_mut().unwrap().containers[0].ports = Some(vec![ContainerPort {
            name: Some("http".to_owned()),
            container_port: port,
            protocol: Some(protocol.to_owned()),
            ..ContainerPort::default()
        }]);
        pod
    };
    let pods = vec![
        with_port("a", "10.0.0.1", 80, "TCP"),
        with_port("b", "10.0.0.2", 81, "TCP"),
        with_port("c", "10.0.0.3", 82, "UDP"),
        running("d", "10.0.0.4", true),
    ];
    check(&named, pods, "10.0.0.1|:80 10.0.0.2|:81");
}

#[test]
fn headless_services_need_no_ports() {
    let mut headless = service("web", IntOrString::Int(0));
    let spec = headless.spec.as_mut().unwrap();
    spec.ports = None;
    check(&headless, vec![running("a", "10.0.0.1", true)], "");
    headless.spec.as_mut().unwrap().cluster_ip = Some("None".to_owned());
    check(&headless, vec![running("a", "10.0.0.1", true)], "10.0.0.1|:");
}

#[test]
fn more_than_a_thousand_are_truncated() {
    let pods: Vec<_> = (0..1100)
        .map(|n| Arc::new(running(&format!("p{n}"), &format!("10.0.{}.{}", n / 250, n % 250), n % 2 == 0)))
        .collect();
    let service = service("web", IntOrString::Int(80));
    let Plan::Create(new) = plan(&Observed { service: Some(&service), pods: &pods, current: None }) else {
        panic!("created");
    };
    let subset = &new.subsets.as_ref().unwrap()[0];
    assert_eq!(subset.addresses.as_ref().map(Vec::len), Some(550));
    assert_eq!(subset.not_ready_addresses.as_ref().map(Vec::len), Some(450));
    assert_eq!(new.metadata.annotations.unwrap()["endpoints.kubernetes.io/over-capacity"], "truncated");
}

#[test]
fn what_is_right_is_left_alone() {
    let service = service("web", IntOrString::Int(80));
    let pods = [Arc::new(running("a", "10.0.0.1", true))];
    let Plan::Create(new) = plan(&Observed { service: Some(&service), pods: &pods, current: None }) else {
        panic!("created");
    };
    let observed = Observed { service: Some(&service), pods: &pods, current: Some(&new) };
    assert_eq!(plan(&observed), Plan::Nothing);
    assert!(matches!(plan(&Observed { pods: &[], ..observed }), Plan::Update(_)));
    assert!(matches!(plan(&Observed { service: None, ..observed }), Plan::Delete { .. }));
    let by_hand = Endpoints::default();
    assert_eq!(plan(&Observed { service: None, pods: &[], current: Some(&by_hand) }), Plan::Nothing);
    let mut without = service.clone();
    without.spec.as_mut().unwrap().selector = None;
    assert_eq!(plan(&Observed { service: Some(&without), pods: &pods, current: None }), Plan::Nothing);
}

#[tokio::test(start_paused = true)]
async fn endpoints_follow_pods() {
    let bench = Bench::start(ONLY);
    bench.api.create(&service("web", IntOrString::Int(80)));
    bench.api.create(&pod("a"));
    let now = || bench.api.get::<Endpoints>("ns", "web").map(|endpoints| short(&endpoints));
    eventually("empty endpoints", || now().filter(String::is_empty)).await;
    bench.quiet().await;
    let start = tokio::time::Instant::now();
    bench.api.edit("ns", "a", |pod: &mut Pod| run_on(pod, "n", "10.0.0.1", true));
    eventually("an address", || now().filter(|text| text == "10.0.0.1|:80")).await;
    assert!(start.elapsed() < Duration::from_millis(10), "{:?}", start.elapsed());
    bench.api.remove::<Endpoints>("ns", "web");
    eventually("repair", || now().filter(|text| text == "10.0.0.1|:80")).await;
    bench.api.remove::<Service>("ns", "web");
    eventually("the end", || now().is_none().then_some(())).await;
}
