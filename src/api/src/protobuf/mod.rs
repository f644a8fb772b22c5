//! Protobuf request bodies into JSON, driven by the schema table.
//!
//! `kubectl` from 1.32 on, and every typed client like it, sends its bodies as protobuf and does not fall
//! back to JSON. A body is the four bytes `k8s\0` and a `runtime.Unknown` message, whose `typeMeta` names
//! the message in its `raw`. Go's marshaller writes every field that is no pointer, so what its JSON
//! encoder would omit is dropped here, and the outcome is what the same client would send as JSON.
//!
//! Answers are always JSON: all these clients accept it.

mod reader;

use std::borrow::Cow;

use serde_json::{Map, Number, Value};

use self::reader::{Payload, Reader};
use crate::schema::{Field, MAX_DEPTH, Message, OnWire, Type, height, message, message_for};

/// The `Content-Type` of these bodies.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// What every body starts with.
const MAGIC: &[u8] = b"k8s\0";

/// A body that cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// There is nothing in it.
    #[error("empty data")]
    Empty,
    /// It does not start as Kubernetes' protobuf bodies do.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    Prefix,
    /// It does not say what it is.
    #[error("Object '{}' is missing in '{}'", .missing, .typemeta)]
    TypeMissing {
        /// `Kind` or `apiVersion`.
        missing: &'static str,
        /// What was there instead.
        typemeta: String,
    },
    /// It is of a kind that the table does not know.
    #[error("no kind \"{kind}\" is registered for version \"{api_version}\"")]
    UnknownKind {
        /// What the body calls its version.
        api_version: String,
        /// What the body calls its kind.
        kind: String,
    },
    /// Its bytes end within a value.
    #[error("unexpected EOF")]
    Truncated,
    /// It is no protobuf, or not of the message it claims to be.
    #[error("proto: {0}")]
    Malformed(Cow<'static, str>),
    /// A field that holds JSON holds something else.
    #[error("proto: field \"{field}\" does not hold JSON")]
    Json {
        /// The field.
        field: &'static str,
        #[source]
        /// What is wrong with it.
        source: crate::schema::ParseError,
    },
    /// It is nested deeper than any document may be.
    #[error("exceeded max depth")]
    TooDeep,
}

/// Decodes a body: the envelope and the object in it, which comes out with `apiVersion` and `kind`.
///
/// # Errors
/// The body is no protobuf of a kind that the schema table has.
pub fn decode(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let envelope = Envelope::read(bytes)?;
    let missing = |missing| ProtobufError::TypeMissing {
        missing,
        typemeta: format!("{{APIVersion:{} Kind:{}}}", envelope.api_version, envelope.kind),
    };
    if envelope.kind.is_empty() {
        return Err(missing("Kind"));
    }
    if envelope.api_version.is_empty() {
        return Err(missing("apiVersion"));
    }
    let Some(message) = message_for(envelope.api_version, envelope.kind) else {
        return Err(ProtobufError::UnknownKind {
            api_version: envelope.api_version.to_owned(),
            kind: envelope.kind.to_owned(),
        });
    };
    let mut map = decode_map(message, envelope.raw, 1)?;
    map.insert("apiVersion".to_owned(), envelope.api_version.into());
    map.insert("kind".to_owned(), envelope.kind.into());
    Ok(Value::Object(map))
}

/// Decodes a message without an envelope.
///
/// # Errors
/// The bytes are no such message.
pub fn decode_message(message: &Message, bytes: &[u8]) -> Result<Value, ProtobufError> {
    decode_map(message, bytes, 1).map(Value::Object)
}

/// `runtime.Unknown`.
#[derive(Default)]
struct Envelope<'a> {
    api_version: &'a str,
    kind: &'a str,
    raw: &'a [u8],
}

