//! Objects as JSON: reading metadata, and the bytes that are stored and served.

use coracle_store::Payload;
use serde_json::{Map, Value};

/// The object's `metadata`, or nothing.
pub(crate) fn metadata(object: &Value) -> Option<&Map<String, Value>> {
    object.get("metadata").and_then(Value::as_object)
}

/// The object's `metadata`, made if it is missing or not an object.
pub(crate) fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    child_mut(object, "metadata")
}

/// An object-valued field, made if it is missing or something else. `object` must be a JSON object;
/// anything else becomes one.
pub(crate) fn child_mut<'a>(object: &'a mut Value, field: &str) -> &'a mut Map<String, Value> {
    let map = as_map(object);
    as_map(map.entry(field.to_owned()).or_insert(Value::Null))
}

fn as_map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("it was just made an object")
}

/// A text of `metadata`, empty if it is missing.
pub(crate) fn meta_str<'a>(object: &'a Value, field: &str) -> &'a str {
    metadata(object).and_then(|m| m.get(field)).and_then(Value::as_str).unwrap_or_default()
}

/// `metadata.name`.
pub(crate) fn name(object: &Value) -> &str {
    meta_str(object, "name")
}

/// `metadata.namespace`.
pub(crate) fn namespace(object: &Value) -> &str {
    meta_str(object, "namespace")
}

/// `metadata.uid`.
pub(crate) fn uid(object: &Value) -> &str {
    meta_str(object, "uid")
}

/// `metadata.resourceVersion`.
pub(crate) fn resource_version(object: &Value) -> &str {
    meta_str(object, "resourceVersion")
}

/// True if the object has a `metadata.deletionTimestamp`.
pub(crate) fn is_terminating(object: &Value) -> bool {
    metadata(object).and_then(|m| m.get("deletionTimestamp")).is_some_and(|t| !t.is_null())
}

/// `metadata.finalizers`.
pub(crate) fn finalizers(object: &Value) -> Vec<&str> {
    metadata(object)
        .and_then(|m| m.get("finalizers"))
        .and_then(Value::as_array)
        .map(|list| list.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default()
}

/// A whole number somewhere in the object, by JSON pointer.
pub(crate) fn integer(object: &Value, pointer: &str) -> Option<i64> {
    object.pointer(pointer).and_then(Value::as_i64)
}

/// A text somewhere in the object, by JSON pointer; empty if it is missing.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Parses bytes of the store. They were written by us, but a damaged store must not bring the server
/// down: what cannot be read is an empty object.
pub(crate) fn parse_stored(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|error| {
        tracing::error!(%error, "a stored object is not JSON");
        Value::Object(Map::new())
    })
}

/// Serialises an object for the store, with an empty `resourceVersion` and its place.
///
/// Keys come in Kubernetes' order: `kind`, `apiVersion`, `metadata`, then the others. This is the one
/// serialisation of a change; storage, lists and watchers share it.
pub(crate) fn payload(object: &Value) -> Payload {
    let mut bytes = Vec::with_capacity(1024);
    let mut revision_at = 0;
    let empty = Map::new();
    let map = object.as_object().unwrap_or(&empty);
    let rest = map.iter().filter(|(key, _)| !LEADING.contains(&key.as_str()));
    let leading = LEADING.iter().filter_map(|key| map.get_key_value(*key));
    bytes.push(b'{');
    for (index, (key, value)) in leading.chain(rest).enumerate() {
        if index > 0 {
            bytes.push(b',');
        }
        write_json(&mut bytes, key);
        bytes.push(b':');
        match value.as_object() {
            Some(metadata) if key == "metadata" => revision_at = write_metadata(&mut bytes, metadata),
            _ => write_json(&mut bytes, value),
        }
    }
    bytes.push(b'}');
    debug_assert!(revision_at > 0, "an object without metadata has no place for its revision");
    Payload { bytes, revision_at }
}

const LEADING: &[&str] = &["kind", "apiVersion", "metadata"];

/// Writes `metadata` with an empty `resourceVersion` in it, and returns the offset between its quotes.
fn write_metadata(bytes: &mut Vec<u8>, metadata: &Map<String, Value>) -> usize {
    bytes.push(b'{');
    for (key, value) in metadata.iter().filter(|(key, _)| *key != "resourceVersion") {
        write_json(bytes, key);
        bytes.push(b':');
        write_json(bytes, value);
        bytes.push(b',');
    }
    bytes.extend_from_slice(br#""resourceVersion":"""#);
    let revision_at = bytes.len() - 1;
    bytes.push(b'}');
    revision_at
}

/// Appends the JSON of something that cannot fail to serialise: strings and [`Value`]s.
pub(crate) fn write_json<T: serde::Serialize + ?Sized>(bytes: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(bytes, value).expect("JSON values serialise into memory without fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn payload_leaves_room_for_the_revision() {
        let object = json!({
            "spec": {"a": "\"resourceVersion\":\"\""}, "kind": "Pod", "apiVersion": "v1",
            "metadata": {"annotations": {"resourceVersion": ""}, "name": "x", "resourceVersion": "7", "uid": "u"},
        });
        let Payload { mut bytes, revision_at } = payload(&object);
        bytes.splice(revision_at..revision_at, *b"42");
        let mut expected = object;
        expected["metadata"]["resourceVersion"] = json!("42");
        assert_eq!(parse_stored(&bytes), expected);
        assert!(bytes.starts_with(br#"{"kind":"Pod","apiVersion":"v1","metadata":{"#));
    }
}
