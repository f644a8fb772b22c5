//! Where the objects that quotas count come from: informers, of those kinds alone that some quota names.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use coracle_client::{Delta, During, Informer, Key, Object, ReconcileError, WorkQueue};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{
    ConfigMap, PersistentVolumeClaim, Pod, ReplicationController, ResourceQuota, Service,
};
use kube::core::ApiResource;
use serde::Serialize;
use serde_json::Value;
use tokio::{
    sync::Mutex,
    task::{AbortHandle, JoinSet},
    time::Instant,
};

use super::plan::KindName;
use crate::{Context, discovery, pods};

/// How often it is looked whether an unknown kind is served now. Kubernetes' number.
pub(super) const REFRESH: Duration = Duration::from_secs(30);

/// How long freed things wait for company: a namespace that is emptied is counted a few times, not once per
/// object.
const COMPANY: Duration = Duration::from_millis(50);

/// The objects of one kind.
pub(super) trait Source: Send + Sync {
    /// Waits for the first list.
    fn synced(&self) -> BoxFuture<'_, ()>;
    /// The newest revision that is included.
    fn seen(&self) -> u64;
    /// How many there are in a namespace.
    fn count(&self, namespace: &str) -> usize;
    /// Those of a namespace as the API shows them; `None` if no more than their metadata is known.
    fn objects(&self, namespace: &str) -> Option<Vec<Value>>;
}

struct Cached<K> {
    informer: Informer<K>,
    json: Option<fn(&K) -> Value>,
}

impl<K: Object> Source for Cached<K> {
    fn synced(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.informer.synced())
    }

    fn seen(&self) -> u64 {
        self.informer.seen()
    }

    fn count(&self, namespace: &str) -> usize {
        self.informer.list_namespace(namespace).len()
    }

    fn objects(&self, namespace: &str) -> Option<Vec<Value>> {
        let json = self.json?;
        Some(self.informer.list_namespace(namespace).iter().map(|object| json(object)).collect())
    }
}

/// Kinds that this process watches with all their fields anyway, and how to start with them.
type Start = fn(&Sources) -> (Arc<dyn Source>, BoxFuture<'static, ()>);

const KNOWN: &[(&str, Start)] = &[
    ("configmaps", |sources| sources.typed::<ConfigMap>(is_deleted)),
    ("persistentvolumeclaims", |sources| sources.typed::<PersistentVolumeClaim>(is_deleted)),
    ("pods", |sources| sources.typed::<Pod>(is_over)),
    ("replicationcontrollers", |sources| sources.typed::<ReplicationController>(is_deleted)),
    ("resourcequotas", |sources| sources.typed::<ResourceQuota>(is_deleted)),
    ("services", |sources| sources.typed::<Service>(is_deleted)),
];

fn is_deleted<K>(delta: &Delta<K>) -> bool {
    matches!(delta, Delta::Deleted(_))
}

/// True if a pod has ended or is gone.
fn is_over(delta: &Delta<Pod>) -> bool {
    match delta {
        Delta::Added(_) => false,
        Delta::Updated { old, new } => pods::is_terminal(new) && !pods::is_terminal(old),
        Delta::Deleted(_) => true,
    }
}

/// The sources in use. Each wakes the quotas of a namespace in which something was freed.
pub(super) struct Sources {
    context: Context,
    quotas: Informer<ResourceQuota>,
    queue: WorkQueue<Key>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sources: BTreeMap<KindName, (Arc<dyn Source>, AbortHandle)>,
    /// What wakes the quotas; ends with this.
    tasks: JoinSet<()>,
    /// The namespaced kinds that are served besides the known ones, and when that was found.
    served: BTreeMap<KindName, ApiResource>,
    discovered: Option<Instant>,
}

impl Sources {
    pub(super) fn new(context: Context, quotas: Informer<ResourceQuota>, queue: WorkQueue<Key>) -> Self {
        Sources { context, quotas, queue, state: Mutex::default() }
    }

    /// The source of a kind, started if it is not running; `None` if no such kind is served.
    pub(super) async fn get(&self, kind: &KindName) -> Result<Option<Arc<dyn Source>>, ReconcileError> {
        let mut state = self.state.lock().await;
        if let Some((source, task)) = state.sources.get(kind)
            && !task.is_finished()
        {
            return Ok(Some(source.clone()));
        }
        // A source that has ended was of a kind that was no longer served.
        let ended = state.sources.remove(kind).is_some();
        while state.tasks.try_join_next().is_some() {}
        let known = KNOWN.iter().find(|(plural, _)| kind.0.is_empty() && kind.1 == *plural);
        let (source, feed) = match known {
            Some((_, start)) => start(self),
            None => {
                let Some(resource) = self.served(&mut state, kind, ended).await? else { return Ok(None) };
                self.start(self.context.informers.metadata(&resource), None, is_deleted)
            }
        };
        let task = state.tasks.spawn(feed);
        state.sources.insert(kind.clone(), (source.clone(), task));
        Ok(Some(source))
    }

    /// What the API calls a kind, if it serves it.
    async fn served(
        &self,
        state: &mut State,
        kind: &KindName,
        anew: bool,
    ) -> Result<Option<ApiResource>, ReconcileError> {
        let recent = state.discovered.is_some_and(|then| then.elapsed() < REFRESH) && !anew;
        if !recent && (anew || !state.served.contains_key(kind)) {
            let found = discovery::discover(&self.context.client);
            let found = found.await.during(|| "discover what is served".to_owned())?;
            let countable = found.served.into_iter().filter(|served| {
                served.namespaced && !served.is_events() && served.can("list") && served.can("watch")
            });
            let name = |resource: &ApiResource| (resource.group.clone(), resource.plural.clone());
            state.served = countable.map(|served| (name(&served.resource), served.resource)).collect();
            state.discovered = Some(Instant::now());
        }
        Ok(state.served.get(kind).cloned())
    }

    fn typed<K: Object<DynamicType = ()> + Serialize>(
        &self,
        frees: fn(&Delta<K>) -> bool,
    ) -> (Arc<dyn Source>, BoxFuture<'static, ()>) {
        let json = |object: &K| serde_json::to_value(object).unwrap_or_default();
        self.start(self.context.informers.get::<K>(), Some(json), frees)
    }

    fn start<K: Object>(
        &self,
        informer: Informer<K>,
        json: Option<fn(&K) -> Value>,
        frees: fn(&Delta<K>) -> bool,
    ) -> (Arc<dyn Source>, BoxFuture<'static, ()>) {
        let (quotas, queue, mut deltas) = (self.quotas.clone(), self.queue.clone(), informer.subscribe());
        let feed = async move {
            while let Some(delta) = deltas.next().await {
                if !frees(&delta) {
                    continue;
                }
                let namespace = delta.object().meta().namespace.as_deref().unwrap_or_default();
                for quota in quotas.list_namespace(namespace) {
                    queue.add_after(Key::of(&quota.metadata), COMPANY);
                }
            }
        };
        (Arc::new(Cached { informer, json }), Box::pin(feed))
    }
}
