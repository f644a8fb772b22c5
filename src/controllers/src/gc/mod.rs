//! Garbage collection: what is owned goes when its last owner has gone.
//!
//! ```text
//!   informers of every kind ──▶ graph (who owns whom) ──▶ plan ──▶ delete, drop owners, finish owner
//!   discovery, now and then ──┘                            └─▶ ask the API about owners not in the graph
//! ```
//! Nothing is planned before the graph has what there is of every kind. And it is a cache: before anything is
//! deleted the object is read from the API itself, and the deletion names the version that was read; before
//! an object that leaves orphans, or that waits for its dependents, is let go, the API lists what depends on
//! it, because a cache that is behind shows fewer dependents than there are. Kinds that other parts of the
//! process watch anyway are taken from their informers; of all others only metadata is kept.

mod absent;
mod apply;
mod feeds;
mod graph;
mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use absent::Absent;
use apply::Collector;
use coracle_client::WorkQueue;
use futures::future::BoxFuture;
use graph::Graph;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{Context, context};

pub(crate) const NAME: &str = "garbage-collector";

/// Objects dealt with at the same time. Kubernetes' default.
const WORKERS: usize = 20;

pub(crate) fn run(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let graph = Arc::new(Mutex::new(Graph::default()));
        let kinds = Arc::new(Mutex::default());
        let queue = WorkQueue::new();
        let filled = CancellationToken::new();
        let collector = Arc::new(Collector {
            client: context.client.clone(),
            graph: graph.clone(),
            kinds: Arc::clone(&kinds),
            absent: Mutex::new(Absent::default()),
            queue: queue.clone(),
            filled: filled.clone(),
            stop: context.stop.clone(),
            recorder: context.recorder("garbage-collector-controller"),
            told: Mutex::default(),
        });
        let feed = feeds::run(context.clone(), graph, kinds, queue.clone(), filled);
        let reconcile =
            context::shared(&collector, |collector, uid| async move { collector.reconcile(uid).await });
        context.run(NAME, queue.clone(), WORKERS, feed, reconcile).await;
    })
}
