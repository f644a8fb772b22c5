//! The door of the room: find, pull, list and push images.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::digest::Digest;
use crate::error::Unusable;
use crate::manifest::OCI_MANIFEST;
use crate::shared::Shared;
use crate::slots::{Room, Slots, Turn};
use crate::{
    Credentials, ImageError, ImageFiles, LOCAL_REGISTRY, PullError, Reference, SignaturePolicy, manifest_for,
    registry, registry_name, remote,
};

/// Pulls from other registries that run at the same time; more wait. Each holds a client and its connections, some
/// hundred kilobytes; what they fetch at the same time is bounded by [`DOWNLOADS`](crate::shared::DOWNLOADS). One
/// registry may have a quarter, one namespace three, so that others find room at once.
pub(crate) const PULLS: Room = Room { all: 16, of_host: 4, of_namespace: 12 };

/// What [`Images::open`] needs.
#[derive(Clone, Debug)]
pub struct Config {
    /// The folder, which is made if it does not exist.
    pub dir: PathBuf,
    /// Bytes that a module, or anything else pushed to the registry, may have.
    pub max_module_bytes: u64,
    /// Bytes that all layers of an image may have, and all its files once they are unpacked.
    pub max_image_bytes: u64,
    /// How long one pull may take.
    pub pull_timeout: Duration,
    /// Registries (`host` or `host:port`) to talk to without TLS. Those on this machine's loopback
    /// are always talked to like that.
    pub plain_http: Vec<String>,
    /// Which images are let in.
    pub policy: SignaturePolicy,
}

impl Config {
    /// The usual limits: modules of 256 MiB, images of 1 GiB, pulls of 10 minutes.
    pub fn new(dir: impl Into<PathBuf>) -> Config {
        Config {
            dir: dir.into(),
            max_module_bytes: 256 * 1024 * 1024,
            max_image_bytes: 1024 * 1024 * 1024,
            pull_timeout: Duration::from_secs(600),
            plain_http: Vec::new(),
            policy: SignaturePolicy::default(),
        }
    }
}

/// An image that is on this machine, ready to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Digest of its manifest, `sha256:…` (or `sha512:…`, if it was asked for like that): what the image is known by.
    pub digest: String,
    /// Digest of the module, `sha256:…` or `sha512:…`: what compiled code is known by.
    pub module_digest: String,
    /// Bytes of the image: its module, and its files if it has any.
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
    /// The files that a container sees below its root, if the image brings any.
    pub files: Option<ImageFiles>,
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
    pulls: Mutex<HashMap<Wanted, Running>>,
    slots: Slots,
    pull_timeout: Duration,
    stop: DropGuard,
}

/// What makes two pulls the same one. Who has other credentials may get another answer.
type Wanted = (Reference, Option<Credentials>);
type Outcome = Result<Image, PullError>;

/// A pull that others may wait for, too.
#[derive(Clone)]
struct Running {
    turn: Arc<Turn>,
    outcome: watch::Receiver<Option<Outcome>>,
}

impl Images {
    /// Opens the folder, and forgets what was left unfinished in it.
    pub fn open(mut config: Config) -> Result<Arc<Images>, ImageError> {
        let pull_timeout = config.pull_timeout;
        for registry in &mut config.plain_http {
            *registry = registry_name(registry).unwrap_or_else(|| registry.clone());
        }
        config.policy = config.policy.with_plain_http(&config.plain_http);
        Ok(Arc::new(Images {
            shared: Arc::new(Shared::open(config)?),
            pulls: Mutex::default(),
            slots: Slots::new(PULLS),
            pull_timeout,
            stop: CancellationToken::new().drop_guard(),
        }))
    }

    /// The image if it is on this machine, ready to run. Reads at most three small files. One of the
    /// embedded registry whose files were not unpacked yet is there only after [`pull`](Images::pull).
    pub fn find(&self, reference: &Reference) -> Option<Image> {
        self.shared.find(reference).ok().flatten()
    }

