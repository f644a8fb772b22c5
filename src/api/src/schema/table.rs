//! Reads the schema files.
//!
//! ```text
//! package core.v1 v1                                  package, apiVersion
//! PodSpec                                             message; then: object, atomic
//!  2 containers []Container required keep patch=merge key=name list=map:name
//!  2 - VolumeSource                                   inlined: its JSON fields stand in this message
//! ```
//! A field is: number, JSON name, type, then flags: `required`, `keep` (see [`Field::keep_zero`]),
//! `patch=` strategy, `key=` merge key, `list=` topology (`atomic`, `set`, `map:` keys), `default=`,
//! `go=` the Go type where it does not follow from the type. A type is a scalar, a message (of the same
//! package, or with its package), `[]` type, or `map:` type. The files are ours, so a line that cannot
//! be read is a bug in this repository; a test reads them all.

use std::{collections::HashMap, sync::LazyLock};

use super::{Field, Message, MessageRef, Strategy, Target, Topology, Type, Wire};

const SOURCES: &[&str] = &[
    include_str!("../../schema/admissionregistration.v1.schema"),
    include_str!("../../schema/apiextensions.v1.schema"),
    include_str!("../../schema/apps.v1.schema"),
    include_str!("../../schema/authentication.v1.schema"),
    include_str!("../../schema/authorization.v1.schema"),
    include_str!("../../schema/autoscaling.v1.schema"),
    include_str!("../../schema/autoscaling.v2.schema"),
    include_str!("../../schema/batch.v1.schema"),
    include_str!("../../schema/certificates.v1.schema"),
    include_str!("../../schema/coordination.v1.schema"),
    include_str!("../../schema/core.v1.schema"),
    include_str!("../../schema/discovery.v1.schema"),
    include_str!("../../schema/events.v1.schema"),
    include_str!("../../schema/meta.v1.schema"),
    include_str!("../../schema/networking.v1.schema"),
    include_str!("../../schema/node.v1.schema"),
    include_str!("../../schema/policy.v1.schema"),
    include_str!("../../schema/rbac.v1.schema"),
    include_str!("../../schema/scheduling.v1.schema"),
    include_str!("../../schema/storage.v1.schema"),
];

/// Kinds of `meta.k8s.io/v1` that every group and version also calls its own.
const EVERYWHERE: &[&str] =
    &["CreateOptions", "DeleteOptions", "GetOptions", "ListOptions", "PatchOptions", "UpdateOptions"];

pub(super) struct Table {
    messages: Vec<Message>,
    names: HashMap<&'static str, MessageRef>,
    kinds: HashMap<(&'static str, &'static str), MessageRef>,
}

pub(super) fn table() -> &'static Table {
    static TABLE: LazyLock<Table> = LazyLock::new(|| Table::read(SOURCES));
    &TABLE
}

impl Table {
    pub(super) fn by_ref(&self, message: MessageRef) -> &Message {
        &self.messages[usize::from(message.0)]
    }

    pub(super) fn by_name(&self, name: &str) -> Option<&Message> {
        self.names.get(name).map(|&message| self.by_ref(message))
    }

    pub(super) fn by_kind(&self, api_version: &str, kind: &str) -> Option<&Message> {
        let found = self.kinds.get(&(api_version, kind));
        let found = found.or_else(|| {
            EVERYWHERE.contains(&kind).then(|| self.kinds.get(&("meta.k8s.io/v1", kind))).flatten()
        });
        found.map(|&message| self.by_ref(message))
    }

    #[cfg(test)]
    pub(super) fn messages(&self) -> &[Message] {
        &self.messages
    }

    fn read(sources: &'static [&'static str]) -> Table {
        let drafts = drafts(sources);
        let mut names = HashMap::with_capacity(drafts.len());
        for (index, draft) in drafts.iter().enumerate() {
            names.insert(draft.name, MessageRef(u16::try_from(index).expect("a few hundred messages")));
        }
        let mut messages = Vec::with_capacity(drafts.len());
        let mut kinds = HashMap::new();
        for (index, draft) in drafts.iter().enumerate() {
            let message = draft.finish(&drafts, &names);
            if message.object {
                let itself = MessageRef(u16::try_from(index).expect("a few hundred messages"));
                kinds.insert((message.api_version, message.short_name()), itself);
            }
            messages.push(message);
        }
        Table { messages, names, kinds }
    }
}

/// A message whose types are not resolved yet.
struct Draft {
    /// Package and name. Leaked, once per message, because no file spells the two together.
    name: &'static str,
    package: &'static str,
    api_version: &'static str,
    object: bool,
    atomic: bool,
    lines: Vec<&'static str>,
}

fn drafts(sources: &'static [&'static str]) -> Vec<Draft> {
    let mut drafts: Vec<Draft> = Vec::new();
    for source in sources {
        let (mut package, mut api_version) = ("", "");
        for line in source.lines() {
            if let Some(rest) = line.strip_prefix("package ") {
                (package, api_version) = rest.split_once(' ').expect("package name and apiVersion");
            } else if let Some(field) = line.strip_prefix(' ') {
                drafts.last_mut().expect("a field follows a message").lines.push(field);
            } else {
                let mut words = line.split(' ');
                let name = words.next().expect("a message has a name");
                let flags = words.collect::<Vec<_>>();
                drafts.push(Draft {
                    name: Box::leak(format!("{package}.{name}").into_boxed_str()),
                    package,
                    api_version,
                    object: flags.contains(&"object"),
                    atomic: flags.contains(&"atomic"),
                    lines: Vec::new(),
                });
            }
        }
    }
    drafts
}

