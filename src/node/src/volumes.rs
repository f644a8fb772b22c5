//! A pod's volumes: made when the pod is set up, projected again when what they show changes, mounted
//! into its containers.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use coracle_api::quantity::Quantity;
use coracle_budget::Budget;
use coracle_image::Image;
use coracle_vfs::{MountOptions, Mounts, PodShare, ProjectedFile, ROOT_LIMIT, Usage, VfsError, Volume};
use k8s_openapi::{
    api::core::v1::{
        ConfigMap, Container, DownwardAPIVolumeFile, EmptyDirVolumeSource, HostPathVolumeSource, KeyToPath,
        PersistentVolume, PersistentVolumeClaim, Pod, Secret, ServiceAccountTokenProjection,
        Volume as VolumeSpec,
    },
    apimachinery::pkg::{api::resource::Quantity as QuantityText, apis::meta::v1::ObjectMeta},
};

use crate::{
    env::{EnvError, Environment, PodFacts, Sources, field_value, resource_value},
    local_volumes,
};

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
    #[error("hostPath {0} is of a file system by which the kernel shows itself, which no pod may see")]
    Kernel(String),
    #[error("path \"{0}\" does not exist")]
    NoPath(String),
    #[error("what it shows needs more memory than the pod may use")]
    Memory,
    #[error("persistentvolumeclaim \"{0}\" not found")]
    NoClaim(String),
    #[error("PVC {0} was not created for the pod (the pod is not owner)")]
    NotOwner(String),
    #[error("PVC {0} is being deleted")]
    ClaimGoing(String),
    #[error("PVC {0} is not bound")]
    NotBound(String),
    #[error("persistentvolume \"{0}\" is not bound to the claim or is gone")]
    NoVolume(String),
    #[error("persistentvolume \"{0}\" cannot be reached from this node (node affinity)")]
    NotHere(String),
    #[error("the token of the service account is not there yet")]
    NoToken,
    #[error("image \"{0}\" is not there yet")]
    NoImage(String),
    #[error("a hostPath of type {0} is nothing that a guest could use")]
    Device(String),
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

