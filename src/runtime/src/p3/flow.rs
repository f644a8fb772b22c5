//! Streams of the component model: what a guest reads from and writes into.
//!
//! A stream ends once, and beside it stands a future that says how: with success, or with an error. Whoever
//! produces or consumes holds the [`Ending`] of it; that a guest gives its end up is no error.
//!
//! A stream that one host function gave and another was given flows without the guest, which could be interrupted:
//! what could go on for ever asks before each step whether others want their turn.

use std::pin::Pin;
use std::task::{Context, Poll};

use coracle_network::limits::WRITE_MAX;
use coracle_vfs::{File, VfsError};
use tokio::sync::oneshot;
use wasmtime::component::{
    Destination, FutureReader, Source, StreamConsumer, StreamProducer, StreamResult, VecBuffer,
};
use wasmtime::{AsContextMut, StoreContextMut};
use wasmtime_wasi::p3::bindings::filesystem::types::{DirectoryEntry, ErrorCode as FileError};
use wasmtime_wasi::p3::bindings::sockets::types::ErrorCode as SocketError;

use super::errors::{file_error, stream_error};
use super::files::type_of;
use crate::executor::gives_way;
use crate::files::{Listing, Open, Sync, on_disk};
use crate::limits::CHUNK;
use crate::sockets::Connection;
use crate::stdio::Own;

/// Names handed over in one step of a listing.
const ENTRIES_PER_STEP: usize = 128;

type Step = Poll<wasmtime::Result<StreamResult>>;

const GOES_ON: Step = Poll::Ready(Ok(StreamResult::Completed));
const IS_OVER: Step = Poll::Ready(Ok(StreamResult::Dropped));

/// What a step that has to wait answers: `finish` asks not to.
fn wait(finish: bool) -> Step {
    if finish { Poll::Ready(Ok(StreamResult::Cancelled)) } else { Poll::Pending }
}

/// Where a guest learns how a stream ended.
pub(super) type Ended<E> = FutureReader<Result<(), E>>;

/// How a stream ends; success if nobody says otherwise.
pub(super) struct Ending<E>(Option<oneshot::Sender<E>>);

impl<E> Ending<E> {
    /// The ending, and where the guest learns of it.
    pub(super) fn new<S: AsContextMut>(store: S) -> wasmtime::Result<(Ending<E>, Ended<E>)>
    where
        E: Send + std::marker::Sync + 'static,
        Result<(), E>: wasmtime::component::Lower + wasmtime::component::Lift,
    {
        let (sender, receiver) = oneshot::channel();
        let future = async move {
            Ok::<_, wasmtime::Error>(match receiver.await {
                Ok(error) => Err(error),
                Err(_) => Ok(()),
            })
        };
        Ok((Ending(Some(sender)), FutureReader::new(store, future)?))
    }

    pub(super) fn fail(&mut self, error: E) {
        if let Some(sender) = self.0.take() {
            let _ = sender.send(error); // the guest does not want to know
        }
    }
}

/// A file, read on from a position.
pub(super) struct FileProducer {
    pub(super) file: File,
    /// Instead of the file.
    pub(super) own: Option<Own>,
    pub(super) position: u64,
    pub(super) ending: Ending<FileError>,
    /// A stream may outlive the descriptor that it came from.
    pub(super) _open: Open,
}

impl<D: 'static> StreamProducer<D> for FileProducer {
    type Item = u8;
    type Buffer = VecBuffer<u8>;

    fn poll_produce<'a>(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        store: StoreContextMut<'a, D>,
        destination: Destination<'a, u8, VecBuffer<u8>>,
        finish: bool,
    ) -> Step {
        let this = self.get_mut();
        if gives_way(cx) {
            return wait(finish);
        }
        let mut destination = destination.as_direct(store, CHUNK);
        let room = destination.remaining();
        if room.is_empty() {
            return GOES_ON;
        }
        let length = room.len().min(CHUNK);
        let read = match &this.own {
            Some(Own::Input(input)) => match input.read_into(&mut room[..length]) {
                Some(count) => Ok(count),
                None => {
                    if input.poll_readable(cx).is_ready() {
                        cx.waker().wake_by_ref();
                    }
                    return wait(finish);
                }
            },
            _ => on_disk(this.file.blocking(), || this.file.read_at(this.position, &mut room[..length])),
        };
        match read {
            Ok(0) => IS_OVER,
            Ok(count) => {
                this.position += count as u64;
                destination.mark_written(count);
                GOES_ON
            }
            Err(error) => {
                this.ending.fail(file_error(error));
                IS_OVER
            }
        }
    }
}

/// A file, written on from a position, or at its end.
pub(super) struct FileConsumer {
    pub(super) file: File,
    /// Instead of the file.
    pub(super) own: Option<Own>,
    /// `None` to append.
    pub(super) position: Option<u64>,
    /// Whether each step is made durable, and how.
    pub(super) sync: Option<Sync>,
    pub(super) ending: Ending<FileError>,
    pub(super) _open: Open,
}

impl FileConsumer {
    fn write(&mut self, data: &[u8]) -> Result<usize, VfsError> {
        let count = match self.position {
            Some(position) => {
                let count = self.file.write_at(position, data)?;
                self.position = Some(position + count as u64);
                count
            }
            None => self.file.append(data)?,
        };
        if let Some(sync) = self.sync {
            self.file.sync(sync.data_only)?;
        }
        Ok(count)
    }
}

