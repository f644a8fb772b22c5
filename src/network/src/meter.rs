//! What a pod's network use is counted by.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::limits::{POD_BUFFER_BUDGET, STREAM_WINDOW, STREAM_WINDOW_MIN};

/// Counters of one pod. They are statistics and a soft bound, so no order between them is promised.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// Bytes this pod wrote that nobody has read yet.
    buffered: AtomicUsize,
    /// Bytes this pod wrote and read over its life.
    sent: AtomicU64,
    received: AtomicU64,
    /// Connections and datagrams that policy refused.
    denied: AtomicU64,
}

impl Meter {
    pub(crate) fn window(&self) -> usize {
        if self.buffered.load(Relaxed) > POD_BUFFER_BUDGET { STREAM_WINDOW_MIN } else { STREAM_WINDOW }
    }

    pub(crate) fn wrote(&self, bytes: usize) {
        self.buffered.fetch_add(bytes, Relaxed);
        self.sent.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn drained(&self, bytes: usize) {
        self.buffered.fetch_sub(bytes, Relaxed);
    }

    pub(crate) fn read(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn deny(&self) {
        self.denied.fetch_add(1, Relaxed);
    }

    pub(crate) fn buffered(&self) -> usize {
        self.buffered.load(Relaxed)
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    pub(crate) fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    pub(crate) fn denied(&self) -> u64 {
        self.denied.load(Relaxed)
    }
}
