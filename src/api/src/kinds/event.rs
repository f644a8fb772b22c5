//! Event: what happened to an object, for people to read. Two kinds show the same stored objects:
//! core/v1 is the form that is stored, `events.k8s.io/v1` renames some of its fields.
//!
//! Readers (tables, selectors) take either form, so that it does not matter which kind asks first.

use jiff::Timestamp;
use serde_json::Value;

use super::common::*;
use crate::{
    Cell, Column, FieldCause, Hooks, Kind, Scope,
    field::{self, Path},
    names,
};

/// Longest reporting instance, action and reason.
const MAX_WORD: usize = 128;
/// Longest message.
const MAX_MESSAGE: usize = 1024;

/// Fields that the two forms call differently: core/v1, then `events.k8s.io/v1`.
const RENAMED: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

pub(super) fn core_kind() -> Kind {
    Kind { short_names: texts(&["ev"]), ..define("", "v1", "Event", "events", Scope::Namespaced, CoreEvent) }
}

pub(super) fn events_kind() -> Kind {
    Kind {
        short_names: texts(&["ev"]),
        storage: "events".into(),
        ..define("events.k8s.io", "v1", "Event", "events", Scope::Namespaced, EventsEvent)
    }
}

struct CoreEvent;

struct EventsEvent;

static COLUMNS: [Column; 10] = [
    column("Last Seen", "Time since it happened last."),
    column("Type", "Normal or Warning."),
    column("Reason", "What happened, in one word."),
    column("Object", "What it happened to."),
    wide("Subobject", "The part of the object that it happened to."),
    wide("Source", "Who reported it."),
    column("Message", "What happened, in a sentence."),
    wide("First Seen", "Time since it happened first."),
    wide("Count", "How often it happened."),
    wide("Name", "Name of the event."),
];

impl Hooks for CoreEvent {
    fn validate_create(&self, object: &Value) -> Vec<FieldCause> {
        let mut errors = Vec::new();
        check_core(&mut errors, object);
        errors
    }

    fn columns(&self) -> &[Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        row(object, now)
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        selectable_fields(object)
    }
}

impl Hooks for EventsEvent {
    fn validate_create(&self, object: &Value) -> Vec<FieldCause> {
        let event = &as_core(object);
        let mut errors = Vec::new();
        check_core(&mut errors, event);
        check_series(&mut errors, event);
        if !is_set(&event["eventTime"]) {
            errors.push(field::required(&Path::new("eventTime"), ""));
        }
        let kind = text(&event["type"]);
        if kind != "Normal" && kind != "Warning" {
            errors.push(field::invalid(&Path::new("type"), "", &format!("has invalid value: {kind}")));
        }
        for name in ["firstTimestamp", "lastTimestamp", "count", "source"] {
            let value = &event[name];
            let unset = match value {
                Value::Object(source) => source.values().all(is_empty),
                value => int(value) == 0 && is_empty(value),
            };
            if !unset {
                errors.push(field::invalid(&Path::new(name), "", "needs to be unset"));
            }
        }
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldCause> {
        let (event, old) = (&as_core(object), &as_core(old));
        let mut errors = Vec::new();
        check_core(&mut errors, event);
        if !same(&event["series"], &old["series"]) {
            check_series(&mut errors, event);
        }
        for name in [
            "involvedObject",
            "reason",
            "message",
            "source",
            "firstTimestamp",
            "lastTimestamp",
            "count",
            "type",
            "eventTime",
            "action",
            "related",
        ] {
            check_immutable(&mut errors, &Path::new(name), &event[name], &old[name]);
        }
        check_immutable(
            &mut errors,
            &Path::new("reportingController"),
            &event["reportingComponent"],
            &old["reportingComponent"],
        );
        let path = Path::new("reportingInstance");
        check_immutable(&mut errors, &path, &event["reportingInstance"], &old["reportingInstance"]);
        errors
    }

    fn columns(&self) -> &[Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        row(object, now)
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        selectable_fields(object)
    }

    fn from_stored(&self, object: &mut Value) {
        for (stored, view) in RENAMED {
            rename(object, stored, view);
        }
        set(object, "apiVersion", "events.k8s.io/v1");
    }

    fn to_stored(&self, object: &mut Value) {
        to_core(object);
    }
}

fn rename(object: &mut Value, from: &str, to: &str) {
    if let Some(map) = object.as_object_mut()
        && let Some(value) = map.remove(from)
    {
        map.insert(to.to_owned(), value);
    }
}

fn to_core(object: &mut Value) {
    for (stored, view) in RENAMED {
        rename(object, view, stored);
    }
    set(object, "apiVersion", "v1");
}

fn as_core(object: &Value) -> Value {
    let mut event = object.clone();
    to_core(&mut event);
    event
}

/// A field by its core/v1 name, in either form.
fn get<'a>(object: &'a Value, stored: &str) -> &'a Value {
    match &object[stored] {
        Value::Null => {
            let view = RENAMED.iter().find(|(name, _)| *name == stored).map_or(stored, |(_, view)| view);
            &object[view]
        }
        value => value,
    }
}

