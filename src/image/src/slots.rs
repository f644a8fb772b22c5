//! Who may do a thing at the same time: so many on the node, so many that talk to one registry host, so many for one
//! namespace.
//!
//! ```text
//!            of those that there is room for, the one whose namespace has least, or got one the longest ago
//!   waiting ────────────────────────────────────────────────────────────────────► holding ──done──► gone
//!      ▲                                                                             │
//!      └── others wait, and it got too little meanwhile, or its namespace has more ──┘
//! ```
//!
//! A registry that is slow, or sends nothing at all, so delays who asks it, and whoever else has asked for more than
//! others have; it does not delay the others, however many such registries there are.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

/// How long somebody who has not asked before waits at most for the slot of one that gets nothing: a registry that is
/// well answers in less, and who waits for an image hardly notices so much.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often the patience with the same one doubles, each time that it had to give up its slot, if those who wait have
/// had to as well: what a registry takes minutes to begin with is still got.
const DOUBLINGS: u32 = 6;

/// Bytes that must come in each second for one to keep its slot while others wait: at less even an image of 10 MB
/// would not be here when the ten minutes of a pull are over.
const LEAST_PER_SECOND: u64 = 16 * 1024;

/// How long a transfer keeps its slot without anything coming: what lies between two packets of a good connection, and
/// some more.
const GAP: Duration = Duration::from_millis(100);

/// How long a transfer keeps its slot at most before it waits again: with what comes in a second none is slower for
/// that, and each of a dozen that wait gets one within two.
const SLICE: Duration = Duration::from_secs(1);

/// Namespaces of which it is remembered when they last got a slot: more than wait at the same time, mostly.
const REMEMBERED: usize = 256;

/// How many may hold a slot at the same time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) all: usize,
    pub(crate) of_host: usize,
    pub(crate) of_namespace: usize,
}

/// What a slot is wanted for.
#[derive(Debug)]
pub(crate) struct Turn {
    host: String,
    /// Several, if pods of several want the same.
    namespaces: Mutex<BTreeSet<Arc<str>>>,
}

impl Turn {
    pub(crate) fn new(host: &str, namespace: &str) -> Arc<Turn> {
        Arc::new(Turn { host: host.to_owned(), namespaces: Mutex::new([namespace.into()].into()) })
    }
}

/// The slots, and who waits for one. Clones are handles on the same ones.
#[derive(Clone)]
pub(crate) struct Slots(Arc<Inner>);

struct Inner {
    room: Room,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    /// Counts up, so that numbers are in the order of asking.
    next: u64,
    held: BTreeMap<u64, Held>,
    waiting: BTreeMap<u64, Waiting>,
    /// When a namespace last got a slot, as a number that counts up: where nobody holds any, who waits longest for
    /// one is next.
    served: BTreeMap<Arc<str>, u64>,
    serving: u64,
}

struct Held {
    turn: Arc<Turn>,
    /// That of its namespaces which it counts for.
    namespace: Arc<str>,
    pushed: u32,
    since: Instant,
}

struct Waiting {
    turn: Arc<Turn>,
    /// How often it had to give up a slot.
    pushed: u32,
    tell: oneshot::Sender<Slot>,
}

/// Room for one, until it is dropped.
pub(crate) struct Slot {
    inner: Arc<Inner>,
    number: u64,
}

/// Takes who does not wait any more out of the queue.
struct Leave<'a> {
    inner: &'a Inner,
    number: u64,
}

impl Slots {
    pub(crate) fn new(room: Room) -> Slots {
        Slots(Arc::new(Inner { room, queue: Mutex::default() }))
    }

    /// Waits for a slot.
    pub(crate) async fn acquire(&self, turn: &Arc<Turn>) -> Slot {
        self.acquire_again(turn, 0).await
    }

    /// As [`Slots::acquire`], for one that had to give up its slot so often: those who have not come first.
    async fn acquire_again(&self, turn: &Arc<Turn>, pushed: u32) -> Slot {
        let (tell, told) = oneshot::channel();
        let number = {
            let mut queue = self.0.queue.lock();
            queue.next += 1;
            let number = queue.next;
            queue.waiting.insert(number, Waiting { turn: turn.clone(), pushed, tell });
            number
        };
        let _leave = Leave { inner: &self.0, number };
        self.0.let_in();
        told.await.expect("who waits is told, or leaves")
    }

    /// Says that another namespace wants what has this turn: it comes as soon as that of either.
    pub(crate) fn join(&self, turn: &Turn, namespace: &str) {
        if turn.namespaces.lock().insert(namespace.into()) {
            self.0.let_in();
        }
    }

    /// Does `work` while it has a slot, and from the beginning if it had to give that up: it adds to `came` the bytes
    /// that come.
    pub(crate) async fn in_turn<T, F: Future<Output = T>>(
        &self,
        turn: &Arc<Turn>,
        came: &AtomicU64,
        work: impl Fn() -> F,
    ) -> T {
        for pushed in 0.. {
            let slot = self.acquire_again(turn, pushed).await;
            tokio::select! {
                biased;
                done = work() => return done,
                () = slot.is_due(came) => {}
            }
        }
        unreachable!("nobody is pushed so often")
    }
}

