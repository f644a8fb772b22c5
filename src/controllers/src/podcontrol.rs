//! Pods made from a template and deleted on behalf of a controller, with the events that tell of it.

use coracle_client::{EventType, Metadata, Recorder, api_message, is_not_found};
use k8s_openapi::{
    api::core::v1::{ObjectReference, Pod, PodTemplateSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, PostParams, Preconditions},
    core::Request,
};

use crate::{claim, context::Context, namespaces, pods};

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

    /// Creates a pod for `owner`. `body` is the pod in JSON, so that many equal ones are serialised once.
    pub(crate) async fn create(&self, owner: &ObjectReference, body: &[u8]) -> Result<Metadata, kube::Error> {
        let path = Pod::url_path(&(), owner.namespace.as_deref());
        let request = Request::new(path)
            .create(&PostParams::default(), body.to_vec())
            .map_err(kube::Error::BuildRequest)?;
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
    pub(crate) async fn delete(&self, owner: &ObjectReference, pod: &Pod) -> Result<(), kube::Error> {
        let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let options = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let api: Api<Pod> = Api::namespaced(self.client.clone(), pods::namespace(&pod.metadata));
        let name = pods::name(&pod.metadata);
        let answer = api.delete(name, &options).await.map(|_| ());
        match &answer {
            Ok(()) => {
                let message = format!("Deleted pod: {name}");
                self.recorder.event(owner, EventType::Normal, "SuccessfulDelete", &message);
            }
            Err(error) if is_not_found(error) || coracle_client::is_conflict(error) => {}
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
