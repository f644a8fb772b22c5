//! Claims that wait for their first pod: says where they are needed, and waits until they have volumes.

use std::time::Duration;

use coracle_client::{Informer, Key, api_message, is_conflict, is_not_found};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::placement::{Candidate, SELECTED_NODE, VolumeAction, is_bound};

/// How long a claim may take to be bound. Kubernetes' number.
const PATIENCE: Duration = Duration::from_mins(10);

/// How often it is looked whether the pod is still there, while no claim changes.
const LOOK: Duration = Duration::from_secs(1);

/// Why a pod's claims have no volumes.
#[derive(Debug)]
pub(crate) enum ClaimsFailed {
    /// The pod is gone meanwhile.
    Gone,
    /// The scheduler ends.
    Stopped,
    /// In words for people.
    Because(String),
}

/// What is needed to wait.
pub(crate) struct Waiting {
    pub(crate) client: Client,
    pub(crate) pods: Informer<Pod>,
    pub(crate) claims: Informer<PersistentVolumeClaim>,
    pub(crate) volumes: Informer<PersistentVolume>,
    /// Told when a claim changes.
    pub(crate) changed: watch::Receiver<()>,
    pub(crate) stop: CancellationToken,
}

impl Waiting {
    /// Does what was decided for the claims, and waits until all are bound.
    pub(crate) async fn until_bound(
        mut self,
        pod: &Candidate,
        actions: &[VolumeAction],
    ) -> Result<(), ClaimsFailed> {
        for action in actions {
            self.act(action).await?;
        }
        let wait = tokio::time::timeout(PATIENCE, self.wait(pod, actions));
        wait.await.unwrap_or_else(|_| Err(because("context deadline exceeded")))
    }

    async fn act(&self, action: &VolumeAction) -> Result<(), ClaimsFailed> {
        let done = match action {
            VolumeAction::Provision { claim, node } => {
                let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &claim.namespace);
                let patch = json!({"metadata": {"annotations": {SELECTED_NODE: node}}});
                api.patch(&claim.name, &PatchParams::default(), &Patch::Merge(patch)).await.map(|_| ())
            }
            VolumeAction::Bind { claim, volume } => self.reserve(claim, volume).await,
        };
        done.map_err(|error| {
            if is_conflict(&error) || is_not_found(&error) {
                return because(&api_message(&error));
            }
            because(&format!("could not bind the claim: {}", api_message(&error)))
        })
    }

    /// The volume names the claim, so that nobody else gets it; the binder does the rest.
    async fn reserve(&self, claim: &Key, volume: &str) -> Result<(), kube::Error> {
        let known = self.claims.get(claim);
        let uid = known.and_then(|claim| claim.metadata.uid.clone());
        let version = self.volumes.get(&Key::cluster(volume));
        let version = version.and_then(|volume| volume.metadata.resource_version.clone());
        let patch = json!({
            "metadata": {
                "resourceVersion": version,
                "annotations": {"pv.kubernetes.io/bound-by-controller": "yes"},
            },
            "spec": {"claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": claim.namespace,
                "name": claim.name,
                "uid": uid,
            }},
        });
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        api.patch(volume, &PatchParams::default(), &Patch::Merge(patch)).await.map(|_| ())
    }

    async fn wait(&mut self, pod: &Candidate, actions: &[VolumeAction]) -> Result<(), ClaimsFailed> {
        let mut selected = vec![false; actions.len()];
        loop {
            let mut all = true;
            for (action, selected) in actions.iter().zip(&mut selected) {
                let name = &action.claim().name;
                let Some(claim) = self.claims.get(action.claim()) else {
                    return Err(because(&format!("persistentvolumeclaim \"{name}\" not found")));
                };
                if is_bound(&claim) {
                    continue;
                }
                all = false;
                let annotations = claim.metadata.annotations.as_ref();
                let now = annotations.is_some_and(|all| all.contains_key(SELECTED_NODE));
                // The provisioner gives a claim back by taking the annotation away.
                if *selected && !now {
                    return Err(because(&format!("provisioning failed for PVC \"{name}\"")));
                }
                *selected = now;
            }
            if all {
                return Ok(());
            }
            let here = self.pods.get(pod.key());
            if here.is_none_or(|here| here.metadata.uid.as_deref() != Some(&**pod.uid())) {
                return Err(ClaimsFailed::Gone);
            }
            tokio::select! {
                () = self.stop.cancelled() => return Err(ClaimsFailed::Stopped),
                _ = self.changed.changed() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }
}

fn because(why: &str) -> ClaimsFailed {
    ClaimsFailed::Because(why.to_owned())
}
