//! Where a guest's stdout and stderr go.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi_io::poll::Pollable;
use wasmtime_wasi_io::streams::{OutputStream, StreamResult};

use crate::limits::CHUNK;

/// Takes what a guest prints. Called on the guest's thread, so it must neither wait nor fail; lines and log
/// limits are its own business.
pub trait Output: Send + Sync {
    /// Takes a piece of at most [`crate::limits::CHUNK`] bytes, not necessarily a line.
    fn write(&self, bytes: &[u8]);
}

/// An [`Output`] as wasmtime-wasi wants it.
#[derive(Clone)]
pub(crate) struct OutputPipe {
    output: Arc<dyn Output>,
    terminal: bool,
}

impl OutputPipe {
    pub(crate) fn new(output: Arc<dyn Output>, terminal: bool) -> OutputPipe {
        OutputPipe { output, terminal }
    }
}

impl IsTerminal for OutputPipe {
    fn is_terminal(&self) -> bool {
        self.terminal
    }
}

impl StdoutStream for OutputPipe {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for OutputPipe {
    fn poll_write(self: Pin<&mut Self>, _cx: &mut Context<'_>, data: &[u8]) -> Poll<std::io::Result<usize>> {
        let data = &data[..data.len().min(CHUNK)];
        self.output.write(data);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[async_trait::async_trait]
impl Pollable for OutputPipe {
    async fn ready(&mut self) {}
}

#[async_trait::async_trait]
impl OutputStream for OutputPipe {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        for chunk in bytes.chunks(CHUNK) {
            self.output.write(chunk);
        }
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(CHUNK)
    }
}
