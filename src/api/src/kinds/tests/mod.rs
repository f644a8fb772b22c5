//! What all tests of kinds share: one valid object per kind, and checks that say what differs from it.

#![allow(clippy::needless_pass_by_value, reason = "a table of cases reads better with plain literals")]

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{FieldCause, Kind, schema};

mod apps;
mod autoscaling;
mod batch;
mod defaults;
mod networking;
mod policy;
mod properties;
mod rules;
mod storage;
mod tables;

/// The time at which every test happens.
const NOW: &str = "2026-01-01T12:00:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

/// The kind served under this name: `group/plural` outside the core group, `group/version/plural` for
/// other versions than `v1`.
#[track_caller]
fn kind(name: &str) -> &'static Kind {
    let (group, plural) = name.rsplit_once('/').unwrap_or(("", name));
    let (group, version) = group.rsplit_once('/').unwrap_or((group, "v1"));
    super::find(group, version, plural).unwrap_or_else(|| panic!("no kind {name}"))
}

/// A valid object of each kind, as a user might write it.
fn valid(kind: &Kind) -> Value {
    let mut object = match (&*kind.group, &*kind.plural) {
        ("", "configmaps") => json!({"data": {"a.txt": "x"}, "binaryData": {"b": "AAAA"}}),
        ("", "endpoints") => json!({"subsets": [{
            "addresses": [{"ip": "10.128.0.1", "nodeName": "n1"}],
            "ports": [{"name": "http", "port": 80}],
        }]}),
        ("", "events") => json!({
            "involvedObject": {"kind": "Pod", "namespace": "default", "name": "web"},
            "reason": "Started", "message": "Started container web", "type": "Normal",
        }),
        ("", "namespaces") => json!({}),
        ("", "nodes") => json!({"spec": {"podCIDR": "10.128.0.0/18"}, "status": {"capacity": {"cpu": "2"}}}),
        ("", "pods") => json!({"spec": {"containers": [{"name": "web", "image": "registry.local/web:1"}]}}),
        ("", "replicationcontrollers") => json!({"spec": {"template": template()}}),
        ("", "secrets") => json!({"stringData": {"password": "x"}}),
        ("", "serviceaccounts") => json!({}),
        ("", "services") => json!({"spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}}),
        ("apps", "daemonsets" | "deployments" | "replicasets" | "statefulsets") => json!({"spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": template(),
        }}),
        ("apps", "controllerrevisions") => json!({"revision": 1, "data": {"spec": {"template": {}}}}),
        ("", "persistentvolumeclaims") => json!({"spec": {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
        }}),
        ("", "persistentvolumes") => json!({"spec": {
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
            "csi": {"driver": "example.com", "volumeHandle": "web"},
        }}),
        ("", "limitranges") => json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}}]}}),
        ("", "podtemplates") => json!({"template": template()}),
        ("", "resourcequotas") => json!({"spec": {"hard": {"pods": "10", "limits.cpu": "4"}}}),
        ("autoscaling", "horizontalpodautoscalers") => json!({"spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}, "maxReplicas": 5,
        }}),
        ("networking.k8s.io", "networkpolicies") => json!({"spec": {
            "podSelector": {"matchLabels": {"app": "web"}},
            "ingress": [{"from": [{"podSelector": {}}], "ports": [{"port": 80}]}],
        }}),
        ("policy", "poddisruptionbudgets") => json!({"spec": {
            "minAvailable": 1, "selector": {"matchLabels": {"app": "web"}},
        }}),
        ("scheduling.k8s.io", "priorityclasses") => json!({"value": 1000}),
        ("storage.k8s.io", "storageclasses") => json!({"provisioner": "coracle.dev/local"}),
        ("batch", "jobs") => json!({"spec": {"template": finite_template()}}),
        ("batch", "cronjobs") => json!({"spec": {
            "schedule": "*/5 * * * *",
            "jobTemplate": {"spec": {"template": finite_template()}},
        }}),
        ("coordination.k8s.io", "leases") => {
            json!({"spec": {"holderIdentity": "n1", "leaseDurationSeconds": 40}})
        }
        ("discovery.k8s.io", "endpointslices") => json!({
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.128.0.1"]}],
            "ports": [{"port": 80}],
        }),
        ("events.k8s.io", "events") => json!({
            "regarding": {"kind": "Pod", "namespace": "default", "name": "web"},
            "eventTime": "2026-01-01T11:59:00.000000Z",
            "reportingController": "kubelet", "reportingInstance": "n1", "action": "Starting",
            "reason": "Started", "note": "Started container web", "type": "Normal",
        }),
        (group, plural) => panic!("a valid {plural}.{group} is missing here"),
    };
    object["apiVersion"] = kind.api_version().into();
    object["kind"] = (&*kind.kind).into();
    object["metadata"] = json!({"name": "web", "uid": "1", "creationTimestamp": "2026-01-01T11:00:00Z"});
    if kind.scope == crate::Scope::Namespaced {
        object["metadata"]["namespace"] = "default".into();
    }
    object
}

/// A template of pods with one container.
fn template() -> Value {
    json!({
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "web", "image": "registry.local/web:1"}]},
    })
}

/// A template of pods that end.
fn finite_template() -> Value {
    let mut template = template();
    template["spec"]["restartPolicy"] = "Never".into();
    template
}

/// The kind's valid object with `patch` merged in (JSON merge patch: `null` removes).
fn changed(kind: &Kind, patch: &Value) -> Value {
    let mut object = valid(kind);
    json_patch::merge(&mut object, patch);
    object
}

/// What the pipeline makes of a request to create: schema, defaults, preparation.
#[track_caller]
fn created(kind: &Kind, mut object: Value) -> Value {
    let problems = schema::conform(kind, &mut object).unwrap();
    assert!(problems.is_empty(), "{problems:?}");
    kind.hooks.default(&mut object);
    kind.hooks.prepare_create(&mut object, now());
    object
}

/// What the pipeline makes of a request to replace `old`.
#[track_caller]
fn updated(kind: &Kind, mut object: Value, old: &Value) -> Value {
    schema::conform(kind, &mut object).unwrap();
    if kind.has_status() {
        object["status"] = old["status"].clone();
    }
    kind.hooks.default(&mut object);
    kind.hooks.prepare_update(&mut object, old);
    object
}

/// `field: message` per cause.
fn lines(causes: &[FieldCause]) -> Vec<String> {
    causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
}
