//! Events are kept for an hour.

use std::{sync::Arc, time::Duration};

use coracle_store::{Entry, ListOptions, Op, WriteError};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::{core::Core, object};

/// How long an event is kept after it was last seen: Kubernetes' default.
const KEPT: SignedDuration = SignedDuration::from_hours(1);
/// How often old ones are looked for.
const EVERY: Duration = Duration::from_secs(60);
/// Where events are stored.
const PREFIX: &str = "events/";

/// Removes old events until the server stops.
pub(crate) async fn expire(core: Arc<Core>) {
    loop {
        tokio::select! {
            () = core.shutdown.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        sweep(&core).await;
    }
}

/// Removes the events that are old now.
pub(crate) async fn sweep(core: &Core) {
    let Ok(listing) = core.store.list(PREFIX, ListOptions::default()) else { return };
    let now = core.now();
    for entry in listing.entries {
        let LastSeen(seen) = entry.memo(last_seen);
        if seen.is_some_and(|seen| now.duration_since(seen) < KEPT) {
            continue;
        }
        let last = object::payload(&object::parse_stored(entry.value()));
        let op = Op::Delete { key: entry.key().to_owned(), expect: entry.revision(), last };
        match core.store.write(op).await {
            // Written or deleted meanwhile: the next sweep looks again.
            Ok(_) | Err(WriteError::Conflict { .. } | WriteError::NotFound) => {}
            Err(error) => {
                tracing::debug!(%error, "an old event could not be removed");
                return;
            }
        }
    }
}

/// When an event was last seen; parsed once per version.
struct LastSeen(Option<Timestamp>);

fn last_seen(entry: &Entry) -> LastSeen {
    let event = object::parse_stored(entry.value());
    let times = [
        "/lastTimestamp",
        "/series/lastObservedTime",
        "/eventTime",
        "/firstTimestamp",
        "/metadata/creationTimestamp",
    ];
    let times = times.iter().filter_map(|pointer| event.pointer(pointer).and_then(Value::as_str));
    LastSeen(times.filter_map(|time| time.parse().ok()).max())
}
