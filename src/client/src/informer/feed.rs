//! Lists and watches a kind for as long as the process lives. Knows bytes and revisions, but no types.

use std::{borrow::Cow, sync::Arc, time::Duration};

use bytes::BytesMut;
use http::{Request, header};
use http_body_util::BodyExt;
use kube::{
    Client,
    client::Body,
    core::{ApiResource, Status},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, info_span, warn};

use crate::{Backoff, error::chain, random};

/// Objects per list request. Kubernetes' clients use 500; it bounds what one answer holds in memory.
const PAGE: usize = 500;

/// The longest a watch may last, in seconds; half of that is the shortest. As in client-go, so that
/// watches move to another server sooner or later, not all at once.
const WATCH_SECONDS: u64 = 600;

/// How long after its announced end a silent watch is given up: its connection has died unnoticed.
const WATCH_GRACE: Duration = Duration::from_secs(30);

/// The longest line of a watch. An object is at most about 1.5 MB.
const MAX_LINE: usize = 8 << 20;

/// A list that was not answered by then is given up.
const LIST_TIMEOUT: Duration = Duration::from_mins(1);

/// Failures wait this long before the next try.
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(50), max: Duration::from_secs(10) };

const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
const METADATA_LIST: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

/// Where decoded objects go.
pub(super) trait Sink: Send + Sync {
    /// Takes an object of a list under way.
    fn stage(&self, raw: &str) -> Result<(), serde_json::Error>;
    /// Forgets the list under way.
    fn unstage(&self);
    /// The list is complete: it replaces what was known.
    fn commit(&self, revision: u64);
    /// Takes a change and gives its revision.
    fn apply(&self, kind: EventKind, raw: &str) -> Result<u64, serde_json::Error>;
    /// Everything up to `revision` has been told.
    fn progress(&self, revision: u64);
    /// Nothing more will come.
    fn end(&self);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EventKind {
    Put,
    Deleted,
}

/// What the server is asked to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accept {
    Objects,
    /// Metadata alone, if the server can; otherwise the objects, of which the rest is skipped.
    Metadata,
}

pub(super) struct Feed {
    client: Client,
    path: String,
    accept: Accept,
    sink: Arc<dyn Sink>,
}

enum Phase {
    List,
    Watch { revision: u64 },
}

