//! A thread of the executor: takes turns from the queue, and gives back what they used.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::MutexGuard;
use rustix::time::{ClockId, clock_gettime};

use super::queue::{Nanos, TICK, Turn};
use super::task::{Task, Turned, close};
use super::{Clock, Inner, SPARE, State};
use crate::limits::MEMORY_MAX;

thread_local! {
    /// The executor whose worker this thread is.
    static EXECUTOR: RefCell<Option<Arc<Inner>>> = const { RefCell::new(None) };
    static TURN: Now = const { Now::none() };
}

/// The turn that goes on on this thread.
struct Now {
    going: Cell<bool>,
    /// The executor's ticks at its beginning.
    ticks: Cell<u64>,
    /// It has woken a task, which this thread will find when the turn is over.
    woken: Cell<bool>,
    memory: Cell<u64>,
}

impl Now {
    const fn none() -> Now {
        Now {
            going: Cell::new(false),
            ticks: Cell::new(0),
            woken: Cell::new(false),
            memory: Cell::new(MEMORY_MAX),
        }
    }
}

/// The memory limit of whoever has a turn on this thread.
pub(crate) fn memory_limit() -> u64 {
    TURN.with(|turn| if turn.going.get() { turn.memory.get() } else { MEMORY_MAX })
}

/// Whether the turn that goes on on this thread has taken its time. Guests are asked at each epoch; one that has
/// just been woken has its turn before it, however long ago its last epoch was. True on any other thread.
pub(crate) fn turn_is_over() -> bool {
    TURN.with(|turn| {
        !turn.going.get()
            || EXECUTOR.with_borrow(|executor| {
                executor
                    .as_ref()
                    .is_none_or(|executor| executor.ticks.load(Ordering::Relaxed) != turn.ticks.get())
            })
    })
}

/// Does something that may wait for a disk. If it takes longer than a tick, another thread stands in meanwhile.
pub(crate) fn blocking<T>(operation: impl FnOnce() -> T) -> T {
    let executor = EXECUTOR.with_borrow(Clone::clone);
    let Some(executor) = executor.filter(|_| TURN.with(|turn| turn.going.get())) else { return operation() };
    let _back = Blocked::begin(&executor);
    operation()
}

/// This thread waits, as long as this lives.
struct Blocked<'a>(&'a Inner);

impl Blocked<'_> {
    fn begin(executor: &Inner) -> Blocked<'_> {
        let mut state = executor.state.lock();
        state.active -= 1;
        state.blocked += 1;
        Blocked(executor)
    }
}

impl Drop for Blocked<'_> {
    /// There may be more workers than there should now, until the next turn ends.
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.blocked -= 1;
        state.active += 1;
    }
}

/// True if this thread will look for work soon, so that none need be woken for the first task that a turn wakes:
/// usually the turn ends right after, and its thread has everything at hand.
pub(super) fn will_look(executor: &Inner) -> bool {
    TURN.with(|turn| {
        let mine = turn.going.get()
            && EXECUTOR
                .with_borrow(|own| own.as_ref().is_some_and(|own| std::ptr::eq(&raw const **own, executor)));
        mine && !turn.woken.replace(true)
    })
}

/// The life of a worker, which counts as active when it begins.
pub(super) fn run(executor: &Arc<Inner>) {
    (executor.on_thread)();
    EXECUTOR.set(Some(Arc::clone(executor)));
    let entered = executor.io.enter();
    let mut worker = Worker { executor, watch: Watch::start(), last: None };
    let mut state = executor.state.lock();
    let io = loop {
        if state.stopped {
            drop(state);
            worker.last = None;
            break executor.leave();
        }
        let turn = if state.active <= executor.threads { state.queue.pick(executor.now()) } else { None };
        match turn {
            Some(turn) => state = worker.turn(state, turn),
            None if worker.last.is_some() => MutexGuard::unlocked(&mut state, || worker.last = None),
            None if executor.park(&mut state) => {
                state.active -= 1;
                state.total -= 1;
                drop(state);
                break None;
            }
            None => {
                worker.watch.lap();
            }
        }
    };
    drop(entered);
    EXECUTOR.set(None);
    io.into_iter().for_each(tokio::runtime::Runtime::shutdown_background);
}

