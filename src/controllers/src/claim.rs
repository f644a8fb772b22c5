//! Whose object it is: what a controller takes on, keeps and lets go, by selector and owner.
//!
//! The same for pods of replica sets, jobs and so on, for replica sets of deployments and for controller
//! revisions.

use std::sync::Arc;

use coracle_client::{During, Object, ReconcileError, is_not_found};
use futures::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture};
use k8s_openapi::{
    NamespaceResourceScope,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams},
};
use tracing::debug;

use crate::pods;

/// Owners changed at the same time.
const IN_FLIGHT: usize = 32;

/// A kind whose objects live in namespaces.
pub(crate) trait Namespaced:
    Object<DynamicType = (), Scope = NamespaceResourceScope> + Clone + std::fmt::Debug
{
}
impl<K: Object<DynamicType = (), Scope = NamespaceResourceScope> + Clone + std::fmt::Debug> Namespaced for K {}

/// What an object is to a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tie {
    /// It is the controller's.
    Owned,
    /// It is nobody's, and the controller selects it.
    Adopt,
    /// It is the controller's, who no longer selects it.
    Release,
    /// It is none of the controller's business.
    Foreign,
}

/// The objects that count for a controller, and what is to be done so that their metadata says so.
#[derive(Debug)]
pub(crate) struct Claims<K> {
    /// Those that count, the ones to adopt among them.
    pub(crate) owned: Vec<Arc<K>>,
    /// Those to be made the controller's own.
    pub(crate) adopt: Vec<Arc<K>>,
    /// Those to be let go.
    pub(crate) release: Vec<Arc<K>>,
}

/// What `object` is to `owner`, which selects it or not. An owner that is being deleted neither adopts
/// nor releases; what is being deleted is not adopted.
pub(crate) fn tie(owner: &ObjectMeta, object: &ObjectMeta, selected: bool) -> Tie {
    let selected = selected && object.namespace == owner.namespace;
    let going = owner.deletion_timestamp.is_some();
    match pods::controller_of(object) {
        Some(controller) if controller.uid != pods::uid(owner) => Tie::Foreign,
        Some(_) if selected => Tie::Owned,
        Some(_) if !going => Tie::Release,
        None if selected && !going && object.deletion_timestamp.is_none() => Tie::Adopt,
        Some(_) | None => Tie::Foreign,
    }
}

/// Sorts out which of the objects are the owner's.
pub(crate) fn claim<K: Resource>(
    owner: &ObjectMeta,
    objects: &[Arc<K>],
    selects: impl Fn(&K) -> bool,
) -> Claims<K> {
    let mut claims = Claims { owned: Vec::new(), adopt: Vec::new(), release: Vec::new() };
    for object in objects {
        match tie(owner, object.meta(), selects(object)) {
            Tie::Owned => claims.owned.push(object.clone()),
            Tie::Adopt => {
                claims.adopt.push(object.clone());
                claims.owned.push(object.clone());
            }
            Tie::Release => claims.release.push(object.clone()),
            Tie::Foreign => {}
        }
    }
    claims
}

/// The reference that makes `owner` the controller of an object; `None` if it was never stored.
pub(crate) fn owner_reference<O: Resource<DynamicType = ()>>(owner: &O) -> Option<OwnerReference> {
    let reference = owner.controller_owner_ref(&())?;
    Some(OwnerReference { block_owner_deletion: Some(true), ..reference })
}

