//! The page, its parts and its stream.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Router,
    extract::{Query, Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
    routing::get,
};
use coracle_client::Informers;
use futures::{StreamExt, stream};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    access::{Access, Verdict},
    view::{Filter, View},
};

/// Pages open at once. Each costs a few dozen bytes per row and, while the cluster changes, the
/// rendering of what changed; a team looking at one box needs fewer.
const MAX_VIEWERS: usize = 32;

/// Every answer carries these: nothing is loaded from elsewhere, nothing runs that is not in a file of
/// ours, nobody frames the page, nothing stays in a cache, and the token leaves in no `Referer`.
const HEADERS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

struct Shared {
    access: Access,
    informers: Informers,
    viewers: Arc<Semaphore>,
    stop: CancellationToken,
}

pub(crate) fn router(access: Access, informers: Informers, stop: CancellationToken) -> Router {
    let viewers = Arc::new(Semaphore::new(MAX_VIEWERS));
    let shared = Arc::new(Shared { access, informers, viewers, stop });
    let file =
        |kind: &'static str, text: &'static str| get(async move || ([(header::CONTENT_TYPE, kind)], text));
    Router::new()
        .route("/", file("text/html; charset=utf-8", include_str!("../assets/page.html")))
        .route("/app.js", file("text/javascript; charset=utf-8", include_str!("../assets/app.js")))
        .route("/style.css", file("text/css; charset=utf-8", include_str!("../assets/style.css")))
        .route("/icon.svg", file("image/svg+xml", include_str!("../assets/icon.svg")))
        .route("/stream", get(updates))
        .with_state(shared.clone())
        .layer(middleware::from_fn_with_state(shared, guard))
}

/// Runs before every route, also before those that do not exist.
async fn guard(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let mut response = match shared.access.judge(request.uri(), request.headers()) {
        Verdict::Pass => next.run(request).await,
        Verdict::Enter => {
            let to = [(header::SET_COOKIE, shared.access.set_cookie()), (header::LOCATION, "/".to_owned())];
            (StatusCode::SEE_OTHER, to).into_response()
        }
        Verdict::Locked => {
            let html = [(header::CONTENT_TYPE, "text/html; charset=utf-8")];
            (StatusCode::UNAUTHORIZED, html, include_str!("../assets/locked.html")).into_response()
        }
        Verdict::WrongHost => {
            (StatusCode::MISDIRECTED_REQUEST, "This host is not served here.\n").into_response()
        }
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Wanted {
    namespace: String,
    selector: String,
}

/// The rows that pass the filter, then what changes about them, as Server-Sent Events.
async fn updates(State(shared): State<Arc<Shared>>, Query(wanted): Query<Wanted>) -> Response {
    let filter = match Filter::parse(&wanted.namespace, &wanted.selector) {
        Ok(filter) => filter,
        Err(error) => return refusal(&error.to_string(), false),
    };
    let Ok(place) = shared.viewers.clone().try_acquire_owned() else {
        return refusal("Too many pages are open.", true);
    };
    let view = View::new(&shared.informers, filter);
    let updates = stream::unfold((view, place), async |(mut view, place)| {
        let update = view.next().await;
        Some((Ok::<_, Infallible>(Event::default().data(update)), (view, place)))
    });
    let updates = updates.take_until(shared.stop.clone().cancelled_owned());
    Sse::new(updates).keep_alive(KeepAlive::default()).into_response()
}

/// A stream that only says why there is none: an `EventSource` cannot read the body of an error.
fn refusal(message: &str, again: bool) -> Response {
    let said = json!({ "message": message, "again": again }).to_string();
    let event = Event::default().event("refused").data(said);
    Sse::new(stream::iter([Ok::<_, Infallible>(event)])).into_response()
}
