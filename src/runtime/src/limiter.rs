//! A container's memory limit: linear memories and tables, all together, counted as they are reserved, and what the
//! host keeps for them; and its part of what its pod may hold.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coracle_budget::{Budget, Charge, Exceeded};
use tokio::time::Instant;
use wasmtime::ResourceLimiterAsync;

use crate::container::Exit;
use crate::executor::blocking;
use crate::limits::{CORE_INSTANCES, MEMORIES, TABLE_ELEMENTS, TABLES};
use crate::run::Control;

/// What the engine keeps per table element.
const ELEMENT_BYTES: u64 = 8;

/// The same where the collector may begin from it: 16 bytes more, in a list that is there twice when it grows to twice
/// its size.
const HEAP_ELEMENT_BYTES: u64 = ELEMENT_BYTES + 48;

/// How long a guest waits for its node to end somebody who holds more than was asked for. What is held is given back
/// within some hundredths of a second, if nothing like a copy of gigabytes is going on.
const ROOM: Duration = Duration::from_secs(3);

/// How often a guest that waits looks whether it is the one to end.
const LOOK: Duration = Duration::from_millis(5);

/// Asked by the engine before any memory or table grows.
pub(crate) struct Limiter {
    pod: Arc<Budget>,
    /// What it holds of its pod's memory.
    held: Charge,
    /// What the last allowed growth added, to take back if it failed after all.
    last: u64,
    control: Arc<Control>,
    /// One of several instances of the container: the limit is for all of them together.
    shared: bool,
    /// It has a heap of objects.
    heap: bool,
    /// Why the last growth was refused.
    refused: Option<OutOfMemory>,
}

/// Why a growth ended the guest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutOfMemory {
    #[error("memory limit of {limit} bytes exceeded")]
    Container { limit: u64 },
    #[error(transparent)]
    Pod(Exceeded),
    #[error("the node is out of memory")]
    Node,
}

impl Limiter {
    pub(crate) fn new(pod: &Arc<Budget>, control: Arc<Control>) -> Limiter {
        Limiter {
            pod: Arc::clone(pod),
            held: pod.empty(),
            last: 0,
            control,
            shared: false,
            heap: false,
            refused: None,
        }
    }

    /// For one of several instances, whose memory counts together.
    pub(crate) fn shared(pod: &Arc<Budget>, control: Arc<Control>) -> Limiter {
        let mut limiter = Limiter::new(pod, control);
        limiter.shared = true;
        limiter
    }

    /// Books a growth. One beyond the limit ends the guest: a guest told "no" would abort anyway, and then
    /// nobody could tell an `OOMKilled` from a bug. One that the node has no room for waits until it has.
    async fn grow(&mut self, bytes: u64) -> wasmtime::Result<bool> {
        self.book(bytes).await.map_err(|why| self.end(why))?;
        Ok(true)
    }

    async fn book(&mut self, bytes: u64) -> Result<(), OutOfMemory> {
        match take(&self.control, &mut self.held, bytes) {
            Err(OutOfMemory::Pod(Exceeded::Node { .. })) => {
                let booked = Booked::begin(&self.pod, &self.control, bytes)?;
                let taken = tokio::time::timeout(ROOM, room(&self.pod, &mut self.held, bytes)).await;
                booked.end(taken.unwrap_or(Err(OutOfMemory::Node)))?;
            }
            taken => taken?,
        }
        self.last = bytes;
        self.refused = None;
        Ok(())
    }

    /// Books a growth, or remembers why it cannot be.
    async fn grow_if_possible(&mut self, bytes: u64) -> bool {
        self.refused = self.book(bytes).await.err();
        self.refused.is_none()
    }

    /// The guest has come to its end because it got no memory: if it was refused some, it ends for want of it.
    pub(crate) fn end_as_refused(&mut self) {
        if let Some(why) = self.refused.take() {
            self.end(why);
        }
    }