impl<'a> Envelope<'a> {
    fn read(bytes: &'a [u8]) -> Result<Envelope<'a>, ProtobufError> {
        if bytes.is_empty() {
            return Err(ProtobufError::Empty);
        }
        let mut reader = Reader::new(bytes.strip_prefix(MAGIC).ok_or(ProtobufError::Prefix)?);
        let mut envelope = Envelope::default();
        while let Some((number, payload)) = reader.field()? {
            match number {
                1 => {
                    let mut typemeta = Reader::new(payload.bytes()?);
                    while let Some((number, payload)) = typemeta.field()? {
                        match number {
                            1 => envelope.api_version = payload.text()?,
                            2 => envelope.kind = payload.text()?,
                            _ => {}
                        }
                    }
                }
                2 => envelope.raw = payload.bytes()?,
                _ => {}
            }
        }
        Ok(envelope)
    }
}

/// `depth` counts the JSON values around and including the object: it bounds the recursion, and what is
/// decoded can be written as JSON and read back.
fn decode_map(message: &Message, bytes: &[u8], depth: usize) -> Result<Map<String, Value>, ProtobufError> {
    let mut map = Map::new();
    decode_into(message, bytes, depth, &mut map)?;
    Ok(map)
}

fn decode_into(
    message: &Message,
    bytes: &[u8],
    depth: usize,
    map: &mut Map<String, Value>,
) -> Result<(), ProtobufError> {
    if depth > MAX_DEPTH {
        return Err(ProtobufError::TooDeep);
    }
    let mut reader = Reader::new(bytes);
    while let Some((number, payload)) = reader.field()? {
        match message.on_wire(number) {
            Some(OnWire::Field(field)) => decode_field(field, payload, depth, map)?,
            // An inlined message adds no level of JSON, but its nesting is the schema's and finite.
            Some(OnWire::Inline(inlined)) => decode_into(inlined, payload.bytes()?, depth, map)?,
            // A field of a newer client: dropped, as Kubernetes does.
            None => {}
        }
    }
    Ok(())
}

fn decode_field(
    field: &Field,
    payload: Payload<'_>,
    depth: usize,
    map: &mut Map<String, Value>,
) -> Result<(), ProtobufError> {
    match &field.type_ {
        Type::List(item) => {
            if let (Type::Int32 | Type::Int64, Payload::Bytes(packed)) = (&**item, payload) {
                let mut reader = Reader::new(packed);
                while let Some(number) = reader.packed()? {
                    entry(map, field, Vec::new()).push(scalar_int(item, number));
                }
                return Ok(());
            }
            let value = decode_value(field, item, payload, depth + 2)?;
            if let Some(value) = value {
                entry(map, field, Vec::new()).push(value);
            }
        }
        Type::Map(item) => {
            let (mut key, mut value) = ("", None);
            let mut reader = Reader::new(payload.bytes()?);
            while let Some((number, payload)) = reader.field()? {
                match number {
                    1 => key = payload.text()?,
                    2 => value = decode_value(field, item, payload, depth + 2)?,
                    _ => {}
                }
            }
            let value = value.unwrap_or_else(|| match &**item {
                Type::Message(_) => Value::Object(Map::new()),
                Type::List(_) | Type::StringList => Value::Array(Vec::new()),
                Type::Quantity => "0".into(),
                _ => "".into(),
            });
            match map.entry(field.json).or_insert_with(|| Value::Object(Map::new())) {
                Value::Object(entries) => entries.insert(key.to_owned(), value),
                _ => unreachable!("a map field holds a map"),
            };
        }
        type_ => match decode_value(field, type_, payload, depth + 1)? {
            Some(value) if !field.omits(&value) => {
                map.insert(field.json.to_owned(), value);
            }
            // The last value of a field counts, even if it is none.
            Some(_) | None => {
                map.remove(field.json);
            }
        },
    }
    Ok(())
}

fn entry<'a>(map: &'a mut Map<String, Value>, field: &Field, empty: Vec<Value>) -> &'a mut Vec<Value> {
    match map.entry(field.json).or_insert(Value::Array(empty)) {
        Value::Array(items) => items,
        _ => unreachable!("a list field holds a list"),
    }
}

/// A value at that depth; `None` if it is the zero of a type that JSON writes as null.
fn decode_value(
    field: &Field,
    type_: &Type,
    payload: Payload<'_>,
    depth: usize,
) -> Result<Option<Value>, ProtobufError> {
    let value = match type_ {
        Type::String => Value::from(payload.text()?),
        Type::Bool => Value::Bool(payload.int()? != 0),
        Type::Int32 | Type::Int64 => scalar_int(type_, payload.int()?),
        Type::Double => Number::from_f64(payload.double()?).map_or(Value::Null, Value::Number),
        Type::Bytes => {
            use base64::Engine;
            Value::from(base64::engine::general_purpose::STANDARD.encode(payload.bytes()?))
        }
        Type::Quantity => {
            let text = only_field(payload)?.map_or(Ok(""), Payload::text)?;
            Value::from(if text.is_empty() { "0" } else { text })
        }
        Type::IntOrString => int_or_string(payload)?,
        Type::Time => return time(payload, "%Y-%m-%dT%H:%M:%SZ"),
        Type::MicroTime => return time(payload, "%Y-%m-%dT%H:%M:%S%.6fZ"),
        Type::Duration => Value::from(go_duration(only_field(payload)?.map_or(Ok(0), Payload::int)?)),
        Type::Json => {
            let raw = only_field(payload)?.map_or(Ok(&b""[..]), Payload::bytes)?;
            return json(field, raw, depth);
        }
        Type::StringList => {
            let mut items = Vec::new();
            let mut reader = Reader::new(payload.bytes()?);
            while let Some((number, payload)) = reader.field()? {
                if number == 1 {
                    items.push(Value::from(payload.text()?));
                }
            }
            Value::Array(items)
        }
        Type::SchemaOrArray | Type::SchemaOrBool | Type::SchemaOrStrings => {
            return schema_union(type_, payload, depth);
        }
        Type::Message(message) => Value::Object(decode_map(message.get(), payload.bytes()?, depth)?),
        // No list of lists and no map of lists is a field in protobuf.
        Type::List(_) | Type::Map(_) => return Err(malformed("nested list")),
    };
    Ok(Some(value))
}

