//! Volumes and where containers see them.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::{env, resources, spec::Context, spec::Holder};
use crate::{
    FieldCause,
    field::{self, Path},
    kinds::common::*,
    names,
    quantity::Quantity,
};

const MODE_WORDS: &str = "must be a number between 0 and 0777 (octal), both inclusive";
/// Shortest and longest life of a projected token, in seconds.
const TOKEN_SECONDS: std::ops::RangeInclusive<i64> = 600..=1 << 32;
const HOST_PATH_TYPES: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

/// Volume sources in the order in which Kubernetes looks for them, with the texts that they require.
const SOURCES: &[(&str, &[&str])] = &[
    ("emptyDir", &[]),
    ("hostPath", &["path"]),
    ("gitRepo", &["repository"]),
    ("gcePersistentDisk", &["pdName"]),
    ("awsElasticBlockStore", &["volumeID"]),
    ("secret", &["secretName"]),
    ("nfs", &["server", "path"]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("glusterfs", &["endpoints", "path"]),
    ("flocker", &[]),
    ("persistentVolumeClaim", &["claimName"]),
    ("rbd", &["image"]),
    ("cinder", &["volumeID"]),
    ("cephfs", &[]),
    ("quobyte", &["registry", "volume"]),
    ("downwardAPI", &[]),
    ("fc", &[]),
    ("flexVolume", &["driver"]),
    ("configMap", &["name"]),
    ("azureFile", &["secretName", "shareName"]),
    ("vsphereVolume", &["volumePath"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("storageos", &[]),
    ("projected", &[]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("csi", &["driver"]),
    ("ephemeral", &[]),
    ("image", &[]),
];

/// Checks the volumes of a spec and returns those that are fine, by name.
pub(super) fn check_volumes<'a>(
    errors: &mut Vec<FieldCause>,
    path: &Path<'_>,
    volumes: &'a Value,
    holder: Holder<'_>,
) -> HashMap<&'a str, &'a Value> {
    let mut fine = HashMap::new();
    for (index, volume) in items(volumes).iter().enumerate() {
        let path = path.index(index);
        let before = errors.len();
        let name = text(&volume["name"]);
        check_pod_source(errors, &path, volume, holder);
        check_required_text(errors, &path.child("name"), &volume["name"], names::dns_label);
        if fine.contains_key(name) {
            errors.push(field::duplicate(&path.child("name"), name));
        }
        if errors.len() == before {
            fine.insert(name, volume);
        }
    }
    fine
}

fn check_pod_source(errors: &mut Vec<FieldCause>, path: &Path<'_>, volume: &Value, holder: Holder<'_>) {
    let mut found = SOURCES.iter().filter(|(name, _)| is_set(&volume[*name]));
    let Some((name, required)) = found.next() else {
        errors.push(field::required(path, "must specify a volume type"));
        return;
    };
    let source = &volume[*name];
    {
        let path = path.child(name);
        for text in *required {
            check_required(errors, &path.child(text), &source[*text]);
        }
        check_details(errors, &path, name, source, holder);
    }
    for (name, _) in found {
        errors.push(field::forbidden(&path.child(name), "may not specify more than 1 volume type"));
    }
}

/// The rules of a persistent volume's source, beyond the texts that it requires, that it shares with
/// the sources of pods.
pub(in crate::kinds) fn check_source(
    errors: &mut Vec<FieldCause>,
    path: &Path<'_>,
    name: &str,
    source: &Value,
) {
    check_details(errors, path, name, source, Holder::Template);
}

/// The rules of a source beyond the texts that it requires.
fn check_details(
    errors: &mut Vec<FieldCause>,
    path: &Path<'_>,
    name: &str,
    source: &Value,
    holder: Holder<'_>,
) {
    match name {
        "emptyDir"
            if resources::amount(&source["sizeLimit"]).is_some_and(|limit| limit < Quantity::default()) =>
        {
            errors.push(field::forbidden(
                &path.child("sizeLimit"),
                "SizeLimit field must be a valid resource quantity",
            ));
        }
        "hostPath" if !is_empty(&source["path"]) => {
            check_no_backsteps(errors, &path.child("path"), text(&source["path"]));
            check_optional_one_of(errors, &path.child("type"), &source["type"], HOST_PATH_TYPES);
        }
        "gitRepo" => check_descending(errors, &path.child("directory"), text(&source["directory"])),
        "nfs" if !text(&source["path"]).starts_with('/') => {
            errors.push(field::invalid(
                &path.child("path"),
                text(&source["path"]),
                "must be an absolute path",
            ));
        }
        "secret" | "configMap" => {
            check_mode(errors, &path.child("defaultMode"), &source["defaultMode"]);
            check_key_paths(errors, &path.child("items"), &source["items"]);
        }
        "downwardAPI" => {
            check_mode(errors, &path.child("defaultMode"), &source["defaultMode"]);
            for file in items(&source["items"]) {
                check_downward_file(errors, path, file);
            }
        }
        "projected" => check_projected(errors, path, source),
        "ephemeral" if !is_set(&source["volumeClaimTemplate"]) => {
            errors.push(field::required(&path.child("volumeClaimTemplate"), ""));
        }
        "image" => {
            if holder != Holder::Template {
                check_required(errors, &path.child("reference"), &source["reference"]);
            }
            let allowed = &["Always", "IfNotPresent", "Never"];
            check_one_of(errors, &path.child("pullPolicy"), &source["pullPolicy"], allowed);
        }
        _ => {}
    }
}

fn check_mode(errors: &mut Vec<FieldCause>, path: &Path<'_>, mode: &Value) {
    if is_set(mode) && !(0..=0o777).contains(&int(mode)) {
        errors.push(field::invalid(path, int(mode), MODE_WORDS));
    }
}

/// Which keys become which files.
fn check_key_paths(errors: &mut Vec<FieldCause>, path: &Path<'_>, list: &Value) {
    for (index, item) in items(list).iter().enumerate() {
        let path = path.index(index);
        check_required(errors, &path.child("key"), &item["key"]);
        check_file_path(errors, &path.child("path"), &item["path"]);
        check_mode(errors, &path.child("mode"), &item["mode"]);
    }
}

fn check_downward_file(errors: &mut Vec<FieldCause>, path: &Path<'_>, file: &Value) {
    check_file_path(errors, &path.child("path"), &file["path"]);
    match (is_set(&file["fieldRef"]), is_set(&file["resourceFieldRef"])) {
        (false, false) => {
            errors.push(field::required(path, "one of fieldRef and resourceFieldRef is required"));
        }
        (true, both) => {
            env::check_field_ref(errors, &path.child("fieldRef"), &file["fieldRef"], env::FILE_FIELDS);
            if both {
                errors.push(field::invalid(
                    path,
                    "resource",
                    "fieldRef and resourceFieldRef can not be specified simultaneously",
                ));
            }
        }
        (false, true) => {
            let path = path.child("resourceFieldRef");
            env::check_resource_ref(errors, &path, &file["resourceFieldRef"], true);
        }
    }
    check_mode(errors, &path.child("mode"), &file["mode"]);
}

/// Several sources in one folder, whose files may not collide.
fn check_projected(errors: &mut Vec<FieldCause>, path: &Path<'_>, volume: &Value) {
    check_mode(errors, &path.child("defaultMode"), &volume["defaultMode"]);
    let mut files = HashSet::new();
    let sources = path.child("sources");
    for (index, source) in items(&volume["sources"]).iter().enumerate() {
        let item = sources.index(index);
        for name in ["secret", "configMap"] {
            let source = &source[name];
            if !is_set(source) {
                continue;
            }
            let source_path = item.child(name);
            check_required(errors, &source_path.child("name"), &source["name"]);
            check_key_paths(errors, &source_path.child("items"), &source["items"]);
            for file in items(&source["items"]) {
                check_collision(errors, path, &mut files, text(&file["path"]), text(&source["name"]));
            }
        }
        for file in items(&source["downwardAPI"]["items"]) {
            check_downward_file(errors, &item.child("downwardAPI"), file);
            check_collision(errors, path, &mut files, text(&file["path"]), text(&file["path"]));
        }
        let token = &source["serviceAccountToken"];
        if is_set(token) {
            check_token(errors, path, &item.child("serviceAccountToken"), token);
        }
        let bundle = &source["clusterTrustBundle"];
        if is_set(bundle) {
            check_file_path(errors, &item.child("clusterTrustBundle").child("path"), &bundle["path"]);
            check_collision(errors, path, &mut files, text(&bundle["path"]), text(&bundle["path"]));
        }
        if entries(source).filter(|(_, source)| is_set(source)).count() > 1 {
            errors.push(field::forbidden(&item, "may not specify more than 1 volume type per source"));
        }
    }
}

fn check_token(errors: &mut Vec<FieldCause>, volume_path: &Path<'_>, path: &Path<'_>, token: &Value) {
    let seconds = int(&token["expirationSeconds"]);
    let path = path.child("expirationSeconds");
    if seconds < *TOKEN_SECONDS.start() {
        errors.push(field::invalid(&path, seconds, "may not specify a duration less than 10 minutes"));
    }
    if seconds > *TOKEN_SECONDS.end() {
        errors.push(field::invalid(&path, seconds, "may not specify a duration larger than 2^32 seconds"));
    }
    // Kubernetes names the volume here, not the source.
    check_file_path(errors, &volume_path.child("path"), &token["path"]);
}

fn check_collision<'a>(
    errors: &mut Vec<FieldCause>,
    path: &Path<'_>,
    files: &mut HashSet<&'a str>,
    file: &'a str,
    shown: &str,
) {
    if !file.is_empty() && !files.insert(file) {
        errors.push(field::invalid(path, shown, "conflicting duplicate paths"));
    }
}

/// A relative path of a file that a volume makes up: nothing above it, nothing that looks reserved.
fn check_file_path(errors: &mut Vec<FieldCause>, path: &Path<'_>, file: &Value) {
    check_required(errors, path, file);
    let file = text(file);
    check_descending(errors, path, file);
    if file.starts_with("..") && !file.starts_with("../") {
        errors.push(field::invalid(path, file, "must not start with '..'"));
    }
}

/// A relative path that never goes up.
pub(super) fn check_descending(errors: &mut Vec<FieldCause>, path: &Path<'_>, value: &str) {
    if value.starts_with('/') {
        errors.push(field::invalid(path, value, "must be a relative path"));
    }
    check_no_backsteps(errors, path, value);
}

/// Refuses paths that go up.
pub(in crate::kinds) fn check_no_backsteps(errors: &mut Vec<FieldCause>, path: &Path<'_>, value: &str) {
    if value.split('/').any(|part| part == "..") {
        errors.push(field::invalid(path, value, "must not contain '..'"));
    }
}

/// Where a container sees volumes, as folders and as block devices.
pub(super) fn check_mounts(
    errors: &mut Vec<FieldCause>,
    path: &Path<'_>,
    container: &Value,
    context: &Context<'_>,
) {
    check_folders(errors, &path.child("volumeMounts"), container, context);
    check_devices(errors, &path.child("volumeDevices"), container, context);
}

fn check_folders(errors: &mut Vec<FieldCause>, path: &Path<'_>, container: &Value, context: &Context<'_>) {
    let devices = items(&container["volumeDevices"]);
    let mut points = HashSet::new();
    for (index, mount) in items(&container["volumeMounts"]).iter().enumerate() {
        let item = path.index(index);
        let (name, point) = (text(&mount["name"]), text(&mount["mountPath"]));
        check_required(errors, &item.child("name"), &mount["name"]);
        let volume = context.volumes.get(name);
        if volume.is_none() {
            errors.push(field::not_found(&item.child("name"), name));
        }
        check_required(errors, &item.child("mountPath"), &mount["mountPath"]);
        if !points.insert(point) {
            errors.push(field::invalid(&item.child("mountPath"), point, "must be unique"));
        }
        if devices.iter().any(|device| text(&device["name"]) == name) {
            errors.push(field::invalid(&item.child("name"), name, "must not already exist in volumeDevices"));
        }
        if devices.iter().any(|device| text(&device["devicePath"]) == point) {
            errors.push(field::invalid(
                &item.child("mountPath"),
                point,
                "must not already exist as a path in volumeDevices",
            ));
        }
        check_sub_paths(errors, path, &item, mount, volume.copied());
        check_propagation(errors, path, container, mount);
    }
}

fn check_sub_paths(
    errors: &mut Vec<FieldCause>,
    list: &Path<'_>,
    item: &Path<'_>,
    mount: &Value,
    volume: Option<&Value>,
) {
    let of_image = volume.is_some_and(|volume| is_set(&volume["image"]));
    for name in ["subPath", "subPathExpr"] {
        let value = text(&mount[name]);
        if value.is_empty() {
            continue;
        }
        if of_image {
            errors.push(field::invalid(&item.child(name), value, "not allowed in image volume sources"));
        }
        if name == "subPathExpr" && !is_empty(&mount["subPath"]) {
            errors.push(field::invalid(
                &item.child(name),
                value,
                "subPathExpr and subPath are mutually exclusive",
            ));
        }
        // Kubernetes names the list here, not the item.
        check_descending(errors, &list.child(name), value);
    }
}

fn check_propagation(errors: &mut Vec<FieldCause>, path: &Path<'_>, container: &Value, mount: &Value) {
    let mode = &mount["mountPropagation"];
    let path_of_mode = path.child("mountPropagation");
    check_optional_one_of(errors, &path_of_mode, mode, &["Bidirectional", "HostToContainer", "None"]);
    if text(mode) == "Bidirectional" && !flag(&container["securityContext"]["privileged"]) {
        errors.push(field::forbidden(
            &path_of_mode,
            "Bidirectional mount propagation is available only to privileged containers",
        ));
    }
    let recursive = &mount["recursiveReadOnly"];
    let path = path.child("recursiveReadOnly");
    check_optional_one_of(errors, &path, recursive, &["Disabled", "Enabled", "IfPossible"]);
    if matches!(text(recursive), "Enabled" | "IfPossible") {
        if !flag(&mount["readOnly"]) {
            errors.push(field::forbidden(&path, "may only be specified when readOnly is true"));
        }
        if is_set(mode) && text(mode) != "None" {
            errors.push(field::forbidden(
                &path,
                "may only be specified when mountPropagation is None or not specified",
            ));
        }
    }
}

fn check_devices(errors: &mut Vec<FieldCause>, path: &Path<'_>, container: &Value, context: &Context<'_>) {
    let mounts = items(&container["volumeMounts"]);
    let (mut names, mut points) = (HashSet::new(), HashSet::new());
    for (index, device) in items(&container["volumeDevices"]).iter().enumerate() {
        let path = path.index(index);
        let (name, point) = (text(&device["name"]), text(&device["devicePath"]));
        let (path_of_name, path_of_point) = (path.child("name"), path.child("devicePath"));
        check_required(errors, &path_of_name, &device["name"]);
        if !name.is_empty() && !names.insert(name) {
            errors.push(field::invalid(&path_of_name, name, "must be unique"));
        }
        match context.volumes.get(name) {
            None => errors.push(field::not_found(&path_of_name, name)),
            Some(volume) if !is_set(&volume["persistentVolumeClaim"]) && !is_set(&volume["ephemeral"]) => {
                errors.push(field::invalid(
                    &path_of_name,
                    name,
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
                ));
            }
            Some(_) => {}
        }
        check_required(errors, &path_of_point, &device["devicePath"]);
        if !points.insert(point) {
            errors.push(field::invalid(&path_of_point, point, "must be unique"));
        }
        if point.split('/').any(|part| part == "..") {
            errors.push(field::invalid(&path_of_point, point, "can not contain backsteps ('..')"));
        }
        if mounts.iter().any(|mount| text(&mount["name"]) == name) {
            errors.push(field::invalid(&path_of_name, name, "must not already exist in volumeMounts"));
        }
        if mounts.iter().any(|mount| text(&mount["mountPath"]) == point) {
            let words = "must not already exist as a path in volumeMounts";
            errors.push(field::invalid(&path_of_point, point, words));
        }
    }
}
