//! What the controllers' tests share: objects with few words, and a running controller on a fake API.

use std::{collections::BTreeMap, time::Duration};

use coracle_client::{Informers, clock, random, test_support::FakeApi, test_support::Fault};
use k8s_openapi::{
    api::core::v1::{
        Container, Namespace, PersistentVolumeClaimVolumeSource, Pod, PodCondition, PodIP, PodSpec,
        PodStatus, PodTemplateSpec, ReplicationController, ReplicationControllerSpec, Service, ServicePort,
        ServiceSpec, Volume,
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta, Time},
        util::intstr::IntOrString,
    },
};
use tokio_util::sync::CancellationToken;

use crate::{Config, Controller, Handle};

pub(crate) fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

pub(crate) fn meta(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), namespace: Some("ns".to_owned()), ..ObjectMeta::default() }
}

/// A pod labelled `app=web` that has not started.
pub(crate) fn pod(name: &str) -> Pod {
    let container = Container { name: "main".to_owned(), ..Container::default() };
    Pod {
        metadata: ObjectMeta { labels: Some(labels(&[("app", "web")])), ..meta(name) },
        spec: Some(PodSpec { containers: vec![container], ..PodSpec::default() }),
        status: None,
    }
}

/// Has a pod use a claim.
pub(crate) fn claim(pod: &mut Pod, name: &str) {
    let source = PersistentVolumeClaimVolumeSource { claim_name: name.to_owned(), read_only: None };
    let volume =
        Volume { name: "data".to_owned(), persistent_volume_claim: Some(source), ..Volume::default() };
    pod.spec.get_or_insert_default().volumes = Some(vec![volume]);
}

/// Makes a pod run on `node` with an address, ready or not.
pub(crate) fn run_on(pod: &mut Pod, node: &str, address: &str, ready: bool) {
    pod.spec.get_or_insert_default().node_name = Some(node.to_owned());
    pod.status = Some(PodStatus {
        phase: Some("Running".to_owned()),
        pod_ip: Some(address.to_owned()),
        pod_ips: Some(vec![PodIP { ip: address.to_owned() }]),
        conditions: Some(vec![PodCondition {
            type_: "Ready".to_owned(),
            status: if ready { "True" } else { "False" }.to_owned(),
            last_transition_time: Some(Time(clock::seconds(clock::now()))),
            ..PodCondition::default()
        }]),
        ..PodStatus::default()
    });
}

/// A replication controller of pods labelled `app=web`.
pub(crate) fn replication_controller(name: &str, replicas: i32) -> ReplicationController {
    let template = PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels(&[("app", "web")])), ..ObjectMeta::default() }),
        spec: pod("").spec,
    };
    ReplicationController {
        metadata: meta(name),
        spec: Some(ReplicationControllerSpec {
            replicas: Some(replicas),
            selector: Some(labels(&[("app", "web")])),
            template: Some(template),
            min_ready_seconds: None,
        }),
        status: None,
    }
}

/// A template of pods labelled `app=web`; `version` tells templates apart.
pub(crate) fn template(version: &str) -> PodTemplateSpec {
    let container =
        Container { name: "main".to_owned(), image: Some(version.to_owned()), ..Container::default() };
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels(&[("app", "web")])), ..ObjectMeta::default() }),
        spec: Some(PodSpec { containers: vec![container], ..PodSpec::default() }),
    }
}

/// Selects pods labelled `app=web`.
pub(crate) fn selector() -> LabelSelector {
    LabelSelector { match_labels: Some(labels(&[("app", "web")])), ..LabelSelector::default() }
}

/// What a node would do: pods that are not being deleted run and are ready; the others end.
pub(crate) fn node(api: &FakeApi) {
    for pod in api.list::<Pod>() {
        let (home, name) = (crate::pods::namespace(&pod.metadata), crate::pods::name(&pod.metadata));
        if pod.metadata.deletion_timestamp.is_some() {
            api.remove::<Pod>(home, name);
        } else if !crate::pods::is_ready(&pod) {
            api.edit(home, name, |pod: &mut Pod| run_on(pod, "n", "10.0.0.1", true));
        }
    }
}

/// A service of pods labelled `app=web`.
pub(crate) fn service(name: &str, target: IntOrString) -> Service {
    let port = ServicePort { port: 80, target_port: Some(target), ..ServicePort::default() };
    Service {
        metadata: meta(name),
        spec: Some(ServiceSpec {
            selector: Some(labels(&[("app", "web")])),
            ports: Some(vec![port]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

pub(crate) fn namespace(name: &str) -> Namespace {
    Namespace {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        ..Namespace::default()
    }
}

/// Some controllers, running on a fake API.
pub(crate) struct Bench {
    pub(crate) api: FakeApi,
    pub(crate) handle: Handle,
    pub(crate) informers: Informers,
    _end: tokio_util::sync::DropGuard,
}

impl Bench {
    pub(crate) fn start(controllers: &[Controller]) -> Self {
        Self::start_on(FakeApi::new(), controllers)
    }

    pub(crate) fn start_on(api: FakeApi, controllers: &[Controller]) -> Self {
        let end = CancellationToken::new();
        let informers = Informers::new(api.client(), end.clone());
        let cidr = "10.128.0.0/9".parse().expect("a network");
        let config = Config::new(cidr, "the CA".to_owned());
        let handle = crate::start_some(controllers, api.client(), &informers, config);
        Bench { api, handle, informers, _end: end.drop_guard() }
    }

    /// Lets time pass until no write was tried for longer than any backoff; panics if that takes an hour.
    #[track_caller]
    pub(crate) fn quiet(&self) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        let api = self.api.clone();
        async move {
            let deadline = tokio::time::Instant::now() + Duration::from_hours(1);
            loop {
                let before = api.writes().len();
                tokio::time::sleep(Duration::from_secs(90)).await;
                if api.writes().len() == before {
                    return;
                }
                assert!(tokio::time::Instant::now() < deadline, "never quiet ({caller})");
            }
        }
    }
}

/// Faults of every kind, about one call in `rarity`; what they are follows from the seed of this thread.
pub(crate) fn chaos(api: &FakeApi, rarity: u64) {
    api.set_faults(move |call| {
        if random::below(rarity) != 0 {
            return None;
        }
        Some(match random::below(6) {
            0 => Fault::Refuse(500, "InternalError"),
            1 => Fault::Refuse(429, "TooManyRequests"),
            2 if call.method != "GET" => Fault::Refuse(409, "Conflict"),
            2 => Fault::Refuse(410, "Expired"),
            3 => Fault::Delay(Duration::from_millis(random::below(300))),
            4 if call.watch => Fault::CutAfter(usize::try_from(random::below(5)).unwrap_or(0)),
            _ => Fault::LoseReply,
        })
    });
}
