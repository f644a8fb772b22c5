//! What the generic pipeline knows of a kind: its names, its subresources and its hooks.
//!
//! Built-in kinds are values in `kinds/<kind>.rs`; a custom resource definition makes the same value
//! at run time, which is why everything here is owned or cheaply borrowed and the hooks are a trait
//! object.

use std::{borrow::Cow, sync::Arc};

use jiff::Timestamp;
use serde_json::Value;

use crate::names;

/// A text that a built-in kind has for free and a custom kind owns.
pub type Text = Cow<'static, str>;

/// Whether objects of a kind live in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Objects live in a namespace; their key is `namespace/name`.
    Namespaced,
    /// Objects are cluster-wide; their key is `name`.
    Cluster,
}

/// What can be addressed below an object besides the object itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subresource {
    /// `…/status`: writes touch `status` alone; writes of the object itself never do.
    Status,
    /// `…/scale` as `autoscaling/v1` Scale. The paths are dotted, without a leading dot.
    Scale {
        /// Where the desired number stands, e.g. `spec.replicas`.
        spec_replicas: Text,
        /// Where the observed number stands, e.g. `status.replicas`.
        status_replicas: Text,
        /// Where the selector stands, e.g. `spec.selector`: a map of labels or a LabelSelector.
        selector: Text,
    },
    /// `pods/…/binding`: assigns the pod to a node.
    Binding,
    /// `pods/…/log`: the output of a container, streamed from its node.
    Log,
    /// `pods/…/exec`: runs a command in a container, over an upgraded connection.
    Exec,
    /// `pods/…/attach`: joins a running container's streams, over an upgraded connection.
    Attach,
    /// `pods/…/portforward`: connections to ports of a pod, over an upgraded connection.
    PortForward,
    /// `…/proxy` and all paths below: HTTP to a pod, to an endpoint of a service, or to a node's kubelet API.
    Proxy,
    /// `pods/…/eviction`: a delete that asks the disruption budgets first.
    Eviction,
    /// `pods/…/ephemeralcontainers`: writes touch `spec.ephemeralContainers` alone.
    EphemeralContainers,
    /// `pods/…/resize`: writes touch the containers' resources alone.
    Resize,
    /// `serviceaccounts/…/token`: makes a token of the account.
    Token,
}

/// One registered kind.
#[derive(Clone)]
pub struct Kind {
    /// API group; empty for the core group.
    pub group: Text,
    /// Version inside the group, e.g. `v1`.
    pub version: Text,
    /// Kind in CamelCase, e.g. `Pod`.
    pub kind: Text,
    /// Resource name in URLs, e.g. `pods`.
    pub plural: Text,
    /// Singular resource name, e.g. `pod`.
    pub singular: Text,
    /// Short names for the command line, e.g. `po`.
    pub short_names: Vec<Text>,
    /// Categories, e.g. `all`.
    pub categories: Vec<Text>,
    /// Namespaced or cluster-wide.
    pub scope: Scope,
    /// The name of the object's message in [`crate::schema`], e.g. `core.v1.Pod`.
    pub message: Text,
    /// The storage key prefix shared by kinds that are views of the same objects: core and
    /// `events.k8s.io` events are stored once, under `events`.
    pub storage: Text,
    /// Subresources, in the order discovery prints them.
    pub subresources: Vec<Subresource>,
    /// What the kind adds to the pipeline.
    pub hooks: Arc<dyn Hooks>,
}

impl Kind {
    /// `v1` for the core group, `group/version` otherwise.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `pods` for the core group, `leases.coordination.k8s.io` otherwise: how errors name it.
    pub fn qualified_resource(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_string()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// True if the kind has a `status` subresource.
    pub fn has_status(&self) -> bool {
        self.subresources.contains(&Subresource::Status)
    }
}

/// A column of the server-side table (`kubectl get`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Heading, e.g. `Ready`.
    pub name: Text,
    /// OpenAPI type: `string`, `integer`, `number`, `boolean` or `date`.
    pub type_: Text,
    /// OpenAPI format; `name` marks the object's name, otherwise empty.
    pub format: Text,
    /// What the column shows, in a sentence.
    pub description: Text,
    /// 0 is always shown, 1 only with `-o wide`.
    pub priority: i32,
}

