//! A thread of the executor: takes turns from the queue, and gives back what they used.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Context;
use std::time::Duration;

use parking_lot::MutexGuard;

use super::cpu::{ThreadClock, Watch};
use super::queue::{GroupId, Nanos, TICK, Turn};
use super::task::{Task, Turned, close};
use super::{Clock, Inner, SPARE, State};
use crate::limits::MEMORY_MAX;

thread_local! {
    /// The executor whose worker this thread is, and its seat there.
    static SEAT: RefCell<Option<(Arc<Inner>, Seat)>> = const { RefCell::new(None) };
    static TURN: Now = const { Now::none() };
}

/// The turn that goes on on this thread.
struct Now {
    going: Cell<bool>,
    /// The executor's ticks at its beginning.
    ticks: Cell<u64>,
    /// The executor's time then.
    begun: Cell<Nanos>,
    /// It has woken a task, which this thread will find when the turn is over.
    woken: Cell<bool>,
    /// Ticks that it has waited for a disk while no other thread could stand in.
    waited: Cell<u64>,
    memory: Cell<u64>,
}

impl Now {
    const fn none() -> Now {
        Now {
            going: Cell::new(false),
            ticks: Cell::new(0),
            begun: Cell::new(0),
            woken: Cell::new(false),
            waited: Cell::new(0),
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
            || SEAT.with_borrow(|seat| {
                seat.as_ref()
                    .is_none_or(|(executor, _)| executor.ticks.load(Ordering::Relaxed) != turn.ticks.get())
            })
    })
}

/// When the turn that goes on on this thread began, since the executor did; costs nothing. `None` on any other thread.
pub(crate) fn turn_began() -> Option<Duration> {
    TURN.with(|turn| turn.going.get().then(|| Duration::from_nanos(turn.begun.get())))
}

/// For host code that moves data for as long as there is some: true if the turn that goes on on this thread has taken
/// its time. Then the task is woken, and whoever asked must say that it waits.
pub(crate) fn gives_way(cx: &Context<'_>) -> bool {
    let over = TURN.with(|turn| turn.going.get()) && turn_is_over();
    if over {
        cx.waker().wake_by_ref();
    }
    over
}

/// Does something that may wait for a disk. If it takes longer than a whole tick, another thread stands in.
pub(crate) fn blocking<T>(operation: impl FnOnce() -> T) -> T {
    SEAT.with_borrow(|seat| {
        let going = TURN.with(|turn| turn.going.get());
        let _back = seat.as_ref().filter(|_| going).and_then(|(executor, seat)| Waits::begin(executor, seat));
        operation()
    })
}

/// Where a worker sits, and whether its turn waits for a disk. Operations on files are too many and too short for
/// the executor's lock: the clock looks here with each tick.
///
/// ```text
///           begins              the clock, after a whole tick
///   HERE ──────────▶ since when ──────────────────────────────▶ AWAY
///     ▲                  │ ends                                   │ ends: takes its place again
///     └──────────────────┴────────────────────────────────────────┘
/// ```
#[derive(Clone)]
pub(super) struct Seat {
    number: usize,
    /// [`HERE`], [`AWAY`], or one more than the ticks were when it began to wait.
    waits: Arc<AtomicU64>,
}

const HERE: u64 = 0;
const AWAY: u64 = u64::MAX;

/// Ticks that a turn waits at most before it is away.
const PATIENCE: u64 = 2;

/// CPU time of a turn from which on it overstays, counted from when it had been told for a whole tick that it is over.
/// What it did not use, because the machine was busy with others, does not count: guests look at once when they go on.
const OVERSTAYED: Nanos = 2 * TICK;

/// A seat, and what the executor's lock guards of it.
pub(super) struct Desk {
    seat: Seat,
    clock: Option<ThreadClock>,
    /// The group whose turn its worker has, or had last.
    group: Option<GroupId>,
    /// The turn that goes on.
    turn: Option<Begun>,
    /// Why that has made room for others.
    away: Option<Away>,
}

/// Why a turn is away. What the seat says may be ahead of what was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Away {
    Waits,
    Overstays,
}

/// A turn that goes on.
struct Begun {
    /// The executor's ticks at its beginning.
    ticks: u64,
    /// CPU time of its thread when it should have ended.
    told: Option<Nanos>,
}

impl Desk {
    fn new(seat: Seat) -> Desk {
        Desk { seat, clock: None, group: None, turn: None, away: None }
    }

