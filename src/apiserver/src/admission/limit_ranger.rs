//! LimitRanges: what containers get if they do not say, and what is too little, too much or too uneven.

use std::collections::BTreeSet;

use async_trait::async_trait;
use coracle_api::{
    Quantity,
    amounts::{self, Amounts},
    status::Status,
};
use serde_json::{Value, json};

use super::{Attributes, Operation, Plugin, stored};
use crate::object;

/// Where the pod says what was filled in.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

pub(super) struct LimitRanger;

/// True if limits apply: to new pods, and to claims.
fn applies(request: &Attributes<'_>) -> bool {
    match request.operation {
        Operation::Create => request.is_core("pods") || request.is_core("persistentvolumeclaims"),
        Operation::Update => request.is_core("persistentvolumeclaims"),
        Operation::Delete => false,
    }
}

fn ranges(request: &Attributes<'_>) -> Vec<Value> {
    stored(request.call, ("", "v1", "limitranges"), &request.call.namespace)
}

#[async_trait]
impl Plugin for LimitRanger {
    async fn mutate(
        &self,
        request: &Attributes<'_>,
        object: &mut Value,
        _: Option<&Value>,
    ) -> Result<(), Status> {
        if applies(request) && request.is_core("pods") {
            for range in ranges(request) {
                fill(object, &range);
            }
        }
        Ok(())
    }

    async fn validate(
        &self,
        request: &Attributes<'_>,
        object: Option<&Value>,
        _: Option<&Value>,
    ) -> Result<(), Status> {
        let Some(object) = object.filter(|_| applies(request)) else { return Ok(()) };
        for range in ranges(request) {
            let errors =
                if request.is_core("pods") { check_pod(object, &range) } else { check_claim(object, &range) };
            let why = match errors.as_slice() {
                [] => continue,
                [one] => one.clone(),
                many => format!("[{}]", many.join(", ")),
            };
            return Err(Status::forbidden(request.call.kind(), &request.call.name, &why));
        }
        Ok(())
    }
}

fn items(range: &Value) -> impl Iterator<Item = &Value> {
    range.pointer("/spec/limits").and_then(Value::as_array).into_iter().flatten()
}

/// Gives containers the defaults of a range.
fn fill(pod: &mut Value, range: &Value) {
    let (mut limits, mut requests) = (serde_json::Map::new(), serde_json::Map::new());
    for item in items(range).filter(|item| object::text(item, "/type") == "Container") {
        for (defaults, field) in [(&mut limits, "default"), (&mut requests, "defaultRequest")] {
            defaults.extend(item.get(field).and_then(Value::as_object).cloned().unwrap_or_default());
        }
    }
    let mut said = Vec::new();
    for (list, what) in [("containers", "container"), ("initContainers", "init container")] {
        let containers = object::child_mut(pod, "spec").get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let name = object::text(container, "/name").to_owned();
            for (field, defaults) in [("requests", &requests), ("limits", &limits)] {
                let set = fill_list(container, field, defaults);
                if !set.is_empty() {
                    let set = set.into_iter().collect::<Vec<_>>().join(", ");
                    let field = field.trim_end_matches('s');
                    said.push(format!("{set} {field} for {what} {name}"));
                }
            }
        }
    }
    if !said.is_empty() {
        let annotations = object::metadata_mut(pod).entry("annotations").or_insert_with(|| json!({}));
        if let Some(annotations) = annotations.as_object_mut() {
            let said = format!("LimitRanger plugin set: {}", said.join("; "));
            annotations.insert(ANNOTATION.into(), json!(said));
        }
    }
}

/// Fills one list of a container's resources, and says what of it.
fn fill_list(
    container: &mut Value,
    field: &str,
    defaults: &serde_json::Map<String, Value>,
) -> BTreeSet<String> {
    let mut set = BTreeSet::new();
    if defaults.is_empty() {
        return set;
    }
    let resources = object::child_mut(container, "resources");
    let list = resources.entry(field).or_insert_with(|| json!({}));
    if list.is_null() {
        *list = json!({});
    }
    let Some(list) = list.as_object_mut() else { return set };
    for (name, amount) in defaults {
        if !list.contains_key(name) {
            list.insert(name.clone(), amount.clone());
            set.insert(name.clone());
        }
    }
    set
}

fn check_pod(pod: &Value, range: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    for item in items(range) {
        let (requests, limits) = ("/resources/requests", "/resources/limits");
        match object::text(item, "/type") {
            "Container" => {
                for list in ["containers", "initContainers"] {
                    for container in amounts::containers(pod, list) {
                        let requests = amounts::amounts(container.pointer(requests));
                        let limits = amounts::amounts(container.pointer(limits));
                        check_item(&mut errors, item, &requests, &limits);
                    }
                }
            }
            "Pod" => {
                let (requests, limits) = (amounts::of_pod(pod, "requests"), amounts::of_pod(pod, "limits"));
                check_item(&mut errors, item, &requests, &limits);
            }
            _ => {}
        }
    }
    errors
}