/// Why a container cannot have its view.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountError {
    #[error(transparent)]
    Env(#[from] EnvError),
    #[error("error SubPath `{0}` must not be an absolute path")]
    Absolute(String),
    #[error("unable to provision SubPath `{0}`: must not contain '..'")]
    Backsteps(String),
    #[error(transparent)]
    Volume(#[from] SetUpError),
}

/// Where the objects behind volumes are looked up.
pub(crate) trait VolumeSources: Sources {
    /// A PersistentVolumeClaim, if it exists.
    fn claim(&self, namespace: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>>;
    /// A PersistentVolume, if it exists.
    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>>;
    /// True if the volume can be reached from this node.
    fn is_here(&self, volume: &PersistentVolume) -> bool;
    /// Opens a volume that is a folder of this node. Blocking.
    fn local_volume(&self, volume: &PersistentVolume, handle: &str) -> Result<Volume, VfsError>;
    /// A service account token that was obtained for a pod before.
    fn token(&self, pod_uid: &str, projection: &ServiceAccountTokenProjection) -> Option<Bytes>;
    /// What an image that was pulled for an image volume before brings.
    fn image(&self, reference: &str) -> Option<ImageContent>;
}

/// What an image volume shows.
#[derive(Debug)]
pub(crate) enum ImageContent {
    /// The files of the image: a folder that nobody changes, and that goes with the image of this digest.
    Files {
        /// Where they are on this node.
        path: PathBuf,
        /// Of the manifest.
        digest: String,
    },
    /// Of an image that is a module and nothing else: its file, and what it is called.
    Module {
        /// Where it is on this node.
        path: PathBuf,
        /// Its name in the volume.
        name: String,
    },
}

/// What a pod's volumes may take of its node.
#[derive(Clone, Debug)]
pub(crate) struct Means {
    /// The memory of the pod.
    pub(crate) memory: Arc<Budget>,
    /// Its place on the disk and its open files there.
    pub(crate) share: PodShare,
}

/// The volumes of one pod.
#[derive(Debug, Default)]
pub(crate) struct PodVolumes {
    list: Vec<(Box<str>, Source)>,
}

/// What a volume of a pod is.
#[derive(Debug)]
struct Source {
    volume: Volume,
    /// However it is mounted.
    read_only: bool,
    /// Only this file of it.
    file: Option<Box<str>>,
    /// The digest of the image whose files it shows.
    image: Option<Box<str>>,
}

impl From<Volume> for Source {
    fn from(volume: Volume) -> Source {
        Source { volume, read_only: false, file: None, image: None }
    }
}

/// The folder of a pod's volumes on the node's disk.
pub(crate) fn pod_dir(pods: &Path, uid: &str) -> PathBuf {
    pods.join(uid)
}

/// True if setting up the pod's volumes touches the node's disk.
pub(crate) fn on_disk(pod: &Pod) -> bool {
    specs(pod).iter().any(|volume| {
        volume.host_path.is_some()
            || volume.image.is_some()
            || claim_name(pod, volume).is_some()
            || volume.empty_dir.as_ref().is_some_and(|source| !in_memory(source))
    })
}

/// The claim behind a volume: the one that it names, or the one that was made for it.
pub(crate) fn claim_name(pod: &Pod, volume: &VolumeSpec) -> Option<String> {
    match &volume.persistent_volume_claim {
        Some(source) => Some(source.claim_name.clone()),
        None => {
            volume.ephemeral.as_ref()?;
            let pod = pod.metadata.name.as_deref().unwrap_or_default();
            Some(format!("{pod}-{}", volume.name))
        }
    }
}

/// The images that the pod's volumes show, with their pull policies.
pub(crate) fn images(pod: &Pod) -> impl Iterator<Item = (&str, Option<&str>)> {
    specs(pod).iter().filter_map(|volume| {
        let source = volume.image.as_ref()?;
        Some((source.reference.as_deref()?, source.pull_policy.as_deref()))
    })
}

impl PodVolumes {
    /// Makes the volumes; blocking if [`on_disk`]. What is on disk from before (the agent was restarted)
    /// is kept. Volumes in memory are memory of the pod's own. What it is shown of other objects are the node's own
    /// bytes, the same for all; each volume counts them once, since it may keep an old version of them.
    pub(crate) fn set_up(
        facts: &PodFacts<'_>,
        pod_dir: &Path,
        sources: &dyn VolumeSources,
        means: &Means,
    ) -> Result<PodVolumes, SetUpError> {
        let mut list = Vec::new();
        for spec in specs(facts.pod) {
            let volume = match make(facts, spec, pod_dir, sources, means) {
                Ok(Some(volume)) => Ok(volume),
                Ok(None) => projection(facts, spec, sources).and_then(|files| {
                    let volume = Volume::memory_of(None, &means.memory);
                    volume.project(files).map_err(shown_by)?;
                    // Whatever the mount says, as Kubernetes has it.
                    Ok(Source { read_only: true, ..volume.into() })
                }),
                Err(error) => Err(error),
            };
            let volume = volume.map_err(|problem| SetUpError { volume: spec.name.clone(), problem })?;
            list.push((spec.name.as_str().into(), volume));
        }
        Ok(PodVolumes { list })
    }

    /// What each of them holds. Folders of the host and persistent volumes without a limit are not counted.
    pub(crate) fn usage(&self) -> Vec<(Box<str>, Usage)> {
        self.list.iter().map(|(name, source)| (name.clone(), source.volume.usage())).collect()
    }

    /// The digests of the images whose files they show.
    pub(crate) fn images(&self) -> Vec<Box<str>> {
        self.list.iter().filter_map(|(_, source)| source.image.clone()).collect()
    }

    /// Shows what the sources hold now. A volume whose source is gone keeps showing the last it held, as
    /// Kubernetes has it.
    pub(crate) fn refresh(&self, facts: &PodFacts<'_>, sources: &dyn VolumeSources) {
        for spec in specs(facts.pod).iter().filter(|spec| is_projection(spec)) {
            let Some(Source { volume, .. }) = self.find(&spec.name) else { continue };
            let result =
                projection(facts, spec, sources).and_then(|files| volume.project(files).map_err(shown_by));
            if let Err(error) = result {
                tracing::debug!(volume = spec.name, %error, "volume keeps its last content");
            }
        }
    }

    /// The view of one container, over a root of its own.
    pub(crate) fn mounts(
        &self,
        root: Volume,
        container: &Container,
        env: &Environment,
    ) -> Result<Mounts, MountError> {
        let mut mounts = Mounts::over(root);
        if let Err(error) = mounts.add_devices() {
            tracing::debug!(%error, "a container has nothing in /dev");
        }
        for mount in container.volume_mounts.iter().flatten() {
            let failed = |problem| SetUpError { volume: mount.name.clone(), problem };
            let source = self.find(&mount.name).ok_or_else(|| failed(VolumeError::Unknown))?;
            let sub_path = match (&mount.sub_path, &mount.sub_path_expr) {
                (Some(path), _) => Some(path.clone()),
                (None, Some(text)) => Some(env.expand_all(text)?),
                (None, None) => None,
            };
            let sub_path = sub_path.filter(|path| !path.is_empty());
            check_sub_path(sub_path.as_deref().unwrap_or_default())?;
            let options = MountOptions {
                read_only: source.read_only || mount.read_only == Some(true),
                sub_path: source.file.as_deref().map(str::to_owned).or(sub_path),
            };
            mounts
                .add(&mount.mount_path, &source.volume, &options)
                .map_err(|error| failed(VolumeError::Files(error)))?;
        }
        Ok(mounts)
    }

    fn find(&self, name: &str) -> Option<&Source> {
        self.list.iter().find(|(known, _)| &**known == name).map(|(_, source)| source)
    }
}

/// The root of a container: the files of its image, if it brings any, and over them what the container writes, which
/// is memory of its pod.
pub(crate) fn container_root(image: &Image, means: &Means) -> Result<Volume, VfsError> {
    let own = Volume::memory_of(Some(ROOT_LIMIT), &means.memory);
    match &image.files {
        Some(files) => Ok(Volume::overlay(&[Volume::image_for(&means.share, &files.path)?], &own)),
        None => Ok(own),
    }
}

fn check_sub_path(path: &str) -> Result<(), MountError> {
    if path.starts_with('/') {
        return Err(MountError::Absolute(path.to_owned()));
    }
    if path.split('/').any(|name| name == "..") {
        return Err(MountError::Backsteps(path.to_owned()));
    }
    Ok(())
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
fn make(
    facts: &PodFacts<'_>,
    spec: &VolumeSpec,
    pod_dir: &Path,
    sources: &dyn VolumeSources,
    means: &Means,
) -> Result<Option<Source>, VolumeError> {
    if is_projection(spec) {
        return Ok(None);
    }
    let own_dir = pod_dir.join("volumes").join(&spec.name);
    if let Some(source) = &spec.empty_dir {
        return empty_dir(facts, source, &own_dir, means).map(|volume| Some(volume.into()));
    }
    if let Some(source) = &spec.host_path {
        return host_path(source, pod_dir, &means.share).map(Some);
    }
    if let Some(name) = claim_name(facts.pod, spec) {
        return claim(facts.pod, spec, &name, pod_dir, sources, &means.share).map(Some);
    }
    if let Some(source) = &spec.image {
        let reference = source.reference.as_deref().unwrap_or_default();
        return image(reference, &own_dir, sources, &means.share).map(Some);
    }
    Err(VolumeError::Unsupported(type_name(spec)))
}

/// The volume that a claim is bound to.
fn claim(
    pod: &Pod,
    spec: &VolumeSpec,
    name: &str,
    pod_dir: &Path,
    sources: &dyn VolumeSources,
    share: &PodShare,
) -> Result<Source, VolumeError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let claim = sources.claim(namespace, name).ok_or_else(|| VolumeError::NoClaim(name.to_owned()))?;
    let full = format!("{namespace}/{name}");
    let owned =
        |uid: &String| claim.metadata.owner_references.iter().flatten().any(|owner| owner.uid == *uid);
    if spec.ephemeral.is_some() && !pod.metadata.uid.as_ref().is_some_and(owned) {
        return Err(VolumeError::NotOwner(full));
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return Err(VolumeError::ClaimGoing(full));
    }
    let bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).filter(|_| bound);
    let Some(volume_name) = volume else { return Err(VolumeError::NotBound(full)) };
    let volume = sources.volume(volume_name).filter(|volume| {
        let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        reference.and_then(|reference| reference.uid.as_ref()) == claim.metadata.uid.as_ref()
    });
    let volume = volume.ok_or_else(|| VolumeError::NoVolume(volume_name.to_owned()))?;
    if !sources.is_here(&volume) {
        return Err(VolumeError::NotHere(volume_name.to_owned()));
    }
    let read_only = spec.persistent_volume_claim.as_ref().and_then(|source| source.read_only) == Some(true);
    let source = persistent_volume(&volume, pod_dir, sources, share)?;
    Ok(Source { read_only: read_only || source.read_only, ..source })
}

fn persistent_volume(
    volume: &PersistentVolume,
    pod_dir: &Path,
    sources: &dyn VolumeSources,
    share: &PodShare,
) -> Result<Source, VolumeError> {
    let spec = volume.spec.as_ref();
    if let Some(source) = spec.and_then(|spec| spec.host_path.as_ref()) {
        return host_path(source, pod_dir, share);
    }
    if let Some(source) = spec.and_then(|spec| spec.local.as_ref()) {
        if !Path::new(&source.path).exists() {
            return Err(VolumeError::NoPath(source.path.clone()));
        }
        return host_path(&HostPathVolumeSource { path: source.path.clone(), type_: None }, pod_dir, share);
    }
    match spec.and_then(|spec| spec.csi.as_ref()) {
        Some(source) if source.driver == local_volumes::DRIVER => {
            let opened = sources.local_volume(volume, &source.volume_handle).map_err(VolumeError::Files)?;
            Ok(Source { read_only: source.read_only == Some(true), ..opened.into() })
        }
        Some(_) => Err(VolumeError::Unsupported("csi with a driver other than local.coracle.dev")),
        None => Err(VolumeError::Unsupported("of this persistent volume")),
    }
}

/// The files of an image, or a folder with its module, for reading.
fn image(
    reference: &str,
    dir: &Path,
    sources: &dyn VolumeSources,
    share: &PodShare,
) -> Result<Source, VolumeError> {
    let content = sources.image(reference).ok_or_else(|| VolumeError::NoImage(reference.to_owned()))?;
    let (module, name) = match content {
        ImageContent::Files { path, digest } => {
            return Ok(Source { image: Some(digest.into()), ..shown(&path, share)? });
        }
        ImageContent::Module { path, name } => (path, name),
    };
    make_folder(dir)?;
    let path = dir.join(name);
    let failed =
        |error: std::io::Error| VolumeError::Folder { path: path.clone(), reason: error.to_string() };
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    // The same bytes under another name where the disk allows it.
    if std::fs::hard_link(&module, &path).is_err() {
        std::fs::copy(&module, &path).map_err(failed)?;
    }
    shown(dir, share)
}

/// A folder that nobody writes to.
fn shown(dir: &Path, share: &PodShare) -> Result<Source, VolumeError> {
    let volume = Volume::image_for(share, dir).map_err(VolumeError::Files)?;
    Ok(Source { read_only: true, ..volume.into() })
}

fn type_name(spec: &VolumeSpec) -> &'static str {
    let known = [
        (spec.csi.is_some(), "csi"),
        (spec.nfs.is_some(), "nfs"),
        (spec.git_repo.is_some(), "gitRepo"),
        (spec.iscsi.is_some(), "iscsi"),
    ];
    known.into_iter().find(|(there, _)| *there).map_or("unknown", |(_, name)| name)
}

