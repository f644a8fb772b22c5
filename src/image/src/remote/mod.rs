//! Pulling from other registries.
//!
//! What a registry sends is not believed: documents, configurations and layers are bounded in size and
//! must have the digest they were asked for by. What breaks off goes on where it stopped, a few times
//! with pauses between; what is refused or wrong is not tried again.
//!
//! ```text
//!  manifest ─(index)─► manifest ──► signatures ──► configuration ──► layers, several at once ──► kept
//!                                    │ policy         │ platform
//!                                    ▼                ▼
//!                                  refused          refused, before anything large is fetched
//! ```

mod blob;
mod challenge;
mod http;
mod signatures;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use parking_lot::Mutex;
use tokio::time::{sleep, timeout};

use crate::claims::Claim;
use crate::digest::Digest;
use crate::format::{self, Choice, Plan, Target};
use crate::manifest::{MANIFESTS, MAX_CONFIG, MAX_MANIFEST, Manifest, OCI_MANIFEST};
use crate::reference::is_plain;
use crate::shared::Shared;
use crate::slots::Turn;
use crate::{FormatError, ImageError, PullError, Reference};
use http::{Failure, Remote};

/// How long the manifest of an image may take, with authentication.
const MANIFEST_TIME: Duration = Duration::from_secs(60);

/// Layers of one image that are fetched at the same time, as container engines do it.
const PARALLEL_LAYERS: usize = 3;

/// Pauses before a request is sent again that broke off, or was answered with a passing failure. A pod
/// whose pull fails has a back-off of its own, which is for what takes longer.
const PAUSES: [Duration; 3] = [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(3)];

/// How to authenticate to a registry.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// The name of the account.
    pub username: String,
    /// Its password or token.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({:?}, …)", self.username)
    }
}

/// One pull of one image.
struct Pull<'a> {
    shared: &'a Arc<Shared>,
    reference: &'a Reference,
    /// The repository in the index.
    name: String,
    remote: Remote<'a>,
    /// What it needs of the repository, whether it brought it or found it.
    claim: Claim<'a>,
    turn: &'a Arc<Turn>,
    /// Bytes of content that came.
    came: &'a AtomicU64,
    /// The manifests of signatures that it brought.
    signatures: Mutex<BTreeSet<Digest>>,
}

/// A manifest as the registry sent it.
struct Fetched {
    bytes: Bytes,
    digest: Digest,
    manifest: Manifest,
}

/// Fetches an image and everything it needs into the store; gives the digest of its manifest. May be dropped at any
/// time, and goes on with what came before when it is called again. The bytes that come are added to `came`.
pub(crate) async fn fetch(
    shared: &Arc<Shared>,
    reference: &Reference,
    credentials: Option<&Credentials>,
    turn: &Arc<Turn>,
    came: &AtomicU64,
) -> Result<Digest, PullError> {
    let host = reference.host();
    let plain = is_plain(reference.registry(), &shared.plain_http);
    let remote = Remote::new(host, reference.repository(), credentials, plain);
    let remote = remote.map_err(|failure| failed(reference, "the image", failure))?;
    let name = reference.name();
    let claim = shared.claims.begin(name.clone());
    let pull = Pull { shared, reference, name, remote, claim, turn, came, signatures: Mutex::default() };
    let outcome = pull.run().await;
    if outcome.as_ref().is_err_and(is_final) {
        pull.forget().await;
    }
    outcome
}

/// Whether another attempt has no use for what this one brought.
fn is_final(error: &PullError) -> bool {
    match error {
        PullError::NotFound { .. }
        | PullError::Digest { .. }
        | PullError::TooLarge { .. }
        | PullError::Format(_)
        | PullError::Signature { .. } => true,
        PullError::Denied { .. }
        | PullError::Registry { .. }
        | PullError::Timeout { .. }
        | PullError::Store { .. }
        | PullError::Shutdown { .. } => false,
    }
}