fn check_item(errors: &mut Vec<String>, item: &Value, requests: &Amounts, limits: &Amounts) {
    let type_ = object::text(item, "/type");
    for (name, least) in amounts::amounts(item.get("min")) {
        let rule = format!("minimum {name} usage per {type_} is {least}");
        match (requests.get(&name), limits.get(&name)) {
            (None, _) => errors.push(format!("{rule}.  No request is specified")),
            (Some(request), _) if *request < least => {
                errors.push(format!("{rule}, but request is {request}"));
            }
            (_, Some(limit)) if *limit < least => errors.push(format!("{rule}, but limit is {limit}")),
            _ => {}
        }
    }
    for (name, most) in amounts::amounts(item.get("max")) {
        let rule = format!("maximum {name} usage per {type_} is {most}");
        match (requests.get(&name), limits.get(&name)) {
            (_, None) => errors.push(format!("{rule}.  No limit is specified")),
            (_, Some(limit)) if *limit > most => errors.push(format!("{rule}, but limit is {limit}")),
            (Some(request), _) if *request > most => errors.push(format!("{rule}, but request is {request}")),
            _ => {}
        }
    }
    for (name, most) in amounts::amounts(item.get("maxLimitRequestRatio")) {
        let rule = format!("{name} max limit to request ratio per {type_} is {most}, but");
        let some = |list: &Amounts| list.get(&name).copied().filter(|amount| !amount.is_zero());
        match (some(requests), some(limits)) {
            (None, _) => errors.push(format!("{rule} no request is specified or request is 0")),
            (_, None) => errors.push(format!("{rule} no limit is specified or limit is 0")),
            (Some(request), Some(limit)) => {
                let ratio = limit.as_f64() / request.as_f64();
                if ratio > most.as_f64() {
                    errors.push(format!("{rule} provided ratio is {ratio:.6}"));
                }
            }
        }
    }
}

fn check_claim(claim: &Value, range: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    let requests = amounts::amounts(claim.pointer("/spec/resources/requests"));
    let breaks = |field: &str, request: &Quantity, bound: &Quantity| match field {
        "min" => request < bound,
        _ => request > bound,
    };
    for item in items(range).filter(|item| object::text(item, "/type") == "PersistentVolumeClaim") {
        for (field, word) in [("min", "minimum"), ("max", "maximum")] {
            for (name, bound) in amounts::amounts(item.get(field)) {
                let rule = format!("{word} {name} usage per PersistentVolumeClaim is {bound}");
                match requests.get(&name) {
                    None => errors.push(format!("{rule}.  No request is specified")),
                    Some(request) if breaks(field, request, &bound) => {
                        errors.push(format!("{rule}, but request is {request}"));
                    }
                    Some(_) => {}
                }
            }
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(item: &Value) -> Value {
        json!({"spec": {"limits": [item]}})
    }

    fn pod(requests: &Value, limits: &Value) -> Value {
        let resources = json!({"requests": requests, "limits": limits});
        json!({"metadata": {}, "spec": {"containers": [{"name": "a", "resources": resources}]}})
    }

    #[track_caller]
    fn check(pod: &Value, item: &Value, expected: &[&str]) {
        assert_eq!(check_pod(pod, &range(item)), expected);
    }

    #[test]
    fn too_little_too_much_too_uneven() {
        let some = pod(&json!({"cpu": "100m"}), &json!({"cpu": "400m"}));
        let none = pod(&json!({}), &json!({}));
        let container = |field: &str, cpu: &str| json!({"type": "Container", field: {"cpu": cpu}});
        check(&some, &container("min", "100m"), &[]);
        check(
            &some,
            &container("min", "200m"),
            &["minimum cpu usage per Container is 200m, but request is 100m"],
        );
        check(
            &none,
            &container("min", "1"),
            &["minimum cpu usage per Container is 1.  No request is specified"],
        );
        check(
            &some,
            &container("max", "300m"),
            &["maximum cpu usage per Container is 300m, but limit is 400m"],
        );
        check(
            &none,
            &container("max", "1"),
            &["maximum cpu usage per Container is 1.  No limit is specified"],
        );
        check(&some, &container("maxLimitRequestRatio", "4"), &[]);
        check(
            &some,
            &container("maxLimitRequestRatio", "3"),
            &["cpu max limit to request ratio per Container is 3, but provided ratio is 4.000000"],
        );
        check(
            &some,
            &json!({"type": "Pod", "max": {"cpu": "300m"}}),
            &["maximum cpu usage per Pod is 300m, but limit is 400m"],
        );
        let claim = json!({"spec": {"resources": {"requests": {"storage": "1Gi"}}}});
        let item = json!({"type": "PersistentVolumeClaim", "max": {"storage": "512Mi"}});
        let why = "maximum storage usage per PersistentVolumeClaim is 512Mi, but request is 1Gi";
        assert_eq!(check_claim(&claim, &range(&item)), [why]);
    }

    #[test]
    fn what_was_filled_in_is_said() {
        let mut pod = pod(&json!({"cpu": "1"}), &json!({}));
        let defaults = json!({"cpu": "2", "memory": "1Gi"});
        fill(
            &mut pod,
            &range(&json!({"type": "Container", "default": defaults, "defaultRequest": defaults})),
        );
        assert_eq!(
            pod["spec"]["containers"][0]["resources"],
            json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "1Gi"}})
        );
        assert_eq!(
            pod["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: memory request for container a; cpu, memory limit for container a"
        );
    }
}