fn empty_dir(
    facts: &PodFacts<'_>,
    source: &EmptyDirVolumeSource,
    dir: &Path,
    means: &Means,
) -> Result<Volume, VolumeError> {
    let limit = bytes(source.size_limit.as_ref());
    if in_memory(source) {
        return Ok(Volume::memory_of(Some(memory_size(facts, limit)), &means.memory));
    }
    make_folder(dir)?;
    // No volume of the pod holds more than all of them may together.
    let limit = limit.into_iter().chain(means.share.usage().limit).min();
    Volume::scratch_for(&means.share, dir, limit).map_err(VolumeError::Files)
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

/// Nothing is made below these: not all of them are file systems of the kernel on every machine.
const KERNEL_FOLDERS: [&str; 3] = ["/dev", "/proc", "/sys"];

/// A folder of the host, but never one with the cluster's data folder in it or inside that: the keys, the
/// store and the compiled code of all pods are there. Nor one by which the kernel shows itself: procfs has the memory
/// of this process, which is that of all pods.
fn host_path(source: &HostPathVolumeSource, pod_dir: &Path, share: &PodShare) -> Result<Source, VolumeError> {
    let path = Path::new(&source.path);
    // `<data>/pods/<uid>`, which may not exist yet.
    let data = pod_dir.ancestors().nth(2).unwrap_or(pod_dir);
    let data = data.canonicalize().unwrap_or_else(|_| data.to_owned());
    // What does not exist yet would be made below the nearest folder that does.
    let there = path.ancestors().find_map(|ancestor| ancestor.canonicalize().ok());
    let makes = !path.exists()
        && matches!(source.type_.as_deref(), None | Some("" | "DirectoryOrCreate" | "FileOrCreate"));
    if let Some(there) = &there
        && makes
        && KERNEL_FOLDERS.iter().any(|kernel| there.starts_with(kernel))
    {
        return Err(VolumeError::Kernel(source.path.clone()));
    }
    if there.is_some_and(|there| there.starts_with(&data) || (path.exists() && data.starts_with(&there))) {
        return Err(VolumeError::OwnData(source.path.clone()));
    }
    // What was checked by name is opened once, and checked by what it is then: nobody exchanges it in between.
    let open = |dir: &Path| {
        Volume::host_without(share, dir, &data).map_err(|error| match error {
            VfsError::NotPermitted => VolumeError::Kernel(source.path.clone()),
            VfsError::Access => VolumeError::OwnData(source.path.clone()),
            other => VolumeError::Files(other),
        })
    };
    if let Some(nearest) = path.ancestors().find(|ancestor| ancestor.is_dir()) {
        open(nearest)?; // before anything is made in it
    }
    let wrong = |wanted| Err(VolumeError::HostPath { path: source.path.clone(), wanted });
    match source.type_.as_deref().unwrap_or_default() {
        "DirectoryOrCreate" => make_folder(path)?,
        "Directory" if !path.is_dir() => return wrong("a directory"),
        "FileOrCreate" if !path.exists() => {
            // Not where a link leads that has nothing at its end.
            let made = std::fs::File::create_new(path);
            made.map_err(|error| VolumeError::Folder { path: path.to_owned(), reason: error.to_string() })?;
        }
        "File" | "FileOrCreate" if !path.is_file() => return wrong("a file"),
        // Kubernetes leaves it to those who run the containers, and they make a folder.
        "" if !path.exists() => make_folder(path)?,
        "" if !path.is_dir() && !path.is_file() => return wrong("a file or a directory"),
        "" | "Directory" | "File" | "FileOrCreate" => {}
        other => return Err(VolumeError::Device(other.to_owned())),
    }
    if path.is_dir() {
        return open(path).map(Source::from);
    }
    // The folder is opened, but nothing of it is shown but the file.
    let name = path.file_name().and_then(|name| name.to_str());
    let (Some(parent), Some(name)) = (path.parent(), name) else { return wrong("a file with a plain name") };
    let volume = open(parent)?;
    Ok(Source { file: Some(name.into()), ..volume.into() })
}

fn make_folder(dir: &Path) -> Result<(), VolumeError> {
    std::fs::create_dir_all(dir)
        .map_err(|error| VolumeError::Folder { path: dir.to_owned(), reason: error.to_string() })
}

type Files = BTreeMap<String, ProjectedFile>;

/// What a configMap, secret, downwardAPI or projected volume shows.
fn projection(
    facts: &PodFacts<'_>,
    spec: &VolumeSpec,
    sources: &dyn VolumeSources,
) -> Result<Files, VolumeError> {
    let mut files = Files::new();
    let namespace = facts.pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(source) = &spec.config_map {
        let object = sources.config_map(namespace, &source.name);
        let item = Item { name: &source.name, optional: source.optional, mode: source.default_mode };
        config_map_files(&mut files, &item, source.items.as_deref(), object.as_ref())?;
    }
    if let Some(source) = &spec.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        let object = sources.secret(namespace, name);
        let item = Item { name, optional: source.optional, mode: source.default_mode };
        secret_files(&mut files, &item, source.items.as_deref(), object.as_ref())?;
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
                config_map_files(&mut files, &item, part.items.as_deref(), object.as_ref())?;
            }
            if let Some(part) = &part.secret {
                let object = sources.secret(namespace, &part.name);
                let item = Item { name: &part.name, optional: part.optional, mode };
                secret_files(&mut files, &item, part.items.as_deref(), object.as_ref())?;
            }
            if let Some(part) = &part.downward_api {
                downward_files(&mut files, facts, part.items.as_deref(), mode)?;
            }
            if let Some(part) = &part.service_account_token {
                let uid = facts.pod.metadata.uid.as_deref().unwrap_or_default();
                let token = sources.token(uid, part).ok_or(VolumeError::NoToken)?;
                files.insert(part.path.clone(), file(token, mode));
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
    object: Option<&Arc<ConfigMap>>,
) -> Result<(), VolumeError> {
    let Some(object) = object else {
        return if item.optional() { Ok(()) } else { Err(VolumeError::NoConfigMap(item.name.to_owned())) };
    };
    let text = object.data.iter().flatten().map(|(key, value)| (key.as_str(), value.as_bytes()));
    let binary = object.binary_data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.as_slice()));
    let all = shared(object, &object.metadata, text.chain(binary).collect(), config_map_bytes);
    key_files(files, item, items, &all, VolumeError::NoConfigMapKey)
}

