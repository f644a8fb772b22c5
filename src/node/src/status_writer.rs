//! The one writer of pod statuses: newest state per pod, few writes, bounded concurrency.
//!
//! A worker hands over the status it wants to be seen. What is handed over while a write is under way or
//! waits replaces what was there before, so that a pod that starts within milliseconds costs one write.
//! A failed write is tried again with back-off; one that the API refuses for what it says is dropped; a pod that
//! is gone is forgotten.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use coracle_client::{Backoff, Key, WorkQueue};
use http::{Method, Request, StatusCode, header::CONTENT_TYPE};
use http_body_util::BodyExt;
use kube::{Client, client::Body};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use crate::handle::PodHandle;

/// Writes under way at the same time. The store commits what arrives together in one batch, so many
/// writers cost little and make a thousand pods Ready in a few batches.
const WRITERS: usize = 48;
/// How long a status of a pod that is still changing waits for the next change. A pod that starts from
/// a warm image is Ready sooner, and costs one write; one that pulls shows `ContainerCreating` after it.
const COALESCE: Duration = Duration::from_millis(150);
/// Waits between tries of a failing write.
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(50), max: Duration::from_secs(10) };

/// How long an answer may take. Whatever hangs, the writers are for all pods.
const PATIENCE: Duration = Duration::from_secs(10);

/// When a status should be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    Now,
    /// More changes are about to come.
    Soon,
}

/// The writer. Its tasks are spawned by [`StatusWriter::start`].
pub(crate) struct StatusWriter {
    client: Client,
    queue: WorkQueue<Arc<str>>,
    pending: Mutex<HashMap<Arc<str>, Pending>>,
    /// Told when nothing is pending any more.
    idle: Notify,
}

/// Makes a strategic merge patch when its time has come: most statuses are replaced by newer ones before that.
pub(crate) type Patch = Arc<dyn Fn() -> Bytes + Send + Sync>;

/// What is to be written for one pod.
#[derive(Clone)]
struct Pending {
    key: Key,
    /// The patch, if it was not written yet.
    patch: Option<Patch>,
    /// Delete the object after the patch was written.
    delete: bool,
}

enum Answer {
    Done,
    Gone,
    /// It will never be taken as it is.
    Refused(String),
    Failed(String),
}

impl StatusWriter {
    pub(crate) fn new(client: Client) -> Arc<StatusWriter> {
        let queue = WorkQueue::with_backoff(BACKOFF);
        Arc::new(StatusWriter { client, queue, pending: Mutex::default(), idle: Notify::new() })
    }

    /// Starts the writers. They end after [`StatusWriter::shutdown`].
    pub(crate) fn start(self: &Arc<Self>, tasks: &TaskTracker) {
        for _ in 0..WRITERS {
            let writer = self.clone();
            tasks.spawn(async move {
                while let Some(item) = writer.queue.next().await {
                    writer.write(&item).await;
                }
            });
        }
    }

    pub(crate) fn shutdown(&self) {
        self.queue.shutdown();
    }

    /// Writes a status.
    pub(crate) fn publish(&self, handle: &PodHandle, patch: Patch, urgency: Urgency) {
        let uid = self.note(handle, |pending| pending.patch = Some(patch));
        match urgency {
            Urgency::Now => self.queue.add(uid),
            Urgency::Soon => self.queue.add_after(uid, COALESCE),
        }
    }

    /// Deletes the object for good, after its last status was written.
    pub(crate) fn delete(&self, handle: &PodHandle) {
        let uid = self.note(handle, |pending| pending.delete = true);
        self.queue.add(uid);
    }

    /// Drops what waits for a pod that is gone.
    pub(crate) fn forget(&self, uid: &str) {
        let mut pending = self.pending.lock();
        pending.remove(uid);
        if pending.is_empty() {
            self.idle.notify_waiters();
        }
        drop(pending);
        self.queue.forget(&uid.into());
    }

    /// Waits until everything is written.
    pub(crate) async fn idle(&self) {
        loop {
            let idle = self.idle.notified();
            if self.pending.lock().is_empty() {
                return;
            }
            idle.await;
        }
    }

    fn note(&self, handle: &PodHandle, change: impl FnOnce(&mut Pending)) -> Arc<str> {
        let uid: Arc<str> = handle.uid().into();
        let mut pending = self.pending.lock();
        let entry = pending.entry(uid.clone());
        change(entry.or_insert_with(|| Pending { key: handle.key().clone(), patch: None, delete: false }));
        uid
    }

