//! Small helpers that the kinds share: reading and filling JSON, and the cells that most tables have.
//!
//! Objects come in checked against the schema, so a field has either its type or is absent; `null`
//! counts as absent, as in Kubernetes. Readers answer absent fields with the type's zero value, which
//! is how Kubernetes' own structs behave and what keeps every hook free of panics.

use std::{borrow::Cow, net::IpAddr};

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::{
    Cell, Column, FieldCause, Hooks, Kind, Scope,
    field::{self, Path},
    kind::Text,
    names, table,
};

/// The start of every kind: names that derive from `kind` and `plural`, no short names, categories or
/// subresources. A kind's file adds the rest by struct update.
pub(super) fn define(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    scope: Scope,
    hooks: impl Hooks + 'static,
) -> Kind {
    // `events.k8s.io` → `events.v1.Event`, core → `core.v1.Pod`: the first part of the group names the
    // message's package, as in Kubernetes' own source tree.
    let package = if group.is_empty() { "core" } else { group.split('.').next().unwrap_or(group) };
    Kind {
        group: group.into(),
        version: version.into(),
        kind: kind.into(),
        plural: plural.into(),
        singular: kind.to_lowercase().into(),
        short_names: Vec::new(),
        categories: Vec::new(),
        scope,
        message: format!("{package}.{version}.{kind}").into(),
        storage: if group.is_empty() { plural.into() } else { format!("{plural}.{group}").into() },
        subresources: Vec::new(),
        hooks: std::sync::Arc::new(hooks),
    }
}

/// A list of static texts, for short names and categories.
pub(super) fn texts(names: &[&'static str]) -> Vec<Text> {
    names.iter().map(|name| Cow::Borrowed(*name)).collect()
}

/// A string field; empty if absent.
pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// An integer field; 0 if absent.
pub(super) fn int(value: &Value) -> i64 {
    value.as_i64().unwrap_or_default()
}

/// A boolean field; false if absent.
pub(super) fn flag(value: &Value) -> bool {
    value.as_bool().unwrap_or_default()
}

/// The elements of a list field; none if absent.
pub(super) fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The strings of a list field.
pub(super) fn strings(value: &Value) -> impl Iterator<Item = &str> {
    items(value).iter().map(text)
}

/// The entries of a map field, by key.
pub(super) fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// Whether a field is there.
pub(super) fn is_set(value: &Value) -> bool {
    !value.is_null()
}

/// Whether a list, map or string is absent or empty: what Go's `len(x) == 0` says.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => true,
    }
}

/// Whether two fields mean the same: absent, `null`, empty lists and empty maps are one
/// (Kubernetes' semantic equality), at every depth.
pub(super) fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Object(a), Value::Object(b)) => {
            a.iter().all(|(key, value)| same(value, b.get(key).unwrap_or(&Value::Null)))
                && b.iter().all(|(key, value)| a.contains_key(key) || same(&Value::Null, value))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (
            Value::Null | Value::Array(_) | Value::Object(_),
            Value::Null | Value::Array(_) | Value::Object(_),
        ) => left == right || (is_hollow(left) && is_hollow(right)),
        _ => left == right,
    }
}

/// Absent, or empty all the way down.
fn is_hollow(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(is_hollow),
        _ => false,
    }
}

/// The object under `key` for writing, made if absent. `None` only if `parent` or the field holds
/// something that is no object, which the schema check rules out.
pub(super) fn object_mut<'a>(parent: &'a mut Value, key: &str) -> Option<&'a mut Map<String, Value>> {
    let parent = parent.as_object_mut()?;
    let child = parent.entry(key).or_insert_with(|| Value::Object(Map::new()));
    if child.is_null() {
        *child = Value::Object(Map::new());
    }
    child.as_object_mut()
}

/// The object under `key` for writing, if it is there.
pub(super) fn existing_mut<'a>(parent: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    parent.as_object_mut()?.get_mut(key).filter(|value| !value.is_null())
}

/// The elements under `key` for writing; none if absent.
pub(super) fn items_mut<'a>(parent: &'a mut Value, key: &str) -> &'a mut [Value] {
    match parent.as_object_mut().and_then(|parent| parent.get_mut(key)).and_then(Value::as_array_mut) {
        Some(list) => list.as_mut_slice(),
        None => &mut [],
    }
}

/// Sets `key` unless it is already there with a value that Go would call non-zero for its type:
/// absent, `null` and `""` count as unset. Zero numbers count too if the default is a number, since
/// Kubernetes' defaults of plain integers test for 0; use [`fill_absent`] for pointers.
pub(super) fn fill(object: &mut Value, key: &str, default: impl Into<Value>) {
    let default = default.into();
    let Some(map) = object.as_object_mut() else { return };
    let unset = match map.get(key) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Number(number)) => default.is_number() && number.as_i64() == Some(0),
        Some(_) => false,
    };
    if unset {
        map.insert(key.to_owned(), default);
    }
}

