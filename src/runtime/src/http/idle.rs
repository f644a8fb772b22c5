//! What waits a moment for its next use: connections of clients, instances of handlers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::tasks::Tasks;

/// Keeps a few things for a while. What waited too long is dropped by a task of the container, which there is only
/// while something waits, and which ends at the latest with the container's other `tasks`.
pub(super) struct Idle<T> {
    /// How long a thing may wait.
    limit: Duration,
    tasks: Arc<Tasks>,
    waiting: Arc<Mutex<Waiting<T>>>,
}

struct Waiting<T> {
    /// The longest idle first.
    things: VecDeque<(T, Instant)>,
    /// How many may wait.
    most: usize,
    /// Somebody will drop those that wait too long.
    watched: bool,
}

impl<T: Send + 'static> Idle<T> {
    pub(super) fn new(most: usize, limit: Duration, tasks: Arc<Tasks>) -> Idle<T> {
        let waiting = Waiting { things: VecDeque::new(), most, watched: false };
        Idle { limit, tasks, waiting: Arc::new(Mutex::new(waiting)) }
    }

    /// Of those that `fit`, the one that was used last.
    pub(super) fn take(&self, fit: impl Fn(&T) -> bool) -> Option<T> {
        let mut waiting = self.waiting.lock();
        let number = waiting.things.iter().rposition(|(thing, _)| fit(thing))?;
        waiting.things.remove(number).map(|(thing, _)| thing)
    }

    /// Keeps a thing for its next use; the oldest goes if there are too many.
    pub(super) fn give(&self, thing: T) {
        let mut waiting = self.waiting.lock();
        waiting.things.push_back((thing, Instant::now()));
        let surplus = if waiting.things.len() > waiting.most { waiting.things.pop_front() } else { None };
        let unwatched = !waiting.things.is_empty() && !std::mem::replace(&mut waiting.watched, true);
        drop(waiting);
        drop(surplus); // not under the lock: an instance takes a while to drop
        if unwatched {
            self.tasks.spawn(watch(Arc::clone(&self.waiting), self.limit));
        }
    }

    /// Drops all, and keeps none from now on.
    pub(super) fn close(&self) {
        let mut waiting = self.waiting.lock();
        waiting.most = 0;
        let things = std::mem::take(&mut waiting.things);
        drop(waiting);
        drop(things);
    }
}

impl<T> Waiting<T> {
    /// Takes out those that have waited too long.
    fn sweep(&mut self, now: Instant, limit: Duration) -> Vec<(T, Instant)> {
        let old = self.things.partition_point(|(_, since)| now.duration_since(*since) >= limit);
        let gone = self.things.drain(..old).collect();
        self.watched = !self.things.is_empty();
        gone
    }
}

/// Looks after the things as long as there are any.
async fn watch<T>(waiting: Arc<Mutex<Waiting<T>>>, limit: Duration) {
    loop {
        sleep(limit / 2).await;
        let mut locked = waiting.lock();
        let gone = locked.sweep(Instant::now(), limit);
        let watched = locked.watched;
        drop(locked);
        drop(gone);
        if !watched {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;
    use tokio::time::timeout;

    use super::super::tasks::Phase;
    use super::*;
    use crate::container::Cpu;
    use crate::executor::Executor;
    use crate::threads::guests;

    fn executor() -> (Executor, Arc<Tasks>) {
        let executor = guests(1, || {}).unwrap();
        let tasks = Tasks::new(executor.share(Cpu::default()));
        (executor, tasks)
    }

    /// Says which thread dropped it.
    struct Noted(Option<oneshot::Sender<Option<String>>>);

    impl Drop for Noted {
        fn drop(&mut self) {
            let _ = self.0.take().unwrap().send(std::thread::current().name().map(str::to_owned));
        }
    }

    #[tokio::test]
    async fn the_newest_is_taken_and_the_oldest_goes() {
        let (_executor, tasks) = executor();
        let idle = Idle::new(3, Duration::from_secs(600), tasks);
        (1..=4).for_each(|number| idle.give(number));
        assert_eq!(idle.take(|_| true), Some(4));
        assert_eq!(idle.take(|number| number % 2 == 0), Some(2));
        assert_eq!(idle.take(|number| *number == 1), None, "it was one too many");
        idle.close();
        idle.give(5);
        assert_eq!(idle.take(|_| true), None);
    }

    #[test]
    fn who_waits_too_long_goes() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let things = [(0, at(0)), (1, at(1)), (2, at(2))].into();
        let mut waiting = Waiting { things, most: 3, watched: true };
        let mut swept = |now| {
            let gone = waiting.sweep(at(now), Duration::from_secs(4));
            (gone.into_iter().map(|(thing, _)| thing).collect::<Vec<_>>(), waiting.watched)
        };
        assert_eq!(swept(3), (vec![], true));
        assert_eq!(swept(5), (vec![0, 1], true));
        assert_eq!(swept(6), (vec![2], false));
    }

    #[tokio::test]
    async fn the_containers_threads_drop_what_waited() {
        let (_executor, tasks) = executor();
        let idle = Idle::new(1, Duration::from_millis(2), Arc::clone(&tasks));
        let (noted, dropped) = oneshot::channel();
        idle.give(Noted(Some(noted)));
        let thread = timeout(Duration::from_secs(60), dropped).await.expect("it goes").unwrap();
        assert_eq!(thread.as_deref(), Some("guest"));
    }

    #[tokio::test]
    async fn the_watch_ends_with_its_owner() {
        let (_executor, tasks) = executor();
        let idle = Idle::new(1, Duration::from_secs(600), Arc::clone(&tasks));
        idle.give(());
        tasks.enter(Phase::Ended);
        timeout(Duration::from_secs(60), tasks.all_ended()).await.expect("nobody watches any more");
    }
}
