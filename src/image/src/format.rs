//! Which artifacts run here and what of them is fetched, decided from the manifest and, for container
//! images, from the configuration.
//!
//! Detection goes from the most deliberate sign to the least: `artifactType`, the configuration's
//! media type, the layers' media types, the platform or an annotation, and then (with the content at
//! hand) the first bytes.

use crate::FormatError;
use crate::digest::Digest;
use crate::manifest::{ContainerConfig, Descriptor, Execution, Manifest};

/// Layers that are a Wasm binary.
const WASM_LAYERS: [&str; 5] = [
    // CNCF Wasm OCI artifact layout, wkg, Molt, ZLayer
    "application/wasm",
    // wasm-to-oci, Krustlet, oci-client, Spin
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
const WASM_ARTIFACTS: [&str; 5] = [
    "application/vnd.wasm.component.v1+wasm",
    "application/vnd.wasm.component.v1",
    "application/vnd.wasm.module.v1+wasm",
    "application/wasm",
    crate::package::CONFIG_TYPE,
];

/// Configurations of container images, which say how to start it.
const CONTAINER_CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];

/// Layers of container images. How they are compressed is seen in their first bytes.
const ARCHIVES: [&str; 2] = ["application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs."];

/// What may stand beside a module without being part of it: policies of Wassette.
const COMPANIONS: &str = "application/vnd.wasm.policy.";

/// Spin's description of an application, and its files: one each, or many in an archive.
const SPIN_APP: &str = "application/vnd.fermyon.spin.application.v1+config";
const SPIN_FILE: &str = "application/vnd.wasm.content.layer.v1+data";
const SPIN_ARCHIVE: &str = "application/vnd.wasm.content.bundle.v1.tar+gzip";

/// Annotations by which container engines take an image for Wasm, and how their values begin.
const ANNOTATIONS: [(&str, &str); 2] = [("module.wasm.image/variant", "compat"), ("run.oci.handler", "wasm")];

/// Layers that an image may have. Container engines stop at 127, Spin at 500.
const MAX_LAYERS: usize = 512;

/// Platforms that a refusal names.
const NAMED_PLATFORMS: usize = 8;

/// What a manifest leads to.
#[derive(Debug)]
pub(crate) enum Choice {
    /// Another manifest.
    Index(Digest),
    /// An image.
    Image(Plan),
}

/// What to fetch of an artifact.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) config: Option<Target>,
    pub(crate) body: Body,
    /// Whether the configuration says how to start it.
    container: bool,
    /// Whether an annotation says that it is Wasm, whatever the platform.
    annotated: bool,
}

/// Where the module of an image is.
#[derive(Debug)]
pub(crate) enum Body {
    /// In a layer of its own.
    Module(Target),
    /// Among the files of a container image.
    Rootfs(Vec<Target>),
    /// In a layer of its own, with files that a description puts in their places.
    Spin(Spin),
}

/// A Spin application of one component.
#[derive(Debug)]
pub(crate) struct Spin {
    pub(crate) module: Target,
    pub(crate) app: Option<Target>,
    pub(crate) files: Vec<Target>,
    pub(crate) archives: Vec<Target>,
}

/// Content, and the bytes it is said to have.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    let config_type = manifest.config.as_ref().map(|config| config.media_type.as_str());
    let is = |known: &[&str], found: Option<&str>| found.is_some_and(|found| known.contains(&found));
    let annotated = ANNOTATIONS.iter().any(|(name, begin)| {
        manifest.annotations.get(*name).and_then(|value| value.as_str()).is_some_and(|v| v.starts_with(begin))
    });
    Ok(Choice::Image(Plan {
        config: manifest.config.as_ref().map(target).transpose()?,
        body: body(manifest)?,
        container: is(&CONTAINER_CONFIGS, config_type),
        annotated,
    }))
}

