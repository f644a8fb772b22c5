//! One request, from its head to the head of its answer.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use http::header::{HOST, RETRY_AFTER, UPGRADE};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::sync::oneshot;
use wasmtime_wasi_http::WasiBody;

use super::body::{AnswerBody, Failed, GuestBody, Run};
use super::charge::{Leaving, Paid, Unpaid};
use super::config::BODY_AHEAD;
use super::connection::Connection;
use super::errors;
use super::factory::{Full, Instance, MakeError};
use super::io::Busy;
use super::memory::{charged, fields_bytes};
use super::metrics::InFlight;
use super::pieces::Taken;
use super::server::Server;
use crate::limiter::Held;

/// Seconds after which a client that was turned away may try again.
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// Why a request gets its answer from the node.
#[derive(Debug)]
enum Refusal {
    /// It names no host, or several, or one that is none.
    NoHost,
    /// It wants another protocol on its connection.
    Upgrade,
    /// Too many are there already.
    Many,
    /// Too many wait already.
    Line,
    /// There is no room for an instance.
    Room(Full),
    /// There is no memory left to let it wait.
    Unpaid(Full),
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
    /// The guest answered with a status that begins an answer only, and is the node's to send.
    Interim(StatusCode),
}

impl From<Failed> for Refusal {
    fn from(Failed(full): Failed) -> Refusal {
        match full {
            None => Refusal::Failed,
            Some(Full::Node) => Refusal::Room(Full::Node),
            Some(full) => Refusal::Memory(full),
        }
    }
}

impl From<Unpaid> for Refusal {
    fn from(unpaid: Unpaid) -> Refusal {
        match unpaid {
            Unpaid::Many => Refusal::Many,
            Unpaid::Memory(full) => Refusal::Unpaid(full),
        }
    }
}

/// Answers a request.
pub(super) async fn answer(
    server: Arc<Server>,
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Response<AnswerBody> {
    let version = request.version();
    let account = (version >= Version::HTTP_2).then(|| Arc::clone(&connection.account));
    let request = request.map(|body| Taken::new(body, account));
    let flight = InFlight::begin(&server.metrics);
    let busy = connection.activity.request();
    if version < Version::HTTP_2 {
        // Its answer would come on top of earlier ones that have not left, without end.
        poll_fn(|cx| connection.account.poll_sent(cx)).await;
    }
    let (paid, ahead) = match pay(&server, &request) {
        Ok(paid) => paid,
        Err(unpaid) => return from_node(&server, &unpaid.into(), None, version, flight, busy),
    };
    let mut deadline = connection.deadline(flight.begun() + server.config.timeout);
    let no_body = request.method() == Method::HEAD;
    let answered = tokio::select! {
        biased;
        answered = guest_answer(&server, &connection, request, (&paid, ahead)) => answered,
        () = deadline.passed() => Err(Refusal::Late),
    };
    let response = match answered {
        Ok(response) => response,
        Err(refusal) => return from_node(&server, &refusal, Some(paid), version, flight, busy),
    };
    match Leaving::new(paid, version, response.headers(), &connection.account) {
        Ok(leaving) => from_guest(&server, response, no_body, leaving, flight, busy),
        Err(error) => {
            let refusal = Refusal::Memory((&error).into());
            from_node(&server, &refusal, None, version, flight, busy)
        }
    }
}

/// Pays for what a request makes the node hold: its head, and what comes ahead of its body, if it has one.
fn pay(server: &Server, request: &Request<Taken>) -> Result<(Arc<Paid>, Option<Held>), Unpaid> {
    let uri = request.uri();
    let path = uri.path_and_query().map_or(0, |path| path.as_str().len());
    let authority = uri.authority().map_or(0, |authority| authority.as_str().len());
    let paid = server.requests.begin(fields_bytes(request.headers()) + (path + authority) as u64)?;
    let has_body = !request.body().is_end_stream();
    let ahead = has_body.then(|| server.requests.lend(BODY_AHEAD.into())).transpose()?;
    Ok((paid, ahead))
}

/// Has a guest begin its answer.
async fn guest_answer(
    server: &Arc<Server>,
    connection: &Connection,
    mut request: Request<Taken>,
    (paid, ahead): (&Arc<Paid>, Option<Held>),
) -> Result<Response<GuestBody>, Refusal> {
    check(connection, &mut request)?;
    let permit = server.gate.enter().await.map_err(|_| Refusal::Line)?;
    let instance = instance(server).await?;
    let (sender, mut head) = oneshot::channel();
    let request = request.map(|body| {
        let body = body.map_err(|error| errors::of_request(&error)).boxed_unsync();
        // As long as it lives, which is the guest's to say.
        ahead.into_iter().fold(body, charged)
    });
    let held = (permit, Arc::clone(paid));
    let mut run = Some(Run::new(instance.handle(request, sender), Arc::clone(server), held));
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
        if response.status().is_informational() {
            return Poll::Ready(Err(Refusal::Interim(response.status())));
        }
        let mut response = response.map(|body| GuestBody::new(body, run.take()));
        response.body_mut().settle(cx);
        Poll::Ready(Ok(response))
    })
    .await
}

