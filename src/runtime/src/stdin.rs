//! What a guest reads as its stdin: nothing, or a pipe that somebody of the node writes into.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, ReadBuf};
use wasmtime_wasi::cli::{IsTerminal, StdinStream};
use wasmtime_wasi_io::poll::Pollable;
use wasmtime_wasi_io::streams::{InputStream, StreamError, StreamResult};

use crate::executor::gives_way;
use crate::limits::{CHUNK, STDIN_BYTES};
use crate::pipe::Pipe;

/// What a container gets as stdin.
#[derive(Debug, Default)]
pub enum Stdin {
    /// It is at its end from the start.
    #[default]
    Closed,
    /// What is written into the pipe.
    Pipe(StdinReader),
}

impl Stdin {
    fn into_reader(self) -> Option<Arc<Read>> {
        match self {
            Stdin::Closed => None,
            Stdin::Pipe(reader) => Some(reader.0),
        }
    }
}

/// A new pipe. It holds at most [`STDIN_BYTES`]; writers wait while it is full.
#[must_use]
pub fn stdin_pipe() -> (StdinWriter, StdinReader) {
    let pipe = Arc::new(Pipe::new(STDIN_BYTES));
    (StdinWriter(Arc::new(Open(Arc::clone(&pipe)))), StdinReader(Arc::new(Read(pipe))))
}

/// Writes into a container's stdin. Clones write into the same pipe; when the last is gone, the guest sees the
/// end.
#[derive(Clone, Debug)]
pub struct StdinWriter(Arc<Open>);

/// The guest's end of the pipe.
#[derive(Debug)]
pub struct StdinReader(Arc<Read>);

/// All writers together.
#[derive(Debug)]
struct Open(Arc<Pipe>);

/// The reader, for as long as the guest has it.
#[derive(Debug)]
struct Read(Arc<Pipe>);

impl StdinWriter {
    /// Writes all of `data`, waiting while the pipe is full.
    ///
    /// # Errors
    /// `BrokenPipe` if the guest has ended, or the pipe was closed.
    pub async fn write(&self, mut data: Bytes) -> io::Result<()> {
        while !data.is_empty() {
            poll_fn(|cx| self.0.0.poll_write(cx, &mut data)).await?;
        }
        Ok(())
    }

    /// Whether the guest still has its end.
    pub(crate) fn is_read(&self) -> bool {
        !self.0.0.is_abandoned()
    }

