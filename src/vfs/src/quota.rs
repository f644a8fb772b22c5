//! A volume's limit: charged before anything is stored, given back when the last handle is gone.
//!
//! Two things are counted. The limit counts what programs see: bytes of content, names. The pod's budget, which a
//! volume in memory may have, counts what the host really holds for that: allocations with what is spare in them,
//! and what a name costs beside its content.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use coracle_budget::{Budget, Charge};
use parking_lot::Mutex;

use crate::error::VfsError;
use crate::volume::Usage;

/// Bytes of limit per name (and per stored piece of a file). Empty files cost the host about [`ENTRY_BYTES`] each,
/// so with one per 4 KiB the overhead beyond the limit stays under a tenth, and a volume full of 4 KiB files
/// still fits.
const BYTES_PER_ENTRY: u64 = 4_096;

/// Names that any volume may hold, however small its limit.
const MIN_ENTRIES: u64 = 1_024;

/// Names that a volume without a limit may hold: some 250 MB of host memory, or twice that with the longest names.
const MAX_ENTRIES: u64 = 1_000_000;

/// What a name costs the host beside its letters: an inode (a test holds it to 128 bytes with its counts, and what a
/// folder has beside that to 64) and its place in the tree of names (24 bytes, and half as much for what is spare
/// there), with the allocator's share.
pub(crate) const ENTRY_BYTES: u64 = 256;

/// What a piece of a file costs beside its bytes: its place in the tree of pieces.
const PIECE_BYTES: u64 = 64;

/// A limit that is none.
const NONE: u64 = u64::MAX;

/// The names that a volume with this limit may hold.
fn max_entries(limit: u64) -> u64 {
    (limit / BYTES_PER_ENTRY).clamp(MIN_ENTRIES, MAX_ENTRIES)
}

/// Counts against limits.
#[derive(Debug)]
pub(crate) struct Quota {
    /// Bytes; all ones for none.
    limit: AtomicU64,
    max_entries: AtomicU64,
    bytes: AtomicU64,
    entries: AtomicU64,
    pieces: AtomicU64,
    /// The memory that this volume takes of its pod's.
    pod: Option<Mutex<Charge>>,
    /// What this volume and others have together.
    shared: Option<Arc<Quota>>,
}

impl Quota {
    pub(crate) fn new(limit: Option<u64>) -> Quota {
        Quota {
            limit: AtomicU64::new(limit.unwrap_or(NONE)),
            max_entries: AtomicU64::new(limit.map_or(MAX_ENTRIES, max_entries)),
            bytes: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            pieces: AtomicU64::new(0),
            pod: None,
            shared: None,
        }
    }

    /// Counts against a limit that other volumes count against, too.
    pub(crate) fn sharing(limit: Option<u64>, shared: &Arc<Quota>) -> Quota {
        let mut quota = Quota::new(limit);
        quota.shared = Some(Arc::clone(shared));
        quota
    }

    /// Counts against the pod's memory, too.
    pub(crate) fn of_pod(limit: Option<u64>, budget: &Arc<Budget>) -> Quota {
        let mut quota = Quota::new(limit);
        quota.pod = Some(Mutex::new(budget.empty()));
        quota
    }

    pub(crate) fn usage(&self) -> Usage {
        Usage { bytes: self.bytes(), limit: self.limit(), entries: self.entries() }
    }

    /// Whether what is counted here matters to anybody.
    pub(crate) fn counts(&self) -> bool {
        self.limit().is_some() || self.shared.is_some()
    }

    fn shared(&self) -> Option<&Quota> {
        self.shared.as_deref()
    }

    pub(crate) fn limit(&self) -> Option<u64> {
        Some(self.limit.load(Ordering::Relaxed)).filter(|limit| *limit != NONE)
    }

    /// Sets another limit; what is beyond it already stays.
    pub(crate) fn set_limit(&self, limit: u64) {
        self.max_entries.store(max_entries(limit), Ordering::Relaxed);
        self.limit.store(limit.min(NONE - 1), Ordering::Relaxed);
    }

