//! PersistentVolumeClaim: a wish for a volume that outlives pods.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{common::*, pod_spec, storage::*};
use crate::{
    Cell, Column, FieldCause, Hooks, Kind, Scope, Subresource,
    field::{self, Bad, Path},
    names,
    quantity::Quantity,
};

const RESIZE_STATUSES: &[&str] = &[
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizePending",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
];

pub(super) fn kind() -> Kind {
    let plural = "persistentvolumeclaims";
    Kind {
        short_names: texts(&["pvc"]),
        subresources: vec![Subresource::Status],
        ..define("", "v1", "PersistentVolumeClaim", plural, Scope::Namespaced, PersistentVolumeClaim)
    }
}

struct PersistentVolumeClaim;

static COLUMNS: [Column; 9] = [
    Column::object_name(),
    column("Status", "Pending, Bound, Lost or Terminating."),
    column("Volume", "The volume that the claim has."),
    column("Capacity", "Its size."),
    column("Access Modes", "How it may be mounted."),
    column("StorageClass", "The class that volumes are made of."),
    column("VolumeAttributesClass", "The class of the volume's changeable attributes."),
    AGE,
    wide("VolumeMode", "Filesystem or Block."),
];

/// Defaults of a claim, and of the templates of claims in stateful sets.
pub(super) fn default_claim(claim: &mut Value) {
    object_mut(claim, "status");
    if let Some(status) = existing_mut(claim, "status") {
        fill(status, "phase", "Pending");
    }
    object_mut(claim, "spec");
    if let Some(spec) = existing_mut(claim, "spec") {
        fill_absent(spec, "volumeMode", "Filesystem");
    }
}

impl Hooks for PersistentVolumeClaim {
    fn default(&self, object: &mut Value) {
        default_claim(object);
    }

    fn prepare_create(&self, object: &mut Value, _now: Timestamp) {
        set(object, "status", json!({"phase": "Pending"}));
        if let Some(spec) = existing_mut(object, "spec") {
            normalize_sources(spec);
        }
    }