/// Writes adoptions and releases. `finalizer` is put on what is adopted and taken off what is released.
///
/// # Errors
/// The owner was replaced or is being deleted, or a call failed; a lost race is a conflict.
pub(crate) async fn settle<O, K>(
    client: &Client,
    owner: &O,
    claims: &Claims<K>,
    finalizer: Option<&str>,
) -> Result<(), ReconcileError>
where
    O: Namespaced,
    K: Namespaced,
{
    if claims.adopt.is_empty() && claims.release.is_empty() {
        return Ok(());
    }
    if !claims.adopt.is_empty() {
        may_adopt(client, owner).await?;
    }
    let reference = owner_reference(owner);
    let mut writes: Vec<BoxFuture<'_, Result<(), ReconcileError>>> = Vec::new();
    for object in &claims.adopt {
        let meta = object.meta();
        let mut owners = meta.owner_references.clone().unwrap_or_default();
        owners.extend(reference.clone());
        let mut finalizers = meta.finalizers.clone().unwrap_or_default();
        if let Some(name) = finalizer.filter(|name| !finalizers.iter().any(|known| known == name)) {
            finalizers.push(name.to_owned());
        }
        debug!(object = pods::name(meta), "to be adopted");
        writes.push(write_owners::<K>(client, meta, owners, finalizer.map(|_| finalizers)).boxed());
    }
    for object in &claims.release {
        let meta = object.meta();
        let mut owners = meta.owner_references.clone().unwrap_or_default();
        owners.retain(|known| known.uid != pods::uid(owner.meta()));
        let mut finalizers = meta.finalizers.clone().unwrap_or_default();
        finalizers.retain(|known| Some(known.as_str()) != finalizer);
        debug!(object = pods::name(meta), "to be released");
        writes.push(write_owners::<K>(client, meta, owners, finalizer.map(|_| finalizers)).boxed());
    }
    futures::stream::iter(writes).buffer_unordered(IN_FLIGHT).try_collect().await
}

/// A controller that is gone, or going, must not take objects with it that were never its own. The cache
/// may not know yet.
async fn may_adopt<O: Namespaced>(client: &Client, owner: &O) -> Result<(), ReconcileError> {
    let (kind, name) = (O::kind(&()), pods::name(owner.meta()));
    let api: Api<O> = Api::namespaced(client.clone(), pods::namespace(owner.meta()));
    let fresh = api.get_metadata(name).await.during(|| format!("read {kind} {name}"))?;
    if fresh.metadata.uid == owner.meta().uid && fresh.metadata.deletion_timestamp.is_none() {
        Ok(())
    } else {
        Err(ReconcileError::NotYet(format!("{kind} {name} was replaced or is being deleted")))
    }
}

async fn write_owners<K: Namespaced>(
    client: &Client,
    object: &ObjectMeta,
    owners: Vec<OwnerReference>,
    finalizers: Option<Vec<String>>,
) -> Result<(), ReconcileError> {
    let name = pods::name(object);
    let mut meta = serde_json::json!({
        "uid": object.uid,
        "resourceVersion": object.resource_version,
        "ownerReferences": owners,
    });
    if let Some(finalizers) = finalizers {
        meta["finalizers"] = serde_json::json!(finalizers);
    }
    let patch = Patch::Merge(serde_json::json!({ "metadata": meta }));
    let api: Api<K> = Api::namespaced(client.clone(), pods::namespace(object));
    match api.patch_metadata(name, &PatchParams::default(), &patch).await {
        Err(error) if is_not_found(&error) => Ok(()),
        other => other.map(|_| ()).during(|| format!("change the owners of {} {name}", K::kind(&()))),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    #[track_caller]
    fn check(words: &str, selected: bool, expected: Tie) {
        let going = || Some(Time(coracle_client::clock::now()));
        let mut owner = crate::testing::meta("web");
        owner.uid = Some("u".to_owned());
        let mut object = crate::testing::meta("web-1");
        let refer = |uid: &str| {
            let reference =
                OwnerReference { uid: uid.to_owned(), controller: Some(true), ..OwnerReference::default() };
            Some(vec![reference])
        };
        for word in words.split_whitespace() {
            match word {
                "mine" => object.owner_references = refer("u"),
                "other" => object.owner_references = refer("v"),
                "going" => object.deletion_timestamp = going(),
                "owner-going" => owner.deletion_timestamp = going(),
                "elsewhere" => object.namespace = Some("elsewhere".to_owned()),
                other => panic!("unknown word {other}"),
            }
        }
        assert_eq!(tie(&owner, &object, selected), expected);
    }

    #[test]
    fn ties() {
        check("", true, Tie::Adopt);
        check("", false, Tie::Foreign);
        check("going", true, Tie::Foreign);
        check("elsewhere", true, Tie::Foreign);
        check("owner-going", true, Tie::Foreign);
        check("mine", true, Tie::Owned);
        check("mine going", true, Tie::Owned);
        check("mine owner-going", true, Tie::Owned);
        check("mine", false, Tie::Release);
        check("mine owner-going", false, Tie::Foreign);
        check("other", true, Tie::Foreign);
    }
}
