//! A pod's volumes: made when the pod is set up, projected again when what they show changes, mounted
//! into its containers.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use coracle_api::quantity::Quantity;
use coracle_vfs::{MountOptions, Mounts, ProjectedFile, VfsError, Volume};
use k8s_openapi::{
    api::core::v1::{
        ConfigMap, Container, DownwardAPIVolumeFile, EmptyDirVolumeSource, HostPathVolumeSource, KeyToPath,
        Pod, Secret, Volume as VolumeSpec,
    },
    apimachinery::pkg::api::resource::Quantity as QuantityText,
};

use crate::env::{EnvError, Environment, PodFacts, Sources, field_value, resource_value};

/// Permission bits of projected files unless the volume says otherwise. Kubernetes' default.
const DEFAULT_MODE: i32 = 0o644;
/// What a volume in memory holds if neither it nor its pod says: as much as a container that does not say.
const MEMORY_VOLUME_DEFAULT: u64 = 256 << 20;

/// Why a volume cannot be had; the texts go into `FailedMount` events.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error("configmap \"{0}\" not found")]
    NoConfigMap(String),
    #[error("secret \"{0}\" not found")]
    NoSecret(String),
    #[error("references non-existent config key: {0}")]
    NoConfigMapKey(String),
    #[error("references non-existent secret key: {0}")]
    NoSecretKey(String),
    #[error("hostPath type check failed: {path} is not {wanted}")]
    HostPath { path: String, wanted: &'static str },
    #[error("hostPath {0} holds the cluster's own data, which no pod may see")]
    OwnData(String),
    #[error("volumes of type {0} are not supported by this node")]
    Unsupported(&'static str),
    #[error("no volume of this name in the pod")]
    Unknown,
    #[error("cannot make the folder {path}: {reason}")]
    Folder { path: PathBuf, reason: String },
    #[error(transparent)]
    Field(#[from] EnvError),
    #[error("{0}")]
    Files(VfsError),
}

/// A failure with the volume it is about.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume \"{volume}\" : {problem}")]
pub(crate) struct SetUpError {
    volume: String,
    problem: VolumeError,
}

/// The volumes of one pod.
#[derive(Debug, Default)]
pub(crate) struct PodVolumes {
    list: Vec<(Box<str>, Volume)>,
}

/// The folder of a pod's volumes on the node's disk.
pub(crate) fn pod_dir(pods: &Path, uid: &str) -> PathBuf {
    pods.join(uid)
}

/// True if setting up the pod's volumes touches the node's disk.
pub(crate) fn on_disk(pod: &Pod) -> bool {
    specs(pod).iter().any(|volume| {
        volume.host_path.is_some() || volume.empty_dir.as_ref().is_some_and(|source| !in_memory(source))
    })
}

impl PodVolumes {
    /// Makes the volumes; blocking if [`on_disk`]. What is on disk from before (the agent was restarted)
    /// is kept.
    pub(crate) fn set_up(
        facts: &PodFacts<'_>,
        pod_dir: &Path,
        sources: &dyn Sources,
    ) -> Result<PodVolumes, SetUpError> {
        let mut list = Vec::new();
        for spec in specs(facts.pod) {
            let volume = match make(facts, spec, pod_dir) {
                Ok(Some(volume)) => Ok(volume),
                Ok(None) => projection(facts, spec, sources).and_then(|files| {
                    let volume = Volume::memory(None);
                    volume.project(files).map_err(VolumeError::Files)?;
                    Ok(volume)
                }),
                Err(error) => Err(error),
            };
            let volume = volume.map_err(|problem| SetUpError { volume: spec.name.clone(), problem })?;
            list.push((spec.name.as_str().into(), volume));
        }
        Ok(PodVolumes { list })
    }

    /// Shows what the sources hold now. A volume whose source is gone keeps showing the last it held, as
    /// Kubernetes has it.
    pub(crate) fn refresh(&self, facts: &PodFacts<'_>, sources: &dyn Sources) {
        for spec in specs(facts.pod).iter().filter(|spec| is_projection(spec)) {
            let Some(volume) = self.find(&spec.name) else { continue };
            let result = projection(facts, spec, sources)
                .and_then(|files| volume.project(files).map_err(VolumeError::Files));
            if let Err(error) = result {
                tracing::debug!(volume = spec.name, %error, "volume keeps its last content");
            }
        }
    }

    /// The view of one container.
    pub(crate) fn mounts(&self, container: &Container, env: &Environment) -> Result<Mounts, SetUpError> {
        let mut mounts = Mounts::new();
        for mount in container.volume_mounts.iter().flatten() {
            let failed = |problem| SetUpError { volume: mount.name.clone(), problem };
            let volume = self.find(&mount.name).ok_or_else(|| failed(VolumeError::Unknown))?;
            let sub_path = match (&mount.sub_path, &mount.sub_path_expr) {
                (Some(path), _) => Some(path.clone()),
                (None, Some(text)) => Some(env.expand(text).map_err(|error| failed(error.into()))?),
                (None, None) => None,
            };
            let options = MountOptions {
                read_only: mount.read_only == Some(true),
                sub_path: sub_path.filter(|path| !path.is_empty()),
            };
            mounts
                .add(&mount.mount_path, volume, &options)
                .map_err(|error| failed(VolumeError::Files(error)))?;
        }
        Ok(mounts)
    }

    fn find(&self, name: &str) -> Option<&Volume> {
        self.list.iter().find(|(known, _)| &**known == name).map(|(_, volume)| volume)
    }
}

fn specs(pod: &Pod) -> &[VolumeSpec] {
    pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default()
}

fn in_memory(source: &EmptyDirVolumeSource) -> bool {
    source.medium.as_deref() == Some("Memory")
}

fn is_projection(spec: &VolumeSpec) -> bool {
    spec.config_map.is_some()
        || spec.secret.is_some()
        || spec.downward_api.is_some()
        || spec.projected.is_some()
}

/// The volume itself; `None` for those that show other objects.
fn make(facts: &PodFacts<'_>, spec: &VolumeSpec, pod_dir: &Path) -> Result<Option<Volume>, VolumeError> {
    if is_projection(spec) {
        return Ok(None);
    }
    if let Some(source) = &spec.empty_dir {
        return empty_dir(facts, source, &pod_dir.join("volumes").join(&spec.name)).map(Some);
    }
    if let Some(source) = &spec.host_path {
        return host_path(source, pod_dir).map(Some);
    }
    Err(VolumeError::Unsupported(type_name(spec)))
}

fn type_name(spec: &VolumeSpec) -> &'static str {
    let known = [
        (spec.persistent_volume_claim.is_some(), "persistentVolumeClaim"),
        (spec.csi.is_some(), "csi"),
        (spec.nfs.is_some(), "nfs"),
        (spec.ephemeral.is_some(), "ephemeral"),
        (spec.image.is_some(), "image"),
        (spec.iscsi.is_some(), "iscsi"),
    ];
    known.into_iter().find(|(there, _)| *there).map_or("unknown", |(_, name)| name)
}

fn empty_dir(facts: &PodFacts<'_>, source: &EmptyDirVolumeSource, dir: &Path) -> Result<Volume, VolumeError> {
    let limit = bytes(source.size_limit.as_ref());
    if in_memory(source) {
        return Ok(Volume::memory(Some(memory_size(facts, limit))));
    }
    make_folder(dir)?;
    Volume::host(dir, limit).map_err(VolumeError::Files)
}

/// The size of a volume in memory, by Kubernetes' rule: at most its `sizeLimit`, what the pod's containers may use
/// together if all of them say it, and what the node has to give. If neither is said it is
/// [`MEMORY_VOLUME_DEFAULT`], since what it holds is memory of the host that no pod asked for.
fn memory_size(facts: &PodFacts<'_>, size_limit: Option<u64>) -> u64 {
    let containers = facts.pod.spec.iter().flat_map(|spec| &spec.containers);
    let limits = containers.map(|container| {
        let limits = container.resources.as_ref()?.limits.as_ref()?;
        bytes(limits.get("memory"))
    });
    let pod = limits.sum::<Option<u64>>();
    let node = u64::try_from(facts.allocatable.memory).unwrap_or(0);
    match (size_limit, pod) {
        (None, None) => MEMORY_VOLUME_DEFAULT,
        (size_limit, pod) => size_limit.unwrap_or(u64::MAX).min(pod.unwrap_or(u64::MAX)),
    }
    .min(node)
}

fn bytes(amount: Option<&QuantityText>) -> Option<u64> {
    let value = Quantity::parse(&amount?.0).ok()?.value();
    u64::try_from(value).ok().filter(|bytes| *bytes > 0)
}

/// A folder of the host, but never one with the cluster's data folder in it or inside that: the keys, the
/// store and the compiled code of all pods are there.
fn host_path(source: &HostPathVolumeSource, pod_dir: &Path) -> Result<Volume, VolumeError> {
    let path = Path::new(&source.path);
    // `<data>/pods/<uid>`, which may not exist yet.
    let data = pod_dir.ancestors().nth(2).unwrap_or(pod_dir);
    let data = data.canonicalize().unwrap_or_else(|_| data.to_owned());
    // What does not exist yet would be made below the nearest folder that does.
    let there = path.ancestors().find_map(|ancestor| ancestor.canonicalize().ok());
    if there.is_some_and(|there| there.starts_with(&data) || (path.exists() && data.starts_with(&there))) {
        return Err(VolumeError::OwnData(source.path.clone()));
    }
    match source.type_.as_deref().unwrap_or_default() {
        "DirectoryOrCreate" => make_folder(path)?,
        "" | "Directory" if path.is_dir() => {}
        "" | "Directory" => {
            return Err(VolumeError::HostPath { path: source.path.clone(), wanted: "a directory" });
        }
        _ => return Err(VolumeError::Unsupported("hostPath other than a directory")),
    }
    Volume::host(path, None).map_err(VolumeError::Files)
}

fn make_folder(dir: &Path) -> Result<(), VolumeError> {
    std::fs::create_dir_all(dir)
        .map_err(|error| VolumeError::Folder { path: dir.to_owned(), reason: error.to_string() })
}

type Files = BTreeMap<String, ProjectedFile>;

/// What a configMap, secret, downwardAPI or projected volume shows.
fn projection(facts: &PodFacts<'_>, spec: &VolumeSpec, sources: &dyn Sources) -> Result<Files, VolumeError> {
    let mut files = Files::new();
    let namespace = facts.pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(source) = &spec.config_map {
        let object = sources.config_map(namespace, &source.name);
        let item = Item { name: &source.name, optional: source.optional, mode: source.default_mode };
        config_map_files(&mut files, &item, source.items.as_deref(), object.as_deref())?;
    }
    if let Some(source) = &spec.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        let object = sources.secret(namespace, name);
        let item = Item { name, optional: source.optional, mode: source.default_mode };
        secret_files(&mut files, &item, source.items.as_deref(), object.as_deref())?;
    }
    if let Some(source) = &spec.downward_api {
        downward_files(&mut files, facts, source.items.as_deref(), source.default_mode)?;
    }
    if let Some(source) = &spec.projected {
        let mode = source.default_mode;
        for part in source.sources.iter().flatten() {
            if let Some(part) = &part.config_map {
                let object = sources.config_map(namespace, &part.name);
                let item = Item { name: &part.name, optional: part.optional, mode };
                config_map_files(&mut files, &item, part.items.as_deref(), object.as_deref())?;
            }
            if let Some(part) = &part.secret {
                let object = sources.secret(namespace, &part.name);
                let item = Item { name: &part.name, optional: part.optional, mode };
                secret_files(&mut files, &item, part.items.as_deref(), object.as_deref())?;
            }
            if let Some(part) = &part.downward_api {
                downward_files(&mut files, facts, part.items.as_deref(), mode)?;
            }
            if part.service_account_token.is_some() {
                return Err(VolumeError::Unsupported("serviceAccountToken"));
            }
            if part.cluster_trust_bundle.is_some() {
                return Err(VolumeError::Unsupported("clusterTrustBundle"));
            }
        }
    }
    Ok(files)
}

