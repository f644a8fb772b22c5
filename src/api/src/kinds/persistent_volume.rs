//! PersistentVolume: storage that exists, whoever uses it.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{common::*, pod_spec, storage::*};
use crate::{
    Cell, Column, FieldCause, Hooks, Kind, Scope, Subresource,
    field::{self, Path},
    names,
};

const RECLAIM_POLICIES: &[&str] = &["Delete", "Recycle", "Retain"];
const MAX_DRIVER_NAME: usize = 63;
/// Secrets that a CSI volume may name.
const CSI_SECRETS: &[&str] = &[
    "controllerPublishSecretRef",
    "controllerExpandSecretRef",
    "nodePublishSecretRef",
    "nodeStageSecretRef",
    "nodeExpandSecretRef",
];

/// Where a volume may come from, in the order in which Kubernetes looks, with the texts that it requires.
const SOURCES: &[(&str, &[&str])] = &[
    ("hostPath", &["path"]),
    ("gcePersistentDisk", &["pdName"]),
    ("awsElasticBlockStore", &["volumeID"]),
    ("glusterfs", &["endpoints", "path"]),
    ("flocker", &[]),
    ("nfs", &["server", "path"]),
    ("rbd", &["image"]),
    ("quobyte", &["registry", "volume"]),
    ("cephfs", &[]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("cinder", &["volumeID"]),
    ("fc", &[]),
    ("flexVolume", &["driver"]),
    ("azureFile", &["secretName", "shareName"]),
    ("vsphereVolume", &["volumePath"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("local", &["path"]),
    ("storageos", &["volumeName"]),
    ("csi", &["volumeHandle"]),
];

pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["pv"]),
        subresources: vec![Subresource::Status],
        ..define("", "v1", "PersistentVolume", "persistentvolumes", Scope::Cluster, PersistentVolume)
    }
}

struct PersistentVolume;

static COLUMNS: [Column; 11] = [
    Column::object_name(),
    column("Capacity", "Its size."),
    column("Access Modes", "How it may be mounted."),
    column("Reclaim Policy", "What becomes of it when its claim goes."),
    column("Status", "Pending, Available, Bound, Released, Failed or Terminating."),
    column("Claim", "The claim that has it."),
    column("StorageClass", "The class that it is made of."),
    column("VolumeAttributesClass", "The class of its changeable attributes."),
    column("Reason", "Why it is in that state."),
    AGE,
    wide("VolumeMode", "Filesystem or Block."),
];

impl Hooks for PersistentVolume {
    fn default(&self, object: &mut Value) {
        object_mut(object, "status");
        if let Some(status) = existing_mut(object, "status") {
            fill(status, "phase", "Pending");
        }
        object_mut(object, "spec");
        let Some(spec) = existing_mut(object, "spec") else { return };
        fill(spec, "persistentVolumeReclaimPolicy", "Retain");
        fill_absent(spec, "volumeMode", "Filesystem");
        pod_spec::default_volume_sources(spec);
    }

