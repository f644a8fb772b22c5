//! Objects as tables and as bare metadata.

use coracle_api::{Kind, status::Status, table as api_table};
use jiff::Timestamp;
use serde_json::{Value, json};

/// What stands in `object` of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Include {
    Metadata,
    Object,
    Nothing,
}

impl Include {
    /// From the parameter `includeObject`.
    pub(crate) fn parse(text: &str) -> Result<Include, Status> {
        match text {
            "" | "Metadata" => Ok(Include::Metadata),
            "Object" => Ok(Include::Object),
            "None" => Ok(Include::Nothing),
            other => Err(Status::bad_request(format!(
                "Invalid value: {other:?}: must be 'Metadata', 'Object', 'None', or empty"
            ))),
        }
    }
}

/// The row of one object.
pub(crate) fn row(kind: &Kind, object: &Value, include: Include, version: &str, now: Timestamp) -> Value {
    let cells = kind.hooks.row(object, now);
    let shown = match include {
        Include::Metadata => partial(object, version),
        Include::Object => object.clone(),
        Include::Nothing => Value::Null,
    };
    api_table::row(cells, shown)
}

/// A table. Watches leave the columns out after the first.
pub(crate) fn table(kind: &Kind, columns: bool, metadata: Value, rows: Vec<Value>, version: &str) -> Value {
    let columns = columns.then(|| kind.hooks.columns());
    with_version(api_table::table(columns, metadata, rows), version)
}

/// The metadata of an object as `PartialObjectMetadata`.
pub(crate) fn partial(object: &Value, version: &str) -> Value {
    with_version(api_table::partial_metadata(object), version)
}

fn with_version(mut value: Value, version: &str) -> Value {
    if version != "v1"
        && let Some(map) = value.as_object_mut()
    {
        map.insert("apiVersion".into(), json!(format!("meta.k8s.io/{version}")));
    }
    value
}
