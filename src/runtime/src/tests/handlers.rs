//! Handlers, asked over the pod's network by a client in another pod.

use bytes::Bytes;
use coracle_network::Stream;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::client::conn::http2::handshake as http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::*;
use crate::http::CONNECTIONS;
use crate::{HttpConfig, HttpUsage};

pub(super) type Sent = BoxBody<Bytes, std::convert::Infallible>;

/// A handler that is served, and a pod that asks it.
pub(super) struct Served {
    pub(super) bench: Bench,
    pub(super) container: Container,
    pub(super) output: Arc<Capture>,
    pub(super) pod: PodStack,
    pub(super) asker: PodStack,
}

/// The same routes, as a component of 0.2 and as one of 0.3.
const ROUTES: &str = "routes";
pub(super) const ROUTES3: &str = "routes3";

/// A runtime for each, with the flag for that of 0.3 alone.
fn benches(change: impl Fn(&mut Config)) -> [(&'static str, Bench); 2] {
    [ROUTES, ROUTES3].map(|guest| {
        let bench = Bench::of(|config| {
            config.wasi_p3 = guest == ROUTES3;
            change(config);
        });
        (guest, bench)
    })
}

/// Both, served alike.
pub(super) async fn both(config: HttpConfig) -> Vec<Served> {
    both_with(config, |_| {}).await
}

async fn both_with(config: HttpConfig, change: impl Fn(&mut ContainerSpec)) -> Vec<Served> {
    let mut served = Vec::new();
    for (guest, bench) in benches(|_| {}) {
        served.push(Served::of(guest, bench, config, &change).await);
    }
    served
}

impl Served {
    /// The routes of 0.2.
    pub(super) async fn with(
        bench: Bench,
        config: HttpConfig,
        change: impl FnOnce(&mut ContainerSpec),
    ) -> Served {
        Served::of(ROUTES, bench, config, change).await
    }

    pub(super) async fn of(
        guest: &str,
        bench: Bench,
        config: HttpConfig,
        change: impl FnOnce(&mut ContainerSpec),
    ) -> Served {
        let digest = format!("example:{guest}");
        let program = bench.runtime.prepare(&digest, &example(guest), "test").await.unwrap();
        Served::program(program, bench, config, change)
    }

    pub(super) fn program(
        program: Arc<Program>,
        bench: Bench,
        config: HttpConfig,
        change: impl FnOnce(&mut ContainerSpec),
    ) -> Served {
        let output = Arc::new(Capture::default());
        let mut spec = bench.spec(&output);
        change(&mut spec);
        let (pod, asker) = (spec.network.clone(), bench.pod());
        let container = bench.runtime.serve(program, spec, config).unwrap();
        Served { bench, container, output, pod, asker }
    }

    async fn connect(&self) -> Stream {
        self.asker.connect((self.pod.ip(), 8080).into()).await.unwrap()
    }

    pub(super) async fn client(&self) -> SendRequest<Sent> {
        let (client, exchange) = handshake(TokioIo::new(self.connect().await)).await.unwrap();
        tokio::spawn(exchange);
        client
    }

    /// Asks on a connection of its own.
    pub(super) async fn get(&self, target: &str) -> (StatusCode, String) {
        let (status, _, text) = ask(&mut self.client().await, request(target)).await;
        (status, text)
    }

    /// The body of the answer, if it is one of a guest.
    async fn connect_and_get(&self, target: &str) -> Option<String> {
        let (mut client, exchange) = handshake(TokioIo::new(self.connect().await)).await.ok()?;
        tokio::spawn(exchange);
        let response = client.send_request(request(target)).await.ok()?;
        let found = response.status() == StatusCode::OK;
        let text = response.into_body().collect().await.ok()?.to_bytes();
        found.then(|| String::from_utf8_lossy(&text).into_owned())
    }

    fn usage(&self) -> HttpUsage {
        self.container.usage().http.expect("it is a handler")
    }

    /// Waits until this holds of what is counted.
    pub(super) async fn counts(&self, holds: impl Fn(&HttpUsage) -> bool) {
        let counted = async {
            while !holds(&self.usage()) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let counted = tokio::time::timeout(PATIENCE, counted).await;
        assert!(counted.is_ok(), "{:?}", self.usage());
    }
}

pub(super) fn request(target: &str) -> Request<Sent> {
    Request::get(target).header("host", "routes").body(Empty::new().boxed()).unwrap()
}

pub(super) fn post(target: &str, body: Sent) -> Request<Sent> {
    Request::post(target).header("host", "routes").body(body).unwrap()
}

pub(super) async fn ask(
    client: &mut SendRequest<Sent>,
    request: Request<Sent>,
) -> (StatusCode, HeaderMap, String) {
    client.ready().await.unwrap();
    let response =
        tokio::time::timeout(PATIENCE, client.send_request(request)).await.expect("an answer").unwrap();
    let (parts, body) = response.into_parts();
    let text = body.collect().await.unwrap().to_bytes();
    (parts.status, parts.headers, String::from_utf8_lossy(&text).into_owned())
}

async fn next(body: &mut Incoming) -> Frame<Bytes> {
    tokio::time::timeout(PATIENCE, body.frame()).await.expect("a frame").expect("not the end").unwrap()
}

fn config() -> HttpConfig {
    HttpConfig::default()
}

#[tokio::test]
async fn each_request_has_an_instance_and_an_idle_handler_none() {
    for served in both(config()).await {
        assert_eq!(served.bench.runtime.running(), 0);
        let mut client = served.client().await;
        for _ in 0..3 {
            let (status, headers, text) = ask(&mut client, request("/count")).await;
            assert_eq!((status, text.as_str()), (StatusCode::OK, "1\n"));
            // An answer that is all there says its length; a guest whose turn ended within it has not written all.
            assert!(headers.get("content-length").is_none_or(|length| length == "2"));
        }
        served.counts(|usage| usage.requests == 3 && usage.in_flight == 0 && usage.instances == 0).await;
        assert_eq!(served.usage().instances_made, 3);
        assert_eq!(served.usage().answers, [0, 3, 0, 0, 0]);
        let usage = served.container.usage();
        assert!(usage.cpu > Duration::ZERO && usage.memory == 0 && usage.connections == 1, "{usage:?}");
        assert_eq!(served.bench.runtime.running(), 0);
        assert_eq!(served.get("/nowhere").await.0, StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn an_instance_is_used_again_as_often_as_it_may() {
    for served in both(HttpConfig { reuse: 3, ..config() }).await {
        let mut client = served.client().await;
        for expected in ["1\n", "2\n", "3\n", "1\n", "2\n"] {
            assert_eq!(ask(&mut client, request("/count")).await.2, expected);
        }
        assert_eq!(served.usage().instances_made, 2);
        // One that trapped is not used again, and one that waits too long goes.
        assert_eq!(served.get("/trap").await.0, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(served.get("/count").await.1, "1\n");
        served.counts(|usage| usage.instances == 0).await;
    }
}

/// Has a body with trailers echoed, piece by piece, and says which trailers came back.
async fn echoed(
    target: &str,
    send: impl AsyncFnOnce(Request<Sent>) -> hyper::Result<Response<Incoming>>,
) -> Option<HeaderMap> {
    let (pieces, mut body) = mpsc::channel::<Frame<Bytes>>(1);
    let stream = futures::stream::poll_fn(move |cx| body.poll_recv(cx).map(|frame| frame.map(Ok)));
    let sent = send(post(target, StreamBody::new(stream).boxed()));
    let response = tokio::time::timeout(PATIENCE, sent).await.expect("the head comes first").unwrap();
    let mut answer = response.into_body();
    for piece in ["one", "two", "three"] {
        pieces.send(Frame::data(piece.into())).await.unwrap();
        assert_eq!(next(&mut answer).await.into_data().unwrap(), piece);
    }
    pieces.send(Frame::trailers(trailers())).await.unwrap();
    drop(pieces);
    let rest = tokio::time::timeout(PATIENCE, answer.collect()).await.expect("the end").unwrap();
    let back = rest.trailers().cloned();
    assert!(rest.to_bytes().is_empty());
    back
}

fn trailers() -> HeaderMap {
    HeaderMap::from_iter([("x-sum".parse().unwrap(), "11".parse().unwrap())])
}

#[tokio::test]
async fn bodies_stream_both_ways_with_their_trailers() {
    for served in both(config()).await {
        let mut client = served.client().await;
        let back = echoed("/echo", async |request| client.send_request(request).await).await;
        assert_eq!(back, None, "HTTP/1.1 wants them announced, which this guest does not");
        let (mut client, exchange) =
            http2(TokioExecutor::new(), TokioIo::new(served.connect().await)).await.unwrap();
        tokio::spawn(exchange);
        let back = echoed("http://routes/echo", async |request| client.send_request(request).await).await;
        assert_eq!(back, Some(trailers()));
    }
}

/// In 0.3 a guest can hand on what it does not see itself.
#[tokio::test]
async fn bodies_may_pass_by_a_guest() {
    let bench = Bench::of(|config| config.wasi_p3 = true);
    let served = Served::of(ROUTES3, bench, config(), |_| {}).await;
    let (mut client, exchange) =
        http2(TokioExecutor::new(), TokioIo::new(served.connect().await)).await.unwrap();
    tokio::spawn(exchange);
    let back = echoed("http://routes/pass", async |request| client.send_request(request).await).await;
    assert_eq!(back, Some(trailers()));
}

/// A body of any size passes through a guest with a small memory, and what the client does not read, the guest does
/// not write.
#[tokio::test]
async fn large_bodies_take_no_memory() {
    for served in both_with(config(), |spec| spec.memory_limit = Some(4 * MIB)).await {
        let piece = Bytes::from(vec![7; 64 << 10]);
        let frames = (0..512).map(move |_| Ok(Frame::data(piece.clone())));
        let body = StreamBody::new(futures::stream::iter(frames)).boxed();
        let mut client = served.client().await;
        assert_eq!(ask(&mut client, post("/length", body)).await.2, format!("{}\n", 32 * MIB));

        let response = client.send_request(request(&format!("/bytes?n={}", 32 * MIB))).await.unwrap();
        let mut answer = response.into_body();
        let mut length = next(&mut answer).await.into_data().unwrap().len();
        // The guest has come to a stop: its window is full and nobody reads.
        let mut before = u64::MAX;
        while before != served.pod.usage().sent {
            before = served.pod.usage().sent;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(before < MIB, "{before} bytes were sent to who does not read");
        while let Some(frame) = answer.frame().await {
            length += frame.unwrap().into_data().unwrap().len();
        }
        assert_eq!(length as u64, 32 * MIB);
    }
}

#[tokio::test]
async fn a_guest_that_fails_is_told_about_once() {
    for served in both(config()).await {
        for _ in 0..3 {
            let (status, text) = served.get("/trap").await;
            assert_eq!((status, text.as_str()), (StatusCode::INTERNAL_SERVER_ERROR, "the handler failed\n"));
        }
        let log = served.output.text();
        let told = "wasi:http: a request failed: wasm trap: wasm `unreachable` instruction executed\nwasm backtrace:";
        assert_eq!(log.matches(told).count(), 1, "{log}");
        assert_eq!(log.matches("asked to\n").count(), 3, "what it prints itself is its own: {log}");
        let (status, text) = served.get("/refuse").await;
        let expected = "the handler answered with an error\n";
        assert_eq!((status, text.as_str()), (StatusCode::INTERNAL_SERVER_ERROR, expected));
        assert_eq!(served.usage().failed, 4);

        // An answer that has begun cannot become another one: its end is missing.
        let response = served.client().await.send_request(request("/half?ms=20")).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert!(response.into_body().collect().await.is_err());
        assert_eq!(served.get("/").await.1, "hello\n", "the container goes on");
    }
}

/// In 0.3 what a handler returns is its answer.
#[tokio::test]
async fn a_handler_may_return_without_an_answer() {
    let served = Served::with(Bench::new(), config(), |_| {}).await;
    let (status, text) = served.get("/nothing").await;
    let expected = "the handler gave no answer\n";
    assert_eq!((status, text.as_str()), (StatusCode::INTERNAL_SERVER_ERROR, expected));
    assert_eq!(served.usage().failed, 1);
}

#[tokio::test]
async fn an_answer_that_does_not_begin_in_time_is_not_waited_for() {
    for served in both(HttpConfig { timeout: Duration::from_millis(50), ..config() }).await {
        for target in ["/wait?ms=600000", "/spin"] {
            let (status, text) = served.get(target).await;
            assert_eq!((status, text.as_str()), (StatusCode::GATEWAY_TIMEOUT, "no answer in time\n"));
        }
        served.counts(|usage| usage.instances == 0 && usage.timed_out == 2).await;
    }
}

#[tokio::test]
async fn requests_wait_for_their_turn() {
    for served in both(HttpConfig { concurrency: 1, ..config() }).await {
        let asked = (0..4).map(|_| served.get("/wait?ms=5"));
        for (status, _) in futures::future::join_all(asked).await {
            assert_eq!(status, StatusCode::OK);
        }
        served.counts(|usage| usage.instances == 0).await;
    }
}

#[tokio::test]
async fn a_full_node_says_come_again() {
    for (guest, bench) in benches(|config| config.max_containers = 1) {
        let served = Served::of(guest, bench, config(), |_| {}).await;
        let mut first = served.client().await;
        let waiting = first.send_request(request("/wait?ms=600000"));
        tokio::pin!(waiting);
        assert!(futures::poll!(&mut waiting).is_pending());
        served.counts(|usage| usage.instances == 1).await;
        let (status, headers, text) = ask(&mut served.client().await, request("/")).await;
        assert_eq!(
            (status, text.as_str()),
            (StatusCode::SERVICE_UNAVAILABLE, "no room for another instance\n")
        );
        assert_eq!(headers["retry-after"], "1");
        assert_eq!(served.usage().overloaded, 1);
    }
}

#[tokio::test]
async fn all_instances_share_the_containers_memory() {
    for served in both_with(config(), |spec| spec.memory_limit = Some(12 * MIB)).await {
        assert_eq!(served.get("/grow?mib=4").await.1, "4 MiB\n");
        served.counts(|usage| usage.instances == 0).await;
        let mut first = served.client().await;
        let mut waiting = Box::pin(first.send_request(request("/grow?mib=6&ms=600000")));
        assert!(futures::poll!(&mut waiting).is_pending());
        let grown = async {
            while served.container.usage().memory < 7 * MIB {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, grown).await.expect("it grows");
        let full = "the handler failed: its container's memory limit is reached\n";
        assert_eq!(served.get("/grow?mib=8").await, (StatusCode::INTERNAL_SERVER_ERROR, full.into()));
        assert!(
            served.output.text().contains("memory limit of 12582912 bytes exceeded"),
            "{}",
            served.output.text()
        );
        drop((waiting, first));
        served.counts(|usage| usage.instances == 0).await;
        assert_eq!(served.container.usage().memory, 0);
        assert_eq!(served.get("/grow?mib=8").await.1, "8 MiB\n");
    }
}

/// Who asks is told what is full: the container, or its pod.
#[tokio::test]
async fn what_has_no_room_says_which_of_them_is_full() {
    let check = async |limit: u64, pod: u64, others: u64, expected: &str| {
        let budget = Budget::new(Some(pod));
        let _others = budget.charge(others).unwrap();
        let spec = |spec: &mut ContainerSpec| {
            spec.memory_limit = Some(limit);
            spec.budget = Arc::clone(&budget);
        };
        let served = Served::with(Bench::new(), config(), spec).await;
        let (status, text) = served.get("/grow?mib=8").await;
        assert_eq!(text, format!("{expected}\n"), "{}", served.output.text());
        let room = text.starts_with("no room");
        assert_eq!(status.as_u16(), if room { 503 } else { 500 });
        assert_eq!(served.usage().overloaded, u64::from(room));
    };
    check(MIB, 100 * MIB, 0, "no room for another instance: the container's memory limit is reached").await;
    check(50 * MIB, 10 * MIB, 9 * MIB, "no room for another instance: the pod's memory is used up").await;
    check(4 * MIB, 100 * MIB, 0, "the handler failed: its container's memory limit is reached").await;
    check(50 * MIB, 10 * MIB, 4 * MIB, "the handler failed: its pod's memory is used up").await;
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_instance_with_it() {
    for served in both(config()).await {
        for target in ["/wait?ms=600000", "/spin"] {
            let mut client = served.client().await;
            let waiting = client.send_request(request(target));
            let begun = served.counts(|usage| usage.instances == 1);
            tokio::select! {
                _ = waiting => panic!("no answer was due"),
                () = begun => {}
            }
            drop(client);
            served.counts(|usage| usage.instances == 0 && usage.in_flight == 0).await;
        }
        assert_eq!(served.usage().abandoned, 2);
    }
}

#[tokio::test]
async fn a_guest_may_go_on_after_its_answer() {
    for served in both(config()).await {
        let mut client = served.client().await;
        assert_eq!(ask(&mut client, request("/later?ms=20")).await.2, "now\n");
        served.output.shows("later\n").await;
        served.counts(|usage| usage.instances == 0).await;

        // Also if the client wants no body.
        let mut head = request("/later?ms=20");
        *head.method_mut() = Method::HEAD;
        let (status, _, text) = ask(&mut client, head).await;
        assert_eq!((status, text.as_str()), (StatusCode::OK, ""));
        served.output.shows("later\nlater\n").await;
        assert_eq!(ask(&mut client, request("/")).await.2, "hello\n", "the connection goes on, too");
    }
}

#[tokio::test]
async fn stopping_finishes_what_was_asked() {
    for served in both(config()).await {
        let mut client = served.client().await;
        let idle = served.client().await;
        let asked = client.send_request(request("/wait?ms=100"));
        let begun = served.counts(|usage| usage.instances == 1);
        let (response, ()) = tokio::join!(asked, async {
            begun.await;
            served.container.stop();
        });
        let response = response.unwrap();
        assert_eq!(response.headers()["connection"], "close");
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "waited\n");
        assert_eq!(ended(&served.container).await, Exit::Code(0));
        assert!(served.asker.connect((served.pod.ip(), 8080).into()).await.is_err());
        drop(idle);
        let pod = served.pod.usage();
        assert_eq!((pod.connections, pod.tcp_bound), (0, 0));
    }
}

/// Clients that connect and say nothing keep neither others without an answer nor the container from its end.
#[tokio::test]
async fn a_flood_of_connections_is_bounded() {
    let served = Served::with(Bench::new(), config(), |_| {}).await;
    let mut flood = Vec::new();
    for _ in 0..CONNECTIONS {
        flood.push(served.connect().await);
    }
    let mut one_more = served.connect().await;
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, one_more.read_to_end(&mut answer)).await.expect("an end").unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 503 "), "{}", String::from_utf8_lossy(&answer));
    flood.pop();
    let answered = async {
        while served.connect_and_get("/").await.is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, answered).await.expect("there is a place again");
    served.container.stop();
    assert_eq!(ended(&served.container).await, Exit::Code(0));
}

#[tokio::test]
async fn killing_ends_everything_at_once() {
    for target in ["/spin", "/wait?ms=600000", "/later?ms=600000"] {
        for served in both(config()).await {
            let mut client = served.client().await;
            let asked = client.send_request(request(target));
            let begun = async {
                served.counts(|usage| usage.instances == 1).await;
                served.container.kill();
                ended(&served.container).await
            };
            let (_, exit) = tokio::join!(asked, begun);
            assert_eq!(exit, Exit::Killed);
            assert_eq!(served.usage().instances, 0);
            assert_eq!(served.bench.runtime.running(), 0);
        }
    }
}

#[tokio::test]
async fn the_end_of_its_pod_is_its_end() {
    let served = Served::with(Bench::new(), config(), |_| {}).await;
    served.pod.close();
    assert_eq!(ended(&served.container).await, Exit::Killed);
}

#[tokio::test]
async fn what_no_guest_can_answer_is_refused() {
    let served = Served::with(Bench::new(), config(), |_| {}).await;
    let check = async |head: &str, expected: &str| {
        let mut stream = served.connect().await;
        let _ = stream.write_all(head.as_bytes()).await; // it may be refused half-way
        let mut answer = vec![0; 4096];
        let read =
            tokio::time::timeout(PATIENCE, stream.read(&mut answer)).await.expect("an answer").unwrap();
        let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
        assert!(answer.starts_with(expected), "{head:.80}: {answer}");
        answer
    };
    check("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 400 ").await;
    check("GET / HTTP/1.0\r\n\r\n", "HTTP/1.0 200 ").await;
    for host in ["", "u@b", "b/c?d", "u@b/c?d", "a b", "a:b", "a:+80", "a:65536", ":80", "a\r\nhost: a"] {
        check(&format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n"), "HTTP/1.1 400 ").await;
    }
    for host in ["a", "a:", "a.b:80", "10.0.0.1", "[fd00::1]", "[fd00::1]:80"] {
        check(&format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n"), "HTTP/1.1 200 ").await;
    }
    check("GET http://a/ HTTP/1.1\r\n\r\n", "HTTP/1.1 400 ").await;
    check("GET http://u@a/ HTTP/1.1\r\nhost: a\r\n\r\n", "HTTP/1.1 400 ").await;
    check("GET http://a/ HTTP/1.1\r\nhost: a\r\n\r\n", "HTTP/1.1 200 ").await;
    check("CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n", "HTTP/1.1 501 ").await;
    let upgrade = "GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";
    let answer = check(upgrade, "HTTP/1.1 501 ").await;
    assert!(answer.contains("a command with wasi:sockets can"), "{answer}");
    for fields in ["upgrade: foo, WebSocket", "upgrade: foo\r\nupgrade: bar ,websocket"] {
        let upgrade = format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}\r\nconnection: upgrade\r\n\r\n");
        check(&upgrade, "HTTP/1.1 501 ").await;
    }
    check("GET / HTTP/1.1\r\nhost: a\r\nupgrade: foo\r\n\r\n", "HTTP/1.1 200 ").await;
    for status in [100, 101, 103, 199] {
        let asked = format!("GET /status?code={status} HTTP/1.1\r\nhost: a\r\n\r\n");
        check(&asked, "HTTP/1.1 500 ").await;
    }
    let many: String = (0..200).map(|n| format!("x-{n}: y\r\n")).collect();
    check(&format!("GET / HTTP/1.1\r\nhost: a\r\n{many}\r\n"), "HTTP/1.1 431 ").await;
    let long = "y".repeat(80 << 10);
    check(&format!("GET / HTTP/1.1\r\nhost: a\r\nx: {long}\r\n\r\n"), "HTTP/1.1 431 ").await;
    check("nonsense\r\n\r\n", "HTTP/1.1 400 ").await;
    let wait = "POST /length HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\nexpect: 100-continue\r\n\r\n";
    check(wait, "HTTP/1.1 100 Continue\r\n").await;
    assert_eq!(served.get("/").await.1, "hello\n");
}

#[tokio::test]
async fn a_guest_sees_the_request_and_its_environment() {
    for served in both_with(config(), |spec| spec.env = vec![("COLOUR".into(), "red".into())]).await {
        let mut asked = request("/headers?a=b%20c");
        asked.headers_mut().insert("x-more", "1".parse().unwrap());
        asked.headers_mut().insert("connection", "keep-alive".parse().unwrap());
        let (_, _, text) = ask(&mut served.client().await, asked).await;
        assert_eq!(text, "Method::Get routes /headers?a=b%20c\nx-more: 1\n");
        assert_eq!(served.get("/env?name=COLOUR").await.1, "red\n");
        assert_eq!(served.get("/status?code=418").await.0, StatusCode::IM_A_TEAPOT);
    }
}

#[tokio::test]
async fn what_instances_print_at_the_same_time_stays_apart() {
    let served = Served::with(Bench::new(), config(), |_| {}).await;
    let texts: Vec<String> = ["a", "b", "c", "d"].iter().map(|letter| letter.repeat(20)).collect();
    let targets: Vec<String> = texts.iter().map(|text| format!("/print?text={text}")).collect();
    futures::future::join_all(targets.iter().map(|target| served.get(target))).await;
    let log = served.output.text();
    let mut lines: Vec<&str> = log.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, texts);
}

#[tokio::test]
async fn http_2_is_spoken_to_who_begins_with_it() {
    for served in both(config()).await {
        let io = TokioIo::new(served.connect().await);
        let (mut client, exchange) = http2(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(exchange);
        let body = Full::new(Bytes::from_static(b"both at once")).boxed();
        let asked = [request("http://routes/wait?ms=20"), post("http://routes/echo", body)];
        let answers = futures::future::join_all(asked.map(|request| client.send_request(request))).await;
        let mut texts = Vec::new();
        for answer in answers {
            texts.push(answer.unwrap().into_body().collect().await.unwrap().to_bytes());
        }
        assert_eq!(texts, ["waited\n", "both at once"]);
        // A stream that is given up takes its instance with it.
        let waiting = client.send_request(request("http://routes/wait?ms=600000"));
        tokio::select! {
            _ = waiting => panic!("no answer was due"),
            () = served.counts(|usage| usage.instances == 1) => {}
        }
        served.counts(|usage| usage.instances == 0).await;
        served.container.kill();
        assert_eq!(ended(&served.container).await, Exit::Killed);
    }
}

/// Pieces that nobody reads keep the buffers that they came in, which are larger by what came between them: that is
/// paid for, and given back when they are gone. A guest that has answered may read on, so that it pays still.
#[tokio::test]
async fn pieces_of_bodies_that_nobody_reads_are_paid_for() {
    fn frame(kind: u8, flags: u8, stream: u8, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, stream], content].concat()
    }
    const STREAMS: [u8; 4] = [1, 3, 5, 7];
    const PIECES: usize = 250;
    let asking = |path: &str| {
        // `:method: POST`, `:scheme: http`, and two with texts of their own.
        let length = u8::try_from(path.len()).unwrap();
        let head = [&b"\x83\x86\x04"[..], &[length], path.as_bytes(), b"\x01\x06routes"].concat();
        let mut sent = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(4, 0, 0, b"")[..]].concat();
        sent.extend(STREAMS.iter().flat_map(|stream| frame(1, 4, *stream, &head)));
        sent
    };
    // Of a kind that nobody knows, which is to be read over.
    let (piece, between) = ([0; 256], frame(0xfa, 0, 0, &[0; 8_000]));
    let flood: Vec<u8> = STREAMS
        .iter()
        .flat_map(|stream| {
            (0..PIECES).flat_map(|_| [frame(0, 0, *stream, &piece), between.clone()]).flatten()
        })
        .collect();
    let all = (STREAMS.len() * PIECES * 8_192) as u64;
    let until = async |served: &Served, says: &str, holds: &dyn Fn(u64) -> bool| {
        let held = async {
            while !holds(served.container.usage().memory) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, held).await.expect(says);
    };
    let mut limit = 64 * MIB;
    let (waits, answers) = ("/wait?ms=600000", "/later?ms=600000");
    for (path, fits) in [(answers, true), (waits, true), (waits, false)] {
        let served = both_with(config(), |spec| spec.memory_limit = Some(limit)).await.remove(0);
        let mut client = served.connect().await;
        client.write_all(&asking(path)).await.unwrap();
        served.counts(|usage| usage.instances == 4).await;
        if path == answers {
            let mut told = Vec::new();
            while told.windows(4).filter(|bytes| bytes == b"now\n").count() < STREAMS.len() {
                assert_ne!(client.read_buf(&mut told).await.unwrap(), 0);
            }
        }
        let before = served.container.usage().memory;
        let written = client.write_all(&flood).await;
        if fits {
            until(&served, "they are charged", &|memory| memory >= before + all / 10 * 9).await;
            drop(client);
        } else {
            // What cannot be paid for ends the connection.
            let ended = tokio::time::timeout(PATIENCE, client.read_to_end(&mut Vec::new())).await;
            assert!(ended.is_ok(), "{written:?}");
        }
        if path == answers {
            served.container.kill();
        }
        served.counts(|usage| usage.instances == 0).await;
        until(&served, "nothing is held any more", &|memory| memory == 0).await;
        if path == waits {
            limit = before + all / 2;
        }
    }
}

#[tokio::test]
async fn handlers_and_commands_are_not_mixed_up() {
    let bench = Bench::new();
    let handler = bench.runtime.prepare("example:handler", &example("handler"), "test").await.unwrap();
    let started = bench.runtime.start(handler, bench.spec(&Arc::default()));
    assert!(matches!(started, Err(StartError::NotCommand)));
    let command = bench.prepare(guests::SLEEP).await.unwrap();
    let served = bench.runtime.serve(command, bench.spec(&Arc::default()), config());
    assert!(matches!(served, Err(StartError::NotHandler)));
    let served = Served::with(bench, config(), |_| {}).await;
    let program = served.bench.runtime.prepare("example:handler", &example("handler"), "test").await.unwrap();
    let spec = ContainerSpec { network: served.pod.clone(), ..served.bench.spec(&Arc::default()) };
    let second = served.bench.runtime.serve(program, spec, config()).unwrap_err();
    assert_eq!(second.to_string(), "cannot listen on port 8080");
}
