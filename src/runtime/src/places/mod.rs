//! The places that the engine has for containers.
//!
//! An ordinary container has one memory and up to [`TABLES_PER_PLACE`] tables, and takes one place. The engine's pool
//! has that much for each, so that who has a place finds room in the pool, too, whatever others have.
//!
//! A container that is one instance keeps its place as long as it lives. A handler takes one for each request, and so
//! could take all. It has a [`Part`] instead, which grows only while it leaves enough: with its next place it may have
//! at most [`PART_TO_FREE`] times as many as stay free. Its first is never refused while there is one. So a handler
//! that is alone has three quarters of what the containers leave, two that take turns have three sevenths each, and
//! who comes next finds room: a container, or another handler.
//!
//! The last few places are a reserve ([`reserve`]): the node counts as short of places when it is touched. Handlers
//! together leave it alone but for the first instance of each, and keep no idle instance while it is touched, so that
//! only containers and who is started beside them can use it up.
//!
//! A container that finds no place may wait in a [`line`] for one. Each place that is given back goes to whose turn it
//! is, and to nobody else:
//!
//! ```text
//!   take ── none ──▶ queue ─▶ Queued ── given a Place ──▶ start_in
//!                               ▲
//!   a Place is dropped ─────────┘ the most important first, then the one that came first
//! ```

mod line;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use self::line::{Line, Turn};
use crate::error::StartError;

/// Tables that the pool has for each place. A component of Rust or Go has two or three.
pub(crate) const TABLES_PER_PLACE: u32 = 4;

/// How many times as many places as it leaves free a handler may have: it does not do with few when it is alone, and
/// still leaves a quarter of a small node.
const PART_TO_FREE: u32 = 3;

/// The reserve is one of so many places: what the kubelet keeps of most things.
const PART_OF_RESERVE: u32 = 20;

/// A node with fewer places has no reserve: it is for a handful of containers, and could use none of its few.
const SMALLEST_WITH_RESERVE: u32 = 8;

/// How many places of so many are kept for who cannot do without: probes and hooks, `exec`, a handler's first instance.
fn reserve(capacity: u32) -> u32 {
    if capacity < SMALLEST_WITH_RESERVE { 0 } else { capacity.div_ceil(PART_OF_RESERVE) }
}

/// How many places a program takes.
pub(crate) fn needed(memories: u32, tables: u32) -> u32 {
    memories.max(tables.div_ceil(TABLES_PER_PLACE)).max(1)
}

/// All places of an engine.
#[derive(Debug)]
pub(crate) struct Places {
    capacity: u32,
    taken: AtomicU32,
    running: AtomicU32,
    line: Mutex<Line<oneshot::Sender<Place>>>,
    /// How many wait there. Who gives a place back need not ask the line if nobody does.
    waiting: AtomicUsize,
}

impl Places {
    pub(crate) fn new(capacity: u32) -> Arc<Places> {
        Arc::new(Places {
            capacity,
            taken: AtomicU32::new(0),
            running: AtomicU32::new(0),
            line: Mutex::default(),
            waiting: AtomicUsize::new(0),
        })
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// How many instances run.
    pub(crate) fn running(&self) -> u32 {
        self.running.load(Ordering::Relaxed)
    }

    /// How many places are free.
    pub(crate) fn free(&self) -> u32 {
        self.capacity.saturating_sub(self.taken.load(Ordering::SeqCst))
    }

    /// How many should be.
    pub(crate) fn reserve(&self) -> u32 {
        reserve(self.capacity)
    }

    /// Takes places for one instance that needs so many.
    ///
    /// # Errors
    /// If fewer are left.
    pub(crate) fn take(self: &Arc<Self>, needed: u32) -> Result<Place, StartError> {
        let exhausted = |_| StartError::Exhausted { running: self.running(), needed };
        self.take_leaving(needed, 0).map_err(exhausted)
    }

    /// The same, if as many as `least` are free then. Else it says how many were taken.
    fn take_leaving(self: &Arc<Self>, needed: u32, least: u32) -> Result<Place, u32> {
        let most = self.capacity.saturating_sub(least);
        let fits = |taken: u32| taken.checked_add(needed).filter(|taken| *taken <= most);
        self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits)?;
        self.running.fetch_add(1, Ordering::Relaxed);
        Ok(Place { places: Arc::clone(self), taken: needed })
    }

