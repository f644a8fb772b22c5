//! Secret: bytes for pods that not everyone should see.

use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use serde_json::Value;

use super::{
    common::*,
    config_map::{MAX_DATA, check_frozen, decoded_length},
};
use crate::{
    Cell, Column, FieldCause, Hooks, Kind, Scope,
    field::{self, Path},
    names,
};

pub(super) fn kind() -> Kind {
    define("", "v1", "Secret", "secrets", Scope::Namespaced, Secret)
}

struct Secret;

static COLUMNS: [Column; 4] = [
    Column::object_name(),
    column("Type", "What the secret is for."),
    column("Data", "Number of keys."),
    AGE,
];

impl Hooks for Secret {
    fn default(&self, object: &mut Value) {
        fill(object, "type", "Opaque");
        // `stringData` is for writing only: it goes over `data` and is never seen again.
        let Some(texts) = object.as_object_mut().and_then(|object| object.remove("stringData")) else {
            return;
        };
        if let Some(texts) = texts.as_object().filter(|texts| !texts.is_empty())
            && let Some(data) = object_mut(object, "data")
        {
            for (key, value) in texts {
                data.insert(key.clone(), BASE64_STANDARD.encode(text(value)).into());
            }
        }
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldCause> {
        let mut errors = Vec::new();
        let data = &object["data"];
        let path = Path::new("data");
        let mut size = 0;
        for (key, value) in entries(data) {
            check_text(&mut errors, &path.key(key), key, names::config_key);
            size += decoded_length(text(value));
        }
        if size > MAX_DATA {
            errors.push(field::too_long(&path, MAX_DATA));
        }
        check_type(&mut errors, object, data, &path);
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldCause> {
        let mut errors = Vec::new();
        check_immutable(&mut errors, &Path::new("type"), &object["type"], &old["type"]);
        errors.extend(check_frozen(object, old, &["data"]));
        errors.extend(self.validate_create(object));
        errors
    }

    fn columns(&self) -> &[Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let count = entries(&object["data"]).count();
        vec![name(object), text(&object["type"]).into(), count.into(), age(object, now)]
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("type", text(&object["type"]).to_owned())]
    }
}

/// What the well-known types of secrets must contain.
fn check_type(errors: &mut Vec<FieldCause>, object: &Value, data: &Value, path: &Path<'_>) {
    let mut require = |key: &str| {
        if !is_set(&data[key]) {
            errors.push(field::required(&path.key(key), ""));
        }
    };
    match text(&object["type"]) {
        "kubernetes.io/service-account-token" => {
            const NAME: &str = "kubernetes.io/service-account.name";
            if text(&object["metadata"]["annotations"][NAME]).is_empty() {
                errors.push(field::required(&Path::new("metadata.annotations").key(NAME), ""));
            }
        }
        "kubernetes.io/dockercfg" => check_json(errors, data, path, ".dockercfg"),
        "kubernetes.io/dockerconfigjson" => check_json(errors, data, path, ".dockerconfigjson"),
        "kubernetes.io/basic-auth" if !is_set(&data["username"]) && !is_set(&data["password"]) => {
            require("username");
            require("password");
        }
        "kubernetes.io/ssh-auth" if text(&data["ssh-privatekey"]).is_empty() => {
            errors.push(field::required(&path.key("ssh-privatekey"), ""));
        }
        "kubernetes.io/tls" => {
            require("tls.crt");
            require("tls.key");
        }
        _ => {}
    }
}

/// Requires `key` to hold a JSON object.
fn check_json(errors: &mut Vec<FieldCause>, data: &Value, path: &Path<'_>, key: &str) {
    if !is_set(&data[key]) {
        errors.push(field::required(&path.key(key), ""));
        return;
    }
    let bytes = BASE64_STANDARD.decode(text(&data[key])).unwrap_or_default();
    if let Err(error) = serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes) {
        errors.push(field::invalid(&path.key(key), "<secret contents redacted>", &error.to_string()));
    }
}