fn body(manifest: &Manifest) -> Result<Body, FormatError> {
    let layers = manifest.layers.as_slice();
    if layers.len() > MAX_LAYERS {
        return Err(FormatError::Layers { count: layers.len() });
    }
    let of = |types: &'static [&str]| {
        layers.iter().filter(move |layer| types.contains(&layer.media_type.as_str()))
    };
    let targets = |types: &'static [&str]| of(types).map(target).collect::<Result<Vec<_>, _>>();
    let modules = targets(&WASM_LAYERS)?;
    if let Some(module) = modules.first() {
        // In older ones the description is the configuration.
        let app = manifest.config.iter().find(|config| config.media_type == SPIN_APP);
        let spin = app.is_some() || of(&[SPIN_APP, SPIN_FILE, SPIN_ARCHIVE]).next().is_some();
        if modules.len() > 1 {
            let count = modules.len();
            return Err(if spin { FormatError::Components { count } } else { FormatError::Layers { count } });
        }
        if spin {
            return Ok(Body::Spin(Spin {
                module: module.clone(),
                app: app.map(target).transpose()?.or(targets(&[SPIN_APP])?.into_iter().next()),
                files: targets(&[SPIN_FILE])?,
                archives: targets(&[SPIN_ARCHIVE])?,
            }));
        }
        // The CNCF layout has one layer; what is none of its own and not known to be beside the
        // point may belong to a later version of it.
        let config_type = manifest.config.as_ref().map(|config| config.media_type.as_str());
        let foreign = |layer: &&Descriptor| {
            !WASM_LAYERS.contains(&layer.media_type.as_str()) && !layer.media_type.starts_with(COMPANIONS)
        };
        if config_type == Some(crate::package::CONFIG_TYPE) && layers.iter().any(|layer| foreign(&layer)) {
            return Err(FormatError::Layers { count: layers.len() });
        }
        return Ok(Body::Module(module.clone()));
    }
    if layers.is_empty() {
        return Err(FormatError::Layers { count: 0 });
    }
    let is_archive = |layer: &Descriptor| {
        let media_type = layer.media_type.as_str();
        ARCHIVES.iter().any(|begin| media_type.starts_with(begin)) && !media_type.ends_with("+encrypted")
    };
    if layers.iter().all(is_archive) {
        return Ok(Body::Rootfs(layers.iter().map(target).collect::<Result<_, _>>()?));
    }
    let config_type = manifest.config.as_ref().map_or("", |config| config.media_type.as_str());
    let declared = WASM_CONFIGS.contains(&config_type)
        || manifest.artifact_type.as_deref().is_some_and(|of| WASM_ARTIFACTS.contains(&of));
    match layers {
        // Anything that nobody calls an archive or JSON may still turn out to begin like a module.
        [layer] if declared || !is_something_else(&layer.media_type) => Ok(Body::Module(target(layer)?)),
        [layer, ..] => Err(FormatError::NotWasm { media_type: layer.media_type.clone() }),
        [] => Err(FormatError::Layers { count: 0 }),
    }
}

fn is_something_else(media_type: &str) -> bool {
    ["tar", "gzip", "zip", "zstd", "json", "encrypted"].iter().any(|other| media_type.contains(other))
}

pub(crate) fn target(descriptor: &Descriptor) -> Result<Target, FormatError> {
    Ok(Target { digest: digest(descriptor)?, size: descriptor.size })
}

impl Plan {
    /// What to fetch beside the configuration.
    pub(crate) fn layers(&self) -> Vec<&Target> {
        match &self.body {
            Body::Module(module) => vec![module],
            Body::Rootfs(layers) => layers.iter().collect(),
            Body::Spin(Spin { module, app, files, archives }) => {
                std::iter::once(module).chain(app).chain(files).chain(archives).collect()
            }
        }
    }

    /// The layer that is the module, if one is.
    pub(crate) fn module(&self) -> Option<&Target> {
        match &self.body {
            Body::Module(module) | Body::Spin(Spin { module, .. }) => Some(module),
            Body::Rootfs(_) => None,
        }
    }

    /// How the image says it should be started, from the bytes of its configuration. Refuses images
    /// for other platforms, before anything else of them is fetched.
    pub(crate) fn execution(&self, config: &[u8]) -> Result<Execution, FormatError> {
        if !self.container {
            return Ok(Execution::default());
        }
        let config: ContainerConfig = serde_json::from_slice(config).map_err(|error| {
            FormatError::Manifest { reason: format!("its configuration is invalid: {error}") }
        })?;
        let execution = config.config.unwrap_or_default();
        let platform = &config.platform;
        // What has no command cannot be meant for a machine; what names a module is meant for us.
        let command = execution.command().first();
        let fits = command.is_none_or(|program| program.to_ascii_lowercase().ends_with(".wasm"));
        let known = !platform.os.is_empty() || !platform.architecture.is_empty();
        if matches!(self.body, Body::Rootfs(_)) && known && !platform.is_wasm() && !self.annotated && !fits {
            return Err(FormatError::Platform { platforms: vec![platform.to_string()] });
        }
        Ok(execution)
    }
}

/// The entry for Wasm. An index with one entry is taken at its word, whatever its platform: tools
/// that add an attestation make an index of every image, and the image itself may say more.
fn platform(entries: &[Descriptor]) -> Result<Digest, FormatError> {
    let unknown = |entry: &&Descriptor| entry.platform.as_ref().is_some_and(|p| p.os == "unknown");
    let images: Vec<_> = entries.iter().filter(|entry| !unknown(entry)).collect();
    let is_wasm = |entry: &&&Descriptor| entry.platform.as_ref().is_some_and(|platform| platform.is_wasm());
    let only = || images.first().filter(|_| images.len() == 1);
    let entry = images.iter().find(is_wasm).or_else(only).ok_or_else(|| {
        let named = images.iter().take(NAMED_PLATFORMS);
        let mut platforms: Vec<_> = named
            .map(|entry| entry.platform.as_ref().map_or("unknown".to_owned(), ToString::to_string))
            .collect();
        if images.len() > NAMED_PLATFORMS {
            platforms.push(format!("{} more", images.len() - NAMED_PLATFORMS));
        }
        FormatError::Platform { platforms }
    })?;
    digest(entry)
}

pub(crate) fn digest(descriptor: &Descriptor) -> Result<Digest, FormatError> {
    Digest::parse(&descriptor.digest).ok_or_else(|| FormatError::Digest { digest: descriptor.digest.clone() })
}