    /// Books what the host keeps for the instance as long as it lives; `heap` says whether it has a heap of objects.
    ///
    /// # Errors
    /// As a growth.
    pub(crate) async fn keep(&mut self, bytes: u64, heap: bool) -> wasmtime::Result<()> {
        self.heap = heap;
        if bytes > 0 {
            self.grow(bytes).await?;
            self.last = 0;
        }
        Ok(())
    }

    /// Books what the host keeps for the guest until [`Held`] is dropped, which may be after its end.
    ///
    /// # Errors
    /// As a growth.
    pub(crate) fn lend(&self, bytes: u64) -> wasmtime::Result<Held> {
        let mut held = Held::nothing(&self.pod, &self.control);
        self.resize(&mut held, bytes)?;
        Ok(held)
    }

    /// Makes what is held so many bytes.
    ///
    /// # Errors
    /// As a growth.
    pub(crate) fn resize(&self, held: &mut Held, bytes: u64) -> wasmtime::Result<()> {
        let resized = match bytes.checked_sub(held.bytes()) {
            Some(more) => take_or_wait(&self.pod, &self.control, &mut held.charge, more),
            None => held.resize(bytes),
        };
        resized.map_err(|why| self.end(why))
    }

    fn end(&self, why: OutOfMemory) -> wasmtime::Error {
        if !self.shared {
            self.control.set_out_of_memory(match why {
                OutOfMemory::Container { .. } => Exit::OutOfMemory,
                OutOfMemory::Pod(full @ Exceeded::Pod { .. }) => {
                    Exit::PodOutOfMemory { message: full.to_string() }
                }
                OutOfMemory::Pod(Exceeded::Node { .. }) | OutOfMemory::Node => Exit::NodeOutOfMemory,
            });
        }
        wasmtime::Error::new(why)
    }

    fn take_back(&mut self) {
        self.held.shrink(self.last);
        self.control.give_memory(self.last);
        self.last = 0;
    }
}

/// What a container has, to pay for what the host keeps for it apart from any of its instances.
#[derive(Clone)]
pub(crate) struct Purse {
    pod: Arc<Budget>,
    control: Arc<Control>,
}

impl Purse {
    pub(crate) fn new(pod: &Arc<Budget>, control: &Arc<Control>) -> Purse {
        Purse { pod: Arc::clone(pod), control: Arc::clone(control) }
    }

    /// Books what the host keeps until [`Held`] is dropped.
    ///
    /// # Errors
    /// If that is more than the container or its pod may hold; nothing is booked then, and nobody ends.
    pub(crate) fn lend(&self, bytes: u64) -> Result<Held, OutOfMemory> {
        let mut held = self.nothing();
        held.resize(bytes)?;
        Ok(held)
    }

    /// Books nothing, for what may grow later.
    pub(crate) fn nothing(&self) -> Held {
        Held::nothing(&self.pod, &self.control)
    }
}

/// Memory of the host that a guest, or who asks it, made it hold, counted as its container's and its pod's.
pub(crate) struct Held {
    charge: Charge,
    control: Arc<Control>,
}

impl Held {
    fn nothing(pod: &Arc<Budget>, control: &Arc<Control>) -> Held {
        Held { charge: pod.empty(), control: Arc::clone(control) }
    }

    /// Bytes that are booked.
    pub(crate) fn bytes(&self) -> u64 {
        self.charge.bytes()
    }

    /// Makes it so many bytes.
    ///
    /// # Errors
    /// If that is more than the container or its pod may hold; it stays what it was then.
    pub(crate) fn resize(&mut self, bytes: u64) -> Result<(), OutOfMemory> {
        let now = self.bytes();
        if let Some(less) = now.checked_sub(bytes) {
            self.charge.shrink(less);
            self.control.give_memory(less);
            return Ok(());
        }
        take(&self.control, &mut self.charge, bytes - now)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.control.give_memory(self.charge.bytes());
    }
}

/// Takes from the container's limit and from the pod's, or from neither.
fn take(control: &Control, charge: &mut Charge, bytes: u64) -> Result<(), OutOfMemory> {
    if !control.take_memory(bytes) {
        return Err(OutOfMemory::Container { limit: control.memory_limit() });
    }
    charge.grow(bytes).map_err(|full| {
        control.give_memory(bytes);
        OutOfMemory::Pod(full)
    })
}

