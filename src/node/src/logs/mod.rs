//! Container logs: what guests write to stdout and stderr, in files of the CRI format, one per run:
//! `DIR/<namespace>_<pod>_<uid>_<container>_<restart>.log` (a long name of a pod is cut). No folders: making and
//! removing one for each pod and container was a tenth of what the life of a small pod cost.
//!
//! Nothing is created for a container that never writes, and few files are open at a time: thousands of
//! silent or idle containers cost no file handle. A line is in the file (and followers are told) before
//! the guest's write returns.

mod book;
mod format;
mod options;
mod pace;
mod read;
mod writer;

pub(crate) use book::{LogBook, Runs};
pub(crate) use options::{LogOptions, LogQuery};
pub(crate) use read::{Source, stream};
pub use writer::LogLimits;
pub(crate) use writer::{ContainerLog, LogOutput};
