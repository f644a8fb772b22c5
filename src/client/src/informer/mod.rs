//! Shared informers: one list and watch, one decode and one copy of every object of a kind per process,
//! whoever listens.
//!
//! ```text
//!            list ok                    event
//!   List ─────────────▶ Watch ◀────────────────┐
//!    ▲ │                 │ │ │─────────────────┘
//!    │ └─ error: backoff │ └─ stream ends or breaks: Watch again from the last revision
//!    └───────────────────┘ 410 Gone
//! ```
//! `feed` is that machine; it knows bytes and revisions but no types. `cache` is the typed copy with its
//! indexes. `deltas` hands changes to subscribers; what a subscriber far behind has not read is merged per
//! object, so that what waits for it is bounded.

mod cache;
mod deltas;
mod feed;
#[cfg(test)]
mod tests;

use std::{
    any::{Any, TypeId},
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Client, Resource,
    core::{ApiResource, DynamicResourceScope},
};
use parking_lot::Mutex;
use serde::{Deserialize, de::DeserializeOwned};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::Key;
pub use deltas::{Delta, Deltas};

/// What an informer can hold.
pub trait Object: Resource + DeserializeOwned + Send + Sync + 'static {}
impl<K: Resource + DeserializeOwned + Send + Sync + 'static> Object for K {}

/// The metadata of an object of any kind; the rest is skipped while it is decoded.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Metadata {
    /// The object's metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
}

/// The informers of a process.
#[derive(Clone)]
pub struct Informers {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    typed: Mutex<HashMap<TypeId, Box<dyn Any + Send + Sync>>>,
    /// By group and plural name.
    metadata: Mutex<BTreeMap<(String, String), Running>>,
}

/// An informer that can be ended on its own.
struct Running {
    informer: Informer<Metadata>,
    end: CancellationToken,
}

/// A live, indexed copy of all objects of a kind. A clone is another handle to the same copy.
///
/// Guarantees: what is read is never older than what was read before; deltas of an object arrive in its
/// order. Caveats: the copy lags behind the API by a few milliseconds; `metadata.managedFields` is
/// dropped to save memory.
pub struct Informer<K> {
    cache: Arc<cache::Cache<K>>,
}

impl Informers {
    /// Informers that read through `client` until `shutdown`.
    pub fn new(client: Client, shutdown: CancellationToken) -> Self {
        let shared = Shared {
            client,
            shutdown,
            tasks: TaskTracker::new(),
            typed: Mutex::default(),
            metadata: Mutex::default(),
        };
        Informers { shared: Arc::new(shared) }
    }

    /// The informer of kind `K`. The first call starts it; it runs until shutdown.
    pub fn get<K: Object<DynamicType = ()>>(&self) -> Informer<K> {
        let mut typed = self.shared.typed.lock();
        let known = typed.get(&TypeId::of::<K>()).and_then(|informer| informer.downcast_ref::<Informer<K>>());
        if let Some(informer) = known {
            return informer.clone();
        }
        let resource = ApiResource::erase::<K>(&());
        let informer = self.start(&resource, feed::Accept::Objects, self.shared.shutdown.child_token());
        typed.insert(TypeId::of::<K>(), Box::new(informer.clone()));
        informer
    }

    /// An informer of the metadata of `resource`, which need not be known at compile time. The first call
    /// starts it; it runs until [`Informers::drop_metadata`] or shutdown.
    pub fn metadata(&self, resource: &ApiResource) -> Informer<Metadata> {
        let mut all = self.shared.metadata.lock();
        let entry = all.entry((resource.group.clone(), resource.plural.clone())).or_insert_with(|| {
            let end = self.shared.shutdown.child_token();
            Running { informer: self.start(resource, feed::Accept::Metadata, end.clone()), end }
        });
        entry.informer.clone()
    }

    /// Ends the metadata informer of `resource`, if there is one: its kind is no longer served.
    pub fn drop_metadata(&self, resource: &ApiResource) {
        let key = (resource.group.clone(), resource.plural.clone());
        if let Some(running) = self.shared.metadata.lock().remove(&key) {
            running.end.cancel();
        }
    }

    /// Waits until every informer has ended, which they do after the shutdown token is cancelled.
    pub async fn ended(&self) {
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    fn start<K: Object>(
        &self,
        resource: &ApiResource,
        accept: feed::Accept,
        shutdown: CancellationToken,
    ) -> Informer<K> {
        let cache = Arc::new(cache::Cache::new());
        let feed = feed::Feed::new(self.shared.client.clone(), resource, accept, cache.clone());
        self.shared.tasks.spawn(feed.run(shutdown));
        Informer { cache }
    }
}

impl<K: Object> Informer<K> {
    /// The object with this key.
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.cache.get(key)
    }

    /// All objects, in the order of their keys.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.cache.list()
    }

    /// The objects of a namespace, in the order of their names.
    pub fn list_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.cache.list_namespace(namespace)
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.cache.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds an index: `values` says under which values an object is found. An index of that name that
    /// exists already is kept, so that every user of an index may add it.
    pub fn add_index(&self, name: &'static str, values: fn(&K) -> Vec<String>) {
        self.cache.add_index(name, values);
    }

    /// The objects under a value of an index, in the order of their keys; none if there is no such index.
    pub fn by_index(&self, name: &str, value: &str) -> Vec<Arc<K>> {
        self.cache.by_index(name, value)
    }

    /// The changes from now on, after the current objects as [`Delta::Added`].
    ///
    /// A subscriber that falls thousands of changes behind sees fewer steps, never a wrong order and never a
    /// wrong end: what it has not read is merged per object.
    pub fn subscribe(&self) -> Deltas<K> {
        self.cache.subscribe()
    }

    /// Waits until the first list is complete, or the informer has ended.
    pub async fn synced(&self) {
        self.cache.reached(0).await;
    }

    /// Whether the first list is complete.
    pub fn is_synced(&self) -> bool {
        self.cache.seen().is_some()
    }

    /// The newest `resourceVersion` that this copy includes, 0 before the first list. An object whose
    /// write was answered with a version up to this one has arrived here.
    pub fn seen(&self) -> u64 {
        self.cache.seen().unwrap_or(0)
    }

    /// Waits until [`Informer::seen`] is at least `revision`, or the informer has ended.
    pub async fn reached(&self, revision: u64) {
        self.cache.reached(revision).await;
    }
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Informer { cache: self.cache.clone() }
    }
}

impl<K> fmt::Debug for Informer<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Informer").finish_non_exhaustive()
    }
}

impl fmt::Debug for Informers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Informers").finish_non_exhaustive()
    }
}

impl Resource for Metadata {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn api_version(resource: &ApiResource) -> Cow<'_, str> {
        resource.api_version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
