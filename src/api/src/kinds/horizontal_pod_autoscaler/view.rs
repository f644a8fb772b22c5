//! `autoscaling/v1` as a view of `autoscaling/v2`: the CPU's utilisation has fields there, everything
//! else is JSON in annotations, in the flat form that metrics had before v2.

use serde_json::{Map, Value, json};

use super::{default_behavior, default_metrics};
use crate::{
    FieldCause,
    field::{self, Path},
    kinds::common::*,
    schema,
};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// How a value is called in the two forms: by a path of at most two steps in v2, by a name in v1.
type Renamed = (&'static str, &'static str);

/// The parts of a metric's source, by type.
const SOURCE_FIELDS: &[(&str, &str, &[Renamed])] = &[
    (
        "Resource",
        "resource",
        &[
            ("name", "name"),
            ("target/averageUtilization", "targetAverageUtilization"),
            ("target/averageValue", "targetAverageValue"),
        ],
    ),
    (
        "ContainerResource",
        "containerResource",
        &[
            ("name", "name"),
            ("container", "container"),
            ("target/averageUtilization", "targetAverageUtilization"),
            ("target/averageValue", "targetAverageValue"),
        ],
    ),
    (
        "Pods",
        "pods",
        &[
            ("metric/name", "metricName"),
            ("metric/selector", "selector"),
            ("target/averageValue", "targetAverageValue"),
        ],
    ),
    (
        "Object",
        "object",
        &[
            ("describedObject", "target"),
            ("metric/name", "metricName"),
            ("metric/selector", "selector"),
            ("target/value", "targetValue"),
            ("target/averageValue", "averageValue"),
        ],
    ),
    (
        "External",
        "external",
        &[
            ("metric/name", "metricName"),
            ("metric/selector", "metricSelector"),
            ("target/value", "targetValue"),
            ("target/averageValue", "targetAverageValue"),
        ],
    ),
];

/// The parts of a metric's status, by type.
const STATUS_FIELDS: &[(&str, &str, &[Renamed])] = &[
    (
        "Resource",
        "resource",
        &[
            ("name", "name"),
            ("current/averageUtilization", "currentAverageUtilization"),
            ("current/averageValue", "currentAverageValue"),
        ],
    ),
    (
        "ContainerResource",
        "containerResource",
        &[
            ("name", "name"),
            ("container", "container"),
            ("current/averageUtilization", "currentAverageUtilization"),
            ("current/averageValue", "currentAverageValue"),
        ],
    ),
    (
        "Pods",
        "pods",
        &[
            ("metric/name", "metricName"),
            ("metric/selector", "selector"),
            ("current/averageValue", "currentAverageValue"),
        ],
    ),
    (
        "Object",
        "object",
        &[
            ("describedObject", "target"),
            ("metric/name", "metricName"),
            ("metric/selector", "selector"),
            ("current/value", "currentValue"),
            ("current/averageValue", "averageValue"),
        ],
    ),
    (
        "External",
        "external",
        &[
            ("metric/name", "metricName"),
            ("metric/selector", "metricSelector"),
            ("current/value", "currentValue"),
            ("current/averageValue", "currentAverageValue"),
        ],
    ),
];

/// Turns an object of v2 into one of v1.
pub(super) fn from_stored(object: &mut Value) {
    set(object, "apiVersion", "autoscaling/v1");
    let mut notes: Vec<(&str, Value)> = Vec::new();
    if let Some(spec) = existing_mut(object, "spec") {
        let metrics = take(spec, "metrics");
        let cpu = items(&metrics).iter().find(|metric| is_cpu(metric));
        if let Some(utilization) = cpu.map(utilization_target).filter(|utilization| is_set(utilization)) {
            set(spec, "targetCPUUtilizationPercentage", utilization.clone());
        }
        let others =
            items(&metrics).iter().filter(|metric| !is_cpu(metric) || !is_set(utilization_target(metric)));
        notes.push((METRICS, others.map(|metric| flatten(metric, SOURCE_FIELDS)).collect()));
        notes.push((BEHAVIOR, respell(&take(spec, "behavior"), capital)));
    }
    if let Some(status) = existing_mut(object, "status") {
        let current = take(status, "currentMetrics");
        let cpu = items(&current).iter().rfind(|metric| is_cpu(metric));
        let utilization = cpu.map(|metric| metric["resource"]["current"]["averageUtilization"].clone());
        if let Some(utilization) = utilization.filter(is_set) {
            set(status, "currentCPUUtilizationPercentage", utilization);
        }
        fill_absent(status, "currentReplicas", 0);
        fill_absent(status, "desiredReplicas", 0);
        let current = items(&current).iter().map(|metric| flatten(metric, STATUS_FIELDS)).collect();
        notes.push((CURRENT_METRICS, current));
        notes.push((CONDITIONS, take(status, "conditions")));
    }
    drop_annotations(object, &[METRICS, BEHAVIOR, CURRENT_METRICS, CONDITIONS]);
    notes.retain(|(_, note)| !is_empty(note));
    if notes.is_empty() {
        return;
    }
    object_mut(object, "metadata");
    if let Some(meta) = existing_mut(object, "metadata")
        && let Some(annotations) = object_mut(meta, "annotations")
    {
        for (name, note) in notes {
            annotations.insert(name.to_owned(), note.to_string().into());
        }
    }
}

