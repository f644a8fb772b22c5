//! The virtual filesystem: what a container sees as files, without a kernel mount.
//!
//! Read first: [`Volume`] (a tree with a limit: in memory, a directory of the
//! host, the files of an image, or an overlay of these), [`Mounts`] (how a
//! container's view is put together from volumes) and [`Directory`] (the door through which a host of
//! `wasi:filesystem`, or the node, reads and writes that view).
//!
//! ```text
//!   Directory, File        handles; POSIX rules; permissions of the mount
//!        │ names
//!   namespace              one component at a time: mount points, "..", symbolic links
//!        │ nodes
//!   Tree (trait)           one volume: memory │ host directory │ image files │ overlay of trees
//! ```
//!
//! It must never follow a path out of the container's view (links are read and walked here, never by the
//! kernel), hold more than a volume's limit, or wait for a guest while it holds a lock. Operations are synchronous; those
//! where [`Directory::blocking`] or [`Directory::paths_block`] say so may wait for a disk.

mod clock;
mod device;
mod directory;
mod error;
mod file;
mod host;
mod memory;
mod mounts;
mod namespace;
mod overlay;
mod quota;
mod share;
mod tree;
mod volume;

pub use device::Device;
pub use directory::{Directory, Entries, OpenOptions, Opened};
pub use error::VfsError;
pub use file::File;
pub use mounts::{MountOptions, Mounts, ROOT_LIMIT};
pub use share::PodShare;
pub use tree::{Entry, FileKind, NewTime, Stat, Times};
pub use volume::{ProjectedFile, Usage, Volume};

/// Longest name of one file, in bytes: Linux's own, so that a tree can move between memory and host.
pub const NAME_MAX: usize = 255;

/// Longest path that one call may name, in bytes: Linux's own (without the final NUL).
pub const PATH_MAX: usize = 4095;

/// Symbolic links followed in one path before [`VfsError::Loop`]: Linux's own.
pub const LINKS_MAX: u32 = 40;

/// Directories below each other that a program can walk to, and below which it can move others. A path of [`PATH_MAX`]
/// names at most about 2,048; guests that went deeper, one handle at a time, would only make the host walk long. A
/// directory that is moved takes along what it holds, so that volumes can be deeper: whoever walks through a whole
/// volume does so without recursion and without bound.
pub const DEPTH_MAX: u32 = 2_048;

#[cfg(test)]
mod agreement;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod view_tests;
