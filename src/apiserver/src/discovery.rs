//! Discovery: which groups, versions, resources and verbs there are, plain and aggregated.

use std::sync::Arc;

use axum::response::Response;
use bytes::Bytes;
use coracle_api::{Kind, Scope, Subresource};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    core::Core,
    delete, negotiation,
    registry::{Catalogue, Document},
    respond,
    virtuals::{self, Virtual},
};

/// The version of Kubernetes whose API is served, and ours behind it.
pub const GIT_VERSION: &str = concat!("v1.33.0+coracle.", env!("CARGO_PKG_VERSION"));
/// What can be done with objects.
const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

const PLAIN: &str = "application/json";
const AGGREGATED_V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const AGGREGATED_V2BETA1: &str = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

/// The verbs on objects of a kind.
fn verbs(kind: &Kind) -> Vec<&'static str> {
    let missing = |verb: &str| verb == "deletecollection" && delete::is_namespace(kind);
    VERBS.iter().copied().filter(|verb| !missing(verb)).collect()
}

/// `/version`.
pub(crate) fn version() -> Response {
    let version = json!({
        "major": "1",
        "minor": "33",
        "emulationMajor": "1",
        "emulationMinor": "33",
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "32",
        "gitVersion": GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, architecture()),
    });
    respond::value_response(StatusCode::OK, negotiation::Media::Json, &version)
}

/// The processor as Go names it, which is what clients know.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Answers discovery paths; `None` for other paths.
pub(crate) fn respond(core: &Arc<Core>, path: &str, headers: &HeaderMap) -> Option<Response> {
    let catalogue = core.registry.catalogue();
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let plain = |name: &str, value: Option<Value>| {
        let value = value?;
        Some(respond_document(&catalogue.document(name, || document(&value)), PLAIN, headers))
    };
    match segments.as_slice() {
        [root @ ("api" | "apis")] => {
            if let Some((content_type, version)) = aggregated_asked(headers) {
                let core_group = *root == "api";
                let name = format!("aggregated/{root}/{version}");
                let found =
                    catalogue.document(&name, || document(&aggregated(&catalogue, core_group, version)));
                return Some(vary(respond_document(&found, content_type, headers)));
            }
            let value = if *root == "api" { versions(&catalogue) } else { groups(&catalogue) };
            plain(root, Some(value)).map(vary)
        }
        ["api", version] => plain(&format!("api/{version}"), resources(&catalogue, "", version)),
        ["apis", group] => plain(&format!("apis/{group}"), group_of(&catalogue, group)),
        ["apis", group, version] => {
            plain(&format!("apis/{group}/{version}"), resources(&catalogue, group, version))
        }
        _ => None,
    }
}

/// The aggregated form that the client prefers to the plain one, if any.
fn aggregated_asked(headers: &HeaderMap) -> Option<(&'static str, &'static str)> {
    negotiation::clauses(headers).iter().find_map(|clause| {
        match (clause.media, clause.as_, clause.group, clause.version) {
            ("application/json", "APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => {
                Some(Some((AGGREGATED_V2, "v2")))
            }
            ("application/json", "APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2beta1") => {
                Some(Some((AGGREGATED_V2BETA1, "v2beta1")))
            }
            ("application/json" | "*/*" | "application/*", "", _, _) => Some(None),
            _ => None,
        }
    })?
}

/// A document and its hash.
pub(crate) fn document(value: &Value) -> Document {
    let bytes = serde_json::to_vec(value).expect("a JSON value serialises");
    let hash = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02X}")).collect();
    Document { bytes: Bytes::from(bytes), hash }
}

/// A document with its `ETag`, or 304 if the client has it.
pub(crate) fn respond_document(
    document: &Document,
    content_type: &'static str,
    headers: &HeaderMap,
) -> Response {
    let etag = format!("\"{}\"", document.hash);
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let mut response = if known.is_some_and(|known| known.contains(&etag)) {
        respond::bytes_response(StatusCode::NOT_MODIFIED, content_type, Bytes::new())
    } else {
        respond::bytes_response(StatusCode::OK, content_type, document.bytes.clone())
    };
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
    response
}

