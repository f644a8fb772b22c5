//! Watches: JSON lines of events, until the client goes, the time is over, or the server stops.
//!
//! ```text
//!  Initial(entries) ──► Live ──► Ended
//!        │  ADDED…       │ ADDED, MODIFIED, DELETED, BOOKMARK
//!        └───────────────┴─ ERROR (410) ──► Ended
//! ```
//!
//! A watch is a cursor in the store's log; nothing is queued for it. What it sends is made when the
//! client reads, in batches, so that a slow client costs no memory and in the end falls behind the log.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use axum::{body::Body, response::Response};
use bytes::{Bytes, BytesMut};
use coracle_api::status::Status;
use coracle_store::{Compacted, Entry, Event, EventKind, Revision, WatchError, Watcher};
use futures::stream;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    core::{Core, random},
    facts::Selection,
    list::{self, Collection},
    metrics::Watching,
    negotiation::{Form, Output},
    object::write_json,
    options::{self, ListOptions},
    pipeline::{served, served_bytes},
    registry::Resource,
    respond, table,
};

/// Bytes gathered before they are handed to the connection.
const BATCH: usize = 64 * 1024;
/// Shortest life of a watch without `timeoutSeconds`; the longest is twice that, so that the watches of
/// a restarted server do not all end at once. Kubernetes' own figures.
const MIN_LIFE: Duration = Duration::from_secs(1800);
/// How often a quiet watch tells how far it has come: as Kubernetes, about a minute.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// A watch that is about to end says where to go on, this long before its end.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);
/// The annotation on the bookmark that ends the initial events of `sendInitialEvents`.
const INITIAL_END: &str = "k8s.io/initial-events-end";

/// Answers a watch.
pub(crate) async fn respond(
    core: &Arc<Core>,
    collection: &Collection<'_>,
    options: &ListOptions,
    output: Output,
    include: table::Include,
) -> Result<Response, Status> {
    let resource = collection.resource;
    let prefix = collection.prefix();
    let wanted = options::revision(&resource.kind, &options.resource_version)?;
    let now = Instant::now();
    let life =
        options.timeout.unwrap_or_else(|| MIN_LIFE + MIN_LIFE.mul_f64((random() % 1000) as f64 / 1000.0));
    let mut view = View {
        core: core.clone(),
        resource: resource.clone(),
        selection: collection.selection.clone(),
        form: output.form,
        include,
        columns_sent: false,
    };
    let state = match start(core, collection, options, &prefix, wanted).await? {
        Ok((phase, watcher)) => Some(Watch {
            watcher,
            phase,
            bookmarks: options.bookmarks,
            next_bookmark: now + until_bookmark(life),
            deadline: now + life,
            _watching: core.metrics.watch(&resource.kind),
            view,
        }),
        Err(compacted) => {
            let line = view.error(&too_old(compacted));
            return Ok(respond::bytes_response(StatusCode::OK, "application/json", line));
        }
    };
    let lines = stream::unfold(state, |state| async move {
        let (bytes, next) = state?.step().await?;
        Some((Ok::<Bytes, Infallible>(bytes), next))
    });
    Ok(respond::stream_response(StatusCode::OK, "application/json", Body::from_stream(lines)))
}

/// Where a watch begins: after what revision, and with what it shows first. The inner error is a start
/// that the history no longer has, which a watch says in its stream.
async fn start(
    core: &Core,
    collection: &Collection<'_>,
    options: &ListOptions,
    prefix: &str,
    wanted: Option<Revision>,
) -> Result<Result<(Phase, Watcher), Compacted>, Status> {
    let store = &*core.store;
    // Without a revision or from 0 a watch begins with what is there, unless it says that it has it.
    let initial = options.send_initial_events.unwrap_or(wanted.unwrap_or(0) == 0);
    match wanted {
        None => drop(list::fresh(store).await?),
        Some(revision) if options.send_initial_events.is_some() => list::reach(store, revision).await?,
        Some(_) => {}
    }
    if !initial {
        let from = wanted.filter(|revision| *revision > 0).unwrap_or_else(|| store.revision());
        return Ok(store.watch(prefix, from).map(|watcher| (Phase::Live, watcher)));
    }
    let listing = match store.list(prefix, coracle_store::ListOptions::default()) {
        Ok(listing) => listing,
        Err(compacted) => return Ok(Err(compacted)),
    };
    let entries =
        listing.entries.into_iter().filter(|e| collection.selection.selects(e, collection.resource));
    let phase = Phase::Initial {
        entries: entries.collect(),
        revision: listing.revision,
        say_end: options.send_initial_events == Some(true) && options.bookmarks,
    };
    Ok(store.watch(prefix, listing.revision).map(|watcher| (phase, watcher)))
}

