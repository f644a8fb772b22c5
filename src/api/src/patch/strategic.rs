//! Strategic merge patch: a merge patch that knows from the schema which lists are merged by key.
//!
//! Directives in a patch: `$patch: replace|delete|merge` in an object (of a list: about the list or the
//! item), `$retainKeys: [..]` in an object clears every other field, `$deleteFromPrimitiveList/<field>`
//! takes scalars out of a list, `$setElementOrder/<field>` gives the order of a merged list.
//!
//! The order of a merged list: items that the patch names, as `$setElementOrder` or else the patch orders
//! them; items that it does not name keep their order, and their place relative to the others as far as the
//! two orders allow.

use std::{
    collections::{HashMap, HashSet},
    fmt::Write,
};

use serde_json::{Map, Value};

use super::PatchError;
use crate::schema::{Field, Message, Strategy, Type};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList";
const SET_ORDER: &str = "$setElementOrder";

type Object = Map<String, Value>;

/// Applies a strategic merge patch to an object of the message.
///
/// # Errors
/// The patch is not an object, a directive makes no sense, an item of a merged list lacks its key, or lists
/// or objects of fields that the message does not have are to be merged.
pub fn strategic_merge(message: &Message, object: &Value, patch: &Value) -> Result<Value, PatchError> {
    let (Value::Object(original), Value::Object(patch)) = (object, patch) else {
        return Err(malformed("invalid JSON document"));
    };
    let mut result = original.clone();
    merge_object(&mut result, patch.clone(), Shape::Message(message))?;
    Ok(Value::Object(result))
}

fn malformed(text: impl Into<String>) -> PatchError {
    PatchError::Malformed(text.into())
}

/// What is known of a value that is being merged.
#[derive(Clone, Copy)]
enum Shape<'a> {
    Message(&'a Message),
    /// A map, or JSON without a schema: objects are merged, lists replaced.
    Free,
}

impl<'a> Shape<'a> {
    fn of(type_: &Type) -> Shape<'static> {
        match type_ {
            Type::Message(message) => Shape::Message(message.get()),
            _ => Shape::Free,
        }
    }

    fn field(self, name: &str) -> Result<Option<&'a Field>, PatchError> {
        let Shape::Message(message) = self else { return Ok(None) };
        match message.field(name) {
            Some(field) => Ok(Some(field)),
            None => Err(malformed(format!(
                "unable to find api field in struct {} for the json field {name:?}",
                message.short_name()
            ))),
        }
    }
}

/// How one list is merged.
#[derive(Clone, Copy)]
struct ListRule<'a> {
    items: Shape<'a>,
    strategy: Strategy,
    key: Option<&'static str>,
}

