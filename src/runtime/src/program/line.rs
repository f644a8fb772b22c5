//! Who compiles next: a few at a time, and nobody alone holds all places.
//!
//! A module can be made to take all the time that a compile may take, and its makers can have any number of them.
//! So places are counted by tenant: one has at most [`Line::share`] of them at a time, and a place that is given
//! back goes to who has the fewest, the first of those in line whose compile fits into the memory that is left.
//!
//! That memory is lent by the node ([`NodeBudget::lend`]): all compiles together have at most three quarters of what pods
//! do not use, and one of them three quarters of that, so that a small one fits beside a large one. A large one may have to
//! wait until it is alone; small ones pass it meanwhile. What pods want back is given back: the compile ends.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use coracle_budget::{Loan, NodeBudget};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

/// The places and the line for them.
pub(super) struct Line {
    state: Arc<Mutex<State>>,
}

struct State {
    memory: Arc<NodeBudget>,
    free: usize,
    places: usize,
    /// Places that one tenant may hold.
    share: usize,
    /// Who holds how many; nobody holds none.
    held: BTreeMap<String, usize>,
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    tenant: String,
    need: Need,
    turn: oneshot::Sender<Place>,
}

/// Bytes of memory that a compile needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Need {
    /// With fewer it is not begun.
    pub(super) least: u64,
    /// More are not given.
    pub(super) most: u64,
}

impl Need {
    /// Of a compile that nobody counts.
    pub(super) const NONE: Need = Need { least: 0, most: 0 };

    /// What is asked for, and whether that is all that one may ever have, where compiles have `lent` of the `all` bytes
    /// that are theirs and the pods' together.
    fn ask(self, all: u64, lent: u64) -> Option<(Need, u64)> {
        let together = three_quarters(all);
        let full = self.most.min(three_quarters(together));
        let least = self.least.min(full);
        let left = together.saturating_sub(lent);
        (left >= least).then_some((Need { least, most: full.min(left) }, full))
    }
}

fn three_quarters(bytes: u64) -> u64 {
    bytes - bytes / 4
}

/// Memory for a compile.
pub(super) struct Grant {
    loan: Loan,
    /// The most that its module may ever have here.
    full: u64,
    recall: Arc<Notify>,
}

impl Grant {
    fn of(memory: &Arc<NodeBudget>, need: Need) -> Option<Grant> {
        let all = memory.limit().saturating_add(memory.spare());
        let (ask, full) = need.ask(all, memory.lent())?;
        let recall = Arc::new(Notify::new());
        let told = Arc::clone(&recall);
        let loan = memory.lend(ask.least, ask.most, move || told.notify_one())?;
        Some(Grant { loan, full, recall })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.loan.bytes()
    }

    /// Whether there is nothing that could have been had besides.
    pub(super) fn is_full(&self) -> bool {
        self.bytes() >= self.full
    }

    /// Waits until it has to be given back.
    pub(super) async fn recalled(&self) {
        self.recall.notified().await;
    }
}

/// A place; given back when it is dropped.
pub(super) struct Place {
    tenant: String,
    state: Arc<Mutex<State>>,
    /// None if even who is alone finds too little memory.
    grant: Option<Grant>,
}

impl Place {
    pub(super) fn grant(&self) -> Option<&Grant> {
        self.grant.as_ref()
    }
}

impl Line {
    /// So many places, all but one of which a tenant may hold, and what `memory` leaves for them.
    pub(super) fn new(places: usize, memory: Arc<NodeBudget>) -> Line {
        let share = places.saturating_sub(1).max(1);
        let (held, waiting) = (BTreeMap::new(), VecDeque::new());
        let state = State { memory, free: places, places, share, held, waiting };
        Line { state: Arc::new(Mutex::new(state)) }
    }

    /// Waits for a place. Who stops waiting gives their turn up.
    pub(super) async fn enter(&self, tenant: &str, need: Need) -> Place {
        let (turn, granted) = oneshot::channel();
        self.state.lock().waiting.push_back(Waiting { tenant: tenant.to_owned(), need, turn });
        hand_out(&self.state);
        granted.await.expect("the line has the other end until it is their turn")
    }
}

