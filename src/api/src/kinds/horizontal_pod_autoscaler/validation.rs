//! What is refused, in the form of `autoscaling/v2`.

use serde_json::Value;

use crate::{
    FieldCause,
    field::{self, Path},
    kinds::{common::*, pod_spec, storage},
    names,
    quantity::Quantity,
};

/// Longest period of a scaling policy, in seconds.
const MAX_PERIOD: i64 = 1800;
/// Longest time over which recommendations are compared, in seconds.
const MAX_STABILIZATION: i64 = 3600;
/// Fewest pods that an autoscaler may leave: none at all would leave nothing to measure.
const MIN_REPLICAS: i64 = 1;

const METRIC_TYPES: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];
/// Sources, in the order in which Kubernetes looks for them, with the type that each belongs to.
const SOURCES: [(&str, &str); 5] = [
    ("object", "Object"),
    ("external", "External"),
    ("pods", "Pods"),
    ("resource", "Resource"),
    ("containerResource", "ContainerResource"),
];

pub(super) fn check(object: &Value) -> Vec<FieldCause> {
    let mut errors = Vec::new();
    let (path, spec) = (Path::new("spec"), &object["spec"]);
    let (min, max) = (spec["minReplicas"].as_i64(), int(&spec["maxReplicas"]));
    if let Some(min) = min
        && min < MIN_REPLICAS
    {
        let words = format!("must be greater than or equal to {MIN_REPLICAS}");
        errors.push(field::invalid(&path.child("minReplicas"), min, &words));
    }
    let path_of_max = path.child("maxReplicas");
    if max < 1 {
        errors.push(field::invalid(&path_of_max, max, "must be greater than 0"));
    }
    if let Some(min) = min
        && max < min
    {
        errors.push(field::invalid(&path_of_max, max, "must be greater than or equal to `minReplicas`"));
    }
    check_reference(&mut errors, &path.child("scaleTargetRef"), &spec["scaleTargetRef"]);
    let metrics = path.child("metrics");
    for (index, metric) in items(&spec["metrics"]).iter().enumerate() {
        check_metric(&mut errors, &metrics.index(index), metric);
    }
    let behavior = path.child("behavior");
    for direction in ["scaleUp", "scaleDown"] {
        let rules = &spec["behavior"][direction];
        if is_set(rules) {
            check_rules(&mut errors, &behavior.child(direction), rules);
        }
    }
    errors
}

fn check_reference(errors: &mut Vec<FieldCause>, path: &Path<'_>, reference: &Value) {
    for name in ["kind", "name"] {
        check_required_text(errors, &path.child(name), &reference[name], names::path_segment);
    }
}

fn check_rules(errors: &mut Vec<FieldCause>, path: &Path<'_>, rules: &Value) {
    let window_path = path.child("stabilizationWindowSeconds");
    match int(&rules["stabilizationWindowSeconds"]) {
        ..0 => {
            let window = int(&rules["stabilizationWindowSeconds"]);
            errors.push(field::invalid(&window_path, window, "must be greater than or equal to zero"));
        }
        window if window > MAX_STABILIZATION => {
            let words = format!("must be less than or equal to {MAX_STABILIZATION}");
            errors.push(field::invalid(&window_path, window, &words));
        }
        _ => {}
    }
    let select = &rules["selectPolicy"];
    check_optional_one_of(errors, &path.child("selectPolicy"), select, &["Disabled", "Max", "Min"]);
    let policies = path.child("policies");
    if is_empty(&rules["policies"]) {
        errors.push(field::required(&policies, "must specify at least one Policy"));
    }
    for (index, policy) in items(&rules["policies"]).iter().enumerate() {
        check_policy(errors, &policies.index(index), policy);
    }
    if let Some(tolerance) = pod_spec::amount(&rules["tolerance"])
        && tolerance < Quantity::ZERO
    {
        let path = path.child("tolerance");
        errors.push(field::invalid(&path, &tolerance.to_string(), "must be greater or equal to zero"));
    }
}

fn check_policy(errors: &mut Vec<FieldCause>, path: &Path<'_>, policy: &Value) {
    let allowed = ["Percent", "Pods"];
    if !allowed.contains(&text(&policy["type"])) {
        errors.push(field::not_supported(&path.child("type"), text(&policy["type"]), &allowed));
    }
    for name in ["value", "periodSeconds"] {
        if int(&policy[name]) <= 0 {
            errors.push(field::invalid(&path.child(name), int(&policy[name]), "must be greater than zero"));
        }
    }
    let period = int(&policy["periodSeconds"]);
    if period > MAX_PERIOD {
        let words = format!("must be less than or equal to {MAX_PERIOD}");
        errors.push(field::invalid(&path.child("periodSeconds"), period, &words));
    }
}

