//! The table of messages and fields that everything generic derives from: strict field validation,
//! protobuf bodies, merge keys of patches, OpenAPI.
//!
//! The facts stand in `src/api/schema/*.schema`, one file per API package, generated from the Kubernetes
//! 1.33 API definitions; `table.rs` says how to read a line. They are parsed once, on first use, and
//! the parsed form borrows every name from the text, so the whole table costs a few hundred kilobytes.
//!
//! [`parse_json`] reads a body and reports duplicate fields, [`conform`] makes an object fit its kind:
//! types are checked, unknown fields reported and dropped, and what Go's `omitempty` would not write is
//! dropped too, so that "absent" and "zero" are one thing for everything that runs after it.

mod conform;
mod json;
mod scalar;
mod table;

use std::fmt;

use serde_json::Value;

pub use conform::{TypeError, conform, conform_message};
pub use json::{ParseError, parse_json};

/// Deepest nesting of an object: bodies that are deeper are refused, so that everything that walks an
/// object may recurse.
///
/// serde_json, which also reads our answers in most Rust clients, stops at 127. An answer puts an object
/// into a list, a table or a watch event, and managed fields repeat its nesting four levels down, hence the
/// distance. The deepest custom resource definitions in use have about half of this.
pub const MAX_DEPTH: usize = 100;

/// True if the value is nested deeper than [`MAX_DEPTH`]. For bodies that do not come through
/// [`parse_json`], such as YAML.
pub fn is_too_deep(value: &Value) -> bool {
    height(value) > MAX_DEPTH
}

/// The message of that name, e.g. `core.v1.Pod`.
pub fn message(name: &str) -> Option<&'static Message> {
    table::table().by_name(name)
}

/// The message of an object by its `apiVersion` and `kind`, e.g. `apps/v1` and `Deployment`.
///
/// Options (`DeleteOptions` and its like) belong to every group and version.
pub fn message_for(api_version: &str, kind: &str) -> Option<&'static Message> {
    table::table().by_kind(api_version, kind)
}

/// A message: the shape of a JSON object.
#[derive(Debug)]
pub struct Message {
    /// Package and name, e.g. `core.v1.Pod`.
    pub name: &'static str,
    /// The `apiVersion` of the package, e.g. `apps/v1`.
    pub api_version: &'static str,
    /// The fields that appear in JSON, sorted by name; fields of inlined messages are among them.
    pub fields: Vec<Field>,
    /// An object has `apiVersion` and `kind`.
    pub object: bool,
    /// Server-side apply owns the message as a whole.
    pub atomic: bool,
    wire: Vec<Wire>,
}

impl Message {
    /// The field of that JSON name.
    pub fn field(&self, json: &str) -> Option<&Field> {
        let index = self.fields.binary_search_by(|field| field.json.cmp(json)).ok()?;
        self.fields.get(index)
    }

    /// The name without the package, e.g. `Pod`.
    pub fn short_name(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }

    /// What the protobuf field of that number is.
    pub(crate) fn on_wire(&self, number: u32) -> Option<OnWire<'_>> {
        let index = self.wire.binary_search_by_key(&number, |wire| wire.number).ok()?;
        Some(match self.wire[index].target {
            Target::Field(field) => OnWire::Field(&self.fields[usize::from(field)]),
            Target::Inline(message) => OnWire::Inline(message.get()),
        })
    }

    /// All protobuf fields: for the encoder of the tests.
    #[cfg(test)]
    pub(crate) fn wire_numbers(&self) -> impl Iterator<Item = u32> {
        self.wire.iter().map(|wire| wire.number)
    }
}

/// A protobuf field: one of the JSON fields, or a message whose JSON fields stand in the parent.
pub(crate) enum OnWire<'a> {
    Field(&'a Field),
    Inline(&'static Message),
}

#[derive(Debug)]
struct Wire {
    number: u32,
    target: Target,
}

#[derive(Debug)]
enum Target {
    Field(u16),
    Inline(MessageRef),
}

/// One field of a message.
#[derive(Debug, Clone)]
pub struct Field {
    /// Name in JSON.
    pub json: &'static str,
    /// Number in protobuf; 0 if it stands in an inlined message, or nowhere (`apiVersion`, `kind`).
    pub number: u32,
    /// What it holds.
    pub type_: Type,
    /// The user must give it.
    pub required: bool,
    /// A zero value (`""`, `0`, `false`, `[]`, `{}`) differs from none, or is written all the same.
    pub keep_zero: bool,
    /// How a strategic merge patch treats the list or map.
    pub strategy: Strategy,
    /// The key by which a strategic merge patch matches items of a list of messages.
    pub merge_key: Option<&'static str>,
    /// Who owns what in the list or map, for server-side apply.
    pub topology: Topology,
    /// The default that server-side apply assumes for an associative key, e.g. `TCP`.
    pub default: Option<&'static str>,
    go_type: Option<&'static str>,
}

impl Field {
    /// True if Go's `omitempty` would not write the value, so that it counts as absent.
    pub fn omits(&self, value: &Value) -> bool {
        if self.keep_zero {
            return value.is_null();
        }
        match (&self.type_, value) {
            (_, Value::Null) => true,
            (Type::Message(_) | Type::Json | Type::Quantity, _) => false,
            (_, Value::Bool(value)) => !value && matches!(self.type_, Type::Bool),
            (_, Value::Number(number)) => number.as_f64() == Some(0.0),
            (_, Value::String(text)) => text.is_empty(),
            (_, Value::Array(items)) => items.is_empty() && !matches!(self.type_, Type::SchemaOrArray),
            (_, Value::Object(map)) => map.is_empty() && matches!(self.type_, Type::Map(_)),
        }
    }
}

/// How a strategic merge patch treats a field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Strategy {
    /// Lists are merged (by [`Field::merge_key`], or as a set of scalars) instead of replaced.
    pub merge: bool,
    /// Maps are replaced instead of merged.
    pub replace: bool,
    /// The map (or every item of the list) may be cleared of fields by `$retainKeys`.
    pub retain_keys: bool,
}

