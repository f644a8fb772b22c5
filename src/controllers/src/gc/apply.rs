//! Carries plans out.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use coracle_client::{
    During, EventType, Metadata, ReconcileError, Recorder, WorkQueue, calls, is_conflict, is_not_found,
};
use futures::StreamExt;
use k8s_openapi::{
    api::core::v1::ObjectReference,
    apimachinery::pkg::apis::meta::v1::{ListMeta, OwnerReference},
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions},
    core::{DynamicObject, Request, Resource},
};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    absent::Absent,
    feeds,
    graph::{FOREGROUND, Graph, ORPHAN, Object},
    plan::{Plan, Policy, blocked_by, foreign, plan},
};
use crate::discovery::Served;

/// The kinds that are served, by group and kind.
pub(super) type Kinds = BTreeMap<(String, String), Arc<Served>>;

/// An object that lost a race is looked at again after this: the cache has caught up by then.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// A plan asks about owners, and then about the object itself; after that it is final. More steps than
/// this mean that the world changes faster than it is looked at.
const STEPS: usize = 4;

/// An object that waits for dependents of which the graph has not heard is looked at again after this.
const LOOK_LATER: Duration = Duration::from_secs(1);

/// Lists and writes under way at the same time for one object.
const IN_FLIGHT: usize = 16;

/// Objects in one answer of a list: 500 are Kubernetes' number, and some 500 KB.
const PAGE: u32 = 500;

/// Owners in other namespaces that are remembered as told of, before all are forgotten. Each is one mistake
/// of somebody's, so there are few.
const TOLD: usize = 1024;

pub(super) struct Collector {
    pub(super) client: Client,
    pub(super) graph: Arc<Mutex<Graph>>,
    pub(super) kinds: Arc<Mutex<Kinds>>,
    pub(super) absent: Mutex<Absent>,
    pub(super) queue: WorkQueue<String>,
    /// Cancelled once the graph has what there is.
    pub(super) filled: CancellationToken,
    pub(super) stop: CancellationToken,
    pub(super) recorder: Recorder,
    /// Dependents and owners in other namespaces of which an event told.
    pub(super) told: Mutex<HashSet<(String, String)>>,
}

/// A part of a list of objects of any kind.
#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(default)]
    items: Vec<Metadata>,
}

impl Collector {
    pub(super) async fn reconcile(&self, uid: String) -> Result<Option<Duration>, ReconcileError> {
        if self.stop.run_until_cancelled(self.filled.cancelled()).await.is_none() {
            return Ok(None);
        }
        let Some(mut object) = self.graph.lock().get(&uid).cloned() else { return Ok(None) };
        let foreign: Vec<_> = foreign(&object, &self.graph.lock()).into_iter().cloned().collect();
        foreign.iter().for_each(|owner| self.tell_foreign(&object, owner));
        let mut present = BTreeSet::new();
        let mut fresh = false;
        for _ in 0..STEPS {
            let plan = plan(
                &object,
                &self.graph.lock(),
                |owner| self.absent.lock().contains(&object.key.namespace, owner),
                |uid| present.contains(uid),
            );
            match plan {
                Plan::Nothing => return Ok(None),
                Plan::LookAt(dependents) => {
                    dependents.into_iter().for_each(|uid| self.queue.add(uid));
                    return Ok(None);
                }
                Plan::Ask(owners) => {
                    for owner in owners {
                        if self.exists(&owner, &object).await? {
                            present.insert(owner.uid);
                        } else {
                            self.absent.lock().add(&object.key.namespace, &owner);
                        }
                    }
                }
                // What cannot be undone is decided on what the API says now, not on what a cache said. A deletion
                // names the version it was decided on; only if there is another by now that must be read.
                Plan::Delete(policy) => match self.delete(&object, policy).await? {
                    Some(_) if !fresh => {
                        let Some(now) = self.read(&object).await? else { return Ok(None) };
                        object = now;
                        fresh = true;
                    }
                    outcome => return Ok(outcome),
                },
                Plan::DropOwners(_) | Plan::Orphan | Plan::Finish if !fresh => {
                    let Some(now) = self.read(&object).await? else { return Ok(None) };
                    object = now;
                    fresh = true;
                }
                Plan::DropOwners(uids) => return self.drop_owners(&object, &uids).await,
                Plan::Orphan => {
                    return match self.release(&object).await? {
                        None => self.drop_finalizer(&object, ORPHAN).await,
                        again => Ok(again),
                    };
                }
                Plan::Finish => {
                    return match blocked_by(&object, self.dependents(&object).await?.iter()) {
                        None => self.drop_finalizer(&object, FOREGROUND).await,
                        Some(_) => Ok(Some(LOOK_LATER)),
                    };
                }
            }
        }
        Ok(Some(LOOK_AGAIN))
    }

