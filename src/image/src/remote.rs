//! Pulling from other registries, through `oci-client`.
//!
//! What a registry sends is not believed: manifests, configurations and modules are bounded in size
//! and must have the digest they were asked for by. A client is made for each pull, because it keeps
//! the credentials it was given, and those of one namespace must not serve another.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use oci_client::Reference as OciReference;
use oci_client::client::{Client, ClientConfig, ClientProtocol};
use oci_client::errors::{DigestError, OciDistributionError, OciErrorCode};
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use tokio::time::timeout;

use crate::content::AppendError;
use crate::digest::Digest;
use crate::format::{self, Choice, Plan, Target};
use crate::manifest::{MANIFESTS, MAX_CONFIG, MAX_MANIFEST, OCI_MANIFEST};
use crate::shared::Shared;
use crate::{FormatError, ImageError, PullError, Reference};

/// How long a registry may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// How long a registry may be silent in the middle of an answer.
const SILENCE: Duration = Duration::from_secs(30);

/// How long the manifest of an image may take, with authentication. `oci-client` holds a manifest
/// in memory before its size is known, so this time is also what bounds it.
const MANIFEST_TIME: Duration = Duration::from_secs(60);

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
    client: Client,
    auth: RegistryAuth,
}

/// Fetches an image and everything it needs into the store; gives the digest of its manifest.
pub(crate) async fn fetch(
    shared: &Arc<Shared>,
    reference: &Reference,
    credentials: Option<&Credentials>,
) -> Result<Digest, PullError> {
    let pull = Pull {
        shared,
        reference,
        client: client(shared, reference)?,
        auth: match credentials {
            Some(Credentials { username, password }) => {
                RegistryAuth::Basic(username.clone(), password.clone())
            }
            None => RegistryAuth::Anonymous,
        },
    };
    let outer = pull.manifest(reference.as_oci()).await?;
    let inner = match &outer.choice {
        Choice::Image(_) => None,
        Choice::Index(digest) => {
            Some(pull.manifest(&reference.as_oci().clone_with_digest(digest.to_string())).await?)
        }
    };
    let Choice::Image(plan) = &inner.as_ref().unwrap_or(&outer).choice else {
        return Err(PullError::Format(FormatError::nested_index()));
    };
    pull.content(plan).await?;
    if let Some(inner) = inner {
        pull.keep(inner, None).await?;
    }
    // With a digest in the name its tag says nothing, so it is not kept.
    let tag = reference.tag().filter(|_| reference.digest().is_none());
    pull.keep(outer, tag.map(str::to_owned)).await
}

/// A manifest as the registry sent it, and what it leads to.
struct Fetched {
    bytes: Bytes,
    media_type: String,
    choice: Choice,
}

