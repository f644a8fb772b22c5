//! The objects of the fake API and what the verbs do to them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::patch;
use crate::{Key, clock};

/// `(group, version, plural, kind, namespaced)` of what is served.
pub(super) const KINDS: &[(&str, &str, &str, &str, bool)] = &[
    ("", "v1", "configmaps", "ConfigMap", true),
    ("", "v1", "endpoints", "Endpoints", true),
    ("", "v1", "events", "Event", true),
    ("", "v1", "namespaces", "Namespace", false),
    ("", "v1", "nodes", "Node", false),
    ("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", true),
    ("", "v1", "persistentvolumes", "PersistentVolume", false),
    ("", "v1", "pods", "Pod", true),
    ("", "v1", "replicationcontrollers", "ReplicationController", true),
    ("", "v1", "resourcequotas", "ResourceQuota", true),
    ("", "v1", "secrets", "Secret", true),
    ("", "v1", "serviceaccounts", "ServiceAccount", true),
    ("", "v1", "services", "Service", true),
    ("apps", "v1", "controllerrevisions", "ControllerRevision", true),
    ("apps", "v1", "daemonsets", "DaemonSet", true),
    ("apps", "v1", "deployments", "Deployment", true),
    ("apps", "v1", "replicasets", "ReplicaSet", true),
    ("apps", "v1", "statefulsets", "StatefulSet", true),
    ("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", true),
    ("batch", "v1", "cronjobs", "CronJob", true),
    ("batch", "v1", "jobs", "Job", true),
    ("coordination.k8s.io", "v1", "leases", "Lease", true),
    ("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", true),
    ("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", true),
    ("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", true),
    ("storage.k8s.io", "v1", "storageclasses", "StorageClass", false),
];

/// A refused call: what becomes a `Status`.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// HTTP status code.
    pub code: u16,
    /// Kubernetes' reason.
    pub reason: &'static str,
    /// Text.
    pub message: String,
    /// `details.causes[0].reason`, if any.
    pub cause: Option<&'static str>,
}

pub(super) struct Change {
    pub(super) revision: u64,
    pub(super) plural: String,
    pub(super) type_: &'static str,
    pub(super) object: Value,
}

pub(super) struct World {
    objects: BTreeMap<(String, Key), Value>,
    history: Vec<Change>,
    revision: u64,
    compacted: u64,
    serial: u64,
}

type Outcome = Result<Value, Refusal>;

impl Refusal {
    pub(super) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Refusal { code, reason, message: message.into(), cause: None }
    }
}

