//! Who owns whom, as far as the caches show.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use coracle_client::Key;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::{discovery::Served, pods};

pub(super) const ORPHAN: &str = "orphan";
pub(super) const FOREGROUND: &str = "foregroundDeletion";

/// What garbage collection needs to know of an object.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Object {
    pub(super) served: Arc<Served>,
    pub(super) key: Key,
    pub(super) uid: String,
    pub(super) version: String,
    pub(super) owners: Vec<OwnerReference>,
    pub(super) deleting: bool,
    pub(super) finalizers: Vec<String>,
}

impl Object {
    pub(super) fn new(served: &Arc<Served>, meta: &ObjectMeta) -> Self {
        Object {
            served: served.clone(),
            key: Key::of(meta),
            uid: pods::uid(meta).to_owned(),
            version: meta.resource_version.clone().unwrap_or_default(),
            owners: meta.owner_references.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
            finalizers: meta.finalizers.clone().unwrap_or_default(),
        }
    }

    pub(super) fn has_finalizer(&self, name: &str) -> bool {
        self.finalizers.iter().any(|finalizer| finalizer == name)
    }

    /// True if it waits for its dependents to go first.
    pub(super) fn waits_for_dependents(&self) -> bool {
        self.deleting && self.has_finalizer(FOREGROUND)
    }

    /// True if its dependents are to lose it before it goes.
    pub(super) fn orphans(&self) -> bool {
        self.deleting && self.has_finalizer(ORPHAN)
    }

    /// True if this is the object that `reference`, found on `dependent`, names.
    pub(super) fn is_named_by(&self, reference: &OwnerReference, dependent: &Object) -> bool {
        let group = reference.api_version.rsplit_once('/').map_or("", |(group, _)| group);
        self.uid == reference.uid
            && self.key.name == reference.name
            && self.served.resource.kind == reference.kind
            && self.served.resource.group == group
            && (!self.served.namespaced || self.key.namespace == dependent.key.namespace)
    }
}

/// Objects by uid, and for each uid the objects that name it as their owner, whether it is known or not.
#[derive(Debug, Default)]
pub(super) struct Graph {
    objects: HashMap<String, Object>,
    dependents: HashMap<String, BTreeSet<String>>,
}

impl Graph {
    pub(super) fn get(&self, uid: &str) -> Option<&Object> {
        self.objects.get(uid)
    }

    /// The objects that name `uid` as an owner, in a fixed order.
    pub(super) fn dependents(&self, uid: &str) -> impl Iterator<Item = &Object> {
        let uids = self.dependents.get(uid);
        uids.into_iter().flatten().filter_map(|uid| self.objects.get(uid))
    }

    /// An object is there, or changed. Gives the uids to be looked at.
    pub(super) fn put(&mut self, object: Object) -> Vec<String> {
        let uid = object.uid.clone();
        let old = self.objects.get(&uid);
        if old == Some(&object) {
            return Vec::new();
        }
        let old_owners: Vec<_> = old.map(|old| old.owners.clone()).unwrap_or_default();
        let mut look = Vec::new();
        if object.waits_for_dependents() || object.orphans() || self.has_bad_owner(&object) {
            look.push(uid.clone());
        }
        // Owners that wait for this one may wait no longer.
        look.extend(self.waiting_owners(&old_owners));
        for owner in &old_owners {
            self.unlink(&owner.uid, &uid);
        }
        for owner in &object.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
        }
        self.objects.insert(uid, object);
        look
    }

    /// An object is gone. Gives the uids to be looked at.
    pub(super) fn remove(&mut self, uid: &str) -> Vec<String> {
        let Some(object) = self.objects.remove(uid) else { return Vec::new() };
        for owner in &object.owners {
            self.unlink(&owner.uid, uid);
        }
        let mut look = self.waiting_owners(&object.owners);
        look.extend(self.dependents.get(uid).into_iter().flatten().cloned());
        look
    }

    /// The uids of the objects of a kind.
    pub(super) fn of_kind(&self, served: &Served) -> Vec<String> {
        let of_kind = self.objects.values().filter(|object| object.served.resource == served.resource);
        of_kind.map(|object| object.uid.clone()).collect()
    }

    /// True if some owner is not known, or waits for its dependents to go.
    fn has_bad_owner(&self, object: &Object) -> bool {
        object.owners.iter().any(|reference| match self.objects.get(&reference.uid) {
            None => true,
            Some(owner) => owner.waits_for_dependents() || !owner.is_named_by(reference, object),
        })
    }

    fn waiting_owners(&self, owners: &[OwnerReference]) -> Vec<String> {
        let waits = |uid: &str| self.objects.get(uid).is_some_and(Object::waits_for_dependents);
        owners.iter().map(|owner| &owner.uid).filter(|uid| waits(uid)).cloned().collect()
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }
}
