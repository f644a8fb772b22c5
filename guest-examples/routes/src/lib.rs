//! A wasi:http component with a route for each thing that a handler can do, and for each thing it should not.
//!
//! | route | what it does |
//! | --- | --- |
//! | `/` | says hello |
//! | `/echo` | sends back what it reads, as it reads it, and the trailers after it |
//! | `/length` | reads the body to its end and says how long it was |
//! | `/bytes?n=` | sends that many bytes |
//! | `/count` | how many requests this instance has had |
//! | `/headers` | the request's headers, sorted |
//! | `/env?name=` | a variable of the environment |
//! | `/print?text=` | writes to stdout in pieces |
//! | `/later?ms=` | answers first, works on, and then prints "later" |
//! | `/wait?ms=` | answers after a while |
//! | `/fetch?url=` | sends a request (`method`, `connect-ms`, `first-ms`, `between-ms`) and passes the answer on |
//! | `/status?code=` | answers with that status |
//! | `/head?kib=&ms=` | answers with headers of that many KiB and no body, and works on for a while |
//! | `/nothing` | returns without an answer |
//! | `/refuse` | answers with an error |
//! | `/trap`, `/half?ms=` | traps, before the answer and within it |
//! | `/spin`, `/grow?mib=` | never ends; takes memory |

use std::sync::atomic::{AtomicU64, Ordering};

use wasip2::clocks::monotonic_clock;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingBody, IncomingRequest, Method, OutgoingBody, OutgoingRequest,
    OutgoingResponse, RequestOptions, ResponseOutparam, Scheme,
};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};

wasip2::http::proxy::export!(Routes);

struct Routes;

static REQUESTS: AtomicU64 = AtomicU64::new(0);

impl Guest for Routes {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let requests = REQUESTS.fetch_add(1, Ordering::Relaxed) + 1;
        let target = request.path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        match path {
            "/" => answer(out, 200, b"hello\n"),
            "/echo" => echo(&request, out),
            "/length" => {
                let body = request.consume().expect("taken once");
                let stream = body.stream().expect("taken once");
                let mut length = 0;
                while let Ok(piece) = stream.blocking_read(64 << 10) {
                    length += piece.len();
                }
                answer(out, 200, format!("{length}\n").as_bytes());
            }
            "/bytes" => {
                let (body, stream) = begin(out, 200, Fields::new());
                let mut left = number(query, "n");
                let piece = [b'x'; 4096];
                while left > 0 {
                    let length = left.min(piece.len() as u64);
                    if stream.blocking_write_and_flush(&piece[..length as usize]).is_err() {
                        return; // the client is gone
                    }
                    left -= length;
                }
                drop(stream);
                let _ = OutgoingBody::finish(body, None);
            }
            "/count" => answer(out, 200, format!("{requests}\n").as_bytes()),
            "/headers" => {
                let mut lines: Vec<String> = request
                    .headers()
                    .entries()
                    .into_iter()
                    .map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(&value)))
                    .collect();
                lines.sort();
                let authority = request.authority().unwrap_or_default();
                let text = format!("{:?} {authority} {target}\n{}", request.method(), lines.concat());
                answer(out, 200, text.as_bytes());
            }
            "/env" => {
                let value = std::env::var(text(query, "name")).unwrap_or_else(|_| "(not set)".into());
                answer(out, 200, format!("{value}\n").as_bytes());
            }
            "/print" => {
                for letter in text(query, "text").chars() {
                    eprint!("{letter}");
                    sleep(1);
                }
                eprintln!();
                answer(out, 200, b"printed\n");
            }
            "/later" => {
                answer(out, 200, b"now\n");
                sleep(number(query, "ms"));
                println!("later");
            }
            "/wait" => {
                sleep(number(query, "ms"));
                answer(out, 200, b"waited\n");
            }
            "/fetch" => fetch(query, out),
            "/status" => answer(out, number(query, "code") as u16, b"as you wish\n"),
            "/head" => {
                let headers = Fields::new();
                for _ in 0..number(query, "kib") {
                    let _ = headers.append("x-filler", &[b'x'; 1024]);
                }
                let (body, stream) = begin(out, 200, headers);
                drop(stream);
                let _ = OutgoingBody::finish(body, None);
                sleep(number(query, "ms"));
            }
            "/nothing" => {}
            "/refuse" => ResponseOutparam::set(out, Err(ErrorCode::HttpRequestDenied)),
            "/trap" => panic!("asked to"),
            "/half" => {
                let (_body, stream) = begin(out, 200, Fields::new());
                let _ = stream.blocking_write_and_flush(b"the first half");
                sleep(number(query, "ms"));
                panic!("asked to, half-way");
            }
            "/spin" => loop {
                std::hint::spin_loop();
            },
            "/grow" => {
                let mut held: Vec<Vec<u8>> = Vec::new();
                for _ in 0..number(query, "mib") {
                    held.push(vec![1; 1 << 20]);
                }
                sleep(number(query, "ms"));
                answer(out, 200, format!("{} MiB\n", held.len()).as_bytes());
            }
            _ => answer(out, 404, b"no such route\n"),
        }
    }
}