    /// Whether its turn should have ended, and has not.
    fn overstays(&mut self, ticks: u64) -> bool {
        let here = self.seat.is_here();
        let late = self.turn.as_mut().filter(|turn| here && ticks >= turn.ticks + PATIENCE);
        let Some(turn) = late else { return false };
        // Only few turns come this far, so that it may take a system call.
        let Some(cpu) = self.clock.and_then(ThreadClock::nanos) else { return false };
        cpu.saturating_sub(*turn.told.get_or_insert(cpu)) >= OVERSTAYED
    }
}

impl Seat {
    fn is_here(&self) -> bool {
        self.waits.load(Ordering::Relaxed) == HERE
    }

    /// Whether its turn has begun to be away with this tick.
    fn leaves(&self, ticks: u64) -> bool {
        let since = self.waits.load(Ordering::Relaxed);
        let exchange = || self.waits.compare_exchange(since, AWAY, Ordering::AcqRel, Ordering::Relaxed);
        since != HERE && since < ticks && exchange().is_ok()
    }
}

/// The turn of this thread waits, as long as this lives.
struct Waits<'a> {
    executor: &'a Inner,
    seat: &'a Seat,
    /// The executor's ticks when it began.
    since: u64,
}

impl<'a> Waits<'a> {
    /// `None` within another such operation.
    fn begin(executor: &'a Inner, seat: &'a Seat) -> Option<Waits<'a>> {
        if seat.waits.load(Ordering::Relaxed) != HERE {
            return None;
        }
        let since = executor.ticks.load(Ordering::Relaxed);
        seat.waits.store(since + 1, Ordering::Release);
        Some(Waits { executor, seat, since })
    }
}

impl Drop for Waits<'_> {
    /// If another stands in, there may be more workers than there should now, until the next turn ends.
    fn drop(&mut self) {
        let away = self.seat.waits.swap(HERE, Ordering::AcqRel) == AWAY;
        let ticks = self.executor.ticks.load(Ordering::Relaxed).saturating_sub(self.since).min(PATIENCE);
        TURN.with(|turn| turn.waited.set(turn.waited.get() + ticks));
        if away {
            let now = self.executor.now();
            self.executor.state.lock().come_back(self.seat, now);
        }
    }
}

/// True if this thread will look for work soon, so that none need be woken for the first task that a turn wakes:
/// usually the turn ends right after, and its thread has everything at hand.
pub(super) fn will_look(executor: &Inner) -> bool {
    TURN.with(|turn| {
        let mine = turn.going.get()
            && SEAT.with_borrow(|seat| {
                seat.as_ref().is_some_and(|(own, _)| std::ptr::eq(&raw const **own, executor))
            });
        mine && !turn.woken.replace(true)
    })
}

/// The life of a worker, which counts as active when it begins.
pub(super) fn run(executor: &Arc<Inner>, seat: Seat) {
    (executor.on_thread)();
    SEAT.set(Some((Arc::clone(executor), seat.clone())));
    let entered = executor.io.enter();
    let mut worker = Worker { executor, seat, watch: Watch::start(), last: None };
    let mut state = executor.state.lock();
    state.seats[worker.seat.number].clock = ThreadClock::of_this_thread();
    let io = loop {
        if state.stopped {
            drop(state);
            worker.last = None;
            break executor.leave(&worker.seat);
        }
        let turn = if state.active <= executor.threads { state.queue.pick(executor.now()) } else { None };
        match turn {
            Some(turn) => state = worker.turn(state, turn),
            None if worker.last.is_some() => MutexGuard::unlocked(&mut state, || worker.last = None),
            None if executor.park(&mut state) => {
                state.dismiss(&worker.seat);
                drop(state);
                break None;
            }
            None => {
                worker.watch.lap();
            }
        }
    };
    drop(entered);
    SEAT.set(None);
    io.into_iter().for_each(tokio::runtime::Runtime::shutdown_background);
}

