//! How objects become rows of the page. What `kubectl get` shows too comes from the kinds' own tables, so
//! that the page says what kubectl says.
//!
//! Times go out as seconds since 1970: the page counts ages itself, else every row would change all the
//! time.

use std::{collections::BTreeMap, sync::LazyLock};

use coracle_api::{Kind, Quantity, kinds};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::{Event, Node, Pod, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::Serialize;
use serde_json::{Value, json};

/// The cells of one row, in the order of the page's columns.
pub(crate) type Row = Vec<Value>;

/// A kind's table, and where in it the page's cells are.
pub(crate) struct Table {
    kind: &'static Kind,
    places: Vec<usize>,
}

impl Table {
    /// Of a kind that is `v1` of its group.
    pub(crate) fn new(group: &str, plural: &str, columns: &[&str]) -> Table {
        Table::of(group, "v1", plural, columns)
    }

    pub(crate) fn of(group: &str, version: &str, plural: &str, columns: &[&str]) -> Table {
        let kind = kinds::find(group, version, plural).expect("the kind is built in");
        let place = |wanted: &&str| {
            let found = kind.hooks.columns().iter().position(|column| column.name == *wanted);
            found.expect("the kind's table has the column")
        };
        Table { kind, places: columns.iter().map(place).collect() }
    }

    fn row(&self, object: &impl Serialize, now: Timestamp) -> Row {
        // An object that came as JSON goes back; if not, it has no cells.
        let object = serde_json::to_value(object).unwrap_or_default();
        self.cells(&object, now)
    }

    /// The cells of an object.
    pub(crate) fn cells(&self, object: &Value, now: Timestamp) -> Row {
        let mut row = self.kind.hooks.row(object, now);
        self.places.iter().map(|&cell| row.get_mut(cell).map(Value::take).unwrap_or_default()).collect()
    }
}

static PODS: LazyLock<Table> =
    LazyLock::new(|| Table::new("", "pods", &["Name", "Ready", "Status", "Restarts", "IP", "Node"]));
static NODES: LazyLock<Table> =
    LazyLock::new(|| Table::new("", "nodes", &["Name", "Status", "Roles", "Version", "Internal-IP"]));
static SERVICES: LazyLock<Table> =
    LazyLock::new(|| Table::new("", "services", &["Name", "Type", "Cluster-IP", "Port(s)"]));
static EVENTS: LazyLock<Table> =
    LazyLock::new(|| Table::new("", "events", &["Type", "Reason", "Object", "Message", "Count"]));

pub(crate) fn pod(pod: &Pod, now: Timestamp) -> Row {
    let spec = pod.spec.as_ref();
    let status = pod.status.as_ref();
    let sidecars = spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let containers = sidecars.chain(spec.iter().flat_map(|spec| &spec.containers)).map(|container| {
        let statuses = status.iter().flat_map(|status| {
            status.container_statuses.iter().chain(&status.init_container_statuses).flatten()
        });
        let ready = statuses.into_iter().any(|status| status.name == container.name && status.ready);
        json!([container.name, container.image, ready])
    });
    let mut row = vec![namespace(&pod.metadata)];
    row.extend(PODS.row(pod, now));
    row.push(containers.collect());
    row.push(created(&pod.metadata));
    row
}

/// Whether the row of a pod says how long ago something was, and so goes stale by itself.
pub(crate) fn ages(pod: &Row) -> bool {
    pod.iter().any(|cell| cell.as_str().is_some_and(|text| text.ends_with(" ago)")))
}

/// `pods`: how many pods are on the node and not finished.
pub(crate) fn node(node: &Node, pods: usize, now: Timestamp) -> Row {
    let status = node.status.as_ref();
    let most =
        status.and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref())?.get("pods"));
    let most = most.and_then(|most| Quantity::parse(&most.0).ok()).map(|most| most.value());
    let mut row = NODES.row(node, now);
    row.insert(2, json!([pods, most]));
    row.push(created(&node.metadata));
    row
}

pub(crate) fn service<'a>(
    service: &Service,
    slices: impl Iterator<Item = &'a EndpointSlice>,
    now: Timestamp,
) -> Row {
    // An endpoint may stand in two slices while it moves from one to the other.
    let mut endpoints = BTreeMap::new();
    for endpoint in slices.flat_map(|slice| &slice.endpoints) {
        let conditions = endpoint.conditions.as_ref();
        let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
        *endpoints.entry(endpoint.addresses.first()).or_default() |= ready;
    }
    let ready = endpoints.values().filter(|ready| **ready).count();
    let mut row = vec![namespace(&service.metadata)];
    row.extend(SERVICES.row(service, now));
    row.push(format!("{ready}/{}", endpoints.len()).into());
    row.push(created(&service.metadata));
    row
}

pub(crate) fn event(event: &Event, now: Timestamp) -> Row {
    let mut row = vec![last_seen(event).as_second().into(), namespace(&event.metadata)];
    row.extend(EVENTS.row(event, now));
    row
}

/// When the event happened last.
pub(crate) fn last_seen(event: &Event) -> Timestamp {
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref());
    let time = series.map(|time| time.0).or(event.last_timestamp.as_ref().map(|time| time.0));
    let time = time.or(event.event_time.as_ref().map(|time| time.0));
    time.or(event.metadata.creation_timestamp.as_ref().map(|time| time.0)).unwrap_or(Timestamp::UNIX_EPOCH)
}

pub(crate) fn namespace(meta: &ObjectMeta) -> Value {
    meta.namespace.clone().into()
}

pub(crate) fn created(meta: &ObjectMeta) -> Value {
    meta.creation_timestamp.as_ref().map(|time| time.0.as_second()).into()
}
