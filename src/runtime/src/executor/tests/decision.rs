//! Who runs how much, on simulated time: threads that begin a turn as soon as they have ended one, and tasks that
//! run, or run and sleep.

use proptest::prelude::*;

use super::super::STAND_INS;
use super::super::queue::{GroupId, Nanos, RunQueue, TICK, Turn};

const MILLI: Nanos = 1_000_000;
const SECOND: Nanos = 1_000 * MILLI;

/// A container: what it is due, and what its tasks do.
#[derive(Debug, Clone)]
struct Pod {
    request: u32,
    limit: Option<u32>,
    tasks: usize,
    /// After so much CPU time it sleeps so long; never, if `None`.
    sleeps: Option<(Nanos, Nanos)>,
    from: Nanos,
}

const SPINNER: Pod = Pod { request: 0, limit: None, tasks: 1, sleeps: None, from: 0 };

/// A task of the simulation: whose it is, and how long until it sleeps.
#[derive(Debug)]
struct Task {
    pod: usize,
    left: Nanos,
}

struct Machine {
    queue: RunQueue<Task>,
    pods: Vec<Pod>,
    groups: Vec<Option<GroupId>>,
    used: Vec<Nanos>,
    threads: Vec<Option<(Turn<Task>, Nanos, Nanos)>>,
    asleep: Vec<(Nanos, Task)>,
    now: Nanos,
    /// Thread time that nobody used although somebody waited.
    wasted: Nanos,
}

impl Machine {
    fn new(threads: usize, pods: &[Pod]) -> Machine {
        Machine {
            queue: RunQueue::new(),
            pods: pods.to_vec(),
            groups: vec![None; pods.len()],
            used: vec![0; pods.len()],
            threads: (0..threads).map(|_| None).collect(),
            asleep: Vec::new(),
            now: 0,
            wasted: 0,
        }
    }

    /// Runs until then; what each pod used so far.
    fn run(&mut self, until: Nanos) -> Vec<Nanos> {
        while self.now < until {
            self.arrive();
            self.queue.release(self.now);
            for at in 0..self.threads.len() {
                if self.threads[at].is_none()
                    && let Some(turn) = self.queue.pick(self.now)
                {
                    let used = turn.length.min(turn.task.left);
                    self.threads[at] = Some((turn, self.now, self.now + used));
                }
            }
            let ends = self.threads.iter().flatten().map(|(_, _, end)| *end);
            let wakes = self.asleep.iter().map(|(at, _)| *at);
            let joins = self.pods.iter().map(|pod| pod.from).filter(|from| *from > self.now);
            let next = ends.chain(wakes).chain(joins).chain(self.queue.next_release()).min();
            let next = next.unwrap_or(until).min(until).max(self.now + 1);
            let idle = self.threads.iter().filter(|turn| turn.is_none()).count() as u64;
            self.wasted += if self.queue.has_ready() { idle * (next - self.now) } else { 0 };
            self.now = next;
            self.end_turns();
        }
        // What a turn that goes on has used counts, too.
        let mut used = self.used.clone();
        for (turn, begin, _) in self.threads.iter().flatten() {
            used[turn.task.pod] += self.now - begin;
        }
        used
    }

    fn arrive(&mut self) {
        for (index, pod) in self.pods.iter().enumerate() {
            if self.groups[index].is_none() && pod.from <= self.now {
                let group = self.queue.add(pod.request, pod.limit, self.now);
                self.groups[index] = Some(group);
                for _ in 0..pod.tasks {
                    let left = pod.sleeps.map_or(Nanos::MAX, |(run, _)| run);
                    self.queue.push(group, Task { pod: index, left }, false, self.now);
                }
            }
        }
        let (woken, asleep) =
            std::mem::take(&mut self.asleep).into_iter().partition(|(at, _)| *at <= self.now);
        self.asleep = asleep;
        let woken: Vec<(Nanos, Task)> = woken;
        for (_, task) in woken {
            let group = self.groups[task.pod].unwrap();
            self.queue.push(group, task, false, self.now);
        }
    }

