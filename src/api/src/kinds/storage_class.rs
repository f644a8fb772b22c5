//! StorageClass: how volumes of a sort are made.

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::Value;

use super::common::*;
use crate::{
    Cell, Column, FieldCause, Hooks, Kind, Scope,
    field::{self, Path},
    names,
};

const MAX_PARAMETERS: usize = 512;
/// Most bytes of all parameters together, keys and values.
const MAX_PARAMETERS_SIZE: usize = 256 * 1024;
/// Says that claims without a class are of this one; the second is its old name.
const DEFAULT_ANNOTATIONS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["sc"]),
        ..define("storage.k8s.io", "v1", "StorageClass", "storageclasses", Scope::Cluster, StorageClass)
    }
}

struct StorageClass;

static COLUMNS: [Column; 6] = [
    Column::object_name(),
    column("Provisioner", "What makes the volumes."),
    column("ReclaimPolicy", "What becomes of a volume when its claim goes."),
    column("VolumeBindingMode", "Whether a volume is made at once or for the first pod."),
    column("AllowVolumeExpansion", "Whether volumes can grow."),
    AGE,
];

impl Hooks for StorageClass {
    fn default(&self, object: &mut Value) {
        fill_absent(object, "reclaimPolicy", "Delete");
        fill_absent(object, "volumeBindingMode", "Immediate");
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldCause> {
        let mut errors = Vec::new();
        let path = Path::new("provisioner");
        match text(&object["provisioner"]) {
            "" => errors.push(field::required(&path, "")),
            name => check_text(&mut errors, &path, &name.to_lowercase(), names::qualified_name),
        }
        check_parameters(&mut errors, &Path::new("parameters"), &object["parameters"]);
        let policy = &object["reclaimPolicy"];
        if !is_empty(policy) {
            check_optional_one_of(&mut errors, &Path::new("reclaimPolicy"), policy, &["Delete", "Retain"]);
        }
        check_optional_one_of(
            &mut errors,
            &Path::new("volumeBindingMode"),
            &object["volumeBindingMode"],
            &["Immediate", "WaitForFirstConsumer"],
        );
        check_topologies(&mut errors, &Path::new("allowedTopologies"), &object["allowedTopologies"]);
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldCause> {
        let mut errors = Vec::new();
        for name in ["parameters", "provisioner", "reclaimPolicy"] {
            if !same(&object[name], &old[name]) {
                let words = format!("updates to {name} are forbidden.");
                errors.push(field::forbidden(&Path::new(name), &words));
            }
        }
        let mode = "volumeBindingMode";
        check_immutable(&mut errors, &Path::new(mode), &object[mode], &old[mode]);
        errors
    }

    fn columns(&self) -> &[Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let meta = &object["metadata"];
        let is_default = DEFAULT_ANNOTATIONS.iter().any(|name| text(&meta["annotations"][*name]) == "true");
        let name = text(&meta["name"]);
        vec![
            if is_default { format!("{name} (default)").into() } else { name.into() },
            text(&object["provisioner"]).into(),
            object["reclaimPolicy"].as_str().unwrap_or("Delete").into(),
            object["volumeBindingMode"].as_str().unwrap_or("Immediate").into(),
            flag(&object["allowVolumeExpansion"]).into(),
            age(object, now),
        ]
    }
}

fn check_parameters(errors: &mut Vec<FieldCause>, path: &Path<'_>, parameters: &Value) {
    if entries(parameters).count() > MAX_PARAMETERS {
        errors.push(field::too_long(path, MAX_PARAMETERS));
        return;
    }
    let mut size = 0;
    for (key, value) in entries(parameters) {
        if key.is_empty() {
            errors.push(field::invalid(path, key, "field can not be empty."));
        }
        size += key.len() + text(value).len();
    }
    if size > MAX_PARAMETERS_SIZE {
        errors.push(field::too_long(path, MAX_PARAMETERS_SIZE));
    }
}

fn check_topologies(errors: &mut Vec<FieldCause>, path: &Path<'_>, terms: &Value) {
    let terms = items(terms);
    for (index, term) in terms.iter().enumerate() {
        let path = path.index(index);
        let path = path.child("matchLabelExpressions");
        let mut keys = HashSet::new();
        for (index, expression) in items(&term["matchLabelExpressions"]).iter().enumerate() {
            let path = path.index(index);
            let values = path.child("values");
            if is_empty(&expression["values"]) {
                errors.push(field::required(&values, ""));
            }
            let mut seen = HashSet::new();
            for (index, value) in strings(&expression["values"]).enumerate() {
                if !seen.insert(value) {
                    errors.push(field::duplicate(&values.index(index), value));
                }
            }
            let key = text(&expression["key"]);
            check_text(errors, &path.child("key"), key, names::qualified_name);
            if !keys.insert(key) {
                errors.push(field::duplicate(&path.child("key"), key));
            }
        }
        if terms[..index].iter().any(|other| same(other, term)) {
            errors.push(field::duplicate(&path, ""));
        }
    }
}
