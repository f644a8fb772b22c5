//! Where a guest's stdout and stderr go.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi_io::poll::Pollable;
use wasmtime_wasi_io::streams::{OutputStream, StreamError, StreamResult};

use crate::executor::gives_way;
use crate::limits::{CHUNK, OUTPUT_BYTES};
use crate::pipe::Pipe;

/// Takes what a guest prints. Called on the guest's thread, so it must neither wait nor fail; lines and log
/// limits are its own business.
pub trait Output: Send + Sync {
    /// Takes a piece of at most [`crate::limits::CHUNK`] bytes, not necessarily a line.
    fn write(&self, bytes: &[u8]);

    /// How many bytes it wants now. A guest that prints more waits.
    fn room(&self) -> usize {
        CHUNK
    }

    /// Ready when there is room.
    fn poll_room(&self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

/// An output that somebody reads: it holds at most [`OUTPUT_BYTES`], the guest waits for its reader.
#[must_use]
pub fn output_pipe() -> (Arc<PipedOutput>, OutputReader) {
    let pipe = Arc::new(Pipe::new(OUTPUT_BYTES));
    (Arc::new(PipedOutput(Arc::clone(&pipe))), OutputReader(pipe))
}

/// The writing end of [`output_pipe`]. The reader comes to the end when it is dropped.
#[derive(Debug)]
pub struct PipedOutput(Arc<Pipe>);

/// The reading end of [`output_pipe`]. Once it is dropped, what is written is thrown away.
#[derive(Debug)]
pub struct OutputReader(Arc<Pipe>);

impl PipedOutput {
    /// Whether somebody may still read.
    #[must_use]
    pub fn is_read(&self) -> bool {
        !self.0.is_abandoned()
    }
}

impl Drop for PipedOutput {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Output for PipedOutput {
    fn write(&self, bytes: &[u8]) {
        self.0.push(bytes);
    }

    fn room(&self) -> usize {
        self.0.room()
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_room(cx)
    }
}

impl OutputReader {
    /// The next piece, never empty; `None` at the end.
    pub async fn read(&mut self) -> Option<Bytes> {
        loop {
            if let Some(bytes) = self.0.read(CHUNK) {
                return (!bytes.is_empty()).then_some(bytes);
            }
            poll_fn(|cx| self.0.poll_readable(cx)).await;
        }
    }
}

impl Drop for OutputReader {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// An [`Output`] as wasmtime-wasi wants it.
#[derive(Clone)]
pub(crate) struct GuestOutput {
    output: Arc<dyn Output>,
    terminal: bool,
    /// What the last `check-write` of this handle allowed and `write` has not used.
    permit: usize,
}

impl GuestOutput {
    pub(crate) fn new(output: Arc<dyn Output>, terminal: bool) -> GuestOutput {
        GuestOutput { output, terminal, permit: 0 }
    }
}

impl IsTerminal for GuestOutput {
    fn is_terminal(&self) -> bool {
        self.terminal
    }
}

impl StdoutStream for GuestOutput {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for GuestOutput {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<std::io::Result<usize>> {
        if gives_way(cx) {
            return Poll::Pending;
        }
        let wanted = data.len().min(CHUNK);
        loop {
            let data = &data[..wanted.min(self.output.room())];
            if !data.is_empty() || wanted == 0 {
                self.output.write(data);
                return Poll::Ready(Ok(data.len()));
            }
            ready!(self.output.poll_room(cx));
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[async_trait::async_trait]
impl Pollable for GuestOutput {
    async fn ready(&mut self) {
        poll_fn(|cx| self.output.poll_room(cx)).await;
    }
}

#[async_trait::async_trait]
impl OutputStream for GuestOutput {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if bytes.len() > self.permit {
            let text = format!("write of {} bytes where {} were permitted", bytes.len(), self.permit);
            return Err(StreamError::trap(&text));
        }
        self.permit -= bytes.len();
        self.output.write(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.permit = self.output.room().min(CHUNK);
        Ok(self.permit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_guest_waits_for_its_reader_and_no_longer_than_there_is_one() {
        let (output, mut reader) = output_pipe();
        let mut guest = GuestOutput::new(output, false);
        let mut written = 0;
        loop {
            let permit = guest.check_write().unwrap();
            if permit == 0 {
                break;
            }
            guest.write(vec![7; permit].into()).unwrap();
            written += permit;
        }
        assert_eq!(written, OUTPUT_BYTES);
        assert!(guest.write(Bytes::from_static(b"x")).is_err(), "not permitted");
        assert!(futures::poll!(Box::pin(guest.ready())).is_pending());
        assert!(reader.read().await.is_some());
        guest.ready().await;
        while written < 10 * OUTPUT_BYTES {
            let permit = guest.check_write().unwrap();
            guest.write(vec![7; permit].into()).unwrap();
            written += permit;
            if permit == 0 {
                drop(std::mem::replace(&mut reader, output_pipe().1));
            }
        }
    }

    #[tokio::test]
    async fn the_reader_gets_everything_and_then_the_end() {
        let (output, mut reader) = output_pipe();
        output.write(b"one");
        output.write(b" two");
        drop(output);
        assert_eq!(reader.read().await.as_deref(), Some(&b"one two"[..]));
        assert_eq!(reader.read().await, None);
    }
}
