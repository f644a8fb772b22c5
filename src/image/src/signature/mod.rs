//! Which images are let in, by the signatures that cosign makes.
//!
//! A policy has a rule for each registry or repository; the longest prefix counts, and what has no rule
//! is let in. Signatures are found beside the image: under the tag `sha256-<hex>.sig`, and among what
//! refers to it, as cosign's payloads or as Sigstore bundles with a statement about the image. They must
//! be of one of the rule's keys. Transparency logs and certificates of people (keyless signing) are not
//! looked at: whoever has the key decides.

mod key;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use thiserror::Error;

use crate::digest::Digest;
use crate::reference::{PLAIN_PORT, is_loopback, is_plain, is_repository, split_port};
use crate::{LOCAL_REGISTRY, Reference, registry_name};
use key::Key;
pub(crate) use verify::verify;

/// Bytes that a signature's document may have. Payloads have some hundred, bundles some thousand.
pub(crate) const MAX_SIGNATURE: u64 = 256 * 1024;

/// Signatures of an image that are looked at, of each kind.
pub(crate) const MAX_SIGNATURES: usize = 32;

/// Cosign's payloads, as layers.
pub(crate) const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// Whether a media or artifact type is that of signatures.
pub(crate) fn is_signature(media_type: &str) -> bool {
    media_type == PAYLOAD
        || media_type == "application/vnd.dev.cosign.artifact.sig.v1+json"
        || is_bundle(media_type)
}

pub(crate) fn is_bundle(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.dev.sigstore.bundle")
}

/// The tag that the signatures of an image are under.
pub(crate) fn signature_tag(image: &Digest) -> String {
    format!("{}-{}.sig", image.algorithm().name(), image.hex())
}

/// What is done with the images of a prefix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SignatureMode {
    /// They must be signed with one of the keys.
    #[default]
    Require,
    /// They should be: one that is not is let in, and logged.
    Warn,
    /// They are let in, signed or not.
    Allow,
    /// They are not let in.
    Reject,
}

/// What a signature must say about where its image is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SignedIdentity {
    /// The repository that the image is pulled from.
    #[default]
    MatchRepository,
    /// Anything: for registries that hold copies of signed images.
    Any,
}

/// A rule as a policy file has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SignatureRule {
    /// A registry, or a registry and a repository or the beginning of one; `*` is all of them. However the registry is
    /// written, here or in the name of an image, it is the same one.
    pub prefix: String,
    /// Public keys in PEM: files, or the text itself.
    #[serde(default)]
    pub keys: Vec<String>,
    /// What is done.
    #[serde(default)]
    pub mode: SignatureMode,
    /// What the signature must name.
    #[serde(default)]
    pub identity: SignedIdentity,
}

/// Why a policy is none.
#[derive(Debug, Error)]
pub enum PolicyError {
    /// A file could not be read.
    #[error("the key {path} of the prefix {prefix:?} cannot be read", path = .path.display())]
    Read {
        /// The rule.
        prefix: String,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A key is not one that can be used.
    #[error("a key of the prefix {prefix:?} cannot be used: {reason}")]
    Key {
        /// The rule.
        prefix: String,
        /// Why.
        reason: String,
    },
    /// Signatures are wanted, but by nobody's key.
    #[error("the prefix {prefix:?} has no keys")]
    NoKeys {
        /// The rule.
        prefix: String,
    },
    /// It is the beginning of no image's name.
    #[error("the prefix {prefix:?} is neither a registry nor one with a repository")]
    Prefix {
        /// The rule.
        prefix: String,
    },
    /// Two rules for the same images.
    #[error("the prefix {prefix:?} has two rules")]
    Twice {
        /// The rule.
        prefix: String,
    },
}

/// Which images are let in. The empty one lets in all.
#[derive(Clone, Debug, Default)]
pub struct SignaturePolicy {
    /// The longest prefix first.
    rules: Arc<[Rule]>,
    /// The names of registries that are configured to be without TLS.
    plain_http: Arc<[String]>,
}

#[derive(Debug)]
pub(crate) struct Rule {
    /// As it was written.
    prefix: String,
    /// What the names of images begin with; the empty one is for all.
    beginning: String,
    pub(crate) mode: SignatureMode,
    identity: SignedIdentity,
    keys: Vec<Key>,
}

/// Why an image is not let in.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SignatureError {
    /// It has no signature at all.
    #[error("A signature was required for {prefix:?}, but no signature exists")]
    Missing {
        /// The rule's prefix.
        prefix: String,
    },
    /// None of its signatures counts.
    #[error("A signature was required for {prefix:?}, but none of {count} is valid: {reason}")]
    Invalid {
        /// The rule's prefix.
        prefix: String,
        /// How many there are.
        count: usize,
        /// What is wrong with the first.
        reason: String,
    },
    /// Images of this prefix are not let in.
    #[error("Running images of {prefix:?} is rejected by policy")]
    Rejected {
        /// The rule's prefix.
        prefix: String,
    },
    /// The signatures on this machine cannot be read.
    #[error("The signatures cannot be read: {reason}")]
    Unreadable {
        /// What the store said.
        reason: String,
    },
}

