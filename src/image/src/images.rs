//! The door of the room: find, pull, list and push images.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::content::Content;
use crate::digest::Digest;
use crate::format::{self, Choice};
use crate::index::Index;
use crate::manifest::{MAX_CONFIG, MAX_MANIFEST, OCI_MANIFEST};
use crate::registry::{self, uploads::Uploads};
use crate::remote;
use crate::{Credentials, FormatError, ImageError, LOCAL_REGISTRY, PullError, Reference, manifest_for, wasm};

/// Pulls from other registries that run at the same time; more wait. Two would fill most uplinks, a
/// few more hide the round trips of small images.
const PARALLEL_PULLS: usize = 4;

/// What [`Images::open`] needs.
#[derive(Clone, Debug)]
pub struct Config {
    /// The folder, which is made if it does not exist.
    pub dir: PathBuf,
    /// Bytes that a module, or anything else pushed to the registry, may have.
    pub max_module_bytes: u64,
    /// How long one pull may take.
    pub pull_timeout: Duration,
    /// Registries (`host` or `host:port`) to talk to without TLS. Those on this machine's loopback
    /// are always talked to like that.
    pub plain_http: Vec<String>,
}

impl Config {
    /// The usual limits: modules of 256 MiB, pulls of 10 minutes.
    pub fn new(dir: impl Into<PathBuf>) -> Config {
        Config {
            dir: dir.into(),
            max_module_bytes: 256 * 1024 * 1024,
            pull_timeout: Duration::from_secs(600),
            plain_http: Vec::new(),
        }
    }
}

/// An image that is on this machine, ready to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Digest of its manifest, `sha256:…`: what the image is known by.
    pub digest: String,
    /// Digest of the module, `sha256:…`: what compiled code is known by.
    pub module_digest: String,
    /// Bytes of the module.
    pub size: u64,
    /// The file of the module. It does not change, but goes when the image is removed.
    pub path: PathBuf,
    /// What to run, if the image says so.
    pub entrypoint: Vec<String>,
    /// Its arguments, if the image says so.
    pub cmd: Vec<String>,
    /// Environment from the image.
    pub env: Vec<(String, String)>,
    /// The folder to start in, if the image says so.
    pub working_dir: Option<String>,
}

/// An image and the names it goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The image.
    pub image: Image,
    /// `repository@digest` first, then `repository:tag` for each tag.
    pub names: Vec<String>,
}

/// The images of this machine.
///
/// Pulls run as tasks of their own, so that several who want the same image wait for one pull and
/// none of them can interrupt it by going away; they end when this is dropped.
pub struct Images {
    shared: Arc<Shared>,
    pulls: Mutex<HashMap<Wanted, watch::Receiver<Option<Outcome>>>>,
    slots: Arc<Semaphore>,
    pull_timeout: Duration,
    stop: DropGuard,
}

/// What requests and pulls share.
pub(crate) struct Shared {
    pub(crate) content: Content,
    pub(crate) index: Index,
    pub(crate) uploads: Uploads,
    pub(crate) max_module_bytes: u64,
    pub(crate) plain_http: Vec<String>,
    /// Images by the digest of their manifest, read once.
    described: RwLock<HashMap<Digest, Image>>,
}

/// What makes two pulls the same one. Who has other credentials may get another answer.
type Wanted = (Reference, Option<Credentials>);
type Outcome = Result<Image, PullError>;

impl Images {
    /// Opens the folder, and forgets what was left unfinished in it.
    pub fn open(config: Config) -> Result<Arc<Images>, ImageError> {
        let Config { dir, max_module_bytes, pull_timeout, plain_http } = config;
        let content = Content::open(&dir)?;
        let index = Index::open(&dir, &content)?;
        let uploads = Uploads::default();
        let described = RwLock::default();
        Ok(Arc::new(Images {
            shared: Arc::new(Shared { content, index, uploads, max_module_bytes, plain_http, described }),
            pulls: Mutex::default(),
            slots: Arc::new(Semaphore::new(PARALLEL_PULLS)),
            pull_timeout,
            stop: CancellationToken::new().drop_guard(),
        }))
    }

    /// The image if it is on this machine and can run. Reads at most two small files.
    pub fn find(&self, reference: &Reference) -> Option<Image> {
        self.shared.find(reference).ok().flatten()
    }