impl Inner {
    /// Gives slots to those whose turn it is.
    fn let_in(self: &Arc<Inner>) {
        loop {
            let (tell, slot) = {
                let mut queue = self.queue.lock();
                let Some((number, namespace)) = queue.first(self.room, None) else { return };
                let Some(Waiting { turn, pushed, tell }) = queue.waiting.remove(&number) else { return };
                queue.serve(&namespace);
                queue.held.insert(number, Held { turn, namespace, pushed, since: Instant::now() });
                (tell, Slot { inner: self.clone(), number })
            };
            // Who is gone does not take it, and it is free again.
            let _ = tell.send(slot);
        }
    }
}

impl Queue {
    /// Who is next, if there is room, and for which of its namespaces; as if the slot `without` were free.
    fn first(&self, room: Room, without: Option<u64>) -> Option<(u64, Arc<str>)> {
        let held = || self.held.iter().filter(|(number, _)| Some(**number) != without).map(|(_, held)| held);
        if held().count() >= room.all {
            return None;
        }
        let fits = |(number, waiting): (&u64, &Waiting)| {
            let of_host = held().filter(|held| held.turn.host == waiting.turn.host).count();
            let of = |namespace: &Arc<str>| held().filter(|held| held.namespace == *namespace).count();
            let namespaces = waiting.turn.namespaces.lock();
            let served = |name| self.served.get(name).copied().unwrap_or(0);
            let least = namespaces.iter().map(|name| (of(name), served(name), name)).min()?;
            let (of_namespace, served, namespace) = least;
            (of_host < room.of_host && of_namespace < room.of_namespace)
                .then(|| ((waiting.pushed, of_namespace, of_host, served, *number), namespace.clone()))
        };
        let ((.., number), namespace) = self.waiting.iter().filter_map(fits).min()?;
        Some((number, namespace))
    }

    /// A namespace gets a slot.
    fn serve(&mut self, namespace: &Arc<str>) {
        self.serving += 1;
        self.served.insert(namespace.clone(), self.serving);
        if self.served.len() > REMEMBERED
            && let Some((_, first)) = self.served.iter().map(|(name, when)| (*when, name.clone())).min()
        {
            self.served.remove(&first);
        }
    }

    /// Whether a slot is due to another, `enough` having come for it or not.
    fn is_due(&self, room: Room, number: u64, enough: bool) -> bool {
        let Some(mine) = self.held.get(&number) else { return false };
        let Some((next, namespace)) = self.first(room, Some(number)) else { return false };
        let Some(next) = self.waiting.get(&next) else { return false };
        let patience = PATIENCE * 2_u32.pow(mine.pushed.min(DOUBLINGS));
        let stalled = !enough && (next.pushed < mine.pushed || mine.since.elapsed() >= patience);
        let of =
            |namespace: &Arc<str>| self.held.values().filter(|held| held.namespace == *namespace).count();
        // Another of the same registry would hardly do better.
        (stalled && next.turn.host != mine.turn.host)
            || (next.pushed <= mine.pushed && of(&namespace) + 1 < of(&mine.namespace))
    }
}

impl Slot {
    /// Waits until this slot is due to another.
    async fn is_due(&self, came: &AtomicU64) {
        loop {
            let before = came.load(Ordering::Relaxed);
            sleep(PATIENCE).await;
            let enough = came.load(Ordering::Relaxed) - before >= LEAST_PER_SECOND * PATIENCE.as_secs();
            if self.inner.queue.lock().is_due(self.inner.room, self.number, enough) {
                return;
            }
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.inner.queue.lock().held.remove(&self.number);
        self.inner.let_in();
    }
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        let left = self.inner.queue.lock().waiting.remove(&self.number);
        drop(left);
    }
}

/// What comes over one connection, under a slot that is held only while enough does.
pub(crate) struct Flow<'a> {
    slots: &'a Slots,
    turn: &'a Arc<Turn>,
    slot: Option<(Slot, Instant)>,
}

impl<'a> Flow<'a> {
    pub(crate) fn new(slots: &'a Slots, turn: &'a Arc<Turn>) -> Flow<'a> {
        Flow { slots, turn, slot: None }
    }

    /// Waits for what comes next, and then for a slot to take it with. That is kept while the next one is waited for,
    /// if this one came fast enough and the next one does not take long.
    pub(crate) async fn next<E>(
        &mut self,
        next: impl Future<Output = Result<Option<Bytes>, E>>,
    ) -> Result<Option<Bytes>, E> {
        let (mut next, asked) = (pin!(next), Instant::now());
        if self.slot.as_ref().is_some_and(|(_, since)| since.elapsed() >= SLICE) {
            self.slot = None;
        }
        let soon = match self.slot {
            Some(_) => timeout(GAP, &mut next).await.ok(),
            None => None,
        };
        let came = match soon {
            Some(came) => came?,
            None => {
                self.slot = None;
                next.await?
            }
        };
        let Some(bytes) = came else { return Ok(None) };
        let fast = bytes.len() as u128 * 1_000 >= u128::from(LEAST_PER_SECOND) * asked.elapsed().as_millis();
        let slot = match self.slot.take() {
            Some(slot) => slot,
            None => (self.slots.acquire(self.turn).await, Instant::now()),
        };
        self.slot = Some(slot).filter(|_| fast);
        Ok(Some(bytes))
    }
}

#[cfg(test)]
mod tests;
