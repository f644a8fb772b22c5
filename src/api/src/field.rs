//! Paths of fields and what can be wrong with a field, in the words of Kubernetes' validation.
//!
//! A [`Path`] is a borrowed chain, so walking an object that has nothing wrong with it allocates
//! nothing; it becomes text only inside a [`FieldCause`].

use std::fmt;

use serde_json::Value;

pub use crate::kind::FieldCause;
use crate::quote::Quoted;

/// Where a field stands, e.g. `spec.containers[0].name`.
///
/// A name may itself be dotted: `Path::new("metadata.name")` saves a link of the chain.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    element: Element<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Element<'a> {
    Name(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    /// A path that starts at the object.
    pub const fn new(name: &'a str) -> Path<'a> {
        Path { parent: None, element: Element::Name(name) }
    }

    /// The field `name` below this one.
    pub const fn child(&'a self, name: &'a str) -> Path<'a> {
        Path { parent: Some(self), element: Element::Name(name) }
    }

    /// Item `index` of the list that this path names.
    pub const fn index(&'a self, index: usize) -> Path<'a> {
        Path { parent: Some(self), element: Element::Index(index) }
    }

    /// The entry `key` of the map that this path names.
    pub const fn key(&'a self, key: &'a str) -> Path<'a> {
        Path { parent: Some(self), element: Element::Key(key) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut chain = vec![self];
        while let Some(parent) = chain[chain.len() - 1].parent {
            chain.push(parent);
        }
        for (depth, link) in chain.iter().rev().enumerate() {
            match link.element {
                Element::Name(name) if depth > 0 => write!(out, ".{name}")?,
                Element::Name(name) => out.write_str(name)?,
                Element::Index(index) => write!(out, "[{index}]")?,
                Element::Key(key) => write!(out, "[{key}]")?,
            }
        }
        Ok(())
    }
}

/// The value that a cause complains about. Made by `into()` from strings, numbers, booleans and JSON.
#[derive(Clone, Copy, Debug)]
pub enum Bad<'a> {
    /// Text, shown quoted.
    Text(&'a str),
    /// A whole number.
    Number(i64),
    /// A boolean.
    Bool(bool),
    /// Any JSON: strings quoted, scalars plain, the rest as compact JSON.
    Json(&'a Value),
    /// Shown as it is: for what Kubernetes prints in Go's syntax.
    Plain(&'a str),
}

impl fmt::Display for Bad<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bad::Text(text) => Quoted(text).fmt(out),
            Bad::Plain(text) => out.write_str(text),
            Bad::Number(number) => number.fmt(out),
            Bad::Bool(value) => value.fmt(out),
            Bad::Json(Value::String(text)) => Quoted(text).fmt(out),
            Bad::Json(value) => value.fmt(out),
        }
    }
}

macro_rules! bad_from {
    ($($from:ty => |$value:ident| $bad:expr),* $(,)?) => {
        $(impl<'a> From<$from> for Bad<'a> {
            fn from($value: $from) -> Bad<'a> {
                $bad
            }
        })*
    };
}

bad_from! {
    &'a str => |value| Bad::Text(value),
    &'a String => |value| Bad::Text(value),
    &'a Value => |value| Bad::Json(value),
    i64 => |value| Bad::Number(value),
    i32 => |value| Bad::Number(value.into()),
    u32 => |value| Bad::Number(value.into()),
    u16 => |value| Bad::Number(value.into()),
    usize => |value| Bad::Number(i64::try_from(value).unwrap_or(i64::MAX)),
    bool => |value| Bad::Bool(value),
}

fn cause(reason: &'static str, path: &Path<'_>, mut body: String, detail: &str) -> FieldCause {
    if !detail.is_empty() {
        body.push_str(": ");
        body.push_str(detail);
    }
    FieldCause { reason, field: path.to_string(), message: body }
}

/// The field must be given. `detail` may be empty.
pub fn required(path: &Path<'_>, detail: &str) -> FieldCause {
    cause("FieldValueRequired", path, "Required value".into(), detail)
}

/// The value breaks a rule, which `detail` states.
pub fn invalid<'a>(path: &Path<'_>, value: impl Into<Bad<'a>>, detail: &str) -> FieldCause {
    cause("FieldValueInvalid", path, format!("Invalid value: {}", value.into()), detail)
}

/// Several values together break a rule, which `detail` states: Kubernetes shows none of them.
pub fn invalid_as_a_whole(path: &Path<'_>, detail: &str) -> FieldCause {
    cause("FieldValueInvalid", path, "Invalid value".into(), detail)
}

