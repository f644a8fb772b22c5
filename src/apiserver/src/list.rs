//! Lists: a consistent page of a collection, as stored bytes, metadata or a table.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use axum::{body::Body, response::Response};
use bytes::{Bytes, BytesMut};
use coracle_api::status::{Cause, Details, Status};
use coracle_store::{Compacted, Entry, ListOptions as StoreList, Revision, Store, StoreError};
use futures::stream;
use http::StatusCode;
use serde_json::{Map, Value, json};

use crate::{
    continue_token::ContinueToken,
    core::Core,
    facts::Selection,
    negotiation::{Form, Media, Output},
    options::{self, ListOptions, VersionMatch},
    pipeline::{served, served_bytes},
    registry::Resource,
    respond, table,
};

/// Lists up to so many bytes are answered in one piece, with a length; longer ones are streamed in
/// pieces of this size, so that a list of everything does not exist twice in memory.
const PIECE: usize = 256 * 1024;
/// Entries looked at per step where a selector leaves most out of a limited list.
const STEP: usize = 500;
/// How long a read waits for a revision that is not there yet: Kubernetes' figure.
const WAIT: Duration = Duration::from_secs(3);
/// How often it looks.
const WAIT_STEP: Duration = Duration::from_millis(20);

/// What is listed or watched.
pub(crate) struct Collection<'a> {
    pub(crate) core: &'a Core,
    pub(crate) resource: &'a Arc<Resource>,
    /// Empty for cluster-wide kinds and for all namespaces.
    pub(crate) namespace: &'a str,
    pub(crate) selection: &'a Selection,
}

impl Collection<'_> {
    /// The prefix of the keys that can be selected: one key, if only one name can.
    pub(crate) fn prefix(&self) -> String {
        match &self.selection.name {
            Some(name) if !self.resource.namespaced() || !self.namespace.is_empty() => {
                self.resource.key(self.namespace, name)
            }
            _ => self.resource.prefix(self.namespace),
        }
    }
}

/// One page of a list.
pub(crate) struct Page {
    pub(crate) entries: Vec<Arc<Entry>>,
    pub(crate) revision: Revision,
    pub(crate) continue_: Option<String>,
    pub(crate) remaining: Option<usize>,
}

impl Page {
    /// The `metadata` of the list.
    pub(crate) fn metadata(&self) -> Value {
        let mut metadata = Map::new();
        metadata.insert("resourceVersion".into(), json!(self.revision.to_string()));
        if let Some(token) = &self.continue_ {
            metadata.insert("continue".into(), json!(token));
        }
        if let Some(remaining) = self.remaining {
            metadata.insert("remainingItemCount".into(), json!(remaining));
        }
        Value::Object(metadata)
    }
}

/// Why a page cannot be had.
pub(crate) enum NoPage {
    Status(Status),
    /// The token's revision is gone; this token goes on at the newest state.
    ContinueExpired(String),
}

impl From<Status> for NoPage {
    fn from(status: Status) -> NoPage {
        NoPage::Status(status)
    }
}

/// Answers a list.
pub(crate) async fn respond(
    collection: &Collection<'_>,
    options: &ListOptions,
    output: Output,
    include: table::Include,
) -> Result<Response, Status> {
    let page = match page(collection, options).await {
        Ok(page) => page,
        Err(NoPage::Status(status)) => return Err(status),
        Err(NoPage::ContinueExpired(token)) => return Ok(continue_expired(output.media, &token)),
    };
    let resource = collection.resource;
    let kind = &resource.kind;
    match output.form {
        Form::Object if output.media == Media::Json => Ok(objects(resource, page)),
        Form::Object => {
            let items: Vec<Value> = page.entries.iter().map(|entry| served(resource, entry)).collect();
            let list = json!({
                "kind": format!("{}List", kind.kind),
                "apiVersion": kind.api_version(),
                "metadata": page.metadata(),
                "items": items,
            });
            Ok(respond::value_response(StatusCode::OK, output.media, &list))
        }
        Form::Partial { version } => {
            let items: Vec<Value> =
                page.entries.iter().map(|entry| table::partial(&served(resource, entry), version)).collect();
            let list = json!({
                "kind": "PartialObjectMetadataList",
                "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": page.metadata(),
                "items": items,
            });
            Ok(respond::value_response(StatusCode::OK, output.media, &list))
        }
        Form::Table { version } => {
            let now = collection.core.now();
            let rows =
                page.entries.iter().map(|e| table::row(kind, &served(resource, e), include, version, now));
            let table = table::table(kind, true, page.metadata(), rows.collect(), version);
            Ok(respond::value_response(StatusCode::OK, output.media, &table))
        }
    }
}

