//! JSON patch (RFC 6902). The `json-patch` crate applies the operations; the limits of Kubernetes, its
//! dialect (`test` against nothing, negative indices) and its words are added here.

use json_patch::{PatchErrorKind, PatchOperation};
use serde_json::Value;

use super::PatchError;
use crate::schema::{MAX_DEPTH, height, parse_json};

/// Most operations in one patch, as in Kubernetes.
const MAX_OPERATIONS: usize = 10_000;
/// Most bytes of JSON that the `copy` operations of one patch may add, as in Kubernetes: without it, each
/// operation could double the object.
const MAX_COPIED: usize = 3 * 1024 * 1024;

/// Applies a JSON patch, all of it or nothing.
///
/// # Errors
/// The patch is malformed, too large, or does not fit the object.
pub fn json_patch(object: &Value, patch: &[u8]) -> Result<Value, PatchError> {
    let (patch, _) = parse_json(patch).map_err(|error| PatchError::Malformed(error.to_string()))?;
    let found = match patch {
        Value::Array(operations) => return apply(object, operations),
        Value::Null => return Ok(object.clone()),
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Object(_) => "object",
    };
    Err(PatchError::Malformed(format!(
        "json: cannot unmarshal {found} into Go value of type jsonpatch.Patch"
    )))
}

fn apply(object: &Value, operations: Vec<Value>) -> Result<Value, PatchError> {
    if operations.len() > MAX_OPERATIONS {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    let mut result = object.clone();
    let mut copied = 0;
    for operation in operations {
        if !operation.is_object() {
            return Err(PatchError::Malformed(
                "json: cannot unmarshal value into Go value of type jsonpatch.Operation".to_owned(),
            ));
        }
        step(&mut result, operation, &mut copied)?;
    }
    Ok(result)
}

fn step(object: &mut Value, mut operation: Value, copied: &mut usize) -> Result<(), PatchError> {
    for pointer in ["path", "from"] {
        if let Some(Value::String(text)) = operation.get_mut(pointer) {
            *text = resolve_negative_index(object, text);
        }
    }
    let name = operation["op"].as_str().unwrap_or_default().to_owned();
    let path = operation["path"].as_str().unwrap_or_default().to_owned();
    let known = matches!(&*name, "add" | "remove" | "replace" | "move" | "copy" | "test");
    if !known {
        return Err(PatchError::Inapplicable(format!("Unexpected kind: {name}")));
    }
    if matches!(&*name, "add" | "replace" | "test") && operation.get("value").is_none() {
        // Go reads a missing value as null.
        operation["value"] = Value::Null;
    }
    let operation: PatchOperation = serde_json::from_value(operation)
        .map_err(|error| PatchError::Inapplicable(format!("{name} operation does not apply: {error}")))?;

    let missing = |from: &str| {
        PatchError::Inapplicable(format!(
            "{name} operation does not apply: doc is missing from path: {from}: missing value"
        ))
    };
    let new_height = match &operation {
        PatchOperation::Add(add) => height(&add.value),
        PatchOperation::Replace(replace) => height(&replace.value),
        PatchOperation::Copy(copy) => {
            let source = object.pointer(copy.from.as_str()).ok_or_else(|| missing(copy.from.as_str()))?;
            *copied = copied.saturating_add(encoded_size(source));
            if *copied > MAX_COPIED {
                return Err(PatchError::Inapplicable(format!(
                    "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {MAX_COPIED}"
                )));
            }
            height(source)
        }
        PatchOperation::Move(from) => {
            height(object.pointer(from.from.as_str()).ok_or_else(|| missing(from.from.as_str()))?)
        }
        PatchOperation::Remove(_) => 0,
        PatchOperation::Test(test) => {
            if test.value.is_null() && is_missing_member(object, &path) {
                return Ok(());
            }
            0
        }
    };
    if path.matches('/').count() + new_height > MAX_DEPTH {
        return Err(PatchError::Inapplicable("exceeded max depth".to_owned()));
    }
    json_patch::patch(object, std::slice::from_ref(&operation)).map_err(|error| {
        PatchError::Inapplicable(match (error.kind, &*name) {
            (PatchErrorKind::TestFailed, _) => format!("testing value {path} failed: test failed"),
            (PatchErrorKind::CannotMoveInsideItself, _) => {
                "move operation does not apply: cannot move a value into itself".to_owned()
            }
            (_, "replace") => {
                format!("replace operation does not apply: doc is missing key: {path}: missing value")
            }
            _ => format!("{name} operation does not apply: doc is missing path: {path:?}: missing value"),
        })
    })
}

/// `/list/-1` is the last item: a dialect of the library that Kubernetes uses.
fn resolve_negative_index(object: &Value, path: &str) -> String {
    if !path.contains("/-") {
        return path.to_owned();
    }
    let (mut resolved, mut place) = (String::with_capacity(path.len()), Some(object));
    for token in path.split('/').skip(1) {
        let index = match place {
            Some(Value::Array(items)) => {
                let back = token.strip_prefix('-').and_then(|back| back.parse::<usize>().ok());
                back.filter(|&back| back > 0).and_then(|back| items.len().checked_sub(back))
            }
            _ => None,
        };
        let token = index.map_or_else(|| token.to_owned(), |index| index.to_string());
        resolved.push('/');
        resolved.push_str(&token);
        place = place.and_then(|place| place.pointer(&format!("/{token}")));
    }
    resolved
}

/// True if the parent is an object that lacks the last name of the path.
fn is_missing_member(object: &Value, path: &str) -> bool {
    let Some((parent, _)) = path.rsplit_once('/') else { return false };
    object.pointer(parent).is_some_and(Value::is_object) && object.pointer(path).is_none()
}

/// How many bytes the value has as compact JSON, or a little less.
fn encoded_size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 4,
        Value::String(text) => text.len() + 2,
        Value::Array(items) => 2 + items.iter().map(|item| encoded_size(item) + 1).sum::<usize>(),
        Value::Object(map) => {
            2 + map.iter().map(|(name, value)| name.len() + 4 + encoded_size(value)).sum::<usize>()
        }
    }
}
