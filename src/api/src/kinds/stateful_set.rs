//! StatefulSet: pods with lasting names and volumes of their own.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{common::*, meta, persistent_volume_claim, pod_spec, workload::*};
use crate::{
    Cell, Column, FieldCause, Hooks, Kind,
    field::{self, Path},
    names,
};

/// How many old revisions are kept for rollbacks.
const REVISION_HISTORY: i64 = 10;
/// What may change of a set that exists.
const CHANGEABLE: &[&str] = &[
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

pub(super) fn kind() -> Kind {
    app("StatefulSet", "statefulsets", "sts", StatefulSet)
}

struct StatefulSet;

static COLUMNS: [Column; 5] = [
    Column::object_name(),
    column("Ready", "How many pods are ready, of how many there should be."),
    AGE,
    CONTAINERS,
    IMAGES,
];

impl Hooks for StatefulSet {
    fn default(&self, object: &mut Value) {
        object_mut(object, "spec");
        let Some(spec) = existing_mut(object, "spec") else { return };
        fill(spec, "podManagementPolicy", "OrderedReady");
        object_mut(spec, "updateStrategy");
        if let Some(strategy) = existing_mut(spec, "updateStrategy") {
            if is_empty(&strategy["type"]) {
                set(strategy, "type", "RollingUpdate");
                object_mut(strategy, "rollingUpdate");
            }
            if text(&strategy["type"]) == "RollingUpdate"
                && let Some(rolling) = existing_mut(strategy, "rollingUpdate")
            {
                fill_absent(rolling, "partition", 0);
            }
        }
        object_mut(spec, "persistentVolumeClaimRetentionPolicy");
        if let Some(policy) = existing_mut(spec, "persistentVolumeClaimRetentionPolicy") {
            fill(policy, "whenDeleted", "Retain");
            fill(policy, "whenScaled", "Retain");
        }
        fill_absent(spec, "replicas", 1);
        fill_absent(spec, "revisionHistoryLimit", REVISION_HISTORY);
        default_template(spec);
        for claim in items_mut(spec, "volumeClaimTemplates") {
            set(claim, "apiVersion", "v1");
            set(claim, "kind", "PersistentVolumeClaim");
            persistent_volume_claim::default_claim(claim);
        }
    }

    fn prepare_create(&self, object: &mut Value, _now: Timestamp) {
        set(object, "status", json!({"replicas": 0, "availableReplicas": 0}));
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldCause> {
        let mut errors = Vec::new();
        let (path, spec) = (Path::new("spec"), &object["spec"]);
        check_strategies(&mut errors, &path, spec);
        for name in ["replicas", "minReadySeconds", "revisionHistoryLimit"] {
            check_not_negative(&mut errors, &path.child(name), &spec[name]);
        }
        check_not_negative(&mut errors, &path.child("ordinals.start"), &spec["ordinals"]["start"]);
        check_selector(&mut errors, &path.child("selector"), &spec["selector"], "statefulset");
        let path_of_template = path.child("template");
        if check_selects_template(&mut errors, &path, spec) {
            check_template_metadata(&mut errors, &path_of_template, &spec["template"]["metadata"]);
        } else {
            errors.push(field::invalid(&path.child("selector"), &spec["selector"], ""));
        }
        check_endless(&mut errors, &path_of_template, &spec["template"], "StatefulSet");
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldCause> {
        let mut errors = self.validate_create(object);
        let mut rest = object["spec"].clone();
        for name in CHANGEABLE {
            keep(&mut rest, &old["spec"], name);
        }
        if !same(&rest, &old["spec"]) {
            let quoted: Vec<String> = CHANGEABLE.iter().map(|name| format!("'{name}'")).collect();
            let (last, others) = quoted.split_last().expect("several fields may change");
            let words = format!(
                "updates to statefulset spec for fields other than {} and {last} are forbidden",
                others.join(", ")
            );
            errors.push(field::forbidden(&Path::new("spec"), &words));
        }
        errors
    }

    fn validate_status(&self, object: &Value, old: &Value) -> Vec<FieldCause> {
        let mut errors = Vec::new();
        let (path, status) = (Path::new("status"), &object["status"]);
        let counts = [
            "replicas",
            "readyReplicas",
            "currentReplicas",
            "updatedReplicas",
            "availableReplicas",
            "observedGeneration",
            "collisionCount",
        ];
        check_counts(&mut errors, &path, status, &counts);
        check_at_most(&mut errors, &path, status, &counts[1..5], "replicas", "status.replicas");
        let available = ["availableReplicas"];
        check_at_most(&mut errors, &path, status, &available, "readyReplicas", "status.readyReplicas");
        check_collisions(&mut errors, &path, status, &old["status"]);
        errors
    }

    /// Pods are called by the set, also as hosts.
    fn validate_name(&self, name: &str) -> Option<String> {
        names::dns_label(name).into_iter().next()
    }

    fn columns(&self) -> &[Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        cells(object, [ready_cell(object)], now)
    }
}

fn check_strategies(errors: &mut Vec<FieldCause>, path: &Path<'_>, spec: &Value) {
    match text(&spec["podManagementPolicy"]) {
        "OrderedReady" | "Parallel" => {}
        other => {
            let words = "must be 'OrderedReady' or 'Parallel'";
            errors.push(field::invalid(&path.child("podManagementPolicy"), other, words));
        }
    }
    let strategy = &spec["updateStrategy"];
    let rolling = &strategy["rollingUpdate"];
    let path_of_strategy = path.child("updateStrategy");
    let path_of_rolling = path_of_strategy.child("rollingUpdate");
    match text(&strategy["type"]) {
        "OnDelete" if is_set(rolling) => {
            let words = "only allowed for updateStrategy 'RollingUpdate'";
            errors.push(field::invalid(&path_of_rolling, rolling, words));
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            check_not_negative(errors, &path_of_rolling.child("partition"), &rolling["partition"]);
            let unavailable = &rolling["maxUnavailable"];
            if is_set(unavailable) {
                let path = path_of_rolling.child("maxUnavailable");
                check_int_or_percent(errors, &path, unavailable);
                if number_or_percent(unavailable) == 0 {
                    errors.push(field::invalid(&path, unavailable, "cannot be 0"));
                }
                check_at_most_all(errors, &path, unavailable);
            }
        }
        _ => {
            let words = "must be 'RollingUpdate' or 'OnDelete'";
            errors.push(field::invalid(&path_of_strategy, strategy, words));
        }
    }
    let path = path.child("persistentVolumeClaimRetentionPolicy");
    for name in ["whenDeleted", "whenScaled"] {
        let policy = text(&spec["persistentVolumeClaimRetentionPolicy"][name]);
        let allowed = ["Retain", "Delete"];
        if !allowed.contains(&policy) {
            errors.push(field::not_supported(&path.child(name), policy, &allowed));
        }
    }
}

/// Of the template only labels and annotations: its mounts may name claims that come with each pod, so
/// the rest is checked when the pod is made.
fn check_template_metadata(errors: &mut Vec<FieldCause>, path: &Path<'_>, metadata: &Value) {
    meta::check_labels(errors, &path.child("labels"), &metadata["labels"]);
    let path = path.child("annotations");
    meta::check_annotations(errors, &path, &metadata["annotations"]);
    pod_spec::check_annotations(errors, &path, &metadata["annotations"]);
}
