//! JSON bodies: serde_json's parser with an eye on duplicate fields, and Go's words for what is no JSON.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value, error::Category};

use super::{MAX_DEPTH, MAX_PROBLEMS, Place, Step, StrictProblem};

/// A body that is not JSON, or is nested too deeply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(String);

/// Reads JSON. Fields that stand twice are reported, and the last one counts.
///
/// # Errors
/// The text is not one JSON value, or is nested deeper than [`super::MAX_DEPTH`].
pub fn parse_json(bytes: &[u8]) -> Result<(Value, Vec<StrictProblem>), ParseError> {
    let mut problems = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let node = Node { place: &Place::ROOT, problems: &mut problems };
    let value = node.deserialize(&mut deserializer).map_err(|error| words(bytes, &error))?;
    deserializer.end().map_err(|error| words(bytes, &error))?;
    Ok((value, problems))
}

/// What Go's decoder would say.
fn words(bytes: &[u8], error: &serde_json::Error) -> ParseError {
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or(&text);
    if error.classify() == Category::Eof {
        return ParseError("unexpected end of JSON input".to_owned());
    }
    let context = match text {
        "expected value" => "looking for beginning of value",
        "expected `:`" => "after object key",
        "expected `,` or `}`" => "after object key:value pair",
        "expected `,` or `]`" => "after array element",
        "key must be a string" | "trailing comma" => "looking for beginning of object key string",
        "trailing characters" => "after top-level value",
        "invalid escape" => "in string escape code",
        "invalid number" => "in numeric literal",
        "expected ident" => "in literal",
        _ if text.starts_with("control character") => "in string literal",
        _ => return ParseError(text.to_owned()),
    };
    match character(bytes, error.line(), error.column()) {
        Some(found) => ParseError(format!("invalid character {found} {context}")),
        None => ParseError(text.to_owned()),
    }
}

/// The character at a place that counts from one, as Go quotes it.
fn character(bytes: &[u8], line: usize, column: usize) -> Option<String> {
    let line = bytes.split(|&byte| byte == b'\n').nth(line.checked_sub(1)?)?;
    let byte = *line.get(column.saturating_sub(1)).or(line.last())?;
    Some(match byte {
        b'\'' => r"'\''".to_owned(),
        b'\\' => r"'\\'".to_owned(),
        b' '..=b'~' => format!("'{}'", char::from(byte)),
        _ => format!("'\\x{byte:02x}'"),
    })
}

impl Place<'_> {
    fn check_depth<E: serde::de::Error>(&self) -> Result<(), E> {
        if self.depth < MAX_DEPTH { Ok(()) } else { Err(E::custom("exceeded max depth")) }
    }
}

struct Node<'a> {
    place: &'a Place<'a>,
    problems: &'a mut Vec<StrictProblem>,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.place.check_depth()?;
        let mut list = Vec::new();
        loop {
            let place = self.place.below(Step::Item(list.len()));
            let Some(item) = items.next_element_seed(Node { place: &place, problems: self.problems })? else {
                return Ok(Value::Array(list));
            };
            list.push(item);
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        self.place.check_depth()?;
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let place = self.place.below(Step::Field(&key));
            if map.contains_key(&key) && self.problems.len() < MAX_PROBLEMS {
                self.problems.push(StrictProblem::DuplicateField(place.full()));
            }
            let value = entries.next_value_seed(Node { place: &place, problems: self.problems })?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}