    /// Enters the line for so many places; `None` if there never are as many.
    pub(crate) fn queue(self: &Arc<Self>, needed: u32, priority: i32) -> Option<Queued> {
        if needed > self.capacity {
            return None;
        }
        let (tell, given) = oneshot::channel();
        let turn = {
            let mut line = self.line.lock();
            let turn = line.enter(priority, needed, tell);
            self.waiting.store(line.len(), Ordering::SeqCst);
            turn
        };
        // A place may have been given back before anybody waited for it.
        self.serve();
        Some(Queued { places: Arc::clone(self), turn, given })
    }

    /// Gives what is free to those whose turn it is.
    fn serve(self: &Arc<Self>) {
        while self.waiting.load(Ordering::SeqCst) > 0 {
            let mut line = self.line.lock();
            let Some((turn, needed)) = line.next(self.free()) else { return };
            // Somebody may have been faster, and has left less.
            let Ok(place) = self.take_leaving(needed, 0) else { continue };
            let who = line.leave(turn).expect("it is locked since it was found");
            self.waiting.store(line.len(), Ordering::SeqCst);
            drop(line);
            // Who went away meanwhile has it dropped, and so the next one served.
            let _ = who.send(place);
        }
    }
}

/// A turn in the line for places. Dropped, it is given up.
#[derive(Debug)]
pub struct Queued {
    places: Arc<Places>,
    turn: Turn,
    given: oneshot::Receiver<Place>,
}

impl Queued {
    /// Waits for it to come.
    pub async fn place(mut self) -> Place {
        (&mut self.given).await.expect("nobody is taken out of the line without a place but by leaving it")
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        let mut line = self.places.line.lock();
        if line.leave(self.turn).is_some() {
            self.places.waiting.store(line.len(), Ordering::SeqCst);
        }
    }
}

/// One handler's part of the places.
#[derive(Debug)]
pub(crate) struct Part {
    places: Arc<Places>,
    taken: AtomicU32,
    /// Somebody may try again.
    freed: Notify,
}

/// Why a handler gets no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// There is none.
    Full,
    /// Those that are left are for others. Its next is one of its own, when that is given back.
    Part,
}

impl Part {
    pub(crate) fn new(places: &Arc<Places>) -> Arc<Part> {
        Arc::new(Part { places: Arc::clone(places), taken: AtomicU32::new(0), freed: Notify::new() })
    }

    /// Takes places for one instance that needs so many. If there are none at all, the next of those who wait is told so,
    /// too: none of the handler's may be left that could be given back.
    pub(crate) fn take(self: &Arc<Self>, needed: u32) -> Result<PartPlace, NoPlace> {
        let before = self.taken.fetch_add(needed, Ordering::AcqRel);
        let beside = before.saturating_add(needed).div_ceil(PART_TO_FREE).max(self.places.reserve());
        let least = if before == 0 { 0 } else { beside };
        let place = self.places.take_leaving(needed, least).map_err(|taken| {
            self.taken.fetch_sub(needed, Ordering::AcqRel);
            let free = self.places.capacity.saturating_sub(taken);
            if before > 0 && free >= needed {
                return NoPlace::Part;
            }
            self.free();
            NoPlace::Full
        })?;
        Ok(PartPlace { place: Some(place), part: Arc::clone(self) })
    }

    /// Whether an instance may keep its place although nobody needs it now.
    pub(crate) fn may_idle(&self) -> bool {
        self.places.free() >= self.places.reserve() && self.places.waiting.load(Ordering::SeqCst) == 0
    }

    /// Comes back when one of its instances may have become free, for one of those who wait.
    pub(crate) async fn freed(&self) {
        self.freed.notified().await;
    }