/// An object of v1 in the form of v2, and what is wrong with its annotations. What is wrong is left out.
pub(super) fn stored(object: &Value) -> (Value, Vec<FieldCause>) {
    let mut object = object.clone();
    let mut errors = Vec::new();
    let mut note = |name: &'static str, message: &str, is_list: bool| -> Value {
        let text = text(&object["metadata"]["annotations"][name]).to_owned();
        let read = read_note(name, &text, message, is_list);
        read.unwrap_or_else(|why| {
            let path = Path::new("metadata.annotations");
            errors.push(field::invalid(&path.key(name), &text, &why));
            Value::Null
        })
    };
    let mut metrics = note(METRICS, "MetricSpec", true);
    let behavior = note(BEHAVIOR, "HorizontalPodAutoscalerBehavior", false);
    let current = note(CURRENT_METRICS, "MetricStatus", true);
    let conditions = note(CONDITIONS, "HorizontalPodAutoscalerCondition", true);
    set(&mut object, "apiVersion", "autoscaling/v2");
    drop_annotations(&mut object, &[METRICS, BEHAVIOR, CURRENT_METRICS, CONDITIONS]);
    if let Some(spec) = existing_mut(&mut object, "spec") {
        let utilization = take(spec, "targetCPUUtilizationPercentage");
        if is_set(&utilization) {
            let target = json!({"type": "Utilization", "averageUtilization": utilization});
            let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": target}});
            match &mut metrics {
                Value::Array(list) => list.push(cpu),
                other => *other = json!([cpu]),
            }
        }
        set(spec, "metrics", metrics);
        default_metrics(spec);
        if is_set(&behavior) {
            set(spec, "behavior", behavior);
            if let Some(behavior) = existing_mut(spec, "behavior") {
                default_behavior(behavior);
            }
        }
    }
    if let Some(status) = existing_mut(&mut object, "status") {
        let utilization = take(status, "currentCPUUtilizationPercentage");
        if !is_empty(&current) {
            set(status, "currentMetrics", current);
        } else if is_set(&utilization) {
            let cpu = json!({"name": "cpu", "current": {"averageUtilization": utilization}});
            set(status, "currentMetrics", json!([{"type": "Resource", "resource": cpu}]));
        }
        if !is_empty(&conditions) {
            set(status, "conditions", conditions);
        }
        if int(&status["currentReplicas"]) == 0 {
            clear(status, "currentReplicas");
        }
    }
    (object, errors)
}

/// A new object has no status, in annotations neither.
pub(super) fn drop_status(object: &mut Value) {
    drop_annotations(object, &[CURRENT_METRICS, CONDITIONS]);
}

/// The status in annotations is the server's, as the status itself is.
pub(super) fn keep_status(object: &mut Value, old: &Value) {
    drop_status(object);
    for name in [CURRENT_METRICS, CONDITIONS] {
        let note = &old["metadata"]["annotations"][name];
        if is_set(note)
            && let Some(meta) = existing_mut(object, "metadata")
            && let Some(annotations) = object_mut(meta, "annotations")
        {
            annotations.insert(name.to_owned(), note.clone());
        }
    }
}

