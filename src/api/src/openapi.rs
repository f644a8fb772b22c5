//! OpenAPI v3 documents, one per group and version, derived from the kinds and the schema table.
//!
//! `kubectl apply` looks for `fieldValidation` among the parameters of `patch` operations, `kubectl explain`
//! walks the schemas by their `x-kubernetes-group-version-kind`, and client libraries read merge keys and
//! list types from the extensions. Descriptions are not in the table.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Map, Value, json};

use crate::{
    kind::{Kind, Scope, Subresource},
    schema::{self, Field, Message, Topology, Type},
};

const JSON: &str = "application/json";

/// Media types of patches; strategic merge is for built-in kinds only.
const PATCHES: &[&str] =
    &["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// Query parameters and their types.
type Parameters = &'static [(&'static str, &'static str)];
const READ: Parameters = &[("pretty", "string")];
const WRITE: Parameters =
    &[("pretty", "string"), ("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
const PATCH: Parameters = &[
    ("pretty", "string"),
    ("dryRun", "string"),
    ("fieldManager", "string"),
    ("fieldValidation", "string"),
    ("force", "boolean"),
];
const DELETE: Parameters = &[
    ("pretty", "string"),
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];
const LIST: Parameters = &[
    ("pretty", "string"),
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const LOG: Parameters = &[
    ("pretty", "string"),
    ("container", "string"),
    ("follow", "boolean"),
    ("insecureSkipTLSVerifyBackend", "boolean"),
    ("limitBytes", "integer"),
    ("previous", "boolean"),
    ("sinceSeconds", "integer"),
    ("stream", "string"),
    ("tailLines", "integer"),
    ("timestamps", "boolean"),
];
const EXEC: Parameters = &[
    ("command", "string"),
    ("container", "string"),
    ("stderr", "boolean"),
    ("stdin", "boolean"),
    ("stdout", "boolean"),
    ("tty", "boolean"),
];
const ATTACH: Parameters = &[
    ("container", "string"),
    ("stderr", "boolean"),
    ("stdin", "boolean"),
    ("stdout", "boolean"),
    ("tty", "boolean"),
];
const PORT_FORWARD: Parameters = &[("ports", "integer")];
const PROXY: Parameters = &[("path", "string")];

/// The document of `group_version` (`v1`, `apps/v1`) with those of `kinds` that belong to it.
pub fn document(group_version: &str, kinds: &[Arc<Kind>]) -> Value {
    let mut document = Document { paths: Map::new(), schemas: BTreeMap::new() };
    for kind in kinds.iter().filter(|kind| kind.api_version() == group_version) {
        document.kind(kind);
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.33.0"},
        "paths": document.paths,
        "components": {"schemas": document.schemas},
    })
}

struct Document {
    paths: Map<String, Value>,
    schemas: BTreeMap<String, Value>,
}

/// The group, version and kind that an operation is about.
struct Subject {
    gvk: Value,
    schema: String,
    strategic: bool,
}

impl Document {
    fn kind(&mut self, kind: &Kind) {
        let version = kind.api_version();
        let root = if kind.group.is_empty() { "/api" } else { "/apis" };
        let plural = &kind.plural;
        let everywhere = format!("{root}/{version}/{plural}");
        let collection = match kind.scope {
            Scope::Cluster => everywhere.clone(),
            Scope::Namespaced => format!("{root}/{version}/namespaces/{{namespace}}/{plural}"),
        };
        let item = format!("{collection}/{{name}}");
        let schema = self.object_schema(kind);
        let list = self.list_schema(kind, &schema);
        let gvk = json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
        let subject = Subject { gvk, schema, strategic: schema::message(&kind.message).is_some() };
        let options = self.message_schema(schema::message("meta.v1.DeleteOptions").expect("in the table"));

        if everywhere != collection {
            self.path(&everywhere, vec![("get", operation("list", &subject, LIST, None, &list))]);
        }
        self.path(
            &collection,
            vec![
                ("get", operation("list", &subject, LIST, None, &list)),
                ("post", operation("post", &subject, WRITE, Some((JSON, &subject.schema)), &subject.schema)),
                (
                    "delete",
                    operation("deletecollection", &subject, LIST, Some((JSON, &options)), &subject.schema),
                ),
            ],
        );
        let mut operations = read_and_write(&subject);
        operations
            .push(("delete", operation("delete", &subject, DELETE, Some((JSON, &options)), &subject.schema)));
        self.path(&item, operations);
        for subresource in &kind.subresources {
            self.subresource(&item, &subject, subresource);
        }
    }

    fn subresource(&mut self, item: &str, subject: &Subject, subresource: &Subresource) {
        match subresource {
            Subresource::Status => self.path(&format!("{item}/status"), read_and_write(subject)),
            Subresource::Scale { .. } => {
                let scale = schema::message("autoscaling.v1.Scale").expect("in the table");
                let schema = self.message_schema(scale);
                let gvk = json!({"group": "autoscaling", "version": "v1", "kind": "Scale"});
                let scale = Subject { gvk, schema, strategic: true };
                self.path(&format!("{item}/scale"), read_and_write(&scale));
            }
            Subresource::Binding => self.posted(item, "binding", ("", "v1", "Binding"), "core.v1.Binding"),
            Subresource::Eviction => {
                self.posted(item, "eviction", ("policy", "v1", "Eviction"), "policy.v1.Eviction");
            }
            Subresource::Token => {
                let kind = ("authentication.k8s.io", "v1", "TokenRequest");
                self.posted(item, "token", kind, "authentication.v1.TokenRequest");
            }
            Subresource::EphemeralContainers => {
                self.path(&format!("{item}/ephemeralcontainers"), read_and_write(subject));
            }
            Subresource::Resize => self.path(&format!("{item}/resize"), read_and_write(subject)),
            Subresource::Exec => self.connected(item, "exec", "PodExecOptions", EXEC),
            Subresource::Attach => self.connected(item, "attach", "PodAttachOptions", ATTACH),
            Subresource::PortForward => {
                self.connected(item, "portforward", "PodPortForwardOptions", PORT_FORWARD);
            }
            Subresource::Proxy => {
                let kind = format!("{}ProxyOptions", subject.gvk["kind"].as_str().unwrap_or_default());
                self.connected(item, "proxy", &kind, PROXY);
                self.connected(item, "proxy/{path}", &kind, PROXY);
            }
            Subresource::Log => {
                let mut get = operation("get", subject, LOG, None, &subject.schema);
                get["responses"]["200"]["content"] = json!({"text/plain": {"schema": {"type": "string"}}});
                self.path(&format!("{item}/log"), vec![("get", get)]);
            }
        }
    }

    /// A subresource to which an object of a kind of its own is posted.
    fn posted(&mut self, item: &str, name: &str, (group, version, kind): (&str, &str, &str), message: &str) {
        let schema = self.message_schema(schema::message(message).expect("in the table"));
        let gvk = json!({"group": group, "version": version, "kind": kind});
        let subject = Subject { gvk, schema, strategic: false };
        let post = operation("post", &subject, WRITE, Some((JSON, &subject.schema)), &subject.schema);
        self.path(&format!("{item}/{name}"), vec![("post", post)]);
    }

    /// A subresource that is a connection to somewhere else; all that is known of it are its parameters.
    fn connected(&mut self, item: &str, name: &str, kind: &str, parameters: Parameters) {
        let gvk = json!({"group": "", "version": "v1", "kind": kind});
        let subject = Subject { gvk, schema: String::new(), strategic: false };
        let methods: &[&'static str] = match name.starts_with("proxy") {
            true => &["get", "put", "post", "delete", "patch"],
            false => &["get", "post"],
        };
        let operations = methods.iter().map(|method| {
            let mut operation = operation("connect", &subject, parameters, None, "");
            operation["responses"]["200"]["content"] = json!({"*/*": {"schema": {"type": "string"}}});
            (*method, operation)
        });
        self.path(&format!("{item}/{name}"), operations.collect());
    }

    fn path(&mut self, path: &str, operations: Vec<(&'static str, Value)>) {
        let named = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        let parameters = named.map(|name| {
            json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "uniqueItems": true}})
        });
        let mut item = Map::new();
        item.insert("parameters".to_owned(), parameters.collect());
        for (method, operation) in operations {
            item.insert(method.to_owned(), operation);
        }
        self.paths.insert(path.to_owned(), item.into());
    }

    /// The schema of a kind's objects. Nothing is known here of custom resources but their metadata.
    fn object_schema(&mut self, kind: &Kind) -> String {
        if let Some(message) = schema::message(&kind.message) {
            return self.message_schema(message);
        }
        let metadata = self.message_schema(schema::message("meta.v1.ObjectMeta").expect("in the table"));
        let reversed = kind.group.rsplit('.').collect::<Vec<_>>().join(".");
        let name = format!("{reversed}.{}.{}", kind.version, kind.kind);
        let schema = json!({
            "type": "object",
            "properties": {
                "apiVersion": {"type": "string"},
                "kind": {"type": "string"},
                "metadata": {"allOf": [reference(&metadata)]},
            },
            "x-kubernetes-preserve-unknown-fields": true,
            "x-kubernetes-group-version-kind": [{"group": kind.group, "version": kind.version, "kind": kind.kind}],
        });
        self.schemas.insert(name.clone(), schema);
        name
    }

    fn list_schema(&mut self, kind: &Kind, item: &str) -> String {
        let metadata = self.message_schema(schema::message("meta.v1.ListMeta").expect("in the table"));
        let name = format!("{item}List");
        let schema = json!({
            "type": "object",
            "required": ["items"],
            "properties": {
                "apiVersion": {"type": "string"},
                "kind": {"type": "string"},
                "metadata": {"allOf": [reference(&metadata)]},
                "items": {"type": "array", "items": {"allOf": [reference(item)]}},
            },
            "x-kubernetes-group-version-kind": [
                {"group": kind.group, "version": kind.version, "kind": format!("{}List", kind.kind)},
            ],
        });
        self.schemas.insert(name.clone(), schema);
        name
    }

    /// The schema of a message and of all that it holds.
    fn message_schema(&mut self, message: &Message) -> String {
        let name = schema_name(message.name);
        if self.schemas.contains_key(&name) {
            return name;
        }
        // Before the fields are looked at: messages may contain themselves.
        self.schemas.insert(name.clone(), Value::Null);
        let mut properties = Map::new();
        for field in &message.fields {
            let property = self.property(field);
            properties.insert(field.json.to_owned(), property);
        }
        let required: Vec<&str> =
            message.fields.iter().filter(|field| field.required).map(|field| field.json).collect();
        let mut schema = json!({"type": "object", "properties": properties});
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        if message.atomic {
            schema["x-kubernetes-map-type"] = json!("atomic");
        }
        if message.object {
            let (group, version) = message.api_version.rsplit_once('/').unwrap_or(("", message.api_version));
            schema["x-kubernetes-group-version-kind"] =
                json!([{"group": group, "version": version, "kind": message.short_name()}]);
        }
        self.schemas.insert(name.clone(), schema);
        name
    }

    fn property(&mut self, field: &Field) -> Value {
        let mut property = self.type_(&field.type_);
        if let Some(key) = field.merge_key {
            property["x-kubernetes-patch-merge-key"] = json!(key);
        }
        let strategy = field.strategy;
        let strategies =
            [(strategy.merge, "merge"), (strategy.replace, "replace"), (strategy.retain_keys, "retainKeys")];
        let strategies: Vec<&str> = strategies.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
        if !strategies.is_empty() {
            property["x-kubernetes-patch-strategy"] = json!(strategies.join(","));
        }
        let is_list = matches!(field.type_, Type::List(_) | Type::StringList | Type::Bytes);
        match &field.topology {
            Topology::Natural => {}
            Topology::Atomic if is_list => property["x-kubernetes-list-type"] = json!("atomic"),
            Topology::Atomic => property["x-kubernetes-map-type"] = json!("atomic"),
            Topology::Set => property["x-kubernetes-list-type"] = json!("set"),
            Topology::Map(keys) => {
                property["x-kubernetes-list-type"] = json!("map");
                property["x-kubernetes-list-map-keys"] = json!(keys);
            }
        }
        if let Some(default) = field.default {
            property["default"] = match field.type_ {
                Type::String => json!(default),
                _ => serde_json::from_str(default).unwrap_or_else(|_| json!(default)),
            };
        }
        property
    }

    fn type_(&mut self, type_: &Type) -> Value {
        match type_ {
            Type::String | Type::Duration => json!({"type": "string"}),
            Type::Bool => json!({"type": "boolean"}),
            Type::Int32 => json!({"type": "integer", "format": "int32"}),
            Type::Int64 => json!({"type": "integer", "format": "int64"}),
            Type::Double => json!({"type": "number", "format": "double"}),
            Type::Bytes => json!({"type": "string", "format": "byte"}),
            Type::Quantity => self.scalar(
                "io.k8s.apimachinery.pkg.api.resource.Quantity",
                json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            ),
            Type::IntOrString => self.scalar(
                "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
                json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
            ),
            Type::Time => self.scalar(
                "io.k8s.apimachinery.pkg.apis.meta.v1.Time",
                json!({"type": "string", "format": "date-time"}),
            ),
            Type::MicroTime => self.scalar(
                "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime",
                json!({"type": "string", "format": "date-time"}),
            ),
            Type::Json => json!({"x-kubernetes-preserve-unknown-fields": true}),
            Type::StringList => json!({"type": "array", "items": {"type": "string"}}),
            Type::SchemaOrArray | Type::SchemaOrBool | Type::SchemaOrStrings => {
                json!({"description": "JSON Schema, or what may stand for one."})
            }
            Type::Message(message) => {
                let name = self.message_schema(message.get());
                json!({"allOf": [reference(&name)]})
            }
            Type::List(item) => json!({"type": "array", "items": self.type_(item)}),
            Type::Map(item) => json!({"type": "object", "additionalProperties": self.type_(item)}),
        }
    }

    /// A scalar that Kubernetes gives a name.
    fn scalar(&mut self, name: &str, schema: Value) -> Value {
        self.schemas.entry(name.to_owned()).or_insert(schema);
        json!({"allOf": [reference(name)]})
    }
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// `core.v1.Pod` is `io.k8s.api.core.v1.Pod`.
fn schema_name(message: &str) -> String {
    let home = match message.split('.').next() {
        Some("meta") => "io.k8s.apimachinery.pkg.apis",
        Some("apiextensions") => "io.k8s.apiextensions-apiserver.pkg.apis",
        _ => "io.k8s.api",
    };
    format!("{home}.{message}")
}

fn read_and_write(subject: &Subject) -> Vec<(&'static str, Value)> {
    let mut patch = operation("patch", subject, PATCH, None, &subject.schema);
    let strategic = subject.strategic.then_some(STRATEGIC);
    let bodies: Map<String, Value> = PATCHES
        .iter()
        .copied()
        .chain(strategic)
        .map(|media_type| (media_type.to_owned(), json!({"schema": {"type": "object"}})))
        .collect();
    patch["requestBody"] = json!({"content": bodies, "required": true});
    vec![
        ("get", operation("get", subject, READ, None, &subject.schema)),
        ("put", operation("put", subject, WRITE, Some((JSON, &subject.schema)), &subject.schema)),
        ("patch", patch),
    ]
}

fn operation(
    action: &str,
    subject: &Subject,
    parameters: Parameters,
    body: Option<(&str, &str)>,
    answer: &str,
) -> Value {
    let parameters: Vec<Value> = parameters
        .iter()
        .map(|(name, type_)| {
            json!({"name": name, "in": "query", "schema": {"type": type_, "uniqueItems": true}})
        })
        .collect();
    let mut operation = json!({
        "parameters": parameters,
        "responses": {"200": {"description": "OK", "content": {JSON: {"schema": reference(answer)}}}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": subject.gvk,
    });
    if let Some((media_type, schema)) = body {
        operation["requestBody"] = json!({"content": {media_type: {"schema": reference(schema)}}});
    }
    operation
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::kind;

    fn kinds() -> Vec<Arc<Kind>> {
        let scale =
            Subresource::Scale { spec_replicas: "".into(), status_replicas: "".into(), selector: "".into() };
        let mut pod = kind("", "Pod", "pods", "core.v1.Pod");
        pod.subresources = vec![Subresource::Status, Subresource::Binding, Subresource::Log, scale];
        let mut node = kind("", "Node", "nodes", "core.v1.Node");
        node.scope = Scope::Cluster;
        let crd = "apiextensions.v1.CustomResourceDefinition";
        vec![
            Arc::new(pod),
            Arc::new(node),
            Arc::new(kind("example.com", "Widget", "widgets", "")),
            Arc::new(kind("apiextensions.k8s.io", "CustomResourceDefinition", "crds", crd)),
        ]
    }

    /// What kubectl's verifier does before `apply`.
    fn knows_field_validation(document: &Value, gvk: &Value) -> bool {
        let paths = document["paths"].as_object().unwrap();
        paths.values().filter_map(|path| path.get("patch")).any(|patch| {
            patch["x-kubernetes-group-version-kind"] == *gvk
                && patch["parameters"].as_array().unwrap().iter().any(|p| p["name"] == "fieldValidation")
        })
    }

    #[test]
    fn kubectl_finds_field_validation() {
        let kinds = kinds();
        let core = document("v1", &kinds);
        assert!(knows_field_validation(&core, &json!({"group": "", "version": "v1", "kind": "Pod"})));
        assert!(knows_field_validation(&core, &json!({"group": "", "version": "v1", "kind": "Node"})));
        let gvk = json!({"group": "example.com", "version": "v1", "kind": "Widget"});
        assert!(!knows_field_validation(&core, &gvk));
        assert!(knows_field_validation(&document("example.com/v1", &kinds), &gvk));
    }

    #[test]
    fn paths_and_schemas() {
        let core = document("v1", &kinds());
        let paths: Vec<_> = core["paths"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(
            paths,
            [
                "/api/v1/namespaces/{namespace}/pods",
                "/api/v1/namespaces/{namespace}/pods/{name}",
                "/api/v1/namespaces/{namespace}/pods/{name}/binding",
                "/api/v1/namespaces/{namespace}/pods/{name}/log",
                "/api/v1/namespaces/{namespace}/pods/{name}/scale",
                "/api/v1/namespaces/{namespace}/pods/{name}/status",
                "/api/v1/nodes",
                "/api/v1/nodes/{name}",
                "/api/v1/pods",
            ]
        );
        let schemas = &core["components"]["schemas"];
        let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(
            *containers,
            json!({
                "type": "array",
                "items": {"allOf": [{"$ref": "#/components/schemas/io.k8s.api.core.v1.Container"}]},
                "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "x-kubernetes-patch-merge-key": "name", "x-kubernetes-patch-strategy": "merge",
            })
        );
        assert_eq!(
            schemas["io.k8s.api.core.v1.Pod"]["x-kubernetes-group-version-kind"],
            json!([{"group": "", "version": "v1", "kind": "Pod"}])
        );
        assert_eq!(schemas["io.k8s.api.core.v1.Container"]["required"], json!(["name"]));
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn check(value: &Value, schemas: &Value) {
            match value {
                Value::Object(map) => map.iter().for_each(|(name, value)| match (name.as_str(), value) {
                    ("$ref", Value::String(target)) => {
                        let name = target.strip_prefix("#/components/schemas/").unwrap();
                        assert!(schemas[name].is_object(), "{target}");
                    }
                    _ => check(value, schemas),
                }),
                Value::Array(items) => items.iter().for_each(|item| check(item, schemas)),
                _ => {}
            }
        }
        for group_version in ["v1", "example.com/v1", "apiextensions.k8s.io/v1"] {
            let document = document(group_version, &kinds());
            check(&document, &document["components"]["schemas"]);
        }
    }
}
