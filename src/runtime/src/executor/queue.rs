//! Who runs next: the decision, without threads and without a clock.
//!
//! Each container (a *group* of tasks) has a virtual time that advances by what its tasks use, the slower the more
//! weight it has; the group that is furthest behind runs next. A group beyond its hard limit rests until there is
//! something of it again. Tasks of one group take turns.
//!
//! ```text
//!              push                pick                 done, asleep
//!   no task ─────────▶ waiting ─────────▶ running ─────────────────────▶ no task
//!                        ▲  │ no quota left  │ done, again
//!                        │  ▼                ▼
//!                       resting ◀────── waiting or resting
//! ```
//!
//! A turn that waits for a disk is *away*: its thread's place is others'. A group has no more turns away than
//! threads are left to stand in for those of all others; while it does, it is *held*, whatever it is due. A turn that
//! *overstays* is away, too, though it uses a CPU: it has no second one at the same time.

use std::collections::{BTreeSet, VecDeque};

use super::STAND_INS;
use super::quota::Quota;

/// Nanoseconds; as a point in time, since the executor began.
pub(super) type Nanos = u64;

/// The length of a turn: how long a task may run before it is asked whether others want to. With two threads and
/// a hundred spinning guests each waits 50 ms for its turn; halving it costs spinning guests about one percent.
pub(super) const TICK: Nanos = 1_000_000;

/// How far a group that was asleep may be behind the others when it wakes: one turn, so that it goes first but
/// does not make up for what it did not want.
const CREDIT: Nanos = TICK;

/// How far a group that is never asleep may fall behind. One with few tasks and a large weight cannot use what it
/// is due on a machine with more threads than it has tasks, and must not save it up.
const LAG: Nanos = 100 * TICK;

/// The weight whose virtual time is real time: one CPU in Kubernetes' shares.
const CPU_SHARES: u64 = 1_024;

/// The smallest weight in Kubernetes' shares: that of a container that requests nothing.
const LEAST_SHARES: u64 = 2;

/// A group of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GroupId(u32);

/// A task whose turn it is. It must be given back by [`RunQueue::done`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Turn<T> {
    pub(super) task: T,
    pub(super) group: GroupId,
    /// How long it should be at most.
    pub(super) length: Nanos,
}

/// The queue of all tasks that could run.
#[derive(Debug)]
pub(super) struct RunQueue<T> {
    groups: Vec<Option<Group<T>>>,
    free: Vec<u32>,
    /// Tasks that are to end: before all others, whatever their group is due.
    urgent: VecDeque<(GroupId, T)>,
    /// Groups that could run, by virtual time.
    waiting: BTreeSet<(u128, GroupId)>,
    /// Groups without quota, by when they have some.
    resting: BTreeSet<(Nanos, GroupId)>,
    /// Groups with as many turns away as they may have.
    held: BTreeSet<GroupId>,
    /// Turns that are away.
    away: usize,
    /// The virtual time of the group that ran last: who comes anew begins there.
    now: u128,
}

#[derive(Debug)]
struct Group<T> {
    shares: u64,
    quota: Option<Quota>,
    /// Virtual nanoseconds, times [`CPU_SHARES`] so that large weights advance, too.
    time: u128,
    ready: VecDeque<T>,
    running: usize,
    /// How many of those that run are away.
    away: usize,
    /// How many of those overstay.
    overstay: usize,
    place: Place,
}

/// Where a group is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Nowhere,
    Waiting(u128),
    Resting(Nanos),
    Held,
}

impl<T> Group<T> {
    /// What `nanos` of CPU time are in its virtual time.
    fn virtual_time(&self, nanos: Nanos) -> u128 {
        u128::from(nanos) * u128::from(CPU_SHARES * CPU_SHARES) / u128::from(self.shares)
    }

    /// Whether one more turn may wait for a disk, where so many do. One always may, unless another overstays.
    fn may_leave(&self, away: usize) -> bool {
        self.overstay == 0 && (self.away == 0 || self.away + away < STAND_INS)
    }
}

