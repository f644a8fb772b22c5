//! Live copies of what the page shows, and which rows a change makes stale.

use std::collections::BTreeSet;

use coracle_client::{Delta, Deltas, Informer, Informers, Key, Object};
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
    autoscaling::v2::HorizontalPodAutoscaler,
    batch::v1::{CronJob, Job},
    core::v1::{Event, Namespace, Node, PersistentVolumeClaim, Pod, ReplicationController, Service},
    discovery::v1::EndpointSlice,
};

/// The label that names a slice's service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The index of slices by service.
pub(crate) const SLICES_OF: &str = "dashboard/service";

/// What a row is about. Later ones depend on earlier ones, so they are brought up to date in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum About {
    Namespace,
    Service,
    Deployment,
    StatefulSet,
    DaemonSet,
    ReplicaSet,
    ReplicationController,
    Job,
    CronJob,
    Autoscaler,
    Claim,
    Pod,
    Node,
    Event,
}

/// A row.
pub(crate) type Mark = (About, Key);

/// An informer and its news.
pub(crate) struct Source<K> {
    pub(crate) informer: Informer<K>,
    deltas: Deltas<K>,
}

/// The rows that may have changed with an object.
trait Marks {
    fn mark(&self, stale: &mut BTreeSet<Mark>);
}

macro_rules! sources {
    ($($field:ident: $kind:ty),* $(,)?) => {
        /// Live copies of what the page shows. The informers are the process's; so are the copies.
        pub(crate) struct Sources {
            $(pub(crate) $field: Source<$kind>,)*
        }

        impl Sources {
            pub(crate) fn new(informers: &Informers) -> Sources {
                let sources = Sources { $($field: Source::new(informers),)* };
                sources.slices.informer.add_index(SLICES_OF, |slice| {
                    service_of(slice).map(|key| key.to_string()).into_iter().collect()
                });
                sources
            }

            /// Waits until all of them are complete.
            pub(crate) async fn synced(&self) {
                tokio::join!($(self.$field.informer.synced()),*);
            }

            /// Waits for a change and notes what is stale with it. May be abandoned at any time.
            pub(crate) async fn changed(&mut self, stale: &mut BTreeSet<Mark>) {
                tokio::select! {
                    $(Some(delta) = self.$field.deltas.next() => note(&delta, stale),)*
                    else => std::future::pending().await,
                }
            }

            /// Takes what has changed without waiting.
            pub(crate) fn drain(&mut self, stale: &mut BTreeSet<Mark>) {
                $(while let Some(delta) = self.$field.deltas.try_next() {
                    note(&delta, stale);
                })*
            }
        }
    };
}

sources! {
    namespaces: Namespace,
    services: Service,
    slices: EndpointSlice,
    deployments: Deployment,
    stateful_sets: StatefulSet,
    daemon_sets: DaemonSet,
    replica_sets: ReplicaSet,
    controllers: ReplicationController,
    jobs: Job,
    cron_jobs: CronJob,
    autoscalers: HorizontalPodAutoscaler,
    claims: PersistentVolumeClaim,
    pods: Pod,
    nodes: Node,
    events: Event,
}

impl<K: Object<DynamicType = ()>> Source<K> {
    fn new(informers: &Informers) -> Self {
        let informer = informers.get::<K>();
        let deltas = informer.subscribe();
        Source { informer, deltas }
    }
}

fn note<K: Marks>(delta: &Delta<K>, stale: &mut BTreeSet<Mark>) {
    match delta {
        Delta::Added(object) | Delta::Deleted(object) => object.mark(stale),
        Delta::Updated { old, new } => {
            old.mark(stale);
            new.mark(stale);
        }
    }
}

fn service_of(slice: &EndpointSlice) -> Option<Key> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(Key::new(slice.metadata.namespace.as_deref().unwrap_or_default(), name))
}

/// The row that an event is about.
pub(crate) fn about(event: &Event) -> Option<Mark> {
    let object = &event.involved_object;
    let about = match object.kind.as_deref()? {
        "Pod" => About::Pod,
        "Service" => About::Service,
        "Node" => About::Node,
        "Deployment" => About::Deployment,
        "StatefulSet" => About::StatefulSet,
        "DaemonSet" => About::DaemonSet,
        "ReplicaSet" => About::ReplicaSet,
        "ReplicationController" => About::ReplicationController,
        "Job" => About::Job,
        "CronJob" => About::CronJob,
        "HorizontalPodAutoscaler" => About::Autoscaler,
        "PersistentVolumeClaim" => About::Claim,
        _ => return None,
    };
    Some((about, Key::new(object.namespace.as_deref().unwrap_or_default(), object.name.as_deref()?)))
}

impl Marks for EndpointSlice {
    fn mark(&self, stale: &mut BTreeSet<Mark>) {
        stale.extend(service_of(self).map(|service| (About::Service, service)));
    }
}

macro_rules! marks_its_row {
    ($($kind:ty => $about:ident),* $(,)?) => {$(
        impl Marks for $kind {
            fn mark(&self, stale: &mut BTreeSet<Mark>) {
                stale.insert((About::$about, Key::of(&self.metadata)));
            }
        }
    )*};
}

marks_its_row! {
    Namespace => Namespace,
    Service => Service,
    Deployment => Deployment,
    StatefulSet => StatefulSet,
    DaemonSet => DaemonSet,
    ReplicaSet => ReplicaSet,
    ReplicationController => ReplicationController,
    Job => Job,
    CronJob => CronJob,
    HorizontalPodAutoscaler => Autoscaler,
    PersistentVolumeClaim => Claim,
    Pod => Pod,
    Node => Node,
    Event => Event,
}
