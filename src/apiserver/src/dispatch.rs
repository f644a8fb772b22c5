//! The front desk: who may come in, what is asked, who answers, and how long it may take.

use std::{
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::Body,
    extract::{Request, State},
    response::Response,
};
use coracle_api::{Scope, Subresource, status::Status};
use futures::FutureExt;
use http::{HeaderMap, HeaderValue, Method, Uri, request::Parts};
use hyper::upgrade::OnUpgrade;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout},
};
use tracing::Instrument;

use crate::{
    auth::User,
    authorize::{self, Action},
    core::{self, Core},
    discovery, health, openapi,
    options::Parameters,
    pipeline::Call,
    request_info::{RequestInfo, Target, Verb},
    respond::status_response,
    reviews,
    shares::Share,
    subresources, verbs, virtuals,
};

/// Time for anything but watches and streams, as in Kubernetes.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Requests worked on at once, watches and streams aside: Kubernetes' figure for reads and writes
/// together. More of them would only share the same cores.
const IN_FLIGHT: usize = 600;
/// Requests that may wait for their turn; more are answered 429.
const WAITING: u32 = 10_000;
/// How long one waits for its turn before it is answered 429.
const MAX_WAIT: Duration = Duration::from_secs(15);

/// Bounds how many requests are worked on.
pub(crate) struct Admittance {
    slots: Semaphore,
    waiting: AtomicU32,
}

impl Default for Admittance {
    fn default() -> Admittance {
        Admittance { slots: Semaphore::new(IN_FLIGHT), waiting: AtomicU32::new(0) }
    }
}

impl Admittance {
    async fn enter(&self) -> Result<SemaphorePermit<'_>, Status> {
        if let Ok(slot) = self.slots.try_acquire() {
            return Ok(slot);
        }
        let busy = || Status::too_many_requests("Too many requests, please try again later.", 1);
        let waiting = Waiting::begin(&self.waiting).ok_or_else(busy)?;
        let slot = timeout(MAX_WAIT, self.slots.acquire()).await;
        drop(waiting);
        slot.ok().and_then(Result::ok).ok_or_else(busy)
    }
}

/// Counts one waiting request, also when its client gives up.
struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicU32) -> Option<Waiting<'a>> {
        let waiting = Waiting(count);
        (count.fetch_add(1, Ordering::Relaxed) < WAITING).then_some(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is known of a request before its body is read.
pub(crate) struct Asked {
    pub(crate) info: RequestInfo,
    pub(crate) parameters: Parameters,
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    /// The connection itself, if the client may turn it into something else than HTTP.
    pub(crate) upgrade: Option<OnUpgrade>,
    /// What a long-running request counts for; a stream keeps it.
    pub(crate) share: Share,
    pub(crate) call: Call,
}

/// Answers a request, whatever it is.
pub(crate) async fn handle(State(core): State<Arc<Core>>, request: Request) -> Response {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let id = core::new_uid();
    let parameters = Parameters::of(&parts.uri);
    let target = RequestInfo::parse(&parts.method, parts.uri.path(), parameters.flag("watch"));
    let measure = core.metrics.begin(&target);
    let user = parts.extensions.get::<User>().cloned();
    let span = tracing::debug_span!("request", %id);
    let name = user.as_ref().map_or_else(String::new, |user| user.name.clone());
    let (method, uri) = (parts.method.clone(), parts.uri.clone());

    let outcome = answer(core.clone(), parts, body, target, parameters, user);
    // A defect in one handler is that request's error, not the end of the connection or of the in-process
    // caller: nothing that a handler shares is left half-written by unwinding.
    let outcome = AssertUnwindSafe(Box::pin(outcome.instrument(span.clone()))).catch_unwind().await;
    let mut response = match outcome {
        Ok(Ok(response)) => response,
        Ok(Err(status)) => status_response(&status),
        Err(_) => {
            tracing::error!(%id, "the handler of {method} {uri} panicked");
            status_response(&Status::internal_error("the request handler failed"))
        }
    };
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("audit-id", id);
    }
    let elapsed = started.elapsed();
    measure.end(response.status(), elapsed);
    span.in_scope(|| {
        tracing::debug!(user = name, code = response.status().as_u16(), ?elapsed, "{method} {uri}");
    });
    response
}