fn vary(mut response: Response) -> Response {
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

/// `/api`.
fn versions(catalogue: &Catalogue) -> Value {
    let groups = virtuals::groups(catalogue.groups());
    let versions = groups.iter().find(|(group, _)| group.is_empty()).map(|(_, versions)| versions.clone());
    json!({
        "kind": "APIVersions",
        "versions": versions.unwrap_or_default(),
        "serverAddressByClientCIDRs": [],
    })
}

/// `/apis`.
fn groups(catalogue: &Catalogue) -> Value {
    let groups = virtuals::groups(catalogue.groups());
    let named = groups.iter().filter(|(group, _)| !group.is_empty());
    let groups: Vec<Value> = named.map(|(group, versions)| group_value(group, versions)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/{group}`.
fn group_of(catalogue: &Catalogue, wanted: &str) -> Option<Value> {
    let groups = virtuals::groups(catalogue.groups());
    let (group, versions) = groups.iter().find(|(group, _)| *group == wanted && !group.is_empty())?;
    let mut value = group_value(group, versions);
    value["kind"] = json!("APIGroup");
    value["apiVersion"] = json!("v1");
    Some(value)
}

fn group_value(group: &str, versions: &[&str]) -> Value {
    let version = |version: &str| json!({"groupVersion": format!("{group}/{version}"), "version": version});
    let all: Vec<Value> = versions.iter().map(|v| version(v)).collect();
    json!({"name": group, "versions": all, "preferredVersion": all.first()})
}

/// `/api/v1` and `/apis/{group}/{version}`.
fn resources(catalogue: &Catalogue, group: &str, version: &str) -> Option<Value> {
    let kinds = catalogue.kinds(group, version);
    let unstored: Vec<_> = virtuals::of(group, version).collect();
    if kinds.is_empty() && unstored.is_empty() {
        return None;
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let names = |found: &'static Virtual| match found.subresources {
        [] => vec![(found, found.plural.to_owned())],
        below => below.iter().map(|name| (found, format!("{}/{name}", found.plural))).collect(),
    };
    let mut list: Vec<Value> = unstored
        .into_iter()
        .flat_map(names)
        .map(|(found, name)| {
            json!({
                "name": name,
                "singularName": found.singular,
                "namespaced": found.namespaced,
                "kind": found.kind,
                "verbs": found.verbs,
            })
        })
        .collect();
    for kind in kinds {
        let namespaced = kind.scope == Scope::Namespaced;
        let mut entry = json!({
            "name": kind.plural,
            "singularName": kind.singular,
            "namespaced": namespaced,
            "kind": kind.kind,
            "verbs": verbs(kind),
            "storageVersionHash": &document(&json!([kind.storage, kind.version, kind.kind])).hash[..11],
        });
        if !kind.short_names.is_empty() {
            entry["shortNames"] = json!(kind.short_names);
        }
        if !kind.categories.is_empty() {
            entry["categories"] = json!(kind.categories);
        }
        list.push(entry);
        for sub in subresources(kind) {
            let mut entry = json!({
                "name": format!("{}/{}", kind.plural, sub.name),
                "singularName": "",
                "namespaced": namespaced,
                "kind": sub.kind.2,
                "verbs": sub.verbs,
            });
            if sub.kind.0 != kind.group || sub.kind.1 != kind.version {
                entry["group"] = json!(sub.kind.0);
                entry["version"] = json!(sub.kind.1);
            }
            list.push(entry);
        }
    }
    list.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    Some(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list}),
    )
}

/// `/api` or `/apis` with everything below in one document.
fn aggregated(catalogue: &Catalogue, core_group: bool, api_version: &str) -> Value {
    let groups = virtuals::groups(catalogue.groups());
    let wanted = groups.iter().filter(|(group, _)| group.is_empty() == core_group);
    let items: Vec<Value> = wanted
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|version| {
                    let resources = catalogue.kinds(group, version);
                    let resources = resources.into_iter().map(|kind| aggregated_kind(kind));
                    let resources = resources.chain(virtuals::of(group, version).map(aggregated_virtual));
                    json!({
                        "version": version,
                        "freshness": "Current",
                        "resources": resources.collect::<Vec<_>>(),
                    })
                })
                .collect();
            let mut metadata = json!({"creationTimestamp": null});
            if !group.is_empty() {
                metadata["name"] = json!(group);
            }
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{api_version}"),
        "metadata": {},
        "items": items,
    })
}

fn aggregated_kind(kind: &Kind) -> Value {
    let response = |(group, version, kind): (&str, &str, &str)| json!({"group": group, "version": version, "kind": kind});
    let mut entry = json!({
        "resource": kind.plural,
        "responseKind": response((&kind.group, &kind.version, &kind.kind)),
        "scope": if kind.scope == Scope::Namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": verbs(kind),
    });
    if !kind.short_names.is_empty() {
        entry["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        entry["categories"] = json!(kind.categories);
    }
    let subresources: Vec<Value> = subresources(kind)
        .map(|sub| json!({"subresource": sub.name, "responseKind": response(sub.kind), "verbs": sub.verbs}))
        .collect();
    if !subresources.is_empty() {
        entry["subresources"] = json!(subresources);
    }
    entry
}

fn aggregated_virtual(found: &Virtual) -> Value {
    let response = json!({"group": found.group, "version": found.version, "kind": found.kind});
    let mut entry = json!({
        "resource": found.plural,
        "responseKind": response,
        "scope": if found.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": found.singular,
        "verbs": found.verbs,
    });
    if !found.subresources.is_empty() {
        let subresources = found.subresources.iter();
        let subresources = subresources
            .map(|name| json!({"subresource": name, "responseKind": response, "verbs": found.verbs}));
        entry["verbs"] = json!([]);
        entry["subresources"] = subresources.collect();
    }
    entry
}

/// A subresource as discovery tells it.
struct Described<'a> {
    name: &'static str,
    /// Group, version and kind of what it answers.
    kind: (&'a str, &'a str, &'a str),
    verbs: &'static [&'static str],
}

/// A subresource that is an upgraded connection.
fn connected<'a>(name: &'static str, kind: (&'a str, &'a str, &'a str)) -> Described<'a> {
    Described { name, kind, verbs: &["create", "get"] }
}

fn subresources(kind: &Kind) -> impl Iterator<Item = Described<'_>> {
    let own = (&*kind.group, &*kind.version, &*kind.kind);
    let declared = kind.subresources.iter().map(move |subresource| match subresource {
        Subresource::Status => Described { name: "status", kind: own, verbs: &["get", "patch", "update"] },
        Subresource::Scale { .. } => Described {
            name: "scale",
            kind: ("autoscaling", "v1", "Scale"),
            verbs: &["get", "patch", "update"],
        },
        Subresource::Binding => {
            Described { name: "binding", kind: (own.0, own.1, "Binding"), verbs: &["create"] }
        }
        Subresource::Log => Described { name: "log", kind: own, verbs: &["get"] },
        Subresource::Exec => connected("exec", (own.0, own.1, "PodExecOptions")),
        Subresource::Attach => connected("attach", (own.0, own.1, "PodAttachOptions")),
        Subresource::PortForward => connected("portforward", (own.0, own.1, "PodPortForwardOptions")),
        Subresource::Proxy => {
            let options = match own.2 {
                "Pod" => "PodProxyOptions",
                "Service" => "ServiceProxyOptions",
                _ => "NodeProxyOptions",
            };
            let verbs = &["create", "delete", "get", "patch", "update"];
            Described { name: "proxy", kind: (own.0, own.1, options), verbs }
        }
        Subresource::Eviction => {
            Described { name: "eviction", kind: ("policy", "v1", "Eviction"), verbs: &["create"] }
        }
        Subresource::EphemeralContainers => {
            Described { name: "ephemeralcontainers", kind: own, verbs: &["get", "patch", "update"] }
        }
        Subresource::Resize => Described { name: "resize", kind: own, verbs: &["get", "patch", "update"] },
        Subresource::Token => Described {
            name: "token",
            kind: ("authentication.k8s.io", "v1", "TokenRequest"),
            verbs: &["create"],
        },
    });
    let finalize =
        delete::is_namespace(kind).then_some(Described { name: "finalize", kind: own, verbs: &["update"] });
    declared.chain(finalize)
}
