//! Attacks on handlers by who asks them, byte by byte. The table of attacks is in [`hostile`](super::hostile).

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::handlers::{Served, both};
use super::*;
use crate::HttpConfig;

/// Everything that a handler answers to these bytes, until it closes or is silent.
async fn answers(served: &Served, bytes: &[u8]) -> String {
    let mut stream = served.asker.connect((served.pod.ip(), 8080).into()).await.unwrap();
    let _ = stream.write_all(bytes).await; // it may be refused half-way
    stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let all = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    let _ = all.expect("an answer, or an end"); // a reset is an end, too
    String::from_utf8_lossy(&answer).into_owned()
}

/// What a proxy before it might read as one request, and it as two.
#[tokio::test]
async fn what_two_readers_would_read_differently_is_refused() {
    for served in both(HttpConfig::default()).await {
        let second = "GET /count HTTP/1.1\r\nhost: smuggled\r\n\r\n";
        let refused = async |head: &str, body: &str| {
            let text = format!("POST /length HTTP/1.1\r\nhost: a\r\n{head}\r\n\r\n{body}{second}");
            let answer = answers(&served, text.as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 400 ") || answer.is_empty(), "{head:?} {body:?}: {answer}");
            assert_eq!(
                answer.matches("HTTP/1.1 ").count(),
                usize::from(!answer.is_empty()),
                "{head:?}: {answer}"
            );
        };
        refused("content-length: 3\r\ncontent-length: 4", "abc").await;
        refused("content-length: 3, 4", "abc").await;
        refused("content-length: +3", "abc").await;
        refused("content-length: -1", "abc").await;
        refused("content-length: 18446744073709551616", "abc").await;
        refused("content-length: 0x3", "abc").await;
        refused("transfer-encoding: chunked, identity", "0\r\n\r\n").await;
        refused("transfer-encoding: xchunked", "0\r\n\r\n").await;
        refused("content-length : 3", "abc").await;
        refused("x: a\0b", "").await;
        refused("x: y\r\n folded: z", "").await;
        // Of both, the chunks count, and the connection ends, or it is refused.
        let both =
            "POST /length HTTP/1.1\r\nhost: a\r\ncontent-length: 60\r\ntransfer-encoding: chunked\r\n\r\n";
        let answer = answers(&served, format!("{both}0\r\n\r\n{second}").as_bytes()).await;
        assert!(!answer.contains("60"), "{answer}");
        assert_eq!(served.get("/").await.1, "hello\n");
    }
}

/// Bodies that lie about their length, and trailers without end: the guest is told, and the connection ends.
#[tokio::test]
async fn bodies_that_lie_end_their_connection() {
    for served in both(HttpConfig::default()).await {
        let chunked = "POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
        let long = "y".repeat(200 << 10);
        let many: String = (0..20_000).map(|n| format!("x-{n}: y\r\n")).collect();
        let extension = "e".repeat(100 << 10);
        for (body, what) in [
            ("fffffffffffffffff\r\nabc".to_owned(), "a chunk of more than there are numbers"),
            ("-1\r\nabc".to_owned(), "a negative chunk"),
            ("3\r\nabcd\r\n0\r\n\r\n".to_owned(), "a chunk that goes on"),
            (format!("3;{extension}\r\nabc\r\n0\r\n\r\n"), "an endless extension"),
            (format!("0\r\nx: {long}\r\n\r\n"), "a long trailer"),
            (format!("0\r\n{many}\r\n"), "many trailers"),
            ("3\r\nab".to_owned(), "an end before the end"),
        ] {
            let answer = answers(&served, format!("{chunked}{body}").as_bytes()).await;
            assert!(!answer.ends_with("0\r\n\r\n"), "{what}: no echo of it is whole: {answer}");
            assert!(answer.matches("HTTP/1.1 ").count() <= 1, "{what}: {answer}");
        }
        assert_eq!(served.get("/").await.1, "hello\n");
    }
}

/// Connections that ask nothing: as many as there may be, with no instance and no memory of the container.
#[tokio::test]
async fn connections_that_ask_nothing_are_bounded() {
    let served = Served::with(Bench::new(), HttpConfig::default(), |_| {}).await;
    let mut idle = Vec::new();
    for _ in 0..1_200 {
        idle.push(served.asker.connect((served.pod.ip(), 8080).into()).await.unwrap());
    }
    let full = async {
        while served.container.usage().connections < 1_024 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, full).await.expect("they are taken");
    let usage = served.container.usage();
    assert_eq!((usage.connections, usage.http.unwrap().instances, usage.memory), (1_024, 0, 0));
    // Who waits behind them is answered as soon as some go.
    idle.drain(..400);
    assert_eq!(served.get("/").await.1, "hello\n");
    served.container.kill();
    assert_eq!(ended(&served.container).await, Exit::Killed);
}

pub(super) const HEADERS: u8 = 1;
const RESET: u8 = 3;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
const ENHANCE_YOUR_CALM: u32 = 11;

/// One frame of HTTP/2.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A head without its end: `GET` for a path.
pub(super) fn head(path: &str) -> Vec<u8> {
    let mut head = vec![0x82, 0x86, 0x41, 1, b'a', 0x04, u8::try_from(path.len()).unwrap()];
    head.extend(path.bytes());
    head
}

/// Why a handler says goodbye to an HTTP/2 client that sends these frames, which it must before they end.
async fn goodbye(served: &Served, frames: impl Iterator<Item = Vec<u8>> + Send + 'static) -> u32 {
    let stream = served.asker.connect((served.pod.ip(), 8080).into()).await.unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    let sending = tokio::spawn(async move {
        write.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        write.write_all(&frame(4, 0, 0, &[])).await.unwrap();
        for frame in frames {
            if write.write_all(&frame).await.is_err() {
                return true;
            }
        }
        false
    });
    let mut answer = Vec::new();
    let all = tokio::time::timeout(PATIENCE, read.read_to_end(&mut answer)).await;
    let _ = all.expect("the connection ends"); // a reset is an end, too
    assert!(sending.await.unwrap(), "it took everything");
    let mut rest = &answer[..];
    while let [a, b, c, kind, _, _, _, _, _, after @ ..] = rest {
        let length = usize::try_from(u32::from_be_bytes([0, *a, *b, *c])).unwrap();
        let (payload, after) = after.split_at(length);
        if *kind == GOAWAY {
            return u32::from_be_bytes(payload[4..8].try_into().unwrap());
        }
        rest = after;
    }
    panic!("it said nothing: {answer:?}");
}

#[tokio::test]
async fn requests_that_are_taken_back_at_once_end_their_connection() {
    let served = Served::with(Bench::new(), HttpConfig::default(), |_| {}).await;
    let head = head("/wait?ms=600000");
    let pair = move |n: u32| {
        let stream = 2 * n + 1;
        let asked = frame(HEADERS, END_HEADERS | END_STREAM, stream, &head);
        [asked, frame(RESET, 0, stream, &8u32.to_be_bytes())].concat()
    };
    let thousands = (0..1_000u32).map(move |n| (1_000 * n..1_000 * (n + 1)).flat_map(&pair).collect());
    assert_eq!(goodbye(&served, thousands).await, ENHANCE_YOUR_CALM);
    served.counts(|usage| usage.instances == 0).await;
    assert_eq!(served.get("/").await.1, "hello\n");
}

#[tokio::test]
async fn heads_without_end_end_their_connection() {
    let served = Served::with(Bench::new(), HttpConfig::default(), |_| {}).await;
    // A header of a few bytes in each, as many as there are.
    let more = (0..1_000_000u32).map(|_| frame(CONTINUATION, 0, 1, b"\0\x01x\x01y"));
    let frames = std::iter::once(frame(HEADERS, END_STREAM, 1, &head("/"))).chain(more);
    assert_eq!(goodbye(&served, frames).await, ENHANCE_YOUR_CALM);
    assert_eq!(served.get("/").await.1, "hello\n");
}
