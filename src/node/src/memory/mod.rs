//! Keeps all pods together within the node's memory, so that what runs out is theirs and not the process'.
//!
//! ```text
//!   a pod's growth ─▶ its budget ─▶ the node's: no room ─▶ wait ─▶ room, or ended
//!                                        │                          ▲
//!                                        ▼ told                     │
//!   now and then: what the kernel counts ─▶ look ─▶ rank, end containers (OOMKilled)
//! ```
//!
//! Compilers borrow from the same budget what pods leave, and are the first to end: a pod's growth, and a shortage that
//! the kernel sees, ask for it back.
//!
//! The budget counts what guests reserve, before they touch it. What small pods reserve it leaves out, because they
//! touch little of it ([`coracle_budget::FREE`]); so the process' real size is looked at, too: the nearer it is to the
//! end, the more often.
//!
//! Who ends ([`rank`]) is who uses most beyond its request, of the least important, what it waits for included. Critical
//! pods end last, as with evictions, and whose end would give nothing back is left alone. What `exec` runs counts as its
//! container's own. What a pod holds in its volumes goes with the pod alone, so a pod that holds most there is evicted.

mod rank;

use std::{cmp::Reverse, sync::Arc, time::Duration};

use coracle_api::Resources;
use coracle_budget::NodeBudget;
use coracle_client::EventType;
use coracle_runtime::Container;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use self::rank::{Amount, Candidate, Shortage};
use crate::{
    admission::is_critical,
    context::Context,
    handle::PodHandle,
    host::{self, Capacity, MEMORY_RESERVE},
    resources, state,
};

/// Below so much available memory of the whole machine the kernel may end the process, if that has most of it.
const LAST: u64 = 64 << 20;
/// How fast guests touch memory, at most: a few threads that fill as fast as the kernel gives.
const BYTES_PER_SECOND: u64 = 4 << 30;
/// How often the process' size is looked at: so often that guests cannot touch half of what is left meanwhile.
const SELDOM: Duration = Duration::from_secs(2);
const OFTEN: Duration = Duration::from_millis(10);
/// Between two looks, whoever asks for them.
const PAUSE: Duration = Duration::from_millis(2);
/// How long those that ended beyond their requests may take to give back before somebody within its request ends, too:
/// more than the some hundredths of a second that it takes.
const GOING: Duration = Duration::from_secs(1);
/// A node of which pods have all but this part is short of memory, if that is not more than what the kubelet keeps free.
const SHORT_PART: u64 = 16;
/// The node says so long that it is short of something after it was last seen to be. Kubernetes'
/// `evictionPressureTransitionPeriod`.
pub(crate) const PRESSURE: Duration = Duration::from_secs(300);
/// The event of a node that has ended a container for want of memory. Kubernetes' reason.
const REASON: &str = "SystemOOM";

/// The memory of a node's pods, and who is ended for want of it.
#[derive(Debug)]
pub(crate) struct Memory {
    budget: Arc<NodeBudget>,
    /// What the machine, or the limit that the process lives under, has in all.
    total: u64,
    short: Arc<Notify>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Those that were ended and still hold something.
    leaving: Vec<Leaving>,
    /// When hardly anything was left last.
    short: Option<Instant>,
}

impl Seen {
    /// Whether no more pods should come. That somebody was ended is no reason: what was wanted too much of is free again
    /// then, and who is restarted only to be ended again would keep all others away.
    fn presses(&mut self, is_short: bool, now: Instant) -> bool {
        if is_short && self.leaving.is_empty() {
            self.short = Some(now);
        }
        self.short.is_some_and(|short| now.duration_since(short) < PRESSURE)
    }
}

/// One that was ended.
#[derive(Debug)]
struct Leaving {
    what: Ended,
    since: Instant,
    /// It was within its request.
    within: bool,
}

#[derive(Debug)]
enum Ended {
    Container(Container),
    Pod(Arc<PodHandle>),
}

impl Leaving {
    /// What it still holds.
    fn bytes(&self) -> u64 {
        match &self.what {
            Ended::Container(container) if container.has_ended() => 0,
            Ended::Container(container) => container.usage().memory,
            Ended::Pod(handle) => handle.budget.used(),
        }
    }
}

impl Memory {
    /// All pods draw from `budget`, and what they leave is lent to compilers.
    pub(crate) fn new(capacity: &Capacity, budget: &Arc<NodeBudget>) -> Memory {
        budget.set_limit(host::memory_for_pods(capacity.memory));
        budget.set_spare(host::memory_for_compilers(capacity.memory));
        Memory {
            budget: budget.clone(),
            total: capacity.memory,
            short: Arc::default(),
            seen: Mutex::default(),
        }
    }

    /// What all pods may hold together.
    pub(crate) fn budget(&self) -> &Arc<NodeBudget> {
        &self.budget
    }

