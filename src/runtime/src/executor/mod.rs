//! The executor of guests: who of them runs, for how long, and what it used.
//!
//! Read first: [`Executor`] (spawn), [`Share`] (a container's part of the CPUs), [`queue`] (the decision).
//!
//! ```text
//!   wake ─▶ RunQueue ─▶ worker threads: one turn each ─▶ used CPU time ─▶ RunQueue
//!              ▲
//!   clock: every tick ends the turns (epochs), lets rested groups wait again, wakes idle workers
//! ```
//!
//! Futures run inside the guests' I/O runtime, so tokio's timers and sockets work in them; its own thread moves
//! those, not the workers, however busy they are. What rests because of its limit is released by the clock, which
//! is a thread of its own, too. A future that panics is dropped, and its owner told; nothing else notices.
//!
//! Guarantees: a task that could run waits for no task that is due less for longer than a turn; a task that calls
//! nothing blocking holds its worker no longer than a turn and one host call; [`blocking`] calls keep a worker, but
//! another stands in after a tick. So one does for a turn that overstays, because something in it looks at no epoch (a
//! fill of gigabytes, a string that the engine recodes between two components, a collection that ends although its
//! guest was killed): it delays nobody but its own container, which is charged for it. How long that takes is bounded by what memory the container may have. However
//! many of a container's tasks wait for a disk, threads are left for others.

mod cpu;
mod queue;
mod quota;
mod share;
mod task;
#[cfg(test)]
mod tests;
mod worker;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::time::Instant;

use self::queue::{GroupId, Nanos, RunQueue, TICK};
pub(crate) use self::share::Share;
pub(crate) use self::task::Lost;
use self::task::{Job, Task, Work};
use self::worker::{Desk, Seat};
pub(crate) use self::worker::{blocking, gives_way, memory_limit, turn_began, turn_is_over};
use crate::container::Cpu;

/// Ticks without a worker that works before the clock stops: waking it costs as much as a few idle ticks.
const IDLE_TICKS: u32 = 3;

/// Threads that stand in for those that wait for a disk, at most: what a disk does at once, several times over. One
/// container alone has half of them, two have a third each, and so on ([`queue`]).
const STAND_INS: usize = 64;

/// How long a thread that is not needed waits to be, before it ends.
const SPARE: Duration = Duration::from_secs(10);

/// Runs the futures of guests. Dropped, it ends them all.
pub(crate) struct Executor(Arc<Inner>);

/// What workers, clock, shares and wakers know.
pub(crate) struct Inner {
    state: Mutex<State>,
    /// For workers without work.
    work: Condvar,
    /// For the clock.
    alarm: Condvar,
    began: Instant,
    /// Ticks so far: a turn is over when this is no longer what it was at its beginning.
    ticks: AtomicU64,
    /// How many threads work at once.
    threads: usize,
    io: tokio::runtime::Handle,
    on_thread: fn(),
}

struct State {
    queue: RunQueue<Arc<Task>>,
    /// Every task that is not over, so that the shutdown finds those that are asleep.
    tasks: Vec<Option<Arc<Task>>>,
    free: Vec<usize>,
    /// Every worker's seat, and what turn it has.
    seats: Vec<Desk>,
    free_seats: Vec<Seat>,
    /// Threads that work or look for work, of at most `threads`; those that are away do not count.
    active: usize,
    /// Threads that are away: in [`blocking`] for a whole tick, or in a turn that overstays.
    blocked: usize,
    /// Threads that wait for work.
    parked: usize,
    /// Threads that were told of work and have not looked yet.
    called: usize,
    /// All threads.
    total: usize,
    /// Turns shorter than a tick that are going on: the clock is as fast as they need.
    short: usize,
    clock: Clock,
    stopped: bool,
    /// Kept until the last worker has gone: futures need it when they are polled.
    io: Option<tokio::runtime::Runtime>,
}

