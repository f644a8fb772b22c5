//! The host's errors in our words. The one place where they are translated.

use std::io;

use rustix::io::Errno;

use crate::error::VfsError;

pub(super) fn from_io(error: io::Error) -> VfsError {
    match error.raw_os_error() {
        Some(number) => from_errno(Errno::from_raw_os_error(number)),
        None => VfsError::Io(error),
    }
}

pub(super) fn from_errno(errno: Errno) -> VfsError {
    match errno {
        Errno::NOENT => VfsError::NoEntry,
        Errno::EXIST => VfsError::Exists,
        Errno::NOTDIR => VfsError::NotDirectory,
        Errno::ISDIR => VfsError::IsDirectory,
        Errno::NOTEMPTY => VfsError::NotEmpty,
        Errno::NOSPC | Errno::DQUOT => VfsError::NoSpace,
        Errno::ROFS => VfsError::ReadOnly,
        Errno::LOOP => VfsError::Loop,
        Errno::NAMETOOLONG => VfsError::NameTooLong,
        Errno::INVAL => VfsError::Invalid,
        Errno::XDEV => VfsError::CrossDevice,
        Errno::ACCESS => VfsError::Access,
        Errno::PERM => VfsError::NotPermitted,
        Errno::BADF => VfsError::BadDescriptor,
        Errno::MLINK => VfsError::TooManyLinks,
        Errno::MFILE | Errno::NFILE => VfsError::TooManyOpen,
        Errno::BUSY => VfsError::Busy,
        Errno::FBIG => VfsError::TooLarge,
        Errno::ILSEQ => VfsError::IllegalByteSequence,
        Errno::NOTSUP | Errno::NOSYS => VfsError::Unsupported,
        other => VfsError::Io(other.into()),
    }
}
