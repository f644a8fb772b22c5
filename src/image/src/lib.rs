//! Room `image`: Wasm modules as OCI artifacts. References, pulls, a content store, and the embedded
//! registry that answers for `registry.local`.
//!
//! A blob is stored once under its SHA-256 digest (or SHA-512, if it is named by that), checked while it is
//! written, and synced to disk before anybody hears of it. Repositories only link to blobs. The embedded
//! registry and the images that were pulled from elsewhere share the store and the code; they differ in the
//! name that their repositories begin with.
//!
//! This room reads just as much of a module as it takes to say what it is. It must never run or
//! compile one, know what a pod is, or let anybody in: the API server authenticates before a request
//! reaches [`Images::registry_router`].
//!
//! Read first: [`Images`] (find, pull, push, the registry), [`Reference`] (names), [`Image`] (what
//! the node needs to start a container).
//!
//! What runs, by how it is packaged:
//!
//! | packaging | recognised by | what runs |
//! | --- | --- | --- |
//! | CNCF Wasm artifact, wkg | config `application/vnd.wasm.config.v0+json` | its one layer `application/wasm` |
//! | ZLayer, Molt | `artifactType`, any or an empty config | its one layer |
//! | Wassette | layer `application/vnd.wasm.component.v1` | that layer; policies beside it are left alone |
//! | wasm-to-oci, Istio, wasmCloud, runwasi | the layer's media type | the one layer of that type |
//! | Spin, one component | `…spin.application.v1+config` | its Wasm layer, with its files and environment |
//! | Docker and OCI images | tar layers, plain, gzip or zstd; platform, annotation or entrypoint | what the entrypoint names, `plugin.wasm`, or the only module; the other files are the container's |
//! | an index of any of them | platform `wasi*/wasm*` | the image for it |
//!
//! WIT packages without code, images for other platforms or with an entrypoint that is a path of no file and no
//! module's name (Docker's `/bin/sh -c`, say), and anything else are refused by name.
//!
//! ```text
//!  DIR/blobs/sha256/<hex>, DIR/blobs/sha512/<hex>            content
//!  DIR/repositories/<registry>/<name>/_blobs/<hex>           this repository has the blob
//!                                    /_manifests/<hex>       ... the manifest, of this media type
//!                                    /_tags/<tag>            the digest it stands for
//!                                    /_referrers/<hex>-<hex> ... what says something about a manifest
//!  DIR/files/<hex of a manifest>/root                        the image's files, unpacked
//!  DIR/uploads/<id>                                          not yet content; emptied at start
//!  DIR/uploads/<hex>.part                                    the beginning of a blob whose pull broke off
//! ```

mod claims;
mod content;
mod digest;
mod error;
mod files;
mod format;
#[doc(hidden)]
pub mod fuzz;
mod images;
mod index;
mod manifest;
mod package;
mod reference;
mod registry;
mod remote;
mod shared;
mod signature;
mod slots;
mod unpacking;
mod wasm;

#[cfg(test)]
mod tests;

pub use error::{FormatError, ImageError, PullError};
pub use files::ImageFiles;
pub use images::{Config, Image, Images, Listed};
pub use package::{Package, manifest_for};
pub use reference::{LOCAL_REGISTRY, Reference, ReferenceError, registry_name};
pub use remote::Credentials;
pub use signature::{
    PolicyError, SignatureError, SignatureMode, SignaturePolicy, SignatureRule, SignedIdentity,
};
