//! Brings claims and volumes together, makes volumes out of folders of nodes on demand, and gives back what a claim
//! that is gone has left.
//!
//! ```text
//!  claim:  Pending ── volume found, promised (claimRef) ──▶ Bound ── volume gone ──▶ Lost
//!             └── none: provision (class `local`: a folder of the chosen node) ─┘
//!  volume: Available ── promised and agreed ──▶ Bound ── claim gone ──▶ Released ── Delete ──▶ gone
//! ```
//! The promise in the volume comes first and is written against the version that was looked at, so two claims never
//! get one volume. One worker does all of it and waits until its caches show what it wrote, so one claim never gets
//! two.

mod apply;
mod plan;
mod rules;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::Duration};

use apply::Applier;
use coracle_client::{Delta, Deltas, Informer, Key, ReconcileError, WorkQueue};
use futures::future::BoxFuture;
use k8s_openapi::api::{
    core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::StorageClass,
};

use crate::{
    Context, context, pods,
    volume_protection::{BY_CLAIM, index_by_claim},
};

pub(crate) const NAME: &str = "persistentvolume-binder";

/// Claims that wait for something nobody announces are looked at again. Kubernetes' number.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    Claim(Key),
    Volume(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Claim(key) => write!(f, "claim {key}"),
            Subject::Volume(name) => write!(f, "volume {name}"),
        }
    }
}

pub(crate) fn run(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let binder = Arc::new(Binder {
            claims: context.informers.get(),
            volumes: context.informers.get(),
            classes: context.informers.get(),
            nodes: context.informers.get(),
            pods: context.informers.get(),
            applier: Applier::new(&context),
            queue: WorkQueue::new(),
        });
        index_by_claim(&binder.pods);
        let feeder = binder.clone();
        let feed = async move {
            tokio::join!(
                feeder.claims.synced(),
                feeder.volumes.synced(),
                feeder.classes.synced(),
                feeder.nodes.synced(),
                feeder.pods.synced(),
            );
            tokio::join!(
                feeder.feed_claims(feeder.claims.subscribe()),
                feeder.feed_volumes(feeder.volumes.subscribe()),
                feeder.feed_classes(feeder.classes.subscribe()),
                feeder.feed_nodes(feeder.nodes.subscribe()),
            );
        };
        let queue = binder.queue.clone();
        let reconcile =
            context::shared(
                &binder,
                |binder, subject| async move { Box::pin(binder.reconcile(subject)).await },
            );
        context.run(NAME, queue, 1, feed, reconcile).await;
    })
}

struct Binder {
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    applier: Applier,
    queue: WorkQueue<Subject>,
}

impl Binder {
    async fn feed_claims(&self, mut deltas: Deltas<PersistentVolumeClaim>) {
        while let Some(delta) = deltas.next().await {
            let claim = delta.object();
            self.queue.add(Subject::Claim(Key::of(&claim.metadata)));
            let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
            match volume.filter(|name| !name.is_empty()) {
                Some(name) => self.queue.add(Subject::Volume(name.to_owned())),
                None if matches!(delta, Delta::Deleted(_)) => self.look_at_promised(claim),
                None => {}
            }
        }
    }

    /// A claim has gone before it took what was promised to it.
    fn look_at_promised(&self, claim: &PersistentVolumeClaim) {
        for volume in self.volumes.list() {
            if rules::claim_ref(&volume).is_some_and(|reference| rules::is_promised(reference, claim)) {
                self.queue.add(Subject::Volume(pods::name(&volume.metadata).to_owned()));
            }
        }
    }

    async fn feed_volumes(&self, mut deltas: Deltas<PersistentVolume>) {
        while let Some(delta) = deltas.next().await {
            let volume = delta.object();
            self.queue.add(Subject::Volume(pods::name(&volume.metadata).to_owned()));
            if let Some(reference) = rules::claim_ref(volume) {
                let namespace = reference.namespace.clone().unwrap_or_default();
                let name = reference.name.clone().unwrap_or_default();
                self.queue.add(Subject::Claim(Key::new(namespace, name)));
            } else if !matches!(delta, Delta::Deleted(_)) {
                self.look_at_waiting(|_| true);
            }
        }
    }

    async fn feed_classes(&self, mut deltas: Deltas<StorageClass>) {
        while let Some(delta) = deltas.next().await {
            let name = pods::name(&delta.object().metadata);
            self.look_at_waiting(|claim| rules::class_of(claim) == name);
        }
    }

    /// Volumes of a node that is gone for good can be given up.
    async fn feed_nodes(&self, mut deltas: Deltas<Node>) {
        while let Some(delta) = deltas.next().await {
            if matches!(delta, Delta::Deleted(_)) {
                let going = self.volumes.list();
                let going = going.iter().filter(|volume| volume.metadata.deletion_timestamp.is_some());
                going.for_each(|volume| {
                    self.queue.add(Subject::Volume(pods::name(&volume.metadata).to_owned()));
                });
                self.look_at_waiting(|_| true);
            }
        }
    }

