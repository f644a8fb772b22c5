//! What requests and pulls share: the store, and what is known of the images in it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::BufReader;
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::task::spawn_blocking;

use crate::claims::Claims;
use crate::content::Content;
use crate::digest::Digest;
use crate::error::Unusable;
use crate::files::Files;
use crate::format::{self, Body, Choice, Plan};
use crate::images::{Config, Image};
use crate::index::Index;
use crate::manifest::{Execution, MAX_CONFIG, MAX_MANIFEST, Manifest};
use crate::registry::uploads::Uploads;
use crate::signature::{self, SignatureMode, is_signature, signature_tag};
use crate::slots::{Room, Slots, Turn};
use crate::unpacking::{Extent, Lanes, Unfinished};
use crate::{FormatError, ImageError, PullError, Reference, SignatureError, SignaturePolicy, wasm};

/// Transfers of content at the same time, over all pulls. What more connections bring is mostly a slower answer to
/// everybody else. One registry may have the half, the layers of one image; namespaces take turns.
pub(crate) const DOWNLOADS: Room = Room { all: 6, of_host: 3, of_namespace: 6 };

pub(crate) struct Shared {
    pub(crate) content: Content,
    pub(crate) index: Index,
    pub(crate) files: Files,
    pub(crate) uploads: Uploads,
    pub(crate) claims: Claims,
    pub(crate) max_module_bytes: u64,
    pub(crate) max_image_bytes: u64,
    pub(crate) plain_http: Vec<String>,
    pub(crate) policy: SignaturePolicy,
    pub(crate) downloads: Slots,
    /// What the policy has let in: repository and manifest.
    admitted: RwLock<HashSet<(String, Digest)>>,
    /// Images by the digest of their manifest, read once.
    described: RwLock<HashMap<Digest, Image>>,
    pub(crate) unpacking: Lanes,
}

impl Shared {
    pub(crate) fn open(config: Config) -> Result<Shared, ImageError> {
        let Config { dir, max_module_bytes, max_image_bytes, plain_http, policy, .. } = config;
        let content = Content::open(&dir)?;
        let index = Index::open(&dir, &content)?;
        let files = Files::open(&dir, max_image_bytes)?;
        files.retain(|manifest| index.has_manifest(manifest))?;
        Ok(Shared {
            content,
            index,
            files,
            uploads: Uploads::default(),
            claims: Claims::default(),
            max_module_bytes,
            max_image_bytes,
            plain_http,
            policy,
            downloads: Slots::new(DOWNLOADS),
            admitted: RwLock::default(),
            described: RwLock::default(),
            unpacking: Lanes::new(),
        })
    }