async fn answer(
    core: Arc<Core>,
    mut parts: Parts,
    body: Body,
    target: Target,
    parameters: Parameters,
    user: Option<User>,
) -> Result<Response, Status> {
    let info = match target {
        Target::Resource(info) => info,
        Target::MethodNotAllowed => return Err(Status::method_not_allowed_path()),
        Target::Other => return elsewhere(&core, &parts, &parameters, user.as_ref()).await,
    };
    let user = user.ok_or_else(Status::unauthorized)?;
    let catalogue = core.registry.catalogue();
    let upgrade = parts.extensions.remove::<OnUpgrade>();
    let Parts { method, uri, headers, .. } = parts;
    let Some(resource) = catalogue.find(&info.group, &info.version, &info.resource) else {
        let found = virtuals::find(&info).ok_or_else(Status::unknown_path)?;
        let action = info.action();
        if !authorize::allows(&user, action) {
            let why = authorize::refusal(&user, action);
            return Err(virtuals::forbidden(found, &info.name, &why));
        }
        let _slot = core.admittance.enter().await?;
        let answer = virtuals::respond(&core, &user, found, &info, &parameters, &headers, body);
        return timeout(REQUEST_TIMEOUT, answer).await.map_err(|_| late())?;
    };
    let call = Call {
        core: core.clone(),
        resource: resource.clone(),
        catalogue: catalogue.clone(),
        namespace: info.namespace.clone(),
        name: info.name.clone(),
        subresource: info.subresource.clone(),
        user,
        dry_run: false,
    };
    authorize(&call, &info)?;
    check_scope(&call, &info)?;
    let long = info.is_long();
    let share = if long { core.shares.begin(&call.user)? } else { Share::default() };
    let asked = Asked { info, parameters, method, uri, headers, upgrade, share: share.clone(), call };
    if long {
        return route(asked, body).await.map(|response| response.map(|body| share.hold(body)));
    }
    if !asked.info.verb.is_mutating() {
        let _slot = core.admittance.enter().await?;
        return timeout(REQUEST_TIMEOUT, route(asked, body)).await.map_err(|_| late())?;
    }
    let under_way = core.tasks.token();
    let write = async move {
        let core = asked.call.core.clone();
        let _slot = core.admittance.enter().await?;
        let answer = route(asked, body).await;
        drop(under_way);
        answer
    };
    timeout(REQUEST_TIMEOUT, Carried::new(write.in_current_span())).await.map_err(|_| late())?
}

/// A write that has begun. It is carried to its end, also when its client leaves: what it took (addresses, ports)
/// must be kept or given back by what became of it, not by when the connection broke.
///
/// As long as somebody waits for it, it runs where it was asked for; a task of its own would cost every write of
/// this process a few changes of threads.
struct Carried<F: Future<Output: Send> + Send + 'static> {
    /// `None` after its end.
    write: Option<Pin<Box<F>>>,
    runtime: Handle,
}

impl<F: Future<Output: Send> + Send + 'static> Carried<F> {
    fn new(write: F) -> Carried<F> {
        Carried { write: Some(Box::pin(write)), runtime: Handle::current() }
    }
}

impl<F: Future<Output: Send> + Send + 'static> Future for Carried<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let write = self.write.as_mut().expect("nobody waits for a write that has ended");
        let answer = ready!(write.as_mut().poll(cx));
        self.write = None;
        Poll::Ready(answer)
    }
}

impl<F: Future<Output: Send> + Send + 'static> Drop for Carried<F> {
    fn drop(&mut self) {
        // One that panicked has ended, too.
        if let Some(write) = self.write.take().filter(|_| !std::thread::panicking()) {
            self.runtime.spawn(write);
        }
    }
}

fn late() -> Status {
    Status::timeout("request did not complete within the allotted timeout", 0)
}

/// Refuses what the user may not do.
fn authorize(call: &Call, info: &RequestInfo) -> Result<(), Status> {
    let action = info.action();
    if authorize::allows(&call.user, action) {
        return Ok(());
    }
    Err(Status::forbidden(call.kind(), &info.name, &authorize::refusal(&call.user, action)))
}

/// A namespaced object is addressed in its namespace, a cluster-wide one is not; only lists, watches and
/// nothing else go over all namespaces.
fn check_scope(call: &Call, info: &RequestInfo) -> Result<(), Status> {
    let namespaced = call.kind().scope == Scope::Namespaced;
    if !namespaced && !info.namespace.is_empty() {
        return Err(Status::unknown_path());
    }
    if namespaced && info.namespace.is_empty() {
        let reads = matches!(info.verb, Verb::List | Verb::Watch) && info.name.is_empty();
        return match info.name.is_empty() {
            _ if reads => Ok(()),
            true => Err(Status::method_not_allowed_path()),
            false => Err(Status::unknown_path()),
        };
    }
    Ok(())
}