impl<D: 'static> StreamConsumer<D> for FileConsumer {
    type Item = u8;

    fn poll_consume(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        store: StoreContextMut<D>,
        source: Source<'_, u8>,
        finish: bool,
    ) -> Step {
        let this = self.get_mut();
        if gives_way(cx) {
            return wait(finish);
        }
        let mut source = source.as_direct(store);
        let data = source.remaining();
        if data.is_empty() {
            return GOES_ON;
        }
        let length = data.len().min(CHUNK);
        let written = match &this.own {
            Some(Own::Output(output)) => {
                let data = &data[..length.min(output.room())];
                if data.is_empty() {
                    if output.poll_room(cx).is_ready() {
                        cx.waker().wake_by_ref();
                    }
                    return wait(finish);
                }
                output.write(data);
                Ok(data.len())
            }
            _ => on_disk(this.file.blocking(), || this.write(&data[..length])),
        };
        match written {
            Ok(count) if count > 0 => {
                source.mark_read(count);
                GOES_ON
            }
            Ok(_) => {
                this.ending.fail(FileError::Io);
                IS_OVER
            }
            Err(error) => {
                this.ending.fail(file_error(error));
                IS_OVER
            }
        }
    }
}

/// A directory's entries.
pub(super) struct EntryProducer {
    pub(super) listing: Listing,
    pub(super) ending: Ending<FileError>,
}

impl EntryProducer {
    fn next(&mut self, max: usize) -> (Vec<DirectoryEntry>, Result<bool, VfsError>) {
        let mut found = Vec::new();
        while found.len() < max {
            match self.listing.entries.next_entry() {
                Ok(Some(entry)) => {
                    found.push(DirectoryEntry { type_: type_of(entry.kind), name: entry.name });
                }
                Ok(None) => return (found, Ok(false)),
                Err(error) => return (found, Err(error)),
            }
        }
        (found, Ok(true))
    }
}

impl<D: 'static> StreamProducer<D> for EntryProducer {
    type Item = DirectoryEntry;
    type Buffer = VecBuffer<DirectoryEntry>;

    fn poll_produce<'a>(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        mut store: StoreContextMut<'a, D>,
        mut destination: Destination<'a, DirectoryEntry, VecBuffer<DirectoryEntry>>,
        _finish: bool,
    ) -> Step {
        let this = self.get_mut();
        let room = destination.remaining(&mut store).unwrap_or(ENTRIES_PER_STEP).min(ENTRIES_PER_STEP);
        if room == 0 {
            return GOES_ON;
        }
        let (found, more) = on_disk(this.listing.blocking, || this.next(room));
        destination.set_buffer(found.into());
        match more {
            Ok(true) => GOES_ON,
            Ok(false) => IS_OVER,
            Err(error) => {
                this.ending.fail(file_error(error));
                IS_OVER
            }
        }
    }
}

/// What comes from the other side of a connection.
pub(super) struct Receiver {
    pub(super) connection: Connection,
    pub(super) ending: Ending<SocketError>,
}

impl<D: 'static> StreamProducer<D> for Receiver {
    type Item = u8;
    type Buffer = VecBuffer<u8>;

    fn poll_produce<'a>(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut store: StoreContextMut<'a, D>,
        destination: Destination<'a, u8, VecBuffer<u8>>,
        finish: bool,
    ) -> Step {
        let this = self.get_mut();
        if gives_way(cx) {
            return wait(finish);
        }
        let stream = this.connection.stream();
        let ask = destination.remaining(&mut store) == Some(0);
        if stream.poll_readable(cx).is_pending() {
            return wait(finish);
        }
        if ask {
            return GOES_ON;
        }
        let mut destination = destination.as_direct(store, CHUNK);
        let room = destination.remaining();
        let length = room.len().min(CHUNK);
        match stream.try_read(&mut room[..length]) {
            Ok(0) => IS_OVER,
            Ok(count) => {
                this.connection.received(count);
                destination.mark_written(count);
                GOES_ON
            }
            // Another stream of this connection was faster; it is told again when there is more.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                cx.waker().wake_by_ref();
                wait(finish)
            }
            Err(error) => {
                this.ending.fail(stream_error(error));
                IS_OVER
            }
        }
    }
}

impl Drop for Receiver {
    /// A guest that reads no more says so to the other side.
    fn drop(&mut self) {
        self.connection.stream().shutdown(std::net::Shutdown::Read);
    }
}

/// What goes to the other side of a connection.
pub(super) struct Sender {
    pub(super) connection: Connection,
    pub(super) ending: Ending<SocketError>,
}

impl<D: 'static> StreamConsumer<D> for Sender {
    type Item = u8;

    fn poll_consume(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        store: StoreContextMut<D>,
        source: Source<'_, u8>,
        finish: bool,
    ) -> Step {
        let this = self.get_mut();
        if gives_way(cx) {
            return wait(finish);
        }
        let stream = this.connection.stream();
        let mut source = source.as_direct(store);
        let data = source.remaining();
        loop {
            let written = match data {
                [] => stream.write_capacity(),
                data => stream.try_write(&data[..data.len().min(WRITE_MAX)]),
            };
            match written {
                Ok(count) if data.is_empty() && count > 0 => return GOES_ON,
                Ok(count) if count > 0 => {
                    this.connection.sent(count);
                    source.mark_read(count);
                    return GOES_ON;
                }
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    this.ending.fail(stream_error(error));
                    return IS_OVER;
                }
            }
            if stream.poll_writable(cx).is_pending() {
                return wait(finish);
            }
        }
    }
}

impl Drop for Sender {
    /// The end of the stream is the end of what the other side reads.
    fn drop(&mut self) {
        self.connection.stream().shutdown(std::net::Shutdown::Write);
    }
}
