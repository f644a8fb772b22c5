//! The built-in kinds: one file each, one line each in [`builtin`].
//!
//! To add a kind: write `<kind>.rs` with a `kind()` that starts from `common::define` and a unit
//! struct that implements [`crate::Hooks`], and add its line to the table below. Routes, discovery,
//! OpenAPI, table printing and names on the command line derive from it.
//!
//! What every kind has in common stands in [`meta`] (rules of `metadata`, and the entry points
//! [`Kind::validate_create`], [`Kind::validate_update`] and [`Kind::validate_status`] that combine them with the
//! kind's own) and in `pod_spec` (defaults and validation of pod specs, for pods and for everything
//! that carries a pod template), in `workload` (selectors, templates and counts of what makes pods) and in
//! `storage` (access modes and sizes of claims and volumes).

use std::sync::{Arc, LazyLock};

use crate::Kind;

mod common;
mod config_map;
mod controller_revision;
mod cron_job;
mod daemon_set;
mod deployment;
mod endpoint_slice;
mod endpoints;
mod event;
mod horizontal_pod_autoscaler;
mod job;
mod lease;
mod limit_range;
pub mod meta;
mod namespace;
mod network_policy;
mod node;
mod persistent_volume;
mod persistent_volume_claim;
pub mod platform;
mod pod;
mod pod_disruption_budget;
mod pod_spec;
mod pod_template;
mod priority_class;
mod replica_set;
mod replication_controller;
mod resource_quota;
mod secret;
mod service;
mod service_account;
mod stateful_set;
mod storage;
mod storage_class;
#[cfg(test)]
mod tests;
mod workload;

/// Every built-in kind, core group first, in the order that discovery lists them.
static BUILTIN: LazyLock<Vec<Arc<Kind>>> = LazyLock::new(|| {
    [
        config_map::kind(),
        endpoints::kind(),
        event::core_kind(),
        limit_range::kind(),
        namespace::kind(),
        node::kind(),
        persistent_volume_claim::kind(),
        persistent_volume::kind(),
        pod::kind(),
        pod_template::kind(),
        replication_controller::kind(),
        resource_quota::kind(),
        secret::kind(),
        service_account::kind(),
        service::kind(),
        controller_revision::kind(),
        daemon_set::kind(),
        deployment::kind(),
        replica_set::kind(),
        stateful_set::kind(),
        horizontal_pod_autoscaler::v2_kind(),
        horizontal_pod_autoscaler::v1_kind(),
        cron_job::kind(),
        job::kind(),
        network_policy::kind(),
        pod_disruption_budget::kind(),
        storage_class::kind(),
        priority_class::kind(),
        lease::kind(),
        endpoint_slice::kind(),
        event::events_kind(),
    ]
    .map(Arc::new)
    .into()
});

/// Every built-in kind, core group first, in the order that discovery lists them.
pub fn builtin() -> &'static [Arc<Kind>] {
    &BUILTIN
}

/// The built-in kind that is served under this group (empty: core), version and plural.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Arc<Kind>> {
    builtin().iter().find(|kind| kind.group == group && kind.version == version && kind.plural == plural)
}
