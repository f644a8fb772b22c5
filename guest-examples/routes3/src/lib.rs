//! A wasi:http component of WASI 0.3: `handle` is asynchronous, and bodies are streams of the component model. Its
//! routes are those of `routes`, and do what they do there:
//!
//! | route | what it does |
//! | --- | --- |
//! | `/` | says hello |
//! | `/echo` | sends back what it reads, as it reads it, and the trailers after it |
//! | `/pass` | the same, but what it is sent does not come through the guest |
//! | `/length` | reads the body to its end and says how long it was |
//! | `/bytes?n=` | sends that many bytes |
//! | `/count` | how many requests this instance has had |
//! | `/headers` | the request's headers, sorted |
//! | `/env?name=` | a variable of the environment |
//! | `/later?ms=` | answers first, works on, and then prints "later" |
//! | `/wait?ms=` | answers after a while |
//! | `/fetch?url=` | sends a request (`connect-ms`, `first-ms`, `between-ms`), with what it was sent, and passes the answer on |
//! | `/status?code=` | answers with that status |
//! | `/refuse` | answers with an error |
//! | `/trap`, `/half?ms=` | traps, before the answer and within it |
//! | `/spin`, `/grow?mib=` | never ends; takes memory |

use std::sync::atomic::{AtomicU64, Ordering};

use wasip3::clocks::monotonic_clock;
use wasip3::http::client;
use wasip3::http::types::{ErrorCode, Fields, Method, Request, RequestOptions, Response, Scheme, Trailers};
use wasip3::wit_bindgen::{FutureReader, StreamReader, StreamResult, StreamWriter};
use wasip3::{spawn_local, wit_future, wit_stream};

wasip3::http::service::export!(Routes);

struct Routes;

static REQUESTS: AtomicU64 = AtomicU64::new(0);

/// How a body ends.
type End = Result<Option<Trailers>, ErrorCode>;

impl wasip3::exports::http::handler::Guest for Routes {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let requests = REQUESTS.fetch_add(1, Ordering::Relaxed) + 1;
        let target = request.get_path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        match path {
            "/" => Ok(answer(200, "hello\n")),
            "/echo" => {
                let (mut stream, trailers) = consume(request);
                Ok(written(200, async move |mut body| {
                    copy(&mut stream, &mut body).await;
                    drop(body);
                    trailers.await
                }))
            }
            "/pass" => {
                let (stream, trailers) = consume(request);
                Ok(Response::new(Fields::new(), Some(stream), trailers).0)
            }
            "/length" => {
                let (mut stream, _trailers) = consume(request);
                let mut length = 0;
                while let Some(piece) = next(&mut stream).await {
                    length += piece.len();
                }
                Ok(answer(200, &format!("{length}\n")))
            }
            "/bytes" => {
                let mut left = number(query, "n") as usize;
                Ok(written(200, async move |mut body| {
                    while left > 0 {
                        let piece = vec![b'x'; left.min(4096)];
                        left -= piece.len();
                        if !body.write_all(piece).await.is_empty() {
                            break; // the client is gone
                        }
                    }
                    Ok(None)
                }))
            }
            "/count" => Ok(answer(200, &format!("{requests}\n"))),
            "/headers" => {
                let mut lines: Vec<String> = request
                    .get_headers()
                    .copy_all()
                    .into_iter()
                    .map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(&value)))
                    .collect();
                lines.sort();
                let authority = request.get_authority().unwrap_or_default();
                let method = request.get_method();
                Ok(answer(200, &format!("{method:?} {authority} {target}\n{}", lines.concat())))
            }
            "/env" => {
                let value = std::env::var(text(query, "name")).unwrap_or_else(|_| "(not set)".into());
                Ok(answer(200, &format!("{value}\n")))
            }
            "/later" => {
                let millis = number(query, "ms");
                spawn_local(async move {
                    sleep(millis).await;
                    println!("later");
                });
                Ok(answer(200, "now\n"))
            }
            "/wait" => {
                sleep(number(query, "ms")).await;
                Ok(answer(200, "waited\n"))
            }
            "/fetch" => {
                let url = text(query, "url");
                match fetch(&url, query, request).await {
                    Ok(response) => Ok(response),
                    Err(error) => Ok(answer(502, &format!("{error:?}\n"))),
                }
            }
            "/status" => Ok(answer(number(query, "code") as u16, "as you wish\n")),
            "/refuse" => Err(ErrorCode::HttpRequestDenied),
            "/trap" => panic!("asked to"),
            "/half" => {
                let millis = number(query, "ms");
                Ok(written(200, async move |mut body| {
                    body.write_all(b"the first half".to_vec()).await;
                    sleep(millis).await;
                    panic!("asked to, half-way");
                }))
            }
            "/spin" => loop {
                std::hint::spin_loop();
            },
            "/grow" => {
                let held: Vec<Vec<u8>> = (0..number(query, "mib")).map(|_| vec![1; 1 << 20]).collect();
                sleep(number(query, "ms")).await;
                Ok(answer(200, &format!("{} MiB\n", held.len())))
            }
            _ => Ok(answer(404, "no such route\n")),
        }
    }
}