fn client(shared: &Shared, reference: &Reference) -> Result<Client, PullError> {
    let failed = |source| PullError::Registry {
        reference: reference.to_string(),
        registry: reference.registry().to_owned(),
        source,
    };
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // The HTTP client would panic.
        let reason = "no TLS implementation was installed at the start of the program";
        return Err(failed(Arc::new(std::io::Error::other(reason))));
    }
    let host = reference.as_oci().resolve_registry();
    let plain = is_loopback(host) || shared.plain_http.iter().any(|registry| registry == host);
    let config = ClientConfig {
        protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
        connect_timeout: Some(CONNECT),
        read_timeout: Some(SILENCE),
        user_agent: concat!("coracle/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    };
    Client::try_from(config).map_err(|error| failed(Arc::new(error)))
}

/// Whether a registry is on this machine, where plain HTTP is what everybody expects.
fn is_loopback(registry: &str) -> bool {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

impl Pull<'_> {
    async fn manifest(&self, reference: &OciReference) -> Result<Fetched, PullError> {
        let request = self.client.pull_manifest_raw(reference, &self.auth, &MANIFESTS);
        let answer = timeout(MANIFEST_TIME, request).await.map_err(|_| PullError::Timeout {
            reference: self.reference.to_string(),
            what: "reading its manifest",
            seconds: MANIFEST_TIME.as_secs(),
        })?;
        let (bytes, _) = answer.map_err(|error| self.failed(error))?;
        if bytes.len() as u64 > MAX_MANIFEST {
            return Err(self.too_large("its manifest", MAX_MANIFEST));
        }
        if let Some(expected) = reference.digest()
            && Digest::of(&bytes).to_string() != expected
        {
            return Err(self.mismatch(expected));
        }
        let manifest = format::parse(&bytes).map_err(PullError::Format)?;
        let choice = format::choose(&manifest).map_err(PullError::Format)?;
        let media_type = manifest.media_type.unwrap_or_else(|| OCI_MANIFEST.to_owned());
        Ok(Fetched { bytes, media_type, choice })
    }

    async fn content(&self, plan: &Plan) -> Result<(), PullError> {
        let layers = plan.layers();
        if layers.iter().any(|layer| layer.size > self.shared.max_module_bytes) {
            return Err(self.too_large("one of its layers", self.shared.max_module_bytes));
        }
        let total = layers.iter().fold(0_u64, |total, layer| total.saturating_add(layer.size));
        if total > self.shared.max_image_bytes {
            return Err(self.too_large("the image", self.shared.max_image_bytes));
        }
        let mut config = Vec::new();
        if let Some(target) = &plan.config {
            self.blob("its configuration", target, MAX_CONFIG).await?;
            let read = self.shared.content.read(&target.digest, MAX_CONFIG);
            config = read.map_err(|error| self.store(error))?;
        }
        // Refused before anything large is fetched.
        plan.execution(&config).map_err(PullError::Format)?;
        for layer in layers {
            self.blob("one of its layers", layer, self.shared.max_module_bytes).await?;
        }
        Ok(())
    }

    /// Fetches a blob, unless it is here already.
    async fn blob(&self, what: &'static str, target: &Target, limit: u64) -> Result<(), PullError> {
        let Target { digest, size } = target;
        if *size > limit {
            return Err(self.too_large(what, limit));
        }
        let name = self.reference.name();
        if self.shared.index.has_blob(&name, digest) {
            return Ok(());
        }
        // Without the URLs that a manifest may name: content comes from the registry or not at all.
        let descriptor = OciDescriptor {
            digest: digest.to_string(),
            size: i64::try_from(*size).unwrap_or(i64::MAX),
            ..OciDescriptor::default()
        };
        self.client.store_auth_if_needed(self.reference.as_oci().resolve_registry(), &self.auth).await;
        let stream = self.client.pull_blob_stream(self.reference.as_oci(), &descriptor).await;
        let mut stream = stream.map_err(|error| self.failed(error))?.stream;
        let mut draft = self.shared.content.draft(*size).await.map_err(|error| self.store(error))?;
        while let Some(bytes) = stream.next().await {
            let bytes =
                bytes.map_err(|error| match error.get_ref().and_then(|inner| inner.downcast_ref()) {
                    // The client's own check, at the end of the stream.
                    Some(DigestError::VerificationError { .. }) => self.mismatch(&digest.to_string()),
                    _ => self.failed(OciDistributionError::IoError(error)),
                })?;
            draft.append(&bytes).await.map_err(|error| match error {
                AppendError::TooLarge => self.too_large(what, *size),
                AppendError::Store(error) => self.store(error),
            })?;
        }
        if draft.digest() != *digest {
            return Err(self.mismatch(&digest.to_string()));
        }
        draft.finish().await.map_err(|error| self.store(error))?;
        let (digest, path) = (digest.clone(), draft.path().to_owned());
        let adopt = move |shared: &Shared| shared.index.adopt(&shared.content, &name, &path, &digest);
        self.shared.blocking(adopt).await.map_err(|error| self.store(error))
    }

    /// Keeps a manifest, now that all it leads to is here.
    async fn keep(&self, manifest: Fetched, tag: Option<String>) -> Result<Digest, PullError> {
        let (name, Fetched { bytes, media_type, .. }) = (self.reference.name(), manifest);
        let kept = self.shared.blocking(move |shared| {
            shared.index.put_manifest(&shared.content, &name, &bytes, &media_type, tag.as_deref())
        });
        kept.await.map_err(|error| self.store(error))
    }

    fn failed(&self, error: OciDistributionError) -> PullError {
        let reference = self.reference.to_string();
        let says = |codes: &[OciErrorCode]| match &error {
            OciDistributionError::RegistryError { envelope, .. } => {
                envelope.errors.iter().any(|error| codes.contains(&error.code))
            }
            _ => false,
        };
        let missing = [OciErrorCode::ManifestUnknown, OciErrorCode::NameUnknown, OciErrorCode::NotFound];
        match &error {
            OciDistributionError::ImageManifestNotFoundError(_) => PullError::NotFound { reference },
            OciDistributionError::ServerError { code: 404, .. } => PullError::NotFound { reference },
            _ if says(&missing) => PullError::NotFound { reference },
            OciDistributionError::UnauthorizedError { .. }
            | OciDistributionError::AuthenticationFailure(_)
            | OciDistributionError::ServerError { code: 401 | 403, .. } => {
                PullError::Denied { reference, source: Arc::new(error) }
            }
            _ if says(&[OciErrorCode::Unauthorized, OciErrorCode::Denied]) => {
                PullError::Denied { reference, source: Arc::new(error) }
            }
            OciDistributionError::DigestError(_) => {
                let expected = self.reference.digest().unwrap_or("its manifest").to_owned();
                PullError::Digest { reference, expected }
            }
            _ => {
                let registry = self.reference.registry().to_owned();
                PullError::Registry { reference, registry, source: Arc::new(error) }
            }
        }
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