/// A worker's own.
struct Worker<'a> {
    executor: &'a Inner,
    seat: Seat,
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
        let begun = executor.now();
        let ticks = executor.ticks.load(Ordering::Relaxed);
        let desk = &mut state.seats[self.seat.number];
        desk.group = Some(group);
        desk.turn = Some(Begun { ticks, told: None });
        executor.begin_turn(&mut state, length, begun + length);
        drop(state);
        self.last = None;

        TURN.with(|turn| {
            turn.ticks.set(executor.ticks.load(Ordering::Relaxed));
            turn.begun.set(begun);
            turn.woken.set(false);
            turn.waited.set(0);
            turn.memory.set(task.share.memory());
            turn.going.set(true);
        });
        let turned = task.turn();
        let waited = TURN.with(|turn| {
            turn.going.set(false);
            turn.waited.get()
        });
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
        state.turn_ends(self.seat.number, group, now);
        let held = (waited * TICK).min(now.saturating_sub(begun));
        state.queue.kept(group, held.saturating_sub(used));
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

    /// A seat for one more worker, which is active from now on.
    pub(super) fn seat(&mut self) -> Seat {
        let free = self.free_seats.pop();
        let seat = free.unwrap_or_else(|| Seat { number: self.seats.len(), waits: Arc::default() });
        if seat.number == self.seats.len() {
            self.seats.push(Desk::new(seat.clone()));
        }
        self.total += 1;
        self.active += 1;
        seat
    }

    /// A worker ends.
    pub(super) fn dismiss(&mut self, seat: &Seat) {
        self.free_seats.push(seat.clone());
        self.total -= 1;
        self.active -= 1;
    }

    /// With a tick, those that have waited for a disk for a whole one make room for others, and those that overstay.
    pub(super) fn see_who_waits(&mut self, ticks: u64, now: Nanos) {
        for desk in &mut self.seats {
            let Some(group) = desk.group.filter(|_| desk.away.is_none()) else { continue };
            if desk.seat.leaves(ticks) {
                desk.away = Some(Away::Waits);
                self.queue.leave(group, now);
            } else if desk.overstays(ticks) {
                desk.away = Some(Away::Overstays);
                self.queue.overstays(group, now);
            } else {
                continue;
            }
            self.active -= 1;
            self.blocked += 1;
        }
    }

    /// A turn has come to its end, perhaps late.
    fn turn_ends(&mut self, seat: usize, group: GroupId, now: Nanos) {
        let desk = &mut self.seats[seat];
        desk.turn = None;
        if desk.away.take_if(|away| *away == Away::Overstays).is_some() {
            self.blocked -= 1;
            self.active += 1;
            self.queue.has_overstayed(group, now);
        }
    }

    /// One that made room goes on.
    fn come_back(&mut self, seat: &Seat, now: Nanos) {
        self.blocked -= 1;
        self.active += 1;
        let desk = &mut self.seats[seat.number];
        desk.away = None;
        let group = desk.group.expect("who was away has a turn");
        self.queue.back(group, now);
    }
}

impl Inner {
    /// The clock must know, and others may help if there is more to do.
    fn begin_turn(&self, state: &mut State, length: Nanos, end: Nanos) {
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
    fn leave(&self, seat: &Seat) -> Option<tokio::runtime::Runtime> {
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
        state.dismiss(seat);
        if state.total > 0 {
            return None;
        }
        let (tasks, queued, io) = (std::mem::take(&mut state.tasks), state.queue.drain(), state.io.take());
        drop(state);
        drop((tasks, queued));
        io
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A turn has waited for a disk for long, and is seen in the moment before it takes its place again.
    #[test]
    fn a_turn_makes_room_once() {
        let mut state = State::new(None);
        let (seat, group) = (state.seat(), state.queue.add(0, None, 0));
        let clock = ThreadClock::of_this_thread();
        while clock.and_then(ThreadClock::nanos).unwrap() < OVERSTAYED {}
        let desk = &mut state.seats[seat.number];
        (desk.clock, desk.group, desk.turn) = (clock, Some(group), Some(Begun { ticks: 0, told: Some(0) }));

        seat.waits.store(1, Ordering::Relaxed);
        state.see_who_waits(5, 0);
        assert_eq!((state.active, state.blocked), (0, 1));
        seat.waits.store(HERE, Ordering::Relaxed);
        state.see_who_waits(6, 0);
        assert_eq!((state.active, state.blocked), (0, 1));
        state.come_back(&seat, 0);
        assert_eq!((state.active, state.blocked), (1, 0));
        // Back at its place, it overstays.
        state.see_who_waits(7, 0);
        assert_eq!((state.active, state.blocked), (0, 1));
        state.turn_ends(seat.number, group, 0);
        assert_eq!((state.active, state.blocked), (1, 0));
    }
}
