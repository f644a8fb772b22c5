//! What can go wrong with images: the store on disk, the format of an artifact, a pull.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use crate::{Reference, SignatureError};

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
    /// Not the one layer, the module, that is expected.
    #[error("it has {count} layers; an artifact has one, the Wasm module")]
    Layers {
        /// How many there are.
        count: usize,
    },
    /// A Spin application of several components.
    #[error("it is an application of {count} components; only those of one component run")]
    Components {
        /// How many there are.
        count: usize,
    },
    /// Something that is not a Wasm artifact.
    #[error("image is not WebAssembly: its layer has the media type {media_type:?}")]
    NotWasm {
        /// The media type of its layer.
        media_type: String,
    },
    /// An image for other machines.
    #[error("image is not WebAssembly: {}", platforms_of(.platforms))]
    Platform {
        /// What it is for, as `os/architecture`.
        platforms: Vec<String>,
    },
    /// A container image whose program is something else.
    #[error("image is not WebAssembly: {reason}")]
    Program {
        /// What is there instead.
        reason: String,
    },
    /// Several modules, none of which is said to be the one to run.
    #[error("it has {count} modules ({names}), and its entrypoint names none of them")]
    Modules {
        /// How many there are.
        count: usize,
        /// The first few of them.
        names: String,
    },
    /// A layer that is no archive, or one that must not be unpacked.
    #[error("its layer {layer} cannot be unpacked: {reason}")]
    Layer {
        /// The digest of the layer.
        layer: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The module is no Wasm binary.
    #[error("image is not WebAssembly: it is not a Wasm binary: {reason}")]
    Binary {
        /// What does not fit.
        reason: String,
    },
    /// A component that only describes interfaces.
    #[error("it is a package of WIT interfaces without code, which cannot run")]
    Interfaces,
    /// A digest that is neither the SHA-256 nor the SHA-512 of anything.
    #[error("it names the digest {digest:?}; only sha256 and sha512 digests are supported")]
    Digest {
        /// The digest as it is written there.
        digest: String,
    },
}

impl FormatError {
    /// Indexes of indexes are nobody's format.
    pub(crate) fn nested_index() -> FormatError {
        FormatError::Manifest { reason: "an index leads to another index".to_owned() }
    }
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
    #[error(transparent)]
    Format(#[from] FormatError),
    /// It is not signed as the node's policy wants it.
    #[error("Source image {reference} rejected")]
    Signature {
        /// The image.
        reference: String,
        /// What is missing.
        #[source]
        source: SignatureError,
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

fn platforms_of(platforms: &[String]) -> String {
    match platforms {
        [] => "it has no platforms".to_owned(),
        [only] => format!("its platform is {only}"),
        several => format!("its platforms are {}", several.join(", ")),
    }
}

/// Why an image that is here cannot be used.
#[derive(Debug)]
pub(crate) enum Unusable {
    Format(FormatError),
    Store(ImageError),
    /// Its files were not unpacked yet.
    Packed,
    /// The policy does not let it in.
    Unsigned(SignatureError),
}

impl Unusable {
    pub(crate) fn into_pull(self, reference: &Reference) -> PullError {
        match self {
            Unusable::Format(error) => PullError::Format(error),
            Unusable::Store(source) => PullError::Store { reference: reference.to_string(), source },
            Unusable::Unsigned(source) => PullError::Signature { reference: reference.to_string(), source },
            Unusable::Packed => PullError::NotFound { reference: reference.to_string() },
        }
    }
}

impl From<FormatError> for Unusable {
    fn from(error: FormatError) -> Unusable {
        Unusable::Format(error)
    }
}

impl From<ImageError> for Unusable {
    fn from(error: ImageError) -> Unusable {
        Unusable::Store(error)
    }
}