fn scalar_int(type_: &Type, number: i64) -> Value {
    // Go truncates what does not fit.
    Value::from(if matches!(type_, Type::Int32) { i64::from(number as i32) } else { number })
}

/// Field 1 of a message that has no other: Quantity, Duration, RawExtension, FieldsV1, JSON.
fn only_field(payload: Payload<'_>) -> Result<Option<Payload<'_>>, ProtobufError> {
    let mut reader = Reader::new(payload.bytes()?);
    let mut found = None;
    while let Some((number, payload)) = reader.field()? {
        if number == 1 {
            found = Some(payload);
        }
    }
    Ok(found)
}

/// `IntOrString`: type (0 number, 1 text), number, text.
fn int_or_string(payload: Payload<'_>) -> Result<Value, ProtobufError> {
    let (mut is_text, mut number, mut text) = (false, 0, "");
    let mut reader = Reader::new(payload.bytes()?);
    while let Some((field, payload)) = reader.field()? {
        match field {
            1 => is_text = payload.int()? == 1,
            2 => number = payload.int()?,
            3 => text = payload.text()?,
            _ => {}
        }
    }
    Ok(if is_text { Value::from(text) } else { scalar_int(&Type::Int32, number) })
}

/// `Timestamp`: seconds, nanoseconds. An empty message is no time.
fn time(payload: Payload<'_>, format: &str) -> Result<Option<Value>, ProtobufError> {
    let bytes = payload.bytes()?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let (mut seconds, mut nanos) = (0, 0);
    let mut reader = Reader::new(bytes);
    while let Some((field, payload)) = reader.field()? {
        match field {
            1 => seconds = payload.int()?,
            2 => nanos = payload.int()?,
            _ => {}
        }
    }
    let nanos = i32::try_from(nanos).map_err(|_| malformed("time out of range"))?;
    let time = jiff::Timestamp::new(seconds, nanos).map_err(|_| malformed("time out of range"))?;
    Ok(Some(Value::from(time.strftime(format).to_string())))
}

/// A duration in nanoseconds as Go writes it: `1h2m3.5s`, `1.5ms`, `0s`.
fn go_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let total = nanos.unsigned_abs();
    let decimal = |unit: u64| {
        let text = format!("{}.{:09}", total / unit, total % unit * (1_000_000_000 / unit));
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match total {
        0 => "0s".to_owned(),
        1..1_000 => format!("{sign}{total}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", decimal(1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", decimal(1_000_000)),
        _ => {
            let (minutes, rest) = (total / 60_000_000_000, total % 60_000_000_000);
            let seconds = format!("{}.{:09}", rest / 1_000_000_000, rest % 1_000_000_000);
            let seconds = seconds.trim_end_matches('0').trim_end_matches('.');
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
                (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

/// JSON inside of protobuf, at that depth.
fn json(field: &Field, raw: &[u8], depth: usize) -> Result<Option<Value>, ProtobufError> {
    if raw.is_empty() {
        return Ok(None);
    }
    let (value, _) =
        crate::schema::parse_json(raw).map_err(|source| ProtobufError::Json { field: field.json, source })?;
    if depth + height(&value) > MAX_DEPTH {
        return Err(ProtobufError::TooDeep);
    }
    Ok((!value.is_null()).then_some(value))
}

/// The unions of JSON Schema: a schema, or what stands for one.
fn schema_union(type_: &Type, payload: Payload<'_>, depth: usize) -> Result<Option<Value>, ProtobufError> {
    let props = message("apiextensions.v1.JSONSchemaProps").expect("the table has JSONSchemaProps");
    let (mut schema, mut allows, mut items) = (None, false, Vec::new());
    let mut reader = Reader::new(payload.bytes()?);
    while let Some((number, payload)) = reader.field()? {
        match (type_, number) {
            (Type::SchemaOrBool, 1) => allows = payload.int()? != 0,
            (Type::SchemaOrBool, 2) | (Type::SchemaOrArray | Type::SchemaOrStrings, 1) => {
                schema = Some(Value::Object(decode_map(props, payload.bytes()?, depth)?));
            }
            (Type::SchemaOrArray, 2) => {
                items.push(Value::Object(decode_map(props, payload.bytes()?, depth + 1)?));
            }
            (Type::SchemaOrStrings, 2) => items.push(Value::from(payload.text()?)),
            _ => {}
        }
    }
    Ok(match type_ {
        Type::SchemaOrBool => Some(schema.unwrap_or(Value::Bool(allows))),
        _ if !items.is_empty() => Some(Value::Array(items)),
        _ => schema,
    })
}

fn malformed(why: &'static str) -> ProtobufError {
    ProtobufError::Malformed(Cow::Borrowed(why))
}

#[cfg(test)]
mod tests;
