//! Carries plans out, and waits until the caches show it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use coracle_client::{
    During, EventType, Informer, Key, ReconcileError, Recorder, clock, is_already_exists, is_ambiguous,
    is_not_found,
};
use k8s_openapi::{
    api::{
        core::v1::{
            CSIPersistentVolumeSource, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm,
            ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus,
            PersistentVolumeSpec, PersistentVolumeStatus, VolumeNodeAffinity,
        },
        storage::v1::StorageClass,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, ListParams, PostParams, Preconditions},
};

use super::{
    plan::{BY_CONTROLLER, COMPLETED, LOCAL_FINALIZER, Note, PROVISIONED_BY, SELECTED_NODE},
    rules::{self, LOCAL, LOCAL_DRIVER, annotation},
};
use crate::{Context, pods};

/// How long the caches may take to show a write; it takes milliseconds.
const CATCH_UP: Duration = Duration::from_secs(5);

/// Which provisioner is asked; those of old look for the second.
const PROVISIONER: [&str; 2] =
    ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];

pub(super) struct Applier {
    client: Client,
    recorder: Recorder,
    /// The newest version that was written of volumes, and of claims.
    volumes_at: AtomicU64,
    claims_at: AtomicU64,
    /// An answer was lost: what was written is not known.
    uncertain: AtomicBool,
}

impl Applier {
    pub(super) fn new(context: &Context) -> Applier {
        Applier {
            client: context.client.clone(),
            recorder: context.recorder("persistentvolume-controller"),
            volumes_at: AtomicU64::new(0),
            claims_at: AtomicU64::new(0),
            uncertain: AtomicBool::new(false),
        }
    }

    /// Waits until the caches show all that was written here.
    pub(super) async fn catch_up(
        &self,
        volumes: &Informer<PersistentVolume>,
        claims: &Informer<PersistentVolumeClaim>,
    ) -> Result<(), ReconcileError> {
        if self.uncertain.load(Ordering::Relaxed) {
            let all: Api<PersistentVolume> = Api::all(self.client.clone());
            let found = all.list(&ListParams::default()).await.during(|| "list volumes".to_owned())?;
            found.items.iter().for_each(|volume| self.saw(&self.volumes_at, &volume.metadata));
            let all: Api<PersistentVolumeClaim> = Api::all(self.client.clone());
            let found = all.list(&ListParams::default()).await.during(|| "list claims".to_owned())?;
            found.items.iter().for_each(|claim| self.saw(&self.claims_at, &claim.metadata));
            self.uncertain.store(false, Ordering::Relaxed);
        }
        let reached = async {
            tokio::join!(
                volumes.reached(self.volumes_at.load(Ordering::Relaxed)),
                claims.reached(self.claims_at.load(Ordering::Relaxed)),
            );
        };
        tokio::time::timeout(CATCH_UP, reached)
            .await
            .map_err(|_| ReconcileError::NotYet("the cache does not show the last writes yet".to_owned()))
    }

    fn saw(&self, newest: &AtomicU64, meta: &ObjectMeta) {
        newest.fetch_max(pods::revision(meta), Ordering::Relaxed);
    }

    /// The claim of a volume; asks the API itself before it is believed to be gone, because data may hang on it.
    pub(super) async fn claim(
        &self,
        claims: &Informer<PersistentVolumeClaim>,
        key: &Key,
        volume: &PersistentVolume,
    ) -> Result<Option<Arc<PersistentVolumeClaim>>, ReconcileError> {
        let promised = rules::claim_ref(volume).and_then(rules::uid);
        let fits = |claim: &PersistentVolumeClaim| {
            promised.is_none_or(|promised| promised == pods::uid(&claim.metadata))
        };
        if let Some(claim) = claims.get(key).filter(|claim| fits(claim)) {
            return Ok(Some(claim));
        }
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        if phase == Some("Released") {
            return Ok(None);
        }
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        let found = api.get_opt(&key.name).await.during(|| format!("read claim {key}"))?;
        Ok(found.map(Arc::new))
    }