    /// An instance is free for another request.
    pub(crate) fn free(&self) {
        self.freed.notify_one();
    }
}

/// What an instance takes of a handler's part.
#[derive(Debug)]
pub(crate) struct PartPlace {
    place: Option<Place>,
    part: Arc<Part>,
}

impl Drop for PartPlace {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            let taken = place.taken;
            drop(place);
            self.part.taken.fetch_sub(taken, Ordering::AcqRel);
            self.part.free();
        }
    }
}

/// What an instance takes of the engine's places. Dropped, it is free for others.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    taken: u32,
}

impl Place {
    /// Whether it is enough for one instance that needs so many of these places.
    pub(crate) fn is_for(&self, needed: u32, places: &Arc<Places>) -> bool {
        self.taken == needed && Arc::ptr_eq(&self.places, places)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.running.fetch_sub(1, Ordering::Relaxed);
        // Before it looks whether anybody waits, as they look for free places after they said that they do.
        self.places.taken.fetch_sub(self.taken, Ordering::SeqCst);
        self.places.serve();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_more_takes_more() {
        for (memories, tables, expected) in
            [(0, 0, 1), (1, 4, 1), (1, 5, 2), (8, 0, 8), (1, 64, 16), (2, 5, 2), (0, u32::MAX, 1 << 30)]
        {
            assert_eq!(needed(memories, tables), expected, "{memories}, {tables}");
        }
        let places = Places::new(10);
        let (one, eight) = (places.take(1).unwrap(), places.take(8).unwrap());
        let refused = places.take(2).unwrap_err().to_string();
        assert_eq!(
            refused,
            "no room for another container: 2 are running, and it needs 2 places of this node for its memories and tables"
        );
        assert_eq!(places.running(), 2);
        drop(eight);
        let nine = places.take(9).unwrap();
        drop((one, nine));
        assert_eq!((places.running(), places.taken.load(Ordering::Relaxed)), (0, 0));
        assert!(places.take(u32::MAX).is_err());
    }

    /// As many places as a handler gets, one after the other, and why it gets no more.
    fn all(part: &Arc<Part>, needed: u32) -> (Vec<PartPlace>, NoPlace) {
        let mut held = Vec::new();
        loop {
            match part.take(needed) {
                Ok(place) => held.push(place),
                Err(why) => return (held, why),
            }
        }
    }

    #[test]
    fn a_handler_leaves_room_for_others() {
        #[track_caller]
        fn check(capacity: u32, others: u32, needed: u32, expected: usize, why: NoPlace) {
            let places = Places::new(capacity);
            let _others = (others > 0).then(|| places.take(others).unwrap());
            let (held, refused) = all(&Part::new(&places), needed);
            assert_eq!((held.len(), refused), (expected, why), "{capacity} places, {others} taken");
        }
        check(128, 0, 1, 96, NoPlace::Part);
        check(128, 28, 1, 75, NoPlace::Part);
        check(128, 0, 8, 12, NoPlace::Part);
        check(10_000, 0, 1, 7_500, NoPlace::Part);
        check(4, 0, 1, 3, NoPlace::Part);
        check(2, 0, 1, 1, NoPlace::Part);
        check(1, 0, 1, 1, NoPlace::Full);
        check(8, 7, 1, 1, NoPlace::Full);
        check(8, 8, 1, 0, NoPlace::Full);
        check(8, 4, 8, 0, NoPlace::Full);
    }

    #[test]
    fn the_reserve_is_left_by_all_but_the_first() {
        let seen = [1, 7, 8, 20, 21, 11_000].map(reserve);
        assert_eq!(seen, [0, 0, 1, 1, 2, 550]);
        let places = Places::new(100);
        let parts: Vec<_> = (0..30).map(|_| Part::new(&places)).collect();
        let held: Vec<_> = parts[..7].iter().map(|part| all(part, 1).0).collect();
        assert_eq!(places.free(), 5 - 4, "four had none but their first, which came from the reserve");
        assert!(!parts[0].may_idle());
        drop(held);
        assert!(parts[0].may_idle());
        let rest = places.take(100).unwrap();
        let queued = places.queue(1, 0).unwrap();
        drop(rest);
        assert!(parts[0].may_idle(), "whose turn it was has its place");
        drop(queued);
    }

    /// Who of these has a place now.
    async fn served(waiting: &mut [(&'static str, futures::future::BoxFuture<'static, Place>)]) -> String {
        let mut served = Vec::new();
        for (name, waits) in waiting {
            if let std::task::Poll::Ready(place) = futures::poll!(waits) {
                served.push(*name);
                // It keeps its place.
                std::mem::forget(place);
            }
        }
        served.concat()
    }

    #[tokio::test]
    async fn what_is_given_back_goes_to_whose_turn_it_is() {
        let places = Places::new(4);
        let mut held: Vec<_> = (0..4).map(|_| places.take(1).unwrap()).collect();
        let waits = |name, priority, needed| {
            let queued = places.queue(needed, priority).unwrap();
            (name, Box::pin(queued.place()) as futures::future::BoxFuture<'static, Place>)
        };
        assert!(places.queue(5, 0).is_none(), "it would wait for ever");
        let mut waiting =
            vec![waits("a", 0, 1), waits("gone", 0, 1), waits("b", 0, 1), waits("critical", 9, 1)];
        drop(waiting.remove(1));
        assert_eq!(served(&mut waiting).await, "");
        held.pop();
        assert!(places.take(1).is_err(), "nobody else gets it");
        assert_eq!(served(&mut waiting[2..]).await, "critical");
        waiting.pop();
        drop(held);
        assert_eq!(places.free(), 1, "as many as wait, and no more");
        assert_eq!(served(&mut waiting).await, "ab");
        assert_eq!(places.waiting.load(Ordering::SeqCst), 0);
    }

    /// Places that come and go on several threads while others wait: nobody is forgotten, and none is lost.
    #[test]
    fn nobody_is_forgotten_in_the_line() {
        let places = Places::new(3);
        let worker = |_| {
            let places = Arc::clone(&places);
            std::thread::spawn(move || {
                for _ in 0..2_000 {
                    let place = match places.take(1) {
                        Ok(place) => place,
                        Err(_) => {
                            let queued = places.queue(1, 0).unwrap();
                            futures::executor::block_on(queued.place())
                        }
                    };
                    drop(place);
                    drop(places.queue(2, 1).unwrap());
                }
            })
        };
        let workers: Vec<_> = (0..8).map(worker).collect();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        assert_eq!((places.free(), places.running(), places.waiting.load(Ordering::SeqCst)), (3, 0, 0));
    }

    /// However many handlers want all that they can have, each has some, and there is one for the next.
    #[tokio::test]
    async fn handlers_share_and_what_is_given_back_is_told() {
        let places = Places::new(100);
        let parts: Vec<_> = (0..4).map(|_| Part::new(&places)).collect();
        let mut held: Vec<_> = parts.iter().map(|part| all(part, 1).0).collect();
        assert!(held.iter().all(|held| !held.is_empty()), "{held:?}");
        drop(places.take(1).expect("one for a container"));
        let mut waits = Box::pin(parts[0].freed());
        assert!(futures::poll!(&mut waits).is_pending());
        held[1].pop(); // another's
        assert!(futures::poll!(&mut waits).is_pending());
        held[0].pop();
        waits.await;
        // Nobody waits for what no one of its own can give back.
        let rest = places.take(100 - places.taken.load(Ordering::Relaxed)).unwrap();
        let mut waits = Box::pin(parts[0].freed());
        assert!(futures::poll!(&mut waits).is_pending());
        assert_eq!(parts[0].take(1).unwrap_err(), NoPlace::Full);
        waits.await;
        drop((held, rest));
        assert_eq!((places.running(), places.taken.load(Ordering::Relaxed)), (0, 0));
        assert!(parts.iter().all(|part| part.taken.load(Ordering::Relaxed) == 0));
    }
}
