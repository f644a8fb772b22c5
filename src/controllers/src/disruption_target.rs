//! Pods that are ended by a controller for a reason that is not their own: the condition `DisruptionTarget`
//! says so first, then the pod is deleted.

use coracle_client::{During, ReconcileError, clock, is_conflict, is_not_found};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::json;

use crate::pods;

/// Why a pod is ended, as its condition says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reason {
    pub(crate) reason: &'static str,
    pub(crate) message: &'static str,
}

/// How a pod is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Its node is asked to end it.
    Graceful,
    /// There is no node that could: the phase becomes Failed and the object goes at once.
    Forced,
}

/// Marks the pod and deletes it. Fine if it is gone, or is another by now.
pub(crate) async fn delete(
    client: &Client,
    pod: &Pod,
    why: Option<Reason>,
    end: End,
) -> Result<(), ReconcileError> {
    let name = pods::name(&pod.metadata);
    let api: Api<Pod> = Api::namespaced(client.clone(), pods::namespace(&pod.metadata));
    let fails = end == End::Forced && !pods::is_terminal(pod);
    if why.is_some() || fails {
        let mut status = json!({});
        if let Some(why) = why {
            status["conditions"] = json!([{
                "type": "DisruptionTarget", "status": "True", "reason": why.reason, "message": why.message,
                "lastTransitionTime": clock::time(),
            }]);
        }
        if fails {
            status["phase"] = "Failed".into();
        }
        let patch = json!({ "metadata": { "uid": pod.metadata.uid }, "status": status });
        match api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            Err(error) if is_not_found(&error) || is_conflict(&error) => return Ok(()),
            other => drop(other.during(|| format!("mark pod {name}"))?),
        }
    }
    let params = DeleteParams {
        grace_period_seconds: (end == End::Forced).then_some(0),
        preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
        ..DeleteParams::default()
    };
    match api.delete(name, &params).await {
        Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
        other => other.map(drop).during(|| format!("delete pod {name}")),
    }
}
