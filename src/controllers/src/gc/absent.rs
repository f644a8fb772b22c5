//! Uids of owners that the API was asked about and did not have. A uid never comes back.

use std::collections::{HashSet, VecDeque};

/// Uids remembered. Kubernetes remembers 500; these are small, and a burst of deletions is larger.
const CAPACITY: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Absent {
    uids: HashSet<String>,
    order: VecDeque<String>,
}

impl Absent {
    pub(super) fn contains(&self, uid: &str) -> bool {
        self.uids.contains(uid)
    }

    pub(super) fn add(&mut self, uid: &str) {
        if self.uids.insert(uid.to_owned()) {
            self.order.push_back(uid.to_owned());
            if self.order.len() > CAPACITY
                && let Some(oldest) = self.order.pop_front()
            {
                self.uids.remove(&oldest);
            }
        }
    }
}
