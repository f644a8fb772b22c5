//! What the nodes measure: `/stats/summary` of their kubelet API, read when somebody asks and kept for a moment.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use axum::body::Body;
use futures::{StreamExt, stream};
use http::Request;
use http_body_util::{BodyExt, Limited};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::{
    sync::Mutex as AsyncMutex,
    time::{Instant, timeout},
};
use tower::ServiceExt;

use crate::core::Core;

/// How old an answer may be: several questions at once (`kubectl top`, every autoscaler) cost one.
const MAX_AGE: Duration = Duration::from_secs(1);
/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Largest summary that is read: ten thousand pods need about ten megabytes.
const MAX_SUMMARY: usize = 64 * 1024 * 1024;
/// Nodes that are asked at once.
const PARALLEL: usize = 16;

/// The part of a node's summary that the metrics APIs need.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Summary {
    pub(crate) node: NodeStats,
    pub(crate) pods: Vec<PodStats>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NodeStats {
    pub(crate) cpu: Option<Cpu>,
    pub(crate) memory: Option<Memory>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodStats {
    pub(crate) pod_ref: PodRef,
    pub(crate) containers: Vec<ContainerStats>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodRef {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) uid: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ContainerStats {
    pub(crate) name: String,
    pub(crate) cpu: Option<Cpu>,
    pub(crate) memory: Option<Memory>,
    pub(crate) user_defined_metrics: Vec<UserDefined>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Cpu {
    pub(crate) time: String,
    pub(crate) usage_nano_cores: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Memory {
    pub(crate) time: String,
    pub(crate) working_set_bytes: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct UserDefined {
    pub(crate) name: String,
    pub(crate) time: String,
    pub(crate) value: f64,
}

/// One node's last answer. Who asks while somebody else does waits for the same answer.
type Slot = Arc<AsyncMutex<Option<(Instant, Arc<Summary>)>>>;

/// The last answers of the nodes.
#[derive(Default)]
pub(crate) struct Summaries {
    slots: Mutex<BTreeMap<String, Slot>>,
}

impl Summaries {
    /// The summaries of these nodes, but of those that do not answer.
    pub(crate) async fn of(&self, core: &Core, nodes: BTreeSet<String>) -> BTreeMap<String, Arc<Summary>> {
        self.slots.lock().retain(|node, _| core.nodes.get(node).is_some());
        let answers = stream::iter(nodes).map(|node| async move {
            let summary = self.one(core, &node).await?;
            Some((node, summary))
        });
        answers.buffer_unordered(PARALLEL).filter_map(std::future::ready).collect().await
    }

    async fn one(&self, core: &Core, node: &str) -> Option<Arc<Summary>> {
        let kubelet = core.nodes.get(node)?;
        let slot = self.slots.lock().entry(node.to_owned()).or_default().clone();
        let mut last = slot.lock().await;
        if let Some((read, summary)) = &*last
            && read.elapsed() < MAX_AGE
        {
            return Some(summary.clone());
        }
        let ask = async {
            let request = Request::get("/stats/summary").body(Body::empty()).ok()?;
            let answer = match kubelet.oneshot(request).await {
                Ok(answer) => answer,
                Err(never) => match never {},
            };
            if !answer.status().is_success() {
                tracing::debug!(node, code = answer.status().as_u16(), "a node gave no summary");
                return None;
            }
            let body = Limited::new(answer.into_body(), MAX_SUMMARY).collect().await.ok()?.to_bytes();
            let summary = serde_json::from_slice(&body);
            summary.inspect_err(|error| tracing::debug!(node, %error, "a node's summary is not one")).ok()
        };
        let summary: Arc<Summary> = Arc::new(timeout(PATIENCE, ask).await.ok()??);
        *last = Some((Instant::now(), summary.clone()));
        Some(summary)
    }
}