impl Pull<'_> {
    async fn run(&self) -> Result<Digest, PullError> {
        let wanted = self.reference.digest().or(self.reference.tag()).unwrap_or("latest");
        let outer = self.manifest(wanted).await?;
        let inner = match format::choose(&outer.manifest)? {
            Choice::Image(_) => None,
            Choice::Index(digest) => Some(self.manifest(&digest.to_string()).await?),
        };
        let Choice::Image(plan) = format::choose(&inner.as_ref().unwrap_or(&outer).manifest)? else {
            return Err(FormatError::nested_index().into());
        };
        self.signatures(&outer.digest, inner.as_ref().map(|inner| &inner.digest)).await?;
        self.content(&plan).await?;
        if let Some(inner) = inner {
            self.keep(inner, None).await?;
        }
        // With a digest in the name its tag says nothing, so it is not kept.
        let tag = self.reference.tag().filter(|_| self.reference.digest().is_none());
        self.keep(outer, tag.map(str::to_owned)).await
    }

    /// Removes the content that it brought for nothing.
    async fn forget(self) {
        let (name, brought, signatures) = (self.name, self.claim.end(), self.signatures.into_inner());
        let remove = move |shared: &Shared| shared.remove_brought(&name, &brought, &signatures);
        if let Err(error) = self.shared.blocking(remove).await {
            tracing::warn!(image = %self.reference, %error, "what a failed pull brought was not removed");
        }
    }

    /// The manifest that a tag or digest stands for.
    async fn manifest(&self, wanted: &str) -> Result<Fetched, PullError> {
        let what = "its manifest";
        let (bytes, headers) = self.document(&format!("manifests/{wanted}"), what).await?;
        // By tag it is only what the registry says, as far as we understand it.
        let said = headers.get("docker-content-digest").and_then(|value| value.to_str().ok());
        let expected = Digest::parse(wanted).or_else(|| said.and_then(Digest::parse));
        let digest = expected.unwrap_or_else(|| Digest::of(&bytes));
        if !digest.is_of(&bytes) {
            return Err(self.mismatch(&digest.to_string()));
        }
        let manifest = format::parse(&bytes)?;
        Ok(Fetched { bytes, digest, manifest })
    }

    /// A document of the size that manifests may have.
    async fn document(
        &self,
        path: &str,
        what: &'static str,
    ) -> Result<(Bytes, reqwest::header::HeaderMap), PullError> {
        let accept = MANIFESTS.join(", ");
        let mut pauses = PAUSES.into_iter();
        loop {
            let answer = timeout(MANIFEST_TIME, self.remote.document(path, &accept, MAX_MANIFEST)).await;
            let failure = match answer {
                Ok(Ok(document)) => return Ok(document),
                Ok(Err(failure)) => failure,
                Err(_) => {
                    let (reference, seconds) = (self.reference.to_string(), MANIFEST_TIME.as_secs());
                    return Err(PullError::Timeout { reference, what: "reading its manifest", seconds });
                }
            };
            self.pause(failure, &mut pauses, what).await?;
        }
    }

    /// Waits before another attempt, or gives up.
    async fn pause(
        &self,
        failure: Failure,
        pauses: &mut impl Iterator<Item = Duration>,
        what: &'static str,
    ) -> Result<(), PullError> {
        let Failure::Passing(reason, asked) = &failure else {
            return Err(failed(self.reference, what, failure));
        };
        let Some(pause) = pauses.next() else { return Err(failed(self.reference, what, failure)) };
        let pause = asked.unwrap_or(pause);
        tracing::debug!(image = %self.reference, reason = %reason, "{what} is asked for again in {pause:?}");
        sleep(pause).await;
        Ok(())
    }

    async fn content(&self, plan: &Plan) -> Result<(), PullError> {
        let layers: BTreeSet<(&Digest, u64)> =
            plan.layers().into_iter().map(|layer| (&layer.digest, layer.size)).collect();
        if layers.iter().any(|(_, size)| *size > self.shared.max_module_bytes) {
            return Err(self.too_large("one of its layers", self.shared.max_module_bytes));
        }
        let total = layers.iter().fold(0_u64, |total, (_, size)| total.saturating_add(*size));
        if total > self.shared.max_image_bytes {
            return Err(self.too_large("the image", self.shared.max_image_bytes));
        }
        let mut config = Vec::new();
        if let Some(target) = &plan.config {
            config = self.small("its configuration", target, MAX_CONFIG).await?;
        }
        // Refused before anything large is fetched.
        plan.execution(&config)?;
        let layers = layers.into_iter().map(|(digest, size)| Target { digest: digest.clone(), size });
        let fetches = layers.map(|layer| async move { self.blob("one of its layers", &layer).await });
        let fetches: Vec<_> = fetches.collect();
        futures::stream::iter(fetches).buffer_unordered(PARALLEL_LAYERS).try_collect::<()>().await
    }

    /// Content of at most `limit` bytes, whole.
    async fn small(&self, what: &'static str, target: &Target, limit: u64) -> Result<Vec<u8>, PullError> {
        if target.size > limit {
            return Err(self.too_large(what, limit));
        }
        self.blob(what, target).await?;
        self.shared.content.read(&target.digest, limit).map_err(|error| self.store(error))
    }

    /// Keeps a manifest, now that all it leads to is here.
    async fn keep(&self, fetched: Fetched, tag: Option<String>) -> Result<Digest, PullError> {
        self.claim.add(&fetched.digest).await;
        let (name, Fetched { bytes, manifest, digest }) = (self.name.clone(), fetched);
        let media_type = manifest.media_type.unwrap_or_else(|| OCI_MANIFEST.to_owned());
        let kept = self.shared.blocking(move |shared| {
            let manifest = (&digest, &*bytes);
            shared.index.put_manifest(&shared.content, &name, manifest, &media_type, tag.as_deref())?;
            Ok(digest)
        });
        kept.await.map_err(|error| self.store(error))
    }

    fn too_large(&self, what: &'static str, limit: u64) -> PullError {
        PullError::TooLarge { reference: self.reference.to_string(), what, limit }
    }

    fn mismatch(&self, expected: &str) -> PullError {
        PullError::Digest { reference: self.reference.to_string(), expected: expected.to_owned() }
    }

    fn store(&self, source: ImageError) -> PullError {
        PullError::Store { reference: self.reference.to_string(), source }
    }
}

fn failed(reference: &Reference, what: &'static str, failure: Failure) -> PullError {
    let image = reference.to_string();
    match failure {
        Failure::Missing => PullError::NotFound { reference: image },
        Failure::Denied(source) => PullError::Denied { reference: image, source },
        Failure::TooLarge(limit) => PullError::TooLarge { reference: image, what, limit },
        Failure::Passing(source, _) | Failure::Final(source) => {
            PullError::Registry { reference: image, registry: reference.registry().to_owned(), source }
        }
    }
}