/// Sets `key` if it is absent or `null`: for fields that are pointers in Kubernetes.
pub(super) fn fill_absent(object: &mut Value, key: &str, default: impl Into<Value>) {
    if let Some(map) = object.as_object_mut()
        && map.get(key).is_none_or(Value::is_null)
    {
        map.insert(key.to_owned(), default.into());
    }
}

/// Sets `key`.
pub(super) fn set(object: &mut Value, key: &str, value: impl Into<Value>) {
    if let Some(map) = object.as_object_mut() {
        map.insert(key.to_owned(), value.into());
    }
}

/// Removes `key`.
pub(super) fn clear(object: &mut Value, key: &str) {
    if let Some(map) = object.as_object_mut() {
        map.remove(key);
    }
}

/// Makes `object`'s field what it is in `old`: what only the server may change.
pub(super) fn keep(object: &mut Value, old: &Value, key: &str) {
    match &old[key] {
        Value::Null => clear(object, key),
        value => set(object, key, value.clone()),
    }
}

/// The `Age` column that almost every table has.
pub(super) const AGE: Column = Column::new("Age", "string", 0, "Time since the object was created.");

/// A text column of the narrow table.
pub(super) const fn column(name: &'static str, description: &'static str) -> Column {
    Column::new(name, "string", 0, description)
}

/// A text column of the wide table.
pub(super) const fn wide(name: &'static str, description: &'static str) -> Column {
    Column::new(name, "string", 1, description)
}

/// The object's name.
pub(super) fn name(object: &Value) -> Cell {
    Cell::from(text(&object["metadata"]["name"]))
}

/// Time since the object was created, e.g. `5m3s`.
pub(super) fn age(object: &Value, now: Timestamp) -> Cell {
    Cell::from(since(&object["metadata"]["creationTimestamp"], now))
}

/// Time since a timestamp field, e.g. `5m3s`; `<unknown>` if absent.
pub(super) fn since(time: &Value, now: Timestamp) -> String {
    match timestamp(time) {
        Some(time) => table::human_duration(now.duration_since(time)),
        None => "<unknown>".to_owned(),
    }
}

/// A timestamp field.
pub(super) fn timestamp(time: &Value) -> Option<Timestamp> {
    time.as_str()?.parse().ok()
}

/// `text`, or `instead` if it is empty.
pub(super) fn or<'a>(text: &'a str, instead: &'a str) -> &'a str {
    if text.is_empty() { instead } else { text }
}

/// Labels as `a=b,c=d` in key order; `<none>` if there are none.
pub(super) fn format_labels(labels: &Value) -> String {
    let pairs: Vec<String> = entries(labels).map(|(key, value)| format!("{key}={}", text(value))).collect();
    or(&pairs.join(","), "<none>").to_owned()
}

/// Names and images of a pod spec's containers, comma-separated: the two wide cells of workloads.
pub(super) fn containers_and_images(pod_spec: &Value) -> [Cell; 2] {
    let list = |key| {
        let texts: Vec<&str> =
            items(&pod_spec["containers"]).iter().map(|container| text(&container[key])).collect();
        Cell::from(texts.join(","))
    };
    [list("name"), list("image")]
}

/// A rule for texts, from [`names`]: what is wrong with the text, one message per broken rule.
pub(super) type Rule = fn(&str) -> Vec<String>;

/// Adds `Invalid value` with the message of every rule that `value` breaks.
pub(super) fn check_text(errors: &mut Vec<FieldCause>, path: &Path<'_>, value: &str, rule: Rule) {
    for message in rule(value) {
        errors.push(field::invalid(path, value, &message));
    }
}

/// Requires a text that keeps `rule`.
pub(super) fn check_required_text(errors: &mut Vec<FieldCause>, path: &Path<'_>, value: &Value, rule: Rule) {
    match text(value) {
        "" => errors.push(field::required(path, "")),
        value => check_text(errors, path, value, rule),
    }
}

/// Requires `rule` of a text that may be absent or empty.
pub(super) fn check_optional_text(errors: &mut Vec<FieldCause>, path: &Path<'_>, value: &Value, rule: Rule) {
    match text(value) {
        "" => {}
        value => check_text(errors, path, value, rule),
    }
}

/// Requires a text that is not empty.
pub(super) fn check_required(errors: &mut Vec<FieldCause>, path: &Path<'_>, value: &Value) {
    if text(value).is_empty() {
        errors.push(field::required(path, ""));
    }
}

