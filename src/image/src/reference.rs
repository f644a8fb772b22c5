//! The names of images.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::digest::Digest;

/// The registry name that stands for the embedded registry.
pub const LOCAL_REGISTRY: &str = "registry.local";

/// The name of an image, complete: registry, repository, and a tag or a digest or both.
///
/// Short names mean what they mean to Docker and the kubelet: `web` is
/// `docker.io/library/web:latest`. With both a tag and a digest the digest decides.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Reference(oci_client::Reference);

/// A name that is not one.
#[derive(Clone, Debug, Error)]
#[error("couldn't parse image name {input:?}")]
pub struct ReferenceError {
    input: String,
    #[source]
    source: ReferenceProblem,
}

#[derive(Clone, Debug, Error)]
enum ReferenceProblem {
    #[error("{0}")]
    Syntax(String),
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    UpperCase(String),
    #[error("only sha256 and sha512 digests in lower case are supported")]
    Digest,
}

impl Reference {
    /// Reads a name as a pod's `image` field has it.
    pub fn parse(input: &str) -> Result<Reference, ReferenceError> {
        let error = |source| ReferenceError { input: input.to_owned(), source };
        let parsed = oci_client::Reference::try_from(input)
            .map_err(|problem| error(ReferenceProblem::Syntax(problem.to_string())))?;
        if parsed.repository().bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(error(ReferenceProblem::UpperCase(parsed.repository().to_owned())));
        }
        if parsed.digest().is_some_and(|digest| Digest::parse(digest).is_none()) {
            return Err(error(ReferenceProblem::Digest));
        }
        Ok(Reference(parsed))
    }

    /// The registry, with its port if it names one.
    pub fn registry(&self) -> &str {
        self.0.registry()
    }

    /// The name inside the registry.
    pub fn repository(&self) -> &str {
        self.0.repository()
    }

    /// The tag, `latest` if neither tag nor digest were given.
    pub fn tag(&self) -> Option<&str> {
        self.0.tag()
    }

    /// The digest that the manifest must have.
    pub fn digest(&self) -> Option<&str> {
        self.0.digest()
    }

    /// Whether the embedded registry has it.
    pub fn is_local(&self) -> bool {
        self.registry() == LOCAL_REGISTRY
    }

    /// Registry and repository, the key of the [index](crate::index).
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.registry(), self.repository())
    }

    pub(crate) fn content_digest(&self) -> Option<Digest> {
        Digest::parse(self.digest()?)
    }

    /// The host, with its port if it names one, that answers for the registry.
    pub(crate) fn host(&self) -> &str {
        self.0.resolve_registry()
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(input: &str) -> Result<Reference, ReferenceError> {
        Reference::parse(input)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Whether this is the name of a repository: components of lower-case letters and digits, with
/// `.`, `_`, `__` or dashes between them, joined by `/`, 255 characters at most.
pub(crate) fn is_repository(name: &str) -> bool {
    name.len() <= 255 && name.split('/').all(is_component)
}

fn is_component(component: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    component.starts_with(alphanumeric)
        && component.ends_with(alphanumeric)
        && component
            .split(alphanumeric)
            .all(|between| matches!(between, "" | "." | "_" | "__") || between.bytes().all(|b| b == b'-'))
}

/// Whether this is a tag: up to 128 of letters, digits, `_`, `.` and `-`, not beginning with the
/// last two.
pub(crate) fn is_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    tag.len() <= 128 && tag.starts_with(word) && tag.chars().all(|c| word(c) || c == '.' || c == '-')
}
