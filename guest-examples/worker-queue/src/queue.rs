//! What waits, what is being done and by whom, what is done.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

/// Tasks that may wait.
const MAX_WAITING: usize = 100_000;
/// Workers whose tasks are counted by name.
const MAX_WORKERS: usize = 1000;

pub struct Queue {
    lease: Duration,
    last: u64,
    waiting: VecDeque<u64>,
    running: BTreeMap<u64, (String, Instant)>,
    done: u64,
    by_worker: BTreeMap<String, u64>,
    /// The most tasks at one time since the queue was empty.
    most: usize,
}

impl Queue {
    pub fn new(lease: Duration) -> Queue {
        Queue {
            lease,
            last: 0,
            waiting: VecDeque::new(),
            running: BTreeMap::new(),
            done: 0,
            by_worker: BTreeMap::new(),
            most: 0,
        }
    }

    /// Adds tasks; gives how many wait now, or nothing if that is too much.
    pub fn add(&mut self, count: u64) -> Option<usize> {
        let count =
            usize::try_from(count).ok().filter(|n| n.saturating_add(self.waiting.len()) <= MAX_WAITING)?;
        if self.waiting.is_empty() && self.running.is_empty() {
            self.most = 0;
            self.by_worker.clear();
        }
        for _ in 0..count {
            self.last += 1;
            self.waiting.push_back(self.last);
        }
        Some(self.waiting.len())
    }

    /// Hands out the task that waits longest.
    pub fn take(&mut self, worker: &str, now: Instant) -> Option<u64> {
        self.expire(now);
        let task = self.waiting.pop_front()?;
        self.running.insert(task, (worker.to_owned(), now + self.lease));
        self.most = self.most.max(self.running.len());
        Some(task)
    }

    /// The worker has done the task; false if it is not its own any more.
    pub fn done(&mut self, task: u64, worker: &str) -> bool {
        if self.running.get(&task).is_none_or(|(owner, _)| owner != worker) {
            return false;
        }
        self.running.remove(&task);
        self.done += 1;
        if self.by_worker.len() < MAX_WORKERS || self.by_worker.contains_key(worker) {
            *self.by_worker.entry(worker.to_owned()).or_default() += 1;
        }
        true
    }

    /// Tasks of silent workers wait again, before all others.
    fn expire(&mut self, now: Instant) {
        let late: Vec<u64> =
            self.running.iter().filter(|(_, (_, until))| *until <= now).map(|(t, _)| *t).collect();
        for task in late.into_iter().rev() {
            self.running.remove(&task);
            self.waiting.push_front(task);
        }
    }

    /// How it stands, as JSON.
    pub fn report(&mut self, now: Instant) -> String {
        self.expire(now);
        let workers: Vec<String> =
            self.by_worker.iter().map(|(name, tasks)| format!("{}:{tasks}", kit::json(name))).collect();
        format!(
            "{{\"waiting\":{},\"running\":{},\"done\":{},\"most_at_once\":{},\"workers\":{{{}}}}}\n",
            self.waiting.len(),
            self.running.len(),
            self.done,
            self.most,
            workers.join(",")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_is_done_once_whoever_dies() {
        let (mut queue, start) = (Queue::new(Duration::from_secs(5)), Instant::now());
        assert_eq!(queue.add(3), Some(3));
        assert_eq!(queue.add(u64::MAX), None);
        assert_eq!((queue.take("a", start), queue.take("b", start)), (Some(1), Some(2)));
        assert!(queue.done(1, "a") && !queue.done(1, "a") && !queue.done(2, "a"));
        // b dies.
        let later = start + Duration::from_secs(6);
        assert_eq!(
            (queue.take("a", later), queue.take("a", later), queue.take("a", later)),
            (Some(2), Some(3), None)
        );
        assert!(!queue.done(2, "b") && queue.done(2, "a") && queue.done(3, "a"));
        let report = r#"{"waiting":0,"running":0,"done":3,"most_at_once":2,"workers":{"a":3}}"#;
        assert_eq!(queue.report(later).trim(), report);
        queue.add(1);
        assert!(queue.report(later).contains("\"most_at_once\":0,\"workers\":{}"));
    }
}
