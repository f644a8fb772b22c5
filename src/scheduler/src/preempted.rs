//! Tells pods that they have to make room for a more important one.

use coracle_client::{EventType, Recorder, clock, is_not_found};
use k8s_openapi::api::core::v1::{ObjectReference, Pod, PodCondition};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::json;
use tracing::warn;

use crate::placement::{Candidate, Nomination};

/// True if all are told, or gone.
pub(crate) async fn tell(
    client: &Client,
    recorder: &Recorder,
    pod: &Candidate,
    nomination: &Nomination,
) -> bool {
    for other in &nomination.demoted {
        if let Err(error) = void(client, other).await {
            warn!(pod = %other.key(), %error, "a promise of a node could not be taken back");
        }
    }
    let mut told = true;
    for victim in &nomination.victims {
        if victim.pod().metadata.deletion_timestamp.is_some() {
            continue;
        }
        match evict(client, pod, victim).await {
            Ok(()) => {
                let message = format!("Preempted by pod {} on node {}", pod.uid(), nomination.node);
                let victim = victim.pod().object_ref(&());
                recorder.event(&ObjectReference { ..victim }, EventType::Normal, "Preempted", &message);
            }
            Err(error) if is_not_found(&error) => {}
            Err(error) => {
                warn!(pod = %victim.key(), %error, "a pod could not be told to make room");
                told = false;
            }
        }
    }
    told
}

async fn void(client: &Client, pod: &Candidate) -> Result<(), kube::Error> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.key().namespace);
    let patch = json!({"metadata": {"uid": &**pod.uid()}, "status": {"nominatedNodeName": null}});
    let done = api.patch_status(&pod.key().name, &PatchParams::default(), &Patch::Strategic(patch)).await;
    match done {
        Err(error) if !is_not_found(&error) => Err(error),
        _ => Ok(()),
    }
}

async fn evict(client: &Client, pod: &Candidate, victim: &Candidate) -> Result<(), kube::Error> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &victim.key().namespace);
    let scheduler = pod.pod().spec.as_ref().and_then(|spec| spec.scheduler_name.clone());
    let scheduler = scheduler.unwrap_or_else(|| "default-scheduler".to_owned());
    let condition = PodCondition {
        type_: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        reason: Some("PreemptionByScheduler".to_owned()),
        message: Some(format!("{scheduler}: preempting to accommodate a higher priority pod")),
        last_transition_time: Some(clock::time()),
        ..PodCondition::default()
    };
    let patch = json!({"metadata": {"uid": &**victim.uid()}, "status": {"conditions": [condition]}});
    api.patch_status(&victim.key().name, &PatchParams::default(), &Patch::Strategic(patch)).await?;
    let preconditions = Preconditions { uid: Some(victim.uid().to_string()), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    api.delete(&victim.key().name, &params).await.map(|_| ())
}
