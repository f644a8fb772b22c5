//! Requests of guests: `wasi:http/outgoing-handler`.
//!
//! They go through the pod's network as its sockets do, so the same names, services, policies and limits hold.
//! A container keeps a few connections for its next requests. Redirects are the guest's business.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use coracle_network::PodStack;
use http::{Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Sleep, sleep, timeout};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use super::connect::{Target, Trust, connect};
use super::errors;
use super::idle::Idle;
use super::memory::let_go_of_buffer;
use super::tasks::{Phase, Tasks};
use crate::limiter::Purse;
use crate::run::{Control, Traffic};

/// Requests of one container under way at one time, until the ends of both their bodies. Half of what its pod may
/// have of connections to the outside.
const REQUESTS: usize = 256;

/// Connections that a container keeps for later requests, the newest.
const IDLE_CONNECTIONS: usize = 32;

/// How long it keeps them. Servers of today keep theirs for five seconds (Node.js) to 75 (nginx).
const IDLE: Duration = Duration::from_secs(4);

/// How long a guest waits that does not say: what wasmtime gives it.
const PATIENCE: Duration = Duration::from_secs(600);

/// A container's way to ask others.
pub(crate) struct Client {
    stack: PodStack,
    traffic: Arc<Traffic>,
    purse: Purse,
    trust: Trust,
    requests: Arc<Semaphore>,
    idle: Idle<Connection>,
    /// They end with the client: without a guest nobody asks, and nobody reads.
    tasks: Arc<Tasks>,
}

/// A connection, and where it leads.
type Connection = (Target, SendRequest<Question>);

impl Client {
    pub(crate) fn new(stack: PodStack, control: &Arc<Control>, purse: Purse) -> Arc<Client> {
        Client::trusting(Trust::Host, stack, control, purse)
    }

    fn trusting(trust: Trust, stack: PodStack, control: &Arc<Control>, purse: Purse) -> Arc<Client> {
        let (traffic, share) = (Arc::clone(&control.traffic), Arc::clone(&control.share));
        let requests = Arc::new(Semaphore::new(REQUESTS));
        let tasks = Tasks::new(share);
        let idle = Idle::new(IDLE_CONNECTIONS, IDLE, Arc::clone(&tasks));
        Arc::new(Client { stack, traffic, purse, trust, requests, idle, tasks })
    }

    /// Sends a request. The future is the head of its answer; the work is done on the container's share of the CPUs,
    /// whoever waits for that, and ends when nobody does.
    pub(super) fn send(
        self: &Arc<Self>,
        request: Request<WasiBody>,
        options: RequestOptions,
    ) -> impl Future<Output = Result<Response<WasiBody>, Error>> + Send + 'static {
        let permit = Arc::clone(&self.requests).try_acquire_owned();
        let answered = permit.map(|permit| {
            let (mut to, answered) = oneshot::channel();
            let client = Arc::clone(self);
            self.tasks.spawn(async move {
                let result = tokio::select! {
                    biased;
                    () = to.closed() => return,
                    result = client.exchange(request, options, Arc::new(permit)) => result,
                };
                let _ = to.send(result);
            });
            answered
        });
        async {
            let answered = answered.map_err(|_| Error::ConnectionLimitReached)?;
            answered.await.unwrap_or(Err(Error::ConnectionTerminated))
        }
    }

    /// From a request to the head of its answer.
    async fn exchange(
        self: &Arc<Self>,
        request: Request<WasiBody>,
        options: RequestOptions,
        permit: Permit,
    ) -> Result<Response<WasiBody>, Error> {
        let target = Target::of(request.uri())?;
        let mut request = request.map(|body| Question { body, _permit: Arc::clone(&permit) });
        *request.uri_mut() = path_of(request.uri());
        let first_byte = options.first_byte_timeout.unwrap_or(PATIENCE);
        let (mut response, sender) = loop {
            let (mut sender, kept) = match self.kept(&target) {
                Some(sender) => (sender, true),
                None => {
                    let counted = (&self.traffic, &self.purse);
                    let connecting = connect(&self.stack, counted, &self.trust, &target, &self.tasks);
                    let within = options.connect_timeout.unwrap_or(PATIENCE);
                    (timeout(within, connecting).await.map_err(|_| Error::ConnectionTimeout)??, false)
                }
            };
            let answered = timeout(first_byte, sender.try_send_request(request)).await;
            match answered.map_err(|_| Error::ConnectionReadTimeout)? {
                Ok(response) => break (response, sender),
                Err(mut error) => match error.take_message() {
                    // The other side had closed the connection before the request left.
                    Some(back) if kept => request = back,
                    _ => return Err(errors::of_exchange(error.error())),
                },
            }
        };
        let patience = options.between_bytes_timeout.unwrap_or(PATIENCE);
        let_go_of_buffer(response.headers_mut());
        Ok(response.map(|body| {
            let back = Some((Arc::downgrade(self), (target, sender)));
            let mut answer = AnswerBody { body, patience, timer: None, back, permit };
            answer.done_if_empty();
            answer.boxed_unsync()
        }))
    }

    /// A connection of an earlier request, ready for another at once.
    fn kept(&self, target: &Target) -> Option<SendRequest<Question>> {
        let connection = self.idle.take(|(other, sender)| other == target && sender.is_ready());
        connection.map(|(_, sender)| sender)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.tasks.enter(Phase::Ended);
    }
}

