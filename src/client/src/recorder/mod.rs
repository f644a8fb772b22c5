//! Tells people what happened: `core/v1` Events, as `kubectl describe` and `kubectl get events` show
//! them.
//!
//! [`Recorder::event`] never waits: it puts the event in a bounded queue. One task takes it from there:
//! [`correlate`] counts repeats and damps floods as client-go and the kubelet do, then the event is written, a
//! few at a time, each event's writes one after another.

mod correlate;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use correlate::{Correlator, EventKey, Record};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Client, Resource,
    api::{Patch, PatchParams, PostParams},
    core::Request,
};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use crate::{Backoff, api_message, calls, clock, is_already_exists, is_not_found};

/// Events that wait to be written. The warnings of a thousand pods that fail at once; more than that are
/// dropped rather than kept.
const QUEUE: usize = 8192;

/// Events written at the same time. Writes that arrive together share a commit of the store.
const IN_FLIGHT: usize = 16;

/// How often a write is tried. client-go tries twelve times over two minutes; events are not worth that.
const TRIES: u32 = 5;

const BACKOFF: Backoff = Backoff { base: Duration::from_millis(200), max: Duration::from_secs(5) };

/// How grave an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventType {
    /// As it should be.
    Normal,
    /// Someone should look.
    Warning,
}

impl EventType {
    /// As the API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        }
    }
}

/// Records events of one component. A clone is another handle.
#[derive(Clone)]
pub struct Recorder {
    shared: Arc<Shared>,
}

struct Shared {
    queue: mpsc::Sender<Occurrence>,
    dropped: AtomicU64,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Something happened.
struct Occurrence {
    object: ObjectReference,
    type_: EventType,
    reason: String,
    message: String,
    at: Timestamp,
}

impl Recorder {
    /// A recorder that writes through `client` as `component` (e.g. `replication-controller`) on `host`
    /// (a node's name, or empty). Must be called inside a tokio runtime. Its task ends with its last
    /// handle, or with [`Recorder::shutdown`].
    pub fn new(client: Client, component: &str, host: &str) -> Self {
        let (queue, occurrences) = mpsc::channel(QUEUE);
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let writer = Writer {
            client,
            component: component.to_owned(),
            host: host.to_owned(),
            correlator: Correlator::new(),
            busy: HashMap::new(),
            writes: FuturesUnordered::new(),
        };
        tasks.spawn(writer.run(occurrences, stop.clone()));
        tasks.close();
        Recorder { shared: Arc::new(Shared { queue, dropped: AtomicU64::new(0), stop, tasks }) }
    }

    /// Records that something happened to `object`. Never waits; drops the event if thousands wait.
    pub fn event(&self, object: &ObjectReference, type_: EventType, reason: &str, message: &str) {
        let occurrence = Occurrence {
            object: object.clone(),
            type_,
            reason: reason.to_owned(),
            message: message.to_owned(),
            at: clock::now(),
        };
        if self.shared.queue.try_send(occurrence).is_err() {
            let dropped = self.shared.dropped.fetch_add(1, Ordering::Relaxed) + 1;
            if dropped.is_power_of_two() {
                warn!(dropped, "events are dropped: too many at once, or the recorder has ended");
            }
        }
    }

    /// Writes what waits, then ends. The caller bounds the time.
    pub async fn shutdown(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.wait().await;
    }
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

/// The task behind a recorder.
struct Writer {
    client: Client,
    component: String,
    host: String,
    correlator: Correlator,
    /// Events being written, and whether they happened again meanwhile.
    busy: HashMap<EventKey, bool>,
    writes: FuturesUnordered<BoxFuture<'static, (EventKey, Written)>>,
}

/// How a write ended.
enum Written {
    Done,
    /// It cannot be written, or not any more: next time it is a new event.
    Lost,
}

impl Writer {
    async fn run(mut self, mut occurrences: mpsc::Receiver<Occurrence>, stop: CancellationToken) {
        let mut open = true;
        while open || !self.writes.is_empty() {
            tokio::select! {
                biased;
                Some((key, written)) = self.writes.next(), if !self.writes.is_empty() => self.settle(&key, &written),
                occurrence = occurrences.recv(), if open && self.writes.len() < IN_FLIGHT => match occurrence {
                    Some(occurrence) => self.take(&occurrence),
                    None => open = false,
                },
                // What was accepted is still written: `recv` gives it, then `None`.
                () = stop.cancelled(), if open && !occurrences.is_closed() => occurrences.close(),
            }
        }
    }

    fn take(&mut self, occurrence: &Occurrence) {
        let Some(key) = self.correlator.take(occurrence) else { return };
        if let Some(again) = self.busy.get_mut(&key) {
            *again = true;
        } else {
            self.write(key);
        }
    }

    fn settle(&mut self, key: &EventKey, written: &Written) {
        let again = self.busy.remove(key).unwrap_or(false);
        match written {
            Written::Done => {
                self.correlator.written(key);
                if again {
                    self.write(key.clone());
                }
            }
            Written::Lost => self.correlator.forget(key),
        }
    }