/// An instance that is free, or a new one.
async fn instance(server: &Server) -> Result<Instance, Refusal> {
    loop {
        if let Some(instance) = server.pool.take() {
            return Ok(instance);
        }
        match server.factory.make().await {
            Ok(instance) => return Ok(instance),
            Err(MakeError::NoRoom(full)) => return Err(Refusal::Room(full)),
            Err(MakeError::Part) => server.factory.part.freed().await,
            Err(MakeError::Failed(error)) => return Err(server.failed(&error).into()),
        }
    }
}

/// Refuses what no guest can answer.
fn check(connection: &Connection, request: &mut Request<Taken>) -> Result<(), Refusal> {
    if request.method() == Method::CONNECT || wants_websocket(request.headers()) {
        return Err(Refusal::Upgrade);
    }
    // RFC 9112, 3.2: who stands before the node may read the one, the guest the other.
    let mut hosts = request.headers().get_all(HOST).iter();
    let (host, more) = (hosts.next(), hosts.next());
    let named = request.uri().authority();
    let is_other =
        |host: &HeaderValue| !Authority::try_from(host.as_bytes()).is_ok_and(|host| is_host(&host));
    if more.is_some() || host.is_some_and(is_other) || named.is_some_and(|named| !is_host(named)) {
        return Err(Refusal::NoHost);
    }
    match (host, named) {
        (Some(_), _) => Ok(()),
        (None, Some(_)) if request.version() != Version::HTTP_11 => Ok(()),
        // Older clients need not say whom they want; a guest is told the address that they dialled.
        (None, None) if request.version() < Version::HTTP_11 => {
            let host = HeaderValue::from_str(&connection.local.to_string()).map_err(|_| Refusal::NoHost)?;
            request.headers_mut().insert(HOST, host);
            Ok(())
        }
        (None, _) => Err(Refusal::NoHost),
    }
}

/// Whether one of the protocols that a client would change to is WebSocket.
fn wants_websocket(headers: &HeaderMap) -> bool {
    let lists = headers.get_all(UPGRADE).into_iter();
    let mut protocols = lists.flat_map(|list| list.as_bytes().split(|byte| *byte == b','));
    protocols.any(|protocol| protocol.trim_ascii().eq_ignore_ascii_case(b"websocket"))
}

/// Whether it is a host, with a port or without, and nobody's name before it.
fn is_host(authority: &Authority) -> bool {
    let (text, host) = (authority.as_str(), authority.host());
    let port =
        text.strip_prefix(host).and_then(|rest| rest.strip_prefix(':').or(rest.is_empty().then_some("")));
    !host.is_empty()
        && port.is_some_and(|port| {
            port.is_empty() || (port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok())
        })
}

fn from_guest(
    server: &Arc<Server>,
    response: Response<GuestBody>,
    no_body: bool,
    leaving: Arc<Leaving>,
    mut flight: InFlight,
    busy: Busy,
) -> Response<AnswerBody> {
    flight.answered(response.status());
    let no_body = no_body || matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let (parts, body) = response.into_parts();
    let body = match no_body && !body.has_returned() {
        false => AnswerBody::guest(body, leaving, flight, busy),
        true => {
            body.finish_unread(server);
            AnswerBody::text("", Some(leaving), flight, busy)
        }
    };
    Response::from_parts(parts, body)
}

/// One that is not paid for, in HTTP/2, has no body, which could wait: the connection pays for so many heads.
fn from_node(
    server: &Server,
    refusal: &Refusal,
    paid: Option<Arc<Paid>>,
    version: Version,
    mut flight: InFlight,
    busy: Busy,
) -> Response<AnswerBody> {
    let (status, text) = match refusal {
        Refusal::NoHost => (StatusCode::BAD_REQUEST, "the request names no host, or not one\n"),
        Refusal::Upgrade => (
            StatusCode::NOT_IMPLEMENTED,
            "a wasi:http handler cannot take over a connection (WebSocket, CONNECT); a command with wasi:sockets can\n",
        ),
        Refusal::Many => (StatusCode::SERVICE_UNAVAILABLE, "too many requests are under way\n"),
        Refusal::Unpaid(Full::Pod) => {
            (StatusCode::SERVICE_UNAVAILABLE, "no room for another request: the pod's memory is used up\n")
        }
        Refusal::Unpaid(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "no room for another request: the container's memory limit is reached\n",
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
        Refusal::Interim(_) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "the handler answered with the status of no answer\n")
        }
    };
    match refusal {
        Refusal::NoHost | Refusal::Upgrade | Refusal::Failed | Refusal::Memory(_) => {}
        Refusal::Many | Refusal::Line | Refusal::Room(_) | Refusal::Unpaid(_) => server.metrics.overloaded(),
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
        Refusal::Interim(status) => {
            server.metrics.failed();
            server.trouble.tell(&format!("the handler answered with the status {}", status.as_u16()));
        }
    }
    flight.answered(status);
    let text = if paid.is_none() && version >= Version::HTTP_2 { "" } else { text };
    let leaving = paid.map(|paid| Leaving::plain(paid, version));
    let mut response = Response::new(AnswerBody::text(text, leaving, flight, busy));
    *response.status_mut() = status;
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(RETRY_AFTER, RETRY_SECONDS);
    }
    response
}
