//! `metrics.k8s.io` and `custom.metrics.k8s.io`: what pods and nodes use, as the nodes measure it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::response::Response;
use coracle_api::{
    Column, Quantity,
    quantity::Format,
    status::{Details, Status},
    table as api_table,
};
use coracle_store::Entry;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use crate::{
    core::Core,
    facts::Selection,
    negotiation::{Form, negotiate},
    object,
    options::Parameters,
    registry::Resource,
    request_info::RequestInfo,
    respond,
    summaries::{ContainerStats, Cpu, Memory, PodStats, Summary},
    table,
};

/// The time over which nodes average what they report, at the most.
const WINDOW: &str = "5s";
const WINDOW_SECONDS: i64 = 5;
/// Metrics of pods that nodes know besides CPU and memory.
pub(crate) const CUSTOM: &[&str] = &["http_requests_per_second", "tcp_connections"];

static COLUMNS: [Column; 4] = [
    Column::object_name(),
    Column::new("cpu", "string", 0, "CPU in use."),
    Column::new("memory", "string", 0, "Memory in use."),
    Column::new("Window", "string", 0, "The time over which it was measured."),
];

/// One question for metrics.
pub(crate) struct Question<'a> {
    pub(crate) core: &'a Arc<Core>,
    pub(crate) info: &'a RequestInfo,
    pub(crate) parameters: &'a Parameters,
    pub(crate) headers: &'a HeaderMap,
}

impl Question<'_> {
    /// The objects that are meant, selected and by name.
    fn entries(&self, plural: &str) -> Result<(Arc<Resource>, Vec<Arc<Entry>>), Status> {
        let core = self.core;
        let catalogue = core.registry.catalogue();
        let resource = catalogue.find("", "v1", plural).cloned().ok_or_else(Status::unknown_path)?;
        let name = self.info.name.as_str();
        if !matches!(name, "" | "*") {
            let entry = core.store.get(&resource.key(&self.info.namespace, name));
            return Ok((resource, entry.into_iter().collect()));
        }
        let (labels, fields) = (self.parameters.get("labelSelector"), self.parameters.get("fieldSelector"));
        let selection = Selection::parse(labels, fields, &resource.kind)?;
        let listing = core.store.list(&resource.prefix(&self.info.namespace), Default::default());
        let mut entries = listing.map_err(|e| Status::expired(e.to_string()))?.entries;
        entries.retain(|entry| selection.selects(entry, &resource));
        Ok((resource, entries))
    }

    /// The pods that are meant, each with what its node measured.
    async fn pods(&self) -> Result<Vec<(Value, Arc<Summary>, usize)>, Status> {
        let (_, entries) = self.entries("pods")?;
        let pods: Vec<Value> = entries.iter().map(|entry| object::parse_stored(entry.value())).collect();
        let node = |pod: &Value| object::text(pod, "/spec/nodeName").to_owned();
        let nodes: BTreeSet<String> = pods.iter().map(node).filter(|node| !node.is_empty()).collect();
        let summaries = self.core.summaries.of(self.core, nodes).await;
        let mut places: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for (node, summary) in &summaries {
            for (index, pod) in summary.pods.iter().enumerate() {
                places.insert((node, &pod.pod_ref.uid), index);
            }
        }
        let measured = pods.into_iter().filter_map(|pod| {
            let node = node(&pod);
            let index = *places.get(&(node.as_str(), object::uid(&pod)))?;
            let summary = summaries.get(&node)?.clone();
            Some((pod, summary, index))
        });
        Ok(measured.collect())
    }

    /// A list, or the one object that was asked for.
    fn answer(&self, kind: &str, items: Vec<Value>) -> Result<Response, Status> {
        let info = self.info;
        let output = negotiate(self.headers, info.name.is_empty())?;
        let api_version = format!("{}/{}", info.group, info.version);
        if let Form::Table { version } = output.form {
            let rows = items.iter().map(|item| {
                let cells = vec![
                    json!(object::name(item)),
                    total(item, "cpu"),
                    total(item, "memory"),
                    json!(object::text(item, "/window")),
                ];
                api_table::row(cells, table::partial(item, version))
            });
            let shown = api_table::table(Some(&COLUMNS), json!({}), rows.collect());
            return Ok(respond::value_response(StatusCode::OK, output.media, &shown));
        }
        let shown = if info.name.is_empty() {
            json!({"kind": format!("{kind}List"), "apiVersion": api_version, "metadata": {}, "items": items})
        } else {
            let Some(mut one) = items.into_iter().next() else { return Err(self.missing(kind)) };
            one["kind"] = json!(kind);
            one["apiVersion"] = json!(api_version);
            one
        };
        Ok(respond::value_response(StatusCode::OK, output.media, &shown))
    }

    fn missing(&self, kind: &str) -> Status {
        let info = self.info;
        let name = match info.namespace.as_str() {
            "" => info.name.clone(),
            namespace => format!("{namespace}/{}", info.name),
        };
        let plural = kind.to_lowercase();
        let details = Details {
            name: name.clone(),
            group: info.group.clone(),
            kind: plural.clone(),
            ..Details::default()
        };
        Status::new(404, "NotFound", format!("{plural}.{} {name:?} not found", info.group))
            .with_details(details)
    }
}