/// What goes into the request line: servers are asked for paths, only proxies for more.
fn path_of(uri: &Uri) -> Uri {
    let path = uri.path_and_query().cloned().unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"));
    Uri::from(path)
}

/// One of the requests under way: it is over when both its bodies are.
type Permit = Arc<OwnedSemaphorePermit>;

/// The body of a request. The connection drops it when it has sent it.
pub(super) struct Question {
    body: WasiBody,
    _permit: Permit,
}

impl Body for Question {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer. Read to its end, it gives its connection back.
struct AnswerBody<B = Incoming> {
    body: B,
    /// How long it may be silent.
    patience: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    back: Option<(Weak<Client>, Connection)>,
    permit: Permit,
}

impl<B: Body> AnswerBody<B> {
    fn done_if_empty(&mut self) {
        if self.body.is_end_stream() {
            self.done();
        }
    }

    fn done(&mut self) {
        // An answer may come before its question has left: then nobody else can be asked there.
        let sent = Arc::strong_count(&self.permit) == 1;
        if let Some((client, connection)) = self.back.take()
            && let Some(client) = client.upgrade()
            && sent
            && !connection.1.is_closed()
        {
            client.idle.give(connection);
        }
    }
}

impl<B: Body<Data = Bytes, Error = hyper::Error> + Unpin> Body for AnswerBody<B> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let me = &mut *self;
        match Pin::new(&mut me.body).poll_frame(cx) {
            Poll::Pending => {
                let patience = me.patience;
                ready!(me.timer.get_or_insert_with(|| Box::pin(sleep(patience))).as_mut().poll(cx));
                me.back = None;
                Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
            }
            Poll::Ready(frame) => {
                me.timer = None;
                let frame = frame.map(|frame| frame.map_err(|error| errors::of_response(&error)));
                match &frame {
                    None => me.done(),
                    Some(Err(_)) => me.back = None,
                    Some(Ok(_)) => me.done_if_empty(),
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::Ordering;

    use coracle_budget::Budget;
    use coracle_network::{Config, Fabric, PodConfig};
    use http_body_util::{Empty, Full, StreamBody};
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use rustls::pki_types::PrivateKeyDer;
    use rustls::{ClientConfig, RootCertStore, ServerConfig};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::mpsc;
    use tokio::time::Instant;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::container::Cpu;
    use crate::executor::Executor;
    use crate::stdin::Stdin;
    use crate::threads::guests;

    /// A pod, what it needs, and one of its containers.
    fn pod() -> (PodStack, (Arc<Fabric>, Executor), Arc<Control>) {
        let fabric = Fabric::build(Config::default());
        let stack = fabric.add_pod(PodConfig { name: "pod".into(), ..PodConfig::default() }).unwrap();
        let executor = guests(1, || {}).unwrap();
        let share = executor.share(Cpu::default());
        let control = Control::new("asker".into(), &Stdin::Closed, share, 1 << 20);
        (stack, (fabric, executor), Arc::new(control))
    }

    fn client(trust: Trust, stack: PodStack, control: &Arc<Control>) -> Arc<Client> {
        Client::trusting(trust, stack, control, Purse::new(&Budget::new(None), control))
    }

    fn frames<T>(mut from: mpsc::Receiver<T>) -> impl futures::Stream<Item = T> {
        futures::stream::poll_fn(move |cx| from.poll_recv(cx))
    }

    fn nothing() -> WasiBody {
        Empty::new().map_err(|never| match never {}).boxed_unsync()
    }

    /// A server for `localhost`, and what a client that trusts it is set up with.
    async fn secured(stack: &PodStack) -> Arc<ClientConfig> {
        let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(issued.signing_key.serialize_der()).unwrap();
        let provider = || Arc::new(rustls::crypto::ring::default_provider());
        let server = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let chain = vec![issued.cert.der().clone()];
        let server = server.unwrap().with_no_client_auth().with_single_cert(chain, key).unwrap();
        let listener = stack.listen(([127, 0, 0, 1], 443).into(), 8).unwrap();
        tokio::spawn(async move {
            let acceptor = TlsAcceptor::from(Arc::new(server));
            while let Ok(stream) = listener.accept().await {
                let Ok(stream) = acceptor.accept(stream).await else { continue };
                let secret = service_fn(async |_| {
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"secret"))))
                });
                let served = hyper::server::conn::http1::Builder::new();
                let _ = served.serve_connection(TokioIo::new(stream), secret).await;
            }
        });
        let mut roots = RootCertStore::empty();
        roots.add(issued.cert.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        Arc::new(client.unwrap().with_root_certificates(roots).with_no_client_auth())
    }

