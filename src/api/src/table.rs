//! Server-side tables, and how ages are written in them.
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::kind::{Cell, Column};

/// A duration in two or three figures: `5m3s`, `26h`, `3d4h`.
pub fn human_duration(_duration: SignedDuration) -> String {
    String::new()
}

/// The age of `timestamp` (RFC 3339) at `now`: `<unknown>` if there is none.
pub fn age(_timestamp: Option<&str>, _now: Timestamp) -> String {
    String::new()
}

/// One row: its cells and what stands in `object` (PartialObjectMetadata, the object, or null).
pub fn row(cells: Vec<Cell>, object: Value) -> Value {
    serde_json::json!({"cells": cells, "object": object})
}

/// The metadata of an object as PartialObjectMetadata.
pub fn partial_metadata(_object: &Value) -> Value {
    Value::Null
}

/// A table; `columns` is `None` in all watch events after the first.
pub fn table(_columns: Option<&[Column]>, _list_metadata: Value, _rows: Vec<Value>) -> Value {
    Value::Null
}
