//! ReplicaSet: keeps a number of equal pods alive; what deployments are made of.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{common::*, workload::*};
use crate::{Cell, Column, FieldCause, Hooks, Kind, field::Path};

pub(super) fn kind() -> Kind {
    app("ReplicaSet", "replicasets", "rs", ReplicaSet)
}

struct ReplicaSet;

impl Hooks for ReplicaSet {
    fn default(&self, object: &mut Value) {
        object_mut(object, "spec");
        let Some(spec) = existing_mut(object, "spec") else { return };
        fill_absent(spec, "replicas", 1);
        default_template(spec);
    }

    fn prepare_create(&self, object: &mut Value, _now: Timestamp) {
        set(object, "status", json!({"replicas": 0}));
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldCause> {
        let mut errors = Vec::new();
        let (path, spec) = (Path::new("spec"), &object["spec"]);
        check_not_negative(&mut errors, &path.child("replicas"), &spec["replicas"]);
        check_not_negative(&mut errors, &path.child("minReadySeconds"), &spec["minReadySeconds"]);
        check_replica_template(&mut errors, &path, spec);
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldCause> {
        let mut errors = self.validate_create(object);
        check_selector_stays(&mut errors, object, old);
        errors
    }

    fn validate_status(&self, object: &Value, _old: &Value) -> Vec<FieldCause> {
        check_replica_status(object)
    }

    fn columns(&self) -> &[Column] {
        &REPLICA_COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        row(object, replica_counts(object), now)
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        replica_fields(object)
    }
}