fn too_old(compacted: Compacted) -> Status {
    Status::expired(format!("too old resource version: {} ({})", compacted.requested, compacted.oldest))
}

/// Until the next bookmark of a watch that has so much time left: a minute, or shortly before the end, or
/// never when that has passed.
fn until_bookmark(left: Duration) -> Duration {
    match left.checked_sub(LAST_BOOKMARK) {
        Some(before_the_end) if !before_the_end.is_zero() => BOOKMARK_EVERY.min(before_the_end),
        _ => left,
    }
}

/// What a watch does next.
enum Phase {
    /// It shows what was there when it began.
    Initial { entries: VecDeque<Arc<Entry>>, revision: Revision, say_end: bool },
    /// It shows changes.
    Live,
    /// It is over.
    Ended,
}

struct Watch {
    view: View,
    watcher: Watcher,
    phase: Phase,
    bookmarks: bool,
    next_bookmark: Instant,
    deadline: Instant,
    _watching: Watching,
}

impl Watch {
    /// The next bytes, and the watch after them.
    async fn step(mut self) -> Option<(Bytes, Option<Watch>)> {
        match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Initial { entries, revision, say_end } => Some(self.initial(entries, revision, say_end)),
            Phase::Live => self.live().await,
            Phase::Ended => None,
        }
    }

    fn initial(
        mut self,
        mut entries: VecDeque<Arc<Entry>>,
        revision: Revision,
        say_end: bool,
    ) -> (Bytes, Option<Watch>) {
        let mut out = BytesMut::with_capacity(BATCH);
        while out.len() < BATCH {
            match entries.pop_front() {
                Some(entry) => self.view.write(&mut out, "ADDED", &entry),
                None => {
                    if say_end {
                        self.view.bookmark(&mut out, revision, true);
                    }
                    self.phase = Phase::Live;
                    return (out.freeze(), Some(self));
                }
            }
        }
        self.phase = Phase::Initial { entries, revision, say_end };
        (out.freeze(), Some(self))
    }

    async fn live(mut self) -> Option<(Bytes, Option<Watch>)> {
        let shutdown = self.view.core.shutdown.clone();
        let mut out = BytesMut::new();
        loop {
            let happened = tokio::select! {
                biased;
                () = shutdown.cancelled() => return None,
                event = self.watcher.next() => Some(event),
                () = tokio::time::sleep_until(self.next_bookmark.min(self.deadline)) => None,
            };
            match happened {
                Some(Ok(event)) => self.view.change(&mut out, &event),
                Some(Err(error)) => return self.fail(out, error),
                None => {
                    let now = Instant::now();
                    if now >= self.deadline {
                        return None;
                    }
                    let left = self.deadline - now;
                    self.next_bookmark = now + until_bookmark(left);
                    if self.bookmarks {
                        self.view.bookmark(&mut out, self.watcher.progress(), false);
                    }
                }
            }
            while out.len() < BATCH {
                match self.watcher.try_next() {
                    Ok(Some(event)) => self.view.change(&mut out, &event),
                    Ok(None) => break,
                    Err(error) => return self.fail(out, error),
                }
            }
            if !out.is_empty() {
                self.phase = Phase::Live;
                return Some((out.freeze(), Some(self)));
            }
        }
    }

    /// The last line of a watch that cannot go on.
    fn fail(mut self, mut out: BytesMut, error: WatchError) -> Option<(Bytes, Option<Watch>)> {
        match error {
            WatchError::Compacted(compacted) => out.extend_from_slice(&self.view.error(&too_old(compacted))),
            WatchError::Closed if out.is_empty() => return None,
            WatchError::Closed => {}
        }
        Some((out.freeze(), None))
    }
}