impl<T> RunQueue<T> {
    pub(super) fn new() -> RunQueue<T> {
        RunQueue {
            groups: Vec::new(),
            free: Vec::new(),
            urgent: VecDeque::new(),
            waiting: BTreeSet::new(),
            resting: BTreeSet::new(),
            held: BTreeSet::new(),
            away: 0,
            now: 0,
        }
    }

    /// A new group, as far as who ran last: it has neither credit nor debt, but goes before those that are as far.
    pub(super) fn add(&mut self, request: u32, limit: Option<u32>, now: Nanos) -> GroupId {
        let group = Group {
            shares: shares(request),
            quota: limit.map(|millis| Quota::new(millis, now)),
            time: self.now.saturating_sub(1),
            ready: VecDeque::new(),
            running: 0,
            away: 0,
            overstay: 0,
            place: Place::Nowhere,
        };
        match self.free.pop() {
            Some(index) => {
                self.groups[index as usize] = Some(group);
                GroupId(index)
            }
            None => {
                let index = u32::try_from(self.groups.len()).expect("fewer groups than memory has room for");
                self.groups.push(Some(group));
                GroupId(index)
            }
        }
    }

    /// Removes a group that has no task any more.
    pub(super) fn remove(&mut self, id: GroupId) {
        self.unlist(id);
        if self.groups[id.0 as usize].take().is_some() {
            self.free.push(id.0);
        }
    }

    /// Changes what a group is due.
    pub(super) fn set(&mut self, id: GroupId, request: u32, limit: Option<u32>, now: Nanos) {
        let group = self.group(id);
        group.shares = shares(request);
        // A turn that runs meanwhile settles with the new limit, which is wrong by one turn at most.
        if group.quota.as_ref().map(Quota::millis) != limit {
            group.quota = limit.map(|millis| Quota::new(millis, now));
        }
        self.list(id, now);
    }

    /// A task could run.
    pub(super) fn push(&mut self, id: GroupId, task: T, urgent: bool, now: Nanos) {
        if urgent {
            return self.urgent.push_back((id, task));
        }
        let floor = self.now;
        let group = self.group(id);
        if group.ready.is_empty() && group.running == group.away {
            group.time = group.time.max(floor.saturating_sub(group.virtual_time(CREDIT)));
        }
        group.ready.push_back(task);
        if group.place == Place::Nowhere {
            self.list(id, now);
        }
    }

    /// Tasks of a group that are to end go before all others.
    pub(super) fn hurry(&mut self, id: GroupId, ends: impl Fn(&T) -> bool, now: Nanos) {
        let ready = std::mem::take(&mut self.group(id).ready);
        let (urgent, ready): (VecDeque<T>, VecDeque<T>) = ready.into_iter().partition(|task| ends(task));
        self.group(id).ready = ready;
        self.urgent.extend(urgent.into_iter().map(|task| (id, task)));
        self.list(id, now);
    }

    /// Whose turn it is.
    pub(super) fn pick(&mut self, now: Nanos) -> Option<Turn<T>> {
        if let Some((id, task)) = self.urgent.pop_front() {
            let group = self.group(id);
            group.running += 1;
            let length = group.quota.as_mut().map_or(TICK, Quota::take);
            return Some(Turn { task, group: id, length });
        }
        self.release(now);
        let id = self.first(now)?;
        let group = self.group(id);
        let task = group.ready.pop_front().expect("a group without a ready task does not wait");
        group.running += 1;
        let length = group.quota.as_mut().map_or(TICK, Quota::take);
        let time = group.time;
        self.now = self.now.max(time);
        self.list(id, now);
        Some(Turn { task, group: id, length })
    }

    /// The group that is furthest behind, of those that may run.
    fn first(&mut self, now: Nanos) -> Option<GroupId> {
        loop {
            let (_, id) = self.waiting.pop_first()?;
            let away = self.away;
            let group = self.group(id);
            group.place = Place::Nowhere;
            if group.may_leave(away) {
                return Some(id);
            }
            self.list(id, now);
        }
    }

    /// A turn waits for a disk: another may run in its place.
    pub(super) fn leave(&mut self, id: GroupId, now: Nanos) {
        self.away += 1;
        self.group(id).away += 1;
        self.list(id, now);
    }