impl World {
    pub(super) fn new() -> Self {
        World { objects: BTreeMap::new(), history: Vec::new(), revision: 1, compacted: 0, serial: 0 }
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn compact(&mut self) {
        self.compacted = self.revision;
        self.history.clear();
    }

    pub(super) fn get(&self, plural: &str, key: &Key) -> Option<&Value> {
        self.objects.get(&(plural.to_owned(), key.clone()))
    }

    pub(super) fn list(&self, plural: &str) -> Vec<&Value> {
        let first = (plural.to_owned(), Key::default());
        self.objects
            .range(first..)
            .take_while(|((of, _), _)| of == plural)
            .map(|(_, object)| object)
            .collect()
    }

    /// Changes of a kind after `from`; 410 if they are no longer known.
    pub(super) fn changes(&self, plural: &str, from: u64) -> Result<Vec<&Change>, Refusal> {
        if from < self.compacted {
            return Err(Refusal::new(410, "Expired", format!("too old resource version: {from}")));
        }
        let start = self.history.partition_point(|change| change.revision <= from);
        Ok(self.history[start..].iter().filter(|change| change.plural == plural).collect())
    }

    pub(super) fn create_any(&mut self, object: Value) -> Outcome {
        let kind = object["kind"].as_str().unwrap_or_default().to_owned();
        let found = KINDS.iter().find(|(_, _, _, name, _)| *name == kind);
        let (_, _, plural, _, _) =
            found.ok_or_else(|| Refusal::new(404, "NotFound", format!("no kind {kind}")))?;
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        self.create(plural, &namespace, object)
    }

    pub(super) fn create(&mut self, plural: &str, namespace: &str, mut object: Value) -> Outcome {
        self.serial += 1;
        let meta = &mut object["metadata"];
        if meta["name"].as_str().unwrap_or_default().is_empty() {
            let prefix = meta["generateName"].as_str().unwrap_or_default();
            meta["name"] = json!(format!("{prefix}{:05}", self.serial));
        }
        let key = Key::new(namespace, meta["name"].as_str().unwrap_or_default());
        if self.get(plural, &key).is_some() {
            let message = format!("{plural} \"{}\" already exists", key.name);
            return Err(Refusal::new(409, "AlreadyExists", message));
        }
        let home = self.get("namespaces", &Key::cluster(namespace));
        if home.is_some_and(|home| !home["metadata"]["deletionTimestamp"].is_null()) {
            let message = format!(
                "{plural} \"{}\" is forbidden: unable to create new content in namespace {namespace} because it is being terminated",
                key.name
            );
            return Err(Refusal {
                cause: Some("NamespaceTerminating"),
                ..Refusal::new(403, "Forbidden", message)
            });
        }
        let meta = &mut object["metadata"];
        if !namespace.is_empty() {
            meta["namespace"] = json!(namespace);
        }
        if meta["uid"].is_null() {
            meta["uid"] = json!(format!("00000000-0000-0000-0000-{:012x}", self.serial));
        }
        if meta["creationTimestamp"].is_null() {
            meta["creationTimestamp"] = json!(clock::time());
        }
        meta["generation"] = json!(1);
        match plural {
            "namespaces" if object["spec"]["finalizers"].is_null() => {
                object["spec"]["finalizers"] = json!(["kubernetes"]);
                object["status"]["phase"] = json!("Active");
            }
            "pods" if object["status"]["phase"].is_null() => object["status"]["phase"] = json!("Pending"),
            _ => {}
        }
        Ok(self.store(plural, key, object, "ADDED"))
    }

    /// Replaces an object. `part` is what the request may change.
    pub(super) fn update(&mut self, plural: &str, key: &Key, part: Part, mut new: Value) -> Outcome {
        let old = self.require(plural, key)?.clone();
        let wanted = &new["metadata"]["resourceVersion"];
        if !wanted.is_null() && *wanted != "" && *wanted != old["metadata"]["resourceVersion"] {
            let message = format!(
                "Operation cannot be fulfilled on {plural} \"{}\": the object has been modified; please apply your changes to the latest version and try again",
                key.name
            );
            return Err(Refusal::new(409, "Conflict", message));
        }
        match part {
            Part::Status => {
                let mut whole = old;
                whole["status"] = new["status"].take();
                new = whole;
            }
            Part::Finalize => {
                let mut whole = old;
                whole["spec"]["finalizers"] = new["spec"]["finalizers"].take();
                new = whole;
            }
            Part::Main => {
                new["status"] = old["status"].clone();
                if new["status"].is_null()
                    && let Some(map) = new.as_object_mut()
                {
                    map.remove("status");
                }
                for field in ["uid", "creationTimestamp", "deletionTimestamp", "generation"] {
                    new["metadata"][field] = old["metadata"][field].clone();
                }
                if new["spec"] != old["spec"] {
                    new["metadata"]["generation"] =
                        json!(old["metadata"]["generation"].as_u64().unwrap_or(0) + 1);
                }
            }
        }
        self.put_whole(plural, key, new)
    }

    /// Stores an object as it is; if it was only waiting for finalizers that are gone, it goes.
    pub(super) fn put_whole(&mut self, plural: &str, key: &Key, new: Value) -> Outcome {
        let old = self.require(plural, key)?;
        let same = {
            let (mut a, mut b) = (old.clone(), new.clone());
            a["metadata"]["resourceVersion"] = Value::Null;
            b["metadata"]["resourceVersion"] = Value::Null;
            prune(&mut a);
            prune(&mut b);
            a == b
        };
        if same {
            return Ok(old.clone());
        }
        let deleted = !new["metadata"]["deletionTimestamp"].is_null();
        let waits = !is_empty(&new["metadata"]["finalizers"])
            || !is_empty(&new["spec"]["finalizers"])
            || !matches!(new["metadata"]["deletionGracePeriodSeconds"].as_i64(), None | Some(0));
        if deleted && !waits {
            self.objects.remove(&(plural.to_owned(), key.clone()));
            return Ok(self.record(plural, new, "DELETED"));
        }
        Ok(self.store(plural, key.clone(), new, "MODIFIED"))
    }

    pub(super) fn patch(
        &mut self,
        plural: &str,
        key: &Key,
        part: Part,
        strategic: bool,
        change: &Value,
    ) -> Outcome {
        let mut new = self.require(plural, key)?.clone();
        let uid = &change["metadata"]["uid"];
        if !uid.is_null() && *uid != new["metadata"]["uid"] {
            return Err(Refusal::new(409, "Conflict", "the uid in the precondition is not the object's"));
        }
        if strategic {
            patch::strategic(&mut new, change);
        } else {
            patch::merge(&mut new, change);
        }
        self.update(plural, key, part, new)
    }

    /// The scale of an object that has replicas.
    pub(super) fn scale(&self, plural: &str, key: &Key) -> Outcome {
        let object = self.require(plural, key)?;
        if object["spec"]["replicas"].is_null() {
            return Err(Refusal::new(404, "NotFound", "the server could not find the requested resource"));
        }
        let labels = object["spec"]["selector"]["matchLabels"].as_object();
        let selector: Vec<String> = labels
            .into_iter()
            .flatten()
            .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
            .collect();
        let meta = &object["metadata"];
        Ok(json!({
            "kind": "Scale", "apiVersion": "autoscaling/v1",
            "metadata": {
                "name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"],
                "resourceVersion": meta["resourceVersion"],
            },
            "spec": { "replicas": object["spec"]["replicas"] },
            "status": {
                "replicas": object["status"]["replicas"].as_i64().unwrap_or(0),
                "selector": selector.join(","),
            },
        }))
    }