    /// Does work on files outside the runtime's threads.
    pub(crate) async fn blocking<T: Send + 'static>(
        self: &Arc<Shared>,
        work: impl FnOnce(&Shared) -> Result<T, ImageError> + Send + 'static,
    ) -> Result<T, ImageError> {
        let shared = self.clone();
        spawn_blocking(move || work(&shared)).await.expect("work on files does not panic")
    }

    /// The manifest that a reference stands for on this machine.
    pub(crate) fn resolve(&self, reference: &Reference) -> Option<Digest> {
        let name = reference.name();
        let digest = match (reference.content_digest(), reference.tag()) {
            (Some(digest), _) => Some(digest),
            (None, Some(tag)) => self.index.tag(&name, tag),
            (None, None) => None,
        };
        digest.filter(|digest| self.index.manifest(&name, digest).is_some())
    }

    /// What a reference stands for on this machine; an error if it is there but cannot run.
    pub(crate) fn find(&self, reference: &Reference) -> Result<Option<Image>, Unusable> {
        let Some(digest) = self.resolve(reference) else { return Ok(None) };
        self.look_at_signatures(reference, &digest)?;
        self.describe(&reference.name(), &digest).map(Some)
    }

    /// Refuses an image that is here and that the policy does not let in.
    fn look_at_signatures(&self, reference: &Reference, digest: &Digest) -> Result<(), Unusable> {
        if self.policy.rule(reference).is_none() {
            return Ok(());
        }
        let inner = match format::choose(&self.manifest(digest)) {
            Ok(Choice::Index(inner)) => Some(inner),
            _ => None,
        };
        self.let_in(reference, digest, inner.as_ref()).map_err(Unusable::Unsigned)
    }

    /// An image needs no signature.
    pub(crate) fn trust(&self, name: &str, manifest: &Digest) {
        self.admitted.write().insert((name.to_owned(), manifest.clone()));
    }

    /// Refuses an image that the policy does not let in, by the signatures that are here.
    pub(crate) fn admit(
        &self,
        reference: &Reference,
        outer: &Digest,
        inner: Option<&Digest>,
    ) -> Result<(), PullError> {
        let refused = |source| PullError::Signature { reference: reference.to_string(), source };
        self.let_in(reference, outer, inner).map_err(refused)
    }

    fn let_in(
        &self,
        reference: &Reference,
        outer: &Digest,
        inner: Option<&Digest>,
    ) -> Result<(), SignatureError> {
        let Some(rule) = self.policy.rule(reference) else { return Ok(()) };
        match rule.mode {
            SignatureMode::Allow => return Ok(()),
            SignatureMode::Reject => return Err(SignatureError::Rejected { prefix: rule.shown() }),
            SignatureMode::Require | SignatureMode::Warn => {}
        }
        let known = (reference.name(), outer.clone());
        if self.admitted.read().contains(&known) {
            return Ok(());
        }
        let digests: Vec<&Digest> = std::iter::once(outer).chain(inner).collect();
        match signature::verify(rule, reference, &digests, &self.content, &self.index) {
            Err(error) if rule.mode == SignatureMode::Warn => {
                tracing::warn!(image = %reference, %error, "an image is let in without a valid signature");
            }
            verified => verified?,
        }
        self.admitted.write().insert(known);
        Ok(())
    }

    /// Makes an image ready whose content is here.
    pub(crate) async fn prepare(
        self: &Arc<Shared>,
        reference: &Reference,
        digest: &Digest,
        turn: &Arc<Turn>,
    ) -> Result<Image, PullError> {
        let name = reference.name();
        self.look_at_signatures(reference, digest).map_err(|error| error.into_pull(reference))?;
        match self.describe(&name, digest) {
            Err(Unusable::Packed) => {}
            described => return described.map_err(|error| error.into_pull(reference)),
        }
        let (shared, manifest, shown) = (self.clone(), digest.clone(), digest.to_string());
        let unpacked = self.unpacking.unpack(turn, &shown, move |most| {
            shared.unpack(&name, &manifest, most)?;
            Ok(shared.describe(&name, &manifest)?)
        });
        unpacked.await.map_err(|error| error.into_pull(reference))
    }

    /// Reads what a manifest of this repository says, and looks whether it can run.
    pub(crate) fn describe(&self, name: &str, digest: &Digest) -> Result<Image, Unusable> {
        if let Some(image) = self.described.read().get(digest)
            && image.path.exists()
        {
            return Ok(image.clone());
        }
        let (manifest, plan, execution) = self.read(name, digest)?;
        let found = match &plan.body {
            Body::Module(_) => None,
            Body::Rootfs(_) | Body::Spin(_) => Some(self.files.find(&manifest)?.ok_or(Unusable::Packed)?),
        };
        let mut env = execution.variables();
        let (path, module_digest, mut size) = match plan.module() {
            Some(module) => {
                let path = self.content.path(&module.digest);
                let file = File::open(&path).map_err(ImageError::io("read", &path))?;
                let size = file.metadata().map_err(ImageError::io("read", &path))?.len();
                wasm::inspect(&mut BufReader::new(file))?;
                (path, module.digest.clone(), size)
            }
            None => found.as_ref().and_then(|found| found.module.clone()).ok_or(Unusable::Packed)?,
        };
        let mut files = None;
        if let Some(found) = found {
            let of_files = found.files.as_ref().map_or(0, |files| files.size);
            // The module may be one of the files.
            size = of_files + if found.module.is_some() { 0 } else { size };
            env.extend(found.env);
            files = found.files;
        }
        let image = Image {
            digest: digest.to_string(),
            module_digest: module_digest.to_string(),
            size,
            path,
            entrypoint: execution.entrypoint,
            cmd: execution.cmd,
            env,
            working_dir: Some(execution.working_dir).filter(|dir| !dir.is_empty()),
            files,
        };
        self.described.write().insert(digest.clone(), image.clone());
        Ok(image)
    }

    /// Unpacks the files of an image that has some, if there are not more than so many. Takes its time.
    fn unpack(&self, name: &str, digest: &Digest, most: Option<Extent>) -> Result<(), Unfinished> {
        let (manifest, plan, execution) = self.read(name, digest)?;
        self.files.unpack(&self.content, &manifest, &plan, &execution, most)
    }

    /// The image that a manifest leads to: the digest of its own manifest, and what that says.
    fn read(&self, name: &str, digest: &Digest) -> Result<(Digest, Plan, Execution), Unusable> {
        let choose = |digest: &Digest| -> Result<Choice, Unusable> {
            let bytes = self.content.read(digest, MAX_MANIFEST)?;
            Ok(format::choose(&format::parse(&bytes)?)?)
        };
        let (manifest, plan) = match choose(digest)? {
            Choice::Image(plan) => (digest.clone(), plan),
            // One level: an index that leads to an index has no module.
            Choice::Index(inner) => match choose(&inner)? {
                Choice::Image(plan) => (inner, plan),
                Choice::Index(_) => return Err(FormatError::nested_index().into()),
            },
        };
        let config = match &plan.config {
            Some(config) if self.index.has_blob(name, &config.digest) => {
                self.content.read(&config.digest, MAX_CONFIG)?
            }
            _ => Vec::new(),
        };
        let execution = plan.execution(&config)?;
        Ok((manifest, plan, execution))
    }

    /// Removes a manifest of a repository, with what only it leads to: the manifests of an index, its
    /// signatures, and the blobs that no other manifest names. What is `in_use` stays, and what running pulls need.
    /// Gives the bytes on disk that are free now.
    pub(crate) fn remove(
        &self,
        name: &str,
        manifest: &Digest,
        in_use: &BTreeSet<Digest>,
    ) -> Result<u64, ImageError> {
        let claimed = self.claims.of(name);
        let mut removed = vec![self.manifest(manifest)];
        let mut gone = vec![manifest.clone()];
        let mut signatures = self.signatures_of(name, manifest);
        let (mut freed, mut sizes) = (self.unpacked_bytes(manifest), self.sizes([manifest])?);
        self.remove_manifest(name, manifest)?;
        let parts: Vec<Digest> =
            removed[0].manifests.iter().filter_map(|inner| format::digest(inner).ok()).collect();
        for inner in parts {
            if self.index.manifest(name, &inner).is_some()
                && !in_use.contains(&inner)
                && !claimed.contains(&inner)
                && !self.index.is_tagged(name, &inner)
                && !self.is_part(name, &inner)
            {
                removed.push(self.manifest(&inner));
                signatures.extend(self.signatures_of(name, &inner));
                freed += self.unpacked_bytes(&inner);
                gone.push(inner);
            }
        }
        for signature in signatures.into_iter().filter(|signature| !claimed.contains(signature)) {
            removed.push(self.manifest(&signature));
            gone.push(signature);
        }
        sizes.extend(self.sizes(&gone[1..])?);
        for manifest in &gone[1..] {
            self.remove_manifest(name, manifest)?;
        }
        let blobs = removed.iter().flat_map(blobs_of).filter(|blob| !claimed.contains(blob)).collect();
        freed += self.remove_unnamed(name, blobs)?;
        Ok(freed + self.gone(sizes)?)
    }

    /// Removes of these blobs those that no manifest of the repository names. Gives the bytes on disk that are free
    /// now.
    fn remove_unnamed(&self, name: &str, mut blobs: BTreeSet<Digest>) -> Result<u64, ImageError> {
        for manifest in self.index.manifests_of(name) {
            // One that cannot be read may name any of them.
            let manifest = self.content.read(&manifest, MAX_MANIFEST)?;
            let named = blobs_of(&serde_json::from_slice(&manifest).unwrap_or_default());
            blobs.retain(|blob| !named.contains(blob));
        }
        let sizes = self.sizes(&blobs)?;
        for blob in &blobs {
            self.index.remove_blob(&self.content, name, blob)?;
        }
        self.gone(sizes)
    }

    /// Removes a manifest whose tag stands for another one now, as [`Shared::remove`] does, unless a running pull needs
    /// it.
    pub(crate) fn remove_replaced(&self, name: &str, manifest: &Digest) -> Result<u64, ImageError> {
        let _closed = self.claims.close();
        if self.claims.of(name).contains(manifest) {
            return Ok(0);
        }
        self.remove(name, manifest, &BTreeSet::new())
    }

    /// Removes what a pull that failed has brought, unless it is of an image that is here, or another pull needs it:
    /// `signatures` are manifests, the rest is content.
    pub(crate) fn remove_brought(
        &self,
        name: &str,
        brought: &BTreeSet<Digest>,
        signatures: &BTreeSet<Digest>,
    ) -> Result<u64, ImageError> {
        // Another attempt of the same pull may have brought some of them.
        let signs = |manifest: &Digest| {
            signatures.contains(manifest) || (brought.contains(manifest) && self.only_signs(manifest))
        };
        self.remove_unclaimed(name, |blob| brought.contains(blob), signs)
    }

    /// Removes all that pulls brought into a repository and that no image there leads to, unless a running pull needs
    /// it: signatures of what is not here, and content.
    pub(crate) fn remove_leftovers(&self, name: &str) -> Result<u64, ImageError> {
        self.remove_unclaimed(name, |_| true, |manifest| self.only_signs(manifest))
    }

    fn remove_unclaimed(
        &self,
        name: &str,
        blobs: impl Fn(&Digest) -> bool,
        signatures: impl Fn(&Digest) -> bool,
    ) -> Result<u64, ImageError> {
        let _closed = self.claims.close();
        let claimed = self.claims.of(name);
        let mut freed = 0;
        for manifest in self.index.manifests_of(name) {
            if signatures(&manifest) && !claimed.contains(&manifest) && !self.is_of_image(name, &manifest) {
                freed += self.remove(name, &manifest, &BTreeSet::new())?;
            }
        }
        let mut rest = self.index.blobs_of(name);
        rest.retain(|blob| !claimed.contains(blob) && blobs(blob));
        Ok(freed + if rest.is_empty() { 0 } else { self.remove_unnamed(name, rest)? })
    }

    /// Whether a manifest is nothing but signatures.
    fn only_signs(&self, manifest: &Digest) -> bool {
        let layers = self.manifest(manifest).layers;
        !layers.is_empty() && layers.iter().all(|layer| is_signature(&layer.media_type))
    }

    /// The bytes of what is nowhere any more: another repository may have it.
    fn gone(&self, sizes: BTreeMap<Digest, u64>) -> Result<u64, ImageError> {
        let mut freed = 0;
        for (digest, size) in sizes {
            freed += if self.content.size(&digest)?.is_none() { size } else { 0 };
        }
        Ok(freed)
    }

    /// How many bytes there are of each of these.
    fn sizes<'a>(
        &self,
        digests: impl IntoIterator<Item = &'a Digest>,
    ) -> Result<BTreeMap<Digest, u64>, ImageError> {
        let size = |digest: &Digest| Ok((digest.clone(), self.content.size(digest)?.unwrap_or(0)));
        digests.into_iter().map(size).collect()
    }

    /// What was unpacked of a manifest, in bytes; 0 if another repository has it, too.
    fn unpacked_bytes(&self, manifest: &Digest) -> u64 {
        let repositories = self.index.manifests().into_iter().filter(|(_, digest, _)| digest == manifest);
        match (repositories.count(), self.files.find(manifest)) {
            (1, Ok(Some(found))) => found.files.map_or(0, |files| files.size),
            _ => 0,
        }
    }

    /// The manifests that are signatures of this one.
    fn signatures_of(&self, name: &str, manifest: &Digest) -> Vec<Digest> {
        let mut found: Vec<Digest> = self.index.tag(name, &signature_tag(manifest)).into_iter().collect();
        let referrers = self.index.referrers(name, manifest).into_iter();
        let signs = |said: &serde_json::Value| said["artifactType"].as_str().is_some_and(is_signature);
        found.extend(referrers.filter(|(_, said)| signs(said)).map(|(digest, _)| digest));
        found
    }

    /// Whether an index of the repository leads to the manifest.
    pub(crate) fn is_part(&self, name: &str, manifest: &Digest) -> bool {
        let digest = manifest.to_string();
        let leads =
            |other: &Digest| self.manifest(other).manifests.iter().any(|inner| inner.digest == digest);
        self.index.manifests_of(name).iter().any(leads)
    }

    /// Whether the manifest is a signature of an image of the repository, and goes with that. Signatures of
    /// signatures are nobody's: they could keep each other.
    pub(crate) fn is_of_image(&self, name: &str, manifest: &Digest) -> bool {
        let signs = |digest: &Digest| {
            self.manifest(digest).layers.iter().any(|layer| is_signature(&layer.media_type))
        };
        let others = || self.index.manifests_of(name).into_iter();
        signs(manifest)
            && others().any(|other| self.signatures_of(name, &other).contains(manifest) && !signs(&other))
    }

    /// Removes a manifest from a repository, and what was made of it if no other repository has it.
    pub(crate) fn remove_manifest(&self, name: &str, digest: &Digest) -> Result<bool, ImageError> {
        let removed = self.index.remove_manifest(&self.content, name, digest)?;
        self.described.write().remove(digest);
        self.admitted.write().remove(&(name.to_owned(), digest.clone()));
        if !self.index.has_manifest(digest) {
            self.files.remove(digest)?;
        }
        Ok(removed)
    }

    /// A manifest; an empty one if it cannot be read.
    fn manifest(&self, digest: &Digest) -> Manifest {
        let bytes = self.content.read(digest, MAX_MANIFEST).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }
}

/// The digests of the configuration and the layers that a manifest names.
fn blobs_of(manifest: &Manifest) -> BTreeSet<Digest> {
    let all = manifest.layers.iter().chain(&manifest.config);
    all.filter_map(|part| format::digest(part).ok()).collect()
}
