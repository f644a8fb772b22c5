//! Admission: what changes or refuses an object between decoding and storing, beyond its kind's own
//! rules. Plugins stand in one slice and run in its order.

use std::{ops::RangeInclusive, sync::Arc};

use async_trait::async_trait;
use coracle_api::status::Status;
use coracle_store::{Entry, ListOptions, Store};
use ipnet::{Ipv4Net, Ipv6Net};
use serde_json::Value;

use crate::{object, pipeline::Call};

mod limit_ranger;
mod namespace_lifecycle;
mod pod_tolerations;
mod pool;
pub(crate) mod priority;
mod quota;
mod service_account;
mod service_addresses;
mod storage;

pub(crate) use quota::Charges;

use quota::Quotas;
use service_addresses::ServiceAddresses;

/// What is being done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
}

/// What a plugin knows of a request.
pub(crate) struct Attributes<'a> {
    pub(crate) call: &'a Call,
    pub(crate) operation: Operation,
}

impl Attributes<'_> {
    /// True if the request is about the object itself of this core resource, not a subresource.
    pub(crate) fn is_core(&self, plural: &str) -> bool {
        let kind = self.call.kind();
        kind.group.is_empty() && kind.plural == plural && self.call.subresource.is_empty()
    }
}

/// One admission plugin. Objects are JSON that passed the schema check.
#[async_trait]
pub(crate) trait Plugin: Send + Sync {
    /// Changes an object before validation, or refuses it. `old` is the stored version of an update.
    async fn mutate(
        &self,
        _request: &Attributes<'_>,
        _object: &mut Value,
        _old: Option<&Value>,
    ) -> Result<(), Status> {
        Ok(())
    }

    /// Refuses a valid object (`object` is `None` for a delete).
    async fn validate(
        &self,
        _request: &Attributes<'_>,
        _object: Option<&Value>,
        _old: Option<&Value>,
    ) -> Result<(), Status> {
        Ok(())
    }
}

/// What was taken for an object that is not stored yet. Dropped, it is given back; after the write it
/// goes to [`Admission::committed`].
#[must_use = "what is not committed is given back"]
#[derive(Default)]
pub(crate) struct Holds(Vec<pool::Hold>);

/// All admission of the server.
pub(crate) struct Admission {
    plugins: Vec<Box<dyn Plugin>>,
    addresses: ServiceAddresses,
    quotas: Quotas,
}

impl Admission {
    /// The plugins of a server over this store.
    pub(crate) fn new(
        service_cidr: Ipv4Net,
        service_cidr_v6: Ipv6Net,
        node_ports: RangeInclusive<u16>,
        store: &dyn Store,
    ) -> Admission {
        Admission {
            plugins: vec![
                Box::new(namespace_lifecycle::NamespaceLifecycle),
                Box::new(limit_ranger::LimitRanger),
                Box::new(service_account::ServiceAccount),
                Box::new(pod_tolerations::PodTolerations),
                Box::new(priority::Priority),
                Box::new(storage::DefaultStorageClass),
                Box::new(storage::StorageObjectInUseProtection),
                Box::new(storage::PersistentVolumeClaimResize),
            ],
            quotas: Quotas::default(),
            addresses: ServiceAddresses::new(service_cidr, service_cidr_v6, node_ports, store),
        }
    }

    /// Runs the mutating plugins.
    pub(crate) async fn mutate(
        &self,
        request: &Attributes<'_>,
        object: &mut Value,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        for plugin in &self.plugins {
            plugin.mutate(request, object, old).await?;
        }
        Ok(())
    }

    /// Runs the validating plugins.
    pub(crate) async fn validate(
        &self,
        request: &Attributes<'_>,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        for plugin in &self.plugins {
            plugin.validate(request, object, old).await?;
        }
        Ok(())
    }

    /// Charges quotas for an object that is about to be stored: the last that can refuse it.
    pub(crate) async fn charge(
        &self,
        request: &Attributes<'_>,
        object: &Value,
        old: Option<&Value>,
    ) -> Result<Charges, Status> {
        self.quotas.charge(request, object, old).await
    }

    /// Gives back what was charged for an object that was not stored.
    pub(crate) async fn refund(&self, charges: Charges) {
        quota::refund(charges).await;
    }

    /// Takes addresses and ports for a service that is about to be stored.
    pub(crate) fn allocate(&self, request: &Attributes<'_>, object: &mut Value) -> Result<Holds, Status> {
        self.addresses.allocate(request, object).map(Holds)
    }

    /// Settles after a write what was taken for it, and gives back what the object no longer has. `new` is
    /// `None` if the object is gone.
    pub(crate) fn committed(
        &self,
        request: &Attributes<'_>,
        holds: Holds,
        old: Option<&Value>,
        new: Option<&Value>,
    ) {
        self.addresses.committed(request, holds.0, old, new);
    }
}

/// The stored objects of a kind, of one namespace or (if that is empty) of all. None if the kind is not served.
fn stored(call: &Call, kind: (&str, &str, &str), namespace: &str) -> Vec<Value> {
    entries(call, kind, namespace).iter().map(|entry| object::parse_stored(entry.value())).collect()
}

/// The same as they are in the store.
fn entries(call: &Call, (group, version, plural): (&str, &str, &str), namespace: &str) -> Vec<Arc<Entry>> {
    let Some(resource) = call.catalogue.find(group, version, plural) else { return Vec::new() };
    let listing = call.core.store.list(&resource.prefix(namespace), ListOptions::default());
    listing.map(|listing| listing.entries).unwrap_or_default()
}
