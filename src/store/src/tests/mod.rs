//! What every store must do ([`conformance`]), also against a simple model ([`model`]), what sled's
//! folder must withstand ([`folder`]), what happens when a commit fails or the process dies
//! ([`crash`]), and who waits for whom ([`gather`]).

mod conformance;
mod crash;
mod folder;
mod gather;
mod model;
mod window;

use std::sync::Arc;

use crate::{Embedded, Entry, Event, ListOptions, Op, Payload, Revision, Store, Watcher, WriteError};

/// A value like the API server's: the revision goes between two quotes.
fn payload(text: &str) -> Payload {
    let head = "{\"resourceVersion\":\"";
    Payload { bytes: format!("{head}\",\"text\":\"{text}\"}}").into_bytes(), revision_at: head.len() }
}

/// The value that `payload` has after the store wrote the revision into it.
fn stored(text: &str, revision: Revision) -> String {
    format!("{{\"resourceVersion\":\"{revision}\",\"text\":\"{text}\"}}")
}

async fn create(store: &Embedded, key: &str, text: &str) -> Result<Arc<Entry>, WriteError> {
    store.write(Op::Create { key: key.to_owned(), payload: payload(text) }).await
}

async fn update(store: &Embedded, key: &str, text: &str, expect: Revision) -> Result<Arc<Entry>, WriteError> {
    store.write(Op::Update { key: key.to_owned(), payload: payload(text), expect }).await
}

async fn delete(store: &Embedded, key: &str, expect: Revision) -> Result<Arc<Entry>, WriteError> {
    store.write(Op::Delete { key: key.to_owned(), expect, last: payload("last") }).await
}

/// Everything below a prefix, as key and revision.
fn contents(store: &Embedded, prefix: &str) -> Vec<(String, Revision)> {
    let listing = store.list(prefix, ListOptions::default()).unwrap();
    listing.entries.iter().map(|entry| (entry.key().to_owned(), entry.revision())).collect()
}

/// What the watcher has to say right now.
fn drain(watcher: &mut Watcher) -> Vec<Arc<Event>> {
    std::iter::from_fn(|| watcher.try_next().unwrap()).collect()
}
