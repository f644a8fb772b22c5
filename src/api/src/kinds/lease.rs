//! Lease: who holds a role, until when. Nodes prove with it that they live.

use jiff::Timestamp;
use serde_json::Value;

use super::common::*;
use crate::{
    Cell, Column, FieldCause, Hooks, Kind, Scope,
    field::{self, Path},
    names,
};

pub(super) fn kind() -> Kind {
    define("coordination.k8s.io", "v1", "Lease", "leases", Scope::Namespaced, Lease)
}

struct Lease;

static COLUMNS: [Column; 3] = [Column::object_name(), column("Holder", "Who holds the lease."), AGE];

impl Hooks for Lease {
    fn validate_create(&self, object: &Value) -> Vec<FieldCause> {
        let mut errors = Vec::new();
        let path = Path::new("spec");
        let spec = &object["spec"];
        if spec["leaseDurationSeconds"].as_i64().is_some_and(|seconds| seconds <= 0) {
            errors.push(field::invalid(
                &path.child("leaseDurationSeconds"),
                int(&spec["leaseDurationSeconds"]),
                "must be greater than 0",
            ));
        }
        check_not_negative(&mut errors, &path.child("leaseTransitions"), &spec["leaseTransitions"]);
        let strategy = text(&spec["strategy"]);
        if is_set(&spec["strategy"]) {
            let path = path.child("strategy");
            if strategy.contains('/') {
                check_text(&mut errors, &path, strategy, names::qualified_name);
            } else if strategy != "OldestEmulationVersion" {
                errors.push(field::not_supported(&path, strategy, &["OldestEmulationVersion"]));
            }
        }
        if strategy.is_empty() && !is_empty(&spec["preferredHolder"]) {
            errors.push(field::forbidden(
                &path.child("preferredHolder"),
                "may only be specified if `strategy` is defined",
            ));
        }
        errors
    }

    fn columns(&self) -> &[Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        vec![name(object), text(&object["spec"]["holderIdentity"]).into(), age(object, now)]
    }
}