/// Finds who answers a request for a resource.
async fn route(asked: Asked, body: Body) -> Result<Response, Status> {
    let kind = asked.call.kind();
    let has = |wanted: fn(&Subresource) -> bool| kind.subresources.iter().any(wanted);
    let not_here = || Err(Status::method_not_allowed_path());
    match (asked.info.subresource.as_str(), asked.info.verb) {
        ("", verb) => match verb {
            Verb::Get => verbs::get(&asked).await,
            Verb::List => verbs::list(&asked).await,
            Verb::Watch => verbs::watch(&asked).await,
            Verb::Create => verbs::create(asked, body).await,
            Verb::Update => verbs::update(asked, body).await,
            Verb::Patch => verbs::patch(asked, body).await,
            Verb::Delete => verbs::delete(asked, body).await,
            // All namespaces at once is nothing that anybody means.
            Verb::DeleteCollection if crate::delete::is_namespace(kind) => not_here(),
            Verb::DeleteCollection => verbs::delete_collection(asked, body).await,
        },
        ("status", verb) if has(|s| *s == Subresource::Status) => match verb {
            Verb::Get => verbs::get(&asked).await,
            Verb::Update => verbs::update(asked, body).await,
            Verb::Patch => verbs::patch(asked, body).await,
            _ => not_here(),
        },
        ("scale", verb) if has(|s| matches!(s, Subresource::Scale { .. })) => match verb {
            Verb::Get => subresources::scale::get(&asked).await,
            Verb::Update => subresources::scale::update(asked, body).await,
            Verb::Patch => subresources::scale::patch(asked, body).await,
            _ => not_here(),
        },
        ("binding", verb) if has(|s| *s == Subresource::Binding) => match verb {
            Verb::Create => subresources::binding::create(asked, body).await,
            _ => not_here(),
        },
        ("log", verb) if has(|s| *s == Subresource::Log) => match verb {
            Verb::Get => subresources::log::get(&asked).await,
            _ => not_here(),
        },
        ("token", verb) if has(|s| *s == Subresource::Token) => match verb {
            Verb::Create => subresources::token::create(asked, body).await,
            _ => not_here(),
        },
        ("eviction", verb) if has(|s| *s == Subresource::Eviction) => match verb {
            Verb::Create => subresources::eviction::create(asked, body).await,
            _ => not_here(),
        },
        ("ephemeralcontainers", verb) if has(|s| *s == Subresource::EphemeralContainers) => match verb {
            Verb::Get => verbs::get(&asked).await,
            Verb::Update => verbs::update_with(asked, body, subresources::part::ephemeral_containers).await,
            Verb::Patch => verbs::patch_with(asked, body, subresources::part::ephemeral_containers).await,
            _ => not_here(),
        },
        ("resize", verb) if has(|s| *s == Subresource::Resize) => match verb {
            Verb::Get => verbs::get(&asked).await,
            Verb::Update => verbs::update_with(asked, body, subresources::part::resources).await,
            Verb::Patch => verbs::patch_with(asked, body, subresources::part::resources).await,
            _ => not_here(),
        },
        ("exec", verb) if has(|s| *s == Subresource::Exec) => match verb {
            Verb::Get | Verb::Create => subresources::stream::exec(asked, body).await,
            _ => not_here(),
        },
        ("attach", verb) if has(|s| *s == Subresource::Attach) => match verb {
            Verb::Get | Verb::Create => subresources::stream::attach(asked, body).await,
            _ => not_here(),
        },
        ("portforward", verb) if has(|s| *s == Subresource::PortForward) => match verb {
            Verb::Get | Verb::Create => subresources::stream::port_forward(asked, body).await,
            _ => not_here(),
        },
        ("proxy", _) if has(|s| *s == Subresource::Proxy) => subresources::proxy::any(asked, body).await,
        ("finalize", verb) if crate::delete::is_namespace(kind) => match verb {
            Verb::Update => subresources::finalize::update(asked, body).await,
            _ => not_here(),
        },
        _ => Err(Status::unknown_path()),
    }
}

/// Paths that are not resources.
async fn elsewhere(
    core: &Arc<Core>,
    parts: &Parts,
    parameters: &Parameters,
    user: Option<&User>,
) -> Result<Response, Status> {
    if let Some(user) = user {
        let action = Action::Path { verb: &parts.method.as_str().to_lowercase(), path: parts.uri.path() };
        if !authorize::allows(user, action) {
            return Err(Status::forbidden_path(&authorize::refusal(user, action)));
        }
    }
    let path = parts.uri.path().trim_end_matches('/');
    let known = match path {
        "/healthz" | "/livez" | "/readyz" => Some(health::respond(core, path, parameters).await),
        "/metrics" => Some(core.metrics.respond(core)),
        "/version" => Some(discovery::version()),
        "/openid/v1/jwks" => Some(reviews::jwks(core)),
        "/.well-known/openid-configuration" => Some(reviews::openid_configuration(&parts.headers)),
        _ => discovery::respond(core, path, &parts.headers)
            .or_else(|| openapi::respond(core, path, &parts.headers))
            .or_else(|| openapi::respond_v2(path, &parts.headers)),
    };
    let known = match known {
        None => health::respond_part(core, path).await,
        found => found,
    };
    let response = known.ok_or_else(Status::unknown_path)?;
    let reads = parts.method == Method::GET || parts.method == Method::HEAD;
    if reads { Ok(response) } else { Err(Status::method_not_allowed_path()) }
}
