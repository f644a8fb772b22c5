//! Room `image`: Wasm modules as OCI artifacts. References, pulls, a content store, and the embedded
//! registry that answers for `registry.local`.
//!
//! A blob is stored once under its SHA-256 digest, checked while it is written, and synced to disk
//! before anybody hears of it. Repositories only link to blobs. The embedded registry and the images
//! that were pulled from elsewhere share the store and the code; they differ in the name that their
//! repositories begin with.
//!
//! This room reads just as much of a module as it takes to say what it is. It must never run or
//! compile one, know what a pod is, or let anybody in: the API server authenticates before a request
//! reaches [`Images::registry_router`].
//!
//! Read first: [`Images`] (find, pull, push, the registry), [`Reference`] (names), [`Image`] (what
//! the node needs to start a container).
//!
//! ```text
//!  DIR/blobs/sha256/<hex>                                    content
//!  DIR/repositories/<registry>/<name>/_blobs/<hex>           this repository has the blob
//!                                    /_manifests/<hex>       ... the manifest, of this media type
//!                                    /_tags/<tag>            the digest it stands for
//!  DIR/uploads/<id>                                          not yet content; emptied at start
//! ```

mod content;
mod digest;
mod error;
mod format;
mod images;
mod index;
mod manifest;
mod package;
mod reference;
mod registry;
mod remote;
mod wasm;

#[cfg(test)]
mod tests;

pub use error::{FormatError, ImageError, PullError};
pub use images::{Config, Image, Images, Listed};
pub use package::{Package, manifest_for};
pub use reference::{LOCAL_REGISTRY, Reference, ReferenceError};
pub use remote::Credentials;
