//! The graceful part of a node's shutdown: it says that it is not ready, then its pods end in the order of
//! their importance, each with as much of its grace as the node has.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{admission::CRITICAL, context::Context, handle::PodHandle, registration::Registration};

/// What part of the time is kept for critical pods, if there are any.
const CRITICAL_SHARE: u32 = 4;

/// Ends all pods within `grace` (and the moment that a container has at least); their last states are
/// written when this returns.
pub(crate) async fn drain(context: &Arc<Context>, registration: &Registration, grace: Duration) {
    let end = Instant::now() + grace;
    registration.report_shutdown(&context.recorder).await;
    let is_critical = |handle: &Arc<PodHandle>| {
        let pod = context.pods.get(handle.key());
        let priority = pod.and_then(|pod| pod.spec.as_ref().and_then(|spec| spec.priority));
        priority.is_some_and(|priority| priority >= CRITICAL)
    };
    let (critical, ordinary): (Vec<_>, Vec<_>) = context.table.all().into_iter().partition(is_critical);
    let reserve = if critical.is_empty() { Duration::ZERO } else { grace / CRITICAL_SHARE };
    for (pods, until) in [(ordinary, end - reserve), (critical, end)] {
        // Zero would end them at once, which comes anyway after this.
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        pods.iter().for_each(|pod| pod.shutdown(left));
        let _ = tokio::time::timeout_at(until, context.table.all_retired(&pods)).await;
    }
    context.statuses.idle().await;
}