/// Hands out what places are free.
fn hand_out(state: &Arc<Mutex<State>>) {
    loop {
        let Some((waiting, grant)) = state.lock().next() else { return };
        let place = Place { tenant: waiting.tenant, state: Arc::clone(state), grant };
        // Who went away meanwhile gives it back.
        let _ = waiting.turn.send(place);
    }
}

impl State {
    /// Counts the next one in.
    fn next(&mut self) -> Option<(Waiting, Option<Grant>)> {
        self.waiting.retain(|waiting| !waiting.turn.is_closed());
        if self.free == 0 {
            return None;
        }
        let held = |waiting: &Waiting| self.held.get(&waiting.tenant).copied().unwrap_or(0);
        let places = self.waiting.iter().map(held).enumerate();
        let mut turns: Vec<_> = places.filter(|(_, held)| *held < self.share).collect();
        turns.sort_by_key(|(at, held)| (*held, *at));
        let fits =
            |(at, _): &(usize, usize)| Some((*at, Some(Grant::of(&self.memory, self.waiting[*at].need)?)));
        // Who is alone and does not fit waits for nothing that would come.
        let alone = || turns.first().filter(|_| self.free == self.places).map(|(at, _)| (*at, None));
        let (at, grant) = turns.iter().find_map(fits).or_else(alone)?;
        let next = self.waiting.remove(at)?;
        self.free -= 1;
        *self.held.entry(next.tenant.clone()).or_insert(0) += 1;
        Some((next, grant))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.grant = None;
        {
            let mut state = self.state.lock();
            state.free += 1;
            if let Some(held) = state.held.get_mut(&self.tenant) {
                *held -= 1;
                if *held == 0 {
                    state.held.remove(&self.tenant);
                }
            }
        }
        hand_out(&self.state);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::Poll;

    use super::*;

    type Entering<'a> = Pin<Box<dyn Future<Output = Place> + 'a>>;

    /// Who of these has a place now.
    async fn let_in(entering: &mut Vec<(&'static str, Entering<'_>)>) -> Vec<(&'static str, Place)> {
        let mut inside = Vec::new();
        let mut outside = Vec::new();
        for (name, mut enters) in entering.drain(..) {
            match futures::poll!(enters.as_mut()) {
                Poll::Ready(place) => inside.push((name, place)),
                Poll::Pending => outside.push((name, enters)),
            }
        }
        *entering = outside;
        inside
    }

    fn names(inside: &[(&'static str, Place)]) -> Vec<&'static str> {
        inside.iter().map(|(name, _)| *name).collect()
    }

    #[tokio::test]
    async fn nobody_holds_all_places() {
        let line = Line::new(3, NodeBudget::new(0));
        let enter = |name: &'static str, tenant: &'static str| -> (&'static str, Entering<'_>) {
            let line = &line;
            (name, Box::pin(async move { line.enter(tenant, Need::NONE).await }))
        };
        let mut entering = vec![enter("a1", "a"), enter("a2", "a"), enter("a3", "a"), enter("a4", "a")];
        let mut a = let_in(&mut entering).await;
        assert_eq!(names(&a), ["a1", "a2"]);
        entering.push(enter("b1", "b"));
        entering.push(enter("b2", "b"));
        entering.push(enter("c1", "c"));
        let b = let_in(&mut entering).await;
        assert_eq!(names(&b), ["b1"], "the place that is left is for others");
        drop(a.pop());
        let c = let_in(&mut entering).await;
        assert_eq!(names(&c), ["c1"], "who has none comes before who has some");
        drop(a.pop());
        let more = let_in(&mut entering).await;
        assert_eq!(names(&more), ["a3"], "the first in line of those who have none");
        drop((b, c, more));
        assert_eq!(names(&let_in(&mut entering).await), ["a4", "b2"]);
        let state = line.state.lock();
        assert_eq!((state.free, state.held.len(), state.waiting.len()), (3, 0, 0));
    }

    #[tokio::test]
    async fn who_goes_away_is_not_waited_for() {
        let line = Line::new(1, NodeBudget::new(0));
        let enter = |tenant: &'static str| line.enter(tenant, Need::NONE);
        let place = enter("a").await;
        let mut gone = Box::pin(enter("b"));
        let mut granted = Box::pin(enter("c"));
        let mut last = Box::pin(enter("d"));
        for waiting in [&mut gone, &mut granted, &mut last] {
            assert!(futures::poll!(waiting.as_mut()).is_pending());
        }
        drop(gone);
        drop(place);
        drop(granted); // it was their turn
        let place = last.await;
        assert_eq!(line.state.lock().free, 0);
        drop(place);
        assert_eq!(line.state.lock().free, 1);
    }

    /// In MiB: what a compile gets of a node whose pods leave it all, where so much is lent.
    #[test]
    fn compiles_have_a_part_of_the_memory() {
        #[track_caller]
        fn check((least, most): (u64, u64), (all, lent): (u64, u64), expected: Option<(u64, u64, bool)>) {
            let asked = Need { least, most }.ask(all, lent);
            assert_eq!(asked.map(|(ask, full)| (ask.least, ask.most, ask.most == full)), expected);
        }
        // A small module, on a small node, alone and beside others.
        check((86, 259), (1_340, 0), Some((86, 259, true)));
        check((86, 259), (1_340, 700), Some((86, 259, true)));
        check((86, 259), (1_340, 900), Some((86, 105, false)));
        check((86, 259), (1_340, 920), None);
        // One that is costly leaves room for a small one, and waits for another of its kind.
        check((704, 2_112), (1_340, 0), Some((704, 754, true)));
        check((704, 2_112), (1_340, 302), None);
        check((704, 2_112), (1_340, 300), Some((704, 705, false)));
        check((704, 2_112), (1_340, 754), None);
        check((704, 2_112), (24_000, 0), Some((704, 2_112, true)));
        // A node where it can never have what it needs: it is tried all the same.
        check((704, 2_112), (512, 0), Some((288, 288, true)));
        check((64, 192), (0, 0), Some((0, 0, true)));
    }

    const MIB: u64 = 1 << 20;

    fn need(least: u64, most: u64) -> Need {
        Need { least: least * MIB, most: most * MIB }
    }

    #[tokio::test]
    async fn who_does_not_fit_waits_and_small_ones_pass() {
        let memory = NodeBudget::new(1_600 * MIB);
        let line = Line::new(3, Arc::clone(&memory));
        let enter = |tenant: &'static str, least: u64, most: u64| {
            let line = &line;
            (tenant, Box::pin(async move { line.enter(tenant, need(least, most)).await }) as Entering<'_>)
        };
        let mut entering =
            vec![enter("large", 600, 2_000), enter("larger", 700, 2_000), enter("small", 80, 200)];
        let mut inside = let_in(&mut entering).await;
        assert_eq!(names(&inside), ["large", "small"]);
        assert_eq!(memory.lent(), (900 + 200) * MIB);
        let full = |inside: &[(_, Place)]| inside.iter().all(|(_, place)| place.grant().unwrap().is_full());
        assert!(full(&inside));
        inside.remove(0);
        assert_eq!(memory.lent(), (200 + 900) * MIB, "what it gives back is its");
        let larger = let_in(&mut entering).await;
        assert_eq!(names(&larger), ["larger"]);
        drop((inside, larger));
        assert_eq!(memory.lent(), 0);
    }

    #[tokio::test]
    async fn pods_come_before_compiles() {
        use coracle_budget::{Budget, FREE};
        let memory = NodeBudget::new(400 * MIB);
        let line = Line::new(3, Arc::clone(&memory));
        let pod = Budget::of_node(None, &memory);
        let charge = pod.charge(FREE + 100 * MIB).unwrap();
        let place = line.enter("a", need(64, 192)).await;
        let grant = place.grant().unwrap();
        assert!(futures::poll!(Box::pin(grant.recalled())).is_pending());
        let refused = pod.charge(250 * MIB);
        assert!(refused.is_err());
        grant.recalled().await;
        drop(place);
        let more = pod.charge(250 * MIB).unwrap();
        let place = line.enter("a", need(64, 192)).await;
        assert!(place.grant().is_none(), "there is nothing to wait for");
        drop((charge, more, place));
        let place = line.enter("a", need(64, 192)).await;
        assert!(place.grant().unwrap().is_full());
    }
}
