//! The two halves of a connection as `wasi:io` streams.

use std::future::poll_fn;
use std::io;

use bytes::{Buf, Bytes};
use coracle_network::limits::WRITE_MAX;
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

use super::Connection;

/// What a guest reads from.
pub(super) struct Input(pub(super) Connection);

/// What a guest writes to.
pub(super) struct Output {
    connection: Connection,
    /// What the last `check-write` allowed and `write` has not used.
    permit: usize,
}

impl Output {
    pub(super) fn new(connection: Connection) -> Output {
        Output { connection, permit: 0 }
    }
}

#[async_trait::async_trait]
impl InputStream for Input {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if size == 0 {
            return Ok(Bytes::new());
        }
        match self.0.stream().try_read_bytes(size.min(WRITE_MAX)) {
            Ok(bytes) if bytes.is_empty() => Err(StreamError::Closed),
            Ok(bytes) => {
                self.0.received(bytes.len());
                Ok(bytes)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Bytes::new()),
            Err(error) => Err(StreamError::LastOperationFailed(error.into())),
        }
    }
}

#[async_trait::async_trait]
impl Pollable for Input {
    async fn ready(&mut self) {
        poll_fn(|cx| self.0.stream().poll_readable(cx)).await;
    }
}

#[async_trait::async_trait]
impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if bytes.len() > self.permit {
            let text = format!("write of {} bytes where {} were permitted", bytes.len(), self.permit);
            return Err(StreamError::trap(&text));
        }
        self.permit -= bytes.len();
        let count = bytes.len();
        self.connection.stream().try_write_bytes(bytes).map_err(write_error)?;
        self.connection.sent(count);
        Ok(())
    }

    /// What is written is with the other side's queue already; there is nothing to flush.
    fn flush(&mut self) -> StreamResult<()> {
        self.connection.stream().check_writable().map_err(write_error)
    }

    /// Without a permit in between, and without another after it that nobody may use: the pod pays for those.
    async fn blocking_write_and_flush(&mut self, mut bytes: Bytes) -> StreamResult<()> {
        self.permit = 0;
        while !bytes.is_empty() {
            match self.connection.stream().try_write(&bytes) {
                Ok(written) => {
                    self.connection.sent(written);
                    bytes.advance(written);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.ready().await,
                Err(error) => return Err(write_error(error)),
            }
        }
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.permit = self.connection.stream().write_capacity().map_err(write_error)?;
        Ok(self.permit)
    }
}

#[async_trait::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {
        poll_fn(|cx| self.connection.stream().poll_writable(cx)).await;
    }
}

/// Nobody reads any more: `closed`. A reset is an error that the guest can ask about.
fn write_error(error: io::Error) -> StreamError {
    if error.kind() == io::ErrorKind::BrokenPipe {
        StreamError::Closed
    } else {
        StreamError::LastOperationFailed(error.into())
    }
}
