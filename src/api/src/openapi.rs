//! OpenAPI v3 documents, one per group and version.
use std::sync::Arc;

use serde_json::Value;

use crate::kind::Kind;

/// The document of `group_version` (`v1`, `apps/v1`) with those kinds.
pub fn document(_group_version: &str, _kinds: &[Arc<Kind>]) -> Value {
    Value::Null
}
