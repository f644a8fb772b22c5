//! Pods run as a service account: `default` unless they say otherwise.

use async_trait::async_trait;
use coracle_api::status::Status;
use serde_json::{Value, json};

use super::{Attributes, Operation, Plugin};
use crate::object;

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
        Ok(())
    }
}