/// A value of the query.
fn text(query: &str, name: &str) -> String {
    kit::field(query, name).unwrap_or_default()
}

fn number(query: &str, name: &str) -> u64 {
    text(query, name).parse().unwrap_or(0)
}

async fn sleep(millis: u64) {
    if millis > 0 {
        monotonic_clock::wait_for(millis * 1_000_000).await;
    }
}

/// What a request brings, and how it ends.
fn consume(request: Request) -> (StreamReader<u8>, FutureReader<End>) {
    let (_nothing_to_say, result) = wit_future::new(|| Ok(()));
    Request::consume_body(request, result)
}

/// The next piece, or none at the end.
async fn next(stream: &mut StreamReader<u8>) -> Option<Vec<u8>> {
    match stream.read(Vec::with_capacity(4096)).await {
        (StreamResult::Complete(_), piece) => Some(piece),
        (StreamResult::Dropped | StreamResult::Cancelled, _) => None,
    }
}

async fn copy(from: &mut StreamReader<u8>, to: &mut StreamWriter<u8>) {
    while let Some(piece) = next(from).await {
        if !to.write_all(piece).await.is_empty() {
            return; // the client is gone
        }
    }
}

/// An answer whose body is written while it is read.
fn written<F>(status: u16, write: impl FnOnce(StreamWriter<u8>) -> F) -> Response
where
    F: Future<Output = End> + 'static,
{
    let (body, stream) = wit_stream::new();
    let (end, trailers) = wit_future::new(|| Ok(None));
    let response = Response::new(Fields::new(), Some(stream), trailers).0;
    let _ = response.set_status_code(status);
    let writing = write(body);
    spawn_local(async move {
        let ended = writing.await;
        let _ = end.write(ended).await; // the client may be gone
    });
    response
}

fn answer(status: u16, text: &str) -> Response {
    let text = text.as_bytes().to_vec();
    written(status, async move |mut body| {
        body.write_all(text).await;
        Ok(None)
    })
}

/// Sends what came on to somebody else.
async fn fetch(url: &str, query: &str, request: Request) -> Result<Response, ErrorCode> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let (authority, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
    let method = request.get_method();
    let content = match method {
        Method::Post => Some(consume(request)),
        _ => None,
    };
    let (stream, trailers) = match content {
        Some((stream, trailers)) => (Some(stream), trailers),
        None => (None, wit_future::new(|| Ok(None)).1),
    };
    let options = RequestOptions::new();
    let millis =
        |name| Some(number(query, name)).filter(|millis| *millis > 0).map(|millis| millis * 1_000_000);
    let _ = options.set_connect_timeout(millis("connect-ms"));
    let _ = options.set_first_byte_timeout(millis("first-ms"));
    let _ = options.set_between_bytes_timeout(millis("between-ms"));
    let (request, _sent) = Request::new(Fields::new(), stream, trailers, Some(options));
    let _ = request.set_method(&method);
    let _ = request.set_scheme(Some(&if scheme == "https" { Scheme::Https } else { Scheme::Http }));
    let _ = request.set_authority(Some(authority));
    let _ = request.set_path_with_query(Some(path));
    let response = client::send(request).await?;
    let status = response.get_status_code();
    let (_nothing_to_say, result) = wit_future::new(|| Ok(()));
    let (stream, trailers) = Response::consume_body(response, result);
    let passed_on = Response::new(Fields::new(), Some(stream), trailers).0;
    let _ = passed_on.set_status_code(status);
    Ok(passed_on)
}