    pub(super) fn set_scale(&mut self, plural: &str, key: &Key, scale: &Value) -> Outcome {
        self.scale(plural, key)?;
        let mut object = self.require(plural, key)?.clone();
        object["spec"]["replicas"] = scale["spec"]["replicas"].clone();
        object["metadata"]["resourceVersion"] = scale["metadata"]["resourceVersion"].clone();
        self.update(plural, key, Part::Main, object)?;
        self.scale(plural, key)
    }

    pub(super) fn bind(&mut self, key: &Key, binding: &Value) -> Outcome {
        let mut pod = self.require("pods", key)?.clone();
        if !pod["spec"]["nodeName"].is_null() {
            let message = format!("pod {} is already assigned to node {}", key.name, pod["spec"]["nodeName"]);
            return Err(Refusal::new(409, "Conflict", message));
        }
        pod["spec"]["nodeName"] = binding["target"]["name"].clone();
        self.put_whole("pods", key, pod)?;
        Ok(json!({"kind": "Status", "apiVersion": "v1", "status": "Success", "code": 201}))
    }

    pub(super) fn delete(&mut self, plural: &str, key: &Key, options: &Value) -> Outcome {
        let mut object = self.require(plural, key)?.clone();
        for field in ["uid", "resourceVersion"] {
            let wanted = &options["preconditions"][field];
            if !wanted.is_null() && *wanted != object["metadata"][field] {
                return Err(Refusal::new(409, "Conflict", format!("Precondition failed: {field}")));
            }
        }
        let meta = &mut object["metadata"];
        let mut finalizers: Vec<Value> = meta["finalizers"].as_array().cloned().unwrap_or_default();
        let asked = match options["propagationPolicy"].as_str() {
            Some("Orphan") => Some("orphan"),
            Some("Foreground") => Some("foregroundDeletion"),
            _ => None,
        };
        if let Some(asked) = asked.map(|name| json!(name))
            && !finalizers.contains(&asked)
        {
            finalizers.push(asked);
        }
        if !finalizers.is_empty() {
            meta["finalizers"] = json!(finalizers);
        }
        if meta["deletionTimestamp"].is_null() {
            meta["deletionTimestamp"] = json!(clock::time());
        }
        if plural == "pods" {
            let asked = options["gracePeriodSeconds"].as_i64();
            let assigned = object["spec"]["nodeName"].is_string();
            let running = !matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
            let grace = if assigned && running { asked.unwrap_or(30) } else { 0 };
            object["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        }
        if plural == "namespaces" {
            object["status"]["phase"] = json!("Terminating");
        }
        if self.get(plural, key) == Some(&object) {
            return Ok(object);
        }
        self.put_whole(plural, key, object)
    }

    pub(super) fn remove(&mut self, plural: &str, key: &Key) -> Outcome {
        let object = self.require(plural, key)?.clone();
        self.objects.remove(&(plural.to_owned(), key.clone()));
        Ok(self.record(plural, object, "DELETED"))
    }

    fn require(&self, plural: &str, key: &Key) -> Result<&Value, Refusal> {
        self.get(plural, key)
            .ok_or_else(|| Refusal::new(404, "NotFound", format!("{plural} \"{}\" not found", key.name)))
    }

    fn store(&mut self, plural: &str, key: Key, object: Value, type_: &'static str) -> Value {
        let stored = self.record(plural, object, type_);
        self.objects.insert((plural.to_owned(), key), stored.clone());
        stored
    }

    fn record(&mut self, plural: &str, mut object: Value, type_: &'static str) -> Value {
        self.revision += 1;
        prune(&mut object);
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        let change =
            Change { revision: self.revision, plural: plural.to_owned(), type_, object: object.clone() };
        self.history.push(change);
        object
    }
}

/// What a write may change.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Main,
    Status,
    Finalize,
}

fn is_empty(list: &Value) -> bool {
    list.as_array().is_none_or(Vec::is_empty)
}

/// Drops nulls, which indexing leaves behind.
fn prune(value: &mut Value) {
    if let Some(map) = value.as_object_mut() {
        map.retain(|_, value| !value.is_null());
        map.values_mut().for_each(prune);
    }
}
