//! Makes the claims of pods' generic ephemeral volumes: `<pod>-<volume>`, owned by the pod, so that they go with it.

use std::{sync::Arc, time::Duration};

use coracle_client::{
    Delta, During, EventType, Informer, Key, ReconcileError, Recorder, WorkQueue, is_already_exists,
};
use futures::future::BoxFuture;
use k8s_openapi::{
    api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimTemplate, Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, Resource, api::PostParams};

use crate::{Context, context, namespaces, pods};

pub(crate) const NAME: &str = "ephemeral-volume";

const WORKERS: usize = 2;

pub(crate) fn run(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let pods: Informer<Pod> = context.informers.get();
        let controller = Arc::new(Controller {
            client: context.client.clone(),
            recorder: context.recorder("ephemeral-volume-controller"),
            pods: pods.clone(),
            claims: context.informers.get(),
        });
        let queue = WorkQueue::new();
        let feed = async {
            tokio::join!(pods.synced(), controller.claims.synced());
            let mut deltas = pods.subscribe();
            while let Some(delta) = deltas.next().await {
                if let Delta::Added(pod) = &delta
                    && templates(pod).next().is_some()
                {
                    queue.add(Key::of(&pod.metadata));
                }
            }
        };
        let reconcile =
            context::shared(&controller, |controller, key| async move { controller.reconcile(&key).await });
        context.run(NAME, queue.clone(), WORKERS, feed, reconcile).await;
    })
}

/// The names and templates of the claims that a pod needs.
fn templates(pod: &Pod) -> impl Iterator<Item = (String, &PersistentVolumeClaimTemplate)> {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    volumes.iter().filter_map(|volume| {
        let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
        Some((format!("{}-{}", pods::name(&pod.metadata), volume.name), template))
    })
}

struct Controller {
    client: Client,
    recorder: Recorder,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, ReconcileError> {
        let Some(pod) = self.pods.get(key) else { return Ok(None) };
        if pod.metadata.deletion_timestamp.is_some() || pods::is_terminal(&pod) {
            return Ok(None);
        }
        for (name, template) in templates(&pod) {
            match self.claims.get(&Key::new(key.namespace.clone(), name.clone())) {
                Some(claim) => self.check_owner(&pod, &claim)?,
                None => self.create(&pod, name, template).await?,
            }
        }
        Ok(None)
    }

    /// A claim of that name that is not the pod's own must not be used by it.
    fn check_owner(&self, pod: &Pod, claim: &PersistentVolumeClaim) -> Result<(), ReconcileError> {
        let owner = pods::controller_of(&claim.metadata).map(|owner| owner.uid.as_str());
        if owner == pod.metadata.uid.as_deref() {
            return Ok(());
        }
        let name = pods::name(&claim.metadata);
        let message = format!(
            "PVC {}/{name} was not created for pod {} (pod is not owner)",
            pods::namespace(&pod.metadata),
            Key::of(&pod.metadata)
        );
        Err(ReconcileError::NotYet(message))
    }

    async fn create(
        &self,
        pod: &Pod,
        name: String,
        template: &PersistentVolumeClaimTemplate,
    ) -> Result<(), ReconcileError> {
        let meta = template.metadata.clone().unwrap_or_default();
        let claim = PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: pod.metadata.namespace.clone(),
                labels: meta.labels,
                annotations: meta.annotations,
                owner_references: pod.controller_owner_ref(&()).map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            spec: Some(template.spec.clone()),
            status: None,
        };
        let api: Api<PersistentVolumeClaim> =
            Api::namespaced(self.client.clone(), pods::namespace(&pod.metadata));
        match api.create(&PostParams::default(), &claim).await {
            Ok(_) => Ok(()),
            Err(error) if is_already_exists(&error) || namespaces::is_going(&error) => Ok(()),
            Err(error) => {
                let message = format!("ephemeral volume controller failed to create PVC {name}: {error}");
                let reference = pod.object_ref(&());
                self.recorder.event(&reference, EventType::Warning, "EphemeralVolumeFailedCreate", &message);
                Err(error).during(|| format!("create claim {name}"))
            }
        }
    }
}
