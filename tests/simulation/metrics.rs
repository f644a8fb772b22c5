//! The metrics API of the simulation: a load that the pods of `web` which really run have to share.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use axum::{Json, Router, routing::get};
use coracle_client::clock;
use serde_json::json;

use crate::observer::Truth;

/// How much of the CPU all of them use together, in thousandths. A clone is another handle.
#[derive(Clone, Default)]
pub(crate) struct Load(Arc<AtomicU64>);

impl Load {
    pub(crate) fn set(&self, load: u64) {
        self.0.store(load, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Answers what the autoscaler asks.
    pub(crate) fn routes(&self, truth: Truth) -> Router {
        let load = self.clone();
        let answer = move || async move {
            let running = truth.running();
            let names = running.iter().map(|process| &process.pod.name);
            let names: Vec<&String> = names.filter(|name| name.starts_with("web-")).collect();
            let share = load.get().checked_div(names.len() as u64).unwrap_or(0);
            let usage = json!({ "cpu": format!("{share}m"), "memory": "1Mi" });
            let items = names.iter().map(|name| {
                json!({
                    "metadata": { "name": name }, "timestamp": clock::time(), "window": "30s",
                    "containers": [{ "name": "main", "usage": usage }],
                })
            });
            Json(json!({ "kind": "PodMetricsList", "items": items.collect::<Vec<_>>() }))
        };
        Router::new().route("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods", get(answer))
    }
}