    /// To be asked again and again: whether no more pods should come, since hardly anything is left or was not long ago.
    pub(crate) fn is_short(&self) -> bool {
        let (used, limit) = (self.budget.used(), self.budget.limit());
        let is_short = is_hardly_any(limit, used) || host::memory_use().short();
        self.seen.lock().presses(is_short, Instant::now())
    }

    /// Asks for what is lent of the pods' part; whether anything is.
    pub(crate) fn recall(&self) -> bool {
        let lent = self.budget.lent() > self.budget.spare();
        self.budget.recall(u64::MAX);
        lent
    }

    /// Looks again and again, for ever, and at once when a pod finds no room.
    pub(crate) async fn run(&self, context: &Arc<Context>, node: &ObjectReference) {
        let short = self.short.clone();
        self.budget.on_shortage(move || short.notify_one());
        loop {
            let wait = self.look(context, node);
            tokio::time::sleep(PAUSE).await;
            // Until then, or until it is told of a shortage.
            let _ = tokio::time::timeout(wait, self.short.notified()).await;
        }
    }

    /// Ends whom it must; when to look again.
    fn look(&self, context: &Context, node: &ObjectReference) -> Duration {
        let (lacking, left) = lack(self.total, host::resident(), host::machine_available());
        let mut seen = self.seen.lock();
        seen.leaving.retain(|one| one.bytes() > 0);
        let leaving: u64 = seen.leaving.iter().map(Leaving::bytes).sum();
        let lacking = lacking.saturating_sub(leaving);
        if lacking > 0 {
            self.recall();
        }
        if lacking > 0 || self.budget.missing() > leaving {
            self.end_some(context, node, (lacking, leaving), &mut seen);
        }
        wait(left)
    }

    /// Ends whoever is ranked first, until what those hold is as much as the process lacks, and what they have drawn or
    /// wait for as much as the budget misses.
    fn end_some(
        &self,
        context: &Context,
        node: &ObjectReference,
        (lacking, leaving): (u64, u64),
        seen: &mut Seen,
    ) {
        // Looked at before the pods are: what is granted meanwhile is counted once, or not at all.
        let (used, limit) = (self.budget.used(), self.budget.limit());
        let (mut candidates, mut awaited) = (Vec::new(), 0_u64);
        for handle in context.table.all() {
            // From the pods themselves: a wish counts only with the pod that goes for it.
            awaited = awaited.saturating_add(handle.budget.lacks());
            candidates.extend(candidates_of(context, &handle));
        }
        let missing = used.saturating_add(awaited).saturating_sub(limit).saturating_sub(leaving);
        let going = seen.leaving.iter().any(|one| !one.within && one.since.elapsed() < GOING);
        Shortage { lacking, missing, going }.relieve(candidates, |candidate, beyond| {
            let Some(what) = self.end(context, candidate) else { return false };
            let Candidate { key, name, container: Amount { used, requested }, .. } = candidate;
            tracing::warn!(pod = %key, container = %name, used, requested, "ended: the node is out of memory");
            let message =
                format!("System OOM encountered, victim process: {}/{}/{name}", key.namespace, key.name);
            context.recorder.event(node, EventType::Warning, REASON, &message);
            seen.leaving.push(Leaving { what, since: Instant::now(), within: !beyond });
            true
        });
    }

    fn end(&self, context: &Context, candidate: &Candidate) -> Option<Ended> {
        let Candidate { key, handle, heaviest, evict, .. } = candidate;
        let left = self.budget.limit().saturating_sub(self.budget.used());
        if *evict && context.evictor.evict_for_memory(context, key, handle.as_ref()?.uid(), left) {
            return handle.clone().map(Ended::Pod);
        }
        let container = heaviest.as_ref().filter(|container| !container.is_ending())?;
        container.end_for_memory();
        Some(Ended::Container(container.clone()))
    }
}

/// Whether pods that have drawn so much leave hardly anything.
fn is_hardly_any(limit: u64, used: u64) -> bool {
    limit.saturating_sub(used) < MEMORY_RESERVE.min(limit / SHORT_PART)
}

/// How much a process of this real size holds too much, and how much more it may.
fn lack(total: u64, resident: u64, available: u64) -> (u64, u64) {
    let most = total.saturating_sub(MEMORY_RESERVE).saturating_sub(host::memory_of_system(total) / 4);
    // Where others have most of the machine, the kernel ends those.
    let last = if resident > total / 2 { LAST } else { 0 };
    let lacking = resident.saturating_sub(most).max(last.saturating_sub(available));
    (lacking, most.saturating_sub(resident).min(available.saturating_sub(last)))
}

/// When to look again, with so much left.
fn wait(left: u64) -> Duration {
    let nanos = u128::from(left) * 500_000_000 / u128::from(BYTES_PER_SECOND);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).clamp(OFTEN, SELDOM)
}

