//! Carries out what a job's plan says about pods.

use std::{collections::HashSet, sync::Arc};

use coracle_client::{During, ReconcileError, is_ambiguous, is_not_found};
use futures::StreamExt;
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{
    Api,
    api::{Patch, PatchParams},
};

use super::{
    Controller,
    plan::{Act, Slot},
    status::Done,
    template, view,
};
use crate::{expectations::Expectations, namespaces, podcontrol, pods, slow_start::IN_FLIGHT};

/// The pods that lost the finalizer, and the first failure.
#[derive(Default)]
pub(super) struct Released {
    pub(super) uids: HashSet<String>,
    pub(super) failure: Option<ReconcileError>,
}

/// Which pod loses the finalizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// Only the version that was looked at: one that has ended since must be counted first.
    AsSeen,
    /// Whatever has become of it: the status says already how it counts.
    Any,
}

impl Controller {
    pub(super) async fn act(
        &self,
        job: &Job,
        act: &Act,
        expectations: &mut Expectations,
    ) -> (Done, Option<ReconcileError>) {
        match act {
            Act::Nothing => (Done { whole: true, ..Done::default() }, None),
            Act::Create(slots) => self.create(job, slots, expectations).await,
            Act::Remove(doomed) => {
                let released = self.let_go(doomed, Which::AsSeen, expectations).await;
                let free = |pod: &&Arc<Pod>| {
                    !view::is_tracked(&pod.metadata) || released.uids.contains(pods::uid(&pod.metadata))
                };
                let free: Vec<_> = doomed.iter().filter(free).cloned().collect();
                let (mut done, failure) = self.delete(job, &free, expectations).await;
                done.whole &= free.len() == doomed.len();
                (done, released.failure.or(failure))
            }
            Act::End(doomed) => self.delete(job, doomed, expectations).await,
        }
    }

    async fn create(
        &self,
        job: &Job,
        slots: &[Slot],
        expectations: &mut Expectations,
    ) -> (Done, Option<ReconcileError>) {
        let reference = podcontrol::reference(job);
        let body =
            |at: usize| serde_json::to_vec(&template::pod(job, &slots[at])).expect("a pod is serialisable");
        let created = self.control.create_all(&reference, slots.len(), body, expectations).await;
        let done = Done { created: created.number, whole: created.failure.is_none(), ..Done::default() };
        let failure = created.failure.filter(|error| !namespaces::is_going(error));
        let name = pods::name(&job.metadata);
        let failure = failure
            .and_then(|error| Err::<(), _>(error).during(|| format!("create pods of job {name}")).err());
        (done, failure)
    }

    async fn delete(
        &self,
        job: &Job,
        doomed: &[Arc<Pod>],
        expectations: &mut Expectations,
    ) -> (Done, Option<ReconcileError>) {
        let deleted = self.control.delete_all(&podcontrol::reference(job), doomed, expectations).await;
        let failure = deleted.failure.or(deleted.lost);
        let done = Done {
            deleted: deleted.pods.len(),
            deleted_ready: deleted.pods.iter().filter(|pod| pods::is_ready(pod)).count(),
            whole: failure.is_none(),
            ..Done::default()
        };
        let name = pods::name(&job.metadata);
        let failure = failure
            .and_then(|error| Err::<(), _>(error).during(|| format!("delete pods of job {name}")).err());
        (done, failure)
    }

    /// Takes the finalizer off pods.
    pub(super) async fn let_go(
        &self,
        all: &[Arc<Pod>],
        which: Which,
        expectations: &mut Expectations,
    ) -> Released {
        let mut released = Released::default();
        let tracked: Vec<Arc<Pod>> =
            all.iter().filter(|pod| view::is_tracked(&pod.metadata)).cloned().collect();
        let mut answers = futures::stream::iter(tracked)
            .map(|pod| async move {
                let answer = self.take_off(&pod, which).await;
                (pod, answer)
            })
            .buffer_unordered(IN_FLIGHT);
        while let Some((pod, answer)) = answers.next().await {
            match answer {
                Ok(revision) => {
                    expectations.created(revision);
                    released.uids.insert(pods::uid(&pod.metadata).to_owned());
                }
                Err(error) => {
                    if is_ambiguous(&error) {
                        expectations.uncertain();
                    }
                    let name = pods::name(&pod.metadata);
                    let failure = Err::<(), _>(error).during(|| format!("take the finalizer off pod {name}"));
                    released.failure = released.failure.take().or(failure.err());
                }
            }
        }
        released
    }

    /// Takes the finalizer off a pod; answers the revision that this made. One that is gone has none.
    pub(super) async fn take_off(&self, pod: &Pod, which: Which) -> Result<u64, kube::Error> {
        let mut change = serde_json::json!({
            "uid": pod.metadata.uid,
            "$deleteFromPrimitiveList/finalizers": [view::FINALIZER],
        });
        if which == Which::AsSeen {
            change["resourceVersion"] = pod.metadata.resource_version.clone().into();
        }
        let patch = Patch::Strategic(serde_json::json!({ "metadata": change }));
        let api: Api<Pod> = Api::namespaced(self.client.clone(), pods::namespace(&pod.metadata));
        match api.patch_metadata(pods::name(&pod.metadata), &PatchParams::default(), &patch).await {
            Err(error) if is_not_found(&error) => Ok(0),
            other => other.map(|pod| pods::revision(&pod.metadata)),
        }
    }
}