    /// Fetches the image from its registry, or what of it is not here yet. Images of the embedded
    /// registry are simply found.
    pub async fn pull(
        self: &Arc<Images>,
        reference: &Reference,
        credentials: Option<Credentials>,
    ) -> Result<Image, PullError> {
        if reference.is_local() {
            return self.shared.find_or_fail(reference);
        }
        let mut pull = self.join((reference.clone(), credentials));
        match pull.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(outcome)) => outcome.clone(),
            Ok(None) | Err(_) => Err(PullError::Shutdown { reference: reference.to_string() }),
        }
    }

    /// The pull of this image, begun unless it is running.
    fn join(self: &Arc<Images>, wanted: Wanted) -> watch::Receiver<Option<Outcome>> {
        let mut pulls = self.pulls.lock();
        if let Some(running) = pulls.get(&wanted) {
            return running.clone();
        }
        let (tell, pull) = watch::channel(None);
        pulls.insert(wanted.clone(), pull.clone());
        let (shared, slots) = (self.shared.clone(), self.slots.clone());
        let (limit, stop) = (self.pull_timeout, self.stop.token().clone());
        let forget = Forget { images: Arc::downgrade(self), wanted: wanted.clone() };
        tokio::spawn(async move {
            let outcome = stop.run_until_cancelled(pull_alone(&shared, &slots, limit, &wanted)).await;
            drop(forget);
            let (reference, _) = wanted;
            tell.send_replace(Some(
                outcome.unwrap_or_else(|| Err(PullError::Shutdown { reference: reference.to_string() })),
            ));
        });
        pull
    }

    /// All images that can run, with their names.
    pub fn list(&self) -> Vec<Listed> {
        let mut listed: Vec<Listed> = Vec::new();
        for (name, digest, tags) in self.shared.index.manifests() {
            let Ok(image) = self.shared.describe(&name, &digest) else { continue };
            let tags = tags.iter().map(|tag| format!("{name}:{tag}"));
            let names = std::iter::once(format!("{name}@{digest}")).chain(tags);
            match listed.iter_mut().find(|other| other.image.digest == image.digest) {
                Some(other) => other.names.extend(names),
                None => listed.push(Listed { image, names: names.collect() }),
            }
        }
        listed
    }

    /// Forgets an image that was pulled, and removes what no other image needs of it. Images of the embedded
    /// registry stay: they may be nowhere else. Gives the bytes of the module, or 0 if there was no such image.
    pub async fn remove_pulled(&self, digest: &str) -> Result<u64, ImageError> {
        let Some(digest) = Digest::parse(digest) else { return Ok(0) };
        let remove = move |shared: &Shared| {
            let mut freed = 0;
            for (name, manifest, _) in shared.index.manifests() {
                if manifest == digest && !is_embedded(&name) {
                    freed = shared.describe(&name, &manifest).map_or(freed, |image| image.size);
                    shared.remove(&name, &manifest)?;
                }
            }
            Ok(freed)
        };
        self.shared.blocking(remove).await
    }

    /// Puts a module into the embedded registry.
    pub async fn push_local(&self, reference: &Reference, module: Vec<u8>) -> Result<Image, ImageError> {
        if !reference.is_local() {
            return Err(ImageError::NotLocal { reference: reference.to_string() });
        }
        let (name, tag) = (reference.name(), reference.tag().map(str::to_owned));
        let push = move |shared: &Shared| {
            let package = manifest_for(&module)?;
            shared.index.store(&shared.content, &name, &module)?;
            shared.index.store(&shared.content, &name, &package.config)?;
            let (content, manifest) = (&shared.content, &package.manifest);
            let digest = shared.index.put_manifest(content, &name, manifest, OCI_MANIFEST, tag.as_deref())?;
            Ok(shared.describe(&name, &digest)?)
        };
        self.shared.blocking(push).await
    }

    /// The embedded registry: the OCI distribution API below `/v2/`. Whoever serves it has
    /// authenticated the caller before.
    pub fn registry_router(&self) -> axum::Router {
        registry::router(self.shared.clone())
    }
}

/// Takes a pull off the list when its task ends, however it ends.
struct Forget {
    images: std::sync::Weak<Images>,
    wanted: Wanted,
}

impl Drop for Forget {
    fn drop(&mut self) {
        if let Some(images) = self.images.upgrade() {
            images.pulls.lock().remove(&self.wanted);
        }
    }
}

async fn pull_alone(shared: &Arc<Shared>, slots: &Semaphore, limit: Duration, wanted: &Wanted) -> Outcome {
    let (reference, credentials) = wanted;
    let pull = async {
        let _slot = slots.acquire().await.expect("the semaphore is never closed");
        let digest = remote::fetch(shared, reference, credentials.as_ref()).await?;
        let described = shared.describe(&reference.name(), &digest);
        described.map_err(|error| error.into_pull(reference))
    };
    // Boxed: it is large, and there are few.
    timeout(limit, Box::pin(pull)).await.unwrap_or_else(|_| {
        let seconds = limit.as_secs();
        Err(PullError::Timeout { reference: reference.to_string(), what: "the pull", seconds })
    })
}

impl Shared {
    /// Removes a manifest of a repository with the blobs that no other manifest of it names.
    fn remove(&self, name: &str, manifest: &Digest) -> Result<(), ImageError> {
        let blobs = self.blobs_of(manifest);
        self.index.remove_manifest(&self.content, name, manifest)?;
        self.forget(manifest);
        let others = self.index.manifests().into_iter().filter(|(other, ..)| other == name);
        let kept: BTreeSet<Digest> = others.flat_map(|(_, digest, _)| self.blobs_of(&digest)).collect();
        for blob in blobs.difference(&kept) {
            self.index.remove_blob(&self.content, name, blob)?;
        }
        Ok(())
    }