/// The value has the wrong type for the field (custom resources).
pub fn type_invalid<'a>(path: &Path<'_>, value: impl Into<Bad<'a>>, detail: &str) -> FieldCause {
    cause("FieldValueTypeInvalid", path, format!("Invalid value: {}", value.into()), detail)
}

/// The value is none of `allowed`, which are listed in the order given (Kubernetes sorts them in most places).
pub fn not_supported<'a>(path: &Path<'_>, value: impl Into<Bad<'a>>, allowed: &[&str]) -> FieldCause {
    let mut detail = String::new();
    for value in allowed {
        detail.push_str(if detail.is_empty() { "supported values: " } else { ", " });
        detail.push_str(&Quoted(value).to_string());
    }
    cause("FieldValueNotSupported", path, format!("Unsupported value: {}", value.into()), &detail)
}

/// The value must be unique and is not.
pub fn duplicate<'a>(path: &Path<'_>, value: impl Into<Bad<'a>>) -> FieldCause {
    cause("FieldValueDuplicate", path, format!("Duplicate value: {}", value.into()), "")
}

/// The value names something that does not exist.
pub fn not_found<'a>(path: &Path<'_>, value: impl Into<Bad<'a>>) -> FieldCause {
    cause("FieldValueNotFound", path, format!("Not found: {}", value.into()), "")
}

/// The field may not be set here.
pub fn forbidden(path: &Path<'_>, detail: &str) -> FieldCause {
    cause("FieldValueForbidden", path, "Forbidden".into(), detail)
}

/// The value has more than `max` bytes.
pub fn too_long(path: &Path<'_>, max: usize) -> FieldCause {
    cause("FieldValueTooLong", path, "Too long".into(), &format!("may not be more than {max} bytes"))
}

/// The list has `actual` items where at most `max` are allowed.
pub fn too_many(path: &Path<'_>, actual: usize, max: usize) -> FieldCause {
    cause("FieldValueTooMany", path, format!("Too many: {actual}"), &format!("must have at most {max} items"))
}

/// The field may not change after creation.
pub fn immutable<'a>(path: &Path<'_>, value: impl Into<Bad<'a>>) -> FieldCause {
    invalid(path, value, "field is immutable")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(cause: &FieldCause, reason: &str, field: &str, message: &str) {
        assert_eq!((cause.reason, cause.field.as_str(), cause.message.as_str()), (reason, field, message));
    }

    #[test]
    fn paths_read_as_in_kubernetes() {
        let spec = Path::new("spec");
        let containers = spec.child("containers");
        let first = containers.index(0);
        assert_eq!(first.child("name").to_string(), "spec.containers[0].name");
        assert_eq!(Path::new("metadata.labels").key("a/b").to_string(), "metadata.labels[a/b]");
    }

    #[test]
    fn causes_read_as_in_kubernetes() {
        let path = Path::new("spec.x");
        check(&required(&path, ""), "FieldValueRequired", "spec.x", "Required value");
        check(&required(&path, "why"), "FieldValueRequired", "spec.x", "Required value: why");
        check(&invalid(&path, "a\"b", "no"), "FieldValueInvalid", "spec.x", r#"Invalid value: "a\"b": no"#);
        check(&invalid_as_a_whole(&path, "no"), "FieldValueInvalid", "spec.x", "Invalid value: no");
        check(&invalid(&path, -1, "no"), "FieldValueInvalid", "spec.x", "Invalid value: -1: no");
        check(&invalid(&path, true, "no"), "FieldValueInvalid", "spec.x", "Invalid value: true: no");
        check(&invalid(&path, &json!(null), "no"), "FieldValueInvalid", "spec.x", "Invalid value: null: no");
        check(&invalid(&path, &json!("s"), "no"), "FieldValueInvalid", "spec.x", "Invalid value: \"s\": no");
        check(
            &not_supported(&path, "Maybe", &["Always", "Never"]),
            "FieldValueNotSupported",
            "spec.x",
            r#"Unsupported value: "Maybe": supported values: "Always", "Never""#,
        );
        check(&duplicate(&path, "a"), "FieldValueDuplicate", "spec.x", r#"Duplicate value: "a""#);
        check(&not_found(&path, "a"), "FieldValueNotFound", "spec.x", r#"Not found: "a""#);
        check(&forbidden(&path, "not now"), "FieldValueForbidden", "spec.x", "Forbidden: not now");
        check(&too_long(&path, 63), "FieldValueTooLong", "spec.x", "Too long: may not be more than 63 bytes");
        check(
            &too_many(&path, 4, 3),
            "FieldValueTooMany",
            "spec.x",
            "Too many: 4: must have at most 3 items",
        );
        check(&immutable(&path, 1), "FieldValueInvalid", "spec.x", "Invalid value: 1: field is immutable");
    }
}
