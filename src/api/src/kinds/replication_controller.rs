//! ReplicationController: keeps a number of equal pods alive.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{common::*, pod_spec};
use crate::{
    Cell, Column, FieldCause, Hooks, Kind, Scope, Subresource,
    field::{self, Path},
};

pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["rc"]),
        categories: texts(&["all"]),
        subresources: vec![
            Subresource::Status,
            Subresource::Scale {
                spec_replicas: "spec.replicas".into(),
                status_replicas: "status.replicas".into(),
                selector: "spec.selector".into(),
            },
        ],
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

static COLUMNS: [Column; 8] = [
    Column::object_name(),
    Column::new("Desired", "integer", 0, "How many pods there should be."),
    Column::new("Current", "integer", 0, "How many pods there are."),
    Column::new("Ready", "integer", 0, "How many of them are ready."),
    AGE,
    wide("Containers", "Names of the containers in the template."),
    wide("Images", "Images of the containers in the template."),
    wide("Selector", "Labels of the pods."),
];

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
        let mut errors = Vec::new();
        let path = Path::new("status");
        let status = &object["status"];
        let of = |name: &str| int(&status[name]);
        for name in
            ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"]
        {
            check_not_negative(&mut errors, &path.child(name), &status[name]);
        }
        for name in ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"] {
            if of(name) > of("replicas") {
                errors.push(field::invalid(
                    &path.child(name),
                    of(name),
                    "cannot be greater than status.replicas",
                ));
            }
        }
        if of("availableReplicas") > of("readyReplicas") {
            errors.push(field::invalid(
                &path.child("availableReplicas"),
                of("availableReplicas"),
                "cannot be greater than readyReplicas",
            ));
        }
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
            format_labels(&spec["selector"]).into(),
        ]
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("status.replicas", int(&object["status"]["replicas"]).to_string())]
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
    let path = path.child("spec");
    if text(&template["spec"]["restartPolicy"]) != "Always" {
        errors.push(field::not_supported(
            &path.child("restartPolicy"),
            text(&template["spec"]["restartPolicy"]),
            &["Always"],
        ));
    }
    if is_set(&template["spec"]["activeDeadlineSeconds"]) {
        errors.push(field::forbidden(
            &path.child("activeDeadlineSeconds"),
            "activeDeadlineSeconds in ReplicationController is not Supported",
        ));
    }
}
