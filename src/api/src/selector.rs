//! Label and field selectors.
use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;

/// A selector that does not parse, in Kubernetes' words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(String);

/// A label selector.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {}

impl LabelSelector {
    /// Parses `a=b,c in (d,e),!f`.
    pub fn parse(_text: &str) -> Result<LabelSelector, SelectorError> {
        Ok(LabelSelector {})
    }
    /// From the selector of an object. An empty selector matches everything.
    pub fn from_api(_selector: &meta::LabelSelector) -> Result<LabelSelector, SelectorError> {
        Ok(LabelSelector {})
    }
    /// All of these labels (services, replication controllers).
    pub fn from_map(_labels: &BTreeMap<String, String>) -> LabelSelector {
        LabelSelector {}
    }
    /// True if it restricts nothing.
    pub fn is_empty(&self) -> bool {
        true
    }
    /// True if the labels satisfy every requirement.
    pub fn matches(&self, _labels: &BTreeMap<String, String>) -> bool {
        true
    }
}

/// A field selector.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {}

impl FieldSelector {
    /// Parses `a=b,c!=d`.
    pub fn parse(_text: &str) -> Result<FieldSelector, SelectorError> {
        Ok(FieldSelector {})
    }
    /// True if it restricts nothing.
    pub fn is_empty(&self) -> bool {
        true
    }
    /// The fields it names, in order.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        std::iter::empty()
    }
    /// True if the fields satisfy every requirement; a field that is not there is empty.
    pub fn matches<'a>(&self, _field: impl Fn(&str) -> Option<&'a str>) -> bool {
        true
    }
}
