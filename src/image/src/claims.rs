//! What running pulls need: as long as one does, nobody removes it for being of no use.
//!
//! A pull claims content before it looks whether that is here. Who removes looks at the claims first and then at
//! what the manifests name, so that he sees either the claim of a pull or the manifest that it kept; and while he
//! is about it nothing new is claimed.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;

use crate::digest::Digest;

/// Content that running pulls need, by repository.
#[derive(Default)]
pub(crate) struct Claims {
    /// How many pulls need it.
    all: Mutex<BTreeMap<(String, Digest), usize>>,
    /// Held while something is claimed, and while something is removed.
    gate: tokio::sync::Mutex<()>,
}

/// What one pull needs, until it goes.
pub(crate) struct Claim<'a> {
    claims: &'a Claims,
    repository: String,
    digests: Mutex<BTreeSet<Digest>>,
}

impl Claims {
    /// The claim of a pull into this repository.
    pub(crate) fn begin(&self, repository: String) -> Claim<'_> {
        Claim { claims: self, repository, digests: Mutex::default() }
    }

    /// Keeps new claims waiting. Blocking, and not for the runtime's threads.
    pub(crate) fn close(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.gate.blocking_lock()
    }

    /// What is claimed in a repository.
    pub(crate) fn of(&self, repository: &str) -> BTreeSet<Digest> {
        let all = self.all.lock();
        let of = all.keys().filter(|(name, _)| name == repository);
        of.map(|(_, digest)| digest.clone()).collect()
    }
}

impl Claim<'_> {
    pub(crate) async fn add(&self, digest: &Digest) {
        let _open = self.claims.gate.lock().await;
        if self.digests.lock().insert(digest.clone()) {
            *self.claims.all.lock().entry((self.repository.clone(), digest.clone())).or_default() += 1;
        }
    }

    /// Gives up the claim; what it was on.
    pub(crate) fn end(self) -> BTreeSet<Digest> {
        self.digests.lock().clone()
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut all = self.claims.all.lock();
        for digest in std::mem::take(self.digests.get_mut()) {
            let key = (self.repository.clone(), digest);
            if let Some(count) = all.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    all.remove(&key);
                }
            }
        }
    }
}
