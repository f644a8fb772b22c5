//! The way to the API server with faults on it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body as ServerBody};
use coracle_client::random;
use futures::StreamExt;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use kube::client::Body;
use tokio::sync::watch;
use tower::{BoxError, ServiceExt};

/// The faults of one client's way. A clone is another handle.
#[derive(Clone)]
pub(crate) struct Chaos {
    shared: Arc<Shared>,
}

struct Shared {
    /// About one call in so many goes wrong; 0: none.
    rarity: AtomicU64,
    /// Nothing gets through in either direction.
    cut_off: AtomicBool,
    /// Counts up to end all watches.
    cuts: watch::Sender<u64>,
}

enum Fault {
    Delay(Duration),
    Refuse(u16, &'static str),
    /// The call never arrives.
    Lose,
    /// The call works, but its answer is lost.
    LoseReply,
    /// The call arrives twice; the second answer is the one that counts.
    Twice,
    /// A watch ends after so long.
    CutAfter(Duration),
}

impl Chaos {
    pub(crate) fn new() -> Chaos {
        let shared = Shared {
            rarity: AtomicU64::new(0),
            cut_off: AtomicBool::new(false),
            cuts: watch::Sender::new(0),
        };
        Chaos { shared: Arc::new(shared) }
    }

    /// About one call in `rarity` goes wrong from now on; 0: none.
    pub(crate) fn set_rarity(&self, rarity: u64) {
        self.shared.rarity.store(rarity, Ordering::Relaxed);
    }

    /// Cuts the way, or mends it.
    pub(crate) fn set_cut_off(&self, cut_off: bool) {
        self.shared.cut_off.store(cut_off, Ordering::Relaxed);
        self.cut_watches();
    }

    /// Cuts this way for good, and gives one for whoever comes next.
    pub(crate) fn replace(&self) -> Chaos {
        self.set_cut_off(true);
        let next = Chaos::new();
        next.set_rarity(self.shared.rarity.load(Ordering::Relaxed));
        next
    }

    fn is_cut_off(&self) -> bool {
        self.shared.cut_off.load(Ordering::Relaxed)
    }

    pub(crate) fn cut_watches(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// A client whose calls take this way.
    pub(crate) fn client(&self, router: Router) -> kube::Client {
        let chaos = self.clone();
        coracle_client::in_process(tower::service_fn(move |request: Request<Body>| {
            let (chaos, router) = (chaos.clone(), router.clone());
            async move { chaos.call(router, request).await }
        }))
    }

    async fn call(self, router: Router, request: Request<Body>) -> Result<Response<ServerBody>, BoxError> {
        if self.is_cut_off() {
            tokio::time::sleep(Duration::from_millis(500)).await;
            return Err("no route to the API server".into());
        }
        let watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let again = || Request::from_parts(parts.clone(), ServerBody::new(Full::new(body.clone())));
        let mut lose_reply = false;
        let mut cut_after = None;
        // Whoever creates pods lets the server name them, so a creation that arrives twice makes two: nobody can tell.
        let named_by_server = parts.method == http::Method::POST && parts.uri.path().ends_with("/pods");
        match self.pick(&parts.method, watch) {
            None => {}
            Some(Fault::Delay(time)) => tokio::time::sleep(time).await,
            Some(Fault::Refuse(code, reason)) => return Ok(refusal(code, reason)),
            Some(Fault::Lose) => return Err("the connection broke".into()),
            Some(Fault::LoseReply) => lose_reply = true,
            Some(Fault::Twice) if named_by_server => {}
            Some(Fault::Twice) => drop(router.clone().oneshot(again()).await),
            Some(Fault::CutAfter(time)) => cut_after = Some(time),
        }
        if self.is_cut_off() {
            return Err("the connection broke".into());
        }
        let answer = router.oneshot(again()).await?;
        if lose_reply || self.is_cut_off() {
            return Err("the connection broke before the answer".into());
        }
        Ok(if watch { answer.map(|body| self.watched(body, cut_after)) } else { answer })
    }

    /// The body of a watch that may be cut.
    fn watched(&self, body: ServerBody, cut_after: Option<Duration>) -> ServerBody {
        let mut cuts = self.shared.cuts.subscribe();
        let end = async move {
            let too_late = async {
                match cut_after {
                    Some(time) => tokio::time::sleep(time).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = cuts.changed() => {}
                () = too_late => {}
            }
        };
        ServerBody::from_stream(body.into_data_stream().take_until(Box::pin(end)))
    }

    fn pick(&self, method: &http::Method, watch: bool) -> Option<Fault> {
        let rarity = self.shared.rarity.load(Ordering::Relaxed);
        if rarity == 0 || random::below(rarity) != 0 {
            return None;
        }
        let millis = |most| Duration::from_millis(random::below(most));
        Some(match random::below(8) {
            0 => Fault::Refuse(500, "InternalError"),
            1 => Fault::Refuse(429, "TooManyRequests"),
            2 if method != http::Method::GET => Fault::Refuse(409, "Conflict"),
            2 => Fault::Refuse(410, "Expired"),
            3 => Fault::Delay(millis(2_000)),
            4 | 5 if watch => Fault::CutAfter(millis(10_000)),
            4 => Fault::Lose,
            5 if !watch => Fault::Twice,
            6 => Fault::Delay(millis(200)),
            _ => Fault::LoseReply,
        })
    }
}

fn refusal(code: u16, reason: &str) -> Response<ServerBody> {
    let status = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "a fault of the simulation", "reason": reason, "code": code,
    });
    Response::builder()
        .status(StatusCode::from_u16(code).unwrap())
        .header(header::CONTENT_TYPE, "application/json")
        .body(ServerBody::from(status.to_string()))
        .unwrap()
}