impl SignaturePolicy {
    /// Reads the keys of the rules; the paths of files are below `dir`.
    pub fn build(rules: Vec<SignatureRule>, dir: &Path) -> Result<SignaturePolicy, PolicyError> {
        let mut built: Vec<Rule> = Vec::new();
        for SignatureRule { prefix, keys, mode, identity } in rules {
            let prefix = prefix.trim_end_matches('/').to_owned();
            let Some(beginning) = beginning(&prefix) else { return Err(PolicyError::Prefix { prefix }) };
            if built.iter().any(|other| other.beginning == beginning) {
                return Err(PolicyError::Twice { prefix });
            }
            if keys.is_empty() && matches!(mode, SignatureMode::Require | SignatureMode::Warn) {
                return Err(PolicyError::NoKeys { prefix });
            }
            let keys = keys.iter().map(|key| {
                let pem = if key.trim_start().starts_with("-----BEGIN") {
                    key.clone()
                } else {
                    let path = dir.join(key);
                    let failed =
                        |source| PolicyError::Read { prefix: prefix.clone(), path: path.clone(), source };
                    std::fs::read_to_string(&path).map_err(failed)?
                };
                Key::parse(&pem).map_err(|reason| PolicyError::Key { prefix: prefix.clone(), reason })
            });
            let keys = keys.collect::<Result<_, _>>()?;
            built.push(Rule { prefix, beginning, mode, identity, keys });
        }
        built.sort_by_key(|rule| std::cmp::Reverse(rule.beginning.len()));
        Ok(SignaturePolicy { rules: built.into(), plain_http: Arc::default() })
    }

    /// The same where these registries, by their names, are without TLS.
    pub(crate) fn with_plain_http(self, registries: &[String]) -> SignaturePolicy {
        SignaturePolicy { plain_http: registries.into(), ..self }
    }

    /// The rule for an image.
    pub(crate) fn rule(&self, image: &Reference) -> Option<&Rule> {
        let names = self.names(image);
        self.rules.iter().find(|rule| names.iter().any(|name| rule.is_for(name)))
    }

    /// What rules may call an image: without TLS, no port is another way to write the usual one.
    fn names(&self, image: &Reference) -> Vec<String> {
        let named = |registry: &str| format!("{}/{}", place(registry), image.repository());
        let registry = image.registry();
        let mut names = vec![named(registry)];
        if is_plain(registry, &self.plain_http) {
            let other = match split_port(registry) {
                (host, "") => Some(format!("{host}{PLAIN_PORT}")),
                (host, PLAIN_PORT) => Some(host.to_owned()),
                _ => None,
            };
            names.extend(other.map(|other| named(&other)));
        }
        names
    }

    /// Whether it depends on its signatures if an image is let in.
    pub(crate) fn wants_signatures(&self, image: &Reference) -> bool {
        let mode = self.rule(image).map(|rule| rule.mode);
        matches!(mode, Some(SignatureMode::Require | SignatureMode::Warn))
    }
}

impl Rule {
    /// The prefix as it was written.
    pub(crate) fn shown(&self) -> String {
        self.prefix.clone()
    }

    fn is_for(&self, name: &str) -> bool {
        let rest = name.strip_prefix(&self.beginning);
        rest.is_some_and(|rest| self.beginning.is_empty() || rest.is_empty() || rest.starts_with('/'))
    }

    /// Whether a signature that names `signed` is about this image's repository.
    fn identifies(&self, image: &Reference, signed: &str) -> bool {
        if self.identity == SignedIdentity::Any {
            return true;
        }
        let Ok(signed) = Reference::parse(signed) else { return false };
        // The embedded registry has many addresses; whoever signs uses one of them.
        let same_registry =
            image.registry() == LOCAL_REGISTRY || place(signed.registry()) == place(image.registry());
        same_registry && signed.repository() == image.repository()
    }
}

/// What the names of a rule's images begin with; `None` if no name does.
fn beginning(prefix: &str) -> Option<String> {
    if prefix == "*" {
        return Some(String::new());
    }
    let (registry, repository) =
        prefix.split_once('/').map_or((prefix, None), |(registry, repository)| (registry, Some(repository)));
    let registry = registry_name(registry)?;
    let image = Reference::parse(&format!("{registry}/{}", repository.unwrap_or("any"))).ok()?;
    // Not `team`, which would be read as Docker's, and no tag.
    let is_one = image.registry() == registry && repository.is_none_or(is_repository);
    let place = place(&registry);
    is_one.then(|| repository.map_or(place.clone(), |repository| format!("{place}/{repository}")))
}

/// A registry for comparing: this machine is one place, by all of its names.
fn place(registry: &str) -> String {
    match split_port(registry) {
        (host, port) if is_loopback(host) => format!("localhost{port}"),
        _ => registry.to_owned(),
    }
}