/// A value of the query, as it is.
fn text<'a>(query: &'a str, name: &str) -> &'a str {
    let value = |pair: &'a str| pair.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value);
    query.split('&').find_map(value).unwrap_or_default()
}

fn number(query: &str, name: &str) -> u64 {
    text(query, name).parse().unwrap_or(0)
}

fn sleep(millis: u64) {
    if millis > 0 {
        monotonic_clock::subscribe_duration(millis * 1_000_000).block();
    }
}

/// Sends the head of an answer, and hands out what its body is written to.
fn begin(out: ResponseOutparam, status: u16, headers: Fields) -> (OutgoingBody, OutputStream) {
    let response = OutgoingResponse::new(headers);
    let _ = response.set_status_code(status);
    let body = response.body().expect("taken once");
    let stream = body.write().expect("taken once");
    ResponseOutparam::set(out, Ok(response));
    (body, stream)
}

fn answer(out: ResponseOutparam, status: u16, text: &[u8]) {
    let (body, stream) = begin(out, status, Fields::new());
    let written = text.chunks(4096).try_for_each(|piece| stream.blocking_write_and_flush(piece));
    drop(stream);
    if written.is_ok() {
        let _ = OutgoingBody::finish(body, None);
    }
}

fn echo(request: &IncomingRequest, out: ResponseOutparam) {
    let incoming = request.consume().expect("taken once");
    let stream = incoming.stream().expect("taken once");
    let (outgoing, output) = begin(out, 200, Fields::new());
    let copied = copy(&stream, &output);
    drop((stream, output));
    let trailers = IncomingBody::finish(incoming);
    trailers.subscribe().block();
    let trailers = match trailers.get() {
        Some(Ok(Ok(trailers))) => trailers.map(|trailers| trailers.clone()),
        _ => None,
    };
    if copied {
        let _ = OutgoingBody::finish(outgoing, trailers);
    }
}

/// True if everything was copied.
fn copy(from: &InputStream, to: &OutputStream) -> bool {
    loop {
        match from.blocking_read(4096) {
            Ok(piece) if to.blocking_write_and_flush(&piece).is_ok() => {}
            Err(StreamError::Closed) => return true,
            Ok(_) | Err(StreamError::LastOperationFailed(_)) => return false,
        }
    }
}

fn fetch(query: &str, out: ResponseOutparam) {
    let url = text(query, "url");
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let (authority, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
    let request = OutgoingRequest::new(Fields::new());
    let scheme = if scheme == "https" { Scheme::Https } else { Scheme::Http };
    let _ = request.set_scheme(Some(&scheme));
    let _ = request.set_authority(Some(authority));
    let _ = request.set_path_with_query(Some(path));
    if text(query, "method") == "post" {
        let _ = request.set_method(&Method::Post);
    }
    let options = RequestOptions::new();
    let millis =
        |name| Some(number(query, name)).filter(|millis| *millis > 0).map(|millis| millis * 1_000_000);
    let _ = options.set_connect_timeout(millis("connect-ms"));
    let _ = options.set_first_byte_timeout(millis("first-ms"));
    let _ = options.set_between_bytes_timeout(millis("between-ms"));
    let response = match outgoing_handler::handle(request, Some(options)) {
        Ok(future) => {
            future.subscribe().block();
            future.get().expect("it is ready").expect("taken once")
        }
        Err(error) => Err(error),
    };
    let response = match response {
        Ok(response) => response,
        Err(error) => return answer(out, 502, format!("{error:?}\n").as_bytes()),
    };
    let incoming = response.consume().expect("taken once");
    let stream = incoming.stream().expect("taken once");
    let (outgoing, output) = begin(out, response.status(), Fields::new());
    let copied = copy(&stream, &output);
    drop(output);
    if copied {
        let _ = OutgoingBody::finish(outgoing, None);
    }
}
