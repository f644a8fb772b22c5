//! Who compiles next: a few at a time, and nobody alone holds all places.
//!
//! A module can be made to take all the time that a compile may take, and its makers can have any number of them.
//! So places are counted by tenant: one has at most [`Line::share`] of them at a time, and a place that is given
//! back goes to who has the fewest, the first of those in line.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// The places and the line for them.
pub(super) struct Line {
    state: Arc<Mutex<State>>,
}

struct State {
    free: usize,
    /// Places that one tenant may hold.
    share: usize,
    /// Who holds how many; nobody holds none.
    held: BTreeMap<String, usize>,
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    tenant: String,
    turn: oneshot::Sender<Place>,
}

/// A place; given back when it is dropped.
pub(super) struct Place {
    tenant: String,
    state: Arc<Mutex<State>>,
}

impl Line {
    /// So many places, all but one of which a tenant may hold.
    pub(super) fn new(places: usize) -> Line {
        let share = places.saturating_sub(1).max(1);
        let state = State { free: places, share, held: BTreeMap::new(), waiting: VecDeque::new() };
        Line { state: Arc::new(Mutex::new(state)) }
    }

    /// Waits for a place. Who stops waiting gives their turn up.
    pub(super) async fn enter(&self, tenant: &str) -> Place {
        let (turn, granted) = oneshot::channel();
        self.state.lock().waiting.push_back(Waiting { tenant: tenant.to_owned(), turn });
        hand_out(&self.state);
        granted.await.expect("the line has the other end until it is their turn")
    }
}

/// Hands out what places are free.
fn hand_out(state: &Arc<Mutex<State>>) {
    loop {
        let Some(waiting) = state.lock().next() else { return };
        let place = Place { tenant: waiting.tenant, state: Arc::clone(state) };
        // Who went away meanwhile gives it back.
        let _ = waiting.turn.send(place);
    }
}

impl State {
    /// Counts the next one in.
    fn next(&mut self) -> Option<Waiting> {
        self.waiting.retain(|waiting| !waiting.turn.is_closed());
        if self.free == 0 {
            return None;
        }
        let held = |waiting: &Waiting| self.held.get(&waiting.tenant).copied().unwrap_or(0);
        let places = self.waiting.iter().map(held).enumerate();
        let (at, _) = places.filter(|(_, held)| *held < self.share).min_by_key(|(at, held)| (*held, *at))?;
        let next = self.waiting.remove(at)?;
        self.free -= 1;
        *self.held.entry(next.tenant.clone()).or_insert(0) += 1;
        Some(next)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
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
        let line = Line::new(3);
        let enter = |name: &'static str, tenant: &'static str| -> (&'static str, Entering<'_>) {
            let line = &line;
            (name, Box::pin(async move { line.enter(tenant).await }))
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
        let line = Line::new(1);
        let place = line.enter("a").await;
        let mut gone = Box::pin(line.enter("b"));
        let mut granted = Box::pin(line.enter("c"));
        let mut last = Box::pin(line.enter("d"));
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
}
