//! What may change of a pod that exists: images and little else.

use serde_json::Value;

use crate::{
    FieldCause,
    field::{self, Path},
    kinds::{common::*, pod_spec},
    names,
};

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
    `spec.tolerations` (only additions to existing tolerations),\
    `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub(super) fn check(errors: &mut Vec<FieldCause>, object: &Value, old: &Value) {
    let (spec, before) = (&object["spec"], &old["spec"]);
    let path = Path::new("spec");
    for list in ["containers", "initContainers"] {
        if items(&spec[list]).len() != items(&before[list]).len() {
            errors.push(field::forbidden(&path.child(list), "pod updates may not add or remove containers"));
            return;
        }
    }
    check_mirror(errors, &object["metadata"]["annotations"], &old["metadata"]["annotations"]);
    if !check_deadline(errors, &path.child("activeDeadlineSeconds"), spec, before) {
        return;
    }
    check_tolerations(errors, &path.child("tolerations"), &spec["tolerations"], &before["tolerations"]);
    check_gates(errors, &path.child("schedulingGates"), spec, before);
    let gated = !is_empty(&before["schedulingGates"]);
    if gated {
        check_gated(errors, &path, spec, before);
    }
    let mut rest = without_updatable(spec, before, gated);
    if is_binding(object, old) {
        keep(&mut rest, before, "nodeName");
    }
    if !same(&rest, before) {
        let words = format!(
            "pod updates may not change fields other than {UPDATABLE}\n{}",
            differences("spec", &rest, before)
        );
        errors.push(field::forbidden(&path, &words));
    }
}

/// Whether the write is the server's own: the scheduler's decision, which sets the node and says so in
/// the status. A user's update never gets here with another status than the stored one.
fn is_binding(object: &Value, old: &Value) -> bool {
    is_empty(&old["spec"]["nodeName"]) && !same(&object["status"], &old["status"])
}

fn check_mirror(errors: &mut Vec<FieldCause>, annotations: &Value, before: &Value) {
    const MIRROR: &str = "kubernetes.io/config.mirror";
    let path = Path::new("metadata.annotations");
    let words = match (is_set(&annotations[MIRROR]), is_set(&before[MIRROR])) {
        (true, false) => "may not add mirror pod annotation",
        (_, true) if annotations[MIRROR] != before[MIRROR] => {
            "may not remove or update mirror pod annotation"
        }
        _ => return,
    };
    errors.push(field::forbidden(&path.key(MIRROR), words));
}

/// A deadline may be set and lowered, never raised or removed. False if nothing else is worth saying.
fn check_deadline(errors: &mut Vec<FieldCause>, path: &Path<'_>, spec: &Value, before: &Value) -> bool {
    let (new, old) = (spec["activeDeadlineSeconds"].as_i64(), before["activeDeadlineSeconds"].as_i64());
    match (new, old) {
        (Some(new), _) if !(0..=i64::from(i32::MAX)).contains(&new) => {
            for message in names::in_range(new, 0, i32::MAX.into()) {
                errors.push(field::invalid(path, new, &message));
            }
            false
        }
        (Some(new), Some(old)) if old < new => {
            errors.push(field::invalid(path, new, "must be less than or equal to previous value"));
            false
        }
        (None, Some(_)) => {
            errors.push(field::invalid(
                path,
                &Value::Null,
                "must not update from a positive integer to nil value",
            ));
            true
        }
        _ => true,
    }
}

/// Tolerations may be added, and of old ones only the time may change.
fn check_tolerations(errors: &mut Vec<FieldCause>, path: &Path<'_>, new: &Value, old: &Value) {
    let without_time = |toleration: &Value| {
        let mut toleration = toleration.clone();
        clear(&mut toleration, "tolerationSeconds");
        toleration
    };
    let kept = |old: &Value| items(new).iter().any(|new| same(&without_time(new), &without_time(old)));
    if items(old).iter().all(kept) {
        pod_spec::check_tolerations(errors, path, new);
    } else {
        errors.push(field::forbidden(
            path,
            "existing toleration can not be modified except its tolerationSeconds",
        ));
    }
}

/// Gates may only go.
fn check_gates(errors: &mut Vec<FieldCause>, path: &Path<'_>, spec: &Value, before: &Value) {
    for (index, gate) in items(&spec["schedulingGates"]).iter().enumerate() {
        let name = text(&gate["name"]);
        if !items(&before["schedulingGates"]).iter().any(|old| text(&old["name"]) == name) {
            let words = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.push(field::forbidden(&path.index(index).child("name"), &words));
        }
    }
}

/// While a pod waits at a gate, where it may run can still be narrowed.
fn check_gated(errors: &mut Vec<FieldCause>, path: &Path<'_>, spec: &Value, before: &Value) {
    let (new, old) = (&spec["nodeSelector"], &before["nodeSelector"]);
    if entries(old).any(|(key, value)| new[key] != *value) {
        errors.push(field::invalid(
            &path.child("nodeSelector"),
            new,
            "only additions to spec.nodeSelector are allowed (no mutations or deletions)",
        ));
    }
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    let terms =
        |spec: &Value| items(&spec["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"]).to_vec();
    let (new, old) = (terms(spec), terms(before));
    let affinity = path.child("affinity.nodeAffinity");
    let required = affinity.child(REQUIRED);
    let path = required.child("nodeSelectorTerms");
    if !old.is_empty() && old.len() != new.len() {
        let words = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        errors.push(field::invalid(&path, &Value::Array(new), words));
        return;
    }
    for (index, (new, old)) in new.iter().zip(&old).enumerate() {
        let only_added = ["matchExpressions", "matchFields"].iter().all(|list| {
            let (new, old) = (items(&new[*list]), items(&old[*list]));
            new.len() >= old.len() && new.iter().zip(old).all(|(new, old)| same(new, old))
        });
        // A term that matched nothing must not start to match something.
        let was_empty = is_empty(&old["matchExpressions"]) && is_empty(&old["matchFields"]);
        let is_empty_now = is_empty(&new["matchExpressions"]) && is_empty(&new["matchFields"]);
        if !only_added || (was_empty && !is_empty_now) {
            errors.push(field::invalid(
                &path.index(index),
                new,
                "only additions are allowed (no mutations or deletions)",
            ));
        }
    }
}

/// The new spec with everything that may change put back to what it was.
fn without_updatable(spec: &Value, before: &Value, gated: bool) -> Value {
    let mut rest = spec.clone();
    for list in ["containers", "initContainers"] {
        for (container, old) in items_mut(&mut rest, list).iter_mut().zip(items(&before[list])) {
            keep(container, old, "image");
        }
    }
    for name in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        keep(&mut rest, before, name);
    }
    const GRACE: &str = "terminationGracePeriodSeconds";
    if int(&before[GRACE]) < 0 && int(&rest[GRACE]) == 1 {
        keep(&mut rest, before, GRACE);
    }
    if gated {
        keep(&mut rest, before, "nodeSelector");
        let old = before["affinity"]["nodeAffinity"].clone();
        if is_set(&old)
            && let Some(affinity) = object_mut(&mut rest, "affinity")
        {
            affinity.insert("nodeAffinity".to_owned(), old);
        } else if let Some(affinity) = existing_mut(&mut rest, "affinity") {
            clear(affinity, "nodeAffinity");
        }
    }
    rest
}
