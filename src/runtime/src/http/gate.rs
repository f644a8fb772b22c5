//! How many requests of a container are answered at one time, and how many wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

/// Lets as many requests in as there may be instances.
#[derive(Debug)]
pub(super) struct Gate {
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    line: usize,
}

/// Too many wait already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

impl Gate {
    pub(super) fn new(places: usize, line: usize) -> Gate {
        Gate { places: Arc::new(Semaphore::new(places.max(1))), waiting: AtomicUsize::new(0), line }
    }

    /// Comes through, at once or in line.
    pub(super) async fn enter(&self) -> Result<OwnedSemaphorePermit, Full> {
        match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => return Ok(place),
            Err(TryAcquireError::Closed) => return Err(Full),
            Err(TryAcquireError::NoPermits) => {}
        }
        let _turn = Turn::take(self)?;
        Arc::clone(&self.places).acquire_owned().await.map_err(|_| Full)
    }
}

/// A place in the line.
struct Turn<'a>(&'a Gate);

impl Turn<'_> {
    fn take(gate: &Gate) -> Result<Turn<'_>, Full> {
        let turn = Turn(gate); // given back on the way out, also if it is one too many
        if gate.waiting.fetch_add(1, Relaxed) < gate.line { Ok(turn) } else { Err(Full) }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn some_come_in_some_wait_and_the_rest_are_turned_away() {
        let gate = Gate::new(1, 2);
        let first = gate.enter().await.unwrap();
        let (mut second, mut third) = (Box::pin(gate.enter()), Box::pin(gate.enter()));
        assert!(futures::poll!(&mut second).is_pending());
        assert!(futures::poll!(&mut third).is_pending());
        assert_eq!(gate.enter().await.unwrap_err(), Full);
        drop(third); // gone from the line
        let mut fourth = Box::pin(gate.enter());
        assert!(futures::poll!(&mut fourth).is_pending());
        drop(first);
        let second = second.await.unwrap();
        assert!(futures::poll!(&mut fourth).is_pending());
        drop(second);
        drop(fourth.await.unwrap());
        assert_eq!(gate.waiting.load(Relaxed), 0);
        drop(gate.enter().await.unwrap());
    }
}
