//! The kubelet API, as far as the API server calls it: logs, pods, health.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use coracle_client::{Key, clock};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use serde_json::json;

use crate::{
    context::Context,
    logs::{self, LogOptions, LogQuery, Source},
    state::{containers, status_of},
    stats, streams,
};

/// The routes of a node.
pub(crate) fn router(context: Arc<Context>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/pods", get(pods))
        .route(
            "/metrics",
            get(async |State(context): State<Arc<Context>>| {
                let usage = context.stats.measure(&context);
                let denials = context.fabric.get().map(|fabric| fabric.denials()).unwrap_or_default();
                let agent = stats::kubelet(&context.node_name, &usage, &context.evictor.counts());
                let volumes = stats::volumes(&usage, &stats::known(&context, &usage));
                page(agent + &volumes + &stats::denials(&denials))
            }),
        )
        .route(
            "/metrics/probes",
            get(async |State(context): State<Arc<Context>>| page(context.prober.metrics())),
        )
        .route(
            "/metrics/resource",
            get(async |State(context): State<Arc<Context>>| {
                let usage = context.stats.measure(&context);
                page(stats::resource(&usage, &stats::known(&context, &usage)))
            }),
        )
        .route(
            "/metrics/cadvisor",
            get(async |State(context): State<Arc<Context>>| {
                let cores = context.allocatable.cpu_milli.unsigned_abs() / 1000;
                let usage = context.stats.measure(&context);
                page(stats::cadvisor(cores, &usage, &stats::known(&context, &usage)))
            }),
        )
        .route(
            "/stats/summary",
            get(async |State(context): State<Arc<Context>>| {
                Json(stats::summary(&context.node_name, &context.stats.measure(&context)))
            }),
        )
        .route("/containerLogs/{namespace}/{pod}/{container}", get(container_logs))
        .merge(streams::routes())
        .with_state(context)
}

async fn pods(State(context): State<Arc<Context>>) -> Response {
    let on_this_node = |pod: &&Arc<Pod>| {
        pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(&context.node_name)
    };
    let all = context.pods.list();
    let items: Vec<&Pod> = all.iter().filter(on_this_node).map(Arc::as_ref).collect();
    Json(json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items })).into_response()
}

/// A page for Prometheus.
fn page(text: String) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// An answer that is no log, in the kubelet's words.
type Refusal = (StatusCode, String);

async fn container_logs(
    State(context): State<Arc<Context>>,
    Path((namespace, name, container)): Path<(String, String, String)>,
    query: Result<Query<LogQuery>, QueryRejection>,
) -> Result<Response, Refusal> {
    let bad = |message: String| (StatusCode::BAD_REQUEST, message);
    let Query(query) = query.map_err(|error| bad(error.body_text()))?;
    let options = LogOptions::parse(query, clock::now()).map_err(bad)?;
    let pod = context
        .pods
        .get(&Key::new(namespace, name.clone()))
        .ok_or_else(|| (StatusCode::NOT_FOUND, format!("pod \"{name}\" does not exist")))?;
    let source = find(&context, &pod, &container, options.previous)?;
    let body = Body::from_stream(logs::stream(source, options));
    Ok(([(header::CONTENT_TYPE, "text/plain")], body).into_response())
}

/// Where the log of a container's current (or previous) run is.
fn find(context: &Context, pod: &Pod, container: &str, previous: bool) -> Result<Source, Refusal> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let index = containers(pod).position(|(known, _)| known.name == container).ok_or_else(|| {
        (StatusCode::NOT_FOUND, format!("container \"{container}\" not found in pod \"{name}\""))
    })?;
    let handle = pod.metadata.uid.as_deref().and_then(|uid| context.table.get(uid));
    let live = handle.and_then(|handle| {
        let running = handle.running(container).map(|running| running.log.clone());
        running.or_else(|| handle.log(index))
    });
    let files = context.logs.pod(pod);
    let refuse = |what: &str| {
        Err((StatusCode::BAD_REQUEST, format!("container \"{container}\" in pod \"{name}\" {what}")))
    };
    let status = pod.status.as_ref().and_then(|status| status_of(status, container));
    if previous {
        // Between two runs the one that ended last is the previous one; otherwise the one before it.
        let between = status.is_some_and(|status| has_last(status) && is_waiting(status));
        let current = live.as_ref().map(|log| log.run()).or(status.map(|status| status.restart_count));
        let run = current.map_or(-1, |run| if between { run } else { run - 1 });
        return if run >= 0 {
            Ok(Source::File(files.path(container, run)))
        } else {
            let text = format!("previous terminated container \"{container}\" in pod \"{name}\" not found");
            Err((StatusCode::BAD_REQUEST, text))
        };
    }
    if let Some(log) = live {
        return Ok(Source::Live(log));
    }
    let Some(status) = status else { return refuse("is not available") };
    let state = status.state.clone().unwrap_or_default();
    if state.running.is_some() || state.terminated.is_some() || has_last(status) {
        return Ok(Source::File(files.path(container, status.restart_count)));
    }
    match state.waiting.and_then(|waiting| waiting.reason).as_deref() {
        Some("ErrImagePull") => refuse("is waiting to start: image can't be pulled"),
        Some("ImagePullBackOff") => refuse("is waiting to start: trying and failing to pull image"),
        Some(reason) => refuse(&format!("is waiting to start: {reason}")),
        None => refuse("is waiting to start - no logs yet"),
    }
}

fn is_waiting(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.waiting.is_some())
}

fn has_last(status: &ContainerStatus) -> bool {
    status.last_state.as_ref().is_some_and(|last| last.terminated.is_some())
}