/// The stored bytes, one after the other, between the head and the tail of a list.
fn objects(resource: &Arc<Resource>, page: Page) -> Response {
    let kind = &resource.kind;
    let head = format!(
        r#"{{"kind":"{}List","apiVersion":"{}","metadata":{},"items":["#,
        kind.kind,
        kind.api_version(),
        page.metadata()
    );
    let size: usize = page.entries.iter().map(|entry| entry.value().len() + 1).sum();
    let mut pieces =
        Pieces { resource: resource.clone(), entries: page.entries.into(), started: false, ended: false };
    let mut first = BytesMut::with_capacity(head.len() + size.min(PIECE) + PIECE / 64);
    first.extend_from_slice(head.as_bytes());
    let body = if size <= PIECE {
        pieces.fill(&mut first, usize::MAX);
        Body::from(first.freeze())
    } else {
        pieces.fill(&mut first, PIECE);
        let rest = stream::iter(std::iter::once(first.freeze()).chain(pieces).map(Ok::<Bytes, Infallible>));
        Body::from_stream(rest)
    };
    respond::stream_response(StatusCode::OK, Media::Json.content_type(), body)
}

/// The items of a list that are not written yet.
struct Pieces {
    resource: Arc<Resource>,
    entries: VecDeque<Arc<Entry>>,
    started: bool,
    ended: bool,
}

impl Pieces {
    /// Writes items until there are at least `enough` bytes, and the tail after the last.
    fn fill(&mut self, out: &mut BytesMut, enough: usize) {
        while out.len() < enough {
            let Some(entry) = self.entries.pop_front() else {
                out.extend_from_slice(b"]}\n");
                self.ended = true;
                return;
            };
            if self.started {
                out.extend_from_slice(b",");
            }
            self.started = true;
            out.extend_from_slice(&served_bytes(&self.resource, &entry));
        }
    }
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let mut out = BytesMut::with_capacity(PIECE + PIECE / 64);
        self.fill(&mut out, PIECE);
        Some(out.freeze())
    }
}

/// Finds the page that the options ask for.
pub(crate) async fn page(collection: &Collection<'_>, options: &ListOptions) -> Result<Page, NoPage> {
    let kind = &collection.resource.kind;
    let store = &*collection.core.store;
    let prefix = collection.prefix();
    let wanted = options::revision(kind, &options.resource_version)?;
    if !options.continue_.is_empty() {
        if wanted.is_some_and(|revision| revision > 0) {
            let message = "specifying resource version is not allowed when using continue";
            return Err(Status::bad_request(message).into());
        }
        let token = ContinueToken::decode(&options.continue_)?;
        let after = format!("{}{}", collection.resource.prefix(collection.namespace), token.after);
        return collect(collection, &prefix, token.revision, Some(after), options.limit).map_err(|_| {
            let token = ContinueToken { revision: None, after: token.after.clone() };
            NoPage::ContinueExpired(token.encode())
        });
    }
    let exact = match (options.version_match, wanted) {
        (_, None) => {
            fresh(store).await?;
            None
        }
        (Some(VersionMatch::Exact), Some(revision)) => Some(revision),
        // A limited list at a revision was exact before there was a way to say so.
        (None, Some(revision)) if revision > 0 && options.limit > 0 => Some(revision),
        (_, Some(revision)) => {
            reach(store, revision).await?;
            None
        }
    };
    if let Some(revision) = exact {
        reach(store, revision).await?;
    }
    collect(collection, &prefix, exact, None, options.limit).map_err(|compacted| {
        let Compacted { requested, oldest } = compacted;
        Status::expired(format!(
            "The resourceVersion for the provided list is too old: {requested} (oldest {oldest})"
        ))
        .into()
    })
}