/// Why a list or a watch ended.
#[derive(Debug, thiserror::Error)]
enum FeedError {
    /// 410: the revision is no longer kept.
    #[error("the revision is gone")]
    Gone,
    #[error("the request failed")]
    Request(#[source] kube::Error),
    #[error("the server answered {code}: {message}")]
    Refused { code: u16, message: String },
    #[error("the answer is not what a list or watch is")]
    Decode(#[source] serde_json::Error),
    #[error("a line of the watch is longer than {MAX_LINE} bytes")]
    LineTooLong,
    #[error("the server did not answer in time")]
    TimedOut,
    #[error("the request cannot be built")]
    Build(#[source] http::Error),
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(default)]
    metadata: PageMeta,
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PageMeta {
    resource_version: Option<String>,
    #[serde(rename = "continue")]
    next: Option<String>,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct Bookmark {
    metadata: PageMeta,
}

impl Feed {
    pub(super) fn new(client: Client, resource: &ApiResource, accept: Accept, sink: Arc<dyn Sink>) -> Self {
        let root = if resource.group.is_empty() { "api" } else { "apis" };
        let path = format!("/{root}/{}/{}", resource.api_version, resource.plural);
        Feed { client, path, accept, sink }
    }

    pub(super) async fn run(self, shutdown: CancellationToken) {
        let span = info_span!("informer", path = %self.path);
        let work = async {
            let mut phase = Phase::List;
            let mut failures = 0;
            loop {
                phase = self.step(phase, &mut failures).await;
            }
        };
        shutdown.run_until_cancelled(work.instrument(span)).await;
        self.sink.end();
    }

    async fn step(&self, phase: Phase, failures: &mut u32) -> Phase {
        let started = Instant::now();
        let mut heard = false;
        let (next, outcome) = match phase {
            Phase::List => match self.list().await {
                Ok(revision) => {
                    *failures = 0;
                    return Phase::Watch { revision };
                }
                Err(error) => {
                    self.sink.unstage();
                    (Phase::List, Err(error))
                }
            },
            Phase::Watch { mut revision } => {
                let outcome = self.watch(&mut revision, &mut heard).await;
                let next = match &outcome {
                    Err(FeedError::Gone | FeedError::LineTooLong) => Phase::List,
                    _ => Phase::Watch { revision },
                };
                (next, outcome)
            }
        };
        // A watch that told something, or lasted, was a good one.
        if heard || started.elapsed() > BACKOFF.max {
            *failures = 0;
        }
        match outcome {
            Ok(()) if *failures == 0 && heard => return next,
            Ok(()) => debug!("the watch ended early"),
            Err(FeedError::Gone) => debug!("the watch fell behind: listing again"),
            Err(error) if *failures < 3 => debug!(error = %chain(&error), "trying again"),
            Err(error) => warn!(error = %chain(&error), "still failing: trying again"),
        }
        *failures = failures.saturating_add(1);
        tokio::time::sleep(random::jitter(BACKOFF.delay(*failures), 0.5)).await;
        next
    }

    /// Lists everything and gives the revision of the list.
    async fn list(&self) -> Result<u64, FeedError> {
        let mut next: Option<String> = None;
        self.sink.unstage();
        loop {
            let query = match &next {
                None => format!("limit={PAGE}"),
                Some(token) => format!("limit={PAGE}&continue={}", escape(token)),
            };
            let bytes = timeout(LIST_TIMEOUT, async {
                self.get(&query, METADATA_LIST).await?.collect_bytes().await.map_err(FeedError::Request)
            })
            .await
            .map_err(|_| FeedError::TimedOut)??;
            let page: Page<'_> = serde_json::from_slice(&bytes).map_err(FeedError::Decode)?;
            for raw in page.items.unwrap_or_default() {
                if let Err(error) = self.sink.stage(raw.get()) {
                    // One bad object must not hide all others.
                    error!(%error, "an object cannot be decoded: it is left out");
                }
            }
            match page.metadata.next {
                Some(token) if !token.is_empty() => next = Some(token),
                _ => {
                    let revision = parse(page.metadata.resource_version.as_deref());
                    self.sink.commit(revision);
                    return Ok(revision);
                }
            }
        }
    }

    /// Watches from `revision`, which it keeps up to date, until the stream ends. `heard` becomes true
    /// once anything arrived.
    async fn watch(&self, revision: &mut u64, heard: &mut bool) -> Result<(), FeedError> {
        let seconds = WATCH_SECONDS / 2 + random::below(WATCH_SECONDS / 2);
        let query = format!(
            "watch=true&allowWatchBookmarks=true&resourceVersion={revision}&timeoutSeconds={seconds}"
        );
        let deadline = Instant::now() + Duration::from_secs(seconds) + WATCH_GRACE;
        let mut body =
            timeout(LIST_TIMEOUT, self.get(&query, METADATA)).await.map_err(|_| FeedError::TimedOut)??;
        let mut rest = BytesMut::new();
        loop {
            let frame = match tokio::time::timeout_at(deadline, body.frame()).await {
                Err(_) => return Err(FeedError::TimedOut),
                Ok(None) => return Ok(()),
                Ok(Some(frame)) => frame.map_err(FeedError::Request)?,
            };
            let Ok(data) = frame.into_data() else { continue };
            if rest.is_empty() {
                // The usual case: a frame is a whole number of lines, read where it lies.
                let used = self.lines(&data, revision, heard)?;
                rest.extend_from_slice(&data[used..]);
            } else {
                rest.extend_from_slice(&data);
                let used = self.lines(&rest, revision, heard)?;
                let _ = rest.split_to(used);
            }
            if rest.len() > MAX_LINE {
                return Err(FeedError::LineTooLong);
            }
        }
    }

    /// Handles the complete lines in `data` and says how many bytes they were.
    fn lines(&self, data: &[u8], revision: &mut u64, heard: &mut bool) -> Result<usize, FeedError> {
        let mut used = 0;
        while let Some(length) = data[used..].iter().position(|byte| *byte == b'\n') {
            let line = &data[used..used + length];
            used += length + 1;
            if !line.iter().all(u8::is_ascii_whitespace) {
                self.line(line, revision)?;
                *heard = true;
            }
        }
        Ok(used)
    }

    fn line(&self, line: &[u8], revision: &mut u64) -> Result<(), FeedError> {
        let line: Line<'_> = serde_json::from_slice(line).map_err(FeedError::Decode)?;
        let raw = line.object.get();
        let kind = match line.kind.as_ref() {
            "ADDED" | "MODIFIED" => EventKind::Put,
            "DELETED" => EventKind::Deleted,
            "BOOKMARK" => {
                let bookmark: Bookmark = serde_json::from_str(raw).map_err(FeedError::Decode)?;
                *revision = (*revision).max(parse(bookmark.metadata.resource_version.as_deref()));
                self.sink.progress(*revision);
                return Ok(());
            }
            "ERROR" => {
                let status: Status = serde_json::from_str(raw).map_err(FeedError::Decode)?;
                return Err(refused(status));
            }
            other => {
                warn!(kind = other, "a watch event of an unknown type: ignored");
                return Ok(());
            }
        };
        match self.sink.apply(kind, raw) {
            Ok(at) => *revision = (*revision).max(at),
            Err(error) => error!(%error, "an object cannot be decoded: the change is left out"),
        }
        Ok(())
    }

    async fn get(&self, query: &str, metadata: &'static str) -> Result<Body, FeedError> {
        let accept = if self.accept == Accept::Metadata { metadata } else { "application/json" };
        let request = Request::get(format!("{}?{query}", self.path))
            .header(header::ACCEPT, accept)
            .header(header::ACCEPT_ENCODING, "identity")
            .body(Body::empty())
            .map_err(FeedError::Build)?;
        let response = self.client.send(request).await.map_err(FeedError::Request)?;
        let code = response.status();
        let body = response.into_body();
        if code.is_success() {
            return Ok(body);
        }
        let bytes = timeout(LIST_TIMEOUT, body.collect_bytes())
            .await
            .map_err(|_| FeedError::TimedOut)?
            .map_err(FeedError::Request)?;
        let mut status: Status = serde_json::from_slice(&bytes).unwrap_or_default();
        status.code = code.as_u16();
        Err(refused(status))
    }
}

fn refused(status: Status) -> FeedError {
    if status.code == 410 || status.reason == "Expired" || status.reason == "Gone" {
        FeedError::Gone
    } else {
        FeedError::Refused { code: status.code, message: status.message }
    }
}

fn parse(revision: Option<&str>) -> u64 {
    revision.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Percent-encodes what a query value may not hold.
fn escape(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}