    fn end_turns(&mut self) {
        for at in 0..self.threads.len() {
            if self.threads[at].as_ref().is_none_or(|(_, _, end)| *end > self.now) {
                continue;
            }
            let (turn, begin, end) = self.threads[at].take().unwrap();
            let Turn { mut task, group, length } = turn;
            let used = end - begin;
            self.used[task.pod] += used;
            task.left = if task.left == Nanos::MAX { task.left } else { task.left - used };
            match self.pods[task.pod].sleeps {
                Some((run, sleep)) if task.left == 0 => {
                    self.queue.done(group, length, used, None, self.now);
                    task.left = run;
                    self.asleep.push((self.now + sleep, task));
                }
                _ => self.queue.done(group, length, used, Some(task), self.now),
            }
        }
    }
}

/// Each pod gets what is expected of it, in millicores, within so many percent.
#[track_caller]
fn check(threads: usize, time: Nanos, pods: &[(Pod, f64)], percent: f64) {
    let specs: Vec<Pod> = pods.iter().map(|(pod, _)| pod.clone()).collect();
    let mut machine = Machine::new(threads, &specs);
    let used = machine.run(time);
    for ((pod, expected), used) in pods.iter().zip(used) {
        let millis = used as f64 * 1_000.0 / time as f64;
        let off = (millis - expected).abs() * 100.0 / expected;
        assert!(off <= percent, "{millis:.2} m instead of {expected} m for {pod:?}");
    }
    assert_eq!(machine.wasted, 0, "a thread was idle while a task could run");
}

fn request(request: u32) -> Pod {
    Pod { request, ..SPINNER }
}

fn limit(limit: u32) -> Pod {
    Pod { limit: Some(limit), ..SPINNER }
}

#[test]
fn a_hundred_spinners_are_equal() {
    for threads in [1, 2, 4] {
        let each = threads as f64 * 10.0;
        check(threads, 5 * SECOND, &vec![(SPINNER, each); 100], 3.0);
    }
}

#[test]
fn weights_are_kept() {
    let pairs = |one: Pod, one_gets: f64, two: Pod, two_gets: f64, each: usize| {
        [vec![(one, one_gets); each], vec![(two, two_gets); each]].concat()
    };
    check(2, 5 * SECOND, &pairs(request(500), 13.333, request(1_000), 26.667, 50), 3.0);
    check(1, 5 * SECOND, &pairs(request(100), 250.0, request(300), 750.0, 1), 3.0);
    // No request at all is two shares of 1,024 that one CPU is.
    check(1, 60 * SECOND, &pairs(SPINNER, 1.949, request(1_000), 998.05, 1), 5.0);
}

#[test]
fn a_container_with_many_tasks_is_due_no_more_than_one_with_one() {
    let many = Pod { tasks: 20, ..SPINNER };
    check(1, 3 * SECOND, &[(many.clone(), 500.0), (SPINNER, 500.0)], 3.0);
    check(2, 3 * SECOND, &[(many.clone(), 1_000.0), (SPINNER, 1_000.0)], 3.0);
    check(3, 3 * SECOND, &[(many, 2_000.0), (SPINNER, 1_000.0)], 3.0);
}

/// One second from the start, and the one after it, alone and beside others.
#[test]
fn limits_are_kept_within_five_percent() {
    for millis in [10, 15, 20, 33, 50, 100, 250, 500, 900, 1_000, 1_500, 2_000] {
        let tasks = if millis > 1_000 { 3 } else { 1 };
        let pod = Pod { tasks, request: 1_000, ..limit(millis) };
        check(2, SECOND, &[(pod.clone(), f64::from(millis))], 5.0);
        let mut machine = Machine::new(2, std::slice::from_ref(&pod));
        let mut before = 0;
        for window in 1..=20 {
            let used = machine.run(window * SECOND + 123_456)[0];
            let off = (used - before) as f64 / 1e6 / f64::from(millis);
            assert!(window == 1 || (0.95..=1.05).contains(&off), "second {window} of {millis} m: {off}");
            before = used;
        }
    }
    // Who wants more than there is does not push others below their limit.
    let mut pods = vec![(Pod { request: 150, ..limit(100) }, 100.0); 2];
    pods.extend(vec![(request(100), 90.0); 20]);
    check(2, 5 * SECOND, &pods, 5.0);
    let many = vec![(Pod { request: 10, ..limit(10) }, 10.0); 100];
    check(2, 3 * SECOND, &many, 5.0);
}