    fn write(&mut self, key: EventKey) {
        let Some(record) = self.correlator.record(&key) else { return };
        let event = event(&self.component, &self.host, &key, record);
        let known = record.written;
        self.busy.insert(key.clone(), false);
        let client = self.client.clone();
        self.writes.push(
            async move {
                let written = write(client, &event, known).await;
                (key, written)
            }
            .boxed(),
        );
    }
}

fn event(component: &str, host: &str, key: &EventKey, record: &Record) -> Event {
    Event {
        metadata: ObjectMeta {
            name: Some(record.name.clone()),
            namespace: Some(key.namespace().to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: record.object.clone(),
        type_: Some(key.type_().as_str().to_owned()),
        reason: Some(key.reason().to_owned()),
        message: Some(record.message.clone()),
        count: Some(record.count),
        first_timestamp: Some(Time(clock::seconds(record.first))),
        last_timestamp: Some(Time(clock::seconds(record.last))),
        source: Some(EventSource {
            component: Some(component.to_owned()),
            host: Some(host.to_owned()).filter(|host| !host.is_empty()),
        }),
        reporting_component: Some(component.to_owned()),
        reporting_instance: Some(host.to_owned()),
        ..Event::default()
    }
}

async fn write(client: Client, event: &Event, known: bool) -> Written {
    let namespace = event.metadata.namespace.as_deref().unwrap_or("default");
    let name = event.metadata.name.as_deref().unwrap_or_default();
    let events = || Request::new(Event::url_path(&(), Some(namespace)));
    let mut known = known;
    for attempt in 1..=TRIES {
        let outcome = if known {
            let patch = serde_json::json!({
                "count": event.count,
                "lastTimestamp": event.last_timestamp,
                "message": event.message,
            });
            calls::send(&client, events().patch(name, &PatchParams::default(), &Patch::Merge(patch))).await
        } else {
            let body = serde_json::to_vec(event).expect("an event is serialisable");
            calls::send(&client, events().create(&PostParams::default(), body)).await
        };
        match outcome {
            Ok(()) => return Written::Done,
            // Events expire; one that happens again is told again.
            Err(error) if known && is_not_found(&error) => known = false,
            Err(error) if !known && is_already_exists(&error) => known = true,
            Err(kube::Error::Api(status)) if status.code < 500 && status.code != 429 => {
                debug!(name, message = %status.message, "an event is refused");
                return Written::Lost;
            }
            Err(error) => {
                debug!(name, attempt, error = %api_message(&error), "an event cannot be written");
                tokio::time::sleep(BACKOFF.delay(attempt)).await;
            }
        }
    }
    Written::Lost
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::test_support::FakeApi;

    fn pod(name: &str) -> ObjectReference {
        ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: Some("ns".to_owned()),
            name: Some(name.to_owned()),
            uid: Some(format!("uid-{name}")),
            ..ObjectReference::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn repeats_are_counted_in_one_event() {
        let api = FakeApi::new();
        let recorder = Recorder::new(api.client(), "scheduler", "node-1");
        let first = clock::seconds(clock::now());
        for _ in 0..3 {
            recorder.event(&pod("a"), EventType::Warning, "FailedScheduling", "no nodes");
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
        recorder.shutdown().await;
        let events: Vec<Event> = api.list();
        assert_eq!(events.len(), 1);
        let event = &events[0];
        assert_eq!(event.count, Some(3));
        assert_eq!(event.source.as_ref().and_then(|source| source.host.as_deref()), Some("node-1"));
        assert_eq!(event.reporting_component.as_deref(), Some("scheduler"));
        let stamps = (event.first_timestamp.clone().unwrap().0, event.last_timestamp.clone().unwrap().0);
        assert!((stamps.0.duration_since(first)).as_secs() <= 1, "{stamps:?} {first}");
        assert!((19..=21).contains(&stamps.1.duration_since(stamps.0).as_secs()), "{stamps:?}");
        assert!(event.metadata.name.as_deref().unwrap().starts_with("a."));
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_of_many_objects_is_written_whole() {
        let api = FakeApi::new();
        let recorder = Recorder::new(api.client(), "scheduler", "");
        for index in 0..500 {
            recorder.event(&pod(&format!("p{index}")), EventType::Normal, "Scheduled", "assigned");
        }
        recorder.shutdown().await;
        let names: BTreeSet<_> =
            api.list::<Event>().into_iter().filter_map(|event| event.involved_object.name).collect();
        assert_eq!(names.len(), 500);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_reply_does_not_double_an_event() {
        let api = FakeApi::new();
        api.lose_replies(1);
        let recorder = Recorder::new(api.client(), "scheduler", "");
        recorder.event(&pod("a"), EventType::Normal, "Scheduled", "assigned");
        recorder.shutdown().await;
        assert_eq!(api.list::<Event>().len(), 1);
    }
}