impl State {
    /// With nothing to do, and nobody to do it.
    fn new(io: Option<tokio::runtime::Runtime>) -> State {
        State {
            queue: RunQueue::new(),
            tasks: Vec::new(),
            free: Vec::new(),
            seats: Vec::new(),
            free_seats: Vec::new(),
            active: 0,
            blocked: 0,
            parked: 0,
            called: 0,
            total: 0,
            short: 0,
            clock: Clock::Parked,
            stopped: false,
            io,
        }
    }
}

/// What the clock waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clock {
    /// The next tick.
    Ticking { next: Nanos },
    /// A worker, or that a group has rested.
    Parked,
}

impl Executor {
    /// Starts `threads` workers, whose futures run inside `io`, and the clock, which calls `tick` to end turns.
    /// `on_thread` is called on each worker as it begins.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub(crate) fn start(
        threads: usize,
        io: tokio::runtime::Runtime,
        tick: impl Fn() + Send + 'static,
        on_thread: fn(),
    ) -> io::Result<Executor> {
        let threads = threads.max(1);
        let inner = Arc::new(Inner {
            work: Condvar::new(),
            alarm: Condvar::new(),
            began: Instant::now(),
            ticks: AtomicU64::new(0),
            threads,
            io: io.handle().clone(),
            on_thread,
            state: Mutex::new(State::new(Some(io))),
        });
        let executor = Executor(Arc::clone(&inner));
        for _ in 0..threads {
            inner.start_worker(&mut inner.state.lock())?;
        }
        let clock = Arc::clone(&inner);
        std::thread::Builder::new().name("epoch".into()).spawn(move || clock.run_clock(&tick))?;
        Ok(executor)
    }

    /// How many there are, those that stand in included.
    #[cfg(test)]
    pub(crate) fn threads(&self) -> usize {
        self.0.state.lock().total
    }

    /// A share of its own for a container.
    pub(crate) fn share(&self, cpu: Cpu) -> Arc<Share> {
        Share::new(&self.0, cpu)
    }

    /// Runs a future on a share. `end` is called with what it returned, after the future is dropped and its CPU time
    /// is counted; it must be short. It is called in any case.
    pub(crate) fn spawn<F, E>(&self, share: &Arc<Share>, future: F, end: E)
    where
        F: Future<Output: Send> + Send + 'static,
        E: FnOnce(Result<F::Output, Lost>) + Send + 'static,
    {
        self.0.spawn(share, Job::boxed(Box::pin(future), end));
    }
}

impl Drop for Executor {
    /// Ends all tasks: those that have a turn when it is over, which the clock sees to.
    fn drop(&mut self) {
        self.0.state.lock().stopped = true;
        self.0.work.notify_all();
        self.0.alarm.notify_all();
    }
}

