//! ReplicationController: keeps a number of equal pods alive.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{common::*, pod_spec, workload::*};
use crate::{
    Cell, Column, FieldCause, Hooks, Kind, Scope, Subresource,
    field::{self, Path},
};

pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["rc"]),
        categories: texts(&["all"]),
        subresources: vec![Subresource::Status, scale()],
        ..define(
            "",
            "v1",
            "ReplicationController",
            "replicationcontrollers",
            Scope::Namespaced,
            ReplicationController,
        )
    }
}

struct ReplicationController;

impl Hooks for ReplicationController {
    fn default(&self, object: &mut Value) {
        object_mut(object, "spec");
        let Some(spec) = existing_mut(object, "spec") else { return };
        fill_absent(spec, "replicas", 1);
        if let Some(template) = existing_mut(spec, "template") {
            pod_spec::default_template(template);
        }
        let labels = spec["template"]["metadata"]["labels"].clone();
        if is_set(&labels) {
            if is_empty(&spec["selector"]) {
                set(spec, "selector", labels.clone());
            }
            if let Some(meta) = object_mut(object, "metadata")
                && meta.get("labels").is_none_or(is_empty)
            {
                meta.insert("labels".to_owned(), labels);
            }
        }
    }

    fn prepare_create(&self, object: &mut Value, _now: Timestamp) {
        set(object, "status", json!({"replicas": 0}));
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldCause> {
        let mut errors = Vec::new();
        let spec = &object["spec"];
        let path = Path::new("spec");
        check_not_negative(&mut errors, &path.child("minReadySeconds"), &spec["minReadySeconds"]);
        if is_empty(&spec["selector"]) {
            errors.push(field::required(&path.child("selector"), ""));
        }
        check_not_negative(&mut errors, &path.child("replicas"), &spec["replicas"]);
        check_template(&mut errors, &path.child("template"), spec);
        errors
    }

    fn validate_status(&self, object: &Value, _old: &Value) -> Vec<FieldCause> {
        check_replica_status(object)
    }

    fn columns(&self) -> &[Column] {
        &REPLICA_COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let mut row = cells(object, replica_counts(object), now);
        row.push(format_labels(&object["spec"]["selector"]).into());
        row
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        replica_fields(object)
    }
}

fn check_template(errors: &mut Vec<FieldCause>, path: &Path<'_>, spec: &Value) {
    let template = &spec["template"];
    if !is_set(template) {
        errors.push(field::required(path, ""));
        return;
    }
    let labels = &template["metadata"]["labels"];
    if entries(&spec["selector"]).any(|(key, value)| labels[key] != *value) {
        errors.push(field::invalid(
            &path.child("metadata.labels"),
            labels,
            "`selector` does not match template `labels`",
        ));
    }
    pod_spec::check_template(errors, path, template);
    check_endless(errors, path, template, "ReplicationController");
}
