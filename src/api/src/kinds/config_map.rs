//! ConfigMap: texts and bytes for pods.

use jiff::Timestamp;
use serde_json::Value;

use super::common::*;
use crate::{
    Cell, Column, FieldCause, Hooks, Kind, Scope,
    field::{self, Path},
    names,
};

/// Most bytes that the values of a ConfigMap or Secret may have together: what Kubernetes allows, and
/// what keeps an object below the store's limit.
pub(super) const MAX_DATA: usize = 1024 * 1024;

pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["cm"]),
        ..define("", "v1", "ConfigMap", "configmaps", Scope::Namespaced, ConfigMap)
    }
}

struct ConfigMap;

static COLUMNS: [Column; 3] = [Column::object_name(), column("Data", "Number of keys."), AGE];

impl Hooks for ConfigMap {
    fn validate_create(&self, object: &Value) -> Vec<FieldCause> {
        let mut errors = Vec::new();
        let mut size = 0;
        let path = Path::new("data");
        for (key, value) in entries(&object["data"]) {
            check_text(&mut errors, &path.key(key), key, names::config_key);
            if is_set(&object["binaryData"][key]) {
                errors.push(field::invalid(&path.key(key), key, "duplicate of key present in binaryData"));
            }
            size += text(value).len();
        }
        let path = Path::new("binaryData");
        for (key, value) in entries(&object["binaryData"]) {
            check_text(&mut errors, &path.key(key), key, names::config_key);
            size += decoded_length(text(value));
        }
        if size > MAX_DATA {
            // Kubernetes names no field here: the whole object is too large.
            errors.push(field::too_long(&Path::new(""), MAX_DATA));
        }
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldCause> {
        let mut errors = check_frozen(object, old, &["data", "binaryData"]);
        errors.extend(self.validate_create(object));
        errors
    }

    fn columns(&self) -> &[Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let count = entries(&object["data"]).count() + entries(&object["binaryData"]).count();
        vec![name(object), Cell::from(count), age(object, now)]
    }
}

/// What is wrong with changing a ConfigMap or Secret that was marked `immutable`.
pub(super) fn check_frozen(object: &Value, old: &Value, fields: &[&str]) -> Vec<FieldCause> {
    const WORDS: &str = "field is immutable when `immutable` is set";
    if !flag(&old["immutable"]) {
        return Vec::new();
    }
    let mut errors = Vec::new();
    if !flag(&object["immutable"]) {
        errors.push(field::forbidden(&Path::new("immutable"), WORDS));
    }
    for name in fields {
        if !same(&object[*name], &old[*name]) {
            errors.push(field::forbidden(&Path::new(name), WORDS));
        }
    }
    errors
}

/// How many bytes a base64 text stands for.
pub(super) fn decoded_length(base64: &str) -> usize {
    base64.trim_end_matches('=').len() * 3 / 4
}
