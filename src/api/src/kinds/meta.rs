//! The rules of `metadata`, the same for every kind, and the entry points that put them before a
//! kind's own rules: [`Kind::validate_create`], [`Kind::validate_update`], [`Kind::validate_status`].
//!
//! The pipeline calls these, not the hooks of the same names: the hooks know nothing of `metadata`.
//! Before that it has filled in what the server owns: name (from `generateName`), namespace, uid,
//! creationTimestamp, and on updates whatever of these the request left out.

use serde_json::Value;

use super::common::*;
use crate::{
    FieldCause, Kind, Scope,
    field::{self, Path},
    names,
};

/// Most bytes that the annotations of an object may have together, keys and values.
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// Finalizers that Kubernetes itself knows and that need no domain.
const STANDARD_FINALIZERS: &[&str] = &["kubernetes", ORPHAN, FOREGROUND];
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

impl Kind {
    /// Everything that is wrong with an object to be created: its metadata, then the kind's own rules.
    pub fn validate_create(&self, object: &Value) -> Vec<FieldCause> {
        let mut errors = Vec::new();
        let path = Path::new("metadata");
        let meta = &object["metadata"];
        self.check_names(&mut errors, &path, meta);
        check_common(&mut errors, &path, meta);
        check_finalizers(&mut errors, &path.child("finalizers"), meta);
        errors.extend(self.hooks.validate_create(object));
        errors
    }

    /// Everything that is wrong with replacing `old` by `object`.
    pub fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldCause> {
        let mut errors = Vec::new();
        check_update(&mut errors, object, old);
        errors.extend(self.hooks.validate_update(object, old));
        errors
    }

    /// Everything that is wrong with replacing `old` by `object` through `…/status`.
    pub fn validate_status(&self, object: &Value, old: &Value) -> Vec<FieldCause> {
        let mut errors = Vec::new();
        check_update(&mut errors, object, old);
        errors.extend(self.hooks.validate_status(object, old));
        errors
    }

    /// Everything that is wrong with replacing `old` by `object` through a subresource that writes a part of
    /// the spec.
    pub fn validate_subresource(&self, subresource: &str, object: &Value, old: &Value) -> Vec<FieldCause> {
        let mut errors = Vec::new();
        check_update(&mut errors, object, old);
        errors.extend(self.hooks.validate_subresource(subresource, object, old));
        errors
    }

    fn check_names(&self, errors: &mut Vec<FieldCause>, path: &Path<'_>, meta: &Value) {
        let prefix = text(&meta["generateName"]);
        if !prefix.is_empty()
            && let Some(message) = self.hooks.validate_name(&mask_trailing_dash(prefix))
        {
            errors.push(field::invalid(&path.child("generateName"), prefix, &message));
        }
        let path_of_name = path.child("name");
        match text(&meta["name"]) {
            "" => errors.push(field::required(&path_of_name, "name or generateName is required")),
            name => {
                if let Some(message) = self.hooks.validate_name(name) {
                    errors.push(field::invalid(&path_of_name, name, &message));
                }
            }
        }
        let path = path.child("namespace");
        match (self.scope, text(&meta["namespace"])) {
            (Scope::Namespaced, "") => errors.push(field::required(&path, "")),
            (Scope::Namespaced, namespace) => check_text(errors, &path, namespace, names::dns_label),
            (Scope::Cluster, "") => {}
            (Scope::Cluster, _) => errors.push(field::forbidden(&path, "not allowed on this type")),
        }
    }
}

/// A prefix that ends in a dash is fine, because a suffix follows.
fn mask_trailing_dash(prefix: &str) -> String {
    match prefix.strip_suffix('-') {
        Some(stem) if !stem.is_empty() => format!("{stem}a"),
        _ => prefix.to_owned(),
    }
}

/// What must hold of metadata on every write.
fn check_common(errors: &mut Vec<FieldCause>, path: &Path<'_>, meta: &Value) {
    check_not_negative(errors, &path.child("generation"), &meta["generation"]);
    check_labels(errors, &path.child("labels"), &meta["labels"]);
    check_annotations(errors, &path.child("annotations"), &meta["annotations"]);
    check_owners(errors, &path.child("ownerReferences"), &meta["ownerReferences"]);
}

