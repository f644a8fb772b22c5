//! The server's side of a connection.

use std::{
    collections::HashMap,
    future::poll_fn,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use coracle_runtime::{Output, OutputReader, PipedOutput, output_pipe};
use futures::{Sink, SinkExt, Stream as Bytestream, StreamExt};
use parking_lot::Mutex;
use tokio::{sync::mpsc, time::timeout};

use super::{
    super::PING_AFTER,
    SpdyError,
    frame::{Decoder, Encoder, Frame},
    headers::Headers,
};

/// Streams that are open at one time: two for each forwarded connection.
const STREAMS: usize = 1024;
/// New streams that nobody has looked at.
const INCOMING: usize = 16;
/// Frames that wait to be sent.
const QUEUE: usize = 32;
/// Longest data frame that is sent.
const FRAME_BYTES: usize = 32 << 10;
/// How much is read of a stream before the client is told so: half of the window that streams begin with.
const CREDIT: usize = 32 << 10;

/// After this ping their numbers begin anew.
const LAST_PING: u32 = 1 << 30;

const PROTOCOL_ERROR: u32 = 1;
const INVALID_STREAM: u32 = 2;
const REFUSED_STREAM: u32 = 3;
const CANCEL: u32 = 5;

/// What a client opens.
pub(in crate::streams) struct Stream {
    pub(in crate::streams) id: u32,
    headers: Headers,
    pub(in crate::streams) inbound: Inbound,
    pub(in crate::streams) outbound: Outbound,
}

/// What the client sends on a stream.
pub(in crate::streams) struct Inbound {
    reader: OutputReader,
    state: Arc<State>,
}

/// What is sent to the client on a stream.
pub(in crate::streams) struct Outbound {
    state: Arc<State>,
    shared: Arc<Shared>,
    finished: bool,
}

/// The streams that the client opens, and the way to end the connection.
pub(in crate::streams) struct Incoming {
    streams: mpsc::Receiver<Stream>,
    shared: Arc<Shared>,
}

struct State {
    id: u32,
    /// One side has ended the stream altogether.
    reset: AtomicBool,
}

struct Entry {
    state: Arc<State>,
    /// `None` once the client has finished.
    inbox: Option<Arc<PipedOutput>>,
    credit: usize,
    /// We have finished.
    finished: bool,
}

struct Shared {
    queue: mpsc::Sender<Frame>,
    streams: Mutex<HashMap<u32, Entry>>,
}

/// A connection over this transport. The future carries it; it ends with the connection, from either side.
pub(in crate::streams) fn connect(
    input: impl Bytestream<Item = io::Result<Bytes>> + Send + 'static,
    output: impl Sink<Bytes, Error = io::Error> + Send + 'static,
) -> (Incoming, impl Future<Output = ()> + Send + 'static) {
    let (queue, frames) = mpsc::channel(QUEUE);
    let (opened, streams) = mpsc::channel(INCOMING);
    let shared = Arc::new(Shared { queue, streams: Mutex::default() });
    let incoming = Incoming { streams, shared: shared.clone() };
    let drive = async move {
        tokio::select! {
            result = read(Box::pin(input), &shared, opened) => {
                if let Err(error) = result {
                    tracing::debug!(%error, "a SPDY connection ended");
                }
            }
            _ = write(Box::pin(output), frames) => {}
        }
        // Whoever reads a stream sees its end, whoever writes fails.
        for (_, entry) in shared.streams.lock().drain() {
            entry.state.reset.store(true, Ordering::Release);
        }
    };
    (incoming, drive)
}

async fn write(
    mut output: Pin<Box<impl Sink<Bytes, Error = io::Error> + Send>>,
    mut frames: mpsc::Receiver<Frame>,
) -> io::Result<()> {
    let mut encoder = Encoder::new();
    // Even, as all that a server begins.
    let pings = (2..=LAST_PING).step_by(2).cycle();
    let mut pings = pings.map(Frame::Ping);
    loop {
        let frame = match timeout(PING_AFTER, frames.recv()).await {
            Ok(frame) => frame,
            Err(_) => pings.next(),
        };
        let Some(frame) = frame else { break };
        output.feed(encoder.encode(&frame)).await?;
        if frames.is_empty() {
            output.flush().await?;
        }
        if matches!(frame, Frame::GoAway { .. }) {
            break;
        }
    }
    output.close().await
}

async fn read(
    mut input: Pin<Box<impl Bytestream<Item = io::Result<Bytes>> + Send>>,
    shared: &Arc<Shared>,
    opened: mpsc::Sender<Stream>,
) -> io::Result<()> {
    let invalid = |error: SpdyError| io::Error::new(io::ErrorKind::InvalidData, error);
    let mut decoder = Decoder::new();
    let mut last = 0;
    while let Some(bytes) = input.next().await {
        decoder.push(&bytes?);
        while let Some(frame) = decoder.next().map_err(invalid)? {
            match frame {
                Frame::SynStream { stream, headers, fin } => {
                    let refusal = if stream % 2 == 0 || stream <= last {
                        Some(PROTOCOL_ERROR)
                    } else if shared.streams.lock().len() >= STREAMS {
                        Some(REFUSED_STREAM)
                    } else {
                        None
                    };
                    last = last.max(stream);
                    if let Some(status) = refusal {
                        shared.send(Frame::RstStream { stream, status }).await;
                        continue;
                    }
                    let stream = shared.open(stream, headers, fin);
                    if let Err(mpsc::error::SendError(stream)) = opened.send(stream).await {
                        stream.refuse().await;
                    }
                }
                Frame::Data { stream, data, fin } => shared.take_in(stream, &data, fin).await,
                Frame::RstStream { stream, .. } => {
                    if let Some(entry) = shared.streams.lock().remove(&stream) {
                        entry.state.reset.store(true, Ordering::Release);
                    }
                }
                Frame::Headers { stream, fin: true, .. } => shared.take_in(stream, &[], true).await,
                // An odd one is the client's and wants an answer; ours would be even.
                Frame::Ping(id) if id % 2 == 1 => shared.send(Frame::Ping(id)).await,
                Frame::GoAway { .. } => return Ok(()),
                Frame::Ping(_)
                | Frame::Headers { .. }
                | Frame::SynReply { .. }
                | Frame::Settings(_)
                | Frame::WindowUpdate { .. } => {}
            }
        }
    }
    Ok(())
}

impl Shared {
    /// Puts a frame into the queue; it is lost if the connection has ended.
    async fn send(&self, frame: Frame) {
        let _ = self.queue.send(frame).await;
    }

    fn open(self: &Arc<Shared>, id: u32, headers: Headers, fin: bool) -> Stream {
        let (inbox, reader) = output_pipe();
        let state = Arc::new(State { id, reset: AtomicBool::new(false) });
        let inbox = (!fin).then_some(inbox);
        let entry = Entry { state: state.clone(), inbox, credit: 0, finished: false };
        self.streams.lock().insert(id, entry);
        Stream {
            id,
            headers,
            inbound: Inbound { reader, state: state.clone() },
            outbound: Outbound { state, shared: self.clone(), finished: false },
        }
    }

    /// Gives data to its stream, waiting for room.
    async fn take_in(&self, id: u32, data: &[u8], fin: bool) {
        let inbox = self.streams.lock().get(&id).map(|entry| entry.inbox.clone());
        let Some(inbox) = inbox else {
            // Of a stream that was reset: the client may not know yet.
            if fin {
                return;
            }
            return self.send(Frame::RstStream { stream: id, status: INVALID_STREAM }).await;
        };
        if let (Some(inbox), false) = (&inbox, data.is_empty()) {
            poll_fn(|cx| inbox.poll_room(cx)).await;
            inbox.write(data);
        }
        let mut credit = 0;
        if let Some(entry) = self.streams.lock().get_mut(&id) {
            entry.credit += data.len();
            if entry.credit >= CREDIT {
                credit = std::mem::take(&mut entry.credit);
            }
            if fin {
                entry.inbox = None;
            }
        }
        if fin {
            self.forget_finished(id);
        } else if credit > 0 {
            self.send(Frame::WindowUpdate { stream: id, delta: credit as u32 }).await;
        }
    }

    /// Forgets a stream that both sides have finished.
    fn forget_finished(&self, id: u32) {
        let mut streams = self.streams.lock();
        if streams.get(&id).is_some_and(|entry| entry.finished && entry.inbox.is_none()) {
            streams.remove(&id);
        }
    }
}

impl Stream {
    /// A header that the client opened the stream with; the name is in lower case.
    pub(in crate::streams) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Tells the client that the stream is wanted. It must be, before anything is sent on it.
    pub(in crate::streams) async fn accept(&self) {
        let (shared, stream) = (&self.outbound.shared, self.id);
        shared.send(Frame::SynReply { stream, headers: Headers::new(), fin: false }).await;
    }

    /// Tells the client that the stream is not wanted.
    pub(in crate::streams) async fn refuse(mut self) {
        self.outbound.reset_with(REFUSED_STREAM).await;
    }
}

impl Inbound {
    /// The next piece, never empty; `None` at the end, however it came.
    pub(in crate::streams) async fn read(&mut self) -> Option<Bytes> {
        self.reader.read().await
    }

    /// The end came because somebody gave the stream up.
    pub(in crate::streams) fn was_reset(&self) -> bool {
        self.state.reset.load(Ordering::Acquire)
    }
}

impl Outbound {
    /// Sends data, waiting while much is under way.
    ///
    /// # Errors
    /// `BrokenPipe` if the client has given the stream or the connection up.
    pub(in crate::streams) async fn write(&self, mut data: Bytes) -> io::Result<()> {
        while !data.is_empty() {
            if self.finished || self.state.reset.load(Ordering::Acquire) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let part = data.split_to(data.len().min(FRAME_BYTES));
            let frame = Frame::Data { stream: self.state.id, data: part, fin: false };
            self.shared.queue.send(frame).await.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        }
        Ok(())
    }

    /// Ends the stream from our side.
    pub(in crate::streams) async fn finish(&mut self) {
        if !std::mem::replace(&mut self.finished, true) && !self.state.reset.load(Ordering::Acquire) {
            self.shared.send(Frame::Data { stream: self.state.id, data: Bytes::new(), fin: true }).await;
        }
        self.mark_finished();
    }

    async fn reset_with(&mut self, status: u32) {
        self.finished = true;
        if !self.state.reset.swap(true, Ordering::AcqRel) {
            self.shared.send(Frame::RstStream { stream: self.state.id, status }).await;
        }
        self.shared.streams.lock().remove(&self.state.id);
    }

    fn mark_finished(&self) {
        if let Some(entry) = self.shared.streams.lock().get_mut(&self.state.id) {
            entry.finished = true;
        }
        self.shared.forget_finished(self.state.id);
    }
}

impl Drop for Outbound {
    /// A stream that was not finished is given up.
    fn drop(&mut self) {
        if !self.finished && !self.state.reset.swap(true, Ordering::AcqRel) {
            let _ = self.shared.queue.try_send(Frame::RstStream { stream: self.state.id, status: CANCEL });
            self.shared.streams.lock().remove(&self.state.id);
        }
    }
}

impl Incoming {
    /// The next stream that the client opens; `None` when the connection has ended.
    pub(in crate::streams) async fn next(&mut self) -> Option<Stream> {
        self.streams.recv().await
    }

    /// Ends the connection once all that was written before is sent.
    pub(in crate::streams) async fn close(self) {
        self.shared.send(Frame::GoAway { last: 0, status: 0 }).await;
    }
}

#[cfg(test)]
mod tests {
    use futures::channel::mpsc as pipe;
    use tokio::task::JoinHandle;

    use super::*;

    /// The client's side.
    struct Client {
        to_server: pipe::Sender<io::Result<Bytes>>,
        from_server: pipe::Receiver<Bytes>,
        encoder: Encoder,
        decoder: Decoder,
        server: JoinHandle<()>,
    }

    fn start() -> (Client, Incoming) {
        let (to_server, input) = pipe::channel(4);
        let (output, from_server) = pipe::channel(4);
        let output = output.sink_map_err(io::Error::other);
        let (incoming, drive) = connect(input, output);
        let server = tokio::spawn(drive);
        let (encoder, decoder) = (Encoder::new(), Decoder::new());
        (Client { to_server, from_server, encoder, decoder, server }, incoming)
    }

    impl Client {
        async fn send(&mut self, frame: Frame) {
            self.to_server.send(Ok(self.encoder.encode(&frame))).await.unwrap();
        }

        async fn open(&mut self, stream: u32, kind: &str) {
            let headers = vec![("streamtype".to_owned(), kind.to_owned())];
            self.send(Frame::SynStream { stream, headers, fin: false }).await;
        }

        async fn data(&mut self, stream: u32, data: &'static str, fin: bool) {
            self.send(Frame::Data { stream, data: Bytes::from_static(data.as_bytes()), fin }).await;
        }

        async fn receive(&mut self) -> Option<Frame> {
            loop {
                if let Some(frame) = self.decoder.next().unwrap() {
                    return Some(frame);
                }
                self.decoder.push(&self.from_server.next().await?);
            }
        }
    }

    fn reply(stream: u32) -> Frame {
        Frame::SynReply { stream, headers: Headers::new(), fin: false }
    }

    #[tokio::test]
    async fn a_stream_goes_both_ways_and_half_closes() {
        let (mut client, mut incoming) = start();
        client.open(1, "data").await;
        client.data(1, "ping", false).await;
        client.data(1, "!", true).await;
        let mut stream = incoming.next().await.unwrap();
        assert_eq!((stream.id, stream.header("streamtype")), (1, Some("data")));
        stream.accept().await;
        assert_eq!(client.receive().await, Some(reply(1)));
        let mut read = Vec::new();
        while let Some(data) = stream.inbound.read().await {
            read.extend_from_slice(&data);
        }
        assert_eq!((&read[..], stream.inbound.was_reset()), (&b"ping!"[..], false));
        stream.outbound.write(Bytes::from_static(b"pong")).await.unwrap();
        stream.outbound.finish().await;
        assert_eq!(
            client.receive().await,
            Some(Frame::Data { stream: 1, data: Bytes::from_static(b"pong"), fin: false })
        );
        assert_eq!(client.receive().await, Some(Frame::Data { stream: 1, data: Bytes::new(), fin: true }));
        assert!(stream.outbound.shared.streams.lock().is_empty(), "both have finished");
        incoming.close().await;
        assert_eq!(client.receive().await, Some(Frame::GoAway { last: 0, status: 0 }));
        assert_eq!(client.receive().await, None);
        client.server.await.unwrap();
    }

    #[tokio::test]
    async fn pings_are_answered_and_misuse_is_refused() {
        let (mut client, mut incoming) = start();
        client.send(Frame::Ping(7)).await;
        assert_eq!(client.receive().await, Some(Frame::Ping(7)));
        for (stream, status) in [(2, PROTOCOL_ERROR), (1, PROTOCOL_ERROR)] {
            client.open(stream, "data").await;
            assert_eq!(client.receive().await, Some(Frame::RstStream { stream, status }));
        }
        client.open(5, "odd").await;
        incoming.next().await.unwrap().refuse().await;
        assert_eq!(client.receive().await, Some(Frame::RstStream { stream: 5, status: REFUSED_STREAM }));
        client.data(5, "late", false).await;
        assert_eq!(client.receive().await, Some(Frame::RstStream { stream: 5, status: INVALID_STREAM }));
    }

    #[tokio::test]
    async fn streams_end_with_their_connection() {
        let (mut client, mut incoming) = start();
        client.open(1, "data").await;
        client.open(3, "data").await;
        let (mut first, second) = (incoming.next().await.unwrap(), incoming.next().await.unwrap());
        client.send(Frame::RstStream { stream: 3, status: CANCEL }).await;
        client.data(1, "x", false).await;
        assert!(first.inbound.read().await.is_some());
        assert!(second.outbound.write(Bytes::from_static(b"x")).await.is_err(), "was reset");
        client.to_server.close_channel();
        assert!(first.inbound.read().await.is_none());
        assert!(first.inbound.was_reset());
        assert!(incoming.next().await.is_none());
        client.server.await.unwrap();
        assert!(first.outbound.write(Bytes::from_static(b"x")).await.is_err());
    }

    #[tokio::test]
    async fn what_nobody_reads_stops_the_client_and_what_is_read_is_told() {
        let (mut client, mut incoming) = start();
        client.open(1, "data").await;
        let mut stream = incoming.next().await.unwrap();
        let data = Bytes::from(vec![1; 60_000]);
        let mut sent = 0;
        let send = async {
            loop {
                client.send(Frame::Data { stream: 1, data: data.clone(), fin: false }).await;
                sent += data.len();
            }
        };
        tokio::select! {
            biased;
            () = send => {}
            () = async { for _ in 0..1000 { tokio::task::yield_now().await } } => {}
        }
        assert!(sent < 1 << 20, "{sent}");
        assert!(matches!(client.receive().await, Some(Frame::WindowUpdate { stream: 1, delta: 60_000 })));
        let mut read = 0;
        while read < sent {
            read += stream.inbound.read().await.unwrap().len();
        }
    }
}
