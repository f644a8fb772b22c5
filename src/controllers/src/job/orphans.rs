//! Pods that wait to be counted although nobody will: their job is gone, or over.

use std::time::Duration;

use coracle_client::{During, Informer, Key, ReconcileError, is_not_found};
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::Api;

use super::{Controller, act::Which, view};
use crate::pods;

/// True if the pod has the finalizer, and no unfinished job in the cache owns it.
pub(super) fn is_orphan(jobs: &Informer<Job>, pod: &Pod) -> bool {
    if !view::is_tracked(&pod.metadata) {
        return false;
    }
    let Some(owner) = pods::controller_of(&pod.metadata) else { return true };
    if owner.kind != "Job" || owner.api_version != "batch/v1" {
        return false;
    }
    let job = jobs.get(&Key::new(pods::namespace(&pod.metadata), owner.name.clone()));
    match job.filter(|job| job.metadata.uid.as_ref() == Some(&owner.uid)) {
        Some(job) => view::finished(&job).is_some() && !view::is_foreign(&job),
        None => true,
    }
}

impl Controller {
    /// Takes the finalizer off an orphan.
    pub(super) async fn let_go_of_orphan(&self, key: Key) -> Result<Option<Duration>, ReconcileError> {
        let Some(pod) = self.pods.get(&key).filter(|pod| is_orphan(&self.jobs, pod)) else {
            return Ok(None);
        };
        if let Some(owner) = pods::controller_of(&pod.metadata) {
            // The cache may know a pod before its job.
            let api: Api<Job> = Api::namespaced(self.client.clone(), &key.namespace);
            match api.get(&owner.name).await {
                Err(error) if is_not_found(&error) => {}
                other => {
                    let job = other.during(|| format!("read job {}", owner.name))?;
                    let same = job.metadata.uid.as_ref() == Some(&owner.uid);
                    if same && (view::finished(&job).is_none() || view::is_foreign(&job)) {
                        return Ok(None);
                    }
                }
            }
        }
        self.take_off(&pod, Which::Any).await.during(|| format!("take the finalizer off pod {key}"))?;
        Ok(None)
    }
}
