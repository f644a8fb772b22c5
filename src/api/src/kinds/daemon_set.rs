//! DaemonSet: one pod on every node that suits.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{common::*, pod_spec, workload::*};
use crate::{
    Cell, Column, FieldCause, Hooks, Kind, Subresource,
    field::{self, Bad, Path},
};

/// How many old revisions are kept for rollbacks.
const REVISION_HISTORY: i64 = 10;
/// Counts changes of the template, for clients from before revisions.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

pub(super) fn kind() -> Kind {
    Kind { subresources: vec![Subresource::Status], ..app("DaemonSet", "daemonsets", "ds", DaemonSet) }
}

struct DaemonSet;

static COLUMNS: [Column; 11] = [
    Column::object_name(),
    integer("Desired", "How many nodes should run the pod."),
    integer("Current", "How many of them have it."),
    integer("Ready", "How many of them have it ready."),
    integer("Up-to-date", "How many of them have it with the newest template."),
    integer("Available", "How many of them have it ready for long enough."),
    column("Node Selector", "Labels of the nodes."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

impl Hooks for DaemonSet {
    fn default(&self, object: &mut Value) {
        object_mut(object, "spec");
        let Some(spec) = existing_mut(object, "spec") else { return };
        object_mut(spec, "updateStrategy");
        if let Some(strategy) = existing_mut(spec, "updateStrategy") {
            fill(strategy, "type", "RollingUpdate");
            if text(&strategy["type"]) == "RollingUpdate" {
                object_mut(strategy, "rollingUpdate");
                if let Some(rolling) = existing_mut(strategy, "rollingUpdate") {
                    fill_absent(rolling, "maxUnavailable", 1);
                    fill_absent(rolling, "maxSurge", 0);
                }
            }
        }
        fill_absent(spec, "revisionHistoryLimit", REVISION_HISTORY);
        default_template(spec);
    }

    fn prepare_create(&self, object: &mut Value, _now: Timestamp) {
        set(
            object,
            "status",
            json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0}),
        );
        set_template_generation(object, template_generation(object).max(1));
    }

    fn prepare_update(&self, object: &mut Value, old: &Value) {
        let changed = !same(&object["spec"]["template"], &old["spec"]["template"]);
        set_template_generation(object, template_generation(old).saturating_add(changed.into()));
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldCause> {
        let mut errors = Vec::new();
        let (path, spec) = (Path::new("spec"), &object["spec"]);
        pod_spec::check_label_selector(&mut errors, &path.child("selector"), &spec["selector"]);
        check_selects_template(&mut errors, &path, spec);
        if is_empty_selector(&spec["selector"]) {
            let words = "empty selector is invalid for daemonset";
            errors.push(field::invalid(&path.child("selector"), &spec["selector"], words));
        }
        let template = path.child("template");
        pod_spec::check_template(&mut errors, &template, &spec["template"]);
        check_endless(&mut errors, &template, &spec["template"], "DaemonSet");
        check_not_negative(&mut errors, &path.child("minReadySeconds"), &spec["minReadySeconds"]);
        check_strategy(&mut errors, &path.child("updateStrategy"), &spec["updateStrategy"]);
        let history = path.child("revisionHistoryLimit");
        check_not_negative(&mut errors, &history, &spec["revisionHistoryLimit"]);
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
            "currentNumberScheduled",
            "numberMisscheduled",
            "desiredNumberScheduled",
            "numberReady",
            "observedGeneration",
            "updatedNumberScheduled",
            "numberAvailable",
            "numberUnavailable",
            "collisionCount",
        ];
        check_counts(&mut errors, &path, status, &counts);
        check_collisions(&mut errors, &path, status, &old["status"]);
        errors
    }

    fn columns(&self) -> &[Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let counts = [
            "desiredNumberScheduled",
            "currentNumberScheduled",
            "numberReady",
            "updatedNumberScheduled",
            "numberAvailable",
        ];
        let counts = counts.map(|count| int(&object["status"][count]).into());
        let nodes = format_labels(&object["spec"]["template"]["spec"]["nodeSelector"]).into();
        row(object, counts.into_iter().chain([nodes]), now)
    }
}

fn template_generation(object: &Value) -> i64 {
    text(&object["metadata"]["annotations"][TEMPLATE_GENERATION]).parse().unwrap_or_default()
}

fn set_template_generation(object: &mut Value, generation: i64) {
    object_mut(object, "metadata");
    if let Some(meta) = existing_mut(object, "metadata")
        && let Some(annotations) = object_mut(meta, "annotations")
    {
        annotations.insert(TEMPLATE_GENERATION.to_owned(), generation.to_string().into());
    }
}

fn check_strategy(errors: &mut Vec<FieldCause>, path: &Path<'_>, strategy: &Value) {
    match text(&strategy["type"]) {
        "OnDelete" => {}
        "RollingUpdate" => check_rolling(errors, &path.child("rollingUpdate"), &strategy["rollingUpdate"]),
        other => {
            // Kubernetes shows its internal struct here.
            let shown = format!(r#"{{"Type":{},"RollingUpdate":null}}"#, Value::from(other));
            errors.push(field::not_supported(path, Bad::Plain(&shown), &["RollingUpdate", "OnDelete"]));
        }
    }
}

/// Pods are replaced one for one: either the new ones come first or the old ones go first.
fn check_rolling(errors: &mut Vec<FieldCause>, path: &Path<'_>, rolling: &Value) {
    let (unavailable, surge) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
    let (path_of_unavailable, path_of_surge) = (path.child("maxUnavailable"), path.child("maxSurge"));
    check_int_or_percent(errors, &path_of_unavailable, unavailable);
    check_int_or_percent(errors, &path_of_surge, surge);
    check_at_most_all(errors, &path_of_unavailable, unavailable);
    check_at_most_all(errors, &path_of_surge, surge);
    match (number_or_percent(unavailable) != 0, number_or_percent(surge) != 0) {
        (true, true) => {
            let words = "may not be set when maxUnavailable is non-zero";
            errors.push(field::invalid(&path_of_surge, surge, words));
        }
        (false, false) => {
            errors.push(field::required(&path_of_unavailable, "cannot be 0 when maxSurge is 0"));
        }
        _ => {}
    }
}
