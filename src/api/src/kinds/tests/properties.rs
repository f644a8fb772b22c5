//! What holds for every kind and for any object that passes the schema.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::schema::{Message, Type};

/// Most values in one made-up object.
const BUDGET: usize = 400;

/// Texts that mean something somewhere, and some that never do.
const TEXTS: &[&str] = &[
    "",
    "a",
    "web",
    "A b",
    "a.b/c",
    "..",
    "../x",
    "/x",
    "None",
    "Always",
    "Never",
    "OnFailure",
    "TCP",
    "UDP",
    "ClusterIP",
    "NodePort",
    "LoadBalancer",
    "ExternalName",
    "ClientIP",
    "Local",
    "Cluster",
    "10.0.0.1",
    "127.0.0.1",
    "fe80::1",
    "10.0.0.0/8",
    "IPv4",
    "IPv6",
    "FQDN",
    "In",
    "Exists",
    "NoExecute",
    "Equal",
    "kubernetes",
    "orphan",
    "True",
    "Ready",
    "metadata.name",
    "metadata.labels['a']",
    "v1",
    "limits.cpu",
    "Localhost",
    "kubernetes.io/tls",
    "kubernetes.io/dockerconfigjson",
    "Succeeded",
    "Running",
    "Completed",
    "File",
    "DoNotSchedule",
    "ä–🦀",
];
const KEYS: &[&str] =
    &["app", "cpu", "memory", "hugepages-2Mi", "example.com/gpu", "tls.crt", "A b", "", "Ä"];
const QUANTITIES: &[&str] = &["0", "100m", "1", "1Gi", "-1", "3", "1e3"];

/// Makes up objects that the schema accepts, from a seed.
struct Maker {
    state: u64,
    left: usize,
}

impl Maker {
    fn new(seed: u64) -> Maker {
        Maker { state: seed, left: BUDGET }
    }

    fn below(&mut self, bound: usize) -> usize {
        // splitmix64: any even spread will do.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((word ^ (word >> 31)) % bound as u64).unwrap()
    }

    fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }

    fn message(&mut self, message: &Message, depth: usize) -> Value {
        let mut map = Map::new();
        for field in &message.fields {
            // Fields near the root are likely, so that most objects reach far into the rules.
            if self.left > 0 && self.below(depth + 2) < 2 {
                map.insert(field.json.to_owned(), self.value(&field.type_, depth + 1));
            }
        }
        Value::Object(map)
    }

    fn value(&mut self, type_: &Type, depth: usize) -> Value {
        self.left = self.left.saturating_sub(1);
        match type_ {
            Type::Message(message) => self.message(message.get(), depth),
            Type::List(item) => (0..self.below(3)).map(|_| self.value(item, depth)).collect(),
            Type::Map(item) => {
                let count = self.below(3);
                let entries = (0..count).map(|_| (self.pick(KEYS).to_owned(), self.value(item, depth)));
                Value::Object(entries.collect())
            }
            Type::StringList => json!([self.pick(TEXTS)]),
            Type::Bool => (self.below(2) == 0).into(),
            Type::Int32 | Type::Int64 => {
                [json!(0), json!(1), json!(-1), json!(80), json!(70000)][self.below(5)].clone()
            }
            Type::IntOrString => [json!(0), json!(80), json!("http"), json!("")][self.below(4)].clone(),
            Type::Double => json!(1.5),
            Type::Quantity => self.pick(QUANTITIES).into(),
            Type::Time => "2026-01-01T00:00:00Z".into(),
            Type::MicroTime => "2026-01-01T00:00:00.000000Z".into(),
            Type::Duration => "1s".into(),
            Type::Bytes => ["", "AAAA", "e30="][self.below(3)].into(),
            Type::String => self.pick(TEXTS).into(),
            _ => json!({}),
        }
    }

    /// An object of `kind` as it comes out of the schema check.
    fn object(&mut self, kind: &Kind) -> Value {
        let message = schema::message(&kind.message).expect("every built-in kind has a message");
        let mut object = self.message(message, 0);
        object["apiVersion"] = kind.api_version().into();
        object["kind"] = (&*kind.kind).into();
        schema::conform(kind, &mut object).unwrap();
        object
    }
}