/// What was not used is saved for a moment only.
#[test]
fn the_burst_is_bounded() {
    for millis in [1_u32, 10, 100, 1_000] {
        let mut machine = Machine::new(2, &[Pod { sleeps: Some((SECOND, 1)), ..limit(millis) }]);
        machine.run(1);
        let burst = machine.run(30 * MILLI)[0];
        let most = u64::from(millis) * 55 * MILLI / 1_000 + TICK;
        assert!(burst <= most, "{millis} m used {burst} ns in 30 ms");
    }
}

/// Somebody new, and somebody who slept, goes before those who spin, but not for longer than a turn.
#[test]
fn who_comes_has_a_turn_of_credit() {
    for sleeps in [None, Some((10 * MILLI, SECOND))] {
        let late = Pod { from: 2 * SECOND, sleeps, ..SPINNER };
        let mut machine = Machine::new(1, &[vec![SPINNER; 9], vec![late]].concat());
        machine.run(2 * SECOND);
        let at_once = machine.run(2 * SECOND + 2 * TICK)[9];
        assert!(at_once >= TICK, "it waits for a turn at most: {at_once}");
        let soon = machine.run(2 * SECOND + 20 * TICK)[9];
        assert!(soon <= 3 * TICK, "then it is one of ten: {soon}");
    }
    let pods = [vec![SPINNER; 4], vec![Pod { sleeps: Some((MILLI / 10, 10 * MILLI)), ..SPINNER }]].concat();
    let used = Machine::new(1, &pods).run(3 * SECOND)[4];
    // 0.1 ms in 10 and at most two turns of waiting each time.
    assert!(used >= 24 * MILLI, "a sleeper gets what it wants while it wants less than it is due: {used}");
}

/// A weight that cannot be used, because there are more threads than tasks, is not saved up for later.
#[test]
fn what_cannot_be_used_is_not_saved_up() {
    let late = Pod { from: 10 * SECOND, ..request(2_000) };
    let mut machine = Machine::new(2, &[request(2_000), SPINNER, SPINNER, late.clone(), late]);
    let before = machine.run(10 * SECOND);
    assert!(before[0] >= 10 * SECOND - 2 * TICK, "it has a thread of its own: {before:?}");
    let after = machine.run(12 * SECOND);
    let got = after[0] - before[0];
    assert!(got.abs_diff(after[3]) < 250 * MILLI && after[3].abs_diff(after[4]) < 50 * MILLI, "{after:?}");
}

/// A change of what a container is due counts at once, also while it rests.
#[test]
fn requests_and_limits_change_while_it_runs() {
    let mut machine = Machine::new(1, &[limit(10), SPINNER]);
    let before = machine.run(SECOND)[0];
    let group = machine.groups[0].unwrap();
    machine.queue.set(group, 1_000, None, machine.now);
    let unlimited = machine.run(2 * SECOND)[0] - before;
    assert!(unlimited > 990 * MILLI, "{unlimited}");
    machine.queue.set(group, 1_000, Some(100), machine.now);
    let limited = machine.run(3 * SECOND)[0] - before - unlimited;
    assert!((95 * MILLI..=105 * MILLI).contains(&limited), "{limited}");
}

/// Who is to end goes before all others, also if it rests and if others are far behind.
#[test]
fn who_is_to_end_goes_first() {
    let mut machine = Machine::new(1, &[vec![SPINNER; 50], vec![limit(1)]].concat());
    machine.run(SECOND + 123_456);
    let group = machine.groups[50].unwrap();
    machine.queue.hurry(group, |task| task.pod == 50, machine.now);
    let (turn, _, _) = machine.threads[0].take().unwrap();
    machine.queue.done(turn.group, turn.length, 0, Some(turn.task), machine.now);
    assert_eq!(machine.queue.pick(machine.now).unwrap().task.pod, 50);
}

/// Picks turns, each of which goes away, until there is none to pick.
fn wait_for_disks(queue: &mut RunQueue<usize>) -> Vec<Turn<usize>> {
    let mut away = Vec::new();
    while let Some(turn) = queue.pick(0) {
        queue.leave(turn.group, 0);
        away.push(turn);
    }
    away
}