impl Inner {
    fn now(&self) -> Nanos {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn spawn(&self, share: &Arc<Share>, work: Box<dyn Work>) {
        let mut state = self.state.lock();
        if state.stopped {
            drop(state);
            return task::close(work);
        }
        let number = state.free.pop().unwrap_or_else(|| {
            state.tasks.push(None);
            state.tasks.len() - 1
        });
        let task = Task::new(Arc::clone(share), number, work);
        state.tasks[number] = Some(Arc::clone(&task));
        self.push(&mut state, task);
    }

    fn add_group(&self, cpu: Cpu) -> GroupId {
        self.state.lock().queue.add(cpu.request_millis, cpu.limit_millis, self.now())
    }

    fn set_group(&self, id: GroupId, cpu: Cpu) {
        let mut state = self.state.lock();
        state.queue.set(id, cpu.request_millis, cpu.limit_millis, self.now());
        self.call_worker(&mut state);
    }

    fn remove_group(&self, id: GroupId) {
        self.state.lock().queue.remove(id);
    }

    /// The tasks of a share that wait go first.
    fn hurry(&self, id: GroupId, share: &Arc<Share>) {
        let mut state = self.state.lock();
        state.queue.hurry(id, |task| Arc::ptr_eq(&task.share, share), self.now());
        self.call_worker(&mut state);
    }

    /// A task that was asleep could run.
    fn wake(&self, task: Arc<Task>) {
        let mut state = self.state.lock();
        self.push(&mut state, task);
    }

    fn push(&self, state: &mut MutexGuard<'_, State>, task: Arc<Task>) {
        let (group, urgent) = (task.share.group(), task.share.is_ending());
        let now = self.now();
        state.queue.push(group, task, urgent, now);
        if !worker::will_look(self) {
            self.call_worker(state);
        }
        self.mind_resting(state, now);
    }

    /// Has an idle worker look for work, if there is some and one may work.
    fn call_worker(&self, state: &mut State) {
        let may = state.parked > state.called && state.active + state.called < self.threads;
        if may && state.called == 0 && state.queue.has_ready() && self.work.notify_one() {
            state.called += 1;
        }
    }

    /// Makes a parked clock see that a group rests.
    fn mind_resting(&self, state: &State, now: Nanos) {
        if state.clock == Clock::Parked && state.queue.next_release().is_some_and(|next| next > now) {
            self.alarm.notify_one();
        }
    }

    fn run_clock(self: &Arc<Self>, tick: &dyn Fn()) {
        let mut idle = 0;
        let mut state = self.state.lock();
        loop {
            let busy = state.active > 0 || state.blocked > 0;
            if state.stopped && !busy {
                return;
            }
            idle = if busy { 0 } else { idle + 1 };
            let now = self.now();
            if idle > IDLE_TICKS {
                state.clock = Clock::Parked;
                match state.queue.next_release() {
                    None => self.alarm.wait(&mut state),
                    Some(next) => {
                        self.alarm.wait_for(&mut state, Duration::from_nanos(next.saturating_sub(now)));
                    }
                }
                // A worker had it wake: more will follow.
                idle = if state.clock == Clock::Parked { idle } else { 0 };
            } else {
                let length = if state.short > 0 { quota::SHORTEST } else { TICK };
                self.wait_for_tick(&mut state, now + length);
            }
            let now = self.now();
            let ticks = self.ticks.fetch_add(1, Ordering::Relaxed) + 1;
            tick();
            state.see_who_waits(ticks, now);
            state.queue.release(now);
            self.call_worker(&mut state);
            self.stand_in(&mut state);
        }
    }

    /// Waits until then, or less if a short turn begins meanwhile.
    fn wait_for_tick(&self, state: &mut MutexGuard<'_, State>, next: Nanos) {
        state.clock = Clock::Ticking { next };
        while let Clock::Ticking { next } = state.clock {
            let left = next.saturating_sub(self.now());
            if left == 0 || self.alarm.wait_for(state, Duration::from_nanos(left)).timed_out() {
                return;
            }
        }
    }

    /// A turn shorter than a tick begins: the clock must not be late for it.
    fn hasten(&self, state: &mut State, end: Nanos) {
        if let Clock::Ticking { next } = &mut state.clock
            && *next > end
        {
            *next = end;
            self.alarm.notify_one();
        }
    }

    /// Starts a thread in place of one that is away, if there is work and no thread for it.
    fn stand_in(self: &Arc<Self>, state: &mut MutexGuard<'_, State>) {
        let wanted = state.blocked > 0 && state.active < self.threads && state.queue.has_ready();
        let may = state.parked == 0 && state.total < self.threads + STAND_INS && !state.stopped;
        if wanted
            && may
            && let Err(error) = self.start_worker(state)
        {
            tracing::warn!(%error, "no thread can stand in for one that waits");
        }
    }

    fn start_worker(self: &Arc<Self>, state: &mut State) -> io::Result<()> {
        let (inner, seat) = (Arc::clone(self), state.seat());
        let its = seat.clone();
        let started =
            std::thread::Builder::new().name("guest".into()).spawn(move || worker::run(&inner, its));
        if started.is_err() {
            state.dismiss(&seat);
        }
        started.map(drop)
    }
}
