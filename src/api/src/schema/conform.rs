//! Makes an object fit its message, in place: what a decode into Go's structs and back would do.

use serde_json::{Map, Number, Value};

use super::{Field, MAX_DEPTH, MAX_PROBLEMS, Message, Place, Step, StrictProblem, Type, message, scalar};
use crate::{kind::Kind, quantity::Quantity};

/// A value that does not fit its field, in the words of Go's JSON decoder:
/// `json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TypeError(String);

/// Makes `object` fit its kind: checks types, drops unknown fields and reports them, drops what counts
/// as absent, and writes quantities and times in their canonical form.
///
/// Of a kind whose message the table does not have (a custom resource) only `metadata` is looked at.
///
/// # Errors
/// A value has the wrong type. The object is then half done and of no use.
pub fn conform(kind: &Kind, object: &mut Value) -> Result<Vec<StrictProblem>, TypeError> {
    let known = message(&kind.message);
    if let Some(message) = known {
        return conform_message(message, object);
    }
    let mut walk = Walk { problems: Vec::new() };
    let meta = message("meta.v1.ObjectMeta").expect("the table has ObjectMeta");
    let Value::Object(map) = object else {
        return Err(TypeError(format!(
            "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            json_type(object)
        )));
    };
    if let Some(metadata) = map.get_mut("metadata") {
        let place = Place::ROOT.below(Step::Field("metadata"));
        walk.object(&place, meta, metadata, &|| {
            format!("Go struct field {}.metadata of type v1.ObjectMeta", kind.kind)
        })?;
    }
    Ok(walk.problems)
}

/// [`conform`] for an object that is not of a registered kind: options, scales, evictions.
///
/// # Errors
/// A value has the wrong type.
pub fn conform_message(message: &Message, object: &mut Value) -> Result<Vec<StrictProblem>, TypeError> {
    let mut walk = Walk { problems: Vec::new() };
    walk.object(&Place::ROOT, message, object, &|| format!("Go value of type {}", go_message(message)))?;
    Ok(walk.problems)
}

struct Walk {
    problems: Vec<StrictProblem>,
}

/// The field that a value stands in, however deep in lists and maps of it: what errors name.
struct Context<'a> {
    message: &'a Message,
    field: &'a Field,
}

impl Walk {
    fn object(
        &mut self,
        place: &Place<'_>,
        message: &Message,
        value: &mut Value,
        target: &dyn Fn() -> String,
    ) -> Result<(), TypeError> {
        if place.depth > MAX_DEPTH {
            return Err(TypeError("exceeded max depth".to_owned()));
        }
        let Value::Object(map) = value else {
            return Err(TypeError(format!("json: cannot unmarshal {} into {}", json_type(value), target())));
        };
        let mut failed = None;
        map.retain(|name, value| {
            if failed.is_some() {
                return true;
            }
            let place = place.below(Step::Field(name));
            let Some(field) = message.field(name) else {
                if self.problems.len() < MAX_PROBLEMS {
                    self.problems.push(StrictProblem::UnknownField(place.full()));
                }
                return false;
            };
            if value.is_null() {
                return false;
            }
            match self.value(&place, &Context { message, field }, &field.type_, value) {
                Ok(()) => !field.omits(value),
                Err(error) => {
                    failed = Some(error);
                    true
                }
            }
        });
        failed.map_or(Ok(()), Err)
    }

    fn value(
        &mut self,
        place: &Place<'_>,
        context: &Context<'_>,
        type_: &Type,
        value: &mut Value,
    ) -> Result<(), TypeError> {
        let fits = match (type_, &mut *value) {
            (Type::Message(message), value) => {
                let message = message.get();
                return self.object(place, message, value, &|| context.target(place, type_));
            }
            (Type::List(item), Value::Array(items)) => return self.list(place, context, item, items),
            (Type::Map(item), Value::Object(map)) => return self.map(place, context, item, map),
            (Type::StringList, Value::Array(items)) => {
                return self.list(place, context, &Type::String, items);
            }
            (Type::SchemaOrArray | Type::SchemaOrBool | Type::SchemaOrStrings, value) => {
                return self.schema(place, context, type_, value);
            }
            (Type::Json, _)
            | (Type::String, Value::String(_))
            | (Type::Bool, Value::Bool(_))
            | (Type::Double, Value::Number(_)) => true,
            (Type::Int64, Value::Number(number)) => number.is_i64(),
            (Type::Int32, Value::Number(number)) => is_int32(number),
            (Type::IntOrString, Value::String(_)) => true,
            (Type::IntOrString, Value::Number(number)) if is_int32(number) => true,
            (Type::IntOrString, _) => {
                let found = json_type_or_number(value);
                return Err(TypeError(format!("json: cannot unmarshal {found} into Go value of type int32")));
            }
            (Type::Quantity, value) => return quantity(value),
            (Type::Bytes, Value::String(text)) => return rewrite(text, scalar::base64),
            (Type::Time, Value::String(text)) => return rewrite(text, scalar::time),
            (Type::MicroTime, Value::String(text)) => return rewrite(text, scalar::micro_time),
            (Type::Duration, Value::String(text)) => return scalar::duration(text).map_err(TypeError),
            (Type::Time | Type::MicroTime | Type::Duration, _) => {
                let found = json_type(value);
                return Err(TypeError(format!(
                    "json: cannot unmarshal {found} into Go value of type string"
                )));
            }
            _ => false,
        };
        if fits {
            return Ok(());
        }
        let found = match type_ {
            Type::Int32 | Type::Int64 => json_type_or_number(value),
            _ => json_type(value).to_owned(),
        };
        Err(TypeError(format!("json: cannot unmarshal {found} into {}", context.target(place, type_))))
    }