/// A worker's own.
struct Worker<'a> {
    executor: &'a Inner,
    watch: Watch,
    /// What the last turn left: dropped when the lock is not held, which a share's end takes.
    last: Option<(Arc<Task>, Option<Arc<Task>>)>,
}

impl<'a> Worker<'a> {
    /// Gives a task its turn.
    fn turn(&mut self, mut state: MutexGuard<'a, State>, turn: Turn<Arc<Task>>) -> MutexGuard<'a, State> {
        let executor = self.executor;
        let Turn { task, group, length } = turn;
        let short = length < TICK;
        executor.begin_turn(&mut state, length);
        drop(state);
        self.last = None;

        TURN.with(|turn| {
            turn.ticks.set(executor.ticks.load(Ordering::Relaxed));
            turn.woken.set(false);
            turn.memory.set(task.share.memory());
            turn.going.set(true);
        });
        let turned = task.turn();
        TURN.with(|turn| turn.going.set(false));
        let used = self.watch.lap();
        task.share.add(used);

        let (again, over) = match turned {
            Turned::Asleep => (false, false),
            Turned::Again => (true, false),
            Turned::Over(work) => {
                work.into_iter().for_each(close);
                (false, true)
            }
        };
        let mut state = executor.state.lock();
        state.short -= usize::from(short);
        let listed = if over { state.unlist(task.number) } else { None };
        let urgent = task.share.is_ending();
        let now = executor.now();
        state.queue.done(group, length, used, (again && !urgent).then(|| Arc::clone(&task)), now);
        if again && urgent {
            state.queue.push(group, Arc::clone(&task), true, now);
        }
        self.last = Some((task, listed));
        state
    }
}

impl State {
    fn unlist(&mut self, number: usize) -> Option<Arc<Task>> {
        self.free.push(number);
        self.tasks[number].take()
    }
}

impl Inner {
    /// The clock must know, and others may help if there is more to do.
    fn begin_turn(&self, state: &mut State, length: Nanos) {
        let end = self.now() + length;
        if state.clock == Clock::Parked {
            state.clock = Clock::Ticking { next: end };
            self.alarm.notify_one();
        }
        if length < TICK {
            state.short += 1;
            self.hasten(state, end);
        }
        self.call_worker(state);
    }

    /// Waits for work; true if this thread is not needed any more.
    fn park(&self, state: &mut MutexGuard<'_, State>) -> bool {
        state.active -= 1;
        state.parked += 1;
        let mut spare = false;
        // Called for one that did not wait yet, or for more than it may.
        let timed_out = self.work.wait_for(state, SPARE).timed_out();
        if timed_out {
            spare = state.total > self.threads + state.blocked && !state.stopped;
        } else {
            state.called = state.called.saturating_sub(1);
        }
        state.parked -= 1;
        state.active += 1;
        spare
    }

    /// The executor was stopped: whoever is not having a turn ends now. The last worker gets the I/O runtime, to end
    /// it.
    fn leave(&self) -> Option<tokio::runtime::Runtime> {
        let mut state = self.state.lock();
        let mut at = 0;
        while at < state.tasks.len() {
            if let Some(task) = state.tasks[at].clone() {
                MutexGuard::unlocked(&mut state, || {
                    task.shut_down();
                    drop(task);
                });
            }
            at += 1;
        }
        state.active -= 1;
        state.total -= 1;
        if state.total > 0 {
            return None;
        }
        let (tasks, queued, io) = (std::mem::take(&mut state.tasks), state.queue.drain(), state.io.take());
        drop(state);
        drop((tasks, queued));
        io
    }
}

/// Measures the CPU time of its thread.
struct Watch(Nanos);

impl Watch {
    fn start() -> Watch {
        Watch(thread_nanos())
    }

    /// The time since the last lap.
    fn lap(&mut self) -> Nanos {
        let before = std::mem::replace(&mut self.0, thread_nanos());
        self.0.saturating_sub(before)
    }
}

/// CPU time of this thread.
fn thread_nanos() -> Nanos {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}
