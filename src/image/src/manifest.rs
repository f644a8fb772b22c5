//! The parts of OCI and Docker manifests and configurations that matter here.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// What we ask registries for.
pub(crate) const MANIFESTS: [&str; 4] = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST];

/// Bytes that a manifest may have: what the distribution specification asks registries to take.
pub(crate) const MAX_MANIFEST: u64 = 4 * 1024 * 1024;

/// Bytes that an image configuration may have. Ours have some hundred; those of container images
/// some thousand.
pub(crate) const MAX_CONFIG: u64 = 1024 * 1024;

/// Bytes that the description of a Spin application may have: it names every file.
pub(crate) const MAX_APPLICATION: u64 = 16 * 1024 * 1024;

/// A manifest or an index: which of both it is shows in what it has.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) media_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) artifact_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) config: Option<Descriptor>,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub(crate) layers: Vec<Descriptor>,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub(crate) manifests: Vec<Descriptor>,
    /// The manifest that this one says something about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<Descriptor>,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Map::is_empty")]
    pub(crate) annotations: Map<String, Value>,
}

impl Manifest {
    pub(crate) fn is_index(&self) -> bool {
        matches!(self.media_type.as_deref(), Some(OCI_INDEX | DOCKER_LIST))
            || (self.media_type.is_none() && self.config.is_none() && !self.manifests.is_empty())
    }
}

/// Reads `null` as nothing, as the tools that write it mean it.
fn or_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// A pointer to content.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) artifact_type: Option<String>,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Map::is_empty")]
    pub(crate) annotations: Map<String, Value>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Platform {
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
}

impl Platform {
    /// Whether it is one of the names that Wasm goes by.
    pub(crate) fn is_wasm(&self) -> bool {
        let begins =
            |name: &str, begin: &str| name.get(..4).is_some_and(|found| found.eq_ignore_ascii_case(begin));
        begins(&self.architecture, "wasm") || begins(&self.os, "wasi")
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // They come from outside and go into messages.
        let word = |word: &str| word.chars().filter(|c| !c.is_control()).take(32).collect::<String>();
        write!(f, "{}/{}", word(&self.os), word(&self.architecture))
    }
}

/// What a container image's configuration says about starting it.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct ContainerConfig {
    #[serde(flatten)]
    pub(crate) platform: Platform,
    #[serde(default)]
    pub(crate) config: Option<Execution>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Execution {
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) entrypoint: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) cmd: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) env: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) working_dir: String,
}

impl Execution {
    /// The words that name the program.
    pub(crate) fn command(&self) -> &[String] {
        if self.entrypoint.is_empty() { &self.cmd } else { &self.entrypoint }
    }

    /// The environment as names and values; what has no value is left out.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        let pairs = self.env.iter().filter_map(|pair| pair.split_once('='));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }
}
