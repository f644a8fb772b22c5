//! The filesystem's errors in WASI's words. The one place where they are translated.

use coracle_vfs::VfsError;
use wasmtime_wasi::p2::FsError;
use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;
use wasmtime_wasi_io::streams::StreamError;

#[expect(clippy::needless_pass_by_value, reason = "the shape that `map_err` takes")]
pub(super) fn failed(error: VfsError) -> FsError {
    code(&error).into()
}

/// A stream's error. The guest can ask for its code (`filesystem-error-code`).
pub(super) fn stream_failed(error: VfsError) -> StreamError {
    StreamError::LastOperationFailed(wasmtime::Error::new(error))
}

pub(super) fn code(error: &VfsError) -> ErrorCode {
    match error {
        VfsError::NoEntry => ErrorCode::NoEntry,
        VfsError::Exists => ErrorCode::Exist,
        VfsError::NotDirectory => ErrorCode::NotDirectory,
        VfsError::IsDirectory => ErrorCode::IsDirectory,
        VfsError::NotEmpty => ErrorCode::NotEmpty,
        VfsError::NoSpace => ErrorCode::InsufficientSpace,
        VfsError::ReadOnly => ErrorCode::ReadOnly,
        VfsError::Loop => ErrorCode::Loop,
        VfsError::NameTooLong => ErrorCode::NameTooLong,
        VfsError::Invalid => ErrorCode::Invalid,
        VfsError::CrossDevice => ErrorCode::CrossDevice,
        VfsError::Access => ErrorCode::Access,
        VfsError::NotPermitted => ErrorCode::NotPermitted,
        VfsError::BadDescriptor => ErrorCode::BadDescriptor,
        VfsError::TooManyLinks => ErrorCode::TooManyLinks,
        VfsError::TooManyOpen => ErrorCode::Quota,
        VfsError::Busy => ErrorCode::Busy,
        VfsError::TooLarge => ErrorCode::FileTooLarge,
        VfsError::IllegalByteSequence => ErrorCode::IllegalByteSequence,
        VfsError::Unsupported => ErrorCode::Unsupported,
        VfsError::Io(_) => ErrorCode::Io,
    }
}
