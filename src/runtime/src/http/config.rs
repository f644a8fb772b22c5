//! How a handler is served, and what it can make the host hold.

use std::time::Duration;

/// The port of a handler whose container declares none.
pub(super) const PORT: u16 = 8080;

/// Instances of one container at one time, unless it says otherwise. A small instance holds about two megabytes,
/// so that this many just fit a container of 256 MiB; and a node has some ten thousand places for all.
const CONCURRENCY: usize = 100;

/// The most instances that a container may ask for: a tenth of what a node has room for.
pub const CONCURRENCY_MAX: usize = 1_000;

/// Until when an answer must have begun, unless the container says otherwise; also half of how long a connection
/// with a request in flight may be silent. What Knative gives a request.
const TIMEOUT: Duration = Duration::from_secs(300);

/// Requests that wait for an instance. Each holds its connection and its head, a few kilobytes. More are told to
/// come back later.
pub(super) const LINE: usize = 512;

/// Requests of one handler at one time, all its connections together: those that wait or are answered, of which there
/// are at most [`LINE`] and [`CONCURRENCY_MAX`], and those whose answer has not left because its client does not read,
/// of which there are some hundreds at least. More are told to come back later.
pub(crate) const REQUESTS: usize = 2_048;

/// What the node keeps for a request beside its texts and its body: a task, its place on its connection, a timer.
pub(super) const REQUEST_BYTES: u64 = 4 << 10;

/// Connections to one handler at one time. More are told to come back later. What the node keeps for one that does
/// little is not charged to anybody: about [`READ_FREE`] and [`WRITE_FREE`], and as much again for its task, 32 MiB
/// together.
pub(crate) const CONNECTIONS: usize = 1_024;

/// Bytes that come on a connection between one request and the next before it is charged with [`READ_BYTES`] for the
/// rest of its life: what one buffer holds at its beginning.
pub(super) const READ_FREE: usize = 8 << 10;

/// What a connection that receives much holds: a buffer of [`HEAD_BYTES`], which may have twice the room, and which
/// headers and pieces of bodies are parts of.
pub(crate) const READ_BYTES: u64 = 2 * HEAD_BYTES as u64;

/// Bytes that wait to be sent on a connection before it is charged with the buffer they wait in, which it keeps for
/// the rest of its life: a frame of HTTP/2.
pub(super) const WRITE_FREE: usize = 16 << 10;

/// What an HTTP/2 connection is charged with, from its first bytes to its end: frames that are read and written and
/// both tables of headers (64 KiB), a head that is not complete, of short fields that the tables make much of (144
/// KiB), and [`STREAMS`] refusals that nobody reads (150 KiB).
pub(crate) const H2_CONNECTION_BYTES: u64 = 384 << 10;

/// What TLS keeps for a connection: a record that comes, one that leaves, and what waits to become one.
pub(super) const TLS_BYTES: u64 = 128 << 10;

/// How long a connection may wait for a request, and a request for the end of its head: what nginx gives both.
pub(super) const IDLE: Duration = Duration::from_secs(60);

/// How long an instance that is used again waits for its next request: what `wasmtime serve` gives. While requests
/// come, it is warm; a moment later the container is empty again.
pub(super) const INSTANCE_IDLE: Duration = Duration::from_secs(1);

/// Bytes of a request's head, and read at once of its body: eight times what nginx takes. A longer one is refused
/// with 431.
pub(super) const HEAD_BYTES: usize = 64 << 10;

/// Streams of one HTTP/2 connection at one time: what RFC 9113 names as the least to allow.
pub(super) const STREAMS: u32 = 100;

/// Bytes of a request's head in HTTP/2, as its RFC counts them: with 32 bytes for each field. A longer one is refused
/// with 431.
pub(super) const H2_HEAD_BYTES: u32 = 32 << 10;

/// The longest HTTP/2 frame: the least that there is. With [`H2_HEAD_BYTES`] it bounds the frames of one head, too, and
/// so a flood of CONTINUATION.
pub(super) const H2_FRAME: u32 = 16 << 10;

/// Requests of one HTTP/2 connection that its client took back before they were looked at. Who asks and takes back
/// faster than that wants nothing but work to be done: the connection ends.
pub(super) const H2_TAKEN_BACK: usize = 20;

/// Streams of one HTTP/2 connection that are reset for mistakes of its client, before the connection is.
pub(super) const H2_MISTAKES: usize = 100;

/// Bytes that one HTTP/2 connection may send ahead of who reads them.
pub(super) const H2_CONNECTION_WINDOW: u32 = 256 << 10;

/// Bytes of a request's body that come ahead of who reads them, in both versions. A request that has a body is charged
/// with them.
pub(super) const BODY_AHEAD: u32 = HEAD_BYTES as u32;

/// Bytes of an answer that wait for a slow HTTP/2 client, per stream: a frame.
pub(super) const H2_SEND_BYTES: usize = 16 << 10;

/// How a handler is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpConfig {
    /// The port of the pod that it listens on.
    pub port: u16,
    /// How many requests one instance answers, one after the other: 1 for a fresh one each time.
    pub reuse: u32,
    /// How many instances there may be at one time: 1 to [`CONCURRENCY_MAX`], of a program that takes several of the
    /// node's places by so much fewer. On a node with few places there may be fewer, which depends on what others take.
    pub concurrency: usize,
    /// How long an instance may take to begin its answer. A connection may be silent for twice as long within one.
    pub timeout: Duration,
}

impl Default for HttpConfig {
    fn default() -> HttpConfig {
        HttpConfig { port: PORT, reuse: 1, concurrency: CONCURRENCY, timeout: TIMEOUT }
    }
}
