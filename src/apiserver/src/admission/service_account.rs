//! Pods run as a service account: `default` unless they say otherwise.
//!
//! Its token is mounted where the pod or the account asks for it by `automountServiceAccountToken: true`.
//! Kubernetes mounts it unless it is forbidden; here a guest is given what its pod names and nothing else, and
//! ten thousand pods that never talk to the API do not keep ten thousand tokens fresh.

use async_trait::async_trait;
use coracle_api::{names, status::Status};
use serde_json::{Value, json};

use super::{Attributes, Operation, Plugin};
use crate::{core::random, object};

/// Where programs look for the token.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Seconds that such a token counts: an hour and a little, by which Kubernetes knows its own.
const TOKEN_SECONDS: i64 = 3607;
/// What the names of the volumes begin with.
const VOLUME_PREFIX: &str = "kube-api-access-";

pub(super) struct ServiceAccount;

#[async_trait]
impl Plugin for ServiceAccount {
    async fn mutate(
        &self,
        request: &Attributes<'_>,
        pod: &mut Value,
        _: Option<&Value>,
    ) -> Result<(), Status> {
        // A mirror pod stands for a pod that the node has from a file; it has no account.
        let mirror = pod.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_some();
        if request.operation != Operation::Create || !request.is_core("pods") || mirror {
            return Ok(());
        }
        let spec = object::child_mut(pod, "spec");
        let given = |field: &str| {
            spec.get(field).and_then(Value::as_str).filter(|s| !s.is_empty()).map(str::to_owned)
        };
        let name = given("serviceAccountName")
            .or_else(|| given("serviceAccount"))
            .unwrap_or_else(|| "default".into());
        // The old name of the field is still written, as Kubernetes does.
        spec.insert("serviceAccountName".into(), json!(name));
        spec.insert("serviceAccount".into(), json!(name));
        let call = request.call;
        let accounts = call.catalogue.find("", "v1", "serviceaccounts");
        let entry = accounts.and_then(|accounts| call.core.store.get(&accounts.key(&call.namespace, &name)));
        let account = match entry {
            Some(entry) => object::parse_stored(entry.value()),
            // A namespace gets its `default` account a moment after it was made.
            None if name == "default" => json!({}),
            None => {
                let namespace = &call.namespace;
                let why = format!(
                    "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
                );
                return Err(Status::forbidden(call.kind(), &call.name, &why));
            }
        };
        let no_secrets = spec.get("imagePullSecrets").and_then(Value::as_array).is_none_or(Vec::is_empty);
        if let Some(secrets) = account.get("imagePullSecrets").filter(|_| no_secrets) {
            spec.insert("imagePullSecrets".into(), secrets.clone());
        }
        let asked = |value: Option<&Value>| value.and_then(Value::as_bool);
        let automount = asked(spec.get("automountServiceAccountToken"))
            .or_else(|| asked(account.get("automountServiceAccountToken")));
        if automount == Some(true) {
            mount(pod, &names::generate(VOLUME_PREFIX, random()));
        }
        Ok(())
    }
}

/// Gives every container that has nothing there the token, the CA's certificate and the namespace.
fn mount(pod: &mut Value, name: &str) {
    let spec = object::child_mut(pod, "spec");
    let volumes = spec.get("volumes").and_then(Value::as_array).into_iter().flatten();
    let existing = volumes.map(|volume| object::text(volume, "/name"));
    let existing = existing.into_iter().find(|name| name.starts_with(VOLUME_PREFIX)).map(str::to_owned);
    let volume_name = existing.clone().unwrap_or_else(|| name.to_owned());
    let mut used = false;
    for list in ["initContainers", "containers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
        for container in containers {
            let Some(container) = container.as_object_mut() else { continue };
            let mounts = container.entry("volumeMounts").or_insert_with(|| json!([]));
            if mounts.is_null() {
                *mounts = json!([]);
            }
            let Some(mounts) = mounts.as_array_mut() else { continue };
            if mounts.iter().any(|mount| object::text(mount, "/mountPath") == MOUNT_PATH) {
                continue;
            }
            used = true;
            mounts.push(json!({"name": volume_name, "readOnly": true, "mountPath": MOUNT_PATH}));
        }
    }
    if !used || existing.is_some() {
        return;
    }
    let namespace = json!({"apiVersion": "v1", "fieldPath": "metadata.namespace"});
    let sources = json!([
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": namespace}]}},
    ]);
    let volume = json!({"name": volume_name, "projected": {"defaultMode": 420, "sources": sources}});
    let volumes = spec.entry("volumes").or_insert_with(|| json!([]));
    if volumes.is_null() {
        *volumes = json!([]);
    }
    if let Some(volumes) = volumes.as_array_mut() {
        volumes.push(volume);
    }
}
