//! What was written and must show in the cache before pods are counted again.
//!
//! Kubernetes counts additions and deletions as they are seen. Here the cache says which revision it
//! includes, so it is enough to know the newest revision written; merged or unseen changes do no harm.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use crate::pods;

/// A safety net: should something expected never show, counting goes on after this. Kubernetes' number.
const EXPIRY: Duration = Duration::from_mins(5);

/// When to look again if no change of a pod woke the controller meanwhile.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Expectations {
    /// The newest revision of a pod created.
    revision: u64,
    /// Pods deleted, by uid.
    deleted: BTreeSet<String>,
    /// A call may or may not have been carried out.
    uncertain: bool,
    since: Option<Instant>,
}

impl Expectations {
    pub(super) fn created(&mut self, revision: u64) {
        self.revision = self.revision.max(revision);
        self.since = Some(Instant::now());
    }

    pub(super) fn deleted(&mut self, uid: &str) {
        self.deleted.insert(uid.to_owned());
        self.since = Some(Instant::now());
    }

    pub(super) fn uncertain(&mut self) {
        self.uncertain = true;
    }

    pub(super) fn is_uncertain(&self) -> bool {
        self.uncertain
    }

    /// The pods were read from the API itself: the cache must become at least as new as they are.
    pub(super) fn certain(&mut self, pods: &[Arc<Pod>]) {
        self.uncertain = false;
        let newest = pods.iter().map(|pod| pods::revision(&pod.metadata)).max().unwrap_or(0);
        self.created(newest);
    }

    /// True if pods may be counted: the cache, which includes `seen`, shows everything that was written.
    /// `pods` are the ones to be counted, read after `seen` was.
    pub(super) fn met(&mut self, seen: u64, pods: &[Arc<Pod>]) -> bool {
        let expired = self.since.is_some_and(|since| since.elapsed() > EXPIRY);
        let lives =
            |uid: &String| pods.iter().any(|pod| pods::uid(&pod.metadata) == uid && pods::is_active(pod));
        let shows = self.revision <= seen && !self.deleted.iter().any(lives);
        if shows || expired {
            *self = Expectations { uncertain: self.uncertain, ..Expectations::default() };
        }
        shows || expired
    }
}