    /// Fetches the image from its registry, or what of it is not here yet, and unpacks its files. Images
    /// of the embedded registry are simply found, and unpacked the first time.
    ///
    /// `namespace` is that of the pod: where pulls must wait for others, those of each namespace take turns.
    pub async fn pull(
        self: &Arc<Images>,
        reference: &Reference,
        credentials: Option<Credentials>,
        namespace: &str,
    ) -> Result<Image, PullError> {
        if reference.is_local() {
            match self.shared.find(reference) {
                Err(Unusable::Packed) => {}
                Ok(Some(image)) => return Ok(image),
                Ok(None) => return Err(PullError::NotFound { reference: reference.to_string() }),
                Err(error) => return Err(error.into_pull(reference)),
            }
        }
        let mut pull = self.join((reference.clone(), credentials), namespace);
        match pull.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(outcome)) => outcome.clone(),
            Ok(None) | Err(_) => Err(PullError::Shutdown { reference: reference.to_string() }),
        }
    }

    /// The pull of this image, begun unless it is running.
    fn join(self: &Arc<Images>, wanted: Wanted, namespace: &str) -> watch::Receiver<Option<Outcome>> {
        let mut pulls = self.pulls.lock();
        if let Some(running) = pulls.get(&wanted).cloned() {
            drop(pulls);
            self.slots.join(&running.turn, namespace);
            return running.outcome;
        }
        let (tell, outcome) = watch::channel(None);
        let turn = Turn::new(wanted.0.host(), namespace);
        pulls.insert(wanted.clone(), Running { turn: turn.clone(), outcome: outcome.clone() });
        let (shared, slots) = (self.shared.clone(), self.slots.clone());
        let (limit, stop) = (self.pull_timeout, self.stop.token().clone());
        let forget = Forget { images: Arc::downgrade(self), wanted: wanted.clone() };
        tokio::spawn(async move {
            let pull = pull_alone(&shared, &slots, &turn, limit, &wanted);
            let outcome = stop.run_until_cancelled(pull).await;
            drop(forget);
            let (reference, _) = wanted;
            tell.send_replace(Some(
                outcome.unwrap_or_else(|| Err(PullError::Shutdown { reference: reference.to_string() })),
            ));
        });
        outcome
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

    /// The digests of all manifests that were pulled, of images that can run and of those that cannot.
    pub fn pulled(&self) -> BTreeSet<String> {
        let all = self.shared.index.manifests().into_iter();
        all.filter(|(name, ..)| !is_embedded(name)).map(|(_, digest, _)| digest.to_string()).collect()
    }

    /// Forgets an image that was pulled, and removes what no other image needs of it. Images of the embedded
    /// registry stay: they may be nowhere else. What an index leads to goes with the index, unless it is
    /// `in_use` (digests of manifests) by itself, and signatures with what they sign; what a running pull needs
    /// stays. Gives the bytes that it took on disk, or 0 if there was no such one.
    pub async fn remove_pulled(&self, digest: &str, in_use: &BTreeSet<String>) -> Result<u64, ImageError> {
        let Some(digest) = Digest::parse(digest) else { return Ok(0) };
        let in_use = in_use.iter().filter_map(|digest| Digest::parse(digest)).collect();
        let remove = move |shared: &Shared| {
            let mut freed = 0;
            let _closed = shared.claims.close();
            for (name, manifest, _) in shared.index.manifests() {
                if manifest == digest
                    && !is_embedded(&name)
                    && !shared.is_part(&name, &manifest)
                    && !shared.is_of_image(&name, &manifest)
                    && !shared.claims.of(&name).contains(&manifest)
                {
                    freed += shared.remove(&name, &manifest, &in_use)?;
                }
            }
            Ok(freed)
        };
        self.shared.blocking(remove).await
    }

    /// Removes what is left of pulls that broke off, all that no manifest names, and signatures of what is not here;
    /// they begin anew. Gives the bytes.
    pub async fn remove_unfinished(&self) -> Result<u64, ImageError> {
        let remove = |shared: &Shared| {
            let mut freed = shared.content.forget_beginnings(0)?;
            for name in shared.index.names().iter().filter(|name| !is_embedded(name)) {
                freed += shared.remove_leftovers(name)?;
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
            let digest = Digest::of(&package.manifest);
            let manifest = (&digest, &*package.manifest);
            shared.index.put_manifest(&shared.content, &name, manifest, OCI_MANIFEST, tag.as_deref())?;
            shared.describe(&name, &digest).map_err(|error| match error {
                Unusable::Format(error) => ImageError::Format(error),
                Unusable::Store(error) => error,
                Unusable::Packed | Unusable::Unsigned(_) => {
                    unreachable!("a module has no files, and only names are let in or not")
                }
            })
        };
        self.shared.blocking(push).await
    }

    /// Sees to it that a module which comes with this program is in the embedded registry under its name, where it is
    /// let in unsigned for what it is: who may start this program has that module. Under a rule that lets nothing in,
    /// it is not let in either.
    pub async fn ship(&self, reference: &Reference, module: &'static [u8]) -> Result<(), ImageError> {
        let name = reference.name();
        let look = move |shared: &Shared| {
            let package = manifest_for(module)?;
            shared.trust(&name, &Digest::of(&package.manifest));
            Ok(package.manifest_digest)
        };
        let digest = self.shared.blocking(look).await?;
        if self.find(reference).is_none_or(|image| image.digest != digest) {
            self.push_local(reference, module.to_vec()).await?;
        }
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
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

async fn pull_alone(
    shared: &Arc<Shared>,
    slots: &Slots,
    turn: &Arc<Turn>,
    limit: Duration,
    wanted: &Wanted,
) -> Outcome {
    let (reference, credentials) = wanted;
    let pull = async {
        let missing = || PullError::NotFound { reference: reference.to_string() };
        let digest = if reference.is_local() {
            shared.resolve(reference).ok_or_else(missing)?
        } else {
            let came = AtomicU64::new(0);
            let fetch = || remote::fetch(shared, reference, credentials.as_ref(), turn, &came);
            slots.in_turn(turn, &came, fetch).await?
        };
        shared.prepare(reference, &digest, turn).await
    };
    // Boxed: it is large, and there are few.
    timeout(limit, Box::pin(pull)).await.unwrap_or_else(|_| {
        let seconds = limit.as_secs();
        Err(PullError::Timeout { reference: reference.to_string(), what: "the pull", seconds })
    })
}

/// True for a repository of the embedded registry.
fn is_embedded(repository: &str) -> bool {
    repository.split_once('/').is_some_and(|(registry, _)| registry == LOCAL_REGISTRY)
}
