//! Pods stay on a node that is not ready or not reachable for five minutes, unless they say otherwise.

use async_trait::async_trait;
use coracle_api::status::Status;
use serde_json::{Value, json};

use super::{Attributes, Operation, Plugin};
use crate::object;

/// How long a pod tolerates a lost node: Kubernetes' default, five minutes.
const SECONDS: i64 = 300;
const TAINTS: &[&str] = &["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

pub(super) struct PodTolerations;

#[async_trait]
impl Plugin for PodTolerations {
    async fn mutate(
        &self,
        request: &Attributes<'_>,
        pod: &mut Value,
        _: Option<&Value>,
    ) -> Result<(), Status> {
        if request.operation == Operation::Delete || !request.is_core("pods") {
            return Ok(());
        }
        let spec = object::child_mut(pod, "spec");
        let mut tolerations = match spec.remove("tolerations") {
            Some(Value::Array(list)) => list,
            _ => Vec::new(),
        };
        for taint in TAINTS {
            if !tolerations.iter().any(|toleration| covers(toleration, taint)) {
                tolerations.push(json!({
                    "key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS,
                }));
            }
        }
        spec.insert("tolerations".into(), Value::Array(tolerations));
        Ok(())
    }
}

fn covers(toleration: &Value, taint: &str) -> bool {
    let text = |field: &str| toleration.get(field).and_then(Value::as_str).unwrap_or_default();
    matches!(text("effect"), "" | "NoExecute") && (text("key").is_empty() || text("key") == taint)
}
