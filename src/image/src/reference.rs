//! The names of images.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use reqwest::Url;
use thiserror::Error;

use crate::digest::Digest;

/// The registry name that stands for the embedded registry.
pub const LOCAL_REGISTRY: &str = "registry.local";

/// The name of an image, complete: registry, repository, and a tag or a digest or both.
///
/// Short names mean what they mean to Docker and the kubelet: `web` is
/// `docker.io/library/web:latest`. With both a tag and a digest the digest decides. However a registry is
/// written, it has [one name](registry_name).
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
        let syntax = |problem: String| error(ReferenceProblem::Syntax(problem));
        let read =
            |text: &str| oci_client::Reference::try_from(text).map_err(|problem| syntax(problem.to_string()));
        let mut parsed = read(input)?;
        let registry = registry_name(parsed.registry())
            .ok_or_else(|| syntax(format!("{} is no registry", parsed.registry())))?;
        if registry != parsed.registry()
            && let Some((_, rest)) = input.split_once('/')
        {
            parsed = read(&format!("{registry}/{rest}"))?;
        }
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

/// The name of a registry, of all that it may be written as (`host` or `host:port`): lower case, addresses in
/// decimal, without the port that is meant if there is none, and Docker's by the name that images have. Nothing if
/// no host can have this name.
///
/// Names are compared by it wherever a registry is looked up: images, the rules for signatures, accounts, and the
/// registries without TLS.
pub fn registry_name(written: &str) -> Option<String> {
    let read = |scheme: &str| Url::parse(&format!("{scheme}://{written}/")).ok();
    let mut url = read("https")?;
    if is_loopback(url.host_str()?) {
        url = read("http")?;
    }
    Some(match (url.host_str()?, url.port()) {
        ("index.docker.io" | "registry-1.docker.io", None) => "docker.io".to_owned(),
        (host, None) => host.to_owned(),
        (host, Some(port)) => format!("{host}:{port}"),
    })
}

/// Whether a registry is spoken to without TLS: one on this machine, where everybody expects that, and one of those
/// that are `configured` by their names.
pub(crate) fn is_plain(registry: &str, configured: &[String]) -> bool {
    let (host, port) = split_port(registry);
    let configured_with = |port: &str| configured.iter().any(|other| split_port(other) == (host, port));
    is_loopback(host)
        || match port {
            "" | PLAIN_PORT => configured_with("") || configured_with(PLAIN_PORT),
            port => configured_with(port),
        }
}

/// The port of a registry without TLS that names none.
pub(crate) const PLAIN_PORT: &str = ":80";

/// The host of a registry, and its port with the colon if it names one.
pub(crate) fn split_port(registry: &str) -> (&str, &str) {
    registry.split_at(registry.rfind(':').unwrap_or(registry.len()))
}

/// Whether a host is this machine, by one of its many names.
pub(crate) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
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
