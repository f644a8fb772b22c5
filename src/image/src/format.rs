//! Which artifacts run here, decided from the manifest: the CNCF layout and its older relatives, all
//! of which have one layer that is the module.
//!
//! Detection goes from the most deliberate sign to the least: `artifactType`, the configuration's
//! media type, the layer's media type, and then (with the content at hand) the first bytes.

use crate::FormatError;
use crate::digest::Digest;
use crate::manifest::{ContainerConfig, Descriptor, Execution, Manifest};

/// Layers that are a Wasm binary.
const WASM_LAYERS: [&str; 5] = [
    // CNCF Wasm OCI artifact layout
    "application/wasm",
    // wasm-to-oci, Krustlet, oci-client
    "application/vnd.wasm.content.layer.v1+wasm",
    // solo.io and Istio, wasmCloud
    "application/vnd.module.wasm.content.layer.v1+wasm",
    // runwasi
    "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
    // Wassette
    "application/vnd.wasm.component.v1",
];

/// Configurations that only come with Wasm.
const WASM_CONFIGS: [&str; 3] = [
    crate::package::CONFIG_TYPE,
    "application/vnd.wasm.config.v1+json",
    "application/vnd.module.wasm.config.v1+json",
];

/// Artifact types that say Wasm.
const WASM_ARTIFACTS: [&str; 4] = [
    "application/vnd.wasm.component.v1+wasm",
    "application/vnd.wasm.module.v1+wasm",
    "application/wasm",
    crate::package::CONFIG_TYPE,
];

/// Configurations of container images, which say how to start it.
const CONTAINER_CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];

/// What a manifest leads to.
#[derive(Debug)]
pub(crate) enum Choice {
    /// Another manifest.
    Index(Digest),
    /// A module.
    Module(Plan),
}

/// What to fetch of an artifact.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The module.
    pub(crate) layer: Target,
    pub(crate) config: Option<Target>,
    /// Whether the configuration says how to start it.
    container: bool,
}

/// Content, and the bytes it is said to have.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// Reads a manifest.
pub(crate) fn parse(bytes: &[u8]) -> Result<Manifest, FormatError> {
    let invalid = |reason: String| FormatError::Manifest { reason };
    let manifest: Manifest = serde_json::from_slice(bytes).map_err(|error| invalid(error.to_string()))?;
    if manifest.schema_version != 2 {
        return Err(invalid(format!("schemaVersion is {}, not 2", manifest.schema_version)));
    }
    Ok(manifest)
}

/// Decides what to run of an artifact.
pub(crate) fn choose(manifest: &Manifest) -> Result<Choice, FormatError> {
    if manifest.is_index() {
        return platform(&manifest.manifests).map(Choice::Index);
    }
    let is = |known: &[&str], found: Option<&str>| found.is_some_and(|found| known.contains(&found));
    let config_type = manifest.config.as_ref().map(|config| config.media_type.as_str());
    let wasm = is(&WASM_ARTIFACTS, manifest.artifact_type.as_deref())
        || is(&WASM_CONFIGS, config_type)
        || manifest.layers.iter().any(|layer| is(&WASM_LAYERS, Some(&layer.media_type)));
    let [layer] = manifest.layers.as_slice() else {
        return Err(FormatError::Layers { count: manifest.layers.len() });
    };
    // Anything that nobody calls an archive or JSON may still turn out to begin like a module.
    if !wasm && ["tar", "gzip", "zip", "zstd", "json"].iter().any(|other| layer.media_type.contains(other)) {
        return Err(FormatError::NotWasm { media_type: layer.media_type.clone() });
    }
    let container = is(&CONTAINER_CONFIGS, config_type);
    let config = manifest.config.as_ref().map(target).transpose()?;
    Ok(Choice::Module(Plan { layer: target(layer)?, config, container }))
}

fn target(descriptor: &Descriptor) -> Result<Target, FormatError> {
    Ok(Target { digest: digest(descriptor)?, size: descriptor.size })
}

impl Plan {
    /// How the image says it should be started, from the bytes of its configuration.
    pub(crate) fn execution(&self, config: &[u8]) -> Result<Execution, FormatError> {
        if !self.container {
            return Ok(Execution::default());
        }
        let config: ContainerConfig = serde_json::from_slice(config).map_err(|error| {
            FormatError::Manifest { reason: format!("its configuration is invalid: {error}") }
        })?;
        Ok(config.config.unwrap_or_default())
    }
}

/// The entry for Wasm; an index with one entry that names no platform is taken at its word.
fn platform(entries: &[Descriptor]) -> Result<Digest, FormatError> {
    let is_wasm = |entry: &&Descriptor| {
        entry
            .platform
            .as_ref()
            .is_some_and(|p| p.architecture.starts_with("wasm") || p.os.starts_with("wasi"))
    };
    let only = || entries.first().filter(|entry| entries.len() == 1 && entry.platform.is_none());
    let entry = entries.iter().find(is_wasm).or_else(only);
    digest(entry.ok_or(FormatError::Platform { count: entries.len() })?)
}

pub(crate) fn digest(descriptor: &Descriptor) -> Result<Digest, FormatError> {
    Digest::parse(&descriptor.digest).ok_or_else(|| FormatError::Digest { digest: descriptor.digest.clone() })
}
