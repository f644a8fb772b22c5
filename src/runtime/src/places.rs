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

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::Notify;

use crate::error::StartError;

/// Tables that the pool has for each place. A component of Rust or Go has two or three.
pub(crate) const TABLES_PER_PLACE: u32 = 4;

/// How many times as many places as it leaves free a handler may have: it does not do with few when it is alone, and
/// still leaves a quarter of a small node.
const PART_TO_FREE: u32 = 3;

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
}

impl Places {
    pub(crate) fn new(capacity: u32) -> Arc<Places> {
        Arc::new(Places { capacity, taken: AtomicU32::new(0), running: AtomicU32::new(0) })
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// How many instances run.
    pub(crate) fn running(&self) -> u32 {
        self.running.load(Ordering::Relaxed)
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
        let least = if before == 0 { 0 } else { before.saturating_add(needed).div_ceil(PART_TO_FREE) };
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

/// What an instance takes of the engine's places.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    taken: u32,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.running.fetch_sub(1, Ordering::Relaxed);
        self.places.taken.fetch_sub(self.taken, Ordering::AcqRel);
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
