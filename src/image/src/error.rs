//! What can go wrong with images: the store on disk, the format of an artifact, a pull.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

/// The image store on this machine failed.
#[derive(Clone, Debug, Error)]
pub enum ImageError {
    /// A file or folder could not be used.
    #[error("cannot {action} {path}", path = .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// The bytes are no artifact that runs here.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// Only the embedded registry can be pushed to in this way.
    #[error("{reference} does not name an image of the embedded registry")]
    NotLocal {
        /// The name that was given.
        reference: String,
    },
}

impl ImageError {
    pub(crate) fn io<'a>(
        action: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(io::Error) -> ImageError + use<'a> {
        move |source| ImageError::Io { action, path: path.to_owned(), source: Arc::new(source) }
    }
}

/// Why an artifact cannot run here.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum FormatError {
    /// The manifest is not JSON of the OCI image format.
    #[error("its manifest is not an OCI or Docker image manifest: {reason}")]
    Manifest {
        /// What the parser said.
        reason: String,
    },
    /// Several layers, where one module is expected.
    #[error("it has {count} layers; only artifacts with one layer, the Wasm module, are supported")]
    Layers {
        /// How many there are.
        count: usize,
    },
    /// Something that is not a Wasm artifact.
    #[error("it is not a Wasm artifact: its layer has the media type {media_type:?}")]
    NotWasm {
        /// The media type of its layer.
        media_type: String,
    },
    /// An index without anything for this platform.
    #[error("none of its {count} platforms is wasm")]
    Platform {
        /// How many entries it has.
        count: usize,
    },
    /// The layer is no Wasm binary.
    #[error("its layer is not a Wasm binary: {reason}")]
    Binary {
        /// What does not fit.
        reason: String,
    },
    /// A component that only describes interfaces.
    #[error("it is a package of WIT interfaces without code, which cannot run")]
    Interfaces,
    /// A digest that is not the SHA-256 of anything.
    #[error("it names the digest {digest:?}; only sha256 digests are supported")]
    Digest {
        /// The digest as it is written there.
        digest: String,
    },
}

/// Why an image could not be pulled. `Display` says what failed; the causes follow as sources.
#[derive(Clone, Debug, Error)]
pub enum PullError {
    /// The registry does not have it.
    #[error("{reference}: not found")]
    NotFound {
        /// The image.
        reference: String,
    },
    /// The registry does not give it to us.
    #[error("{reference}: pull access denied, the repository may require authorization")]
    Denied {
        /// The image.
        reference: String,
        /// What the registry said.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The registry cannot be reached, or does not answer as a registry does.
    #[error("{reference}: the registry {registry} failed")]
    Registry {
        /// The image.
        reference: String,
        /// The registry that was asked.
        registry: String,
        /// What happened.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// It took too long.
    #[error("{reference}: {what} took longer than {seconds} s")]
    Timeout {
        /// The image.
        reference: String,
        /// What was done.
        what: &'static str,
        /// How long it was waited for.
        seconds: u64,
    },
    /// It is larger than this node takes.
    #[error("{reference}: {what} has more than {limit} bytes")]
    TooLarge {
        /// The image.
        reference: String,
        /// The manifest, the configuration or the module.
        what: &'static str,
        /// Bytes that are allowed, or that its manifest announced.
        limit: u64,
    },
    /// The registry sent something else than it said.
    #[error("{reference}: the content of {expected} does not have that digest")]
    Digest {
        /// The image.
        reference: String,
        /// The digest it should have.
        expected: String,
    },
    /// It is there, but cannot run here.
    #[error("{reference} cannot be used")]
    Format {
        /// The image.
        reference: String,
        /// Why.
        #[source]
        source: FormatError,
    },
    /// The store on this machine failed.
    #[error("{reference}: cannot be stored")]
    Store {
        /// The image.
        reference: String,
        /// Why.
        #[source]
        source: ImageError,
    },
    /// The node is shutting down.
    #[error("{reference}: the pull was interrupted by a shutdown")]
    Shutdown {
        /// The image.
        reference: String,
    },
}
