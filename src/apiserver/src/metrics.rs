//! `/metrics`, under the names that dashboards for Kubernetes know.

use std::{
    sync::atomic::{AtomicI64, AtomicU64},
    time::Duration,
};

use axum::response::Response;
use bytes::Bytes;
use coracle_api::Kind;
use http::StatusCode;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::{
    core::Core,
    request_info::{RequestInfo, Target, Verb},
    respond,
};

/// Seconds: the upper bounds of the latency buckets.
const BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// What a request was about. Resources that are not registered count as none, so that nobody can make
/// the server remember names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct About {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestKind {
    request_kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfResource {
    resource: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    group: String,
    version: String,
    kind: String,
}

type Gauges<L> = Family<L, Gauge<i64, AtomicI64>>;

/// Everything that is measured.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Answered, Counter<u64, AtomicU64>>,
    durations: Family<About, Histogram>,
    in_flight: Gauges<RequestKind>,
    objects: Gauges<OfResource>,
    watchers: Gauges<OfKind>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let mut registry = Registry::default();
        let requests = Family::default();
        let durations = Family::new_with_constructor((|| Histogram::new(BUCKETS)) as fn() -> Histogram);
        let (in_flight, objects, watchers) = (Family::default(), Family::default(), Family::default());
        registry.register(
            "apiserver_request",
            "Requests answered, by what they asked and the code",
            requests.clone(),
        );
        registry.register(
            "apiserver_request_duration_seconds",
            "Time to the head of the answer",
            durations.clone(),
        );
        registry.register(
            "apiserver_current_inflight_requests",
            "Requests being worked on, watches and streams aside",
            in_flight.clone(),
        );
        registry.register("apiserver_storage_objects", "Stored objects", objects.clone());
        registry.register("apiserver_registered_watchers", "Open watches", watchers.clone());
        Metrics { registry, requests, durations, in_flight, objects, watchers }
    }
}

impl Metrics {
    /// Begins to measure a request.
    pub(crate) fn begin(&self, target: &Target) -> Measure<'_> {
        let (about, mutating, long) = match target {
            Target::Resource(info) => (about(info), info.verb.is_mutating(), info.is_long()),
            Target::MethodNotAllowed | Target::Other => {
                (About { verb: "get", ..About::default() }, false, false)
            }
        };
        let request_kind = if mutating { "mutating" } else { "readOnly" };
        let in_flight = (!long).then(|| self.in_flight.get_or_create(&RequestKind { request_kind }).clone());
        if let Some(gauge) = &in_flight {
            gauge.inc();
        }
        Measure { metrics: self, about, in_flight }
    }

    /// Counts a watch for as long as the result lives.
    pub(crate) fn watch(&self, kind: &Kind) -> Watching {
        let labels = OfKind {
            group: kind.group.to_string(),
            version: kind.version.to_string(),
            kind: kind.kind.to_string(),
        };
        let gauge = self.watchers.get_or_create(&labels).clone();
        gauge.inc();
        Watching(gauge)
    }

    /// `/metrics`.
    pub(crate) fn respond(&self, core: &Core) -> Response {
        for resource in core.registry.catalogue().resources.iter().filter(|resource| !resource.is_view()) {
            let options = coracle_store::ListOptions { limit: Some(1), ..Default::default() };
            if let Ok(listing) = core.store.list(&resource.prefix(""), options) {
                let count = i64::try_from(listing.entries.len() + listing.remaining).unwrap_or(i64::MAX);
                let labels = OfResource { resource: resource.kind.qualified_resource() };
                self.objects.get_or_create(&labels).set(count);
            }
        }
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            text.clear();
        }
        let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        respond::bytes_response(StatusCode::OK, content_type, Bytes::from(text))
    }
}

fn about(info: &RequestInfo) -> About {
    let scope = match info.verb {
        _ if !info.name.is_empty() => "resource",
        Verb::Create => "resource",
        _ if !info.namespace.is_empty() => "namespace",
        _ => "cluster",
    };
    About {
        verb: info.verb.as_str(),
        group: info.group.clone(),
        version: info.version.clone(),
        resource: info.resource.clone(),
        subresource: info.subresource.clone(),
        scope,
    }
}

/// One request that is being measured.
pub(crate) struct Measure<'a> {
    metrics: &'a Metrics,
    about: About,
    in_flight: Option<Gauge<i64, AtomicI64>>,
}

impl Measure<'_> {
    /// The head of the answer is known.
    pub(crate) fn end(mut self, code: StatusCode, elapsed: Duration) {
        let about = if code == StatusCode::NOT_FOUND || code == StatusCode::UNAUTHORIZED {
            // The names in such a request may be anything.
            About { verb: self.about.verb, scope: self.about.scope, ..About::default() }
        } else {
            std::mem::take(&mut self.about)
        };
        if about.verb != "watch" {
            self.metrics.durations.get_or_create(&about).observe(elapsed.as_secs_f64());
        }
        let About { verb, group, version, resource, subresource, scope } = about;
        let answered = Answered { verb, group, version, resource, subresource, scope, code: code.as_u16() };
        self.metrics.requests.get_or_create(&answered).inc();
    }
}

impl Drop for Measure<'_> {
    fn drop(&mut self) {
        if let Some(gauge) = &self.in_flight {
            gauge.dec();
        }
    }
}

/// One open watch.
pub(crate) struct Watching(Gauge<i64, AtomicI64>);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.dec();
    }
}