    /// Whether the API has the owner that `dependent` names.
    async fn exists(&self, owner: &OwnerReference, dependent: &Object) -> Result<bool, ReconcileError> {
        let group = owner.api_version.rsplit_once('/').map_or("", |(group, _)| group);
        let served = self.kinds.lock().get(&(group.to_owned(), owner.kind.clone())).cloned();
        let Some(served) = served else {
            let (version, kind) = (&owner.api_version, &owner.kind);
            return Err(ReconcileError::NotYet(format!(
                "the owner's kind {kind} in {version} is not served"
            )));
        };
        if served.namespaced && dependent.key.namespace.is_empty() {
            // An object of the cluster cannot be owned by one in a namespace. Kubernetes keeps it.
            self.tell_foreign(dependent, owner);
            return Ok(true);
        }
        let namespace = if served.namespaced { dependent.key.namespace.as_str() } else { "" };
        let found = self.metadata(&served, namespace, &owner.name).await;
        let found = found.during(|| format!("look for {} {}", owner.kind, owner.name))?;
        Ok(found.is_some_and(|found| found.metadata.uid.as_deref() == Some(&owner.uid)))
    }

    /// The object as the API has it; `None`, and removed from the graph, if it is gone.
    async fn read(&self, object: &Object) -> Result<Option<Object>, ReconcileError> {
        let Object { served, key, uid, .. } = object;
        let found = self.metadata(served, &key.namespace, &key.name).await;
        let found = found.during(|| format!("read {} {key}", served.resource.kind))?;
        match found.filter(|found| found.metadata.uid.as_deref() == Some(uid)) {
            Some(found) => Ok(Some(Object::new(served, &found.metadata))),
            None => {
                let look = self.graph.lock().remove(uid);
                look.into_iter().for_each(|uid| self.queue.add(uid));
                Ok(None)
            }
        }
    }

    /// All that names the object as an owner, as the API has it now.
    async fn dependents(&self, owner: &Object) -> Result<Vec<Object>, ReconcileError> {
        let mut kinds = self.kinds.lock().clone();
        let (newest, _) =
            feeds::served_kinds(&self.client).await.during(|| "discover the kinds".to_owned())?;
        kinds.extend(newest);
        // What is in a namespace can own only what is in the same.
        let can_depend = |served: &Arc<Served>| served.namespaced || !owner.served.namespaced;
        let lists: Vec<_> =
            kinds.into_values().filter(can_depend).map(|served| self.list(served, owner)).collect();
        let mut lists = futures::stream::iter(lists).buffer_unordered(IN_FLIGHT);
        let mut dependents = Vec::new();
        while let Some(found) = lists.next().await {
            dependents.extend(found?);
        }
        Ok(dependents)
    }

