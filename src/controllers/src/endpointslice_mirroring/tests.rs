//! Endpoints that somebody wrote become slices, and nothing else does.

use coracle_client::test_support::eventually;
use k8s_openapi::{
    api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::*;
use crate::{
    Controller as Registered,
    testing::{Bench, labels, meta, service},
};

fn endpoints(addresses: &[&str]) -> Endpoints {
    let address = |ip: &&str| EndpointAddress { ip: (*ip).to_owned(), ..EndpointAddress::default() };
    let subset = EndpointSubset {
        addresses: Some(addresses.iter().map(address).collect()),
        ports: Some(vec![EndpointPort { port: 80, ..EndpointPort::default() }]),
        ..EndpointSubset::default()
    };
    Endpoints { metadata: meta("web"), subsets: Some(vec![subset]) }
}

fn plain() -> Service {
    let mut plain = service("web", IntOrString::Int(80));
    plain.spec.as_mut().unwrap().selector = None;
    plain
}

#[test]
fn plans() {
    #[track_caller]
    fn check(change: impl FnOnce(&mut Service, &mut Endpoints), expected: &[(&str, usize)]) {
        let (mut service, mut endpoints) =
            (plain(), endpoints(&["10.1.0.1", "fd00::1", "10.1.0.2", "nonsense"]));
        change(&mut service, &mut endpoints);
        let slices = wanted(Some(&service), Some(&endpoints));
        let found: Vec<_> =
            slices.iter().map(|(name, slice)| (name.as_str(), slice.endpoints.len())).collect();
        assert_eq!(found, expected);
    }
    check(|_, _| {}, &[("web-mirror-0-ipv4", 2), ("web-mirror-0-ipv6", 1)]);
    check(|service, _| service.spec.as_mut().unwrap().selector = Some(labels(&[("a", "b")])), &[]);
    let skip = labels(&[("endpointslice.kubernetes.io/skip-mirror", "true")]);
    check(|_, endpoints| endpoints.metadata.labels = Some(skip), &[]);
    check(|_, endpoints| endpoints.subsets = None, &[]);
    assert!(wanted(None, Some(&endpoints(&["10.1.0.1"]))).is_empty());
}

#[tokio::test(start_paused = true)]
async fn slices_follow_the_endpoints() {
    let bench = Bench::start(&[Registered { name: NAME, run }]);
    let api = &bench.api;
    api.create(&plain());
    api.create(&endpoints(&["10.1.0.1"]));
    let addresses = || -> Vec<String> {
        api.list::<EndpointSlice>()
            .into_iter()
            .flat_map(|slice| slice.endpoints)
            .flat_map(|one| one.addresses)
            .collect()
    };
    eventually("the slice", || (addresses() == ["10.1.0.1"]).then_some(())).await;
    api.edit("ns", "web", |web: &mut Endpoints| web.subsets = endpoints(&["10.1.0.2", "fd00::1"]).subsets);
    eventually("it follows", || (addresses() == ["10.1.0.2", "fd00::1"]).then_some(())).await;
    api.remove::<Endpoints>("ns", "web");
    eventually("it goes", || addresses().is_empty().then_some(())).await;
    bench.quiet().await;
}
