//! The places that the engine has for containers.
//!
//! An ordinary container has one memory and up to [`TABLES_PER_PLACE`] tables, and takes one place. The engine's pool
//! has that much for each, so that who has a place finds room in the pool, too, whatever others have.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::StartError;

/// Tables that the pool has for each place. A component of Rust or Go has two or three.
pub(crate) const TABLES_PER_PLACE: u32 = 4;

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
        let fits = |taken: u32| taken.checked_add(needed).filter(|taken| *taken <= self.capacity);
        self.taken
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, fits)
            .map_err(|_| StartError::Exhausted { running: self.running(), needed })?;
        self.running.fetch_add(1, Ordering::Relaxed);
        Ok(Place { places: Arc::clone(self), taken: needed })
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
}