/// What must hold of metadata when an object changes.
fn check_update(errors: &mut Vec<FieldCause>, object: &Value, old: &Value) {
    let path = Path::new("metadata");
    let (meta, old) = (&object["metadata"], &old["metadata"]);
    if is_set(&old["deletionTimestamp"]) {
        check_no_new_finalizers(errors, &path.child("finalizers"), meta, old);
    }
    if int(&meta["generation"]) < int(&old["generation"]) {
        let generation = int(&meta["generation"]);
        errors.push(field::invalid(&path.child("generation"), generation, "must not be decremented"));
    }
    for name in
        ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"]
    {
        let (new, old) = (&meta[name], &old[name]);
        let unchanged =
            same(new, old) || (is_set(new) && timestamp(new).is_some() && timestamp(new) == timestamp(old));
        if !unchanged {
            errors.push(field::immutable(&path.child(name), new));
        }
    }
    check_common(errors, &path, meta);
    check_finalizers(errors, &path.child("finalizers"), meta);
}

/// Keys and values of labels, in `metadata`, selectors and templates.
pub(super) fn check_labels(errors: &mut Vec<FieldCause>, path: &Path<'_>, labels: &Value) {
    for (key, value) in entries(labels) {
        check_text(errors, path, key, names::qualified_name);
        check_text(errors, path, text(value), names::label_value);
    }
}

/// Keys and total size of annotations.
pub(super) fn check_annotations(errors: &mut Vec<FieldCause>, path: &Path<'_>, annotations: &Value) {
    let mut size = 0;
    for (key, value) in entries(annotations) {
        // The rule is that of labels' keys but for case.
        for message in names::qualified_name(&key.to_lowercase()) {
            errors.push(field::invalid(path, key, &message));
        }
        size += key.len() + text(value).len();
    }
    if size > MAX_ANNOTATIONS {
        errors.push(field::too_long(path, MAX_ANNOTATIONS));
    }
}

fn check_owners(errors: &mut Vec<FieldCause>, path: &Path<'_>, owners: &Value) {
    let mut controller: Option<String> = None;
    for (index, owner) in items(owners).iter().enumerate() {
        let item = path.index(index);
        let version = text(&owner["apiVersion"]);
        if version.is_empty() {
            errors.push(field::required(&item.child("apiVersion"), "must not be empty"));
        } else if version.matches('/').count() > 1 || version.ends_with('/') {
            errors.push(field::invalid(
                &item.child("apiVersion"),
                version,
                "must be <group>/<version> or <version>",
            ));
        }
        for name in ["kind", "name", "uid"] {
            if text(&owner[name]).is_empty() {
                errors.push(field::required(&item.child(name), "must not be empty"));
            }
        }
        if version == "v1" && text(&owner["kind"]) == "Event" {
            errors.push(field::invalid(&item, owner, "/v1, Kind=Event is disallowed from being an owner"));
        }
        if flag(&owner["controller"]) {
            let this = format!("{}/{}", text(&owner["kind"]), text(&owner["name"]));
            if let Some(first) = &controller {
                let words = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                );
                errors.push(field::invalid(path, owners, &words));
            } else {
                controller = Some(this);
            }
        }
    }
}

fn check_finalizers(errors: &mut Vec<FieldCause>, path: &Path<'_>, meta: &Value) {
    let finalizers = &meta["finalizers"];
    for (index, finalizer) in strings(finalizers).enumerate() {
        check_text(errors, path, finalizer, names::qualified_name);
        check_finalizer_domain(errors, &path.index(index), finalizer);
    }
    let has = |name| strings(finalizers).any(|finalizer| finalizer == name);
    if has(ORPHAN) && has(FOREGROUND) {
        let words = format!("finalizer {ORPHAN} and {FOREGROUND} cannot be both set");
        errors.push(field::invalid(path, finalizers, &words));
    }
}

/// A finalizer is one of Kubernetes' own or carries its owner's domain.
pub(super) fn check_finalizer_domain(errors: &mut Vec<FieldCause>, path: &Path<'_>, finalizer: &str) {
    if !finalizer.contains('/') && !STANDARD_FINALIZERS.contains(&finalizer) {
        errors.push(field::invalid(
            path,
            finalizer,
            "name is neither a standard finalizer name nor is it fully qualified",
        ));
    }
}

fn check_no_new_finalizers(errors: &mut Vec<FieldCause>, path: &Path<'_>, meta: &Value, old: &Value) {
    let mut added: Vec<&str> = strings(&meta["finalizers"])
        .filter(|name| !strings(&old["finalizers"]).any(|old| old == *name))
        .collect();
    if !added.is_empty() {
        added.sort_unstable();
        added.dedup();
        let list: Vec<String> = added.iter().map(|name| format!("{name:?}")).collect();
        let words = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            list.join(", ")
        );
        errors.push(field::forbidden(path, &words));
    }
}
