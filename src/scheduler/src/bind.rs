//! The writes: bindings, and why pods wait.

use std::{sync::Arc, time::Duration};

use coracle_client::{Backoff, clock, is_conflict, is_not_found};
use k8s_openapi::{
    api::core::v1::{Binding, ObjectReference, Pod, PodCondition},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
    core::Request,
};
use tracing::debug;

use crate::placement::Candidate;

/// How often it is asked whether a binding whose answer was lost was carried out.
const QUESTIONS: u32 = 6;

/// How often a report is tried while others change the pod.
const REPORTS: u32 = 3;

const BACKOFF: Backoff = Backoff { base: Duration::from_millis(50), max: Duration::from_secs(2) };

/// How a binding ended.
#[derive(Debug)]
pub(crate) enum Bound {
    /// The pod has the node.
    Done,
    /// The pod is gone, or another one has its name.
    Gone,
    /// The pod has no node; this is why.
    Failed(kube::Error),
}

/// What a pod that waits is promised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    /// As before, whatever it was.
    AsBefore,
    Nothing,
    /// A node, when others have made room.
    Node(String),
}

/// Assigns the pod to the node.
pub(crate) async fn bind(client: Client, pod: &Candidate, node: &str) -> Bound {
    let key = pod.key();
    let binding = Binding {
        metadata: ObjectMeta {
            name: Some(key.name.clone()),
            namespace: Some(key.namespace.clone()),
            uid: Some(pod.uid().to_string()),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            ..ObjectReference::default()
        },
    };
    let body = serde_json::to_vec(&binding).expect("a binding is serialisable");
    let path = format!("/api/v1/namespaces/{}/pods", key.namespace);
    let request = Request::new(path)
        .create_subresource("binding", &key.name, &PostParams::default(), body)
        .map_err(kube::Error::BuildRequest);
    let outcome = match request {
        Ok(request) => client.request_text(request).await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(_) => Bound::Done,
        Err(error) if is_not_found(&error) => Bound::Gone,
        Err(error) => check(client, pod, node, error).await,
    }
}

/// The binding failed, or its answer was lost: asks where the pod is.
async fn check(client: Client, pod: &Candidate, node: &str, error: kube::Error) -> Bound {
    let api: Api<Pod> = Api::namespaced(client, &pod.key().namespace);
    for question in 1..=QUESTIONS {
        match api.get_opt(&pod.key().name).await {
            Ok(None) => return Bound::Gone,
            Ok(Some(now)) if now.metadata.uid.as_deref() != Some(pod.uid()) => return Bound::Gone,
            Ok(Some(now)) => {
                let place = now.spec.and_then(|spec| spec.node_name).unwrap_or_default();
                // On another node it is not ours to place; the informer will say where it is.
                return match place.as_str() {
                    "" => Bound::Failed(error),
                    place if place == node => Bound::Done,
                    _ => Bound::Gone,
                };
            }
            Err(again) => {
                debug!(pod = %pod.key(), error = %again, "cannot ask where a pod is");
                tokio::time::sleep(BACKOFF.delay(question)).await;
            }
        }
    }
    Bound::Failed(error)
}

/// Says in the pod's status why it waits. Names the version that it saw without a node: a late report must not
/// deny a binding that came meanwhile. Other failures are not worth a retry: the next attempt says it again.
pub(crate) async fn report(
    client: Client,
    mut pod: Arc<Pod>,
    reason: &'static str,
    message: String,
    promise: Promise,
) {
    let api: Api<Pod> = Api::namespaced(client, pod.metadata.namespace.as_deref().unwrap_or_default());
    let name = pod.metadata.name.clone().unwrap_or_default();
    for _ in 0..REPORTS {
        let Some(patch) = unscheduled(&pod, reason, &message, &promise) else { return };
        let Err(error) = api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(patch)).await
        else {
            return;
        };
        debug!(pod = name, %error, "cannot say why a pod waits");
        if !is_conflict(&error) {
            return;
        }
        let Ok(Some(now)) = api.get_opt(&name).await else { return };
        let bound =
            now.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).is_some_and(|name| !name.is_empty());
        if bound || now.metadata.uid != pod.metadata.uid {
            return;
        }
        pod = Arc::new(now);
    }
}

/// The patch that says why a pod waits, unless its status says so already.
fn unscheduled(pod: &Pod, reason: &str, message: &str, promise: &Promise) -> Option<serde_json::Value> {
    let promised = pod.status.as_ref().and_then(|status| status.nominated_node_name.as_deref());
    let kept = match promise {
        Promise::AsBefore => true,
        Promise::Nothing => promised.is_none_or(str::is_empty),
        Promise::Node(node) => promised == Some(node),
    };
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let known = conditions.into_iter().flatten().find(|condition| condition.type_ == "PodScheduled");
    let says = |condition: &PodCondition| {
        condition.status == "False"
            && condition.reason.as_deref() == Some(reason)
            && condition.message.as_deref() == Some(message)
    };
    if kept && known.is_some_and(says) {
        return None;
    }
    let since =
        known.filter(|known| known.status == "False").and_then(|known| known.last_transition_time.clone());
    let condition = PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(since.unwrap_or_else(clock::time)),
        ..PodCondition::default()
    };
    let mut status = serde_json::json!({"conditions": [condition]});
    match promise {
        Promise::AsBefore => {}
        Promise::Nothing => status["nominatedNodeName"] = serde_json::Value::Null,
        Promise::Node(node) => status["nominatedNodeName"] = node.as_str().into(),
    }
    Some(serde_json::json!({
        "metadata": {"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version},
        "status": status,
    }))
}
