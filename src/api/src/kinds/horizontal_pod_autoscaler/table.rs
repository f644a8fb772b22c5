//! What `kubectl get hpa` prints.

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    Cell, Column,
    kinds::{common::*, pod_spec},
};

/// How many metrics are shown in full.
const SHOWN_METRICS: usize = 2;

pub(super) static COLUMNS: [Column; 7] = [
    Column::object_name(),
    column("Reference", "What is scaled."),
    column("Targets", "What is measured, and what is aimed at."),
    column("MinPods", "Fewest pods."),
    column("MaxPods", "Most pods."),
    column("Replicas", "How many pods there are."),
    AGE,
];

pub(super) fn row(object: &Value, now: Timestamp) -> Vec<Cell> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let target = &spec["scaleTargetRef"];
    vec![
        name(object),
        format!("{}/{}", text(&target["kind"]), text(&target["name"])).into(),
        metrics(&spec["metrics"], &status["currentMetrics"]).into(),
        spec["minReplicas"].as_i64().map_or_else(|| "<unset>".to_owned(), |min| min.to_string()).into(),
        int(&spec["maxReplicas"]).into(),
        int(&status["currentReplicas"]).into(),
        age(object, now),
    ]
}

fn metrics(specs: &Value, statuses: &Value) -> String {
    let specs = items(specs);
    if specs.is_empty() {
        return "<none>".to_owned();
    }
    let shown = specs.iter().take(SHOWN_METRICS).enumerate();
    let list: Vec<String> = shown.map(|(index, spec)| metric(spec, &statuses[index])).collect();
    let list = list.join(", ");
    match specs.len().saturating_sub(SHOWN_METRICS) {
        0 => list,
        more => format!("{list} + {more} more..."),
    }
}

/// An amount in its canonical form; `instead` if absent.
fn amount(value: &Value, instead: &str) -> String {
    pod_spec::amount(value).map_or_else(|| instead.to_owned(), |amount| amount.to_string())
}

fn percent(value: &Value, instead: &str) -> String {
    value.as_i64().map_or_else(|| instead.to_owned(), |value| format!("{value}%"))
}

/// One metric, e.g. `cpu: 12%/80%`.
fn metric(spec: &Value, status: &Value) -> String {
    const UNKNOWN: &str = "<unknown>";
    let source = match text(&spec["type"]) {
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        "Pods" => "pods",
        "Object" => "object",
        "External" => "external",
        _ => return "<unknown type>".to_owned(),
    };
    let (target, current) = (&spec[source]["target"], &status[source]["current"]);
    let averaged = is_set(&target["averageValue"]);
    let average = || {
        let known = if is_set(&status[source]) { "0" } else { UNKNOWN };
        (amount(&current["averageValue"], known), amount(&target["averageValue"], "0"))
    };
    match source {
        "resource" | "containerResource" => {
            let (current, target) = if averaged {
                average()
            } else {
                let target = percent(&target["averageUtilization"], "<auto>");
                (percent(&current["averageUtilization"], UNKNOWN), target)
            };
            format!("{}: {current}/{target}", text(&spec[source]["name"]))
        }
        "pods" => {
            let (current, target) = average();
            format!("{current}/{target}")
        }
        _ if averaged => {
            let current = amount(&current["averageValue"], UNKNOWN);
            format!("{current}/{} (avg)", amount(&target["averageValue"], "0"))
        }
        _ => {
            let known = if is_set(&status[source]) { "0" } else { UNKNOWN };
            format!("{}/{}", amount(&current["value"], known), amount(&target["value"], "0"))
        }
    }
}
