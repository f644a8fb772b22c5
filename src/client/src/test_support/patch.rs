//! Merge patches, and as much of strategic merge patches as controllers send.

use serde_json::{Map, Value};

/// RFC 7386.
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    let target = object(target);
    for (name, change) in patch {
        if change.is_null() {
            target.remove(name);
        } else {
            merge(target.entry(name.clone()).or_insert(Value::Null), change);
        }
    }
}

/// A strategic merge patch: lists of these fields are merged by key, other lists are replaced.
pub(super) fn strategic(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    let target = object(target);
    for (name, change) in patch {
        if let Some(name) = name.strip_prefix("$deleteFromPrimitiveList/") {
            let gone = change.as_array().map(Vec::as_slice).unwrap_or_default();
            if let Some(list) = target.get_mut(name).and_then(Value::as_array_mut) {
                list.retain(|item| !gone.contains(item));
            }
            continue;
        }
        let merge_key = match name.as_str() {
            "conditions" => Some("type"),
            "ownerReferences" => Some("uid"),
            "taints" => Some("key"),
            _ => None,
        };
        match (merge_key, change.as_array()) {
            _ if change.is_null() => {
                target.remove(name);
            }
            (Some(key), Some(changes)) => {
                let list = target.entry(name.clone()).or_insert_with(|| Value::Array(Vec::new()));
                if let Some(list) = list.as_array_mut() {
                    merge_list(list, changes, key);
                }
            }
            _ => strategic(target.entry(name.clone()).or_insert(Value::Null), change),
        }
    }
}

fn merge_list(list: &mut Vec<Value>, changes: &[Value], key: &str) {
    for change in changes {
        let at = list.iter().position(|item| item[key] == change[key]);
        match at {
            Some(at) if change["$patch"] == "delete" => {
                list.remove(at);
            }
            None if change["$patch"] == "delete" => {}
            Some(at) => strategic(&mut list[at], change),
            None => list.push(change.clone()),
        }
    }
}

fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("made an object above")
}