/// One container has half of the threads that stand in for those that wait for a disk, the next half of the rest.
#[test]
fn who_waits_for_a_disk_leaves_as_much_to_others() {
    let mut queue = RunQueue::new();
    let group = |queue: &mut RunQueue<usize>| {
        let group = queue.add(0, None, 0);
        (0..STAND_INS * 2).for_each(|task| queue.push(group, task, false, 0));
        group
    };
    let first = group(&mut queue);
    let away = wait_for_disks(&mut queue);
    assert_eq!(away.len(), STAND_INS / 2);
    assert!(!queue.has_ready(), "it is held");
    group(&mut queue);
    assert_eq!(wait_for_disks(&mut queue).len(), STAND_INS / 4);

    // Who is back makes room, and who does not wait at all is never held.
    queue.back(first, 0);
    queue.done(first, TICK, 0, None, 0);
    assert_eq!(wait_for_disks(&mut queue).len(), 1);
    let mut others = 0;
    while others < STAND_INS {
        others += 1;
        let alone = queue.add(0, None, 0);
        queue.push(alone, 0, false, 0);
        assert_eq!(queue.pick(0).map(|turn| turn.group), Some(alone));
        queue.leave(alone, 0);
    }
}

/// A thread that a container keeps without using it is charged as if it did.
#[test]
fn who_keeps_a_thread_goes_back_as_far_as_who_uses_it() {
    let mut queue = RunQueue::new();
    let groups = [queue.add(0, None, 0), queue.add(0, None, 0)];
    groups.iter().for_each(|group| queue.push(*group, (), false, 0));
    let turn = queue.pick(0).unwrap();
    queue.kept(turn.group, 19 * TICK / 2);
    queue.done(turn.group, TICK, 0, Some(()), 0);
    for _ in 0..10 {
        let next = queue.pick(0).unwrap();
        assert_ne!(next.group, turn.group);
        queue.done(next.group, TICK, TICK, Some(()), 0);
    }
    assert_eq!(queue.pick(0).unwrap().group, turn.group);
}

fn pods() -> impl Strategy<Value = Vec<Pod>> {
    let sleeps = prop_oneof![Just(None), (MILLI / 4..20 * MILLI, MILLI / 10..50 * MILLI).prop_map(Some),];
    let limit = prop_oneof![Just(None), (10_u32..2_000).prop_map(Some)];
    let pod = (0_u32..4_000, limit, 1_usize..5, sleeps, 0_u64..SECOND)
        .prop_map(|(request, limit, tasks, sleeps, from)| Pod { request, limit, tasks, sleeps, from });
    prop::collection::vec(pod, 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever runs beside whatever: no thread is idle while somebody could run, and no limit is exceeded by more
    /// than what is saved up and a turn of each thread.
    #[test]
    fn nothing_is_wasted_and_no_limit_exceeded(threads in 1_usize..4, pods in pods()) {
        let mut machine = Machine::new(threads, &pods);
        let used = machine.run(2 * SECOND);
        prop_assert_eq!(machine.wasted, 0);
        for (pod, used) in pods.iter().zip(used) {
            if let Some(limit) = pod.limit {
                let due = (2 * SECOND - pod.from + 25 * MILLI) * u64::from(limit) / 1_000;
                prop_assert!(used <= due + (threads as u64 + 1) * TICK, "{} of {} for {:?}", used, due, pod);
            }
        }
    }

    /// Who always wants to run gets its share, whatever the others do, as long as all can use theirs.
    #[test]
    fn a_share_is_a_promise(threads in 1_usize..4, request in 100_u32..2_000, others in pods()) {
        let mine = Pod { request, tasks: threads, ..SPINNER };
        let others = others.into_iter().map(|pod| Pod { tasks: threads, ..pod });
        let pods: Vec<Pod> = std::iter::once(mine).chain(others).collect();
        let shares = |pod: &Pod| (u64::from(pod.request) * 1_024 / 1_000).max(2);
        let all: u64 = pods.iter().map(shares).sum();
        let used = Machine::new(threads, &pods).run(3 * SECOND)[0];
        let due = 3 * SECOND * threads as u64 / all * shares(&pods[0]);
        // Each that comes has a turn of credit on each thread; sleepers again each time they wake.
        let slack = due / 10 + 20 * TICK * threads as u64;
        prop_assert!(used + slack >= due, "{} of {} beside {:?}", used, due, pods);
    }
}