fn secret_files(
    files: &mut Files,
    item: &Item<'_>,
    items: Option<&[KeyToPath]>,
    object: Option<&Arc<Secret>>,
) -> Result<(), VolumeError> {
    let Some(object) = object else {
        return if item.optional() { Ok(()) } else { Err(VolumeError::NoSecret(item.name.to_owned())) };
    };
    let all = object.data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.as_slice())).collect();
    let all = shared(object, &object.metadata, all, secret_bytes);
    key_files(files, item, items, &all, VolumeError::NoSecretKey)
}

/// All keys under their own names, or the named ones under the paths given for them.
fn key_files(
    files: &mut Files,
    item: &Item<'_>,
    items: Option<&[KeyToPath]>,
    all: &BTreeMap<&str, Bytes>,
    missing: fn(String) -> VolumeError,
) -> Result<(), VolumeError> {
    let items = items.unwrap_or_default();
    if items.is_empty() {
        files.extend(all.iter().map(|(key, value)| ((*key).to_owned(), file(value.clone(), item.mode))));
    }
    for wanted in items {
        match all.get(wanted.key.as_str()) {
            Some(value) => {
                files.insert(wanted.path.clone(), file(value.clone(), wanted.mode.or(item.mode)));
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
            resource_value(facts, None, field)?
        } else {
            continue;
        };
        files.insert(item.path.clone(), file(value.into(), item.mode.or(mode)));
    }
    Ok(())
}

fn file(data: Bytes, mode: Option<i32>) -> ProjectedFile {
    let mode = mode.unwrap_or(DEFAULT_MODE);
    ProjectedFile { data, mode: mode.unsigned_abs() & 0o777 }
}

/// How a key's bytes are found in its object.
type Find<T> = for<'a> fn(&'a T, &str) -> &'a [u8];

