//! SPDY/3.1, as far as Kubernetes uses it: many streams over one connection, opened by the client.
//!
//! ```text
//!  bytes ─▶ Decoder ─▶ Connection::drive ─▶ Incoming (new streams), each stream's inbox
//!  bytes ◀─ Encoder ◀─ queue of frames   ◀─ Outbound of each stream
//! ```
//!
//! Everything is bounded: streams, inboxes, the queue. A stream whose inbox is full stops the connection until it
//! is read, as with other servers. Flow control by windows is half there, deliberately: clients of Kubernetes
//! neither count nor open windows, so what we send is held back by the transport alone, and what we have read is
//! told in window updates for those who count.

mod connection;
mod frame;
mod headers;

pub(super) use connection::{Inbound, Incoming, Outbound, Stream, connect};

#[cfg(test)]
pub(crate) use frame::{Decoder, Encoder, Frame};

/// The name in `Upgrade` headers.
pub(super) const PROTOCOL: &str = "SPDY/3.1";

/// The other side does not speak SPDY/3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct SpdyError(&'static str);