    /// No more names than this from now on, whatever the limit.
    pub(crate) fn bound_entries(&self, most: u64) {
        self.max_entries.fetch_min(most.max(MIN_ENTRIES), Ordering::Relaxed);
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    /// Charges all of `bytes` or nothing.
    pub(crate) fn charge(&self, bytes: u64) -> Result<(), VfsError> {
        add(&self.bytes, bytes, self.limit.load(Ordering::Relaxed))?;
        let Some(shared) = self.shared() else { return Ok(()) };
        shared.charge(bytes).inspect_err(|_| {
            sub(&self.bytes, bytes);
        })
    }

    /// Charges as much of `bytes` as fits and says how much that was.
    pub(crate) fn charge_some(&self, bytes: u64) -> u64 {
        if bytes == 0 {
            return 0;
        }
        let limit = self.limit.load(Ordering::Relaxed);
        let before = self
            .bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                Some(used + bytes.min(limit.saturating_sub(used)))
            })
            .unwrap_or_else(|used| used);
        let granted = bytes.min(limit.saturating_sub(before));
        let Some(shared) = self.shared() else { return granted };
        let all = shared.charge_some(granted);
        sub(&self.bytes, granted - all);
        all
    }

    /// Charges what exists already, even beyond the limit.
    pub(crate) fn charge_existing(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Some(shared) = self.shared() {
            shared.charge_existing(bytes);
        }
    }

    pub(crate) fn release(&self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let given = sub(&self.bytes, bytes);
        if let Some(shared) = self.shared() {
            shared.release(given);
        }
    }

    /// Takes memory of the pod's, for content that is charged as well.
    pub(crate) fn hold(&self, bytes: u64) -> Result<(), VfsError> {
        match &self.pod {
            Some(pod) => pod.lock().grow(bytes).map_err(|_| VfsError::NoSpace),
            None => Ok(()),
        }
    }

    /// Takes memory of the pod's that is not given back with the volume's, but when nobody has it any more.
    pub(crate) fn apart(&self, bytes: u64) -> Result<Option<Arc<Charge>>, VfsError> {
        let Some(pod) = &self.pod else { return Ok(None) };
        let charge = pod.lock().budget().charge(bytes).map_err(|_| VfsError::NoSpace)?;
        Ok(Some(Arc::new(charge)))
    }

    /// Gives memory of the pod's back.
    pub(crate) fn let_go(&self, bytes: u64) {
        if let Some(pod) = &self.pod {
            pod.lock().shrink(bytes);
        }
    }

    pub(crate) fn charge_entry(&self, name: &str) -> Result<(), VfsError> {
        add(&self.entries, 1, self.max_entries.load(Ordering::Relaxed))?;
        let shared = self.shared().map_or(Ok(()), |shared| shared.charge_entry(name));
        shared.and_then(|()| self.hold(cost(name))).inspect_err(|_| {
            sub(&self.entries, 1);
        })
    }

    /// Charges a name that exists already, even beyond the bound.
    pub(crate) fn charge_existing_entry(&self) {
        self.entries.fetch_add(1, Ordering::Relaxed);
        if let Some(shared) = self.shared() {
            shared.charge_existing_entry();
        }
    }

    pub(crate) fn release_entry(&self, name: &str) {
        let given = sub(&self.entries, 1);
        self.let_go(cost(name));
        if let (Some(shared), 1) = (self.shared(), given) {
            shared.release_entry(name);
        }
    }

    /// A name becomes another: what it costs the pod changes with its letters.
    pub(crate) fn rename_entry(&self, from: &str, to: &str) -> Result<(), VfsError> {
        let (before, after) = (cost(from), cost(to));
        self.let_go(before.saturating_sub(after));
        self.hold(after.saturating_sub(before))
    }

    /// Charges all of these pieces of files or none.
    pub(crate) fn charge_pieces(&self, count: u64) -> Result<(), VfsError> {
        add(&self.pieces, count, self.max_entries.load(Ordering::Relaxed).saturating_mul(2))?;
        self.hold(count * PIECE_BYTES).inspect_err(|_| {
            sub(&self.pieces, count);
        })
    }

    pub(crate) fn release_pieces(&self, count: u64) {
        sub(&self.pieces, count);
        self.let_go(count * PIECE_BYTES);
    }
}

impl Drop for Quota {
    /// Others go on without this volume.
    fn drop(&mut self) {
        if let Some(shared) = self.shared() {
            sub(&shared.bytes, self.bytes());
            sub(&shared.entries, self.entries());
        }
    }
}

/// What a name costs the pod.
fn cost(name: &str) -> u64 {
    ENTRY_BYTES + name.len() as u64
}

fn add(counter: &AtomicU64, amount: u64, limit: u64) -> Result<(), VfsError> {
    counter
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(amount).filter(|sum| *sum <= limit || amount == 0)
        })
        .map(|_| ())
        .map_err(|_| VfsError::NoSpace)
}

/// Takes off `amount`, but never below zero: a host directory may be changed behind our back. How much it was.
fn sub(counter: &AtomicU64, amount: u64) -> u64 {
    let before = counter
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| Some(used.saturating_sub(amount)))
        .unwrap_or_else(|used| used);
    before.min(amount)
}