    pub(super) fn tell(&self, claim: &PersistentVolumeClaim, note: Option<Note>) {
        if let Some(note) = note {
            self.tell_of(&claim.object_ref(&()), &note);
        }
    }

    fn tell_of(&self, object: &ObjectReference, Note { warning, reason, message }: &Note) {
        let type_ = if *warning { EventType::Warning } else { EventType::Normal };
        self.recorder.event(object, type_, reason, message);
    }

    /// Promises the volume to the claim, then has the claim agree; writes only what is not so yet.
    pub(super) async fn bind(
        &self,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
        grown: bool,
    ) -> Result<(), ReconcileError> {
        let mut promised = volume.clone();
        let spec = promised.spec.get_or_insert_default();
        let known = spec.claim_ref.as_ref().and_then(rules::uid).is_some();
        if !known {
            if spec.claim_ref.is_none() {
                annotate(&mut promised.metadata, BY_CONTROLLER, "yes");
            }
            promised.spec.get_or_insert_default().claim_ref = Some(reference(claim));
        }
        if grown {
            let wanted = claim
                .spec
                .as_ref()
                .and_then(|spec| spec.resources.as_ref()?.requests.as_ref()?.get("storage"));
            let capacity = promised.spec.get_or_insert_default().capacity.get_or_insert_default();
            capacity.extend(wanted.map(|wanted| ("storage".to_owned(), wanted.clone())));
        }
        let volume = self.write_volume(volume, promised).await?;
        self.phase(&volume, "Bound", None).await?;

        let mut agreed = claim.clone();
        let spec = agreed.spec.get_or_insert_default();
        if spec.volume_name.as_deref().unwrap_or_default().is_empty() {
            spec.volume_name = volume.metadata.name.clone();
            annotate(&mut agreed.metadata, BY_CONTROLLER, "yes");
        }
        annotate(&mut agreed.metadata, COMPLETED, "yes");
        let claim = self.write_claim(claim, agreed).await?;
        let spec = volume.spec.as_ref();
        let status = PersistentVolumeClaimStatus {
            phase: Some("Bound".to_owned()),
            access_modes: spec.and_then(|spec| spec.access_modes.clone()),
            capacity: spec.and_then(|spec| spec.capacity.clone()),
            ..claim.status.clone().unwrap_or_default()
        };
        self.claim_status(&claim, status).await
    }

