//! Server-side tables (`kubectl get`), and how ages are written in them.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use crate::kind::{Cell, Column};

/// What a table shows where there is no time.
pub const UNKNOWN: &str = "<unknown>";

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const YEAR: i64 = 365 * DAY;

/// A duration in two or three figures, as Kubernetes writes it: `5m3s`, `26h`, `3d4h`, `2y10d`.
///
/// Less than two seconds before zero count as zero (clocks differ); more is `<invalid>`.
pub fn human_duration(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    let pair = |big: i64, big_unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{big}{big_unit}"),
        _ => format!("{big}{big_unit}{small}{small_unit}"),
    };
    match seconds {
        ..=-2 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        _ if seconds < 2 * MINUTE => format!("{seconds}s"),
        _ if seconds < 10 * MINUTE => pair(seconds / MINUTE, "m", seconds % MINUTE, "s"),
        _ if seconds < 3 * HOUR => format!("{}m", seconds / MINUTE),
        _ if seconds < 8 * HOUR => pair(seconds / HOUR, "h", seconds / MINUTE % 60, "m"),
        _ if seconds < 2 * DAY => format!("{}h", seconds / HOUR),
        _ if seconds < 8 * DAY => pair(seconds / DAY, "d", seconds / HOUR % 24, "h"),
        _ if seconds < 2 * YEAR => format!("{}d", seconds / DAY),
        _ if seconds < 8 * YEAR => pair(seconds / YEAR, "y", seconds / DAY % 365, "d"),
        _ => format!("{}y", seconds / YEAR),
    }
}

/// The age at `now` of something that happened at `timestamp` (RFC 3339); [`UNKNOWN`] without one.
pub fn age(timestamp: Option<&str>, now: Timestamp) -> String {
    match timestamp.and_then(|text| text.parse::<Timestamp>().ok()) {
        Some(then) => human_duration(now.duration_since(then)),
        None => UNKNOWN.to_owned(),
    }
}

/// The `Age` cell of an object: from `metadata.creationTimestamp`.
pub fn age_cell(object: &Value, now: Timestamp) -> Cell {
    let created = object.pointer("/metadata/creationTimestamp").and_then(Value::as_str);
    Value::String(age(created, now))
}

/// One row: its cells, and what stands in `object` ([`partial_metadata`], the object itself, or null).
#[expect(clippy::needless_pass_by_value, reason = "both become part of the row")]
pub fn row(cells: Vec<Cell>, object: Value) -> Value {
    json!({"cells": cells, "object": object})
}

/// The metadata of an object as `PartialObjectMetadata`.
pub fn partial_metadata(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata").cloned().unwrap_or_else(|| Value::Object(Map::new())),
    })
}

/// A table. In a watch only the first event has `columns`; `list_metadata` is the list's `metadata`, or in
/// a watch an object with `resourceVersion`.
#[expect(clippy::needless_pass_by_value, reason = "both become part of the table")]
pub fn table(columns: Option<&[Column]>, list_metadata: Value, rows: Vec<Value>) -> Value {
    let columns = columns.map(|columns| columns.iter().map(definition).collect::<Vec<_>>());
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": list_metadata,
        "columnDefinitions": columns,
        "rows": rows,
    })
}

fn definition(column: &Column) -> Value {
    json!({
        "name": column.name,
        "type": column.type_,
        "format": column.format,
        "description": column.description,
        "priority": column.priority,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_in_kubernetes() {
        #[track_caller]
        fn check(seconds: i64, want: &str) {
            assert_eq!(human_duration(SignedDuration::from_secs(seconds)), want);
        }
        check(-2, "<invalid>");
        check(-1, "0s");
        check(0, "0s");
        check(119, "119s");
        check(120, "2m");
        check(123, "2m3s");
        check(599, "9m59s");
        check(600, "10m");
        check(3 * HOUR - 1, "179m");
        check(3 * HOUR, "3h");
        check(3 * HOUR + 61, "3h1m");
        check(8 * HOUR + 61, "8h");
        check(2 * DAY - 1, "47h");
        check(2 * DAY, "2d");
        check(2 * DAY + HOUR, "2d1h");
        check(8 * DAY + HOUR, "8d");
        check(2 * YEAR - 1, "729d");
        check(2 * YEAR + 3 * DAY, "2y3d");
        check(8 * YEAR + 3 * DAY, "8y");
        check(i64::MAX, "292471208677y");
    }

    #[test]
    fn ages() {
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        assert_eq!(age(Some("2026-01-01T00:00:00Z"), now), "60s");
        assert_eq!(age(Some("2026-01-01T00:01:00.9Z"), now), "0s");
        assert_eq!(age(Some("soon"), now), UNKNOWN);
        assert_eq!(age(None, now), UNKNOWN);
        assert_eq!(age_cell(&json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:30Z"}}), now), "30s");
    }

    #[test]
    fn tables_have_kubernetes_shape() {
        let object = json!({"kind": "Pod", "metadata": {"name": "a"}, "spec": {}});
        let rows = vec![row(vec!["a".into()], partial_metadata(&object))];
        let columns = [Column::object_name()];
        assert_eq!(
            table(Some(&columns), json!({"resourceVersion": "7"}), rows),
            json!({
                "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": "7"},
                "columnDefinitions": [{"name": "Name", "type": "string", "format": "name", "priority": 0,
                    "description": columns[0].description}],
                "rows": [{"cells": ["a"], "object": {"kind": "PartialObjectMetadata",
                    "apiVersion": "meta.k8s.io/v1", "metadata": {"name": "a"}}}],
            })
        );
        assert_eq!(table(None, json!({}), vec![])["columnDefinitions"], Value::Null);
    }
}
