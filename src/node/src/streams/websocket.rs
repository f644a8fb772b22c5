//! Channels of a session over a WebSocket: the first byte of a message says which it belongs to.

use std::{io, time::Duration};

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use futures::{Sink, SinkExt, Stream, StreamExt};

/// Longest message that is taken. Clients send what they read at once, some tens of kilobytes.
const MESSAGE_BYTES: usize = 1 << 20;
/// How long the other side may take to say goodbye, too.
const GOODBYE: Duration = Duration::from_secs(2);
/// In v5: the channel that says that another has ended.
const CLOSE: u8 = 255;

/// How messages look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Binary,
    /// Text: the channel is a digit, the content is base64.
    Base64,
}

/// A client's message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrived {
    Data(u8, Bytes),
    /// Nothing more will come on this channel.
    End(u8),
}

/// The sending half of a connection with channels.
pub(super) struct Sender<S> {
    sink: S,
    coding: Coding,
}

/// The receiving half.
pub(super) struct Receiver<S> {
    stream: S,
}

/// Sets bounds that every WebSocket here has.
pub(super) fn bounded(upgrade: WebSocketUpgrade) -> WebSocketUpgrade {
    upgrade.max_message_size(MESSAGE_BYTES).max_frame_size(MESSAGE_BYTES)
}

/// The sending half over any sink.
#[cfg(test)]
pub(super) fn sender<S>(sink: S) -> Sender<S> {
    Sender { sink, coding: Coding::Binary }
}

/// The halves of a connection with channels.
pub(super) fn channels(
    socket: WebSocket,
    coding: Coding,
) -> (
    Sender<impl Sink<Message, Error = axum::Error> + Send + Unpin>,
    Receiver<impl Stream<Item = Result<Message, axum::Error>> + Send + Unpin>,
) {
    let (sink, stream) = socket.split();
    (Sender { sink, coding }, Receiver { stream })
}

/// The connection as one stream of bytes each way, for a protocol that runs inside it.
pub(super) fn tunnel(
    socket: WebSocket,
) -> (impl Stream<Item = io::Result<Bytes>> + Send, impl Sink<Bytes, Error = io::Error> + Send) {
    let (sink, stream) = socket.split();
    let input = stream.filter_map(async |message| match message {
        Ok(Message::Binary(bytes)) => Some(Ok(bytes)),
        Ok(_) => None,
        Err(error) => Some(Err(io::Error::other(error))),
    });
    let output = sink.sink_map_err(io::Error::other).with(async |bytes| Ok(Message::Binary(bytes)));
    (input, output)
}

impl<S: Sink<Message, Error = axum::Error> + Unpin> Sender<S> {
    /// Sends a message on a channel.
    pub(super) async fn send(&mut self, channel: u8, data: &[u8]) -> io::Result<()> {
        self.sink.send(encode(self.coding, channel, data)).await.map_err(io::Error::other)
    }

    /// Asks whether the client is still there. Only a failure is an answer: others may wait behind what is not read.
    pub(super) async fn ping(&mut self) -> io::Result<()> {
        self.sink.send(Message::Ping(Bytes::new())).await.map_err(io::Error::other)
    }

    /// Says goodbye; the connection is closed by then, or after a moment.
    pub(super) async fn close<R>(mut self, receiver: &mut Receiver<R>)
    where
        R: Stream<Item = Result<Message, axum::Error>> + Unpin,
    {
        // Clients take the end of anything else for a failure.
        let goodbye = CloseFrame { code: close_code::NORMAL, reason: "".into() };
        if self.sink.send(Message::Close(Some(goodbye))).await.is_ok() {
            let gone = async { while let Some(Ok(_)) = receiver.stream.next().await {} };
            let _ = tokio::time::timeout(GOODBYE, gone).await;
        }
    }
}

impl<S: Stream<Item = Result<Message, axum::Error>> + Unpin> Receiver<S> {
    /// The next message of the client; `None` when it is gone.
    pub(super) async fn next(&mut self) -> Option<Arrived> {
        loop {
            let message = self.stream.next().await?.ok()?;
            if let Message::Close(_) = message {
                return None;
            }
            if let Some(arrived) = decode(message) {
                return Some(arrived);
            }
        }
    }
}

fn encode(coding: Coding, channel: u8, data: &[u8]) -> Message {
    match coding {
        Coding::Binary => Message::Binary([&[channel], data].concat().into()),
        Coding::Base64 => {
            let digit = char::from(b'0' + channel.min(9));
            Message::Text(format!("{digit}{}", BASE64.encode(data)).into())
        }
    }
}

/// What a message says, if it is one of ours. Text is base64, whatever was agreed on.
fn decode(message: Message) -> Option<Arrived> {
    match message {
        Message::Binary(bytes) => match *bytes.first()? {
            CLOSE => Some(Arrived::End(*bytes.get(1)?)),
            channel => Some(Arrived::Data(channel, bytes.slice(1..))),
        },
        Message::Text(text) => {
            let (digit, data) = text.as_str().split_at_checked(1)?;
            Some(Arrived::Data(digit.parse().ok()?, BASE64.decode(data).ok()?.into()))
        }
        Message::Ping(_) | Message::Pong(_) | Message::Close(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back() {
        for coding in [Coding::Binary, Coding::Base64] {
            for (channel, data) in [(0, &b"in"[..]), (4, b""), (3, b"\x00\xff")] {
                let message = encode(coding, channel, data);
                assert_eq!(decode(message), Some(Arrived::Data(channel, Bytes::copy_from_slice(data))));
            }
        }
        assert_eq!(encode(Coding::Base64, 1, b"hi"), Message::Text("1aGk=".into()));
    }

    #[test]
    fn ends_and_nonsense() {
        assert_eq!(decode(Message::Binary(Bytes::from_static(&[255, 0]))), Some(Arrived::End(0)));
        for message in [
            Message::Binary(Bytes::new()),
            Message::Binary(Bytes::from_static(&[255])),
            Message::Text("".into()),
            Message::Text("x".into()),
            Message::Text("é".into()),
            Message::Text("0*".into()),
        ] {
            assert_eq!(decode(message), None);
        }
    }
}
