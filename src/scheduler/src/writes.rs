//! What the scheduler writes while it goes on deciding.

use std::collections::HashSet;

use tokio::task::{Id, JoinError, JoinSet};

/// Writes under way; some of them wait for something slow first.
#[derive(Debug)]
pub(crate) struct Writes<T> {
    all: JoinSet<T>,
    waiting: HashSet<Id>,
}

impl<T> Default for Writes<T> {
    fn default() -> Self {
        Writes { all: JoinSet::new(), waiting: HashSet::new() }
    }
}

impl<T: Send + 'static> Writes<T> {
    pub(crate) fn spawn(&mut self, write: impl Future<Output = T> + Send + 'static) {
        self.all.spawn(write);
    }

    /// This one may take long.
    pub(crate) fn spawn_waiting(&mut self, write: impl Future<Output = T> + Send + 'static) {
        let id = self.all.spawn(write).id();
        self.waiting.insert(id);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// How many there are, without up to `spared` of those that wait.
    pub(crate) fn count(&self, spared: usize) -> usize {
        self.all.len().saturating_sub(self.waiting.len().min(spared))
    }

    /// The next one that ends, however it does; `None` if there is none.
    pub(crate) async fn next(&mut self) -> Option<Result<T, JoinError>> {
        let (id, ended) = match self.all.join_next_with_id().await? {
            Ok((id, value)) => (id, Ok(value)),
            Err(failure) => (failure.id(), Err(failure)),
        };
        self.waiting.remove(&id);
        Some(ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_write_that_panicked_waits_no_longer() {
        let mut writes = Writes::default();
        writes.spawn_waiting(std::future::pending());
        writes.spawn_waiting(async { panic!("a bug") });
        writes.spawn(async {});
        assert_eq!((writes.count(8), writes.count(1), writes.count(0)), (1, 2, 3));
        let ended = [writes.next().await, writes.next().await];
        assert_eq!(ended.iter().flatten().filter(|ended| ended.is_err()).count(), 1);
        assert_eq!((writes.count(8), writes.count(0)), (0, 1));
        assert!(!writes.is_empty());
    }
}
