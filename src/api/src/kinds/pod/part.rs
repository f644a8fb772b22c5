//! What may change of a pod through `…/ephemeralcontainers` and `…/resize`.

use serde_json::Value;

use crate::{
    FieldCause,
    field::{self, Path},
    kinds::{common::*, pod_spec},
};

/// Ephemeral containers may be added; those that are there stay as they are.
pub(super) fn check_ephemeral(errors: &mut Vec<FieldCause>, object: &Value, old: &Value) {
    const MIRROR: &str = "kubernetes.io/config.mirror";
    let path = Path::new("spec.ephemeralContainers");
    if is_set(&old["metadata"]["annotations"][MIRROR]) {
        errors.push(field::forbidden(&Path::new(""), "static pods do not support ephemeral containers"));
    }
    let new = items(&object["spec"]["ephemeralContainers"]);
    for old in items(&old["spec"]["ephemeralContainers"]) {
        let name = text(&old["name"]);
        match new.iter().find(|container| text(&container["name"]) == name) {
            None => {
                let words = format!("existing ephemeral containers {name:?} may not be removed\n");
                errors.push(field::forbidden(&path, &words));
            }
            Some(container) if !same(container, old) => {
                let words = format!("existing ephemeral containers {name:?} may not be changed\n");
                errors.push(field::forbidden(&path, &words));
            }
            Some(_) => {}
        }
    }
}

/// CPU and memory of running containers may change, as long as the pod's class does not.
pub(super) fn check_resize(errors: &mut Vec<FieldCause>, object: &Value, old: &Value) {
    const MIRROR: &str = "kubernetes.io/config.mirror";
    let path = Path::new("spec");
    if is_set(&old["metadata"]["annotations"][MIRROR]) {
        errors.push(field::forbidden(&Path::new(""), "static pods cannot be resized"));
    }
    // A node that resizes reports what its running containers have.
    let running = items(&old["status"]["containerStatuses"]);
    let running = running.iter().find(|status| is_set(&status["state"]["running"]));
    if running.is_some_and(|status| !is_set(&status["resources"])) {
        errors.push(field::forbidden(&path, "Pod running on node without support for resize"));
    }
    for list in ["containers", "initContainers"] {
        let (new, old) = (items(&object["spec"][list]), items(&old["spec"][list]));
        let names = |list: &[Value]| list.iter().map(|c| text(&c["name"]).to_owned()).collect::<Vec<_>>();
        if new.len() != old.len() {
            errors.push(field::forbidden(&path, "containers may not be added or removed"));
            return;
        }
        if names(new) != names(old) {
            errors.push(field::forbidden(
                &path.child(list),
                "containers may not be renamed or reordered on resize",
            ));
            return;
        }
        for (index, (new, old)) in new.iter().zip(old).enumerate() {
            let list = path.child(list);
            let list = list.index(index);
            let resources = list.child("resources");
            check_amounts(errors, &resources, &new["resources"], &old["resources"]);
            check_shrinking(errors, &resources, new, old);
        }
    }
    let before = text(&old["status"]["qosClass"]);
    let class = pod_spec::qos_class(&object["spec"]);
    if !before.is_empty() && class != before {
        let words = "Pod QOS Class may not change as a result of resizing";
        errors.push(field::invalid(&path, class, words));
    }
}

/// A running program keeps the memory it has: less of it needs a restart.
fn check_shrinking(errors: &mut Vec<FieldCause>, path: &Path<'_>, new: &Value, old: &Value) {
    let restarts = items(&new["resizePolicy"]).iter().any(|policy| {
        text(&policy["resourceName"]) == "memory" && text(&policy["restartPolicy"]) == "RestartContainer"
    });
    let limit = |container: &Value| pod_spec::amount(&container["resources"]["limits"]["memory"]);
    if let (Some(new), Some(old)) = (limit(new), limit(old))
        && new < old
        && !restarts
    {
        let words = "memory limits cannot be decreased unless resizePolicy is RestartContainer";
        errors.push(field::forbidden(&path.child("limits").key("memory"), words));
    }
}

fn check_amounts(errors: &mut Vec<FieldCause>, path: &Path<'_>, new: &Value, old: &Value) {
    for list in ["requests", "limits"] {
        let others = |value: &Value| {
            let others = entries(&value[list]).filter(|(name, _)| !matches!(name.as_str(), "cpu" | "memory"));
            others.map(|(name, amount)| (name.clone(), amount.clone())).collect::<Vec<_>>()
        };
        if others(new) != others(old) {
            errors.push(field::forbidden(path, "only cpu and memory resources are mutable"));
            return;
        }
        for name in ["cpu", "memory"] {
            if is_set(&old[list][name]) && !is_set(&new[list][name]) {
                let words = format!("resource {list} cannot be removed");
                errors.push(field::forbidden(&path.child(list), &words));
            }
        }
    }
}