impl<'a> ListRule<'a> {
    fn of(field: Option<&'a Field>) -> ListRule<'a> {
        let Some(field) = field else {
            return ListRule { items: Shape::Free, strategy: Strategy::default(), key: None };
        };
        let items = match &field.type_ {
            Type::List(item) => Shape::of(item),
            _ => Shape::Free,
        };
        ListRule { items, strategy: field.strategy, key: field.merge_key }
    }

    /// What tells one item from another: the merge key of objects, or the item itself.
    fn identity(self, item: &Value) -> Result<String, PatchError> {
        match (self.key, item) {
            (None, item) => Ok(told(item)),
            (Some(key), Value::Object(map)) => match map.get(key) {
                Some(value) => Ok(told(value)),
                None => Err(malformed(format!(
                    "map: {} does not contain declared merge key: {key}",
                    GoValue(item)
                ))),
            },
            (Some(key), _) => Err(malformed(format!("value for key {key} is not a map"))),
        }
    }

    /// Where each item stands; of two that are the same, the first counts.
    fn places(self, items: &[Value]) -> Result<HashMap<String, usize>, PatchError> {
        let mut places = HashMap::with_capacity(items.len());
        for (place, item) in items.iter().enumerate() {
            places.entry(self.identity(item)?).or_insert(place);
        }
        Ok(places)
    }
}

/// A value as a key. A quote tells a text from what else looks the same.
fn told(value: &Value) -> String {
    match value {
        Value::String(text) => ["\"", text].concat(),
        other => other.to_string(),
    }
}

fn merge_object(original: &mut Object, mut patch: Object, shape: Shape<'_>) -> Result<(), PatchError> {
    if let Some(directive) = patch.remove(DIRECTIVE) {
        return match directive.as_str() {
            Some("replace") => {
                *original = patch;
                Ok(())
            }
            Some("delete") => {
                original.clear();
                Ok(())
            }
            _ => {
                let shown = directive.as_str().map_or_else(|| directive.to_string(), str::to_owned);
                patch.insert(DIRECTIVE.to_owned(), directive);
                let map = Value::Object(patch);
                Err(malformed(format!("unknown patch type: {shown} in map: {}", GoValue(&map))))
            }
        };
    }
    retain_keys(original, &mut patch)?;
    set_orders(original, &mut patch, shape)?;
    for (name, change) in patch {
        if name.starts_with(DELETE_FROM) {
            let name = directive_field(&name, DELETE_FROM, "invalid patch format of primitive list")?;
            if let (Some(Value::Array(items)), Value::Array(gone)) = (original.get_mut(name), change) {
                let gone: HashSet<String> = gone.iter().map(Value::to_string).collect();
                items.retain(|item| !gone.contains(&item.to_string()));
            }
            continue;
        }
        match (original.get_mut(&name), change) {
            (_, Value::Null) => {
                original.remove(&name);
            }
            (Some(Value::Object(value)), Value::Object(change)) => {
                let field = shape.field(&name)?;
                if field.is_some_and(|field| field.strategy.replace) {
                    *value = change;
                } else {
                    let below = field.map_or(Shape::Free, |field| Shape::of(&field.type_));
                    merge_object(value, change, below)?;
                }
            }
            (Some(Value::Array(items)), Value::Array(change)) => {
                let rule = ListRule::of(shape.field(&name)?);
                *items = if rule.strategy.merge {
                    merge_list(std::mem::take(items), change, rule)?
                } else {
                    change
                };
            }
            (_, change) => match plain(change) {
                Some(value) => {
                    original.insert(name, value);
                }
                None => {
                    original.remove(&name);
                }
            },
        }
    }
    Ok(())
}

/// The field that a directive such as `$setElementOrder/containers` is about.
fn directive_field<'a>(name: &'a str, prefix: &str, wrong: &str) -> Result<&'a str, PatchError> {
    name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('/')).ok_or_else(|| malformed(wrong))
}

/// `$retainKeys`: what it does not list goes.
fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), PatchError> {
    let Some(retained) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let wrong = || malformed("invalid patch format of retainKeys");
    let Value::Array(retained) = retained else { return Err(wrong()) };
    let retained: HashSet<&str> = retained.iter().filter_map(Value::as_str).collect();
    for (name, change) in &*patch {
        let directive = name.starts_with(DELETE_FROM) || name.starts_with(SET_ORDER);
        if !change.is_null() && !directive && !retained.contains(name.as_str()) {
            return Err(wrong());
        }
    }
    original.retain(|name, _| retained.contains(name.as_str()));
    Ok(())
}