    fn prepare_update(&self, object: &mut Value, _old: &Value) {
        if let Some(spec) = existing_mut(object, "spec") {
            normalize_sources(spec);
        }
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldCause> {
        let mut errors = Vec::new();
        check_spec(&mut errors, &Path::new("spec"), &object["spec"]);
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldCause> {
        let mut errors = self.validate_create(object);
        check_update(&mut errors, object, old);
        errors
    }

    fn validate_status(&self, object: &Value, _old: &Value) -> Vec<FieldCause> {
        check_status(object)
    }

    fn columns(&self) -> &[Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let (spec, status) = (&object["spec"], &object["status"]);
        let volume = text(&spec["volumeName"]);
        let bound = !volume.is_empty();
        vec![
            name(object),
            phase_cell(object),
            volume.into(),
            if bound { storage_cell(&status["capacity"]) } else { "".into() },
            if bound { access_modes_cell(&status["accessModes"]) } else { "".into() },
            class(object).into(),
            or_unset(&spec["volumeAttributesClassName"]),
            age(object, now),
            or_unset(&spec["volumeMode"]),
        ]
    }
}

/// Two names for what the volume is filled from: whoever gives one means both.
fn normalize_sources(spec: &mut Value) {
    let (source, reference) = (spec["dataSource"].clone(), spec["dataSourceRef"].clone());
    match (is_set(&source), is_set(&reference)) {
        (true, false) => set(spec, "dataSourceRef", source),
        (false, true) if is_empty(&reference["namespace"]) => {
            let mut source = reference;
            clear(&mut source, "namespace");
            set(spec, "dataSource", source);
        }
        _ => {}
    }
}

fn check_spec(errors: &mut Vec<FieldCause>, path: &Path<'_>, spec: &Value) {
    let modes = path.child("accessModes");
    check_access_modes(errors, &modes, &spec["accessModes"], "at least 1 access mode is required");
    if is_set(&spec["selector"]) {
        pod_spec::check_label_selector(errors, &path.child("selector"), &spec["selector"]);
    }
    let resources = path.child("resources");
    let path_of_storage = resources.key("storage");
    match &spec["resources"]["requests"]["storage"] {
        Value::Null => errors.push(field::required(&path_of_storage, "")),
        storage => check_positive(errors, &path_of_storage, storage),
    }
    for name in ["storageClassName", "volumeAttributesClassName"] {
        check_optional_text(errors, &path.child(name), &spec[name], names::dns_subdomain);
    }
    check_volume_mode(errors, &path.child("volumeMode"), &spec["volumeMode"]);
    let (source, reference) = (&spec["dataSource"], &spec["dataSourceRef"]);
    for (name, source) in [("dataSource", source), ("dataSourceRef", reference)] {
        if is_set(source) {
            check_source(errors, &path.child(name), source);
        }
    }
    if !is_set(source) || !is_set(reference) {
        return;
    }
    let words = if !is_empty(&reference["namespace"]) {
        "may not be specified when dataSourceRef.namespace is specified"
    } else if ["apiGroup", "kind", "name"].iter().any(|name| source[*name] != reference[*name]) {
        "must match dataSourceRef"
    } else {
        return;
    };
    // Kubernetes shows the path here, as an object without fields of its own.
    errors.push(field::invalid(path, Bad::Plain("{}"), words));
}

fn check_source(errors: &mut Vec<FieldCause>, path: &Path<'_>, source: &Value) {
    check_required(errors, &path.child("name"), &source["name"]);
    check_required(errors, &path.child("kind"), &source["kind"]);
    let (group, kind) = (text(&source["apiGroup"]), text(&source["kind"]));
    if group.is_empty() && kind != "PersistentVolumeClaim" {
        let words = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        errors.push(field::invalid(path, kind, words));
    }
    check_optional_text(errors, &path.child("apiGroup"), &source["apiGroup"], names::dns_subdomain);
    check_optional_text(errors, &path.child("namespace"), &source["namespace"], names::dns_label);
}

/// The requested size.
fn size(spec: &Value) -> Quantity {
    pod_spec::amount(&spec["resources"]["requests"]["storage"]).unwrap_or(Quantity::ZERO)
}

fn check_update(errors: &mut Vec<FieldCause>, object: &Value, old: &Value) {
    let (spec, before) = (&object["spec"], &old["spec"]);
    let path = Path::new("spec");
    let annotation = |object: &Value| object["metadata"]["annotations"][CLASS_ANNOTATION].clone();
    let (new_class, old_class) = (annotation(object), annotation(old));
    let mut rest = spec.clone();
    let mut expected = before.clone();
    if is_empty(&before["volumeName"]) {
        // The binder sets it, once.
        keep(&mut expected, spec, "volumeName");
    }
    // A claim from before there was a class, or with the class as an annotation, may name it once.
    let named = is_set(&spec["storageClassName"]) && !is_set(&before["storageClassName"]);
    if named && (!is_set(&old_class) || old_class == spec["storageClassName"]) {
        clear(&mut rest, "storageClassName");
    } else if text(&new_class) != text(&old_class) {
        let annotations = Path::new("metadata.annotations");
        errors.push(field::invalid(
            &annotations.key(CLASS_ANNOTATION),
            text(&new_class),
            "field is immutable",
        ));
    }
    let bound = text(&old["status"]["phase"]) == "Bound";
    if bound
        && let Some(resources) = existing_mut(&mut rest, "resources")
        && let Some(requests) = existing_mut(resources, "requests")
    {
        keep(requests, &before["resources"]["requests"], "storage");
    }
    keep(&mut rest, before, "volumeAttributesClassName");
    if !same(&rest, &expected) {
        let words = format!(
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n{}",
            differences("spec", &rest, &expected)
        );
        errors.push(field::forbidden(&path, &words));
    }
    // A wish that was too large may be lowered again, but never below what there is already.
    if size(spec) < size(before) {
        let capacity = pod_spec::amount(&old["status"]["capacity"]["storage"]).unwrap_or(Quantity::ZERO);
        if size(spec) <= capacity {
            errors.push(field::forbidden(
                &path.child("resources.requests.storage"),
                "field can not be less than status.capacity",
            ));
        }
    }
    check_immutable(errors, &Path::new("volumeMode"), &spec["volumeMode"], &before["volumeMode"]);
    if is_set(&before["volumeAttributesClassName"]) {
        let path = path.child("volumeAttributesClassName");
        match &spec["volumeAttributesClassName"] {
            Value::Null => {
                errors.push(field::forbidden(&path, "update from non-nil value to nil is forbidden"));
            }
            class if text(class).is_empty() => {
                let words = "update from non-nil value to an empty string is forbidden";
                errors.push(field::forbidden(&path, words));
            }
            _ => {}
        }
    }
}

fn check_status(object: &Value) -> Vec<FieldCause> {
    let mut errors = Vec::new();
    let (path, status) = (Path::new("status"), &object["status"]);
    if is_empty(&object["spec"]["accessModes"]) {
        errors.push(field::required(&Path::new("Spec.accessModes"), ""));
    }
    let capacity = path.child("capacity");
    for (name, amount) in entries(&status["capacity"]) {
        pod_spec::check_amount(&mut errors, &capacity.key(name), "storage", amount);
    }
    let statuses = path.child("allocatedResourceStatus");
    for (name, status) in entries(&status["allocatedResourceStatuses"]) {
        check_resource_key(&mut errors, &statuses, name);
        if !RESIZE_STATUSES.contains(&text(status)) {
            errors.push(field::not_supported(&statuses, name.as_str(), RESIZE_STATUSES));
        }
    }
    let allocated = path.child("allocatedResources");
    for (name, amount) in entries(&status["allocatedResources"]) {
        let before = errors.len();
        check_resource_key(&mut errors, &allocated, name);
        if errors.len() == before {
            pod_spec::check_amount(&mut errors, &allocated.key(name), "storage", amount);
        }
    }
    errors
}

fn check_resource_key(errors: &mut Vec<FieldCause>, path: &Path<'_>, name: &str) {
    let before = errors.len();
    check_text(errors, path, name, names::qualified_name);
    let native = !name.contains('/') || name.contains("kubernetes.io/");
    if errors.len() == before && native && name != "storage" {
        errors.push(field::not_supported(path, name, &["storage"]));
    }
}
