//! One request, from its head to the head of its answer.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use http::header::{HOST, RETRY_AFTER, UPGRADE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::oneshot;
use wasmtime_wasi_http::WasiBody;

use super::body::{AnswerBody, Failed, GuestBody, Run};
use super::errors;
use super::factory::{Full, MakeError};
use super::io::Busy;
use super::metrics::InFlight;
use super::server::{Connection, Server};

/// Seconds after which a client that was turned away may try again.
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// Why a request gets its answer from the node.
#[derive(Debug)]
enum Refusal {
    /// It names no host.
    NoHost,
    /// It wants another protocol on its connection.
    Upgrade,
    /// Too many wait already.
    Line,
    /// There is no room for an instance.
    Room(Full),
    /// The answer did not begin in time.
    Late,
    /// The guest trapped, or could not be started.
    Failed,
    /// The guest wanted more memory than there is.
    Memory(Full),
    /// The guest returned without an answer.
    Nothing,
    /// The guest answered with an error.
    Guest(String),
}

impl From<Failed> for Refusal {
    fn from(Failed(full): Failed) -> Refusal {
        full.map_or(Refusal::Failed, Refusal::Memory)
    }
}

/// Answers a request.
pub(super) async fn answer(
    server: Arc<Server>,
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Response<AnswerBody> {
    let flight = InFlight::begin(&server.metrics);
    let busy = connection.activity.request();
    let mut deadline = connection.deadline(flight.begun() + server.config.timeout);
    let no_body = request.method() == Method::HEAD;
    let answered = tokio::select! {
        biased;
        answered = guest_answer(&server, &connection, request) => answered,
        () = deadline.passed() => Err(Refusal::Late),
    };
    match answered {
        Ok(response) => from_guest(&server, response, no_body, flight, busy),
        Err(refusal) => from_node(&server, &refusal, flight, busy),
    }
}

/// Has a guest begin its answer.
async fn guest_answer(
    server: &Arc<Server>,
    connection: &Connection,
    mut request: Request<Incoming>,
) -> Result<Response<GuestBody>, Refusal> {
    check(connection, &mut request)?;
    let permit = server.gate.enter().await.map_err(|_| Refusal::Line)?;
    let instance = match server.pool.take() {
        Some(instance) => instance,
        None => server.factory.make().await.map_err(|error| match error {
            MakeError::NoRoom(full) => Refusal::Room(full),
            MakeError::Failed(error) => Refusal::from(server.failed(&error)),
        })?,
    };
    let (sender, mut head) = oneshot::channel();
    let request = request.map(|body| body.map_err(|error| errors::of_request(&error)).boxed_unsync());
    let mut run = Some(Run::new(instance.handle(request, sender), Arc::clone(server), permit));
    let mut failed = None;
    poll_fn(|cx| {
        if let Some(running) = &mut run
            && let Poll::Ready(result) = Pin::new(running).poll(cx)
        {
            run = None;
            failed = result.err();
        }
        if let Some(failed) = failed {
            // Also if it had begun to answer: nobody has seen that yet.
            return Poll::Ready(Err(failed.into()));
        }
        let head = match (Pin::new(&mut head).poll(cx), &run) {
            (Poll::Ready(Ok(head)), _) => head,
            (Poll::Ready(Err(_)), _) | (Poll::Pending, None) => return Poll::Ready(Err(Refusal::Nothing)),
            (Poll::Pending, Some(_)) => return Poll::Pending,
        };
        let response: Response<WasiBody> = match head {
            Ok(response) => response,
            Err(code) => return Poll::Ready(Err(Refusal::Guest(code))),
        };
        let mut response = response.map(|body| GuestBody::new(body, run.take()));
        response.body_mut().settle(cx);
        Poll::Ready(Ok(response))
    })
    .await
}

/// Refuses what no guest can answer.
fn check(connection: &Connection, request: &mut Request<Incoming>) -> Result<(), Refusal> {
    let websocket = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"websocket");
    if request.method() == Method::CONNECT || request.headers().get(UPGRADE).is_some_and(websocket) {
        return Err(Refusal::Upgrade);
    }
    if request.uri().authority().is_some() {
        return Ok(());
    }
    match request.headers().get(HOST) {
        Some(host) if host.to_str().is_ok() => Ok(()),
        // Older clients need not say whom they want; a guest is told the address that they dialled.
        None if request.version() < Version::HTTP_11 => {
            let host = HeaderValue::from_str(&connection.local.to_string()).map_err(|_| Refusal::NoHost)?;
            request.headers_mut().insert(HOST, host);
            Ok(())
        }
        _ => Err(Refusal::NoHost),
    }
}

fn from_guest(
    server: &Arc<Server>,
    response: Response<GuestBody>,
    no_body: bool,
    mut flight: InFlight,
    busy: Busy,
) -> Response<AnswerBody> {
    flight.answered(response.status());
    let no_body = no_body
        || response.status().is_informational()
        || matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let (parts, body) = response.into_parts();
    let body = match no_body && !body.has_returned() {
        false => AnswerBody::guest(body, flight, busy),
        true => {
            body.finish_unread(server);
            AnswerBody::text("", flight, busy)
        }
    };
    Response::from_parts(parts, body)
}

fn from_node(server: &Server, refusal: &Refusal, mut flight: InFlight, busy: Busy) -> Response<AnswerBody> {
    let (status, text) = match refusal {
        Refusal::NoHost => (StatusCode::BAD_REQUEST, "the request names no host\n"),
        Refusal::Upgrade => (
            StatusCode::NOT_IMPLEMENTED,
            "a wasi:http handler cannot take over a connection (WebSocket, CONNECT); a command with wasi:sockets can\n",
        ),
        Refusal::Line => (StatusCode::SERVICE_UNAVAILABLE, "too many requests are waiting\n"),
        Refusal::Room(full) => (
            StatusCode::SERVICE_UNAVAILABLE,
            match full {
                Full::Node => "no room for another instance\n",
                Full::Container => "no room for another instance: the container's memory limit is reached\n",
                Full::Pod => "no room for another instance: the pod's memory is used up\n",
            },
        ),
        Refusal::Late => (StatusCode::GATEWAY_TIMEOUT, "no answer in time\n"),
        Refusal::Failed | Refusal::Memory(Full::Node) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "the handler failed\n")
        }
        Refusal::Memory(Full::Container) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "the handler failed: its container's memory limit is reached\n",
        ),
        Refusal::Memory(Full::Pod) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "the handler failed: its pod's memory is used up\n")
        }
        Refusal::Nothing => (StatusCode::INTERNAL_SERVER_ERROR, "the handler gave no answer\n"),
        Refusal::Guest(_) => (StatusCode::INTERNAL_SERVER_ERROR, "the handler answered with an error\n"),
    };
    match refusal {
        Refusal::NoHost | Refusal::Upgrade | Refusal::Failed | Refusal::Memory(_) => {}
        Refusal::Line | Refusal::Room(_) => server.metrics.overloaded(),
        Refusal::Late => {
            server.metrics.timed_out();
            server.trouble.tell("its answer did not begin in time");
        }
        Refusal::Nothing => {
            server.metrics.failed();
            server.trouble.tell("the handler returned without an answer");
        }
        Refusal::Guest(code) => {
            server.metrics.failed();
            server.trouble.tell(&format!("the handler answered with the error {code}"));
        }
    }
    flight.answered(status);
    let mut response = Response::new(AnswerBody::text(text, flight, busy));
    *response.status_mut() = status;
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(RETRY_AFTER, RETRY_SECONDS);
    }
    response
}
