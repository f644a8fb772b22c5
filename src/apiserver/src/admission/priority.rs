//! The number behind a pod's priority class.

use async_trait::async_trait;
use coracle_api::status::Status;
use serde_json::{Value, json};

use super::{Attributes, Operation, Plugin};
use crate::object;

/// The classes that every cluster has.
const SYSTEM: &[(&str, i64)] =
    &[("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

pub(super) struct Priority;

#[async_trait]
impl Plugin for Priority {
    async fn mutate(
        &self,
        request: &Attributes<'_>,
        pod: &mut Value,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        if !request.is_core("pods") {
            return Ok(());
        }
        if request.operation != Operation::Create {
            keep(pod, old);
            return Ok(());
        }
        let class = object::text(pod, "/spec/priorityClassName");
        let priority = if class.is_empty() {
            0
        } else if let Some((_, priority)) = SYSTEM.iter().find(|(name, _)| *name == class) {
            *priority
        } else {
            let why = format!("no PriorityClass with name {class} was found");
            return Err(Status::forbidden(request.call.kind(), &request.call.name, &why));
        };
        let given = object::integer(pod, "/spec/priority");
        if given.is_some_and(|given| given != priority) {
            let why = format!(
                "the integer value of priority ({}) must not be provided in pod spec; priority admission controller computed {priority} from the given PriorityClass name",
                given.unwrap_or_default()
            );
            return Err(Status::forbidden(request.call.kind(), &request.call.name, &why));
        }
        let spec = object::child_mut(pod, "spec");
        spec.insert("priority".into(), json!(priority));
        if !spec.get("preemptionPolicy").is_some_and(Value::is_string) {
            spec.insert("preemptionPolicy".into(), json!("PreemptLowerPriority"));
        }
        Ok(())
    }
}

/// What a pod was given at its creation stays when an update leaves it out.
fn keep(pod: &mut Value, old: Option<&Value>) {
    let Some(old) = old.and_then(|old| old.get("spec")) else { return };
    let spec = object::child_mut(pod, "spec");
    for field in ["priority", "preemptionPolicy"] {
        let absent = spec.get(field).is_none_or(Value::is_null);
        if let Some(value) = old.get(field).filter(|_| absent) {
            spec.insert(field.to_owned(), value.clone());
        }
    }
}
