//! A container's memory limit: linear memories and tables, all together, counted as they are reserved.

use std::sync::Arc;

use wasmtime::ResourceLimiter;

use crate::limits::{CORE_INSTANCES, MEMORIES, TABLE_ELEMENTS, TABLES};
use crate::run::Control;

/// What the engine keeps per table element.
const ELEMENT_BYTES: u64 = 8;

/// Asked by the engine before any memory or table grows.
pub(crate) struct Limiter {
    limit: u64,
    used: u64,
    /// What the last allowed growth added, to take back if it failed after all.
    last: u64,
    control: Arc<Control>,
    /// One of several instances of the container: the limit is for all of them together.
    shared: bool,
}

/// Why a growth ended the guest.
#[derive(Debug, thiserror::Error)]
#[error("memory limit of {limit} bytes exceeded")]
pub(crate) struct OutOfMemory {
    limit: u64,
}

impl Limiter {
    pub(crate) fn new(limit: u64, control: Arc<Control>) -> Limiter {
        Limiter { limit, used: 0, last: 0, control, shared: false }
    }

    /// For one of several instances, whose memory counts together.
    pub(crate) fn shared(limit: u64, control: Arc<Control>) -> Limiter {
        Limiter { limit, used: 0, last: 0, control, shared: true }
    }

    /// Books a growth. One beyond the limit ends the guest: a guest told "no" would abort anyway, and then
    /// nobody could tell an `OOMKilled` from a bug.
    fn grow(&mut self, bytes: u64) -> wasmtime::Result<bool> {
        if !self.control.take_memory(bytes, self.limit) {
            if !self.shared {
                self.control.set_out_of_memory();
            }
            return Err(wasmtime::Error::new(OutOfMemory { limit: self.limit }));
        }
        self.used += bytes;
        self.last = bytes;
        Ok(true)
    }

    fn take_back(&mut self) {
        self.used -= self.last;
        self.control.give_memory(self.last);
        self.last = 0;
    }
}

impl Drop for Limiter {
    /// What a container used stays known after its end; what an instance used is there for the others.
    fn drop(&mut self) {
        if self.shared {
            self.control.give_memory(self.used);
        }
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.last = 0;
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false); // the module's own bound, not ours
        }
        self.grow(desired.saturating_sub(current) as u64)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.take_back();
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.last = 0;
        if maximum.is_some_and(|maximum| desired > maximum) || desired > TABLE_ELEMENTS {
            return Ok(false);
        }
        self.grow(desired.saturating_sub(current) as u64 * ELEMENT_BYTES)
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.take_back();
        Ok(())
    }

    fn instances(&self) -> usize {
        CORE_INSTANCES as usize
    }

    fn tables(&self) -> usize {
        TABLES as usize
    }

    fn memories(&self) -> usize {
        MEMORIES as usize
    }
}