fn row(object: &Value, now: Timestamp) -> Vec<Cell> {
    let first = match get(object, "firstTimestamp") {
        Value::Null => &object["eventTime"],
        time => time,
    };
    let (last, count) = match &object["series"] {
        Value::Null => {
            let last = match get(object, "lastTimestamp") {
                Value::Null => first,
                time => time,
            };
            (last, int(get(object, "count")).max(1))
        }
        series => (&series["lastObservedTime"], int(&series["count"])),
    };
    let involved = get(object, "involvedObject");
    let kind = text(&involved["kind"]).to_lowercase();
    let target = match text(&involved["name"]) {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    vec![
        since(last, now).into(),
        text(&object["type"]).into(),
        text(&object["reason"]).into(),
        target.into(),
        text(&involved["fieldPath"]).into(),
        source(object).into(),
        text(get(object, "message")).trim().into(),
        since(first, now).into(),
        count.into(),
        name(object),
    ]
}

/// `kubelet, node-1`
fn source(object: &Value) -> String {
    let source = get(object, "source");
    let component = or(text(&source["component"]), text(get(object, "reportingComponent")));
    match or(text(&source["host"]), text(&object["reportingInstance"])) {
        "" => component.to_owned(),
        host => format!("{component}, {host}"),
    }
}

fn selectable_fields(object: &Value) -> Vec<(&'static str, String)> {
    let involved = get(object, "involvedObject");
    let of = |name: &str| text(&involved[name]).to_owned();
    let reporter = text(get(object, "reportingComponent"));
    let component = or(text(&get(object, "source")["component"]), reporter);
    vec![
        ("involvedObject.kind", of("kind")),
        ("involvedObject.namespace", of("namespace")),
        ("involvedObject.name", of("name")),
        ("involvedObject.uid", of("uid")),
        ("involvedObject.apiVersion", of("apiVersion")),
        ("involvedObject.resourceVersion", of("resourceVersion")),
        ("involvedObject.fieldPath", of("fieldPath")),
        ("regarding.kind", of("kind")),
        ("regarding.namespace", of("namespace")),
        ("regarding.name", of("name")),
        ("regarding.uid", of("uid")),
        ("regarding.apiVersion", of("apiVersion")),
        ("regarding.resourceVersion", of("resourceVersion")),
        ("regarding.fieldPath", of("fieldPath")),
        ("reason", text(&object["reason"]).to_owned()),
        ("reportingComponent", reporter.to_owned()),
        ("reportingController", reporter.to_owned()),
        ("source", component.to_owned()),
        ("type", text(&object["type"]).to_owned()),
    ]
}

/// What Kubernetes asks of an event in its core form, whoever wrote it.
fn check_core(errors: &mut Vec<FieldCause>, event: &Value) {
    let namespace = text(&event["metadata"]["namespace"]);
    let involved = text(&event["involvedObject"]["namespace"]);
    let path = Path::new("involvedObject.namespace");
    const MISMATCH: &str = "does not match event.namespace";
    if !is_set(&event["eventTime"]) {
        let matches = if involved.is_empty() { namespace == "default" } else { namespace == involved };
        if !matches {
            errors.push(field::invalid(&path, involved, MISMATCH));
        }
        return;
    }
    if involved.is_empty() && namespace != "default" && namespace != "kube-system" {
        errors.push(field::invalid(&path, involved, MISMATCH));
    }
    let path = Path::new("reportingController");
    let controller = text(&event["reportingComponent"]);
    if controller.is_empty() {
        errors.push(field::required(&path, ""));
    }
    check_text(errors, &path, controller, names::qualified_name);
    for name in ["reportingInstance", "action", "reason"] {
        let path = Path::new(name);
        check_required(errors, &path, &event[name]);
        check_length(errors, &path, text(&event[name]), MAX_WORD);
    }
    check_length(errors, &Path::new("message"), text(&event["message"]), MAX_MESSAGE);
}

fn check_length(errors: &mut Vec<FieldCause>, path: &Path<'_>, value: &str, max: usize) {
    if value.len() > max {
        errors.push(field::invalid(path, "", &format!("can have at most {max} characters")));
    }
}

fn check_series(errors: &mut Vec<FieldCause>, event: &Value) {
    let series = &event["series"];
    if !is_set(series) {
        return;
    }
    if int(&series["count"]) < 2 {
        errors.push(field::invalid(&Path::new("series.count"), "", "should be at least 2"));
    }
    if !is_set(&series["lastObservedTime"]) {
        errors.push(field::required(&Path::new("series.lastObservedTime"), ""));
    }
}