/// How the watcher wants to see objects.
struct View {
    core: Arc<Core>,
    resource: Arc<Resource>,
    selection: Selection,
    form: Form,
    include: table::Include,
    /// Only the first table of a watch says what its columns are.
    columns_sent: bool,
}

impl View {
    /// Writes what a change is to somebody who sees only selected objects.
    fn change(&mut self, out: &mut BytesMut, event: &Event) {
        let selects = |entry: &Entry| self.selection.selects(entry, &self.resource);
        let before = event.previous.as_deref().is_some_and(selects);
        let after = event.kind != EventKind::Deleted && selects(&event.entry);
        match (before, after) {
            (false, false) => {}
            (false, true) => self.write(out, "ADDED", &event.entry),
            (true, true) => self.write(out, "MODIFIED", &event.entry),
            (true, false) if event.kind == EventKind::Deleted => self.write(out, "DELETED", &event.entry),
            (true, false) => {
                // It left the selection: the watcher gets what it knew, at the revision at which it left.
                let Some(previous) = &event.previous else { return };
                let mut value = served(&self.resource, previous);
                set_revision(&mut value, event.revision());
                self.write_value(out, "DELETED", value);
            }
        }
    }

    fn write(&mut self, out: &mut BytesMut, type_: &str, entry: &Entry) {
        if self.form == Form::Object {
            line(out, type_, &served_bytes(&self.resource, entry));
        } else {
            self.write_value(out, type_, served(&self.resource, entry));
        }
    }

    fn write_value(&mut self, out: &mut BytesMut, type_: &str, value: Value) {
        let shown = match self.form {
            Form::Object => value,
            Form::Partial { version } => table::partial(&value, version),
            Form::Table { version } => {
                let kind = &self.resource.kind;
                let metadata = json!({"resourceVersion": crate::object::resource_version(&value)});
                let row = table::row(kind, &value, self.include, version, self.core.now());
                let columns = !std::mem::replace(&mut self.columns_sent, true);
                table::table(kind, columns, metadata, vec![row], version)
            }
        };
        let mut bytes = Vec::with_capacity(1024);
        write_json(&mut bytes, &shown);
        line(out, type_, &bytes);
    }

    /// Writes how far the watch has come.
    fn bookmark(&mut self, out: &mut BytesMut, revision: Revision, end_of_initial: bool) {
        let kind = &self.resource.kind;
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if end_of_initial {
            metadata["annotations"] = json!({INITIAL_END: "true"});
        }
        let object = match self.form {
            Form::Object => {
                json!({"kind": kind.kind, "apiVersion": kind.api_version(), "metadata": metadata})
            }
            Form::Partial { version } => {
                let api_version = format!("meta.k8s.io/{version}");
                json!({"kind": "PartialObjectMetadata", "apiVersion": api_version, "metadata": metadata})
            }
            Form::Table { version } => table::table(kind, false, metadata, Vec::new(), version),
        };
        let mut bytes = Vec::with_capacity(256);
        write_json(&mut bytes, &object);
        line(out, "BOOKMARK", &bytes);
    }

    fn error(&mut self, status: &Status) -> Bytes {
        let mut bytes = Vec::with_capacity(256);
        write_json(&mut bytes, &status.to_value());
        let mut out = BytesMut::new();
        line(&mut out, "ERROR", &bytes);
        out.freeze()
    }
}

fn line(out: &mut BytesMut, type_: &str, object: &[u8]) {
    out.reserve(object.len() + 40);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(type_.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
}

fn set_revision(value: &mut Value, revision: Revision) {
    crate::object::metadata_mut(value).insert("resourceVersion".into(), json!(revision.to_string()));
}