impl Column {
    /// A column of the built-in tables.
    pub const fn new(
        name: &'static str,
        type_: &'static str,
        priority: i32,
        description: &'static str,
    ) -> Self {
        Column {
            name: Cow::Borrowed(name),
            type_: Cow::Borrowed(type_),
            format: Cow::Borrowed(""),
            description: Cow::Borrowed(description),
            priority,
        }
    }

    /// The `Name` column that almost every table starts with.
    pub const fn object_name() -> Self {
        Column {
            name: Cow::Borrowed("Name"),
            type_: Cow::Borrowed("string"),
            format: Cow::Borrowed("name"),
            description: Cow::Borrowed("Name of the object, unique within its namespace."),
            priority: 0,
        }
    }
}

/// One cell of a table row, as JSON: a string, a number, a boolean or null.
pub type Cell = Value;

/// One thing wrong with a field, as it appears in `details.causes` of an `Invalid` status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldCause {
    /// Kubernetes' cause, e.g. `FieldValueRequired`.
    pub reason: &'static str,
    /// Path of the field, e.g. `spec.containers[0].name`.
    pub field: String,
    /// Kubernetes' words without the field, e.g. `Required value` or
    /// `Invalid value: "a b": a lowercase RFC 1123 label must …`.
    pub message: String,
}

/// What a kind adds to the generic pipeline. Objects are JSON that has already passed the schema
/// check: every known field has the right JSON type, and unknown fields are gone.
///
/// All functions are pure and must not panic on any such object.
pub trait Hooks: Send + Sync {
    /// Fills in what the user left out, as Kubernetes' `SetDefaults_*` do. Runs on create, update and
    /// patch, before validation. Must be idempotent.
    fn default(&self, _object: &mut Value) {}

    /// Last changes before a create is validated: e.g. clears `status`, sets `status.phase`.
    /// `generation` is set by the pipeline.
    fn prepare_create(&self, _object: &mut Value, _now: Timestamp) {}

    /// Last changes before an update is validated: carries over what users may not change and what
    /// only the server writes. The pipeline has already restored `status` (or, on a status update,
    /// everything but `status`).
    fn prepare_update(&self, _object: &mut Value, _old: &Value) {}

    /// What is wrong with an object to be created.
    fn validate_create(&self, _object: &Value) -> Vec<FieldCause> {
        Vec::new()
    }

    /// What is wrong with replacing `old` by `object`.
    fn validate_update(&self, object: &Value, _old: &Value) -> Vec<FieldCause> {
        self.validate_create(object)
    }

    /// What is wrong with the new `status`.
    fn validate_status(&self, _object: &Value, _old: &Value) -> Vec<FieldCause> {
        Vec::new()
    }

    /// What is wrong with replacing `old` by `object` through a subresource that writes a part of the spec,
    /// e.g. `ephemeralcontainers`. Everything but that part is as it was.
    fn validate_subresource(&self, _subresource: &str, object: &Value, old: &Value) -> Vec<FieldCause> {
        self.validate_update(object, old)
    }

    /// What is wrong with `metadata.name`, without the field: `None` if it is fine. The default is
    /// Kubernetes' DNS subdomain rule (RFC 1123).
    fn validate_name(&self, name: &str) -> Option<String> {
        names::dns_subdomain(name).into_iter().next()
    }

    /// The columns of the table.
    fn columns(&self) -> &[Column];

    /// One row: as many cells as there are columns.
    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell>;

    /// Fields that field selectors may name besides `metadata.name` and `metadata.namespace`, with
    /// this object's values. Must give the same names for every object.
    fn selectable_fields(&self, _object: &Value) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// For a kind that is a view of objects stored in another form (`events.k8s.io/v1` of core events):
    /// turns the stored form into this version's form.
    #[expect(clippy::wrong_self_convention, reason = "it converts the object, not the hooks")]
    fn from_stored(&self, _object: &mut Value) {}

    /// The reverse of [`Hooks::from_stored`].
    fn to_stored(&self, _object: &mut Value) {}

    /// The grace period of a delete in seconds if the object is deleted gracefully (pods), given what
    /// the request asked for; `None` deletes at once.
    fn deletion_grace(&self, _object: &Value, _requested: Option<i64>) -> Option<i64> {
        None
    }
}
