//! Namespace: a folder of names. Deleting it deletes what is in it.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{common::*, meta::check_finalizer_domain};
use crate::{
    Cell, Column, FieldCause, Hooks, Kind, Scope, Subresource,
    field::{self, Path},
    names,
};

/// The label that every namespace carries with its own name, so that selectors can name it.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// The finalizer of `spec.finalizers` that holds a namespace until it is empty.
const FINALIZER: &str = "kubernetes";

pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["ns"]),
        subresources: vec![Subresource::Status],
        ..define("", "v1", "Namespace", "namespaces", Scope::Cluster, Namespace)
    }
}

struct Namespace;

static COLUMNS: [Column; 3] =
    [Column::object_name(), column("Status", "Active, or Terminating while it is being emptied."), AGE];

impl Hooks for Namespace {
    fn default(&self, object: &mut Value) {
        let name = text(&object["metadata"]["name"]).to_owned();
        if !name.is_empty()
            && let Some(meta) = existing_mut(object, "metadata")
            && let Some(labels) = object_mut(meta, "labels")
        {
            labels.insert(NAME_LABEL.to_owned(), name.into());
        }
        object_mut(object, "spec");
    }

    fn prepare_create(&self, object: &mut Value, _now: Timestamp) {
        set(object, "status", json!({"phase": "Active"}));
        if !strings(&object["spec"]["finalizers"]).any(|name| name == FINALIZER)
            && let Some(spec) = object_mut(object, "spec")
        {
            let list = spec.entry("finalizers").or_insert_with(|| json!([]));
            match list {
                Value::Array(list) => list.push(FINALIZER.into()),
                other => *other = json!([FINALIZER]),
            }
        }
        // A generated name is known only now.
        self.default(object);
    }

    fn prepare_update(&self, object: &mut Value, old: &Value) {
        object_mut(object, "spec");
        if let Some(spec) = existing_mut(object, "spec") {
            keep(spec, &old["spec"], "finalizers");
        }
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldCause> {
        let mut errors = Vec::new();
        let path = Path::new("spec.finalizers");
        for finalizer in strings(&object["spec"]["finalizers"]) {
            check_text(&mut errors, &path, finalizer, names::qualified_name);
            check_finalizer_domain(&mut errors, &path, finalizer);
        }
        errors
    }

    fn validate_status(&self, object: &Value, _old: &Value) -> Vec<FieldCause> {
        let phase = text(&object["status"]["phase"]);
        let (wanted, words) = if is_set(&object["metadata"]["deletionTimestamp"]) {
            ("Terminating", "may only be 'Terminating' if `deletionTimestamp` is not empty")
        } else {
            ("Active", "may only be 'Active' if `deletionTimestamp` is empty")
        };
        if phase == wanted {
            Vec::new()
        } else {
            vec![field::invalid(&Path::new("status.Phase"), phase, words)]
        }
    }

    fn validate_name(&self, name: &str) -> Option<String> {
        names::dns_label(name).into_iter().next()
    }

    fn columns(&self) -> &[Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        vec![name(object), text(&object["status"]["phase"]).into(), age(object, now)]
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        // Kubernetes accepts plain `name` here, and clients came to rely on it.
        vec![
            ("status.phase", text(&object["status"]["phase"]).to_owned()),
            ("name", text(&object["metadata"]["name"]).to_owned()),
        ]
    }
}
