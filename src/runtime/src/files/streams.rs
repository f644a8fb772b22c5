//! Files as streams. Each call does its work at once, so a stream is always ready.

use bytes::{Bytes, BytesMut};
use coracle_vfs::{File, VfsError};
use wasmtime_wasi_io::poll::Pollable;
use wasmtime_wasi_io::streams::{InputStream, OutputStream, StreamError, StreamResult};

use super::error::stream_failed;
use super::{Open, on_disk};
use crate::limits::CHUNK;

/// Reads on from a position. As any stream, it may outlive the descriptor that it came from.
pub(super) struct FileInput {
    file: File,
    position: u64,
    _open: Open,
}

impl FileInput {
    pub(super) fn new(file: File, open: Open, position: u64) -> FileInput {
        FileInput { file, position, _open: open }
    }
}

#[async_trait::async_trait]
impl Pollable for FileInput {
    async fn ready(&mut self) {}
}

#[async_trait::async_trait]
impl InputStream for FileInput {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if size == 0 {
            return Ok(Bytes::new());
        }
        let mut buffer = BytesMut::zeroed(size.min(CHUNK));
        let count = on_disk(self.file.blocking(), || self.file.read_at(self.position, &mut buffer))
            .map_err(stream_failed)?;
        if count == 0 {
            return Err(StreamError::Closed);
        }
        self.position += count as u64;
        buffer.truncate(count);
        Ok(buffer.freeze())
    }
}

/// Writes on from a position, or at the end.
pub(super) struct FileOutput {
    file: File,
    /// `None` to append.
    position: Option<u64>,
    /// Whether each write is made durable, and how.
    sync: Option<Sync>,
    failed: Option<VfsError>,
    _open: Open,
}

/// What `O_SYNC` and `O_DSYNC` ask for.
#[derive(Clone, Copy)]
pub(crate) struct Sync {
    pub(crate) data_only: bool,
}

impl FileOutput {
    pub(super) fn new(file: File, open: Open, position: Option<u64>, sync: Option<Sync>) -> FileOutput {
        FileOutput { file, position, sync, failed: None, _open: open }
    }

    fn write_all(&mut self, mut data: &[u8]) -> Result<(), VfsError> {
        while !data.is_empty() {
            let written = match &mut self.position {
                Some(position) => {
                    let written = self.file.write_at(*position, data)?;
                    *position += written as u64;
                    written
                }
                None => self.file.append(data)?,
            };
            data = &data[written..];
        }
        match self.sync {
            Some(sync) => self.file.sync(sync.data_only),
            None => Ok(()),
        }
    }

    /// An error of an earlier write is told once, by the next call.
    fn earlier(&mut self) -> StreamResult<()> {
        match self.failed.take() {
            Some(error) => Err(stream_failed(error)),
            None => Ok(()),
        }
    }
}

#[async_trait::async_trait]
impl Pollable for FileOutput {
    async fn ready(&mut self) {}
}

#[async_trait::async_trait]
impl OutputStream for FileOutput {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.earlier()?;
        // As the interface has it, `write` itself succeeds and the error comes with the next call.
        self.failed = on_disk(self.file.blocking(), || self.write_all(&bytes)).err();
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.earlier()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.earlier()?;
        Ok(CHUNK)
    }
}
