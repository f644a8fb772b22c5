//! What can go wrong in a filesystem, in POSIX's words.

use std::io;

/// Why a filesystem operation failed. Each variant is one POSIX `errno`, so that hosts map it one to one.
#[derive(Debug, thiserror::Error)]
pub enum VfsError {
    /// `ENOENT`
    #[error("no such file or directory")]
    NoEntry,
    /// `EEXIST`
    #[error("file exists")]
    Exists,
    /// `ENOTDIR`
    #[error("not a directory")]
    NotDirectory,
    /// `EISDIR`
    #[error("is a directory")]
    IsDirectory,
    /// `ENOTEMPTY`
    #[error("directory not empty")]
    NotEmpty,
    /// `ENOSPC`: the volume's limit is reached.
    #[error("no space left on device")]
    NoSpace,
    /// `EROFS`: the mount is read-only.
    #[error("read-only file system")]
    ReadOnly,
    /// `ELOOP`: too many symbolic links, or one where none may be.
    #[error("too many levels of symbolic links")]
    Loop,
    /// `ENAMETOOLONG`: see [`crate::NAME_MAX`], [`crate::PATH_MAX`] and [`crate::DEPTH_MAX`].
    #[error("file name too long")]
    NameTooLong,
    /// `EINVAL`
    #[error("invalid argument")]
    Invalid,
    /// `EXDEV`: rename or link between two volumes.
    #[error("cross-device link")]
    CrossDevice,
    /// `EACCES`
    #[error("permission denied")]
    Access,
    /// `EPERM`: also a path that leaves the directory it is relative to.
    #[error("operation not permitted")]
    NotPermitted,
    /// `EBADF`: the file is not open for this.
    #[error("bad file descriptor")]
    BadDescriptor,
    /// `EMLINK`
    #[error("too many links")]
    TooManyLinks,
    /// `EMFILE`: the container's bound on open files.
    #[error("too many open files")]
    TooManyOpen,
    /// `EBUSY`: a mount point, or a directory above one.
    #[error("device or resource busy")]
    Busy,
    /// `EFBIG`
    #[error("file too large")]
    TooLarge,
    /// `EILSEQ`: a name that is not UTF-8, or holds a NUL.
    #[error("illegal byte sequence")]
    IllegalByteSequence,
    /// `ENOTSUP`
    #[error("operation not supported")]
    Unsupported,
    /// The host's filesystem failed in a way that has no name above.
    #[error("input/output error")]
    Io(#[source] io::Error),
}