/// The first place where two objects differ.
fn difference(left: &Value, right: &Value) -> Option<String> {
    match (left, right) {
        (Value::Object(a), Value::Object(b)) => a
            .keys()
            .chain(b.keys())
            .find_map(|key| Some(format!("{key}.{}", difference(&left[key], &right[key])?))),
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().find_map(|(i, (a, b))| Some(format!("{i}.{}", difference(a, b)?)))
        }
        _ if left == right => None,
        _ => Some(format!(" {left} != {right}")),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn defaults_are_idempotent_and_stay_within_the_schema(seed: u64) {
        for kind in crate::kinds::builtin() {
            let mut object = Maker::new(seed).object(kind);
            kind.hooks.default(&mut object);
            let once = object.clone();
            kind.hooks.default(&mut object);
            prop_assert_eq!(difference(&object, &once), None, "default twice, {}", kind.plural);

            kind.hooks.prepare_create(&mut object, now());
            let prepared = object.clone();
            kind.hooks.default(&mut object);
            prop_assert_eq!(difference(&object, &prepared), None, "default after prepare, {}", kind.plural);

            let problems = schema::conform(kind, &mut object).unwrap();
            prop_assert!(problems.is_empty(), "{:?}", problems);
            prop_assert_eq!(difference(&object, &prepared), None, "schema after prepare, {}", kind.plural);
        }
    }

    #[test]
    fn nothing_panics_and_tables_fit_their_columns(seed: u64) {
        for kind in crate::kinds::builtin() {
            let mut maker = Maker::new(seed);
            let (mut object, mut other) = (maker.object(kind), maker.object(kind));
            kind.hooks.row(&object, now());
            kind.hooks.default(&mut object);
            kind.hooks.default(&mut other);
            kind.validate_create(&object);
            kind.validate_status(&object, &other);
            kind.hooks.prepare_update(&mut object, &other);
            kind.validate_update(&object, &other);
            kind.hooks.deletion_grace(&object, None);
            prop_assert_eq!(kind.hooks.row(&object, now()).len(), kind.hooks.columns().len());
            let names = |object: &Value| -> Vec<&'static str> {
                kind.hooks.selectable_fields(object).into_iter().map(|(name, _)| name).collect()
            };
            prop_assert_eq!(names(&object), names(&json!({})));
        }
    }

    #[test]
    fn a_view_leads_back_to_what_is_stored(seed: u64) {
        let stored = Maker::new(seed).object(kind("events"));
        let view = kind("events.k8s.io/events");
        let mut object = stored.clone();
        view.hooks.from_stored(&mut object);
        let problems = schema::conform(view, &mut object.clone()).unwrap();
        prop_assert!(problems.is_empty(), "{:?}", problems);
        prop_assert_eq!(view.hooks.row(&object, now()), kind("events").hooks.row(&stored, now()));
        prop_assert_eq!(view.hooks.selectable_fields(&object), kind("events").hooks.selectable_fields(&stored));
        view.hooks.to_stored(&mut object);
        prop_assert_eq!(object, stored);
    }
}

#[test]
fn valid_objects_are_accepted_and_may_stay_as_they_are() {
    for kind in crate::kinds::builtin() {
        let object = created(kind, valid(kind));
        let none: Vec<String> = Vec::new();
        assert_eq!(lines(&kind.validate_create(&object)), none, "{}", kind.plural);
        let again = updated(kind, object.clone(), &object);
        assert_eq!(again, object, "{} changes by itself", kind.plural);
        assert_eq!(lines(&kind.validate_update(&again, &object)), none, "{}", kind.plural);
        assert_eq!(lines(&kind.validate_status(&again, &object)), none, "{}", kind.plural);
    }
}

#[test]
fn applying_the_manifest_again_changes_nothing() {
    for kind in crate::kinds::builtin() {
        // Jobs get labels and a selector once, which a manifest without them takes away.
        if kind.plural == "jobs" {
            continue;
        }
        let object = created(kind, valid(kind));
        let again = updated(kind, valid(kind), &object);
        assert_eq!(again["spec"], object["spec"], "{}", kind.plural);
    }
}

#[test]
fn names_lead_to_kinds() {
    let mut seen = std::collections::HashSet::new();
    for kind in crate::kinds::builtin() {
        let found = crate::kinds::find(&kind.group, &kind.version, &kind.plural).unwrap();
        assert_eq!(found.kind, kind.kind);
        let served = (kind.qualified_resource(), &kind.version);
        assert!(seen.insert(served), "{} twice", kind.plural);
        assert!(schema::message(&kind.message).is_some(), "{} has no message", kind.plural);
    }
    assert!(crate::kinds::find("", "v2", "pods").is_none());
    assert_eq!(kind("events.k8s.io/events").storage, kind("events").storage);
    assert_eq!(kind("coordination.k8s.io/leases").storage, "leases.coordination.k8s.io");
}
