//! PriorityClass: which pods matter more.

use jiff::Timestamp;
use serde_json::Value;

use super::{common::*, workload::integer};
use crate::{
    Cell, Column, FieldCause, Hooks, Kind, Scope,
    field::{self, Path},
};

/// Names with this prefix are Kubernetes' own.
const SYSTEM_PREFIX: &str = "system-";
/// The classes that it has.
const SYSTEM_CLASSES: [(&str, i64); 2] =
    [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];
/// Highest value of a user's class.
const MAX_VALUE: i64 = 1_000_000_000;

pub(super) fn kind() -> Kind {
    let (plural, hooks) = ("priorityclasses", PriorityClass);
    Kind {
        short_names: texts(&["pc"]),
        ..define("scheduling.k8s.io", "v1", "PriorityClass", plural, Scope::Cluster, hooks)
    }
}

struct PriorityClass;

static COLUMNS: [Column; 5] = [
    Column::object_name(),
    integer("Value", "The priority of its pods: higher ones come first."),
    Column::new("Global-Default", "boolean", 0, "Whether pods without a class have this one."),
    AGE,
    column("PreemptionPolicy", "Whether its pods may push others out."),
];

impl Hooks for PriorityClass {
    fn default(&self, object: &mut Value) {
        fill_absent(object, "preemptionPolicy", "PreemptLowerPriority");
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldCause> {
        let mut errors = Vec::new();
        let (name, value) = (text(&object["metadata"]["name"]), int(&object["value"]));
        if name.starts_with(SYSTEM_PREFIX) {
            if let Err(why) = check_system(name, value, flag(&object["globalDefault"])) {
                let words = format!(
                    "priority class names with '{SYSTEM_PREFIX}' prefix are reserved for system use only. error: {why}"
                );
                errors.push(field::forbidden(&Path::new("metadata.name"), &words));
            }
        } else if value > MAX_VALUE {
            let words = format!("maximum allowed value of a user defined priority is {MAX_VALUE}");
            errors.push(field::forbidden(&Path::new("value"), &words));
        }
        let policy = "preemptionPolicy";
        if is_set(&object[policy]) {
            let allowed = ["PreemptLowerPriority", "Never"];
            check_one_of(&mut errors, &Path::new(policy), &object[policy], &allowed);
        }
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldCause> {
        let mut errors = Vec::new();
        if int(&object["value"]) != int(&old["value"]) {
            errors.push(field::forbidden(&Path::new("value"), "may not be changed in an update."));
        }
        let policy = "preemptionPolicy";
        check_immutable(&mut errors, &Path::new(policy), &object[policy], &old[policy]);
        errors
    }

    fn columns(&self) -> &[Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        vec![
            name(object),
            int(&object["value"]).into(),
            flag(&object["globalDefault"]).into(),
            age(object, now),
            text(&object["preemptionPolicy"]).into(),
        ]
    }
}

/// Whether a class with a reserved name is the one that Kubernetes means.
fn check_system(name: &str, value: i64, global_default: bool) -> Result<(), String> {
    match SYSTEM_CLASSES.iter().find(|(known, _)| *known == name) {
        None => Err(format!("{name} is not a known system priority class")),
        Some((_, wanted)) if value != *wanted => {
            Err(format!("value of {name} PriorityClass must be {wanted}"))
        }
        Some(_) if global_default => Err(format!("globalDefault of {name} PriorityClass must be false")),
        Some(_) => Ok(()),
    }
}
