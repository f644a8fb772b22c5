//! The tasks that wait for one condition.

use std::task::{Context, Waker};

use crate::limits::WAITERS;

/// A short list of wakers without duplicates; empty it costs no allocation, nor does one waker.
#[derive(Debug, Default)]
pub(crate) struct Wakers {
    first: Option<Waker>,
    more: Vec<Waker>,
}

impl Wakers {
    /// Remembers who asks. If too many wait already, one of them is woken to make room and asks again.
    pub(crate) fn register(&mut self, cx: &Context<'_>) {
        let waker = cx.waker();
        match &self.first {
            None => self.first = Some(waker.clone()),
            Some(first) if first.will_wake(waker) => {}
            Some(_) if self.more.iter().any(|other| other.will_wake(waker)) => {}
            Some(_) => {
                if self.more.len() + 1 >= WAITERS {
                    self.more.remove(0).wake();
                }
                self.more.push(waker.clone());
            }
        }
    }

    /// Whether anybody waits.
    pub(crate) fn any(&self) -> bool {
        self.first.is_some()
    }

    /// Takes all of them out, to be woken once the lock is gone.
    pub(crate) fn take(&mut self) -> Wakers {
        std::mem::take(self)
    }

    /// Wakes all of them.
    pub(crate) fn wake(self) {
        if let Some(first) = self.first {
            first.wake();
        }
        for waker in self.more {
            waker.wake();
        }
    }
}
