//! Clients that ask and do not read: what waits for them is their handler's memory, bounded, and given back. The table
//! of attacks is in [`hostile`](super::hostile).

use coracle_network::Stream;
use coracle_network::limits::STREAM_WINDOW;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::handlers::{Served, both};
use super::hostile_requests::{END_HEADERS, END_STREAM, HEADERS, frame, head};
use super::*;
use crate::HttpConfig;
use crate::http::{BODY_BYTES, H2_CONNECTION_BYTES, READ_BYTES, REQUESTS};

const KIB: u64 = 1 << 10;
const DATA: u8 = 0;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;

/// How long is waited for what must not happen. Too short on a slow machine, it hides a mistake, and makes none up.
const NEVER: Duration = Duration::from_millis(200);

/// The setting that a stream's answer may have so many bytes at first.
fn window(bytes: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&[0, 4][..], &bytes.to_be_bytes()].concat())
}

/// A client of HTTP/2 that does nothing by itself.
struct Raw {
    stream: Stream,
    next: u32,
}

impl Raw {
    async fn connect(served: &Served, settings: &[u8]) -> Raw {
        let mut stream = served.asker.connect((served.pod.ip(), 8080).into()).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        stream.write_all(settings).await.unwrap();
        Raw { stream, next: 1 }
    }

    async fn get(&mut self, path: &str) {
        let asked = frame(HEADERS, END_HEADERS | END_STREAM, self.next, &head(path));
        self.stream.write_all(&asked).await.unwrap();
        self.next += 2;
    }

