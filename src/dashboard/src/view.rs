//! What one open page is told: first every row that passes its filter, then the rows that changed and the
//! names of those that went.
//!
//! A view holds no objects, only a hash of each row that the page has. Deltas of the informers mark keys
//! as stale; at most once per [`PERIOD`] the stale keys are read again from the informers. A page that
//! reads slowly is asked for less often, and what it missed is merged by the informers, per object.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use coracle_api::selector::{LabelSelector, SelectorError};
use coracle_client::{Informers, Key, Object, clock};
use jiff::Timestamp;
use k8s_openapi::{
    Metadata, Resource,
    api::core::v1::{Event, Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::Serialize;
use serde_json::{json, value::RawValue};
use tokio::time::Instant;

use crate::{
    occupancy::Occupancy,
    rows::{self, Row},
    sources::{self, About, Mark, SLICES_OF, Source, Sources},
    workloads,
};

/// At most four updates per second: people see no more, and a rollout of a thousand pods is merged.
const PERIOD: Duration = Duration::from_millis(250);
/// How often rows that say how long ago something was are looked at again.
const AGEING: Duration = Duration::from_secs(10);
/// Events on the page, the newest ones: what a person reads before filtering.
const MAX_EVENTS: usize = 100;
/// Rows rendered before others get their turn on this thread: about a millisecond.
const BATCH: usize = 32;

/// The tables of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Table {
    Namespaces,
    Services,
    Workloads,
    Pods,
    Nodes,
    Events,
}

impl Table {
    fn of(about: About) -> Table {
        match about {
            About::Namespace => Table::Namespaces,
            About::Service => Table::Services,
            About::Deployment
            | About::StatefulSet
            | About::DaemonSet
            | About::ReplicaSet
            | About::ReplicationController
            | About::Job
            | About::CronJob
            | About::Autoscaler
            | About::Claim => Table::Workloads,
            About::Pod => Table::Pods,
            About::Node => Table::Nodes,
            About::Event => Table::Events,
        }
    }
}

/// What a page wants to see.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    /// Empty for all.
    namespace: String,
    selector: LabelSelector,
}

impl Filter {
    pub(crate) fn parse(namespace: &str, selector: &str) -> Result<Filter, SelectorError> {
        Ok(Filter { namespace: namespace.to_owned(), selector: LabelSelector::parse(selector.trim())? })
    }

    fn has_namespace(&self, meta: &ObjectMeta) -> bool {
        self.namespace.is_empty() || meta.namespace.as_deref() == Some(&self.namespace)
    }

    fn has_labels(&self, meta: &ObjectMeta) -> bool {
        self.selector.matches(&meta.labels.as_ref())
    }

    fn admits(&self, meta: &ObjectMeta) -> bool {
        self.has_namespace(meta) && self.has_labels(meta)
    }
}

/// One open page.
pub(crate) struct View {
    filter: Filter,
    sources: Sources,
    stale: BTreeSet<Mark>,
    /// The rows that the page has, by what they say.
    shown: BTreeMap<Mark, u64>,
    occupancy: Occupancy,
    /// Pods whose row goes stale by itself.
    ageing: BTreeSet<Key>,
    aged: Instant,
    /// When the informers were last read; `None` before the first update.
    looked: Option<Instant>,
}

/// One message to the page.
#[derive(Serialize)]
struct Update {
    /// The server's time, seconds since 1970.
    now: i64,
    /// Forget everything before this.
    complete: bool,
    tables: BTreeMap<Table, Changes>,
}

#[derive(Default, Serialize)]
struct Changes {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    put: BTreeMap<String, Box<RawValue>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    gone: Vec<String>,
}

impl View {
    pub(crate) fn new(informers: &Informers, filter: Filter) -> View {
        View {
            filter,
            sources: Sources::new(informers),
            stale: BTreeSet::new(),
            shown: BTreeMap::new(),
            occupancy: Occupancy::default(),
            ageing: BTreeSet::new(),
            aged: Instant::now(),
            looked: None,
        }
    }

    /// The next message, as JSON: at once the first time, then when something to be seen has changed.
    pub(crate) async fn next(&mut self) -> String {
        loop {
            match self.looked {
                None => self.sources.synced().await,
                Some(looked) => {
                    self.wait().await;
                    tokio::time::sleep_until(looked + PERIOD).await;
                }
            }
            self.sources.drain(&mut self.stale);
            let update = self.update().await;
            self.looked = Some(Instant::now());
            if update.complete || !update.tables.is_empty() {
                // Strings, numbers and rows that are JSON already.
                return serde_json::to_string(&update).expect("an update is JSON");
            }
        }
    }

    /// Waits until something is stale.
    async fn wait(&mut self) {
        tokio::select! {
            () = self.sources.changed(&mut self.stale) => {}
            () = tokio::time::sleep_until(self.aged + AGEING) => {
                self.aged = Instant::now();
                self.stale.extend(self.ageing.iter().map(|key| (About::Pod, key.clone())));
            }
        }
    }

