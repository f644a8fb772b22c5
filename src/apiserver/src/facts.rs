//! What lists and watches need to know of an object to decide whether it is selected.
//!
//! Parsed from an entry at most once ([`Entry::memo`]), however many watchers look at it.

use std::collections::BTreeMap;

use coracle_api::{Kind, selector::FieldSelector, selector::LabelSelector, status::Status};
use coracle_store::Entry;
use serde_json::Value;

use crate::{object, registry::Resource};

/// Labels and selectable fields of one version of an object.
pub(crate) struct Facts {
    labels: BTreeMap<String, String>,
    fields: Vec<(&'static str, String)>,
    name: String,
    namespace: String,
    /// It has a `deletionTimestamp`.
    pub(crate) terminating: bool,
}

impl Facts {
    /// The facts of a stored entry, in the form in which it is stored.
    pub(crate) fn of<'a>(entry: &'a Entry, stored_as: &Kind) -> &'a Facts {
        entry.memo(|entry| Facts::new(&object::parse_stored(entry.value()), stored_as))
    }

    /// The facts of an object in `kind`'s form.
    pub(crate) fn new(value: &Value, kind: &Kind) -> Facts {
        let labels = object::metadata(value).and_then(|m| m.get("labels")).and_then(Value::as_object);
        let labels = labels.map(|labels| {
            labels.iter().filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect()
        });
        Facts {
            labels: labels.unwrap_or_default(),
            fields: kind.hooks.selectable_fields(value),
            name: object::name(value).to_owned(),
            namespace: object::namespace(value).to_owned(),
            terminating: object::is_terminating(value),
        }
    }

    /// True if the object's labels are those of a selector.
    pub(crate) fn carry(&self, selector: &LabelSelector) -> bool {
        selector.matches(&self.labels)
    }

    fn field(&self, name: &str) -> Option<&str> {
        match name {
            "metadata.name" => Some(&self.name),
            "metadata.namespace" => Some(&self.namespace),
            _ => self.fields.iter().find(|(field, _)| *field == name).map(|(_, value)| value.as_str()),
        }
    }
}

/// What a list or a watch selects. An empty selection selects everything and parses nothing.
#[derive(Clone, Default)]
pub(crate) struct Selection {
    pub(crate) labels: LabelSelector,
    pub(crate) fields: FieldSelector,
    /// `metadata.name=x`, which lists and watches answer without looking at other objects.
    pub(crate) name: Option<String>,
}

impl Selection {
    /// Parses both selectors as they stand in a query.
    pub(crate) fn parse(labels: &str, text: &str, kind: &Kind) -> Result<Selection, Status> {
        let labels = LabelSelector::parse(labels).map_err(|e| Status::bad_request(e.to_string()))?;
        let fields = FieldSelector::parse(text).map_err(|e| Status::bad_request(e.to_string()))?;
        let known = kind.hooks.selectable_fields(&Value::Object(serde_json::Map::new()));
        for field in fields.fields() {
            let generic = field == "metadata.name" || field == "metadata.namespace";
            if !generic && !known.iter().any(|(name, _)| *name == field) {
                return Err(Status::bad_request(if known.is_empty() {
                    format!(
                        r#""{field}" is not a known field selector: only "metadata.name", "metadata.namespace""#
                    )
                } else {
                    format!("field label not supported: {field}")
                }));
            }
        }
        let name = exact_name(text);
        Ok(Selection { labels, fields, name })
    }

    /// True if nothing is left out.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// True if this version of an object is selected.
    pub(crate) fn selects(&self, entry: &Entry, resource: &Resource) -> bool {
        if self.is_everything() {
            return true;
        }
        if resource.is_view() && !self.fields.is_empty() {
            let mut value = object::parse_stored(entry.value());
            resource.kind.hooks.from_stored(&mut value);
            return self.matches(&Facts::new(&value, &resource.kind));
        }
        self.matches(Facts::of(entry, &resource.stored_as))
    }

    fn matches(&self, facts: &Facts) -> bool {
        self.labels.matches(&facts.labels) && self.fields.matches(|field| facts.field(field))
    }
}

/// The name that a field selector asks for, if it can only be one.
fn exact_name(fields: &str) -> Option<String> {
    let value = fields.split(',').find_map(|term| term.trim().strip_prefix("metadata.name="))?;
    let value = value.strip_prefix('=').unwrap_or(value);
    let plain =
        !value.is_empty() && value.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':'));
    plain.then(|| value.to_owned())
}