    /// A turn that was away goes on.
    pub(super) fn back(&mut self, id: GroupId, now: Nanos) {
        self.away -= 1;
        self.group(id).away -= 1;
        self.list(id, now);
        for id in std::mem::take(&mut self.held) {
            self.list(id, now);
        }
    }

    /// A turn does not end when it should: others run in its place, but none of its group.
    pub(super) fn overstays(&mut self, id: GroupId, now: Nanos) {
        self.group(id).overstay += 1;
        self.leave(id, now);
    }

    /// A turn that has overstayed is about to end.
    pub(super) fn has_overstayed(&mut self, id: GroupId, now: Nanos) {
        self.group(id).overstay -= 1;
        self.back(id, now);
    }

    /// A turn that is about to end had a thread for so much longer than it used it.
    pub(super) fn kept(&mut self, id: GroupId, nanos: Nanos) {
        let group = self.group(id);
        group.time += group.virtual_time(nanos);
    }

    /// A turn of `length` has ended and used so much CPU time; `again` if the task could run on.
    pub(super) fn done(&mut self, id: GroupId, length: Nanos, used: Nanos, again: Option<T>, now: Nanos) {
        let floor = self.now;
        let group = self.group(id);
        group.running -= 1;
        // At least a little: a task that uses less than the clock shows must not run for ever.
        group.time += group.virtual_time(used.max(1));
        group.time = group.time.max(floor.saturating_sub(group.virtual_time(LAG)));
        group.quota.iter_mut().for_each(|quota| quota.settle(length, used, now));
        group.ready.extend(again);
        self.list(id, now);
    }

    /// Groups that have quota again wait for their turn.
    pub(super) fn release(&mut self, now: Nanos) {
        while let Some((until, id)) = self.resting.first().copied()
            && until <= now
        {
            self.list(id, now);
        }
    }

    /// Takes all tasks out.
    pub(super) fn drain(&mut self) -> Vec<T> {
        let mut tasks: Vec<T> = self.urgent.drain(..).map(|(_, task)| task).collect();
        self.waiting.clear();
        self.resting.clear();
        self.held.clear();
        for group in self.groups.iter_mut().flatten() {
            group.place = Place::Nowhere;
            tasks.extend(group.ready.drain(..));
        }
        tasks
    }

    /// True if a task could run.
    pub(super) fn has_ready(&self) -> bool {
        !self.urgent.is_empty() || !self.waiting.is_empty()
    }

    /// When the next group that rests could run.
    pub(super) fn next_release(&self) -> Option<Nanos> {
        self.resting.first().map(|(until, _)| *until)
    }

    /// Puts a group where it belongs now.
    fn list(&mut self, id: GroupId, now: Nanos) {
        self.unlist(id);
        let away = self.away;
        let group = self.group(id);
        if group.ready.is_empty() {
            return;
        }
        if !group.may_leave(away) {
            group.place = Place::Held;
            self.held.insert(id);
            return;
        }
        match group.quota.as_mut().and_then(|quota| quota.rests_until(now)) {
            Some(until) => {
                // Never now: who looks again at once would look for ever.
                let until = until.max(now + 1);
                group.place = Place::Resting(until);
                self.resting.insert((until, id));
            }
            None => {
                // As if those that run used their whole turn, so that two threads do not run two tasks of one
                // group while another waits that is behind by less.
                let ahead = group.virtual_time(TICK) * (group.running - group.away) as u128;
                let time = group.time + ahead;
                group.place = Place::Waiting(time);
                self.waiting.insert((time, id));
            }
        }
    }

    fn unlist(&mut self, id: GroupId) {
        match std::mem::replace(&mut self.group(id).place, Place::Nowhere) {
            Place::Nowhere => {}
            Place::Waiting(time) => {
                self.waiting.remove(&(time, id));
            }
            Place::Resting(until) => {
                self.resting.remove(&(until, id));
            }
            Place::Held => {
                self.held.remove(&id);
            }
        }
    }

    fn group(&mut self, id: GroupId) -> &mut Group<T> {
        self.groups[id.0 as usize].as_mut().expect("a share lives as long as its group")
    }
}

/// Kubernetes' shares for a request in millicores.
fn shares(millis: u32) -> u64 {
    (u64::from(millis) * CPU_SHARES / 1_000).max(LEAST_SHARES)
}