    /// Queues the claims that have no volume yet.
    fn look_at_waiting(&self, which: impl Fn(&PersistentVolumeClaim) -> bool) {
        for claim in self.claims.list() {
            if rules::annotation(&claim.metadata, plan::COMPLETED).is_none() && which(&claim) {
                self.queue.add(Subject::Claim(Key::of(&claim.metadata)));
            }
        }
    }

    async fn reconcile(&self, subject: Subject) -> Result<Option<Duration>, ReconcileError> {
        self.applier.catch_up(&self.volumes, &self.claims).await?;
        match subject {
            Subject::Claim(key) => Box::pin(self.claim(&key)).await,
            Subject::Volume(name) => self.volume(&name).await,
        }
    }

    fn plan(&self, claim: &PersistentVolumeClaim, class: Option<&StorageClass>) -> plan::ClaimPlan {
        let volumes = self.volumes.list();
        let nodes = |name: &str| self.nodes.get(&Key::cluster(name));
        let unscheduled = || self.unscheduled(&Key::of(&claim.metadata));
        let observed = plan::Observed { volumes: &volumes, class, nodes: &nodes, unscheduled: &unscheduled };
        plan::claim(claim, &observed)
    }

    /// The names of the pods that use the claim and have no node yet.
    fn unscheduled(&self, claim: &Key) -> Vec<String> {
        let users = self.pods.by_index(BY_CLAIM, &claim.to_string());
        let waits = |pod: &&Arc<Pod>| pods::node_name(pod).is_none() && !pods::is_terminal(pod);
        users.iter().filter(waits).map(|pod| pods::name(&pod.metadata).to_owned()).collect()
    }

    async fn claim(&self, key: &Key) -> Result<Option<Duration>, ReconcileError> {
        let Some(claim) = self.claims.get(key) else { return Ok(None) };
        let class = self.classes.get(&Key::cluster(rules::class_of(&claim)));
        match self.plan(&claim, class.as_deref()) {
            plan::ClaimPlan::Wait(note) => {
                self.applier.pending(&claim).await?;
                let waits = note.is_some();
                self.applier.tell(&claim, note);
                Ok(waits.then_some(LOOK_AGAIN))
            }
            plan::ClaimPlan::Bind(volume) => {
                let grown = plan::growth(&claim, &volume, class.as_deref());
                Box::pin(self.applier.bind(&claim, &volume, grown)).await?;
                Ok(None)
            }
            plan::ClaimPlan::Provision { node } => {
                let class = class.as_deref().expect("only a class can ask for it");
                let labels =
                    self.nodes.get(&Key::cluster(node.clone())).and_then(|node| node.metadata.labels.clone());
                let host =
                    labels.and_then(|labels| labels.get("kubernetes.io/hostname").cloned()).unwrap_or(node);
                self.applier.provision(&claim, class, &host).await?;
                Ok(None)
            }
            plan::ClaimPlan::Ask { provisioner } => {
                self.applier.ask(&claim, &provisioner).await?;
                Ok(Some(LOOK_AGAIN))
            }
            plan::ClaimPlan::ForgetNode => {
                self.applier.forget_node(&claim).await?;
                Ok(None)
            }
            plan::ClaimPlan::Lost(note) => {
                self.applier.lost(&claim, note).await?;
                Ok(None)
            }
        }
    }

    async fn volume(&self, name: &str) -> Result<Option<Duration>, ReconcileError> {
        let Some(volume) = self.volumes.get(&Key::cluster(name)) else { return Ok(None) };
        let claim_key = rules::claim_ref(&volume).map(|reference| {
            Key::new(
                reference.namespace.clone().unwrap_or_default(),
                reference.name.clone().unwrap_or_default(),
            )
        });
        let claim = match &claim_key {
            Some(key) => self.applier.claim(&self.claims, key, &volume).await?,
            None => None,
        };
        match plan::volume(&volume, claim.as_deref(), &self.nodes.list()) {
            plan::VolumePlan::Phase(phase) => self.applier.phase(&volume, phase, None).await?,
            plan::VolumePlan::Fail(note) => self.applier.fail(&volume, &note).await?,
            plan::VolumePlan::LookAtClaim => {
                claim_key.into_iter().for_each(|key| self.queue.add(Subject::Claim(key)));
            }
            plan::VolumePlan::Free => self.applier.free(&volume).await?,
            plan::VolumePlan::Delete => self.applier.delete(&volume).await?,
            plan::VolumePlan::DropFinalizer => self.applier.drop_finalizer(&volume).await?,
        }
        Ok(None)
    }
}
