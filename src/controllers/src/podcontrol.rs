//! Pods made from a template and deleted on behalf of a controller, with the events that tell of it.

use std::sync::Arc;

use coracle_client::{
    EventType, Metadata, Recorder, api_message, calls, is_ambiguous, is_conflict, is_not_found,
};
use futures::StreamExt;
use k8s_openapi::{
    api::core::v1::{ObjectReference, Pod, PodTemplateSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Client, Resource,
    api::{DeleteParams, PostParams, Preconditions},
    core::Request,
};

use crate::{
    claim,
    context::Context,
    expectations::Expectations,
    namespaces, pods,
    slow_start::{IN_FLIGHT, slow_start},
};

/// What became of pods that were to be created.
#[derive(Default)]
pub(crate) struct Created {
    pub(crate) number: usize,
    pub(crate) failure: Option<kube::Error>,
}

/// What became of pods that were to be deleted.
#[derive(Default)]
pub(crate) struct Deleted {
    /// Those that were, or were gone already.
    pub(crate) pods: Vec<Arc<Pod>>,
    /// One has another uid by now, or so it seems.
    pub(crate) lost: Option<kube::Error>,
    pub(crate) failure: Option<kube::Error>,
}

/// Creates and deletes pods for a controller.
#[derive(Clone)]
pub(crate) struct PodControl {
    client: Client,
    /// For what else the controller has to say.
    pub(crate) recorder: Recorder,
}

impl PodControl {
    /// Events come from `component`.
    pub(crate) fn new(context: &Context, component: &str) -> Self {
        PodControl { client: context.client.clone(), recorder: context.recorder(component) }
    }

    /// Creates `count` pods for `owner`, few at first, and notes in `expectations` what became of them. `body` gives
    /// each in JSON. A failure ends it.
    pub(crate) async fn create_all(
        &self,
        owner: &ObjectReference,
        count: usize,
        body: impl Fn(usize) -> Vec<u8>,
        expectations: &mut Expectations,
    ) -> Created {
        let mut created = Created::default();
        let call = |index| self.create(owner, body(index));
        slow_start(count, call, |_, answer| match answer {
            Ok(pod) => {
                created.number += 1;
                expectations.created(pods::revision(&pod.metadata));
            }
            Err(error) => {
                if is_ambiguous(&error) {
                    expectations.uncertain();
                }
                // Of several the one is told that somebody may do something about.
                if created.failure.as_ref().is_none_or(namespaces::is_going) {
                    created.failure = Some(error);
                }
            }
        })
        .await;
        created
    }

    /// Deletes these very pods for `owner`, and notes in `expectations` what became of them.
    pub(crate) async fn delete_all(
        &self,
        owner: &ObjectReference,
        doomed: &[Arc<Pod>],
        expectations: &mut Expectations,
    ) -> Deleted {
        let mut deleted = Deleted::default();
        let mut answers = futures::stream::iter(doomed.to_vec())
            .map(|pod| async move {
                let answer = self.delete(owner, &pod).await;
                (pod, answer)
            })
            .buffer_unordered(IN_FLIGHT);
        while let Some((pod, answer)) = answers.next().await {
            match answer {
                Err(error) if !is_not_found(&error) => {
                    let lost = is_conflict(&error);
                    if lost || is_ambiguous(&error) {
                        expectations.uncertain();
                    }
                    let place = if lost { &mut deleted.lost } else { &mut deleted.failure };
                    place.get_or_insert(error);
                }
                Ok(()) | Err(_) => {
                    expectations.deleted(pods::uid(&pod.metadata));
                    deleted.pods.push(pod);
                }
            }
        }
        deleted
    }

    /// Creates a pod for `owner`.
    async fn create(&self, owner: &ObjectReference, body: Vec<u8>) -> Result<Metadata, kube::Error> {
        let path = Pod::url_path(&(), owner.namespace.as_deref());
        let request =
            Request::new(path).create(&PostParams::default(), body).map_err(kube::Error::BuildRequest)?;
        let answer: Result<Metadata, kube::Error> = self.client.request(request).await;
        match &answer {
            Ok(pod) => {
                let message = format!("Created pod: {}", pods::name(&pod.metadata));
                self.recorder.event(owner, EventType::Normal, "SuccessfulCreate", &message);
            }
            // It is so for as long as the namespace is being deleted, and nobody needs to be told.
            Err(error) if namespaces::is_going(error) => {}
            Err(error) => {
                let message = format!("Error creating: {}", api_message(error));
                self.recorder.event(owner, EventType::Warning, "FailedCreate", &message);
            }
        }
        answer
    }

    /// Deletes this very pod for `owner`. One that is gone already is an error too (404, or 409 if
    /// another has its name), so that the caller may know.
    async fn delete(&self, owner: &ObjectReference, pod: &Pod) -> Result<(), kube::Error> {
        let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let options = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let name = pods::name(&pod.metadata);
        let path = Pod::url_path(&(), pod.metadata.namespace.as_deref());
        let answer = calls::delete(&self.client, path, name, &options).await;
        match &answer {
            Ok(()) => {
                let message = format!("Deleted pod: {name}");
                self.recorder.event(owner, EventType::Normal, "SuccessfulDelete", &message);
            }
            Err(error) if is_not_found(error) || is_conflict(error) => {}
            Err(error) => {
                let message = format!("Error deleting: {}", api_message(error));
                self.recorder.event(owner, EventType::Warning, "FailedDelete", &message);
            }
        }
        answer
    }
}

/// The object that events are about.
pub(crate) fn reference<O: Resource<DynamicType = ()>>(object: &O) -> ObjectReference {
    ObjectReference { resource_version: object.meta().resource_version.clone(), ..object.object_ref(&()) }
}

/// The pod that a controller's template makes: owned by `owner`, named after it.
pub(crate) fn from_template<O: Resource<DynamicType = ()>>(
    owner: &O,
    template: Option<&PodTemplateSpec>,
) -> Pod {
    let template = template.cloned().unwrap_or_default();
    let meta = template.metadata.unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", pods::name(owner.meta()))),
            namespace: owner.meta().namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: claim::owner_reference(owner).map(|reference| vec![reference]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}