    /// Reads until this holds.
    async fn read_until(&mut self, holds: impl Fn() -> bool) {
        let mut buffer = vec![0; 64 << 10];
        let all = async {
            while !holds() {
                tokio::select! {
                    read = self.stream.read(&mut buffer) => assert!(read.unwrap() > 0, "it is not to end"),
                    () = tokio::time::sleep(Duration::from_millis(1)) => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, all).await.expect("it holds");
    }
}

/// The container's memory, which is all of the pod's.
fn memory(served: &Served, pod: &Budget) -> u64 {
    let memory = served.container.usage().memory;
    assert!(pod.used() >= memory, "{} {memory}", pod.used());
    memory
}

/// Waits until its memory is what is said.
async fn comes_to(served: &Served, what: &str, holds: impl Fn(u64) -> bool) {
    let counted = async {
        while !holds(served.container.usage().memory) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let counted = tokio::time::timeout(PATIENCE, counted).await;
    assert!(counted.is_ok(), "{what}: {:?}", served.container.usage());
}

async fn with_pod(limit: u64, pod: &Arc<Budget>, config: HttpConfig) -> Served {
    let change = |spec: &mut ContainerSpec| {
        spec.memory_limit = Some(limit);
        spec.budget = Arc::clone(pod);
    };
    Served::with(Bench::new(), config, change).await
}

#[tokio::test]
async fn heads_that_nobody_reads_are_memory() {
    let pod = Budget::new(None);
    let served = with_pod(64 * MIB, &pod, HttpConfig::default()).await;
    let mut client = Raw::connect(&served, &window(1 << 20)).await;
    for _ in 0..40 {
        client.get("/head?kib=100").await;
    }
    // All are answered, and no instance is left; what the connection has not taken waits.
    served.counts(|usage| usage.answers[1] == 40 && usage.instances == 0).await;
    let held = memory(&served, &pod);
    assert!((3 * MIB..8 * MIB).contains(&held), "{held}");
    // Read, they are gone, but for what the connection itself has grown to; with it everything is.
    let read = || served.container.usage().memory < MIB + 512 * KIB;
    client.read_until(read).await;
    assert!(memory(&served, &pod) >= H2_CONNECTION_BYTES);
    client.get("/").await;
    served.counts(|usage| usage.answers[1] == 41).await;
    drop(client);
    comes_to(&served, "the connection is gone", |memory| memory == 0).await;
    assert_eq!(pod.used(), 0);
}

/// When there is no room for more of them, who asks is told so, and the container lives.
#[tokio::test]
async fn heads_that_nobody_reads_fill_no_more_than_the_limit() {
    let pod = Budget::new(Some(8 * MIB));
    let served = with_pod(64 * MIB, &pod, HttpConfig { concurrency: 1, ..HttpConfig::default() }).await;
    let mut client = Raw::connect(&served, &window(1 << 20)).await;
    for _ in 0..90 {
        client.get("/head?kib=100").await;
    }
    served.counts(|usage| usage.requests == 90 && usage.in_flight == 0).await;
    let usage = served.container.usage().http.unwrap();
    assert!(usage.answers[1] >= 20 && usage.answers[4] >= 20, "{usage:?}");
    assert!(pod.used() <= 8 * MIB);
    // What an instance takes came back with it, so that others are answered.
    assert_eq!(served.get("/").await.1, "hello\n");
    drop(client);
    comes_to(&served, "the connection is gone", |memory| memory == 0).await;
    assert_eq!(pod.used(), 0);
}

#[tokio::test]
async fn trailers_that_nobody_reads_are_memory() {
    for served in both(HttpConfig::default()).await {
        let mut client = Raw::connect(&served, &window(1 << 20)).await;
        // A literal of 15,000 bytes: 127, and 14,873 in groups of seven bits.
        let text = [&[0, 1, b't', 0x7f, 0x99, 0x74][..], &[b'y'; 15_000]].concat();
        for _ in 0..80 {
            let (stream, mut asked) = (client.next, head("/echo"));
            asked[0] = 0x83; // POST
            let mut frames = frame(HEADERS, END_HEADERS, stream, &asked);
            frames.extend(frame(DATA, 0, stream, b""));
            frames.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &text));
            client.stream.write_all(&frames).await.unwrap();
            client.next += 2;
        }
        served.counts(|usage| usage.answers[1] == 80 && usage.instances == 0).await;
        // They wait to be written, or were, into one buffer that the connection keeps.
        let held = served.container.usage().memory - H2_CONNECTION_BYTES - READ_BYTES;
        assert!((800 * KIB..4 * MIB).contains(&held), "{held}");
        drop(client);
        comes_to(&served, "the connection is gone", |memory| memory == 0).await;
    }
}

/// Answers that their guests have finished wait for a client that lets none of their bytes come.
#[tokio::test]
async fn bodies_that_nobody_reads_are_memory() {
    let pod = Budget::new(None);
    let served = with_pod(64 * MIB, &pod, HttpConfig::default()).await;
    let mut client = Raw::connect(&served, &window(0)).await;
    for _ in 0..60 {
        client.get("/bytes?n=4096").await;
    }
    // A guest whose turn ended within its answer has not come to its end.
    served.counts(|usage| usage.instances_made == 60 && usage.in_flight == 60 && usage.instances < 10).await;
    let (held, each) = (memory(&served, &pod) - H2_CONNECTION_BYTES, BODY_BYTES + 8 * KIB);
    let rest = served.container.usage().http.unwrap().instances * 3 * MIB;
    assert!((50 * BODY_BYTES..60 * each + rest).contains(&held), "{held}");
    let more = [window(1 << 20), frame(WINDOW_UPDATE, 0, 0, &(1u32 << 20).to_be_bytes())].concat();
    client.stream.write_all(&more).await.unwrap();
    client.read_until(|| served.container.usage().memory <= H2_CONNECTION_BYTES).await;
    served.counts(|usage| usage.answers[1] == 60).await;
    drop(client);
    comes_to(&served, "the connection is gone", |memory| memory == 0).await;
    assert_eq!(pod.used(), 0);
}

/// A large answer, read slowly or not at all, takes what its guest and one connection take, however long it is.
#[tokio::test]
async fn a_slow_reader_takes_as_much_memory_as_at_first() {
    let bench = Bench::new();
    let pod = Budget::new(None);
    let network = bench
        .fabric
        .add_pod(PodConfig { name: "paying".into(), budget: Some(Arc::clone(&pod)), ..PodConfig::default() })
        .unwrap();
    let served = Served::with(bench, HttpConfig::default(), |spec| {
        spec.budget = Arc::clone(&pod);
        spec.network = network;
    })
    .await;
    let begun = pod.used();
    let mut stream = served.asker.connect((served.pod.ip(), 8080).into()).await.unwrap();
    let asked = format!("GET /bytes?n={} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", 16 * MIB);
    stream.write_all(asked.as_bytes()).await.unwrap();
    let (mut most, mut least, mut read) = (0, u64::MAX, 0);
    let mut buffer = vec![0; MIB as usize];
    for _ in 0..8 {
        // The guest has come to a stop: what may be under way is, and no more comes.
        let mut before = 0;
        while before < read + STREAM_WINDOW as u64 || before != served.pod.usage().sent {
            before = served.pod.usage().sent;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        (most, least) = (most.max(pod.used()), least.min(pod.used()));
        stream.read_exact(&mut buffer).await.unwrap();
        read += MIB;
    }
    assert!(most - least < 256 * KIB, "{least} to {most}");
    assert!(least - begun > 2 * BODY_BYTES, "{least}");
    assert!(most - begun < 6 * MIB, "{most}");
    let rest = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut buffer)).await.expect("the end");
    assert!(read + rest.unwrap() as u64 > 16 * MIB);
    drop(stream);
    comes_to(&served, "everything is gone", |memory| memory == 0).await;
    let back = async {
        while pod.used() > begun {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, back).await.expect("nothing is kept");
}

/// HTTP/1.1 lets a client ask again before it has read; whoever does gets no second answer until the first has left.
#[tokio::test]
async fn answers_do_not_pile_up_in_a_connection() {
    let served = Served::with(Bench::new(), HttpConfig::default(), |_| {}).await;
    let mut stream = served.asker.connect((served.pod.ip(), 8080).into()).await.unwrap();
    // The guest leaves the body unread, of which one piece is taken: its end is seen when the answer has begun, and the
    // next request may begin at once.
    let asked =
        b"POST /head?kib=100 HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n";
    let mut answered = 0;
    let stuck = loop {
        stream.write_all(asked).await.unwrap();
        let answer = served.counts(|usage| usage.answers[1] == answered + 1);
        if tokio::time::timeout(NEVER, answer).await.is_err() && answered > 1 {
            break answered;
        }
        served.counts(|usage| usage.answers[1] == answered + 1).await;
        answered += 1;
        assert!(answered < 12, "{:?}", served.container.usage());
    };
    // One in the connection's buffer, and those that the client's own takes.
    assert!((2..8).contains(&stuck), "{stuck}");
    let reads = async {
        let mut buffer = vec![0; 64 << 10];
        while served.container.usage().http.unwrap().answers[1] == stuck {
            assert!(stream.read(&mut buffer).await.unwrap() > 0);
        }
    };
    tokio::time::timeout(PATIENCE, reads).await.expect("it goes on when somebody reads");
}

/// There are so many requests of a handler at one time, and no more, however many connections they come on.
#[tokio::test]
async fn requests_of_all_connections_are_bounded() {
    let pod = Budget::new(None);
    let served = with_pod(64 * MIB, &pod, HttpConfig { concurrency: 1, ..HttpConfig::default() }).await;
    let mut clients = Vec::new();
    for _ in 0..REQUESTS / 100 + 2 {
        let mut client = Raw::connect(&served, &window(0)).await;
        for _ in 0..100 {
            client.get("/wait?ms=600000").await;
        }
        clients.push(client);
    }
    let asked = clients.len() as u64 * 100;
    // Those that cannot wait get answers, whose texts nobody reads; those beyond get heads.
    served.counts(|usage| usage.requests == asked && usage.in_flight == REQUESTS as u64).await;
    let held = memory(&served, &pod);
    let connections = clients.len() as u64 * H2_CONNECTION_BYTES;
    let each = (held - connections) / REQUESTS as u64;
    assert!((4 * KIB..8 * KIB).contains(&each), "{each}");
    let (status, text) = served.get("/").await;
    assert_eq!((status.as_u16(), text.as_str()), (503, "too many requests are under way\n"));
    drop(clients);
    comes_to(&served, "they are gone", |memory| memory == 0).await;
    assert_eq!(served.get("/").await.1, "hello\n");
}

/// A connection that there is no memory for ends, and its client is told why.
#[tokio::test]
async fn who_cannot_be_paid_for_is_told() {
    let pod = Budget::new(Some(64 * KIB));
    let served = with_pod(64 * MIB, &pod, HttpConfig::default()).await;
    let told = async |bytes: &[u8]| {
        let mut stream = served.asker.connect((served.pod.ip(), 8080).into()).await.unwrap();
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an end");
        answer
    };
    let goodbye = told(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert_eq!(goodbye, [frame(SETTINGS, 0, 0, b""), frame(7, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 11])].concat());
    let long = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n", "y".repeat(20 << 10));
    let answer = String::from_utf8(told(long.as_bytes()).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    let body = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", 100 << 10);
    let answer = String::from_utf8(told(body.as_bytes()).await).unwrap();
    let text = "no room for another request: the pod's memory is used up\n";
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with(text), "{answer}");
    assert_eq!(pod.used(), 0);
}