/// The same, but waits for room if the node has none, and blocks the thread: for what is asked for within a host
/// function of `wasi:http`.
fn take_or_wait(pod: &Budget, control: &Control, charge: &mut Charge, bytes: u64) -> Result<(), OutOfMemory> {
    match take(control, charge, bytes) {
        Err(OutOfMemory::Pod(Exceeded::Node { .. })) => {
            blocking(|| wait_for_room(pod, control, charge, bytes))
        }
        taken => taken,
    }
}

/// Waits until the node has room, which it makes by ending somebody: perhaps this one, which counts with what it asks
/// for. Blocks the thread.
fn wait_for_room(
    pod: &Budget,
    control: &Control,
    charge: &mut Charge,
    bytes: u64,
) -> Result<(), OutOfMemory> {
    let booked = Booked::begin(pod, control, bytes)?;
    let begun = Instant::now();
    let mut taken = Err(OutOfMemory::Node);
    while begun.elapsed() < ROOM && control.ended_from_outside().is_none() {
        if !pod.wait_for(bytes, LOOK) {
            continue;
        }
        taken = charge.grow(bytes).map_err(OutOfMemory::Pod);
        // Another may have been faster.
        if !matches!(taken, Err(OutOfMemory::Pod(Exceeded::Node { .. }))) {
            break;
        }
    }
    booked.end(taken)
}

/// Takes from the pod what its container has been booked with, when the node has room for it.
async fn room(pod: &Budget, charge: &mut Charge, bytes: u64) -> Result<(), OutOfMemory> {
    loop {
        pod.room(bytes).await;
        match charge.grow(bytes) {
            // Another was faster.
            Err(Exceeded::Node { .. }) => tokio::task::yield_now().await,
            taken => return taken.map_err(OutOfMemory::Pod),
        }
    }
}

/// What a container waits for counts as its memory. Dropped, it is not waited for any more.
struct Booked<'a> {
    control: &'a Control,
    bytes: u64,
}

impl<'a> Booked<'a> {
    fn begin(pod: &Budget, control: &'a Control, bytes: u64) -> Result<Booked<'a>, OutOfMemory> {
        if !pod.may_ever_have(bytes) {
            return Err(OutOfMemory::Node); // nobody ends for that
        }
        if !control.take_memory(bytes) {
            return Err(OutOfMemory::Container { limit: control.memory_limit() });
        }
        Ok(Booked { control, bytes })
    }

    /// It has what it waited for, or not.
    fn end(mut self, taken: Result<(), OutOfMemory>) -> Result<(), OutOfMemory> {
        if taken.is_ok() {
            self.bytes = 0;
        }
        taken
    }
}

impl Drop for Booked<'_> {
    fn drop(&mut self) {
        self.control.give_memory(self.bytes);
    }
}

impl Drop for Limiter {
    /// What a container used stays known after its end; what an instance used is there for the others.
    fn drop(&mut self) {
        if self.shared {
            self.control.give_memory(self.held.bytes());
        }
    }
}

#[async_trait]
impl ResourceLimiterAsync for Limiter {
    async fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.last = 0;
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false); // the module's own bound, not ours
        }
        let bytes = desired.saturating_sub(current) as u64;
        // A heap, which always asks for as much again as it has, does with less: it is collected more often.
        if self.heap && current > 0 && desired / 2 >= current {
            return Ok(self.grow_if_possible(bytes).await);
        }
        self.grow(bytes).await
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.take_back();
        Ok(())
    }

    async fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.last = 0;
        if maximum.is_some_and(|maximum| desired > maximum) || desired > TABLE_ELEMENTS {
            return Ok(false);
        }
        let element = if self.heap { HEAP_ELEMENT_BYTES } else { ELEMENT_BYTES };
        self.grow(desired.saturating_sub(current) as u64 * element).await
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