    /// Makes a folder of the node with this host name a volume of the claim. The node makes the folder itself when a
    /// pod uses it first.
    pub(super) async fn provision(
        &self,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
        host: &str,
    ) -> Result<(), ReconcileError> {
        let name = format!("pvc-{}", pods::uid(&claim.metadata));
        let spec = claim.spec.clone().unwrap_or_default();
        let requests = spec.resources.and_then(|resources| resources.requests).unwrap_or_default();
        let requirement = NodeSelectorRequirement {
            key: "kubernetes.io/hostname".to_owned(),
            operator: "In".to_owned(),
            values: Some(vec![host.to_owned()]),
        };
        let term = NodeSelectorTerm { match_expressions: Some(vec![requirement]), match_fields: None };
        let volume = PersistentVolume {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                annotations: Some(BTreeMap::from([(PROVISIONED_BY.to_owned(), LOCAL.to_owned())])),
                finalizers: Some(vec!["kubernetes.io/pv-protection".to_owned(), LOCAL_FINALIZER.to_owned()]),
                ..ObjectMeta::default()
            },
            spec: Some(PersistentVolumeSpec {
                access_modes: spec.access_modes,
                capacity: Some(requests.into_iter().filter(|(name, _)| name == "storage").collect()),
                claim_ref: Some(reference(claim)),
                csi: Some(CSIPersistentVolumeSource {
                    driver: LOCAL_DRIVER.to_owned(),
                    volume_handle: name.clone(),
                    ..CSIPersistentVolumeSource::default()
                }),
                node_affinity: Some(VolumeNodeAffinity {
                    required: Some(NodeSelector { node_selector_terms: vec![term] }),
                }),
                persistent_volume_reclaim_policy: class.reclaim_policy.clone().or(Some("Delete".to_owned())),
                storage_class_name: class.metadata.name.clone(),
                mount_options: class.mount_options.clone(),
                volume_mode: Some("Filesystem".to_owned()),
                ..PersistentVolumeSpec::default()
            }),
            status: None,
        };
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        match api.create(&PostParams::default(), &volume).await {
            Err(error) if is_already_exists(&error) => {}
            other => {
                let made = self.certain(other).during(|| format!("create volume {name}"))?;
                self.saw(&self.volumes_at, &made.metadata);
                let message = format!("Successfully provisioned volume {name}");
                self.tell(claim, Some(Note { warning: false, reason: "ProvisioningSucceeded", message }));
            }
        }
        Ok(())
    }

    /// Asks another provisioner for a volume.
    pub(super) async fn ask(
        &self,
        claim: &PersistentVolumeClaim,
        provisioner: &str,
    ) -> Result<(), ReconcileError> {
        let mut asking = claim.clone();
        for name in PROVISIONER {
            annotate(&mut asking.metadata, name, provisioner);
        }
        let claim = self.write_claim(claim, asking).await?;
        self.pending(&claim).await?;
        let message = format!(
            "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by \
             the system administrator. If volume creation is delayed, please verify that the provisioner is running \
             and correctly registered."
        );
        self.tell(&claim, Some(Note { warning: false, reason: "ExternalProvisioning", message }));
        Ok(())
    }

    pub(super) async fn forget_node(&self, claim: &PersistentVolumeClaim) -> Result<(), ReconcileError> {
        let mut free = claim.clone();
        if let Some(annotations) = &mut free.metadata.annotations {
            annotations.remove(SELECTED_NODE);
        }
        self.write_claim(claim, free).await.map(drop)
    }

    pub(super) async fn lost(&self, claim: &PersistentVolumeClaim, note: Note) -> Result<(), ReconcileError> {
        if claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost") {
            return Ok(());
        }
        let status = PersistentVolumeClaimStatus {
            phase: Some("Lost".to_owned()),
            access_modes: None,
            capacity: None,
            ..claim.status.clone().unwrap_or_default()
        };
        self.claim_status(claim, status).await?;
        self.tell(claim, Some(note));
        Ok(())
    }

    /// A claim that waits is Pending.
    pub(super) async fn pending(&self, claim: &PersistentVolumeClaim) -> Result<(), ReconcileError> {
        let status = PersistentVolumeClaimStatus {
            phase: Some("Pending".to_owned()),
            ..claim.status.clone().unwrap_or_default()
        };
        self.claim_status(claim, status).await
    }

    pub(super) async fn phase(
        &self,
        volume: &PersistentVolume,
        phase: &str,
        message: Option<&str>,
    ) -> Result<(), ReconcileError> {
        let old = volume.status.clone().unwrap_or_default();
        if old.phase.as_deref() == Some(phase) {
            return Ok(());
        }
        let status = PersistentVolumeStatus {
            phase: Some(phase.to_owned()),
            message: message.map(str::to_owned),
            last_phase_transition_time: Some(Time(clock::seconds(clock::now()))),
            ..old
        };
        let mut new = volume.clone();
        new.status = Some(status);
        let name = pods::name(&volume.metadata);
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        match api.replace_status(name, &PostParams::default(), &new).await {
            Err(error) if is_not_found(&error) => {}
            other => {
                let written = self.certain(other).during(|| format!("write the phase of volume {name}"))?;
                self.saw(&self.volumes_at, &written.metadata);
            }
        }
        Ok(())
    }

    /// Says once, of a released volume, why it cannot be reclaimed.
    pub(super) async fn fail(&self, volume: &PersistentVolume, note: &Note) -> Result<(), ReconcileError> {
        if volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Failed") {
            return Ok(());
        }
        self.phase(volume, "Failed", Some(&note.message)).await?;
        self.tell_of(&volume.object_ref(&()), note);
        Ok(())
    }

    pub(super) async fn free(&self, volume: &PersistentVolume) -> Result<(), ReconcileError> {
        let mut free = volume.clone();
        free.spec.get_or_insert_default().claim_ref = None;
        if let Some(annotations) = &mut free.metadata.annotations {
            annotations.remove(BY_CONTROLLER);
        }
        self.write_volume(volume, free).await.map(drop)
    }

    pub(super) async fn delete(&self, volume: &PersistentVolume) -> Result<(), ReconcileError> {
        let name = pods::name(&volume.metadata);
        let preconditions = Preconditions {
            uid: volume.metadata.uid.clone(),
            resource_version: volume.metadata.resource_version.clone(),
        };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        match api.delete(name, &params).await {
            Err(error) if is_not_found(&error) => Ok(()),
            other => other.map(drop).during(|| format!("delete volume {name}")),
        }
    }

    pub(super) async fn drop_finalizer(&self, volume: &PersistentVolume) -> Result<(), ReconcileError> {
        let mut free = volume.clone();
        if let Some(finalizers) = &mut free.metadata.finalizers {
            finalizers.retain(|finalizer| finalizer != LOCAL_FINALIZER);
        }
        self.write_volume(volume, free).await.map(drop)
    }

    async fn write_volume(
        &self,
        old: &PersistentVolume,
        new: PersistentVolume,
    ) -> Result<PersistentVolume, ReconcileError> {
        if *old == new {
            return Ok(new);
        }
        let name = pods::name(&old.metadata);
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let answer = api.replace(name, &PostParams::default(), &new).await;
        let written = self.certain(answer).during(|| format!("write volume {name}"))?;
        self.saw(&self.volumes_at, &written.metadata);
        Ok(written)
    }

    async fn write_claim(
        &self,
        old: &PersistentVolumeClaim,
        new: PersistentVolumeClaim,
    ) -> Result<PersistentVolumeClaim, ReconcileError> {
        if *old == new {
            return Ok(new);
        }
        let key = Key::of(&old.metadata);
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        let answer = api.replace(&key.name, &PostParams::default(), &new).await;
        let written = self.certain(answer).during(|| format!("write claim {key}"))?;
        self.saw(&self.claims_at, &written.metadata);
        Ok(written)
    }

    async fn claim_status(
        &self,
        claim: &PersistentVolumeClaim,
        status: PersistentVolumeClaimStatus,
    ) -> Result<(), ReconcileError> {
        if claim.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let mut new = claim.clone();
        new.status = Some(status);
        let key = Key::of(&claim.metadata);
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        match api.replace_status(&key.name, &PostParams::default(), &new).await {
            Err(error) if is_not_found(&error) => {}
            other => {
                let written = self.certain(other).during(|| format!("write the status of claim {key}"))?;
                self.saw(&self.claims_at, &written.metadata);
            }
        }
        Ok(())
    }

    /// Remembers that a write may have happened although its answer did not arrive.
    fn certain<T>(&self, answer: Result<T, kube::Error>) -> Result<T, kube::Error> {
        if let Err(error) = &answer
            && is_ambiguous(error)
        {
            self.uncertain.store(true, Ordering::Relaxed);
        }
        answer
    }
}

fn annotate(meta: &mut ObjectMeta, name: &str, value: &str) {
    if annotation(meta, name) != Some(value) {
        meta.annotations.get_or_insert_default().insert(name.to_owned(), value.to_owned());
    }
}

/// How a volume refers to its claim.
fn reference(claim: &PersistentVolumeClaim) -> ObjectReference {
    ObjectReference { field_path: None, ..claim.object_ref(&()) }
}
