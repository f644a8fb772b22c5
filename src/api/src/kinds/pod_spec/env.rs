//! Environment variables, and the references to fields and resources that volumes use too.

use serde_json::Value;

use crate::{
    FieldCause,
    field::{self, Path},
    kinds::common::*,
    names,
    quantity::Quantity,
};

/// Fields that a variable may be made of.
const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Fields that a file of a downwardAPI volume may be made of.
pub(super) const FILE_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
/// Fields that a reference may name at all.
const KNOWN_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.phase",
    "status.podIP",
    "status.podIPs",
];
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const HUGE_PAGES: [&str; 2] = ["requests.hugepages-", "limits.hugepages-"];
const BYTE_DIVISORS: &[&str] =
    &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

pub(super) fn check_env(errors: &mut Vec<FieldCause>, path: &Path<'_>, env: &Value) {
    for (index, variable) in items(env).iter().enumerate() {
        let path = path.index(index);
        check_required_text(errors, &path.child("name"), &variable["name"], names::env_var_name);
        if is_set(&variable["valueFrom"]) {
            check_value_from(errors, &path.child("valueFrom"), variable);
        }
    }
}

fn check_value_from(errors: &mut Vec<FieldCause>, path: &Path<'_>, variable: &Value) {
    let from = &variable["valueFrom"];
    let mut sources = 0;
    if is_set(&from["fieldRef"]) {
        sources += 1;
        check_field_ref(errors, &path.child("fieldRef"), &from["fieldRef"], ENV_FIELDS);
    }
    if is_set(&from["resourceFieldRef"]) {
        sources += 1;
        check_resource_ref(errors, &path.child("resourceFieldRef"), &from["resourceFieldRef"], false);
    }
    for source in ["configMapKeyRef", "secretKeyRef"] {
        if is_set(&from[source]) {
            sources += 1;
            let path = path.child(source);
            check_text(errors, &path.child("name"), text(&from[source]["name"]), names::dns_subdomain);
            check_required_text(errors, &path.child("key"), &from[source]["key"], names::config_key);
        }
    }
    if sources == 0 {
        errors.push(field::invalid(
            path,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
        ));
    } else if !is_empty(&variable["value"]) {
        errors.push(field::invalid(path, "", "may not be specified when `value` is not empty"));
    } else if sources > 1 {
        errors.push(field::invalid(path, "", "may not have more than one field specified at a time"));
    }
}

pub(super) fn check_env_from(errors: &mut Vec<FieldCause>, path: &Path<'_>, env_from: &Value) {
    for (index, source) in items(env_from).iter().enumerate() {
        let item = path.index(index);
        check_optional_text(errors, &item.child("prefix"), &source["prefix"], names::env_var_name);
        let mut sources = 0;
        for name in ["configMapRef", "secretRef"] {
            if is_set(&source[name]) {
                sources += 1;
                let path = item.child(name);
                check_required_text(errors, &path.child("name"), &source[name]["name"], names::dns_subdomain);
            }
        }
        // Kubernetes names the list here, not its item.
        if sources == 0 {
            errors.push(field::invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"));
        } else if sources > 1 {
            errors.push(field::invalid(path, "", "may not have more than one field specified at a time"));
        }
    }
}

/// A reference to a field of the pod.
pub(super) fn check_field_ref(
    errors: &mut Vec<FieldCause>,
    path: &Path<'_>,
    reference: &Value,
    allowed: &[&str],
) {
    let version = text(&reference["apiVersion"]);
    let name = text(&reference["fieldPath"]);
    let path_of_field = path.child("fieldPath");
    if version.is_empty() {
        errors.push(field::required(&path.child("apiVersion"), ""));
        return;
    }
    if name.is_empty() {
        errors.push(field::required(&path_of_field, ""));
        return;
    }
    let mut unknown = |words: String| {
        errors.push(field::invalid(&path_of_field, name, &format!("error converting fieldPath: {words}")));
    };
    if version != "v1" {
        return unknown(format!("unsupported pod version: {version}"));
    }
    if let Some((map, key)) = split_subscript(name) {
        match map {
            "metadata.annotations" => {
                let lower = key.to_lowercase();
                check_text(errors, path, &lower, names::qualified_name);
            }
            "metadata.labels" => check_text(errors, path, key, names::qualified_name),
            _ => unknown(format!("field label does not support subscript: {name}")),
        }
        return;
    }
    // What very old clients send.
    let name = if name == "spec.host" { "spec.nodeName" } else { name };
    if !KNOWN_FIELDS.contains(&name) {
        unknown(format!("field label not supported: {name}"));
    } else if !allowed.contains(&name) {
        errors.push(field::not_supported(&path_of_field, name, allowed));
    }
}

/// `metadata.labels['app']` → `metadata.labels` and `app`.
fn split_subscript(path: &str) -> Option<(&str, &str)> {
    let (map, key) = path.strip_suffix("']")?.split_once("['")?;
    (!map.is_empty()).then_some((map, key))
}

/// A reference to a container's requests or limits. Files must name the container.
pub(super) fn check_resource_ref(
    errors: &mut Vec<FieldCause>,
    path: &Path<'_>,
    reference: &Value,
    in_volume: bool,
) {
    let resource = text(&reference["resource"]);
    let is_huge = HUGE_PAGES.iter().any(|prefix| resource.starts_with(prefix));
    if in_volume && is_empty(&reference["containerName"]) {
        errors.push(field::required(&path.child("containerName"), ""));
    } else if resource.is_empty() {
        errors.push(field::required(&path.child("resource"), ""));
    } else if !RESOURCES.contains(&resource) && !is_huge {
        errors.push(field::not_supported(&path.child("resource"), resource, RESOURCES));
    }
    let divisor = text(&reference["divisor"]);
    let Ok(amount) = Quantity::parse(divisor) else { return };
    if amount == Quantity::default() {
        return;
    }
    let (allowed, of) = match resource {
        "limits.cpu" | "requests.cpu" => (&["1m", "1"] as &[&str], "cpu"),
        "limits.memory" | "requests.memory" => (BYTE_DIVISORS, "memory"),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => {
            (BYTE_DIVISORS, "local ephemeral storage")
        }
        _ if is_huge => (BYTE_DIVISORS, "hugepages"),
        _ => return,
    };
    if !allowed.contains(&divisor) {
        let list = if of == "cpu" { "1m and 1".to_owned() } else { BYTE_DIVISORS.join(", ") };
        let words = format!("only divisor's values {list} are supported with the {of} resource");
        errors.push(field::invalid(&path.child("divisor"), resource, &words));
    }
}
