//! `pods/…/ephemeralcontainers` and `pods/…/resize`: writes of a part of a pod's spec. What else a request
//! carries is left as it is stored.

use serde_json::{Value, json};

use crate::object;

/// The stored pod with the requested ephemeral containers.
pub(crate) fn ephemeral_containers(mut requested: Value, old: &Value) -> Value {
    let mut pod = pinned(&requested, old);
    let wanted = requested.pointer_mut("/spec/ephemeralContainers").map(Value::take);
    let spec = object::child_mut(&mut pod, "spec");
    match wanted.filter(|list| !list.is_null()) {
        Some(list) => drop(spec.insert("ephemeralContainers".into(), list)),
        None => drop(spec.remove("ephemeralContainers")),
    }
    pod
}

/// The stored pod with the requested resources of its containers. Containers that are not those of the pod
/// are left in for validation to refuse.
pub(crate) fn resources(mut requested: Value, old: &Value) -> Value {
    let mut pod = pinned(&requested, old);
    for list in ["containers", "initContainers"] {
        let pointer = format!("/spec/{list}");
        let wanted = match requested.pointer_mut(&pointer).map(Value::take) {
            Some(Value::Array(list)) => Some(list),
            _ => None,
        };
        let stored = old.pointer(&pointer).and_then(Value::as_array);
        let (wanted, stored) = match (wanted, stored) {
            (Some(wanted), Some(stored)) if names(&wanted) == names(stored) => (wanted, stored),
            (wanted, stored) => {
                if wanted.as_deref().map(names) != stored.map(|list| names(list)) {
                    let wanted = wanted.unwrap_or_default();
                    object::child_mut(&mut pod, "spec").insert(list.into(), Value::Array(wanted));
                }
                continue;
            }
        };
        let merged = stored.iter().zip(wanted).map(|(stored, mut wanted)| {
            let mut container = stored.clone();
            for field in ["resources", "resizePolicy"] {
                let Some(map) = container.as_object_mut() else { continue };
                match wanted.get_mut(field) {
                    Some(value) => drop(map.insert(field.into(), value.take())),
                    None => drop(map.remove(field)),
                }
            }
            container
        });
        let merged = merged.collect();
        object::child_mut(&mut pod, "spec").insert(list.into(), merged);
    }
    pod
}

fn names(containers: &[Value]) -> Vec<&str> {
    containers.iter().map(|container| object::text(container, "/name")).collect()
}

/// The stored pod, in the version that the request is about.
fn pinned(requested: &Value, old: &Value) -> Value {
    let mut pod = old.clone();
    let version = object::resource_version(requested);
    if !version.is_empty() {
        object::metadata_mut(&mut pod).insert("resourceVersion".into(), json!(version));
    }
    pod
}