/// Who owns what in a list or a map, for server-side apply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Topology {
    /// What the type says: lists are atomic, maps and messages are not.
    #[default]
    Natural,
    /// Owned as a whole.
    Atomic,
    /// A list of scalars owned value by value.
    Set,
    /// A list of messages owned by the values of these fields.
    Map(Vec<&'static str>),
}

/// What a field holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Type {
    /// Text.
    String,
    /// `true` or `false`.
    Bool,
    /// A whole number of 32 bits.
    Int32,
    /// A whole number of 64 bits.
    Int64,
    /// A number.
    Double,
    /// Bytes, in base64.
    Bytes,
    /// An amount, e.g. `100m`: text or a number.
    Quantity,
    /// A whole number of 32 bits, or text.
    IntOrString,
    /// RFC 3339 time, whole seconds.
    Time,
    /// RFC 3339 time with six digits of fraction.
    MicroTime,
    /// A duration as Go writes it, e.g. `1m30s`.
    Duration,
    /// Any JSON.
    Json,
    /// A list of strings that is a message of its own in protobuf.
    StringList,
    /// A `JSONSchemaProps`, or a list of them.
    SchemaOrArray,
    /// A `JSONSchemaProps`, or a boolean.
    SchemaOrBool,
    /// A `JSONSchemaProps`, or a list of strings.
    SchemaOrStrings,
    /// An object of that message.
    Message(MessageRef),
    /// A list.
    List(Box<Type>),
    /// A map from strings.
    Map(Box<Type>),
}

/// Which message a field holds. Messages may contain themselves, hence the indirection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct MessageRef(u16);

impl MessageRef {
    /// The message.
    pub fn get(self) -> &'static Message {
        table::table().by_ref(self)
    }
}

impl fmt::Debug for MessageRef {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "message {}", self.0)
    }
}

/// How many lists and objects stand in one another: 0 for a scalar.
pub(crate) fn height(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(height).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(height).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// Something that strict validation refuses and lenient validation warns about, in Kubernetes' words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StrictProblem {
    /// A field that the schema does not know; it was dropped.
    UnknownField(String),
    /// A field that stands twice; the last one counts.
    DuplicateField(String),
}

impl fmt::Display for StrictProblem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StrictProblem::UnknownField(path) => write!(out, "unknown field \"{path}\""),
            StrictProblem::DuplicateField(path) => write!(out, "duplicate field \"{path}\""),
        }
    }
}

/// `strict decoding error: …`: what a strict request is refused with.
pub fn strict_error(problems: &[StrictProblem]) -> String {
    let list = problems.iter().map(StrictProblem::to_string).collect::<Vec<_>>().join(", ");
    format!("strict decoding error: {list}")
}

/// Most problems that are reported for one body, as in Kubernetes: the report must not outgrow the body.
const MAX_PROBLEMS: usize = 100;

/// Where a walk through a document is: a borrowed chain, made into text only when something is wrong.
#[derive(Clone, Copy)]
struct Place<'a> {
    parent: Option<&'a Place<'a>>,
    step: Step<'a>,
    depth: usize,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Field(&'a str),
    Key(&'a str),
    Item(usize),
}

impl<'a> Place<'a> {
    const ROOT: Place<'static> = Place { parent: None, step: Step::Root, depth: 0 };

    fn below(&'a self, step: Step<'a>) -> Place<'a> {
        Place { parent: Some(self), step, depth: self.depth + 1 }
    }

    fn steps(&self) -> Vec<Step<'a>> {
        let mut steps = Vec::with_capacity(self.depth);
        let mut place = *self;
        while let Some(parent) = place.parent {
            steps.push(place.step);
            place = *parent;
        }
        steps.reverse();
        steps
    }

    /// With keys and indices: `spec.containers[0].name`.
    fn full(&self) -> String {
        let mut text = String::new();
        for step in self.steps() {
            match step {
                Step::Root => {}
                Step::Field(name) | Step::Key(name) => {
                    if !text.is_empty() {
                        text.push('.');
                    }
                    text.push_str(name);
                }
                Step::Item(index) => text.push_str(&format!("[{index}]")),
            }
        }
        text
    }

    /// Only the fields, as Go's decoder names a place: `spec.containers.name`.
    fn fields(&self) -> String {
        let names = self.steps().into_iter().filter_map(|step| match step {
            Step::Field(name) => Some(name),
            Step::Root | Step::Key(_) | Step::Item(_) => None,
        });
        names.collect::<Vec<_>>().join(".")
    }
}

#[cfg(test)]
mod tests;