/// A pod's containers, with what they use. What the pod uses besides counts as that of the one that uses most.
fn candidates_of(context: &Context, handle: &Arc<PodHandle>) -> Vec<Candidate> {
    let pod = context.pods.get(handle.key());
    let Some(pod) = pod.filter(|pod| pod.metadata.uid.as_deref() == Some(handle.uid())) else {
        return Vec::new();
    };
    let critical = is_critical(&pod, &context.node_name);
    let priority = pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
    let candidate = |name: Box<str>, used: u64, requested: u64| {
        let (key, handle, container) =
            (handle.key().clone(), Some(handle.clone()), Amount { used, requested });
        Candidate { key, name, critical, priority, container, handle, ..Candidate::default() }
    };
    // What is granted meanwhile is counted once, or not at all.
    let (held, mut awaited) = (handle.budget.used(), handle.budget.awaited());
    // A container counts with what it waits for.
    let (mut all, mut leaving) = (Vec::new(), 0);
    for (name, running, beside) in handle.guests.all() {
        let instances = || beside.iter().chain([&running.container]);
        let memory = |ending: bool| {
            let some = instances().filter(|one| one.is_ending() == ending);
            some.map(|one| one.usage().memory).sum::<u64>()
        };
        leaving += memory(true);
        let staying = instances().filter(|one| !one.is_ending());
        if let Some(heaviest) = staying.max_by_key(|one| one.usage().memory) {
            let heaviest = Some(heaviest.clone());
            all.push(Candidate {
                heaviest,
                ..candidate(name.clone(), memory(false), requested(&pod, &name))
            });
        }
    }
    all.sort_by_key(|one| Reverse(one.container.used));
    let of_containers = all.iter().map(|one| one.container.used).sum::<u64>();
    let others = held.saturating_add(awaited).saturating_sub(of_containers.saturating_add(leaving));
    for one in &mut all {
        // Nobody knows whose it is; who uses most also waits for most.
        one.awaited = awaited.min(one.container.used);
        awaited -= one.awaited;
    }
    match all.first_mut() {
        Some(first) => {
            first.evict = !critical && others > first.container.used;
            first.container.used += others;
        }
        None if others > 0 && !critical => {
            all.push(Candidate { evict: true, ..candidate(Box::default(), others, 0) });
        }
        None => {}
    }
    let drawn = handle.budget.drawn().saturating_add(handle.budget.lacks());
    let requested = u64::try_from(Resources::taken_by(&pod).memory).unwrap_or(0);
    for one in &mut all {
        one.drawn = drawn.min(one.container.used);
        one.pod = Amount { used: of_containers + others, requested };
    }
    all
}

/// The memory that a pod's container of this name asks for.
fn requested(pod: &Pod, name: &str) -> u64 {
    let container = state::containers(pod).map(|(container, _)| container).find(|one| one.name == name);
    container.map_or(0, |container| resources::memory_request(&container))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_short_when_pods_have_nearly_all_of_their_part() {
        let short = |limit: u64, used: u64| is_hardly_any(limit << 20, used << 20);
        assert_eq!([short(24_000, 23_900), short(24_000, 23_901)], [false, true]);
        assert_eq!(
            [short(128, 0), short(128, 120), short(128, 121), short(128, 200)],
            [false, false, true, true]
        );
        assert!(!short(0, 0), "a machine that does not say what it has");
    }

    #[test]
    fn pressure_is_of_what_was_short_and_not_of_who_was_ended() {
        let begun = Instant::now();
        let mut seen = Seen::default();
        let leaving = |handle| Leaving { what: Ended::Pod(handle), since: begun, within: false };
        assert!(!seen.presses(false, begun));
        seen.leaving.push(leaving(Arc::new(PodHandle::new(&Pod::default()))));
        assert!(!seen.presses(true, begun), "its end may be enough");
        seen.leaving.clear();
        assert!(!seen.presses(false, begun), "it was");
        assert!(seen.presses(true, begun), "it was not");
        assert!(seen.presses(false, begun + PRESSURE / 2));
        assert!(!seen.presses(false, begun + PRESSURE));
    }

    #[test]
    fn the_less_is_left_the_sooner_it_looks() {
        #[track_caller]
        fn check(resident: u64, available: u64, expected: (u64, u64)) {
            let (lacking, left) = lack(1_600 << 20, resident << 20, available << 20);
            assert_eq!((lacking >> 20, left >> 20), expected);
        }
        check(0, 10_000, (0, 1_450));
        check(1_449, 10_000, (0, 1));
        check(1_500, 10_000, (50, 0));
        check(1_000, 100, (0, 36));
        check(1_000, 14, (50, 0));
        check(500, 14, (0, 14));
        let waits = [0, 1 << 20, 1 << 30, 8 << 30, u64::MAX].map(wait);
        assert_eq!(waits, [OFTEN, OFTEN, Duration::from_millis(125), Duration::from_secs(1), SELDOM]);
    }
}