fn collect(
    collection: &Collection<'_>,
    prefix: &str,
    at: Option<Revision>,
    after: Option<String>,
    limit: usize,
) -> Result<Page, Compacted> {
    let Collection { core, resource, selection, .. } = collection;
    let everything = selection.is_everything();
    let step = if limit == 0 { None } else { Some(if everything { limit } else { limit.max(STEP) }) };
    let mut page = Page { entries: Vec::new(), revision: 0, continue_: None, remaining: None };
    let (mut at, mut after) = (at, after);
    loop {
        let listing = core.store.list(prefix, StoreList { at, after: after.take(), limit: step })?;
        page.revision = listing.revision;
        // Further steps look at the same state.
        at = Some(listing.revision);
        let mut remaining = listing.remaining;
        let mut last = None;
        for (index, entry) in listing.entries.iter().enumerate() {
            last = Some(entry.key());
            if selection.selects(entry, resource) {
                page.entries.push(entry.clone());
                if limit > 0 && page.entries.len() == limit {
                    remaining += listing.entries.len() - index - 1;
                    break;
                }
            }
        }
        let full = limit > 0 && page.entries.len() == limit;
        let Some(last) = last.filter(|_| remaining > 0) else { return Ok(page) };
        if full {
            let start = last.strip_prefix(&resource.prefix(collection.namespace)).unwrap_or(last);
            let token = ContinueToken { revision: Some(page.revision), after: start.to_owned() };
            page.continue_ = Some(token.encode());
            page.remaining = everything.then_some(remaining);
            return Ok(page);
        }
        if limit == 0 {
            return Ok(page);
        }
        after = Some(last.to_owned());
    }
}

/// Waits until memory is as new as anything acknowledged. A store that takes no more writes still knows
/// all that was.
pub(crate) async fn fresh(store: &dyn Store) -> Result<Revision, Status> {
    match store.fresh().await {
        Ok(revision) => Ok(revision),
        Err(StoreError::Failed(_)) => Ok(store.revision()),
        Err(StoreError::Closed) => Err(Status::service_unavailable("the server is shutting down")),
    }
}

/// Waits a little for a revision that somebody has seen elsewhere.
pub(crate) async fn reach(store: &dyn Store, revision: Revision) -> Result<(), Status> {
    if store.revision() >= revision {
        return Ok(());
    }
    let deadline = tokio::time::Instant::now() + WAIT;
    while fresh(store).await? < revision {
        if tokio::time::Instant::now() >= deadline {
            let message = format!("Too large resource version: {revision}, current: {}", store.revision());
            let cause = Cause {
                reason: "ResourceVersionTooLarge".into(),
                message: "Too large resource version".into(),
                field: String::new(),
            };
            let details = Details { causes: vec![cause], retry_after_seconds: 1, ..Details::default() };
            return Err(Status::timeout(&message, 1).with_details(details));
        }
        tokio::time::sleep(WAIT_STEP).await;
    }
    Ok(())
}

/// 410 with a token that goes on at the newest state, for clients that can live with the seam.
fn continue_expired(media: Media, token: &str) -> Response {
    let status = Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new \
         list without the continue parameter, or use the continue token in this response to retrieve the \
         remainder of the results. Continuing with the provided token results in an inconsistent list - objects \
         that were created, modified, or deleted between the time the first chunk was returned and now may show \
         up in the list.",
    );
    let mut value = status.to_value();
    value["metadata"] = json!({"continue": token});
    respond::value_response(StatusCode::GONE, media, &value)
}