/// Requires an IP address.
pub(super) fn check_ip(errors: &mut Vec<FieldCause>, path: &Path<'_>, value: &str) -> Option<IpAddr> {
    let ip = value.parse().ok();
    if ip.is_none() {
        errors.push(field::invalid(
            path,
            value,
            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ));
    }
    ip
}

/// Refuses addresses that make no sense as a destination in a cluster: unspecified, loopback and
/// link-local ones.
pub(super) fn check_not_special(errors: &mut Vec<FieldCause>, path: &Path<'_>, value: &str) {
    let Ok(ip) = value.parse::<IpAddr>() else {
        errors.push(field::invalid(path, value, "must be a valid IP address"));
        return;
    };
    let (link_local, link_local_multicast) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(ip) => (ip.is_unicast_link_local(), ip.segments()[0] & 0xff0f == 0xff02),
    };
    for (special, words) in [
        (ip.is_unspecified(), format!("may not be unspecified ({value})")),
        (ip.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned()),
        (link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned()),
        (
            link_local_multicast,
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned(),
        ),
    ] {
        if special {
            errors.push(field::invalid(path, value, &words));
        }
    }
}

/// Requires an address range, e.g. `10.0.0.0/8`.
pub(super) fn check_cidr(errors: &mut Vec<FieldCause>, path: &Path<'_>, value: &str) {
    let valid = value.split_once('/').is_some_and(|(ip, bits)| {
        let most = match ip.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        bits.parse::<u8>().is_ok_and(|bits| bits <= most)
    });
    if !valid {
        errors.push(field::invalid(
            path,
            value,
            "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
        ));
    }
}

/// Refuses negative numbers; absent is fine.
pub(super) fn check_not_negative(errors: &mut Vec<FieldCause>, path: &Path<'_>, value: &Value) {
    if int(value) < 0 {
        errors.push(field::invalid(path, int(value), "must be greater than or equal to 0"));
    }
}

/// Requires one of `allowed`.
pub(super) fn check_one_of(errors: &mut Vec<FieldCause>, path: &Path<'_>, value: &Value, allowed: &[&str]) {
    match text(value) {
        "" => errors.push(field::required(path, "")),
        value if allowed.contains(&value) => {}
        value => errors.push(field::not_supported(path, value, allowed)),
    }
}

/// Requires one of `allowed` if the field is set at all.
pub(super) fn check_optional_one_of(
    errors: &mut Vec<FieldCause>,
    path: &Path<'_>,
    value: &Value,
    allowed: &[&str],
) {
    if is_set(value) && !allowed.contains(&text(value)) {
        errors.push(field::not_supported(path, text(value), allowed));
    }
}

/// Requires a port number.
pub(super) fn check_port(errors: &mut Vec<FieldCause>, path: &Path<'_>, port: i64) {
    for message in names::port_number(port) {
        errors.push(field::invalid(path, port, &message));
    }
}

/// Requires a port number or a port's name.
pub(super) fn check_port_or_name(errors: &mut Vec<FieldCause>, path: &Path<'_>, port: &Value) {
    match port {
        Value::String(name) => check_text(errors, path, name, names::port_name),
        port => check_port(errors, path, int(port)),
    }
}

/// Protocols that ports may have.
pub(super) const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

/// Requires a field to be what it was.
pub(super) fn check_immutable(errors: &mut Vec<FieldCause>, path: &Path<'_>, new: &Value, old: &Value) {
    if !same(new, old) {
        errors.push(field::immutable(path, new));
    }
}

/// How many changed fields [`differences`] names at most.
const MAX_DIFFERENCES: usize = 10;

/// The leaves below `root` that differ, one per line, old value first.
pub(super) fn differences(root: &str, new: &Value, old: &Value) -> String {
    let mut found = Vec::new();
    collect_differences(&mut found, root, new, old);
    found.join("\n")
}

fn collect_differences(found: &mut Vec<String>, path: &str, new: &Value, old: &Value) {
    if found.len() >= MAX_DIFFERENCES || same(new, old) {
        return;
    }
    match (new, old) {
        (Value::Object(a), Value::Object(b)) => {
            let added = b.keys().filter(|key| !a.contains_key(*key));
            for key in a.keys().chain(added) {
                collect_differences(found, &format!("{path}.{key}"), &new[key], &old[key]);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (new, old)) in a.iter().zip(b).enumerate() {
                collect_differences(found, &format!("{path}[{index}]"), new, old);
            }
        }
        _ => {
            found.push(format!("-\t{path}: {old}"));
            found.push(format!("+\t{path}: {new}"));
        }
    }
}
