//! What the kinds that make pods from a template share: selectors that must match the template, numbers
//! or percentages, the counts of a status, and the wide columns.

use jiff::Timestamp;
use serde_json::Value;

use super::{common::*, pod_spec};
use crate::{
    Cell, Column, FieldCause, Hooks, Kind, Scope, Subresource,
    field::{self, Path},
    names,
    selector::LabelSelector,
};

/// A kind of the `apps` group that can be scaled.
pub(super) fn app(
    kind: &'static str,
    plural: &'static str,
    short: &'static str,
    hooks: impl Hooks + 'static,
) -> Kind {
    Kind {
        short_names: texts(&[short]),
        categories: texts(&["all"]),
        subresources: vec![Subresource::Status, scale()],
        ..define("apps", "v1", kind, plural, Scope::Namespaced, hooks)
    }
}

/// `…/scale` of a kind with the usual paths.
pub(super) fn scale() -> Subresource {
    Subresource::Scale {
        spec_replicas: "spec.replicas".into(),
        status_replicas: "status.replicas".into(),
        selector: "spec.selector".into(),
    }
}

/// Names of the template's containers.
pub(super) const CONTAINERS: Column = wide("Containers", "Names of the containers in the template.");
/// Images of the template's containers.
pub(super) const IMAGES: Column = wide("Images", "Images of the containers in the template.");
/// The selector of the pods.
pub(super) const SELECTOR: Column = wide("Selector", "Labels of the pods.");