/// What ConfigMap and Secret sources have in common.
struct Item<'a> {
    name: &'a str,
    optional: Option<bool>,
    mode: Option<i32>,
}

impl Item<'_> {
    fn optional(&self) -> bool {
        self.optional == Some(true)
    }
}

fn config_map_files(
    files: &mut Files,
    item: &Item<'_>,
    items: Option<&[KeyToPath]>,
    object: Option<&ConfigMap>,
) -> Result<(), VolumeError> {
    let Some(object) = object else {
        return if item.optional() { Ok(()) } else { Err(VolumeError::NoConfigMap(item.name.to_owned())) };
    };
    let text = object.data.iter().flatten().map(|(key, value)| (key, value.as_bytes()));
    let binary = object.binary_data.iter().flatten().map(|(key, value)| (key, value.0.as_slice()));
    let all: BTreeMap<&String, &[u8]> = text.chain(binary).collect();
    key_files(files, item, items, &all, VolumeError::NoConfigMapKey)
}

fn secret_files(
    files: &mut Files,
    item: &Item<'_>,
    items: Option<&[KeyToPath]>,
    object: Option<&Secret>,
) -> Result<(), VolumeError> {
    let Some(object) = object else {
        return if item.optional() { Ok(()) } else { Err(VolumeError::NoSecret(item.name.to_owned())) };
    };
    let all = object.data.iter().flatten().map(|(key, value)| (key, value.0.as_slice())).collect();
    key_files(files, item, items, &all, VolumeError::NoSecretKey)
}