    /// The objects of a kind that name `owner`; none if the kind is no longer served.
    async fn list(&self, served: Arc<Served>, owner: &Object) -> Result<Vec<Object>, ReconcileError> {
        let namespace = owner.served.namespaced.then_some(owner.key.namespace.as_str());
        let path = DynamicObject::url_path(&served.resource, namespace);
        let mut found = Vec::new();
        let mut options = ListParams::default().limit(PAGE);
        loop {
            let request = Request::new(path.clone()).list_metadata(&options);
            let page = match request.map_err(kube::Error::BuildRequest) {
                Ok(request) => self.client.request::<Page>(request).await,
                Err(error) => Err(error),
            };
            let page = match page {
                Err(error) if is_not_found(&error) => return Ok(found),
                other => other.during(|| format!("list {}", served.dotted()))?,
            };
            let names = |meta: &Metadata| {
                meta.metadata.owner_references.iter().flatten().any(|reference| reference.uid == owner.uid)
            };
            let items = page.items.iter().filter(|meta| names(meta));
            found.extend(items.map(|meta| Object::new(&served, &meta.metadata)));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => options = options.continue_token(&token),
                None => return Ok(found),
            }
        }
    }

    /// Every dependent loses the object as its owner. Says when to look again if some still has it.
    async fn release(&self, object: &Object) -> Result<Option<Duration>, ReconcileError> {
        let dependents = self.dependents(object).await?;
        let drops: Vec<_> = dependents
            .iter()
            .map(|dependent| self.drop_owners(dependent, std::slice::from_ref(&object.uid)))
            .collect();
        let mut drops = futures::stream::iter(drops).buffer_unordered(IN_FLIGHT);
        let mut again = None;
        while let Some(answer) = drops.next().await {
            again = answer?.or(again);
        }
        Ok(again)
    }

    /// Tells that an owner is not in the dependent's namespace, once.
    fn tell_foreign(&self, dependent: &Object, owner: &OwnerReference) {
        let mut told = self.told.lock();
        if told.len() >= TOLD {
            told.clear();
        }
        if dependent.deleting || !told.insert((dependent.uid.clone(), owner.uid.clone())) {
            return;
        }
        drop(told);
        let Object { served, key, uid, .. } = dependent;
        let about = ObjectReference {
            api_version: Some(served.resource.api_version.clone()),
            kind: Some(served.resource.kind.clone()),
            namespace: Some(key.namespace.clone()).filter(|namespace| !namespace.is_empty()),
            name: Some(key.name.clone()),
            uid: Some(uid.clone()),
            ..ObjectReference::default()
        };
        let message = format!(
            "ownerRef [{}/{}, namespace: {namespace}, name: {}, uid: {}] does not exist in namespace {namespace:?}",
            owner.api_version,
            owner.kind,
            owner.name,
            owner.uid,
            namespace = key.namespace,
        );
        self.recorder.event(&about, EventType::Warning, "OwnerRefInvalidNamespace", &message);
    }

    async fn metadata(
        &self,
        served: &Served,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Metadata>, kube::Error> {
        let namespace = Some(namespace).filter(|namespace| !namespace.is_empty());
        let request = Request::new(DynamicObject::url_path(&served.resource, namespace))
            .get_metadata(name, &kube::api::GetParams::default())
            .map_err(kube::Error::BuildRequest)?;
        match self.client.request(request).await {
            Err(error) if is_not_found(&error) => Ok(None),
            other => other.map(Some),
        }
    }

    async fn delete(&self, object: &Object, policy: Policy) -> Result<Option<Duration>, ReconcileError> {
        let options = match policy {
            Policy::Background => DeleteParams::background(),
            Policy::Foreground => DeleteParams::foreground(),
            Policy::Orphan => DeleteParams::orphan(),
        };
        let preconditions =
            Preconditions { uid: Some(object.uid.clone()), resource_version: Some(object.version.clone()) };
        let options = DeleteParams { preconditions: Some(preconditions), ..options };
        let Object { served, key, .. } = object;
        let namespace = served.namespaced.then_some(key.namespace.as_str());
        let path = DynamicObject::url_path(&served.resource, namespace);
        let answer = calls::delete(&self.client, path, &key.name, &options).await;
        debug!(kind = object.served.resource.kind, key = %object.key, ?policy, "deleting what nobody owns");
        settle(answer, || format!("delete {} {}", object.served.resource.kind, object.key))
    }

    async fn drop_owners(
        &self,
        object: &Object,
        uids: &[String],
    ) -> Result<Option<Duration>, ReconcileError> {
        let left: Vec<_> = object.owners.iter().filter(|owner| !uids.contains(&owner.uid)).collect();
        if left.len() == object.owners.len() {
            return Ok(None);
        }
        self.patch(object, serde_json::json!({"ownerReferences": left})).await
    }

    async fn drop_finalizer(&self, object: &Object, name: &str) -> Result<Option<Duration>, ReconcileError> {
        let left: Vec<_> = object.finalizers.iter().filter(|finalizer| *finalizer != name).collect();
        self.patch(object, serde_json::json!({"finalizers": left})).await
    }

    /// Changes metadata of exactly the version that was read.
    async fn patch(
        &self,
        object: &Object,
        mut change: serde_json::Value,
    ) -> Result<Option<Duration>, ReconcileError> {
        change["uid"] = object.uid.clone().into();
        change["resourceVersion"] = object.version.clone().into();
        let patch = Patch::Merge(serde_json::json!({"metadata": change}));
        let answer = self.api(object).patch_metadata(&object.key.name, &PatchParams::default(), &patch).await;
        settle(answer.map(drop), || format!("change {} {}", object.served.resource.kind, object.key))
    }

    fn api(&self, object: &Object) -> Api<DynamicObject> {
        let (client, resource) = (self.client.clone(), &object.served.resource);
        if object.served.namespaced {
            Api::namespaced_with(client, &object.key.namespace, resource)
        } else {
            Api::all_with(client, resource)
        }
    }
}

/// Gone is as good as done; a lost race is looked at again.
fn settle(
    answer: Result<(), kube::Error>,
    action: impl FnOnce() -> String,
) -> Result<Option<Duration>, ReconcileError> {
    match answer {
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) if is_conflict(&error) => Ok(Some(LOOK_AGAIN)),
        other => other.map(|()| None).during(action),
    }
}