    #[tokio::test]
    async fn who_is_not_trusted_is_not_asked() {
        let (stack, _needed, control) = pod();
        let trusted = secured(&stack).await;
        let ask = async |trust: Trust, uri: &str| {
            let client = client(trust, stack.clone(), &control);
            let request = Request::get(uri).body(nothing()).unwrap();
            let response = client.send(request, RequestOptions::default()).await;
            match response {
                Ok(response) => format!("{:?}", response.into_body().collect().await.unwrap().to_bytes()),
                Err(error) => format!("{error:?}"),
            }
        };
        let nobody = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let nobody = nobody.with_safe_default_protocol_versions().unwrap();
        let nobody = nobody.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        assert_eq!(ask(Trust::These(trusted.clone()), "https://localhost/").await, "b\"secret\"");
        assert_eq!(ask(Trust::These(Arc::new(nobody)), "https://localhost/").await, "TlsCertificateError");
        assert_eq!(ask(Trust::These(trusted), "https://127.0.0.1/").await, "TlsCertificateError");
        assert!(!control.share.used().is_zero(), "the container that asks pays for its handshakes");
    }

    /// Answers every request of every connection before it has read it.
    fn hasty(stack: &PodStack) {
        let listener = stack.listen(([127, 0, 0, 1], 80).into(), 8).unwrap();
        tokio::spawn(async move {
            while let Ok(mut stream) = listener.accept().await {
                tokio::spawn(async move {
                    let mut asked = [0; 1024];
                    while stream.read(&mut asked).await.is_ok_and(|read| read > 0) {
                        let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
                    }
                });
            }
        });
    }

    #[tokio::test]
    async fn who_is_answered_early_keeps_nobody_waiting() {
        let (stack, _needed, control) = pod();
        hasty(&stack);
        let traffic = &control.traffic;
        let client = client(Trust::Host, stack, &control);
        let ask = async |request: http::request::Builder, body: WasiBody| {
            let answered = client.send(request.body(body).unwrap(), RequestOptions::default());
            let answer = timeout(Duration::from_secs(60), answered).await.expect("an answer").unwrap();
            assert_eq!(answer.status(), 204);
            traffic.connections.load(Ordering::Relaxed)
        };
        let uri = "http://localhost/";
        let (pieces, unsent) = mpsc::channel::<Result<Frame<Bytes>, Error>>(1);
        let unsent = StreamBody::new(frames(unsent)).boxed_unsync();
        assert_eq!(ask(Request::post(uri), unsent).await, 1);
        assert_eq!(ask(Request::get(uri), nothing()).await, 2, "the first connection is not free");
        assert_eq!(
            client.requests.available_permits(),
            REQUESTS - 1,
            "the first request is still being sent"
        );
        drop(pieces);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_may_be_silent_for_so_long() {
        let (pieces, body) = mpsc::channel::<Result<Frame<Bytes>, hyper::Error>>(1);
        let permit = Arc::new(Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap());
        let body = StreamBody::new(frames(body));
        let patience = Duration::from_secs(10);
        let mut answer = AnswerBody { body, patience, timer: None, back: None, permit };
        let begun = Instant::now();
        let writer = tokio::spawn(async move {
            for _ in 0..3 {
                sleep(Duration::from_secs(9)).await;
                pieces.send(Ok(Frame::data(Bytes::from_static(b"piece")))).await.unwrap();
            }
            pieces
        });
        for _ in 0..3 {
            assert!(answer.frame().await.unwrap().is_ok());
        }
        let error = answer.frame().await.unwrap().unwrap_err();
        assert!(matches!(error, Error::ConnectionReadTimeout), "{error:?}");
        assert_eq!(begun.elapsed(), Duration::from_secs(3 * 9 + 10));
        drop(writer);
    }
}
