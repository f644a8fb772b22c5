//! ControllerRevision: what a StatefulSet or DaemonSet looked like once.

use jiff::Timestamp;
use serde_json::Value;

use super::common::*;
use crate::{
    Cell, Column, FieldCause, Hooks, Kind, Scope,
    field::{self, Path},
};

pub(super) fn kind() -> Kind {
    let (plural, hooks) = ("controllerrevisions", ControllerRevision);
    define("apps", "v1", "ControllerRevision", plural, Scope::Namespaced, hooks)
}

struct ControllerRevision;

static COLUMNS: [Column; 4] = [
    Column::object_name(),
    column("Controller", "What the revision is of."),
    column("Revision", "Its number: newer ones are higher."),
    AGE,
];

impl Hooks for ControllerRevision {
    fn validate_create(&self, object: &Value) -> Vec<FieldCause> {
        let mut errors = Vec::new();
        if !is_set(&object["data"]) {
            errors.push(field::required(&Path::new("data"), "data is mandatory"));
        }
        check_not_negative(&mut errors, &Path::new("revision"), &object["revision"]);
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldCause> {
        let mut errors = self.validate_create(object);
        if object["data"] != old["data"] {
            errors.push(field::immutable(&Path::new("data"), &object["data"]));
        }
        errors
    }

    fn columns(&self) -> &[Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        vec![name(object), controller(object).into(), int(&object["revision"]).into(), age(object, now)]
    }
}

/// `statefulset.apps/web`
fn controller(object: &Value) -> String {
    let owners = items(&object["metadata"]["ownerReferences"]);
    let Some(owner) = owners.iter().find(|owner| flag(&owner["controller"])) else {
        return "<none>".to_owned();
    };
    let kind = text(&owner["kind"]);
    let kind = match text(&owner["apiVersion"]).split_once('/') {
        Some((group, _)) => format!("{kind}.{group}"),
        None => kind.to_owned(),
    };
    format!("{}/{}", kind.to_lowercase(), text(&owner["name"]))
}
