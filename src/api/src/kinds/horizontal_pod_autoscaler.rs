//! HorizontalPodAutoscaler: as many pods as the load asks for.
//!
//! Objects are stored in the form of `autoscaling/v2`. What `autoscaling/v1` has no field for stands in
//! annotations there ([`view`]).

use jiff::Timestamp;
use serde_json::{Value, json};

use super::common::*;
use crate::{Cell, Column, FieldCause, Hooks, Kind, Scope, Subresource, field::Path};

mod table;
mod validation;
mod view;

/// Utilisation of the CPU, in percent of what pods request, that is aimed at if nothing else is said.
const CPU_UTILIZATION: i64 = 80;

/// `autoscaling/v2`: the stored form, and the preferred one.
pub(super) fn v2_kind() -> Kind {
    Kind {
        short_names: texts(&["hpa"]),
        categories: texts(&["all"]),
        subresources: vec![Subresource::Status],
        ..define("autoscaling", "v2", "HorizontalPodAutoscaler", PLURAL, Scope::Namespaced, V2)
    }
}

/// `autoscaling/v1`: a view of the same objects.
pub(super) fn v1_kind() -> Kind {
    Kind {
        short_names: texts(&["hpa"]),
        categories: texts(&["all"]),
        subresources: vec![Subresource::Status],
        ..define("autoscaling", "v1", "HorizontalPodAutoscaler", PLURAL, Scope::Namespaced, V1)
    }
}

const PLURAL: &str = "horizontalpodautoscalers";

struct V2;

impl Hooks for V2 {
    fn default(&self, object: &mut Value) {
        object_mut(object, "spec");
        let Some(spec) = existing_mut(object, "spec") else { return };
        fill_absent(spec, "minReplicas", 1);
        default_metrics(spec);
        if let Some(behavior) = existing_mut(spec, "behavior") {
            default_behavior(behavior);
        }
    }

    fn prepare_create(&self, object: &mut Value, _now: Timestamp) {
        set(object, "status", json!({"desiredReplicas": 0}));
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldCause> {
        validation::check(object)
    }

    fn validate_status(&self, object: &Value, _old: &Value) -> Vec<FieldCause> {
        check_status(object)
    }

    fn columns(&self) -> &[Column] {
        &table::COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        table::row(object, now)
    }
}

struct V1;

impl Hooks for V1 {
    fn default(&self, object: &mut Value) {
        object_mut(object, "spec");
        if let Some(spec) = existing_mut(object, "spec") {
            fill_absent(spec, "minReplicas", 1);
        }
    }

    fn prepare_create(&self, object: &mut Value, _now: Timestamp) {
        set(object, "status", json!({"currentReplicas": 0, "desiredReplicas": 0}));
        view::drop_status(object);
    }

    fn prepare_update(&self, object: &mut Value, old: &Value) {
        view::keep_status(object, old);
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldCause> {
        let (stored, mut errors) = view::stored(object);
        errors.extend(validation::check(&stored));
        errors
    }

    fn validate_status(&self, object: &Value, _old: &Value) -> Vec<FieldCause> {
        let (_, mut errors) = view::stored(object);
        errors.extend(check_status(object));
        errors
    }

    fn columns(&self) -> &[Column] {
        &table::COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        table::row(&view::stored(object).0, now)
    }

    fn from_stored(&self, object: &mut Value) {
        view::from_stored(object);
    }

    fn to_stored(&self, object: &mut Value) {
        *object = view::stored(object).0;
    }
}

fn default_metrics(spec: &mut Value) {
    if is_empty(&spec["metrics"]) {
        let target = json!({"type": "Utilization", "averageUtilization": CPU_UTILIZATION});
        set(spec, "metrics", json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]));
    }
}

/// Up at once, by four pods or twofold in 15 seconds; down to nothing, after a while that the controller
/// knows.
fn default_behavior(behavior: &mut Value) {
    let all = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
    let four = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
    for (direction, policies) in [("scaleUp", json!([four, all])), ("scaleDown", json!([all]))] {
        object_mut(behavior, direction);
        if let Some(rules) = existing_mut(behavior, direction) {
            fill_absent(rules, "selectPolicy", "Max");
            if direction == "scaleUp" {
                fill_absent(rules, "stabilizationWindowSeconds", 0);
            }
            if is_empty(&rules["policies"]) {
                set(rules, "policies", policies);
            }
        }
    }
}

fn check_status(object: &Value) -> Vec<FieldCause> {
    let mut errors = Vec::new();
    let path = Path::new("status");
    for name in ["currentReplicas", "desiredReplicas"] {
        check_not_negative(&mut errors, &path.child(name), &object["status"][name]);
    }
    errors
}
