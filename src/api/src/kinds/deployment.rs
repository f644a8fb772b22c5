//! Deployment: rolls a template out over replica sets.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{common::*, workload::*};
use crate::{
    Cell, Column, FieldCause, Hooks, Kind,
    field::{self, Bad, Path},
};

/// How many old replica sets are kept for rollbacks.
const REVISION_HISTORY: i64 = 10;
/// Seconds without progress after which a rollout counts as failed.
const PROGRESS_SECONDS: i64 = 600;
/// Pods that may be missing, and pods that may be too many, during a rolling update.
const ROLLING_SHARE: &str = "25%";

pub(super) fn kind() -> Kind {
    app("Deployment", "deployments", "deploy", Deployment)
}

struct Deployment;

static COLUMNS: [Column; 8] = [
    Column::object_name(),
    column("Ready", "How many pods are ready, of how many there should be."),
    column("Up-to-date", "How many pods have the newest template."),
    column("Available", "How many pods have been ready for long enough."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

impl Hooks for Deployment {
    fn default(&self, object: &mut Value) {
        object_mut(object, "spec");
        let Some(spec) = existing_mut(object, "spec") else { return };
        fill_absent(spec, "replicas", 1);
        object_mut(spec, "strategy");
        if let Some(strategy) = existing_mut(spec, "strategy") {
            fill(strategy, "type", "RollingUpdate");
            if text(&strategy["type"]) == "RollingUpdate" {
                object_mut(strategy, "rollingUpdate");
                if let Some(rolling) = existing_mut(strategy, "rollingUpdate") {
                    fill_absent(rolling, "maxUnavailable", ROLLING_SHARE);
                    fill_absent(rolling, "maxSurge", ROLLING_SHARE);
                }
            }
        }
        fill_absent(spec, "revisionHistoryLimit", REVISION_HISTORY);
        fill_absent(spec, "progressDeadlineSeconds", PROGRESS_SECONDS);
        default_template(spec);
    }

    fn prepare_create(&self, object: &mut Value, _now: Timestamp) {
        set(object, "status", json!({}));
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldCause> {
        let mut errors = Vec::new();
        let (path, spec) = (Path::new("spec"), &object["spec"]);
        check_not_negative(&mut errors, &path.child("replicas"), &spec["replicas"]);
        check_replica_template(&mut errors, &path, spec);
        check_strategy(&mut errors, &path.child("strategy"), &spec["strategy"]);
        for name in ["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"] {
            check_not_negative(&mut errors, &path.child(name), &spec[name]);
        }
        let deadline = &spec["progressDeadlineSeconds"];
        if is_set(deadline) && int(deadline) <= int(&spec["minReadySeconds"]) {
            let path = path.child("progressDeadlineSeconds");
            errors.push(field::invalid(&path, int(deadline), "must be greater than minReadySeconds"));
        }
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldCause> {
        let mut errors = self.validate_create(object);
        check_selector_stays(&mut errors, object, old);
        errors
    }

    fn validate_status(&self, object: &Value, old: &Value) -> Vec<FieldCause> {
        let mut errors = Vec::new();
        let (path, status) = (Path::new("status"), &object["status"]);
        let counts = [
            "observedGeneration",
            "replicas",
            "updatedReplicas",
            "readyReplicas",
            "availableReplicas",
            "unavailableReplicas",
            "collisionCount",
        ];
        check_counts(&mut errors, &path, status, &counts);
        check_at_most(&mut errors, &path, status, &counts[2..5], "replicas", "status.replicas");
        let available = ["availableReplicas"];
        check_at_most(&mut errors, &path, status, &available, "readyReplicas", "readyReplicas");
        check_collisions(&mut errors, &path, status, &old["status"]);
        errors
    }

    fn columns(&self) -> &[Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let of = |name: &str| int(&object["status"][name]).into();
        row(object, [ready_cell(object), of("updatedReplicas"), of("availableReplicas")], now)
    }
}

fn check_strategy(errors: &mut Vec<FieldCause>, path: &Path<'_>, strategy: &Value) {
    let rolling = &strategy["rollingUpdate"];
    match text(&strategy["type"]) {
        "Recreate" => {
            if is_set(rolling) {
                errors.push(field::forbidden(
                    &path.child("rollingUpdate"),
                    "may not be specified when strategy `type` is 'Recreate'",
                ));
            }
        }
        "RollingUpdate" => check_rolling(errors, &path.child("rollingUpdate"), rolling),
        other => {
            // Kubernetes shows its internal struct here.
            let rolling = match rolling {
                Value::Null => "null".to_owned(),
                rolling => {
                    let of =
                        |name: &str| if is_set(&rolling[name]) { rolling[name].clone() } else { json!(0) };
                    format!(r#"{{"MaxUnavailable":{},"MaxSurge":{}}}"#, of("maxUnavailable"), of("maxSurge"))
                }
            };
            let shown = format!(r#"{{"Type":{},"RollingUpdate":{rolling}}}"#, Value::from(other));
            errors.push(field::not_supported(path, Bad::Plain(&shown), &["Recreate", "RollingUpdate"]));
        }
    }
}

fn check_rolling(errors: &mut Vec<FieldCause>, path: &Path<'_>, rolling: &Value) {
    let (unavailable, surge) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
    let path_of_unavailable = path.child("maxUnavailable");
    check_int_or_percent(errors, &path_of_unavailable, unavailable);
    check_int_or_percent(errors, &path.child("maxSurge"), surge);
    if number_or_percent(unavailable) == 0 && number_or_percent(surge) == 0 {
        errors.push(field::invalid(&path_of_unavailable, unavailable, "may not be 0 when `maxSurge` is 0"));
    }
    check_at_most_all(errors, &path_of_unavailable, unavailable);
}
