//! `/healthz`, `/livez`, `/readyz`: is the server alive, can it serve.

use std::sync::Arc;

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;

use crate::{core::Core, options::Parameters, respond};

/// The checks, in the order in which they are shown.
const CHECKS: &[&str] = &["ping", "log", "etcd", "shutdown"];

/// Answers one of the three endpoints.
pub(crate) async fn respond(core: &Arc<Core>, path: &str, parameters: &Parameters) -> Response {
    let endpoint = path.trim_start_matches('/');
    let excluded: Vec<&str> = parameters.all("exclude").collect();
    let mut lines = String::new();
    let mut healthy = true;
    for check in CHECKS {
        // A server that is stopping is alive, but not ready.
        if *check == "shutdown" && endpoint == "livez" {
            continue;
        }
        if excluded.contains(check) {
            lines.push_str(&format!("[+]{check} excluded: ok\n"));
        } else if passes(core, check).await {
            lines.push_str(&format!("[+]{check} ok\n"));
        } else {
            healthy = false;
            lines.push_str(&format!("[-]{check} failed: reason withheld\n"));
        }
    }
    if !healthy {
        lines.push_str(&format!("{endpoint} check failed\n"));
        return text(StatusCode::INTERNAL_SERVER_ERROR, lines);
    }
    if !parameters.flag("verbose") {
        return text(StatusCode::OK, "ok".into());
    }
    lines.push_str(&format!("{endpoint} check passed\n"));
    text(StatusCode::OK, lines)
}

/// Answers one check of an endpoint, such as `/readyz/ping`.
pub(crate) async fn respond_part(core: &Core, path: &str) -> Option<Response> {
    let (endpoint, check) = path.trim_start_matches('/').split_once('/')?;
    if !matches!(endpoint, "healthz" | "livez" | "readyz") || !CHECKS.contains(&check) {
        return None;
    }
    let ok = passes(core, check).await;
    let code = if ok { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    Some(text(code, if ok { "ok".into() } else { "internal server error: reason withheld".into() }))
}

async fn passes(core: &Core, check: &str) -> bool {
    match check {
        // Named as Kubernetes names it, so that probes written for Kubernetes find it.
        "etcd" => core.store.fresh().await.is_ok(),
        "shutdown" => !core.shutdown.is_cancelled(),
        _ => true,
    }
}

fn text(code: StatusCode, text: String) -> Response {
    respond::bytes_response(code, "text/plain; charset=utf-8", Bytes::from(text))
}
