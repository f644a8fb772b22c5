//! What was written and must show in the cache before pods are counted again.
//!
//! Kubernetes counts additions and deletions as they are seen. Here the cache says which revision it
//! includes, so it is enough to know the newest revision written; merged or unseen changes do no harm.
//! What is remembered is lost with the process, and not missed: a new process starts from a fresh list.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use coracle_client::{During, Informer, Key, ReconcileError};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::ListParams, core::PartialObjectMeta};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{claim::Namespaced, pods};

/// A safety net: should something expected never show, counting goes on after this. Kubernetes' number.
const EXPIRY: Duration = Duration::from_mins(5);

/// When to look again if no change of a pod woke the controller meanwhile.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What one controller wrote.
#[derive(Debug, Default)]
pub(crate) struct Expectations {
    /// The newest revision of a pod created.
    revision: u64,
    /// Pods deleted, by uid.
    deleted: BTreeSet<String>,
    /// A call may or may not have been carried out.
    uncertain: bool,
    since: Option<Instant>,
}

impl Expectations {
    /// A pod was created or changed, which made this revision.
    pub(crate) fn created(&mut self, revision: u64) {
        self.revision = self.revision.max(revision);
        self.since = Some(Instant::now());
    }

    /// The pod with this uid was deleted.
    pub(crate) fn deleted(&mut self, uid: &str) {
        self.deleted.insert(uid.to_owned());
        self.since = Some(Instant::now());
    }

    /// An answer was lost: what is there must be read from the API itself.
    pub(crate) fn uncertain(&mut self) {
        self.uncertain = true;
    }

    /// True until the pods were read from the API itself.
    pub(crate) fn is_uncertain(&self) -> bool {
        self.uncertain
    }

    /// What there is was read from the API itself (`listed`, the whole namespace) after `cached` was read from
    /// the cache, which must become as new as that.
    fn certain(&mut self, cached: &[Arc<Pod>], listed: &[PartialObjectMeta<Pod>]) {
        self.uncertain = false;
        self.created(listed.iter().map(|pod| pods::revision(&pod.metadata)).max().unwrap_or(0));
        let lives = listed.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let alive: HashSet<&str> = lives.map(|pod| pods::uid(&pod.metadata)).collect();
        for pod in cached.iter().filter(|pod| pods::is_active(pod)) {
            let uid = pods::uid(&pod.metadata);
            if !alive.contains(uid) {
                self.deleted(uid);
            }
        }
    }

    /// True if pods may be counted: the cache, which includes `seen`, shows everything that was written.
    /// `pods` are the ones to be counted, read after `seen` was.
    pub(crate) fn met(&mut self, seen: u64, pods: &[Arc<Pod>]) -> bool {
        let expired = self.since.is_some_and(|since| since.elapsed() > EXPIRY);
        let doomed = |pod: &Arc<Pod>| self.deleted.contains(pods::uid(&pod.metadata)) && pods::is_active(pod);
        let shows = self.revision <= seen && (self.deleted.is_empty() || !pods.iter().any(doomed));
        if shows || expired {
            *self = Expectations { uncertain: self.uncertain, ..Expectations::default() };
        }
        shows || expired
    }
}

/// What each controller wrote that may not be in the cache yet. An entry is taken out while its key is
/// reconciled, which one worker does at a time.
#[derive(Debug, Default)]
pub(crate) struct Memory(Mutex<HashMap<Key, (String, Expectations)>>);

impl Memory {
    /// What the controller with this uid wrote; another one of the same name starts afresh.
    pub(crate) fn take(&self, key: &Key, uid: &str) -> Expectations {
        let remembered = self.0.lock().remove(key);
        remembered.filter(|(of, _)| of == uid).map(|(_, expectations)| expectations).unwrap_or_default()
    }

    /// Keeps what was taken.
    pub(crate) fn put(&self, key: Key, uid: &str, expectations: Expectations) {
        self.0.lock().insert(key, (uid.to_owned(), expectations));
    }

    /// The controller is gone.
    pub(crate) fn forget(&self, key: &Key) {
        self.0.lock().remove(key);
    }
}

/// The pods that are or could be the owner's, as the cache has them. If an answer was lost, the cache may lack
/// what nobody can name, so the API itself is asked what the cache must show first.
pub(crate) async fn candidates<O: Namespaced>(
    client: &Client,
    informer: &Informer<Pod>,
    owner: &O,
    expectations: &mut Expectations,
) -> Result<Vec<Arc<Pod>>, ReconcileError> {
    let cached = pods::candidates(informer, owner.meta());
    if expectations.is_uncertain() {
        let namespace = pods::namespace(owner.meta());
        let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let list =
            api.list_metadata(&ListParams::default()).await.during(|| format!("list pods of {namespace}"))?;
        expectations.certain(&cached, &list.items);
    }
    Ok(cached)
}