    /// Reads the stale rows again.
    async fn update(&mut self) -> Update {
        let now = clock::now();
        let complete = self.looked.is_none();
        let mut update = Update { now: now.as_second(), complete, tables: BTreeMap::new() };
        // With a selector, which events are shown depends on which objects are.
        let events =
            self.stale.iter().any(|(about, _)| *about == About::Event || !self.filter.selector.is_empty());
        let mut count = 0;
        // Pods make their nodes stale, which come after them.
        while let Some(mark) = self.stale.pop_first() {
            count += 1;
            if count % BATCH == 0 {
                tokio::task::yield_now().await;
            }
            let (key, sources) = (&mark.1, &self.sources);
            let row = match mark.0 {
                About::Namespace => sources.namespaces.informer.get(key).map(|_| Row::new()),
                About::Service => self.service(key, now),
                About::Deployment => self.workload(&sources.deployments, key, now),
                About::StatefulSet => self.workload(&sources.stateful_sets, key, now),
                About::DaemonSet => self.workload(&sources.daemon_sets, key, now),
                About::ReplicaSet => self.workload(&sources.replica_sets, key, now),
                About::ReplicationController => self.workload(&sources.controllers, key, now),
                About::Job => self.workload(&sources.jobs, key, now),
                About::CronJob => self.workload(&sources.cron_jobs, key, now),
                About::Autoscaler => self.workload(&sources.autoscalers, key, now),
                About::Claim => self.workload(&sources.claims, key, now),
                About::Pod => self.pod(key, now),
                About::Node => self.node(key, now),
                About::Event => continue,
            };
            self.put(mark, row, &mut update);
        }
        if events {
            self.update_events(&mut update, now);
        }
        update
    }

    fn service(&self, key: &Key, now: Timestamp) -> Option<Row> {
        let found = self.sources.services.informer.get(key);
        let service = found.filter(|found| self.filter.admits(&found.metadata))?;
        let slices = self.sources.slices.informer.by_index(SLICES_OF, &key.to_string());
        Some(rows::service(&service, slices.iter().map(Arc::as_ref), now))
    }

    fn workload<K>(&self, source: &Source<K>, key: &Key, now: Timestamp) -> Option<Row>
    where
        K: Object<DynamicType = ()> + Serialize + Metadata<Ty = ObjectMeta> + Resource,
    {
        let found = source.informer.get(key)?;
        if self.filter.admits(Metadata::metadata(&*found)) { workloads::row(&*found, now) } else { None }
    }

    fn pod(&mut self, key: &Key, now: Timestamp) -> Option<Row> {
        let pod = self.sources.pods.informer.get(key);
        let shown = pod.as_ref().is_some_and(|pod| self.filter.admits(&pod.metadata));
        let place = pod.as_ref().and_then(|pod| {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            Some((node_of(pod)?, !matches!(phase, Some("Succeeded" | "Failed")), shown))
        });
        let nodes = self.occupancy.put(key, place);
        self.stale.extend(nodes.map(|node| (About::Node, Key::cluster(&*node))));
        let row = pod.filter(|_| shown).map(|pod| rows::pod(&pod, now));
        if row.as_ref().is_some_and(rows::ages) {
            self.ageing.insert(key.clone());
        } else {
            self.ageing.remove(key);
        }
        row
    }

    /// A selector shows the nodes that it selects and those that run what it selects.
    fn node(&self, key: &Key, now: Timestamp) -> Option<Row> {
        let node = self.sources.nodes.informer.get(key)?;
        let pods = self.occupancy.of(&key.name);
        let wanted = pods.shown > 0 || self.filter.has_labels(&node.metadata);
        wanted.then(|| rows::node(&node, pods.running, now))
    }

    /// The newest events in the namespace; with a selector, those about what is shown.
    fn update_events(&mut self, update: &mut Update, now: Timestamp) {
        let mut gone: BTreeSet<Mark> =
            self.shown.keys().filter(|(about, _)| *about == About::Event).cloned().collect();
        for event in self.newest_events() {
            let mark = (About::Event, Key::of(&event.metadata));
            gone.remove(&mark);
            self.put(mark, Some(rows::event(&event, now)), update);
        }
        for mark in gone {
            self.put(mark, None, update);
        }
    }

    fn newest_events(&self) -> Vec<Arc<Event>> {
        let mut events = self.sources.events.informer.list();
        events.retain(|event| {
            self.filter.has_namespace(&event.metadata)
                && (self.filter.has_labels(&event.metadata)
                    || sources::about(event).is_some_and(|mark| self.shown.contains_key(&mark)))
        });
        // Of those that happened at the same time always the same ones, so that nothing flickers.
        let mut order: Vec<_> =
            events.iter().enumerate().map(|(at, event)| (Reverse(rows::last_seen(event)), at)).collect();
        if order.len() > MAX_EVENTS {
            order.select_nth_unstable(MAX_EVENTS);
            order.truncate(MAX_EVENTS);
        }
        order.into_iter().map(|(_, at)| events[at].clone()).collect()
    }

    /// Adds a row to the update if the page does not have it so.
    fn put(&mut self, mark: Mark, row: Option<Row>, update: &mut Update) {
        let table = Table::of(mark.0);
        let name = match table {
            // Several kinds, which may have the same names.
            Table::Workloads => format!("{:?}/{}", mark.0, mark.1),
            _ => mark.1.to_string(),
        };
        let Some(row) = row else {
            if self.shown.remove(&mark).is_some() {
                update.tables.entry(table).or_default().gone.push(name);
            }
            return;
        };
        let row = json!(row).to_string();
        let mut hasher = DefaultHasher::new();
        row.hash(&mut hasher);
        let hash = hasher.finish();
        if self.shown.insert(mark, hash) != Some(hash) {
            let row = RawValue::from_string(row).expect("a row is JSON");
            update.tables.entry(table).or_default().put.insert(name, row);
        }
    }
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}