/// `$setElementOrder`: merges the lists it is about, so that the patch is done with them.
fn set_orders(original: &mut Object, patch: &mut Object, shape: Shape<'_>) -> Result<(), PatchError> {
    const WRONG: &str = "invalid patch format of setElementOrder list";
    let directives: Vec<String> = patch.keys().filter(|name| name.starts_with(SET_ORDER)).cloned().collect();
    for directive in directives {
        let order = patch.remove(&directive);
        let name = directive_field(&directive, SET_ORDER, WRONG)?;
        let Some(Value::Array(order)) = order else {
            return Err(malformed("expected a []interface {}, but received something else"));
        };
        let before = list_of(original, name)?;
        let change = list_of(patch, name)?;
        let rule = ListRule::of(shape.field(name)?);
        check_order(change.as_deref().unwrap_or_default(), &order, rule)?;
        let merged = match (&before, change) {
            (None, None) => continue,
            (Some(before), None) => before.clone(),
            (None, Some(change)) => change.into_iter().filter_map(plain).collect(),
            (Some(before), Some(change)) if rule.strategy.merge => merge_list(before.clone(), change, rule)?,
            (Some(_), Some(change)) => change,
        };
        let before = rule.places(&before.unwrap_or_default())?;
        let place = |identity: &str| before.get(identity).copied();
        original.insert(name.to_owned(), Value::Array(ordered(merged, &order, place, rule)?));
    }
    Ok(())
}

/// Takes a list out of an object.
fn list_of(map: &mut Object, name: &str) -> Result<Option<Vec<Value>>, PatchError> {
    match map.remove(name) {
        None => Ok(None),
        Some(Value::Array(items)) => Ok(Some(items)),
        Some(other) => Err(malformed(format!(
            "expected a []interface {{}}, but received a {}",
            match other {
                Value::Object(_) => "map[string]interface {}",
                Value::String(_) => "string",
                Value::Bool(_) => "bool",
                Value::Number(_) => "float64",
                Value::Null | Value::Array(_) => "<nil>",
            }
        ))),
    }
}

/// The patch must name its items in the order it demands.
fn check_order(change: &[Value], order: &[Value], rule: ListRule<'_>) -> Result<(), PatchError> {
    if change.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut wanted = order.iter();
    for item in change.iter().filter(|item| item.get(DIRECTIVE).is_none()) {
        let identity = rule.identity(item)?;
        loop {
            match wanted.next() {
                Some(next) if rule.identity(next)? == identity => break,
                Some(_) => {}
                None => {
                    return Err(malformed(format!(
                        "The order in patch list:\n{}\n doesn't match {SET_ORDER} list:\n{}\n",
                        GoValue(&change.into()),
                        GoValue(&order.into())
                    )));
                }
            }
        }
    }
    Ok(())
}

fn merge_list(original: Vec<Value>, patch: Vec<Value>, rule: ListRule<'_>) -> Result<Vec<Value>, PatchError> {
    let mut kinds = original.iter().chain(&patch);
    let Some(first) = kinds.next() else { return Ok(original) };
    if first.is_array() {
        return Err(malformed("lists of lists are not supported"));
    }
    if kinds.any(|item| std::mem::discriminant(item) != std::mem::discriminant(first)) {
        let lists = Value::from(vec![Value::from(original), Value::from(patch)]);
        return Err(malformed(format!("list element types are not identical: {}", GoValue(&lists))));
    }
    if first.is_object() {
        merge_objects(original, patch, rule)
    } else {
        let rule = ListRule { key: None, ..rule };
        let mut seen = HashSet::new();
        let merged = original.iter().chain(&patch).filter(|item| seen.insert(item.to_string())).cloned();
        let merged = merged.collect();
        let before = rule.places(&original)?;
        ordered(merged, &patch, |identity| before.get(identity).copied(), rule)
    }
}

