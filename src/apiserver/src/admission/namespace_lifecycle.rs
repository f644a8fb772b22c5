//! Objects are created in namespaces that exist and are not on their way out; some namespaces stay.

use async_trait::async_trait;
use coracle_api::status::{Cause, Status};
use serde_json::Value;

use super::{Attributes, Operation, Plugin};
use crate::facts::Facts;

/// Namespaces that cannot be deleted.
const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

pub(super) struct NamespaceLifecycle;

#[async_trait]
impl Plugin for NamespaceLifecycle {
    async fn mutate(&self, request: &Attributes<'_>, _: &mut Value, _: Option<&Value>) -> Result<(), Status> {
        let call = request.call;
        if request.operation != Operation::Create || !call.resource.namespaced() {
            return Ok(());
        }
        let namespace = &call.namespace;
        let Some(namespaces) = call.catalogue.find("", "v1", "namespaces") else { return Ok(()) };
        let Some(entry) = call.core.store.get(&namespaces.key("", namespace)) else {
            return Err(Status::not_found(&namespaces.kind, namespace));
        };
        if Facts::of(&entry, &namespaces.stored_as).terminating {
            let why = format!(
                "unable to create new content in namespace {namespace} because it is being terminated"
            );
            return Err(Status::forbidden(call.kind(), &call.name, &why).with_cause(Cause {
                reason: "NamespaceTerminating".into(),
                message: format!("namespace {namespace} is being terminated"),
                field: "metadata.namespace".into(),
            }));
        }
        Ok(())
    }

    async fn validate(
        &self,
        request: &Attributes<'_>,
        _: Option<&Value>,
        _: Option<&Value>,
    ) -> Result<(), Status> {
        let name = request.call.name.as_str();
        if request.operation == Operation::Delete && request.is_core("namespaces") && IMMORTAL.contains(&name)
        {
            return Err(Status::forbidden(request.call.kind(), name, "this namespace may not be deleted"));
        }
        Ok(())
    }
}
