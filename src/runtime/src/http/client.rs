//! Requests of guests: `wasi:http/outgoing-handler`.
//!
//! They go through the pod's network as its sockets do, so the same names, services, policies and limits hold.
//! A container keeps a few connections for its next requests. Redirects are the guest's business.

use std::collections::VecDeque;
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
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep, timeout};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use super::connect::{Target, Trust, connect};
use super::errors;
use crate::run::Traffic;

/// Requests of one container under way at one time, until the ends of their answers. Half of what its pod may
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
    trust: Trust,
    requests: Arc<Semaphore>,
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    /// The oldest first.
    connections: VecDeque<(Target, SendRequest<WasiBody>, Instant)>,
    /// Somebody will drop those that wait too long.
    watched: bool,
}

impl Client {
    pub(crate) fn new(stack: PodStack, traffic: Arc<Traffic>) -> Arc<Client> {
        Client::trusting(Trust::Host, stack, traffic)
    }

    fn trusting(trust: Trust, stack: PodStack, traffic: Arc<Traffic>) -> Arc<Client> {
        let requests = Arc::new(Semaphore::new(REQUESTS));
        Arc::new(Client { stack, traffic, trust, requests, idle: Mutex::default() })
    }

    /// Sends a request and waits for the head of its answer.
    pub(super) async fn send(
        self: &Arc<Self>,
        mut request: Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<Response<WasiBody>, Error> {
        let permit = Arc::clone(&self.requests).try_acquire_owned();
        let permit = permit.map_err(|_| Error::ConnectionLimitReached)?;
        let target = Target::of(request.uri())?;
        *request.uri_mut() = path_of(request.uri());
        let first_byte = options.first_byte_timeout.unwrap_or(PATIENCE);
        let (response, sender) = loop {
            let (mut sender, kept) = match self.kept(&target).await {
                Some(sender) => (sender, true),
                None => {
                    let connecting = connect(&self.stack, &self.traffic, &self.trust, &target);
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
        Ok(response.map(|body| {
            let back = Some((Arc::downgrade(self), target, sender));
            let mut answer = AnswerBody { body, patience, timer: None, back, _permit: permit };
            answer.done_if_empty();
            answer.boxed_unsync()
        }))
    }

    /// A connection of an earlier request, ready for another.
    async fn kept(&self, target: &Target) -> Option<SendRequest<WasiBody>> {
        loop {
            let mut sender = {
                let mut idle = self.idle.lock();
                let number = idle.connections.iter().rposition(|(other, ..)| other == target)?;
                idle.connections.remove(number)?.1
            };
            if sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
    }

    /// Keeps a connection whose request is over.
    fn keep(self: &Arc<Self>, target: Target, sender: SendRequest<WasiBody>) {
        if sender.is_closed() {
            return;
        }
        let mut idle = self.idle.lock();
        idle.connections.push_back((target, sender, Instant::now()));
        let oldest =
            if idle.connections.len() > IDLE_CONNECTIONS { idle.connections.pop_front() } else { None };
        if !std::mem::replace(&mut idle.watched, true) {
            tokio::spawn(watch(Arc::downgrade(self)));
        }
        drop(idle);
        drop(oldest);
    }

    /// Drops those that have waited too long; false if none is left to watch.
    fn sweep(&self) -> bool {
        let mut idle = self.idle.lock();
        let now = Instant::now();
        let old = idle.connections.partition_point(|(_, _, since)| now.duration_since(*since) >= IDLE);
        let gone: Vec<_> = idle.connections.drain(..old).collect();
        idle.watched = !idle.connections.is_empty();
        let watched = idle.watched;
        drop(idle);
        drop(gone);
        watched
    }
}

/// Looks after idle connections as long as there are any.
async fn watch(client: Weak<Client>) {
    loop {
        sleep(IDLE / 2).await;
        if !client.upgrade().is_some_and(|client| client.sweep()) {
            return;
        }
    }
}

/// What goes into the request line: servers are asked for paths, only proxies for more.
fn path_of(uri: &Uri) -> Uri {
    let path = uri.path_and_query().cloned().unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"));
    Uri::from(path)
}

/// The body of an answer. Read to its end, it gives its connection back.
struct AnswerBody {
    body: Incoming,
    /// How long it may be silent.
    patience: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    back: Option<(Weak<Client>, Target, SendRequest<WasiBody>)>,
    _permit: OwnedSemaphorePermit,
}

impl AnswerBody {
    fn done_if_empty(&mut self) {
        if self.body.is_end_stream() {
            self.done();
        }
    }

    fn done(&mut self) {
        if let Some((client, target, sender)) = self.back.take()
            && let Some(client) = client.upgrade()
        {
            client.keep(target, sender);
        }
    }
}

impl Body for AnswerBody {
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

    use coracle_network::{Config, Fabric, PodConfig};
    use http_body_util::{Empty, Full};
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use rustls::pki_types::PrivateKeyDer;
    use rustls::{ClientConfig, RootCertStore, ServerConfig};
    use tokio_rustls::TlsAcceptor;

    use super::*;

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
        let fabric = Fabric::build(Config::default());
        let stack = fabric.add_pod(PodConfig { name: "pod".into(), ..PodConfig::default() }).unwrap();
        let trusted = secured(&stack).await;
        let ask = async |trust: Trust, uri: &str| {
            let client = Client::trusting(trust, stack.clone(), Arc::default());
            let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
            let request = Request::get(uri).body(body).unwrap();
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
    }
}
