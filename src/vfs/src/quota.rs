//! A volume's limit: charged before anything is stored, given back when the last handle is gone.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::VfsError;

/// Bytes of limit per name (and per stored piece of a file). Empty files cost the host about 300 bytes each,
/// so with one per 4 KiB the overhead beyond the limit stays under a tenth, and a volume full of 4 KiB files
/// still fits.
const BYTES_PER_ENTRY: u64 = 4_096;

/// Names that any volume may hold, however small its limit.
const MIN_ENTRIES: u64 = 1_024;

/// Names that a volume without a limit may hold: some 300 MB of host memory at worst.
const MAX_ENTRIES: u64 = 1_000_000;

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
}

impl Quota {
    pub(crate) fn new(limit: Option<u64>) -> Quota {
        Quota {
            limit: AtomicU64::new(limit.unwrap_or(NONE)),
            max_entries: AtomicU64::new(limit.map_or(MAX_ENTRIES, max_entries)),
            bytes: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            pieces: AtomicU64::new(0),
        }
    }

    pub(crate) fn limit(&self) -> Option<u64> {
        Some(self.limit.load(Ordering::Relaxed)).filter(|limit| *limit != NONE)
    }

    /// Sets another limit; what is beyond it already stays.
    pub(crate) fn set_limit(&self, limit: u64) {
        self.max_entries.store(max_entries(limit), Ordering::Relaxed);
        self.limit.store(limit.min(NONE - 1), Ordering::Relaxed);
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    /// Charges all of `bytes` or nothing.
    pub(crate) fn charge(&self, bytes: u64) -> Result<(), VfsError> {
        let limit = self.limit.load(Ordering::Relaxed);
        add(&self.bytes, bytes, limit)
    }

    /// Charges as much of `bytes` as fits and says how much that was.
    pub(crate) fn charge_some(&self, bytes: u64) -> u64 {
        let limit = self.limit.load(Ordering::Relaxed);
        let before = self
            .bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                Some(used + bytes.min(limit.saturating_sub(used)))
            })
            .unwrap_or_else(|used| used);
        bytes.min(limit.saturating_sub(before))
    }

    /// Charges what exists already, even beyond the limit.
    pub(crate) fn charge_existing(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn release(&self, bytes: u64) {
        sub(&self.bytes, bytes);
    }

    pub(crate) fn charge_entry(&self) -> Result<(), VfsError> {
        add(&self.entries, 1, self.max_entries.load(Ordering::Relaxed))
    }

    /// Charges a name that exists already, even beyond the bound.
    pub(crate) fn charge_existing_entry(&self) {
        self.entries.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn release_entries(&self, count: u64) {
        sub(&self.entries, count);
    }

    pub(crate) fn charge_piece(&self) -> Result<(), VfsError> {
        add(&self.pieces, 1, self.max_entries.load(Ordering::Relaxed).saturating_mul(2))
    }

    pub(crate) fn release_pieces(&self, count: u64) {
        sub(&self.pieces, count);
    }
}

fn add(counter: &AtomicU64, amount: u64, limit: u64) -> Result<(), VfsError> {
    counter
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(amount).filter(|sum| *sum <= limit)
        })
        .map(|_| ())
        .map_err(|_| VfsError::NoSpace)
}

/// Never below zero: a host directory may be changed behind our back.
fn sub(counter: &AtomicU64, amount: u64) {
    let _ =
        counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| Some(used.saturating_sub(amount)));
}