/// The table of kinds that keep a number of equal pods.
pub(super) static REPLICA_COLUMNS: [Column; 8] = [
    Column::object_name(),
    integer("Desired", "How many pods there should be."),
    integer("Current", "How many pods there are."),
    integer("Ready", "How many of them are ready."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

/// The counts of that table.
pub(super) fn replica_counts(object: &Value) -> [Cell; 3] {
    let (spec, status) = (&object["spec"], &object["status"]);
    [&spec["replicas"], &status["replicas"], &status["readyReplicas"]].map(|count| int(count).into())
}

/// The fields that these kinds are selected by.
pub(super) fn replica_fields(object: &Value) -> Vec<(&'static str, String)> {
    vec![("status.replicas", int(&object["status"]["replicas"]).to_string())]
}

/// The rules of their status.
pub(super) fn check_replica_status(object: &Value) -> Vec<FieldCause> {
    let mut errors = Vec::new();
    let (path, status) = (Path::new("status"), &object["status"]);
    let counts =
        ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"];
    check_counts(&mut errors, &path, status, &counts);
    check_at_most(&mut errors, &path, status, &counts[1..4], "replicas", "status.replicas");
    check_at_most(&mut errors, &path, status, &["availableReplicas"], "readyReplicas", "readyReplicas");
    errors
}

/// A row up to its selector; `counts` stand between name and age.
pub(super) fn cells(object: &Value, counts: impl IntoIterator<Item = Cell>, now: Timestamp) -> Vec<Cell> {
    let [containers, images] = containers_and_images(&object["spec"]["template"]["spec"]);
    let mut row = vec![name(object)];
    row.extend(counts);
    row.extend([age(object, now), containers, images]);
    row
}

/// A row with its selector.
pub(super) fn row(object: &Value, counts: impl IntoIterator<Item = Cell>, now: Timestamp) -> Vec<Cell> {
    let mut row = cells(object, counts, now);
    row.push(selector_cell(&object["spec"]["selector"]));
    row
}

/// Ready pods, of how many.
pub(super) fn ready_cell(object: &Value) -> Cell {
    format!("{}/{}", int(&object["status"]["readyReplicas"]), int(&object["spec"]["replicas"])).into()
}

/// Which pods belong to an object is settled when it is made.
pub(super) fn check_selector_stays(errors: &mut Vec<FieldCause>, object: &Value, old: &Value) {
    let path = Path::new("spec.selector");
    check_immutable(errors, &path, &object["spec"]["selector"], &old["spec"]["selector"]);
}

/// A column of whole numbers in the narrow table.
pub(super) const fn integer(name: &'static str, description: &'static str) -> Column {
    Column::new(name, "integer", 0, description)
}

/// Whether a LabelSelector selects these labels; `None` if it is no valid selector. An absent selector
/// selects nothing, one without requirements everything.
pub(super) fn selects(selector: &Value, labels: &Value) -> Option<bool> {
    if !is_set(selector) {
        return Some(false);
    }
    let selector = LabelSelector::from_value(selector).ok()?;
    Some(selector.matches(&labels.as_object()))
}

/// A LabelSelector as text, as tables show it.
pub(super) fn selector_cell(selector: &Value) -> Cell {
    if !is_set(selector) {
        return "<none>".into();
    }
    match LabelSelector::from_value(selector) {
        Ok(selector) => or(&selector.to_string(), "<none>").into(),
        Err(_) => "<error>".into(),
    }
}

/// True if a LabelSelector is there and asks for nothing.
pub(super) fn is_empty_selector(selector: &Value) -> bool {
    is_set(selector) && is_empty(&selector["matchLabels"]) && is_empty(&selector["matchExpressions"])
}

/// Requires a selector that is not empty. `owner` is the word for the kind in Kubernetes' message.
pub(super) fn check_selector(errors: &mut Vec<FieldCause>, path: &Path<'_>, selector: &Value, owner: &str) {
    if !is_set(selector) {
        errors.push(field::required(path, ""));
        return;
    }
    pod_spec::check_label_selector(errors, path, selector);
    if is_empty_selector(selector) {
        let words = format!("empty selector is invalid for {owner}");
        errors.push(field::invalid(path, selector, &words));
    }
}

/// Requires that the selector matches the labels of the template. False if the selector is unusable, so
/// that nothing can be said.
pub(super) fn check_selects_template(errors: &mut Vec<FieldCause>, path: &Path<'_>, spec: &Value) -> bool {
    let labels = &spec["template"]["metadata"]["labels"];
    let Some(selects) = selects(&spec["selector"], labels) else { return false };
    if !selects {
        errors.push(field::invalid(
            &path.child("template.metadata.labels"),
            labels,
            "`selector` does not match template `labels`",
        ));
    }
    true
}

/// What pods that are replaced for ever must not have. `owner` is the kind in Kubernetes' message.
pub(super) fn check_endless(errors: &mut Vec<FieldCause>, path: &Path<'_>, template: &Value, owner: &str) {
    let path = path.child("spec");
    let policy = text(&template["spec"]["restartPolicy"]);
    if policy != "Always" {
        errors.push(field::not_supported(&path.child("restartPolicy"), policy, &["Always"]));
    }
    if is_set(&template["spec"]["activeDeadlineSeconds"]) {
        let words = format!("activeDeadlineSeconds in {owner} is not Supported");
        errors.push(field::forbidden(&path.child("activeDeadlineSeconds"), &words));
    }
}

/// The rules that deployments and replica sets share for their selector and template.
pub(super) fn check_replica_template(errors: &mut Vec<FieldCause>, path: &Path<'_>, spec: &Value) {
    check_selector(errors, &path.child("selector"), &spec["selector"], "deployment");
    if !check_selects_template(errors, path, spec) {
        errors.push(field::invalid(&path.child("selector"), &spec["selector"], "invalid label selector"));
        return;
    }
    let path = path.child("template");
    pod_spec::check_template(errors, &path, &spec["template"]);
    check_endless(errors, &path, &spec["template"], "ReplicaSet");
}

/// Defaults of `spec.template`, which is there afterwards.
pub(super) fn default_template(spec: &mut Value) {
    object_mut(spec, "template");
    if let Some(template) = existing_mut(spec, "template") {
        pod_spec::default_template(template);
    }
}

/// Requires a number that is not negative, or a percentage.
pub(super) fn check_int_or_percent(errors: &mut Vec<FieldCause>, path: &Path<'_>, value: &Value) {
    match value {
        Value::String(value) => check_text(errors, path, value, names::percent),
        value => check_not_negative(errors, path, value),
    }
}

/// Refuses percentages above 100.
pub(super) fn check_at_most_all(errors: &mut Vec<FieldCause>, path: &Path<'_>, value: &Value) {
    if value.is_string() && names::percent(text(value)).is_empty() && number_or_percent(value) > 100 {
        errors.push(field::invalid(path, value, "must not be greater than 100%"));
    }
}

/// The number, or the number of a percentage; 0 for anything else.
pub(super) fn number_or_percent(value: &Value) -> i64 {
    match value {
        Value::String(text) => {
            let digits = text.strip_suffix('%').unwrap_or(text);
            // More digits than a number has are many all the same.
            let all_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse().unwrap_or(if all_digits { i64::MAX } else { 0 })
        }
        value => int(value),
    }
}

/// Refuses negative counts of a status.
pub(super) fn check_counts(errors: &mut Vec<FieldCause>, path: &Path<'_>, status: &Value, names: &[&str]) {
    for name in names {
        check_not_negative(errors, &path.child(name), &status[*name]);
    }
}

/// Refuses counts of a status that are greater than another one. `named` is that other one in Kubernetes'
/// message.
pub(super) fn check_at_most(
    errors: &mut Vec<FieldCause>,
    path: &Path<'_>,
    status: &Value,
    names: &[&str],
    most: &str,
    named: &str,
) {
    for name in names {
        let count = int(&status[*name]);
        if count > int(&status[most]) {
            let words = format!("cannot be greater than {named}");
            errors.push(field::invalid(&path.child(name), count, &words));
        }
    }
}

/// Refuses a collision count that goes back.
pub(super) fn check_collisions(errors: &mut Vec<FieldCause>, path: &Path<'_>, status: &Value, old: &Value) {
    let (new, old) = (&status["collisionCount"], &old["collisionCount"]);
    if is_set(old) && (!is_set(new) || int(new) < int(old)) {
        errors.push(field::invalid(&path.child("collisionCount"), int(new), "cannot be decremented"));
    }
}