    async fn write(&self, uid: &Arc<str>) {
        let pending = self.pending.lock().get(uid).cloned();
        let Some(Pending { key, patch, delete }) = pending else {
            // Forgotten while its last try failed.
            self.queue.forget(uid);
            return;
        };
        let request = async {
            match (&patch, delete) {
                (Some(patch), _) => self.patch(&key, patch()).await,
                (None, true) => self.delete_object(&key, uid).await,
                (None, false) => Answer::Done,
            }
        };
        let answer = tokio::time::timeout(PATIENCE, request).await;
        match answer.unwrap_or_else(|_| Answer::Failed(format!("no answer within {PATIENCE:?}"))) {
            Answer::Gone => self.forget(uid),
            // The end of a pod must not wait for what nobody will ever read.
            Answer::Refused(error) if patch.is_some() => {
                tracing::warn!(pod = %key, error, "the status of a pod is refused");
                self.queue.forget(uid);
                self.settle(uid, patch.as_ref());
            }
            Answer::Failed(error) | Answer::Refused(error) => {
                let failures = self.queue.failures(uid);
                if failures > 2 {
                    tracing::warn!(pod = %key, error, failures, "status of a pod is not written yet");
                }
                self.queue.retry(uid.clone());
            }
            Answer::Done => {
                self.queue.forget(uid);
                self.settle(uid, patch.as_ref());
            }
        }
    }

    /// Removes what was written; what was handed over meanwhile is written next.
    fn settle(&self, uid: &Arc<str>, written: Option<&Patch>) {
        let mut pending = self.pending.lock();
        let Some(entry) = pending.get_mut(uid) else { return };
        let deleted = written.is_none() && entry.delete;
        let same = entry.patch.as_ref().zip(written).is_some_and(|(now, then)| Arc::ptr_eq(now, then));
        if same {
            entry.patch = None;
        }
        if deleted || entry.patch.is_none() && !entry.delete {
            pending.remove(uid);
            if pending.is_empty() {
                self.idle.notify_waiters();
            }
        } else {
            self.queue.add(uid.clone());
        }
    }

    async fn patch(&self, key: &Key, patch: Bytes) -> Answer {
        let request = Request::builder()
            .method(Method::PATCH)
            .uri(format!("/api/v1/namespaces/{}/pods/{}/status", key.namespace, key.name))
            .header(CONTENT_TYPE, "application/strategic-merge-patch+json")
            .body(Body::from(patch));
        self.send(request).await
    }

    async fn delete_object(&self, key: &Key, uid: &str) -> Answer {
        let options = json!({
            "kind": "DeleteOptions", "apiVersion": "v1",
            "gracePeriodSeconds": 0, "preconditions": { "uid": uid },
        });
        let request = Request::builder()
            .method(Method::DELETE)
            .uri(format!("/api/v1/namespaces/{}/pods/{}", key.namespace, key.name))
            .header(CONTENT_TYPE, "application/json")
            .body(Body::from(options.to_string().into_bytes()));
        self.send(request).await
    }

    /// Sends without decoding the object in the answer: nobody needs it.
    async fn send(&self, request: Result<Request<Body>, http::Error>) -> Answer {
        let request = match request {
            Ok(request) => request,
            Err(error) => return Answer::Failed(error.to_string()),
        };
        let response = match self.client.send(request).await {
            Ok(response) => response,
            Err(error) => return Answer::Failed(error.to_string()),
        };
        let status = response.status();
        let body = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        if status.is_success() {
            return Answer::Done;
        }
        let text = String::from_utf8_lossy(&body);
        // Another pod has the name now: the server says so as a failed precondition on the uid, in other words for a
        // patch than for a deletion.
        let other_pod = matches!(status, StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY)
            && ["UID in precondition", "UID in the precondition", "metadata.uid"]
                .iter()
                .any(|words| text.contains(words));
        if status == StatusCode::NOT_FOUND || other_pod {
            return Answer::Gone;
        }
        let error = format!("{status}: {}", text.chars().take(300).collect::<String>());
        match status {
            // Not now, or not by this user as yet.
            StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN
            | StatusCode::REQUEST_TIMEOUT
            | StatusCode::CONFLICT
            | StatusCode::TOO_MANY_REQUESTS => Answer::Failed(error),
            status if status.is_client_error() => Answer::Refused(error),
            _ => Answer::Failed(error),
        }
    }
}

#[cfg(test)]
#[path = "status_writer_tests.rs"]
mod tests;