fn check_metric(errors: &mut Vec<FieldCause>, path: &Path<'_>, metric: &Value) {
    let type_ = text(&metric["type"]);
    if type_.is_empty() {
        errors.push(field::required(&path.child("type"), "must specify a metric source type"));
    }
    if !METRIC_TYPES.contains(&type_) {
        errors.push(field::not_supported(&path.child("type"), type_, METRIC_TYPES));
    }
    let present: Vec<&str> =
        SOURCES.iter().map(|(name, _)| *name).filter(|name| is_set(&metric[*name])).collect();
    if let Some(first) = present.first() {
        check_source(errors, &path.child(first), first, &metric[*first]);
    }
    let expected = SOURCES.iter().find(|(_, source_type)| *source_type == type_).map(|(name, _)| *name);
    if let Some(expected) = expected
        && !present.contains(&expected)
    {
        let words = "must populate information for the given metric source";
        errors.push(field::required(&path.child(expected), words));
    }
    if present.len() != 1 {
        for name in present.iter().filter(|name| Some(**name) != expected) {
            let words = "must populate the given metric source only";
            errors.push(field::forbidden(&path.child(name), words));
        }
    }
}

fn check_source(errors: &mut Vec<FieldCause>, path: &Path<'_>, name: &str, source: &Value) {
    if name == "object" {
        check_reference(errors, &path.child("describedObject"), &source["describedObject"]);
    }
    if name.to_lowercase().ends_with("resource") {
        if is_empty(&source["name"]) {
            errors.push(field::required(&path.child("name"), "must specify a resource name"));
        }
        if name == "containerResource" && is_empty(&source["container"]) {
            errors.push(field::required(&path.child("container"), "must specify a container"));
        }
    } else {
        let path = path.child("metric.name");
        match text(&source["metric"]["name"]) {
            "" => errors.push(field::required(&path, "must specify a metric name")),
            metric => check_text(errors, &path, metric, names::path_segment),
        }
    }
    let target = &source["target"];
    let path = path.child("target");
    check_target(errors, &path, target);
    let has = |name: &str| is_set(&target[name]);
    let (value, average, utilization) = (has("value"), has("averageValue"), has("averageUtilization"));
    let (path_of_value, path_of_average) = (path.child("value"), path.child("averageValue"));
    match name {
        "object" if !value && !average => {
            errors.push(field::required(&path_of_average, "must set either a target value or averageValue"));
        }
        "external" if !value && !average => {
            let words = "must set either a target value for metric or a per-pod target";
            errors.push(field::required(&path_of_average, words));
        }
        "external" if value && average => {
            let words = "may not set both a target value for metric and a per-pod target";
            errors.push(field::forbidden(&path_of_value, words));
        }
        "pods" if !average => {
            errors.push(field::required(&path_of_average, "must specify a positive target averageValue"));
        }
        "resource" | "containerResource" if !utilization && !average => {
            let words = "must set either a target raw value or a target utilization";
            errors.push(field::required(&path.child("averageUtilization"), words));
        }
        "resource" | "containerResource" if utilization && average => {
            let words = "may not set both a target raw value and a target utilization";
            errors.push(field::forbidden(&path_of_average, words));
        }
        _ => {}
    }
}

fn check_target(errors: &mut Vec<FieldCause>, path: &Path<'_>, target: &Value) {
    let type_ = text(&target["type"]);
    if type_.is_empty() {
        errors.push(field::required(&path.child("type"), "must specify a metric target type"));
    }
    if !matches!(type_, "Utilization" | "Value" | "AverageValue") {
        let words = "must be either Utilization, Value, or AverageValue";
        errors.push(field::invalid(&path.child("type"), type_, words));
    }
    for name in ["value", "averageValue"] {
        storage::check_above_zero(errors, &path.child(name), &target[name], "must be positive");
    }
    if let Some(utilization) = target["averageUtilization"].as_i64()
        && utilization < 1
    {
        let path = path.child("averageUtilization");
        errors.push(field::invalid(&path, utilization, "must be greater than 0"));
    }
}
