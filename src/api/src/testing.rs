//! A kind without rules of its own, for the tests of the machinery.

use std::sync::Arc;

use serde_json::Value;

use crate::kind::{Cell, Column, Hooks, Kind, Scope};

struct NoHooks;

impl Hooks for NoHooks {
    fn validate_name(&self, _: &str) -> Option<String> {
        None
    }

    fn columns(&self) -> &[Column] {
        &[]
    }

    fn row(&self, _: &Value, _: jiff::Timestamp) -> Vec<Cell> {
        Vec::new()
    }
}

/// A namespaced kind of version `v1`; `message` may be empty, as for a custom resource.
pub(crate) fn kind(
    group: &'static str,
    name: &'static str,
    plural: &'static str,
    message: &'static str,
) -> Kind {
    Kind {
        group: group.into(),
        version: "v1".into(),
        kind: name.into(),
        plural: plural.into(),
        singular: "".into(),
        short_names: vec![],
        categories: vec![],
        scope: Scope::Namespaced,
        message: message.into(),
        storage: plural.into(),
        subresources: vec![],
        hooks: Arc::new(NoHooks),
    }
}