/// What all containers of an item use together, or what a node uses.
fn total(item: &Value, name: &str) -> Value {
    let containers = item.get("containers").and_then(Value::as_array).into_iter().flatten();
    let usages = containers.chain([item]).filter_map(|of| of.get("usage")?.get(name)?.as_str());
    let sum =
        usages.filter_map(|text| text.parse::<Quantity>().ok()).fold(Quantity::ZERO, |sum, more| sum + more);
    json!(sum.to_string())
}

/// `metrics.k8s.io` pods.
pub(crate) async fn pods(question: &Question<'_>) -> Result<Response, Status> {
    let measured = question.pods().await?;
    let items =
        measured.iter().filter_map(|(pod, summary, index)| pod_metrics(pod, summary.pods.get(*index)?));
    question.answer("PodMetrics", items.collect())
}

/// `metrics.k8s.io` nodes.
pub(crate) async fn nodes(question: &Question<'_>) -> Result<Response, Status> {
    let (_, entries) = question.entries("nodes")?;
    let nodes: Vec<Value> = entries.iter().map(|entry| object::parse_stored(entry.value())).collect();
    let names = nodes.iter().map(|node| object::name(node).to_owned()).collect();
    let summaries = question.core.summaries.of(question.core, names).await;
    let items = nodes.iter().filter_map(|node| {
        let stats = &summaries.get(object::name(node))?.node;
        let (cpu, memory) = (stats.cpu.as_ref()?, stats.memory.as_ref()?);
        Some(json!({
            "metadata": metadata(node),
            "timestamp": time(cpu, memory),
            "window": WINDOW,
            "usage": usage(cpu, memory),
        }))
    });
    question.answer("NodeMetrics", items.collect())
}

/// `None` if nothing of the pod runs, or not for long enough to say.
fn pod_metrics(pod: &Value, stats: &PodStats) -> Option<Value> {
    let mut times = Vec::new();
    let containers = stats.containers.iter().filter_map(|ContainerStats { name, cpu, memory, .. }| {
        let (cpu, memory) = (cpu.as_ref()?, memory.as_ref()?);
        cpu.usage_nano_cores?;
        times.push(time(cpu, memory));
        Some(json!({"name": name, "usage": usage(cpu, memory)}))
    });
    let containers: Vec<Value> = containers.collect();
    let timestamp = times.into_iter().min()?;
    Some(json!({
        "metadata": metadata(pod), "timestamp": timestamp, "window": WINDOW, "containers": containers,
    }))
}

/// When it was measured: the earlier of the two.
fn time<'a>(cpu: &'a Cpu, memory: &'a Memory) -> &'a str {
    match (cpu.time.as_str(), memory.time.as_str()) {
        ("", time) | (time, "") => time,
        (cpu, memory) => cpu.min(memory),
    }
}

fn usage(cpu: &Cpu, memory: &Memory) -> Value {
    let bytes = i64::try_from(memory.working_set_bytes.unwrap_or(0)).unwrap_or(i64::MAX);
    let memory = Quantity::units(bytes, Format::BinarySi);
    json!({"cpu": format!("{}n", cpu.usage_nano_cores.unwrap_or(0)), "memory": memory.to_string()})
}

fn metadata(object: &Value) -> Value {
    let mut metadata = json!({"name": object::name(object)});
    for field in ["namespace", "labels", "creationTimestamp"] {
        if let Some(value) = object::metadata(object).and_then(|metadata| metadata.get(field)) {
            metadata[field] = value.clone();
        }
    }
    metadata
}

/// `custom.metrics.k8s.io` of pods: `namespaces/{namespace}/pods/{name or *}/{metric}`.
pub(crate) async fn custom(question: &Question<'_>) -> Result<Response, Status> {
    let info = question.info;
    let metric = info.subresource.as_str();
    let output = negotiate(question.headers, false)?;
    let measured = question.pods().await?;
    let items: Vec<Value> = measured
        .iter()
        .filter_map(|(pod, summary, index)| metric_value(pod, summary.pods.get(*index)?, metric))
        .collect();
    if items.is_empty() && (info.name != "*" || !measured.is_empty()) {
        let of = if info.name == "*" { "pods".to_owned() } else { format!("pods {}", info.name) };
        let why = format!("the server could not find the metric {metric} for {of}");
        return Err(Status::new(404, "NotFound", why));
    }
    let list = json!({
        "kind": "MetricValueList",
        "apiVersion": format!("{}/{}", info.group, info.version),
        "metadata": {},
        "items": items,
    });
    Ok(respond::value_response(StatusCode::OK, output.media, &list))
}

/// A metric of a pod: that of its containers together.
fn metric_value(pod: &Value, stats: &PodStats, metric: &str) -> Option<Value> {
    let metrics = stats.containers.iter().flat_map(|container| &container.user_defined_metrics);
    let values: Vec<_> = metrics.filter(|found| found.name == metric).collect();
    let time = values.iter().map(|value| value.time.as_str()).min()?;
    let sum: f64 = values.iter().map(|value| value.value).filter(|value| value.is_finite()).sum();
    // A sum beyond the largest amount is the largest amount.
    #[expect(clippy::cast_possible_truncation, reason = "the cast saturates")]
    let milli = (sum * 1000.0).round() as i64;
    Some(json!({
        "describedObject": {
            "kind": "Pod",
            "namespace": object::namespace(pod),
            "name": object::name(pod),
            "apiVersion": "/v1",
        },
        "metric": {"name": metric, "selector": null},
        "timestamp": time,
        "windowSeconds": WINDOW_SECONDS,
        "value": Quantity::milli_units(milli, Format::DecimalSi).to_string(),
    }))
}
