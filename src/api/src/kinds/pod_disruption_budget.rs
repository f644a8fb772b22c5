//! PodDisruptionBudget: how many pods of a set may go at once by somebody's will.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{common::*, pod_spec, workload::*};
use crate::{
    Cell, Column, FieldCause, Hooks, Kind, Scope, Subresource,
    field::{self, Path},
};

pub(super) fn kind() -> Kind {
    let (plural, hooks) = ("poddisruptionbudgets", PodDisruptionBudget);
    Kind {
        short_names: texts(&["pdb"]),
        subresources: vec![Subresource::Status],
        ..define("policy", "v1", "PodDisruptionBudget", plural, Scope::Namespaced, hooks)
    }
}

struct PodDisruptionBudget;

static COLUMNS: [Column; 5] = [
    Column::object_name(),
    column("Min Available", "How many pods must stay."),
    column("Max Unavailable", "How many pods may be missing."),
    integer("Allowed Disruptions", "How many pods may go now."),
    AGE,
];

impl Hooks for PodDisruptionBudget {
    fn prepare_create(&self, object: &mut Value, _now: Timestamp) {
        set(
            object,
            "status",
            json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0}),
        );
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldCause> {
        let mut errors = Vec::new();
        let (path, spec) = (Path::new("spec"), &object["spec"]);
        let bounds = ["minAvailable", "maxUnavailable"];
        if bounds.iter().all(|name| is_set(&spec[*name])) {
            let words = "minAvailable and maxUnavailable cannot be both set";
            errors.push(field::invalid(&path, spec, words));
        }
        for name in bounds {
            if is_set(&spec[name]) {
                check_int_or_percent(&mut errors, &path.child(name), &spec[name]);
                check_at_most_all(&mut errors, &path.child(name), &spec[name]);
            }
        }
        pod_spec::check_label_selector(&mut errors, &path.child("selector"), &spec["selector"]);
        check_optional_one_of(
            &mut errors,
            &path.child("unhealthyPodEvictionPolicy"),
            &spec["unhealthyPodEvictionPolicy"],
            &["AlwaysAllow", "IfHealthyBudget"],
        );
        errors
    }

    fn validate_status(&self, object: &Value, _old: &Value) -> Vec<FieldCause> {
        let mut errors = Vec::new();
        let counts = ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"];
        check_counts(&mut errors, &Path::new("status"), &object["status"], &counts);
        errors
    }

    fn columns(&self) -> &[Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let spec = &object["spec"];
        let bound = |name: &str| match &spec[name] {
            Value::Null => "N/A".to_owned(),
            Value::String(percent) => percent.clone(),
            number => int(number).to_string(),
        };
        vec![
            name(object),
            bound("minAvailable").into(),
            bound("maxUnavailable").into(),
            int(&object["status"]["disruptionsAllowed"]).into(),
            age(object, now),
        ]
    }
}