    fn prepare_create(&self, object: &mut Value, now: Timestamp) {
        let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
        set(object, "status", json!({"phase": "Pending", "lastPhaseTransitionTime": now.to_string()}));
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldCause> {
        let mut errors = Vec::new();
        check_spec(&mut errors, &Path::new("spec"), &object["spec"]);
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldCause> {
        let mut errors = self.validate_create(object);
        check_update(&mut errors, &object["spec"], &old["spec"]);
        errors
    }

    fn columns(&self) -> &[Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let spec = &object["spec"];
        let claim = &spec["claimRef"];
        let claim = if is_set(claim) {
            format!("{}/{}", text(&claim["namespace"]), text(&claim["name"]))
        } else {
            String::new()
        };
        vec![
            name(object),
            storage_cell(&spec["capacity"]),
            access_modes_cell(&spec["accessModes"]),
            text(&spec["persistentVolumeReclaimPolicy"]).into(),
            phase_cell(object),
            claim.into(),
            class(object).into(),
            or_unset(&spec["volumeAttributesClassName"]),
            text(&object["status"]["reason"]).into(),
            age(object, now),
            or_unset(&spec["volumeMode"]),
        ]
    }
}

fn check_spec(errors: &mut Vec<FieldCause>, path: &Path<'_>, spec: &Value) {
    check_access_modes(errors, &path.child("accessModes"), &spec["accessModes"], "");
    let capacity = &spec["capacity"];
    let path_of_capacity = path.child("capacity");
    if is_empty(capacity) {
        errors.push(field::required(&path_of_capacity, ""));
    }
    if !is_set(&capacity["storage"]) || entries(capacity).count() > 1 {
        errors.push(field::not_supported(&path_of_capacity, capacity, &["storage"]));
    }
    for (name, amount) in entries(capacity) {
        check_positive(errors, &path_of_capacity.key(name), amount);
    }
    let policy = &spec["persistentVolumeReclaimPolicy"];
    let path_of_policy = path.child("persistentVolumeReclaimPolicy");
    check_one_of(errors, &path_of_policy, policy, RECLAIM_POLICIES);
    let affinity = &spec["nodeAffinity"];
    if is_set(affinity) {
        let path = path.child("nodeAffinity.required");
        if is_set(&affinity["required"]) {
            pod_spec::check_node_selector(errors, &path, &affinity["required"]);
        } else {
            errors.push(field::required(&path, "must specify required node constraints"));
        }
    }
    check_source(errors, path, spec);
    let host_path = text(&spec["hostPath"]["path"]);
    let is_root = !host_path.is_empty() && host_path.split('/').all(|part| matches!(part, "" | "."));
    if is_root && text(policy) == "Recycle" {
        errors.push(field::forbidden(&path_of_policy, "may not be 'recycle' for a hostPath mount of '/'"));
    }
    let class = path.child("storageClassName");
    check_optional_text(errors, &class, &spec["storageClassName"], names::dns_subdomain);
    check_volume_mode(errors, &path.child("volumeMode"), &spec["volumeMode"]);
    let attributes = &spec["volumeAttributesClassName"];
    if is_set(attributes) {
        let path_of_attributes = path.child("volumeAttributesClassName");
        if is_empty(attributes) {
            errors.push(field::required(&path_of_attributes, "an empty string is disallowed"));
        }
        check_optional_text(errors, &path_of_attributes, attributes, names::dns_subdomain);
        if !is_set(&spec["csi"]) {
            let words = "has to be specified when using volumeAttributesClassName";
            errors.push(field::required(&path.child("csi"), words));
        }
    }
}

fn check_source(errors: &mut Vec<FieldCause>, path: &Path<'_>, spec: &Value) {
    let mut found = SOURCES.iter().filter(|(name, _)| is_set(&spec[*name]));
    let Some((name, required)) = found.next() else {
        errors.push(field::required(path, "must specify a volume type"));
        return;
    };
    let source = &spec[*name];
    {
        let path = path.child(name);
        if *name == "csi" {
            check_driver(errors, &path.child("driver"), text(&source["driver"]));
        }
        for text in *required {
            check_required(errors, &path.child(text), &source[*text]);
        }
        if *name == "local" {
            pod_spec::check_no_backsteps(errors, &path.child("path"), text(&source["path"]));
        }
        if *name == "csi" {
            check_csi_secrets(errors, &path, source);
        }
        pod_spec::check_volume_source(errors, &path, name, source);
    }
    if *name == "local" && !is_set(&spec["nodeAffinity"]) {
        let words = "Local volume requires node affinity";
        errors.push(field::required(&path.child("nodeAffinity"), words));
    }
    for (name, _) in found {
        errors.push(field::forbidden(&path.child(name), "may not specify more than 1 volume type"));
    }
}

fn check_driver(errors: &mut Vec<FieldCause>, path: &Path<'_>, driver: &str) {
    if driver.is_empty() {
        errors.push(field::required(path, ""));
    }
    if driver.len() > MAX_DRIVER_NAME {
        errors.push(field::too_long(path, MAX_DRIVER_NAME));
    }
    for message in names::dns_subdomain(&driver.to_lowercase()) {
        errors.push(field::invalid(path, driver, &message));
    }
}

fn check_csi_secrets(errors: &mut Vec<FieldCause>, path: &Path<'_>, csi: &Value) {
    for name in CSI_SECRETS {
        let secret = &csi[*name];
        if is_set(secret) {
            let path = path.child(name);
            check_required_text(errors, &path.child("name"), &secret["name"], names::dns_subdomain);
            check_required_text(errors, &path.child("namespace"), &secret["namespace"], names::dns_label);
        }
    }
}

fn check_update(errors: &mut Vec<FieldCause>, spec: &Value, before: &Value) {
    const EXPAND_SECRET: &str = "controllerExpandSecretRef";
    let sources = |spec: &Value| -> Value {
        SOURCES.iter().map(|(name, _)| ((*name).to_owned(), spec[*name].clone())).collect()
    };
    let (mut new, old) = (sources(spec), sources(before));
    // The secret for growing the volume may come later.
    if is_set(&old["csi"])
        && !is_set(&old["csi"][EXPAND_SECRET])
        && let Some(csi) = existing_mut(&mut new, "csi")
    {
        clear(csi, EXPAND_SECRET);
    }
    if !same(&new, &old) {
        let words = format!(
            "spec.persistentvolumesource is immutable after creation\n{}",
            differences("spec", &new, &old)
        );
        errors.push(field::forbidden(&Path::new("spec.persistentvolumesource"), &words));
    }
    check_immutable(errors, &Path::new("volumeMode"), &spec["volumeMode"], &before["volumeMode"]);
    if is_set(&before["nodeAffinity"]) {
        check_immutable(errors, &Path::new("nodeAffinity"), &spec["nodeAffinity"], &before["nodeAffinity"]);
    }
    let class = "volumeAttributesClassName";
    if is_set(&before[class]) && !is_set(&spec[class]) {
        let path = Path::new("spec.volumeAttributesClassName");
        errors.push(field::forbidden(&path, "update from non-nil value to nil is forbidden"));
    }
}