    fn list(
        &mut self,
        place: &Place<'_>,
        context: &Context<'_>,
        item: &Type,
        items: &mut [Value],
    ) -> Result<(), TypeError> {
        for (index, value) in items.iter_mut().enumerate() {
            if value.is_null() {
                *value = zero(item);
            } else {
                self.value(&place.below(Step::Item(index)), context, item, value)?;
            }
        }
        Ok(())
    }

    fn map(
        &mut self,
        place: &Place<'_>,
        context: &Context<'_>,
        item: &Type,
        map: &mut Map<String, Value>,
    ) -> Result<(), TypeError> {
        for (key, value) in map.iter_mut() {
            if value.is_null() {
                *value = zero(item);
            } else {
                self.value(&place.below(Step::Key(key)), context, item, value)?;
            }
        }
        Ok(())
    }

    /// The unions of JSON Schema. Where nothing fits, Go takes the empty schema, or complains.
    fn schema(
        &mut self,
        place: &Place<'_>,
        context: &Context<'_>,
        type_: &Type,
        value: &mut Value,
    ) -> Result<(), TypeError> {
        let props = message("apiextensions.v1.JSONSchemaProps").expect("the table has JSONSchemaProps");
        let target = || "Go value of type v1.JSONSchemaProps".to_owned();
        match (type_, value) {
            (_, value @ Value::Object(_)) => self.object(place, props, value, &target),
            (Type::SchemaOrArray, Value::Array(items)) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.object(&place.below(Step::Item(index)), props, item, &target)?;
                }
                Ok(())
            }
            (Type::SchemaOrStrings, Value::Array(items)) => self.list(place, context, &Type::String, items),
            (Type::SchemaOrBool, Value::Bool(_)) => Ok(()),
            (Type::SchemaOrBool, _) => Err(TypeError("boolean or JSON schema expected".to_owned())),
            (_, value) => {
                *value = Value::Null;
                Ok(())
            }
        }
    }
}

impl Context<'_> {
    /// `Go struct field EnvVar.spec.containers.env.value of type string`.
    fn target(&self, place: &Place<'_>, type_: &Type) -> String {
        let named = self.field.go_type.filter(|_| *type_ == self.field.type_);
        let type_ = match named {
            Some(name) => name.to_owned(),
            None => go_type(type_),
        };
        format!("Go struct field {}.{} of type {type_}", self.message.short_name(), place.fields())
    }
}

fn is_int32(number: &Number) -> bool {
    number.as_i64().is_some_and(|number| i32::try_from(number).is_ok())
}

fn quantity(value: &mut Value) -> Result<(), TypeError> {
    let parsed = match &*value {
        Value::String(text) => Quantity::parse(text.trim()),
        other => Quantity::parse(&other.to_string()),
    };
    let canonical = parsed.map_err(|error| TypeError(error.to_string()))?.to_string();
    if value.as_str() != Some(&canonical) {
        *value = Value::String(canonical);
    }
    Ok(())
}

fn rewrite(
    text: &mut String,
    canonical: fn(&str) -> Result<Option<String>, String>,
) -> Result<(), TypeError> {
    if let Some(changed) = canonical(text).map_err(TypeError)? {
        *text = changed;
    }
    Ok(())
}

/// What a `null` in a list or map becomes.
fn zero(type_: &Type) -> Value {
    match type_ {
        Type::String | Type::Bytes => Value::String(String::new()),
        Type::Bool | Type::SchemaOrBool => Value::Bool(false),
        Type::Int32 | Type::Int64 | Type::IntOrString => Value::from(0),
        Type::Double => Value::from(0.0),
        Type::Quantity => Value::from("0"),
        Type::Duration => Value::from("0s"),
        Type::Message(_) | Type::Map(_) => Value::Object(Map::new()),
        Type::List(_) | Type::StringList => Value::Array(Vec::new()),
        Type::Time | Type::MicroTime | Type::Json | Type::SchemaOrArray | Type::SchemaOrStrings => {
            Value::Null
        }
    }
}

fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Go shows the number where it is only the wrong kind of number.
fn json_type_or_number(value: &Value) -> String {
    match value {
        Value::Number(number) => format!("number {number}"),
        other => json_type(other).to_owned(),
    }
}

fn go_message(message: &Message) -> String {
    let mut parts = message.name.rsplit('.');
    let name = parts.next().unwrap_or_default();
    format!("{}.{name}", parts.next().unwrap_or_default())
}

fn go_type(type_: &Type) -> String {
    match type_ {
        Type::String => "string".to_owned(),
        Type::Bool => "bool".to_owned(),
        Type::Int32 => "int32".to_owned(),
        Type::Int64 => "int64".to_owned(),
        Type::Double => "float64".to_owned(),
        Type::Bytes => "[]uint8".to_owned(),
        Type::Quantity => "resource.Quantity".to_owned(),
        Type::IntOrString => "intstr.IntOrString".to_owned(),
        Type::Time => "v1.Time".to_owned(),
        Type::MicroTime => "v1.MicroTime".to_owned(),
        Type::Duration => "v1.Duration".to_owned(),
        Type::Json => "runtime.RawExtension".to_owned(),
        Type::StringList => "v1.ExtraValue".to_owned(),
        Type::SchemaOrArray | Type::SchemaOrBool | Type::SchemaOrStrings => "v1.JSONSchemaProps".to_owned(),
        Type::Message(message) => go_message(message.get()),
        Type::List(item) => format!("[]{}", go_type(item)),
        Type::Map(item) => format!("map[string]{}", go_type(item)),
    }
}