type Names = HashMap<&'static str, MessageRef>;

impl Draft {
    fn finish(&self, drafts: &[Draft], names: &Names) -> Message {
        let mut fields = Vec::with_capacity(self.lines.len() + 2);
        let mut inlined = Vec::new();
        if self.object {
            fields.push(plain("apiVersion", Type::String));
            fields.push(plain("kind", Type::String));
        }
        self.collect(drafts, names, &mut fields, Some(&mut inlined));
        fields.sort_by_key(|field| field.json);
        let numbered = fields.iter().enumerate().filter(|(_, field)| field.number != 0);
        let mut wire: Vec<Wire> = numbered
            .map(|(index, field)| Wire {
                number: field.number,
                target: Target::Field(u16::try_from(index).expect("a few dozen fields")),
            })
            .collect();
        let inlined = inlined.into_iter().filter(|(number, _)| *number != 0);
        wire.extend(inlined.map(|(number, message)| Wire { number, target: Target::Inline(message) }));
        wire.sort_by_key(|wire| wire.number);
        Message {
            name: self.name,
            api_version: self.api_version,
            fields,
            object: self.object,
            atomic: self.atomic,
            wire,
        }
    }

    /// The JSON fields, with those of inlined messages, which lose their number.
    fn collect(
        &self,
        drafts: &[Draft],
        names: &Names,
        fields: &mut Vec<Field>,
        mut inlined: Option<&mut Vec<(u32, MessageRef)>>,
    ) {
        for line in &self.lines {
            let mut words = line.split(' ');
            let number = words.next().and_then(|word| word.parse().ok()).expect("a field has a number");
            let json = words.next().expect("a field has a JSON name");
            let type_ = self.type_(words.next().expect("a field has a type"), names);
            if json == "-" {
                let Type::Message(message) = type_ else { unreachable!("only messages are inlined") };
                drafts[usize::from(message.0)].collect(drafts, names, fields, None);
                if let Some(inlined) = &mut inlined {
                    inlined.push((number, message));
                }
                continue;
            }
            let mut field = plain(json, type_);
            field.number = if inlined.is_some() { number } else { 0 };
            for flag in words {
                field.flag(flag);
            }
            fields.push(field);
        }
    }

    fn type_(&self, word: &'static str, names: &Names) -> Type {
        if let Some(item) = word.strip_prefix("[]") {
            return Type::List(Box::new(self.type_(item, names)));
        }
        if let Some(value) = word.strip_prefix("map:") {
            return Type::Map(Box::new(self.type_(value, names)));
        }
        match word {
            "string" => Type::String,
            "bool" => Type::Bool,
            "int32" => Type::Int32,
            "int64" => Type::Int64,
            "double" => Type::Double,
            "bytes" => Type::Bytes,
            "quantity" => Type::Quantity,
            "intorstring" => Type::IntOrString,
            "time" => Type::Time,
            "microtime" => Type::MicroTime,
            "duration" => Type::Duration,
            "json" => Type::Json,
            "stringlist" => Type::StringList,
            "schema-or-array" => Type::SchemaOrArray,
            "schema-or-bool" => Type::SchemaOrBool,
            "schema-or-strings" => Type::SchemaOrStrings,
            _ => {
                let local = format!("{}.{word}", self.package);
                let message = names.get(local.as_str()).or_else(|| names.get(word));
                Type::Message(*message.expect("a type is a scalar or a message of the table"))
            }
        }
    }
}

fn plain(json: &'static str, type_: Type) -> Field {
    Field {
        json,
        number: 0,
        type_,
        required: false,
        keep_zero: false,
        strategy: Strategy::default(),
        merge_key: None,
        topology: Topology::Natural,
        default: None,
        go_type: None,
    }
}

impl Field {
    fn flag(&mut self, flag: &'static str) {
        let (name, value) = flag.split_once('=').unwrap_or((flag, ""));
        match name {
            "required" => self.required = true,
            "keep" => self.keep_zero = true,
            "key" => self.merge_key = Some(value),
            "default" => self.default = Some(value),
            "go" => self.go_type = Some(value),
            "patch" => {
                let says = |strategy| value.split(',').any(|word| word == strategy);
                self.strategy = Strategy {
                    merge: says("merge"),
                    replace: says("replace"),
                    retain_keys: says("retainKeys"),
                };
            }
            "list" => {
                self.topology = match value {
                    "atomic" => Topology::Atomic,
                    "set" => Topology::Set,
                    _ => {
                        let keys = value.strip_prefix("map:").expect("a topology");
                        Topology::Map(keys.split(',').collect())
                    }
                }
            }
            _ => unreachable!("flag {flag} of the schema files"),
        }
    }
}
