//! ReplicaSet: keeps a number of equal pods alive; what deployments are made of.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{common::*, workload::*};
use crate::{Cell, Column, FieldCause, Hooks, Kind, Scope, Subresource, field::Path};

pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["rs"]),
        categories: texts(&["all"]),
        subresources: vec![Subresource::Status, scale()],
        ..define("apps", "v1", "ReplicaSet", "replicasets", Scope::Namespaced, ReplicaSet)
    }
}

struct ReplicaSet;

static COLUMNS: [Column; 8] = [
    Column::object_name(),
    integer("Desired", "How many pods there should be."),
    integer("Current", "How many pods there are."),
    integer("Ready", "How many of them are ready."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

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
        let path = Path::new("spec.selector");
        check_immutable(&mut errors, &path, &object["spec"]["selector"], &old["spec"]["selector"]);
        errors
    }

    fn validate_status(&self, object: &Value, _old: &Value) -> Vec<FieldCause> {
        let mut errors = Vec::new();
        let (path, status) = (Path::new("status"), &object["status"]);
        let counts =
            ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"];
        check_counts(&mut errors, &path, status, &counts);
        check_at_most(&mut errors, &path, status, &counts[1..4], "replicas", "status.replicas");
        check_at_most(&mut errors, &path, status, &["availableReplicas"], "readyReplicas", "readyReplicas");
        errors
    }

    fn columns(&self) -> &[Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let (spec, status) = (&object["spec"], &object["status"]);
        let [containers, images] = containers_and_images(&spec["template"]["spec"]);
        vec![
            name(object),
            int(&spec["replicas"]).into(),
            int(&status["replicas"]).into(),
            int(&status["readyReplicas"]).into(),
            age(object, now),
            containers,
            images,
            selector_cell(&spec["selector"]),
        ]
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("status.replicas", int(&object["status"]["replicas"]).to_string())]
    }
}