/// A key of an object, with the object.
struct Key<T>(Arc<T>, Box<str>, Find<T>);

impl<T> AsRef<[u8]> for Key<T> {
    fn as_ref(&self) -> &[u8] {
        (self.2)(&self.0, &self.1)
    }
}

/// The bytes of an object's keys, for all paths that show them. A key that is most of its object is shown where it is,
/// the same bytes to all pods, and the object stays as long as one of them shows it; of others there is a copy, so
/// that nobody keeps much more of a node than is counted.
fn shared<'a, T: Send + Sync + 'static>(
    object: &Arc<T>,
    metadata: &ObjectMeta,
    all: BTreeMap<&'a str, &[u8]>,
    find: Find<T>,
) -> BTreeMap<&'a str, Bytes> {
    let notes = metadata.annotations.iter().flatten().map(|(key, value)| key.len() + value.len());
    let size = all.values().map(|value| value.len()).chain(notes).sum::<usize>();
    let small = metadata.managed_fields.is_none();
    let bytes = |(key, value): (&'a str, &[u8])| {
        let bytes = if small && value.len() >= size / 2 {
            Bytes::from_owner(Key(Arc::clone(object), key.into(), find))
        } else {
            Bytes::copy_from_slice(value)
        };
        (key, bytes)
    };
    all.into_iter().map(bytes).collect()
}

fn config_map_bytes<'a>(object: &'a ConfigMap, key: &str) -> &'a [u8] {
    let text = object.data.as_ref().and_then(|data| data.get(key)).map(String::as_bytes);
    let binary = object.binary_data.as_ref().and_then(|data| data.get(key)).map(|value| value.0.as_slice());
    binary.or(text).unwrap_or_default()
}

fn secret_bytes<'a>(object: &'a Secret, key: &str) -> &'a [u8] {
    let value = object.data.as_ref().and_then(|data| data.get(key));
    value.map(|value| value.0.as_slice()).unwrap_or_default()
}

fn shown_by(error: VfsError) -> VolumeError {
    match error {
        VfsError::NoSpace => VolumeError::Memory,
        other => VolumeError::Files(other),
    }
}

#[cfg(test)]
#[path = "volumes_tests.rs"]
mod tests;
