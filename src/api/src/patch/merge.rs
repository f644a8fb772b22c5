//! Merge patch (RFC 7386).

use serde_json::{Map, Value};

use super::PatchError;

/// Applies a merge patch: objects are merged, `null` removes, everything else replaces.
///
/// # Errors
/// The patch is not an object.
pub fn merge_patch(object: &Value, patch: &Value) -> Result<Value, PatchError> {
    let Value::Object(patch) = patch else {
        return Err(PatchError::Malformed("Invalid JSON Patch".to_owned()));
    };
    let mut result = object.clone();
    merge(&mut result, patch);
    Ok(result)
}

fn merge(target: &mut Value, patch: &Map<String, Value>) {
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { unreachable!("made an object above") };
    for (name, change) in patch {
        match change {
            Value::Null => {
                target.remove(name);
            }
            Value::Object(change) => merge(target.entry(name.as_str()).or_insert(Value::Null), change),
            change => {
                target.insert(name.clone(), change.clone());
            }
        }
    }
}
