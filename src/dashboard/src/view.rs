//! What one open page is told: first every row that passes its filter, then the rows that changed and the
//! names of those that went.
//!
//! A view holds no objects, only a hash of each row that the page has. Deltas of the informers mark keys
//! as stale; at most once per [`PERIOD`] the stale keys are read again from the informers. A page that
//! reads slowly is asked for less often, and what it missed is merged by the informers, per object.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use coracle_api::selector::{LabelSelector, SelectorError};
use coracle_client::{Delta, Deltas, Informer, Informers, Key, Object, clock};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::{Event, Namespace, Node, Pod, ReplicationController, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::Serialize;
use serde_json::{json, value::RawValue};
use tokio::time::Instant;

use crate::rows::{self, Row};

/// At most four updates per second: people see no more, and a rollout of a thousand pods is merged.
const PERIOD: Duration = Duration::from_millis(250);
/// How often rows that say how long ago something was are looked at again.
const AGEING: Duration = Duration::from_secs(10);
/// Events on the page, the newest ones: what a person reads before filtering.
const MAX_EVENTS: usize = 100;
/// Rows rendered before others get their turn on this thread: about a millisecond.
const BATCH: usize = 32;
/// The label that names a slice's service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The index of slices by service.
const SLICES_OF: &str = "dashboard/service";

/// The tables of the page. Later ones depend on earlier ones, so they are brought up to date in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
enum Table {
    Namespaces,
    Services,
    Controllers,
    Pods,
    Nodes,
    Events,
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

/// An informer and its news.
struct Source<K> {
    informer: Informer<K>,
    deltas: Deltas<K>,
}

type Mark = (Table, Key);

/// The rows that may have changed with an object.
trait Marks {
    fn mark(&self, stale: &mut BTreeSet<Mark>);
}

/// One open page.
pub(crate) struct View {
    filter: Filter,
    namespaces: Source<Namespace>,
    services: Source<Service>,
    slices: Source<EndpointSlice>,
    controllers: Source<ReplicationController>,
    pods: Source<Pod>,
    nodes: Source<Node>,
    events: Source<Event>,
    stale: BTreeSet<Mark>,
    /// The rows that the page has, by what they say.
    shown: BTreeMap<Mark, u64>,
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
        let slices = Source::new(informers);
        slices
            .informer
            .add_index(SLICES_OF, |slice| service_of(slice).map(|key| key.to_string()).into_iter().collect());
        View {
            filter,
            namespaces: Source::new(informers),
            services: Source::new(informers),
            slices,
            controllers: Source::new(informers),
            pods: Source::new(informers),
            nodes: Source::new(informers),
            events: Source::new(informers),
            stale: BTreeSet::new(),
            shown: BTreeMap::new(),
            ageing: BTreeSet::new(),
            aged: Instant::now(),
            looked: None,
        }
    }

    /// The next message, as JSON: at once the first time, then when something to be seen has changed.
    pub(crate) async fn next(&mut self) -> String {
        loop {
            match self.looked {
                None => self.synced().await,
                Some(looked) => {
                    self.wait().await;
                    tokio::time::sleep_until(looked + PERIOD).await;
                }
            }
            self.drain();
            let update = self.update().await;
            self.looked = Some(Instant::now());
            if update.complete || !update.tables.is_empty() {
                // Strings, numbers and rows that are JSON already.
                return serde_json::to_string(&update).expect("an update is JSON");
            }
        }
    }

    async fn synced(&self) {
        tokio::join!(
            self.namespaces.informer.synced(),
            self.services.informer.synced(),
            self.slices.informer.synced(),
            self.controllers.informer.synced(),
            self.pods.informer.synced(),
            self.nodes.informer.synced(),
            self.events.informer.synced(),
        );
    }

    /// Waits until something is stale.
    async fn wait(&mut self) {
        let stale = &mut self.stale;
        tokio::select! {
            Some(delta) = self.namespaces.deltas.next() => note(&delta, stale),
            Some(delta) = self.services.deltas.next() => note(&delta, stale),
            Some(delta) = self.slices.deltas.next() => note(&delta, stale),
            Some(delta) = self.controllers.deltas.next() => note(&delta, stale),
            Some(delta) = self.pods.deltas.next() => note(&delta, stale),
            Some(delta) = self.nodes.deltas.next() => note(&delta, stale),
            Some(delta) = self.events.deltas.next() => note(&delta, stale),
            () = tokio::time::sleep_until(self.aged + AGEING) => {
                self.aged = Instant::now();
                stale.extend(self.ageing.iter().map(|key| (Table::Pods, key.clone())));
            }
        }
    }

    /// Takes what is there without waiting.
    fn drain(&mut self) {
        self.namespaces.drain(&mut self.stale);
        self.services.drain(&mut self.stale);
        self.slices.drain(&mut self.stale);
        self.controllers.drain(&mut self.stale);
        self.pods.drain(&mut self.stale);
        self.nodes.drain(&mut self.stale);
        self.events.drain(&mut self.stale);
    }

    /// Reads the stale rows again.
    async fn update(&mut self) -> Update {
        let now = clock::now();
        let complete = self.looked.is_none();
        let mut update = Update { now: now.as_second(), complete, tables: BTreeMap::new() };
        let stale = std::mem::take(&mut self.stale);
        // With a selector, which events are shown depends on which objects are.
        let events =
            stale.iter().any(|(table, _)| *table == Table::Events || !self.filter.selector.is_empty());
        let mut occupancy = None;
        for (count, mark) in stale.into_iter().enumerate() {
            if count % BATCH == BATCH - 1 {
                tokio::task::yield_now().await;
            }
            let key = &mark.1;
            let row = match mark.0 {
                Table::Namespaces => self.namespaces.informer.get(key).map(|_| Row::new()),
                Table::Services => self.service(key, now),
                Table::Controllers => {
                    let found = self.controllers.informer.get(key);
                    found
                        .filter(|found| self.filter.admits(&found.metadata))
                        .map(|found| rows::controller(&found, now))
                }
                Table::Pods => self.pod(key, now),
                Table::Nodes => {
                    let occupancy = occupancy.get_or_insert_with(|| self.occupancy());
                    self.node(key, occupancy.get(&key.name).copied().unwrap_or_default(), now)
                }
                Table::Events => continue,
            };
            self.put(mark, row, &mut update);
        }
        if events {
            self.update_events(&mut update, now);
        }
        update
    }

    fn service(&self, key: &Key, now: Timestamp) -> Option<Row> {
        let service = self.services.informer.get(key).filter(|found| self.filter.admits(&found.metadata))?;
        let slices = self.slices.informer.by_index(SLICES_OF, &key.to_string());
        Some(rows::service(&service, slices.iter().map(Arc::as_ref), now))
    }

    fn pod(&mut self, key: &Key, now: Timestamp) -> Option<Row> {
        let pod = self.pods.informer.get(key).filter(|found| self.filter.admits(&found.metadata));
        let row = pod.map(|pod| rows::pod(&pod, now));
        if row.as_ref().is_some_and(rows::ages) {
            self.ageing.insert(key.clone());
        } else {
            self.ageing.remove(key);
        }
        row
    }

    /// A selector shows the nodes that it selects and those that run what it selects.
    fn node(&self, key: &Key, pods: Occupancy, now: Timestamp) -> Option<Row> {
        let node = self.nodes.informer.get(key)?;
        let wanted = pods.shown || self.filter.has_labels(&node.metadata);
        wanted.then(|| rows::node(&node, pods.running, now))
    }

    fn occupancy(&self) -> HashMap<String, Occupancy> {
        let mut nodes: HashMap<String, Occupancy> = HashMap::new();
        for pod in self.pods.informer.list() {
            let Some(node) = node_of(&pod) else { continue };
            let entry = nodes.entry(node.to_owned()).or_default();
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            entry.running += usize::from(!matches!(phase, Some("Succeeded" | "Failed")));
            entry.shown |= self.shown.contains_key(&(Table::Pods, Key::of(&pod.metadata)));
        }
        nodes
    }

    /// The newest events in the namespace; with a selector, those about what is shown.
    fn update_events(&mut self, update: &mut Update, now: Timestamp) {
        let mut events = self.events.informer.list();
        events.retain(|event| {
            self.filter.has_namespace(&event.metadata)
                && (self.filter.has_labels(&event.metadata)
                    || about(event).is_some_and(|mark| self.shown.contains_key(&mark)))
        });
        events.sort_by_cached_key(|event| Reverse(rows::last_seen(event)));
        events.truncate(MAX_EVENTS);
        let mut gone: BTreeSet<Mark> =
            self.shown.keys().filter(|(table, _)| *table == Table::Events).cloned().collect();
        for event in events {
            let mark = (Table::Events, Key::of(&event.metadata));
            gone.remove(&mark);
            self.put(mark, Some(rows::event(&event, now)), update);
        }
        for mark in gone {
            self.put(mark, None, update);
        }
    }

    /// Adds a row to the update if the page does not have it so.
    fn put(&mut self, mark: Mark, row: Option<Row>, update: &mut Update) {
        let (table, name) = (mark.0, mark.1.to_string());
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

/// What the pods of a node amount to.
#[derive(Clone, Copy, Default)]
struct Occupancy {
    running: usize,
    /// At least one of them is on the page.
    shown: bool,
}

impl<K: Object<DynamicType = ()> + Marks> Source<K> {
    fn new(informers: &Informers) -> Self {
        let informer = informers.get::<K>();
        let deltas = informer.subscribe();
        Source { informer, deltas }
    }

    fn drain(&mut self, stale: &mut BTreeSet<Mark>) {
        while let Some(delta) = self.deltas.try_next() {
            note(&delta, stale);
        }
    }
}

fn note<K: Marks>(delta: &Delta<K>, stale: &mut BTreeSet<Mark>) {
    match delta {
        Delta::Added(object) | Delta::Deleted(object) => object.mark(stale),
        Delta::Updated { old, new } => {
            old.mark(stale);
            new.mark(stale);
        }
    }
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

fn service_of(slice: &EndpointSlice) -> Option<Key> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(Key::new(slice.metadata.namespace.as_deref().unwrap_or_default(), name))
}

/// The row that an event is about.
fn about(event: &Event) -> Option<Mark> {
    let object = &event.involved_object;
    let table = match object.kind.as_deref()? {
        "Pod" => Table::Pods,
        "Service" => Table::Services,
        "ReplicationController" => Table::Controllers,
        "Node" => Table::Nodes,
        _ => return None,
    };
    Some((table, Key::new(object.namespace.as_deref().unwrap_or_default(), object.name.as_deref()?)))
}

impl Marks for Pod {
    fn mark(&self, stale: &mut BTreeSet<Mark>) {
        stale.insert((Table::Pods, Key::of(&self.metadata)));
        stale.extend(node_of(self).map(|node| (Table::Nodes, Key::cluster(node))));
    }
}

impl Marks for EndpointSlice {
    fn mark(&self, stale: &mut BTreeSet<Mark>) {
        stale.extend(service_of(self).map(|service| (Table::Services, service)));
    }
}

macro_rules! marks_its_row {
    ($($kind:ty => $table:ident),*) => {$(
        impl Marks for $kind {
            fn mark(&self, stale: &mut BTreeSet<Mark>) {
                stale.insert((Table::$table, Key::of(&self.metadata)));
            }
        }
    )*};
}

marks_its_row!(Namespace => Namespaces, Service => Services, ReplicationController => Controllers, Node => Nodes, Event => Events);
