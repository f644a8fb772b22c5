//! ServiceAccount: who a pod is towards the API.

use jiff::Timestamp;
use serde_json::Value;

use super::common::*;
use crate::{Cell, Column, Hooks, Kind, Scope, Subresource};

pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["sa"]),
        subresources: vec![Subresource::Token],
        ..define("", "v1", "ServiceAccount", "serviceaccounts", Scope::Namespaced, ServiceAccount)
    }
}

struct ServiceAccount;

static COLUMNS: [Column; 3] =
    [Column::object_name(), column("Secrets", "Number of secrets that its pods may use."), AGE];

impl Hooks for ServiceAccount {
    fn columns(&self) -> &[Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        vec![name(object), items(&object["secrets"]).len().into(), age(object, now)]
    }
}
