//! What all pods of a node may hold together.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::line::{Line, Turn};
use crate::loan::{Loan, Loans};

/// Called when the pods of a node want more than it has: whoever set it ends some of them.
type Shortage = Box<dyn Fn() + Send + Sync>;

/// The bytes that all pods of a node may hold, and have drawn.
///
/// Pods draw from it by [`crate::CHUNK`]s. What does not fit is refused, and [`NodeBudget::on_shortage`] is called:
/// who can wait does so with [`crate::Budget::room`], and finds room when somebody was ended.
pub struct NodeBudget {
    limit: AtomicU64,
    used: AtomicU64,
    /// Bytes that are waited for.
    missed: AtomicU64,
    line: Mutex<Line>,
    shortage: OnceLock<Shortage>,
    /// What is lent to others than pods.
    lent: AtomicU64,
    /// What of it is not the pods'.
    spare: AtomicU64,
    loans: Mutex<Loans>,
}

impl NodeBudget {
    /// A budget of `limit` bytes.
    #[must_use]
    pub fn new(limit: u64) -> Arc<NodeBudget> {
        Arc::new(NodeBudget {
            limit: AtomicU64::new(limit),
            used: AtomicU64::new(0),
            missed: AtomicU64::new(0),
            line: Mutex::default(),
            shortage: OnceLock::new(),
            lent: AtomicU64::new(0),
            spare: AtomicU64::new(0),
            loans: Mutex::default(),
        })
    }

    /// Bytes that pods have drawn.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }

    /// Bytes that they may draw.
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Changes the limit. What is drawn beyond a lower one stays until it is given back.
    pub fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::SeqCst);
        self.serve();
    }

    /// Bytes beside those of pods that may be lent, too.
    pub fn spare(&self) -> u64 {
        self.spare.load(Ordering::Relaxed)
    }

    /// Changes what may be lent beside what pods leave.
    pub fn set_spare(&self, spare: u64) {
        self.spare.store(spare, Ordering::Relaxed);
    }

    /// Bytes that are lent.
    pub fn lent(&self) -> u64 {
        self.lent.load(Ordering::SeqCst)
    }

    /// Lends up to `most` bytes of what is spare or pods leave now, for work of the node's own that can be given up; `None`
    /// if that is less than `least`. Nobody ends for it, and it ends for pods: `recall` is called when they want more than
    /// is left, and the loan is to be dropped then.
    pub fn lend(
        self: &Arc<Self>,
        least: u64,
        most: u64,
        recall: impl FnOnce() + Send + 'static,
    ) -> Option<Loan> {
        let mut loans = self.loans.lock();
        let all = self.limit().saturating_add(self.spare());
        // What pods wait for is theirs.
        let theirs = self.used().saturating_add(self.missed.load(Ordering::SeqCst));
        let bytes = most.min(all.saturating_sub(theirs).saturating_sub(self.lent()));
        if bytes < least {
            return None;
        }
        let lent = self.lent.fetch_add(bytes, Ordering::SeqCst) + bytes;
        // A pod was faster.
        if self.used.load(Ordering::SeqCst).saturating_add(lent) > all {
            self.lent.fetch_sub(bytes, Ordering::SeqCst);
            return None;
        }
        let number = loans.add(bytes, Box::new(recall));
        Some(Loan::new(Arc::clone(self), number, bytes))
    }

    /// Asks for loans back, the largest first, until pods have `bytes` more or only what is spare is lent.
    pub fn recall(&self, bytes: u64) {
        if self.lent() == 0 {
            return;
        }
        let used = self.used.load(Ordering::SeqCst);
        let fits = |lent: u64| {
            let taken = lent.saturating_sub(self.spare());
            taken == 0 || used.saturating_add(bytes).saturating_add(taken) <= self.limit()
        };
        let recalled = self.loans.lock().recall(fits);
        recalled.into_iter().for_each(|recall| recall());
    }

    /// Ends a loan.
    pub(crate) fn take_back(&self, number: u64, bytes: u64) {
        self.loans.lock().remove(number);
        self.lent.fetch_sub(bytes, Ordering::SeqCst);
        self.serve();
    }

    /// What pods may draw while something is lent.
    fn room(&self) -> u64 {
        self.limit.load(Ordering::SeqCst).saturating_sub(self.lent().saturating_sub(self.spare()))
    }

    /// Bytes by which what is drawn and waited for is more than there is.
    pub fn missing(&self) -> u64 {
        self.used().saturating_add(self.missed.load(Ordering::Relaxed)).saturating_sub(self.limit())
    }

    /// Calls this whenever something is refused. It must be short. Only the first call counts.
    pub fn on_shortage(&self, tell: impl Fn() + Send + Sync + 'static) {
        // There is one who ends pods.
        let _ = self.shortage.set(Box::new(tell));
    }

    /// Bytes that pods may draw now.
    fn free(&self) -> u64 {
        self.room().saturating_sub(self.used.load(Ordering::SeqCst))
    }

    /// Wakes those who wait for what is there now.
    fn serve(&self) {
        if self.missed.load(Ordering::SeqCst) > 0 {
            // Whoever is not in line yet looks what is there when it is.
            self.wake(|line| line.fitting(self.free()));
        }
    }

    /// Wakes those of a pod, which has given something back that it has still drawn.
    pub(crate) fn serve_pod(&self, pod: usize) {
        self.wake(|line| line.of(pod));
    }

    fn wake(&self, whom: impl FnOnce(&Line) -> Vec<Waker>) {
        let woken = whom(&self.line.lock());
        woken.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn take(&self, bytes: u64) -> bool {
        let taken = self.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |used| {
            used.checked_add(bytes).filter(|sum| *sum <= self.room())
        });
        // Something may have been lent since.
        let fits = taken.is_ok_and(|used| used + bytes <= self.room());
        if !fits {
            if taken.is_ok() {
                self.give(bytes);
            }
            self.recall(bytes);
            self.tell();
        }
        fits
    }

    /// Takes what is used already, even beyond the limit.
    pub(crate) fn owe(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::SeqCst);
    }

    pub(crate) fn give(&self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        self.used.fetch_sub(bytes, Ordering::SeqCst);
        self.serve();
    }

    fn tell(&self) {
        if let Some(shortage) = self.shortage.get() {
            shortage();
        }
    }
}

