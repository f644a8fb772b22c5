//! Counts what the objects of namespaces with quotas use, anew.
//!
//! Admission charges a quota before it lets an object in; nothing but this controller says the first amounts of a
//! quota and notices what was freed. The two write the same status, so it takes care not to undo a charge:
//! it writes only over the version that it looked at, and it lowers an amount only when the last charge
//! is so old that its object must have been counted, or have been refused.

mod plan;
mod sources;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use coracle_api::amounts::Amounts;
use coracle_client::{Delta, Deltas, During, Informer, Key, ReconcileError, WorkQueue, is_not_found};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::ResourceQuota;
use kube::{Api, Client, api::PostParams};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use crate::{Context, context};
use plan::{Found, plan};
use sources::{REFRESH, Sources};

pub(crate) const NAME: &str = "resourcequota-controller";

/// Quotas counted at the same time. Kubernetes' default.
const WORKERS: usize = 5;

/// How often every quota is counted although nothing is known to have changed. Kubernetes' default.
const RESYNC: Duration = Duration::from_mins(5);

/// How long after a charge its object is surely stored and in the caches, if they are past the charge.
const SETTLE: Duration = Duration::from_millis(200);

/// How long caches are given to get past a charge. One of a kind of which nothing is written is not told of
/// later revisions for a minute.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was written is checked once more so much later: caches that lagged have caught up by then.
const AGAIN: Duration = Duration::from_secs(1);

/// How long to wait for the first list of a kind before looking at other quotas.
const FIRST_LIST: Duration = Duration::from_secs(1);

pub(crate) fn run(context: Context) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let quotas: Informer<ResourceQuota> = context.informers.get();
        let queue = WorkQueue::new();
        let counter = Arc::new(Counter {
            client: context.client.clone(),
            quotas: quotas.clone(),
            sources: Sources::new(context.clone(), quotas.clone(), queue.clone()),
            charges: Mutex::default(),
        });
        let feed = async {
            quotas.synced().await;
            tokio::join!(feed_quotas(quotas.subscribe(), &queue, &counter), resync(&quotas, &queue));
        };
        let reconcile = context::shared(&counter, |counter, key| async move { counter.reconcile(key).await });
        context.run(NAME, queue.clone(), WORKERS, feed, reconcile).await;
    })
}

async fn resync(quotas: &Informer<ResourceQuota>, queue: &WorkQueue<Key>) {
    loop {
        tokio::time::sleep(RESYNC).await;
        for quota in quotas.list() {
            queue.add(Key::of(&quota.metadata));
        }
    }
}

/// Queues new quotas and those of which other things are limited now: charges alone need no counting.
async fn feed_quotas(mut deltas: Deltas<ResourceQuota>, queue: &WorkQueue<Key>, counter: &Counter) {
    while let Some(delta) = deltas.next().await {
        let key = Key::of(&delta.object().metadata);
        match delta {
            Delta::Added(_) => queue.add(key),
            Delta::Updated { old, new } if old.spec != new.spec => queue.add(key),
            Delta::Updated { .. } => {}
            Delta::Deleted(_) => drop(counter.charges.lock().remove(&key)),
        }
    }
}

struct Counter {
    client: Client,
    quotas: Informer<ResourceQuota>,
    sources: Sources,
    /// The last charge of each quota.
    charges: Mutex<HashMap<Key, Charge>>,
}

/// The last version of a quota that somebody else wrote.
#[derive(Clone, Debug)]
struct Charge {
    revision: u64,
    /// When it was first looked at.
    since: Instant,
    /// The newest version, of those that were written here since.
    newest: String,
}

impl Counter {
    async fn reconcile(&self, key: Key) -> Result<Option<Duration>, ReconcileError> {
        let Some(quota) = self.quotas.get(&key) else { return Ok(None) };
        if quota.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let charge = self.charge(&key, &quota);
        let counted = self.count(&key, &quota, charge.revision).await?;
        let age = charge.since.elapsed();
        let settled = |name: &str| age >= PATIENCE || (age >= SETTLE && !counted.behind.contains(name));
        let plan = plan(&quota, &counted.amounts, settled);
        let wrote = plan.status.is_some();
        if let Some(status) = plan.status {
            let api: Api<ResourceQuota> = Api::namespaced(self.client.clone(), &key.namespace);
            let changed = ResourceQuota { status: Some(status), ..ResourceQuota::clone(&quota) };
            match api.replace_status(&key.name, &PostParams::default(), &changed).await {
                Err(error) if is_not_found(&error) => return Ok(None),
                other => {
                    let written = other.during(|| format!("write the status of {key}"))?;
                    let newest = written.metadata.resource_version.unwrap_or_default();
                    self.charges.lock().insert(key, Charge { newest, ..charge });
                }
            }
        }
        Ok(match (plan.later, wrote) {
            (true, _) => Some(SETTLE.saturating_sub(age).max(SETTLE / 2)),
            (false, true) => Some(AGAIN),
            (false, false) => counted.is_partial.then_some(REFRESH),
        })
    }

    /// The last charge of the quota, or when this version of it was first looked at if it may be one.
    fn charge(&self, key: &Key, quota: &ResourceQuota) -> Charge {
        let version = quota.metadata.resource_version.clone().unwrap_or_default();
        let mut charges = self.charges.lock();
        if let Some(known) = charges.get(key).filter(|charge| charge.newest == version) {
            return known.clone();
        }
        let revision = version.parse().unwrap_or(0);
        let charge = Charge { revision, since: Instant::now(), newest: version };
        charges.insert(key.clone(), charge.clone());
        charge
    }

    async fn count(&self, key: &Key, quota: &ResourceQuota, charge: u64) -> Result<Counted, ReconcileError> {
        let mut counted = Counted::default();
        let value = serde_json::to_value(quota).unwrap_or_default();
        for (kind, names) in plan::wanted(quota) {
            let Some(source) = self.sources.get(&kind).await? else {
                counted.is_partial = true;
                continue;
            };
            if timeout(FIRST_LIST, source.synced()).await.is_err() {
                return Err(ReconcileError::NotYet(format!("the first list of {} is missing", kind.1)));
            }
            // What is read next is at least as new.
            if source.seen() <= charge {
                counted.behind.extend(names.iter().cloned());
            }
            let objects =
                plan::needs_objects(quota, &names).then(|| source.objects(&key.namespace)).flatten();
            let found = objects.map_or_else(|| Found::Count(source.count(&key.namespace)), Found::Objects);
            counted.amounts.extend(plan::used(&value, &kind, &names, &found));
        }
        Ok(counted)
    }
}

#[derive(Default)]
struct Counted {
    amounts: Amounts,
    /// What was counted at a revision before the last charge.
    behind: BTreeSet<String>,
    /// Some kind is not served.
    is_partial: bool,
}
