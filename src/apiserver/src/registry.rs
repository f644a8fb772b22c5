//! Which resources are served.
//!
//! The table is that of [`coracle_api::kinds::builtin`]. Custom resource definitions will replace it at
//! run time by a new one, so that a request sees one consistent table.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use coracle_api::Kind;
use parking_lot::RwLock;

/// One served resource: a kind, and the kind in whose form its objects are stored.
pub(crate) struct Resource {
    pub(crate) kind: Arc<Kind>,
    /// The first kind registered for the same storage. Objects of the others are views of it.
    pub(crate) stored_as: Arc<Kind>,
}

impl Resource {
    /// True if the stored form differs from the served form.
    pub(crate) fn is_view(&self) -> bool {
        !Arc::ptr_eq(&self.kind, &self.stored_as)
    }

    /// True if objects live in a namespace.
    pub(crate) fn namespaced(&self) -> bool {
        self.kind.scope == coracle_api::Scope::Namespaced
    }

    /// The storage key of an object. `namespace` counts for namespaced kinds only.
    pub(crate) fn key(&self, namespace: &str, name: &str) -> String {
        let storage = &self.kind.storage;
        if self.namespaced() { format!("{storage}/{namespace}/{name}") } else { format!("{storage}/{name}") }
    }

    /// The prefix of the storage keys of a namespace, or of all namespaces if it is empty.
    pub(crate) fn prefix(&self, namespace: &str) -> String {
        let storage = &self.kind.storage;
        if self.namespaced() && !namespace.is_empty() {
            format!("{storage}/{namespace}/")
        } else {
            format!("{storage}/")
        }
    }
}

/// One consistent table of what is served.
pub(crate) struct Catalogue {
    /// In the order of discovery.
    pub(crate) resources: Vec<Arc<Resource>>,
    /// group → version → plural.
    index: BTreeMap<String, BTreeMap<String, BTreeMap<String, Arc<Resource>>>>,
    /// Documents derived from the table, made on first use and kept with it.
    documents: RwLock<BTreeMap<String, Arc<OnceLock<Document>>>>,
}

/// A derived document and the hash that serves as its `ETag`.
#[derive(Clone)]
pub(crate) struct Document {
    pub(crate) bytes: Bytes,
    pub(crate) hash: String,
}

impl Catalogue {
    fn new(kinds: &[Arc<Kind>]) -> Catalogue {
        let mut stored: BTreeMap<String, Arc<Kind>> = BTreeMap::new();
        let mut index: BTreeMap<_, BTreeMap<_, BTreeMap<_, _>>> = BTreeMap::new();
        let mut resources = Vec::with_capacity(kinds.len());
        for kind in kinds {
            let stored_as = stored.entry(kind.storage.to_string()).or_insert_with(|| kind.clone()).clone();
            let resource = Arc::new(Resource { kind: kind.clone(), stored_as });
            let versions = index.entry(kind.group.to_string()).or_default();
            let plurals = versions.entry(kind.version.to_string()).or_default();
            plurals.insert(kind.plural.to_string(), resource.clone());
            resources.push(resource);
        }
        Catalogue { resources, index, documents: RwLock::default() }
    }

    /// The resource at `group` (empty: core), `version` and `plural`.
    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.index.get(group)?.get(version)?.get(plural)
    }

    /// Groups in order of first registration, each with its versions in that order.
    pub(crate) fn groups(&self) -> Vec<(&str, Vec<&str>)> {
        let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
        for Resource { kind, .. } in self.resources.iter().map(|r| &**r) {
            let index = groups.iter().position(|(group, _)| *group == kind.group).unwrap_or_else(|| {
                groups.push((&kind.group, Vec::new()));
                groups.len() - 1
            });
            let versions = &mut groups[index].1;
            if !versions.contains(&&*kind.version) {
                versions.push(&kind.version);
            }
        }
        groups
    }

    /// The kinds of one group version, in order.
    pub(crate) fn kinds(&self, group: &str, version: &str) -> Vec<&Arc<Kind>> {
        let kinds = self.resources.iter().map(|r| &r.kind);
        kinds.filter(|k| k.group == group && k.version == version).collect()
    }

    /// A document derived from this table, made at most once. `name` must come from a closed set, not
    /// from the wire.
    pub(crate) fn document(&self, name: &str, make: impl FnOnce() -> Document) -> Document {
        let cell = self.documents.read().get(name).cloned();
        let cell = cell.unwrap_or_else(|| self.documents.write().entry(name.to_owned()).or_default().clone());
        cell.get_or_init(make).clone()
    }
}

/// The table of the moment.
pub(crate) struct Registry {
    current: RwLock<Arc<Catalogue>>,
}

impl Registry {
    /// The built-in kinds.
    pub(crate) fn builtin() -> Registry {
        let catalogue = Catalogue::new(coracle_api::kinds::builtin());
        Registry { current: RwLock::new(Arc::new(catalogue)) }
    }

    /// The table of the moment; a request keeps what it got.
    pub(crate) fn catalogue(&self) -> Arc<Catalogue> {
        self.current.read().clone()
    }
}