    /// The digests of the config and the layers that a manifest names; none if it cannot be read.
    fn blobs_of(&self, manifest: &Digest) -> BTreeSet<Digest> {
        let bytes = self.content.read(manifest, MAX_MANIFEST).unwrap_or_default();
        let manifest: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let layers = manifest["layers"].as_array().into_iter().flatten();
        let all = layers.chain(std::iter::once(&manifest["config"]));
        all.filter_map(|part| Digest::parse(part["digest"].as_str()?)).collect()
    }

    /// Does work on files outside the runtime's threads.
    pub(crate) async fn blocking<T: Send + 'static>(
        self: &Arc<Shared>,
        work: impl FnOnce(&Shared) -> Result<T, ImageError> + Send + 'static,
    ) -> Result<T, ImageError> {
        let shared = self.clone();
        spawn_blocking(move || work(&shared)).await.expect("work on files does not panic")
    }

    /// What a reference stands for on this machine; an error if it is there but cannot run.
    fn find(&self, reference: &Reference) -> Result<Option<Image>, DescribeError> {
        let name = reference.name();
        let digest = match (reference.content_digest(), reference.tag()) {
            (Some(digest), _) => Some(digest),
            (None, Some(tag)) => self.index.tag(&name, tag),
            (None, None) => None,
        };
        digest
            .filter(|digest| self.index.manifest(&name, digest).is_some())
            .map(|digest| self.describe(&name, &digest))
            .transpose()
    }

    fn find_or_fail(&self, reference: &Reference) -> Result<Image, PullError> {
        let found = self.find(reference).map_err(|error| error.into_pull(reference))?;
        found.ok_or_else(|| PullError::NotFound { reference: reference.to_string() })
    }

    /// Reads what a manifest of this repository says, and looks whether it can run.
    fn describe(&self, name: &str, digest: &Digest) -> Result<Image, DescribeError> {
        if let Some(image) = self.described.read().get(digest)
            && image.path.exists()
        {
            return Ok(image.clone());
        }
        let bytes = self.content.read(digest, MAX_MANIFEST)?;
        let plan = match format::choose(&format::parse(&bytes)?)? {
            Choice::Module(plan) => plan,
            // One level: an index that leads to an index has no module.
            Choice::Index(inner) => {
                let bytes = self.content.read(&inner, MAX_MANIFEST)?;
                match format::choose(&format::parse(&bytes)?)? {
                    Choice::Module(plan) => plan,
                    Choice::Index(_) => {
                        let reason = "an index leads to another index".to_owned();
                        return Err(FormatError::Manifest { reason }.into());
                    }
                }
            }
        };
        let config = match &plan.config {
            Some(config) if self.index.has_blob(name, &config.digest) => {
                self.content.read(&config.digest, MAX_CONFIG)?
            }
            _ => Vec::new(),
        };
        let execution = plan.execution(&config)?;
        let path = self.content.path(&plan.layer.digest);
        let file = File::open(&path).map_err(ImageError::io("read", &path))?;
        let size = file.metadata().map_err(ImageError::io("read", &path))?.len();
        wasm::inspect(&mut BufReader::new(file))?;
        let image = Image {
            digest: digest.to_string(),
            module_digest: plan.layer.digest.to_string(),
            size,
            path,
            entrypoint: execution.entrypoint.unwrap_or_default(),
            cmd: execution.cmd.unwrap_or_default(),
            env: execution.env.unwrap_or_default().iter().filter_map(|pair| variable(pair)).collect(),
            working_dir: execution.working_dir.filter(|dir| !dir.is_empty()),
        };
        self.described.write().insert(digest.clone(), image.clone());
        Ok(image)
    }

    /// Forgets what was read of a manifest that is removed.
    pub(crate) fn forget(&self, digest: &Digest) {
        self.described.write().remove(digest);
    }
}

/// True for a repository of the embedded registry.
fn is_embedded(repository: &str) -> bool {
    repository.split_once('/').is_some_and(|(registry, _)| registry == LOCAL_REGISTRY)
}

fn variable(pair: &str) -> Option<(String, String)> {
    pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
}

/// Why an image that is here cannot be described.
enum DescribeError {
    Format(FormatError),
    Store(ImageError),
}

impl DescribeError {
    fn into_pull(self, reference: &Reference) -> PullError {
        let reference = reference.to_string();
        match self {
            DescribeError::Format(source) => PullError::Format { reference, source },
            DescribeError::Store(source) => PullError::Store { reference, source },
        }
    }
}

impl From<FormatError> for DescribeError {
    fn from(error: FormatError) -> DescribeError {
        DescribeError::Format(error)
    }
}

impl From<ImageError> for DescribeError {
    fn from(error: ImageError) -> DescribeError {
        DescribeError::Store(error)
    }
}

impl From<DescribeError> for ImageError {
    fn from(error: DescribeError) -> ImageError {
        match error {
            DescribeError::Format(error) => ImageError::Format(error),
            DescribeError::Store(error) => error,
        }
    }
}