fn merge_objects(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    rule: ListRule<'_>,
) -> Result<Vec<Value>, PatchError> {
    let Some(key) = rule.key else {
        return Err(malformed("cannot merge lists without merge key for struct"));
    };
    let mut changes = Vec::with_capacity(patch.len());
    let (mut deleted, mut replace) = (HashSet::new(), false);
    for change in patch {
        match change.get(DIRECTIVE) {
            None => changes.push(change),
            Some(directive) => match directive.as_str() {
                Some("delete") => {
                    deleted.insert(rule.identity(&change)?);
                }
                Some("replace") => replace = true,
                Some("merge") => return Err(malformed("merging lists cannot yet be specified in the patch")),
                _ => {
                    let shown = directive.as_str().map_or_else(|| directive.to_string(), str::to_owned);
                    return Err(malformed(format!(
                        "unknown patch type: {shown} in map: {}",
                        GoValue(&change)
                    )));
                }
            },
        }
    }
    if replace {
        return Ok(changes);
    }
    if !deleted.is_empty() {
        // Items without the key match no deletion.
        let identity = |item: &Value| item.get(key).map(told);
        original.retain(|item| identity(item).is_none_or(|identity| !deleted.contains(&identity)));
    }
    let mut places = rule.places(&original)?;
    let known = original.len();
    for change in &changes {
        let identity = rule.identity(change)?;
        match places.get(&identity) {
            Some(&index) => {
                if let (Value::Object(item), Value::Object(change)) = (&mut original[index], change) {
                    merge_object(item, change.clone(), rule.items)?;
                }
            }
            None => {
                places.insert(identity, original.len());
                original.extend(plain(change.clone()));
            }
        }
    }
    let before = |identity: &str| places.get(identity).copied().filter(|&place| place < known);
    ordered(original, &changes, before, rule)
}

/// Orders a merged list: items in `order` by it, the others as they were `before`, interleaved by their
/// places before as far as possible.
fn ordered(
    merged: Vec<Value>,
    order: &[Value],
    before: impl Fn(&str) -> Option<usize>,
    rule: ListRule<'_>,
) -> Result<Vec<Value>, PatchError> {
    let order = rule.places(order)?;
    let (mut named, mut others) = (Vec::new(), Vec::new());
    for item in merged {
        let identity = rule.identity(&item)?;
        let place = before(&identity);
        match order.get(&identity) {
            Some(&rank) => named.push((rank, place, item)),
            None => others.push((place.unwrap_or(usize::MAX), place, item)),
        }
    }
    named.sort_by_key(|(rank, _, _)| *rank);
    others.sort_by_key(|(rank, _, _)| *rank);
    let mut result = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    loop {
        let other_first = match (others.peek(), named.peek()) {
            (None, None) => return Ok(result),
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some((_, other, _)), Some((_, named, _))) => other.is_some() && named.is_some() && other < named,
        };
        let next = if other_first { others.next() } else { named.next() };
        result.extend(next.map(|(_, _, item)| item));
    }
}

/// A new value without nulls and directives; `None` if it is itself a directive.
fn plain(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) => {
            if map.contains_key(DIRECTIVE) {
                return None;
            }
            let fields = map.into_iter().filter(|(name, value)| {
                let directive =
                    name == RETAIN_KEYS || name.starts_with(DELETE_FROM) || name.starts_with(SET_ORDER);
                !(value.is_null() || directive)
            });
            Some(fields.filter_map(|(name, value)| Some((name, plain(value)?))).collect::<Object>().into())
        }
        Value::Array(items) => Some(items.into_iter().filter_map(plain).collect()),
        scalar => Some(scalar),
    }
}

/// JSON as Go's `%v` prints it: `map[a:1 b:[x y]]`.
struct GoValue<'a>(&'a Value);

impl std::fmt::Display for GoValue<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Value::Null => out.write_str("<nil>"),
            Value::String(text) => out.write_str(text),
            Value::Bool(_) | Value::Number(_) => write!(out, "{}", self.0),
            Value::Array(items) => {
                out.write_char('[')?;
                for (index, item) in items.iter().enumerate() {
                    let space = if index == 0 { "" } else { " " };
                    write!(out, "{space}{}", GoValue(item))?;
                }
                out.write_char(']')
            }
            Value::Object(map) => {
                out.write_str("map[")?;
                for (index, (name, value)) in map.iter().enumerate() {
                    let space = if index == 0 { "" } else { " " };
                    write!(out, "{space}{name}:{}", GoValue(value))?;
                }
                out.write_char(']')
            }
        }
    }
}
