//! All controllers together on a fake API that misbehaves, with a pretended node.

use std::time::Duration;

use coracle_client::{
    Election, Informers, random,
    test_support::{FakeApi, eventually},
};
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Endpoints, Namespace, Pod, ReplicationController, Service, ServiceAccount},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::{Api, ResourceExt, api::DeleteParams};
use tokio_util::sync::CancellationToken;

use crate::{
    CONTROLLERS, Config, pods, start_some,
    testing::{Bench, chaos, namespace, replication_controller, run_on, service},
};

/// What a node would do: pods get an address and are ready; those being deleted end.
fn node(api: &FakeApi, addresses: &mut u32) {
    for pod in api.list::<Pod>() {
        let (home, name) = (pods::namespace(&pod.metadata).to_owned(), pod.name_any());
        if pod.metadata.deletion_timestamp.is_some() {
            api.remove::<Pod>(&home, &name);
        } else if !pods::is_ready(&pod) {
            *addresses += 1;
            let address = format!("10.0.{}.{}", *addresses / 250, *addresses % 250);
            api.edit(&home, &name, |pod: &mut Pod| run_on(pod, "n", &address, true));
        }
    }
}

fn endpoints(api: &FakeApi) -> (usize, usize) {
    let slices = api.list::<EndpointSlice>().iter().map(|slice| slice.endpoints.len()).sum();
    let whole = api.get::<Endpoints>("ns", "web").and_then(|endpoints| endpoints.subsets).unwrap_or_default();
    let whole = whole.iter().flat_map(|subset| &subset.addresses).map(Vec::len).sum();
    (slices, whole)
}

#[tokio::test(start_paused = true)]
async fn under_faults_a_namespace_lives_and_goes() {
    for seed in 0..3 {
        random::seed(seed);
        let bench = Bench::start(CONTROLLERS);
        let api = &bench.api;
        chaos(api, 5);
        api.create(&namespace("ns"));
        api.create(&service("web", IntOrString::Int(80)));
        api.create(&replication_controller("web", 4));
        let mut addresses = 0;
        for step in 0..100 {
            match random::below(15) {
                0 => api.cut_watches(),
                1 => api.compact(),
                2 => {
                    let wanted = i32::try_from(random::below(8)).expect("small");
                    api.edit("ns", "web", |controller: &mut ReplicationController| {
                        controller.spec.as_mut().expect("has one").replicas = Some(wanted);
                    });
                }
                _ if step % 3 == 0 => node(api, &mut addresses),
                _ => {}
            }
            tokio::time::sleep(Duration::from_millis(random::below(100))).await;
        }
        api.clear_faults();
        let wanted = api
            .get::<ReplicationController>("ns", "web")
            .and_then(|controller| controller.spec?.replicas)
            .and_then(|replicas| usize::try_from(replicas).ok());
        eventually("as many endpoints as pods", || {
            node(api, &mut addresses);
            (Some(api.list::<Pod>().len()) == wanted
                && wanted.map(|count| (count, count)) == Some(endpoints(api)))
            .then_some(())
        })
        .await;
        eventually("a service account", || api.get::<ServiceAccount>("ns", "default")).await;
        bench.quiet().await;

        chaos(api, 5);
        let homes: Api<Namespace> = Api::all(FakeApi::client(api));
        while homes.delete("ns", &DeleteParams::default()).await.is_err() {}
        tokio::time::sleep(Duration::from_secs(2)).await;
        api.clear_faults();
        eventually("the end", || {
            node(api, &mut addresses);
            api.get::<Namespace>("", "ns").is_none().then_some(())
        })
        .await;
        bench.quiet().await;
        assert_eq!((api.list::<Pod>().len(), api.list::<Service>().len()), (0, 0), "seed {seed}");
        let before = api.writes().len();
        bench.handle.shutdown().await;
        tokio::time::sleep(Duration::from_mins(2)).await;
        assert_eq!(bench.api.writes().len(), before, "seed {seed}: nothing is written after the end");
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_servers_one_runs_the_controllers() {
    let api = FakeApi::new();
    let start = |identity: &str| {
        let end = CancellationToken::new();
        let informers = Informers::new(api.client(), end.clone());
        let mut config = Config::new("10.128.0.0/9".parse().expect("a network"), "the CA".to_owned());
        config.lease = Some(Election::new("kube-controller-manager", identity));
        (start_some(CONTROLLERS, api.client(), &informers, config), end.drop_guard())
    };
    let (first, _end) = start("first");
    api.create(&namespace("ns"));
    api.create(&replication_controller("web", 3));
    let pods = |count: usize| {
        let api = api.clone();
        move || (api.list::<Pod>().len() == count).then_some(())
    };
    eventually("pods", pods(3)).await;
    let (second, _end) = start("second");
    tokio::time::sleep(Duration::from_mins(1)).await;
    let holder = || api.get::<Lease>("kube-system", "kube-controller-manager")?.spec?.holder_identity;
    assert_eq!(holder().as_deref(), Some("first"));
    first.shutdown().await;
    eventually("the second leads", || holder().filter(|holder| holder == "second")).await;
    api.remove::<Pod>("ns", &api.list::<Pod>()[0].name_any());
    eventually("a replacement", pods(3)).await;
    second.shutdown().await;
    assert_eq!(holder().as_deref(), Some(""), "given back");
}