    /// Ends the stream for the guest, whatever other writers there are: it reads what is in the pipe, then the
    /// end.
    pub fn close(&self) {
        self.0.0.end();
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Drop for Read {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

impl StdinReader {
    /// The door through which [`crate::Container::stop`] ends the stream. It does not keep the reader alive.
    pub(crate) fn closer(&self) -> StdinCloser {
        StdinCloser(Arc::clone(&self.0.0))
    }
}

/// Ends a guest's stdin.
pub(crate) struct StdinCloser(Arc<Pipe>);

impl StdinCloser {
    /// Ends the stream; false if it has ended before.
    pub(crate) fn close(&self) -> bool {
        self.0.end()
    }
}

/// [`Stdin`] as wasmtime-wasi wants it.
pub(crate) struct GuestStdin {
    reader: Option<Arc<Read>>,
    terminal: bool,
}

impl GuestStdin {
    pub(crate) fn new(stdin: Stdin, terminal: bool) -> GuestStdin {
        GuestStdin { reader: stdin.into_reader(), terminal }
    }
}

impl IsTerminal for GuestStdin {
    fn is_terminal(&self) -> bool {
        self.terminal
    }
}

impl StdinStream for GuestStdin {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(Input(self.reader.clone()))
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(Input(self.reader.clone()))
    }
}

/// A guest's stdin for as long as the guest has it.
#[derive(Clone, Default)]
pub(crate) struct WeakInput(Weak<Read>);

impl WeakInput {
    pub(crate) fn of(stdin: &Stdin) -> WeakInput {
        match stdin {
            Stdin::Closed => WeakInput::default(),
            Stdin::Pipe(reader) => WeakInput(Arc::downgrade(&reader.0)),
        }
    }

    /// One more handle; at its end if the guest has closed it.
    pub(crate) fn input(&self) -> Input {
        Input(self.0.upgrade())
    }
}

/// One of the guest's handles; all read on from where the others stopped.
pub(crate) struct Input(Option<Arc<Read>>);

impl Input {
    pub(crate) fn new(stdin: Stdin) -> Input {
        Input(stdin.into_reader())
    }

    /// Reads what is there: `None` if nothing is there yet, 0 at the end.
    pub(crate) fn read_into(&self, buffer: &mut [u8]) -> Option<usize> {
        let Some(read) = &self.0 else { return Some(0) };
        let bytes = read.0.read(buffer.len())?;
        buffer[..bytes.len()].copy_from_slice(&bytes);
        Some(bytes.len())
    }

    /// Ready when [`Input::read_into`] would give something.
    pub(crate) fn poll_readable(&self, cx: &Context<'_>) -> Poll<()> {
        match &self.0 {
            Some(read) => read.0.poll_readable(cx),
            None => Poll::Ready(()),
        }
    }
}

#[async_trait::async_trait]
impl Pollable for Input {
    async fn ready(&mut self) {
        if let Some(read) = &self.0 {
            poll_fn(|cx| read.0.poll_readable(cx)).await;
        }
    }
}

#[async_trait::async_trait]
impl InputStream for Input {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        let Some(read) = &self.0 else { return Err(StreamError::Closed) };
        if size == 0 {
            return Ok(Bytes::new());
        }
        match read.0.read(size.min(CHUNK)) {
            None => Ok(Bytes::new()),
            Some(bytes) if bytes.is_empty() => Err(StreamError::Closed),
            Some(bytes) => Ok(bytes),
        }
    }
}

impl AsyncRead for Input {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(read) = &self.0 else { return Poll::Ready(Ok(())) };
        if gives_way(cx) {
            return Poll::Pending;
        }
        loop {
            if let Some(bytes) = read.0.read(buffer.remaining()) {
                buffer.put_slice(&bytes);
                return Poll::Ready(Ok(()));
            }
            std::task::ready!(read.0.poll_readable(cx));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    fn reader(reader: StdinReader) -> Input {
        Input(Some(reader.0))
    }

    #[tokio::test]
    async fn what_is_written_is_read_in_order_and_then_the_end() {
        let (writer, read) = stdin_pipe();
        let mut handle = reader(read);
        let text: Vec<u8> = (0..300_000_u32).map(|at| (at % 251) as u8).collect();
        let (sent, received) = tokio::join!(
            async {
                for part in text.chunks(7_001) {
                    writer.write(Bytes::copy_from_slice(part)).await.unwrap();
                }
                writer.close();
                writer.write(Bytes::from_static(b"x")).await.unwrap_err().kind()
            },
            async {
                let mut received = Vec::new();
                handle.read_to_end(&mut received).await.unwrap();
                received
            }
        );
        assert_eq!(sent, io::ErrorKind::BrokenPipe);
        assert!(received == text);
    }

    #[tokio::test]
    async fn a_full_pipe_makes_its_writer_wait_and_fails_it_when_the_guest_is_gone() {
        let (writer, read) = stdin_pipe();
        let handle = reader(read);
        writer.write(Bytes::from(vec![0; STDIN_BYTES])).await.unwrap();
        let mut more = Box::pin(writer.write(Bytes::from_static(b"more")));
        assert!(futures::poll!(&mut more).is_pending());
        assert_eq!(handle.0.as_ref().unwrap().0.read(1).unwrap().len(), 1);
        assert!(futures::poll!(&mut more).is_pending(), "one byte fits, four do not");
        drop(handle);
        assert_eq!(more.await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn the_end_comes_with_the_last_writer_or_with_whoever_closes() {
        let (writer, read) = stdin_pipe();
        let (closer, mut handle) = (read.closer(), reader(read));
        let second = writer.clone();
        drop(writer);
        assert!(InputStream::read(&mut handle, 9).unwrap().is_empty(), "one is left");
        drop(second);
        assert!(matches!(InputStream::read(&mut handle, 9), Err(StreamError::Closed)));
        assert!(!closer.close(), "it had ended");
        let (_writer, read) = stdin_pipe();
        assert!(read.closer().close());
    }
}