/// Reads an annotation and makes it fit v2.
fn read_note(name: &str, text: &str, message: &str, is_list: bool) -> Result<Value, String> {
    if text.is_empty() {
        return Ok(Value::Null);
    }
    let read: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let message = schema::message(&format!("autoscaling.v2.{message}"))
        .ok_or_else(|| "the schema has no such message".to_owned())?;
    let fit = |mut value: Value| -> Result<Value, String> {
        schema::conform_message(message, &mut value).map_err(|error| error.to_string())?;
        Ok(value)
    };
    match (read, is_list) {
        (Value::Array(list), true) => {
            let raise = |value: &Value| match name {
                METRICS => raise(value, SOURCE_FIELDS),
                CURRENT_METRICS => raise(value, STATUS_FIELDS),
                _ => value.clone(),
            };
            list.iter().map(|value| fit(raise(value))).collect()
        }
        (object @ Value::Object(_), false) => fit(respell(&object, small)),
        _ => Err(if is_list { "must be a list" } else { "must be an object" }.to_owned()),
    }
}

fn is_cpu(metric: &Value) -> bool {
    text(&metric["type"]) == "Resource" && text(&metric["resource"]["name"]) == "cpu"
}

fn utilization_target(metric: &Value) -> &Value {
    &metric["resource"]["target"]["averageUtilization"]
}

fn take(object: &mut Value, key: &str) -> Value {
    object.as_object_mut().and_then(|map| map.remove(key)).unwrap_or_default()
}

/// Removes annotations, and the map of them if it is empty then.
fn drop_annotations(object: &mut Value, names: &[&str]) {
    let Some(meta) = existing_mut(object, "metadata") else { return };
    let Some(annotations) = existing_mut(meta, "annotations") else { return };
    for name in names {
        clear(annotations, name);
    }
    if is_empty(annotations) {
        clear(meta, "annotations");
    }
}

/// A metric of v2 in the flat form.
fn flatten(metric: &Value, fields: &[(&str, &str, &[Renamed])]) -> Value {
    let mut flat = json!({"type": metric["type"]});
    let type_ = text(&metric["type"]);
    if let Some((_, source, fields)) = fields.iter().find(|(name, _, _)| *name == type_) {
        let mut inner = Map::new();
        for (path, name) in *fields {
            let value = path.split('/').fold(&metric[*source], |value, step| &value[step]);
            if is_set(value) {
                inner.insert((*name).to_owned(), value.clone());
            }
        }
        set(&mut flat, source, inner);
    }
    flat
}

/// A metric in the flat form as one of v2.
fn raise(flat: &Value, fields: &[(&str, &str, &[Renamed])]) -> Value {
    let mut metric = json!({"type": flat["type"]});
    let type_ = text(&flat["type"]);
    let Some((_, source, fields)) = fields.iter().find(|(name, _, _)| *name == type_) else {
        return metric;
    };
    let mut inner = json!({});
    for (path, name) in *fields {
        let value = &flat[*source][*name];
        if !is_set(value) {
            continue;
        }
        match path.split_once('/') {
            Some((outer, name)) => {
                if let Some(outer) = object_mut(&mut inner, outer) {
                    outer.insert(name.to_owned(), value.clone());
                }
            }
            None => set(&mut inner, path, value.clone()),
        }
    }
    drop_zero_value(&mut inner);
    if let Some(target) = existing_mut(&mut inner, "target") {
        let type_ = target_type(type_, target);
        set(target, "type", type_);
    }
    set(&mut metric, source, inner);
    metric
}

/// In the flat form an object's metric always has a value: nothing stands for none.
fn drop_zero_value(source: &mut Value) {
    for part in ["target", "current"] {
        if let Some(part) = existing_mut(source, part)
            && is_set(&part["averageValue"])
            && part["value"] == "0"
        {
            clear(part, "value");
        }
    }
}

fn target_type(metric_type: &str, target: &Value) -> &'static str {
    match metric_type {
        "Resource" | "ContainerResource" if is_set(&target["averageUtilization"]) => "Utilization",
        "Object" | "External" if is_set(&target["value"]) => "Value",
        _ => "AverageValue",
    }
}

/// The same JSON with all names of fields spelt differently.
fn respell(value: &Value, spell: fn(&str) -> String) -> Value {
    match value {
        Value::Object(map) => {
            map.iter().map(|(key, value)| (spell(key), respell(value, spell))).collect::<Map<_, _>>().into()
        }
        Value::Array(list) => list.iter().map(|value| respell(value, spell)).collect(),
        other => other.clone(),
    }
}

/// Go's spelling, in which the behaviour is written: `ScaleUp`.
fn capital(name: &str) -> String {
    let mut chars = name.chars();
    chars.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(chars).collect()
}

fn small(name: &str) -> String {
    let mut chars = name.chars();
    chars.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(chars).collect()
}
