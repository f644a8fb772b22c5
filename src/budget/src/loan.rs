//! What a node lends of its memory: to work that is given up when pods want what it has.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::NodeBudget;

/// Called when a loan is to be given back.
pub(crate) type Recall = Box<dyn FnOnce() + Send>;

/// Bytes lent, until this is dropped.
#[derive(Debug)]
pub struct Loan {
    node: Arc<NodeBudget>,
    number: u64,
    bytes: u64,
}

impl Loan {
    pub(crate) fn new(node: Arc<NodeBudget>, number: u64, bytes: u64) -> Loan {
        Loan { node, number, bytes }
    }

    /// How many.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.node.take_back(self.number, self.bytes);
    }
}

/// The loans of a node.
#[derive(Default)]
pub(crate) struct Loans {
    next: u64,
    /// By number: how many bytes, and whom to tell if they are wanted back. What was asked for already is not here.
    all: BTreeMap<u64, (u64, Recall)>,
}

impl Loans {
    pub(crate) fn add(&mut self, bytes: u64, recall: Recall) -> u64 {
        self.next += 1;
        self.all.insert(self.next, (bytes, recall));
        self.next
    }

    pub(crate) fn remove(&mut self, number: u64) {
        self.all.remove(&number);
    }

    /// Those to tell, the largest loans first, so that what stays is little enough for `fits`.
    pub(crate) fn recall(&mut self, fits: impl Fn(u64) -> bool) -> Vec<Recall> {
        let mut stays: u64 = self.all.values().map(|(bytes, _)| bytes).sum();
        let mut recalled = Vec::new();
        while !fits(stays) {
            let largest = self.all.iter().max_by_key(|(_, (bytes, _))| *bytes).map(|(number, _)| *number);
            let Some((bytes, recall)) = largest.and_then(|number| self.all.remove(&number)) else { break };
            stays -= bytes;
            recalled.push(recall);
        }
        recalled
    }
}

impl fmt::Debug for Loans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loans").field("count", &self.all.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::{Budget, CHUNK, FREE};

    fn node(limit: u64, spare: u64) -> Arc<NodeBudget> {
        let node = NodeBudget::new(limit * CHUNK);
        node.set_spare(spare * CHUNK);
        node
    }

    #[test]
    fn what_pods_leave_is_lent_and_what_is_spare() {
        #[track_caller]
        fn check((limit, spare, used, lent): (u64, u64, u64, u64), ask: (u64, u64), expected: Option<u64>) {
            let node = node(limit, spare);
            let pod = Budget::of_node(None, &node);
            let _used = pod.charge(if used == 0 { 0 } else { FREE + used * CHUNK }).unwrap();
            let _lent = node.lend(lent * CHUNK, lent * CHUNK, || ()).unwrap();
            let loan = node.lend(ask.0 * CHUNK, ask.1 * CHUNK, || ());
            assert_eq!(loan.as_ref().map(|loan| loan.bytes() / CHUNK), expected);
            assert_eq!((node.used(), node.missing()), (used * CHUNK, 0), "pods have what they had");
        }
        check((100, 10, 0, 0), (20, 50), Some(50));
        check((100, 10, 80, 0), (20, 50), Some(30));
        check((100, 10, 90, 0), (20, 50), Some(20));
        check((100, 10, 91, 0), (20, 50), None);
        check((100, 10, 100, 0), (10, 10), Some(10));
        check((100, 10, 50, 55), (5, 50), Some(5));
        check((100, 10, 50, 55), (6, 50), None);
        check((100, 0, 100, 0), (1, 1), None);
    }

    /// Loans are asked for as pods want them, no more of them than they need, and never what is spare.
    #[test]
    fn pods_come_first() {
        let node = node(100, 10);
        let asked = [(); 3].map(|()| Arc::new(AtomicU32::new(0)));
        let lend = |number: usize, bytes: u64| {
            let asked = Arc::clone(&asked[number]);
            node.lend(bytes * CHUNK, bytes * CHUNK, move || {
                asked.fetch_add(1, Ordering::Relaxed);
            })
        };
        let (small, large, spare) = (lend(0, 20).unwrap(), lend(1, 40).unwrap(), lend(2, 10).unwrap());
        let seen = || asked.each_ref().map(|one| one.load(Ordering::Relaxed));
        let pod = Budget::of_node(None, &node);
        let mut charge = pod.charge(FREE + 40 * CHUNK).unwrap();
        assert_eq!(seen(), [0, 0, 0], "there is enough for all");
        assert!(charge.grow(CHUNK).is_err());
        assert!(!pod.wait_for(CHUNK, Duration::ZERO));
        assert_eq!(seen(), [0, 1, 0]);
        drop(large);
        charge.grow(40 * CHUNK).unwrap();
        assert!(charge.grow(10 * CHUNK).is_err());
        drop(small);
        charge.grow(20 * CHUNK).unwrap();
        assert_eq!((seen(), node.lent()), ([1, 1, 0], 10 * CHUNK));
        assert!(charge.grow(1).is_err());
        assert_eq!((seen(), node.used(), spare.bytes()), ([1, 1, 0], 100 * CHUNK, 10 * CHUNK));
        drop(charge);
        assert_eq!((node.used(), node.missing()), (0, 0));
        drop(spare);
        assert_eq!(node.lent(), 0);
    }

    /// Who waits for what is lent is woken when it comes back.
    #[test]
    fn a_loan_that_ends_is_what_a_pod_waits_for() {
        let node = node(10, 0);
        let (recall, recalled) = std::sync::mpsc::channel();
        let loan = node.lend(CHUNK, 8 * CHUNK, move || recall.send(()).unwrap()).unwrap();
        let pod = Budget::of_node(None, &node);
        let waits = Arc::clone(&pod);
        let waiting = std::thread::spawn(move || waits.wait_for(FREE + 5 * CHUNK, Duration::from_secs(60)));
        recalled.recv().unwrap();
        assert_eq!(node.missing(), 0, "nobody needs to end for it");
        drop(loan);
        assert!(waiting.join().unwrap());
        drop(pod.charge(FREE + 5 * CHUNK).unwrap());
    }
}
