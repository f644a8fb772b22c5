//! Making an artifact of a module: the CNCF Wasm OCI artifact layout.

use std::io::Cursor;

use serde::Serialize;

use crate::FormatError;
use crate::digest::Digest;
use crate::manifest::{Descriptor, Manifest, OCI_MANIFEST};
use crate::wasm::{self, Wasm};

/// Media type of the configuration in the CNCF layout. `v0` is its first version, not a draft.
pub(crate) const CONFIG_TYPE: &str = "application/vnd.wasm.config.v0+json";

/// Media type of the one layer.
pub(crate) const LAYER_TYPE: &str = "application/wasm";

/// The two documents that make an artifact of a module. Push the module and `config` as blobs, then
/// `manifest` with [`MANIFEST_TYPE`](Package::MANIFEST_TYPE).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// The configuration.
    pub config: Vec<u8>,
    /// Digest of the configuration, `sha256:…`.
    pub config_digest: String,
    /// Digest of the module, `sha256:…`.
    pub module_digest: String,
    /// The manifest.
    pub manifest: Vec<u8>,
    /// Digest of the manifest, `sha256:…`.
    pub manifest_digest: String,
}

impl Package {
    /// The media type of the manifest.
    pub const MANIFEST_TYPE: &'static str = OCI_MANIFEST;
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WasmConfig {
    created: &'static str,
    author: Option<String>,
    architecture: &'static str,
    os: &'static str,
    layer_digests: Vec<String>,
    component: Option<Component>,
}

#[derive(Serialize)]
struct Component {
    exports: Vec<String>,
    imports: Vec<String>,
    target: Option<String>,
}

/// Describes a module. The same module always gives the same bytes, so pushing it twice changes
/// nothing; that is why the time of creation is the beginning of time.
pub fn manifest_for(module: &[u8]) -> Result<Package, FormatError> {
    let (os, component) = match wasm::inspect(&mut Cursor::new(module))? {
        Wasm::Module => ("wasip1", None),
        Wasm::Component { imports, exports } => {
            ("wasip2", Some(Component { exports, imports, target: None }))
        }
    };
    let module_digest = Digest::of(module).to_string();
    let config = WasmConfig {
        created: "1970-01-01T00:00:00Z",
        author: None,
        architecture: "wasm",
        os,
        layer_digests: vec![module_digest.clone()],
        component,
    };
    let config = serde_json::to_vec(&config).expect("strings serialise");
    let config_digest = Digest::of(&config).to_string();
    let descriptor = |media_type: &str, digest: &str, size: usize| Descriptor {
        media_type: media_type.to_owned(),
        digest: digest.to_owned(),
        size: size as u64,
        ..Descriptor::default()
    };
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(OCI_MANIFEST.to_owned()),
        config: Some(descriptor(CONFIG_TYPE, &config_digest, config.len())),
        layers: vec![descriptor(LAYER_TYPE, &module_digest, module.len())],
        ..Manifest::default()
    };
    let manifest = serde_json::to_vec(&manifest).expect("strings serialise");
    let manifest_digest = Digest::of(&manifest).to_string();
    Ok(Package { config, config_digest, module_digest, manifest, manifest_digest })
}
