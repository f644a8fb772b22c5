//! The order of things, once, for every kind and every verb that writes:
//!
//! ```text
//!  dispatch      decode                this module                                     store
//!  authorize ──► body, schema ──► default ─► mutating admission ─► prepare ─► validate
//!                                  ─► validating admission ─► allocate ─► charge ────► write ─► respond
//! ```
//!
//! *Prepare* is what the server owns (uid, times, generation) and the kind's `prepare_*` hooks.
//! *Allocate* and *charge* (addresses, quotas) come last, so that an object that is refused costs nothing; what
//! they took is given back if the write fails.
//! Updates run the whole order again on the newest version when somebody else wrote in between.

use std::sync::Arc;

use bytes::Bytes;
use coracle_api::{Kind, status::Status};
use coracle_store::{Entry, WriteError};
use serde_json::Value;

use crate::{
    admission::Attributes,
    auth::User,
    core::Core,
    object,
    registry::{Catalogue, Resource},
};

mod create;
mod update;

pub(crate) use create::create;
pub(crate) use update::{Part, Update, update};

/// One write on its way through the pipeline.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) core: Arc<Core>,
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) resource: Arc<Resource>,
    /// Empty for cluster-wide kinds.
    pub(crate) namespace: String,
    /// Empty for creates.
    pub(crate) name: String,
    /// Empty for the object itself.
    pub(crate) subresource: String,
    pub(crate) user: User,
    /// Everything happens but the write.
    pub(crate) dry_run: bool,
}

impl Call {
    pub(crate) fn kind(&self) -> &Kind {
        &self.resource.kind
    }

    pub(crate) fn key(&self) -> String {
        self.resource.key(&self.namespace, &self.name)
    }

    pub(crate) fn not_found(&self) -> Status {
        Status::not_found(self.kind(), &self.name)
    }

    /// The entry that the call is about.
    pub(crate) fn entry(&self) -> Result<Arc<Entry>, Status> {
        self.core.store.get(&self.key()).ok_or_else(|| self.not_found())
    }

    /// An entry as an object in the form of the call's kind.
    pub(crate) fn object(&self, entry: &Entry) -> Value {
        served(&self.resource, entry)
    }

    pub(crate) fn attributes<'a>(&'a self, operation: crate::admission::Operation) -> Attributes<'a> {
        Attributes { call: self, operation }
    }

    /// The payload of an object, in the form in which it is stored.
    pub(crate) fn payload(&self, value: &Value) -> coracle_store::Payload {
        if self.resource.is_view() {
            let mut stored = value.clone();
            self.kind().hooks.to_stored(&mut stored);
            object::payload(&stored)
        } else {
            object::payload(value)
        }
    }
}

/// An entry as an object in the form of `resource`.
pub(crate) fn served(resource: &Resource, entry: &Entry) -> Value {
    let mut value = object::parse_stored(entry.value());
    if resource.is_view() {
        resource.kind.hooks.from_stored(&mut value);
    }
    value
}

/// An entry as bytes in the form of `resource`; shared, unless it is a view.
pub(crate) fn served_bytes(resource: &Resource, entry: &Entry) -> Bytes {
    if resource.is_view() {
        let value = served(resource, entry);
        Bytes::from(serde_json::to_vec(&value).expect("a JSON value serialises"))
    } else {
        entry.value().clone()
    }
}

/// What came of a write.
pub(crate) enum Saved {
    /// It is in the store.
    Stored(Arc<Entry>),
    /// It would be, but the request was a dry run.
    DryRun(Value),
}

impl Saved {
    /// The object as bytes in the form of `resource`.
    pub(crate) fn bytes(&self, resource: &Resource) -> Bytes {
        match self {
            Saved::Stored(entry) => served_bytes(resource, entry),
            Saved::DryRun(value) => Bytes::from(serde_json::to_vec(value).expect("a JSON value serialises")),
        }
    }

    /// The object in the form of `resource`.
    pub(crate) fn value(&self, resource: &Resource) -> Value {
        match self {
            Saved::Stored(entry) => served(resource, entry),
            Saved::DryRun(value) => value.clone(),
        }
    }
}

/// A refused write that is not about the object's state: too large, closed, failed.
pub(crate) fn write_status(error: &WriteError, call: &Call) -> Status {
    match error {
        WriteError::Exists { .. } => Status::already_exists(call.kind(), &call.name),
        WriteError::NotFound => call.not_found(),
        WriteError::Conflict { .. } => {
            Status::conflict(call.kind(), &call.name, coracle_api::status::OPTIMISTIC_LOCK)
        }
        WriteError::TooLarge { limit, .. } => Status::too_large(&format!("limit is {limit}")),
        WriteError::Invalid(why) => Status::bad_request(*why),
        WriteError::Closed => Status::service_unavailable("the server is shutting down"),
        WriteError::Failed(source) => {
            tracing::error!(error = %source, key = call.key(), "a write could not be made durable");
            Status::internal_error("the store could not make the write durable")
        }
    }
}

/// True if the kind counts changes of its spec in `metadata.generation`, as its Kubernetes strategy does.
fn counts_generation(kind: &Kind) -> bool {
    /// Built-in kinds that have a spec but no generation, or a generation but no spec.
    const WITHOUT: &[&str] = &[
        "services",
        "nodes",
        "namespaces",
        "persistentvolumes",
        "persistentvolumeclaims",
        "resourcequotas",
        "limitranges",
        "horizontalpodautoscalers.autoscaling",
    ];
    const WITH: &[&str] =
        &["endpointslices.discovery.k8s.io", "podtemplates", "priorityclasses.scheduling.k8s.io"];
    let resource = kind.qualified_resource();
    if WITHOUT.contains(&resource.as_str()) || resource == "leases.coordination.k8s.io" {
        return false;
    }
    let has_spec = coracle_api::schema::message(&kind.message)
        .is_none_or(|message| message.fields.iter().any(|field| field.json == "spec"));
    has_spec || WITH.contains(&resource.as_str())
}

/// True if anything outside of `metadata` and `status` differs. For kinds without a spec of their own
/// (endpoint slices) labels count as well, as consumers read them.
fn spec_differs(object: &Value, old: &Value) -> bool {
    let counts = |(field, _): &(&String, &Value)| {
        !matches!(field.as_str(), "metadata" | "status" | "apiVersion" | "kind")
    };
    let content = |value: &Value| value.as_object().map_or(0, |map| map.iter().filter(counts).count());
    let changed = |(field, value): (&String, &Value)| old.get(field) != Some(value);
    content(object) != content(old) || object.as_object().into_iter().flatten().filter(counts).any(changed)
}