/// All keys under their own names, or the named ones under the paths given for them.
fn key_files(
    files: &mut Files,
    item: &Item<'_>,
    items: Option<&[KeyToPath]>,
    all: &BTreeMap<&String, &[u8]>,
    missing: fn(String) -> VolumeError,
) -> Result<(), VolumeError> {
    let items = items.unwrap_or_default();
    if items.is_empty() {
        files.extend(all.iter().map(|(key, value)| ((*key).clone(), file(value, item.mode))));
    }
    for wanted in items {
        match all.get(&wanted.key) {
            Some(value) => {
                files.insert(wanted.path.clone(), file(value, wanted.mode.or(item.mode)));
            }
            None if item.optional() => {}
            None => return Err(missing(wanted.key.clone())),
        }
    }
    Ok(())
}

fn downward_files(
    files: &mut Files,
    facts: &PodFacts<'_>,
    items: Option<&[DownwardAPIVolumeFile]>,
    mode: Option<i32>,
) -> Result<(), VolumeError> {
    for item in items.unwrap_or_default() {
        let value = if let Some(field) = &item.field_ref {
            field_value(facts, field)?
        } else if let Some(field) = &item.resource_field_ref {
            let name = field.container_name.as_deref().unwrap_or_default();
            let containers = facts.pod.spec.iter().flat_map(|spec| &spec.containers);
            match containers.into_iter().find(|container| container.name == name) {
                Some(container) => resource_value(facts, container, field)?,
                None => continue,
            }
        } else {
            continue;
        };
        files.insert(item.path.clone(), file(value.as_bytes(), item.mode.or(mode)));
    }
    Ok(())
}

fn file(data: &[u8], mode: Option<i32>) -> ProjectedFile {
    let mode = mode.unwrap_or(DEFAULT_MODE);
    ProjectedFile { data: Bytes::copy_from_slice(data), mode: mode.unsigned_abs() & 0o777 }
}

#[cfg(test)]
#[path = "volumes_tests.rs"]
mod tests;