impl fmt::Debug for NodeBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeBudget")
            .field("limit", &self.limit())
            .field("used", &self.used())
            .finish_non_exhaustive()
    }
}

/// One that waits for bytes of the node.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    node: &'a NodeBudget,
    pod: usize,
    /// What it lacked when it came.
    missed: u64,
    turn: Option<Turn>,
}

impl<'a> Waiting<'a> {
    /// The node is told of the shortage.
    pub(crate) fn begin(node: &'a NodeBudget, pod: usize, bytes: u64) -> Waiting<'a> {
        node.missed.fetch_add(bytes, Ordering::SeqCst);
        node.recall(bytes);
        node.tell();
        Waiting { node, pod, missed: bytes, turn: None }
    }

    /// Ready if what it `lacks` fits now, which it says when it is in line. `before` others of the same pod were there
    /// when this one came.
    pub(crate) fn poll(&mut self, before: u32, lacks: impl Fn() -> u64, cx: &Context<'_>) -> Poll<()> {
        let mut line = self.node.line.lock();
        let again = self.turn;
        match again {
            Some(turn) => line.stay(turn, lacks(), cx.waker()),
            None => self.turn = Some(line.enter(self.pod, before, lacks(), cx.waker())),
        }
        drop(line);
        if lacks() <= self.node.free() {
            return Poll::Ready(());
        }
        if again.is_some() {
            // It was woken for what has gone to somebody else: what is left of it may be enough for others.
            self.node.serve();
        }
        Poll::Pending
    }
}

impl Drop for Waiting<'_> {
    /// What it leaves may be enough for others.
    fn drop(&mut self) {
        if let Some(turn) = self.turn {
            self.node.line.lock().leave(turn);
        }
        self.node.missed.fetch_sub(self.missed, Ordering::SeqCst);
        self.node.serve();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    use super::*;
    use crate::{Budget, CHUNK, Exceeded, FREE};

    #[test]
    fn pods_draw_by_chunks_and_small_ones_nothing() {
        let node = NodeBudget::new(10 * CHUNK);
        let small: Vec<_> = (0..1_000).map(|_| Budget::of_node(None, &node)).collect();
        let charges: Vec<_> = small.iter().map(|pod| pod.charge(FREE).unwrap()).collect();
        assert_eq!(node.used(), 0);
        let pod = Budget::of_node(Some(100 * CHUNK), &node);
        let mut charge = pod.charge(FREE + 1).unwrap();
        assert_eq!(node.used(), CHUNK);
        charge.grow(CHUNK - 1).unwrap();
        assert_eq!(node.used(), CHUNK, "what is drawn is used first");
        charge.grow(3 * CHUNK).unwrap();
        assert_eq!(node.used(), 4 * CHUNK);
        charge.shrink(CHUNK);
        assert_eq!(node.used(), 4 * CHUNK, "a chunk stays");
        charge.shrink(CHUNK);
        assert_eq!(node.used(), 2 * CHUNK);
        drop(charge);
        assert_eq!((node.used(), pod.used()), (0, 0));
        drop(charges);
    }

    #[test]
    fn pods_within_their_limits_do_not_exceed_their_node() {
        let (node, told) = (NodeBudget::new(3 * CHUNK), Arc::new(AtomicU32::new(0)));
        let count = Arc::clone(&told);
        node.on_shortage(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let [one, two] = [(); 2].map(|()| Budget::of_node(Some(100 * CHUNK), &node));
        let first = one.charge(FREE + 2 * CHUNK).unwrap();
        let refused = two.charge(FREE + 2 * CHUNK).map(|_| ());
        let expected = Exceeded::Node { asked: FREE + 2 * CHUNK, used: 2 * CHUNK, limit: 3 * CHUNK };
        assert_eq!(refused, Err(expected));
        assert_eq!((two.used(), node.used(), told.load(Ordering::Relaxed)), (0, 2 * CHUNK, 1));
        assert!(!two.wait_for(FREE + 2 * CHUNK, Duration::ZERO));
        assert_eq!(told.load(Ordering::Relaxed), 2);
        let waits = Arc::clone(&two);
        let waiting = std::thread::spawn(move || waits.wait_for(FREE + 2 * CHUNK, Duration::from_secs(60)));
        while node.missing() == 0 {
            std::thread::yield_now();
        }
        assert_eq!(node.missing(), CHUNK);
        drop(first);
        assert!(waiting.join().unwrap());
        assert_eq!((node.used(), node.missing()), (0, 0));
        drop(two.charge(FREE + 3 * CHUNK).unwrap());
    }

    /// What is waited for is what would be drawn: by chunks, and not what comes with each pod.
    #[test]
    fn who_waits_asks_for_what_it_would_draw() {
        let node = NodeBudget::new(3 * CHUNK);
        let [one, two] = [(); 2].map(|()| Budget::of_node(None, &node));
        let mut first = one.charge(FREE + 2 * CHUNK).unwrap();
        let mut second = two.charge(FREE + CHUNK).unwrap();
        assert!(second.grow(1).is_err());
        assert!(!two.wait_for(1, Duration::ZERO), "a byte needs a chunk");
        let waits = Arc::clone(&two);
        let waiting = std::thread::spawn(move || waits.wait_for(1, Duration::from_secs(60)));
        while node.missing() == 0 {
            std::thread::yield_now();
        }
        assert_eq!(node.missing(), CHUNK, "so that somebody is ended");
        assert_eq!((two.awaited(), two.lacks(), one.lacks()), (1, CHUNK, 0));
        first.shrink(2 * CHUNK);
        assert!(waiting.join().unwrap());
        assert_eq!((two.awaited(), two.lacks()), (0, 0));
        second.grow(1).unwrap();
        drop(second);
        // Three chunks are free, and these need no more.
        assert!(two.wait_for(FREE + 3 * CHUNK, Duration::ZERO));
        drop(two.charge(FREE + 3 * CHUNK).unwrap());
        assert!(two.may_ever_have(FREE + 3 * CHUNK) && !two.may_ever_have(FREE + 3 * CHUNK + 1));
        assert!(Budget::new(None).wait_for(u64::MAX, Duration::ZERO), "no node, no shortage");
    }

    /// What others give may be too little.
    #[test]
    fn who_waits_goes_on_waiting_when_it_was_too_little() {
        let node = NodeBudget::new(4 * CHUNK);
        let [one, two, three] = [(); 3].map(|()| Budget::of_node(None, &node));
        let charges = [&one, &two].map(|pod| pod.charge(FREE + 2 * CHUNK).unwrap());
        let waiting = std::thread::spawn(move || three.wait_for(FREE + 4 * CHUNK, Duration::from_secs(60)));
        for charge in charges {
            while node.missing() == 0 {
                std::thread::yield_now();
            }
            drop(charge);
        }
        assert!(waiting.join().unwrap());
    }

    /// Polls `room` with a bell of its own, which is returned.
    fn waits(room: &mut crate::Room<'_>) -> (bool, Arc<crate::Bell>) {
        let bell = Arc::new(crate::Bell::default());
        let waker = Waker::from(Arc::clone(&bell));
        let polled = std::pin::Pin::new(room).poll(&mut Context::from_waker(&waker));
        (polled.is_ready(), bell)
    }

    #[test]
    fn what_is_left_by_who_was_faster_goes_to_who_needs_no_more() {
        let node = NodeBudget::new(3 * CHUNK);
        let [holds, large, small, fast] = [(); 4].map(|()| Budget::of_node(None, &node));
        let _stays = holds.charge(FREE + CHUNK).unwrap();
        let goes = node.take(2 * CHUNK);
        assert!(goes);
        let (mut first, mut second) = (large.room(FREE + 2 * CHUNK), small.room(FREE + CHUNK));
        let (waits_first, waits_second) = (waits(&mut first), waits(&mut second));
        assert!(!waits_first.0 && !waits_second.0);
        node.give(2 * CHUNK);
        assert!(*waits_first.1.rung.lock() && !*waits_second.1.rung.lock());
        let _fast = fast.charge(FREE + CHUNK).unwrap();
        assert!(!waits(&mut first).0);
        assert!(*waits_second.1.rung.lock() && waits(&mut second).0);
    }

    #[test]
    fn what_a_pod_gives_back_to_itself_is_enough_for_its_own() {
        let node = NodeBudget::new(CHUNK);
        let pod = Budget::of_node(None, &node);
        let mut charge = pod.charge(FREE + CHUNK - 10).unwrap();
        let mut room = pod.room(100);
        let (there, bell) = waits(&mut room);
        assert!(!there);
        charge.shrink(89);
        assert!(*bell.rung.lock() && !waits(&mut room).0, "a byte is missing");
        let (_, bell) = waits(&mut room);
        charge.shrink(1);
        assert!(*bell.rung.lock() && waits(&mut room).0);
        assert_eq!(node.used(), CHUNK);
    }

    /// Two give all back at once: nothing stays drawn.
    #[test]
    fn nothing_stays_drawn_for_who_uses_nothing() {
        let (node, met) = (NodeBudget::new(u64::MAX), AtomicU32::new(0));
        let pod = Budget::of_node(None, &node);
        // As close together as two threads can be; a barrier of the library wakes one after the other.
        let meet = |count: u32| {
            met.fetch_add(1, Ordering::SeqCst);
            let mut looks = 0;
            while met.load(Ordering::SeqCst) < 2 * count {
                looks += 1;
                if looks % 200 == 0 { std::thread::yield_now() } else { std::hint::spin_loop() }
            }
        };
        let all = (0..2_000).map(|round| {
            let charge = pod.charge(FREE + 8 * CHUNK).unwrap();
            meet(3 * round + 1);
            drop(charge);
            meet(3 * round + 2);
            let left = node.used();
            meet(3 * round + 3);
            left
        });
        let most = std::thread::scope(|scope| {
            let threads = [all.clone(), all].map(|all| scope.spawn(move || all.max()));
            threads.map(|thread| thread.join().unwrap())
        });
        assert_eq!(most, [Some(0); 2]);
    }

    /// However takes and gives of several threads meet, a pod has drawn what it uses.
    #[test]
    fn nothing_is_used_that_was_not_drawn() {
        let node = NodeBudget::new(u64::MAX);
        let pod = Budget::of_node(None, &node);
        std::thread::scope(|scope| {
            for thread in 1..=4_u64 {
                let pod = Arc::clone(&pod);
                scope.spawn(move || {
                    let mut charge = pod.charge(FREE).unwrap();
                    for round in 0..20_000 {
                        let bytes = (thread * 7_919 + round * 104_729) % (3 * CHUNK);
                        charge.grow(bytes).unwrap();
                        charge.shrink(bytes + round % 2);
                    }
                    std::mem::forget(charge);
                });
            }
        });
        let used = pod.used();
        assert!(node.used() >= used - FREE && node.used() <= used + CHUNK, "{} of {used}", node.used());
        pod.give(used);
        assert_eq!(node.used(), 0);
    }
}
